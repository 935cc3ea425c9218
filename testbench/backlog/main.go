// Command backlog fills a gate's journal while the uplink is down, starts the gate again with a cloud and devices that go
// on sending, and measures how it comes up and drains.
//
//	go run ./testbench/backlog --messages 5000000
//	go run ./testbench/backlog --short
//
// It takes these steps, each with the real binary and mosquitto as the cloud:
//
//  1. Steady: no backlog, devices send as fast as the gate takes it. What arrives a second at the cloud is the live
//     throughput that draining is compared with.
//  2. Fill: no cloud; devices send as fast as the gate takes it until so many messages wait. Nothing is faked: they are
//     received, decided, sealed and committed as any others. The gate is then stopped.
//  3. Drain: the gate starts again. Measured are the time from the start of the process to /readyz, to a device's
//     connection and to the first arrival, resident anonymous memory, and how fast the backlog arrives while devices send
//     at the live rate.
//  4. Cut: on another gate, the uplink is cut, 10,000 messages are sent, and it is mended. Measured is the time from the
//     accepted connection until all have arrived.
//
// Disk: about 1.6 KB a message. Everything runs in a temporary folder, removed in the end and after an interrupt, on free
// loopback ports. Exit status 0 when the bounds hold, 1 when one is missed or something is off, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// options are the flags.
type options struct {
	sluice   string
	dir      string
	messages uint64
	size     int
	live     float64
	inflight int
	share    int
	steady   time.Duration
	drainFor time.Duration
	cut      uint64
	profile  string
	json     bool
	short    bool
}

func main() {
	stand.Program("backlog", parse, func(ctx context.Context, o options) (bool, error) {
		s, err := run(ctx, o)
		if err != nil {
			return false, err
		}
		if o.json {
			return s.Good, json.NewEncoder(os.Stdout).Encode(s)
		}
		s.table(os.Stdout)
		return s.Good, nil
	})
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("backlog", flag.ContinueOnError)
	f.StringVar(&o.sluice, "sluice", "", "sluice binary; empty: built from this module")
	f.StringVar(&o.dir, "dir", "", "folder on a disk with room; empty: the one for temporary files")
	f.Uint64Var(&o.messages, "messages", 1_000_000, "messages that wait")
	f.IntVar(&o.size, "size", 1024, "bytes of a body, about")
	f.Float64Var(&o.live, "live", 1000, "messages a second that devices send while the backlog drains; 0: as fast as the gate takes it")
	f.IntVar(&o.share, "live-share", 0, "live_share of the uplink in percent; 0: in order")
	f.IntVar(&o.inflight, "inflight", 1024, "window of the uplink")
	f.DurationVar(&o.steady, "steady", 15*time.Second, "length of the measurement without a backlog")
	f.DurationVar(&o.drainFor, "drain-for", 0, "stop after so much draining; 0: until nothing of the backlog is left")
	f.Uint64Var(&o.cut, "cut", 10_000, "messages that wait when the uplink is mended")
	f.StringVar(&o.profile, "profile", "", "files FILE.steady and FILE.drain for CPU profiles of the gate")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.short, "short", false, "50,000 messages, 5 s of steady load, bounds that a busy machine keeps")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.short {
		o.messages, o.steady = 50_000, 5*time.Second
	}
	if f.NArg() > 0 || o.messages < 1 || o.size < 256 || o.live < 0 || o.share < 0 || o.share > 90 || o.steady < time.Second {
		return o, errors.New("want messages, a size of at least 256, a live rate of at least 0, a share of up to 90, a second of steady load, and no arguments")
	}
	return o, nil
}

// bytesEach is what one message takes on disk while it waits, and is drained, generously.
const bytesEach = 800

// run takes all steps.
func run(ctx context.Context, o options) (s *summary, err error) {
	err = stand.OnDisk(ctx, "backlog", o.dir, o.sluice, func(dir, binary string, free uint64) error {
		if need := o.messages * uint64(o.size+bytesEach); free < need {
			return fmt.Errorf("look for room in %q: %d MiB are free, want %d", dir, free>>20, need>>20)
		}
		o.sluice = binary
		s = &summary{Messages: o.messages, Size: o.size, Live: o.live, LiveShare: o.share, short: o.short, cut: o.cut}
		for _, step := range []struct {
			name string
			do   func(context.Context, options, string, *summary) error
		}{{"steady", steady}, {"backlog", backlog}, {"cut", cut}} {
			if err := inFolder(dir+"/"+step.name, func(dir string) error { return step.do(ctx, o, dir, s) }); err != nil {
				return fmt.Errorf("%s: %w", step.name, err)
			}
		}
		s.judge()
		return nil
	})
	return s, err
}

// inFolder calls fn with a folder of its own.
func inFolder(dir string, fn func(dir string) error) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return fn(dir)
}
