package main

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// bodies says what the messages are made of.
type bodies struct {
	Outbound   float64 `json:"outbound_bytes"`           // mean payload that leaves of those measured
	Deflated   float64 `json:"deflated_share"`           // of it, each body alone
	Telemetry  float64 `json:"telemetry_bytes"`          // mean payload that leaves of a regular report
	Compressed float64 `json:"telemetry_deflated_share"` // of it
}

// samples is how many bodies are looked at.
const samples = 200

// calibrate sends some bodies through the filter verb and looks at what would leave.
func calibrate(ctx context.Context, o options, dir string) (b bodies, err error) {
	if b.Outbound, b.Deflated, err = outbound(ctx, o, filepath.Join(dir, "log"), fleet.Log); err != nil {
		return b, err
	}
	b.Telemetry, b.Compressed, err = outbound(ctx, o, filepath.Join(dir, "telemetry"), fleet.Telemetry)
	return b, err
}

// outbound returns the mean size of the payloads that leave, and what part of it DEFLATE leaves.
func outbound(ctx context.Context, o options, dir string, kind fleet.Kind) (mean, share float64, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	g, err := stand.NewGate(ctx, o.sluice, dir, "127.0.0.1:1", nil)
	if err != nil {
		return 0, 0, err
	}
	var in bytes.Buffer
	lines := json.NewEncoder(&in)
	f := fleet.New(1, 4, o.size)
	for range samples {
		m := f.Of(kind)
		if err := lines.Encode(map[string]string{"source": "vehicles", "client": m.Client, "topic": m.Topic, "payload_base64": base64.StdEncoding.EncodeToString(m.Payload)}); err != nil {
			return 0, 0, err
		}
	}
	cmd := exec.CommandContext(ctx, o.sluice, "filter", "-c", g.Config)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return 0, 0, fmt.Errorf("look at bodies: %w: %s", err, exit.Stderr)
	}
	if err != nil {
		return 0, 0, err
	}
	n, size, packed := 0, 0, 0
	for line := range bytes.Lines(out) {
		var m struct {
			Topic   string `json:"topic"`
			Payload []byte `json:"payload_base64"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return 0, 0, fmt.Errorf("look at bodies: %w", err)
		}
		if bytes.Contains([]byte(m.Topic), []byte("/$sluice/")) {
			continue
		}
		n, size, packed = n+1, size+len(m.Payload), packed+deflated(m.Payload)
	}
	if n == 0 {
		return 0, 0, errors.New("look at bodies: none leaves")
	}
	return float64(size) / float64(n), float64(packed) / float64(size), nil
}

func deflated(b []byte) int {
	var out bytes.Buffer
	w, _ := flate.NewWriter(&out, flate.BestCompression) // the level is one that there is
	w.Write(b)
	w.Close()
	return out.Len()
}

// result is one case.
type result struct {
	Rate       float64 `json:"rate"` // asked for; 0: full load
	Linger     float64 `json:"linger_seconds"`
	Uplink     string  `json:"uplink"`
	Messages   uint64  `json:"messages"` // acknowledged
	Seconds    float64 `json:"seconds"`
	AckedRate  float64 `json:"acked_per_second"`
	AckP50     float64 `json:"ack_p50_ms"`
	AckP99     float64 `json:"ack_p99_ms"`
	Written    uint64  `json:"device_bytes"`      // in all, the stop included
	Loaded     uint64  `json:"device_bytes_load"` // while messages came in and drained
	Journal    uint64  `json:"journal_bytes"`     // of segments, until the stop
	Block      uint64  `json:"block_device_bytes,omitempty"`
	PerMessage float64 `json:"device_bytes_per_message"`
	PerBody    float64 `json:"device_bytes_per_body_byte"`
	JournalPer float64 `json:"journal_bytes_per_body_byte"`
	BlockPer   float64 `json:"block_device_bytes_per_body_byte,omitempty"`
	PerSecond  float64 `json:"device_kib_per_second"`
	Lost       uint64  `json:"lost"`

	length time.Duration
}

// together measures cases side by side, each with processes of its own.
func together(ctx context.Context, o options, dir string, cases []*result, body float64) error {
	errs := make([]error, len(cases))
	var all sync.WaitGroup
	for i, c := range cases {
		all.Go(func() { errs[i] = measure(ctx, o, filepath.Join(dir, fmt.Sprintf("case%d", i)), c, body) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// measure runs one case.
func measure(ctx context.Context, o options, dir string, c *result, body float64) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cfg := traffic.Config{Kinds: []fleet.Kind{fleet.Log}, Connections: 4, QoS: 1, CloudQoS: 1, Window: 256, Size: o.size, Rate: c.Rate, Duration: c.length, Drain: 20 * time.Second}
	cloud, err := stand.FreeAddress() // where nobody listens
	if err != nil {
		return err
	}
	if c.Uplink == "up" {
		b, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
		if err != nil {
			return err
		}
		defer b.Kill()
		cloud, cfg.Cloud = b.Addr, b.Addr
	}
	g, err := stand.NewGate(ctx, o.sluice, dir, cloud, map[string]string{
		"journal": fmt.Sprintf("{ max_size: 8GiB, max_age: 168h, when_full: refuse, linger: %v }", time.Duration(c.Linger*float64(time.Second)))})
	if err != nil {
		return err
	}
	child, err := g.Start(ctx)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			child.Kill()
		}
	}()
	process := traffic.Process{Name: "sluice", PID: child.PID()}
	cfg.Devices = []string{g.Addr}
	before, block := process.Written(), stand.DeviceWritten(dir)
	if before == 0 {
		return errors.New("measure writes: /proc/PID/io does not show them")
	}
	shown, err := g.Metrics(ctx)
	if err != nil {
		return err
	}
	r, err := traffic.Start(ctx, cfg)
	if err != nil {
		return err
	}
	report, err := r.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	c.Loaded = process.Written() - before
	now, err := g.Metrics(ctx)
	if err != nil {
		return err
	}
	c.Journal = uint64(now[writtenMetric] - shown[writtenMetric])
	stopped = true
	if err := child.Stop(); err != nil {
		return err
	}
	c.Written = child.Written() - before
	if o.device {
		syncAll()
		c.Block = stand.DeviceWritten(dir) - block
	}
	c.Messages, c.Seconds, c.AckedRate, c.Lost = report.Acked, report.Seconds, report.AckedASecond, report.Lost
	c.AckP50, c.AckP99 = report.Ack.P50, report.Ack.P99
	c.sumUp(body)
	fmt.Fprintf(os.Stderr, "%s\n", c)
	return nil
}

const writtenMetric = "sluice_journal_written_bytes_total"

// sumUp fills in what follows from the counts.
func (c *result) sumUp(body float64) {
	n := float64(max(c.Messages, 1))
	c.PerMessage = float64(c.Written) / n
	c.PerBody = c.PerMessage / body
	c.JournalPer = float64(c.Journal) / n / body
	c.BlockPer = float64(c.Block) / n / body
	if c.Seconds > 0 {
		c.PerSecond = float64(c.Loaded) / 1024 / c.Seconds
	}
}
