package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// ledger is a journal that keeps entries in memory. While it is paused it commits nothing.
type ledger struct {
	Journal // the rest is not used

	mu      sync.Mutex
	paused  bool
	entries []*Entry
	pending []func()
	full    bool
}

func (l *ledger) Append(entries []*Entry, done func(uint64, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kept []*Entry
	for _, e := range entries { // as a journal does, it keeps nothing of what it was given
		c := *e
		c.Record, c.Outlets = bytes.Clone(e.Record), nil
		for _, o := range e.Outlets {
			o.Payload = bytes.Clone(o.Payload)
			c.Outlets = append(c.Outlets, o)
		}
		kept = append(kept, &c)
	}
	commit := func() {
		first := uint64(len(l.entries))
		l.entries = append(l.entries, kept...)
		done(first, nil)
	}
	if l.paused {
		l.pending = append(l.pending, commit)
		return
	}
	commit()
}

func (l *ledger) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = false
	for _, commit := range l.pending {
		commit()
	}
	l.pending = nil
}

func (l *ledger) Full() bool { return l.full }

func (l *ledger) records(t *testing.T) []Record {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Record, len(l.entries))
	for i, e := range l.entries {
		if err := DecodeRecord(e.Record, &out[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func newGateway(l *ledger) *Gateway {
	var n atomic.Uint64
	return New(Options{Journal: l, NextID: func() ID { return ID{7, n.Add(1)} }, Clock: func() (time.Time, bool) { return morning, true },
		Metrics: NewMetrics([]string{"bench"}, []string{"tsp", "lab"}, nil, "test"), Log: quiet})
}

func TestAdmit(t *testing.T) {
	l := &ledger{paused: true}
	g := newGateway(l)
	if _, err := g.Admit(t.Context(), []*Message{message("v1/a", "speed=1")}); !errors.Is(err, ErrClosed) || g.Set() != nil {
		t.Fatalf("before the first version set: %v", err)
	}
	g.Swap(usualSet(t))
	batch := []*Message{message("v1/a", "vin1=LX;speed=1"), message("v1/b", "!"), message("v1/c", "speed=3")}
	ticket, err := g.Admit(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range batch { // the source may use its memory again
		copy(m.Payload, bytes.Repeat([]byte("x"), len(m.Payload)))
	}
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ticket.Wait(soon); !errors.Is(err, context.Canceled) {
		t.Errorf("done before the commit: %v", err)
	}
	l.resume()
	if err := ticket.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	records := l.records(t)
	if len(records) != 4 || records[0].Kind != ChangeRecord || records[0].Set != 1 {
		t.Fatalf("records %+v", records)
	}
	for i, r := range records[1:] {
		if r.Kind != DecisionRecord || r.ID != batch[i].ID || r.ID.Counter != uint64(i+1) || r.Set != 1 {
			t.Errorf("record %d: %+v", i+1, r)
		}
	}
	for i, want := range []string{"vin1=tk:fleet:2;speed=1", "", "speed=3"} {
		e := l.entries[i+1]
		if want == "" && len(e.Outlets) != 0 || want != "" && string(e.Outlets[0].Payload) != want {
			t.Errorf("entry %d: %+v", i+1, e.Outlets)
		}
	}
	if l.full = true; !g.Full() {
		t.Error("full is not told")
	}
	g.Close()
	if _, err := g.Admit(t.Context(), batch); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	closed := false
	late := usualSet(t)
	late.Close = func() { closed = true }
	if g.Swap(late); !closed || g.Set() != nil || len(l.entries) != 4 {
		t.Error("a version set came into force after close")
	}
}

func TestAdmitWaitsForWhatIsInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		g := newGateway(l)
		g.Swap(usualSet(t))
		l.paused = true
		big := func() []*Message { return []*Message{message("v1/a", "!"+string(make([]byte, maxInHand*2/3)))} }
		first, err := g.Admit(t.Context(), big())
		if err != nil {
			t.Fatal(err)
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Admit(impatient, big()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second one is admitted: %v", err)
		}
		admitted := make(chan error, 1)
		go func() {
			second, err := g.Admit(t.Context(), big())
			if err == nil {
				err = second.Wait(t.Context())
			}
			admitted <- err
		}()
		synctest.Wait()
		select {
		case err := <-admitted:
			t.Errorf("the second one did not wait: %v", err)
		default:
		}
		l.resume()
		if err := errors.Join(first.Wait(t.Context()), <-admitted); err != nil {
			t.Error(err)
		}
		huge := []*Message{message("v1/a", "!"+string(make([]byte, maxInHand)))}
		if ticket, err := g.Admit(t.Context(), huge); err != nil || ticket.Wait(t.Context()) != nil {
			t.Errorf("more than the budget at once: %v", err)
		}
		if !g.inHand.TryAcquire(maxInHand) {
			t.Error("not everything was given back")
		}
	})
}

func TestFewBatchesAreJudgedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(&ledger{})
		set := usualSet(t)
		proceed := make(chan struct{})
		var inside atomic.Int64
		set.Filters = []Attached{{Filter: script{"slow", func(_ *Classification, o *Opinion) error {
			inside.Add(1)
			<-proceed
			inside.Add(-1)
			*o = Opinion{Action: Pass}
			return nil
		}}}}
		g.Swap(set)
		limit := cap(g.judges)
		done := make(chan error, limit+1)
		for range limit + 1 {
			go func() {
				ticket, err := g.Admit(t.Context(), []*Message{message("v1/a", "speed=1")})
				if err == nil {
					err = ticket.Wait(t.Context())
				}
				done <- err
			}()
		}
		synctest.Wait()
		if n := inside.Load(); n != int64(limit) {
			t.Errorf("%d are judged, want %d", n, limit)
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := g.Admit(impatient, []*Message{message("v1/a", "speed=1")}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more is admitted: %v", err)
		}
		close(proceed)
		for range limit + 1 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if len(g.judges) != 0 || !g.inHand.TryAcquire(maxInHand) {
			t.Error("not everything was given back")
		}
	})
}

