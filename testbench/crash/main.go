// Command crash kills the gate again and again while vehicles send, and checks what it promises: nothing acknowledged
// is lost, and after every kill the journal and the record log are sound.
//
// Two thirds of the vehicles connect to the gate, one third to a mosquitto that bridges to it; another mosquitto is
// the cloud. After each kill -9 the files are checked offline, then the gate is started again.
//
//	go run ./testbench/crash --kills 30 --seed 1
//
// Exit status 0 when all held, 1 when something did not, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// options are the flags.
type options struct {
	sluice   string
	kills    int
	seed     uint64
	rate     float64
	shortest time.Duration
	longest  time.Duration
	keep     bool
}

// summary is what the whole loop came to.
type summary struct {
	Kills         int            `json:"kills"`
	Seed          uint64         `json:"seed"`
	Sent          uint64         `json:"sent"`
	Acked         uint64         `json:"acked"`
	Arrived       uint64         `json:"arrived"`
	Lost          uint64         `json:"lost"`
	Duplicates    uint64         `json:"duplicates"`
	MaxDuplicates uint64         `json:"max_duplicates_per_kill"`
	Resent        uint64         `json:"resent_by_devices"`
	Leaks         uint64         `json:"leaks"`
	RestartMedian float64        `json:"restart_to_ready_median_ms"`
	RestartMax    float64        `json:"restart_to_ready_max_ms"`
	Records       uint64         `json:"records"`
	Totals        map[string]any `json:"totals"`
	Problems      []string       `json:"problems"`
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "crash: error: %v\ncrash: hint: crash --help\n", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := run(ctx, o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "crash: error: %v\n", err)
	} else {
		json.NewEncoder(os.Stdout).Encode(s)
	}
	if err != nil || len(s.Problems) > 0 {
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("crash", flag.ContinueOnError)
	f.StringVar(&o.sluice, "sluice", "", "sluice binary; empty: built from this module")
	f.IntVar(&o.kills, "kills", 30, "how often the gate is killed")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the instants and the vehicles")
	f.Float64Var(&o.rate, "rate", 2000, "messages a second over all vehicles; 0: as many as the windows allow")
	f.DurationVar(&o.shortest, "shortest", 50*time.Millisecond, "shortest life of the gate once it is ready")
	f.DurationVar(&o.longest, "longest", 1500*time.Millisecond, "longest life")
	f.BoolVar(&o.keep, "keep", false, "keep the folder")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.kills < 1 || o.shortest < 0 || o.longest <= o.shortest {
		return o, errors.New("want --kills of at least 1, --longest over --shortest, and no arguments")
	}
	return o, nil
}

// bed is everything that runs.
type bed struct {
	gate  *stand.Gate
	child *stand.Child // the gate's process, nil between kill and restart
	load  *traffic.Run
}

// run does the loop and returns what it came to; an error means that it could not be done.
func run(ctx context.Context, o options) (s summary, err error) {
	dir, err := os.MkdirTemp("", "sluice-crash-")
	if err != nil {
		return s, err
	}
	if o.keep {
		fmt.Fprintln(os.Stderr, "crash: everything is in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	if o.sluice == "" {
		if o.sluice, err = stand.BuildGate(ctx, dir); err != nil {
			return s, err
		}
	}
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
	if err != nil {
		return s, err
	}
	defer cloud.Kill()
	b := &bed{}
	if b.gate, err = stand.NewGate(ctx, o.sluice, dir, cloud.Addr, nil); err != nil {
		return s, err
	}
	if b.child, err = b.gate.Start(ctx); err != nil {
		return s, err
	}
	defer func() {
		if b.child != nil {
			b.child.Kill()
		}
	}()
	devices, err := stand.StartBroker(ctx, dir, "devices", stand.BrokerOptions{BridgeTo: b.gate.Addr})
	if err != nil {
		return s, err
	}
	defer devices.Kill()
	b.load, err = traffic.Start(ctx, traffic.Config{
		Devices: []string{b.gate.Addr, b.gate.Addr, devices.Addr}, Cloud: cloud.Addr, Connections: 9, QoS: 1, CloudQoS: 1, Window: 64,
		Rate: o.rate, Size: 1024, Seed: o.seed, Reconnect: true, Drain: 30 * time.Second,
	})
	if err != nil {
		return s, err
	}
	s = summary{Kills: o.kills, Seed: o.seed, Problems: []string{}}
	return s, b.loop(ctx, o, &s)
}
