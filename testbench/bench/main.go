// Command bench measures the gate beside mosquitto doing less: alone, and bridging the same traffic unfiltered. Every
// round runs every case, so that a slow moment of the machine hits all; the table shows medians and ratios.
//
//	go run ./testbench/bench --rounds 5 --for 5s
//
// Everything runs in a temporary folder on free loopback ports. Exit status 0 when nothing was lost and the gate leaked
// nothing, 1 when something was off, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// options are the flags.
type options struct {
	sluice      string
	dir         string
	rounds      int
	connections int
	load        traffic.Config
}

func main() { stand.Program("bench", parse, run) }

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.sluice, "sluice", "", "sluice binary; empty: built from this module")
	f.IntVar(&o.rounds, "rounds", 3, "rounds of all cases")
	f.IntVar(&o.connections, "connections", 8, "connections of the many-connection cases")
	f.IntVar(&o.load.Window, "window", 256, "unacknowledged messages per connection")
	f.IntVar(&o.load.Size, "size", 1024, "bytes of a body, about")
	f.DurationVar(&o.load.Duration, "for", 5*time.Second, "length of one measurement")
	f.Uint64Var(&o.load.Count, "count", 0, "messages of one measurement, instead of --for")
	f.Uint64Var(&o.load.Seed, "seed", 1, "seed of the vehicles")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.rounds < 1 || o.connections < 1 {
		return o, errors.New("want --rounds and --connections of at least 1, and no arguments")
	}
	if o.load.Count > 0 {
		o.load.Duration = 0
	}
	o.load.QoS, o.load.CloudQoS, o.load.Drain = 1, 1, 20*time.Second
	return o, nil
}

// run measures everything and reports whether nothing was off.
func run(ctx context.Context, o options) (bool, error) {
	var err error
	if o.dir, err = os.MkdirTemp("", "sluice-bench-"); err != nil {
		return false, err
	}
	defer os.RemoveAll(o.dir)
	if o.sluice == "" {
		if o.sluice, err = stand.BuildGate(ctx, o.dir); err != nil {
			return false, err
		}
	}
	cases := []*result{
		{Name: "mosquitto alone", connections: o.connections, set: alone},
		{Name: "mosquitto bridging", connections: o.connections, set: bridging},
		{Name: fmt.Sprintf("sluice, %d connections", o.connections), connections: o.connections, set: gate, Filtered: true},
		{Name: "sluice, 1 connection", connections: 1, set: gate, Filtered: true},
	}
	for round := range o.rounds {
		for i, c := range cases {
			report, err := measure(ctx, o, c, fmt.Sprintf("round%d-case%d", round+1, i+1))
			if err != nil {
				return false, fmt.Errorf("%s: %w", c.Name, err)
			}
			c.Rounds = append(c.Rounds, report)
			fmt.Fprintf(os.Stderr, "round %d of %d: %s: %.0f arrived a second\n", round+1, o.rounds, c.Name, report.ArrivedSecond)
		}
	}
	s := summary{Cases: cases, Good: true}
	for _, c := range cases {
		c.sumUp(cases[0])
		s.Good = s.Good && c.Lost == 0 && (!c.Filtered || c.Leaks == 0)
	}
	s.OneOfMany = cases[3].Arrived / cases[2].Arrived
	s.table(os.Stdout)
	out, err := json.Marshal(s)
	if err != nil {
		return false, err
	}
	fmt.Printf("%s\n", out)
	return s.Good, nil
}

// path is what lies between devices and cloud in one measurement.
type path struct {
	devices, cloud string
	watch          []traffic.Process
	children       []*stand.Child
}

func (p *path) add(c *stand.Child, name string) {
	p.children = append(p.children, c)
	p.watch = append(p.watch, traffic.Process{Name: name, PID: c.PID()})
}

// alone sets up one broker with devices and cloud on it.
func alone(ctx context.Context, _ options, dir string, p *path) error {
	b, err := stand.StartBroker(ctx, dir, "mosquitto", stand.BrokerOptions{})
	if err != nil {
		return err
	}
	p.add(b.Child, "mosquitto")
	p.devices, p.cloud = b.Addr, b.Addr
	return nil
}

// bridging sets up a broker for the devices, with persistence, that bridges everything to the cloud's.
func bridging(ctx context.Context, _ options, dir string, p *path) error {
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
	if err != nil {
		return err
	}
	p.add(cloud.Child, "cloud")
	edge, err := stand.StartBroker(ctx, dir, "edge", stand.BrokerOptions{Persist: true, BridgeTo: cloud.Addr})
	if err != nil {
		return err
	}
	p.add(edge.Child, "edge")
	p.devices, p.cloud = edge.Addr, cloud.Addr
	return nil
}

// gate sets up sluice before the cloud's broker.
func gate(ctx context.Context, o options, dir string, p *path) error {
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
	if err != nil {
		return err
	}
	p.add(cloud.Child, "cloud")
	g, err := stand.NewGate(ctx, o.sluice, dir, cloud.Addr, nil)
	if err != nil {
		return err
	}
	c, err := g.Start(ctx)
	if err != nil {
		return err
	}
	p.add(c, "sluice")
	p.devices, p.cloud = g.Addr, cloud.Addr
	return nil
}

