package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

func TestNoPubackBeforeTheTicketIsDone(t *testing.T) {
	gate := newGate()
	gate.hold = true
	d := start(t, bench(nil), gate).connected(t, "a")
	d.write(pub(1, 1, "v1/x", "one"))
	gate.awaitMessages(t, 1)
	d.ping()
	gate.release(0, nil)
	d.expect(puback(1))
}

func TestPubacksKeepTheOrderOfPublish(t *testing.T) {
	gate := newGate()
	gate.hold = true
	d := start(t, bench(nil), gate).connected(t, "a")
	for i := range 3 {
		d.write(pub(1, uint16(10+i), "v1/x", fmt.Sprint(i)))
		gate.await(t, "a ticket each", func() bool { return len(gate.tickets) == i+1 })
	}
	gate.release(2, nil)
	gate.release(1, nil)
	d.ping()
	gate.release(0, nil)
	d.expect(puback(10), puback(11), puback(12))
}

func TestATicketWithAnErrorEndsTheConnectionWithoutPuback(t *testing.T) {
	gate := newGate()
	gate.hold = true
	r := start(t, bench(nil), gate)
	d := r.connected(t, "a")
	d.write(pub(1, 1, "v1/x", "one"))
	gate.awaitMessages(t, 1)
	gate.release(0, errors.New("disk gone"))
	d.expectEnd()
}

func TestAnAdmitWithAnErrorEndsTheConnectionWithoutPuback(t *testing.T) {
	gate := newGate()
	gate.refuse = errors.New("closed")
	d := start(t, bench(nil), gate).connected(t, "a")
	d.write(pub(0, 0, "v1/x", "zero"), pub(1, 1, "v1/x", "one"))
	d.expectEnd()
	gate.awaitRefused(t, gateway.RefusedFull, 1)
}

func TestWhatOneReadBringsIsOneBatch(t *testing.T) {
	gate := newGate()
	d := start(t, bench(nil), gate).connected(t, "a")
	var frames, acks [][]byte
	for i := range 200 {
		frames = append(frames, pub(1, uint16(i+1), "v1/x", "p"))
		acks = append(acks, puback(uint16(i+1)))
	}
	d.write(frames...)
	d.expect(acks...)
	gate.set(func() {
		if len(gate.tickets) > 20 {
			t.Errorf("200 messages of one write became %d batches", len(gate.tickets))
		}
	})
}

func TestPayloadsOfEverySizeArriveWhole(t *testing.T) {
	gate := newGate()
	d := start(t, bench(nil), gate).connected(t, "a")
	var want []string
	go func() {
		for i, n := range []int{0, 1, 4000, 4090, 4096, 5000, 16384, 20000, 65536, 100_000, 262_000, 3} {
			d.conn.Write(pub(1, uint16(i+1), "v1/x", strings.Repeat(string(rune('a'+i)), n)))
		}
	}()
	for i, n := range []int{0, 1, 4000, 4090, 4096, 5000, 16384, 20000, 65536, 100_000, 262_000, 3} {
		d.expect(puback(uint16(i + 1)))
		want = append(want, "v1/x="+strings.Repeat(string(rune('a'+i)), n))
	}
	gate.set(func() {
		if !slices.Equal(gate.messages, want) {
			t.Error("payloads differ")
		}
	})
}

func TestReadingStopsWhenTheWindowIsFull(t *testing.T) {
	gate := newGate()
	gate.hold = true
	d := start(t, bench(func(c *SourceConfig) { c.Window = 4 }), gate).connected(t, "a")
	var acks [][]byte
	for i := range 10 {
		d.write(pub(1, uint16(i+1), "v1/x", fmt.Sprint(i)))
		acks = append(acks, puback(uint16(i+1)))
	}
	settled := 0 // messages whose ticket is done
	for n := 0; settled < 10; n++ {
		gate.await(t, "another ticket", func() bool { return len(gate.tickets) > n })
		gate.set(func() {
			if inHand := len(gate.messages) - settled; inHand > 4 {
				t.Errorf("%d messages in hand, window is 4", inHand)
			}
			settled += gate.tickets[n].messages
		})
		gate.release(n, nil)
	}
	d.expect(acks...)
	d.ping()
}

