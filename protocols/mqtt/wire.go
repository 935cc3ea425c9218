package mqtt

import (
	"bufio"
	"context"
	"net"
	"sync"
	"time"
)

const (
	maxUnwritten  = 256 << 10        // bytes behind which Send waits for the writer
	writePatience = 30 * time.Second // for the broker to take what is written
)

// wire is the connection that the library sees. It gathers what the library writes packet by packet into few system
// calls, and reads ahead, but lets only those packets through that a broker sends to a client that subscribes to nothing:
// the library would allocate whatever length a packet declares.
type wire struct {
	net.Conn
	in   *bufio.Reader
	left int // bytes of the packet that is being read

	broken  chan struct{} // closed with the first error, and by Close
	flushed chan struct{} // closed when the writer has ended
	wake    chan struct{} // something was put into out
	drained chan struct{} // out was taken

	mu   sync.Mutex // guards what follows
	out  []byte     // written by the library, not yet to the connection
	lost bool
	quit bool // Close was called: the writer ends when out is empty
}

// newWire takes the connection over and starts its writer, which ends when the wire is closed.
func newWire(conn net.Conn) *wire {
	w := &wire{Conn: conn, in: bufio.NewReaderSize(conn, 4<<10), broken: make(chan struct{}), flushed: make(chan struct{}),
		wake: make(chan struct{}, 1), drained: make(chan struct{}, 1)}
	go w.flush()
	return w
}

// Read passes on bytes of the packets that may come: CONNACK, PUBACK and PINGRESP, none longer than four bytes.
func (w *wire) Read(p []byte) (int, error) {
	if w.left == 0 {
		header, err := w.in.Peek(2)
		if err != nil {
			w.fail()
			return 0, errLost // not the cause: the library keeps a connection that it believes to have closed itself
		}
		switch kind, size := header[0]>>4, header[1]; {
		case (kind == typeConnack || kind == typePuback) && size == 2, kind == typePingresp && size == 0:
			w.left = 2 + int(size)
		default:
			w.fail()
			return 0, broken("packet that a broker does not send here")
		}
	}
	n, err := w.in.Read(p[:min(len(p), w.left)])
	w.left -= n
	if err != nil {
		w.fail()
		return n, errLost
	}
	return n, nil
}

// Write takes a copy of p and never waits.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.lost || w.quit {
		w.mu.Unlock()
		return 0, errLost
	}
	w.out = append(w.out, p...)
	w.mu.Unlock()
	signal(w.wake)
	return len(p), nil
}

// SetWriteDeadline does nothing: writes do not wait, and the writer has its own limit.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// room waits until less than maxUnwritten waits for the writer.
func (w *wire) room(ctx context.Context) error {
	for {
		w.mu.Lock()
		n, lost := len(w.out), w.lost || w.quit
		w.mu.Unlock()
		switch {
		case lost:
			return errLost
		case n < maxUnwritten:
			return nil
		}
		select {
		case <-w.drained:
		case <-w.broken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flush writes what was gathered while the write before was under way.
func (w *wire) flush() {
	defer close(w.flushed)
	var free []byte
	for {
		w.mu.Lock()
		p, end := w.out, w.lost || w.quit && len(w.out) == 0
		w.out = free[:0]
		if len(p) > 0 && !w.quit {
			_ = w.Conn.SetWriteDeadline(time.Now().Add(writePatience)) // a closed connection shows in the write
		}
		w.mu.Unlock()
		if end {
			_ = w.Conn.Close() // nothing is left to be said
			return
		}
		if free = p; len(p) == 0 {
			<-w.wake
			continue
		}
		signal(w.drained)
		if _, err := w.Conn.Write(p); err != nil {
			w.fail()
		}
	}
}

// fail gives the connection up at once.
func (w *wire) fail() {
	w.mu.Lock()
	first := !w.lost
	if first {
		w.lost = true
		w.out = nil
	}
	quit := w.quit
	w.mu.Unlock()
	if first {
		if !quit {
			close(w.broken)
		}
		_ = w.Conn.Close() // the error that brought us here counts
		signal(w.wake)
	}
}

// Close lets the writer finish, within the time of a goodbye, and closes the connection.
func (w *wire) Close() error {
	w.mu.Lock()
	first := !w.quit
	if first {
		_ = w.Conn.SetWriteDeadline(time.Now().Add(goodbye)) // a closed connection shows in the write
	}
	w.quit = true
	lost := w.lost
	w.mu.Unlock()
	if first {
		if !lost {
			close(w.broken)
		}
		signal(w.wake)
	}
	return nil
}
