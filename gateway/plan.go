package gateway

import (
	"slices"
	"strings"
)

// gradesFor computes the merged grade of every finding for uplink u.
func (s *VersionSet) gradesFor(d *Decision, u int) []Grade {
	findings := d.Class.Findings
	d.w.grades = grow(d.w.grades, len(findings))
	floor := d.floor(s, u)
	for i := range findings {
		d.w.grades[i] = findings[i].Grade
		if floor != Ungraded {
			d.w.grades[i] = Highest(d.w.grades[i], floor)
		}
	}
	for i := range d.Opinions {
		o := &d.Opinions[i]
		if !s.Filters[o.Filter].on(u) {
			continue
		}
		for _, e := range o.Edits {
			if e.Regrade != Ungraded && int(e.Finding) < len(findings) {
				d.w.grades[e.Finding] = Highest(d.w.grades[e.Finding], e.Regrade)
			}
		}
	}
	for i := range findings { // two halves of one position have one grade
		if p := findings[i].Pair; p >= 0 && int(p) < len(findings) {
			g := Highest(d.w.grades[i], d.w.grades[p])
			d.w.grades[i], d.w.grades[p] = g, g
		}
	}
	return d.w.grades
}

// plan joins policy and filters for uplink u: what acts on the message, what is done to which place.
func (s *VersionSet) plan(d *Decision, u int) {
	up := &d.Uplinks[u]
	findings := d.Class.Findings
	*up = UplinkDecision{Action: Pass, Rulings: grow(up.Rulings, len(findings)), Final: grow(up.Final, len(findings)),
		steps: up.steps[:0], whole: plain(Pass), levels: up.levels[:0], same: -1}
	grades := s.gradesFor(d, u)
	for i := range findings {
		f := &findings[i]
		r := &unconcerned
		if s.concerns(f, u) {
			r = s.Policy.Rule(u, f.Category, grades[i], d.Message, d.Now, d.Trusted)
		}
		if f.Place.Kind == AtBody && len(d.Body.Nodes) == 0 && !r.Op.Action.OnMessage() && r.Op.Action != Pass {
			r = &Ruling{Row: r.Row, Op: plain(Block), Reason: ReasonNoLeaf}
		}
		if r.Reason == ReasonCore && len(d.Body.Nodes) == 0 && f.Place.Kind == AtBody {
			r = &Ruling{Row: r.Row, Op: r.Op, Reason: ReasonOpaque}
		}
		up.Rulings[i], up.Final[i] = r, normal(r.Op.Action)
		up.Priority = max(up.Priority, r.Priority)
		if r.Op.Action.OnMessage() {
			up.act(r.Op.Action, r.Reason)
			continue
		}
		if r.Op.Action != Pass {
			d.put(up, f, r.Op)
		}
	}
	for i := range d.Opinions {
		s.heed(d, up, u, &d.Opinions[i])
	}
	if len(d.Class.Unknown) > 0 && s.UnknownBlocks {
		up.act(Block, ReasonUnknownField)
	}
	if len(d.Body.Nodes) == 0 && (len(findings) == 0 || !up.Action.OnMessage()) {
		up.act(Block, ReasonOpaque) // no field action and no silence lets out what nobody could look into
	}
	if ReservedTopic(d.Message.Topic) || len(d.Message.Topic) > maxTopic {
		up.act(Block, ReasonTopic) // the gateway's own, where no device speaks, or too long for an uplink to carry
	}
	up.fold(d)
	up.pairUp(findings)
	d.w.lookUp(up, len(d.Body.Nodes))
	up.settle(d)
}

// unconcerned is the ruling on a finding of a filter that is not attached to the uplink.
var unconcerned = Ruling{Row: -1, Op: plain(Pass)}

// act records an action on the message; the strictest stays, with its first reason.
func (up *UplinkDecision) act(a Action, why Reason) {
	a = normal(a)
	if !up.Action.OnMessage() || a.strictness() > up.Action.strictness() {
		up.Action, up.Reason = a, why
	}
}

