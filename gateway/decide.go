package gateway

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// Decision is how one message was decided, with everything that led to it: what Admit makes a record of and what
// explain prints. It is reused from message to message; its slices are void after the next decide.
type Decision struct {
	Message   *Message
	Now       time.Time
	Trusted   bool
	Body      Body
	Class     Classification
	Opinions  []FilterOpinion
	Grade     Grade // highest over everything found and said; Ungraded for an opaque body
	Personal  bool
	Sensitive bool
	Uplinks   []UplinkDecision
	Action    Action // strictest over the uplinks

	record Record
	arena  []byte // outbound bodies of the batch
	w      workspace
}

// FilterOpinion is one filter's opinion of the message.
type FilterOpinion struct {
	Filter int    // index into VersionSet.Filters
	Failed string // code of the failure, "" for none
	Opinion
}

// UplinkDecision is what becomes of the message for one uplink.
type UplinkDecision struct {
	State   State  // Waiting, Held or Blocked
	Action  Action // strictest over the findings, or what acts on the message
	Reason  Reason
	Rulings []Ruling // per finding: the policy's word before merging
	Final   []Action // per finding: what was done to its place
	Topic   string   // when Waiting
	Payload []byte   // when Waiting: the outbound body; when Held: the sealed hold

	steps  []step
	same   int // index of an earlier uplink with the same outcome, or -1
	levels []level
}

// step is one operation on one place of the body.
type step struct {
	node int32
	key  bool
	op   Operation
}

// level is one operation on one topic level.
type level struct {
	index int32
	op    Operation
}

// workspace is the memory of a decision that nobody reads afterwards.
type workspace struct {
	grades  []Grade
	changes []Change
	drop    []bool
	renamed []int32 // node → index of its SetKey change + 1
	outputs []output
	text    []byte
	spans   []Span
	body    Body
	class   Classification
	exempt  []byte
	from    []int32 // output node → input node
	msg     Message
}

// output is the replacement computed for one step.
type output struct {
	with []byte
	as   Kind
	step int32
}

// decide judges m by the set. It cannot fail: whatever goes wrong is a decision that the message stays.
func (s *VersionSet) decide(m *Message, now time.Time, trusted bool, d *Decision) {
	d.reset(m, now, trusted)
	if err := s.Codec.Decode(m.Payload, &d.Body); err != nil {
		d.Body.Nodes = d.Body.Nodes[:0]
	}
	s.Classifier.Classify(m, &d.Body, &d.Class)
	s.ask(d)
	s.grade(d)
	d.Uplinks = grow(d.Uplinks, len(s.Uplinks))
	for u := range s.Uplinks {
		s.plan(d, u)
		s.carryOut(d, u)
		d.Action = Stricter(d.Action, d.Uplinks[u].Action)
	}
	if len(s.Uplinks) == 0 {
		d.Action = Block
	}
}

func (d *Decision) reset(m *Message, now time.Time, trusted bool) {
	d.Message, d.Now, d.Trusted = m, now, trusted
	d.Class.Reset()
	d.Opinions = d.Opinions[:0]
	d.Grade, d.Personal, d.Sensitive, d.Action = General, false, false, Pass
	d.w.text = d.w.text[:0]
}

// grow returns s with n elements, keeping the memory of those that it has.
func grow[T any](s []T, n int) []T {
	if n <= cap(s) {
		return s[:n]
	}
	return append(s[:cap(s)], make([]T, n-cap(s))...)
}

// ask lets every filter that covers the topic say its opinion, once per message.
func (s *VersionSet) ask(d *Decision) {
	for i := range s.Filters {
		a := &s.Filters[i]
		if !a.covers(d.Message.Topic) {
			continue
		}
		n := len(d.Opinions)
		d.Opinions = grow(d.Opinions, n+1)
		o := &d.Opinions[n]
		*o = FilterOpinion{Filter: i, Opinion: Opinion{Action: Pass, Labels: o.Labels[:0], Edits: o.Edits[:0]}}
		if err := a.Filter.Filter(d.Message, &d.Body, &d.Class, &o.Opinion); err != nil {
			o.Failed = "internal"
			if fe := (*FilterError)(nil); errors.As(err, &fe) {
				o.Failed = fe.Code
			}
			o.Opinion = Opinion{Action: a.onError(), Labels: o.Labels[:0], Edits: o.Edits[:0]}
		}
	}
	categories := len(s.Classifier.Categories())
	for i := range d.Opinions { // labels are findings on the message as a whole
		for _, label := range d.Opinions[i].Labels {
			if int(label) >= categories {
				d.Opinions[i].Action, d.Opinions[i].Failed = Block, "internal"
				continue
			}
			d.addWhole(label, s.Classifier.Categories(), uint8(i))
		}
	}
	if len(d.Class.Findings) == 0 && d.floor(s, -1) != Ungraded {
		d.addWhole(s.Classifier.Unlisted(false), s.Classifier.Categories(), 0)
		d.Class.Findings[0].Grade = General // the category is unlisted; the filter's grade is what counts
	}
}

