package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// wire is a bed whose gate reaches its cloud through a faulty wire.
func (b *bench) wire(ctx context.Context, r *row, p plan) (*bed, *stand.Proxy, error) {
	folder := b.dir
	cloud, err := stand.StartBroker(ctx, folder, fmt.Sprintf("cloud-%s-%d", r.Fault, time.Now().UnixNano()), stand.BrokerOptions{})
	if err != nil {
		return nil, nil, err
	}
	proxy, err := stand.NewProxy(cloud.Addr)
	if err != nil {
		cloud.Kill()
		return nil, nil, err
	}
	if err := proxy.Set(stand.Weather{Down: p.down}); err != nil {
		proxy.Close()
		cloud.Kill()
		return nil, nil, err
	}
	p.cloud, p.watch = proxy.Addr, cloud.Addr
	d, err := b.makeBed(ctx, r, p)
	if err != nil {
		proxy.Close()
		cloud.Kill()
		return nil, nil, err
	}
	d.cloud, d.proxy = cloud, proxy
	return d, proxy, nil
}

// weathers are what the wire goes through, in turn.
var weathers = []struct {
	name    string
	weather stand.Weather
	lasts   time.Duration
}{
	{"cut", stand.Weather{Down: true}, 2 * time.Second},
	{"half-open", stand.Weather{Silent: true}, 5 * time.Second}, // longer than keep-alive and ping timeout together
	{"slow", stand.Weather{Speed: 20_000}, 4 * time.Second},
	{"far", stand.Weather{Latency: 300 * time.Millisecond}, 3 * time.Second},
}

// wireFaults cuts, silences, slows and shakes the way to the cloud.
func wireFaults(ctx context.Context, b *bench, r *row) error {
	d, proxy, err := b.wire(ctx, r, plan{})
	if err != nil {
		return err
	}
	defer d.remove()
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	for range b.count(6, 1) {
		for _, w := range weathers {
			d.mark()
			d.row.Runs++
			if err := proxy.Set(w.weather); err != nil {
				return err
			}
			if err := pause(ctx, w.lasts); err != nil {
				return err
			}
			since, seen := time.Now(), d.load.Counts().Arrived
			if err := proxy.Set(stand.Weather{}); err != nil {
				return err
			}
			if err := d.caughtUp(ctx, w.name, since, seen); err != nil {
				return err
			}
		}
		if err := d.flap(ctx, proxy); err != nil {
			return err
		}
	}
	return d.close(ctx)
}

// caughtUp waits until messages flow again and what was acknowledged until now has arrived.
func (d *bed) caughtUp(ctx context.Context, name string, since time.Time, seen uint64) error {
	if err := d.flows(ctx, since, seen); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	flows := time.Since(since)
	want := d.load.Counts().Acked
	if err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Arrived >= want }); err != nil {
		c := d.load.Counts()
		d.row.bad("%s: what waited does not arrive: %v; %d acknowledged, %d arrived", name, err, c.Acked, c.Arrived)
		return nil
	}
	if all := time.Since(since); all > d.worst[name] {
		d.worst[name] = all
		d.debug("%s: first message after %.0f ms, all that waited after %.0f ms", name, ms(flows), ms(all))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// flap breaks the connection again and again, faster than the backlog drains.
func (d *bed) flap(ctx context.Context, proxy *stand.Proxy) error {
	if err := proxy.Set(stand.Weather{Latency: 30 * time.Millisecond}); err != nil { // so that acknowledgements are on the way
		return err
	}
	for range d.count(12, 8) {
		d.mark()
		d.row.Runs++
		proxy.Cut()
		if err := pause(ctx, d.between(50*time.Millisecond, 600*time.Millisecond)); err != nil {
			return err
		}
	}
	if err := proxy.Set(stand.Weather{}); err != nil {
		return err
	}
	return d.caughtUp(ctx, "flapping", time.Now(), d.load.Counts().Arrived)
}
