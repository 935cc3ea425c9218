package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// patience is how long a test waits for what must happen before it fails.
const patience = 20 * time.Second

// fakeGate keeps what it admits and, when it holds, leaves the tickets open until release.
type fakeGate struct {
	mu       sync.Mutex
	hold     bool
	full     bool
	refuse   error // of Admit
	block    chan struct{}
	messages []string // topic=payload
	clients  map[string]int
	tickets  []*fakeTicket
	refused  map[gateway.Refusal]int
	changed  chan struct{} // a token for each change, as many as nobody has read
}

type fakeTicket struct {
	done     chan struct{}
	err      error
	messages int
}

func (t *fakeTicket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	default:
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newGate() *fakeGate {
	return &fakeGate{refused: map[gateway.Refusal]int{}, clients: map[string]int{}, changed: make(chan struct{}, 1)}
}

func (g *fakeGate) Admit(ctx context.Context, batch []*gateway.Message) (gateway.Ticket, error) {
	g.mu.Lock()
	block := g.block
	g.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	defer signal(g.changed)
	if g.refuse != nil {
		return nil, g.refuse
	}
	for _, m := range batch {
		g.messages = append(g.messages, m.Topic+"="+string(m.Payload))
		g.clients[m.Client]++
	}
	t := &fakeTicket{done: make(chan struct{}), messages: len(batch)}
	if !g.hold {
		close(t.done)
	}
	g.tickets = append(g.tickets, t)
	return t, nil
}

func (g *fakeGate) Full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.full
}

func (g *fakeGate) Refuse(_ string, reason gateway.Refusal, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused[reason] += n
	signal(g.changed)
}

// set changes the gate under its lock.
func (g *fakeGate) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// release finishes ticket n.
func (g *fakeGate) release(n int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tickets[n].err = err
	close(g.tickets[n].done)
}

// await waits until ok holds, which is asked under the lock.
func (g *fakeGate) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	for {
		g.mu.Lock()
		done := ok()
		g.mu.Unlock()
		if done {
			return
		}
		select {
		case <-g.changed:
		case <-late:
			g.mu.Lock()
			defer g.mu.Unlock()
			t.Fatalf("never happened: %s; messages %q, refused %v", what, g.messages, g.refused)
		}
	}
}

func (g *fakeGate) awaitMessages(t testing.TB, n int) {
	t.Helper()
	g.await(t, fmt.Sprintf("%d messages", n), func() bool { return len(g.messages) >= n })
}

func (g *fakeGate) awaitRefused(t testing.TB, reason gateway.Refusal, n int) {
	t.Helper()
	g.await(t, fmt.Sprintf("%d refused as %s", n, reason), func() bool { return g.refused[reason] == n })
}

// bench is a source on loopback that lets everybody publish everything but what the test changes.
func bench(change func(c *SourceConfig)) SourceConfig {
	c := SourceConfig{Listen: "tcp://127.0.0.1:0", Anonymous: true, Allow: []AllowRule{{Client: "*", Publish: []string{"#"}}}}
	if change != nil {
		change(&c)
	}
	return c
}

// running is a source under test.
type running struct {
	*Source
	log  *logBuffer
	stop func() // ends the source and waits for it
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t testing.TB, c SourceConfig, gate gateway.Gate) *running {
	t.Helper()
	log := &logBuffer{}
	s, err := NewSource("bench", c, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	r := runSource(t, s, gate)
	r.log = log
	return r
}

var discard = slog.New(slog.DiscardHandler)

// runSource runs a source that listens already.
func runSource(t testing.TB, s *Source, gate gateway.Gate) *running {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, gate) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("source does not end")
			}
		})
	}
	t.Cleanup(stop)
	return &running{Source: s, stop: stop}
}

// device is the far end of one connection.
type device struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func (r *running) device(t testing.TB) *device {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return newDevice(t, conn)
}

func newDevice(t testing.TB, conn net.Conn) *device {
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return &device{t, conn, bufio.NewReader(conn)}
}

// connected returns a device that logged in under the client id.
func (r *running) connected(t testing.TB, client string) *device {
	t.Helper()
	d := r.device(t)
	d.write(encodeConnect(connect{cleanSession: true, client: []byte(client)}))
	d.expect(connack(connAccepted))
	return d
}

func (d *device) write(frames ...[]byte) {
	d.t.Helper()
	if _, err := d.conn.Write(bytes.Join(frames, nil)); err != nil {
		d.t.Fatal(err)
	}
}

// expect reads exactly these bytes.
func (d *device) expect(want ...[]byte) {
	d.t.Helper()
	all := bytes.Join(want, nil)
	got := make([]byte, len(all))
	if n, err := io.ReadFull(d.in, got); err != nil || !bytes.Equal(got, all) {
		d.t.Fatalf("read %x (%v), want %x", got[:n], err, all)
	}
}

// expectEnd reads the end of the connection and nothing before it.
func (d *device) expectEnd() {
	d.t.Helper()
	var timeout net.Error
	if b, err := d.in.ReadByte(); err == nil {
		d.t.Fatalf("read %x, want the end", b)
	} else if errors.As(err, &timeout) && timeout.Timeout() {
		d.t.Fatal("connection stays open")
	}
}

// ping shows that everything sent before was read, and that nothing was answered to it.
func (d *device) ping() {
	d.t.Helper()
	d.write([]byte{typePingreq << 4, 0})
	d.expect(pingresp)
}

func pub(qos byte, id uint16, topic, payload string) []byte {
	return encodePublish(publish{qos: qos, id: id, topic: []byte(topic), payload: []byte(payload)})
}

func puback(id uint16) []byte { return appendPuback(nil, id) }

// settle waits until no more goroutines run than before.
func settle(t testing.TB, before int) {
	t.Helper()
	for late := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(late) {
			stacks := make([]byte, 64<<10)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
