package audit

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/sluice-edge/sluice/gateway"
)

// waiting is one of them.
type waiting struct {
	seq      uint64
	id       gateway.ID
	priority uint8
	grade    gateway.Grade
	settled  bool
	other    bool // decided under another identity
}

// wait takes one decision of the second pass in.
func (r *reconciliation) wait(seq uint64, captured bool) error {
	out := r.outcome()
	if out == nil || out.State != gateway.Waiting || !r.within(seq) {
		return nil
	}
	if r.out.From == nil {
		from := seq
		r.out.From = &from
	}
	to := seq
	r.out.To = &to
	if captured {
		r.out.Forwarded++
		return nil
	}
	if len(r.open)+len(r.dead) >= maxOpen {
		return ErrTooMany
	}
	r.open = append(r.open, waiting{seq: seq, id: r.rec.ID, priority: out.Priority, grade: r.rec.Grade, other: !r.sets[r.rec.Set]})
	return nil
}

// settle applies a delivery or expiry record to what waits. Only what was forwarded should have been captured.
func (r *reconciliation) settle() {
	if int(r.rec.Uplink) != r.uplink {
		return
	}
	scope := scopeOf(r.rec.Detail)
	i, _ := slices.BinarySearchFunc(r.open, r.rec.First, func(w waiting, seq uint64) int { return cmp.Compare(w.seq, seq) })
	for ; i < len(r.open) && r.open[i].seq <= r.rec.Last; i++ {
		w := &r.open[i]
		if w.settled || !scope.covers(w) {
			continue
		}
		w.settled = true
		if r.rec.State == gateway.Dead {
			r.dead[w.seq] = *w
		}
		if r.rec.State != gateway.Forwarded {
			continue
		}
		r.out.Forwarded++
		if w.other {
			r.out.OtherIdentity++
			continue
		}
		seq := w.seq
		note(&r.out.Missing, &r.out.MissingCount, Differ{Seq: &seq, ID: w.id.String(), Why: "was forwarded and is not in the capture"})
	}
	for len(r.open) > 0 && r.open[0].settled {
		r.open = r.open[1:]
	}
}

// scope is which of the waiting messages a delivery or expiry record means (package gateway/journal, "Settlements").
type scope struct {
	Priority *uint8          `json:"priority"`
	Control  bool            `json:"control"`
	Grades   []gateway.Grade `json:"grades"`
}

func scopeOf(detail []byte) (s scope) {
	if len(detail) > 0 && json.Unmarshal(detail, &s) != nil {
		return scope{Control: true} // unknown: nothing is taken as forwarded
	}
	return s
}

func (s *scope) covers(w *waiting) bool {
	return !s.Control && (s.Priority == nil || *s.Priority == w.priority) && (len(s.Grades) == 0 || slices.Contains(s.Grades, w.grade))
}
