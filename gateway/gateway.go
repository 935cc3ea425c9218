package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// maxInHand bounds the payload bytes, as received, of what is decided but not yet committed, over all sources. With the
// journal full their outbound forms are all the memory that waiting devices can pin: about as much again per uplink that
// gets a form of its own, more where fields are encrypted.
const maxInHand = 64 << 20

// judgesPerCPU bounds how many batches are judged at a time: a hostile body takes several MiB while it is, and there may be
// a thousand connections.
const judgesPerCPU = 4

// Gateway decides messages and hands them to the journal. It is what sources see: a Gate.
type Gateway struct {
	journal Journal
	nextID  func() ID
	clock   Clock
	metrics *Metrics
	log     *slog.Logger
	set     atomic.Pointer[inForce]
	swap    sync.Mutex // serialises Swap and Close
	inHand  *semaphore.Weighted
	judges  chan struct{}
	scratch sync.Pool // *Decision
	closed  atomic.Bool
	hints   fieldHints
}

// inForce is a version set with the count of those who judge by it.
type inForce struct {
	*VersionSet
	probation *Probation   // nil: none
	users     sync.RWMutex // held for reading while a batch is judged; Swap takes it to know that the set is idle
	closed    bool         // guarded by users
}

// Options are what a Gateway is made of.
type Options struct {
	Journal Journal
	NextID  func() ID // gives every message its id, never twice
	Clock   Clock     // nil: the system's
	Metrics *Metrics
	Log     *slog.Logger
}

// New joins the parts. Nothing is admitted before the first Swap.
func New(o Options) *Gateway {
	if o.Clock == nil {
		o.Clock = SystemClock
	}
	return &Gateway{journal: o.Journal, nextID: o.NextID, clock: o.Clock, metrics: o.Metrics, log: o.Log,
		inHand: semaphore.NewWeighted(maxInHand), judges: make(chan struct{}, judgesPerCPU*runtime.GOMAXPROCS(0)), scratch: sync.Pool{New: func() any { return new(Decision) }}, hints: fieldHints{seed: maphash.MakeSeed()}}
}

// SystemClock is the machine's clock. It is trusted from 2025 on: a box without a set clock starts in 1970.
func SystemClock() (time.Time, bool) {
	now := time.Now()
	return now, now.Year() >= 2025
}

// ErrClosed reports that the gateway takes no more messages.
var ErrClosed = errors.New("gateway is closed")

// Admit decides whether the messages of a batch may leave and makes the decisions durable. It decides here, in the
// caller, and hands records and outbound bytes to the committer in one piece; the ticket is done when they are on disk,
// and only then may the source acknowledge. The messages are not used after Admit returned.
func (g *Gateway) Admit(ctx context.Context, batch []*Message) (Ticket, error) {
	size := int64(0)
	for _, m := range batch {
		size += int64(len(m.Payload) + len(m.Topic) + 512)
	}
	size = min(size, maxInHand)
	if err := g.inHand.Acquire(ctx, size); err != nil {
		return nil, fmt.Errorf("admit messages: %w", err)
	}
	t := &ticket{done: make(chan struct{}), release: func() { g.inHand.Release(size) }}
	if len(batch) == 0 {
		t.finish(0, nil)
		return t, nil
	}
	select {
	case g.judges <- struct{}{}:
		defer func() { <-g.judges }()
	case <-ctx.Done():
		t.release()
		return nil, fmt.Errorf("admit messages: %w", ctx.Err())
	}
	set := g.use()
	if set == nil {
		t.release()
		return nil, ErrClosed
	}
	defer set.users.RUnlock()
	d := g.scratch.Get().(*Decision)
	defer g.scratch.Put(d)
	d.arena = d.arena[:0]

	entries := make([]*Entry, 0, len(batch))
	now, trusted := g.clock()
	for _, m := range batch {
		m.ID = g.nextID() // the id comes first: encryption and plugins use it
		if set.probation.due() {
			set.probation.decide(set.VersionSet, m, now, trusted, d)
		} else {
			set.decide(m, now, trusted, d) // classify, ask, rule, edit, check: decide.go
		}
		e, err := set.entry(d) // the record of it, with what may leave
		if err != nil {        // no randomness: without a salt there is no record
			t.release()
			return nil, fmt.Errorf("admit messages: %w", err)
		}
		entries = append(entries, e)
		if len(set.Shadows) > 0 {
			set.shadow(d)
		}
		g.metrics.decided(set.VersionSet, d)
		if len(d.Class.Unknown) > 0 {
			g.hints.tell(g.log, d, set.UnknownBlocks)
		}
	}
	g.metrics.lastSeen(batch)
	g.journal.Append(entries, t.finish) // sealed here, committed by the one committer, in order
	return t, nil
}

