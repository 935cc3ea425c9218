package journal

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// modelMessage is what the model remembers of one message.
type modelMessage struct {
	seq     uint64
	topic   string
	payload []byte
	was     gateway.UplinkSet // where it waited
	holds   gateway.UplinkSet
	prio    byte
	grade   gateway.Grade
	states  map[int]gateway.State // by uplink of was
	seqs    map[int]uint64        // under which it waits, or waited last, for an uplink
}

// whole is the state that the message counts as.
func (m *modelMessage) whole() gateway.State {
	st := gateway.Blocked
	if m.holds != 0 {
		st = gateway.Held
	}
	for _, s := range m.states {
		st = min(st, s)
	}
	return st
}

// model is a journal in a slice.
type model struct {
	t        *testing.T
	rng      *rand.Rand
	j        *Journal
	o        Options
	messages []*modelMessage
}

func (m *model) append() {
	var list []*gateway.Entry
	var added []*modelMessage
	for range 1 + m.rng.IntN(8) {
		var sets [3]gateway.UplinkSet // waits, holds, blocks
		for u := range 3 {
			sets[m.rng.IntN(3)] |= 1 << u
		}
		payload := make([]byte, m.rng.IntN(30_000))
		for i := range min(len(payload), 64) {
			payload[i] = byte(m.rng.Uint32())
		}
		topic := fmt.Sprintf("v1/%d", m.rng.IntN(4))
		prio, grade := byte(m.rng.IntN(gateway.Priorities)), gateway.Grade(m.rng.IntN(4))
		list = append(list, prioritized(message(m.j, fmt.Sprintf("source-%d", m.rng.IntN(3)), grade, sets[0], sets[1], sets[2], topic, payload), prio))
		added = append(added, &modelMessage{topic: topic, payload: payload, was: sets[0], holds: sets[1], prio: prio, grade: grade,
			states: map[int]gateway.State{}, seqs: map[int]uint64{}})
	}
	first := commit(m.t, m.j, list...)
	for i, a := range added {
		a.seq = first + uint64(i)
		for u := range 3 {
			if a.was.Has(u) {
				a.states[u], a.seqs[u] = gateway.Waiting, a.seq
			}
		}
	}
	m.messages = append(m.messages, added...)
}

// waiting lists what waits for an uplink in the order of sending.
func (m *model) waiting(u int) (list []*modelMessage) {
	for _, w := range m.messages {
		if w.states[u] == gateway.Waiting {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b *modelMessage) int {
		return cmp.Or(cmp.Compare(b.prio, a.prio), cmp.Compare(a.seqs[u], b.seqs[u]))
	})
	return list
}

// deliver takes what waits for one uplink, compares it, and settles a part of it: some of it not in order, some dead.
func (m *model) deliver() {
	u := m.rng.IntN(3)
	most := 1 + m.rng.IntN(40)
	f, got := read(m.t, m.j, u, most)
	want := m.waiting(u)
	if len(got) != min(most, len(want)) {
		m.t.Fatalf("uplink %d: %d messages, %d wait", u, len(got), len(want))
	}
	for i, g := range got {
		if w := want[i]; g.Seq != w.seqs[u] || g.Topic != w.topic || !bytes.Equal(g.Payload, w.payload) || w.seqs[u] == w.seq && (g.Waits != w.was || g.Holds != w.holds) {
			m.t.Fatalf("uplink %d: got seq %d, want %d", u, g.Seq, w.seqs[u])
		}
	}
	var back, acked, dead []*gateway.Outbound
	for i, g := range got {
		w := want[i]
		switch n := m.rng.IntN(20); {
		case n == 0:
			dead, w.states[u] = append(dead, g), gateway.Dead
		case n <= 2:
			back = append(back, g)
		default:
			acked, w.states[u] = append(acked, g), gateway.Forwarded
		}
	}
	forward(m.t, f, acked)
	if err := f.Settle(context.Background(), dead, gateway.Dead, "refused"); err != nil {
		m.t.Fatal(err)
	}
	f.Return(back)
	again, err := f.Next(1<<20, 1<<30, nil)
	if err != nil || len(back) > 0 && again[0].Seq != back[0].Seq {
		m.t.Fatalf("uplink %d: %d were returned and do not come first: %v", u, len(back), err)
	}
}

// retry lets a dead message wait again.
func (m *model) retry() {
	for _, w := range m.messages {
		var dead []int
		for u := range 3 {
			if w.states[u] == gateway.Dead {
				dead = append(dead, u)
			}
		}
		if len(dead) == 0 || m.rng.IntN(2) == 0 {
			continue
		}
		if names, err := m.j.Retry(context.Background(), w.seq, "test"); err != nil || len(names) != len(dead) {
			m.t.Fatalf("%d uplinks of %d, %v", len(names), len(dead), err)
		}
		for i, u := range dead {
			w.states[u], w.seqs[u] = gateway.Waiting, m.j.Size()-uint64(len(dead)-i)
		}
		if _, err := m.j.Retry(context.Background(), w.seq, "test"); !errors.Is(err, ErrNotDead) {
			m.t.Fatalf("retried twice: %v", err)
		}
		return
	}
}

