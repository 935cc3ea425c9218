package gateway

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// counted is a version set that notices being closed.
func counted(t *testing.T, number uint64, closes *atomic.Int64, filters ...Attached) *VersionSet {
	s := usualSet(t)
	s.Number, s.Filters = number, filters
	s.Close = func() { closes.Add(1) }
	return s
}

func admit(t *testing.T, g *Gateway, n int, topic, payload string) {
	t.Helper()
	for range n {
		ticket, err := g.Admit(t.Context(), []*Message{message(topic, payload)})
		if err != nil {
			t.Fatal(err)
		}
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func outcomes(t *testing.T, l *ledger) map[uint64]map[State]int {
	t.Helper()
	got := map[uint64]map[State]int{}
	for _, r := range l.records(t) {
		if r.Kind == DecisionRecord {
			if got[r.Set] == nil {
				got[r.Set] = map[State]int{}
			}
			got[r.Set][r.Outcomes[0].State]++
		}
	}
	return got
}

// A filter that is valid and blocks everything is noticed after a handful of messages, without a trap, and the set before it
// comes back as a set of its own.
func TestAProbationNoticesAFilterThatBlocksEverything(t *testing.T) {
	l := &ledger{}
	g := newGateway(l)
	var first, second atomic.Int64
	g.Swap(counted(t, 1, &first))
	admit(t, g, 3, "v1/a", "speed=1")
	var why string
	var delta Delta
	p := g.Try(counted(t, 2, &second, Attached{Filter: says(Opinion{Action: Block})}), Limits{Changed: 0.05, PerSecond: 1e9}, func(w string, d Delta) { why, delta = w, d })
	admit(t, g, leastCompared, "v1/a", "speed=1")
	if why != "outcomes" || delta.Compared != leastCompared || delta.Outcomes != leastCompared {
		t.Errorf("noticed %q at %+v", why, delta)
	}
	if first.Load() != 0 {
		t.Error("the set before was closed although it may be needed")
	}
	if err := p.Back(3, "test"); err != nil {
		t.Fatal(err)
	}
	if first.Load() != 0 || second.Load() != 1 {
		t.Errorf("closed: %d of the set before, %d of the one that was tried", first.Load(), second.Load())
	}
	admit(t, g, 4, "v1/a", "speed=1")
	if err := p.Back(4, "test"); err != ErrNoProbation {
		t.Errorf("back twice: %v", err)
	}
	if err := p.Keep(); err != ErrNoProbation {
		t.Errorf("kept after back: %v", err)
	}
	g.Close()
	if first.Load() != 1 {
		t.Errorf("the set before was closed %d times", first.Load())
	}
	if got := fmt.Sprint(outcomes(t, l)); got != fmt.Sprint(map[uint64]map[State]int{1: {Waiting: 3}, 2: {Blocked: leastCompared}, 3: {Waiting: 4}}) {
		t.Errorf("decided %s", got)
	}
}

func TestAProbationOfASetThatDoesTheSameIsNotNoticed(t *testing.T) {
	g := newGateway(&ledger{})
	var first, second atomic.Int64
	g.Swap(counted(t, 1, &first))
	p := g.Try(counted(t, 2, &second, Attached{Filter: says(Opinion{Action: Pass})}), Limits{Changed: 0.01, Slower: 1000, PerSecond: 1e9},
		func(w string, d Delta) { t.Errorf("noticed %q at %+v", w, d) })
	admit(t, g, 300, "v1/a", "speed=1;vin1=LX")
	if d := p.Delta(); d.Compared != 300 || d.Outcomes != 0 || d.Edits != 0 {
		t.Errorf("compared %+v", d)
	}
	if err := p.Keep(); err != nil || first.Load() != 1 || second.Load() != 0 {
		t.Errorf("kept: %v; closed %d and %d", err, first.Load(), second.Load())
	}
	admit(t, g, 1, "v1/a", "speed=1")
	if err := p.Back(3, "test"); err != ErrNoProbation {
		t.Errorf("back after kept: %v", err)
	}
	g.Close()
	if first.Load() != 1 || second.Load() != 1 {
		t.Errorf("closed %d and %d times", first.Load(), second.Load())
	}
}

// Edits are counted: a filter that removes what the policy passes changes no message's state.
func TestAProbationCountsEdits(t *testing.T) {
	g := newGateway(&ledger{})
	var closes atomic.Int64
	g.Swap(counted(t, 1, &closes))
	var why string
	remove := script{"remover", func(c *Classification, o *Opinion) error {
		for i := range c.Findings {
			o.Edits = append(o.Edits, Edit{Finding: int32(i), Op: plain(Remove)})
		}
		return nil
	}}
	g.Try(counted(t, 2, &closes, Attached{Filter: remove}), Limits{Changed: 0.05, Slower: 1000, PerSecond: 1e9}, func(w string, _ Delta) { why = w })
	admit(t, g, 40, "v1/a", "speed=1;vin1=LX")
	if why == "" {
		t.Error("not noticed")
	}
	g.Close()
}

func TestAFewOddMessagesAreNoMove(t *testing.T) {
	for _, c := range []struct {
		d    Delta
		want string
	}{
		{Delta{Compared: 4, Outcomes: 4}, ""},
		{Delta{Compared: 5, Outcomes: 5}, "outcomes"},
		{Delta{Compared: 100, Outcomes: 6}, ""},             // six of a hundred may be chance
		{Delta{Compared: 10000, Outcomes: 600}, "outcomes"}, // six hundred of ten thousand are not
		{Delta{Compared: 10000, Outcomes: 500}, ""},
		{Delta{Compared: 10000, Edits: 600}, "edits"},
		{Delta{Compared: 1000, Slow: 500}, ""},
		{Delta{Compared: 1000, Slow: 600}, "latency"},
	} {
		if got := c.d.Exceeds(Limits{Changed: 0.05}); got != c.want {
			t.Errorf("%+v: %q, want %q", c.d, got, c.want)
		}
	}
}

// Sets are tried, kept, taken back and replaced while messages flow: every set is closed once, none is used afterwards, and every
// record names a set that was in force.
func TestProbationsWhileMessagesFlow(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	l := &ledger{}
	g := newGateway(l)
	var misuse, closes, made atomic.Int64
	set := func(n uint64) *VersionSet {
		s := usualSet(t)
		closed := new(atomic.Bool)
		s.Number, s.Classifier = n, guarded{closed: closed, misuse: &misuse}
		s.Close = func() {
			if closed.Swap(true) {
				misuse.Add(1)
			}
			closes.Add(1)
		}
		made.Add(1)
		return s
	}
	g.Swap(set(1))
	var senders, all sync.WaitGroup
	done := make(chan struct{})
	for range 8 {
		senders.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if ticket, err := g.Admit(t.Context(), []*Message{message("v1/a", "vin1=LX;speed=1")}); err != nil || ticket.Wait(t.Context()) != nil {
					t.Errorf("admit: %v", err)
				}
			}
		})
	}
	all.Go(func() {
		n := uint64(2)
		for i := range 16 {
			p := g.Try(set(n), Limits{Changed: 1, Slower: 1e6, PerSecond: 1e9}, func(string, Delta) {})
			n++
			for p.Delta().Compared < 3 {
				runtime.Gosched()
			}
			switch i % 4 {
			case 0:
				_ = p.Keep()
			case 1:
				_ = p.Back(n, "test")
				n++
			case 2:
				g.Swap(set(n))
				n++
			}
		}
	})
	all.Wait()
	close(done)
	senders.Wait()
	g.Close()
	known := map[uint64]bool{}
	for i, r := range l.records(t) {
		switch r.Kind {
		case ChangeRecord:
			known[r.Set] = true
		case DecisionRecord:
			if !known[r.Set] {
				t.Errorf("record %d names set %d, which is not on the record", i, r.Set)
			}
		}
	}
	if misuse.Load() != 0 || closes.Load() != made.Load() {
		t.Errorf("%d sets made, %d closed, %d used after or closed twice", made.Load(), closes.Load(), misuse.Load())
	}
}

