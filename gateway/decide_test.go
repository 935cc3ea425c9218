package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestWhatBecomesOfAMessage(t *testing.T) {
	s := usualSet(t)
	for _, c := range []struct{ name, topic, body, tsp, lab string }{
		{"fields are edited per uplink", "v1/a", "vin1=LX;speed=80", "v1/a vin1=tk:fleet:2;speed=80", "v1/a speed=80"},
		{"both halves of a position are generalized", "v1/a", "lat=31.23;lon=121.47", "v1/a lat=31;lon=121", "v1/a lat=31;lon=121"},
		{"both go when the operator does not fit one", "v1/a", "lat=31.23;lon=east;speed=1", "v1/a speed=1", "v1/a speed=1"},
		{"important data are encrypted for one and stay for the other", "v1/a", "recipe=R;speed=1", "v1/a recipe=ct:dso:undecided:/recipe;speed=1", "blocked policy"},
		{"core data stay", "v1/a", "site=S;speed=1", "blocked policy", "blocked policy"},
		{"an unknown field goes", "v1/a", "speed=1;what=2", "v1/a speed=1", "v1/a speed=1"},
		{"only unknown fields leave an empty body", "v1/a", "what=2", "v1/a {}", "v1/a {}"},
		{"an empty object leaves", "v1/a", "{}", "v1/a {}", "v1/a {}"},
		{"an empty payload stays", "v1/a", "", "blocked policy", "blocked policy"},
		{"an opaque body stays", "v1/a", "!", "blocked policy", "blocked policy"},
		{"an unknown scalar stays", "v1/a", "42", "blocked unknown_field", "blocked unknown_field"},
		{"a known scalar is edited, or stays when nothing may be left of it", "v1/a", "vin", "v1/a tk:fleet:3", "blocked no_leaf"},
		{"a name is tokenized, or its member goes", "v1/a", "tel138=80;speed=1", "v1/a tk:fleet:6=80;speed=1", "v1/a speed=1"},
		{"a topic level is tokenized, or the message stays", "v1/vin9/a", "speed=1", "v1/tk:fleet:4/a speed=1", "blocked topic"},
		{"devices do not speak on reserved topics", "gw/$sluice/epoch/x", "speed=1", "blocked topic", "blocked topic"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := leaves(s.Explain(message(c.topic, c.body), morning, true)); got[0] != c.tsp || got[1] != c.lab {
				t.Errorf("got %q, want %q and %q", got, c.tsp, c.lab)
			}
		})
	}
}

