package journal

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/sluice-edge/sluice/gateway"
)

// salvaged is one record with its bodies as they were committed, taken out of a damaged file.
type salvaged struct {
	seq    uint64
	record []byte // leaf hash ‖ record
	bodies []sealed
	tree   bool // stood where the newest tree of the file reaches
}

// readable is what could be taken out of one damaged file.
type readable struct {
	entries     []salvaged // by seq
	checkpoints []Checkpoint
	trees       []compact
}

// found gathers what proved itself, with how much else speaks for the place where it stood.
type found struct {
	records map[uint64][]proven
	bodies  map[uint64][]proven
	texts   map[uint64][]byte
	trees   map[uint64]storedTree
	failed  []failed
	spare   []proven // records that stand where they cannot
}

type proven struct {
	value   []byte
	variant byte
	weight  int
}

// add keeps one of several equal values, with the greatest weight.
func add(list []proven, p proven) []proven {
	for i := range list {
		if list[i].variant == p.variant && bytes.Equal(list[i].value, p.value) {
			list[i].weight = max(list[i].weight, p.weight)
			return list
		}
	}
	return append(list, p)
}

// salvage takes out what is readable of the records from first up to limit. The newest tree of the file counts before
// pages that only lie there: those hold older copies of the same entries, or a commit that failed.
func (m *image) salvage(keys *keyring, first, limit uint64) *readable {
	limit = min(limit, first+uint64(len(m.b)/hashSize)+1) // no file holds more records
	f := m.find(keys, first, limit)
	return f.settle(keys, first, true)
}

// salvageSpread takes out what is readable of entries whose seqs have gaps: parked bodies and their records.
func (m *image) salvageSpread(keys *keyring) *readable {
	r := m.find(keys, 0, ^uint64(0)).settle(keys, 0, false)
	for i := range r.entries {
		r.entries[i].bodies = slices.DeleteFunc(r.entries[i].bodies, func(s sealed) bool { return !parkable(&s.header) })
	}
	r.entries = slices.DeleteFunc(r.entries, func(e salvaged) bool { return len(e.bodies) == 0 })
	return r
}

// parkable reports whether a body may be of those that are parked. Which messages are dead the ledger says: a body of
// another leaves parked.bolt at the next tidying.
func parkable(h *header) bool { return h.hold() || !h.control() }

// find gathers everything that proves itself.
func (m *image) find(keys *keyring, first, limit uint64) *found {
	m.keys = keys
	f := &found{records: make(map[uint64][]proven), bodies: make(map[uint64][]proven), texts: make(map[uint64][]byte), trees: make(map[uint64]storedTree)}
	for at := 0; at+pageHead <= len(m.b); at += m.page {
		cells := m.leaf(at)
		for i := range cells {
			c := &cells[i]
			seq := binary.BigEndian.Uint64(c.key[:])
			if seq < first || seq > limit || seq == limit && c.size == entryKeyLen {
				if c.right && c.size == entryKeyLen && c.key[8] == recordByte && len(f.spare) < maxFailed {
					f.spare = append(f.spare, proven{value: c.value})
				}
				continue
			}
			if c.size == checkpointKeyLen && !m.stands(cells, i, seq) {
				continue
			}
			p := proven{}
			if m.reach[at/m.page] {
				p.weight = 4
			}
			if i > 0 && follows(&cells[i-1], c) {
				p.weight++
			}
			if i+1 < len(cells) && follows(c, &cells[i+1]) {
				p.weight++
			}
			for _, value := range [][]byte{c.value, c.other} {
				if p.value = value; value != nil && m.take(f, c, seq, p, keys) {
					break
				}
				if value != nil && c.size == entryKeyLen && len(f.failed) < maxFailed {
					f.failed = append(f.failed, failed{*c, seq, p})
				}
			}
		}
	}
	f.setRight(keys)
	return f
}

// failed is a value that does not prove itself.
type failed struct {
	c   cell
	seq uint64
	p   proven
}

// maxFailed bounds the values that a flipped bit is looked for in.
const maxFailed = 64

// setRight sets one flipped bit right in values of which no other copy proves itself.
func (f *found) setRight(keys *keyring) {
	for _, d := range f.failed {
		p, ok := d.p, false
		if d.c.key[8] == recordByte {
			if len(f.records[d.seq]) == 0 {
				if p.value, ok = rightRecord(p.value); ok {
					f.records[d.seq] = add(f.records[d.seq], p)
				}
			}
			continue
		}
		p.variant = d.c.key[8] - 1
		if int(p.variant) < maxOutlets && !slices.ContainsFunc(f.bodies[d.seq], func(o proven) bool { return o.variant == p.variant }) {
			if p.value, ok = keys.rightBody(p.value, p.variant); ok {
				f.bodies[d.seq] = add(f.bodies[d.seq], p)
			}
		}
	}
}

