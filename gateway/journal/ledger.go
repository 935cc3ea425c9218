package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"

	"github.com/sluice-edge/sluice/gateway"
)

// counts holds one source's series by uplink, grade and state.
type counts [gateway.MaxUplinks][gateway.Core + 1][gateway.Received + 1]uint64

// ledger is what follows from the records alone: the tree, the state of every message and the counters up to record
// tree.size. The committer feeds it while it runs, recovery and Check feed it from the records; all come to the same.
type ledger struct {
	tree   compact
	states *states
	totals gateway.Totals
	tally  []*counts               // by number of the source
	dead   map[uint64]*deadMessage // messages that a cloud refused, by seq of their decision
	again  map[uint64]uint64       // seq of a release that lets a dead message wait again → seq of the decision
	lost   *losses                 // nil: nothing is lost
	next   uint64                  // seq behind the newest record
	loose  bool                    // records were lost since the counters were stated: not all that they settled is known
}

func newLedger() ledger {
	return ledger{states: newStates(), dead: make(map[uint64]*deadMessage), again: make(map[uint64]uint64)}
}

// decision is what the ledger needs to know of one message.
type decision struct {
	source               uint16
	grade                gateway.Grade
	waits, holds, blocks gateway.UplinkSet
	priorities           uint64 // two bits an uplink
}

func (d *decision) priority(u int) int { return int(d.priorities >> (2 * u) & 3) }

func (d *decision) prioritize(uplinks gateway.UplinkSet, priority byte) {
	for set := uplinks; set != 0; set &= set - 1 {
		d.priorities |= uint64(priority&3) << (2 * bits.TrailingZeros32(uint32(set)))
	}
}

// deadMessage is a message that is dead for an uplink, or waits for it once more.
type deadMessage struct {
	decision
	state [gateway.MaxUplinks]gateway.State
}

// in returns the uplinks for which the message is in a state.
func (m *deadMessage) in(st gateway.State) (set gateway.UplinkSet) {
	for u, of := range m.state {
		if of == st {
			set |= 1 << u
		}
	}
	return set
}

// open reports whether the message must still be remembered here.
func (m *deadMessage) open() bool { return m.in(gateway.Dead)|m.in(gateway.Waiting) != 0 }

func (l *ledger) of(source uint16) *counts {
	for int(source) >= len(l.tally) {
		l.tally = append(l.tally, new(counts))
	}
	return l.tally[source]
}

// expect lets entry seq wait for uplinks.
func (l *ledger) expect(seq uint64, waits gateway.UplinkSet) {
	for set := waits; set != 0; set &= set - 1 {
		l.states.set(bits.TrailingZeros32(uint32(set)), seq, gateway.Waiting, l.tree.size)
	}
}

// decide counts message seq, taken in. [product.md §3, States]
func (l *ledger) decide(seq uint64, d *decision) {
	c, g := l.of(d.source), d.grade
	for set := d.waits | d.holds | d.blocks; set != 0; set &= set - 1 {
		u := bits.TrailingZeros32(uint32(set))
		c[u][g][gateway.Received]++
		switch {
		case d.waits.Has(u):
			c[u][g][gateway.Waiting]++
		case d.holds.Has(u):
			c[u][g][gateway.Held]++
		default:
			c[u][g][gateway.Blocked]++
		}
	}
	l.expect(seq, d.waits)
	l.totals.Received++
	*l.totals.Of(l.whole(seq, d))++
}

// stateOf returns the state of message seq for an uplink that it waited for.
func (l *ledger) stateOf(u int, seq uint64) gateway.State {
	if m := l.dead[seq]; m != nil {
		return m.state[u]
	}
	return l.states.get(u, seq)
}

// whole returns the state that message seq counts as: the first in the order of the constants that applies to an uplink.
func (l *ledger) whole(seq uint64, d *decision) gateway.State {
	st := gateway.Blocked
	if d.holds != 0 {
		st = gateway.Held
	}
	if l.lost != nil && d.holds != 0 && d.holds&^l.lost.body(seq).Holds == 0 {
		st = gateway.Dropped
	}
	for set := d.waits; set != 0; set &= set - 1 {
		if of := l.stateOf(bits.TrailingZeros32(uint32(set)), seq); of != gateway.NoState {
			st = min(st, of)
		}
	}
	return st
}

