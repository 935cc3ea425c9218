package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Limits of forwarding one uplink.
const (
	readAhead      = 256     // messages read from the journal at once
	readAheadBytes = 1 << 20 // and about as many bytes
	maxUnsettled   = 1 << 14 // acknowledged messages whose delivery record is not yet committed
	unsettledBytes = 8 << 20 // and about as many bytes of them
	firstRetry     = 200 * time.Millisecond
	lastRetry      = 30 * time.Second
	stopGrace      = time.Second // what is on the wire when the gateway stops may still be acknowledged
)

var errBroken = errors.New("connection is lost")

// Forwarder sends what waits for one uplink, oldest first, and commits a delivery record for what was acknowledged.
// The journal is the only queue: after every break it is read again from the last acknowledged message on.
type Forwarder struct {
	name    string
	number  int
	uplink  Uplink
	journal Journal
	metrics *Metrics
	log     *slog.Logger

	mu      sync.Mutex    // guards the fields below
	sent    []*Outbound   // on the wire, oldest first
	acked   []*Outbound   // acknowledged, delivery record not yet committed
	size    int           // bytes of what is acknowledged and whose delivery record is not yet committed
	last    uint64        // seq of the newest acknowledged message
	give    func()        // ends the use of the link
	settled chan struct{} // closed and renewed when acked shrank

	wake chan struct{} // tells the settler that acked grew
}

// NewForwarder joins an uplink with the journal; number is the journal's.
func NewForwarder(name string, number int, uplink Uplink, journal Journal, metrics *Metrics, log *slog.Logger) *Forwarder {
	return &Forwarder{name: name, number: number, uplink: uplink, journal: journal, metrics: metrics, log: log,
		last: journal.Cursor(number), settled: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// Run forwards until ctx ends, then waits a moment for what is on the wire and commits what was acknowledged.
func (f *Forwarder) Run(ctx context.Context) error {
	settling, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	last := make(chan struct{})
	var settler sync.WaitGroup
	settler.Go(func() { f.settle(settling, last) })
	defer func() {
		close(last)
		grace := time.AfterFunc(stopGrace, giveUp)
		settler.Wait()
		grace.Stop()
		giveUp()
	}()

	retry, up := firstRetry, true
	for ctx.Err() == nil {
		link, err := f.uplink.Open(ctx, f.onAck)
		if err == nil {
			f.log.Info("uplink is connected", "uplink", f.name)
			f.metrics.uplinkUp(f.name, true)
			began := time.Now()
			err = f.drain(ctx, link)
			link.Close()
			f.metrics.uplinkUp(f.name, false)
			up = true
			if time.Since(began) > lastRetry {
				retry = firstRetry
			}
		}
		if ctx.Err() != nil {
			break
		}
		if up { // one line per change of state
			f.log.Warn("uplink is down, messages wait in the journal", "uplink", f.name, "err", err)
			up = false
		}
		sleep(ctx, retry/2+rand.N(retry))
		retry = min(2*retry, lastRetry)
	}
	return nil
}

// drain sends over one link until it breaks or ctx ends.
func (f *Forwarder) drain(ctx context.Context, link Link) error {
	linked, cancel := context.WithCancel(ctx)
	f.mu.Lock()
	f.sent, f.give = f.sent[:0], cancel
	position := f.last
	f.mu.Unlock()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-link.Broken():
			cancel()
		case <-linked.Done():
		}
	})
	var batch []*Outbound
	for {
		if f.room(linked) != nil {
			break
		}
		var err error
		batch, err = f.journal.Read(f.number, position, readAhead, readAheadBytes, batch[:0])
		if err != nil {
			f.log.Error("read what waits", "uplink", f.name, "err", err)
			sleep(linked, lastRetry)
			return err
		}
		if len(batch) == 0 {
			if f.journal.Await(linked, f.number, position) != nil {
				break
			}
			continue
		}
		for _, o := range batch {
			f.mu.Lock()
			f.sent = append(f.sent, o)
			f.mu.Unlock()
			if err := link.Send(linked, o); err != nil {
				if ctx.Err() == nil {
					return err
				}
				f.unsent(o)
				break
			}
			position = o.Seq
		}
		if linked.Err() != nil {
			break
		}
	}
	if ctx.Err() == nil {
		return errBroken
	}
	f.lastCall(link)
	return ctx.Err()
}

// unsent takes back the newest message on the wire: the gateway stops and nobody will acknowledge it.
func (f *Forwarder) unsent(o *Outbound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.sent); n > 0 && f.sent[n-1] == o {
		f.sent = f.sent[:n-1]
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

// room waits until the settler has caught up: acknowledged messages are kept until their record is committed.
func (f *Forwarder) room(ctx context.Context) error {
	for {
		f.mu.Lock()
		full, settled := len(f.acked) >= maxUnsettled || f.size >= unsettledBytes, f.settled
		f.mu.Unlock()
		if !full {
			return ctx.Err()
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// onAck takes an acknowledgement from the link: of the oldest message on the wire, or of nothing that we sent. One that
// leaves out older messages is worth nothing, and neither is the link: they are sent again on another.
func (f *Forwarder) onAck(seq uint64) {
	f.mu.Lock()
	if len(f.sent) == 0 || f.sent[0].Seq != seq {
		if len(f.sent) > 0 && seq > f.sent[0].Seq {
			f.give()
		}
		f.mu.Unlock()
		f.log.Error("uplink acknowledged out of order, ignored", "uplink", f.name, "seq", seq)
		return
	}
	o := f.sent[0]
	f.sent = f.sent[1:]
	f.acked, f.last, f.size = append(f.acked, o), seq, f.size+len(o.Payload)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// settle commits delivery records, one at a time: what is acknowledged during one commit shares the next. When last is
// closed it commits the last range and returns; when ctx ends it returns. What it cannot commit stays waiting and is
// sent once more.
func (f *Forwarder) settle(ctx context.Context, last <-chan struct{}) {
	for ending := false; ; {
		f.mu.Lock()
		batch := f.acked
		f.acked = nil
		f.mu.Unlock()
		switch {
		case len(batch) > 0:
			if !f.deliver(ctx, batch) {
				return
			}
		case ending:
			return
		default:
			select {
			case <-f.wake:
			case <-last:
				ending = true
			}
		}
	}
}

// deliver commits one delivery record; it tries again until that succeeds or ctx ends.
func (f *Forwarder) deliver(ctx context.Context, batch []*Outbound) bool {
	for {
		err := f.journal.Delivered(ctx, f.number, batch)
		if err == nil {
			break
		}
		f.log.Error("commit delivery record", "uplink", f.name, "err", err)
		if sleep(ctx, firstRetry); ctx.Err() != nil {
			return false
		}
	}
	f.mu.Lock()
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