// Whatever goes wrong is a decision that the message stays, on every uplink that it concerns.
func TestNoErrorBecomesAPass(t *testing.T) {
	const body = "speed=80;vin1=LX;lat=31.23;lon=121.47"
	rows := func(first RowConfig) func(*testing.T, *VersionSet) {
		return func(t *testing.T, s *VersionSet) {
			s.Policy = compiled(t, slices.Insert(slices.Clone(usualRows), 3, first))
		}
	}
	spoil := func(with func(out []byte) []byte) func(*testing.T, *VersionSet) {
		return func(_ *testing.T, s *VersionSet) { s.Codec = flat{spoil: with} }
	}
	replace := func(a, b string) func(*testing.T, *VersionSet) {
		return spoil(func(out []byte) []byte { return bytes.Replace(out, []byte(a), []byte(b), 1) })
	}
	opinion := func(o Opinion) func(*testing.T, *VersionSet) {
		return func(_ *testing.T, s *VersionSet) { s.Filters = []Attached{{Filter: says(o)}} }
	}
	failing := func(err error, onError Action) func(*testing.T, *VersionSet) {
		return func(_ *testing.T, s *VersionSet) {
			s.Filters = []Attached{{OnError: onError, Filter: script{"f", func(_ *Classification, o *Opinion) error {
				*o = Opinion{Action: Pass}
				return err
			}}}}
		}
	}
	find := func(f Finding) func(*testing.T, *VersionSet) {
		return func(_ *testing.T, s *VersionSet) { s.Classifier = names{extra: []Finding{f}} }
	}
	edit := func(e Edit) func(*testing.T, *VersionSet) {
		return opinion(Opinion{Action: Pass, Edits: []Edit{e}})
	}
	trap := &FilterError{Code: "trap", Err: errors.New("unreachable")}
	for _, c := range []struct {
		name  string
		set   func(*testing.T, *VersionSet)
		body  string
		state State
		why   Reason
	}{
		{"a key is missing", rows(RowConfig{Match: MatchConfig{Category: []string{"T-ID-VIN"}}, Action: "tokenize", Domain: "missing"}), body, Blocked, ReasonOperator},
		{"a recipient is missing", rows(RowConfig{Match: MatchConfig{Category: []string{"T-ID-VIN"}}, Action: "encrypt", To: "missing"}), body, Blocked, ReasonOperator},
		{"the codec cannot encode", func(_ *testing.T, s *VersionSet) { s.Codec = flat{fail: true} }, body, Blocked, ReasonOperator},
		{"the editor writes what cannot be read", spoil(func([]byte) []byte { return []byte("!") }), body, Blocked, ReasonOutput},
		{"the editor writes nothing", spoil(func([]byte) []byte { return nil }), body, Blocked, ReasonOutput},
		{"the editor adds a member", spoil(func(out []byte) []byte { return append(out, ";speed9=1"...) }), body, Blocked, ReasonOutput},
		{"the editor loses a member", replace("speed=80;", ""), body, Blocked, ReasonOutput},
		{"the editor changes a value that nobody asked for", replace("speed=80", "speed=81"), body, Blocked, ReasonOutput},
		{"the editor changes a name that nobody asked for", replace("speed=80", "speer=80"), body, Blocked, ReasonOutput},
		{"the editor leaves a value in clear", replace("tk:fleet:2", "LX"), body, Blocked, ReasonOutput},
		{"the operator's own check does not know its work", func(_ *testing.T, s *VersionSet) { s.Redactor = marks{distrust: true} }, body, Blocked, ReasonOutput},
		{"the edited body has a finding that the body had not", func(_ *testing.T, s *VersionSet) {
			s.Classifier = names{also: func(b *Body) bool { return bytes.Contains(b.Raw, []byte("tk:")) }}
		}, body, Blocked, ReasonOutput},
		{"the edited body has an unknown field that the body had not", replace("speed=80;vin1=", "vin1=80;speed="), body, Blocked, ReasonOutput},

		{"a filter traps", failing(trap, Undecided), body, Blocked, ReasonPluginFailed},
		{"a filter traps and its message is to be held", failing(trap, Hold), body, Held, ReasonPluginFailed},
		{"a filter traps and somebody configured pass", failing(trap, Pass), body, Blocked, ReasonPluginFailed},
		{"a filter fails without a code", failing(&FilterError{Err: errors.New("x")}, Block), body, Blocked, ReasonPluginFailed},
		{"a filter fails with a plain error", failing(errors.New("x"), Block), body, Blocked, ReasonPluginFailed},
		{"a filter says nothing", opinion(Opinion{}), body, Blocked, ReasonPlugin},
		{"a filter asks for a field action on the message", opinion(Opinion{Action: Mask}), body, Blocked, ReasonPluginFailed},
		{"a filter asks for an action that nobody knows", opinion(Opinion{Action: 77}), body, Blocked, ReasonPluginFailed},
		{"a filter gives a grade that nobody knows", opinion(Opinion{Action: Pass, Grade: 9}), body, Blocked, ReasonPluginFailed},
		{"a filter's label is no category", opinion(Opinion{Action: Pass, Labels: []uint16{99}}), body, Blocked, ReasonPluginFailed},
		{"a filter edits a finding that is not there", edit(Edit{Finding: 9, Op: plain(Mask)}), body, Blocked, ReasonPluginFailed},
		{"a filter edits a finding before the first", edit(Edit{Finding: -1, Op: plain(Mask)}), body, Blocked, ReasonPluginFailed},
		{"a filter regrades to what nobody knows", edit(Edit{Finding: 0, Regrade: 9}), body, Blocked, ReasonPluginFailed},
		{"a filter's edit says nothing", edit(Edit{Finding: 0}), body, Blocked, ReasonPlugin},
		{"a filter's edit is an action that nobody knows", edit(Edit{Finding: 0, Op: plain(77)}), body, Blocked, ReasonPluginFailed},
		{"a filter's edit blocks", edit(Edit{Finding: 0, Op: plain(Block)}), body, Blocked, ReasonPlugin},
		{"a filter's edit holds", edit(Edit{Finding: 0, Op: plain(Hold)}), body, Held, ReasonPlugin},
		{"a filter raises one field to core", edit(Edit{Finding: 0, Regrade: Core}), body, Blocked, ReasonPolicy},
		{"a filter raises the message to core", opinion(Opinion{Action: Pass, Grade: Core}), body, Blocked, ReasonPolicy},
		{"a filter raises a message without findings", opinion(Opinion{Action: Pass, Grade: Core}), "what=1", Blocked, ReasonPolicy},
		{"a filter labels a message without findings", opinion(Opinion{Action: Pass, Labels: []uint16{catSite}}), "{}", Blocked, ReasonPolicy},
		{"a filter labels a message that has no field", opinion(Opinion{Action: Pass, Labels: []uint16{catVIN}}), "{}", Blocked, ReasonNoLeaf},

		{"the classifier says nothing about an opaque body", func(_ *testing.T, s *VersionSet) { s.Classifier = names{silent: true} }, "!", Blocked, ReasonOpaque},
		{"the classifier calls an opaque body harmless", func(_ *testing.T, s *VersionSet) {
			s.Classifier = names{silent: true, extra: []Finding{{Place: Place{Kind: AtBody}, Category: catSpeed, Grade: General, Pair: -1}}}
		}, "!", Blocked, ReasonOpaque},
		{"a finding is nowhere", find(Finding{Category: catVIN, Grade: General, Pair: -1}), body, Blocked, ReasonInternal},
		{"a finding is outside of the body", find(Finding{Place: Place{AtValue, 99}, Category: catVIN, Grade: General, Pair: -1}), body, Blocked, ReasonInternal},
		{"a finding is before the body", find(Finding{Place: Place{AtKey, -1}, Category: catVIN, Grade: General, Pair: -1}), body, Blocked, ReasonInternal},
		{"a finding is at a topic level that is not there", find(Finding{Place: Place{AtTopic, 9}, Category: catVIN, Grade: General, Pair: -1}), body, Blocked, ReasonInternal},
		{"a finding is at the root", find(Finding{Place: Place{AtValue, 0}, Category: catVIN, Grade: General, Pair: -1}), body, Blocked, ReasonNoLeaf},
		{"nobody graded a finding", find(Finding{Place: Place{AtValue, 1}, Category: catSpeed, Pair: -1}), body, Blocked, ReasonPolicy},

		{"an unknown field blocks where it is configured to", func(_ *testing.T, s *VersionSet) { s.UnknownBlocks = true }, "speed=1;what=2", Blocked, ReasonUnknownField},
		{"a hold without a custodian", func(t *testing.T, s *VersionSet) {
			rows(RowConfig{Match: MatchConfig{Category: []string{"T-SPEED"}}, Action: "hold"})(t, s)
			s.Custodian = nil
		}, body, Blocked, ReasonOperator},
		{"a hold that cannot be sealed", func(t *testing.T, s *VersionSet) {
			rows(RowConfig{Match: MatchConfig{Category: []string{"T-SPEED"}}, Action: "hold"})(t, s)
			s.Custodian = func(*Message) ([]byte, error) { return []byte("in clear"), errors.New("no key") }
		}, body, Blocked, ReasonOperator},
		{"a hold", rows(RowConfig{Match: MatchConfig{Category: []string{"T-SPEED"}}, Action: "hold"}), body, Held, ReasonPolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := usualSet(t)
			s.Uplinks = s.Uplinks[:1]
			c.set(t, s)
			d := s.Explain(message("v1/a", c.body), morning, true)
			u := &d.Uplinks[0]
			if u.State != c.state || u.Reason != c.why {
				t.Fatalf("%s %s (%s), want %s %s", u.State, u.Reason, u.Payload, c.state, c.why)
			}
			if c.state == Blocked && (u.Payload != nil || u.Topic != "" || u.Action != Block) {
				t.Errorf("blocked with action %s, topic %q and body %q", u.Action, u.Topic, u.Payload)
			}
			if c.state == Held && (u.Action != Hold || !bytes.HasPrefix(u.Payload, []byte("sealed:")) || u.Topic != "") {
				t.Errorf("held with action %s, topic %q and body %q", u.Action, u.Topic, u.Payload)
			}
			e, err := s.entry(d)
			if err != nil || e.Waits != 0 || (e.Blocks != 0) != (c.state == Blocked) {
				t.Errorf("entry waits %b, blocks %b: %v", e.Waits, e.Blocks, err)
			}
			if err := DecodeRecord(e.Record, new(Record)); err != nil {
				t.Errorf("the record cannot be read: %v", err)
			}
		})
	}
}

