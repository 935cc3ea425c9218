// Restart measures how long a gate takes from its start to its first delivery, with messages waiting: the sluice binary as
// a process of its own, with catalog, policy and plugin, and a scripted broker that notes the first PUBLISH.
//
//	go run ./testbench/restart --rounds 11 --waiting 10000
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

type options struct {
	sluice  string
	rounds  int
	waiting int
}

// result is what one kind of end came to, in milliseconds from the start of the process.
type result struct {
	End     string  `json:"end"` // how the gate before had ended
	Median  float64 `json:"median_ms"`
	Fastest float64 `json:"fastest_ms"`
	Slowest float64 `json:"slowest_ms"`
	Ready   float64 `json:"ready_median_ms"` // devices can connect
}

func main() {
	var o options
	flag.StringVar(&o.sluice, "sluice", "", "sluice `binary`; empty: built from this module")
	flag.IntVar(&o.rounds, "rounds", 11, "starts to measure, after each kind of end")
	flag.IntVar(&o.waiting, "waiting", 10_000, "`messages` that wait")
	asJSON := flag.Bool("json", false, "print one line of JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	list, err := measure(ctx, &o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "restart: error:", err)
		os.Exit(1)
	}
	if *asJSON {
		json.NewEncoder(os.Stdout).Encode(list)
		return
	}
	for _, r := range list {
		fmt.Printf("after %-7s  first delivery: median %4.0f ms, %4.0f to %4.0f; devices can connect: median %4.0f ms\n", r.End, r.Median, r.Fastest, r.Slowest, r.Ready)
	}
}

// measure fills a gate's journal and starts it again and again.
func measure(ctx context.Context, o *options) ([]result, error) {
	dir, err := os.MkdirTemp("", "sluice-restart-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if o.sluice == "" {
		if o.sluice, err = stand.BuildGate(ctx, dir); err != nil {
			return nil, err
		}
	}
	cloud, err := stand.StartCloud()
	if err != nil {
		return nil, err
	}
	defer cloud.Close()
	cloud.Script(func(string, []byte) stand.Answer { return stand.Hang })
	gate, err := stand.NewGate(ctx, o.sluice, dir, cloud.Addr, nil)
	if err != nil {
		return nil, err
	}
	if err := fill(ctx, gate, o.waiting); err != nil {
		return nil, err
	}
	var list []result
	for _, end := range []string{"SIGTERM", "SIGKILL"} {
		r := result{End: end}
		var first, ready []float64
		for range o.rounds {
			f, up, err := start(ctx, gate, cloud, end)
			if err != nil {
				return nil, err
			}
			first, ready = append(first, f), append(ready, up)
		}
		slices.Sort(first)
		slices.Sort(ready)
		r.Median, r.Fastest, r.Slowest, r.Ready = first[len(first)/2], first[0], first[len(first)-1], ready[len(ready)/2]
		list = append(list, r)
	}
	return list, nil
}

// fill has a device publish what then waits: the cloud breaks every connection at the first message.
func fill(ctx context.Context, gate *stand.Gate, n int) error {
	child, err := gate.Start(ctx)
	if err != nil {
		return err
	}
	defer child.Kill()
	d, err := traffic.DialHand(gate.Addr, "car-7")
	if err != nil {
		return err
	}
	defer d.Close()
	long := bytes.Repeat([]byte("7"), 300)
	for i := range n {
		if err := d.Publish("v1/car-7/telemetry", fmt.Appendf(nil, `{"soc":%d.5,"odometer":%s}`, i%100, long)); err != nil {
			return err
		}
		if err := d.Acknowledged(ctx, 256); err != nil {
			return err
		}
	}
	if err := d.Acknowledged(ctx, 0); err != nil {
		return err
	}
	return child.Stop()
}

// start starts the gate once, and ends it when its first message has arrived.
func start(ctx context.Context, gate *stand.Gate, cloud *stand.Cloud, end string) (first, ready float64, err error) {
	arrived := make(chan time.Time, 1)
	cloud.Script(func(string, []byte) stand.Answer {
		select {
		case arrived <- time.Now():
		default:
		}
		return stand.Ignore
	})
	began := time.Now()
	child, err := gate.Start(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer child.Kill()
	up := time.Since(began)
	select {
	case at := <-arrived:
		first = at.Sub(began).Seconds() * 1000
	case <-time.After(10 * time.Second):
		return 0, 0, fmt.Errorf("nothing arrived within 10 s: %s", child.Tail())
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	if end == "SIGTERM" {
		err = child.Stop()
	}
	return first, up.Seconds() * 1000, err
}
