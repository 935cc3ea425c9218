// Package audit checks a gateway's record log from the outside: from the records, the checkpoints and the public key
// alone, without trusting who keeps them.
//
// Records are the leaves of an RFC 6962 tree in the order of their seq, from 0 and without gaps; a checkpoint states the
// root over the first Size of them (package crypto/signed). Verify walks a whole log, or what is
// still where it was written, from where that begins. Prove takes one record out of it with the hashes that lead to a
// checkpoint, and CheckProof checks that offline.
//
// Reconcile compares what a recipient captured with what the records say left, both ways, by the id and the salt that
// came with each message. A log cannot show what never entered it; the recipient's capture can.
//
// A proof travels as JSON: seq; size, the size of the checkpoint's tree; record, base64 of the record's encoding
// (package gateway, "Records"); hashes, the inclusion path from the leaf up, base64 [RFC 6962 §2.1.1]; checkpoint, its
// signed text.
package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
)

// Log is where records and checkpoints come from.
type Log interface {
	// Records calls fn for every record from a seq on, in order. The record is fn's only until it returns.
	Records(from uint64, fn func(seq uint64, record []byte) error) error
	// Checkpoints calls fn for every stored checkpoint, by growing size.
	Checkpoints(fn func(size uint64, text []byte) error) error
}

// Trimmed is a Log whose oldest records are no longer where it is kept. Package journal, "Trimming".
type Trimmed interface {
	Log
	tlog.HashReader
	// Start returns the seq of the first record, the roots of the complete subtrees of the tree over all before it,
	// largest first, and the seqs of change records among these that are still there. All is zero when nothing is missing.
	Start() (next uint64, roots []tlog.Hash, changes []uint64)
	// Kept returns such a change record, nil for any other seq.
	Kept(seq uint64) []byte
}

// Resumer is a Log in which records may be lost, as the log itself then says. Resume returns the size from which the
// tree is known again when the record at seq comes next and the tree ended in front of it, and the roots of its complete
// subtrees, largest first. A checkpoint of that size or a later one proves them right.
type Resumer interface {
	Resume(tree, seq uint64) (size uint64, roots []tlog.Hash, ok bool)
}

// maxErrors bounds the errors that a report lists; the rest are counted.
const maxErrors = 100

// Report is what Verify found. The fields are those of `audit verify --json`.
type Report struct {
	OK         bool   `json:"ok"`
	Records    uint64 `json:"records"`                // decision records
	TreeSize   uint64 `json:"tree_size"`              // all records
	Checkpoint string `json:"checkpoint"`             // signed text of the newest valid one, empty when there is none
	Unsigned   uint64 `json:"unsigned"`               // records behind it
	Lost       uint64 `json:"lost_records,omitempty"` // missing, each named as lost by an event of the log: no error

	Holes  []Range `json:"lost,omitempty"`        // where they are missing
	Stated []Range `json:"stated_lost,omitempty"` // all that the events read name as lost, before the log begins too

	// Of a log that begins behind record 0: its first record, and the hash of the tree over all before it, hexadecimal.
	Trimmed     uint64 `json:"trimmed,omitempty"`
	TrimmedRoot string `json:"trimmed_root,omitempty"`

	Errors []string `json:"errors"`

	more int
}

// Range is a first and a last record.
type Range [2]uint64

func (r Range) String() string { return fmt.Sprintf("%d to %d", r[0], r[1]) }

// Add puts an error on the report, which is then no longer good.
func (r *Report) Add(format string, args ...any) {
	r.OK = false
	if len(r.Errors) < maxErrors {
		r.Errors = append(r.Errors, fmt.Sprintf(format, args...))
		return
	}
	r.more++
	r.Errors = append(r.Errors[:maxErrors], fmt.Sprintf("and %d more", r.more))
}

// statement is one checkpoint whose signature is good.
type statement struct {
	size uint64
	root tlog.Hash
	text string
}

// Verify checks a whole log: that every record decodes, that none is missing, that the version set of every decision
// was announced by a change record before it, and that every checkpoint is signed by the key and states the root of the
// records that it covers; two checkpoints that each state the root of the same records are consistent with each other.
// Records that are missing and that an event behind them names as lost are counted; others are errors.
// Of a log that is Trimmed it checks the records that are there, that the tree they grow from is the one that later
// checkpoints sign, and that the newest checkpoint before them leads to it.
//
// It returns an error only when ctx ends; what is wrong with the log is in the report.
func Verify(ctx context.Context, log Log, key *signed.Verifier) (*Report, error) {
	for {
		r, _, err := verifyOnce(ctx, log, nil, key)
		if t, ok := log.(Trimmed); ok && err == nil && !r.OK {
			if next, _, _ := t.Start(); next != r.Trimmed {
				continue // trimmed while we read
			}
		}
		return r, err
	}
}

