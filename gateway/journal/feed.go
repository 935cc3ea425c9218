package journal

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// ErrCorrupt reports a body that does not open although its at-rest key is there: its file is damaged. The body is never
// handed out.
type ErrCorrupt struct {
	Seq     uint64
	Variant int
}

func (e *ErrCorrupt) Error() string {
	return fmt.Sprintf("body %d of record %d cannot be opened", e.Variant, e.Seq)
}

// errNotHanded is for a caller that settles what it was not given: recorded, it would lose a message.
var errNotHanded = errors.New("settle messages: one of them was not handed out")

// waiting is an entry that waits for an uplink, as its body's header describes it.
type waiting struct {
	seq      uint64
	own      gateway.UplinkSet // of the body
	size     int
	lane     int
	decision decision
	follows  uint64 // seq of the entry handed out before it, when nothing that waits in the lane stands between; else 0
}

func (w *waiting) control() bool { return w.lane == controlLane }

func waitingOf(seq uint64, h *header, size int) waiting {
	d := decision{source: h.source, grade: h.grade, waits: h.waits, holds: h.holds}
	d.prioritize(h.own, byte(h.priority()))
	return waiting{seq: seq, own: h.own, size: size, lane: h.lane(), decision: d}
}

// track is one reading through a lane.
type track struct {
	at   uint64 // nothing up to it is to be read here
	last uint64 // seq handed out last, 0 when something that waits was passed by since
}

// Feed implements gateway.Feed. In every lane it reads in order; with a live share it also reads, in turns, what was
// committed since Begin. What it handed out stays in hand until it is settled or returned.
type Feed struct {
	j      *Journal
	uplink int

	mu       sync.Mutex // guards what follows; taken before Journal.mu
	hand     map[uint64]*waiting
	inHand   [lanes]uint64
	missed   [lanes]uint64 // wait and were not found: a page of their segment is damaged
	ordered  [lanes]track
	live     [lanes]track
	boundary uint64             // newest seq when the link was opened
	owed     float64            // messages that the live track may go ahead of the backlog
	corrupt  map[bodyAt]waiting // bodies that do not open, with the uplinks that they were for
}

// bodyAt is where a body stands.
type bodyAt struct {
	seq     uint64
	variant int
}

// patience is how long Next waits for the commit that leaves a damaged message behind.
const patience = 5 * time.Second

// Feed returns a feed of an uplink; each call makes one. The uplink's forwarder has one, others only read.
func (j *Journal) Feed(uplink int) gateway.Feed { return j.newFeed(uplink) }

func (j *Journal) newFeed(uplink int) *Feed {
	return &Feed{j: j, uplink: uplink, hand: make(map[uint64]*waiting), corrupt: make(map[bodyAt]waiting)}
}

// Begin implements gateway.Feed.
func (f *Feed) Begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boundary, f.owed = f.j.Size()-1, 0
	for lane := range f.live {
		f.live[lane] = track{at: f.boundary}
	}
	f.j.mu.Lock()
	defer f.j.mu.Unlock()
	f.j.feeds[f.uplink] = f
}

// Next implements gateway.Feed. An error stands behind what was appended: the next call returns it when there is
// nothing left in front of it. A message whose body is damaged is left behind, which is on the record before Next goes on;
// *KeyError is for one whose at-rest key is missing: it waits. A feed of a journal that is open for reading only returns
// *ErrCorrupt instead.
func (f *Feed) Next(most, maxBytes int, out []*gateway.Outbound) ([]*gateway.Outbound, error) {
	for {
		list, err := f.next(most, maxBytes, out)
		var c *ErrCorrupt
		if !errors.As(err, &c) || f.j.readOnly {
			if isDamage(err) {
				f.j.suspect()
			}
			return list, err
		}
		if err := f.leaveBehind(bodyAt{c.Seq, c.Variant}); err != nil {
			return list, err
		}
	}
}

