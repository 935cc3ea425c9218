//go:build peers

package mqtt

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// These tests speak with programs that must be installed: mosquitto, mosquitto_pub, mosquitto_sub, and node with npm's
// mqtt in NODE_PATH.

// run starts a program, waits for it and returns what it printed.
func run(t testing.TB, input string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func port(r *running) string {
	_, p, _ := net.SplitHostPort(r.Addr().String())
	return p
}

// mosquitto starts a broker and returns its address.
func mosquitto(t testing.TB, lines ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, p, _ := net.SplitHostPort(address)
	text := "listener " + p + " 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n" + strings.Join(lines, "\n") + "\n"
	cmd := exec.Command("mosquitto", "-c", writeFile(t, "mosquitto.conf", text))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for late := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return address
		}
		if time.Now().After(late) {
			t.Fatal(err)
		}
	}
}

func TestMosquittoPubPublishes(t *testing.T) {
	for _, qos := range []string{"0", "1"} {
		gate := newGate()
		r := start(t, bench(nil), gate)
		var lines, want []string
		for i := range 2000 {
			lines = append(lines, fmt.Sprint("line ", i))
			want = append(want, fmt.Sprint("v1/pub/x=line ", i))
		}
		if out, err := run(t, strings.Join(lines, "\n")+"\n", "mosquitto_pub", "-p", port(r), "-q", qos, "-t", "v1/pub/x", "-l"); err != nil {
			t.Fatal(err, out)
		}
		gate.awaitMessages(t, len(want))
		gate.set(func() {
			if !slices.Equal(gate.messages, want) {
				t.Errorf("QoS %s: messages differ", qos)
			}
		})
	}
}

func TestMosquittoPubLearnsOfRefusals(t *testing.T) {
	gate := newGate()
	r := start(t, bench(func(c *SourceConfig) { c.Allow = []AllowRule{{Client: "vgw-*", Publish: []string{"v1/#"}}} }), gate)
	out, err := run(t, "", "mosquitto_pub", "-p", port(r), "-i", "other", "-t", "v1/x", "-m", "x")
	if err == nil || !strings.Contains(out, "not authorised") {
		t.Errorf("client not permitted: %v %s", err, out)
	}
	if out, err := run(t, "", "mosquitto_pub", "-p", port(r), "-i", "vgw-1", "-q", "1", "-t", "v2/x", "-m", "x"); err == nil {
		t.Errorf("topic not permitted: exit status 0, %s", out)
	}
	out, err = run(t, "", "mosquitto_pub", "-p", port(r), "-i", "vgw-1", "-V", "5", "-t", "v1/x", "-m", "x")
	if err == nil {
		t.Errorf("MQTT 5: exit status 0, %s", out)
	}
	gate.awaitRefused(t, gateway.RefusedUnsupported, 1)
	out, err = run(t, "", "mosquitto_sub", "-p", port(r), "-i", "vgw-1", "-t", "v1/#", "-W", "5")
	if !strings.Contains(out, "denied") {
		t.Errorf("mosquitto_sub: %v %s", err, out)
	}
}

func TestMosquittoPubOverTLS(t *testing.T) {
	a := newAuthority(t)
	gate := newGate()
	r := start(t, secure(t, a, nil), gate)
	cert, key := a.issue(t, "vgw-1")
	for _, version := range []string{"tlsv1.2", "tlsv1.3"} {
		if out, err := run(t, "", "mosquitto_pub", "-h", "127.0.0.1", "-p", port(r), "--cafile", a.file, "--cert", cert, "--key", key,
			"--tls-version", version, "-i", "vgw-1", "-q", "1", "-t", "v1/tls/x", "-m", version); err != nil {
			t.Fatal(version, err, out)
		}
	}
	gate.set(func() {
		if !slices.Equal(gate.messages, []string{"v1/tls/x=tlsv1.2", "v1/tls/x=tlsv1.3"}) {
			t.Errorf("admitted %q", gate.messages)
		}
	})
	if _, err := run(t, "", "mosquitto_pub", "-h", "127.0.0.1", "-p", port(r), "--cafile", a.file, "-i", "vgw-1", "-q", "1", "-t", "v1/tls/x", "-m", "x"); err == nil {
		t.Error("publishes without a certificate")
	}
}

