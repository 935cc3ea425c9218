//go:build peers

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/sluice-edge/sluice/testbench/stand"
)

const (
	inflight = 256  // of either uplink
	consumed = 6000 // messages of TestCopiesReachTheBrokerAndNotTheApplication
	prefixes = `
  - name: fields
    identity: { mode: field }
    mqtt: { url: "tcp://@CLOUD@", qos: 1, inflight: 256, topic_prefix: "f/" }
  - name: events
    identity: { mode: cloudevents, type: com.example.telemetry }
    mqtt: { url: "tcp://@CLOUD@", qos: 1, inflight: 256, topic_prefix: "c/" }`
	openPolicy = `
  - { match: { grade: [core, important] }, action: block }
  - { match: { personal: true }, action: remove }
  - { match: {}, action: pass }`
)

// TestCopiesReachTheBrokerAndNotTheApplication kills a gateway while it drains, so that messages reach the broker twice,
// and looks at what the example consumers in Go and Node let through, and at what audit reconcile says.
func TestCopiesReachTheBrokerAndNotTheApplication(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	binary := *sluice
	if binary == "" {
		var err error
		binary, err = stand.BuildGate(ctx, dir)
		must(t, err)
	}
	example := filepath.Join(dir, "consumer")
	_, err := stand.Run(ctx, "go", "build", "-o", example, "github.com/sluice-edge/sluice/deploy/consumer/go")
	must(t, err)
	script, err := filepath.Abs("../../deploy/consumer/node/consumer.mjs")
	must(t, err)
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
	must(t, err)
	defer cloud.Kill()
	gate, err := stand.NewGate(ctx, binary, dir, cloud.Addr, map[string]string{"uplinks": prefixes, "policy": openPolicy})
	must(t, err)

	consumers := map[string]*follower{} // by what they write
	for _, mode := range []struct{ name, prefix string }{{"field", "f/"}, {"cloudevents", "c/"}} {
		consumers["go-"+mode.name] = follow(t, dir, "go-"+mode.name, example, "-broker", "tcp://"+cloud.Addr, "-topic", mode.prefix+"#", "-client", "go-"+mode.name,
			"-identity", mode.name, "-window", filepath.Join(dir, "go-"+mode.name+".window"))
		consumers["node-"+mode.name] = follow(t, dir, "node-"+mode.name, "node", script, "--broker", "mqtt://"+cloud.Addr, "--topic", mode.prefix+"#", "--client", "node-"+mode.name,
			"--identity", mode.name, "--window", filepath.Join(dir, "node-"+mode.name+".window"))
		host, port, _ := net.SplitHostPort(cloud.Addr)
		consumers["capture-"+mode.name] = follow(t, dir, "capture-"+mode.name, "mosquitto_sub", "-V", "mqttv311", "-h", host, "-p", port, "-i", "capture-"+mode.name,
			"-q", "1", "-t", mode.prefix+"#", "-F", "%j")
	}
	var arrived atomic.Int64
	watcher := watchBroker(t, cloud.Addr, &arrived)
	defer watcher.Disconnect(0)
	await(t, "every consumer subscribes", func() bool { return subscribed(t, cloud.Child) >= len(consumers)+1 })

	child, err := gate.Start(ctx)
	must(t, err)
	pause(t, cloud, syscall.SIGSTOP) // everything waits in the journal
	publishLines(t, gate.Addr, consumed)
	pause(t, cloud, syscall.SIGCONT)
	kills := []int64{1500, 4500, 7500}
	for _, at := range kills { // of twice as many, one for each uplink
		await(t, "the gateway drains", func() bool { return arrived.Load() >= at })
		child.Kill()
		child, err = gate.Start(ctx)
		must(t, err)
	}
	await(t, "everything is forwarded", func() bool { return waiting(t, gate) == 0 })
	must(t, child.Stop())

	for _, mode := range []string{"field", "cloudevents"} {
		capture := consumers["capture-"+mode]
		await(t, "every copy is captured", capture.quiet)
		ids := map[string]int{}
		for line := range bytes.Lines(capture.read(t)) {
			ids[idIn(t, mode, line)]++
		}
		lines := 0
		for _, n := range ids {
			lines += n
		}
		t.Logf("%s: %d messages, %d copies at the broker", mode, len(ids), lines-len(ids))
		if most := len(kills) * inflight; lines-len(ids) > most {
			t.Errorf("%s: more than %d copies", mode, most)
		}
		if len(ids) != consumed || lines == len(ids) {
			t.Errorf("%s: %d messages reached the broker as %d; want %d, and some of them twice", mode, len(ids), lines, consumed)
		}
		for _, language := range []string{"go-", "node-"} {
			c := consumers[language+mode]
			await(t, language+"consumer takes everything", func() bool { return bytes.Count(c.read(t), []byte("\n")) >= consumed && c.quiet() })
			processed := map[string]int{}
			for line := range bytes.Lines(c.read(t)) {
				var l struct{ ID string }
				must(t, json.Unmarshal(line, &l))
				processed[l.ID]++
			}
			twice := 0
			for id, n := range processed {
				if ids[id] == 0 {
					t.Errorf("%s%s processed a message that the broker did not have", language, mode)
				}
				twice += n - 1
			}
			if twice != 0 || len(processed) != consumed {
				t.Errorf("%s%s processed %d messages, %d of them more than once", language, mode, len(processed), twice)
			}
			must(t, c.Stop())
		}
		uplink := map[string]string{"field": "fields", "cloudevents": "events"}[mode]
		out, err := gate.Verb(ctx, "audit", "reconcile", "--uplink", uplink, "--json", capture.file)
		var r struct {
			OK                            bool
			Captured, Matched, Duplicates int
		}
		if must(t, err); json.Unmarshal(out, &r) != nil || !r.OK || r.Matched != consumed || r.Duplicates != lines-consumed {
			t.Errorf("audit reconcile: %s", out)
		}
		capture.Kill()
	}
}

