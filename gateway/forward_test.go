package gateway

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// spool is the forwarder's side of a journal, and its feed: messages 1, 2, 3 … wait.
type spool struct {
	Journal // the rest is not used

	mu          sync.Mutex
	size        uint64
	hand        map[uint64]bool
	states      map[uint64]State
	settlements int
	more        chan struct{}
	payload     []byte
	readErr     error
	deliver     func(ctx context.Context) error // before the commit; may fail
	problems    []string
}

func newSpool(n uint64) *spool {
	return &spool{size: n, more: make(chan struct{}), hand: map[uint64]bool{}, states: map[uint64]State{}}
}

func (s *spool) add(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += n
	close(s.more)
	s.more = make(chan struct{})
}

func (s *spool) Feed(int) Feed { return s }
func (s *spool) Begin()        {}
func (s *spool) Hurry()        {}

func (s *spool) Next(most, _ int, out []*Outbound) ([]*Outbound, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readErr; err != nil {
		s.readErr = nil
		return out, err
	}
	for seq := uint64(1); seq <= s.size && most > 0; seq++ {
		if !s.hand[seq] && s.states[seq] == NoState {
			out = append(out, &Outbound{Seq: seq, Payload: s.payload})
			s.hand[seq] = true
			most--
		}
	}
	return out, nil
}

func (s *spool) Await(ctx context.Context) error {
	for {
		s.mu.Lock()
		ready, more := s.size > uint64(len(s.hand)+len(s.states)), s.more
		s.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *spool) Return(list []*Outbound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range list {
		if !s.hand[o.Seq] {
			s.problems = append(s.problems, fmt.Sprintf("%d is returned and was not in hand", o.Seq))
		}
		delete(s.hand, o.Seq)
	}
}

func (s *spool) Settle(ctx context.Context, list []*Outbound, state State, _ string) error {
	if s.deliver != nil {
		if err := s.deliver(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range list {
		if !s.hand[o.Seq] || s.states[o.Seq] != NoState {
			s.problems = append(s.problems, fmt.Sprintf("%d is settled and is not in hand", o.Seq))
		}
		if len(o.Payload) != len(s.payload) {
			s.problems = append(s.problems, "a message changed before its delivery was committed")
		}
		s.states[o.Seq] = state
		delete(s.hand, o.Seq)
	}
	s.settlements++
	return nil
}

// cursor returns the seq up to which everything is forwarded.
func (s *spool) cursor() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq := uint64(1); ; seq++ {
		if s.states[seq] != Forwarded {
			return seq - 1
		}
	}
}

// cloud is an uplink whose links do what a test says.
type cloud struct {
	mu      sync.Mutex
	open    func(n int) error // before the n-th link, from 1
	onSend  func(l *wire, seq uint64)
	links   []*wire
	current *wire
	refuse  func(seq uint64) error
	window  int // messages without an acknowledgement; 0: no limit
}

// wire is one link.
type wire struct {
	acked  func(uint64)
	mu     sync.Mutex
	sent   []uint64
	done   int    // of sent, acknowledged
	acks   uint64 // newest of them
	broken chan struct{}
	closed bool
	ready  chan struct{} // a token per place in the window
	cloud  *cloud
}

func (c *cloud) Open(_ context.Context, acked func(uint64)) (Link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &wire{acked: acked, broken: make(chan struct{}), cloud: c}
	c.links = append(c.links, w)
	if c.open != nil {
		if err := c.open(len(c.links)); err != nil {
			return nil, err
		}
	}
	if c.window > 0 {
		w.ready = make(chan struct{}, c.window)
	}
	c.current = w
	return w, nil
}

// opened returns how many links were opened.
func (c *cloud) opened() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.links)
}

func (w *wire) Send(ctx context.Context, o *Outbound) error {
	if w.ready != nil {
		select {
		case w.ready <- struct{}{}:
		case <-w.broken:
			return errors.New("broken pipe")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if w.cloud.refuse != nil {
		if err := w.cloud.refuse(o.Seq); err != nil {
			return err
		}
	}
	select {
	case <-w.broken:
		return errors.New("broken pipe")
	default:
	}
	w.mu.Lock()
	w.sent = append(w.sent, o.Seq)
	w.mu.Unlock()
	if w.cloud.onSend != nil {
		w.cloud.onSend(w, o.Seq)
	}
	return nil
}

// ack acknowledges what was sent, in order, until something behind seq.
func (w *wire) ack(seq uint64) {
	w.mu.Lock()
	var up []uint64
	for ; w.done < len(w.sent) && w.sent[w.done] <= seq && !w.closed; w.done++ {
		up, w.acks = append(up, w.sent[w.done]), max(w.acks, w.sent[w.done])
	}
	w.mu.Unlock()
	for _, s := range up {
		w.acked(s)
		if w.ready != nil {
			<-w.ready
		}
	}
}

func (w *wire) snap() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.broken:
	default:
		close(w.broken)
	}
}

