package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

const (
	look      = 2 * time.Millisecond // how often what changes quickly is looked at
	sample    = 50 * time.Millisecond
	patience  = 60 * time.Second // without progress
	profiling = 10 * time.Second
	warm      = 2 * time.Second // of steady load, left out

	commitMetric = "sluice_journal_commit_seconds"
)

// newGate makes a gate with room for the backlog.
func newGate(ctx context.Context, o options, dir, cloud string) (*stand.Gate, error) {
	return stand.NewGate(ctx, o.sluice, dir, cloud, map[string]string{
		"journal": "{ max_size: 64GiB, max_age: 168h, when_full: refuse }",
		"audit":   "{ max_size: 64GiB }",
		"admin":   `{ listen: "@ADMIN@", pprof: true }`,
		"uplinks": fmt.Sprintf(`
  - name: tsp
    recipient: Example Motors TSP
    jurisdiction: CN
    purpose: remote diagnosis
    legal_basis: contract
    live_share: %d
    mqtt: { url: "tcp://@CLOUD@", qos: 1, inflight: %d }`, o.share, o.inflight),
	})
}

func load(o options, g *stand.Gate, cloud string) traffic.Config {
	return traffic.Config{Devices: []string{g.Addr}, Cloud: cloud, Kinds: []fleet.Kind{fleet.Log}, Connections: 8, QoS: 1, CloudQoS: 1, Window: 256, Size: o.size, Drain: patience}
}

// steady measures the live throughput without a backlog.
func steady(ctx context.Context, o options, dir string, s *summary) error {
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
	if err != nil {
		return err
	}
	defer cloud.Kill()
	g, err := newGate(ctx, o, dir, cloud.Addr)
	if err != nil {
		return err
	}
	began := time.Now()
	child, err := g.Start(ctx)
	if err != nil {
		return err
	}
	s.EmptyMillis = ms(time.Since(began))
	defer child.Kill()
	r, err := traffic.Start(ctx, load(o, g, cloud.Addr))
	if err != nil {
		return err
	}
	defer r.Stop()
	if err := sleep(ctx, warm); err != nil {
		return err
	}
	before, err := g.Metrics(ctx)
	if err != nil {
		return err
	}
	if o.profile != "" {
		go profile(g, o.profile+".steady", o.steady)
	}
	began = time.Now()
	from := r.Counts()
	if err := sleep(ctx, o.steady); err != nil {
		return err
	}
	to, took := r.Counts(), time.Since(began).Seconds()
	after, err := g.Metrics(ctx)
	if err != nil {
		return err
	}
	s.SteadyCommits = (after[commitMetric+"_count"] - before[commitMetric+"_count"]) / took
	s.SteadyCommit = (after[commitMetric+"_sum"] - before[commitMetric+"_sum"]) / (after[commitMetric+"_count"] - before[commitMetric+"_count"]) * 1000
	s.Steady, s.SteadyAcked = float64(to.Arrived-from.Arrived)/took, float64(to.Acked-from.Acked)/took
	report, err := r.Stop()
	if err != nil {
		return err
	}
	s.Lost += report.Lost
	fmt.Fprintf(os.Stderr, "backlog: steady: %.0f acknowledged, %.0f arrived a second\n", s.SteadyAcked, s.Steady)
	return child.Stop()
}

// backlog fills the journal and measures how it drains.
func backlog(ctx context.Context, o options, dir string, s *summary) error {
	addr, err := stand.FreeAddress() // of the cloud, where nobody listens yet
	if err != nil {
		return err
	}
	g, err := newGate(ctx, o, dir, addr)
	if err != nil {
		return err
	}
	if err := fill(ctx, o, g, s); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{Addr: addr})
	if err != nil {
		return err
	}
	defer cloud.Kill()
	return drain(ctx, o, g, cloud.Addr, s)
}

// fill lets messages wait, by the way that all messages take.
func fill(ctx context.Context, o options, g *stand.Gate, s *summary) error {
	child, err := g.Start(ctx)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			child.Kill()
		}
	}()
	cfg := load(o, g, "")
	cfg.Count, cfg.Capacity = o.messages, o.messages
	r, err := traffic.Start(ctx, cfg)
	if err != nil {
		return err
	}
	report, err := r.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	if report.Acked != o.messages {
		return fmt.Errorf("%d of %d messages were acknowledged", report.Acked, o.messages)
	}
	s.Filled = report.AckedASecond
	began := time.Now()
	stopped = true
	if err := child.Stop(); err != nil {
		return err
	}
	s.StopMillis = ms(time.Since(began))
	fmt.Fprintf(os.Stderr, "backlog: filled: %d messages, %.0f a second; stopped within %.0f ms\n", report.Acked, s.Filled, s.StopMillis)
	return nil
}

