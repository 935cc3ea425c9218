package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/sluice-edge/sluice/gateway"
)

// Events of a repair. The restatement says what the counters are from there on: with records lost they do not follow
// from the rest. Behind it stand events that say what is settled and what is dead.
const (
	eventDamaged  = "journal damaged"
	eventRestated = "journal restated"
	eventStated   = "journal states"
)

// restatement is the detail of the event that states the counters.
type restatement struct {
	Dropped uint64         `json:"dropped"` // messages that waited or were held and are lost, beside those of expiry records
	Event   string         `json:"event"`
	Lost    [][2]uint64    `json:"lost,omitempty"` // records that are lost: first and last
	Tally   [][5]uint64    `json:"tally"`          // source, uplink, grade, state, count
	Totals  gateway.Totals `json:"totals"`
}

// stated is the detail of an event behind a restatement: a part of the states, of the messages that are dead, and of all
// messages whose sealed hold was lost.
type stated struct {
	Dead   []deadRow    `json:"dead,omitempty"`
	Event  string       `json:"event"`
	Held   []uint64     `json:"held,omitempty"`
	States []baseStates `json:"states,omitempty"`
}

// Bounds of what one record states.
const (
	maxTally  = 20_000
	maxStated = 256 << 10 // bytes of states
	maxDead   = 1000
	maxHeld   = 20_000
)

// event follows an event record: restatements set the counters, others change nothing.
func (l *ledger) event(detail []byte) error {
	if r, ok := parseRestatement(detail); ok {
		return l.restate(&r)
	}
	if p, ok := parseStated(detail); ok {
		for _, st := range p.States {
			if !st.valid() {
				return errors.New("restatement is malformed")
			}
		}
		l.states.put(p.States)
		l.restoreDead(p.Dead)
	}
	return nil
}

func (l *ledger) restate(r *restatement) error {
	l.totals, l.tally, l.loose = r.Totals, nil, false
	for _, row := range r.Tally {
		if row[0] >= maxSources || row[1] >= gateway.MaxUplinks || row[2] > uint64(gateway.Core) || row[3] > uint64(gateway.Received) {
			return errors.New("restatement is malformed")
		}
		l.of(uint16(row[0]))[row[1]][row[2]][row[3]] = row[4]
	}
	for n := range l.states.chunks {
		l.states.forget(n)
	}
	clear(l.dead)
	clear(l.again)
	return nil
}

func parseRestatement(detail []byte) (r restatement, ok bool) {
	if !bytes.Contains(detail, []byte(`"event":"`+eventRestated+`"`)) {
		return r, false
	}
	return r, json.Unmarshal(detail, &r) == nil && r.Event == eventRestated
}

func parseStated(detail []byte) (p stated, ok bool) {
	if !bytes.Contains(detail, []byte(`"event":"`+eventStated+`"`)) {
		return p, false
	}
	return p, json.Unmarshal(detail, &p) == nil && p.Event == eventStated
}

// valid reports whether put takes the states.
func (st *baseStates) valid() bool {
	return st.Uplink >= 0 && st.Uplink < gateway.MaxUplinks && new(chunk).decode(st.Uplink, st.Value) == nil
}

// put sets whole chunks that were not there; those that are not valid are passed by.
func (s *states) put(list []baseStates) {
	for _, st := range list {
		if !st.valid() {
			continue
		}
		c := s.chunks[st.Chunk]
		if c == nil {
			c = new(chunk)
			s.chunks[st.Chunk] = c
		}
		if c.of[st.Uplink] == nil {
			c.decode(st.Uplink, st.Value) // cannot fail: it was tried
			c.fresh |= 1 << st.Uplink
		}
	}
}

// restated sets the counters right by what is left, and returns the events that state them.
func (j *Journal) restated() ([][]byte, error) {
	n, err := j.countLeft()
	if err != nil {
		return nil, err
	}
	l := &j.led
	for source, c := range l.tally {
		for u := range c {
			for g := range c[u] {
				series, have := &c[u][g], n.series[seriesOf{uint16(source), u, gateway.Grade(g)}]
				setLeft(&series[gateway.Waiting], have[0], &series[gateway.Dropped], &series[gateway.Received])
				setLeft(&series[gateway.Held], have[1], &series[gateway.Dropped], &series[gateway.Received])
			}
		}
	}
	before := l.totals.Waiting + l.totals.Held
	l.totals.Waiting, l.totals.Held = n.waiting, n.held
	dropped := uint64(0)
	if after := n.waiting + n.held; after <= before {
		dropped = before - after
		l.totals.Dropped += dropped
	} else {
		l.totals.Received += after - before
	}
	l.loose = false
	r := restatement{Event: eventRestated, Dropped: dropped, Totals: l.totals}
	for _, h := range j.lost.Holes {
		if h.Next > h.First {
			r.Lost = append(r.Lost, [2]uint64{h.First, h.Next - 1})
		}
	}
	l.each(func(source uint16, u int, g gateway.Grade, s gateway.State, n uint64) {
		if len(r.Tally) < maxTally {
			r.Tally = append(r.Tally, [5]uint64{uint64(source), uint64(u), uint64(g), uint64(s), n})
		}
	})
	return append([][]byte{encodeDetail(&r)}, l.stated()...), nil
}

