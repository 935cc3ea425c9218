package gateway

import (
	"errors"
	"slices"
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

	found  int           // findings before the filters added theirs
	second FilterOpinion // memory of shadows
	record Record
	salt   [16]byte // of the message: what its record commits with
	noSalt error    // there is no randomness, and so no record
	arena  []byte   // outbound bodies of the batch
	random []byte   // memory of salts
	salts  []byte   // what of it is not used yet
	w      workspace
}

// FilterOpinion is one filter's opinion of the message.
type FilterOpinion struct {
	Filter int    // index into VersionSet.Filters
	Number uint8  // of the version that was asked, in records
	Failed string // code of the failure, "" for none
	Opinion
}

// UplinkDecision is what becomes of the message for one uplink.
type UplinkDecision struct {
	State    State  // Waiting, Held or Blocked
	Action   Action // strictest over the findings, or what acts on the message
	Reason   Reason
	Rulings  []*Ruling // per finding: the policy's word before merging; shared
	Final    []Action  // per finding: what was done to its place
	Topic    string    // when Waiting
	Payload  []byte    // when Waiting: the outbound body; when Held: the sealed hold
	Priority byte      // when Waiting: of sending, below Priorities

	steps  []step    // at most one per place and in document order once fold ran
	whole  Operation // on every leaf
	edited int       // index of the uplink whose edit this one shares; its own when it shares none
	same   int       // index of an earlier uplink with the same outcome, or -1
	clash  UplinkSet // uplinks (index) whose identity finds no room in the body
	salt   [16]byte  // what left is committed with; the message's own unless salted
	salted bool      // salt leaves with the message
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
	renamed []int32 // node → index of its new key in outputs + 1
	index   []int32 // node → position among those of its siblings that stay; void when empty
	kept    []int32
	outputs []output
	text    []byte
	spans   []Span
	body    Body
	class   Classification
	exempt  []byte
	from    []int32  // output node → input node
	places  []placed // what was found where, in order; see ruled
	asked   int      // where in places ruled stands
	values  []int32  // node → index of the step on its value + 1; see at
	keys    []int32  // node → index of the step on its key + 1
	msg     Message
}

// output is the replacement computed for one step.
type output struct {
	with []byte
	as   Kind
	step int32
}

// decide judges m by the set. It cannot fail: whatever goes wrong is a decision that the message stays.
// A part that panics on a message is a fault of ours; it must not become a message that stops the gateway at every start.
func (s *VersionSet) decide(m *Message, now time.Time, trusted bool, d *Decision) {
	defer func() {
		if recover() != nil {
			s.giveUp(m, now, trusted, d)
		}
	}()
	d.noSalt = d.drawSalt(&d.salt)
	s.judge(m, now, trusted, d)
}

// giveUp makes d the decision that nothing leaves and that nothing is known of the message.
func (s *VersionSet) giveUp(m *Message, now time.Time, trusted bool, d *Decision) {
	random, salts, arena, salt, noSalt := d.random, d.salts, d.arena, d.salt, d.noSalt
	*d = Decision{Message: m, Now: now, Trusted: trusted, Action: Block, Uplinks: make([]UplinkDecision, len(s.Uplinks)),
		random: random, salts: salts, arena: arena, salt: salt, noSalt: noSalt} // what else it held may be half written
	for u := range d.Uplinks {
		d.Uplinks[u] = UplinkDecision{State: Blocked, Action: Block, Reason: ReasonInternal, same: -1}
	}
}

// judge is the decision, step by step.
func (s *VersionSet) judge(m *Message, now time.Time, trusted bool, d *Decision) {
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
	s.identify(d)
	if len(s.Uplinks) == 0 {
		d.Action = Block
	}
}

func (d *Decision) reset(m *Message, now time.Time, trusted bool) {
	d.Message, d.Now, d.Trusted = m, now, trusted
	d.Class.Reset()
	d.Opinions = d.Opinions[:0]
	d.Grade, d.Personal, d.Sensitive, d.Action = General, false, false, Pass
	d.w.places = d.w.places[:0]
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
	found, cats := len(d.Class.Findings), s.Classifier.Categories()
	for i := range s.Filters {
		a := &s.Filters[i]
		if !a.covers(d.Message.Topic) {
			continue
		}
		n := len(d.Opinions)
		d.Opinions = grow(d.Opinions, n+1)
		o := &d.Opinions[n]
		f, number := s.choose(i, d.Message)
		o.ask(f, i, number, d, &d.Class, len(cats), a.onError())
	}
	d.found = found
	for i := range d.Opinions { // labels are findings on the message as a whole, and so is a grade with nothing to raise
		o := &d.Opinions[i]
		for _, label := range o.Labels {
			d.addWhole(o, label, cats, cats[label].Grade)
		}
		if found == 0 && len(o.Labels) == 0 && o.Grade != Ungraded {
			d.addWhole(o, s.Classifier.Unlisted(false), cats, o.Grade)
		}
	}
}

