package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// awaitThat waits until ok, for a time that is generous on a busy machine.
func awaitThat(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

// running is a gate of the real program with a device and a cloud.
type running struct {
	*stand.Gate
	child *stand.Child
}

func startGate(t *testing.T, cloud string, sections map[string]string) *running {
	t.Helper()
	binary, err := exec.LookPath("sluice") // this test, as the program: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	gate, err := stand.NewGate(t.Context(), binary, t.TempDir(), cloud, sections)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Gate: gate}
	r.start(t)
	t.Cleanup(func() { r.child.Kill() })
	return r
}

func (r *running) start(t *testing.T) {
	t.Helper()
	var err error
	if r.child, err = r.Gate.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// verb runs a verb on the gate, which must succeed.
func (r *running) verb(t *testing.T, args ...string) string {
	t.Helper()
	out, err := r.Verb(t.Context(), args...)
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	return string(out)
}

func (r *running) dead(t *testing.T) (seqs []uint64) {
	t.Helper()
	var list struct{ Messages []struct{ Seq uint64 } }
	if err := json.Unmarshal([]byte(r.verb(t, "journal", "ls", "--dead", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Messages {
		seqs = append(seqs, m.Seq)
	}
	return seqs
}

// get reads one page of the admin listener.
func (r *running) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + r.Admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	b.ReadFrom(resp.Body)
	return resp.StatusCode, b.String()
}

// TestWhatACloudRefusesIsParkedListedAndSentAgain lets a cloud break its connection at one message while others go
// through, asks for it, and has it sent again: by the running gateway, and by the next one.
func TestWhatACloudRefusesIsParkedListedAndSentAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program a few times")
	}
	const poison = `"soc":66.5`
	var refusing, arrived atomic.Int64
	refusing.Store(1)
	cloud, err := stand.StartCloud()
	if err != nil {
		t.Fatal(err)
	}
	cloud.Script(func(_ string, payload []byte) stand.Answer {
		switch {
		case !bytes.Contains(payload, []byte(poison)):
		case refusing.Load() == 1:
			return stand.Hang
		default:
			arrived.Add(1)
		}
		return stand.Take
	})
	defer cloud.Close()
	gate := startGate(t, cloud.Addr, nil)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	drive := func(first string) {
		d, err := traffic.DialHand(gate.Addr, "car-7")
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Publish("v1/car-7/telemetry", []byte("{"+first+"}")); err != nil {
			t.Fatal(err)
		}
		go func() { // others go through
			defer d.Close()
			for i := 0; ctx.Err() == nil; i++ {
				if d.Publish("v1/car-7/telemetry", fmt.Appendf(nil, `{"soc":%d}`, i%50)) != nil || d.Acknowledged(ctx, 0) != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	drive(poison)
	var seqs []uint64
	awaitThat(t, "the message is dead", func() bool { seqs = gate.dead(t); return len(seqs) == 1 })
	if _, text := gate.get(t, "/metrics"); !strings.Contains(text, "sluice_journal_dead_messages{uplink=\"tsp\"} 1\n") {
		t.Error("the dead message is not in the metrics")
	}
	resp, err := http.Post("http://"+gate.Admin+"/api/v1/journal/retry", "application/json", strings.NewReader(`{"all":true}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || len(gate.dead(t)) != 1 {
		t.Errorf("retry over TCP: %s", resp.Status)
	}

	// It is refused again, and then it is not.
	if out := gate.verb(t, "journal", "retry", fmt.Sprint(seqs[0])); !strings.Contains(out, "waits again for tsp\n") {
		t.Errorf("retry: %s", out)
	}
	awaitThat(t, "the message is dead once more", func() bool { return len(gate.dead(t)) > 0 })
	if again := gate.dead(t); len(again) != 1 || again[0] != seqs[0] {
		t.Errorf("dead once more: %v, want %v", again, seqs)
	}
	refusing.Store(0)
	gate.verb(t, "journal", "retry", "--all")
	awaitThat(t, "the message arrives", func() bool { return arrived.Load() == 1 })

	// Without a gateway it waits for the next one.
	refusing.Store(1)
	drive(poison)
	awaitThat(t, "another message is dead", func() bool { return len(gate.dead(t)) == 1 })
	stop()
	if err := gate.child.Stop(); err != nil {
		t.Fatal(err)
	}
	if out := gate.verb(t, "journal", "retry", "--all"); !strings.Contains(out, "waits again for tsp\n") || !strings.Contains(out, "the next one sends it") {
		t.Errorf("retry without a gateway: %s", out)
	}
	gate.verb(t, "journal", "check")
	refusing.Store(0)
	gate.start(t)
	awaitThat(t, "the other message arrives", func() bool { return arrived.Load() == 2 })
	if err := gate.child.Stop(); err != nil {
		t.Fatal(err)
	}
	gate.verb(t, "journal", "check")
	if out := gate.verb(t, "journal", "stat", "--json"); !strings.Contains(out, `"dead":0`) || !strings.Contains(out, `"identity":true`) {
		t.Errorf("journal stat: %s", out)
	}
}

// TestALinkConditionIsMetByFileOrSocket tells a gateway by both which network it is on.
func TestALinkConditionIsMetByFileOrSocket(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program")
	}
	var arrived atomic.Int64
	cloud, err := stand.StartCloud()
	if err != nil {
		t.Fatal(err)
	}
	cloud.Script(func(string, []byte) stand.Answer { arrived.Add(1); return stand.Take })
	defer cloud.Close()
	gate := startGate(t, cloud.Addr, map[string]string{"link_file": `"@DIR@/link"`,
		"uplinks": `[{ name: tsp, recipient: R, jurisdiction: CN, purpose: p, legal_basis: contract, link: wifi, mqtt: { url: "tcp://@CLOUD@" } }]`})
	d, err := traffic.DialHand(gate.Addr, "car-7")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	publish := func() {
		if err := d.Publish("v1/car-7/telemetry", []byte(`{"soc":1}`)); err != nil {
			t.Fatal(err)
		}
		if err := d.Acknowledged(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	status, text := gate.get(t, "/readyz")
	if status != http.StatusOK || !strings.Contains(text, `{"name":"uplink tsp","ok":true,"detail":"waits for link wifi"}`) {
		t.Errorf("readyz: %d %s", status, text)
	}
	if _, text := gate.get(t, "/metrics"); !strings.Contains(text, "sluice_uplink_waits_for_link{uplink=\"tsp\"} 1\n") || arrived.Load() > 0 {
		t.Errorf("the condition is not in the metrics, or %d messages arrived", arrived.Load())
	}
	put := func(link string) (err error) {
		cfg, _ := readConfig(gate.Config)
		return tell(t.Context(), cfg, http.MethodPut, "link", linkAnswer{link}, &linkAnswer{})
	}
	if err := put("wifi"); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the message arrives over wifi", func() bool { return arrived.Load() == 1 })
	if err := put("no name"); err == nil || !strings.Contains(err.Error(), "is no name of a link") {
		t.Errorf("a link without a name: %v", err)
	}
	file := filepath.Join(gate.Dir, "link")
	if err := os.WriteFile(file, []byte("lte\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the file is read", func() bool { _, text := gate.get(t, "/api/v1/link"); return text == `{"link":"lte"}`+"\n" })
	publish()
	if err := os.WriteFile(file, []byte("wifi roof antenna"), 0o600); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the next message arrives over wifi", func() bool { return arrived.Load() == 2 })
	if err := gate.child.Stop(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(gate.child.Log)
	if err != nil || bytes.Count(log, []byte(`msg="link changed"`)) != 3 {
		t.Errorf("log: %v %s", err, log)
	}
}

func TestALinkFileIsReadWithCare(t *testing.T) {
	path := filepath.Join(t.TempDir(), "link")
	f := linkFile{path: path}
	for i, look := range []struct {
		text string // "": the file is absent
		word string
		bad  bool
	}{
		{"", "", false},
		{"wi", "", false}, // half written
		{"wifi", "", false},
		{"wifi", "wifi", false}, // whole after all
		{"wifi\n", "", false},   // no news
		{"", "", false},
		{"\n \n", "", false},
		{"lte home\n", "lte", false},
		{"wifi\n", "wifi", false},
		{"../x\n", "", true},
		{"../x\n", "", false}, // told once
		{"lte", "", false},
		{"lte", "lte", false},
		{strings.Repeat("x", 1<<20), "", false},
		{strings.Repeat("x", 1<<20), "", true},
	} {
		os.Remove(path)
		if look.text != "" {
			if err := os.WriteFile(path, []byte(look.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if word, bad := f.look(); word != look.word || bad != look.bad {
			t.Errorf("look %d: %q, %v, want %q, %v", i, word, bad, look.word, look.bad)
		}
	}
}
