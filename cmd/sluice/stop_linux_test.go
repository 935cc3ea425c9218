package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// stopPromise is how long a gateway may take from SIGTERM to its end; a machine that does other things at the same time
// gets stopSlack beside it.
const (
	stopPromise = 2 * time.Second
	stopSlack   = time.Second
)

// condition is a state in which a gateway is told to stop.
type condition struct {
	name     string
	absent   bool   // nobody listens at the uplink's address
	stalled  bool   // the uplink's address takes connections and never says a word
	silent   bool   // the cloud acknowledges nothing
	journal  string // section of the configuration
	backlog  string // max_backlog of the uplink
	load     int    // devices that publish as fast as they can
	deaf     bool   // and read no acknowledgement
	position bool   // every message goes through the plugin and is encrypted
	readOnly bool   // the disk takes nothing any more
}

func TestSigtermEndsInACleanState(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program a few times")
	}
	for _, c := range []condition{
		{name: "idle"},
		{name: "full load", load: 4},
		{name: "the uplink is not there", absent: true, load: 2},
		{name: "the uplink takes connections and says nothing", stalled: true, load: 2},
		{name: "the uplink acknowledges nothing", silent: true, load: 2},
		{name: "the committer lingers", journal: "{ linger: 1s }", load: 1},
		{name: "devices read no acknowledgement", load: 2, deaf: true},
		{name: "the plugin is at work", load: 4, position: true},
		{name: "the journal is full", absent: true, backlog: "256KiB", load: 2},
		{name: "the disk refuses to write", load: 2, readOnly: true},
	} {
		t.Run(c.name, func(t *testing.T) { c.stop(t) })
	}
}

// stop starts the program, lets it come into the condition, ends it and looks at what it left.
func (c *condition) stop(t *testing.T) {
	binary, err := exec.LookPath("sluice") // this test, as the program: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	gate, err := stand.NewGate(t.Context(), binary, dir, c.cloud(t), c.sections())
	if err != nil {
		t.Fatal(err)
	}
	child, err := gate.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer child.Kill()
	ctx, endLoad := context.WithCancel(t.Context())
	defer endLoad()
	under := make(chan struct{}, c.load)
	for i := range c.load {
		go c.publish(ctx, gate.Addr, i, under)
	}
	for range c.load {
		select {
		case <-under:
		case <-time.After(20 * time.Second):
			t.Fatal("the load does not get going")
		}
	}
	if c.readOnly {
		limitFiles(t, child.PID())
		time.Sleep(200 * time.Millisecond) // for a commit to fail
	}
	took, err := child.Stopped()
	t.Logf("ended after %.2f s", took.Seconds())
	if took > stopPromise+stopSlack {
		t.Errorf("ended after %v; log: %s", took, child.Tail())
	}
	endLoad()
	if err != nil && !c.readOnly {
		t.Errorf("%v: %s", err, child.Tail())
	}
	c.check(t, gate)
}

func (c *condition) sections() map[string]string {
	list := map[string]string{}
	if c.journal != "" {
		list["journal"] = c.journal
	}
	if c.backlog != "" {
		list["uplinks"] = `[{ name: tsp, recipient: R, jurisdiction: CN, purpose: p, legal_basis: contract, max_backlog: ` + c.backlog + `, mqtt: { url: "tcp://@CLOUD@" } }]`
	}
	return list
}

// limitFiles lets no file of a process grow: writes behind its present end fail, as on a disk that is full.
func limitFiles(t *testing.T, pid int) {
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4096, Max: 4096}, nil); err != nil {
		t.Fatal(err)
	}
}

