package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
)

// assembled makes a gateway that never runs.
func assembled(t *testing.T) *assembly {
	t.Helper()
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
	t.Cleanup(func() { a.close() })
	return a
}

// TestEveryMetricIsInTheManual compares the table of docs/metrics.md with what a gateway serves; UPDATE_DOCS=1 writes it.
func TestEveryMetricIsInTheManual(t *testing.T) {
	const page, mark = "docs/metrics.md", "| metric | type | labels | meaning |\n|---|---|---|---|\n"
	a := assembled(t)
	a.metrics.Certificate("bench", time.Now()) // the demo has none
	families, err := a.metrics.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		slices.Sort(labels)
		if labels == nil {
			labels = []string{"–"}
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp()))
	}
	if len(rows) < 25 {
		t.Fatalf("%d metrics only", len(rows))
	}
	want := strings.Join(rows, "\n") + "\n"
	head, got, ok := strings.Cut(readText(t, page), mark)
	if !ok {
		t.Fatalf("%s has no table of metrics", page)
	}
	if got == want {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("%s does not say what is served; write its table with UPDATE_DOCS=1 go test ./cmd/sluice -run %s", page, t.Name())
	}
	if err := os.WriteFile(filepath.Join(root, page), []byte(head+mark+want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPromtoolFindsNothingToSay has Prometheus's own checker read what is served.
func TestPromtoolFindsNothingToSay(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (apt-get install prometheus)")
	}
	served := httptest.NewRecorder()
	promhttp.HandlerFor(assembled(t).metrics.Gatherer(), promhttp.HandlerOpts{}).ServeHTTP(served, httptest.NewRequest("GET", "/metrics", nil))
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = served.Body
	out, err := cmd.CombinedOutput()
	const known = `sluice_audit_days_to_full use base unit "seconds" instead of "days"` + "\n" // the name is fixed: people read days
	if rest := strings.Replace(string(out), known, "", 1); rest != "" {
		t.Errorf("promtool check metrics: %v\n%s", err, rest)
	}
}

// TestBooksThatDoNotBalanceRaiseTheAlarmOnce breaks the identity of a gateway that is put together by hand, so that nobody
// checks beside it.
func TestBooksThatDoNotBalanceRaiseTheAlarmOnce(t *testing.T) {
	key := journal.Key{ID: 1, Secret: [32]byte{1}}
	j, err := journal.Open(journal.Options{Dir: t.TempDir(), Keys: []journal.Key{key}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	var log bytes.Buffer
	a := &assembly{cfg: &Config{}, log: slog.New(slog.NewTextHandler(&log, nil)), journal: j, gateway: gateway.New(gateway.Options{Journal: j, NextID: j.NextID})}
	books := func() string {
		for _, c := range a.ready() {
			if c.Name == "identity" {
				return fmt.Sprint(c.OK, " ", c.Detail)
			}
		}
		return "none"
	}
	a.balance(j.Identity())
	if got := books(); got != "true " || log.Len() > 0 {
		t.Errorf("readyz: %s; log: %s", got, &log)
	}
	a.balance(errors.New("received 7 is not the sum of the states"))
	a.balance(errors.New("received 8 is not the sum of the states"))
	if got := books(); got != "false received 8 is not the sum of the states" {
		t.Errorf("readyz: %s", got)
	}
	a.balance(nil)
	if got := books(); got != "true " {
		t.Errorf("readyz: %s", got)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("log: %s", &log)
	}
	alarms := 0
	done := make(chan struct{})
	j.Append([]*gateway.Entry{{Record: gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})}}, func(uint64, error) { close(done) })
	<-done
	err = j.Records(0, func(_ uint64, record []byte) error {
		if bytes.Contains(record, []byte(`"identity mismatch"`)) {
			alarms++
		}
		return nil
	})
	if err != nil || alarms != 1 {
		t.Errorf("%d alarms on the record, %v", alarms, err)
	}
}