// drain starts the gate and watches it until the backlog has arrived.
func drain(ctx context.Context, o options, g *stand.Gate, cloud string, s *summary) error {
	cfg := load(o, g, cloud)
	cfg.First, cfg.Rate, cfg.Reconnect = o.messages, o.live, true
	r, err := traffic.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer r.Stop()
	began := time.Now()
	child, err := stand.Spawn(g.Dir, "sluice", g.Binary, "run", "-c", g.Config)
	if err != nil {
		return err
	}
	defer child.Kill()
	process := traffic.Process{PID: child.PID()}
	if err := until(ctx, child, func() bool { return traffic.Probe(g.Addr) == nil }); err != nil {
		return err
	}
	s.ConnectMillis = ms(time.Since(began))
	if err := until(ctx, child, func() bool { return g.IsReady(ctx) }); err != nil {
		return err
	}
	s.ReadyMillis, s.AnonReady = ms(time.Since(began)), process.Anon()
	if err := until(ctx, child, func() bool { return r.Counts().Earlier > 0 }); err != nil {
		return err
	}
	first := time.Now()
	s.FirstMillis = ms(first.Sub(began))
	if o.profile != "" {
		go profile(g, o.profile+".drain", profiling)
	}
	from := r.Counts()
	seen, moved := from.Earlier, time.Now()
	told := first
	for r.Counts().Earlier < o.messages && (o.drainFor == 0 || time.Since(first) < o.drainFor) {
		s.AnonMost = max(s.AnonMost, process.Anon())
		if err := sleep(ctx, sample); err != nil {
			return err
		}
		if n := r.Counts().Earlier; n != seen {
			seen, moved = n, time.Now()
		} else if time.Since(moved) > patience {
			return fmt.Errorf("nothing arrived for %v: %d of %d: %s", patience, n, o.messages, child.Tail())
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			c := r.Counts()
			fmt.Fprintf(os.Stderr, "backlog: %d of %d arrived, %d live of %d acknowledged, %.1f MiB anonymous\n", c.Earlier, o.messages, c.Arrived, c.Acked, mib(process.Anon()))
		}
	}
	took, to := time.Since(first).Seconds(), r.Counts()
	s.DrainSeconds = took
	s.Drained = float64(to.Earlier-from.Earlier) / took
	s.LiveArrived, s.LiveAcked = float64(to.Arrived-from.Arrived)/took, float64(to.Acked-from.Acked)/took
	s.Complete = to.Earlier == o.messages
	if s.Complete {
		report, err := r.Stop()
		if err != nil {
			return err
		}
		s.Lost += report.Lost
		s.Duplicates = report.Duplicates
		return child.Stop()
	}
	return nil
}

// cut measures a short outage.
func cut(ctx context.Context, o options, dir string, s *summary) error {
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
	if err != nil {
		return err
	}
	defer cloud.Kill()
	wire, err := stand.NewProxy(cloud.Addr)
	if err != nil {
		return err
	}
	defer wire.Close()
	g, err := newGate(ctx, o, dir, wire.Addr)
	if err != nil {
		return err
	}
	child, err := g.Start(ctx)
	if err != nil {
		return err
	}
	defer child.Kill()
	if err := until(ctx, child, func() bool { return !wire.Since().IsZero() }); err != nil {
		return err
	}
	if err := wire.Set(stand.Weather{Down: true}); err != nil {
		return err
	}
	cfg := load(o, g, cloud.Addr)
	cfg.Count = o.cut
	r, err := traffic.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer r.Stop()
	if err := until(ctx, child, func() bool { return r.Counts().Acked == o.cut }); err != nil {
		return err
	}
	mended := time.Now()
	if err := wire.Set(stand.Weather{}); err != nil {
		return err
	}
	if err := until(ctx, child, func() bool { return r.Counts().Arrived == o.cut }); err != nil {
		return err
	}
	s.CutMillis, s.CutWaitMillis = ms(time.Since(wire.Since())), ms(wire.Since().Sub(mended))
	report, err := r.Stop()
	s.Lost += report.Lost
	return err
}

// until waits for something that the gate does.
func until(ctx context.Context, child *stand.Child, what func() bool) error {
	for began := time.Now(); !what(); {
		if time.Since(began) > patience {
			return fmt.Errorf("waited %v for nothing: %s", patience, child.Tail())
		}
		if err := sleep(ctx, look); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// profile writes a CPU profile of the gate to a file.
func profile(g *stand.Gate, file string, length time.Duration) {
	err := func() error {
		r, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f", g.Admin, length.Seconds()))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r.Body)
		return errors.Join(err, f.Close())
	}()
	if err != nil {
		fmt.Fprintf(os.Stderr, "backlog: no profile: %v\n", err)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mib(n uint64) float64 { return float64(n) / (1 << 20) }
