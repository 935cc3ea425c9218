package main

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// harden keeps the process's memory to itself: no core dumps, and no debugger or /proc reader of the same user.
func harden(log *slog.Logger) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		log.Warn("core dumps stay possible", "err", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		log.Warn("the process stays dumpable", "err", err)
	}
}