// poisoned panics on one message.
type poisoned struct{ Classifier }

func (p poisoned) Classify(m *Message, b *Body, c *Classification) {
	p.Classifier.Classify(m, b, c)
	if m.Topic == "v1/poison" {
		panic("told to")
	}
}

func TestAPanicBlocksItsMessageAndNoOther(t *testing.T) {
	s := usualSet(t)
	s.Classifier = poisoned{s.Classifier}
	before := leaves(s.Explain(message("v1/a", "speed=1"), morning, true))
	d := new(Decision)
	s.decide(message("v1/poison", "speed=1"), morning, true, d)
	if d.Action != Block || d.Grade != Ungraded || len(d.Class.Findings) != 0 {
		t.Errorf("action %s, grade %s, %d findings", d.Action, d.Grade, len(d.Class.Findings))
	}
	for i := range d.Uplinks {
		if u := &d.Uplinks[i]; u.State != Blocked || u.Action != Block || u.Reason != ReasonInternal || u.Payload != nil {
			t.Errorf("uplink %d: %s, %s, %s", i, u.State, u.Action, u.Reason)
		}
	}
	e, err := s.entry(d)
	if err != nil || e.Waits != 0 || e.Holds != 0 || len(e.Outlets) != 0 {
		t.Errorf("entry waits %b, holds %b: %v", e.Waits, e.Holds, err)
	}
	var r Record
	if err := DecodeRecord(e.Record, &r); err != nil || r.Grade != Ungraded || r.ID != d.Message.ID {
		t.Errorf("record of grade %s: %v", r.Grade, err)
	}
	s.decide(message("v1/a", "speed=1"), morning, true, d) // the same memory decides the next one as ever
	if after := leaves(d); !slices.Equal(before, after) {
		t.Errorf("%v after the panic, %v before", after, before)
	}
}