func TestWhenFullQoS0IsRefusedAndQoS1TakenIn(t *testing.T) {
	gate := newGate()
	gate.full, gate.hold = true, true
	d := start(t, bench(nil), gate).connected(t, "a")
	d.write(pub(0, 0, "v1/x", "zero"), pub(1, 1, "v1/x", "one"), pub(0, 0, "v1/x", "two"))
	gate.awaitMessages(t, 1)
	gate.awaitRefused(t, gateway.RefusedFull, 2)
	d.ping()
	gate.release(0, nil)
	d.expect(puback(1))
	gate.set(func() {
		if !slices.Equal(gate.messages, []string{"v1/x=one"}) {
			t.Errorf("admitted %q", gate.messages)
		}
	})
}

func TestARepetitionInTheWindowIsAdmittedOnceAndAcknowledgedOnce(t *testing.T) {
	gate := newGate()
	gate.hold = true
	d := start(t, bench(nil), gate).connected(t, "a")
	d.write(pub(1, 5, "v1/x", "one"))
	gate.awaitMessages(t, 1)
	d.write(encodePublish(publish{qos: 1, id: 5, dup: true, topic: []byte("v1/x"), payload: []byte("one")}))
	d.ping()
	gate.release(0, nil)
	d.expect(puback(5))
	d.ping()
	d.write(pub(1, 5, "v1/x", "two")) // the identifier is free again
	gate.awaitMessages(t, 2)
	gate.release(1, nil)
	d.expect(puback(5))
}

func TestAnIdentifierInUseWithoutDupEndsTheConnection(t *testing.T) {
	gate := newGate()
	gate.hold = true
	d := start(t, bench(func(c *SourceConfig) { c.DrainTimeout = time.Millisecond }), gate).connected(t, "a")
	d.write(pub(1, 5, "v1/x", "one"))
	gate.awaitMessages(t, 1)
	d.write(pub(1, 5, "v1/x", "two"))
	d.expectEnd()
	gate.awaitRefused(t, gateway.RefusedMalformed, 1)
}

func TestAStoppingSourceAcknowledgesWhatIsInHand(t *testing.T) {
	gate := newGate()
	gate.hold = true
	r := start(t, bench(nil), gate)
	d := r.connected(t, "a")
	d.write(pub(1, 1, "v1/x", "one"))
	gate.awaitMessages(t, 1)
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.stop() }()
	for r.Addr() != nil { // the listener is closed first
		runtime.Gosched()
	}
	select {
	case <-stopped:
		t.Fatal("stopped with a message in hand")
	default:
	}
	gate.release(0, nil)
	d.expect(puback(1))
	d.expectEnd()
	<-stopped
}

func TestAStoppingSourceDoesNotWaitForEver(t *testing.T) {
	gate := newGate()
	gate.hold = true
	r := start(t, bench(func(c *SourceConfig) { c.DrainTimeout = 10 * time.Millisecond }), gate)
	d := r.connected(t, "a")
	d.write(pub(1, 1, "v1/x", "one"))
	gate.awaitMessages(t, 1)
	r.stop()
	d.expectEnd()
}

func TestAStoppingSourceLeavesABlockedAdmit(t *testing.T) {
	gate := newGate()
	gate.block = make(chan struct{})
	r := start(t, bench(nil), gate)
	d := r.connected(t, "a")
	d.write(pub(1, 1, "v1/x", "one"))
	r.stop()
	d.expectEnd()
}

func TestASecondConnectionTakesTheClientIDOver(t *testing.T) {
	gate := newGate()
	gate.hold = true
	r := start(t, bench(nil), gate)
	first := r.connected(t, "a")
	first.write(pub(1, 1, "v1/x", "one"))
	gate.awaitMessages(t, 1)
	second := r.connected(t, "a")
	first.expectEnd()
	second.write(encodePublish(publish{qos: 1, id: 1, dup: true, topic: []byte("v1/x"), payload: []byte("one")}))
	gate.awaitMessages(t, 2) // a repetition on another connection is admitted again
	gate.release(0, nil)
	second.ping()
	gate.release(1, nil)
	second.expect(puback(1))
}

