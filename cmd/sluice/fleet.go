package main

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/fleet"
	"github.com/sluice-edge/sluice/plugins/bundle"
)

// news is a transition of a plugin's slot that was prepared for a version set: it is kept before the set comes in force, and
// told of afterwards.
type news struct {
	name   string
	slot   fleet.Slot
	with   []fleet.Bundle
	events []fleet.Event
	keep   bool // slot is to be kept; else there is only something to tell
}

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

// openFleet opens the store of plugins.
func (a *assembly) openFleet() (err error) {
	var trust *bundle.Trust
	if a.cfg.Trust != "" {
		trust, _ = bundle.ReadTrust(a.cfg.Trust) // its problems were reported
	}
	a.fleet, a.fleetEvents, err = fleet.Open(filepath.Join(a.cfg.DataDir, "plugins"), fleet.Options{Now: time.Now(),
		Identify: func(b fleet.Bundle) (string, fleet.Version, error) {
			of, err := vouch(b, trust, false)
			if err == nil && of.signer == nil {
				err = errors.New("a module of the program") // which brings it itself
			}
			if err != nil {
				return "", fleet.Version{}, err
			}
			return of.name, of.Version, nil
		}})
	return err
}

// chooser loads for every plugin of a configuration what is to be in force: what its file brings, if that is new, else what
// was in force before. At a start, where something has to be in force, the last good version comes next, and then none:
// messages on its topics take on_error. At a reload what does not load any more refuses the reload, unless its signature
// does not count any more.
func (a *assembly) chooser(in *surroundings, start bool) func(b *built, i int) (place, error) {
	return func(b *built, i int) (place, error) {
		c, slot := &b.cfg.Plugins[i], a.fleet.Slot(b.cfg.Plugins[i].Name)
		cats := b.set.Classifier.Categories()
		of, err := offerOf(c, b.trust)
		if in.leaveFiles && slot.Active != nil {
			err = fleet.ErrSame
		}
		if err == nil {
			err = slot.May(of.Version, true)
			if old := new(bundle.Refusal); errors.As(err, &old) && old.Reason == bundle.OldSerial && slot.Active != nil {
				in.log.Info("file of a plugin has an older version than the one in force", "plugin", c.Name)
				err = fleet.ErrSame
			}
		}
		if err == nil {
			var f *fitted
			if f, err = in.fit(c, of, cats, false); err == nil {
				next, events, err := slot.Load(c.Name, of.Version, true, nil, in.by)
				if err != nil {
					f.Close()
					return place{}, err
				}
				b.news = append(b.news, news{c.Name, next, []fleet.Bundle{of.Bundle}, loaded(events, f), true})
				return a.besides(in, b, i, next, place{active: f})
			}
		}
		if why := err; !errors.Is(why, fleet.ErrSame) && !errors.Is(why, fleet.ErrRefused) {
			if slot.Active == nil && !start {
				return place{}, why
			}
			b.news = append(b.news, refusedNews(c.Name, of, why, in.by))
			in.log.Error("plugin refused", "plugin", c.Name, "err", why)
		}
		if slot.Active != nil {
			var f *fitted
			if f, err = a.stored(in, b, c, *slot.Active, cats, false); err == nil {
				return a.besides(in, b, i, slot, place{active: f})
			}
			in.log.Error("plugin that was in force does not load", "plugin", c.Name, "err", err)
			if !start && !errors.As(err, new(*bundle.Refusal)) {
				return place{}, err
			}
			if slot.Good != nil {
				why := refusalCode(err)
				f, errGood := a.stored(in, b, c, *slot.Good, cats, false)
				if errGood == nil {
					next, events, err := slot.Fall(c.Name, why)
					if err != nil {
						f.Close()
						return place{}, err
					}
					b.news = append(b.news, news{c.Name, next, nil, loaded(events, f), true})
					return a.besides(in, b, i, next, place{active: f})
				}
				in.log.Error("good version of a plugin does not load", "plugin", c.Name, "err", errGood)
			}
		}
		if of != nil && of.signer == nil && len(of.Module) > 0 && of.Key == "" { // the program's own, when nothing else is left
			if f, errOwn := in.fit(c, of, cats, false); errOwn == nil {
				slot.Active, slot.Good, slot.Pending = nil, nil, nil
				if next, events, errOwn := slot.Load(c.Name, of.Version, true, nil, in.by); errOwn == nil {
					b.news = append(b.news, news{c.Name, next, []fleet.Bundle{of.Bundle}, loaded(events, f), true})
					return place{active: f}, nil
				}
				f.Close()
			}
		}
		why := refusalCode(err)
		in.log.Error("no version of a plugin loads, messages on its topics take on_error", "plugin", c.Name, "err", err)
		b.news = append(b.news, news{name: c.Name, events: []fleet.Event{{Event: "plugin absent", Plugin: c.Name, Why: why, By: in.by}}})
		return place{why: why}, nil
	}
}