// use takes the set in force for one batch; the caller unlocks users. nil: nothing is in force.
func (g *Gateway) use() *inForce {
	for !g.closed.Load() {
		set := g.set.Load()
		if set == nil {
			return nil
		}
		set.users.RLock()
		if !set.closed {
			return set
		}
		set.users.RUnlock() // replaced in between: take its successor
	}
	return nil
}

// Swap puts a version set in force: its change record is handed to the journal first, so that it stands before every
// decision that names it. Batches in hand are finished by the old set, which is then closed. After Close it only closes
// the set.
func (g *Gateway) Swap(set *VersionSet) {
	g.swap.Lock()
	defer g.swap.Unlock()
	g.replace(&inForce{VersionSet: set})
}

// replace puts a set in force and retires the one that was. The caller holds swap.
func (g *Gateway) replace(set *inForce) {
	began := time.Now()
	g.put(set).retire()
	g.metrics.swap.Observe(time.Since(began).Seconds())
}

// put puts a set in force and returns the one that was, for the caller to retire; a gateway that is closed returns the new
// one. The caller holds swap.
func (g *Gateway) put(set *inForce) *inForce {
	if g.closed.Load() {
		return set
	}
	now, trusted := g.clock()
	rec := AppendRecord(nil, &Record{Kind: ChangeRecord, Time: now, Trusted: trusted, Set: set.Number, Detail: set.Describe(set.By)})
	g.journal.Append([]*Entry{{Record: rec}}, func(uint64, error) {})
	g.metrics.inForce(set.VersionSet)
	return g.set.Swap(set)
}

// idle waits until nobody judges by the set and lets nobody else begin.
func (s *inForce) idle() {
	s.users.Lock()
	s.closed = true
	s.users.Unlock()
}

// retire waits until nobody judges by the set and closes it, and the predecessor that it may have kept.
func (s *inForce) retire() {
	if s == nil {
		return
	}
	s.idle()
	s.probation.end()
	if s.Close != nil {
		s.Close()
	}
}

// Event puts an event on the record: detail is JSON that names nothing a device chose.
func (g *Gateway) Event(detail []byte) {
	now, trusted := g.clock()
	rec := AppendRecord(nil, &Record{Kind: EventRecord, Time: now, Trusted: trusted, Detail: detail})
	g.journal.Append([]*Entry{{Record: rec}}, func(uint64, error) {})
}

// Control queues a message of the gateway's own, an epoch key or a checkpoint, for the given uplinks, with an event
// record. It stands in front of everything that is admitted after it returns, and is outside of received.
func (g *Gateway) Control(detail []byte, uplinks UplinkSet, topic string, payload []byte) {
	now, trusted := g.clock()
	rec := AppendRecord(nil, &Record{Kind: EventRecord, Time: now, Trusted: trusted, Detail: detail})
	e := &Entry{Record: rec, ID: g.nextID(), Control: true, Retain: true, QoS: 1, Waits: uplinks}
	rand.Read(e.Salt[:])
	if uplinks != 0 {
		e.Outlets = []Outlet{{Uplinks: uplinks, Topic: topic, Payload: payload}}
	}
	g.journal.Append([]*Entry{e}, func(uint64, error) {})
}

// Close ends admission; what is in hand is finished. The journal is the caller's to close.
func (g *Gateway) Close() {
	g.swap.Lock()
	defer g.swap.Unlock()
	g.closed.Store(true)
	g.set.Swap(nil).retire()
}

// Full implements Gate.
func (g *Gateway) Full() bool { return g.journal.Full() }

// Refuse implements Gate.
func (g *Gateway) Refuse(source string, reason Refusal, n int) { g.metrics.refuse(source, reason, n) }

// Set returns the version set in force, nil before the first Swap. It must not be used for deciding.
func (g *Gateway) Set() *VersionSet {
	if s := g.set.Load(); s != nil {
		return s.VersionSet
	}
	return nil
}

// Explain decides m by the set without a journal: nothing is recorded and nothing leaves. m.ID is the caller's.
func (s *VersionSet) Explain(m *Message, now time.Time, trusted bool) *Decision {
	d := new(Decision)
	s.decide(m, now, trusted, d)
	return d
}

// ticket implements Ticket.
type ticket struct {
	done    chan struct{}
	err     error // set before done is closed
	release func()
}

func (t *ticket) finish(_ uint64, err error) {
	t.err = err
	t.release()
	close(t.done)
}

// Wait implements Ticket. A ticket that is done says so also when ctx has ended.
func (t *ticket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	default:
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
