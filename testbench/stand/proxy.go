package stand

import (
	"io"
	"net"
	"sync"
	"time"
)

// Weather is what a proxy does to what passes.
type Weather struct {
	Down    bool          // connections are refused and those that stand are cut
	Silent  bool          // nothing passes and nobody is told; connections that saw it stay dead
	Latency time.Duration // added to every piece, one way
	Speed   int           // bytes a second, one way; 0: as fast as it goes
}

// Proxy is a faulty wire to one TCP address. It is safe for concurrent use.
//
// Goroutines: one accepts, two per connection; Close ends and awaits them.
type Proxy struct {
	Addr string
	to   string

	mu       sync.Mutex // guards what follows
	listener net.Listener
	weather  Weather
	changed  chan struct{} // closed when the weather changes
	conns    map[net.Conn]bool
	closed   bool
	since    time.Time // when the newest connection stood on both sides

	running sync.WaitGroup
}

// NewProxy listens on a free loopback port and passes everything on to an address.
func NewProxy(to string) (*Proxy, error) {
	p := &Proxy{to: to, changed: make(chan struct{}), conns: map[net.Conn]bool{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.Addr = l.Addr().String()
	p.listen(l)
	return p, nil
}

func (p *Proxy) listen(l net.Listener) {
	p.listener = l
	p.running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.join(near) })
		}
	})
}

// Set changes the weather. The error is that of listening again on the same port.
func (p *Proxy) Set(w Weather) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	if w.Down && !p.weather.Down {
		p.listener.Close()
		p.cut()
	}
	if !w.Down && p.weather.Down {
		l, err := net.Listen("tcp", p.Addr)
		if err != nil {
			return err
		}
		p.listen(l)
	}
	p.weather = w
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// Since returns when the newest connection stood on both sides; zero before the first.
func (p *Proxy) Since() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.since
}

// Cut closes the connections that stand; others may follow.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

func (p *Proxy) cut() {
	for c := range p.conns {
		c.Close()
	}
}

// Close ends everything.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.listener.Close()
	p.cut()
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	p.running.Wait()
}

// now returns the weather, and what tells of its change.
func (p *Proxy) now() (Weather, <-chan struct{}, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.weather, p.changed, p.closed
}

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.weather.Down {
		c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close()
}

// join carries one connection.
func (p *Proxy) join(near net.Conn) {
	if !p.keep(near) {
		return
	}
	defer p.forget(near)
	if w, _, _ := p.now(); w.Silent {
		io.Copy(io.Discard, near) // a connection into the void, until somebody gives up
		return
	}
	far, err := net.Dial("tcp", p.to)
	if err != nil || !p.keep(far) {
		return
	}
	defer p.forget(far)
	p.mu.Lock()
	p.since = time.Now()
	p.mu.Unlock()
	var other sync.WaitGroup
	other.Go(func() { p.carry(near, far) })
	p.carry(far, near)
	other.Wait()
}

// carry copies one way until an end closes; then the other way ends as well.
func (p *Proxy) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		w, changed, closed := p.now()
		if closed {
			return
		}
		if w.Silent {
			p.void(from)
			return
		}
		size := len(buf)
		if w.Speed > 0 {
			size = min(size, max(w.Speed/50, 1))
		}
		n, err := from.Read(buf[:size])
		if n > 0 {
			if w, _, _ = p.now(); w.Silent {
				p.void(from)
				return
			}
			delay := w.Latency
			if w.Speed > 0 {
				delay += time.Duration(n) * time.Second / time.Duration(w.Speed)
			}
			if delay > 0 {
				select {
				case <-time.After(delay):
				case <-changed:
				}
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// void swallows what comes until the end that sends gives up, or the proxy cuts.
func (p *Proxy) void(from net.Conn) { io.Copy(io.Discard, from) }
