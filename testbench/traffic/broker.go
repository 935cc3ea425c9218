package traffic

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Broker is a scripted end of an uplink: it lets everybody in, takes what is published and answers as its options say.
// Goroutines: one that accepts, one per connection; all end in Close.
type Broker struct {
	Addr string

	o     BrokerOptions
	l     net.Listener
	ended sync.WaitGroup
	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

// BrokerOptions say how a Broker answers. The funcs are called from the connection's goroutine.
type BrokerOptions struct {
	Addr   string                           // host:port to listen on; empty: a free one on loopback
	Mute   bool                             // acknowledge nothing
	Refuse func(topic, payload []byte) bool // break the connection at this message
	Saw    func(topic, payload []byte)      // told of every message before it is acknowledged
}

// StartBroker starts a scripted broker on loopback.
func StartBroker(o BrokerOptions) (*Broker, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("start scripted broker: %w", err)
	}
	b := &Broker{Addr: l.Addr().String(), o: o, l: l, conns: map[net.Conn]bool{}}
	b.ended.Go(b.accept)
	return b, nil
}

func (b *Broker) accept() {
	for {
		conn, err := b.l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		open := b.conns != nil
		if open {
			b.conns[conn] = true
		}
		b.mu.Unlock()
		if !open {
			conn.Close()
			return
		}
		b.ended.Go(func() {
			b.serve(&link{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)})
			conn.Close()
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.conns, conn)
		})
	}
}

// serve answers one connection until it ends or breaks at a message.
func (b *Broker) serve(l *link) {
	for {
		first, err := l.read()
		if err != nil {
			return
		}
		var answer []byte
		switch first & 0xF0 {
		case connect:
			answer = packet(connack, []byte{0, 0})
		case pingreq:
			answer = packet(pingresp, nil)
		case publish:
			topic, payload, id, err := publication(first, l.buf)
			if err != nil || b.o.Refuse != nil && b.o.Refuse(topic, payload) {
				return
			}
			if b.o.Saw != nil {
				b.o.Saw(topic, payload)
			}
			if id != 0 && !b.o.Mute {
				answer = []byte{puback, 2, byte(id >> 8), byte(id)}
			}
		case disconnect:
			return
		}
		if len(answer) > 0 {
			if _, err := l.conn.Write(answer); err != nil {
				return
			}
		}
	}
}

// Close ends the broker and every connection.
func (b *Broker) Close() {
	b.l.Close()
	b.mu.Lock()
	for conn := range b.conns {
		conn.Close()
	}
	b.conns = nil
	b.mu.Unlock()
	b.ended.Wait()
}

// Device is one connection to a gate, driven by hand.
type Device struct {
	link *link
	next uint16
	open int // published and not acknowledged

	patience time.Duration // of Publish, 0 for ever
}

// DialDevice connects a device.
func DialDevice(addr, client string) (*Device, error) {
	l, err := dial(addr, client, false)
	return &Device{link: l}, err
}

// Publish sends one message with QoS 1 and does not wait for its acknowledgement.
func (d *Device) Publish(topic string, payload []byte) error {
	d.next++
	if d.next == 0 {
		d.next = 1
	}
	body := append(text(topic), byte(d.next>>8), byte(d.next))
	if d.patience > 0 {
		d.link.conn.SetWriteDeadline(time.Now().Add(d.patience))
	}
	_, err := d.link.conn.Write(packet(publish|1<<1, append(body, payload...)))
	if err == nil {
		d.open++
	}
	return err
}

// Acknowledged waits until at most open messages are without an acknowledgement, or ctx ends.
func (d *Device) Acknowledged(ctx context.Context, open int) error {
	defer context.AfterFunc(ctx, func() { d.link.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for d.open > open {
		first, err := d.link.read()
		if err != nil {
			return fmt.Errorf("wait for PUBACK: %w", err)
		}
		if first&0xF0 == puback {
			d.open--
		}
	}
	return nil
}

// Deafen makes the system keep as little as it can of what is answered, and Publish fail when it waits for longer than
// patience: the gate has stopped reading.
func (d *Device) Deafen(patience time.Duration) error {
	d.patience = patience
	return d.link.conn.(*net.TCPConn).SetReadBuffer(1)
}

// Close ends the connection without a goodbye.
func (d *Device) Close() { d.link.conn.Close() }