// follower is a consumer that runs, and what it wrote.
type follower struct {
	*stand.Child
	file string
	size int64
	at   time.Time
}

// follow starts a program with its standard output in dir/name.out.
func follow(t *testing.T, dir, name, program string, args ...string) *follower {
	t.Helper()
	f := &follower{file: filepath.Join(dir, name+".out")}
	shell := append([]string{"-c", `out=$1; shift; exec "$@" > "$out"`, "follow", f.file, program}, args...)
	var err error
	f.Child, err = stand.Spawn(dir, name, "sh", shell...)
	must(t, err)
	t.Cleanup(f.Child.Kill)
	return f
}

func (f *follower) read(t *testing.T) []byte {
	b, err := os.ReadFile(f.file)
	must(t, err)
	return b[:bytes.LastIndexByte(b, '\n')+1]
}

// quiet reports whether nothing was written for a while.
func (f *follower) quiet() bool {
	info, err := os.Stat(f.file)
	if err != nil {
		return false
	}
	if info.Size() != f.size || f.at.IsZero() {
		f.size, f.at = info.Size(), time.Now()
	}
	return time.Since(f.at) > time.Second
}

// await waits up to two minutes for what the other processes do.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within two minutes", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// subscribed counts the clients that the broker says have connected, besides probes.
func subscribed(t *testing.T, broker *stand.Child) (n int) {
	t.Helper()
	b, err := os.ReadFile(broker.Log)
	must(t, err)
	for _, name := range []string{"go-field", "go-cloudevents", "node-field", "node-cloudevents", "capture-field", "capture-cloudevents", "watcher"} {
		if bytes.Contains(b, []byte("as "+name+" (")) {
			n++
		}
	}
	return n
}

func watchBroker(t *testing.T, addr string, arrived *atomic.Int64) paho.Client {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("watcher").SetOrderMatters(false).SetKeepAlive(time.Hour))
	if token := c.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal("connect watcher:", token.Error())
	}
	if token := c.Subscribe("#", 0, func(paho.Client, paho.Message) { arrived.Add(1) }); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal("subscribe watcher:", token.Error())
	}
	return c
}

// pause stops a broker as a whole, or lets it go on.
func pause(t *testing.T, b *stand.Broker, signal syscall.Signal) {
	t.Helper()
	must(t, syscall.Kill(b.PID(), signal))
}

// publishLines publishes n small messages and waits for their acknowledgements.
func publishLines(t *testing.T, addr string, n int) {
	t.Helper()
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, `{"seq":%d,"speed":%d.%d0}`+"\n", i, i%120, i%10)
	}
	host, port, _ := net.SplitHostPort(addr)
	cmd := exec.CommandContext(t.Context(), "mosquitto_pub", "-V", "mqttv311", "-h", host, "-p", port, "-i", "car-7", "-q", "1", "-t", "v1/car-7/telemetry", "-l")
	cmd.Stdin = strings.NewReader(lines.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
}

// waiting is what the running gateway says waits.
func waiting(t *testing.T, gate *stand.Gate) int {
	t.Helper()
	out, err := gate.Verb(t.Context(), "journal", "stat", "--json")
	must(t, err)
	var stat struct {
		Uplinks map[string]struct{ Messages int }
	}
	must(t, json.Unmarshal(out, &stat))
	n := 0
	for _, u := range stat.Uplinks {
		n += u.Messages
	}
	return n
}

// idIn takes the id out of a line of mosquitto_sub -F %j.
func idIn(t *testing.T, mode string, line []byte) string {
	t.Helper()
	var l struct{ Payload string }
	must(t, json.Unmarshal(line, &l))
	var m map[string]json.RawMessage
	must(t, json.Unmarshal([]byte(l.Payload), &m))
	var id string
	must(t, json.Unmarshal(m[map[string]string{"field": "_sluice_id", "cloudevents": "id"}[mode]], &id))
	if len(id) != 32 || slices.ContainsFunc([]byte(id), func(c byte) bool { return c > 'f' }) {
		t.Fatal("a message without an id")
	}
	return id
}

// TestTheConsumerInNode runs its unit tests.
func TestTheConsumerInNode(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "node", "--test")
	cmd.Dir = "../../deploy/consumer/node"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("node --test: %v\n%s", err, out)
	}
}