// VerifyTo is Verify for the first size records of a log, as a collector has them, and returns the hash of the tree over
// them, in the form of Report.TrimmedRoot. stated is what the rest of the log says to be lost, Report.Stated: damage is
// on the record behind what it hit. A log that is no Resumer may have no holes.
func VerifyTo(ctx context.Context, log Log, size uint64, stated []Range, key *signed.Verifier) (r *Report, root string, err error) {
	part := beginning{log, size}
	var from Log = part
	if resume, ok := log.(Resumer); ok {
		from = resumedBeginning{part, resume}
	}
	r, tree, err := verifyOnce(ctx, from, stated, key)
	if err != nil {
		return nil, "", err
	}
	if tree.size != size {
		r.Add("the log ends before record %d", size)
	}
	h := tree.root()
	return r, hex.EncodeToString(h[:]), nil
}

// beginning is the first size records of a log, with the checkpoints over them.
type beginning struct {
	log  Log
	size uint64
}

// resumedBeginning is one in which records may be lost.
type resumedBeginning struct {
	beginning
	Resumer
}

var errEnd = errors.New("end")

func (b beginning) Records(from uint64, fn func(uint64, []byte) error) error {
	err := b.log.Records(from, func(seq uint64, record []byte) error {
		if seq >= b.size {
			return errEnd
		}
		return fn(seq, record)
	})
	if err == errEnd {
		return nil
	}
	return err
}

func (b beginning) Checkpoints(fn func(uint64, []byte) error) error {
	return b.log.Checkpoints(func(size uint64, text []byte) error {
		if size > b.size {
			return nil
		}
		return fn(size, text)
	})
}

func verifyOnce(ctx context.Context, log Log, stated []Range, key *signed.Verifier) (*Report, *compact, error) {
	r := &Report{OK: true, Errors: []string{}}
	v := verification{report: r, sets: make(map[uint64]bool), lost: slices.Clone(stated)}
	v.resume, _ = log.(Resumer)
	if t, ok := log.(Trimmed); ok {
		v.start(t)
	}
	v.readCheckpoints(log, key)
	v.match()
	err := log.Records(r.Trimmed, func(seq uint64, record []byte) error {
		if seq%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return v.record(seq, record)
	})
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil {
		r.Add("read log: %v", err)
	}
	v.end()
	r.TreeSize = v.tree.size
	r.Unsigned = r.TreeSize - min(v.signed, r.TreeSize)
	for _, s := range v.statements {
		r.Add("checkpoint of size %d: the log has %d records only", s.size, r.TreeSize)
	}
	return r, &v.tree, nil
}

// verification is the state of one Verify.
type verification struct {
	report     *Report
	statements []statement // by growing size, those not reached yet
	signed     uint64      // size of the newest checkpoint that matched
	tree       compact
	next       uint64          // seq of the record that comes next
	sets       map[uint64]bool // announced version sets; false: missing
	missing    []string        // decisions whose version set is not announced
	rec        gateway.Record

	resume Resumer
	gaps   []Range // of records that are missing
	lost   []Range // what events say to be lost
}

func (v *verification) readCheckpoints(log Log, key *signed.Verifier) {
	var last uint64
	err := log.Checkpoints(func(size uint64, text []byte) error {
		c, err := key.ParseVerify(text)
		if err != nil {
			v.report.Add("checkpoint of size %d: %v", size, err)
			return nil
		}
		if c.Size != size || c.Size < last {
			v.report.Add("checkpoint of size %d: stands where one of another size belongs", c.Size)
			return nil
		}
		last = size
		if size < v.report.Trimmed {
			v.consistent(log.(Trimmed), statement{size, c.Root, string(text)})
			return nil
		}
		v.statements = append(v.statements, statement{size, c.Root, string(text)})
		return nil
	})
	if err != nil {
		v.report.Add("read checkpoints: %v", err)
	}
}

// start lets the tree grow from where the log begins.
func (v *verification) start(log Trimmed) {
	next, roots, changes := log.Start()
	if next == 0 {
		return
	}
	v.report.Trimmed, v.next = next, next
	if v.tree = (compact{next, roots}); bits.OnesCount64(next) != len(roots) {
		v.report.Add("the tree at record %d, where the log begins, does not add up", next)
		v.tree.roots = make([]tlog.Hash, bits.OnesCount64(next))
	}
	root := v.tree.root()
	v.report.TrimmedRoot = hex.EncodeToString(root[:])
	for _, seq := range changes {
		record := log.Kept(seq)
		if err := gateway.DecodeRecord(record, &v.rec); err != nil || v.rec.Kind != gateway.ChangeRecord {
			v.report.Add("record %d is kept and is no change record", seq)
			continue
		}
		proof, err := tlog.ProveRecord(int64(next), int64(seq), log)
		if err == nil {
			err = tlog.CheckRecord(proof, int64(next), root, int64(seq), tlog.RecordHash(record))
		}
		if err != nil {
			v.report.Add("record %d is kept and does not lead to the records that are here: %v", seq, err)
			continue
		}
		v.sets[v.rec.Set] = true
	}
}

