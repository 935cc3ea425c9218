package stand

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Program runs a program of the bench with options O and ends the process: status 0 when all that it looked at was good,
// 1 when something was not or could not be done, 2 for flags that were not understood. run is given a context that ends
// with an interrupt or SIGTERM, and returns only when it has cleaned up.
func Program[O any](name string, parse func(args []string) (O, error), run func(ctx context.Context, o O) (good bool, err error)) {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: error: %v\n%s: hint: %s --help\n", name, err, name, name)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	good, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: error: %v\n", name, err)
	}
	if err != nil || !good {
		os.Exit(1)
	}
}

// OnDisk makes a folder in dir, or where temporary files go, and calls fn with it and with the binary of the gate, built
// when none is named. free is the room on its disk, which is an error when it is memory. The folder is removed in the end.
func OnDisk(ctx context.Context, name, dir, binary string, fn func(dir, binary string, free uint64) error) error {
	dir, err := os.MkdirTemp(dir, "sluice-"+name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	free, err := Disk(dir)
	if err != nil {
		return err
	}
	if binary == "" {
		binary, err = BuildGate(ctx, dir)
	} else {
		binary, err = filepath.Abs(binary) // the gate has a folder of its own
	}
	if err != nil {
		return err
	}
	return fn(dir, binary, free)
}
