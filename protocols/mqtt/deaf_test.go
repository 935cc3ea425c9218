package mqtt

import (
	"net"
	"sync"
	"testing"
	"time"
)

// pipes listens for connections without any buffer: a write waits until it is read.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	ended chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func TestADeviceThatReadsNothingDoesNotHoldUpTheEnd(t *testing.T) {
	gate := newGate()
	s, err := NewSource("bench", bench(nil), discard)
	if err != nil {
		t.Fatal(err)
	}
	l := &pipes{conns: make(chan net.Conn), ended: make(chan struct{})}
	s.listener = l
	r := runSource(t, s, gate)
	near, far := net.Pipe()
	l.conns <- near
	d := newDevice(t, far)
	d.write(encodeConnect(connect{cleanSession: true, client: []byte("a")}))
	d.expect(connack(connAccepted))
	d.write(pub(1, 1, "v1/x", "one"))
	gate.awaitMessages(t, 1) // its acknowledgement is being written, for the 30 s of frame_timeout
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > patience/2 {
		t.Errorf("ended after %v", took)
	}
}
