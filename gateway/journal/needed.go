package journal

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/sluice-edge/sluice/gateway"
)

// needed tells, while a repair reads, whether a message waited for an uplink: a body that nobody needs any more may be
// gone, and is no loss. It knows the states as of some record and what the records behind it settled.
type needed struct {
	from   uint64
	states *states
	spans  map[spanOf][]span
	sorted bool
}

// spanOf is what one settlement covers: entries of a lane and a grade, for one uplink.
type spanOf struct {
	uplink, lane int
	grade        gateway.Grade
}

type span struct{ first, last uint64 }

// newNeeded starts from a snapshot; nil: from record 0.
func newNeeded(s *snapshot) *needed {
	n := &needed{states: newStates(), spans: make(map[spanOf][]span)}
	if s != nil {
		n.from, n.states.chunks = s.Next, s.states
	}
	return n
}

// note follows a record. Records come by seq, those of a damaged file a second time.
func (n *needed) note(seq uint64, r *gateway.Record) {
	if seq < n.from {
		return
	}
	switch r.Kind {
	case gateway.DeliveryRecord, gateway.ExpiryRecord:
		n.settled(r)
	case gateway.EventRecord:
		if _, ok := parseRestatement(r.Detail); ok {
			*n = *newNeeded(nil)
			n.from = seq + 1
		} else if p, ok := parseStated(r.Detail); ok {
			n.states.put(p.States)
			n.from = seq + 1
		}
	}
}

func (n *needed) settled(r *gateway.Record) {
	var s scope
	if len(r.Detail) > 0 && json.Unmarshal(r.Detail, &s) != nil || int(r.Uplink) >= gateway.MaxUplinks {
		return
	}
	n.sorted = false
	for lane := range gateway.Priorities {
		for g := range gateway.Core + 1 {
			if s.covers(false, lane, g) {
				at := spanOf{int(r.Uplink), lane, g}
				list := n.spans[at]
				if k := len(list); k > 0 && list[k-1].last+1 == r.First {
					list[k-1].last = r.Last
				} else {
					n.spans[at] = append(list, span{r.First, r.Last})
				}
			}
		}
	}
}

// sort makes every list one of spans that do not overlap, ascending.
func (n *needed) sort() {
	for at, list := range n.spans {
		slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.first, b.first) })
		out := list[:0]
		for _, s := range list {
			if k := len(out); k > 0 && s.first <= out[k-1].last+1 {
				out[k-1].last = max(out[k-1].last, s.last)
			} else {
				out = append(out, s)
			}
		}
		n.spans[at] = out
	}
	n.sorted = true
}

// waits returns those of the uplinks for which the message decided at seq still waited, by the records that are readable.
func (n *needed) waits(seq uint64, d *decision, uplinks gateway.UplinkSet) (set gateway.UplinkSet) {
	if !n.sorted {
		n.sort()
	}
	for u := range gateway.MaxUplinks {
		if !uplinks.Has(u) || seq < n.from && n.states.get(u, seq) != gateway.Waiting {
			continue
		}
		list := n.spans[spanOf{u, d.priority(u), d.grade}]
		i, found := slices.BinarySearchFunc(list, seq, func(s span, seq uint64) int { return cmp.Compare(s.first, seq) })
		if !found && (i == 0 || list[i-1].last < seq) {
			set |= 1 << u
		}
	}
	return set
}