// stated returns the events that say what is settled and what is dead.
func (l *ledger) stated() (details [][]byte) {
	l.states.prune(l.tree.size)
	p := stated{Event: eventStated}
	size := 0
	flush := func() {
		if len(p.Dead)+len(p.Held)+len(p.States) > 0 {
			details = append(details, encodeDetail(&p))
		}
		p, size = stated{Event: eventStated}, 0
	}
	for _, st := range l.states.all() {
		if size += len(st.Value) + 64; size > maxStated {
			flush()
		}
		p.States = append(p.States, st)
	}
	flush()
	for _, row := range l.deadRows() {
		if p.Dead = append(p.Dead, row); len(p.Dead) == maxDead {
			flush()
		}
	}
	flush()
	for _, b := range l.lost.Bodies {
		if b.Holds == 0 {
			continue
		}
		if p.Held = append(p.Held, b.Seq); len(p.Held) == maxHeld {
			flush()
		}
	}
	flush()
	return details
}

// setLeft sets a counter to what is left; the rest is dropped, and what was not counted before was received.
func setLeft(counter *uint64, left uint64, dropped, received *uint64) {
	if *counter >= left {
		*dropped += *counter - left
	} else {
		*received += left - *counter
	}
	*counter = left
}

// seriesOf is a series of the tally, without its state.
type seriesOf struct {
	source uint16
	uplink int
	grade  gateway.Grade
}

// counted is what waits and is held, by the bodies that are there.
type counted struct {
	series        map[seriesOf][2]uint64 // waiting, held
	waiting, held uint64                 // messages
	seq           uint64
	waits, holds  bool // of message seq
}

// message ends the counting of the one before. Those that are dead somewhere count by themselves.
func (n *counted) message(l *ledger, seq uint64) {
	if seq == n.seq {
		return
	}
	_, again := l.again[n.seq]
	switch {
	case again || l.dead[n.seq] != nil:
	case n.waits:
		n.waiting++
	case n.holds:
		n.held++
	}
	n.seq, n.waits, n.holds = seq, false, false
}

func (n *counted) body(l *ledger, seq uint64, h *header) {
	n.message(l, seq)
	for u := range gateway.MaxUplinks {
		if !h.own.Has(u) || h.control() {
			continue
		}
		at := seriesOf{h.source, u, h.grade}
		c := n.series[at]
		switch {
		case h.hold():
			c[1]++
			n.holds = true
		case l.states.get(u, seq) == gateway.Waiting:
			c[0]++
			n.waits = true
		}
		n.series[at] = c
	}
}

// eachBody calls fn for every body in segments and, unless its segment is there, parked.
func (j *Journal) eachBody(fn func(seq uint64, h *header, parked bool)) error {
	visit := func(seq uint64, k, v []byte, parked bool) {
		if len(k) == entryKeyLen && k[8] != recordByte {
			if h, ok := parseHeader(v); ok {
				fn(seq, &h, parked)
			}
		}
	}
	for _, s := range j.segments {
		var key [entryKeyLen]byte
		err := j.files.scan(s, entryKey(&key, s.First, recordByte), s.Next, func(seq uint64, k, v []byte) error {
			visit(seq, k, v, false)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return j.eachParked(func(k, v []byte) error {
		seq := binary.BigEndian.Uint64(k)
		if _, s, _ := j.container(seq); s == nil {
			visit(seq, k, v, true)
		}
		return nil
	})
}

// countLeft counts what waits and is held.
func (j *Journal) countLeft() (*counted, error) {
	n := &counted{series: make(map[seriesOf][2]uint64)}
	wasParked := false
	err := j.eachBody(func(seq uint64, h *header, parked bool) {
		if parked && !wasParked {
			n.message(&j.led, ^uint64(0)) // seqs begin again
			wasParked = true
		}
		if !parked || h.hold() {
			n.body(&j.led, seq, h)
		}
	})
	n.message(&j.led, ^uint64(0)-1)
	for seq, m := range j.led.dead {
		switch j.led.whole(seq, &m.decision) {
		case gateway.Waiting:
			n.waiting++
		case gateway.Held:
			n.held++
		}
	}
	return n, err
}