// addWhole adds a finding on the message as a whole.
func (d *Decision) addWhole(category uint16, cats []Category, opinion uint8) {
	c := &cats[category]
	d.Class.Findings = append(d.Class.Findings, Finding{Place: Place{Kind: AtBody}, Category: category, Grade: c.Grade,
		Personal: c.Personal, Sensitive: c.Sensitive, By: ByPlugin, Plugin: opinion, Confidence: 90, Pair: -1})
}

// floor is the least grade that filters want for every finding on uplink u; u = -1 for any uplink. Ungraded: none.
func (d *Decision) floor(s *VersionSet, u int) Grade {
	g := Ungraded
	for i := range d.Opinions {
		o := &d.Opinions[i]
		if o.Grade != Ungraded && (u < 0 || s.Filters[o.Filter].Uplinks.Has(u)) && (g == Ungraded || o.Grade.Rank() > g.Rank()) {
			g = o.Grade
		}
	}
	return g
}

// grade sums up the message over everything found and said, for the record.
func (s *VersionSet) grade(d *Decision) {
	for i := range d.Class.Findings {
		f := &d.Class.Findings[i]
		d.Grade = Highest(d.Grade, f.Grade)
		d.Personal = d.Personal || f.Personal
		d.Sensitive = d.Sensitive || f.Sensitive
	}
	for i := range d.Opinions {
		o := &d.Opinions[i]
		if o.Grade != Ungraded {
			d.Grade = Highest(d.Grade, o.Grade)
		}
		for _, e := range o.Edits {
			if e.Regrade != Ungraded {
				d.Grade = Highest(d.Grade, e.Regrade)
			}
		}
	}
}

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
		if !s.Filters[o.Filter].Uplinks.Has(u) {
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
	*up = UplinkDecision{Action: Pass, Rulings: grow(up.Rulings, len(findings)), Final: grow(up.Final, len(findings)), steps: up.steps[:0], levels: up.levels[:0], same: -1}
	grades := s.gradesFor(d, u)
	for i := range findings {
		f := &findings[i]
		r := s.Policy.Rule(u, f.Category, grades[i], d.Message, d.Now, d.Trusted)
		if f.Place.Kind == AtBody && len(d.Body.Nodes) == 0 && !r.Op.Action.OnMessage() && r.Op.Action != Pass {
			r.Op, r.Reason = Operation{Action: Block}, ReasonNoLeaf
		}
		if r.Reason == ReasonCore && len(d.Body.Nodes) == 0 && f.Place.Kind == AtBody {
			r.Reason = ReasonOpaque
		}
		up.Rulings[i] = r
		if r.Op.Action.OnMessage() {
			up.act(r.Op.Action, r.Reason)
			continue
		}
		d.put(up, f, r.Op)
	}
	for i := range d.Opinions {
		s.heed(d, up, u, &d.Opinions[i])
	}
	if len(d.Class.Unknown) > 0 && s.UnknownBlocks {
		up.act(Block, ReasonUnknownField)
	}
	if len(d.Body.Nodes) == 0 && len(findings) == 0 {
		up.act(Block, ReasonOpaque) // a classifier must say something about a body that it cannot see into
	}
	up.pairUp(findings)
	up.settle(d)
}

// act records an action on the message; the strictest stays, with its first reason.
func (up *UplinkDecision) act(a Action, why Reason) {
	a = normal(a)
	if !up.Action.OnMessage() || a.strictness() > up.Action.strictness() {
		up.Action, up.Reason = a, why
	}
}

// heed applies one filter's opinion to uplink u.
func (s *VersionSet) heed(d *Decision, up *UplinkDecision, u int, o *FilterOpinion) {
	if !s.Filters[o.Filter].Uplinks.Has(u) {
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
		switch {
		case int(e.Finding) >= len(d.Class.Findings) || e.Finding < 0:
			up.act(Block, ReasonPluginFailed)
		case e.Regrade != Ungraded:
		case e.Op.Action.OnMessage():
			up.act(e.Op.Action, why)
		default:
			d.put(up, &d.Class.Findings[e.Finding], e.Op)
		}
	}
}

// put merges a field operation into the place of a finding.
func (d *Decision) put(up *UplinkDecision, f *Finding, op Operation) {
	if op.Action == Pass {
		return
	}
	switch f.Place.Kind {
	case AtValue, AtKey:
		up.merge(step{node: f.Place.Index, key: f.Place.Kind == AtKey, op: op})
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
		leaves := 0
		for i := range d.Body.Nodes {
			if !d.Body.Nodes[i].Kind.Container() {
				up.merge(step{node: int32(i), op: op})
				leaves++
			}
		}
		if leaves == 0 {
			up.act(Block, ReasonNoLeaf)
		}
	default:
		up.act(Block, ReasonInternal)
	}
}

