package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	morning = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	quiet   = slog.New(slog.DiscardHandler)
)

// flat is a codec for a notation without nesting: name=value;name=value is an object, {} an empty one, and a text
// without = is one value. Anything that holds ! cannot be decoded.
type flat struct {
	spoil func(out []byte) []byte // what a broken editor makes of its output
	fail  bool                    // Encode fails
}

func (c flat) Decode(raw []byte, b *Body) error {
	*b = Body{Encoding: Text, Raw: raw, Arena: b.Arena[:0], Nodes: b.Nodes[:0]}
	whole := Span{0, int32(len(raw))}
	switch {
	case len(raw) == 0 || bytes.ContainsRune(raw, '!'):
		return errors.New("decode flat: not flat")
	case string(raw) == "{}":
		b.Nodes = append(b.Nodes, Node{Kind: Object, Parent: -1, Next: 1, Member: whole, Value: whole})
		return nil
	case !bytes.ContainsRune(raw, '='):
		b.Nodes = append(b.Nodes, Node{Kind: kindOf(string(raw)), Parent: -1, Next: 1, Member: whole, Value: whole, Text: whole})
		return nil
	}
	b.Nodes = append(b.Nodes, Node{Kind: Object, Parent: -1, Member: whole, Value: whole})
	off := 0
	for i, member := range strings.Split(string(raw), ";") {
		key, value, ok := strings.Cut(member, "=")
		if !ok {
			b.Nodes = b.Nodes[:0]
			return errors.New("decode flat: member without value")
		}
		v := Span{int32(off + len(key) + 1), int32(len(value))}
		b.Nodes = append(b.Nodes, Node{Kind: kindOf(value), Next: int32(i + 2), Index: int32(i), Member: Span{int32(off), int32(len(member))},
			Key: Span{int32(off), int32(len(key))}, Value: v, Text: v})
		off += len(member) + 1
	}
	b.Nodes[0].Next = int32(len(b.Nodes))
	return nil
}

func kindOf(s string) Kind {
	if strings.Trim(s, "0123456789.-") == "" {
		return Number
	}
	return String
}

func (c flat) Encode(dst []byte, b *Body, changes []Change, out *[]Span) ([]byte, error) {
	if c.fail {
		return dst, errors.New("encode flat: told to fail")
	}
	base, first, next := len(dst), true, 0
	write := func(c *Change) {
		*out = append(*out, Span{int32(len(dst) - base), int32(len(c.With))})
		dst = append(dst, c.With...)
	}
	for i := range b.Nodes {
		n := &b.Nodes[i]
		var key, value *Change
		drop := false
		for ; next < len(changes) && changes[next].Node == int32(i); next++ {
			switch ch := &changes[next]; ch.Op {
			case SetKey:
				key = ch
			case SetValue:
				value = ch
			case DropNode:
				drop = true
			}
		}
		if drop || n.Kind.Container() {
			continue
		}
		if n.Parent >= 0 {
			if !first {
				dst = append(dst, ';')
			}
			first = false
			if key != nil {
				write(key)
			} else {
				dst = append(dst, b.Key(i)...)
			}
			dst = append(dst, '=')
		}
		if value != nil {
			write(value)
		} else {
			dst = append(dst, b.Text(i)...)
		}
	}
	if len(dst) == base {
		dst = append(dst, "{}"...)
	}
	if c.spoil != nil {
		dst = append(dst[:base:base], c.spoil(slices.Clone(dst[base:]))...)
	}
	return dst, nil
}

// The categories of names, by index; names finds members by what their name begins with.
const (
	catSpeed = iota
	catVIN
	catLat
	catPhone
	catRecipe
	catSite
	catOther
	catOpaque
)

var testCats = []Category{
	{ID: "T-SPEED", Class: "drive", Grade: General},
	{ID: "T-ID-VIN", Class: "identity", Grade: General, Personal: true},
	{ID: "T-LOC", Class: "location", Grade: General, Personal: true, Sensitive: true},
	{ID: "T-ID-PHONE", Class: "identity", Grade: General, Personal: true, Sensitive: true},
	{ID: "T-RECIPE", Class: "process", Grade: Important},
	{ID: "T-SITE", Class: "location", Grade: Core},
	{ID: "T-OTHER", Grade: Ungraded},
	{ID: "T-OPAQUE", Grade: Ungraded},
}

