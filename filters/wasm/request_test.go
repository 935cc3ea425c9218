package wasm

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// testView sees CAT-A with its values and CAT-B without.
func testView() *view {
	return &view{label: []uint16{catOther: 0, catB: 2, catA: 1}, value: []bool{catOther: false, catB: false, catA: true},
		pseudonym: func(source, client string) string { return "p(" + source + "," + client + ")" }}
}

// record reads a request as the documentation says, independently of the builder.
type record []byte

func (r record) u16(at int) int { return int(r[at]) | int(r[at+1])<<8 }
func (r record) u32(at int) int { return r.u16(at) | r.u16(at+2)<<16 }
func (r record) u64(at int) uint64 {
	return uint64(uint32(r.u32(at))) | uint64(uint32(r.u32(at+4)))<<32
}
func (r record) text(off, n int) string { return string(r[off : off+n]) }
func (r record) finding(i int) record   { return r[r.u32(36)+32*i:][:32] }
func (r record) key(i int) string       { f := r.finding(i); return r.text(f.u32(16), f.u16(14)) }
func (r record) value(i int) string     { f := r.finding(i); return r.text(f.u32(20), f.u32(24)) }

func buildRecord(t *testing.T, v *view, m *gateway.Message, b *gateway.Body, c *gateway.Classification) record {
	t.Helper()
	buf := bytes.Repeat([]byte{0xee}, 8192) // what the message before left there
	n, ok := v.build(buf, &scratch{}, m, b, c)
	if !ok {
		t.Fatal("does not fit")
	}
	if r := record(buf); r.u32(0) != n || n%8 != 0 {
		t.Fatalf("record_len %d of %d", r.u32(0), n)
	}
	return record(buf[:n])
}

// The worked example of the package documentation.
func TestRequestOfTheExample(t *testing.T) {
	b := flat("lat", "39.9", "lon", "116.4")
	m := &gateway.Message{Topic: "t", Payload: b.Raw, Protocol: gateway.MQTT}
	c := &gateway.Classification{Findings: []gateway.Finding{at(1, catA), at(2, catA)}, Positions: []gateway.Position{{Lat: 39.9, Lon: 116.4, Datum: gateway.GCJ02, LatFind: 0, LonFind: 1}}}
	r := buildRecord(t, testView(), m, b, c)
	if len(r) != 168 || r.text(128, 1) != "t" || r.key(0) != "lat" || r.finding(0).u32(16) != 156 || r.key(1) != "lon" || r.finding(1).u32(16) != 159 {
		t.Errorf("%d bytes, keys at %d and %d", len(r), r.finding(0).u32(16), r.finding(1).u32(16))
	}
	for i := range 2 {
		if f := r.finding(i); f.u32(20) != 136 || f.u32(24) != 20 {
			t.Errorf("finding %d: value at %d of %d bytes", i, f.u32(20), f.u32(24))
		}
	}
	if math.Float64frombits(r.u64(136)) != 39.9 || math.Float64frombits(r.u64(144)) != 116.4 || r.u32(152) != 2 {
		t.Error("position differs")
	}
}