// leaveBehind settles a message whose body is damaged as dropped.
func (f *Feed) leaveBehind(at bodyAt) error {
	f.mu.Lock()
	w, known := f.corrupt[at]
	f.mu.Unlock()
	if !known {
		var err error
		if w, err = f.j.damagedBody(at.seq, at.variant); err != nil {
			return err
		}
		f.mu.Lock()
		f.corrupt[at] = w
		f.mu.Unlock()
	}
	if !w.own.Has(f.uplink) {
		return nil // it was not for this uplink, and is passed by from here on
	}
	ctx, cancel := context.WithTimeout(f.j.open, patience)
	defer cancel()
	return f.j.settleFor(ctx, f.uplink, func() (*settlement, error) {
		s := &settlement{uplink: f.uplink, kind: gateway.ExpiryRecord, state: gateway.Dropped, scope: scope{Why: "damage"}}
		if f.j.waits(f.uplink, at.seq) {
			s.items = []waiting{w}
		}
		return s, nil
	}, func(*settlement) {})
}

// next is Next, but for what is done about damage.
func (f *Feed) next(most, maxBytes int, out []*gateway.Outbound) ([]*gateway.Outbound, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := reader{f: f, left: most, bytes: maxBytes, out: out}
	for lane := lanes - 1; lane >= 0; lane-- {
		if !f.more(lane) {
			continue
		}
		err := f.readLane(&r, lane)
		if len(r.out) > len(out) {
			return r.out, nil
		}
		if err != nil {
			return r.out, err
		}
	}
	return r.out, nil
}

// more reports whether something waits in the lane that is not in hand. f.mu is held.
func (f *Feed) more(lane int) bool {
	f.j.mu.Lock()
	defer f.j.mu.Unlock()
	return f.j.waiting[f.uplink][lane].Count > f.inHand[lane]+f.missed[lane]
}

// readLane reads from one lane: from its backlog, or in its turn from what is live.
func (f *Feed) readLane(r *reader, lane int) error {
	r.lane = lane
	share := f.j.limitsOf(f.uplink).LiveShare
	if share > 0 && lane != controlLane && f.ordered[lane].at < f.boundary {
		before := len(r.out)
		if f.owed >= 1 {
			if r.left = min(r.left, int(f.owed)); f.live[lane].at < f.ordered[lane].at {
				f.live[lane] = track{at: f.ordered[lane].at}
			}
			r.track, r.live = &f.live[lane], true
			err := r.run()
			if n := len(r.out) - before; n > 0 || err != nil {
				f.owed -= float64(n)
				return err
			}
			f.owed = 0
		}
		r.track, r.live, r.left = &f.ordered[lane], false, max(r.left, 1)
		err := r.run()
		f.owed += float64(len(r.out)-before) * share / (1 - share)
		return err
	}
	r.track, r.live = &f.ordered[lane], false
	before := len(r.out)
	err := r.run()
	if err == nil && len(r.out) == before { // something below was let wait again
		f.j.mu.Lock()
		left := f.j.waiting[f.uplink][lane].Count - f.inHand[lane]
		f.j.mu.Unlock()
		f.ordered[lane], r.gaps = track{}, 0
		if err = r.run(); err == nil && len(r.out) == before && r.gaps > 0 {
			f.missed[lane] = left // until the next Open, which reads everything
			f.j.suspect()
			f.j.opt.Log.Error("journal does not find messages that wait: a page is damaged", slog.String("uplink", f.j.names.name(kindUplink, f.uplink)), slog.Uint64("messages", left))
		}
	}
	return err
}

// reader gathers the messages of one Next.
type reader struct {
	f           *Feed
	lane        int
	track       *track
	live        bool // pass by what must stay in order
	left, bytes int
	out         []*gateway.Outbound
	slab        []gateway.Outbound
	seen        uint64 // newest seq of which a body was met that waits for the uplink, in any lane
	gaps        int    // times that something that waits was not met
	owner       owner  // of the bodies that come now
}

// met notes that a body of entry seq was met. A damaged page of bbolt's can hide others in front of it, so that nothing says
// how they wait: then what is handed out next does not follow what was handed out last.
func (r *reader) met(seq uint64) {
	if r.f.j.waitsBetween(r.f.uplink, r.seen, seq) {
		r.gaps++
		r.track.last = 0
	}
	r.seen = seq
}