func TestWithoutUplinksEverythingStays(t *testing.T) {
	s := usualSet(t)
	s.Uplinks = nil
	d := s.Explain(message("v1/a", "speed=1"), morning, true)
	if d.Action != Block || d.ActionOn(0) != Block {
		t.Errorf("action %s, on the field %s", d.Action, d.ActionOn(0))
	}
}

// A filter's effects apply to the uplinks that it is attached to and to no other.
func TestAFilterActsWhereItIsAttached(t *testing.T) {
	const body = "speed=80;vin1=LX"
	clean := []string{"v1/a speed=80;vin1=tk:fleet:2", "v1/a speed=80"}
	for _, c := range []struct {
		name string
		say  script
		body string
		tsp  string // clean[0] where it is not attached
	}{
		{"its action", says(Opinion{Action: Block}), body, "blocked plugin"},
		{"its grade", says(Opinion{Action: Pass, Grade: Core}), body, "blocked policy"},
		{"its label", says(Opinion{Action: Pass, Labels: []uint16{catSite}}), body, "blocked policy"},
		{"its edit", says(Opinion{Action: Pass, Edits: []Edit{{Finding: 0, Op: plain(Remove)}}}), body, "v1/a vin1=tk:fleet:2"},
		{"its grade of a field", says(Opinion{Action: Pass, Edits: []Edit{{Finding: 0, Regrade: Core}}}), body, "blocked policy"},
		{"its edit that also grades", says(Opinion{Action: Pass, Edits: []Edit{{Finding: 0, Op: plain(Remove), Regrade: General}}}), body, "v1/a vin1=tk:fleet:2"},
		{"its failure", script{"f", func(*Classification, *Opinion) error { return errors.New("x") }}, body, "blocked plugin_failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, at := range []struct {
				uplinks UplinkSet
				want    []string
			}{{1, []string{c.tsp, clean[1]}}, {2, []string{clean[0], ""}}} {
				s := usualSet(t)
				s.Filters = []Attached{{Filter: c.say, Uplinks: at.uplinks}}
				got := leaves(s.Explain(message("v1/a", c.body), morning, true))
				for u, want := range at.want {
					if want != "" && got[u] != want {
						t.Errorf("attached to %b, uplink %d: %s, want %s", at.uplinks, u, got[u], want)
					}
				}
			}
		})
	}
	t.Run("an empty set of uplinks is every uplink", func(t *testing.T) {
		s := usualSet(t)
		s.Filters = []Attached{{Filter: says(Opinion{Action: Block})}}
		if got := leaves(s.Explain(message("v1/a", body), morning, true)); got[0] != "blocked plugin" || got[1] != "blocked plugin" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a label here takes nothing from a grade there", func(t *testing.T) {
		s := usualSet(t)
		s.Filters = []Attached{
			{Filter: says(Opinion{Action: Pass, Labels: []uint16{catSpeed}}), Uplinks: 1},
			{Filter: says(Opinion{Action: Pass, Grade: Core}), Uplinks: 2},
		}
		if got := leaves(s.Explain(message("v1/a", "{}"), morning, true)); got[0] != "v1/a {}" || got[1] != "blocked policy" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a topic that it does not cover", func(t *testing.T) {
		s := usualSet(t)
		s.Filters = []Attached{
			{Filter: says(Opinion{Action: Block}), Topics: []string{"v2/#"}},
			{Filter: says(Opinion{Action: Pass, Labels: []uint16{catSite}}), Topics: []string{"v1/+"}},
		}
		d := s.Explain(message("v1/a", body), morning, true)
		if got := leaves(d); got[0] != "blocked policy" {
			t.Errorf("got %q", got)
		}
		if f := d.Class.Findings[len(d.Class.Findings)-1]; f.By != ByPlugin || f.Plugin != 1 {
			t.Errorf("the label is by %d, plugin %d", f.By, f.Plugin)
		}
	})
}

