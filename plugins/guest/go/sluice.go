// Package sluice is the author's side of the Sluice filter-plugin ABI, version 1, for the Go toolchain as it is.
//
//	package main
//
//	import sluice "github.com/sluice-edge/sluice/plugins/guest/go"
//
//	func init() { sluice.Main(filter) }
//
//	func main() {}
//
//	func filter(r *sluice.Request, v *sluice.Verdict) {
//		for f := range r.Findings() {
//			if f.Label == 1 {
//				v.Regrade(f.Target(), sluice.Important)
//			}
//		}
//	}
//
// What holds. The filter is called once per message, by one thread at a time, and keeps nothing from one message to the
// next: the host may drop the instance between any two. A record that does not keep the ABI's rules never reaches it: every
// offset and length of the request is checked first (-1). The verdict starts as "no objection"; a filter can only add to it.
// Edits may be given in any order, one per finding. A mistake of the filter (two edits of one finding, a finding that is not
// there, too many edits) makes the whole verdict an error, the first mistake decides which, and the message then takes the
// operator's on_error path; nothing partly written counts. A panic is a trap.
//
// Slices that a request hands out are void after the call. The package allocates nothing per message; a filter that
// allocates pays with time and memory of the instance.
package sluice

import (
	"encoding/binary"
	"iter"
	"math"
)

// Grades; 0 in a request: treat as core.
const (
	General   = 1
	Important = 2
	Core      = 3
)

// Protocols.
const (
	MQTT     = 1
	OPCUA    = 2
	GBT32960 = 3
	JTT808   = 4
)

// Encodings.
const (
	JSON        = 1
	CBOR        = 2
	Protobuf    = 3
	BinaryFrame = 4
	Text        = 5
)

// Kinds of values.
const (
	String  = 1
	Number  = 2
	Bool    = 3
	Bytes   = 4
	Subtree = 5
)

// Flags of a request.
const (
	PayloadPresent = 1
	PayloadCut     = 2
	Replay         = 4
	Shadow         = 8
)

// Flags of a finding.
const (
	Personal  = 1
	Sensitive = 2
)

// Datums of a position.
const (
	UnknownDatum = 0
	WGS84        = 1
	GCJ02        = 2
	BD09         = 3
)

// Errors of a call.
const (
	malformed = -1
	version   = -2
	tooSmall  = -3
	internal  = -4
)

// Sizes and bounds of the records.
const (
	headerLen      = 64
	findingLen     = 32
	verdictLen     = 16
	editLen        = 16
	positionLen    = 20
	maxEdits       = 4096
	maxLabels      = 64
	maxReplacement = 256
)

var le = binary.LittleEndian

// Request is one message as the host shows it.
type Request struct {
	MsgID      uint64
	TimeMS     int64 // the only clock there is
	Protocol   uint8
	Encoding   uint8
	Grade      uint8
	Flags      uint8
	PayloadLen uint32 // true length, also when the payload is absent
	Topic      []byte // topic, node id or frame name
	Source     []byte // the device, as a pseudonym unless read.source is granted

	record, labels, findings, payload []byte
	present                           bool
}

// Finding is one place of the message that a category matched.
type Finding struct {
	Index      int    // number of the finding in the message
	Off, Len   uint32 // in the payload
	Label      uint16 // 1 + index in the manifest's labels, 0 = not listed
	Kind       uint8
	Confidence uint8
	Grade      uint8
	Flags      uint8
	Key        []byte // field name; empty when there is none or it is itself a value that was not granted
	Value      []byte // nil unless read.value of the category is granted
}

// Position is a place on earth, in degrees.
type Position struct {
	Lat, Lon float64
	Datum    uint32
}

// Target is what an edit is about: a finding, or a range of the payload.
type Target struct {
	kind uint8
	a, b uint32
}

// FindingTarget is the finding with this number.
func FindingTarget(index int) Target { return Target{0, uint32(index), 0} }

// Range is a range of the payload; it needs read.payload.
func Range(off, length uint32) Target { return Target{1, off, length} }

// part returns n bytes from off on, if b has them.
func part(b []byte, off uint32, n uint64) ([]byte, bool) {
	if uint64(off)+n > uint64(len(b)) {
		return nil, false
	}
	return b[off:][:n:n], true
}