// heed applies one filter's opinion to uplink u.
func (s *VersionSet) heed(d *Decision, up *UplinkDecision, u int, o *FilterOpinion) {
	if !s.Filters[o.Filter].on(u) {
		return
	}
	why := ReasonPlugin
	if o.Failed != "" {
		why = ReasonPluginFailed
	}
	if o.Action != Pass {
		up.act(o.Action, why)
	}
	for _, e := range o.Edits {
		f := &d.Class.Findings[e.Finding]
		switch {
		case e.Regrade != Ungraded && e.Op.Action == Undecided: // gradesFor has it
		case e.Op.Action.OnMessage():
			up.act(e.Op.Action, why)
		default:
			d.put(up, f, e.Op)
			if f.Place.Kind == AtBody || f.Place.Kind == AtTopic {
				up.Final[e.Finding] = Stricter(up.Final[e.Finding], e.Op.Action)
			}
		}
	}
}

// put notes a field operation on the place of a finding.
func (d *Decision) put(up *UplinkDecision, f *Finding, op Operation) {
	if op.Action == Pass {
		return
	}
	switch f.Place.Kind {
	case AtValue, AtKey:
		if f.Place.Index < 0 || int(f.Place.Index) >= len(d.Body.Nodes) {
			up.act(Block, ReasonInternal)
			return
		}
		key := f.Place.Kind == AtKey
		if key && op.Action != Tokenize || !key && d.Body.Nodes[f.Place.Index].Kind.Container() {
			op = plain(Remove) // a key can be replaced or go, a container only go
		}
		up.steps = append(up.steps, step{node: f.Place.Index, key: key, op: op})
	case AtTopic:
		if op.Action != Tokenize {
			up.act(Block, ReasonTopic)
			return
		}
		for i := range up.levels {
			if up.levels[i].index == f.Place.Index {
				if up.levels[i].op = Merge(up.levels[i].op, op); up.levels[i].op.Action != Tokenize {
					up.act(Block, ReasonTopic)
				}
				return
			}
		}
		up.levels = append(up.levels, level{f.Place.Index, op})
	case AtClient: // the client id does not leave: only what acts on the message matters
	case AtBody:
		if !slices.ContainsFunc(d.Body.Nodes, func(n Node) bool { return !n.Kind.Container() }) {
			up.act(Block, ReasonNoLeaf)
		}
		up.whole = Merge(up.whole, op)
	default:
		up.act(Block, ReasonInternal)
	}
}

// fold sorts the steps into document order and merges those on one place.
func (up *UplinkDecision) fold(d *Decision) {
	if up.whole.Action != Pass {
		for i := range d.Body.Nodes {
			if !d.Body.Nodes[i].Kind.Container() {
				up.steps = append(up.steps, step{node: int32(i), op: up.whole})
			}
		}
		up.whole = plain(Pass)
	}
	if !slices.IsSortedFunc(up.steps, compareSteps) {
		slices.SortFunc(up.steps, compareSteps)
	}
	n := 0
	for _, st := range up.steps {
		if n > 0 && compareSteps(up.steps[n-1], st) == 0 {
			up.steps[n-1].op = Merge(up.steps[n-1].op, st.op)
			continue
		}
		up.steps[n] = st
		n++
	}
	up.steps = up.steps[:n]
}

func compareSteps(a, b step) int {
	if a.node != b.node {
		return int(a.node - b.node)
	}
	switch {
	case a.key == b.key:
		return 0
	case a.key:
		return -1
	}
	return 1
}

// lookUp lists the steps by node, for at.
func (w *workspace) lookUp(up *UplinkDecision, nodes int) {
	w.values, w.keys = grow(w.values, nodes), grow(w.keys, nodes)
	clear(w.values)
	clear(w.keys)
	for i := range up.steps {
		if st := &up.steps[i]; st.key {
			w.keys[st.node] = int32(i) + 1
		} else {
			w.values[st.node] = int32(i) + 1
		}
	}
}

