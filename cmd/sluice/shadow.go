package main

import (
	"fmt"
	"slices"
	"sync"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/fleet"
)

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
