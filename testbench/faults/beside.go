package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// Times of the outage beside mosquitto's bridge.
const (
	fullOutage  = 20 * time.Second
	shortOutage = 4 * time.Second
	besideRate  = 750 // on each side
	waiting     = 10_000
)

// beside does the same outage, with a kill -9 in it, to a mosquitto that bridges to its cloud, with persistence on and
// saved at every change, and to a gate. The two run at the same time under the same load.
func beside(ctx context.Context, b *bench, r *row) error {
	outage := b.outage
	if outage == 0 {
		outage = time.Duration(b.count(int(fullOutage), int(shortOutage)))
	}
	d, proxy, err := b.wire(ctx, r, plan{rate: besideRate, journal: "{ max_size: 512MiB, max_age: 168h, when_full: refuse }", patience: 15 * time.Second})
	if err != nil {
		return err
	}
	defer d.remove()
	m, err := d.bridged(ctx)
	if err != nil {
		return err
	}
	defer m.remove()
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	d.mark()
	d.row.Runs++
	if err := setBoth(stand.Weather{Down: true}, proxy, m.proxy); err != nil {
		return err
	}
	if err := pause(ctx, outage/2); err != nil {
		return err
	}
	d.kill(ctx)
	if err := m.restart(ctx); err != nil {
		return err
	}
	since := time.Now()
	if d.child, err = d.gate.Start(ctx); err != nil {
		return err
	}
	r.note("sluice: devices could connect %.0f ms after the restart", ms(time.Since(since)))
	if err := pause(ctx, outage/2); err != nil {
		return err
	}
	since = time.Now()
	counts := [2]traffic.Counts{d.load.Counts(), m.load.Counts()}
	if err := setBoth(stand.Weather{}, proxy, m.proxy); err != nil {
		return err
	}
	var both sync.WaitGroup
	var said [2]string
	both.Go(func() { said[0] = d.drained(ctx, since, d.load, counts[0]) })
	both.Go(func() { said[1] = d.drained(ctx, since, m.load, counts[1]) })
	both.Wait()
	r.note("sluice: %s", said[0])
	r.note("mosquitto bridge: %s", said[1])
	theirs, err := m.load.Stop()
	if err != nil {
		return err
	}
	r.note("mosquitto bridge: lost %d of %d acknowledged, %d copies", theirs.Lost, theirs.Acked, theirs.Duplicates)
	if err := d.close(ctx); err != nil {
		return err
	}
	r.note("sluice: lost %d of %d acknowledged, %d copies", r.Lost, r.Acked, r.Duplicates)
	return nil
}

func setBoth(w stand.Weather, proxies ...*stand.Proxy) error {
	for _, p := range proxies {
		if err := p.Set(w); err != nil {
			return err
		}
	}
	return nil
}

// drained says how long it takes until as many as waited then have arrived, with the load going on.
func (d *bed) drained(ctx context.Context, since time.Time, load *traffic.Run, then traffic.Counts) string {
	waited, first := then.Acked-then.Arrived, time.Duration(0)
	err := d.await(ctx, recoverWithin, func() bool {
		now := load.Counts()
		if first == 0 && now.Arrived > then.Arrived {
			first = time.Since(since)
		}
		return now.Arrived >= then.Arrived+waited
	})
	if err != nil {
		return fmt.Sprintf("of %d that waited %d had arrived %v after the outage", waited, load.Counts().Arrived-then.Arrived, recoverWithin)
	}
	return fmt.Sprintf("as many as waited, %d, arrived in %.0f ms from the first one on, which came %.0f ms after the outage", waited,
		ms(time.Since(since)-first), ms(first))
}

// bridge is mosquitto on both sides with a faulty wire between.
type bridge struct {
	dir         string
	cloud, edge *stand.Broker
	proxy       *stand.Proxy
	load        *traffic.Run
}

func (d *bed) bridged(ctx context.Context) (_ *bridge, err error) {
	m := &bridge{}
	defer func() {
		if err != nil {
			m.remove()
		}
	}()
	m.dir = filepath.Join(d.dir, "bridge")
	if err := os.Mkdir(m.dir, 0o700); err != nil {
		return nil, err
	}
	if m.cloud, err = stand.StartBroker(ctx, m.dir, "cloud", stand.BrokerOptions{}); err != nil {
		return nil, err
	}
	if m.proxy, err = stand.NewProxy(m.cloud.Addr); err != nil {
		return nil, err
	}
	if m.edge, err = stand.StartBroker(ctx, m.dir, "edge", stand.BrokerOptions{Autosave: true, BridgeTo: m.proxy.Addr}); err != nil {
		return nil, err
	}
	m.load, err = traffic.Start(ctx, traffic.Config{
		Devices: []string{m.edge.Addr}, Cloud: m.cloud.Addr, Connections: connections, QoS: 1, CloudQoS: 1, Window: deviceWindow,
		Rate: besideRate, Size: bodySize, Seed: d.rng.Uint64(), Reconnect: true, Drain: 10 * time.Second, Capacity: 1 << 20,
	})
	return m, err
}

// restart ends the edge by kill -9 and starts it again on its files.
func (m *bridge) restart(ctx context.Context) (err error) {
	m.edge.Kill()
	m.edge, err = stand.StartBroker(ctx, m.dir, "edge", stand.BrokerOptions{Autosave: true, BridgeTo: m.proxy.Addr, Addr: m.edge.Addr})
	return err
}

func (m *bridge) remove() {
	if m.load != nil {
		m.load.End()
	}
	for _, b := range []*stand.Broker{m.edge, m.cloud} {
		if b != nil {
			b.Kill()
		}
	}
	if m.proxy != nil {
		m.proxy.Close()
	}
}

// drain has ten thousand messages wait, without other load, and measures how fast they arrive once the cloud is back,
// and how soon after a restart the first one does.
func drain(ctx context.Context, b *bench, r *row) error {
	best := [2]time.Duration{time.Hour, time.Hour} // what else runs on the machine only adds to it
	for range 3 {
		d, proxy, err := b.wire(ctx, r, plan{count: waiting, down: true, rate: 20_000})
		if err != nil {
			return err
		}
		first, all, err := d.drainAll(ctx, proxy)
		d.remove()
		if err != nil {
			return err
		}
		best[0], best[1] = min(best[0], first), min(best[1], all)
	}
	r.note("at best the first delivery %.0f ms after the start of the process, %d that waited %.0f ms later", ms(best[0]), waiting, ms(best[1]))
	if !b.short && (best[0] > firstWithin || best[1] > allWithin) {
		r.bad("want the first delivery within %v of the start and all within %v of it", firstWithin, allWithin)
	}
	return nil
}

func (d *bed) drainAll(ctx context.Context, proxy *stand.Proxy) (first, all time.Duration, err error) {
	d.row.Runs++
	if err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Acked == waiting }); err != nil {
		return 0, 0, fmt.Errorf("fill: %w", err)
	}
	d.kill(ctx) // the gate that drains is a new one, with nothing in memory
	if err := proxy.Set(stand.Weather{}); err != nil {
		return 0, 0, err
	}
	since := time.Now()
	if d.child, err = d.gate.Launch(); err != nil {
		return 0, 0, err
	}
	if err := d.flows(ctx, since, 0); err != nil {
		return 0, 0, err
	}
	first = time.Since(since)
	if err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Arrived == waiting }); err != nil {
		return 0, 0, err
	}
	return first, time.Since(since) - first, d.close(ctx)
}

// What draining is held to in the full form.
const (
	firstWithin = 150 * time.Millisecond
	allWithin   = time.Second
)