var passOperation = plain(Pass)

// at returns the operation on a place, Pass when there is none. The steps must not have changed since lookUp.
func (w *workspace) at(up *UplinkDecision, node int32, key bool) *Operation {
	list := w.values
	if key {
		list = w.keys
	}
	if node < 0 || int(node) >= len(list) || list[node] == 0 {
		return &passOperation
	}
	return &up.steps[list[node]-1].op
}

// operationAt is at while the steps are still being made.
func operationAt(steps []step, node int32, key bool) Operation {
	if i, found := slices.BinarySearchFunc(steps, step{node: node, key: key}, compareSteps); found {
		return steps[i].op
	}
	return plain(Pass)
}

// pairUp gives both halves of a position the same operation: one of them in clear would be half the secret.
func (up *UplinkDecision) pairUp(findings []Finding) {
	for again := true; again; {
		again = false
		folded := up.steps
		for i := range findings {
			a, b, ok := halves(findings, i)
			if !ok {
				continue
			}
			x, y := operationAt(folded, a, false), operationAt(folded, b, false)
			if x == y {
				continue
			}
			op := Merge(x, y)
			up.steps = append(up.steps, step{node: a, op: op}, step{node: b, op: op})
			again = again || op != x || op != y
		}
		if len(up.steps) > len(folded) {
			up.fold(nil)
		}
	}
}

// halves returns the nodes of a position that finding i is one half of.
func halves(findings []Finding, i int) (a, b int32, ok bool) {
	f := &findings[i]
	if f.Place.Kind != AtValue || f.Pair < 0 || int(f.Pair) >= len(findings) || findings[f.Pair].Place.Kind != AtValue {
		return 0, 0, false
	}
	return f.Place.Index, findings[f.Pair].Place.Index, true
}

// settle sums up the uplink: per finding what happens to its place, and the strictest of it.
func (up *UplinkDecision) settle(d *Decision) {
	strictest, why := Pass, ReasonPlugin
	for i := range d.Class.Findings {
		f := &d.Class.Findings[i]
		ruled := normal(up.Rulings[i].Op.Action)
		if ruled != Pass {
			why = ReasonPolicy
		}
		if !ruled.OnMessage() {
			switch f.Place.Kind {
			case AtValue:
				up.Final[i] = d.w.at(up, f.Place.Index, false).Action
			case AtKey:
				up.Final[i] = d.w.at(up, f.Place.Index, true).Action
			case AtTopic:
				for _, l := range up.levels {
					if l.index == f.Place.Index {
						up.Final[i] = Stricter(up.Final[i], l.op.Action)
					}
				}
			case AtClient:
				up.Final[i] = Pass
			}
		}
		strictest = Stricter(strictest, up.Final[i])
	}
	if up.Action.OnMessage() {
		return
	}
	if len(d.Class.Unknown) > 0 {
		strictest = Stricter(strictest, Remove)
		if why != ReasonPolicy {
			why = ReasonUnknownField
		}
	}
	if up.Action = strictest; up.Action != Pass {
		up.Reason = why
	}
}

// mapTopic applies the level operations to the topic.
func (s *VersionSet) mapTopic(d *Decision, up *UplinkDecision) (string, Reason) {
	if len(up.levels) == 0 {
		return d.Message.Topic, NoReason
	}
	parts := strings.Split(d.Message.Topic, "/")
	for _, l := range up.levels {
		if l.index < 0 || int(l.index) >= len(parts) {
			return "", ReasonInternal
		}
		out, _, ok, err := s.Redactor.Apply(nil, l.op, Value{Kind: String, Text: []byte(parts[l.index])}, FieldContext{ID: d.Message.ID})
		if err != nil || !ok || !s.Redactor.Check(l.op, Value{Kind: String, Text: out}) {
			return "", ReasonOperator
		}
		parts[l.index] = string(out)
	}
	topic := strings.Join(parts, "/")
	if len(topic) > maxTopic {
		return "", ReasonTopic
	}
	return topic, NoReason
}
