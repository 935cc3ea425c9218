// Package fleet keeps which version of each plugin is in force, and brings every version in and out: load, confirm,
// promote, roll back. It knows bundles as files with a digest, a serial and a key; what is in them, who signed them and
// whether they load is the caller's to find out before.
//
// # Slots
//
// A plugin of the configuration has one slot. Its transitions are methods of Slot: the slot as it is afterwards, and what
// goes on the record. They never change a slot in place, and a transition that is refused returns an error and nothing
// else.
//
//	Load      another version in force; with a Pending it is on probation
//	Confirm   the probation is over, what was in force before is the good version
//	Rollback  back to what was before the probation, else to the good version; what was in force is refused from now on
//	Shadow    a version that judges and is not obeyed; Canary: one that is obeyed for a share of the devices
//	Promote   the canary or the shadow comes in force
//
// Serials only rise (bundle.CheckSerial): Floor is the highest that was ever in force, whatever was rolled back since. A
// rollback goes only to what the store itself holds. A digest that is refused comes back when a person loads it, never by
// itself from a file.
//
// # Folder
//
//	DIGEST.wasm  module, named by its SHA-256
//	DIGEST.sig   its signature file; absent for a module that the program knows by digest
//	set.json     {"v":1,"sum":"SHA-256 of slots as written","slots":{NAME:{…}}}
//
// Every file is written under another name, synced, renamed, and the folder synced. Bundles come before the set.json that
// names them, and those that nothing names are removed after it: whenever the process or the power ends, the next Open
// finds the set before or the set after, with every bundle of it. A set.json that is damaged is set aside under a name
// with the time, and made anew of the bundles: per plugin the highest serial, which is also the floor. A probation that
// was not confirmed before the process ended is rolled back by Open.
//
// # Goroutines
//
// None. A Store is safe for concurrent use; transitions wait for each other and for the disk.
package fleet

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-edge/sluice/plugins/bundle"
)

// Version is one version of a plugin, as its bundle says and its signature vouches for.
type Version struct {
	Digest string `json:"digest"`        // SHA-256 of the module, hexadecimal
	Serial uint64 `json:"serial"`        //
	Key    string `json:"key,omitempty"` // who signed it; empty: the program knows it by digest
}

// Slot is what is kept of one plugin. It is a value: transitions return another one and share what did not change.
type Slot struct {
	Active  *Version  `json:"active,omitempty"`  // in force
	Good    *Version  `json:"good,omitempty"`    // what a rollback goes to
	Floor   uint64    `json:"floor"`             // highest serial that was ever in force
	Top     string    `json:"top,omitempty"`     // digest that had it
	Refused []Refused `json:"refused,omitempty"` // what does not come back by itself, the oldest first
	Shadow  *Version  `json:"shadow,omitempty"`  // judges, is not obeyed
	Canary  *Canary   `json:"canary,omitempty"`  // is obeyed for some devices
	Pending *Pending  `json:"pending,omitempty"` // Active is on probation
}

// Refused is a version that went for a reason.
type Refused struct {
	Digest string `json:"digest"`
	Why    string `json:"why"` // struck, tripped, unconfirmed, restarted, operator, or the code of a failure to load
}

// Canary is a version that judges a share of the devices.
type Canary struct {
	Version
	Share float64 `json:"share"` // over 0, below 1
}

// Pending says what ends a probation.
type Pending struct {
	Previous   *Version  `json:"previous,omitempty"` // in force before; nil: nothing was
	Until      time.Time `json:"until"`
	MaxDelta   float64   `json:"max_delta,omitempty"`
	MaxLatency float64   `json:"max_latency,omitempty"`
	By         string    `json:"by"`
}

// Event is what goes on the record about a plugin. Nothing in it is chosen by a device or a plugin.
type Event struct {
	Event  string   `json:"event"`
	Plugin string   `json:"plugin,omitempty"`
	Digest string   `json:"digest,omitempty"`
	Serial uint64   `json:"serial,omitempty"`
	Key    string   `json:"key,omitempty"`
	From   string   `json:"from,omitempty"` // digest of what was in force before
	Why    string   `json:"why,omitempty"`  // a code
	Share  float64  `json:"share,omitempty"`
	Until  string   `json:"until,omitempty"`
	Count  int      `json:"count,omitempty"`
	Grants []string `json:"grants,omitempty"` // in effect; set by who loads
	Config string   `json:"config_digest,omitempty"`
	By     string   `json:"by,omitempty"`
}

// Why a version went.
const (
	Struck      = "struck"      // three instances lost within a minute
	Tripped     = "tripped"     // on probation the mix of actions, edits or the time taken moved too far
	Unconfirmed = "unconfirmed" // nobody confirmed it in time
	Restarted   = "restarted"   // the process ended before it was confirmed
	Operator    = "operator"    // a person wanted it
)