// stands reports whether a checkpoint stands beside the last record of its tree or the one behind it, or is a tree.
func (m *image) stands(cells []cell, i int, size uint64) bool {
	if _, ok := parseTree(size, cells[i].value); ok {
		return true
	}
	before := i > 0 && cells[i-1].size == entryKeyLen && binary.BigEndian.Uint64(cells[i-1].key[:])+1 == size
	behind := i+1 < len(cells) && cells[i+1].size == entryKeyLen && binary.BigEndian.Uint64(cells[i+1].key[:]) == size
	return before || behind
}

// take keeps a value that proves itself.
func (m *image) take(f *found, c *cell, seq uint64, p proven, keys *keyring) bool {
	if m.work -= len(p.value); m.work < 0 && len(p.value) > m.page {
		return false // values that overlap could otherwise cost any time
	}
	switch {
	case c.size == checkpointKeyLen:
		if t, ok := parseTree(seq, p.value); ok {
			f.trees[seq] = t
		} else if _, have := f.texts[seq]; (!have || p.weight >= 4) && len(p.value) > 0 {
			f.texts[seq] = p.value
		}
		return true
	case c.key[8] == recordByte:
		if len(p.value) < hashSize || len(p.value) > hashSize+maxRecord {
			return false
		}
		if h := leafHash(p.value[hashSize:]); !bytes.Equal(h[:], p.value[:hashSize]) {
			return false
		}
		f.records[seq] = add(f.records[seq], p)
	default:
		p.variant = c.key[8] - 1
		if int(p.variant) >= maxOutlets {
			return false
		}
		value, ok := keys.proves(p.value, p.variant)
		if !ok {
			return false
		}
		p.value = value
		f.bodies[seq] = add(f.bodies[seq], p)
	}
	return true
}

// maxRecord bounds a record; longer ones were never written.
const maxRecord = 1<<20 + 1<<16

// proves reports whether a body opens, if need be with its key id set right; it returns it so.
func (r *keyring) proves(value []byte, variant byte) ([]byte, bool) {
	if _, err := r.open(value, variant); err == nil {
		return value, true
	}
	if len(value) < bodyOverhead {
		return nil, false
	}
	for known := range r.keys {
		if known == keyOf(value) {
			continue
		}
		mended := bytes.Clone(value)
		binary.BigEndian.PutUint32(mended[headerSize+1:], known)
		if _, err := r.open(mended, variant); err == nil {
			return mended, true
		}
	}
	return nil, false
}

// best returns the value with the greatest weight; none when two different ones have it.
func best(list []proven) (p proven, ok bool) {
	for _, c := range list {
		switch {
		case !ok && c.weight >= p.weight || c.weight > p.weight:
			p, ok = c, true
		case c.weight == p.weight:
			ok = false
		}
	}
	return p, ok
}