func TestATakeoverEndsABlockedAdmit(t *testing.T) {
	gate := newGate()
	gate.block = make(chan struct{})
	r := start(t, bench(nil), gate)
	first := r.connected(t, "a")
	first.write(pub(1, 1, "v1/x", "one"))
	r.connected(t, "a")
	first.expectEnd()
}

func TestWhatTheGateDoesNotSpeakFailsVisibly(t *testing.T) {
	v5 := frameOf(typeConnect<<4, field([]byte("MQTT")), []byte{5, 2, 0, 60, 0}, field([]byte("a")))
	v3 := frameOf(typeConnect<<4, field([]byte("MQIsdp")), []byte{3, 2, 0, 60}, field([]byte("a")))
	v6 := frameOf(typeConnect<<4, field([]byte("MQTT")), []byte{6, 2, 0, 60}, field([]byte("a")))
	ok := encodeConnect(connect{cleanSession: true, client: []byte("a")})
	for _, c := range []struct {
		name    string
		sent    []byte
		answer  []byte
		refused gateway.Refusal
	}{
		{"MQTT 5 is refused in its own form", v5, connackLevel5, gateway.RefusedUnsupported},
		{"MQTT 3.1 is refused with code 1", v3, connack(connBadVersion), gateway.RefusedUnsupported},
		{"an unknown level is refused with code 1", v6, connack(connBadVersion), gateway.RefusedUnsupported},
		{"no client id and no clean session is refused with code 2", encodeConnect(connect{}), connack(connBadIdentifier), gateway.RefusedMalformed},
		{"a very long client id is refused with code 2", encodeConnect(connect{client: bytes.Repeat([]byte("a"), 300)}), connack(connBadIdentifier), gateway.RefusedNotPermitted},
		{"another packet before CONNECT ends the connection", pub(0, 0, "a", "x"), nil, gateway.RefusedMalformed},
		{"a second CONNECT ends the connection", slices.Concat(ok, ok), connack(0), gateway.RefusedMalformed},
		{"a PUBLISH of QoS 2 ends the connection", slices.Concat(ok, pub(2, 1, "a", "x")), connack(0), gateway.RefusedUnsupported},
		{"a packet over the limit ends the connection", slices.Concat(ok, []byte{0x30, 0x81, 0x80, 0x10}), connack(0), gateway.RefusedTooLarge},
		{"a malformed packet ends the connection", slices.Concat(ok, []byte{0x36, 3, 0, 1, 'a'}), connack(0), gateway.RefusedMalformed},
		{"a reserved topic ends the connection", slices.Concat(ok, pub(1, 1, "a/$sluice/status", "x")), connack(0), gateway.RefusedNotPermitted},
		{"a topic with a control character ends the connection", slices.Concat(ok, pub(1, 1, "v1/a\u0085b", "x")), connack(0), gateway.RefusedMalformed},
		{"a topic with a noncharacter ends the connection", slices.Concat(ok, pub(1, 1, "v1/\U0001FFFE", "x")), connack(0), gateway.RefusedMalformed},
		{"a topic of many levels ends the connection", slices.Concat(ok, pub(1, 1, "v1"+strings.Repeat("/a", 128), "x")), connack(0), gateway.RefusedMalformed},
		{"a very long topic ends the connection", slices.Concat(ok, pub(1, 1, strings.Repeat("a", 4097), "x")), connack(0), gateway.RefusedMalformed},
		{"a topic of servers ends the connection", slices.Concat(ok, pub(1, 1, "$SYS/x", "x")), connack(0), gateway.RefusedNotPermitted},
	} {
		t.Run(c.name, func(t *testing.T) {
			gate := newGate()
			d := start(t, bench(nil), gate).device(t)
			d.write(c.sent)
			d.expect(c.answer)
			d.expectEnd()
			gate.awaitRefused(t, c.refused, 1)
			gate.set(func() {
				if len(gate.messages) != 0 {
					t.Errorf("admitted %q", gate.messages)
				}
			})
		})
	}
}

