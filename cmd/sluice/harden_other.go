//go:build !linux

package main

import "log/slog"

// harden warns that this system gives no protection of the process's memory.
func harden(log *slog.Logger) { log.Warn("memory protection is known on Linux only") }