func (w *wire) Broken() <-chan struct{} { return w.broken }

func (w *wire) Close() error {
	w.snap()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	return nil
}

// forwarding runs a forwarder in a bubble; stop ends it and returns how long it took to end. A goroutine that it leaves
// behind is a deadlock of the bubble.
func forwarding(s *spool, c *cloud, with ...func(*ForwardOptions)) (stop func() time.Duration) {
	o := ForwardOptions{Name: "tsp", Uplink: c, Journal: s, Metrics: NewMetrics(nil, []string{"tsp"}, nil, ""), Log: quiet}
	for _, change := range with {
		change(&o)
	}
	f := NewForwarder(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	return func() time.Duration {
		began := time.Now()
		cancel()
		<-done
		return time.Since(began)
	}
}

func (s *spool) checkProblems(t *testing.T) {
	t.Helper()
	for _, p := range s.problems {
		t.Error(p)
	}
}

func (s *spool) check(t *testing.T, cursor uint64) {
	t.Helper()
	s.checkProblems(t)
	if got := s.cursor(); got != cursor {
		t.Errorf("delivered up to %d, want %d", got, cursor)
	}
}

func upTo(first, last uint64) []uint64 {
	var out []uint64
	for ; first <= last; first++ {
		out = append(out, first)
	}
	return out
}

func TestForwardInOrderAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(1000), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		stop := forwarding(s, c)
		synctest.Wait()
		s.add(1000)
		synctest.Wait()
		stop()
		s.check(t, 2000)
		if len(c.links) != 1 || !slices.Equal(c.links[0].sent, upTo(1, 2000)) {
			t.Errorf("%d links, first sent %d messages", len(c.links), len(c.links[0].sent))
		}
	})
}

func TestWhatIsAcknowledgedDuringACommitSharesTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(100), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		s.deliver = func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil }
		stop := forwarding(s, c)
		time.Sleep(time.Second)
		synctest.Wait()
		stop()
		s.check(t, 100)
		if s.settlements > 3 {
			t.Errorf("%d settlements", s.settlements)
		}
	})
}

func TestABreakIsFollowedByWhatWasNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		s := newSpool(5000)
		c := &cloud{}
		c.onSend = func(w *wire, seq uint64) {
			if r.IntN(3) == 0 {
				w.ack(seq - uint64(r.IntN(10)))
			}
			if len(w.sent) > 20 && r.IntN(100) == 0 { // never at one that is alone: it would be a suspect, and held back
				w.snap()
				return
			}
			time.AfterFunc(50*time.Millisecond, func() { w.ack(seq) })
		}
		stop := forwarding(s, c)
		time.Sleep(time.Hour)
		synctest.Wait()
		stop()
		s.check(t, 5000)
		next := uint64(1)
		for i, w := range c.links {
			if len(w.sent) > 0 && (w.sent[0] != next || !slices.Equal(w.sent, upTo(next, w.sent[len(w.sent)-1]))) {
				t.Fatalf("link %d begins with %d, the oldest without an acknowledgement is %d", i, w.sent[0], next)
			}
			next = max(next, w.acks+1)
		}
		if len(c.links) < 10 {
			t.Errorf("only %d links", len(c.links))
		}
	})
}

func TestACloudThatIsAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var opened []time.Duration
		s, c := newSpool(3), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		c.open = func(n int) error {
			opened = append(opened, time.Since(began))
			if n <= 12 {
				return errors.New("connection refused")
			}
			return nil
		}
		stop := forwarding(s, c)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		stop()
		s.check(t, 3)
		for i := 1; i < len(opened); i++ {
			if gap := opened[i] - opened[i-1]; gap < firstRetry/2 || gap > lastRetry*3/2 {
				t.Errorf("attempt %d after %v", i+1, gap)
			}
		}
		if len(opened) != 13 || opened[12] < time.Minute {
			t.Errorf("attempts at %v", opened)
		}
	})
}

func TestADeliveryRecordThatCannotBeCommittedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(50), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		attempts := 0
		s.deliver = func(context.Context) error {
			if attempts++; attempts <= 5 {
				return errors.New("no space left on device")
			}
			return nil
		}
		s.readErr = errors.New("input/output error")
		stop := forwarding(s, c)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		stop()
		s.check(t, 50)
		if attempts <= 5 {
			t.Errorf("%d attempts", attempts)
		}
	})
}

func TestUnsettledMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(100), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		s.payload = make([]byte, 1<<20)
		free := make(chan struct{})
		s.deliver = func(ctx context.Context) error {
			select {
			case <-free:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s.size = 1000
		f := func() int {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.current.mu.Lock()
			defer c.current.mu.Unlock()
			return len(c.current.sent)
		}
		stop := forwarding(s, c)
		synctest.Wait()
		if n := f(); n > readAhead+unsettledBytes>>20 {
			t.Errorf("%d megabytes are sent and not on the record", n)
		}
		close(free)
		synctest.Wait()
		stop()
		s.check(t, 1000)
	})
}

func TestStop(t *testing.T) {
	for _, c := range []struct {
		name   string
		cloud  *cloud
		size   uint64
		after  func(*wire) // what the cloud does while the forwarder stops
		hang   bool        // the journal does not answer any more
		within time.Duration
		cursor uint64
	}{
		{"with nothing on the wire", &cloud{}, 0, nil, false, 0, 0},
		{"with everything acknowledged", &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}, 9, nil, false, 10 * time.Millisecond, 9},
		{"with acknowledgements that never come", &cloud{}, 9, nil, false, stopGrace + 10*time.Millisecond, 0},
		{"with acknowledgements that come late", &cloud{}, 9, func(w *wire) { w.ack(9) }, false, stopGrace, 9},
		{"with some that come late", &cloud{}, 9, func(w *wire) { w.ack(4) }, false, stopGrace + 10*time.Millisecond, 4},
		{"with a link that breaks", &cloud{}, 9, func(w *wire) { w.ack(4); w.snap() }, false, stopGrace, 4},
		{"with a full window", &cloud{window: 4}, 9, func(w *wire) { w.ack(4) }, false, stopGrace, 4},
		{"with a journal that hangs", &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}, 9, nil, true, stopGrace + 10*time.Millisecond, 0},
		{"with a cloud that is absent", &cloud{open: func(int) error { return errors.New("connection refused") }}, 9, nil, false, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSpool(c.size)
				if c.hang {
					s.deliver = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				}
				stop := forwarding(s, c.cloud)
				synctest.Wait()
				if c.after != nil {
					go func() {
						time.Sleep(stopGrace / 2)
						c.after(c.cloud.current)
					}()
				}
				if took := stop(); took > c.within {
					t.Errorf("took %v", took)
				}
				s.check(t, c.cursor)
			})
		})
	}
}

func TestACommitUnderWayIsNotCutOffByTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(9), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		s.deliver = func(ctx context.Context) error {
			select {
			case <-time.After(stopGrace / 2):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		stop := forwarding(s, c)
		synctest.Wait()
		stop()
		s.check(t, 9)
	})
}

func TestAcknowledgementsOutOfOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(5), &cloud{}
		stop := forwarding(s, c, func(o *ForwardOptions) { o.AckTimeout = 10 * time.Second })
		synctest.Wait()
		first := c.current
		first.ack(2)
		first.acked(1) // again
		first.acked(2)
		first.acked(0)
		first.ack(3)
		first.acked(5) // without 4
		first.acked(77)
		time.Sleep(settleEvery)
		synctest.Wait()
		if got := s.inState(Forwarded); !slices.Equal(got, []uint64{1, 2, 3, 5}) || c.opened() != 1 {
			t.Errorf("forwarded %v over %d links", got, c.opened())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(c.links) < 2 || !slices.Equal(c.current.sent, []uint64{4}) {
			t.Fatalf("%d links, the last sent %v", len(c.links), c.current.sent)
		}
		c.current.ack(4)
		synctest.Wait()
		stop()
		s.check(t, 5)
	})
}

func TestDeliveriesAreCommittedTogetherUnlessTheWindowNeedsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(200), &cloud{}
		var commits atomic.Int32
		s.deliver = func(context.Context) error { commits.Add(1); return nil }
		stop := forwarding(s, c)
		synctest.Wait()
		w := c.current
		for seq := uint64(1); seq <= 10; seq++ { // the first at once, the others together
			w.acked(seq)
			synctest.Wait()
		}
		if commits.Load() != 1 || s.cursor() != 1 {
			t.Errorf("%d commits up to %d", commits.Load(), s.cursor())
		}
		time.Sleep(settleEvery)
		synctest.Wait()
		if commits.Load() != 2 || s.cursor() != 10 {
			t.Errorf("%d commits up to %d", commits.Load(), s.cursor())
		}
		for seq := uint64(11); seq < 11+defaultWindow/settleShare; seq++ { // a share of the window is not waited with
			w.acked(seq)
		}
		synctest.Wait()
		if commits.Load() != 3 || s.cursor() != 10+defaultWindow/settleShare {
			t.Errorf("%d commits up to %d", commits.Load(), s.cursor())
		}
		stop()
		s.check(t, 10+defaultWindow/settleShare)
	})
}