// besides adds shadow and canary to a place. One that does not load is left out, which is logged.
func (a *assembly) besides(in *surroundings, b *built, i int, slot fleet.Slot, p place) (place, error) {
	c, cats := &b.cfg.Plugins[i], b.set.Classifier.Categories()
	var err error
	if slot.Shadow != nil {
		if p.shadow, err = a.stored(in, b, c, *slot.Shadow, cats, true); err != nil {
			p.shadow = nil
			in.log.Error("shadow of a plugin does not load", "plugin", c.Name, "err", err)
		}
		p.differs = new(comparison)
	}
	if slot.Canary != nil {
		if p.canary, err = a.stored(in, b, c, slot.Canary.Version, cats, false); err != nil {
			p.canary = nil
			in.log.Error("canary of a plugin does not load", "plugin", c.Name, "err", err)
		}
		p.share = slot.Canary.Share
	}
	return p, nil
}

// stored loads a version that the store has, when its signature still counts.
func (a *assembly) stored(in *surroundings, b *built, c *wasm.PluginConfig, v fleet.Version, cats []gateway.Category, shadow bool) (*fitted, error) {
	bytes, err := a.fleet.Bundle(v)
	if err != nil {
		return nil, err
	}
	of, err := vouch(bytes, b.trust, false)
	if err == nil {
		err = of.fits(c.Name)
	}
	if err != nil {
		return nil, err
	}
	return in.fit(c, of, cats, shadow)
}

// loaded adds to the first event what is known once the version is loaded.
func loaded(events []fleet.Event, f *fitted) []fleet.Event {
	if f != nil {
		last := &events[len(events)-1]
		last.Grants, last.Config = f.Grants(), f.ConfigDigest()
	}
	return events
}

// refusedNews tells of a module that did not come in.
func refusedNews(name string, of *offer, why error, by string) news {
	e := fleet.Event{Event: "plugin refused", Plugin: name, Why: refusalCode(why), By: by}
	if of != nil {
		e.Digest, e.Serial, e.Key = of.Digest, of.Serial, of.Key
		if r := new(bundle.Refusal); e.Key == "" && errors.As(why, &r) {
			e.Key = r.Key
		}
	}
	return news{name: name, events: []fleet.Event{e}}
}

// keepNews keeps what has to be kept before a set comes in force.
func (a *assembly) keepNews(list []news) error {
	for _, n := range list {
		if n.keep {
			if err := a.fleet.Put(n.name, n.slot, n.with...); err != nil {
				return err
			}
		}
	}
	return nil
}

// tellNews puts on the record and in the log what happened to plugins.
func (a *assembly) tellNews(list []news) {
	for _, n := range list {
		a.tellEvents(n.events)
	}
}

func (a *assembly) tellEvents(events []fleet.Event) {
	for _, e := range events {
		a.event(e)
		a.log.Info(e.Event, "plugin", e.Plugin, "digest", short(e.Digest), "reason", e.Why, "by", e.By)
	}
}

func short(digest string) string { return digest[:min(12, len(digest))] }

// put brings a set in force and notes it; probation is nil for one that is not tried.
func (a *assembly) put(next *built, limits *gateway.Limits, tripped func(why string, d gateway.Delta)) (p *gateway.Probation) {
	a.now.Store(next)
	if limits != nil {
		p = a.gateway.Try(next.set, *limits, tripped)
	} else {
		a.gateway.Swap(next.set)
	}
	a.notePlugins(next)
	return p
}

