package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Limits of forwarding one uplink.
const (
	readAhead      = 256     // messages read from the journal at once
	readAheadBytes = 1 << 20 // and about as many bytes
	defaultWindow  = 256
	unsettledBytes = 8 << 20 // of acknowledged messages whose delivery record is not yet committed
	firstRetry     = 200 * time.Millisecond
	lastRetry      = 30 * time.Second
	stopGrace      = 500 * time.Millisecond // what is on the wire when the gateway stops may still be acknowledged
	settleGrace    = 300 * time.Millisecond // and what was acknowledged may still be committed
	probeEvery     = time.Second            // how often the age of the oldest message on the wire is looked at
	leastPatience  = 5 * time.Second        // with it, while a message is on trial
	settleEvery    = 500 * time.Millisecond // how often a delivery is committed that holds little
	settleShare    = 4                      // a part of the window that is acknowledged is committed at once
)

var (
	errBroken   = errors.New("connection is lost")
	errSilent   = errors.New("cloud does not acknowledge")
	errNotNow   = errors.New("link condition is not met")
	errRefusing = errors.New("cloud breaks the connection at every message")
)

// ErrUnsendable is the cause of a Send that can succeed on no link: the protocol has no form for the message.
var ErrUnsendable = errors.New("message does not fit the protocol")

// ForwardOptions say what a Forwarder joins.
type ForwardOptions struct {
	Name    string
	Number  int // the journal's
	Uplink  Uplink
	Journal Journal
	Metrics *Metrics
	Log     *slog.Logger

	// Window bounds the messages that were sent and whose delivery is not on the record yet: as many may arrive twice after
	// a break. 0: 256.
	Window int
	// AckTimeout is how long the oldest message on the wire may stay without an acknowledgement; 0: for ever.
	AckTimeout time.Duration
	Bandwidth  int64  // bytes of topics and payloads a second; 0: no limit
	When       string // link condition, sent only while it is what Links says; "": always
	Links      *LinkState
}

// Forwarder sends what waits for one uplink, oldest first, and commits a delivery record for what was acknowledged.
// The journal is the only queue: after every break what was not acknowledged is read from it again.
type Forwarder struct {
	o    ForwardOptions
	feed Feed
	pace pace

	mu        sync.Mutex    // guards the fields below
	sent      []*Outbound   // on the wire, oldest first
	since     time.Time     // when the oldest of them became the oldest
	overtaken bool          // a later one was acknowledged before it
	acked     []*Outbound   // acknowledged, delivery record not yet committed
	open      int           // messages sent and not settled, on the wire or acknowledged
	size      int           // bytes of those that are acknowledged
	settled   chan struct{} // closed and renewed when open shrank
	trial     trial

	wake chan struct{} // tells the settler that acked grew
}

