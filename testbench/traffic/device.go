package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/testbench/fleet"
)

// template is one PUBLISH packet with its variable parts marked.
type template struct {
	packet  []byte
	id, seq int // offsets of the packet identifier (0 with QoS 0) and of the digits of the sequence number
	secrets [][]byte
	size    int // of the body
	kind    fleet.Kind
	topic   string
	stays   bool // must not arrive
}

const seqDigits = 10

func newTemplate(m fleet.Message, qos byte) (template, error) {
	head := text(m.Topic)
	t := template{size: len(m.Payload), kind: m.Kind, topic: m.Topic, stays: m.Expect == fleet.Stays}
	idAt := len(head)
	if qos > 0 {
		head = append(head, 0, 0)
	}
	t.packet = packet(publish|qos<<1, append(head, m.Payload...))
	body := len(t.packet) - len(m.Payload)
	if qos > 0 {
		t.id = body - len(head) + idAt
	}
	at := bytes.Index(m.Payload, strconv.AppendUint([]byte(`"seq":`), m.Seq, 10))
	if at < 0 {
		return t, fmt.Errorf("make template: message without a sequence number")
	}
	t.seq = body + at + len(`"seq":`)
	for _, s := range m.Secrets {
		t.secrets = append(t.secrets, []byte(s))
	}
	return t, nil
}

// appendTo appends the packet for one message.
func (t *template) appendTo(dst []byte, id uint16, seq uint64, dup bool) []byte {
	at := len(dst)
	dst = append(dst, t.packet...)
	if t.id > 0 {
		binary.BigEndian.PutUint16(dst[at+t.id:], id)
	}
	for i := seqDigits - 1; i >= 0; i-- {
		dst[at+t.seq+i] = '0' + byte(seq%10)
		seq /= 10
	}
	if dup {
		dst[at] |= 8 // [MQTT-3.3.1-1]
	}
	return dst
}

// device is one connection of the load. Its own messages are numbered from 0: message i is number i*Connections+number
// of the run and has the packet identifier i mod 65535 + 1.
type device struct {
	cfg       *Config
	number    int
	addr      string
	client    string
	ledger    *ledger
	templates []template

	acks histogram // of the reader goroutine; read when the run has ended

	mu          sync.Mutex // guards what follows
	freed       *sync.Cond // on mu: outstanding sank, or the link broke, or sending is to end
	outstanding int
	broken      bool
	low, next   uint64    // messages below low are acknowledged, from next on not sent
	done        []bool    // ring over the messages from low to next: acknowledged
	moved       time.Time // when the window last moved
}

const (
	identifiers = 65535 // packet identifiers in use, from 1
	batchBytes  = 64 << 10
	redialPause = 20 * time.Millisecond
	stalled     = time.Second // QoS 0: what has not arrived by then is not waited for
)

func (d *device) global(i uint64) uint64 { return i*uint64(d.cfg.Connections) + uint64(d.number) }

// limit is the number of messages that this device may send.
func (d *device) limit() uint64 {
	total := d.cfg.Capacity
	if d.cfg.Count > 0 {
		total = min(total, d.cfg.Count)
	}
	n := uint64(d.cfg.Connections)
	return (total + n - 1 - uint64(d.number)) / n
}

// drive connects and sends until send ends or all is sent, then waits for acknowledgements until all ends or the drain
// time has passed without one. A broken connection is an error unless it is to be made again.
func (d *device) drive(send, all context.Context) error {
	defer context.AfterFunc(send, d.wake)()
	for {
		l, err := dial(d.addr, d.client, false)
		if err == nil {
			var finished bool
			if finished, err = d.session(l, send, all); finished {
				return nil
			}
		}
		if all.Err() != nil || d.givenUp(send) {
			return nil
		}
		if !d.cfg.Reconnect {
			return err
		}
		select {
		case <-time.After(redialPause):
		case <-all.Done():
		}
	}
}

func (d *device) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.freed.Broadcast()
}

// givenUp reports that sending has ended and no acknowledgement came for the drain time.
func (d *device) givenUp(send context.Context) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return send.Err() != nil && (d.low == d.next || time.Since(d.moved) > d.cfg.Drain)
}

// session uses one connection to its end and reports whether everything is sent and acknowledged.
func (d *device) session(l *link, send, all context.Context) (finished bool, err error) {
	d.mu.Lock()
	d.broken = false
	d.mu.Unlock()
	var reader sync.WaitGroup
	var readErr error
	reader.Go(func() {
		readErr = d.read(l)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.broken = true
		d.freed.Broadcast()
	})
	defer context.AfterFunc(all, func() { l.conn.Close() })()
	if err = d.write(l, send); err == nil && d.over(send) && d.settle() {
		_, err = l.conn.Write([]byte{disconnect, 0})
		finished = true
	}
	l.conn.Close()
	reader.Wait()
	if err == nil {
		err = readErr
	}
	return finished, err
}

// over reports that there is nothing more to be sent: sending has ended, or the limit is reached. Otherwise write ended
// because the link broke.
func (d *device) over(send context.Context) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return send.Err() != nil || d.next >= d.limit()
}

