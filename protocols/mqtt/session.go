package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

const (
	maxConnect   = 32 << 10 // bytes of a CONNECT, which nobody has vouched for yet
	maxClientID  = 256      // bytes
	maxLinger    = 300 * time.Millisecond
	maxTopics    = 256 // topics remembered per connection, so that a known one costs no allocation
	maxTopicText = 512 // bytes of a topic that is remembered
)

// refused ends a connection: what the device asked for is not for it.
type refused struct {
	reason gateway.Refusal
	text   string
}

func (e *refused) Error() string { return "serve connection: " + e.text }

// errGone ends a connection that the device closed, by DISCONNECT or without.
var errGone = errors.New("serve connection: device has gone")

// session is one connection of a device. Its reader decides batches and puts them into the window; its acknowledger takes
// them out in order and writes the PUBACKs.
type session struct {
	src  *Source
	gate gateway.Gate
	conn net.Conn
	raw  net.Conn // conn, or what is below its TLS
	win  *window

	id        string
	keepAlive time.Duration // zero: none
	filters   []string
	topics    map[string]string // topics that were found permitted
	replies   []byte            // answers of the reader, written together
	began     time.Time         // when the first byte of a packet came that is not complete yet; zero: there is none

	admit  context.Context // ends with the source, or when the session is killed
	wait   context.Context // ends when nobody waits for what is in hand any more
	late   context.Context // ends when the source does not wait any longer
	kill   func()          // closes the connection at once; safe to call from anywhere, more than once
	reader chan struct{}   // closed when the reader has ended

	write sync.Mutex // one writer of conn at a time
}

// newSession prepares the session of an accepted connection. The session owns the connection.
func newSession(ctx, late context.Context, src *Source, gate gateway.Gate, conn net.Conn) *session {
	s := &session{src: src, gate: gate, conn: conn, raw: conn, win: newWindow(src.config.Window), topics: map[string]string{}, reader: make(chan struct{})}
	admit, cancelAdmit := context.WithCancel(ctx)
	wait, cancelWait := context.WithCancel(context.WithoutCancel(ctx))
	s.admit, s.wait, s.late = admit, wait, late
	if config := src.tls.Load(); config != nil {
		s.conn = tls.Server(conn, config)
	}
	s.kill = func() {
		cancelAdmit()
		cancelWait()
		_ = s.raw.Close() // the error says that it was closed before
	}
	return s
}

