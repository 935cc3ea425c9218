package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/testbench/traffic"
)

// Bounds of swaps.
const (
	leastRate   = 500                    // what is offered is halved until the machine bears it, not below
	bearable    = 100 * time.Millisecond // p99 of a machine that bears the rate
	mostRatio   = 2.0                    // p99 during loads over p99 outside
	shortRatio  = 4.0                    // the same of the short form: few loads, beside other work
	leastOver   = 2 * time.Millisecond   // what p99 may be longer in any case: less is the scheduler's
	mostSwap    = time.Millisecond       // median of swap and drain
	shortSwap   = 5 * time.Millisecond   // the same of the short form
	badEvery    = 20                     // every so many loads one is tried that must be refused
	between     = 150 * time.Millisecond // from the end of a load to the next
	warm        = time.Second            // of a run, which is not looked at
	oneRun      = 1 << 20                // messages at most
	calibration = 2 * time.Second
)

// window is the time of one load.
type window struct{ from, to time.Time }

// swapping is what the row "swap" measures.
type swapping struct {
	*bed
	s       *summary
	windows []window
	swaps   []time.Duration // swap and drain, of every load
	bad     int             // loads that were refused as they have to be
}

// swap loads version after version while messages flow, and reads the records afterwards.
func swap(ctx context.Context, o options, a *author, dir string, s *summary) error {
	b, err := makeBed(ctx, a, o.sluice, dir, "swap", ordinary)
	if err != nil {
		return err
	}
	defer b.remove()
	rate, err := b.calibrate(ctx, o)
	if err != nil {
		return err
	}
	w := &swapping{bed: b, s: s}
	run, err := b.devices(ctx, rate, oneRun, false)
	if err != nil {
		return err
	}
	began := time.Now()
	err = w.loads(ctx, o.count(o.swaps, shortSwaps))
	rep, runErr := run.Stop()
	b.sent += rep.Sent
	b.seen += rep.Arrived
	if err = errors.Join(err, runErr); err != nil {
		return err
	}
	offered := fmt.Sprintf("%.0f", rate)
	if rate < o.rate {
		offered += fmt.Sprintf(" (%.0f is more than the machine bears)", o.rate)
	}
	s.figure("swap", "offered a second", offered, "", true)
	s.figure("swap", "acknowledged a second", fmt.Sprintf("%.0f", rep.AckedASecond), "", true)
	s.figure("swap", "versions loaded, refused", fmt.Sprintf("%d, %d", len(w.windows), w.bad), "", true)
	w.latencies(run, began, o.short)
	return w.books(ctx, rep)
}

// calibrate finds the rate that the machine bears: the one asked for, or a half of it, and so on. Every rate has two tries, as
// the first messages of a gate are slow.
func (b *bed) calibrate(ctx context.Context, o options) (float64, error) {
	for rate := o.rate; ; rate /= 2 {
		for range 2 {
			p99, err := b.try(ctx, rate)
			if err != nil {
				return 0, err
			}
			if p99 < bearable {
				return rate, nil
			}
		}
		if rate/2 < leastRate {
			return rate, nil
		}
	}
}

// try runs at a rate for a while and returns the p99 of the acknowledgements.
func (b *bed) try(ctx context.Context, rate float64) (p99 time.Duration, err error) {
	run, err := b.devices(ctx, rate, oneRun, false)
	if err != nil {
		return 0, err
	}
	waited := sleep(ctx, calibration)
	rep, err := run.Stop()
	b.sent += rep.Sent
	b.seen += rep.Arrived
	return time.Duration(rep.Ack.P99 * float64(time.Millisecond)), errors.Join(waited, err)
}

// loads takes n versions in, one after the other, and every so often tries one that must be refused.
func (w *swapping) loads(ctx context.Context, n int) error {
	for i := range n {
		if err := sleep(ctx, between); err != nil {
			return err
		}
		before, err := w.gate.Metrics(ctx)
		if err != nil {
			return err
		}
		from := time.Now()
		if err := w.load(ctx, ordinary, "", ""); err != nil {
			return fmt.Errorf("load %d: %w", i+1, err)
		}
		w.windows = append(w.windows, window{from, time.Now()})
		after, err := w.gate.Metrics(ctx)
		if err != nil {
			return err
		}
		if after["sluice_swap_seconds_count"]-before["sluice_swap_seconds_count"] != 1 {
			return fmt.Errorf("load %d: the gate does not count one swap", i+1)
		}
		w.swaps = append(w.swaps, time.Duration((after["sluice_swap_seconds_sum"]-before["sluice_swap_seconds_sum"])*1e9))
		if i%badEvery == badEvery/4 {
			if err := w.refused(ctx, i/badEvery); err != nil {
				return err
			}
		}
	}
	return sleep(ctx, between)
}

