package stand

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway/config"
)

func TestTheGatesConfigurationIsWellFormed(t *testing.T) {
	g := &Gate{Dir: "/bench", Addr: "127.0.0.1:1", Admin: "127.0.0.1:2"}
	text := g.configuration("127.0.0.1:3", map[string]string{"unknown_field": "block", "audit": "{ checkpoint_every: 1s }"})
	if strings.Contains(text, "@") && strings.Contains(strings.ReplaceAll(text, "dso@example.com", ""), "@") {
		t.Errorf("a place holder is left:\n%s", text)
	}
	var into struct {
		Gateway      string   `yaml:"gateway"`
		Responsible  any      `yaml:"responsible"`
		DataDir      string   `yaml:"data_dir"`
		KeyDir       string   `yaml:"key_dir"`
		Sources      []any    `yaml:"sources"`
		Catalogs     []string `yaml:"catalogs"`
		UnknownField string   `yaml:"unknown_field"`
		Plugins      []any    `yaml:"plugins"`
		Policy       []any    `yaml:"policy"`
		TokenDomains any      `yaml:"token_domains"`
		Keys         any      `yaml:"keys"`
		Uplinks      []any    `yaml:"uplinks"`
		Journal      any      `yaml:"journal"`
		Audit        any      `yaml:"audit"`
		Admin        any      `yaml:"admin"`
	}
	if err := config.Decode("bench.yaml", []byte(text), &into).Err(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if into.UnknownField != "block" || into.DataDir != "/bench/data" || len(into.Policy) < 8 || into.Audit == nil {
		t.Errorf("%+v", into)
	}
}

func TestChildrenAreEndedAndTheirFailuresTold(t *testing.T) {
	dir := t.TempDir()
	c, err := Spawn(dir, "sleeper", "sh", "-c", "echo awake; exec sleep 600")
	if err != nil {
		t.Fatal(err)
	}
	c.Kill()
	if err := c.Stop(); err == nil {
		t.Error("a killed child ended well")
	}
	if c, err = Spawn(dir, "failing", "sh", "-c", "echo out of cheese >&2; exit 3"); err != nil {
		t.Fatal(err)
	}
	addr, err := FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "out of cheese") {
		t.Errorf("Ready of a child that failed: %v", err)
	}
	if _, err := Run(t.Context(), "sh", "-c", "echo why >&2; exit 1"); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("Run of a program that failed: %v", err)
	}
	if out, err := Run(t.Context(), "sh", "-c", "echo fine"); err != nil || string(out) != "fine\n" {
		t.Errorf("Run: %q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "failing.log")); err != nil {
		t.Error(err)
	}
}

func TestMemoryIsNoDisk(t *testing.T) {
	if _, err := Disk("/dev/shm"); err == nil {
		t.Error("/dev/shm passes for a disk")
	}
	if _, err := Disk("/nowhere"); err == nil {
		t.Error("a folder that is not there passes for a disk")
	}
}

func TestMetricsAreReadFromTheirText(t *testing.T) {
	for line, want := range map[string]float64{`sluice_up{uplink="a b"} 1`: 1, "sluice_up 2.5e+06": 2.5e6} {
		if name, value, ok := cutMetric(line); name != "sluice_up" || value != want || !ok {
			t.Errorf("%s: %q %v %v", line, name, value, ok)
		}
	}
	for _, line := range []string{"", "# HELP sluice_up 1", "sluice_up", "sluice_up x"} {
		if name, _, ok := cutMetric(line); ok {
			t.Errorf("%q is taken for %q", line, name)
		}
	}
}
