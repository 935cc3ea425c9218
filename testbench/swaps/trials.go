package main

import (
	"context"
	"fmt"
	"time"
)

// Bounds of trials.
const (
	trialRate   = 1000.0 // messages a second meanwhile
	backWithin  = time.Second
	backAsked   = 10 * time.Second // how long is waited for it
	probation   = "10m"
	mostChanged = "5%"
)

// trials loads a version that blocks everything, on probation, and one that traps at every message: the gate goes back to
// the version before by itself.
func trials(ctx context.Context, o options, a *author, dir string, s *summary) error {
	b, err := makeBed(ctx, a, o.sluice, dir, "trials", gentle)
	if err != nil {
		return err
	}
	defer b.remove()
	run, err := b.devices(ctx, trialRate, oneRun, false)
	if err != nil {
		return err
	}
	defer run.End()
	steps := []struct {
		row     string
		m       manner
		confirm string
		delta   string
		event   string
		serial  uint64
	}{
		{"confirm", blocks, probation, mostChanged, "plugin rolled back tripped", 0},
		{"struck", traps, "", "", "plugin rolled back struck", 0},
	}
	for i := range steps {
		t := &steps[i]
		if err := b.load(ctx, gentle, "", ""); err != nil {
			return err
		}
		good := b.serial
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		if err := b.load(ctx, t.m, t.confirm, t.delta); err != nil {
			return err
		}
		t.serial = b.serial
		if err := b.backAt(ctx, good); err != nil {
			return fmt.Errorf("%s: %w", t.row, err)
		}
		if err := sleep(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
	rep, err := run.Stop()
	if err != nil {
		return err
	}
	stopped := b.stop(ctx)
	l := newLedger(a.manners)
	if err := b.records(l.add); err != nil {
		return err
	}
	for i := range steps {
		t := &steps[i]
		n, took := l.reign(t.serial)
		what := "blocks everything: rolled back by itself after"
		if t.m == traps {
			what = "traps at every message: rolled back after"
		}
		s.figure(t.row, what, fmt.Sprintf("%d messages, %d ms", n, took.Milliseconds()), fmt.Sprintf("≤ %d ms", backWithin.Milliseconds()), n > 0 && took > 0 && took <= backWithin)
		s.figure(t.row, "events: "+t.event, fmt.Sprint(l.events[t.event]), "1", l.events[t.event] == 1)
	}
	s.figure("struck", "journal check, audit verify, identity", holds(stopped), "", stopped == nil)
	s.counts("struck", l, rep.Sent, rep.Arrived)
	return nil
}

// backAt waits until the version with a serial is in force.
func (b *bed) backAt(ctx context.Context, serial uint64) error {
	for end := time.Now().Add(backAsked); ; {
		var s states
		if err := b.api(ctx, "plugins", nil, &s); err != nil {
			return err
		}
		if len(s.Plugins) == 1 && s.Plugins[0].InForce != nil && s.Plugins[0].InForce.Serial == serial && !s.Plugins[0].Struck {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not rolled back within %v", backAsked)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// reign is how many messages a version decided, and how long it was in force: from its change record to the next.
func (l *ledger) reign(serial uint64) (decisions uint64, took time.Duration) {
	for i, c := range l.changes {
		if c.serial == serial && i+1 < len(l.changes) {
			decisions += c.decisions
			took += max(l.changes[i+1].at.Sub(c.at), time.Millisecond)
		}
	}
	return decisions, took
}