// move counts message seq, decided as d, in the state after instead of before.
func (l *ledger) move(d *decision, u int, before, after gateway.State) {
	c := l.of(d.source)
	c[u][d.grade][before]--
	c[u][d.grade][after]++
}

// settle ends the waiting of entry seq for one uplink: a message, or a dead message that waited again.
func (l *ledger) settle(u int, seq uint64, d *decision, st gateway.State) {
	l.move(d, u, gateway.Waiting, st)
	origin, again := l.again[seq]
	if !again {
		origin = seq
	}
	m := l.dead[origin]
	if m == nil && st == gateway.Dead {
		m = &deadMessage{decision: *d}
		for set := d.waits; set != 0; set &= set - 1 {
			v := bits.TrailingZeros32(uint32(set))
			m.state[v] = l.states.get(v, origin)
		}
		l.dead[origin] = m
	}
	if m != nil {
		m.state[u], d = st, &m.decision
	}
	l.states.set(u, seq, st, l.tree.size)
	if again {
		delete(l.again, seq)
	}
	if whole := l.whole(origin, d); whole != gateway.Waiting {
		l.totals.Waiting--
		*l.totals.Of(whole)++
	}
	if m != nil && !m.open() {
		delete(l.dead, origin)
	}
}

// retry lets the dead message origin wait for an uplink again, as entry seq.
func (l *ledger) retry(u int, seq, origin uint64) error {
	m := l.dead[origin]
	if m == nil || m.state[u] != gateway.Dead {
		if l.loose {
			return nil // that it was refused is lost, and it waits under its own seq
		}
		return errors.New("message is not dead there")
	}
	*l.totals.Of(l.whole(origin, &m.decision))--
	l.move(&m.decision, u, gateway.Dead, gateway.Waiting)
	m.state[u] = gateway.Waiting
	l.again[seq] = origin
	l.expect(seq, 1<<u)
	l.totals.Waiting++
	return nil
}

// decisionOf extracts what the ledger needs from a decision record.
func decisionOf(r *gateway.Record) (d decision) {
	d.source, d.grade = r.Source, r.Grade
	for _, o := range r.Outcomes {
		switch o.State {
		case gateway.Waiting:
			d.waits |= 1 << o.Uplink
		case gateway.Held:
			d.holds |= 1 << o.Uplink
		default:
			d.blocks |= 1 << o.Uplink
		}
		d.priorities |= uint64(o.Priority&3) << (2 * o.Uplink)
	}
	return d
}

// scope says which of the messages between First and Last a delivery or expiry record covers, beside that they wait for
// its uplink. It is the record's detail; an empty detail is of the first format and covers every lane.
type scope struct {
	Priority *int   `json:"priority,omitempty"` // of the messages
	Control  bool   `json:"control,omitempty"`  // the gateway's own entries, which are in no count
	Grades   []int  `json:"grades,omitempty"`   // none: every grade
	Why      string `json:"why,omitempty"`      // dead, expired, dropped: a code
}

func (s *scope) covers(control bool, priority int, g gateway.Grade) bool {
	if control || s.Control {
		return control && (s.Control || s.Priority == nil)
	}
	if s.Priority != nil && *s.Priority != priority {
		return false
	}
	for _, want := range s.Grades {
		if want == int(g) {
			return true
		}
	}
	return len(s.Grades) == 0
}

// detail writes a scope as the detail of a record.
func (s *scope) detail() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("journal: encode scope: " + err.Error())
	}
	return b
}

// entriesBetween calls fn for every record from first to last.
type entriesBetween func(first, last uint64, fn func(seq uint64, r *gateway.Record) error) error

