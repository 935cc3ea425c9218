package mqtt

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// maxBatch bounds the messages of one batch, and so how long the first of them waits for the last to be decided.
const maxBatch = 128

// maxWindowBytes bounds the buffers that one connection holds until its tickets are done.
const maxWindowBytes = 8 << 20

// bufferSizes are the classes of read buffers. A connection that is idle holds the smallest.
var bufferSizes = [...]int{4 << 10, 16 << 10, 64 << 10}

// batchPools recycles batches, one pool for each class of buffer.
var batchPools [len(bufferSizes)]sync.Pool

// batch is one buffer of frames and the messages in it. Payloads point into the buffer, so it is recycled only when the
// ticket is done without an error.
type batch struct {
	buf    []byte // what was read
	off    int    // how much of it was understood
	msgs   []gateway.Message
	refs   []*gateway.Message // of msgs, for Admit
	acks   []byte             // the PUBACKs that are due, in order
	ticket gateway.Ticket
}

// newBatch returns an empty batch whose buffer holds more than n bytes, if a class does.
func newBatch(n int) *batch {
	class := 0
	for class < len(bufferSizes)-1 && bufferSizes[class] <= n {
		class++
	}
	if b, ok := batchPools[class].Get().(*batch); ok {
		return b
	}
	return &batch{buf: make([]byte, 0, bufferSizes[class])}
}

// recycle gives the batch back. Buffers that grew for one large frame go to the collector.
func (b *batch) recycle() {
	for class, size := range bufferSizes {
		if cap(b.buf) == size {
			clear(b.msgs)
			*b = batch{buf: b.buf[:0], msgs: b.msgs[:0], refs: b.refs[:0], acks: b.acks[:0]}
			batchPools[class].Put(b)
			return
		}
	}
}

// compact moves what was not understood yet to the start of the buffer.
func (b *batch) compact() {
	if b.off > 0 {
		b.buf = b.buf[:copy(b.buf, b.buf[b.off:])]
		b.off = 0
	}
}

// grow makes room for a frame of size bytes, but never more than twice what has arrived of it: a declared length alone
// costs nothing.
func (b *batch) grow(size int) {
	if len(b.buf) < cap(b.buf) {
		return
	}
	bigger := make([]byte, len(b.buf), max(min(size, 2*len(b.buf)), len(b.buf)+bufferSizes[0]))
	copy(bigger, b.buf)
	b.buf = bigger
}

// add appends one message.
func (b *batch) add(m gateway.Message, id uint16) {
	b.msgs = append(b.msgs, m)
	if m.QoS > 0 {
		b.acks = appendPuback(b.acks, id)
	}
}

// list returns the messages as Admit takes them. No message may be added behind it.
func (b *batch) list() []*gateway.Message {
	b.refs = b.refs[:0]
	for i := range b.msgs {
		b.refs = append(b.refs, &b.msgs[i])
	}
	return b.refs
}

// window holds the batches of one connection between Admit and PUBACK, in order. The reader of the connection fills it,
// its acknowledger empties it.
type window struct {
	limit int           // messages
	freed chan struct{} // room was made
	ready chan struct{} // a batch was put in, or the window closed

	mu     sync.Mutex // guards what follows
	queue  []*batch
	count  int // messages
	bytes  int
	closed bool
	ids    *[1 << 16 / 64]uint64 // packet identifiers in the window
}

func newWindow(limit int) *window {
	return &window{limit: limit, freed: make(chan struct{}, 1), ready: make(chan struct{}, 1)}
}

// room waits until the window takes messages and returns how many. Only the reader calls it.
func (w *window) room(ctx context.Context) (int, error) {
	for {
		w.mu.Lock()
		n := w.limit - w.count
		if w.bytes >= maxWindowBytes {
			n = 0
		}
		w.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-w.freed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// claim marks a packet identifier as in use and reports whether it was free.
func (w *window) claim(id uint16) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ids == nil {
		w.ids = new([1 << 16 / 64]uint64)
	}
	bit := uint64(1) << (id % 64)
	if w.ids[id/64]&bit != 0 {
		return false
	}
	w.ids[id/64] |= bit
	return true
}

// push puts a batch in that Admit took over.
func (w *window) push(b *batch) {
	w.mu.Lock()
	w.queue = append(w.queue, b)
	w.count += len(b.msgs)
	w.bytes += cap(b.buf)
	w.mu.Unlock()
	signal(w.ready)
}

// close says that no batch follows.
func (w *window) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	signal(w.ready)
}

// next waits for the oldest batch and leaves it in the window; nil when none follows or ctx ended.
func (w *window) next(ctx context.Context) *batch {
	for {
		b, closed := w.oldest()
		if b != nil || closed {
			return b
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return nil
		}
	}
}

// oldest returns the oldest batch, nil when the window is empty.
func (w *window) oldest() (b *batch, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) > 0 {
		return w.queue[0], w.closed
	}
	return nil, w.closed
}

// pop takes the oldest batch out: its packet identifiers may be used again as soon as the device learns of it, so this
// comes before the PUBACKs are written.
func (w *window) pop() {
	w.mu.Lock()
	b := w.queue[0]
	w.queue[0] = nil
	if w.queue = w.queue[1:]; len(w.queue) == 0 {
		w.queue = nil
	}
	w.count -= len(b.msgs)
	w.bytes -= cap(b.buf)
	for a := b.acks; len(a) >= 4; a = a[4:] {
		id := uint16(a[2])<<8 | uint16(a[3])
		w.ids[id/64] &^= 1 << (id % 64)
	}
	w.mu.Unlock()
	signal(w.freed)
}

// empty reports whether nothing is in hand.
func (w *window) empty() bool {
	b, _ := w.oldest()
	return b == nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// expired is a context that ended long ago: Wait with it asks whether a ticket is done and does not wait for it.
var expired = func() context.Context {
	ctx, cancel := context.WithDeadline(context.Background(), time.Unix(0, 0))
	cancel()
	return ctx
}()