// consistent checks a checkpoint from before the log begins: it leads to the tree from which the log grows.
func (v *verification) consistent(log Trimmed, s statement) {
	proof, err := tlog.ProveTree(int64(v.report.Trimmed), int64(s.size), log)
	if err == nil {
		err = tlog.CheckTree(proof, int64(v.report.Trimmed), v.tree.root(), int64(s.size), s.root)
	}
	if err != nil {
		v.report.Add("checkpoint of size %d: does not lead to the records that are here: %v", s.size, err)
		return
	}
	v.signed, v.report.Checkpoint = s.size, s.text
}

// match compares the tree as it stands with the checkpoints of its size.
func (v *verification) match() {
	for len(v.statements) > 0 && v.statements[0].size == v.tree.size {
		s := v.statements[0]
		v.statements = v.statements[1:]
		if v.tree.root() != s.root {
			v.report.Add("checkpoint of size %d: the records have another root", s.size)
			continue
		}
		v.signed, v.report.Checkpoint = s.size, s.text
	}
}

func (v *verification) record(seq uint64, record []byte) error {
	if err := v.follow(seq); err != nil {
		return err
	}
	if seq == v.tree.size {
		v.tree.push(tlog.RecordHash(record))
		v.match()
	}
	v.next = seq + 1
	if err := gateway.DecodeRecord(record, &v.rec); err != nil {
		v.report.Add("record %d: %v", seq, err)
		return nil
	}
	switch v.rec.Kind {
	case gateway.ChangeRecord:
		v.sets[v.rec.Set] = true
	case gateway.DecisionRecord:
		v.report.Records++
		if _, known := v.sets[v.rec.Set]; !known {
			v.sets[v.rec.Set] = false
			v.missing = append(v.missing, fmt.Sprintf("record %d: version set %d is not announced by a change record", seq, v.rec.Set))
		}
	case gateway.EventRecord:
		v.event()
	}
	return nil
}

// follow passes the records that are missing in front of the one at seq, when the log knows the tree behind them.
func (v *verification) follow(seq uint64) error {
	if seq == v.next {
		return nil
	}
	gap := fmt.Errorf("record %d: record %d follows instead", v.next, seq)
	if v.resume == nil || seq < v.next {
		return gap
	}
	v.gaps = append(v.gaps, Range{v.next, seq - 1})
	if seq <= v.tree.size {
		return nil // in front of the size from which the tree is known
	}
	size, roots, ok := v.resume.Resume(v.tree.size, seq)
	if !ok || size < seq || bits.OnesCount64(size) != len(roots) {
		return gap
	}
	v.tree = compact{size, roots}
	for len(v.statements) > 0 && v.statements[0].size < size {
		v.statements = v.statements[1:] // of a tree that nobody knows any more
	}
	v.match()
	return nil
}

// event takes down what an event says to be lost.
func (v *verification) event() {
	var lost struct {
		Event string  `json:"event"`
		Lost  []Range `json:"lost"`
	}
	if json.Unmarshal(v.rec.Detail, &lost) == nil && lost.Event == "journal restated" {
		v.lost = append(v.lost, lost.Lost...)
	}
}

// end compares what is missing with what the log says to be lost. With lost records a version set may have been
// announced by one of them.
func (v *verification) end() {
	v.report.Stated = merged(v.lost)
	for _, g := range v.gaps {
		at := g[0]
		for _, l := range v.report.Stated {
			first, last := max(at, l[0]), min(g[1], l[1])
			if first > last {
				continue
			}
			if at < first {
				v.report.Add("records %s are missing and no event says so", Range{at, first - 1})
			}
			v.report.Holes = append(v.report.Holes, Range{first, last})
			v.report.Lost += last - first + 1
			at = last + 1
		}
		if at <= g[1] {
			v.report.Add("records %s are missing and no event says so", Range{at, g[1]})
		}
	}
	if len(v.lost) == 0 {
		for _, m := range v.missing {
			v.report.Add("%s", m)
		}
	}
}

// merged returns the ranges in order, those that touch as one. Ranges that hold nothing are left out.
func merged(list []Range) (out []Range) {
	list = slices.DeleteFunc(slices.Clone(list), func(r Range) bool { return r[0] > r[1] })
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a[0], b[0]) })
	for _, r := range list {
		if n := len(out); n > 0 && (r[0] <= out[n-1][1] || r[0]-1 == out[n-1][1]) {
			out[n-1][1] = max(out[n-1][1], r[1])
			continue
		}
		out = append(out, r)
	}
	return out
}

// compact holds the roots of the complete subtrees of a growing tree, largest first. [RFC 6962 §2.1]
type compact struct {
	size  uint64
	roots []tlog.Hash
}

func (c *compact) push(h tlog.Hash) {
	for range bits.TrailingZeros64(^c.size) {
		h = tlog.NodeHash(c.roots[len(c.roots)-1], h)
		c.roots = c.roots[:len(c.roots)-1]
	}
	c.roots = append(c.roots, h)
	c.size++
}

func (c *compact) root() tlog.Hash {
	if len(c.roots) == 0 {
		return sha256.Sum256(nil)
	}
	h := c.roots[len(c.roots)-1]
	for i := len(c.roots) - 2; i >= 0; i-- {
		h = tlog.NodeHash(c.roots[i], h)
	}
	return h
}