// names is a classifier: it knows members by name, lat and lon as a pair, vin… in topics, and tel… used as a name.
type names struct {
	silent bool               // says nothing about a body that it cannot look into
	extra  []Finding          // added to every message
	also   func(b *Body) bool // adds a finding of T-SITE to a body for which it holds
}

func (names) Categories() []Category { return testCats }

func (names) Unlisted(opaque bool) uint16 {
	if opaque {
		return catOpaque
	}
	return catOther
}

func (c names) Classify(m *Message, b *Body, out *Classification) {
	add := func(k PlaceKind, i int, category uint16) {
		cat := &testCats[category]
		out.Findings = append(out.Findings, Finding{Place: Place{k, int32(i)}, Category: category, Grade: cat.Grade, Personal: cat.Personal,
			Sensitive: cat.Sensitive, By: ByCatalog, Confidence: 80, Pair: -1})
	}
	for i, level := range strings.Split(m.Topic, "/") {
		if strings.HasPrefix(level, "vin") {
			add(AtTopic, i, catVIN)
		}
	}
	if strings.HasPrefix(m.Client, "vin") {
		add(AtClient, 0, catVIN)
	}
	if len(b.Nodes) == 0 {
		if !c.silent {
			add(AtBody, 0, catOpaque)
		}
		return
	}
	lat := -1
	for i := range b.Nodes {
		if b.Nodes[i].Kind.Container() {
			continue
		}
		key := string(b.Key(i))
		if strings.HasPrefix(key, "tel") {
			add(AtKey, i, catPhone)
		}
		switch {
		case strings.HasPrefix(key, "speed"), strings.HasPrefix(key, "tel"), strings.HasPrefix(key, "tk"):
			add(AtValue, i, catSpeed)
		case strings.HasPrefix(key, "vin"), string(b.Text(i)) == "vin":
			add(AtValue, i, catVIN)
		case strings.HasPrefix(key, "phone"):
			add(AtValue, i, catPhone)
		case strings.HasPrefix(key, "recipe"):
			add(AtValue, i, catRecipe)
		case strings.HasPrefix(key, "site"):
			add(AtValue, i, catSite)
		case strings.HasPrefix(key, "lat"):
			lat = len(out.Findings)
			add(AtValue, i, catLat)
		case strings.HasPrefix(key, "lon"):
			add(AtValue, i, catLat)
			if n := len(out.Findings) - 1; lat >= 0 {
				out.Findings[n].Pair, out.Findings[lat].Pair = int32(lat), int32(n)
			}
		default:
			out.Unknown = append(out.Unknown, int32(i))
		}
	}
	if c.also != nil && c.also(b) {
		add(AtBody, 0, catSite)
	}
	out.Findings = append(out.Findings, c.extra...)
}

// marks is a redactor whose work is easy to read: token:domain, cipher:recipient, stars, digits cut off.
type marks struct{ distrust bool }

func (r marks) Apply(dst []byte, op Operation, v Value, f FieldContext) ([]byte, Kind, bool, error) {
	switch op.Action {
	case Generalize:
		whole, _, _ := strings.Cut(string(v.Text), ".")
		if op.Decimals != 0 || v.Kind != Number {
			return dst, InvalidKind, false, nil
		}
		return append(dst, whole...), Number, true, nil
	case Mask:
		return append(dst, strings.Repeat("*", len(v.Text))...), String, true, nil
	case Tokenize:
		if op.Domain == "missing" {
			return dst, InvalidKind, false, errors.New("tokenize: no key")
		}
		return fmt.Appendf(dst, "tk:%s:%d", op.Domain, len(v.Text)), String, true, nil
	case Encrypt:
		if op.To == "missing" {
			return dst, InvalidKind, false, errors.New("encrypt: no key")
		}
		return fmt.Appendf(dst, "ct:%s:%s:%s", op.To, op.Inner, f.Pointer), String, true, nil
	}
	return dst, InvalidKind, false, errors.New("redact: not an operation on a field")
}

