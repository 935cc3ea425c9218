package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/testbench/collector"
)

// verbOutput runs a verb and returns its exit status and everything it wrote.
func verbOutput(in string, args ...string) (status int, out string) {
	var stdout, stderr bytes.Buffer
	status = dispatch(args, strings.NewReader(in), &stdout, &stderr)
	return status, stdout.String() + stderr.String()
}

// shippingBox is a first configuration whose archives go to a collector on loopback.
func shippingBox(t *testing.T) (file, kept string, c *collector.Collector) {
	t.Helper()
	box, keys := filepath.Join(t.TempDir(), "box"), t.TempDir()
	kept = t.TempDir()
	for _, args := range [][]string{{"init", "--dir", box}, {"keys", "new", "--use", "audit", "--id", "collector-1", "--dir", keys}} {
		if status, out := verbOutput("", args...); status != exitGood {
			t.Fatal(out)
		}
	}
	k, err := keyring.ReadPrivate(filepath.Join(keys, "collector-1.key"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signed.NewSigner(k.ID, [32]byte(k.Secret()))
	if err != nil {
		t.Fatal(err)
	}
	if c, err = collector.New(collector.Options{Dir: kept, Signer: signer, Token: "let me in"}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	pub, err := os.ReadFile(filepath.Join(keys, "collector-1.pub"))
	if err == nil {
		err = os.WriteFile(filepath.Join(box, "keys", "collector-1.pub"), pub, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(box, "token"), []byte("let me in\n"), 0o600)
	}
	file = filepath.Join(box, "sluice.yaml")
	text, err2 := os.ReadFile(file)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "audit:") && !strings.HasPrefix(line, "journal:") {
			lines = append(lines, line)
		}
	}
	lines = append(lines, "\njournal: { max_size: 64MiB, max_age: 1h }\n",
		fmt.Sprintf("audit: { max_size: 16MiB, ship: { url: %q, receipt_key: collector-1.pub, token: \"${file:token}\", every: 1s } }\n", server.URL))
	if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, filepath.Join(kept, "vgw-0001"), c
}

// messages are lines for filter.
func messages(n int) string {
	var b strings.Builder
	for range n {
		body := fmt.Sprintf(`{"speed":%d.5}`, rand.IntN(200))
		fmt.Fprintf(&b, `{"source":"bench","topic":"v1/car-7/telemetry","payload_base64":%q}`+"\n", base64.StdEncoding.EncodeToString([]byte(body)))
	}
	return b.String()
}

// runUntil runs the gateway of a configuration until something has happened.
func runUntil(t *testing.T, file string, done func(a *assembly) bool) {
	t.Helper()
	cfg, report := loadConfig(file, time.Now())
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	a, err := assemble(cfg, slog.New(slog.DiscardHandler), parts{
		uplink: func(string, *UplinkConfig) (gateway.Uplink, error) {
			return &lineUplink{out: &lineWriter{}}, nil
		},
		source: func(*SourceConfig, *slog.Logger) (runner, error) { return nil, nil },
		extra:  idle{},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	for !done(a) && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Errorf("waited in vain: %+v", a.shipper.Status())
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// idle is a source to which nothing comes.
type idle struct{}

func (idle) Listening() bool { return true }
func (idle) Reload() error   { return nil }
func (idle) Run(ctx context.Context, _ gateway.Gate) error {
	<-ctx.Done()
	return nil
}

func TestArchivesGoToTheCollectorAndTheLogIsVerifiedFromThere(t *testing.T) {
	if testing.Short() {
		t.Skip("fills 8 MiB of records")
	}
	file, kept, c := shippingBox(t)
	if status, out := verbOutput("", "lint", "--rate", "1", file); status != exitGood {
		t.Fatal(out)
	}
	c.SetFault(collector.WrongDigest)
	for range 5 {
		if status, out := verbOutput(messages(30_000), "filter", "-c", file); status != exitGood {
			t.Fatalf("%.2000s", out)
		}
	}
	runUntil(t, file, func(a *assembly) bool { // a collector that lies gets nothing trimmed, and everybody is told
		s := a.shipper.Status()
		return s.Failed > 0 && strings.Contains(s.Err, "receipt")
	})
	if status, out := verbOutput("", "journal", "stat", "-c", file, "--json"); status != exitGood || !strings.Contains(out, `"trimmed":0,`) || !strings.Contains(out, `"shipped":0,`) {
		t.Fatal(out)
	}
	c.SetFault(collector.NoFault)
	runUntil(t, file, func(a *assembly) bool {
		_, unshipped := a.journal.Unshipped()
		if unshipped || a.journal.Trimmed() == 0 || a.journal.Stat().RecordBytes > 8<<20 {
			return false
		}
		for _, args := range [][]string{{"audit", "verify", "-c", file}, {"audit", "verify", "-c", file, "--shipped", kept}, {"journal", "stat", "-c", file}} {
			status, out := verbOutput("", args...) // beside the gateway that runs
			if status != exitGood || args[0] == "journal" && !strings.Contains(out, "collector: answers") {
				t.Errorf("%v: %d: %s", args, status, out)
			}
		}
		for _, cond := range a.ready() {
			if cond.Name == "collector" && (!cond.OK || cond.Detail != "") {
				t.Errorf("%+v", cond)
			}
		}
		if days := (&journalNumbers{Journal: a.journal, shipper: a.shipper}).DaysToFull(); days < 1000 {
			t.Errorf("full in %.1f days", days)
		}
		return true
	})
	var part, whole struct {
		OK                         bool
		Records, Trimmed, Unsigned uint64
		TreeSize                   uint64 `json:"tree_size"`
	}
	for into, args := range map[any][]string{&part: {"audit", "verify", "-c", file, "--json"}, &whole: {"audit", "verify", "-c", file, "--json", "--shipped", kept}} {
		status, out := verbOutput("", args...)
		if err := json.Unmarshal([]byte(out), into); err != nil || status != exitGood {
			t.Fatalf("%s, %v", out, err)
		}
	}
	if !part.OK || part.Trimmed == 0 || part.Records >= 150_000 || !whole.OK || whole.Trimmed != 0 || whole.Records != 150_000 || whole.TreeSize != part.TreeSize {
		t.Fatalf("here %+v, whole %+v", part, whole)
	}
	if status, out := verbOutput("", "journal", "check", "-c", file); status != exitGood || !strings.Contains(out, "are trimmed") {
		t.Fatal(out)
	}
	files, err := filepath.Glob(filepath.Join(kept, "0*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(files[1], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out := verbOutput("", "audit", "verify", "-c", file, "--shipped", kept); status != exitBad {
		t.Fatalf("an altered archive is verified: %s", out)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if status, out := verbOutput("", "audit", "verify", "-c", file, "--shipped", kept); status != exitBad || !strings.Contains(out, "end before record") {
		t.Fatalf("a missing archive: %s", out)
	}
}
