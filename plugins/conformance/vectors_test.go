package conformance

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the vector files anew")

var le = binary.LittleEndian

// request is a request record before it is bytes.
type request struct {
	topic, source string
	msgID         uint64
	timeMS        int64
	facts         [4]byte // protocol, encoding, grade, flags
	labels        []uint16
	findings      []finding
	payload       []byte
	hidden        bool // the payload is not in the record
	header        int  // length of the header, 64 when 0
}

type finding struct {
	off, len                       uint32
	label                          uint16
	kind, confidence, grade, flags byte
	key, value                     string
	latitude, longitude            float64 // with a value of 20 bytes
	datum                          uint32
	position                       bool
}

// record writes the request as the ABI wants it.
func (r *request) record() []byte {
	header := max(r.header, 64)
	b := make([]byte, header+32*len(r.findings))
	put := func(s string) uint32 {
		b = append(b, s...)
		return uint32(len(b) - len(s))
	}
	align := func() {
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	for i := 64; i < header; i++ {
		b[i] = 0xee // fields of a later version
	}
	le.PutUint16(b[4:], 1)
	le.PutUint16(b[6:], uint16(header))
	le.PutUint64(b[8:], r.msgID)
	le.PutUint64(b[16:], uint64(r.timeMS))
	copy(b[24:], r.facts[:])
	le.PutUint32(b[28:], uint32(len(r.payload)))
	le.PutUint32(b[36:], uint32(header))
	le.PutUint16(b[40:], uint16(len(r.findings)))
	le.PutUint16(b[42:], uint16(len(r.labels)))
	le.PutUint32(b[44:], uint32(len(b)))
	for _, l := range r.labels {
		b = le.AppendUint16(b, l)
	}
	topic := put(r.topic)
	source := put(r.source)
	le.PutUint32(b[48:], topic)
	le.PutUint16(b[52:], uint16(len(r.topic)))
	le.PutUint16(b[54:], uint16(len(r.source)))
	le.PutUint32(b[56:], source)
	for i, f := range r.findings {
		var key, value uint32
		if f.key != "" {
			key = put(f.key)
		}
		if v := f.bytes(); v != "" {
			align()
			value = put(v)
		}
		at := b[header+32*i:]
		le.PutUint32(at, f.off)
		le.PutUint32(at[4:], f.len)
		le.PutUint16(at[8:], f.label)
		at[10], at[11], at[12], at[13] = f.kind, f.confidence, f.grade, f.flags
		le.PutUint16(at[14:], uint16(len(f.key)))
		le.PutUint32(at[16:], key)
		le.PutUint32(at[20:], value)
		le.PutUint32(at[24:], uint32(len(f.bytes())))
	}
	if r.payload != nil && !r.hidden {
		align()
		at := put(string(r.payload))
		le.PutUint32(b[32:], at)
		b[27] |= 1
	}
	align()
	le.PutUint32(b, uint32(len(b)))
	return b
}

// bytes is the finding's value as it stands in the record.
func (f *finding) bytes() string {
	if !f.position {
		return f.value
	}
	b := le.AppendUint64(nil, math.Float64bits(f.latitude))
	b = le.AppendUint64(b, math.Float64bits(f.longitude))
	return string(le.AppendUint32(b, f.datum))
}

// sum is what the word "sum" makes of a request, by the README's words and without reading a record.
func (r *request) sum() verdict {
	h := fnv.New32a()
	add := func(v any) {
		if s, ok := v.(string); ok {
			binary.Write(h, le, uint32(len(s)))
			v = []byte(s)
		}
		binary.Write(h, le, v)
	}
	facts := r.facts
	visible := ""
	if r.payload != nil && !r.hidden {
		facts[3] |= 1
		visible = string(r.payload)
	}
	add(r.msgID)
	add(r.timeMS)
	add(facts)
	add(uint32(len(r.payload)))
	add(r.topic)
	add(r.source)
	add(uint32(len(r.labels)))
	add(r.labels)
	add(uint32(len(r.findings)))
	for _, f := range r.findings {
		add([]uint32{f.off, f.len})
		add(f.label)
		add([]byte{f.kind, f.confidence, f.grade, f.flags})
		add(f.key)
		add(f.bytes())
		if f.position && f.datum <= 3 && math.Abs(f.latitude) <= 90 && math.Abs(f.longitude) <= 180 {
			add([]float64{f.latitude, f.longitude})
			add(f.datum)
		}
	}
	add(visible)
	n := h.Sum32()
	return verdict{reason: uint16(n), labels: []uint16{uint16(1 + (n>>16)%65535)}}
}

// verdict is a verdict record before it is bytes. edits: target, op, a, b, param. Action 0 is written as 1, none.
type verdict struct {
	action, grade byte
	reason        uint16
	edits         [][5]uint32
	labels        []uint16
	pool          string
}

func (v verdict) record() []byte {
	b := []byte{0, 0, 0, 0, 1, 0, max(v.action, 1), v.grade}
	b = le.AppendUint16(b, uint16(len(v.edits)))
	b = le.AppendUint16(b, uint16(len(v.labels)))
	b = le.AppendUint16(b, v.reason)
	b = le.AppendUint16(b, 0)
	for _, e := range v.edits {
		b = append(b, byte(e[0]), byte(e[1]), 0, 0)
		b = le.AppendUint32(b, e[2])
		b = le.AppendUint32(b, e[3])
		b = le.AppendUint32(b, e[4])
	}
	for _, l := range v.labels {
		b = le.AppendUint16(b, l)
	}
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b = append(b, v.pool...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	le.PutUint32(b, uint32(len(b)))
	return b
}

// writer collects the vectors of one file.
type writer struct{ strings.Builder }

// vector adds one: want is a verdict, the number of an error, or a line for the file.
func (w *writer) vector(guest, comment, settings string, record []byte, want any) {
	fmt.Fprintf(w, "\n# %s\nguest %s\n", comment, guest)
	if settings != "" {
		fmt.Fprintln(w, settings)
	}
	if record != nil {
		fmt.Fprintf(w, "request%s\n", hexLines(record))
	}
	switch want := want.(type) {
	case verdict:
		if b := want.record(); len(b) > 1024 {
			fmt.Fprintln(w, digest(b))
		} else {
			fmt.Fprintf(w, "verdict%s\n", hexLines(b))
		}
	case int:
		fmt.Fprintf(w, "error %d\n", want)
	case string:
		fmt.Fprintln(w, want)
	}
}

// rich is a request with everything in it.
func rich(topic string) *request {
	return &request{topic: topic, source: "dev-1", msgID: 0x0102030405060708, timeMS: 1764000000123, facts: [4]byte{1, 1, 2, 0},
		labels: []uint16{2, 5}, payload: []byte(`{"lat":39.9,"lon":116.4,"vin":"LSVAU2180N2183294","tel":"13800000000","x":1}`),
		findings: []finding{
			{off: 7, len: 4, label: 1, kind: 2, confidence: 90, grade: 1, flags: 1, key: "lat", position: true, latitude: 39.9, longitude: 116.4, datum: 1},
			{off: 18, len: 5, label: 1, kind: 2, confidence: 90, grade: 1, flags: 1, key: "lon", position: true, latitude: 39.9, longitude: 116.4, datum: 1},
			{off: 31, len: 17, label: 3, kind: 1, confidence: 100, grade: 2, flags: 3, key: "vin", value: "LSVAU2180N2183294"},
			{off: 57, len: 11, label: 4, kind: 1, confidence: 70, grade: 2, flags: 1, key: "tel"},
			{off: 74, len: 1, kind: 2, confidence: 50, grade: 1},
		}}
}

// poor is a request without a payload and n findings.
func poor(topic string, n int) *request {
	r := &request{topic: topic, facts: [4]byte{1, 1, 1, 0}, payload: bytes.Repeat([]byte("1"), 64), hidden: true}
	for range n {
		r.findings = append(r.findings, finding{len: 1, label: 1, kind: 2})
	}
	return r
}

const conform = "conformance"

// files makes every vector file.
func files() map[string]string {
	made := map[string]string{}
	for name, c := range map[string]struct {
		head string
		fill func(*writer)
	}{
		"01-empty.txt":    {"No findings, no payload: no opinion. Every plugin.", emptyVectors},
		"02-ops.txt":      {"Everything a filter can say.", sayVectors},
		"03-order.txt":    {"Edits in any order come out sorted; overlapping and impossible ones are an error.", orderVectors},
		"04-payload.txt":  {"Without read.payload there is no payload and no edit of a range.", payloadVectors},
		"05-version.txt":  {"Longer headers are read, other versions are not. Every plugin.", versionVectors},
		"06-hostile.txt":  {"Requests that break a rule: each offset and count one past the end, then all ones. Every plugin.", hostileVectors},
		"07-small.txt":    {"An out region that is too small.", smallVectors},
		"09-odd.txt":      {"Odd but right requests are read to the last byte.", oddVectors},
		"10-trap.txt":     {"A trap ends the instance; the next one answers. What the host makes of it is the host's test.", trapVectors},
		"11-example.txt":  {"The example plugin of the kit.", exampleVectors},
		"12-settings.txt": {"Configurations that are refused, and with what text.", settingsVectors},
	} {
		w := &writer{}
		fmt.Fprintf(w, "# %s\n# Written by go test ./plugins/conformance -update; the format is in README.md.\n", c.head)
		c.fill(w)
		made[name] = w.String()
	}
	return made
}

func emptyVectors(w *writer) {
	w.vector("any", "nothing but the header", "", (&request{}).record(), verdict{})
	w.vector(conform, "a topic that says so", "", (&request{topic: "none"}).record(), verdict{})
}

func sayVectors(w *writer) {
	say := func(topic string, want any) { w.vector(conform, topic, "", rich(topic).record(), want) }
	say("mask 0 1;generalize 1 2;tokenize 2 3;encrypt 3 4;remove 4", verdict{edits: [][5]uint32{{0, 1, 0, 0, 1}, {0, 2, 1, 0, 2}, {0, 3, 2, 0, 3}, {0, 4, 3, 0, 4}, {0, 6, 4, 0, 0}}})
	say("regrade 0 1;regrade 1 2;regrade 2 3", verdict{edits: [][5]uint32{{0, 7, 0, 0, 1}, {0, 7, 1, 0, 2}, {0, 7, 2, 0, 3}}})
	say("mask 0 4294967295", verdict{edits: [][5]uint32{{0, 1, 0, 0, math.MaxUint32}}})
	say("mask 7+4 1;generalize 18+5 2;tokenize 31+17 3;encrypt 57+11 4;remove 74+1", verdict{edits: [][5]uint32{{1, 1, 7, 4, 1}, {1, 2, 18, 5, 2}, {1, 3, 31, 17, 3}, {1, 4, 57, 11, 4}, {1, 6, 74, 1, 0}}})
	say("replace 1 3 65;replace 0 5 66", verdict{edits: [][5]uint32{{0, 5, 0, 0, 5}, {0, 5, 1, 0, 0}}, pool: "\x03\x00AAA\x05\x00BBBBB"})
	say("replace 2 0 65;label 3;replace 0 256 67", verdict{edits: [][5]uint32{{0, 5, 0, 0, 2}, {0, 5, 2, 0, 0}}, labels: []uint16{3}, pool: "\x00\x00\x00\x01" + strings.Repeat("C", 256)})
	say("replace 0 257 67", -4)
	say("block 1", verdict{action: 3, reason: 1})
	say("hold 2", verdict{action: 2, reason: 2})
	say("hold 2;block 1", verdict{action: 3, reason: 1})
	say("block 1;hold 2;block 2", verdict{action: 3, reason: 1})
	say("hold 1;hold 2", verdict{action: 2, reason: 1})
	say("reason 2", verdict{reason: 2})
	say("grade 2;grade 1", verdict{grade: 2})
	say("grade 3", verdict{grade: 3})
	say("grade 0", -4)
	say("grade 4", -4)
	say("regrade 0 0", -4)
	say("regrade 0 4", -4)
	say("label 3;label 1;label 3", verdict{labels: []uint16{3, 1}})
	say("label 1..64", verdict{labels: upTo(64)})
	say("label 1..65", -4)
	say("label 0", -4)
	say("fail", -4)
	say("block 1;fail;none", -4)
	say("nonsense", -4)
	w.vector(conform, "sum: everything is read", "", rich("sum").record(), rich("sum").sum())
}

func upTo(n int) (labels []uint16) {
	for i := range n {
		labels = append(labels, uint16(i+1))
	}
	return labels
}

// edits makes one edit of each of the findings from to to.
func edits(from, to, op, param int) (list [][5]uint32) {
	for i := from; i <= to; i++ {
		list = append(list, [5]uint32{0, uint32(op), uint32(i), 0, uint32(param)})
	}
	return list
}

// ranges makes n edits of one byte.
func ranges(n, op, param int) (list [][5]uint32) {
	for i := range n {
		list = append(list, [5]uint32{1, uint32(op), uint32(i), 1, uint32(param)})
	}
	return list
}

func orderVectors(w *writer) {
	say := func(topic string, want any) { w.vector(conform, topic, "", rich(topic).record(), want) }
	say("mask 4 1;mask 0 2;remove 74+1;mask 2 3;remove 0+1", verdict{edits: [][5]uint32{{0, 1, 0, 0, 2}, {0, 1, 2, 0, 3}, {0, 1, 4, 0, 1}, {1, 6, 0, 1, 0}, {1, 6, 74, 1, 0}}})
	say("mask 1 1;remove 1", -4)
	say("mask 1 1;mask 1 1", -4)
	say("remove 7+4;remove 10+1", -4)
	say("remove 10+1;remove 7+4", -4)
	say("remove 7+4;remove 11+1", verdict{edits: [][5]uint32{{1, 6, 7, 4, 0}, {1, 6, 11, 1, 0}}})
	say("remove 7+0", -4)
	say("remove 75+1", verdict{edits: [][5]uint32{{1, 6, 75, 1, 0}}})
	say("remove 76+1", -4)
	say("remove 0+77", -4)
	say("remove 4294967295+2", -4)
	say("remove 1+4294967295", -4)
	say("mask 5 1", -4)
	say("mask 4294967295 1", -4)
	say("mask 5 1;mask 1 1;mask 1 1", -4)
	w.vector(conform, "1,000 findings backwards", "", poor("mask 999..0 7", 1000).record(), verdict{edits: edits(0, 999, 1, 7)})
	w.vector(conform, "1,000 findings, the middle first", "", poor("mask 400..599 7;mask 999..600 7;mask 0..399 7", 1000).record(), verdict{edits: edits(0, 999, 1, 7)})
	w.vector(conform, "1,000 findings, one of them twice", "", poor("mask 999..0 7;mask 500 7", 1000).record(), -4)
}

func payloadVectors(w *writer) {
	hidden := func(topic string) *request {
		r := rich(topic)
		r.hidden = true
		return r
	}
	w.vector(conform, "the payload is empty, its length is told", "", hidden("sum").record(), hidden("sum").sum())
	w.vector(conform, "no edit of a range", "", hidden("mask 7+4 1").record(), -4)
	w.vector(conform, "findings can be edited", "", hidden("mask 0 1").record(), verdict{edits: edits(0, 0, 1, 1)})
	w.vector(conform, "with the payload, both", "", rich("mask 7+4 1;mask 0 1").record(), verdict{edits: [][5]uint32{{0, 1, 0, 0, 1}, {1, 1, 7, 4, 1}}})
}

func versionVectors(w *writer) {
	for _, header := range []int{72, 128} {
		r := rich("sum")
		r.header = header
		w.vector(conform, fmt.Sprintf("header of %d bytes", header), "", r.record(), r.sum())
		w.vector("any", fmt.Sprintf("empty message, header of %d bytes", header), "", (&request{header: header}).record(), verdict{})
	}
	for _, version := range []uint16{0, 2, 0xffff} {
		b := rich("none").record()
		le.PutUint16(b[4:], version)
		w.vector("any", fmt.Sprintf("version %d", version), "", b, -2)
	}
	w.vector("any", "version 2, and nothing else of a header", "", []byte{8, 0, 0, 0, 2, 0, 64, 0}, -2)
}

func hostileVectors(w *writer) {
	good := rich("none").record()
	size := uint32(len(good))
	word := func(at int) uint32 { return le.Uint32(good[at:]) }
	half := func(at int) uint32 { return uint32(le.Uint16(good[at:])) }
	const f = 64 // the first finding
	for _, c := range []struct {
		name  string
		at, n int    // the field
		past  uint32 // the smallest value that is one too much
	}{
		{"record_len", 0, 4, size + 1}, {"record_len short", 0, 4, size - 1}, {"header_len", 6, 2, size + 1}, {"header_len short", 6, 2, 63},
		{"payload_len", 28, 4, size - word(32) + 1}, {"payload_off", 32, 4, size - word(28) + 1}, {"payload_off without its flag", 27, 1, 0}, {"flag of a payload without it", 32, 4, 0},
		{"findings_off", 36, 4, size - 5*32 + 1}, {"findings_n", 40, 2, (size-64)/32 + 1}, {"labels_n", 42, 2, (size-word(44))/2 + 1}, {"labels_off", 44, 4, size - 3},
		{"topic_off", 48, 4, size - half(52) + 1}, {"topic_len", 52, 2, size - word(48) + 1}, {"source_len", 54, 2, size - word(56) + 1}, {"source_off", 56, 4, size - half(54) + 1},
		{"reserved field", 60, 4, 1}, {"grade", 26, 1, 4},
		{"finding's off", f, 4, word(28) - word(f+4) + 1}, {"finding's len", f + 4, 4, word(28) - word(f) + 1},
		{"key_len", f + 14, 2, size - word(f+16) + 1}, {"key_off", f + 16, 4, size - half(f+14) + 1},
		{"val_off", f + 20, 4, size - word(f+24) + 1}, {"val_len", f + 24, 4, size - word(f+20) + 1},
		{"last finding's off", f + 128, 4, word(28) - word(f+132) + 1},
	} {
		for _, v := range []uint32{c.past, math.MaxUint32} {
			b := slices.Clone(good)
			copy(b[c.at:c.at+c.n], le.AppendUint32(nil, v))
			if c.n == 1 && v == math.MaxUint32 && c.past == 0 {
				continue // all flags: the one of the payload is among them
			}
			w.vector("any", fmt.Sprintf("%s %d", c.name, v&(1<<(8*c.n)-1)), "", b, -1)
		}
	}
	for _, n := range []uint32{0, 7, 63, size - 1, size + 1, 1<<20 + 1, 1 << 31, math.MaxUint32} {
		w.vector("any", fmt.Sprintf("called with length %d", n), fmt.Sprintf("length %d", n), good, -1)
	}
	w.vector("any", "a header that is cut off", "", append([]byte{56, 0, 0, 0, 1, 0, 64, 0}, make([]byte, 48)...), -1)
	w.vector(conform, "the same without a fault", "", good, verdict{})
}

func smallVectors(w *writer) {
	small := func(out int, topic string, want any) {
		w.vector(conform, fmt.Sprintf("%s into %d bytes", topic, out), fmt.Sprintf("out %d", out), rich(topic).record(), want)
	}
	small(16, "none", verdict{})
	small(16, "label 1", -3)
	small(23, "label 1", -3)
	small(24, "label 1", verdict{labels: upTo(1)})
	small(48, "mask 0..1 1", verdict{edits: edits(0, 1, 1, 1)})
	small(47, "mask 0..1 1", -3)
	small(16, "mask 0 1", -3)
	small(32, "mask 0 1;label 1", -3)
	small(40, "replace 0 6 65", verdict{edits: [][5]uint32{{0, 5, 0, 0, 0}}, pool: "\x06\x00AAAAAA"})
	small(39, "replace 0 6 65", -3)
	small(56, "replace 0 6 65;mask 1 1", verdict{edits: [][5]uint32{{0, 5, 0, 0, 0}, {0, 1, 1, 0, 1}}, pool: "\x06\x00AAAAAA"})
	small(55, "mask 1 1;replace 0 6 65", -3)
	small(40, "mask 0..4 1;fail", -3)
	small(40, "fail;mask 0..4 1", -4)
	small(40, "mask 0 1;mask 0 1;label 1", -3)
	many := func(comment, topic string, want any) {
		r := &request{topic: topic, facts: [4]byte{1, 5, 1, 0}, payload: bytes.Repeat([]byte("x"), 8192)}
		w.vector(conform, comment, "", r.record(), want)
	}
	many("4,095 edits fill 64 KiB", "mask 0+1x4095 9", verdict{edits: ranges(4095, 1, 9)})
	many("4,096 edits do not fit", "mask 0+1x4096 9", -3)
	many("4,095 edits and a label do not fit", "mask 0+1x4095 9;label 1", -3)
}

func oddVectors(w *writer) {
	read := func(comment string, r *request) { w.vector(conform, comment, "", r.record(), r.sum()) }
	read("a topic that is no UTF-8", &request{topic: "sum#\xff\xfe\xc0\x80\xed\xa0\x80\x00"})
	read("a topic of 65,535 bytes", &request{topic: "sum#" + strings.Repeat("/", 65531), facts: [4]byte{4, 4, 3, 14}})
	r := rich("sum")
	r.findings[0].key, r.findings[2].key, r.source = "", "", ""
	read("keys and a source of no length", r)
	r = rich("sum")
	r.findings[2].value, r.findings[3].value = "\xf0\x28\x8c\x28", "twenty bytes, no more"[:20]
	read("values that are no UTF-8 and no position", r)
	for _, at := range [][2]float64{{90, 180}, {-90, -180}, {90.5, 0}, {0, math.Inf(1)}, {math.NaN(), 0}, {math.Copysign(0, -1), 0}} {
		r = rich("sum")
		r.findings[0].latitude, r.findings[0].longitude = at[0], at[1]
		read(fmt.Sprintf("a position at %v, %v", at[0], at[1]), r)
	}
	r = rich("sum")
	r.findings[0].datum, r.findings[1].datum = 3, 4
	read("datums 3 and 4: the second is no position", r)
	deep := []byte(strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64))
	read("64 levels", &request{topic: "sum", facts: [4]byte{1, 1, 2, 0}, payload: deep, findings: []finding{
		{off: 320, len: 1, label: 1, kind: 2, key: "a"}, {len: uint32(len(deep)), label: 2, kind: 5}}})
	read("a payload of 64 KiB", &request{topic: "sum", facts: [4]byte{3, 4, 2, 0}, payload: bytes.Repeat([]byte{0xff, 0, 0x80, 0x7f, 1, 2, 3, 4}, 8192),
		findings: []finding{{off: 65535, len: 1, label: 65535, kind: 4, confidence: 255, grade: 255, flags: 255}}})
	read("1,000 findings", poor("sum", 1000))
	read("300 labels", &request{topic: "sum", labels: upTo(300)})
	w.vector(conform, "an edit of the last byte of 64 KiB", "", (&request{topic: "mask 65535+1 1", payload: make([]byte, 65536)}).record(), verdict{edits: [][5]uint32{{1, 1, 65535, 1, 1}}})
}

func trapVectors(w *writer) {
	w.vector(conform, "the plugin breaks off", "", rich("trap").record(), "trap")
	w.vector(conform, "after edits, too", "", rich("mask 0 1;trap").record(), "trap")
	w.vector(conform, "a new instance answers", "", rich("none").record(), verdict{})
}

func exampleVectors(w *writer) {
	kinds := rich("v1/dev/data")
	kinds.labels = []uint16{2, 1}
	all := verdict{edits: [][5]uint32{{0, 2, 0, 0, 1}, {0, 2, 1, 0, 1}, {0, 3, 2, 0, 2}, {0, 1, 3, 0, 3}}}
	w.vector("example", "a position, a VIN, a contact, something else", "", kinds.record(), all)
	blocked := all
	blocked.action, blocked.reason = 3, 1
	w.vector("example", "in a sensitive area", "", rich("v1/dev/data").record(), blocked)
	track := func(n int) []byte { return poor("v1/dev/track", n).record() }
	w.vector("example", "16 location fields", "", track(16), verdict{edits: edits(0, 15, 2, 1)})
	w.vector("example", "17 location fields", "", track(17), verdict{action: 2, reason: 2, edits: edits(0, 16, 2, 1)})
	w.vector("example", "2 location fields, one is too many", `config {"hold_above":1}`, track(2), verdict{action: 2, reason: 2, edits: edits(0, 1, 2, 1)})
	w.vector("example", "1 location field", `config { "hold_above" : 1 } `, track(1), verdict{edits: edits(0, 0, 2, 1)})
	w.vector("example", "1,200 location fields", `config {"hold_above":1199}`, track(1200), verdict{action: 2, reason: 2, edits: edits(0, 1199, 2, 1)})
	both := poor("v1/dev/track", 17)
	both.labels = []uint16{5}
	w.vector("example", "blocking beats holding", "", both.record(), verdict{action: 3, reason: 1, edits: edits(0, 16, 2, 1)})
}

func settingsVectors(w *writer) {
	w.vector(conform, "as told", `config {"refuse":true}`, nil, "refused refused, as told")
	const range_, other, want, malformed = "refused hold_above is no number from 1 to 9999", `refused want {"hold_above": NUMBER} and nothing else`, "refused want an object", "refused malformed JSON"
	for _, c := range [][2]string{{`{"hold_above":0}`, range_}, {`{"hold_above":10000}`, range_}, {`{"hold_above":99999999999999999999}`, range_}, {`{"hold_above":-1}`, range_}, {`{"hold_above":"1"}`, range_},
		{`{"hold_above":01}`, range_}, {`{"hold_above":}`, range_}, {`{"hold_above":1.5}`, other}, {`{"hold_above":1`, other}, {`{"hold_above":1}}`, other}, {`{"hold_below":1}`, other}, {`{"hold_above" 1}`, malformed},
		{`{"hold_above`, other}, {`{`, other}, {`[]`, want}, {`null`, want}} {
		w.vector("example", c[0], "config "+c[0], nil, c[1])
	}
}

// The vector files are what this file makes: go test -update writes them.
func TestVectorFilesAreTheOnesMade(t *testing.T) {
	made := files()
	have, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range have {
		if strings.HasSuffix(f.Name(), ".txt") && made[f.Name()] == "" {
			t.Errorf("%s: nobody makes it", f.Name())
		}
	}
	for name, text := range made {
		if *update {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(name); err != nil || string(have) != text {
			t.Errorf("%s differs from what is made (%v): go test -update writes it", name, err)
		}
	}
}
