package mqtt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	mochipackets "github.com/mochi-mqtt/server/v2/packets"

	"github.com/sluice-edge/sluice/gateway"
)

// cloud is an embedded broker that keeps what it receives, in order.
type cloud struct {
	mochi.HookBase
	server  *mochi.Server
	changed chan struct{}

	mu       sync.Mutex // guards received
	received []string   // topic=payload
	retained int
}

func (c *cloud) ID() string { return "cloud" }

func (c *cloud) Provides(b byte) bool {
	return b == mochi.OnConnect || b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnPublish
}

// OnConnect keeps MQTT 5 out, of which this broker dies by one packet.
func (c *cloud) OnConnect(cl *mochi.Client, pk mochipackets.Packet) error {
	if pk.ProtocolVersion != 4 {
		return mochipackets.ErrUnsupportedProtocolVersion
	}
	return nil
}

func (c *cloud) OnConnectAuthenticate(_ *mochi.Client, pk mochipackets.Packet) bool {
	return string(pk.Connect.Username) != "wrong"
}
func (c *cloud) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (c *cloud) OnPublish(_ *mochi.Client, pk mochipackets.Packet) (mochipackets.Packet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = append(c.received, pk.TopicName+"="+string(pk.Payload))
	if pk.FixedHeader.Retain {
		c.retained++
	}
	signal(c.changed)
	return pk, nil
}

func (c *cloud) has(message string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.received, message)
}

// newCloud starts a broker and returns its address.
func newCloud(t testing.TB) (*cloud, string) {
	t.Helper()
	c := &cloud{changed: make(chan struct{}, 1), server: mochi.New(&mochi.Options{Logger: discard})}
	if err := c.server.AddHook(c, nil); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.server.AddListener(listeners.NewNet("tcp", l)); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.server.Listeners.CloseAll(func(string) { // Close alone hangs where a client leaves meanwhile: it takes a lock twice
			for _, cl := range c.server.Clients.GetAll() {
				_ = c.server.DisconnectClient(cl, mochipackets.ErrServerShuttingDown)
			}
		})
		_ = c.server.Close()
	})
	return c, l.Addr().String()
}

// road forwards connections to an address and can cut them all.
type road struct {
	listener net.Listener
	to       string
	mu       sync.Mutex // guards conns
	conns    []net.Conn
	running  sync.WaitGroup
}

func newRoad(t testing.TB, to string) *road {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &road{listener: l, to: to}
	r.running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, near, far)
			r.mu.Unlock()
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				r.running.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
					_ = way[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() { _ = l.Close(); r.cut(); r.running.Wait() })
	return r
}

func (r *road) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

// tally counts what a link acknowledged.
type tally struct {
	mu      sync.Mutex
	seqs    []uint64
	changed chan struct{}
}

func newTally() *tally { return &tally{changed: make(chan struct{}, 1)} }

func (a *tally) acked(seq uint64) {
	a.mu.Lock()
	a.seqs = append(a.seqs, seq)
	a.mu.Unlock()
	signal(a.changed)
}

func (a *tally) list() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.seqs)
}

func (a *tally) await(t testing.TB, n int) {
	t.Helper()
	late := time.After(patience)
	for len(a.list()) < n {
		select {
		case <-a.changed:
		case <-late:
			t.Fatalf("%d acknowledged, want %d", len(a.list()), n)
		}
	}
}

