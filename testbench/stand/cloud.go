package stand

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Answer is what a cloud does with one PUBLISH.
type Answer int

// The answers.
const (
	Take       Answer = iota // pass it on and acknowledge it
	TakeLate                 // acknowledge it, and all behind it, a moment later
	TakeTwice                // acknowledge it twice
	TakeSwap                 // acknowledge it behind the next one
	TakeSilent               // pass it on and never acknowledge it
	Ignore                   // neither
	Hang                     // close the connection
)

// Late is how much later TakeLate acknowledges.
const Late = 700 * time.Millisecond

// Cloud is an MQTT 3.1.1 broker that does with every message what a script says, and passes what it takes on to whoever
// subscribed to anything. It speaks what an uplink and the subscriber of package traffic need, and trusts both.
//
// Goroutines: one accepts, two per connection; Close ends and awaits them.
type Cloud struct {
	Addr string

	listener net.Listener
	running  sync.WaitGroup

	mu          sync.Mutex // guards what follows
	script      func(topic string, payload []byte) Answer
	subscribers map[*peer]bool
	peers       map[*peer]bool
}

// StartCloud starts a cloud that takes everything.
func StartCloud() (*Cloud, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &Cloud{Addr: l.Addr().String(), listener: l, subscribers: map[*peer]bool{}, peers: map[*peer]bool{}}
	c.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p := &peer{cloud: c, conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{})}
			c.mu.Lock()
			c.peers[p] = true
			c.mu.Unlock()
			c.running.Go(p.write)
			c.running.Go(p.serve)
		}
	})
	return c, nil
}

// Script sets what decides; nil takes everything. It is called for one message at a time.
func (c *Cloud) Script(script func(topic string, payload []byte) Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.script = script
}

// Close ends everything.
func (c *Cloud) Close() {
	c.listener.Close()
	c.mu.Lock()
	for p := range c.peers {
		p.conn.Close()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// peer is one connection.
type peer struct {
	cloud *Cloud
	conn  net.Conn
	held  []byte // of the reader: an acknowledgement to be sent behind the next
	id    uint16 // of the last PUBLISH to it; guarded by Cloud.mu

	mu   sync.Mutex // guards out
	out  []piece
	wake chan struct{}
	done chan struct{}
}

// piece is something to be written, not before at.
type piece struct {
	at   time.Time
	data []byte
}

func (p *peer) send(after time.Duration, data []byte) {
	p.mu.Lock()
	p.out = append(p.out, piece{time.Now().Add(after), data})
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// write writes in order what was sent, until the connection ends.
func (p *peer) write() {
	defer p.conn.Close()
	for {
		p.mu.Lock()
		list := p.out
		p.out = nil
		p.mu.Unlock()
		for _, piece := range list {
			if wait := time.Until(piece.at); wait > 0 {
				select {
				case <-time.After(wait):
				case <-p.done:
					return
				}
			}
			if _, err := p.conn.Write(piece.data); err != nil {
				return
			}
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-p.wake:
		case <-p.done:
			return
		}
	}
}

var errHang = errors.New("the script closes the connection")

// serve reads packets until the connection ends. [MQTT-2.2]
func (p *peer) serve() {
	defer func() {
		close(p.done)
		p.conn.Close()
		p.cloud.mu.Lock()
		defer p.cloud.mu.Unlock()
		delete(p.cloud.peers, p)
		delete(p.cloud.subscribers, p)
	}()
	in := bufio.NewReaderSize(p.conn, 64<<10)
	for {
		first, err := in.ReadByte()
		if err != nil {
			return
		}
		size, err := binary.ReadUvarint(in) // the same form as the remaining length
		if err != nil || size > 16<<20 {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		if p.packet(first, body) != nil {
			return
		}
	}
}

func (p *peer) packet(first byte, body []byte) error {
	switch first >> 4 {
	case 1: // CONNECT
		p.send(0, []byte{0x20, 2, 0, 0})
	case 3:
		return p.publish(first, body)
	case 8: // SUBSCRIBE, taken for everything
		if len(body) < 3 {
			return io.ErrUnexpectedEOF
		}
		p.cloud.mu.Lock()
		p.cloud.subscribers[p] = true
		p.cloud.mu.Unlock()
		p.send(0, []byte{0x90, 3, body[0], body[1], body[len(body)-1] & 1})
	case 12: // PINGREQ
		p.send(0, []byte{0xD0, 0})
	case 14: // DISCONNECT
		return io.EOF
	}
	return nil
}

func (p *peer) publish(first byte, body []byte) error {
	if len(body) < 2 || len(body) < 4+int(binary.BigEndian.Uint16(body)) {
		return io.ErrUnexpectedEOF
	}
	n := 2 + int(binary.BigEndian.Uint16(body))
	topic, payload := body[:n], body[n:]
	var id []byte
	if first>>1&3 != 0 {
		id, payload = payload[:2], payload[2:]
	}
	answer := p.cloud.take(topic, payload)
	if answer == Hang {
		return errHang
	}
	if id == nil || answer == Ignore {
		return nil
	}
	ack := []byte{0x40, 2, id[0], id[1]}
	switch answer {
	case TakeSilent:
		return nil
	case TakeSwap:
		p.held = append(p.held, ack...)
		return nil
	case TakeTwice:
		ack = append(ack, ack...)
	}
	after := time.Duration(0)
	if answer == TakeLate {
		after = Late
	}
	p.send(after, append(ack, p.held...))
	p.held = nil
	return nil
}

// take asks the script and passes a message on.
func (c *Cloud) take(topic, payload []byte) Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	answer := Take
	if c.script != nil {
		answer = c.script(string(topic[2:]), payload)
	}
	if answer == Hang || answer == Ignore {
		return answer
	}
	for s := range c.subscribers {
		s.id = max(s.id+1, 1)
		packet := binary.AppendUvarint([]byte{0x32}, uint64(len(topic)+2+len(payload)))
		packet = append(packet, topic...)
		packet = binary.BigEndian.AppendUint16(packet, s.id)
		s.send(0, append(packet, payload...))
	}
	return answer
}