func TestMosquittoPubLogsIn(t *testing.T) {
	hash, err := HashPassword("right")
	if err != nil {
		t.Fatal(err)
	}
	gate := newGate()
	file := writeFile(t, "users", "li:"+hash+"\n")
	r := start(t, bench(func(c *SourceConfig) { c.Anonymous, c.UsersFile = false, file }), gate)
	if out, err := run(t, "", "mosquitto_pub", "-p", port(r), "-u", "li", "-P", "right", "-q", "1", "-t", "v1/x", "-m", "x"); err != nil {
		t.Fatal(err, out)
	}
	if _, err := run(t, "", "mosquitto_pub", "-p", port(r), "-u", "li", "-P", "wrong", "-q", "1", "-t", "v1/x", "-m", "x"); err == nil {
		t.Error("a wrong password passes")
	}
}

func TestNpmMqttPublishes(t *testing.T) {
	gate := newGate()
	r := start(t, bench(nil), gate)
	out, err := run(t, "", "node", "testdata/peers/publish.js", "mqtt://127.0.0.1:"+port(r), "2000")
	if err != nil || strings.TrimSpace(out) != "2000" {
		t.Fatal(err, out)
	}
	gate.set(func() {
		for i, m := range gate.messages {
			if m != fmt.Sprint("v1/npm/x=", i) {
				t.Fatalf("place %d holds %q", i, m)
			}
		}
		if len(gate.messages) != 2000 {
			t.Errorf("%d messages", len(gate.messages))
		}
	})
}

func TestMosquittoSubReceivesWhatTheUplinkSends(t *testing.T) {
	address := mosquitto(t)
	_, p, _ := net.SplitHostPort(address)
	a := newTally()
	u := uplinkTo(t, address, nil)
	l := open(t, u, a)
	if err := l.Send(t.Context(), &gateway.Outbound{Seq: 1, Topic: "kept", Payload: []byte("kept"), Retain: true}); err != nil {
		t.Fatal(err)
	}
	a.await(t, 1)
	const n = 1000
	sub := exec.Command("mosquitto_sub", "-p", p, "-q", "1", "-t", "fleet/#", "-C", fmt.Sprint(n+1), "-W", "20")
	pipe, err := sub.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(pipe)
	if !in.Scan() || in.Text() != "kept" { // the retained message shows that it has subscribed
		t.Fatalf("first line %q", in.Text())
	}
	for seq := uint64(2); seq <= n+1; seq++ {
		if err := l.Send(t.Context(), outbound(seq)); err != nil {
			t.Fatal(err)
		}
	}
	for seq := 2; seq <= n+1; seq++ {
		if !in.Scan() || in.Text() != fmt.Sprint(seq) {
			t.Fatalf("line %d is %q", seq, in.Text())
		}
	}
	if err := sub.Wait(); err != nil {
		t.Error(err)
	}
	a.await(t, n+1)
}

func BenchmarkUplinkToMosquitto(b *testing.B) {
	address := mosquitto(b)
	for _, window := range []int{1, 64, 256, 1024} {
		b.Run(fmt.Sprint(window), func(b *testing.B) {
			a := newTally()
			l := open(b, uplinkTo(b, address, func(c *UplinkConfig) { c.Inflight = window }), a)
			payload := make([]byte, 1<<10)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n++
				if err := l.Send(b.Context(), &gateway.Outbound{Seq: uint64(n), Topic: "v1/LSVAA49J132037048/gnss", Payload: payload}); err != nil {
					b.Fatal(err)
				}
			}
			a.await(b, n)
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