// apply feeds the ledger with record seq, the one at tree.size or behind what is lost. A root that the record completes is handed to root, a message that
// it settles to settled; both may be nil.
func (l *ledger) apply(seq uint64, record []byte, r *gateway.Record, between entriesBetween, root func(n uint64, h [32]byte), settled func(u int, seq uint64)) error {
	l.follow(seq)
	if err := gateway.DecodeRecord(record, r); err != nil {
		return fmt.Errorf("decode record %d: %w", seq, err)
	}
	var err error
	switch r.Kind {
	case gateway.DecisionRecord:
		d := decisionOf(r)
		l.decide(seq, &d)
	case gateway.DeliveryRecord, gateway.ExpiryRecord:
		err = l.applySettlement(seq, r, between, settled)
	case gateway.ReleaseRecord:
		if r.State == gateway.Waiting {
			err = l.retry(int(r.Uplink), seq, r.First)
		}
	case gateway.EventRecord:
		err = l.event(r.Detail)
	}
	if err != nil {
		return fmt.Errorf("record %d: %w", seq, err)
	}
	if l.tree.size > seq {
		return nil // the tree is known from a larger size on only
	}
	if h, complete := l.tree.push(leafHash(record)); complete && root != nil {
		root(seq>>rootLevel, h)
	}
	return nil
}

// follow passes what is lost in front of record seq.
func (l *ledger) follow(seq uint64) {
	if l.lost != nil {
		l.lost.pass(&l.tree, seq)
		l.loose = l.loose || l.lost.between(l.next, seq)
	}
	l.next = seq + 1
}

// applySettlement settles what a delivery or expiry record covers.
func (l *ledger) applySettlement(seq uint64, r *gateway.Record, between entriesBetween, settled func(u int, seq uint64)) error {
	u, st, first, last, count := int(r.Uplink), r.State, r.First, r.Last, r.Count
	fits := st == gateway.Forwarded || st == gateway.Dead
	if r.Kind == gateway.ExpiryRecord {
		fits = st == gateway.Expired || st == gateway.Dropped
	}
	if !fits || first > last || last >= seq {
		return errors.New("settlement does not fit its place")
	}
	var s scope
	if len(r.Detail) > 0 {
		if err := json.Unmarshal(r.Detail, &s); err != nil {
			return errors.New("settlement has a malformed scope")
		}
	}
	var n uint64
	err := between(first, last, func(at uint64, r *gateway.Record) error {
		if l.states.get(u, at) != gateway.Waiting {
			return nil
		}
		var d decision
		switch {
		case r.Kind == gateway.DecisionRecord:
			d = decisionOf(r)
		case l.dead[l.again[at]] != nil && r.Kind == gateway.ReleaseRecord:
			d = l.dead[l.again[at]].decision
		default:
			if s.covers(true, 0, 0) {
				l.states.set(u, at, st, l.tree.size)
				if settled != nil {
					settled(u, at)
				}
			}
			return nil
		}
		if s.covers(false, d.priority(u), d.grade) {
			l.settle(u, at, &d, st)
			n++
			if settled != nil {
				settled(u, at)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if n != count && !l.loose && (n > count || l.lost == nil || !l.lost.between(first, last)) {
		return fmt.Errorf("settlement counts %d messages, the decisions %d", count, n)
	}
	return nil
}

// Totals counts the messages by state, each once, as of the last commit. Refused is not the journal's and stays zero.
func (j *Journal) Totals() gateway.Totals {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.led.totals
}

// Tally counts messages per source, uplink, grade and state, as of the last commit. Waiting and Held are what is so
// now, Received and the others what ever was. Series that are zero are left out. The map is the caller's.
func (j *Journal) Tally() map[gateway.TallyKey]uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make(map[gateway.TallyKey]uint64)
	j.led.each(func(source uint16, u int, g gateway.Grade, s gateway.State, n uint64) {
		out[gateway.TallyKey{Source: j.names.name(kindSource, int(source)), Uplink: j.names.name(kindUplink, u), Grade: g, State: s}] = n
	})
	return out
}

// each calls fn for every series that is not zero.
func (l *ledger) each(fn func(source uint16, uplink int, g gateway.Grade, s gateway.State, n uint64)) {
	for source, c := range l.tally {
		for u := range c {
			for g := range c[u] {
				for s, n := range c[u][g] {
					if n != 0 {
						fn(uint16(source), u, gateway.Grade(g), gateway.State(s), n)
					}
				}
			}
		}
	}
}
