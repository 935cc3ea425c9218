package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/blake2b"
)

// RecordKind says what a record is about.
type RecordKind uint8

// The kinds of records. Their numbers are frozen: records are hashed.
const (
	InvalidRecord  RecordKind = iota
	DecisionRecord            // one per message taken in
	DeliveryRecord            // an uplink acknowledged a range
	ReleaseRecord             // a person released or refused a hold
	ExpiryRecord              // a rule left a message behind
	ChangeRecord              // a version set came into force
	EventRecord               // everything else an inspector wants to know: start, stop, keys made, clock set
)

var recordKindNames = [...]string{"invalid", "decision", "delivery", "release", "expiry", "change", "event"}

// String returns the kind's written form.
func (k RecordKind) String() string {
	if int(k) < len(recordKindNames) {
		return recordKindNames[k]
	}
	return fmt.Sprintf("record(%d)", uint8(k))
}

// Limits of a record's lists; a decoder refuses more before allocating.
const (
	maxRecordList   = 4096
	maxRecordDetail = 1 << 20
)

// Counted says how many findings of one category ended with one action.
type Counted struct {
	Category uint16 // index into the change record's categories
	Action   Action
	Count    uint32
}

// PluginOutcome is one plugin's verdict in a decision record.
type PluginOutcome struct {
	Plugin uint8 // index into the change record's plugins
	Action Action
	Grade  Grade
	Reason uint16 // code of the plugin's manifest
	Failed bool   // the plugin failed and its on_error path was taken
	Edits  uint16
}

// Outcome is what became of the message for one uplink.
type Outcome struct {
	Uplink   uint8 // the journal's number
	State    State // Waiting, Held or Blocked
	Priority uint8 // of what waits, below Priorities: higher is sent first
	Action   Action
	Reason   Reason
	Left     [32]byte // commitment to topic and bytes that may leave, or that are held; zero when blocked
}

// Record is one entry of the record log. Which fields are set depends on the kind; package doc, "Records".
type Record struct {
	Kind    RecordKind
	Time    time.Time // whole milliseconds
	Trusted bool      // the clock was set

	// decision
	ID        ID
	Set       uint64 // number of the version set in force, named by its change record
	Source    uint16 // the journal's number
	Grade     Grade
	Personal  bool
	Sensitive bool
	Received  time.Time // whole milliseconds
	Input     [32]byte  // commitment to topic, client id and payload as received
	Findings  []Counted
	Plugins   []PluginOutcome
	Outcomes  []Outcome

	// delivery, expiry: of the messages from First to Last that waited for Uplink, Count were settled
	Uplink      uint8
	First, Last uint64
	Count       uint64
	State       State // delivery: Forwarded or Dead; expiry: Expired or Dropped; release: Forwarded (released), Rejected, or Waiting (a dead message is sent again)

	// release: First is the seq of the decision. delivery, expiry: JSON, which of the messages between First and Last are
	// meant (package journal). change, event: JSON, keys in order, no device-chosen text
	Detail []byte
}

// recordVersion is the first byte of every encoded record.
const recordVersion = 1

// AppendRecord appends the encoding of r to dst. The encoding is specified in the package doc and frozen.
func AppendRecord(dst []byte, r *Record) []byte {
	var flags byte
	for i, set := range []bool{r.Trusted, r.Personal, r.Sensitive} {
		if set {
			flags |= 1 << i
		}
	}
	dst = append(dst, recordVersion, byte(r.Kind), flags)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Time.UnixMilli()))
	switch r.Kind {
	case DecisionRecord:
		dst = binary.BigEndian.AppendUint64(dst, r.ID.Incarnation)
		dst = binary.BigEndian.AppendUint64(dst, r.ID.Counter)
		dst = binary.BigEndian.AppendUint64(dst, uint64(r.Received.UnixMilli()))
		dst = binary.AppendUvarint(dst, r.Set)
		dst = binary.AppendUvarint(dst, uint64(r.Source))
		dst = append(dst, byte(r.Grade))
		dst = append(dst, r.Input[:]...)
		dst = binary.AppendUvarint(dst, uint64(len(r.Findings)))
		for _, f := range r.Findings {
			dst = binary.AppendUvarint(dst, uint64(f.Category))
			dst = append(dst, byte(f.Action))
			dst = binary.AppendUvarint(dst, uint64(f.Count))
		}
		dst = binary.AppendUvarint(dst, uint64(len(r.Plugins)))
		for _, p := range r.Plugins {
			failed := byte(0)
			if p.Failed {
				failed = 1
			}
			dst = append(dst, p.Plugin, byte(p.Action), byte(p.Grade), failed)
			dst = binary.AppendUvarint(dst, uint64(p.Reason))
			dst = binary.AppendUvarint(dst, uint64(p.Edits))
		}
		dst = binary.AppendUvarint(dst, uint64(len(r.Outcomes)))
		for _, o := range r.Outcomes {
			dst = append(dst, o.Uplink, byte(o.State)|o.Priority<<4, byte(o.Action), byte(o.Reason))
			if o.State != Blocked {
				dst = append(dst, o.Left[:]...)
			}
		}
	case DeliveryRecord, ExpiryRecord, ReleaseRecord:
		dst = append(dst, r.Uplink, byte(r.State))
		dst = binary.AppendUvarint(dst, r.First)
		dst = binary.AppendUvarint(dst, r.Last)
		dst = binary.AppendUvarint(dst, r.Count)
		dst = appendDetail(dst, r.Detail)
	case ChangeRecord, EventRecord:
		dst = binary.AppendUvarint(dst, r.Set)
		dst = appendDetail(dst, r.Detail)
	default:
		panic("gateway: record without a kind")
	}
	return dst
}