// notePlugins shows in the metrics which plugins are in force.
func (a *assembly) notePlugins(b *built) {
	for i := range b.places {
		p, name := &b.places[i], b.cfg.Plugins[i].Name
		if p.active != nil {
			a.metrics.Plugin(name, p.active.Version(), p.active.of.Digest)
		}
		a.metrics.Struck(name, p.active == nil || p.active.struck.Load())
	}
}

// hinted is an error with what to do about it.
type hinted struct {
	error
	hint string
}

// Hint says what to do.
func (h hinted) Hint() string  { return h.hint }
func (h hinted) Unwrap() error { return h.error }

// at finds a plugin of the configuration.
func (b *built) at(name string) (int, error) {
	for i := range b.cfg.Plugins {
		if b.cfg.Plugins[i].Name == name {
			return i, nil
		}
	}
	names := pluginNames(b.cfg)
	return 0, hinted{fmt.Errorf("no plugin %q is configured", name),
		nearOr(name, names, "a plugin is loaded into an entry under plugins, which says its topics and grants; have: "+cmp.Or(strings.Join(names, ", "), "none"))}
}

// explainRefusal adds to errors of the fleet what to do.
func explainRefusal(name string, err error) error {
	var r *bundle.Refusal
	switch {
	case errors.Is(err, fleet.ErrPending):
		return hinted{err, "sluice plugin confirm " + name + ", or sluice plugin rollback " + name}
	case errors.Is(err, fleet.ErrNoGood):
		return hinted{err, "sluice plugin load " + name + " FILE.wasm loads another version"}
	case errors.Is(err, fleet.ErrNoShadow):
		return hinted{err, "sluice plugin shadow " + name + " FILE.wasm starts one"}
	case errors.Is(err, fleet.ErrNoPending):
		return hinted{err, "sluice plugin load " + name + " FILE.wasm --confirm 10m starts a probation"}
	case errors.As(err, &r):
		return hinted{err, r.Hint()}
	}
	return err
}