// A canary judges its share of the devices, every device is on one side for good, and the record says which version judged.
func TestACanaryJudgesItsShareOfTheDevices(t *testing.T) {
	l := &ledger{}
	g := newGateway(l)
	s := usualSet(t)
	s.Filters = []Attached{{Filter: says(Opinion{Action: Pass}), Canary: says(Opinion{Action: Hold}), Share: 2500}}
	s.DeviceKey = [32]byte{7}
	g.Swap(s)
	for range 2 {
		for i := range 400 {
			m := message("v1/a", "speed=1")
			m.Client = fmt.Sprint("car-", i)
			ticket, err := g.Admit(t.Context(), []*Message{m})
			if err != nil || ticket.Wait(t.Context()) != nil {
				t.Fatal(err)
			}
		}
	}
	var sides [2][]uint8
	n := 0
	for _, r := range l.records(t) {
		if r.Kind != DecisionRecord {
			continue
		}
		sides[n/400] = append(sides[n/400], r.Plugins[0].Plugin)
		if (r.Plugins[0].Action == Hold) != (r.Plugins[0].Plugin == uint8(s.CanaryNumber(0))) {
			t.Errorf("record of plugin %d says %v", r.Plugins[0].Plugin, r.Plugins[0].Action)
		}
		n++
	}
	canaries := 0
	for i, p := range sides[0] {
		if p != sides[1][i] {
			t.Errorf("device %d changed sides", i)
		}
		if p != 0 {
			canaries++
		}
	}
	if canaries < 60 || canaries > 140 { // a quarter of 400, four standard deviations
		t.Errorf("%d of 400 devices are canaries", canaries)
	}
	g.Close()
}

// A shadow is told apart from what is in force: it sees what the filter saw, has no effect, and may fail as it likes.
func TestAShadowHasNoEffect(t *testing.T) {
	l := &ledger{}
	g := newGateway(l)
	s := usualSet(t)
	seen, told := -1, 0
	s.Filters = []Attached{{Filter: says(Opinion{Action: Pass, Labels: []uint16{1}}), Topics: []string{"v1/#"}}}
	s.Shadows = []Shadow{
		{Filter: script{"panics", func(*Classification, *Opinion) error { panic("shadow") }}, Tell: func(*Message, [32]byte, *FilterOpinion, *FilterOpinion) {}},
	}
	tell := func(_ *Message, input [32]byte, a, b *FilterOpinion) {
		told++
		if input == [32]byte{} || a.Action != Pass || b.Action != Block {
			t.Errorf("told of %v and %v, input %x", a.Action, b.Action, input)
		}
	}
	g.Swap(s)
	admit(t, g, 2, "v1/a", "speed=1;vin1=LX") // the panic changes nothing
	again := *s
	again.Number++
	again.Shadows = []Shadow{{Filter: script{"shadow", func(c *Classification, o *Opinion) error {
		seen = len(c.Findings)
		o.Action = Block
		return nil
	}}, Tell: tell}}
	g.Swap(&again)
	admit(t, g, 3, "v1/a", "speed=1;vin1=LX")
	admit(t, g, 3, "other/a", "speed=1")
	g.Close()
	for _, states := range outcomes(t, l) {
		if states[Waiting] == 0 || len(states) != 1 {
			t.Errorf("decided %v", states)
		}
	}
	if told != 3 || seen != 2 {
		t.Errorf("told %d times, of %d findings", told, seen)
	}
}
