package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/testbench/fleet"
)

// nowhere is a journal that takes everything and keeps nothing: what is left is the cost of deciding.
type nowhere struct {
	gateway.Journal
	entries atomic.Uint64
}

// Append implements gateway.Journal.
func (n *nowhere) Append(entries []*gateway.Entry, done func(uint64, error)) {
	done(n.entries.Add(uint64(len(entries))), nil)
}

// Full implements gateway.Journal.
func (n *nowhere) Full() bool { return false }

// BenchmarkAdmit decides telemetry of vehicles in batches of 64: catalog, plugin, policy, tokens, generalization, output
// check, record; no disk and no network.
func BenchmarkAdmit(b *testing.B) {
	for _, size := range []int{300, 1024, 10240} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			set := benchSet(b)
			var counter atomic.Uint64
			g := gateway.New(gateway.Options{Journal: &nowhere{}, Metrics: gateway.NewMetrics([]string{"vehicles"}, []string{"tsp"}, []string{"geofence"}, "test"),
				NextID: func() gateway.ID { return gateway.ID{Counter: counter.Add(1)} }, Log: slog.New(slog.DiscardHandler)})
			g.Swap(set)
			f := fleet.New(1, 20, size)
			var batch []*gateway.Message
			bytes := 0
			for range 64 {
				m := f.Of(fleet.Telemetry)
				bytes += len(m.Payload)
				batch = append(batch, &gateway.Message{Source: "vehicles", Protocol: gateway.MQTT, Client: m.Client, Topic: m.Topic, Payload: m.Payload, Received: time.Now(), QoS: 1})
			}
			b.SetBytes(int64(bytes / len(batch)))
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(batch) {
				t, err := g.Admit(context.Background(), batch)
				if err != nil {
					b.Fatal(err)
				}
				if err := t.Wait(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchSet is the version set of the demo's configuration.
func benchSet(tb testing.TB) *gateway.VersionSet {
	d := &demo{dir: tb.TempDir(), cloud: &demoCloud{address: "127.0.0.1:1"}}
	file, err := d.configure("127.0.0.1:2", "")
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "keys")); err != nil {
		tb.Fatal(err)
	}
	cfg, report := loadConfig(file, time.Now())
	if err := report.Err(); err != nil {
		tb.Fatal(err)
	}
	set, err := dryVersionSet(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeSet(set) })
	return set
}
