package stand

import (
	"io"
	"net"
	"sync"
	"time"
)

// Relay passes TCP connections on to one address, and can be cut. Goroutines: one that accepts, two per connection; all
// end with Close, which waits for them.
type Relay struct {
	Addr string

	to      string
	listen  net.Listener
	running sync.WaitGroup

	mu    sync.Mutex // guards what follows
	cut   bool
	since time.Time // when the newest connection was passed on
	conns map[net.Conn]bool
}

// NewRelay listens on a free loopback port.
func NewRelay(to string) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{Addr: l.Addr().String(), to: to, listen: l, conns: make(map[net.Conn]bool)}
	r.running.Go(r.accept)
	return r, nil
}

// Cut breaks every connection and lets none through until Mend.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut, r.since = true, time.Time{}
	for c := range r.conns {
		c.Close()
	}
}

// Mend lets connections through again.
func (r *Relay) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = false
}

// Since returns when the newest connection was passed on; zero when none was since Cut.
func (r *Relay) Since() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.since
}

// Close ends everything.
func (r *Relay) Close() {
	r.listen.Close()
	r.Cut()
	r.running.Wait()
}

func (r *Relay) accept() {
	for {
		in, err := r.listen.Accept()
		if err != nil {
			return // closed
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil {
			in.Close()
			continue
		}
		if !r.join(in, out) {
			in.Close()
			out.Close()
		}
	}
}

// join passes bytes on in both directions, unless the relay is cut.
func (r *Relay) join(a, b net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		return false
	}
	r.since = time.Now()
	r.conns[a], r.conns[b] = true, true
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		r.running.Go(func() {
			io.Copy(pair[0], pair[1]) // the end of either is the end of both
			a.Close()
			b.Close()
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.conns, pair[1])
		})
	}
	return true
}