func TestWhatStandsInFrontOfABadFrameIsTakenInAndAcknowledged(t *testing.T) {
	gate := newGate()
	d := start(t, bench(nil), gate).connected(t, "a")
	d.write(pub(1, 1, "v1/x", "good"), []byte{0x36, 0})
	d.expect(puback(1))
	d.expectEnd()
}

func TestAWillIsAcceptedAndNeverPublished(t *testing.T) {
	gate := newGate()
	r := start(t, bench(nil), gate)
	d := r.device(t)
	d.write(encodeConnect(connect{cleanSession: true, client: []byte("a"), will: true, willTopic: []byte("v1/will"), willMessage: []byte("gone")}))
	d.expect(connack(connAccepted))
	d.conn.Close()
	r.connected(t, "b").ping()
	r.stop()
	gate.set(func() {
		if len(gate.messages) != 0 {
			t.Errorf("admitted %q", gate.messages)
		}
	})
	if !strings.Contains(r.log.String(), "will ignored") {
		t.Error("nothing logged about the will")
	}
}

func TestSubscribeIsRefusedAndTheConnectionStays(t *testing.T) {
	gate := newGate()
	d := start(t, bench(nil), gate).connected(t, "a")
	d.write([]byte{0x82, 0x0c, 0, 2, 0, 1, 'a', 1, 0, 3, 'b', '/', '#', 0})
	d.expect([]byte{0x90, 4, 0, 2, 0x80, 0x80})
	d.write([]byte{0xa2, 5, 0, 3, 0, 1, 'a'})
	d.expect([]byte{0xb0, 2, 0, 3})
	d.ping()
	d.write([]byte{typeDisconnect << 4, 0})
	d.expectEnd()
}

func TestAClientWithoutAnIDGetsOne(t *testing.T) {
	gate := newGate()
	r := start(t, bench(nil), gate)
	for range 2 {
		r.connected(t, "").write(pub(0, 0, "v1/x", "x"))
	}
	gate.awaitMessages(t, 2)
	gate.set(func() {
		if len(gate.clients) != 2 {
			t.Errorf("two clients share an id: %v", gate.clients)
		}
	})
}

func TestRulesSayWhoMayPublishWhat(t *testing.T) {
	config := bench(func(c *SourceConfig) {
		c.Allow = []AllowRule{{Client: "vgw-*", Publish: []string{"v1/+/gnss/#"}}, {Client: "vgw-7*", Publish: []string{"v1/debug"}}}
	})
	gate := newGate()
	r := start(t, config, gate)
	d := r.device(t)
	d.write(encodeConnect(connect{cleanSession: true, client: []byte("phone-of-li")}))
	d.expect(connack(connNotAuthorized))
	d.expectEnd()
	gate.awaitRefused(t, gateway.RefusedNotPermitted, 1)

	d = r.connected(t, "vgw-7")
	d.write(pub(1, 1, "v1/LSVAA/gnss", "x"), pub(1, 2, "v1/debug", "y"))
	d.expect(puback(1), puback(2))
	for i, topic := range []string{"v1/LSVAA/phone/13800138000", "v1/LSVBB/phone/13900139000"} {
		d = r.connected(t, "vgw-8")
		d.write(pub(1, 1, topic, "x"))
		d.expectEnd()
		gate.awaitRefused(t, gateway.RefusedNotPermitted, 2+i)
	}
	r.stop()
	log := r.log.String()
	if n := strings.Count(log, `publish: [\"v1/+/phone/+\"]`); n != 1 {
		t.Errorf("the line that would allow the topic is logged %d times:\n%s", n, log)
	}
	for _, name := range []string{"LSVAA", "13800138000", "phone-of-li", "vgw-8"} {
		if strings.Contains(log, name) {
			t.Errorf("log holds %q, which a device chose", name)
		}
	}
}

func TestSilenceBeyondTheKeepAliveEndsTheConnection(t *testing.T) {
	gate := newGate()
	r := start(t, bench(func(c *SourceConfig) { c.KeepAliveMax = 20 * time.Millisecond }), gate)
	r.connected(t, "a").expectEnd()
}