// waitsBetween reports whether an entry behind one seq and in front of another waits for the uplink.
func (j *Journal) waitsBetween(uplink int, after, seq uint64) bool {
	if seq <= after+1 {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.led.states.waitsBetween(uplink, after+1, seq)
}

// slabLen is how many messages share one allocation.
const slabLen = 32

// run reads through the segments behind the track's position.
func (r *reader) run() error {
	for r.left > 0 {
		s, next := r.f.j.waitingSegment(r.f.uplink, r.lane, r.track.at)
		if s == nil {
			return nil
		}
		var key [entryKeyLen]byte
		from := max(r.track.at+1, s.First)
		r.seen = from - 1
		err := r.f.j.files.scan(s, entryKey(&key, from, recordByte), next, r.visit)
		if err != nil && !errors.Is(err, errGone) {
			return err
		}
		if err == nil && r.left > 0 {
			r.met(next)
			r.track.at = max(r.track.at, next-1)
		}
	}
	return nil
}

// waitingSegment returns the first segment in which something may wait for the uplink in a lane behind seq after, and the
// end of what counts in it; nil when there is none.
func (j *Journal) waitingSegment(uplink, lane int, after uint64) (*segment, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		if w := s.Waits[uplink]; w != nil && w[lane].Count > 0 && w[lane].Last > after {
			return s, s.Next
		}
	}
	return nil, 0
}

// waits reports whether entry seq waits for the uplink.
func (j *Journal) waits(uplink int, seq uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.led.states.get(uplink, seq) == gateway.Waiting
}

// owner is what the record of an entry says about whose bodies stand behind it. A body is sealed with its message's id, so one
// that a flipped bit in a key puts behind another record is told.
type owner struct {
	seq  uint64
	kind gateway.RecordKind // zero: nothing can be said
	id   gateway.ID         // of a decision
}

// ownerOf reads the head of a record's value. [package gateway, Records]
func ownerOf(seq uint64, value []byte) owner {
	o := owner{seq: seq}
	rec := value[min(hashSize, len(value)):]
	if len(rec) < 2 || gateway.RecordKind(rec[1]) == gateway.DecisionRecord && len(rec) < 27 {
		return o
	}
	if o.kind = gateway.RecordKind(rec[1]); o.kind == gateway.DecisionRecord {
		o.id = gateway.ID{Incarnation: binary.BigEndian.Uint64(rec[11:]), Counter: binary.BigEndian.Uint64(rec[19:])}
	}
	return o
}

// has reports whether a body belongs to the entry seq.
func (o *owner) has(seq uint64, c *content) bool {
	if o.seq != seq || o.kind == 0 {
		return false
	}
	if o.kind == gateway.DecisionRecord {
		return !c.control() && c.id == o.id
	}
	return c.control() || o.kind == gateway.ReleaseRecord
}

func (r *reader) visit(seq uint64, key, value []byte) error {
	if len(key) != entryKeyLen {
		return nil
	}
	if key[8] == recordByte {
		r.owner = ownerOf(seq, value)
		return nil
	}
	variant := key[8] - 1
	f := r.f
	h, ok := parseHeader(value)
	if !ok {
		if w, known := f.corrupt[bodyAt{seq, int(variant)}]; known && !w.own.Has(f.uplink) || !f.j.waits(f.uplink, seq) {
			return nil
		}
		return &ErrCorrupt{seq, int(variant)}
	}
	if h.hold() || !h.own.Has(f.uplink) || !f.j.waits(f.uplink, seq) {
		return nil
	}
	if r.met(seq); h.lane() != r.lane {
		return nil
	}
	if f.hand[seq] != nil || r.live && h.retain() { // a retained message is the last word on its topic: it stays in order
		*r.track = track{at: seq}
		return nil
	}
	c, err := f.j.keys.open(value, variant)
	if err != nil && f.j.keys.missing(value, variant) {
		return &KeyError{keyOf(value), fmt.Sprintf("body %d of record %d", variant, seq)}
	}
	if err != nil {
		return &ErrCorrupt{seq, int(variant)}
	}
	if !r.owner.has(seq, &c) { // a key is damaged: what it leads to is another message
		r.gaps++
		r.track.last = 0
		f.j.suspect()
		return nil
	}
	r.take(seq, &c, len(value))
	if r.left <= 0 || r.bytes <= 0 {
		r.left = 0
		return errStop
	}
	return nil
}