// merge puts a step where its place is in document order, merged with what is there.
func (up *UplinkDecision) merge(st step) {
	if st.key && st.op.Action != Tokenize {
		st.op = Operation{Action: Remove} // a key can be replaced or go, nothing between
	}
	i, found := slices.BinarySearchFunc(up.steps, st, compareSteps)
	if !found {
		up.steps = slices.Insert(up.steps, i, st)
		return
	}
	up.steps[i].op = Merge(up.steps[i].op, st.op)
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

// at returns the operation on a value, Pass when there is none.
func (up *UplinkDecision) at(node int32, key bool) Operation {
	if i, found := slices.BinarySearchFunc(up.steps, step{node: node, key: key}, compareSteps); found {
		return up.steps[i].op
	}
	return Operation{Action: Pass}
}

// pairUp gives both halves of a position the same operation: one of them in clear would be half the secret.
func (up *UplinkDecision) pairUp(findings []Finding) {
	for i := range findings {
		f := &findings[i]
		if f.Pair < 0 || int(f.Pair) >= len(findings) || f.Place.Kind != AtValue || findings[f.Pair].Place.Kind != AtValue {
			continue
		}
		a, b := f.Place.Index, findings[f.Pair].Place.Index
		if op := Merge(up.at(a, false), up.at(b, false)); op.Action != Pass {
			up.merge(step{node: a, op: op})
			up.merge(step{node: b, op: op})
		}
	}
}

// settle sums up the uplink: per finding what happens to its place, and the strictest of it.
func (up *UplinkDecision) settle(d *Decision) {
	strictest := Pass
	for i := range d.Class.Findings {
		f := &d.Class.Findings[i]
		final := Pass
		switch f.Place.Kind {
		case AtValue:
			final = up.at(f.Place.Index, false).Action
		case AtKey:
			final = up.at(f.Place.Index, true).Action
		case AtTopic:
			for _, l := range up.levels {
				if l.index == f.Place.Index {
					final = l.op.Action
				}
			}
		case AtBody:
			final = up.Rulings[i].Op.Action
		}
		if up.Rulings[i].Op.Action.OnMessage() {
			final = normal(up.Rulings[i].Op.Action)
		}
		up.Final[i] = final
		strictest = Stricter(strictest, final)
	}
	if up.Action.OnMessage() {
		return
	}
	up.Action = strictest
	if len(d.Class.Unknown) > 0 {
		up.Action = Stricter(up.Action, Remove)
	}
	if up.Action != Pass {
		up.Reason = ReasonPolicy
	}
}

// carryOut makes the outbound form for uplink u, or lets the message stay.
func (s *VersionSet) carryOut(d *Decision, u int) {
	up := &d.Uplinks[u]
	if up.Action == Hold {
		up.hold(s, d, u)
		return
	}
	if up.Action == Block || up.Action == Undecided {
		up.State = Blocked
		return
	}
	for v := range u { // the same plan makes the same bytes
		if o := &d.Uplinks[v]; o.same < 0 && o.State == Waiting && slices.Equal(o.steps, up.steps) && slices.Equal(o.levels, up.levels) && s.sameRules(d, u, v) {
			up.State, up.Topic, up.Payload, up.same = Waiting, o.Topic, o.Payload, v
			return
		}
	}
	if why := s.edit(d, u); why != NoReason {
		up.State, up.Action, up.Reason, up.Topic, up.Payload = Blocked, Block, why, "", nil
		return
	}
	up.State = Waiting
}

// sameRules reports whether the output check for uplink u would ask the same questions as for v.
func (s *VersionSet) sameRules(d *Decision, u, v int) bool {
	return len(d.Uplinks[u].steps) == 0 && len(d.Class.Unknown) == 0 && len(d.Uplinks[u].levels) == 0 || s.Policy.alike(u, v) && d.floor(s, u) == d.floor(s, v)
}

// hold seals the message to the custodian; without a custodian, or when sealing fails, it is blocked.
func (up *UplinkDecision) hold(s *VersionSet, d *Decision, u int) {
	for v := range u {
		if o := &d.Uplinks[v]; o.State == Held && o.same < 0 {
			up.State, up.Payload, up.same = Held, o.Payload, v
			return
		}
	}
	if s.Custodian != nil {
		if sealed, err := s.Custodian(d.Message); err == nil {
			up.State, up.Payload = Held, sealed
			return
		}
	}
	up.State, up.Action, up.Reason = Blocked, Block, ReasonOperator
}

// mapTopic applies the level operations to the topic.
func (s *VersionSet) mapTopic(d *Decision, up *UplinkDecision) (string, Reason) {
	if len(up.levels) == 0 {
		return d.Message.Topic, NoReason
	}
	parts := strings.Split(d.Message.Topic, "/")
	for _, l := range up.levels {
		if int(l.index) >= len(parts) {
			return "", ReasonInternal
		}
		out, _, ok, err := s.Redactor.Apply(nil, l.op, Value{Kind: String, Text: []byte(parts[l.index])}, FieldContext{ID: d.Message.ID})
		if err != nil || !ok || !s.Redactor.Check(l.op, Value{Kind: String, Text: out}) {
			return "", ReasonOperator
		}
		parts[l.index] = string(out)
	}
	return strings.Join(parts, "/"), NoReason
}