// NewForwarder joins an uplink with the journal.
func NewForwarder(o ForwardOptions) *Forwarder {
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	return &Forwarder{o: o, feed: o.Journal.Feed(o.Number), pace: pace{rate: float64(o.Bandwidth)}, trial: newTrial(o.Window),
		settled: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// Run forwards until ctx ends, then waits a moment for what is on the wire and commits what was acknowledged.
func (f *Forwarder) Run(ctx context.Context) error {
	settling, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	last := make(chan struct{})
	var settler sync.WaitGroup
	settler.Go(func() { f.settle(settling, last) })
	defer func() {
		close(last)
		f.feed.Hurry()
		grace := time.AfterFunc(settleGrace, giveUp)
		settler.Wait()
		grace.Stop()
		giveUp()
	}()

	retry, up := firstRetry, true
	for ctx.Err() == nil {
		if !f.awaitLink(ctx) {
			break
		}
		link, err := f.o.Uplink.Open(ctx, f.onAck)
		if err == nil {
			f.o.Log.Info("uplink is connected", "uplink", f.o.Name)
			f.o.Metrics.uplinkUp(f.o.Name, true)
			var quick bool
			quick, err = f.use(ctx, link)
			f.o.Metrics.uplinkUp(f.o.Name, false)
			up = true
			if quick {
				retry = firstRetry
			}
		}
		if ctx.Err() != nil {
			break
		}
		if up { // one line per change of state
			f.o.Log.Warn("uplink is down, messages wait in the journal", "uplink", f.o.Name, "err", err)
			up = false
		}
		sleep(ctx, retry/2+rand.N(retry))
		retry = min(2*retry, lastRetry)
	}
	return nil
}

// awaitLink waits for the link condition; false when ctx ended before.
func (f *Forwarder) awaitLink(ctx context.Context) bool {
	if !f.o.Links.Meets(f.o.When) {
		f.o.Metrics.uplinkUnlinked(f.o.Name, true)
		defer f.o.Metrics.uplinkUnlinked(f.o.Name, false)
	}
	return f.o.Links.Await(ctx, f.o.When, true) == nil
}

// Name returns the uplink's name.
func (f *Forwarder) Name() string { return f.o.Name }

// Hindered says what keeps the forwarder from sending although the uplink may be there, "" when nothing does.
func (f *Forwarder) Hindered() string {
	if !f.o.Links.Meets(f.o.When) {
		return "waits for link " + f.o.When
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trial.ill {
		return errRefusing.Error()
	}
	return ""
}

// use sends over one link until it breaks or ctx ends, and draws the lesson. quick says that the next link may follow
// soon: this one was of use, or a message is on trial.
func (f *Forwarder) use(ctx context.Context, link Link) (quick bool, err error) {
	began := time.Now()
	f.feed.Begin()
	err = f.drain(ctx, link)
	link.Close()
	f.mu.Lock()
	left := f.sent
	f.sent, f.open = nil, f.open-len(left)
	var back []*Outbound
	var dead *Outbound
	if errors.Is(err, errSilent) && f.overtaken && len(left) > 0 {
		back, dead = f.trial.passed(left)
	} else {
		back, dead = f.trial.ended(left, ctx.Err() == nil && !errors.Is(err, errNotNow))
	}
	quick = time.Since(began) > lastRetry || f.trial.running()
	ill := f.trial.foundIll()
	f.mu.Unlock()
	if ill {
		f.o.Metrics.uplinkRefusing(f.o.Name, true)
	}
	f.feed.Return(back)
	if dead != nil {
		f.bury(ctx, dead, "refused")
	}
	if ill {
		f.o.Log.Warn("cloud breaks the connection whatever is sent", "uplink", f.o.Name)
		return false, errRefusing
	}
	return quick, err
}

// bury commits that the cloud refuses a message for good; its body is parked.
func (f *Forwarder) bury(ctx context.Context, o *Outbound, why string) {
	if err := f.feed.Settle(ctx, []*Outbound{o}, Dead, why); err != nil {
		f.o.Log.Error("commit that a message is dead", "uplink", f.o.Name, "seq", o.Seq, "err", err)
		f.feed.Return([]*Outbound{o})
		return
	}
	f.o.Log.Warn("cloud refuses a message for good, it is parked", "uplink", f.o.Name, "seq", o.Seq, "reason", why)
}

// drain sends over one link until it breaks or ctx ends.
func (f *Forwarder) drain(ctx context.Context, link Link) error {
	linked, cancel := context.WithCancelCause(ctx)
	f.mu.Lock()
	f.sent = f.sent[:0]
	f.mu.Unlock()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel(nil)
	watcher.Go(func() { f.watch(linked, cancel, link) })
	var batch []*Outbound
	for linked.Err() == nil {
		n, err := f.room(linked)
		if err != nil {
			break
		}
		if batch, err = f.next(linked, n, batch[:0]); err != nil {
			f.o.Log.Error("read what waits", "uplink", f.o.Name, "err", err)
			sleep(linked, lastRetry)
			return err
		}
		if err := f.sendAll(ctx, linked, link, batch); err != nil && ctx.Err() == nil {
			return err
		}
	}
	if ctx.Err() == nil {
		return context.Cause(linked)
	}
	f.lastCall(link)
	return ctx.Err()
}

// watch ends the use of a link that is lost, silent or not wanted any more.
func (f *Forwarder) watch(linked context.Context, cancel func(error), link Link) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	unwanted, stop := f.o.Links.watch(f.o.When)
	defer stop()
	for {
		select {
		case <-link.Broken():
			cancel(errBroken)
		case <-unwanted:
			cancel(errNotNow)
		case <-tick.C:
			f.mu.Lock()
			patience := f.o.AckTimeout
			if f.trial.running() {
				patience = max(patience/4, min(patience, leastPatience)) // there is little on the wire
			}
			silent := patience > 0 && len(f.sent) > 0 && time.Since(f.since) > patience
			f.mu.Unlock()
			if silent {
				cancel(errSilent)
			}
		case <-linked.Done():
			return
		}
	}
}

// next returns up to n messages to send, waiting for some: a suspect whose turn it is, or what the journal has. None and
// no error: the link is done with.
func (f *Forwarder) next(ctx context.Context, n int, out []*Outbound) ([]*Outbound, error) {
	for ctx.Err() == nil {
		f.mu.Lock()
		o := f.trial.turn()
		f.mu.Unlock()
		if o != nil {
			return append(out, o), nil
		}
		list, err := f.feed.Next(min(n, readAhead), readAheadBytes, out)
		if err != nil || len(list) > 0 {
			return list, err
		}
		if err := f.await(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return out, nil
		}
	}
	return out, nil
}

// await waits for more in the journal; while a message is held back as a suspect not for ever.
func (f *Forwarder) await(ctx context.Context) error {
	f.mu.Lock()
	held := f.trial.holding()
	f.mu.Unlock()
	if !held {
		return f.feed.Await(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, lastRetry)
	defer cancel()
	err := f.feed.Await(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.trial.tryAgain()
	}
	return err
}

// sendAll sends a batch, in order, until linked ends. What it did not hand to the link goes back to the feed.
func (f *Forwarder) sendAll(ctx, linked context.Context, link Link, batch []*Outbound) error {
	for i, o := range batch {
		err := f.sendOne(linked, link, o)
		switch {
		case err == nil:
			continue
		case errors.Is(err, ErrUnsendable):
			f.unsent(o)
			f.bury(ctx, o, "unsendable")
			continue
		case linked.Err() == nil || f.isSent(o): // the link broke at it: it is one of those on the wire
			i++
		}
		f.mu.Lock()
		back := f.trial.unsent(batch[i:])
		f.mu.Unlock()
		f.feed.Return(back)
		return err
	}
	return nil
}

// sendOne hands one message to the link, and counts it as being on the wire before. When ctx ends it is not.
func (f *Forwarder) sendOne(ctx context.Context, link Link, o *Outbound) error {
	if err := f.pace.wait(ctx, len(o.Topic)+len(o.Payload)); err != nil {
		return err
	}
	f.mu.Lock()
	if len(f.sent) == 0 {
		f.since, f.overtaken = time.Now(), false
	}
	f.sent, f.open = append(f.sent, o), f.open+1
	f.mu.Unlock()
	err := link.Send(ctx, o)
	if err != nil && ctx.Err() != nil {
		f.unsent(o)
	}
	return err
}

// isSent reports whether the newest message on the wire is o.
func (f *Forwarder) isSent(o *Outbound) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.sent)
	return n > 0 && f.sent[n-1] == o
}

// unsent takes back the newest message on the wire: it did not leave.
func (f *Forwarder) unsent(o *Outbound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.sent); n > 0 && f.sent[n-1] == o {
		f.sent, f.open = f.sent[:n-1], f.open-1
	}
}

