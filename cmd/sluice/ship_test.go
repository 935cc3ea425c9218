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
	"slices"
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
	c.SetFault(collector.WrongGateway)
	var oldest, newest []string // what the cloud got
	for range 5 {
		status, out := verbOutput(messages(30_000), "filter", "-c", file)
		if status != exitGood {
			t.Fatalf("%.2000s", out)
		}
		if newest = captured(out); oldest == nil {
			oldest = newest[:500]
		}
	}
	newest = newest[len(newest)-500:]
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
		if s := a.shipped(); s.Bytes == 0 || s.Waiting != 0 || s.TreeSize < a.journal.Trimmed() || s.Last.IsZero() {
			t.Errorf("metrics of shipping: %+v", s)
		}
		reconcileTrimmed(t, file, kept, oldest, newest)
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
	reconcileTrimmed(t, file, kept, oldest, newest)
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
	if status, out := verbOutput(strings.Join(oldest, "\n"), "audit", "reconcile", "-c", file, "--no-prefix", "--shipped", kept, "-"); status != exitBad || !strings.Contains(out, "end before record") {
		t.Fatalf("reconciled with a missing archive: %s", out)
	}
	if status, out := verbOutput("", "audit", "verify", "-c", file, "--shipped", kept); status != exitBad || !strings.Contains(out, "end before record") {
		t.Fatalf("a missing archive: %s", out)
	}
}

// captured returns the lines of messages that filter printed.
func captured(out string) (lines []string) {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "{") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// reconcileTrimmed compares captures with a log of which the oldest records are trimmed, without and with the archives.
func reconcileTrimmed(t *testing.T, file, kept string, oldest, newest []string) {
	t.Helper()
	change := func(lines []string, n int, line string) []string {
		lines = slices.Clone(lines)
		lines[n] = line
		return lines
	}
	altered := strings.Replace(oldest[7], `"topic":"`, `"topic":"x`, 1)
	for _, c := range []struct {
		name    string
		lines   []string
		shipped bool
		status  int
		want    []string
	}{
		{"trimmed, here", oldest, false, exitBad, []string{"off the record 500,", "are trimmed and were not compared: --shipped DIR", "no decision that is here has this id"}},
		{"not trimmed, here", newest, false, exitGood, []string{"500 match the record", "are trimmed and were not compared: --shipped DIR", "\nok\n"}},
		{"both, here", slices.Concat(oldest, newest), false, exitBad, []string{"500 match the record", "off the record 500,"}},
		{"trimmed, with the archives", oldest, true, exitGood, []string{"500 match the record", "\nok\n"}},
		{"not trimmed, with the archives", newest, true, exitGood, []string{"500 match the record", "\nok\n"}},
		{"one altered", change(oldest, 7, altered), true, exitBad, []string{"499 match the record", "off the record 0, altered 1, missing 0", "message line 8 seq "}},
		{"one off the record", change(oldest, 7, strangerOf(t, oldest[7])), true, exitBad, []string{"off the record 1, altered 0"}},
		{"one not captured", slices.Delete(slices.Clone(oldest), 7, 8), true, exitBad, []string{"499 match the record", "missing 1,", "was forwarded and is not in the capture"}},
	} {
		args := []string{"audit", "reconcile", "-c", file, "--no-prefix"}
		if c.shipped {
			args = append(args, "--shipped", kept)
		}
		status, out := verbOutput(strings.Join(c.lines, "\n"), append(args, "-")...)
		if status != c.status || c.shipped && strings.Contains(out, "not compared") {
			t.Errorf("%s: %d: %.1500s", c.name, status, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in %.1500s", c.name, want, out)
			}
		}
	}
}

// strangerOf is a captured message under an id that no decision has.
func strangerOf(t *testing.T, line string) string {
	t.Helper()
	var m struct {
		Topic   string `json:"topic"`
		Payload []byte `json:"payload_base64"`
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(m.Payload, []byte(`"_sluice_id":"`))
	if at < 0 {
		t.Fatalf("no id in %s", m.Payload)
	}
	copy(m.Payload[at+len(`"_sluice_id":"`):], "0123456789abcdef")
	text, err := json.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