func TestEveryFindingIsSummedUpByWhatHappened(t *testing.T) {
	s := usualSet(t)
	s.Filters = []Attached{{Filter: says(Opinion{Action: Pass, Labels: []uint16{catSpeed}})}}
	d := s.Explain(message("v1/vin9/a", "speed=80;vin1=LX;lat=x;lon=1.5;tel1=2"), morning, true)
	want := []Action{Tokenize, Pass, Tokenize, Remove, Remove, Tokenize, Pass, Pass}
	if got := d.Uplinks[0].Final; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if d.Uplinks[0].Action != Remove || d.Uplinks[0].Reason != ReasonPolicy {
		t.Errorf("action %s for %s", d.Uplinks[0].Action, d.Uplinks[0].Reason)
	}
	for body, want := range map[string]struct {
		a   Action
		why Reason
	}{"speed=1": {Pass, NoReason}, "speed=1;what=2": {Remove, ReasonUnknownField}, "vin=1;what=2": {Remove, ReasonPolicy}} {
		if u := s.Explain(message("v1/a", body), morning, true).Uplinks[0]; u.Action != want.a || u.Reason != want.why {
			t.Errorf("%s: action %s for %s", body, u.Action, u.Reason)
		}
	}
	s.Filters[0].Filter = says(Opinion{Action: Pass, Edits: []Edit{{Finding: 0, Op: plain(Mask)}}})
	if u := s.Explain(message("v1/a", "speed=1"), morning, true).Uplinks[0]; u.Action != Mask || u.Reason != ReasonPlugin {
		t.Errorf("a filter's edit: action %s for %s", u.Action, u.Reason)
	}
	s.Filters[0].Filter = says(Opinion{Action: Pass, Labels: []uint16{catVIN}})
	u := s.Explain(message("v1/a", "speed=1"), morning, true).Uplinks[0]
	if u.Action != Tokenize || u.Final[1] != Tokenize || string(u.Payload) != "speed=tk:fleet:1" {
		t.Errorf("a filter's label: action %s, %v, %s", u.Action, u.Final, u.Payload)
	}
}

