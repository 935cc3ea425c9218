package journal

import (
	"context"
	"errors"
	"math/bits"

	"github.com/sluice-edge/sluice/gateway"
)

// settlement ends the waiting of entries for one uplink. Its records say of a range of seqs that all that waited there
// within a scope is settled, so that the log alone tells the state of every message.
type settlement struct {
	uplink int
	kind   gateway.RecordKind // delivery or expiry
	state  gateway.State
	scope  scope     // why, and the grades it is limited to; the lane is filled in for each range
	items  []waiting // by lane and seq
	slot   chan struct{}
}

// settleFor commits one settlement: make finds out what it comes to while no other settlement of the uplink is in flight,
// and settled is told of it after the commit, unless ctx ended before.
func (j *Journal) settleFor(ctx context.Context, uplink int, make func() (*settlement, error), settled func(*settlement)) error {
	if uplink < 0 || uplink >= gateway.MaxUplinks {
		return errors.New("settle messages: no such uplink")
	}
	slot := j.slots[uplink]
	select {
	case slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-j.committed:
		return ErrClosed
	}
	s, err := make()
	if err != nil || len(s.items) == 0 {
		<-slot
		return err
	}
	s.slot = slot
	b := j.settlementBatch(s)
	if !j.enqueue(b) {
		<-slot
		return ErrClosed
	}
	select {
	case <-b.ready:
		if b.err == nil {
			settled(s)
		}
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settlementBatch makes the records of a settlement, one for each range without a gap.
func (j *Journal) settlementBatch(s *settlement) *batch {
	b := &batch{ready: make(chan struct{}), urgent: true, settle: s}
	now, trusted := j.opt.Clock()
	for i := 0; i < len(s.items); {
		from := i
		for i++; i < len(s.items) && s.items[i].lane == s.items[from].lane && s.items[i].follows == s.items[i-1].seq; i++ {
		}
		run := s.items[from:i]
		sc, n := s.scope, uint64(len(run))
		if run[0].control() {
			sc.Control, sc.Grades, n = true, nil, 0
		} else {
			sc.Priority = &run[0].lane
		}
		r := gateway.Record{Kind: s.kind, Time: now, Trusted: trusted, Uplink: uint8(s.uplink), State: s.state,
			First: run[0].seq, Last: run[len(run)-1].seq, Count: n, Detail: sc.detail()}
		record := gateway.AppendRecord(make([]byte, hashSize, 160), &r)
		leaf := leafHash(record[hashSize:])
		copy(record, leaf[:])
		b.items = append(b.items, item{record: record})
		b.size += len(record)
	}
	return b
}

// expect lets the bodies of a committed entry wait for their uplinks. j.mu is held.
func (j *Journal) expect(seq uint64, h *header, size int) {
	if h.hold() {
		return
	}
	for u := range gateway.MaxUplinks {
		if h.own.Has(u) {
			w := &j.waiting[u][h.lane()]
			w.Last = seq
			w.Count++
			w.Bytes += uint64(size)
		}
	}
}

// settle takes the items of a committed settlement off what waits. j.mu is held.
func (j *Journal) settle(s *settlement) {
	u, dead := s.uplink, len(j.led.dead)
	for i := range s.items {
		it := &s.items[i]
		if it.control() {
			j.led.states.set(u, it.seq, s.state, j.led.tree.size)
		} else {
			j.led.settle(u, it.seq, &it.decision, s.state)
		}
		j.unwait(u, it)
	}
	if len(j.led.dead) < dead {
		j.unparkDue.Store(true)
	}
	j.tidySoon()
}

// unwait counts one body less as waiting, and as live when nobody needs it any more. j.mu is held.
func (j *Journal) unwait(u int, it *waiting) {
	size := uint64(it.size)
	w := &j.waiting[u][it.lane]
	w.Count--
	w.Bytes -= size
	s := j.segmentOf(it.seq)
	if s == nil {
		return
	}
	w = &s.of(u)[it.lane]
	w.Count--
	w.Bytes -= size
	if j.led.dead[it.seq] != nil {
		return // its body is kept
	}
	for set := it.own; set != 0; set &= set - 1 {
		if j.led.states.get(bits.TrailingZeros32(uint32(set)), it.seq) == gateway.Waiting {
			return
		}
	}
	s.Live -= min(s.Live, size)
}

// segmentOf returns the segment that holds record seq, nil when none does. j.mu is held.
func (j *Journal) segmentOf(seq uint64) *segment {
	lo, hi := 0, len(j.segments)
	for lo < hi {
		if mid := (lo + hi) / 2; j.segments[mid].Next <= seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(j.segments) && j.segments[lo].First <= seq {
		return j.segments[lo]
	}
	return nil
}
