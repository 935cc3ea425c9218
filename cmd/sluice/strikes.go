package main

import (
	"time"

	"github.com/sluice-edge/sluice/gateway/fleet"
)

// struckEvery is how often the loss of instances of one version is put on the record, with their number.
const struckEvery = time.Minute

// onStrike is told of a lost instance, in the middle of a decision: what is to be done waits for nobody there.
func (a *assembly) onStrike(f *fitted, code string, third bool) {
	f.mu.Lock()
	f.lost++
	due := f.toldAt == 0 || third || time.Since(started)-f.toldAt >= struckEvery
	n := f.lost
	if due {
		f.lost, f.toldAt = 0, time.Since(started)
	}
	f.mu.Unlock()
	if !due {
		return
	}
	a.others.Go(func() {
		a.log.Error("plugin lost instances", "plugin", f.Name(), "err", code, "count", n)
		a.event(fleet.Event{Event: "plugin lost instances", Plugin: f.Name(), Digest: f.of.Digest, Serial: f.of.Serial, Key: f.of.Key, Why: code, Count: n, By: "gateway"})
		if third {
			a.outOfService(f)
		}
	})
}

// outOfService goes on from a version that was struck: a shadow or canary ends; from one in force the plugin goes back to
// the last good one. Where there is none, it stays out of service, and messages on its topics take on_error.
func (a *assembly) outOfService(f *fitted) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	b := a.now.Load()
	name := f.Name()
	i, err := b.at(name)
	if err != nil {
		return
	}
	if p := &b.places[i]; a.trial != nil && (p.active == f || p.canary == f) {
		own := a.trial.plugin == name && p.active == f
		if err := a.back(fleet.Struck, "gateway"); err != nil {
			a.log.Error("roll back", "plugin", name, "err", err)
		}
		if own {
			return
		}
		b = a.now.Load()
		if i, err = b.at(name); err != nil {
			return
		}
	}
	if a.trial != nil { // a shadow: it has no effect, and answers nothing any more
		return
	}
	slot, p := a.fleet.Slot(name), b.places[i]
	var events []fleet.Event
	switch f {
	case p.shadow:
		slot, events, err = slot.EndShadow(name, fleet.Struck, "gateway")
	case p.canary:
		slot, events, err = slot.EndCanary(name, fleet.Struck, "gateway")
	case p.active:
		a.strikeActive(b, i, slot)
		return
	default:
		return // no longer in force
	}
	if err == nil {
		err = a.fleet.Put(name, slot)
	}
	if err != nil {
		a.log.Error("end shadow or canary", "plugin", name, "err", err)
		return
	}
	a.exchange(b, i, p.trim(slot), inForce, probationOf{}, "gateway")
	a.tellEvents(events)
}

// strikeActive goes back from a version in force, if it can.
func (a *assembly) strikeActive(b *built, i int, slot fleet.Slot) {
	name := b.cfg.Plugins[i].Name
	next, events, good := slot.Strike(name)
	if good {
		_, err := a.goTo(b, i, next, events, probationOf{}, "gateway")
		if err == nil {
			return
		}
		a.log.Error("go back to the good version", "plugin", name, "err", err)
		events = events[:1]
		next = slot
	}
	a.metrics.Struck(name, true)
	a.tellEvents(events)
	a.log.Error("plugin is out of service, messages on its topics take on_error", "plugin", name)
	if err := a.fleet.Put(name, next); err != nil {
		a.log.Error("keep that a plugin was struck", "plugin", name, "err", err)
	}
}