// take hands out one message.
func (r *reader) take(seq uint64, c *content, size int) {
	if len(r.slab) == 0 {
		r.slab = make([]gateway.Outbound, min(r.left, slabLen))
	}
	o := &r.slab[0]
	r.slab = r.slab[1:]
	*o = gateway.Outbound{
		Seq: seq, ID: c.id, Payload: c.payload, Retain: c.retain(), QoS: c.qos(), Control: c.control(),
		Source: r.f.j.names.name(kindSource, int(c.source)), Grade: c.grade, Waits: c.waits, Holds: c.holds,
	}
	if n := len(r.out); n > 0 && r.out[n-1].Topic == string(c.topic) {
		o.Topic = r.out[n-1].Topic
	} else {
		o.Topic = string(c.topic)
	}
	w := waitingOf(seq, &c.header, size)
	w.follows = r.track.last
	*r.track = track{at: seq, last: seq}
	r.f.hand[seq] = &w
	r.f.inHand[w.lane]++
	r.out = append(r.out, o)
	r.left--
	r.bytes -= len(c.payload)
}

// Await implements gateway.Feed. The error is the context's, or ErrClosed.
func (f *Feed) Await(ctx context.Context) error {
	j := f.j
	for {
		j.mu.Lock()
		j.waiters++
		changed := j.changed
		j.mu.Unlock()
		f.mu.Lock()
		ready := false
		for lane := range lanes {
			ready = ready || f.more(lane)
		}
		f.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-j.closed:
			return ErrClosed
		}
	}
}

// Return implements gateway.Feed.
func (f *Feed) Return(list []*gateway.Outbound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range list {
		w := f.hand[o.Seq]
		if w == nil {
			continue
		}
		f.drop(w)
		for _, t := range []*track{&f.ordered[w.lane], &f.live[w.lane]} {
			if t.at >= o.Seq {
				*t = track{at: o.Seq - 1}
			}
		}
	}
}

// holds reports whether entry seq is in hand.
func (f *Feed) holds(seq uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hand[seq] != nil
}

// drop takes an entry out of hand. f.mu is held.
func (f *Feed) drop(w *waiting) {
	delete(f.hand, w.seq)
	f.inHand[w.lane]--
}

// Hurry implements gateway.Feed.
func (f *Feed) Hurry() { f.j.Hurry() }

// Settle implements gateway.Feed. When ctx ends before the commit it may still happen. One settlement of an uplink is in
// flight at a time, a second call waits.
func (f *Feed) Settle(ctx context.Context, list []*gateway.Outbound, state gateway.State, why string) error {
	if f.j.readOnly {
		return ErrReadOnly
	}
	if state != gateway.Forwarded && state != gateway.Dead {
		return fmt.Errorf("settle messages: %s is no state that an uplink gives", state)
	}
	return f.j.settleFor(ctx, f.uplink, func() (*settlement, error) {
		items, err := f.handed(list)
		return &settlement{uplink: f.uplink, kind: gateway.DeliveryRecord, state: state, scope: scope{Why: why}, items: items}, err
	}, func(s *settlement) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i := range s.items {
			if w := f.hand[s.items[i].seq]; w != nil {
				f.drop(w)
			}
		}
		f.j.notify()
	})
}

// handed looks up what was handed out, by lane and seq.
func (f *Feed) handed(list []*gateway.Outbound) ([]waiting, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	items := make([]waiting, 0, len(list))
	for _, o := range list {
		if w := f.hand[o.Seq]; w != nil {
			if f.j.waits(f.uplink, o.Seq) {
				items = append(items, *w)
			} else {
				f.drop(w) // a rule left it behind meanwhile
			}
		} else if o.Seq >= f.j.Size() || f.j.waits(f.uplink, o.Seq) {
			return nil, errNotHanded
		}
	}
	slices.SortFunc(items, func(a, b waiting) int { return cmp.Or(cmp.Compare(a.lane, b.lane), cmp.Compare(a.seq, b.seq)) })
	return slices.CompactFunc(items, func(a, b waiting) bool { return a.seq == b.seq }), nil
}