// guarded is a classifier that notices when it is used after its version set was closed.
type guarded struct {
	names
	closed *atomic.Bool
	misuse *atomic.Int64
}

func (c guarded) Classify(m *Message, b *Body, out *Classification) {
	if c.closed.Load() {
		c.misuse.Add(1)
	}
	c.names.Classify(m, b, out)
}

// Version sets are replaced while messages flow: each message is judged by exactly one, which its record names and
// whose change record stands before it, and a set is closed once, when nobody judges by it.
func TestSwapWhileMessagesFlow(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	l := &ledger{}
	g := newGateway(l)
	var misuse, closes atomic.Int64
	set := func(n int) *VersionSet {
		s := usualSet(t)
		closed := new(atomic.Bool)
		s.Number, s.Classifier = uint64(n), guarded{closed: closed, misuse: &misuse}
		s.Describe = func(string) []byte { return fmt.Appendf(nil, `{"set":%d}`, n) }
		s.Close = func() {
			if closed.Swap(true) {
				misuse.Add(1)
			}
			closes.Add(1)
		}
		return s
	}
	g.Swap(set(1))
	const senders, batches, swaps = 16, 60, 40
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for range batches {
				ticket, err := g.Admit(t.Context(), []*Message{message("v1/a", "vin1=LX;speed=1"), message("v1/b", "recipe=R")})
				if err != nil || ticket.Wait(t.Context()) != nil {
					t.Errorf("admit: %v", err)
				}
			}
		})
	}
	all.Go(func() {
		for n := 2; n <= swaps; n++ {
			g.Swap(set(n))
			runtime.Gosched()
		}
	})
	all.Wait()
	g.Close()
	inForce, decisions, ids := map[uint64]bool{}, 0, map[ID]bool{}
	for i, r := range l.records(t) {
		switch r.Kind {
		case ChangeRecord:
			inForce[r.Set] = true
		case DecisionRecord:
			decisions++
			if !inForce[r.Set] || ids[r.ID] {
				t.Errorf("record %d names set %d, which is not on the record, or an id again", i, r.Set)
			}
			ids[r.ID] = true
		}
	}
	if decisions != 2*senders*batches || len(inForce) != swaps || closes.Load() != swaps || misuse.Load() != 0 {
		t.Errorf("%d decisions, %d sets, %d closed, %d used after", decisions, len(inForce), closes.Load(), misuse.Load())
	}
	families, err := g.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	timed := uint64(0)
	for _, f := range families {
		if f.GetName() == "sluice_swap_seconds" {
			timed = f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	if timed != swaps {
		t.Errorf("%d swaps are timed, of %d", timed, swaps)
	}
}

func TestEventsAndControlMessagesAreOnTheRecord(t *testing.T) {
	l := &ledger{}
	g := newGateway(l)
	g.Swap(usualSet(t))
	g.Event([]byte(`{"event":"start"}`))
	g.Control([]byte(`{"event":"epoch"}`), 3, "gw/$sluice/epoch/dso/1", []byte("{}"))
	records := l.records(t)
	if len(records) != 3 || records[1].Kind != EventRecord || string(records[2].Detail) != `{"event":"epoch"}` {
		t.Fatalf("records %+v", records)
	}
	e := l.entries[2]
	if !e.Control || e.Source != "" || !e.Retain || e.QoS != 1 || e.Waits != 3 || e.ID == (ID{}) || e.Salt == [16]byte{} ||
		!reflect.DeepEqual(e.Outlets, []Outlet{{Uplinks: 3, Topic: "gw/$sluice/epoch/dso/1", Payload: []byte("{}")}}) {
		t.Errorf("entry %+v", e)
	}
	g.Refuse("bench", RefusedFull, 2)
	families, err := g.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "sluice_refused_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetValue() == "full" && m.GetCounter().GetValue() != 2 {
					t.Errorf("refused %v", m)
				}
			}
		}
	}
}

func TestTheClockOfABoxThatWasNeverSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a bubble's clock begins in 2000
		if _, trusted := SystemClock(); trusted {
			t.Error("a clock before 2025 is trusted")
		}
		l := &ledger{}
		g := New(Options{Journal: l, NextID: func() ID { return ID{} }, Metrics: NewMetrics(nil, nil, nil, ""), Log: quiet})
		g.Swap(usualSet(t))
		if _, err := g.Admit(t.Context(), []*Message{message("v1/a", "recipe=R;speed=1")}); err != nil {
			t.Fatal(err)
		}
		if r := l.records(t)[1]; r.Trusted || r.Outcomes[0].Reason != ReasonApproval {
			t.Errorf("%+v", r)
		}
	})
}
