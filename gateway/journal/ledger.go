package journal

import (
	"fmt"
	"math/bits"

	"github.com/sluice-edge/sluice/gateway"
)

// counts holds one source's series by uplink, grade and state.
type counts [gateway.MaxUplinks][gateway.Core + 1][gateway.Received + 1]uint64

// ledger is what follows from the records alone: tree, cursors and counters up to record tree.size. The committer
// feeds it while it runs, recovery and Check feed it from the records; all come to the same numbers.
type ledger struct {
	tree    compact
	cursors [gateway.MaxUplinks]uint64
	totals  gateway.Totals
	tally   []*counts // by number of the source
}

// decision is what the ledger needs to know of one message.
type decision struct {
	source               uint16
	grade                gateway.Grade
	waits, holds, blocks gateway.UplinkSet
}

func (l *ledger) of(source uint16) *counts {
	for int(source) >= len(l.tally) {
		l.tally = append(l.tally, new(counts))
	}
	return l.tally[source]
}

// decide counts one message taken in. [product.md §3, States]
func (l *ledger) decide(d *decision) {
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
	l.totals.Received++
	switch {
	case d.waits != 0:
		l.totals.Waiting++
	case d.holds != 0:
		l.totals.Held++
	default:
		l.totals.Blocked++
	}
}

// settle counts the acknowledgement of message seq by one uplink, whose cursor moves behind it afterwards.
func (l *ledger) settle(uplink int, seq uint64, d *decision) {
	c := l.of(d.source)
	c[uplink][d.grade][gateway.Waiting]--
	c[uplink][d.grade][gateway.Forwarded]++
	for set := d.waits &^ (1 << uplink); set != 0; set &= set - 1 {
		if l.cursors[bits.TrailingZeros32(uint32(set))] < seq {
			return
		}
	}
	l.totals.Waiting--
	if d.holds != 0 {
		l.totals.Held++
	} else {
		l.totals.Forwarded++
	}
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
	}
	return d
}

// apply feeds the ledger with the record at tree.size. between calls its argument for every decision record from first
// to last. A root that the record completes is handed to root, which may be nil.
func (l *ledger) apply(record []byte, r *gateway.Record, between func(first, last uint64, fn func(seq uint64, d *decision) error) error, root func(n uint64, h [32]byte)) error {
	seq := l.tree.size
	if err := gateway.DecodeRecord(record, r); err != nil {
		return fmt.Errorf("decode record %d: %w", seq, err)
	}
	switch r.Kind {
	case gateway.DecisionRecord:
		d := decisionOf(r)
		l.decide(&d)
	case gateway.DeliveryRecord:
		u, first, last, count := int(r.Uplink), r.First, r.Last, r.Count
		if r.State != gateway.Forwarded || first > last || last >= seq || first <= l.cursors[u] {
			return fmt.Errorf("record %d: delivery does not fit the cursor", seq)
		}
		var n uint64
		err := between(first, last, func(at uint64, d *decision) error {
			if d.waits.Has(u) {
				l.settle(u, at, d)
				n++
			}
			return nil
		})
		if err != nil {
			return err
		}
		if n != count {
			return fmt.Errorf("record %d: delivery counts %d messages, the decisions %d", seq, count, n)
		}
		l.cursors[u] = last
	}
	if h, complete := l.tree.push(leafHash(record)); complete && root != nil {
		root(seq>>rootLevel, h)
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
