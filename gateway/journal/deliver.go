package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sluice-edge/sluice/gateway"
)

// ErrCorrupt reports a body that does not open: its file is damaged, or its at-rest key is missing. The body is never
// handed out, and nothing behind it before somebody has decided what becomes of it.
type ErrCorrupt struct {
	Seq     uint64
	Variant int
}

func (e *ErrCorrupt) Error() string {
	return fmt.Sprintf("body %d of record %d cannot be opened", e.Variant, e.Seq)
}

// delivery is what a delivery record comes to, computed from the messages it acknowledges.
type delivery struct {
	uplink int
	last   uint64
	items  []settled
	slot   chan struct{} // one delivery in flight for the uplink
}

type settled struct {
	seq     uint64
	control bool
	size    int
	decision
}

// expect lets a body that was committed wait for its uplinks. j.mu is held.
func (j *Journal) expect(seq uint64, h *header, size int) {
	if h.hold() {
		return
	}
	for u := range gateway.MaxUplinks {
		if h.own.Has(u) {
			j.lastWait[u] = seq
			j.waiting[u].Messages++
			j.waiting[u].Bytes += uint64(size)
		}
	}
}

// settle moves a cursor behind a committed delivery. j.mu is held.
func (j *Journal) settle(d *delivery) {
	w := &j.waiting[d.uplink]
	for i := range d.items {
		s := &d.items[i]
		if !s.control {
			j.led.settle(d.uplink, s.seq, &s.decision)
		}
		w.Messages--
		w.Bytes -= uint64(s.size)
	}
	j.led.cursors[d.uplink] = d.last
	j.tidySoon()
}

// Cursor returns the seq up to which everything for the uplink is settled.
func (j *Journal) Cursor(uplink int) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.led.cursors[uplink]
}

// Await blocks until something waits for the uplink behind seq after, ctx ends or the journal closes.
func (j *Journal) Await(ctx context.Context, uplink int, after uint64) error {
	for {
		j.mu.Lock()
		if j.lastWait[uplink] > after {
			j.mu.Unlock()
			return nil
		}
		j.waiters++
		changed := j.changed
		j.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-j.closed:
			return ErrClosed
		}
	}
}

// Read appends to out up to most messages that wait for the uplink behind seq after, in order, at most about maxBytes of
// payload but at least one. Fewer or none mean that no more wait, or that an error stands behind them: *ErrCorrupt for
// a body that cannot be opened. The messages belong to the caller. It is safe for concurrent use.
func (j *Journal) Read(uplink int, after uint64, most int, maxBytes int, out []*gateway.Outbound) ([]*gateway.Outbound, error) {
	r := reader{j: j, uplink: uplink, left: most, bytes: maxBytes, out: out}
	for r.left > 0 {
		s, next := j.waitingSegment(uplink, after)
		if s == nil {
			return r.out, nil
		}
		var key [entryKeyLen]byte
		err := j.files.scan(s, entryKey(&key, max(after+1, s.First), 1), next, r.visit)
		switch {
		case err == nil || errors.Is(err, errGone):
		case len(r.out) > len(out):
			return r.out, nil // the error comes when nothing is left in front of it
		default:
			return r.out, err
		}
		after = next - 1
	}
	return r.out, nil
}

// waitingSegment returns the first segment that holds something for the uplink behind seq after, and the end of what
// counts in it; nil when there is none.
func (j *Journal) waitingSegment(uplink int, after uint64) (*segment, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		if w := s.Waits[uplink]; w != nil && w.Last > after {
			return s, s.Next
		}
	}
	return nil, 0
}

// reader gathers the messages of one Read.
type reader struct {
	j           *Journal
	uplink      int
	left, bytes int
	out         []*gateway.Outbound
	slab        []gateway.Outbound
}

// slabLen is how many messages share one allocation.
const slabLen = 32

func (r *reader) visit(seq uint64, key, value []byte) error {
	if len(key) != entryKeyLen || key[8] == recordByte {
		return nil
	}
	variant := key[8] - 1
	h, ok := parseHeader(value)
	if !ok {
		return &ErrCorrupt{seq, int(variant)}
	}
	if h.hold() || !h.own.Has(r.uplink) {
		return nil
	}
	c, err := r.j.keys.open(value, variant)
	if err != nil {
		return &ErrCorrupt{seq, int(variant)}
	}
	if len(r.slab) == 0 {
		r.slab = make([]gateway.Outbound, min(r.left, slabLen))
	}
	o := &r.slab[0]
	r.slab = r.slab[1:]
	*o = gateway.Outbound{
		Seq: seq, ID: c.id, Payload: c.payload,
		Retain: h.flags&flagRetain != 0, QoS: h.flags >> qosShift & 3, Control: h.control(),
		Source: r.j.names.name(kindSource, int(h.source)), Grade: h.grade, Waits: h.waits, Holds: h.holds,
	}
	if n := len(r.out); n > 0 && r.out[n-1].Topic == string(c.topic) {
		o.Topic = r.out[n-1].Topic
	} else {
		o.Topic = string(c.topic)
	}
	r.out = append(r.out, o)
	r.left--
	r.bytes -= len(c.payload)
	if r.left <= 0 || r.bytes <= 0 {
		r.left = 0
		return errStop
	}
	return nil
}

