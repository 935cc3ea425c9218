package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	killRate  = 300.0 // messages a second meanwhile
	readyTime = 10 * time.Second
)

// kills ends the gate with kill -9 at some moment of a load, again and again: the next start has the version before or the
// new one, whole.
func kills(ctx context.Context, o options, a *author, dir string, s *summary) error {
	b, err := makeBed(ctx, a, o.sluice, dir, "kills", gentle)
	if err != nil {
		return err
	}
	defer b.remove()
	run, err := b.devices(ctx, killRate, oneRun, true)
	if err != nil {
		return err
	}
	defer run.End()
	began := time.Now()
	if err := b.load(ctx, gentle, "", ""); err != nil {
		return err
	}
	spread := 1.3 * float64(time.Since(began)) // follows what is found, so that kills come before and after the exchange
	rng := rand.New(rand.NewPCG(o.seed, 5))
	n, found := o.count(o.kills, shortKills), [2]int{}
	floor, answered := uint64(0), 0
	for i := range n {
		before, err := b.state(ctx)
		if err != nil {
			return err
		}
		after, loaded, err := b.killedIn(ctx, time.Duration(rng.Float64()*spread))
		if err != nil {
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
		old, now := before.InForce.Serial, after.InForce.Serial
		switch {
		case now == b.serial:
			found[1]++
			spread *= 0.8
		case now == old && !loaded:
			found[0]++
			spread *= 1.25
		default:
			return fmt.Errorf("kill %d: serial %d is in force, %d was, %d was loaded (answered: %v)", i+1, now, old, b.serial, loaded)
		}
		if after.Floor < floor || after.Floor < now {
			return fmt.Errorf("kill %d: the floor is %d after %d, in force is %d", i+1, after.Floor, floor, now)
		}
		floor = after.Floor
		if loaded {
			answered++
		}
	}
	rep, err := run.Stop()
	if err != nil {
		return err
	}
	s.figure("kills", "kill -9 during a load", fmt.Sprint(n), "", true)
	s.figure("kills", "then the version before, the new one", fmt.Sprintf("%d, %d", found[0], found[1]), "both", o.short || found[0] > 0 && found[1] > 0)
	s.figure("kills", "whole and ready afterwards, floor not back", fmt.Sprint(found[0]+found[1]), fmt.Sprint(n), found[0]+found[1] == n)
	s.figure("kills", "of the new ones answered before the kill", fmt.Sprint(answered), "", true)
	err = b.stop(ctx)
	s.figure("kills", "journal check, audit verify, identity", holds(err), "", err == nil)
	l := newLedger(a.manners)
	if err := b.records(l.add); err != nil {
		return err
	}
	s.figure("kills", "acknowledged, lost", fmt.Sprintf("%d, %d", rep.Acked, rep.Lost), "0 lost", rep.Lost == 0 && rep.Acked > 0)
	s.verdicts("kills", l)
	return nil
}

// killedIn loads the next version and ends the gate after a time; it starts it again, and returns how the plugin stands and
// whether the load had been answered.
func (b *bed) killedIn(ctx context.Context, wait time.Duration) (after state, loaded bool, err error) {
	done := make(chan error, 1)
	go func() { done <- b.load(ctx, gentle, "", "") }()
	if err := sleep(ctx, wait); err != nil {
		return after, false, errors.Join(err, <-done)
	}
	b.child.Kill()
	b.child = nil
	err = <-done
	if no := (*refusal)(nil); errors.As(err, &no) {
		return after, false, err
	}
	loaded = err == nil
	b.admin.CloseIdleConnections()
	if b.child, err = b.gate.Start(ctx); err != nil {
		return after, loaded, err
	}
	var s states
	if err := b.verb(ctx, &s, "plugin", "ls"); err != nil {
		return after, loaded, err
	}
	if after, err = s.one(); err != nil {
		return after, loaded, err
	}
	for end := time.Now().Add(readyTime); !b.gate.IsReady(ctx); {
		if time.Now().After(end) {
			return after, loaded, errors.New("the gate is not ready in time")
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return after, loaded, err
		}
	}
	return after, loaded, nil
}