// serve runs the session until the device or the source ends it. Every way out stops reading, waits for what is in hand
// as long as DrainTimeout allows, acknowledges it and closes the connection.
func (s *session) serve() {
	defer s.kill()
	unblock := context.AfterFunc(s.admit, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer unblock()
	tooLate := context.AfterFunc(s.late, s.kill)
	defer tooLate()

	first := newBatch(0)
	err := s.open(first)
	if err != nil {
		s.src.forget(s)
		close(s.reader)
		s.src.ended(s, err)
		s.linger(err)
		return
	}
	acknowledged := make(chan struct{})
	go func() {
		defer close(acknowledged)
		s.acknowledge()
	}()
	err = s.read(first)
	s.src.forget(s)
	close(s.reader)
	s.win.close()
	impatient := time.AfterFunc(max(goodbye, s.src.config.DrainTimeout), s.kill) // the last answers may be on their way to a device that reads none
	<-acknowledged
	impatient.Stop()
	s.src.ended(s, err)
	s.linger(err)
	_ = s.conn.Close() // says goodbye in TLS; nothing depends on it
}

// linger ends a connection that the gate closes so that its last answer arrives: bytes of the device that nobody has read
// would otherwise make the system take the answer back.
func (s *session) linger(err error) {
	half, ok := s.raw.(interface{ CloseWrite() error })
	if !ok || errors.Is(err, errGone) || s.wait.Err() != nil {
		return
	}
	if t, ok := s.conn.(*tls.Conn); ok {
		_ = t.CloseWrite() // a handshake that never finished has nothing to say
	}
	if half.CloseWrite() != nil {
		return
	}
	_ = s.raw.SetReadDeadline(time.Now().Add(maxLinger))
	_, _ = io.CopyN(io.Discard, s.raw, maxConnect) // whatever comes, the connection ends
}

// read takes frames off the connection, a buffer at a time, until the device or the source ends it. While the window is
// full it does not read at all, and no keep-alive runs. What stands in front of a bad frame is still taken in.
func (s *session) read(b *batch) error {
	for {
		room, err := s.win.room(s.admit)
		if err != nil {
			return err
		}
		need, err := s.parse(b, min(room, maxBatch))
		if sent := s.reply(); err == nil {
			err = sent
		}
		if len(b.msgs) > 0 {
			next, failed := s.hand(b)
			if failed != nil {
				return failed
			}
			b = next
		}
		if err != nil {
			return err
		}
		if need == 0 {
			continue
		}
		if err := s.fill(b, need, s.deadline()); err != nil {
			return err
		}
	}
}

// deadline returns until when something must arrive: the rest of a packet within FrameTimeout of its beginning, however
// it trickles, and any byte within the keep-alive.
func (s *session) deadline() time.Time {
	var until time.Time
	if s.keepAlive > 0 {
		until = time.Now().Add(s.keepAlive)
	}
	if !s.began.IsZero() {
		if frame := s.began.Add(s.src.config.FrameTimeout); until.IsZero() || frame.Before(until) {
			until = frame
		}
	}
	return until
}

// nextFrame cuts one frame off b. need is zero when there is one, else the bytes that it takes as far as they are known.
// A frame over the limit is refused by its header, before anything is kept of it.
func nextFrame(b *batch, limit int) (first byte, body []byte, need int, err error) {
	rest := b.buf[b.off:]
	first, header, remaining, err := frameHeader(rest)
	if err != nil {
		return first, nil, 0, err
	}
	if header == 0 {
		return first, nil, maxHeader, nil
	}
	if header+remaining > limit {
		return first, nil, 0, &refused{gateway.RefusedTooLarge, "packet over the limit"}
	}
	if len(rest) < header+remaining {
		return first, nil, header + remaining, nil
	}
	b.off += header + remaining
	return first, rest[header : header+remaining], 0, nil
}

// parse understands the frames in b, up to room messages. need is zero when it stopped for room, else what the next frame
// takes.
func (s *session) parse(b *batch, room int) (need int, err error) {
	now, full := time.Now(), s.gate.Full()
	for len(b.msgs) < room {
		first, body, need, err := nextFrame(b, int(s.src.config.MaxPacket))
		if err != nil {
			return 0, err
		}
		if need > 0 {
			if b.off == len(b.buf) {
				s.began = time.Time{}
			} else if s.began.IsZero() || b.off > 0 {
				s.began = now
			}
			return need, nil
		}
		if first>>4 == typePublish {
			err = s.publish(b, first, body, now, full)
		} else {
			err = s.control(first, body)
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// publish puts one PUBLISH into the batch.
func (s *session) publish(b *batch, first byte, body []byte, now time.Time, full bool) error {
	p, err := decodePublish(first, body)
	if err != nil {
		return err
	}
	if p.qos > 1 {
		s.src.hints.once("QoS 2 not spoken")
		return &refused{gateway.RefusedUnsupported, "PUBLISH of QoS 2"}
	}
	topic, known := s.topics[string(p.topic)]
	if !known {
		if topic, err = s.permit(p.topic); err != nil {
			return err
		}
	}
	if p.qos == 0 && full {
		s.gate.Refuse(s.src.name, gateway.RefusedFull, 1)
		return nil
	}
	if p.qos == 1 && !s.win.claim(p.id) {
		// The device repeats what is still in the window: one acknowledgement is due, when that is committed. Without the
		// mark it is another message under an identifier in use, which no PUBACK could tell apart. [MQTT-2.3.1-2]
		if p.dup {
			return nil
		}
		return broken("PUBLISH with a packet identifier in use")
	}
	b.add(gateway.Message{Source: s.src.name, Protocol: gateway.MQTT, Client: s.id, Topic: topic, Payload: p.payload,
		Received: now, QoS: p.qos, Retain: p.retain}, p.id)
	return nil
}

// permit checks a topic that this connection has not used yet. A PUBLISH that is not permitted ends the connection:
// 3.1.1 has no other way to say no. [MQTT-3.3.5-2]
func (s *session) permit(name []byte) (string, error) {
	topic := string(name)
	if !travels(topic) {
		return "", &refused{gateway.RefusedMalformed, "topic that brokers do not take"}
	}
	if !permitted(s.filters, topic) {
		s.src.hints.topic(s.id, topic)
		return "", &refused{gateway.RefusedNotPermitted, "topic not permitted"}
	}
	if len(topic) <= maxTopicText {
		if len(s.topics) >= maxTopics {
			clear(s.topics)
		}
		s.topics[topic] = topic
	}
	return topic, nil
}

// control answers everything but PUBLISH.
func (s *session) control(first byte, body []byte) error {
	if err := checkFlags(first); err != nil {
		return err
	}
	switch first >> 4 {
	case typePingreq:
		if len(body) != 0 {
			return broken("PINGREQ with a body")
		}
		s.replies = append(s.replies, pingresp...)
	case typeSubscribe: // a gate, not a broker: nothing can be subscribed
		id, n, err := decodeFilters(body, true)
		if err != nil {
			return err
		}
		s.src.hints.once("SUBSCRIBE refused: the gate delivers nothing")
		s.replies = append(s.replies, suback(id, n)...)
	case typeUnsubscribe:
		id, _, err := decodeFilters(body, false)
		if err != nil {
			return err
		}
		s.replies = append(s.replies, unsuback(id)...)
	case typeDisconnect:
		if len(body) != 0 {
			return broken("DISCONNECT with a body")
		}
		return errGone
	case typeConnect: // [MQTT-3.1.0-2]
		return broken("second CONNECT")
	default:
		return broken("packet that only a server sends, or of QoS 2")
	}
	return nil
}

// hand admits the messages of b and puts it into the window. It returns a batch with the bytes that b did not use.
func (s *session) hand(b *batch) (*batch, error) {
	size := len(b.buf)
	rest := b.buf[b.off:]
	if len(b.buf) == cap(b.buf) {
		size = 2 * cap(b.buf) // there was more to read than fitted
	} else {
		size += size / 4
	}
	next := newBatch(max(size, len(rest)))
	next.buf = append(next.buf, rest...)
	ticket, err := s.gate.Admit(s.admit, b.list())
	if err != nil {
		unacknowledged := 0
		for i := range b.msgs {
			if b.msgs[i].QoS == 0 {
				unacknowledged++
			}
		}
		if unacknowledged > 0 {
			s.gate.Refuse(s.src.name, gateway.RefusedFull, unacknowledged)
		}
		return nil, err
	}
	b.ticket = ticket
	s.win.push(b)
	return next, nil
}

// fill reads what is there, at least one byte.
func (s *session) fill(b *batch, need int, deadline time.Time) error {
	b.compact()
	b.grow(need)
	_ = s.conn.SetReadDeadline(deadline) // a closed connection shows in the read
	if s.admit.Err() != nil {
		return s.admit.Err() // or the deadline that unblocks the reader would just have been lifted
	}
	n, err := s.conn.Read(b.buf[len(b.buf):cap(b.buf)])
	b.buf = b.buf[:len(b.buf)+n]
	switch {
	case n > 0:
		return nil
	case s.admit.Err() != nil:
		return s.admit.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refused{"", "device silent for too long"}
	}
	return errGone
}

// reply writes what the reader has to answer.
func (s *session) reply() error {
	if len(s.replies) == 0 {
		return nil
	}
	err := s.send(s.replies)
	s.replies = s.replies[:0]
	return err
}

// send writes to the device, which must take it within FrameTimeout.
func (s *session) send(p []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.src.config.FrameTimeout)) // a closed connection shows in the write
	if _, err := s.conn.Write(p); err != nil {
		return errGone
	}
	return nil
}

// acknowledge writes the PUBACKs of each batch when its ticket is done, in the order in which the device sent.
// [MQTT-4.6.0-2] A ticket with an error ends the connection: its device must not be told anything. Those behind a done
// ticket that are done too share its write.
func (s *session) acknowledge() {
	var acks []byte
	for b := s.win.next(s.wait); b != nil; b = s.win.next(s.wait) {
		if err := b.ticket.Wait(s.wait); err != nil {
			if s.wait.Err() == nil {
				s.src.log.Error("commit messages", "source", s.src.name, "device", s.src.hints.device(s.id), "err", err)
			}
			s.kill()
			return
		}
		acks = s.release(acks[:0], b)
		for len(acks) < 4<<10 {
			b, _ := s.win.oldest()
			if b == nil || b.ticket.Wait(expired) != nil {
				break
			}
			acks = s.release(acks, b)
		}
		if len(acks) > 0 && s.send(acks) != nil {
			s.kill()
			return
		}
	}
}

// release takes the oldest batch, which is done, out of the window and appends its PUBACKs.
func (s *session) release(acks []byte, b *batch) []byte {
	s.win.pop()
	acks = append(acks, b.acks...)
	b.recycle()
	return acks
}