// refuse puts on the record that a module did not come in.
func (a *assembly) refuse(name string, of *offer, why error, by string) error {
	a.tellNews([]news{refusedNews(name, of, why, by)})
	return explainRefusal(name, why)
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

// Bounds of a probation.
const (
	leastConfirm = time.Second
	mostConfirm  = 7 * 24 * time.Hour
)

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

// Ways in which a module comes in.
const (
	inForce = ""
	shadow  = "shadow"
	canary  = "canary"
)

// loadPlugin takes a module in: signature, manifest, serial, compile, configure; then it is kept, then in force. After an
// error what was in force stays.
func (a *assembly) loadPlugin(name string, module fleet.Bundle, as string, share float64, want probationOf, byItself bool, by string) (*pluginAnswer, error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	b := a.now.Load()
	i, err := b.at(name)
	if err != nil {
		return nil, a.refuse("", nil, &moduleError{"not_configured", err}, by)
	}
	if err := a.busy(); err != nil {
		return nil, err
	}
	began, slot := time.Now(), a.fleet.Slot(name)
	of, err := vouch(module, b.trust, true)
	if err == nil {
		err = of.fits(name)
	}
	if err == nil {
		err = slot.May(of.Version, byItself)
	}
	if byItself && (errors.Is(err, fleet.ErrSame) || errors.Is(err, fleet.ErrRefused)) {
		return nil, err // nothing new
	}
	if err != nil {
		return nil, a.refuse(name, of, err, by)
	}
	in := a.surroundings(b.cfg, by)
	f, err := in.fit(&b.cfg.Plugins[i], of, b.set.Classifier.Categories(), as == shadow)
	if err != nil {
		return nil, a.refuse(name, of, err, by)
	}
	var next fleet.Slot
	var events []fleet.Event
	p := b.places[i]
	switch as {
	case shadow:
		next, events, err = slot.StartShadow(name, of.Version, by)
		p.shadow, p.differs = f, new(comparison)
	case canary:
		next, events, err = slot.StartCanary(name, of.Version, share, by)
		p.canary, p.share = f, share
	default:
		next, events, err = slot.Load(name, of.Version, byItself, want.pending(time.Now()), by)
		p.active, p.why = f, ""
		p = p.trim(next)
	}
	if err == nil {
		err = a.fleet.Put(name, next, of.Bundle)
	}
	if err != nil {
		f.Close()
		return nil, a.refuse(name, of, err, by)
	}
	set := a.exchange(b, i, p, as, want, by)
	a.tellEvents(loaded(events, f))
	return &pluginAnswer{Name: name, State: cmp.Or(as, "in force"), version: versionOf(f), Set: set, Until: untilText(next.Pending), Milliseconds: time.Since(began).Milliseconds()}, nil
}

// trim drops shadow and canary that the slot does not have any more.
func (p place) trim(slot fleet.Slot) place {
	if slot.Shadow == nil {
		p.shadow, p.differs = nil, nil
	}
	if slot.Canary == nil {
		p.canary, p.share = nil, 0
	}
	return p
}

// exchange brings the set with another place in force, and returns its number.
func (a *assembly) exchange(b *built, i int, p place, as string, want probationOf, by string) uint64 {
	next := b.with(i, p, a.journal.Size()+1, by)
	if as != inForce || want.confirm == 0 {
		a.put(next, nil, nil)
		return next.set.Number
	}
	t := &trying{before: b, plugin: b.cfg.Plugins[i].Name}
	a.try(next, t, want)
	return next.set.Number
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

// confirmPlugin ends a probation for good.
func (a *assembly) confirmPlugin(name, by string) (*pluginAnswer, error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	b := a.now.Load()
	i, err := b.at(name)
	if err != nil {
		return nil, err
	}
	slot, events, err := a.fleet.Slot(name).Confirm(name, by)
	if err == nil && (a.trial == nil || a.trial.plugin != name) {
		err = fleet.ErrNoPending
	}
	if err != nil {
		return nil, explainRefusal(name, err)
	}
	if err := a.fleet.Put(name, slot); err != nil {
		return nil, err
	}
	a.keepTrial()
	a.tellEvents(events)
	return &pluginAnswer{Name: name, State: "in force", version: versionOf(b.places[i].active), Set: b.set.Number}, nil
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

// rollbackPlugin goes back to what was in force before.
func (a *assembly) rollbackPlugin(name, by string) (*pluginAnswer, error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	b := a.now.Load()
	i, err := b.at(name)
	if err != nil {
		return nil, err
	}
	if t := a.trial; t != nil && t.plugin == name {
		if err := a.back(fleet.Operator, by); err != nil {
			return nil, err
		}
		b = a.now.Load()
		return &pluginAnswer{Name: name, State: "in force", version: versionOf(b.places[i].active), Set: a.gateway.Set().Number}, nil
	}
	if err := a.busy(); err != nil {
		return nil, err
	}
	slot, events, err := a.fleet.Slot(name).Rollback(name, fleet.Operator, by)
	if err != nil {
		return nil, explainRefusal(name, err)
	}
	return a.goTo(b, i, slot, events, by)
}

// goTo loads what a slot has in force from the store, keeps the slot and brings it in force.
func (a *assembly) goTo(b *built, i int, slot fleet.Slot, events []fleet.Event, by string) (*pluginAnswer, error) {
	c := &b.cfg.Plugins[i]
	if slot.Active == nil {
		return nil, explainRefusal(c.Name, fleet.ErrNoGood)
	}
	in := a.surroundings(b.cfg, by)
	f, err := a.stored(&in, b, c, *slot.Active, b.set.Classifier.Categories(), false)
	if err != nil {
		return nil, explainRefusal(c.Name, fmt.Errorf("go back: %w", err))
	}
	if err := a.fleet.Put(c.Name, slot); err != nil {
		f.Close()
		return nil, err
	}
	p := b.places[i]
	p.active, p.why = f, ""
	set := a.exchange(b, i, p.trim(slot), inForce, probationOf{}, by)
	a.tellEvents(loaded(events, f))
	return &pluginAnswer{Name: c.Name, State: "in force", version: versionOf(f), Set: set}, nil
}

// promotePlugin brings the canary, else the shadow, in force. It is loaded again: a shadow is told that it is one.
func (a *assembly) promotePlugin(name string, want probationOf, by string) (*pluginAnswer, error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	b := a.now.Load()
	i, err := b.at(name)
	if err != nil {
		return nil, err
	}
	if err := a.busy(); err != nil {
		return nil, err
	}
	slot, events, err := a.fleet.Slot(name).Promote(name, want.pending(time.Now()), by)
	if err != nil {
		return nil, explainRefusal(name, err)
	}
	in := a.surroundings(b.cfg, by)
	f, err := a.stored(&in, b, &b.cfg.Plugins[i], *slot.Active, b.set.Classifier.Categories(), false)
	if err != nil {
		return nil, explainRefusal(name, err)
	}
	if err := a.fleet.Put(name, slot); err != nil {
		f.Close()
		return nil, err
	}
	p := b.places[i]
	p.active, p.why = f, ""
	set := a.exchange(b, i, p.trim(slot), inForce, want, by)
	a.tellEvents(loaded(events, f))
	return &pluginAnswer{Name: name, State: "in force", version: versionOf(f), Set: set, Until: untilText(slot.Pending)}, nil
}

// removeShadow ends shadow and canary.
func (a *assembly) removeShadow(name, by string) (*pluginAnswer, error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	b := a.now.Load()
	i, err := b.at(name)
	if err != nil {
		return nil, err
	}
	if err := a.busy(); err != nil {
		return nil, err
	}
	slot := a.fleet.Slot(name)
	var events []fleet.Event
	for _, end := range []func(fleet.Slot, string, string, string) (fleet.Slot, []fleet.Event, error){fleet.Slot.EndShadow, fleet.Slot.EndCanary} {
		if next, e, err := end(slot, name, fleet.Operator, by); err == nil {
			slot, events = next, append(events, e...)
		}
	}
	if events == nil {
		return nil, explainRefusal(name, fleet.ErrNoShadow)
	}
	if err := a.fleet.Put(name, slot); err != nil {
		return nil, err
	}
	set := a.exchange(b, i, b.places[i].trim(slot), inForce, probationOf{}, by)
	a.tellEvents(events)
	return &pluginAnswer{Name: name, State: "in force", version: versionOf(b.places[i].active), Set: set}, nil
}

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
		_, err := a.goTo(b, i, next, events, "gateway")
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

// stopTrial ends a probation with the process: the next start goes back.
func (a *assembly) stopTrial() {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	if a.trial != nil {
		a.trial.timer.Stop()
		a.trial = nil
	}
}

// maxCases bounds the differing cases that are kept of a shadow.
const maxCases = 64

// comparison counts what a shadow says otherwise than the version in force.
type comparison struct {
	mu       sync.Mutex // guards what follows
	compared uint64
	differed uint64
	cases    []differing // the last ones, as a ring
}

// differing is one message on which they differ: no value of it, only what the record has too.
type differing struct {
	ID      string `json:"id"`
	Input   string `json:"input"` // salted digest of the message, as in its record
	InForce string `json:"in_force"`
	Shadow  string `json:"shadow"`
}

// note compares two opinions of one message.
func (c *comparison) note(m *gateway.Message, input [32]byte, active, shadow *gateway.FilterOpinion) {
	same := active.Failed == shadow.Failed && active.Action == shadow.Action && active.Grade == shadow.Grade &&
		slices.Equal(active.Labels, shadow.Labels) && slices.Equal(active.Edits, shadow.Edits)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compared++
	if same {
		return
	}
	d := differing{m.ID.String(), fmt.Sprintf("%x", input), verdictText(active), verdictText(shadow)}
	if len(c.cases) < maxCases {
		c.cases = append(c.cases, d)
	} else {
		c.cases[c.differed%maxCases] = d
	}
	c.differed++
}

// verdictText writes what a version said, without a word of its own.
func verdictText(o *gateway.FilterOpinion) string {
	if o.Failed != "" {
		return "failed: " + o.Failed
	}
	s := o.Action.String()
	if o.Grade != gateway.Ungraded {
		s += ", grade " + o.Grade.String()
	}
	if n := len(o.Labels); n > 0 {
		s += ", " + count(n, "label")
	}
	if n := len(o.Edits); n > 0 {
		s += ", " + count(n, "edit")
	}
	if o.Reason != 0 {
		s += fmt.Sprintf(", reason %d", o.Reason)
	}
	return s
}

// report is what was compared, the oldest case first.
func (c *comparison) report() (compared, differed uint64, cases []differing) {
	if c == nil {
		return 0, 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cases = slices.Clone(c.cases)
	if len(cases) == maxCases {
		at := int(c.differed % maxCases)
		cases = slices.Concat(cases[at:], cases[:at])
	}
	return c.compared, c.differed, cases
}
