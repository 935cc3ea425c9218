package wasm

import (
	"slices"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// testJudge knows CAT-A and CAT-B as labels 1 and 2, 3 is not in the catalogs; edits 1 to 4 are one of each kind.
func testJudge(payload bool) *judge {
	v := &view{label: []uint16{catOther: 0, catB: 2, catA: 1}, value: make([]bool, 3), payload: payload}
	return &judge{view: v, categories: []int32{catA, catB, -1}, reasons: []uint16{1, 900}, profiles: []profile{
		{1, gateway.Operation{Action: gateway.Mask}}, {2, gateway.Operation{Action: gateway.Generalize, Decimals: 2}},
		{3, gateway.Operation{Action: gateway.Tokenize, Domain: "d"}}, {4, gateway.Operation{Action: gateway.Encrypt, To: "r"}},
		{1 << 31, gateway.Operation{Action: gateway.Mask, Head: 1}}}}
}

// judged is the message of the verdict tests: findings 0 to 2 on a, b and c, 3 on c again, 4 of a category the plugin may not
// see, 5 on the client id, which is nowhere in the payload. Node 4, d, has no finding.
func judged() (*gateway.Body, *gateway.Classification) {
	b := flat("a", "1.25", "b", "2.5", "c", `"text"`, "d", "true")
	client := gateway.Finding{Place: gateway.Place{Kind: gateway.AtClient}, Category: catA, Pair: -1}
	return b, &gateway.Classification{Findings: []gateway.Finding{at(1, catA), at(2, catA), at(3, catA), at(3, catB), at(1, catOther), client}}
}

const onRange = 1

func op(n, label uint32) uint32 { return n<<8 | label<<16 }

func TestVerdictsThatAreRefused(t *testing.T) {
	patch := func(at int, value ...byte) []byte {
		v := verdictBytes(1, 0, 0, [][4]uint32{{op(6, 0), 0, 0, 0}}, 1)
		copy(v[at:], value)
		return v
	}
	b, c := judged()
	value := func(node, off int) uint32 { return uint32(b.Nodes[node].Value.Off) + uint32(off) }
	one := func(e ...uint32) []byte { return verdictBytes(1, 0, 0, [][4]uint32{[4]uint32(e)}) }
	two := func(e ...uint32) []byte {
		return verdictBytes(1, 0, 0, [][4]uint32{[4]uint32(e[:4]), [4]uint32(e[4:])})
	}
	var many [][4]uint32
	for range maxVerdictEdits + 1 {
		many = append(many, [4]uint32{op(6, 0), 0, 0, 0})
	}
	size := uint32(len(b.Raw))
	for name, v := range map[string][]byte{
		"nothing":                             {},
		"half a header":                       nothing[:8],
		"record_len too small":                patch(0, 39),
		"record_len too large":                patch(0, 41),
		"record_len huge":                     patch(0, 0xff, 0xff, 0xff, 0xff),
		"version 0":                           patch(4, 0),
		"version 2":                           patch(4, 2),
		"action 0":                            patch(6, 0),
		"action 4":                            patch(6, 4),
		"grade 4":                             patch(7, 4),
		"fewer edits than bytes":              patch(8, 0),
		"more edits than bytes":               patch(8, 2),
		"65,535 edits":                        patch(8, 0xff, 0xff),
		"fewer labels than bytes":             patch(10, 0),
		"more labels than bytes":              patch(10, 9),
		"65,535 labels":                       patch(10, 0xff, 0xff),
		"unknown reason":                      patch(12, 2),
		"flags":                               patch(14, 1),
		"flags, high byte":                    patch(15, 1),
		"padding":                             patch(39, 1),
		"label 0":                             patch(32, 0, 0),
		"label out of the manifest":           patch(32, 4),
		"label that the catalogs do not have": patch(32, 3),
		"label twice":                         verdictBytes(1, 0, 0, nil, 1, 2, 1),
		"65 labels":                           verdictBytes(1, 0, 0, nil, make([]uint16, 65)...),
		"4,097 edits":                         verdictBytes(1, 0, 0, many),
		"a pool without a replace": func() []byte {
			v := append(slices.Clone(nothing), make([]byte, 8)...)
			le.PutUint32(v, uint32(len(v)))
			return v
		}(),
		"unknown target":                       one(op(6, 0)|2, 0, 0, 0),
		"edit label out of the manifest":       one(op(6, 4), 0, 0, 0),
		"edit label not in the catalogs":       one(op(6, 3), 0, 0, 0),
		"op 0":                                 one(op(0, 0), 0, 0, 0),
		"op 8":                                 one(op(8, 0), 0, 0, 0),
		"op 255":                               one(op(255, 0), 0, 0, 0),
		"replace":                              one(op(5, 0), 0, 0, 0),
		"remove with a parameter":              one(op(6, 0), 0, 0, 1),
		"regrade to 0":                         one(op(7, 0), 0, 0, 0),
		"regrade to 4":                         one(op(7, 0), 0, 0, 4),
		"regrade to 257":                       one(op(7, 0), 0, 0, 257),
		"unknown profile":                      one(op(1, 0), 0, 0, 77),
		"profile 0":                            one(op(1, 0), 0, 0, 0),
		"profile of another operation":         one(op(1, 0), 0, 0, 2),
		"a finding that is not there":          one(op(6, 0), 6, 0, 0),
		"a finding far away":                   one(op(6, 0), 0xffffffff, 0, 0),
		"a finding with a length":              one(op(6, 0), 0, 1, 0),
		"a finding that it may not see":        one(op(6, 0), 4, 0, 0),
		"unsorted findings":                    two(op(6, 0), 1, 0, 0, op(6, 0), 0, 0, 0),
		"one finding twice":                    two(op(6, 0), 1, 0, 0, op(7, 0), 1, 0, 2),
		"empty range":                          one(op(6, 0)|onRange, value(1, 0), 0, 0),
		"range of a finding, then the finding": two(op(6, 0)|onRange, value(2, 0), 1, 0, op(6, 0), 1, 0, 0),
		"a finding, then its range":            two(op(6, 0), 1, 0, 0, op(6, 0)|onRange, value(2, 0), 1, 0),
		"two ranges in one value":              two(op(6, 0)|onRange, value(3, 0), 1, 0, op(6, 0)|onRange, value(3, 2), 1, 0),
		"overlapping ranges":                   two(op(6, 0)|onRange, value(2, 0), 2, 0, op(6, 0)|onRange, value(2, 1), 1, 0),
		"unsorted ranges":                      two(op(6, 0)|onRange, value(3, 0), 1, 0, op(6, 0)|onRange, value(2, 0), 1, 0),
		"range over two values":                one(op(6, 0)|onRange, value(1, 0), 10, 0),
		"range that begins before a value":     one(op(6, 0)|onRange, value(1, -1), 2, 0),
		"range that ends behind a value":       one(op(6, 0)|onRange, value(1, 3), 2, 0),
		"range on a key":                       one(op(6, 0)|onRange, 1, 2, 0),
		"range on the end":                     one(op(6, 0)|onRange, size-1, 1, 0),
		"range over the end":                   one(op(6, 0)|onRange, size-1, 2, 0),
		"range that wraps around":              one(op(6, 0)|onRange, 0xffffffff, 2, 0),
		"range on a value without a finding":   one(op(6, 0)|onRange, value(4, 0), 1, 0),
	} {
		t.Run(name, func(t *testing.T) {
			if err := testJudge(true).read(v, &scratch{}, b, c, noObjection()); err == nil {
				t.Error("accepted")
			}
		})
	}
	if err := testJudge(false).read(one(op(6, 0)|onRange, value(1, 0), 1, 0), &scratch{}, b, c, noObjection()); err == nil {
		t.Error("a range is accepted without read.payload")
	}
}

func TestVerdictsThatAreAccepted(t *testing.T) {
	b, c := judged()
	value := func(node int) uint32 { return uint32(b.Nodes[node].Value.Off) }
	v := verdictBytes(3, 1, 1, [][4]uint32{{op(1, 1), 0, 0, 1 << 31}, {op(7, 2), 5, 0, 1}, {op(2, 0) | onRange, value(2) + 1, 2, 2}, {op(4, 0) | onRange, value(3), 6, 4}}, 1)
	o, s := noObjection(), &scratch{}
	for range 2 { // scratch memory is used again
		o.Edits, o.Labels = o.Edits[:0], o.Labels[:0]
		if err := testJudge(true).read(v, s, b, c, o); err != nil {
			t.Fatal(err)
		}
	}
	want := []gateway.Edit{{Finding: 0, Op: gateway.Operation{Action: gateway.Mask, Head: 1}}, {Finding: 1, Op: gateway.Operation{Action: gateway.Generalize, Decimals: 2}},
		{Finding: 2, Op: gateway.Operation{Action: gateway.Encrypt, To: "r"}}, {Finding: 5, Regrade: gateway.General}}
	if o.Action != gateway.Block || o.Grade != gateway.General || o.Reason != 1 || !slices.Equal(o.Labels, []uint16{catA}) || !slices.Equal(o.Edits, want) {
		t.Errorf("opinion %+v", o)
	}
	full := make([]gateway.Finding, maxVerdictEdits)
	var edits [][4]uint32
	for i := range full {
		full[i] = at(1, catA)
		edits = append(edits, [4]uint32{op(7, 0), uint32(i), 0, 3})
	}
	o = noObjection()
	if err := testJudge(false).read(verdictBytes(1, 0, 0, edits), s, b, &gateway.Classification{Findings: full}, o); err != nil || len(o.Edits) != maxVerdictEdits {
		t.Errorf("4,096 edits: %v, %d", err, len(o.Edits))
	}
}

func FuzzVerdict(f *testing.F) {
	f.Add(nothing, true)
	f.Add(verdictBytes(2, 3, 900, [][4]uint32{{op(1, 1), 0, 0, 1}, {op(2, 0), 1, 0, 2}, {op(3, 0), 2, 0, 3}, {op(4, 0), 3, 0, 4}, {op(6, 0), 5, 0, 0}}, 1, 2), false)
	f.Add(verdictBytes(3, 0, 0, [][4]uint32{{op(7, 2), 3, 0, 3}, {op(6, 0) | onRange, 5, 4, 0}, {op(1, 0) | onRange, 14, 2, 1}}), true)
	b, c := judged()
	judges := map[bool]*judge{false: testJudge(false), true: testJudge(true)}
	s := &scratch{}
	f.Fuzz(func(t *testing.T, v []byte, payload bool) {
		before := slices.Clone(v)
		o := noObjection()
		err := judges[payload].read(v, s, b, c, o)
		if !slices.Equal(v, before) {
			t.Fatal("reading changed the verdict")
		}
		if err != nil {
			return
		}
		// What was accepted keeps the promises that the engine relies on.
		if o.Action != gateway.Pass && !o.Action.OnMessage() || o.Action == gateway.Undecided || o.Grade > gateway.Core || len(o.Edits) > len(c.Findings) || len(o.Labels) > 2 {
			t.Fatalf("opinion %+v", o)
		}
		last := int32(-1)
		for _, e := range o.Edits {
			regrades := e.Regrade != gateway.Ungraded
			if e.Finding <= last || int(e.Finding) >= len(c.Findings) || c.Findings[e.Finding].Category == catOther || e.Regrade > gateway.Core ||
				regrades != (e.Op == gateway.Operation{}) || (!regrades && (e.Op.Action < gateway.Generalize || e.Op.Action > gateway.Remove)) {
				t.Fatalf("edit %+v", e)
			}
			last = e.Finding
		}
		// There is one encoding of it but for ranges, edit labels and the order of labels: the length is what the counts say.
		if len(v) != verdictLen+editLen*len(o.Edits)+(2*len(o.Labels)+7)&^7 {
			t.Fatalf("%d bytes hold %d edits and %d labels", len(v), len(o.Edits), len(o.Labels))
		}
	})
}