// write sends again what an earlier connection left unacknowledged, then new messages until send ends, the limit is
// reached or the link breaks.
func (d *device) write(l *link, send context.Context) error {
	buf := make([]byte, 0, batchBytes+len(d.templates[0].packet))
	flush := func() error {
		_, err := l.conn.Write(buf)
		buf = buf[:0]
		return err
	}
	d.mu.Lock()
	var again []uint64
	for i := d.low; i < d.next && d.cfg.QoS > 0; i++ {
		if !d.done[i%identifiers] {
			again = append(again, i)
		}
	}
	d.mu.Unlock()
	for _, i := range again {
		if buf = d.append(buf, i, true); len(buf) >= batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	d.ledger.resent.Add(uint64(len(again)))
	if err := flush(); err != nil {
		return err
	}
	for {
		first, n := d.claim(send)
		if n == 0 {
			return nil
		}
		d.stamp(first, n)
		for i := first; i < first+n; i++ {
			buf = d.append(buf, i, false)
		}
		if err := flush(); err != nil {
			return err
		}
	}
}

func (d *device) append(buf []byte, i uint64, dup bool) []byte {
	t := &d.templates[i%uint64(len(d.templates))]
	return t.appendTo(buf, uint16(i%identifiers)+1, fleet.FirstSeq+d.cfg.First+d.global(i), dup)
}

// stamp notes when n messages were sent: now, or with a rate when they were due, so that waiting counts as latency.
func (d *device) stamp(first, n uint64) {
	now := max(d.ledger.now(), 1)
	d.ledger.firstSent.CompareAndSwap(0, now)
	for i := first; i < first+n; i++ {
		at := now
		if d.cfg.Rate > 0 {
			at = max(int64(d.due(i)), 1)
		}
		atomic.StoreInt64(&d.ledger.sentAt[d.global(i)], at)
		if d.templates[i%templates].stays {
			d.ledger.staying.Add(1)
		}
	}
	d.ledger.sent.Add(n)
}

// due is when message i is to be sent, since the epoch.
func (d *device) due(i uint64) time.Duration {
	return time.Duration(float64(d.global(i)) / d.cfg.Rate * float64(time.Second))
}

// claim waits until the window, and the rate, allow to send, and returns which messages; none when sending is over.
// It waits for an eighth of the window to be free: fewer, larger writes.
func (d *device) claim(send context.Context) (first, n uint64) {
	if !d.pace(send) {
		return 0, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	quorum := max(d.cfg.Window/8, 1)
	open := d.cfg.QoS == 0 && d.cfg.Cloud == ""
	for !open && !d.broken && send.Err() == nil && (d.cfg.Window-d.outstanding < quorum || d.next-d.low >= identifiers-maxWindow) {
		d.await()
	}
	if d.broken || send.Err() != nil || d.next >= d.limit() {
		return 0, 0
	}
	n = uint64(max(batchBytes/len(d.templates[0].packet), 1))
	if !open {
		n = min(n, uint64(d.cfg.Window-d.outstanding))
	}
	n = min(n, d.limit()-d.next)
	if d.cfg.Rate > 0 {
		behind := time.Since(d.ledger.epoch)
		for k := range n {
			if k > 0 && d.due(d.next+k) > behind {
				n = k
				break
			}
		}
	}
	first = d.next
	for i := first; i < first+n; i++ {
		d.done[i%identifiers] = false
	}
	d.next += n
	if d.cfg.QoS == 0 {
		d.low = d.next
	}
	d.outstanding += int(n)
	d.moved = time.Now()
	return first, n
}

// await waits for room; with QoS 0 it forgives what did not arrive in time.
func (d *device) await() {
	if d.cfg.QoS > 0 {
		d.freed.Wait()
		return
	}
	since := d.moved
	t := time.AfterFunc(stalled, d.wake)
	d.freed.Wait()
	if t.Stop(); d.moved.Equal(since) && time.Since(since) >= stalled {
		d.outstanding = 0
	}
}

// pace waits until the next message is due and reports whether sending goes on.
func (d *device) pace(send context.Context) bool {
	if d.cfg.Rate == 0 {
		return send.Err() == nil
	}
	d.mu.Lock()
	wait := d.due(d.next) - time.Since(d.ledger.epoch)
	d.mu.Unlock()
	if wait <= 0 {
		return send.Err() == nil
	}
	select {
	case <-time.After(wait):
		return true
	case <-send.Done():
		return false
	}
}

// settle waits until everything sent is acknowledged and reports so; false when the link broke or time is up.
func (d *device) settle() bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		d.mu.Lock()
		over, broken, since := d.low == d.next, d.broken, d.moved
		d.mu.Unlock()
		if over {
			return true
		}
		if broken || time.Since(since) > d.cfg.Drain {
			return false
		}
	}
	return false
}

// read takes acknowledgements until the connection ends.
func (d *device) read(l *link) error {
	var ids []uint16
	for {
		first, err := l.read()
		if err != nil {
			d.settled(ids)
			return err
		}
		if first&0xF0 == puback && len(l.buf) == 2 {
			ids = append(ids, binary.BigEndian.Uint16(l.buf))
		}
		if l.r.Buffered() < 4 {
			d.settled(ids)
			ids = ids[:0]
		}
	}
}

// settled notes acknowledgements and moves the window.
func (d *device) settled(ids []uint16) {
	if len(ids) == 0 {
		return
	}
	now := d.ledger.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		i := d.low + (uint64(id)-1+identifiers-d.low%identifiers)%identifiers
		if id == 0 || i >= d.next || d.done[i%identifiers] {
			continue
		}
		d.done[i%identifiers] = true
		d.outstanding--
		g := d.global(i)
		set(d.ledger.acked, g)
		if d.templates[i%templates].stays {
			d.ledger.stayed.Add(1)
		}
		d.ledger.acks.Add(1)
		d.acks.add(time.Duration(now - d.ledger.sentAt[g]))
		if d.ledger.ackedAt != nil {
			d.ledger.ackedAt[g] = max(now, 1)
		}
	}
	for d.low < d.next && d.done[d.low%identifiers] {
		d.low++
	}
	d.moved = time.Now()
	d.ledger.lastAck.Store(now)
	d.freed.Signal()
}

// seen frees the window of a QoS 0 device.
func (d *device) seen(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outstanding = max(d.outstanding-n, 0)
	d.moved = time.Now()
	d.freed.Signal()
}