// Delivered commits a delivery record for the acknowledged messages, which follow the cursor without a gap, else it is an
// error, and moves the cursor behind the last. It returns after the commit. When ctx ends before, the commit may still happen: the
// cursor tells. One delivery of an uplink is in flight at a time, a second call waits. The slice is the caller's.
func (j *Journal) Delivered(ctx context.Context, uplink int, acked []*gateway.Outbound) error {
	if j.readOnly {
		return ErrReadOnly
	}
	if uplink < 0 || uplink >= gateway.MaxUplinks {
		return errors.New("commit delivery: no such uplink")
	}
	slot := j.slots[uplink]
	select {
	case slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	b, err := j.deliveryBatch(uplink, acked)
	if b == nil {
		<-slot
		return err
	}
	b.deliver.slot = slot
	if !j.enqueue(b) {
		<-slot
		return ErrClosed
	}
	select {
	case <-b.ready:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// deliveryBatch makes the record of a delivery; nil when nothing of acked is behind the cursor.
func (j *Journal) deliveryBatch(uplink int, acked []*gateway.Outbound) (*batch, error) {
	j.mu.Lock()
	cursor, size := j.led.cursors[uplink], j.led.tree.size
	j.mu.Unlock()
	for len(acked) > 0 && acked[0].Seq <= cursor {
		acked = acked[1:]
	}
	if len(acked) == 0 {
		return nil, nil
	}
	d := &delivery{uplink: uplink, last: acked[len(acked)-1].Seq}
	if d.last >= size {
		return nil, errDelivery
	}
	if err := j.acknowledge(d, cursor, acked); err != nil {
		return nil, err
	}
	now, trusted := j.opt.Clock()
	r := gateway.Record{Kind: gateway.DeliveryRecord, Time: now, Trusted: trusted, Uplink: uint8(uplink), First: acked[0].Seq, Last: d.last, State: gateway.Forwarded}
	for i := range d.items {
		if !d.items[i].control {
			r.Count++
		}
	}
	record := gateway.AppendRecord(make([]byte, hashSize, 128), &r)
	leaf := leafHash(record[hashSize:])
	copy(record, leaf[:])
	b := &batch{items: []item{{record: record}}, size: len(record), ready: make(chan struct{}), urgent: true, deliver: d}
	return b, nil
}

// errDelivery is for a caller that acknowledges what it did not read: recorded, it would lose what stands in between.
var errDelivery = errors.New("commit delivery: messages do not follow the cursor without a gap")

// acknowledge fills d with what the journal has for its uplink from the cursor to d.last, which must be what was acked.
func (j *Journal) acknowledge(d *delivery, cursor uint64, acked []*gateway.Outbound) error {
	d.items = make([]settled, 0, len(acked))
	visit := func(seq uint64, key, value []byte) error {
		if len(key) != entryKeyLen || key[8] == recordByte {
			return nil
		}
		h, ok := parseHeader(value)
		if !ok {
			return &ErrCorrupt{seq, int(key[8] - 1)}
		}
		if h.hold() || !h.own.Has(d.uplink) {
			return nil
		}
		if len(d.items) == len(acked) || acked[len(d.items)].Seq != seq {
			return errDelivery
		}
		d.items = append(d.items, settled{seq, h.control(), len(value), decision{source: h.source, grade: h.grade, waits: h.waits, holds: h.holds}})
		return nil
	}
	for at := cursor; at < d.last; {
		s, next := j.waitingSegment(d.uplink, at)
		if s == nil {
			break
		}
		next = min(next, d.last+1)
		var key [entryKeyLen]byte
		if err := j.files.scan(s, entryKey(&key, max(at+1, s.First), 1), next, visit); err != nil {
			return err
		}
		at = max(at, next-1)
	}
	if len(d.items) != len(acked) {
		return errDelivery
	}
	return nil
}

// oldest returns when the first message that waits for the uplink was committed, by its record. ok is false when none waits.
func (j *Journal) oldest(uplink int) (at int64, ok bool) {
	s, next := j.waitingSegment(uplink, j.Cursor(uplink))
	if s == nil {
		return 0, false
	}
	var key [entryKeyLen]byte
	cursor := j.Cursor(uplink)
	err := j.files.scan(s, entryKey(&key, max(cursor+1, s.First), recordByte), next, func(seq uint64, k, v []byte) error {
		if len(k) != entryKeyLen {
			return nil
		}
		if k[8] == recordByte {
			if len(v) >= hashSize+11 {
				at = int64(binary.BigEndian.Uint64(v[hashSize+3:]))
			}
			return nil
		}
		if h, good := parseHeader(v); good && !h.hold() && h.own.Has(uplink) {
			ok = true
			return errStop
		}
		return nil
	})
	return at, ok && err == nil
}