// maxRefused bounds what is kept of refused versions.
const maxRefused = 64

// Errors of transitions, which a caller tells people how to go on from.
var (
	ErrPending   = errors.New("a version is on probation")
	ErrNoPending = errors.New("nothing waits to be confirmed")
	ErrNoGood    = errors.New("there is no version to go back to")
	ErrNoShadow  = errors.New("it has no shadow and no canary")
	ErrRefused   = errors.New("this version was in force before and went for a reason")
	ErrSame      = errors.New("this version is in force already")
)

// event begins an event about a version.
func event(what, name string, v *Version, by string) Event {
	e := Event{Event: what, Plugin: name, By: by}
	if v != nil {
		e.Digest, e.Serial, e.Key = v.Digest, v.Serial, v.Key
	}
	return e
}

func digestOf(v *Version) string {
	if v == nil {
		return ""
	}
	return v.Digest
}

// WhyRefused is the reason for which a digest does not come back by itself, "" when it may.
func (s Slot) WhyRefused(digest string) string {
	for _, r := range s.Refused {
		if r.Digest == digest {
			return r.Why
		}
	}
	return ""
}

// refuse returns the list with a digest more.
func (s Slot) refuse(digest, why string) []Refused {
	list := append(s.without(digest), Refused{digest, why})
	return list[max(0, len(list)-maxRefused):]
}

// without returns a copy of the list with a digest less.
func (s Slot) without(digest string) []Refused {
	return slices.DeleteFunc(slices.Clone(s.Refused), func(r Refused) bool { return r.Digest == digest })
}

// May says whether a version may come in, before anything expensive is done with it. By itself, from a file, only what
// is new: a serial over the floor, and nothing that is refused. Errors are ErrPending, ErrRefused, ErrSame and
// *bundle.Refusal.
func (s Slot) May(v Version, byItself bool) error {
	switch {
	case s.Pending != nil:
		return ErrPending
	case s.Active != nil && s.Active.Digest == v.Digest:
		return ErrSame
	case byItself && s.WhyRefused(v.Digest) != "":
		return fmt.Errorf("%w (%s)", ErrRefused, s.WhyRefused(v.Digest))
	}
	return bundle.CheckSerial(s.Floor, s.Top, v.Serial, v.Digest)
}

// Load brings a version in force. A Pending puts it on probation; its Previous is set here. The program's own module may
// come with any serial when nothing is in force.
func (s Slot) Load(name string, v Version, byItself bool, p *Pending, by string) (Slot, []Event, error) {
	if err := s.May(v, byItself); err != nil && !(s.Active == nil && s.Pending == nil && v.Key == "") {
		return s, nil, err
	}
	e := event("plugin loaded", name, &v, by)
	e.From = digestOf(s.Active)
	next := s
	next.Active = &v
	if v.Serial >= s.Floor {
		next.Floor, next.Top = v.Serial, v.Digest
	}
	if p != nil {
		next.Pending = &Pending{Previous: s.Active, Until: p.Until.UTC().Truncate(time.Second), MaxDelta: p.MaxDelta, MaxLatency: p.MaxLatency, By: by}
		e.Until = next.Pending.Until.Format(time.RFC3339)
	} else {
		next.Good = s.good(s.Active)
	}
	next.Refused = s.without(v.Digest)
	if next.Good != nil && next.Good.Digest == v.Digest {
		next.Good = nil
	}
	return next.dropTrials(v.Digest), []Event{e}, nil
}

// good is what stays to go back to when a version goes in the ordinary way: itself, unless it is refused.
func (s Slot) good(v *Version) *Version {
	if v == nil || s.WhyRefused(v.Digest) != "" {
		return s.Good
	}
	return v
}

// dropTrials ends the shadow or canary that has the digest.
func (s Slot) dropTrials(digest string) Slot {
	if s.Shadow != nil && s.Shadow.Digest == digest {
		s.Shadow = nil
	}
	if s.Canary != nil && s.Canary.Digest == digest {
		s.Canary = nil
	}
	return s
}

// Confirm ends the probation for good.
func (s Slot) Confirm(name, by string) (Slot, []Event, error) {
	if s.Pending == nil {
		return s, nil, ErrNoPending
	}
	next := s
	next.Good, next.Pending = s.good(s.Pending.Previous), nil
	return next, []Event{event("plugin confirmed", name, s.Active, by)}, nil
}

