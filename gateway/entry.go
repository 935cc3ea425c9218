package gateway

import "crypto/rand"

// entry makes the journal entry of a decision: the encoded record and every form that waits or is held. The payloads
// are the decision's memory; Journal.Append seals them before it returns.
func (s *VersionSet) entry(d *Decision) (*Entry, error) {
	m := d.Message
	if d.noSalt != nil {
		return nil, d.noSalt
	}
	e := &Entry{ID: m.ID, Source: m.Source, Grade: d.Grade, Retain: m.Retain, QoS: m.QoS, Salt: d.salt}
	r := &d.record
	*r = Record{Kind: DecisionRecord, Time: d.Now, Trusted: d.Trusted, ID: m.ID, Set: s.Number, Source: s.Sources[m.Source],
		Grade: d.Grade, Personal: d.Personal, Sensitive: d.Sensitive, Received: m.Received,
		Input:    Commitment("sluice input v1", &e.Salt, []byte(m.Topic), []byte(m.Client), m.Payload),
		Findings: d.count(s, r.Findings[:0]), Plugins: r.Plugins[:0], Outcomes: r.Outcomes[:0]}
	for i := range d.Opinions {
		o := &d.Opinions[i]
		r.Plugins = append(r.Plugins, PluginOutcome{Plugin: o.Number, Action: o.Action, Grade: o.Grade,
			Reason: o.Reason, Failed: o.Failed != "", Edits: uint16(min(len(o.Edits), 1<<16-1))})
	}
	outlet := make([]int, len(d.Uplinks)) // uplink → index of its outlet
	for u := range d.Uplinks {
		up := &d.Uplinks[u]
		number := s.Uplinks[u].Number
		out := Outcome{Uplink: uint8(number), State: up.State, Action: up.Action, Reason: up.Reason}
		switch up.State {
		case Waiting:
			e.Waits |= 1 << number
			out.Priority = up.Priority
		case Held:
			e.Holds |= 1 << number
		default:
			out.State = Blocked
			e.Blocks |= 1 << number
			r.Outcomes = append(r.Outcomes, out)
			continue
		}
		if up.same >= 0 {
			out.Left = r.Outcomes[up.same].Left
		} else {
			salt := &e.Salt
			if up.salted {
				salt = &up.salt
			}
			out.Left = Commitment("sluice left v1", salt, []byte(up.Topic), up.Payload)
		}
		if up.same >= 0 && d.Uplinks[up.same].Priority == up.Priority {
			outlet[u] = outlet[up.same]
			e.Outlets[outlet[u]].Uplinks |= 1 << number
		} else {
			outlet[u] = len(e.Outlets)
			e.Outlets = append(e.Outlets, Outlet{Uplinks: 1 << number, Hold: up.State == Held, Priority: out.Priority, Topic: up.Topic, Payload: up.Payload})
		}
		r.Outcomes = append(r.Outcomes, out)
	}
	e.Record = AppendRecord(make([]byte, 0, 192+40*len(d.Uplinks)), r)
	return e, nil
}

// drawSalt draws a salt. Random bytes are fetched for many at a time; none is used twice.
func (d *Decision) drawSalt(salt *[16]byte) error {
	if len(d.salts) < len(salt) {
		if d.random == nil {
			d.random = make([]byte, 64*len(salt))
		}
		if _, err := rand.Read(d.random); err != nil {
			return err
		}
		d.salts = d.random
	}
	d.salts = d.salts[copy(salt[:], d.salts):]
	return nil
}

// count sums the findings up by category and by the strictest action over the uplinks.
func (d *Decision) count(s *VersionSet, counts []Counted) []Counted {
	add := func(category uint16, a Action) {
		for i := range counts {
			if counts[i].Category == category && counts[i].Action == a {
				counts[i].Count++
				return
			}
		}
		if len(counts) < maxRecordList {
			counts = append(counts, Counted{category, a, 1})
		}
	}
	for i := range d.Class.Findings {
		add(d.Class.Findings[i].Category, d.ActionOn(i))
	}
	unknown := Remove
	if s.UnknownBlocks {
		unknown = Block
	}
	for range d.Class.Unknown {
		add(s.Classifier.Unlisted(false), unknown)
	}
	return counts
}

// ActionOn is the strictest action over the uplinks on the place of finding i.
func (d *Decision) ActionOn(i int) Action {
	a := Pass
	for u := range d.Uplinks {
		a = Stricter(a, d.Uplinks[u].Final[i])
	}
	if len(d.Uplinks) == 0 {
		a = Block
	}
	return a
}