// check reads every file and closes the account.
func (c *condition) check(t *testing.T, gate *stand.Gate) {
	if out, err := gate.Verb(t.Context(), "journal", "check"); err != nil {
		t.Errorf("journal check: %v %s", err, out)
	}
	out, err := gate.Verb(t.Context(), "journal", "stat", "--json")
	var stat struct {
		Totals struct{ Identity bool }
	}
	if err != nil || json.Unmarshal(out, &stat) != nil || !stat.Totals.Identity {
		t.Errorf("journal stat: %v %s", err, out)
	}
	if out, err := gate.Verb(t.Context(), "audit", "verify", "--json"); err != nil || !c.readOnly && !bytes.Contains(out, []byte(`"unsigned":0`)) {
		t.Errorf("audit verify: %v %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(gate.Dir, "data", "admin.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// cloud starts what the uplink connects to.
func (c *condition) cloud(t *testing.T) string {
	if !c.absent && !c.stalled {
		cloud, err := stand.StartCloud()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cloud.Close)
		if c.silent {
			cloud.Script(func(string, []byte) stand.Answer { return stand.TakeSilent })
		}
		return cloud.Addr
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if c.stalled {
		t.Cleanup(func() { l.Close() })
	} else {
		l.Close()
	}
	return l.Addr().String()
}

// publish is one device, until ctx or the gateway ends. It says when the gateway is in the condition, as far as it can see.
func (c *condition) publish(ctx context.Context, addr string, n int, under chan<- struct{}) {
	d, err := traffic.DialHand(addr, fmt.Sprintf("car-%d", n))
	if err != nil {
		return
	}
	defer d.Close()
	if c.deaf && d.Deafen(1500*time.Millisecond) != nil {
		return
	}
	said := false
	say := func() {
		if !said {
			said = true
			under <- struct{}{}
		}
	}
	topic, body := "v1/car/telemetry", `{"soc":%d,"speed":61.5}`
	if c.position {
		topic, body = "v1/car/gnss/point", `{"seq":%d,"lat":39.909231,"lon":116.397427,"speed":3.0}`
	}
	for i := 0; ctx.Err() == nil; i++ {
		if d.Publish(topic, fmt.Appendf(nil, body, i%100)) != nil {
			break
		}
		switch {
		case c.deaf:
			if i == 20_000 {
				say()
			}
			continue // until the gate stops reading, which a package test takes further
		case c.backlog == "" && i == 500, c.journal != "" && i == 3:
			say()
		}
		patience, cancel := ctx, context.CancelFunc(func() {})
		if c.backlog != "" {
			patience, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
		}
		err := d.Acknowledged(patience, 100)
		cancel()
		if err != nil {
			break // full, or ended
		}
	}
	say()
	<-ctx.Done()
}

// TestADeviceGoesOnWhenTheDiskTakesWritesAgain fills the disk under a gateway: the device waits on its connection, readyz
// and metrics say why, and when there is room again everything goes on by itself.
func TestADeviceGoesOnWhenTheDiskTakesWritesAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program")
	}
	cloud, err := stand.StartCloud()
	if err != nil {
		t.Fatal(err)
	}
	defer cloud.Close()
	gate := startGate(t, cloud.Addr, nil)
	d, err := traffic.DialHand(gate.Addr, "car-7")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	publish := func() {
		if err := d.Publish("v1/car-7/telemetry", []byte(`{"soc":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	if err := d.Acknowledged(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if status, text := gate.get(t, "/readyz"); status != http.StatusOK || !strings.Contains(text, `{"name":"journal","ok":true}`) {
		t.Errorf("readyz: %d %s", status, text)
	}
	limit := func(bytes uint64) {
		if err := unix.Prlimit(gate.child.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
			t.Fatal(err)
		}
	}
	limit(4096)
	publish()
	awaitThat(t, "readyz says why", func() bool {
		status, text := gate.get(t, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(text, `{"name":"journal","ok":false,"detail":"disk_full: the disk is full, nothing is acknowledged`)
	})
	if _, text := gate.get(t, "/metrics"); !strings.Contains(text, "sluice_journal_writable 0\n") || !strings.Contains(text, "sluice_journal_full 1\n") {
		t.Error("the metrics do not say that the journal refuses")
	}
	limit(unix.RLIM_INFINITY)
	if err := d.Acknowledged(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "readyz is fine again", func() bool {
		status, text := gate.get(t, "/readyz")
		return status == http.StatusOK && strings.Contains(text, `{"name":"journal","ok":true}`)
	})
	if err := gate.child.Stop(); err != nil {
		t.Fatal(err)
	}
	gate.verb(t, "journal", "check")
	log, err := os.ReadFile(gate.child.Log)
	if err != nil || bytes.Count(log, []byte("journal cannot write")) != 1 || bytes.Count(log, []byte("journal writes again")) != 1 {
		t.Errorf("log: %v %s", err, log)
	}
}