// ask fills o with what filter f says about d's message; class is what f may know. A failure is the action onError.
func (o *FilterOpinion) ask(f Filter, index int, number uint8, d *Decision, class *Classification, categories int, onError Action) {
	*o = FilterOpinion{Filter: index, Number: number, Opinion: Opinion{Action: Pass, Labels: o.Labels[:0], Edits: o.Edits[:0]}}
	err := f.Filter(d.Message, &d.Body, class, &o.Opinion)
	if err == nil && !o.sound(len(class.Findings), categories) {
		err = errOpinion
	}
	if err != nil {
		o.Failed = "internal"
		if fe := (*FilterError)(nil); errors.As(err, &fe) && fe.Code != "" {
			o.Failed = fe.Code
		}
		o.Opinion = Opinion{Action: onError, Labels: o.Labels[:0], Edits: o.Edits[:0]}
	}
}

// shadow asks the versions that have no effect about a message that is decided. Whatever they do, the decision stands.
func (s *VersionSet) shadow(d *Decision) {
	defer func() { _ = recover() }() // a fault of ours in what has no effect
	for i := range s.Shadows {
		sh := &s.Shadows[i]
		for k := range d.Opinions {
			if o := &d.Opinions[k]; o.Filter == sh.Beside {
				class := Classification{Findings: d.Class.Findings[:d.found], Unknown: d.Class.Unknown, Positions: d.Class.Positions}
				d.second.ask(sh.Filter, sh.Beside, o.Number, d, &class, len(s.Classifier.Categories()), s.Filters[sh.Beside].onError())
				sh.Tell(d.Message, d.record.Input, o, &d.second)
			}
		}
	}
}

var errOpinion = errors.New("opinion breaks its contract")

// sound reports whether an opinion says nothing but known words, about findings and categories that exist.
func (o *Opinion) sound(findings, categories int) bool {
	if o.Action != Pass && !o.Action.OnMessage() || o.Grade > Core {
		return false
	}
	return !slices.ContainsFunc(o.Labels, func(l uint16) bool { return int(l) >= categories }) &&
		!slices.ContainsFunc(o.Edits, func(e Edit) bool {
			return e.Finding < 0 || int(e.Finding) >= findings || e.Regrade > Core || e.Op.Action > Block || e.Op.Inner > Block
		})
}

// addWhole adds a finding on the message as a whole. It counts where the filter's effects do.
func (d *Decision) addWhole(o *FilterOpinion, category uint16, cats []Category, g Grade) {
	c := &cats[category]
	d.Class.Findings = append(d.Class.Findings, Finding{Place: Place{Kind: AtBody}, Category: category, Grade: g,
		Personal: c.Personal, Sensitive: c.Sensitive, By: ByPlugin, Plugin: uint8(o.Filter), Confidence: 90, Pair: -1})
}

// concerns reports whether a finding counts for uplink u: a filter's only where its effects apply.
func (s *VersionSet) concerns(f *Finding, u int) bool {
	return f.By != ByPlugin || s.Filters[f.Plugin].on(u)
}

// floor is the least grade that filters want for every finding on uplink u; u = -1 for any uplink. Ungraded: none.
func (d *Decision) floor(s *VersionSet, u int) Grade {
	g := Ungraded
	for i := range d.Opinions {
		o := &d.Opinions[i]
		if o.Grade != Ungraded && (u < 0 || s.Filters[o.Filter].on(u)) && (g == Ungraded || o.Grade.Rank() > g.Rank()) {
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

// carryOut makes the outbound form for uplink u, or lets the message stay.
func (s *VersionSet) carryOut(d *Decision, u int) {
	up := &d.Uplinks[u]
	up.edited = u
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
			up.State, up.Topic, up.Payload, up.same, up.edited, up.clash = Waiting, o.Topic, o.Payload, v, v, o.clash
			up.follow(o, d.Class.Findings)
			return
		}
	}
	if why := s.edit(d, u); why != NoReason {
		up.State, up.Action, up.Reason, up.Topic, up.Payload = Blocked, Block, why, "", nil
		return
	}
	up.State = Waiting
}

// follow takes over what the edit for o found out: which operators did not fit, and what went with what is around it.
func (up *UplinkDecision) follow(o *UplinkDecision, findings []Finding) {
	for i := range findings {
		if k := findings[i].Place.Kind; k == AtValue || k == AtKey {
			up.Final[i] = o.Final[i]
		}
	}
	up.Action = Stricter(up.Action, o.Action)
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