func TestRequestHeaderAndFindings(t *testing.T) {
	b := flat("a", "1.5", "b", `"text"`, "c", "true", "d", "null")
	m := messageOf(b)
	whole := gateway.Finding{Place: gateway.Place{Kind: gateway.AtBody}, Category: catB, Grade: gateway.Important, Pair: -1}
	topic := gateway.Finding{Place: gateway.Place{Kind: gateway.AtTopic, Index: 1}, Category: catA, Grade: gateway.General, Confidence: 30, Personal: true, Sensitive: true, Pair: -1}
	client := gateway.Finding{Place: gateway.Place{Kind: gateway.AtClient}, Category: catB, Grade: gateway.General, Personal: true, Pair: -1}
	c := &gateway.Classification{Findings: []gateway.Finding{at(1, catA), at(2, catB), at(3, catOther), at(4, catA), whole, whole, topic, client}}
	r := buildRecord(t, testView(), m, b, c)
	if r.u16(4) != 1 || r.u16(6) != 64 || r.u64(8) != 77 || r.u64(16) != 1_700_000_000_123 || r[24] != 1 || r[25] != 1 || r[26] != 2 || r[27] != 0 || r.u32(60) != 0 {
		t.Errorf("header % x", []byte(r[:64]))
	}
	if r.u32(28) != len(b.Raw) || r.u32(32) != 0 || r.u16(40) != 8 || r.text(r.u32(48), r.u16(52)) != m.Topic || r.text(r.u32(56), r.u16(54)) != "p(src,vehicle)" {
		t.Errorf("payload, topic or source: % x", []byte(r[28:64]))
	}
	if r.u16(42) != 1 || r.u16(r.u32(44)) != 2 {
		t.Errorf("labels: %d", r.u16(42))
	}
	for i, want := range []struct {
		off, n, category   int
		kind, grade, flags byte
		key, value         string
	}{
		{5, 3, 1, 2, 1, 0, "a", "1.5"}, {13, 6, 2, 1, 1, 0, "b", ""}, {24, 4, 0, 3, 1, 0, "c", ""}, {33, 4, 1, 5, 1, 0, "d", "null"},
		{0, len(b.Raw), 2, 5, 2, 0, "", ""}, {0, len(b.Raw), 2, 5, 2, 0, "", ""}, {0, 0, 1, 1, 1, 3, "", "car"}, {0, 0, 2, 1, 1, 1, "", ""},
	} {
		f := r.finding(i)
		if f.u32(0) != want.off || f.u32(4) != want.n || f.u16(8) != want.category || f[10] != want.kind || f[12] != want.grade || f[13] != want.flags ||
			r.key(i) != want.key || r.value(i) != want.value || (want.value == "") != (f.u32(20) == 0) || f.u32(28) != 0 {
			t.Errorf("finding %d: % x, key %q, value %q", i, []byte(f), r.key(i), r.value(i))
		}
	}
}

func TestWhatIsNotGrantedIsNotInTheRequest(t *testing.T) {
	b := flat("SECRETKEY", `"SECRETVALUE"`, "x", `"SECRETTEXT"`)
	m := messageOf(b)
	m.Client = "SECRETCLIENT"
	key := gateway.Finding{Place: gateway.Place{Kind: gateway.AtKey, Index: 1}, Category: catB, Pair: -1}
	client := gateway.Finding{Place: gateway.Place{Kind: gateway.AtClient}, Category: catB, Pair: -1}
	c := &gateway.Classification{Findings: []gateway.Finding{key, at(1, catB), at(2, catB), client}}
	v := testView()
	v.pseudonym = func(string, string) string { return "p" }
	if r := buildRecord(t, v, m, b, c); bytes.Contains(r, []byte("SECRET")) {
		t.Errorf("request holds what was not granted: %q", r)
	}
	v.pseudonym = nil
	if r := buildRecord(t, v, m, b, c); r.u16(54) != 0 || bytes.Contains(r, []byte("SECRET")) {
		t.Error("request names the device without a pseudonym")
	}
	v.source, v.payload, v.value[catB] = true, true, true
	r := buildRecord(t, v, m, b, c)
	if r.text(r.u32(56), r.u16(54)) != "SECRETCLIENT" || r[27] != 1 || r.text(r.u32(32), r.u32(28)) != string(b.Raw) || r.u32(32)%8 != 0 {
		t.Error("source or payload is missing although granted")
	}
	for i, want := range []string{"SECRETKEY", "SECRETVALUE", "SECRETTEXT", "SECRETCLIENT"} {
		if r.value(i) != want {
			t.Errorf("value of finding %d is %q", i, r.value(i))
		}
	}
	if r.key(1) != "SECRETKEY" || r.key(2) != "x" {
		t.Errorf("keys %q and %q", r.key(1), r.key(2))
	}
}