// abandon drops the oldest messages of a grade for an uplink.
func (m *model) abandon() {
	u, g := m.rng.IntN(3), gateway.Grade(m.rng.IntN(4))
	list := slices.DeleteFunc(m.waiting(u), func(w *modelMessage) bool { return w.grade != g })
	slices.SortFunc(list, func(a, b *modelMessage) int { return cmp.Compare(a.seqs[u], b.seqs[u]) })
	size := int64(0)
	n := min(len(list), 1+m.rng.IntN(5))
	for _, w := range list[:n] {
		w.states[u] = gateway.Dropped
		size += int64(bodySize(w.topic, w.payload))
	}
	if got, err := m.j.abandon(context.Background(), u, rule{state: gateway.Dropped, why: "test", graded: true, grade: g, bytes: max(size, 1)}); err != nil || got != n {
		m.t.Fatalf("%d dropped, want %d, %v", got, n, err)
	}
}

func (m *model) reopen() {
	if err := m.j.Close(); err != nil {
		m.t.Fatal(err)
	}
	if m.rng.IntN(2) == 0 {
		mustCheck(m.t, m.o.Dir)
	}
	o := m.o
	o.verify = m.rng.IntN(2) == 0
	if m.rng.IntN(4) == 0 {
		os.Remove(filepath.Join(o.Dir, stateFile))
	}
	if m.j = openTest(m.t, o); len(m.j.repaired) > 0 {
		m.t.Fatalf("nothing is damaged, and %+v was repaired", m.j.repaired)
	}
}

func (m *model) compare() {
	var want gateway.Totals
	var waiting [3]Waiting
	var dead [3]uint64
	for _, w := range m.messages {
		want.Received++
		*want.Of(w.whole())++
		for u, st := range w.states {
			switch st {
			case gateway.Waiting:
				waiting[u].Messages++
				waiting[u].Bytes += uint64(bodySize(w.topic, w.payload))
			case gateway.Dead:
				dead[u]++
			}
		}
	}
	if got := m.j.Totals(); got != want || !got.Identity() {
		m.t.Fatalf("totals %+v, want %+v", got, want)
	}
	for u := range waiting {
		if got := m.j.Waiting(u); got.Messages != waiting[u].Messages || got.Bytes != waiting[u].Bytes || got.Oldest.IsZero() != (got.Messages == 0) {
			m.t.Fatalf("uplink %d: waiting %+v, want %+v", u, got, waiting[u])
		}
		if got := m.j.Dead(u); got != dead[u] {
			m.t.Fatalf("uplink %d: %d dead, want %d", u, got, dead[u])
		}
	}
}

func TestAJournalIsAListOnDisk(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			o := testOptions(t.TempDir())
			o.SegmentSize, o.Sign, o.CheckpointCount = 1<<20, testSign, 37
			m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 1)), o: o, j: openTest(t, o)}
			for u := range 3 {
				if _, err := m.j.Number(kindUplink, fmt.Sprintf("uplink %d", u)); err != nil {
					t.Fatal(err)
				}
			}
			for range 200 {
				switch n := m.rng.IntN(100); {
				case n < 45:
					m.append()
				case n < 86:
					m.deliver()
				case n < 92:
					m.retry()
				case n < 96:
					m.abandon()
				default:
					m.reopen()
				}
				m.compare()
			}
			m.reopen()
			m.compare()
			held, err := m.j.ListHeld(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, w := range m.messages {
				if w.holds != 0 {
					if n == len(held) || held[n].Seq != w.seq {
						t.Fatalf("%d-th held message is not %d", n, w.seq)
					}
					n++
				}
			}
			if n != len(held) {
				t.Fatalf("%d held messages listed, want %d", len(held), n)
			}
			listed, err := m.j.ListDead(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range m.messages {
				if w.states[0] == gateway.Dead || w.states[1] == gateway.Dead || w.states[2] == gateway.Dead {
					if len(listed) == 0 || listed[0].Seq != w.seq {
						t.Fatalf("dead message %d is not listed", w.seq)
					}
					listed = listed[1:]
				}
			}
			if len(listed) > 0 {
				t.Fatalf("%d messages are listed as dead and are not", len(listed))
			}
			for range 2 {
				for u := range 3 {
					drain(t, m.j, u)
				}
				for _, w := range m.messages {
					for _, st := range w.states {
						if st == gateway.Dead {
							if _, err := m.j.Retry(context.Background(), w.seq, "test"); err != nil && !errors.Is(err, ErrNotDead) {
								t.Fatal(err)
							}
						}
					}
				}
			}
			if st := m.j.Totals(); st.Waiting+st.Dead != 0 {
				t.Fatalf("totals %+v", st)
			}
			if st := m.j.Stat(); st.Archives < 3 || len(st.Uplinks) != 3 {
				t.Fatalf("stat %+v", st)
			}
			if err := m.j.Close(); err != nil {
				t.Fatal(err)
			}
			if r := mustCheck(t, o.Dir); r.Decisions != uint64(len(m.messages)) || r.Checkpoints == 0 || r.Unsigned != 0 {
				t.Fatalf("report %+v", r)
			}
		})
	}
}