func uplinkTo(t testing.TB, address string, change func(c *UplinkConfig)) *Uplink {
	t.Helper()
	c := UplinkConfig{URL: "tcp://" + address, TopicPrefix: "fleet/"}
	if change != nil {
		change(&c)
	}
	u, err := NewUplink("tsp", c)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func open(t testing.TB, u *Uplink, a *tally) gateway.Link {
	t.Helper()
	l, err := u.Open(t.Context(), a.acked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func outbound(seq uint64) *gateway.Outbound {
	return &gateway.Outbound{Seq: seq, Topic: "v1/x", Payload: fmt.Append(nil, seq)}
}

func TestMessagesArriveInOrderWithPrefixAndRetain(t *testing.T) {
	c, address := newCloud(t)
	a := newTally()
	l := open(t, uplinkTo(t, address, func(c *UplinkConfig) { c.Inflight = 8 }), a)
	const n = 500
	for seq := uint64(1); seq <= n; seq++ {
		o := outbound(seq)
		o.Retain = seq == 1
		if err := l.Send(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	a.await(t, n)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		if want := fmt.Sprintf("fleet/v1/x=%d", i+1); c.received[i] != want || a.list()[i] != uint64(i+1) {
			t.Fatalf("place %d: received %s, acknowledged %d", i, c.received[i], a.list()[i])
		}
	}
	if c.retained != 1 {
		t.Errorf("%d retained, want 1", c.retained)
	}
}

func TestNothingIsAcknowledgedThatWasNotDeliveredThroughOutages(t *testing.T) {
	c, address := newCloud(t)
	r := newRoad(t, address)
	u := uplinkTo(t, r.listener.Addr().String(), func(c *UplinkConfig) { c.Inflight = 32 })
	const n = 3000
	next, cuts := uint64(1), 0
	for next <= n {
		a := newTally()
		l, err := u.Open(t.Context(), a.acked)
		if err != nil {
			continue // the road was cut while it connected
		}
		for seq := next; seq <= n; seq++ {
			if l.Send(t.Context(), outbound(seq)) != nil {
				break
			}
			if seq%701 == 0 && cuts < 4 {
				cuts++
				r.cut()
			}
			if seq == n {
				for len(a.list()) < int(n-next)+1 {
					select {
					case <-a.changed:
						continue
					case <-l.Broken():
					}
					break
				}
			}
		}
		_ = l.Close()
		for _, seq := range a.list() {
			if seq != next {
				t.Fatalf("acknowledged %d, want %d", seq, next)
			}
			if !c.has(fmt.Sprintf("fleet/v1/x=%d", seq)) {
				t.Fatalf("%d is acknowledged and never arrived", seq)
			}
			next++
		}
	}
	if cuts < 4 {
		t.Errorf("%d outages, want 4", cuts)
	}
}

// mute is a broker that accepts connections and reads everything, but sends no PUBACK until told.
type mute struct {
	listener net.Listener
	read     chan uint16 // packet identifiers, as they come
	conns    chan net.Conn
	connack  byte
}

func newMute(t testing.TB, connack byte) *mute {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mute{listener: l, read: make(chan uint16, 1000), conns: make(chan net.Conn, 10), connack: connack}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { m.serve(conn) })
			m.conns <- conn
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		for len(m.conns) > 0 {
			_ = (<-m.conns).Close()
		}
		running.Wait()
	})
	return m
}

func (m *mute) serve(conn net.Conn) {
	defer conn.Close()
	for {
		p, err := packets.ReadPacket(conn)
		if err != nil {
			return
		}
		switch p := p.(type) {
		case *packets.ConnectPacket:
			if m.connack < 0xff {
				_, _ = conn.Write(connack(m.connack))
			}
		case *packets.PublishPacket:
			m.read <- p.MessageID
		}
	}
}

func TestWhatABrokerNeverAcknowledgesStaysUnacknowledged(t *testing.T) {
	m := newMute(t, connAccepted)
	u := uplinkTo(t, m.listener.Addr().String(), nil)
	for range 3 {
		a := newTally()
		l := open(t, u, a)
		for seq := uint64(1); seq <= 10; seq++ {
			if err := l.Send(t.Context(), outbound(seq)); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			<-m.read
		}
		(<-m.conns).Close()
		<-l.Broken()
		if err := l.Send(t.Context(), outbound(11)); err == nil {
			t.Error("a broken link takes a message")
		}
		_ = l.Close()
		if n := len(a.list()); n != 0 {
			t.Fatalf("%d acknowledged without a PUBACK", n)
		}
	}
}

func TestTheWindowBoundsWhatIsOnTheWay(t *testing.T) {
	m := newMute(t, connAccepted)
	a := newTally()
	l := open(t, uplinkTo(t, m.listener.Addr().String(), func(c *UplinkConfig) { c.Inflight = 3 }), a)
	for seq := uint64(1); seq <= 3; seq++ {
		if err := l.Send(t.Context(), outbound(seq)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := l.Send(ctx, outbound(4)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a fourth message: %v", err)
	}
	ids := []uint16{<-m.read, <-m.read, <-m.read}
	conn := <-m.conns
	if _, err := conn.Write(append(puback(ids[2]), puback(ids[1])...)); err != nil {
		t.Fatal(err)
	}
	if err := l.Send(ctx, outbound(4)); err == nil {
		t.Fatal("the window moved although the first message has no PUBACK")
	}
	if _, err := conn.Write(puback(ids[0])); err != nil {
		t.Fatal(err)
	}
	a.await(t, 3)
	if got := a.list(); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("acknowledged %v", got)
	}
	if err := l.Send(t.Context(), outbound(4)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestABrokerThatSendsWhatNobodyAskedForLosesTheLink(t *testing.T) {
	for name, sent := range map[string][]byte{
		"a PUBLISH":          pub(0, 0, "a", "x"),
		"a huge declaration": {typePuback << 4, 0xff, 0xff, 0xff, 0x7f},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMute(t, connAccepted)
			l := open(t, uplinkTo(t, m.listener.Addr().String(), nil), newTally())
			conn := <-m.conns
			if _, err := conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			<-l.Broken()
			_ = conn.Close()
		})
	}
}

func TestOpenFails(t *testing.T) {
	t.Run("when nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		if _, err := uplinkTo(t, l.Addr().String(), nil).Open(t.Context(), nil); err == nil {
			t.Error("opened")
		}
	})
	t.Run("when the broker refuses", func(t *testing.T) {
		m := newMute(t, connNotAuthorized)
		if _, err := uplinkTo(t, m.listener.Addr().String(), nil).Open(t.Context(), nil); err == nil {
			t.Error("opened")
		}
	})
	t.Run("when the broker does not answer in time", func(t *testing.T) {
		m := newMute(t, 0xff)
		u := uplinkTo(t, m.listener.Addr().String(), func(c *UplinkConfig) { c.ConnectTimeout = 30 * time.Millisecond })
		if _, err := u.Open(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when the password is wrong", func(t *testing.T) {
		_, address := newCloud(t)
		u := uplinkTo(t, address, func(c *UplinkConfig) { c.Username, c.Password = "wrong", "secret" })
		if _, err := u.Open(t.Context(), nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
	})
}

func TestQoS0IsAcknowledgedWhenWritten(t *testing.T) {
	c, address := newCloud(t)
	a := newTally()
	l := open(t, uplinkTo(t, address, func(c *UplinkConfig) { c.QoS = new(0) }), a)
	for seq := uint64(1); seq <= 20; seq++ {
		if err := l.Send(t.Context(), outbound(seq)); err != nil {
			t.Fatal(err)
		}
	}
	a.await(t, 20)
	_ = l.Close() // writes out what it holds
	for late := time.After(patience); !c.has("fleet/v1/x=20"); {
		select {
		case <-c.changed:
		case <-late:
			t.Fatal("the last message did not arrive")
		}
	}
}

func TestAMessageThatFitsNoPublishSaysSo(t *testing.T) {
	_, address := newCloud(t)
	l := open(t, uplinkTo(t, address, nil), newTally())
	o := outbound(1)
	o.Topic = strings.Repeat("x", 65535)
	if err := l.Send(t.Context(), o); !errors.Is(err, gateway.ErrUnsendable) {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsALinkWhoseBrokerDoesNotRead(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conns := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = packets.ReadPacket(conn)
		_, _ = conn.Write(connack(connAccepted))
		conns <- conn
	}()
	link := open(t, uplinkTo(t, l.Addr().String(), nil), newTally())
	conn := <-conns
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	o := &gateway.Outbound{Topic: "v1/x", Payload: make([]byte, 200<<10)}
	for o.Seq = 1; ; o.Seq++ {
		if err := link.Send(ctx, o); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			break
		}
	}
	began := time.Now()
	_ = link.Close()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
}

func TestNothingOfALinkRunsAfterClose(t *testing.T) {
	_, address := newCloud(t)
	r := newRoad(t, address)
	u := uplinkTo(t, r.listener.Addr().String(), nil)
	before := runtime.NumGoroutine()
	for i := range 6 {
		a := newTally()
		l := open(t, u, a)
		if err := l.Send(t.Context(), outbound(1)); err != nil {
			t.Fatal(err)
		}
		a.await(t, 1)
		if i%2 == 0 {
			r.cut()
			<-l.Broken()
		}
		_ = l.Close()
		_ = l.Close() // twice is once
		r.cut()
	}
	settle(t, before)
}
