// Command faults does to a gate what the world does to it, and checks after every fault what it promises: nothing that
// was acknowledged is lost, nothing that is held or blocked leaves, nothing leaves without a decision on the record, the books agree, and copies stay within the
// window of the uplink.
//
//	go run ./testbench/faults                    all faults, about half an hour
//	go run ./testbench/faults --short            a shortened form, for CI
//	go run ./testbench/faults --only kills,power --seed 7
//	go run ./testbench/faults --list
//
// It needs root, for tmpfs and strace, and Debian's mosquitto, mosquitto-clients and strace; all is on loopback and in
// temporary folders. Exit status 0 when all held, 1 when something did not, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// options are the flags.
type options struct {
	sluice string
	seed   uint64
	short  bool
	asJSON bool
	list   bool
	only   []string
	soak   time.Duration
	outage time.Duration
	keep   string
	loud   bool
}

// fault is one kind of fault. run does it as often as the form asks for and fills the row; an error means that it could
// not be done.
type fault struct {
	name, does string
	run        func(ctx context.Context, b *bench, r *row) error
	asked      bool // only when it is named
}

var faults = []fault{
	{"kills", "kill -9 at random instants, mosquitto on both sides", randomKills, false},
	{"points", "kill -9 at named points: system calls on the files of data_dir", pointKills, false},
	{"stops", "SIGTERM at random instants under full load", stops, false},
	{"wire", "the way to the cloud cut, half-open, slow, far and flapping", wireFaults, false},
	{"acks", "acknowledgements late, doubled and out of order, and a cloud that hangs up", acks, false},
	{"missing", "acknowledgements that never come while the connection stands", missingAcks, false},
	{"poison", "a message that makes the cloud hang up, and one that it never acknowledges", poison, false},
	{"io", "the kernel refuses: EIO, ENOSPC, EMFILE, EROFS", ioErrors, false},
	{"disk", "a small disk full under load, mosquitto_pub -l among the devices", fullDisk, false},
	{"clock", "the clock of a journal jumps", clocks, false},
	{"unsettled", "the disk refuses while a backlog drains, then kill -9", unsettled, false},
	{"beside", "an outage with kill -9 in it, beside mosquitto's bridge under the same load", beside, false},
	{"drain", "ten thousand messages wait: time to the first and to the last", drain, false},
	{"soak", "faults of all kinds at random, for as long as --soak says", soak, true},
	{"power", "power cuts: images of the disk as POSIX allows them, from recordings", powerCuts, false},
}

// bench is what all faults share.
type bench struct {
	options
	dir string
}

// count returns how often something is done.
func (b *bench) count(full, short int) int {
	if b.short {
		return short
	}
	return full
}

func (b *bench) debug(format string, args ...any) {
	if b.loud {
		fmt.Fprintf(os.Stderr, "faults: "+format+"\n", args...)
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == driveVerb {
		if err := drive(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "faults: error:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "faults: error: %v\nfaults: hint: faults --help, faults --list\n", err)
		os.Exit(2)
	}
	if o.list {
		for _, f := range faults {
			fmt.Printf("%-10s %s\n", f.name, f.does)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rows, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults: error:", err)
	}
	if o.asJSON {
		err = errors.Join(err, json.NewEncoder(os.Stdout).Encode(map[string]any{"seed": o.seed, "short": o.short, "faults": rows}))
	} else {
		err = errors.Join(err, printTable(os.Stdout, rows))
	}
	if err != nil || slices.ContainsFunc(rows, func(r *row) bool { return len(r.Problems) > 0 }) {
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("faults", flag.ContinueOnError)
	f.StringVar(&o.sluice, "sluice", "", "sluice `binary`; empty: built from this module")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the instants, the images and the vehicles")
	f.BoolVar(&o.short, "short", false, "the shortened form")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	f.BoolVar(&o.list, "list", false, "list the faults")
	only := f.String("only", "", "faults to do, by name, with commas between; empty: all but those that must be named")
	f.DurationVar(&o.soak, "soak", 0, "how long soak lasts; it is done when this is given")
	f.DurationVar(&o.outage, "outage", 0, "how long the uplink is away beside mosquitto's bridge; 0: 20s, short 6s")
	f.StringVar(&o.keep, "keep", "", "`folder` to keep everything in")
	f.BoolVar(&o.loud, "v", false, "tell what is done")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.soak < 0 || o.outage < 0 {
		return o, errors.New("times are not negative")
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(faults, func(f fault) bool { return f.name == name }) {
			return o, fmt.Errorf("no fault %q", name)
		}
	}
	return o, nil
}

// wanted reports whether a fault is to be done.
func (o *options) wanted(f *fault) bool {
	if len(o.only) > 0 {
		return slices.Contains(o.only, f.name)
	}
	return !f.asked || f.name == "soak" && o.soak > 0
}

// run does the faults, one after the other. What it returns with an error is what was done until then.
func run(ctx context.Context, o options) (rows []*row, err error) {
	b := &bench{options: o}
	if b.dir, err = os.MkdirTemp("", "sluice-faults-"); err != nil {
		return nil, err
	}
	if o.keep == "" {
		defer os.RemoveAll(b.dir)
	} else {
		b.dir = o.keep
		if err := os.MkdirAll(b.dir, 0o700); err != nil {
			return nil, err
		}
	}
	if b.sluice == "" {
		if b.sluice, err = stand.BuildGate(ctx, b.dir); err != nil {
			return nil, err
		}
	}
	for i := range faults {
		f := &faults[i]
		if !o.wanted(f) {
			continue
		}
		r := &row{Fault: f.name, Notes: []string{}, Problems: []string{}}
		rows = append(rows, r)
		since := time.Now()
		err := f.run(ctx, b, r)
		r.Seconds = time.Since(since).Seconds()
		if ctx.Err() != nil {
			return rows, ctx.Err()
		}
		if err != nil {
			r.bad("could not be done: %v", err)
		}
		r.judge()
		b.debug("%s took %.0f s: %s", f.name, r.Seconds, r.verdict())
	}
	return rows, nil
}