// lastCall waits a moment for acknowledgements of what is on the wire.
func (f *Forwarder) lastCall(link Link) {
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		f.mu.Lock()
		left := len(f.sent)
		f.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-link.Broken():
			return
		case <-grace.Done():
			return
		}
	}
}

// room waits until messages may be sent and returns how many: what is on the wire or acknowledged, and not on the record
// yet, is bounded.
func (f *Forwarder) room(ctx context.Context) (int, error) {
	for {
		f.mu.Lock()
		n, settled := f.trial.limit-f.open, f.settled
		if f.size >= unsettledBytes {
			n = 0
		}
		pending := f.open > len(f.sent)
		f.mu.Unlock()
		if n > 0 {
			return n, ctx.Err()
		}
		if pending {
			f.feed.Hurry()
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// onAck takes an acknowledgement from the link, as a rule of the oldest message on the wire. What is not on the wire any more
// was acknowledged before.
func (f *Forwarder) onAck(seq uint64) {
	f.mu.Lock()
	i := slices.IndexFunc(f.sent, func(o *Outbound) bool { return o.Seq == seq })
	if i < 0 {
		f.mu.Unlock()
		f.o.Log.Warn("uplink acknowledged what is not on the wire, ignored", "uplink", f.o.Name, "seq", seq)
		return
	}
	o := f.sent[i]
	if i == 0 {
		f.sent, f.since, f.overtaken = f.sent[1:], time.Now(), false
	} else {
		f.sent, f.overtaken = slices.Delete(f.sent, i, i+1), true
	}
	f.acked, f.size = append(f.acked, o), f.size+len(o.Payload)
	wasIll := f.trial.ill
	f.trial.acked(seq)
	full := f.open >= f.trial.limit
	f.mu.Unlock()
	if wasIll {
		f.o.Metrics.uplinkRefusing(f.o.Name, false)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	if full {
		f.feed.Hurry()
	}
}

// settle commits delivery records, one at a time: what is acknowledged during one commit shares the next, and one that
// holds little comes only now and then, as each is a write to flash. When last is closed it commits the last range and
// returns; when ctx ends it returns. What it cannot commit stays waiting and is sent once more.
func (f *Forwarder) settle(ctx context.Context, last <-chan struct{}) {
	rest := time.NewTimer(0)
	defer rest.Stop()
	rested := false
	for ending := false; ; {
		if batch := f.takeAcked(ending || rested); len(batch) > 0 {
			if !f.deliver(ctx, batch) {
				return
			}
			rested = false
			rest.Reset(settleEvery)
			continue
		}
		if ending {
			return
		}
		select {
		case <-f.wake:
		case <-rest.C:
			rested = true
		case <-last:
			ending = true
		}
	}
}

// takeAcked takes what is acknowledged, if it is worth a commit or few will do.
func (f *Forwarder) takeAcked(few bool) []*Outbound {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !few && len(f.acked) < f.trial.limit/settleShare && f.size < unsettledBytes/settleShare {
		return nil
	}
	batch := f.acked
	f.acked = nil
	return batch
}

// deliver commits one delivery record; it tries again until that succeeds or ctx ends.
func (f *Forwarder) deliver(ctx context.Context, batch []*Outbound) bool {
	for {
		err := f.feed.Settle(ctx, batch, Forwarded, "")
		if err == nil {
			break
		}
		f.o.Log.Error("commit delivery record", "uplink", f.o.Name, "err", err)
		if sleep(ctx, firstRetry); ctx.Err() != nil {
			return false
		}
	}
	f.mu.Lock()
	f.open -= len(batch)
	for _, o := range batch {
		f.size -= len(o.Payload)
	}
	close(f.settled)
	f.settled = make(chan struct{})
	f.mu.Unlock()
	return true
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