// parse reads and checks a record: 0, or an error.
func (r *Request) parse(b []byte) int32 {
	if len(b) < 8 || uint64(le.Uint32(b)) != uint64(len(b)) {
		return malformed
	}
	if le.Uint16(b[4:]) != 1 {
		return version
	}
	if n := int(le.Uint16(b[6:])); n < headerLen || n > len(b) {
		return malformed
	}
	off := le.Uint32(b[32:])
	*r = Request{MsgID: le.Uint64(b[8:]), TimeMS: int64(le.Uint64(b[16:])), Protocol: b[24], Encoding: b[25], Grade: b[26], Flags: b[27],
		PayloadLen: le.Uint32(b[28:]), record: b, present: off != 0}
	if r.Grade > Core || le.Uint32(b[60:]) != 0 || (r.Flags&PayloadPresent != 0) != r.present {
		return malformed
	}
	var ok [5]bool
	r.Topic, ok[0] = part(b, le.Uint32(b[48:]), uint64(le.Uint16(b[52:])))
	r.Source, ok[1] = part(b, le.Uint32(b[56:]), uint64(le.Uint16(b[54:])))
	r.labels, ok[2] = part(b, le.Uint32(b[44:]), 2*uint64(le.Uint16(b[42:])))
	r.findings, ok[3] = part(b, le.Uint32(b[36:]), findingLen*uint64(le.Uint16(b[40:])))
	ok[4] = true
	if r.present {
		r.payload, ok[4] = part(b, off, uint64(r.PayloadLen))
	}
	if ok != [5]bool{true, true, true, true, true} {
		return malformed
	}
	for f := r.findings; len(f) > 0; f = f[findingLen:] {
		_, key := part(b, le.Uint32(f[16:]), uint64(le.Uint16(f[14:])))
		_, value := part(b, le.Uint32(f[20:]), uint64(le.Uint32(f[24:])))
		if !key || !value || uint64(le.Uint32(f))+uint64(le.Uint32(f[4:])) > uint64(r.PayloadLen) {
			return malformed
		}
	}
	return 0
}

// LabelsLen is the number of labels.
func (r *Request) LabelsLen() int { return len(r.labels) / 2 }

// Labels are those of the whole message.
func (r *Request) Labels() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for l := r.labels; len(l) > 0; l = l[2:] {
			if !yield(le.Uint16(l)) {
				return
			}
		}
	}
}

// FindingsLen is the number of findings.
func (r *Request) FindingsLen() int { return len(r.findings) / findingLen }

// Findings are in the order of the classification.
func (r *Request) Findings() iter.Seq[Finding] {
	return func(yield func(Finding) bool) {
		for i := range r.FindingsLen() {
			if !yield(r.Finding(i)) {
				return
			}
		}
	}
}

// Finding returns the finding with this number.
func (r *Request) Finding(i int) Finding {
	b := r.findings[findingLen*i:][:findingLen]
	f := Finding{Index: i, Off: le.Uint32(b), Len: le.Uint32(b[4:]), Label: le.Uint16(b[8:]), Kind: b[10], Confidence: b[11], Grade: b[12], Flags: b[13]}
	f.Key, _ = part(r.record, le.Uint32(b[16:]), uint64(le.Uint16(b[14:])))
	if at := le.Uint32(b[20:]); at != 0 {
		f.Value, _ = part(r.record, at, uint64(le.Uint32(b[24:])))
	}
	return f
}

// Payload is nil when it was not granted.
func (r *Request) Payload() []byte { return r.payload }

// Target is this finding as the target of an edit.
func (f *Finding) Target() Target { return FindingTarget(f.Index) }

// Position is the one that the finding is half of; false when there is none, it was not granted, or is no place on earth.
func (f *Finding) Position() (Position, bool) {
	if len(f.Value) != positionLen {
		return Position{}, false
	}
	p := Position{math.Float64frombits(le.Uint64(f.Value)), math.Float64frombits(le.Uint64(f.Value[8:])), le.Uint32(f.Value[16:])}
	return p, p.Datum <= BD09 && p.Lat >= -90 && p.Lat <= 90 && p.Lon >= -180 && p.Lon <= 180
}