// measure runs one case once on processes of its own.
func measure(ctx context.Context, o options, c *result, name string) (report traffic.Report, err error) {
	dir := o.dir + "/" + name
	if err := os.Mkdir(dir, 0o700); err != nil {
		return report, err
	}
	defer os.RemoveAll(dir)
	var p path
	defer func() {
		for _, child := range slices.Backward(p.children) {
			if stopErr := child.Stop(); err == nil {
				err = stopErr
			}
		}
	}()
	if err := c.set(ctx, o, dir, &p); err != nil {
		return report, err
	}
	cfg := o.load
	cfg.Devices, cfg.Cloud, cfg.Connections, cfg.Watch = []string{p.devices}, p.cloud, c.connections, p.watch
	cfg.Watch = append(cfg.Watch, traffic.Process{Name: "load", PID: os.Getpid()})
	r, err := traffic.Start(ctx, cfg)
	if err != nil {
		return report, err
	}
	if report, err = r.Wait(); err == nil {
		err = ctx.Err()
	}
	return report, err
}

// result is one case over all rounds; figures are medians.
type result struct {
	Name      string             `json:"name"`
	Filtered  bool               `json:"filtered"`
	Arrived   float64            `json:"arrived_per_second"`
	Acked     float64            `json:"acked_per_second"`
	Ratio     float64            `json:"ratio_to_mosquitto_alone"`
	AckP50    float64            `json:"ack_p50_ms"`
	AckP99    float64            `json:"ack_p99_ms"`
	AckP999   float64            `json:"ack_p99_9_ms"`
	ArriveP99 float64            `json:"arrival_p99_ms"`
	CPU       map[string]float64 `json:"cpu_seconds_per_million"`
	PeakRSS   map[string]float64 `json:"peak_rss_mib"`
	Written   map[string]float64 `json:"written_bytes_per_message"`
	Lost      uint64             `json:"lost"`       // sum
	Doubled   uint64             `json:"duplicates"` // sum
	Leaks     uint64             `json:"leaks"`      // sum
	Rounds    []traffic.Report   `json:"rounds"`

	connections int
	set         func(context.Context, options, string, *path) error
}

// sumUp fills in the medians and sums over the rounds.
func (c *result) sumUp(base *result) {
	over := func(f func(*traffic.Report) float64) float64 {
		var values []float64
		for i := range c.Rounds {
			values = append(values, f(&c.Rounds[i]))
		}
		return median(values)
	}
	c.Arrived = over(func(r *traffic.Report) float64 { return r.ArrivedSecond })
	c.Acked = over(func(r *traffic.Report) float64 { return r.AckedASecond })
	c.AckP50 = over(func(r *traffic.Report) float64 { return r.Ack.P50 })
	c.AckP99 = over(func(r *traffic.Report) float64 { return r.Ack.P99 })
	c.AckP999 = over(func(r *traffic.Report) float64 { return r.Ack.P999 })
	c.ArriveP99 = over(func(r *traffic.Report) float64 { return r.Arrival.P99 })
	c.CPU, c.PeakRSS, c.Written = map[string]float64{}, map[string]float64{}, map[string]float64{}
	for i, p := range c.Rounds[0].Processes {
		c.CPU[p.Name] = over(func(r *traffic.Report) float64 { return r.Processes[i].PerMillion })
		c.PeakRSS[p.Name] = over(func(r *traffic.Report) float64 { return float64(r.Processes[i].PeakRSS) / (1 << 20) })
		c.Written[p.Name] = over(func(r *traffic.Report) float64 { return r.Processes[i].PerMessage })
	}
	for _, r := range c.Rounds {
		c.Lost += r.Lost
		c.Doubled += r.Duplicates
		c.Leaks += r.Leaks
	}
	c.Ratio = c.Arrived / base.Arrived
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// summary is the whole outcome.
type summary struct {
	Cases     []*result `json:"cases"`
	OneOfMany float64   `json:"one_connection_to_many"`
	Good      bool      `json:"good"`
}

// table prints what people read.
func (s *summary) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "case\tarrived/s\tacked/s\tratio\tack p50 ms\tp99\tp99.9\tarrival p99\tCPU s per million\tRSS MiB\twritten B/msg\tlost\tduplicates\tleaks\t")
	for _, c := range s.Cases {
		what := "sluice"
		for _, name := range []string{"edge", "mosquitto"} {
			if _, ok := c.CPU[name]; ok {
				what = name
			}
		}
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%.0f\t%d\t%d\t%d\t\n", c.Name, c.Arrived, c.Acked, c.Ratio,
			c.AckP50, c.AckP99, c.AckP999, c.ArriveP99, c.CPU[what], c.PeakRSS[what], c.Written[what], c.Lost, c.Doubled, c.Leaks)
	}
	t.Flush()
	fmt.Fprintf(w, "sluice with 1 connection against many: %.2f; the load itself took %.1f CPU s per million\n\n", s.OneOfMany, s.Cases[2].CPU["load"])
}