func appendDetail(dst, detail []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(detail)))
	return append(dst, detail...)
}

// ErrRecord reports bytes that are no record of a version that this program knows.
var ErrRecord = errors.New("malformed record")

// DecodeRecord reads one whole record into r, reusing its slices. Nothing of b is kept but Detail, which is copied.
// It accepts exactly what AppendRecord writes: encode(decode(b)) equals b.
func DecodeRecord(b []byte, r *Record) error {
	*r = Record{Findings: r.Findings[:0], Plugins: r.Plugins[:0], Outcomes: r.Outcomes[:0], Detail: r.Detail[:0]}
	d := recordReader{b: b}
	if d.byte() != recordVersion {
		return fmt.Errorf("%w: unknown version", ErrRecord)
	}
	r.Kind = RecordKind(d.byte())
	flags := d.byte()
	r.Trusted, r.Personal, r.Sensitive = flags&1 != 0, flags&2 != 0, flags&4 != 0
	d.bad = d.bad || flags > 7
	r.Time = time.UnixMilli(int64(d.uint64())).UTC()
	switch r.Kind {
	case DecisionRecord:
		r.ID = ID{d.uint64(), d.uint64()}
		r.Received = time.UnixMilli(int64(d.uint64())).UTC()
		r.Set = d.uvarint(1<<64 - 1)
		r.Source = uint16(d.uvarint(1<<16 - 1))
		r.Grade = Grade(d.max(byte(Core)))
		d.copy(r.Input[:])
		for n := d.uvarint(maxRecordList); n > 0 && !d.bad; n-- {
			r.Findings = append(r.Findings, Counted{uint16(d.uvarint(1<<16 - 1)), Action(d.max(byte(Block))), uint32(d.uvarint(1<<32 - 1))})
		}
		for n := d.uvarint(maxRecordList); n > 0 && !d.bad; n-- {
			r.Plugins = append(r.Plugins, PluginOutcome{Plugin: d.byte(), Action: Action(d.max(byte(Block))), Grade: Grade(d.max(byte(Core))),
				Failed: d.max(1) == 1, Reason: uint16(d.uvarint(1<<16 - 1)), Edits: uint16(d.uvarint(1<<16 - 1))})
		}
		for n := d.uvarint(MaxUplinks); n > 0 && !d.bad; n-- {
			o := Outcome{Uplink: d.max(MaxUplinks - 1)}
			state := d.byte()
			o.State, o.Priority = State(state&0xF), state>>4
			o.Action, o.Reason = Action(d.max(byte(Block))), Reason(d.max(byte(lastReason)))
			d.bad = d.bad || o.Priority >= Priorities || o.Priority > 0 && o.State != Waiting
			switch o.State {
			case Waiting, Held:
				d.copy(o.Left[:])
			case Blocked:
			default:
				d.bad = true
			}
			r.Outcomes = append(r.Outcomes, o)
		}
	case DeliveryRecord, ExpiryRecord, ReleaseRecord:
		r.Uplink = d.max(MaxUplinks - 1)
		r.State = State(d.max(byte(Blocked)))
		r.First, r.Last, r.Count = d.uvarint(1<<64-1), d.uvarint(1<<64-1), d.uvarint(1<<64-1)
		r.Detail = d.detail(r.Detail)
	case ChangeRecord, EventRecord:
		r.Set = d.uvarint(1<<64 - 1)
		r.Detail = d.detail(r.Detail)
	default:
		return fmt.Errorf("%w: unknown kind", ErrRecord)
	}
	if d.bad || len(d.b) != 0 {
		return ErrRecord
	}
	return nil
}

// recordReader takes fields off b and remembers the first one that does not fit.
type recordReader struct {
	b   []byte
	bad bool
}

func (d *recordReader) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *recordReader) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *recordReader) max(limit byte) byte {
	v := d.byte()
	d.bad = d.bad || v > limit
	return v
}

func (d *recordReader) uint64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *recordReader) copy(dst []byte) { copy(dst, d.take(len(dst))) }

// uvarint reads a varint in its shortest form, so that every record has one encoding.
func (d *recordReader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 || v > limit || (n > 1 && d.b[n-1] == 0) {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *recordReader) detail(dst []byte) []byte {
	return append(dst, d.take(int(d.uvarint(maxRecordDetail)))...)
}

// Commitment binds a record to bytes without showing them: BLAKE2b-256 [RFC 7693] over the label, the salt and the
// parts, each part with its length in front as 8 bytes big-endian. Whoever has salt and bytes can check it; the salt lies
// beside the body and goes with it. Labels: "sluice input v1" (topic, client id, payload), "sluice left v1" (topic,
// payload), "sluice salt v1" (uplink number as one byte; see SaltFor).
func Commitment(label string, salt *[16]byte, parts ...[]byte) [32]byte {
	var buf [1 << 11]byte
	b := append(buf[:0], label...)
	b = append(b, salt[:]...)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return blake2b.Sum256(b)
}