// refused tries a load that must be refused, of one kind after the other.
func (w *swapping) refused(ctx context.Context, n int) error {
	module, sig, err := w.author.make(w.serial+1, ordinary)
	if err != nil {
		return err
	}
	older, olderSig, err := w.author.make(1, gentle) // serial 1, and other code than the one that had it
	if err != nil {
		return err
	}
	w.author.manners[1] = ordinary // which still is the one in force then
	garbage := []byte("\x00asm\x01\x00\x00\x00garbage")
	kinds := []struct {
		what string
		q    request
	}{
		{"unsigned", request{Name: plugin, Module: module}},
		{"with an old serial", request{Name: plugin, Module: older, Sig: olderSig}},
		{"of garbage", request{Name: plugin, Module: garbage, Sig: sig}},
		{"changed by one byte", request{Name: plugin, Module: append(slices.Clone(module[:len(module)-1]), module[len(module)-1]^1), Sig: sig}},
		{"of another name", request{Name: "other", Module: module, Sig: sig}},
	}
	k := kinds[n%len(kinds)]
	err = w.post(ctx, k.q)
	var no *refusal
	if !errors.As(err, &no) {
		return fmt.Errorf("a load %s is not refused: %v", k.what, err)
	}
	w.bad++
	s, err := w.state(ctx)
	if err != nil {
		return err
	}
	if s.InForce.Serial != w.serial {
		return fmt.Errorf("after a load %s serial %d is in force, not %d", k.what, s.InForce.Serial, w.serial)
	}
	return nil
}

// latencies compares the messages of loads with the others.
func (w *swapping) latencies(run *traffic.Run, began time.Time, short bool) {
	during, outside := split(run.Acknowledged, w.windows, began.Add(warm))
	a, b := quantile(during, 0.99), quantile(outside, 0.99)
	ratio := float64(a) / float64(max(b, 1))
	bound, swapBound := mostRatio, mostSwap
	if short {
		bound, swapBound = shortRatio, shortSwap
	}
	loads := make([]time.Duration, 0, len(w.windows))
	for _, x := range w.windows {
		loads = append(loads, x.to.Sub(x.from))
	}
	w.s.figure("swap", "load, request to answer: median, longest", ms(quantile(loads, 0.5))+", "+ms(quantile(loads, 1)), "", true)
	w.s.figure("swap", "ack p50 during loads, outside", ms(quantile(during, 0.5))+", "+ms(quantile(outside, 0.5)), "", true)
	w.s.figure("swap", fmt.Sprintf("ack p99 during loads (%d), outside (%d)", len(during), len(outside)), ms(a)+", "+ms(b), "", len(during) > 0 && len(outside) > 0)
	w.s.figure("swap", "ratio of the p99", fmt.Sprintf("%.2f", ratio), fmt.Sprintf("≤ %g", bound), ratio <= bound || a-b <= leastOver)
	w.s.figure("swap", "swap and drain: median", us(quantile(w.swaps, 0.5)), "≤ "+us(swapBound), quantile(w.swaps, 0.5) <= swapBound)
	w.s.figure("swap", "swap and drain: p90, p99, longest", us(quantile(w.swaps, 0.9))+", "+us(quantile(w.swaps, 0.99))+", "+us(quantile(w.swaps, 1)), "", true)
}

// books ends the gate and holds its records against what the devices and the cloud saw.
func (w *swapping) books(ctx context.Context, rep traffic.Report) error {
	err := w.stop(ctx)
	w.s.figure("swap", "journal check, audit verify, identity", holds(err), "", err == nil)
	l := newLedger(w.author.manners)
	if err := w.records(l.add); err != nil {
		return err
	}
	w.s.counts("swap", l, w.sent, w.seen)
	w.s.figure("swap", "sent, not acknowledged", fmt.Sprint(rep.Sent-rep.Acked), "0", rep.Sent == rep.Acked)
	w.s.figure("swap", "doubled, leaked", fmt.Sprintf("%d, %d", rep.Duplicates, rep.Leaks), "0, 0", rep.Duplicates == 0 && rep.Leaks == 0)
	w.s.figure("swap", "versions that judged", fmt.Sprint(len(l.versions)), fmt.Sprint(len(w.windows)+1), len(l.versions) == len(w.windows)+1)
	refusals := 0
	for what, n := range l.events {
		if strings.HasPrefix(what, "plugin refused ") {
			refusals += n
		}
	}
	loaded, want := l.events["plugin loaded "], len(w.windows)+1 // and the one at the start
	w.s.figure("swap", "loads, refusals on the record", fmt.Sprintf("%d, %d", loaded, refusals), fmt.Sprintf("%d, %d", want, w.bad), loaded == want && refusals == w.bad)
	return nil
}

// lead is how long before a load a message may be sent and still is one of the load's: it may be on its way when that begins.
// It is the same for all: were it what each message took, the slow ones would be the load's more often than the others.
const lead = 10 * time.Millisecond

// split tells the latencies of messages that were sent from a little before a load to its end from the others; what was sent
// before from is left out.
func split(each func(fn func(sent, acked time.Time)), windows []window, from time.Time) (during, outside []time.Duration) {
	each(func(sent, acked time.Time) {
		if sent.Before(from) {
			return
		}
		i := sort.Search(len(windows), func(i int) bool { return !windows[i].to.Before(sent) })
		if i < len(windows) && !windows[i].from.Add(-lead).After(sent) {
			during = append(during, acked.Sub(sent))
		} else {
			outside = append(outside, acked.Sub(sent))
		}
	})
	return during, outside
}

// quantile returns the q-quantile, 0 of nothing. It sorts the list.
func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[int(q*float64(len(list)-1))]
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