// Pair indices come from outside of this package: odd ones may tighten, never panic and never loosen.
func TestOddPairsOnlyTighten(t *testing.T) {
	for _, pairs := range [][]int32{{-1, -1, -1}, {0, 1, 2}, {9, -9, 9}, {1, 2, 0}, {1, -1, -1}, {2, 2, -1}, {-1, 0, 1}} {
		s := usualSet(t)
		var extra []Finding
		for i, p := range pairs {
			extra = append(extra, Finding{Place: Place{AtValue, int32(i + 1)}, Category: catSpeed, Grade: General, Pair: p})
		}
		s.Classifier = odd{extra}
		s.Filters = []Attached{{Filter: says(Opinion{Action: Pass, Edits: []Edit{{Finding: 1, Op: plain(Remove)}}})}}
		d := s.Explain(message("v1/a", "speed1=1;speed2=2;speed3=3"), morning, true)
		got := string(d.Uplinks[0].Payload)
		if strings.Contains(got, "speed2") {
			t.Errorf("pairs %v: %s", pairs, got)
		}
		for i, p := range pairs {
			if other := strings.Contains(got, fmt.Sprintf("speed%d", i+1)); p >= 0 && int(p) < len(pairs) && other != strings.Contains(got, fmt.Sprintf("speed%d", p+1)) {
				t.Errorf("pairs %v: one half left in %s", pairs, got)
			}
		}
	}
}

// odd is a classifier whose findings, on speed1, speed2 …, are made up by a test.
type odd struct{ findings []Finding }

func (odd) Categories() []Category { return testCats }
func (odd) Unlisted(bool) uint16   { return catOther }
func (o odd) Classify(_ *Message, b *Body, c *Classification) {
	for i := range b.Nodes {
		if n, err := strconv.Atoi(strings.TrimPrefix(string(b.Key(i)), "speed")); err == nil {
			f := o.findings[n-1]
			f.Place.Index = int32(i)
			c.Findings = append(c.Findings, f)
		}
	}
}

// A Decision is reused from message to message: nothing of one may show in the next.
func TestADecisionKeepsNothingOfTheLastOne(t *testing.T) {
	members := []string{"speed=80", "vin1=LX", "lat=31.2", "lon=121.4", "lon=east", "phone=138", "recipe=R", "site=S", "what=1", "tel9=5", "vin2=LY"}
	topics := []string{"v1/a", "v1/vin9/a", "vin1/vin2", "x/$sluice/y"}
	whole := []string{"!", "", "{}", "42", "vin"}
	r := rand.New(rand.NewPCG(1, 2))
	s := usualSet(t)
	s.Filters = []Attached{{Topics: []string{"v1/#"}, Uplinks: 2, Filter: script{"dice", func(c *Classification, o *Opinion) error {
		switch n := len(c.Findings); {
		case n%5 == 4:
			return errors.New("x")
		case n%3 == 1:
			o.Labels = append(o.Labels, catVIN)
			o.Grade = Important
		case n > 0:
			o.Edits = append(o.Edits, Edit{Finding: int32(n - 1), Op: plain(Mask)}, Edit{Finding: 0, Regrade: Important})
		}
		return nil
	}}}}
	reused := new(Decision)
	for range 800 {
		body := whole[r.IntN(len(whole))]
		if r.IntN(4) > 0 {
			picked := make([]string, 1+r.IntN(6))
			for i := range picked {
				picked[i] = members[r.IntN(len(members))]
			}
			body = strings.Join(picked, ";")
		}
		m := message(topics[r.IntN(len(topics))], body)
		now := morning.AddDate(r.IntN(2), 0, 0)
		trusted := r.IntN(8) > 0
		fresh := new(Decision)
		s.decide(m, now, trusted, fresh)
		s.decide(m, now, trusted, reused)
		if got, want := told(t, s, reused), told(t, s, fresh); got != want {
			t.Fatalf("%s %s: reused\n%s\nfresh\n%s", m.Topic, body, got, want)
		}
		for u := range reused.Uplinks {
			if up := &reused.Uplinks[u]; up.State == Waiting && (bytes.Contains(up.Payload, []byte("site")) || bytes.Contains(up.Payload, []byte("what")) ||
				bytes.Contains(up.Payload, []byte("138")) || bytes.Contains(up.Payload, []byte("LX")) || strings.Contains(up.Topic, "vin")) {
				t.Fatalf("%s %s leaves as %s %s", m.Topic, body, up.Topic, up.Payload)
			}
		}
	}
}