// settle picks one record for each seq, and the bodies that belong to it.
func (f *found) settle(keys *keyring, first uint64, dense bool) *readable {
	r := new(readable)
	seqs := make([]uint64, 0, len(f.records))
	for seq := range f.records {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	expected := first
	for i, seq := range seqs {
		p, ok := best(f.records[seq])
		for _, o := range f.records[seq] {
			if !ok || !bytes.Equal(o.value, p.value) {
				f.spare = append(f.spare, o)
			}
		}
		if !ok {
			continue
		}
		at := seq
		// A record alone on its page, behind a gap, whose key differs by one bit from the one that is missing.
		if dense && seq > expected && bits.OnesCount64(seq^expected) == 1 && p.weight&3 == 0 && (i+1 == len(seqs) || seqs[i+1] != seq+1) {
			at = expected
		}
		e := salvaged{seq: at, record: p.value, tree: p.weight >= 4}
		f.pair(&e, seq, keys)
		r.entries = append(r.entries, e)
		expected = at + 1
	}
	slices.SortStableFunc(r.entries, func(a, b salvaged) int { return cmp.Compare(a.seq, b.seq) })
	r.entries = slices.CompactFunc(r.entries, func(a, b salvaged) bool { return a.seq == b.seq })
	for n := len(r.entries); n > 0 && !r.entries[n-1].tree && !r.entries[n-1].complete(); n-- {
		r.entries = r.entries[:n-1] // of a commit that did not end: nobody was told of it
	}
	f.adopt(r, keys)
	for size, t := range f.trees {
		r.trees = append(r.trees, t.compact)
		if text, ok := f.texts[size]; ok && t.text != ([hashSize]byte{}) && sha256.Sum256(text) != t.text {
			delete(f.texts, size) // its bytes are not those that were signed
		}
	}
	slices.SortFunc(r.trees, func(a, b compact) int { return cmp.Compare(a.size, b.size) })
	for size, text := range f.texts {
		r.checkpoints = append(r.checkpoints, Checkpoint{Size: size, Text: text})
	}
	slices.SortFunc(r.checkpoints, func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	return r
}

// adopt joins what a damaged key took apart: a body where no record stands says which message it is of. Its record, when
// that has another body or none elsewhere, takes it; one that stood where it could not takes the body's seq.
func (f *found) adopt(r *readable, keys *keyring) {
	at, bare, spare := make(map[uint64]bool), make(map[gateway.ID]*salvaged), make(map[gateway.ID]proven)
	var rec gateway.Record
	for i := range r.entries {
		e := &r.entries[i]
		at[e.seq] = true
		if len(e.bodies) == 0 && gateway.DecodeRecord(e.record[hashSize:], &rec) == nil && rec.Kind == gateway.DecisionRecord {
			bare[rec.ID] = e
		}
	}
	for _, p := range f.spare {
		if gateway.DecodeRecord(p.value[hashSize:], &rec) == nil && rec.Kind == gateway.DecisionRecord {
			spare[rec.ID] = p
		}
	}
	var placed []salvaged
	for seq, list := range f.bodies {
		for _, p := range list {
			c, err := keys.open(p.value, p.variant)
			if err != nil || at[seq] {
				continue
			}
			if record, ok := spare[c.id]; ok {
				e := salvaged{seq: seq, record: record.value, tree: record.weight >= 4}
				f.pair(&e, seq, keys)
				placed = append(placed, e)
				at[seq] = true
			} else if e := bare[c.id]; e != nil {
				f.bodies[e.seq] = append(f.bodies[e.seq], p)
				e.bodies = nil
				f.pair(e, e.seq, keys)
			}
		}
	}
	r.entries = append(r.entries, placed...)
	slices.SortFunc(r.entries, func(a, b salvaged) int { return cmp.Compare(a.seq, b.seq) })
}

// pair gives e the bodies at seq that belong to its record: a body says which message it is of.
func (f *found) pair(e *salvaged, seq uint64, keys *keyring) {
	var rec gateway.Record
	if gateway.DecodeRecord(e.record[hashSize:], &rec) != nil {
		return
	}
	list := slices.Clone(f.bodies[seq])
	slices.SortFunc(list, func(a, b proven) int {
		return cmp.Or(cmp.Compare(a.variant, b.variant), cmp.Compare(b.weight, a.weight))
	})
	var own [2]gateway.UplinkSet
	for _, p := range list {
		c, err := keys.open(p.value, p.variant)
		kind := 0
		if err != nil || !belongs(&rec, &c) {
			continue
		}
		if c.hold() {
			kind = 1
		}
		if own[kind]&c.own != 0 {
			continue
		}
		own[kind] |= c.own
		e.bodies = append(e.bodies, sealed{header: c.header, variant: p.variant, value: p.value})
	}
}

// belongs reports whether a body is one that the record decided on.
func belongs(rec *gateway.Record, c *content) bool {
	if rec.Kind != gateway.DecisionRecord {
		return c.control() || rec.Kind == gateway.ReleaseRecord
	}
	d := decisionOf(rec)
	return c.id == rec.ID && c.waits == d.waits && c.holds == d.holds && c.source == d.source && c.grade == d.grade
}

// complete reports whether e has every body that its record decided on.
func (e *salvaged) complete() bool {
	var rec gateway.Record
	if gateway.DecodeRecord(e.record[hashSize:], &rec) != nil {
		return false
	}
	waits, holds := e.has()
	d := decisionOf(&rec)
	return rec.Kind != gateway.DecisionRecord || waits == d.waits && holds == d.holds
}

// has returns the uplinks that the bodies of e are for.
func (e *salvaged) has() (waits, holds gateway.UplinkSet) {
	for i := range e.bodies {
		if e.bodies[i].hold() {
			holds |= e.bodies[i].own
		} else {
			waits |= e.bodies[i].own
		}
	}
	return waits, holds
}
