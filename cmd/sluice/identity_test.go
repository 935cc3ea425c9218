package main

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// TestAReloadTakesInAnotherIdentity changes uplinks[].identity under a gateway, and then what needs a restart.
func TestAReloadTakesInAnotherIdentity(t *testing.T) {
	d := &demo{dir: t.TempDir(), cloud: &demoCloud{address: "127.0.0.1:1"}}
	file, err := d.configure("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	cfg, report := loadConfig(file, time.Now())
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	a, err := assemble(cfg, slog.New(slog.DiscardHandler), parts{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	edit := func(old, new string) error {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte(old)) {
			t.Fatal(err, "nothing to edit")
		}
		if err := os.WriteFile(file, bytes.Replace(text, []byte(old), []byte(new), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		return a.reload("test", probationOf{})
	}
	if err := edit("identity: { mode: field }", "identity: { mode: cloudevents, type: com.example.demo }"); err != nil {
		t.Fatal(err)
	}
	set := a.gateway.Set()
	const want = "cloudevents 1.0 com.example.demo /sluice/demo"
	if got := set.Uplinks[0].Identity.String(); got != want || !bytes.Contains(set.Describe("test"), []byte(`"identity":"`+want+`"`)) {
		t.Errorf("in force: %s; change record: %s", got, set.Describe("test"))
	}
	if err := edit("qos: 1", "qos: 0"); err == nil || !strings.Contains(err.Error(), "uplinks changed, which needs a restart") {
		t.Errorf("another QoS: %v", err)
	}
	if a.gateway.Set() != set {
		t.Error("a refused reload changed what is in force")
	}
}
