package journal

import (
	"errors"
	"sync"

	"github.com/sluice-edge/sluice/gateway"
)

// Errors that callers branch on.
var (
	ErrClosed   = errors.New("journal is closed")
	ErrReadOnly = errors.New("journal is open for reading only")
	ErrLocked   = errors.New("journal is in use by another process")
	ErrFull     = errors.New("journal is full or cannot write")
	ErrBacklog  = errors.New("its max_backlog is spent")
)

// batch is what one Append or Delivered hands to the committer: sealed, hashed and ready to be put.
type batch struct {
	items []item
	arena []byte // holds every value
	size  int    // bytes of values
	done  func(first uint64, err error)
	ready chan struct{} // who settles waits on it, instead of done
	err   error         // cannot be committed

	// urgent batches hold no decision, and no body but that of a dead message: whoever retries holds up settlements. They
	// pass a committer that is full: a settlement makes room.
	urgent bool
	settle *settlement
}

// item is one record with its bodies.
type item struct {
	record   []byte // leaf hash ‖ record
	bodies   []sealed
	message  bool   // a decision, counted in totals
	again    uint64 // seq of the decision of a dead message that waits again
	decision decision
}

// sealed is one body value.
type sealed struct {
	header
	variant byte
	value   []byte
}

// batches keeps the memory of committed batches. Values are free once their transaction ended.
var batches = sync.Pool{New: func() any { return new(batch) }}

// maxKept bounds the arena that goes back to the pool.
const maxKept = 1 << 20

func (b *batch) recycle() {
	if cap(b.arena) > maxKept {
		return
	}
	items := b.items[:cap(b.items)]
	for i := range items {
		bodies := items[i].bodies[:cap(items[i].bodies)]
		clear(bodies)
		items[i] = item{bodies: bodies[:0]}
	}
	*b = batch{items: items[:0], arena: b.arena[:0]}
	batches.Put(b)
}

// next returns a new item that reuses the memory of an old one.
func (b *batch) next() *item {
	if len(b.items) < cap(b.items) {
		b.items = b.items[:len(b.items)+1]
	} else {
		b.items = append(b.items, item{})
	}
	return &b.items[len(b.items)-1]
}

// Append seals and hashes the entries in the caller and hands them to the committer, in order and all in one
// transaction. It fills in Entry.Leaf and keeps nothing of the entries after it returned. done is called exactly once:
// from the committer, in the order of Append, or, after Close, from Append itself with ErrClosed. It must not block.
// Only batches that hold neither a message nor a body, unless of a dead message, may pass others while the journal is full.
func (j *Journal) Append(entries []*gateway.Entry, done func(first uint64, err error)) {
	if j.readOnly {
		done(0, ErrReadOnly)
		return
	}
	b := batches.Get().(*batch)
	b.done = done
	b.err = j.prepare(b, entries)
	if !j.enqueue(b) {
		done(0, ErrClosed)
	}
}

// prepare fills b from the entries.
func (j *Journal) prepare(b *batch, entries []*gateway.Entry) error {
	if len(entries) == 0 {
		return errors.New("append to journal: no entries")
	}
	b.size, b.urgent = 0, true
	for _, e := range entries {
		b.size += hashSize + len(e.Record)
		for i := range e.Outlets {
			b.size += bodySize(e.Outlets[i].Topic, e.Outlets[i].Payload)
		}
	}
	if cap(b.arena) < b.size {
		b.arena = make([]byte, b.size)
	}
	free := b.arena[:b.size]
	take := func(n int) []byte {
		v := free[:n:n]
		free = free[n:]
		return v
	}
	for _, e := range entries {
		if err := j.prepareEntry(b, e, take); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) prepareEntry(b *batch, e *gateway.Entry, take func(int) []byte) error {
	it := b.next()
	it.bodies = it.bodies[:0]
	it.message, it.again = e.Source != "" && !e.Control && e.Again == 0, e.Again
	if len(e.Record) < 2 || it.message != (gateway.RecordKind(e.Record[1]) == gateway.DecisionRecord) || len(e.Outlets) > maxOutlets {
		return errors.New("append to journal: entry does not fit its record")
	}
	switch gateway.RecordKind(e.Record[1]) {
	case gateway.DeliveryRecord, gateway.ExpiryRecord:
		return errors.New("append to journal: settlements are the journal's to record")
	}
	h := header{waits: e.Waits, holds: e.Holds, grade: e.Grade}
	if e.Source != "" {
		n, err := j.Number(kindSource, e.Source)
		if err != nil {
			return err
		}
		h.source = uint16(n)
	}
	it.decision = decision{source: h.source, grade: e.Grade, waits: e.Waits, holds: e.Holds, blocks: e.Blocks}
	b.urgent = b.urgent && !it.message && (len(e.Outlets) == 0 || it.again > 0)
	if !it.message && !e.Control && e.Again == 0 && len(e.Outlets) > 0 {
		return errors.New("append to journal: only messages and control entries have outlets")
	}

	e.Leaf = leafHash(e.Record)
	it.record = take(hashSize + len(e.Record))
	copy(it.record, e.Leaf[:])
	copy(it.record[hashSize:], e.Record)

	h.flags = e.QoS & 3 << qosShift
	if e.Control {
		h.flags |= flagControl
	}
	if e.Retain {
		h.flags |= flagRetain
	}
	if len(e.Outlets) == 0 {
		return nil
	}
	counter := j.counter.Add(1) // of its own, whatever the id: a nonce is never used twice
	var union [2]gateway.UplinkSet
	for i := range e.Outlets {
		o := &e.Outlets[i]
		s := sealed{header: h, variant: byte(i)}
		s.own = o.Uplinks
		s.flags |= o.Priority & 3 << priorityShift
		if !o.Hold {
			it.decision.prioritize(o.Uplinks, o.Priority)
		}
		kind := 0
		if o.Hold {
			s.flags |= flagHold
			kind = 1
		}
		if len(o.Topic) > maxTopic || o.Uplinks == 0 || union[kind]&o.Uplinks != 0 {
			return errors.New("append to journal: outlet without or with an ambiguous uplink, or topic too long")
		}
		union[kind] |= o.Uplinks
		s.value = take(bodySize(o.Topic, o.Payload))
		j.seal.seal(s.value, &s.header, counter, s.variant, e.ID, &e.Salt, o.Topic, o.Payload)
		it.bodies = append(it.bodies, s)
	}
	if union[0] != e.Waits || union[1] != e.Holds {
		return errors.New("append to journal: outlets do not fit the entry's uplinks")
	}
	return nil
}

// NextID returns an id that this journal never gives again. It is safe for concurrent use.
func (j *Journal) NextID() gateway.ID {
	return gateway.ID{Incarnation: j.seal.incarnation, Counter: j.counter.Add(1)}
}

// Incarnation is the random half of every ID given while this journal is open.
func (j *Journal) Incarnation() uint64 { return j.seal.incarnation }
