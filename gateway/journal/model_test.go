package journal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// modelMessage is what the model remembers of one message.
type modelMessage struct {
	seq     uint64
	topic   string
	payload []byte
	waits   gateway.UplinkSet // not settled yet
	was     gateway.UplinkSet
	holds   gateway.UplinkSet
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
		list = append(list, message(m.j, fmt.Sprintf("source-%d", m.rng.IntN(3)), gateway.Grade(m.rng.IntN(4)), sets[0], sets[1], sets[2], topic, payload))
		added = append(added, &modelMessage{topic: topic, payload: payload, waits: sets[0], was: sets[0], holds: sets[1]})
	}
	first := commit(m.t, m.j, list...)
	for i, a := range added {
		a.seq = first + uint64(i)
	}
	m.messages = append(m.messages, added...)
}

// deliver reads for one uplink, compares, and acknowledges a part of it.
func (m *model) deliver() {
	u := m.rng.IntN(3)
	most := 1 + m.rng.IntN(40)
	f, got := read(m.t, m.j, u, most)
	i := 0
	for _, want := range m.messages {
		if !want.waits.Has(u) || i == most {
			continue
		}
		if i == len(got) {
			m.t.Fatalf("uplink %d: %d messages, more wait", u, i)
		}
		if g := got[i]; g.Seq != want.seq || g.Topic != want.topic || !bytes.Equal(g.Payload, want.payload) || g.Waits != want.was || g.Holds != want.holds {
			m.t.Fatalf("uplink %d: got seq %d, want %d", u, g.Seq, want.seq)
		}
		i++
	}
	if i != len(got) {
		m.t.Fatalf("uplink %d: %d messages, %d wait", u, len(got), i)
	}
	acked := got[:m.rng.IntN(len(got)+1)]
	forward(m.t, f, acked)
	done := make(map[uint64]bool)
	for _, a := range acked {
		done[a.Seq] = true
	}
	for _, w := range m.messages {
		if done[w.seq] {
			w.waits &^= 1 << u
		}
	}
}

func (m *model) reopen() {
	if err := m.j.Close(); err != nil {
		m.t.Fatal(err)
	}
	if m.rng.IntN(2) == 0 {
		mustCheck(m.t, m.o.Dir)
	}
	m.j = openTest(m.t, m.o)
}

func (m *model) compare() {
	var want gateway.Totals
	var waiting [3]Waiting
	for _, w := range m.messages {
		want.Received++
		for u := range waiting {
			if w.waits.Has(u) {
				waiting[u].Messages++
				waiting[u].Bytes += uint64(bodySize(w.topic, w.payload))
			}
		}
		switch {
		case w.waits != 0:
			want.Waiting++
		case w.holds != 0:
			want.Held++
		case w.was != 0:
			want.Forwarded++
		default:
			want.Blocked++
		}
	}
	if got := m.j.Totals(); got != want || !got.Identity() {
		m.t.Fatalf("totals %+v, want %+v", got, want)
	}
	for u := range waiting {
		if got := m.j.Waiting(u); got.Messages != waiting[u].Messages || got.Bytes != waiting[u].Bytes || got.Oldest.IsZero() != (got.Messages == 0) {
			m.t.Fatalf("uplink %d: waiting %+v, want %+v", u, got, waiting[u])
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
				case n < 50:
					m.append()
				case n < 96:
					m.deliver()
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
			for u := range 3 {
				drain(t, m.j, u)
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
