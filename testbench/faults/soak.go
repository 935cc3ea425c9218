package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// soak does faults of all kinds at random, one and two at a time, to gates that live for some minutes each.
func soak(ctx context.Context, b *bench, r *row) error {
	lasts := b.soak
	if lasts == 0 {
		lasts = time.Minute
	}
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		d, proxy, err := b.wire(ctx, r, plan{})
		if err != nil {
			return err
		}
		until := end
		if limit := time.Now().Add(soakBed); limit.Before(until) {
			until = limit
		}
		err = d.soak(ctx, proxy, until)
		d.remove()
		if err != nil {
			return err
		}
	}
	return nil
}

const soakBed = 3 * time.Minute // life of one journal

func (d *bed) soak(ctx context.Context, proxy *stand.Proxy, until time.Time) error {
	for time.Now().Before(until) {
		if err := pause(ctx, d.between(200*time.Millisecond, 2*time.Second)); err != nil {
			return err
		}
		d.mark()
		d.row.Runs++
		since, seen := time.Now(), d.load.Counts().Arrived
		name, err := d.mishap(ctx, proxy)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := proxy.Set(stand.Weather{}); err != nil {
			return err
		}
		d.debug("soak: %s, %.1f s", name, time.Since(since).Seconds())
		if err := d.flows(ctx, time.Now(), max(seen, d.load.Counts().Arrived)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return d.close(ctx)
}

// mishap does one fault, sometimes with another one in the middle, and returns when the gate runs again.
func (d *bed) mishap(ctx context.Context, proxy *stand.Proxy) (name string, err error) {
	if d.rng.IntN(2) == 0 {
		w := weathers[d.rng.IntN(len(weathers))]
		name = w.name + " "
		if err := proxy.Set(w.weather); err != nil {
			return name, err
		}
		if err := pause(ctx, d.between(100*time.Millisecond, w.lasts)); err != nil {
			return name, err
		}
	}
	switch d.rng.IntN(4) {
	case 0:
		name += "kill"
		return name, d.restart(ctx, func() { d.kill(ctx) })
	case 1:
		name += "stop"
		return name, d.restart(ctx, func() { d.debug("soak: SIGTERM took %.0f ms", ms(d.stop(ctx))) })
	case 2:
		s := &spells[d.rng.IntN(len(spells))]
		name += s.name
		stop, err := d.attach(ctx, fmt.Sprint("soak-", d.row.Runs), s)
		if err != nil {
			return name, err
		}
		if err := pause(ctx, d.between(100*time.Millisecond, 2*time.Second)); err != nil {
			return name, err
		}
		return name, stop()
	}
	proxy.Cut()
	return name + "break", nil
}

// restart ends the gate and runs it again, without waiting for the cloud: it may be away.
func (d *bed) restart(ctx context.Context, end func()) (err error) {
	end()
	d.child, err = d.gate.Start(ctx)
	return err
}
