package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// Records is where the records of a log come from, as in Log.
type Records interface {
	Records(from uint64, fn func(seq uint64, record []byte) error) error
}

// Partial is Records that begin behind record 0: Start and Kept are those of Trimmed.
type Partial interface {
	Records
	Start() (next uint64, roots []tlog.Hash, changes []uint64)
	Kept(seq uint64) []byte
}

// Bounds of one Reconcile. A capture of n messages takes 64 bytes of temporary disk for each, and for each decision
// whose id lies between captured ones; the records are read twice.
const (
	sortMemory   = 4 << 20 // of each of three sorters
	maxFindings  = 100     // in each list of a report; the counts are complete
	maxOpen      = 4 << 20 // messages that wait at one time, in the record, and were not captured
	maxRestarts  = 4096    // incarnations that a capture is narrowed down by
	progressStep = 1 << 16
)

// ErrTooMany says that the record knows too many messages that the capture does not have: narrow it with From and To.
var ErrTooMany = errors.New("too many messages wait that were not captured")

// Bound is one end of what must be in a capture: a seq or, when At is set, a time of decision.
type Bound struct {
	Seq uint64
	At  time.Time
}

// ReconcileOptions say what a capture is of.
type ReconcileOptions struct {
	Uplink   string            // its name in the record
	Identity *gateway.Identity // by which its messages carry their id
	Prefix   string            // its topic prefix
	From, To *Bound            // what must be in the capture; nil: from the first to the last decision that is
	Progress func(what string, n uint64)

	memory int // of a sorter; 0: sortMemory
}

// Reconciliation is what Reconcile found. The fields are those of `audit reconcile --json`. A list holds the first
// hundred of what its count says.
type Reconciliation struct {
	OK       bool   `json:"ok"`
	Uplink   string `json:"uplink"`
	Identity string `json:"identity"`
	Records  uint64 `json:"records"` // read

	Captured         uint64 `json:"captured"`          // messages of the capture, control messages aside
	Control          uint64 `json:"control"`           // epoch keys and checkpoints among them, not compared
	Matched          uint64 `json:"matched"`           // messages, each once, that are on the record and are what it commits to
	Duplicates       uint64 `json:"duplicates"`        // captures of a message beyond its first
	DuplicatesDiffer uint64 `json:"duplicates_differ"` // of them, those that are not what the first was
	Unverifiable     uint64 `json:"unverifiable"`      // captured without a salt or not byte by byte: nothing shows their content
	Malformed        uint64 `json:"malformed"`         // lines that are no captured message

	OffRecordCount uint64   `json:"off_record_count"`
	AlteredCount   uint64   `json:"altered_count"`
	MissingCount   uint64   `json:"missing_count"`
	OffRecord      []Differ `json:"off_record"` // captured, and the record does not let it leave
	Altered        []Differ `json:"altered"`    // captured, and not what the record commits to
	Missing        []Differ `json:"missing"`    // on the record as forwarded, and not captured
	MalformedLines []uint64 `json:"malformed_lines"`

	From          *uint64  `json:"from"`           // first and last decision that must have been captured, when forwarded
	To            *uint64  `json:"to"`             //
	Forwarded     uint64   `json:"forwarded"`      // of them: captured, or on the record as forwarded
	OtherIdentity uint64   `json:"other_identity"` // of them: decided when the uplink had another identity, not compared
	Notes         []string `json:"notes"`
	Trimmed       uint64   `json:"trimmed,omitempty"`      // the first record that is there
	NotCompared   []Range  `json:"not_compared,omitempty"` // records that are not there: trimmed, or lost to damage
}

// Differ is one difference between capture and record. It never holds topic or content.
type Differ struct {
	Line uint64  `json:"line,omitempty"` // of the capture
	Seq  *uint64 `json:"seq,omitempty"`  // of the decision
	ID   string  `json:"id,omitempty"`
	Why  string  `json:"why"`
}

// note adds a difference to a list and its count.
func note(list *[]Differ, count *uint64, d Differ) {
	if *count++; len(*list) < maxFindings {
		*list = append(*list, d)
	}
}

