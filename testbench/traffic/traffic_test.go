package traffic

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/sluice-edge/sluice/testbench/fleet"
)

// broker starts an embedded broker; change sees and may change what is published.
func broker(t *testing.T, change func(pk packets.Packet) (packets.Packet, error)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumClientWritesPending = 1 << 16
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Capabilities: caps})
	if err := s.AddHook(&open{change: change}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewNet("t", l)); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// open lets everybody do everything.
type open struct {
	mochi.HookBase
	change func(pk packets.Packet) (packets.Packet, error)
}

func (o *open) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnPublish && o.change != nil
}

func (o *open) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (o *open) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (o *open) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	return o.change(pk)
}

func config(addr string) Config {
	return Config{
		Devices: []string{addr}, Cloud: addr, Connections: 3, QoS: 1, Window: 64, Size: 600, Seed: 4, Count: 3000, Capacity: 1 << 16,
		Drain: time.Second, Watch: []Process{{"self", os.Getpid()}},
	}
}

func finish(t *testing.T, cfg Config) Report {
	t.Helper()
	r, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestEverythingArrivesAtABroker(t *testing.T) {
	for _, qos := range []byte{0, 1} {
		cfg := config(broker(t, nil))
		cfg.QoS, cfg.CloudQoS = qos, qos
		rep := finish(t, cfg)
		if rep.Sent != 3000 || rep.Arrived != 3000 || rep.Missing != 0 || rep.Lost != 0 || rep.Duplicates != 0 || rep.Strangers != 0 {
			t.Errorf("QoS %d: %+v", qos, rep)
		}
		if want := uint64(qos) * 3000; rep.Acked != want {
			t.Errorf("QoS %d: %d acknowledged, want %d", qos, rep.Acked, want)
		}
		if rep.Leaks < 3000 {
			t.Errorf("QoS %d: %d leaks seen behind a broker that filters nothing", qos, rep.Leaks)
		}
		if rep.BodyBytes < 590 || rep.BodyBytes > 610 || rep.Arrival.P50 <= 0 || rep.ArrivedSecond <= 0 || rep.Processes[0].PeakRSS == 0 {
			t.Errorf("QoS %d: %+v", qos, rep)
		}
	}
}

func TestWhatABrokerLosesIsCounted(t *testing.T) {
	seen := 0
	cfg := config(broker(t, func(pk packets.Packet) (packets.Packet, error) {
		if seen++; seen%100 == 0 {
			return pk, packets.CodeSuccessIgnore // acknowledged, not passed on
		}
		return pk, nil
	}))
	cfg.Connections = 1
	if rep := finish(t, cfg); rep.Lost != 30 || rep.Missing != 30 || rep.Arrived != 2970 {
		t.Errorf("%d lost, %d missing, %d arrived, want 30, 30, 2970", rep.Lost, rep.Missing, rep.Arrived)
	}
}

// TestWhatMustNotArriveIsCountedApart has a broker keep a kind of message to itself, and another pass everything.
func TestWhatMustNotArriveIsCountedApart(t *testing.T) {
	kinds := []fleet.Kind{fleet.Telemetry, fleet.NoKind, fleet.Opaque, fleet.CoreField}
	cfg := config(broker(t, func(pk packets.Packet) (packets.Packet, error) {
		if strings.HasSuffix(pk.TopicName, "/trace") || bytes.Contains(pk.Payload, []byte(fleet.CoreKey)) {
			return pk, packets.CodeSuccessIgnore // acknowledged, not passed on
		}
		return pk, nil
	}))
	cfg.Kinds = kinds
	r, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := r.Wait(); err != nil || rep.Acked != 3000 || rep.Stayed != 1500 || rep.Arrived != 1500 || rep.Lost+rep.Missing+rep.Escaped != 0 {
		t.Errorf("%v %+v", err, rep)
	}
	topic, payload, ok := r.Message(2 * 3) // the third message of the first of three connections
	g, numbered := r.Sequence(payload)
	if kind, acked := r.Kind(6); !ok || !numbered || g != 6 || !strings.HasSuffix(topic, "/trace") || kind != fleet.Opaque || !acked {
		t.Errorf("message 6: %v, number %v %d on %q, %s, acknowledged %v", ok, numbered, g, topic, kind, acked)
	}
	if _, _, ok := r.Message(3000); ok {
		t.Error("a message that was not sent is there")
	}
	cfg = config(broker(t, nil))
	cfg.Kinds = kinds
	if rep := finish(t, cfg); rep.Escaped != 1500 || rep.Arrived != 3000 || rep.Lost != 0 {
		t.Errorf("%+v", rep)
	}
}

func TestWhatABrokerCleansIsNoLeak(t *testing.T) {
	cfg := config(broker(t, func(pk packets.Packet) (packets.Packet, error) {
		g, _ := sequence(pk.Payload)
		pk.Payload = []byte(`{"seq":` + digits(g) + `,"speed":1}`)
		return pk, nil
	}))
	if rep := finish(t, cfg); rep.Leaks != 0 || rep.Arrived != 3000 || len(rep.LeakKinds) != 0 {
		t.Errorf("%d leaks %v, %d arrived", rep.Leaks, rep.LeakKinds, rep.Arrived)
	}
}

func digits(g uint64) string {
	b := (&template{packet: make([]byte, seqDigits)}).appendTo(nil, 0, g+1_000_000_001, false)
	return string(b)
}

func TestARateIsKeptAndAStopHeeded(t *testing.T) {
	cfg := config(broker(t, nil))
	cfg.Rate, cfg.Count, cfg.Times = 2000, 0, true
	r, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for r.Counts().Arrived < 400 {
		<-time.After(time.Millisecond)
	}
	rep, err := r.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if rate := float64(rep.Sent) / rep.Seconds; rate > 2400 {
		t.Errorf("%.0f messages a second, want 2000", rate)
	}
	if rep.Lost != 0 || rep.Acked != rep.Sent {
		t.Errorf("%+v", rep)
	}
	known := uint64(0)
	r.Acknowledged(func(sent, acked time.Time) {
		if known++; acked.Before(sent) || sent.Before(r.started) {
			t.Errorf("sent %v, acknowledged %v", sent.Sub(r.started), acked.Sub(r.started))
		}
	})
	if known != rep.Acked {
		t.Errorf("the times of %d messages are kept, of %d", known, rep.Acked)
	}
}

// TestBrokenConnectionsAreMadeAgain puts a relay before the broker that cuts every connection after some bytes.
func TestBrokenConnectionsAreMadeAgain(t *testing.T) {
	addr := broker(t, nil)
	relay, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	go func() {
		for cuts := 0; ; cuts++ {
			in, err := relay.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", addr)
			if err != nil {
				in.Close()
				return
			}
			limit := int64(200_000)
			if cuts > 8 {
				limit = 1 << 40
			}
			go func() {
				io.CopyN(out, in, limit)
				in.Close()
				out.Close()
			}()
			go io.Copy(in, out)
		}
	}()
	cfg := config(addr)
	cfg.Devices, cfg.Reconnect = []string{relay.Addr().String()}, true
	rep := finish(t, cfg)
	if rep.Acked != 3000 || rep.Lost != 0 || rep.Resent == 0 {
		t.Errorf("%d acknowledged, %d lost, %d sent again", rep.Acked, rep.Lost, rep.Resent)
	}
	cfg.Reconnect = false
	r, err := Start(t.Context(), cfg)
	if err == nil {
		_, err = r.Wait()
	}
	if err != nil {
		t.Errorf("a relay that cuts no more: %v", err)
	}
}

func TestQuantilesAreCloseFromAbove(t *testing.T) {
	h := histogram{}
	for d := time.Duration(0); d < time.Hour; d += d/20 + 500*time.Nanosecond {
		if u := upper(bucket(d)); u < d || float64(u) > float64(d)*1.04+float64(2*time.Microsecond) {
			t.Fatalf("%v is counted below %v", d, u)
		}
		h.add(d)
	}
	if q := h.quantile(1); q < 58*time.Minute || q > 64*time.Minute {
		t.Errorf("largest value is %v", q)
	}
	if (&histogram{}).quantile(0.5) != 0 {
		t.Error("quantile of nothing")
	}
}

// TestADeviceWithNothingOutstandingConnectsAgain breaks a connection on which everything is acknowledged.
func TestADeviceWithNothingOutstandingConnectsAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			in := &link{conn: conn, r: bufio.NewReader(conn)}
			for range 5 { // CONNECT and four messages
				first, err := in.read()
				if err != nil {
					break
				}
				if _, _, id, _ := publication(first, in.buf); first&0xF0 == publish {
					conn.Write([]byte{puback, 2, byte(id >> 8), byte(id)})
				} else {
					conn.Write([]byte{connack, 2, 0, 0})
				}
			}
			conn.Close()
		}
	}()
	cfg := config(l.Addr().String())
	cfg.Cloud, cfg.Connections, cfg.Count, cfg.Window, cfg.Rate, cfg.Reconnect = "", 1, 12, 1, 400, true
	if rep := finish(t, cfg); rep.Acked != 12 {
		t.Errorf("%d of 12 acknowledged", rep.Acked)
	}
}

func TestArrivalsOfAnEarlierRunAreCountedApart(t *testing.T) {
	addr := broker(t, nil)
	cfg := config(addr)
	cfg.Kinds = []fleet.Kind{fleet.Log}
	cfg.First, cfg.Count = 1000, 500
	r, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for r.Counts().Acked < 500 { // both runs have the same clients
		<-time.After(time.Millisecond)
	}
	late := config(addr) // whose messages come while the other run looks
	late.Count, late.Cloud = 1000, ""
	if rep := finish(t, late); rep.Acked != 1000 {
		t.Fatalf("%+v", rep)
	}
	for r.Counts().Earlier < 1000 {
		<-time.After(time.Millisecond)
	}
	rep, err := r.Wait()
	if err != nil || rep.Arrived != 500 || rep.Earlier != 1000 || rep.Lost+rep.Duplicates+rep.Strangers != 0 {
		t.Errorf("%v %+v", err, rep)
	}
}
