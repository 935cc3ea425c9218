// Command load drives a gate or broker with simulated devices, looks at the cloud side that everything acknowledged
// arrived and nothing leaked, and prints what it measured as JSON.
//
//	load --devices 127.0.0.1:1883 --cloud 127.0.0.1:2883 --connections 8 --window 256 --size 1024 --for 10s --pid sluice=4711
//
// Exit status 0 when nothing was lost and nothing leaked, 1 when something was, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

func main() {
	var unfiltered bool
	stand.Program("load", func(args []string) (cfg traffic.Config, err error) {
		cfg, unfiltered, err = parse(args)
		return cfg, err
	}, func(ctx context.Context, cfg traffic.Config) (bool, error) { return run(ctx, cfg, unfiltered) })
}

// run drives the load, prints the report and reports whether nothing was lost and nothing leaked.
func run(ctx context.Context, cfg traffic.Config, unfiltered bool) (bool, error) {
	r, err := traffic.Start(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return false, err
	}
	defer context.AfterFunc(ctx, r.End)()
	report, err := r.Wait()
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if jsonErr := out.Encode(report); jsonErr != nil {
		return false, jsonErr
	}
	return report.Lost == 0 && (unfiltered || report.Leaks == 0), err
}

// parse reads the flags.
func parse(args []string) (traffic.Config, bool, error) {
	var cfg traffic.Config
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	devices := f.String("devices", "", "addresses host:port that the devices connect to, separated by commas")
	f.StringVar(&cfg.Cloud, "cloud", "", "broker host:port whose subscriber checks what arrives; empty: nobody looks")
	f.IntVar(&cfg.Connections, "connections", 8, "connections, one vehicle each")
	qos := f.Int("qos", 1, "QoS of the devices, 0 or 1")
	cloudQoS := f.Int("cloud-qos", 1, "QoS of the subscription at the cloud, 0 or 1")
	f.IntVar(&cfg.Window, "window", 256, "unacknowledged messages per connection")
	f.Float64Var(&cfg.Rate, "rate", 0, "messages a second over all connections; 0: as fast as the window allows")
	f.IntVar(&cfg.Size, "size", 1024, "bytes of a body, about: 300, 1024, 10240")
	f.Uint64Var(&cfg.Seed, "seed", 1, "seed of the vehicles")
	f.DurationVar(&cfg.Duration, "for", 0, "send for this long")
	f.Uint64Var(&cfg.Count, "count", 0, "send this many messages")
	f.DurationVar(&cfg.Drain, "drain", 15*time.Second, "give up what is missing when nothing happened for this long")
	f.BoolVar(&cfg.Reconnect, "reconnect", false, "make broken connections again and send again what was not acknowledged")
	unfiltered := f.Bool("unfiltered", false, "leaks are counted but no failure: nothing filters on the way")
	f.Func("pid", "NAME=PID of a process whose cost is measured; may be repeated", func(s string) error {
		name, number, ok := strings.Cut(s, "=")
		pid, err := strconv.Atoi(number)
		if !ok || err != nil {
			return errors.New("want NAME=PID")
		}
		cfg.Watch = append(cfg.Watch, traffic.Process{Name: name, PID: pid})
		return nil
	})
	if err := f.Parse(args); err != nil {
		return cfg, false, err
	}
	for _, a := range strings.Split(*devices, ",") {
		if a != "" {
			cfg.Devices = append(cfg.Devices, strings.TrimPrefix(a, "tcp://"))
		}
	}
	cfg.Cloud = strings.TrimPrefix(cfg.Cloud, "tcp://")
	if *qos < 0 || *qos > 1 || *cloudQoS < 0 || *cloudQoS > 1 {
		return cfg, false, errors.New("qos: want 0 or 1")
	}
	cfg.QoS, cfg.CloudQoS = byte(*qos), byte(*cloudQoS)
	if len(cfg.Devices) == 0 {
		return cfg, false, errors.New("devices: none given")
	}
	if cfg.Duration == 0 && cfg.Count == 0 {
		cfg.Duration = 10 * time.Second
	}
	if f.NArg() > 0 {
		return cfg, false, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return cfg, *unfiltered, nil
}