func TestATrickledPacketEndsTheConnection(t *testing.T) {
	gate := newGate()
	d := start(t, bench(func(c *SourceConfig) { c.FrameTimeout = 100 * time.Millisecond }), gate).connected(t, "a")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.expectEnd()
	}()
	d.conn.Write([]byte{0x30, 100, 0, 1, 'a'})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.conn.Write([]byte{'x'}) // fails once the gate has closed
		case <-ended:
			gate.set(func() {
				if len(gate.messages) != 0 {
					t.Error("a trickled packet was admitted")
				}
			})
			return
		}
	}
}

func TestAConnectionWithoutConnectEnds(t *testing.T) {
	gate := newGate()
	d := start(t, bench(func(c *SourceConfig) { c.ConnectTimeout = 50 * time.Millisecond }), gate).device(t)
	d.write([]byte{0x10, 100, 0, 4, 'M', 'Q'})
	d.expectEnd()
}

func TestConnectionsBeyondTheLimitAreClosed(t *testing.T) {
	gate := newGate()
	r := start(t, bench(func(c *SourceConfig) { c.MaxConnections = 2 }), gate)
	a := r.connected(t, "a")
	r.connected(t, "b")
	r.device(t).expectEnd()
	a.write([]byte{typeDisconnect << 4, 0})
	a.expectEnd()
	for { // the place is free once the session has ended
		conn, err := net.Dial("tcp", r.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		d := newDevice(t, conn)
		conn.Write(encodeConnect(connect{cleanSession: true, client: []byte("c")}))
		if b, err := d.in.ReadByte(); err == nil && b == typeConnack<<4 {
			return
		}
	}
}

// brittle is a listener whose first Accepts fail as they do when too many files are open.
type brittle struct {
	net.Listener
	mu   sync.Mutex
	left int
}

func (b *brittle) Accept() (net.Conn, error) {
	b.mu.Lock()
	fail := b.left > 0
	b.left--
	b.mu.Unlock()
	if fail {
		return nil, &net.OpError{Op: "accept", Err: errors.New("too many open files")}
	}
	return b.Listener.Accept()
}

func TestTheSourceSurvivesTooManyOpenFiles(t *testing.T) {
	gate := newGate()
	s, err := NewSource("bench", bench(nil), discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	s.listener = &brittle{Listener: s.listener, left: 3}
	r := runSource(t, s, gate)
	r.connected(t, "a").ping()
}

func TestManyDevicesAtOnceKeepTheirOrder(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	const devices, messages = 16, 300
	gate := newGate()
	r := start(t, bench(nil), gate)
	var all sync.WaitGroup
	for n := range devices {
		d := r.connected(t, fmt.Sprint("d", n))
		all.Go(func() {
			for i := range messages {
				d.conn.Write(pub(1, uint16(i+1), fmt.Sprintf("v1/d%d/x", n), fmt.Sprint(i)))
			}
		})
		all.Go(func() {
			for i := range messages {
				d.expect(puback(uint16(i + 1)))
			}
		})
	}
	all.Wait()
	next := map[string]int{}
	gate.set(func() {
		for _, m := range gate.messages {
			topic, payload, _ := strings.Cut(m, "=")
			if payload != fmt.Sprint(next[topic]) {
				t.Fatalf("%s: payload %s, want %d", topic, payload, next[topic])
			}
			next[topic]++
		}
	})
	if len(next) != devices {
		t.Errorf("%d devices seen", len(next))
	}
}

func TestNothingOfASourceRunsAfterRun(t *testing.T) {
	before := runtime.NumGoroutine()
	gate := newGate()
	gate.hold = true
	r := start(t, bench(func(c *SourceConfig) { c.DrainTimeout = time.Millisecond }), gate)
	r.connected(t, "a").write(pub(1, 1, "v1/x", "held"))
	r.connected(t, "b")
	r.device(t)
	gate.awaitMessages(t, 1)
	r.stop()
	settle(t, before)
}