// told is everything that a decision says, without the memory that it keeps.
func told(t *testing.T, s *VersionSet, d *Decision) string {
	t.Helper()
	out := []any{d.Grade, d.Personal, d.Sensitive, d.Action, d.Class.Unknown == nil || len(d.Class.Unknown) == 0, slices.Clone(d.Class.Findings)}
	for i := range d.Uplinks {
		u := &d.Uplinks[i]
		out = append(out, u.State, u.Action, u.Reason, slices.Clone(u.Rulings), slices.Clone(u.Final), u.Topic, string(u.Payload), u.same)
	}
	for i := range d.Opinions {
		o := &d.Opinions[i]
		out = append(out, o.Filter, o.Failed, o.Action, o.Grade, len(o.Labels), len(o.Edits))
	}
	e, err := s.entry(d)
	if err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := DecodeRecord(e.Record, &r); err != nil {
		t.Fatal(err)
	}
	r.Input = [32]byte{}
	for i := range r.Outcomes {
		r.Outcomes[i].Left = [32]byte{}
	}
	return fmt.Sprintf("%+v", append(out, r, e.Waits, e.Holds, e.Blocks))
}

// The work for a message grows with its size, not with the square of it: a device chooses the size.
// long is a redactor that writes 4 KiB for every value and counts how often it was asked.
type long struct {
	marks
	asked *int
}

func (r long) Apply(dst []byte, op Operation, _ Value, _ FieldContext) ([]byte, Kind, bool, error) {
	*r.asked++
	return fmt.Appendf(dst, "ct:%s:%s", op.To, strings.Repeat("-", 4<<10)), String, true, nil
}

func TestABodyThatGrowsBeyondMeasureIsGivenUpEarly(t *testing.T) {
	for _, op := range []RowConfig{{Action: "encrypt", To: "oem"}, {Action: "mask"}} {
		s := usualSet(t)
		op.Match = MatchConfig{Category: []string{"T-ID-VIN"}}
		asked := 0
		s.Redactor = long{asked: &asked}
		s.Policy = compiled(t, slices.Insert(slices.Clone(usualRows), 3, op))
		var body strings.Builder
		for i := range 20_000 {
			fmt.Fprintf(&body, "vin%d=LX;", i)
		}
		body.WriteString("speed=80")
		d := s.Explain(message("v1/a", body.String()), morning, true)
		if u := &d.Uplinks[0]; u.State != Blocked || u.Reason != ReasonOutput || asked > 2*maxWritten/(4<<10) {
			t.Errorf("%s: %s %s after %d values", op.Action, u.State, u.Reason, asked)
		}
	}
}