// Rollback goes back to what was in force before the probation, else to the good version. ErrNoGood: there is none, and
// nothing changes.
func (s Slot) Rollback(name, why, by string) (Slot, []Event, error) {
	next := s
	switch {
	case s.Pending != nil:
		next.Active, next.Pending = s.Pending.Previous, nil
	case s.Good != nil:
		next.Active, next.Good = s.Good, nil
	default:
		return s, nil, ErrNoGood
	}
	if s.Active != nil {
		next.Refused = s.refuse(s.Active.Digest, why)
	}
	if next.Good != nil && next.Active != nil && next.Good.Digest == next.Active.Digest {
		next.Good = nil
	}
	e := event("plugin rolled back", name, next.Active, by)
	e.From, e.Why = digestOf(s.Active), why
	return next, []Event{e}, nil
}

// Strike says that the version in force is struck: it goes to where Rollback would, or stays as it is and is refused from
// now on: no later version goes back to it.
func (s Slot) Strike(name string) (next Slot, events []Event, back bool) {
	struck := event("plugin struck", name, s.Active, "gateway")
	if next, events, err := s.Rollback(name, Struck, "gateway"); err == nil && next.Active != nil {
		return next, append([]Event{struck}, events...), true
	}
	next = s
	if s.Active != nil {
		next.Refused = s.refuse(s.Active.Digest, Struck)
	}
	return next, []Event{struck}, false
}

// StartShadow lets a version judge without being obeyed. One that shadowed before goes.
func (s Slot) StartShadow(name string, v Version, by string) (Slot, []Event, error) {
	if err := s.May(v, false); err != nil {
		return s, nil, err
	}
	next := s
	next.Shadow = &v
	return next, []Event{event("plugin shadow started", name, &v, by)}, nil
}

// StartCanary lets a version judge a share of the devices. One that did before goes.
func (s Slot) StartCanary(name string, v Version, share float64, by string) (Slot, []Event, error) {
	if !(share > 0 && share < 1) {
		return s, nil, errors.New("share of a canary is not between 0% and 100%")
	}
	if err := s.May(v, false); err != nil {
		return s, nil, err
	}
	next := s
	next.Canary = &Canary{Version: v, Share: share}
	e := event("plugin canary started", name, &v, by)
	e.Share = share
	return next, []Event{e}, nil
}

// EndShadow ends the shadow.
func (s Slot) EndShadow(name, why, by string) (Slot, []Event, error) {
	if s.Shadow == nil {
		return s, nil, ErrNoShadow
	}
	e := event("plugin shadow ended", name, s.Shadow, by)
	return s.end(s.Shadow.Digest, why), []Event{withWhy(e, why)}, nil
}

// EndCanary ends the canary: its devices go back to the version in force.
func (s Slot) EndCanary(name, why, by string) (Slot, []Event, error) {
	if s.Canary == nil {
		return s, nil, ErrNoShadow
	}
	e := event("plugin canary ended", name, &s.Canary.Version, by)
	return s.end(s.Canary.Digest, why), []Event{withWhy(e, why)}, nil
}

// end drops a version on trial; a struck one is refused from now on.
func (s Slot) end(digest, why string) Slot {
	if why == Struck {
		s.Refused = s.refuse(digest, why)
	}
	return s.dropTrials(digest)
}

func withWhy(e Event, why string) Event {
	e.Why = why
	return e
}

// Candidate is the version that Promote would bring in force: the canary, else the shadow; nil: neither is there.
func (s Slot) Candidate() *Version {
	if s.Canary != nil {
		return &s.Canary.Version
	}
	return s.Shadow
}

// Promote brings the canary, else the shadow, in force, as Load does.
func (s Slot) Promote(name string, p *Pending, by string) (Slot, []Event, error) {
	v := s.Candidate()
	if v == nil {
		return s, nil, ErrNoShadow
	}
	next, events, err := s.Load(name, *v, false, p, by)
	if err != nil {
		return s, nil, err
	}
	events[0].Event = "plugin promoted"
	return next, events, nil
}

// Fall goes from a version that does not load at a start to the good one, which does. why is the code of the failure.
func (s Slot) Fall(name, why string) (Slot, []Event, error) { return s.Rollback(name, why, "gateway") }

// Strikes of a version: three within a minute are enough. The zero value has none.
type Strikes struct{ last [2]time.Duration }

// Within is the time in which the third strike counts.
const Within = time.Minute

// Add notes a strike at a time since some beginning, and reports whether it is the third within a minute.
func (s *Strikes) Add(at time.Duration) bool {
	at += 1 << 62 // so that nothing is not a strike at the beginning
	third := s.last[0] != 0 && at-s.last[0] <= Within
	s.last[0], s.last[1] = s.last[1], at
	return third
}