func (r marks) Check(op Operation, out Value) bool {
	s := string(out.Text)
	switch {
	case r.distrust:
		return false
	case op.Action == Generalize:
		return out.Kind == Number && !strings.Contains(s, ".")
	case op.Action == Mask:
		return strings.Trim(s, "*") == ""
	case op.Action == Tokenize:
		return strings.HasPrefix(s, "tk:"+op.Domain)
	}
	return op.Action == Encrypt && strings.HasPrefix(s, "ct:"+op.To)
}

// script is a filter that says what it is told.
type script struct {
	name string
	say  func(c *Classification, o *Opinion) error
}

func (s script) Name() string { return s.name }

func (s script) Filter(_ *Message, _ *Body, c *Classification, o *Opinion) error { return s.say(c, o) }

func says(o Opinion) script {
	return script{"scripted", func(_ *Classification, out *Opinion) error {
		*out = Opinion{Action: o.Action, Grade: o.Grade, Labels: append(out.Labels, o.Labels...), Edits: append(out.Edits, o.Edits...), Reason: o.Reason}
		return nil
	}}
}

func digits(n int) *int { return &n }

// usualRows lets everything out that rules allow: core stays, recipes need an approval, the rest in reduced form.
var usualRows = []RowConfig{
	{Match: MatchConfig{Grade: []string{"core"}}, Action: "block"},
	{Match: MatchConfig{Grade: []string{"important"}, Jurisdiction: []string{"!CN"}}, Action: "block"},
	{Match: MatchConfig{Grade: []string{"important"}}, Action: "encrypt", To: "dso", Approval: &ApprovalConfig{Ref: "A-1", Until: "2026-12-31"}},
	{Match: MatchConfig{Category: []string{"T-ID-*"}, Uplink: []string{"lab"}}, Action: "remove"},
	{Match: MatchConfig{Category: []string{"T-ID-*"}}, Action: "tokenize", Domain: "fleet"},
	{Match: MatchConfig{Category: []string{"T-LOC"}}, Action: "generalize", Decimals: digits(0)},
	{Action: "pass"},
}

var testUplinks = []UplinkInfo{
	{Name: "tsp", Number: 0, Recipient: "TSP", Jurisdiction: "CN", Purpose: "diagnosis", LegalBasis: "contract"},
	{Name: "lab", Number: 1, Recipient: "Lab", Jurisdiction: "DE", Purpose: "research", LegalBasis: "consent"},
}

func compiled(t testing.TB, rows []RowConfig) *Policy {
	t.Helper()
	p, problems := CompilePolicy(rows, testCats, testUplinks, morning)
	if p == nil {
		t.Fatalf("policy does not compile: %v", problems)
	}
	return p
}

// usualSet is a version set of the fakes; tests change what they are about.
func usualSet(t testing.TB) *VersionSet {
	return &VersionSet{Number: 1, Classifier: names{}, Codec: flat{}, Policy: compiled(t, usualRows), Redactor: marks{}, Uplinks: testUplinks,
		Sources: map[string]uint16{"bench": 0}, Describe: func(string) []byte { return []byte("{}") },
		Custodian: func(m *Message) ([]byte, error) { return append([]byte("sealed:"), m.Payload...), nil }}
}

func message(topic, payload string) *Message {
	return &Message{ID: ID{7, 1}, Source: "bench", Client: "c1", Topic: topic, Payload: []byte(payload), Received: morning}
}

// leaves renders what becomes of a message per uplink: its topic and body, or state and reason.
func leaves(d *Decision) []string {
	var out []string
	for i := range d.Uplinks {
		switch u := &d.Uplinks[i]; u.State {
		case Waiting:
			out = append(out, u.Topic+" "+string(u.Payload))
		default:
			out = append(out, u.State.String()+" "+u.Reason.String())
		}
	}
	return out
}