func TestALargeBodyIsDecidedInLinearTime(t *testing.T) {
	var body strings.Builder
	const members = 20_000
	for i := range members {
		if i > 0 {
			body.WriteByte(';')
		}
		switch i % 4 {
		case 0:
			fmt.Fprintf(&body, "speed%d=1", i)
		case 1:
			fmt.Fprintf(&body, "lat%d=x", i)
		case 2:
			fmt.Fprintf(&body, "lon%d=1", i)
		case 3:
			fmt.Fprintf(&body, "vin%d=1", i)
		}
	}
	s := usualSet(t)
	s.Classifier = names{extra: []Finding{{Place: Place{Kind: AtBody}, Category: catLat, Grade: General, Pair: -1}}}
	m := message("v1/a", body.String())
	began := time.Now()
	d := s.Explain(m, morning, true)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if u := &d.Uplinks[0]; u.State != Waiting || u.Final[0] != Generalize || u.Final[1] != Remove || u.Final[2] != Remove || u.Final[3] != Tokenize {
		t.Errorf("%s %s %v", u.State, u.Reason, u.Final[:4])
	}
}

func TestTheRecordOfADecision(t *testing.T) {
	s := usualSet(t)
	s.Sources["bench"] = 3
	s.Filters = []Attached{{Filter: says(Opinion{Action: Pass, Grade: General, Reason: 5, Edits: []Edit{{Finding: 0, Op: plain(Mask)}}}), Uplinks: 1}}
	d := s.Explain(message("v1/a", "speed=80;vin1=LX;vin2=LY;phone=1;recipe=R;what=1;ever=2"), morning.Add(time.Second), true)
	e, err := s.entry(d)
	if err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := DecodeRecord(e.Record, &r); err != nil {
		t.Fatal(err)
	}
	m := d.Message
	left := Commitment("sluice left v1", &e.Salt, []byte("v1/a"), e.Outlets[0].Payload)
	want := Record{Kind: DecisionRecord, Time: morning.Add(time.Second), Trusted: true, ID: m.ID, Set: 1, Source: 3, Grade: Important,
		Personal: true, Sensitive: true, Received: morning,
		Input:    Commitment("sluice input v1", &e.Salt, []byte(m.Topic), []byte(m.Client), m.Payload),
		Findings: []Counted{{catSpeed, Mask, 1}, {catVIN, Remove, 2}, {catPhone, Remove, 1}, {catRecipe, Block, 1}, {catOther, Remove, 2}},
		Plugins:  []PluginOutcome{{Plugin: 0, Action: Pass, Grade: General, Reason: 5, Edits: 1}},
		Outcomes: []Outcome{{Uplink: 0, State: Waiting, Action: Remove, Reason: ReasonPolicy, Left: left}, {Uplink: 1, State: Blocked, Action: Block, Reason: ReasonPolicy}},
		Detail:   r.Detail}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
	if e.Waits != 1 || e.Blocks != 2 || e.Holds != 0 || len(e.Outlets) != 1 || e.Outlets[0].Uplinks != 1 || e.Source != "bench" || e.Grade != Important {
		t.Errorf("entry %+v", e)
	}
	if strings.Contains(string(e.Record), "LX") || strings.Contains(string(e.Record), "vin1") {
		t.Error("the record quotes the message")
	}
}

func TestUplinksWithOneOutcomeShareOneBody(t *testing.T) {
	s := usualSet(t)
	s.Policy = compiled(t, []RowConfig{usualRows[0], {Match: MatchConfig{Category: []string{"T-RECIPE"}}, Action: "hold"}, {Match: MatchConfig{Grade: []string{"important"}}, Action: "block"},
		{Match: MatchConfig{Category: []string{"T-ID-VIN"}}, Action: "tokenize", Domain: "fleet"}, {Action: "pass"}})
	for _, body := range []string{"speed=1", "vin1=LX;speed=1", "recipe=R;speed=1", "vin1=LX;what=1"} {
		d := s.Explain(message("v1/a", body), morning, true)
		e, err := s.entry(d)
		if err != nil || len(e.Outlets) != 1 || e.Outlets[0].Uplinks != 3 || e.Waits|e.Holds != 3 {
			t.Errorf("%s: %d outlets, waits %b, holds %b: %v", body, len(e.Outlets), e.Waits, e.Holds, err)
		}
		if !reflect.DeepEqual(d.Uplinks[0].Final, d.Uplinks[1].Final) || d.Uplinks[0].Action != d.Uplinks[1].Action {
			t.Errorf("%s: %v and %v", body, d.Uplinks[0].Final, d.Uplinks[1].Final)
		}
	}
}