// Reconcile compares what a recipient captured of one uplink with the record, both ways: what was captured must be on
// the record as something that may leave, and be what the record commits to; what the record says was forwarded must
// have been captured. It says nothing about the record itself: Verify does. Of a log that is Partial it compares what is
// there; what was captured of the rest is then off the record. An error means that nothing is known.
func Reconcile(ctx context.Context, log Records, capture io.Reader, o ReconcileOptions) (*Reconciliation, error) {
	if o.memory == 0 {
		o.memory = sortMemory
	}
	if o.Progress == nil {
		o.Progress = func(string, uint64) {}
	}
	r := &reconciliation{o: o, ctx: ctx, sets: map[uint64]bool{}, narrow: map[uint64][2]uint64{}, uplink: -1, released: map[uint64]bool{}, dead: map[uint64]waiting{},
		out:      &Reconciliation{Uplink: o.Uplink, Identity: o.Identity.String(), OffRecord: []Differ{}, Altered: []Differ{}, Missing: []Differ{}, MalformedLines: []uint64{}, Notes: []string{}},
		captured: newSorter(entrySize, o.memory), decided: newSorter(entrySize, o.memory), found: newSorter(8, o.memory)}
	defer func() {
		r.captured.close()
		r.decided.close()
		r.found.close()
	}()
	for _, step := range []func() error{
		func() error { return readCapture(capture, r.capture) },
		func() error { return r.decisions(log) },
		r.join,
		func() error { return r.missing(log) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	r.judge()
	return r.out, nil
}

// An entry is id(16) ‖ line or seq(8) ‖ commitment(32) ‖ flags(8).
const entrySize = 64

const (
	flagSalted = 1 << iota // the capture holds the salt
	flagExact              // and the bytes as they arrived
)

// reconciliation is the state of one Reconcile.
type reconciliation struct {
	o   ReconcileOptions
	ctx context.Context
	out *Reconciliation
	rec gateway.Record

	captured *sorter              // entries of the capture, by id and line
	narrow   map[uint64][2]uint64 // incarnation → least and greatest counter captured
	wide     bool                 // too many incarnations to narrow by

	begin, next uint64 // of the records: the first that is there, and the one that comes next

	uplink   int             // the record's number; -1: not named yet
	sets     map[uint64]bool // version set → the uplink has the identity in it
	others   []string        // identities that it had instead
	released map[uint64]bool // decisions whose hold was released for the uplink
	decided  *sorter         // entries of decisions, by id

	found       *sorter // seqs of the decisions that were captured
	first, last uint64  // of them
	any         bool

	open []waiting          // decisions that let leave, were not captured, and are not settled, by seq
	dead map[uint64]waiting // of them, those that the uplink refused, by seq
}

// capture takes one line in.
func (r *reconciliation) capture(line uint64, c Captured, err error) error {
	if line%progressStep == 0 {
		r.o.Progress("lines of the capture", line)
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
	}
	if err != nil {
		if r.out.Malformed++; len(r.out.MalformedLines) < maxFindings {
			r.out.MalformedLines = append(r.out.MalformedLines, line)
		}
		return nil
	}
	if gateway.ReservedTopic(c.Topic) {
		r.out.Control++
		return nil
	}
	r.out.Captured++
	topic, ours := strings.CutPrefix(c.Topic, r.o.Prefix)
	if !ours {
		note(&r.out.OffRecord, &r.out.OffRecordCount, Differ{Line: line, Why: "topic is without the uplink's prefix"})
		return nil
	}
	if r.o.Identity == nil {
		r.out.Unverifiable++
		return nil
	}
	m, err := r.o.Identity.Read(topic, c.Payload)
	if err != nil {
		note(&r.out.OffRecord, &r.out.OffRecordCount, Differ{Line: line, Why: "carries no id"})
		return nil
	}
	flags := uint64(0)
	if m.Salted {
		flags |= flagSalted
	}
	if c.Exact {
		flags |= flagExact
	}
	span, known := r.narrow[m.ID.Incarnation]
	if !known {
		span = [2]uint64{m.ID.Counter, m.ID.Counter}
		r.wide = r.wide || len(r.narrow) >= maxRestarts
	}
	if !r.wide {
		r.narrow[m.ID.Incarnation] = [2]uint64{min(span[0], m.ID.Counter), max(span[1], m.ID.Counter)}
	}
	left := gateway.Commitment("sluice left v1", &m.Salt, []byte(topic), c.Payload)
	return r.captured.add(entry(m.ID, line, &left, flags))
}

func entry(id gateway.ID, number uint64, left *[32]byte, flags uint64) []byte {
	b := make([]byte, 0, entrySize)
	b = binary.BigEndian.AppendUint64(b, id.Incarnation)
	b = binary.BigEndian.AppendUint64(b, id.Counter)
	b = binary.BigEndian.AppendUint64(b, number)
	b = append(b, left[:]...)
	return binary.BigEndian.AppendUint64(b, flags)
}

func idOf(e []byte) gateway.ID {
	return gateway.ID{Incarnation: binary.BigEndian.Uint64(e), Counter: binary.BigEndian.Uint64(e[8:])}
}
func numberOf(e []byte) uint64 { return binary.BigEndian.Uint64(e[16:]) }
func leftOf(e []byte) []byte   { return e[24:56] }
func flagsOf(e []byte) uint64  { return binary.BigEndian.Uint64(e[56:]) }

// decisions is the first pass over the records.
func (r *reconciliation) decisions(log Records) error {
	if p, ok := log.(Partial); ok {
		next, _, changes := p.Start()
		for _, seq := range changes {
			if err := gateway.DecodeRecord(p.Kept(seq), &r.rec); err != nil {
				return fmt.Errorf("record %d: %w", seq, err)
			}
			r.change()
		}
		if r.begin, r.next, r.out.Trimmed = next, next, next; next > 0 {
			r.out.NotCompared = append(r.out.NotCompared, Range{0, next - 1})
		}
	}
	return log.Records(r.begin, r.decision)
}

// decision takes one record of the first pass in.
func (r *reconciliation) decision(seq uint64, record []byte) error {
	r.out.Records++
	if seq > r.next {
		r.out.NotCompared = append(r.out.NotCompared, Range{r.next, seq - 1})
	}
	r.next = seq + 1
	if seq%progressStep == 0 {
		r.o.Progress("records", seq)
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
	}
	if err := gateway.DecodeRecord(record, &r.rec); err != nil {
		return fmt.Errorf("record %d: %w", seq, err)
	}
	switch r.rec.Kind {
	case gateway.ChangeRecord:
		r.change()
	case gateway.ReleaseRecord:
		if int(r.rec.Uplink) == r.uplink && r.rec.State == gateway.Forwarded {
			r.released[r.rec.First] = true
		}
	case gateway.DecisionRecord:
		span, asked := r.narrow[r.rec.ID.Incarnation]
		if !r.wide && (!asked || r.rec.ID.Counter < span[0] || r.rec.ID.Counter > span[1]) {
			return nil
		}
		var left [32]byte
		flags := uint64(gateway.NoState) << 8
		if out := r.outcome(); out != nil {
			left = out.Left
			flags = uint64(out.State) << 8
		}
		return r.decided.add(entry(r.rec.ID, seq, &left, flags))
	}
	return nil
}

// change learns from a change record which number the uplink has, and which identity.
func (r *reconciliation) change() {
	var detail struct {
		Uplinks []struct {
			Name     string `json:"name"`
			Number   int    `json:"number"`
			Identity string `json:"identity"`
		} `json:"uplinks"`
	}
	if json.Unmarshal(r.rec.Detail, &detail) != nil {
		return
	}
	for _, u := range detail.Uplinks {
		if u.Name != r.o.Uplink {
			continue
		}
		r.uplink = u.Number
		if u.Identity = cmp.Or(u.Identity, "none"); u.Identity == r.out.Identity {
			r.sets[r.rec.Set] = true
		} else if !slices.Contains(r.others, u.Identity) && len(r.others) < maxFindings {
			r.others = append(r.others, u.Identity)
		}
	}
}

// outcome is what the decision in hand came to for the uplink; nil: nothing.
func (r *reconciliation) outcome() *gateway.Outcome {
	for i := range r.rec.Outcomes {
		if int(r.rec.Outcomes[i].Uplink) == r.uplink {
			return &r.rec.Outcomes[i]
		}
	}
	return nil
}

// join walks through the capture and the decisions, both by id.
func (r *reconciliation) join() error {
	captured, err := r.captured.sorted()
	if err != nil {
		return err
	}
	decided, err := r.decided.sorted()
	if err != nil {
		return err
	}
	c, err := captured.next()
	if err != nil {
		return err
	}
	d, err := decided.next()
	for err == nil && c != nil {
		for err == nil && d != nil && bytes.Compare(d[:16], c[:16]) < 0 {
			d, err = decided.next()
		}
		if err != nil {
			break
		}
		of := d
		if d != nil && !bytes.Equal(d[:16], c[:16]) {
			of = nil
		}
		c, err = r.copies(captured, slices.Clone(c), of)
	}
	return err
}

// copies compares all captures of one message with its decision, nil for none, and returns the first of the next message.
func (r *reconciliation) copies(captured *entries, first, decision []byte) (next []byte, err error) {
	if decision != nil {
		seq := numberOf(decision)
		if !r.any || seq < r.first {
			r.first = seq
		}
		if !r.any || seq > r.last {
			r.last = seq
		}
		r.any = true
		if err := r.found.add(binary.BigEndian.AppendUint64(nil, seq)); err != nil {
			return nil, err
		}
	}
	matched := false
	for c := first; c != nil; {
		matched = r.compare(c, decision) || matched
		if c, err = captured.next(); err != nil {
			return nil, err
		}
		if c == nil || !bytes.Equal(c[:16], first[:16]) {
			next = c
			break
		}
		r.out.Duplicates++
		if !bytes.Equal(leftOf(c), leftOf(first)) {
			r.out.DuplicatesDiffer++
		}
	}
	if matched {
		r.out.Matched++
	}
	return next, nil
}

// compare judges one capture and reports whether it is what the record commits to.
func (r *reconciliation) compare(c, decision []byte) bool {
	d := Differ{Line: numberOf(c), ID: idOf(c).String()}
	if decision == nil {
		d.Why = "no decision has this id"
		if len(r.out.NotCompared) > 0 {
			d.Why = "no decision that is here has this id"
		}
		note(&r.out.OffRecord, &r.out.OffRecordCount, d)
		return false
	}
	seq := numberOf(decision)
	d.Seq = &seq
	switch state := gateway.State(flagsOf(decision) >> 8); {
	case state == gateway.Held && r.released[seq]:
		r.out.Unverifiable++ // the record commits to the sealed form
	case state != gateway.Waiting:
		d.Why = "the decision was " + state.String()
		if state == gateway.NoState {
			d.Why = "the decision was not about this uplink"
		}
		note(&r.out.OffRecord, &r.out.OffRecordCount, d)
	case flagsOf(c)&flagSalted == 0:
		r.out.Unverifiable++
	case bytes.Equal(leftOf(c), leftOf(decision)):
		return true
	case flagsOf(c)&flagExact == 0:
		r.out.Unverifiable++
	default:
		d.Why = "is not what the record commits to"
		note(&r.out.Altered, &r.out.AlteredCount, d)
	}
	return false
}

// within reports whether the decision in hand must have been captured, once it was forwarded.
func (r *reconciliation) within(seq uint64) bool {
	beyond := func(b *Bound, side int) bool {
		if !b.At.IsZero() {
			return r.rec.Time.Compare(b.At)*side > 0
		}
		return cmp.Compare(seq, b.Seq)*side > 0
	}
	if r.o.From != nil && beyond(r.o.From, -1) || r.o.To != nil && beyond(r.o.To, 1) {
		return false
	}
	return (r.o.From != nil || r.any && seq >= r.first) && (r.o.To != nil || r.any && seq <= r.last)
}

// missing reads the records once more, for what was forwarded and not captured.
func (r *reconciliation) missing(log Records) error {
	if r.o.Identity == nil || r.uplink < 0 || !r.any && (r.o.From == nil || r.o.To == nil) {
		return nil
	}
	found, err := r.found.sorted()
	if err != nil {
		return err
	}
	begin := r.first
	if r.o.From != nil {
		begin = max(r.begin, r.o.From.Seq) // 0 for a time
	}
	captured, err := found.next()
	if err != nil {
		return err
	}
	return log.Records(begin, func(seq uint64, record []byte) error {
		if seq%progressStep == 0 {
			r.o.Progress("records, once more", seq)
			if r.ctx.Err() != nil {
				return r.ctx.Err()
			}
		}
		if err := gateway.DecodeRecord(record, &r.rec); err != nil {
			return fmt.Errorf("record %d: %w", seq, err)
		}
		switch r.rec.Kind {
		case gateway.DecisionRecord:
			for captured != nil && binary.BigEndian.Uint64(captured) < seq {
				var err error
				if captured, err = found.next(); err != nil {
					return err
				}
			}
			return r.wait(seq, captured != nil && binary.BigEndian.Uint64(captured) == seq)
		case gateway.DeliveryRecord, gateway.ExpiryRecord:
			r.settle()
		case gateway.ReleaseRecord:
			if w, ok := r.dead[r.rec.First]; ok && int(r.rec.Uplink) == r.uplink && r.rec.State == gateway.Waiting {
				delete(r.dead, r.rec.First)
				w.seq, w.settled = seq, false
				r.open = append(r.open, w)
			}
		}
		return nil
	})
}

// judge sums up.
func (r *reconciliation) judge() {
	o := r.out
	byLine := func(a, b Differ) int { return cmp.Compare(a.Line, b.Line) }
	slices.SortFunc(o.OffRecord, byLine)
	slices.SortFunc(o.Altered, byLine)
	o.OK = o.OffRecordCount+o.AlteredCount+o.MissingCount+o.Malformed+o.Unverifiable+o.DuplicatesDiffer+o.OtherIdentity == 0
	say := func(format string, args ...any) {
		o.OK = false
		o.Notes = append(o.Notes, fmt.Sprintf(format, args...))
	}
	switch {
	case r.o.Identity == nil:
		say("uplink %s has no identity: nothing ties a captured message to its record", r.o.Uplink)
	case r.uplink < 0:
		say("the record does not name an uplink %s", r.o.Uplink)
	case !r.any && (r.o.From == nil || r.o.To == nil):
		say("no captured message is on the record, and no span was given: what is missing is not known")
	}
	if len(r.others) > 0 && r.o.Identity != nil && (o.OtherIdentity > 0 || o.OffRecordCount > 0) {
		say("at times the uplink had another identity: %s", strings.Join(r.others, "; "))
	}
}
