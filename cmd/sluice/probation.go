package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/fleet"
)

// trying is a change that waits for its confirmation.
type trying struct {
	probation *gateway.Probation
	before    *built
	plugin    string // "" for a configuration
	until     time.Time
	timer     *time.Timer
	undo      func() error // of a configuration: what there is to go back on beside the set
	keep      func() error // of a configuration: makes it the confirmed one
}

// busy reports what waits for a confirmation: nothing else may change meanwhile.
func (a *assembly) busy() error {
	switch t := a.trial; {
	case t == nil:
		return nil
	case t.plugin != "":
		return hinted{fmt.Errorf("plugin %q: %w", t.plugin, fleet.ErrPending), "sluice plugin confirm " + t.plugin + ", or sluice plugin rollback " + t.plugin}
	}
	return hinted{errors.New("a configuration waits for its confirmation"), "sluice reload --keep, or sluice reload --back"}
}

// probationOf is what a caller wants of a probation; the zero value wants none.
type probationOf struct {
	confirm    time.Duration
	maxDelta   float64 // 0: no bound
	maxLatency float64
}

func (w *probationOf) limits() *gateway.Limits {
	if w.confirm == 0 {
		return nil
	}
	l := &gateway.Limits{Changed: w.maxDelta, Slower: w.maxLatency}
	if l.Changed == 0 {
		l.Changed = 1
	}
	return l
}

func (w *probationOf) pending(now time.Time) *fleet.Pending {
	if w.confirm == 0 {
		return nil
	}
	return &fleet.Pending{Until: now.Add(w.confirm), MaxDelta: w.maxDelta, MaxLatency: w.maxLatency}
}

// try puts a set on probation.
func (a *assembly) try(next *built, t *trying, want probationOf) {
	t.until = time.Now().Add(want.confirm)
	a.trial = t
	t.timer = time.AfterFunc(want.confirm, func() { a.endTrial(t, fleet.Unconfirmed, nil) })
	t.probation = a.put(next, want.limits(), func(why string, d gateway.Delta) {
		a.others.Go(func() { a.endTrial(t, fleet.Tripped, &tripped{why, d}) }) // the caller decides a message: it must not wait
	})
	a.shown.Store(t)
}

// tripped says how far a set moved.
type tripped struct {
	what  string
	delta gateway.Delta
}

// endTrial goes back from what is on probation, unless it ended in the meantime.
func (a *assembly) endTrial(t *trying, why string, moved *tripped) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	if a.trial != t {
		return
	}
	if moved != nil {
		a.event(struct {
			Event  string        `json:"event"`
			Plugin string        `json:"plugin,omitempty"`
			What   string        `json:"what"`
			Delta  gateway.Delta `json:"delta"`
		}{"probation tripped", t.plugin, moved.what, moved.delta})
	}
	if err := a.back(why, "gateway"); err != nil {
		a.log.Error("roll back", "plugin", t.plugin, "err", err)
	}
}

// back ends the probation by going back: first in memory, then in the store, which does so by itself at the next start.
// Callers hold reloading.
func (a *assembly) back(why, by string) error {
	t := a.trial
	a.trial = nil
	a.shown.Store(nil)
	t.timer.Stop()
	a.now.Store(t.before)
	if err := t.probation.Back(a.journal.Size()+1, by); err != nil {
		a.log.Error("probation was over", "err", err)
	}
	a.notePlugins(t.before)
	if t.plugin == "" {
		a.event(fleet.Event{Event: "configuration rolled back", Why: why, By: by})
		a.log.Warn("configuration rolled back", "reason", why, "by", by)
		if t.undo != nil {
			return t.undo()
		}
		return nil
	}
	slot, events, err := a.fleet.Slot(t.plugin).Rollback(t.plugin, why, by)
	if err != nil {
		return err
	}
	a.tellEvents(events)
	return a.fleet.Put(t.plugin, slot)
}

// keepTrial ends the probation by keeping what is in force.
func (a *assembly) keepTrial() {
	t := a.trial
	a.trial = nil
	a.shown.Store(nil)
	t.timer.Stop()
	if err := t.probation.Keep(); err != nil {
		a.log.Error("probation was over", "err", err)
	}
}

// stopTrial ends a probation with the process: the next start goes back.
func (a *assembly) stopTrial() {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	if a.trial != nil {
		a.trial.timer.Stop()
		a.trial = nil
	}
}