func TestGradeOfARequest(t *testing.T) {
	b := flat("a", "1")
	for _, c := range []struct {
		body   *gateway.Body
		grades []gateway.Grade
		want   byte
	}{{b, nil, 1}, {b, []gateway.Grade{gateway.General, gateway.Core, gateway.Important}, 3}, {b, []gateway.Grade{gateway.Ungraded, gateway.Important}, 0},
		{&gateway.Body{Raw: []byte{1}}, nil, 0}} {
		class := &gateway.Classification{}
		for _, g := range c.grades {
			f := at(0, catA)
			f.Place, f.Grade = gateway.Place{Kind: gateway.AtBody}, g
			class.Findings = append(class.Findings, f)
		}
		if r := buildRecord(t, testView(), messageOf(c.body), c.body, class); r[26] != c.want {
			t.Errorf("grades %v: %d, want %d", c.grades, r[26], c.want)
		}
	}
}

// Awkward messages: whatever they hold, a request that fits keeps the rules of the ABI, and one byte less does not fit.
func TestRequestFitsExactlyOrNotAtAll(t *testing.T) {
	b := flat("", "1", "k\xff", `"`+strings.Repeat("v", 300)+`"`)
	m := messageOf(b)
	m.Topic = "\xff\xfe/" + strings.Repeat("t", 1000)
	c := &gateway.Classification{Findings: []gateway.Finding{at(1, catA), at(2, catA)}, Positions: []gateway.Position{{LatFind: 0, LonFind: 9}, {LatFind: -1, LonFind: -1}}}
	v := testView()
	v.payload = true
	n := len(buildRecord(t, v, m, b, c))
	for size := 0; size < n+64; size += 8 {
		got, ok := v.build(make([]byte, size), &scratch{}, m, b, c)
		if ok != (size >= n) || (ok && got != n) {
			t.Errorf("%d bytes of room: %d, %v; the record has %d", size, got, ok, n)
		}
	}
}

func TestPseudonymsAreRememberedWithinBounds(t *testing.T) {
	calls := 0
	v := testView()
	v.pseudonym = func(source, client string) string { calls++; return strings.ToUpper(client) }
	b := flat("a", "1")
	m := messageOf(b)
	s := &scratch{}
	buf := make([]byte, 4096)
	for range 3 {
		v.build(buf, s, m, b, &gateway.Classification{})
	}
	if calls != 1 {
		t.Errorf("%d calls for one device", calls)
	}
	other := *m
	other.Source = "elsewhere"
	if v.build(buf, s, &other, b, &gateway.Classification{}); calls != 2 {
		t.Error("the same client id at another source is taken for the same device")
	}
	for i := range 5 * maxNames {
		m.Client = string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		v.build(buf, s, m, b, &gateway.Classification{})
		if len(s.names) > maxNames {
			t.Fatalf("%d names remembered", len(s.names))
		}
		for d := range s.names {
			if len(d.client) > maxNameLen {
				t.Fatal("a long name is remembered")
			}
		}
	}
}

func TestNameOfAnElementIsItsContainers(t *testing.T) {
	raw := `{"route":[[39.9,116.4]]}`
	num := func(off, n int32, parent, next, index int32) gateway.Node {
		s := gateway.Span{Off: off, Len: n}
		return gateway.Node{Kind: gateway.Number, Parent: parent, Next: next, Index: index, Member: s, Value: s, Text: s}
	}
	b := &gateway.Body{Encoding: gateway.JSON, Raw: []byte(raw), Nodes: []gateway.Node{{Kind: gateway.Object, Parent: -1, Next: 5},
		{Kind: gateway.Array, Parent: 0, Next: 5, Key: gateway.Span{Off: 2, Len: 5}}, {Kind: gateway.Array, Parent: 1, Next: 5}, num(11, 4, 2, 4, 0), num(16, 5, 2, 5, 1)}}
	r := buildRecord(t, testView(), messageOf(b), b, &gateway.Classification{Findings: []gateway.Finding{at(3, catB), at(4, catA)}})
	if r.key(0) != "route" || r.key(1) != "route" || r.value(1) != "116.4" {
		t.Errorf("%q %q %q", r.key(0), r.key(1), r.value(1))
	}
	if slices.Equal(r.finding(0), r.finding(1)) {
		t.Error("findings are the same")
	}
}
