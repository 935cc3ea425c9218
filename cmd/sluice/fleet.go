package main

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
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

// Bounds of a probation.
const (
	leastConfirm = time.Second
	mostConfirm  = 7 * 24 * time.Hour
)

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
	return a.goTo(b, i, slot, events, probationOf{}, by)
}

// goTo loads what a slot has in force from the store, keeps the slot and brings it in force.
func (a *assembly) goTo(b *built, i int, slot fleet.Slot, events []fleet.Event, want probationOf, by string) (*pluginAnswer, error) {
	c := &b.cfg.Plugins[i]
	if slot.Active == nil {
		return nil, explainRefusal(c.Name, fleet.ErrNoGood)
	}
	in := a.surroundings(b.cfg, by)
	f, err := a.stored(&in, b, c, *slot.Active, b.set.Classifier.Categories(), false)
	if err != nil {
		return nil, explainRefusal(c.Name, fmt.Errorf("load the stored version: %w", err))
	}
	if err := a.fleet.Put(c.Name, slot); err != nil {
		f.Close()
		return nil, err
	}
	p := b.places[i]
	p.active, p.why = f, ""
	set := a.exchange(b, i, p.trim(slot), inForce, want, by)
	a.tellEvents(loaded(events, f))
	return &pluginAnswer{Name: c.Name, State: "in force", version: versionOf(f), Set: set, Until: untilText(slot.Pending)}, nil
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
	return a.goTo(b, i, slot, events, want, by)
}
