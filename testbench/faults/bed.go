package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// Sizes of a bed. The window of the uplink is small, so that more copies than it allows are seen.
const (
	uplinkWindow  = 64
	deviceWindow  = 32
	connections   = 6
	bodySize      = 1024
	capacity      = 1 << 20 // messages of one bed
	bedRate       = 1000.0
	smallJournal  = "{ max_size: 64MiB, max_age: 168h, when_full: refuse }" // the smallest: segments of 8 MiB
	recoverWithin = 20 * time.Second
	drainWithin   = 40 * time.Second
)

// plan says what a bed is made of. The zero value is usable.
type plan struct {
	rate     float64                // messages a second; 0: bedRate
	journal  string                 // the section; empty: smallJournal
	uplink   string                 // further keys of the uplink's mqtt section
	cloud    string                 // address of the cloud for the gate; empty: mosquitto's
	watch    string                 // address of the cloud for the subscriber; empty: mosquitto's
	bridge   bool                   // a third of the devices behind a mosquitto that bridges to the gate
	count    uint64                 // messages; 0: until the end
	down     bool                   // the wire is down when the gate starts
	stay     bool                   // one message in eight is to be held or blocked
	patience time.Duration          // for what is missing at the end; 0: drainWithin
	before   func(dir string) error // called with the gate's folder before the gate is started
}

// bed is a gate between devices and a cloud, with the books of all three.
type bed struct {
	*bench
	row     *row
	rng     *rand.Rand
	dir     string
	cloud   *stand.Broker
	proxy   *stand.Proxy  // between gate and cloud, or nil
	own     *stand.Cloud  // the cloud when it is ours, or nil
	relay   *stand.Broker // the devices' own broker, or nil
	gate    *stand.Gate
	child   *stand.Child // nil while the gate is down
	load    *traffic.Run
	before  traffic.Counts // at the last fault
	marked  int            // faults until then
	window  uint64
	worst   map[string]time.Duration // from the end of a fault until all that waited had arrived
	records uint64                   // at the last inspection
	stay    bool                     // there are messages to be held and blocked
	broken  bool                     // it found that the journal cannot be read
	extra   uint64                   // messages at the cloud that are not the load's
}

// rng returns the randomness of the next bed of a row.
func (b *bench) rng(r *row) *rand.Rand {
	name := fnv.New64a()
	name.Write([]byte(r.Fault))
	return rand.New(rand.NewPCG(b.seed, name.Sum64()+uint64(r.Runs)))
}

// makeBed starts everything and lets the devices send. Whoever makes it calls remove.
func (b *bench) makeBed(ctx context.Context, r *row, p plan) (_ *bed, err error) {
	d := &bed{bench: b, row: r, rng: b.rng(r), window: uplinkWindow, marked: r.Runs, worst: map[string]time.Duration{}}
	defer func() {
		if err != nil {
			d.remove()
		}
	}()
	if d.dir, err = os.MkdirTemp(b.dir, r.Fault+"-"); err != nil {
		return nil, err
	}
	if p.watch == "" {
		if d.cloud, err = stand.StartBroker(ctx, d.dir, "cloud", stand.BrokerOptions{}); err != nil {
			return nil, err
		}
		p.watch = d.cloud.Addr
	}
	if p.cloud == "" {
		p.cloud = p.watch
	}
	if p.journal == "" {
		p.journal = smallJournal
	}
	if p.rate == 0 {
		p.rate = bedRate
	}
	if p.patience == 0 {
		p.patience = drainWithin
	}
	sections := map[string]string{"journal": p.journal, "audit": "{ checkpoint_every: 1s }", "uplinks": fmt.Sprintf(`
  - name: tsp
    recipient: Example Motors TSP
    jurisdiction: CN
    purpose: remote diagnosis
    legal_basis: contract
    identity: { mode: topic, template: "{topic}/{id}" }
    mqtt: { url: "tcp://@CLOUD@", qos: 1, inflight: %d, keep_alive: 2s, connect_timeout: 2s%s }`, uplinkWindow, p.uplink)}
	var kinds []fleet.Kind
	if p.stay {
		kinds, sections["policy"] = stayingKinds, stand.PolicyBehind(holdRow)
	}
	d.stay = p.stay
	if d.gate, err = stand.NewGate(ctx, b.sluice, d.dir, p.cloud, sections); err != nil {
		return nil, err
	}
	if p.before != nil {
		if err := p.before(filepath.Join(d.dir, "data")); err != nil {
			return nil, err
		}
	}
	if d.child, err = d.gate.Start(ctx); err != nil {
		return nil, err
	}
	devices := []string{d.gate.Addr}
	if p.bridge {
		if d.relay, err = stand.StartBroker(ctx, d.dir, "devices", stand.BrokerOptions{BridgeTo: d.gate.Addr, Inflight: deviceWindow}); err != nil {
			return nil, err
		}
		devices = []string{d.gate.Addr, d.gate.Addr, d.relay.Addr}
	}
	d.row.Window = max(d.row.Window, d.window)
	d.load, err = traffic.Start(ctx, traffic.Config{
		Devices: devices, Cloud: p.watch, Connections: connections, QoS: 1, CloudQoS: 1, Window: deviceWindow,
		Rate: p.rate, Size: bodySize, Kinds: kinds, Seed: d.rng.Uint64(), Reconnect: true, Drain: p.patience, Count: p.count, Capacity: capacity, IDs: true,
	})
	return d, err
}

// remove ends what still runs and removes the folder.
func (d *bed) remove() {
	if d.load != nil {
		d.load.End()
	}
	if d.child != nil {
		d.child.Kill()
		d.child = nil
	}
	if d.proxy != nil {
		d.proxy.Close()
	}
	if d.own != nil {
		d.own.Close()
	}
	for _, b := range []*stand.Broker{d.relay, d.cloud} {
		if b != nil {
			b.Kill()
		}
	}
	if d.keep == "" {
		os.RemoveAll(d.dir)
	}
}

// mark ends the account of the faults since the last mark: mostly one. Copies are counted by the gate's ids: a message that a
// device sent twice is two messages to the gate. Mosquitto's bridge does that by the thousand now and then, long after it had an
// answer to them.
func (d *bed) mark() {
	now := d.load.Counts()
	faults := uint64(max(d.row.Runs-d.marked, 1))
	copies, resent := now.Copies-d.before.Copies, now.Resent-d.before.Resent
	d.row.Duplicates, d.row.Resent = max(d.row.Duplicates, copies/faults), max(d.row.Resent, resent/faults)
	if copies > d.window*faults {
		d.row.bad("%d copies of ids after fault %d, with a window of %d", copies, d.row.Runs, d.window*faults)
	}
	d.debug("%s: until fault %d: %d faults, %d copies, %d sent again", d.row.Fault, d.row.Runs, faults, copies, resent)
	d.before, d.marked = now, d.row.Runs
}

// kill ends the gate without warning; what the files say then must be sound.
func (d *bed) kill(ctx context.Context) {
	d.child.Kill()
	d.child = nil
	d.inspect(ctx)
}

// inspect checks the files while no gate runs: journal check, audit verify, the identity, and that nothing arrived that
// is not decided. It returns what journal stat says, or nothing when that cannot be asked.
func (d *bed) inspect(ctx context.Context) (s stat) {
	if out, err := d.gate.Verb(ctx, "journal", "check"); err != nil {
		d.row.bad("fault %d: %v: %.300s", d.row.Runs, err, out)
		d.broken = true
		return s
	}
	var verified struct {
		OK      bool     `json:"ok"`
		Records uint64   `json:"records"`
		Errors  []string `json:"errors"`
	}
	if err := d.ask(ctx, &verified, "audit", "verify"); err != nil || !verified.OK || len(verified.Errors) > 0 {
		d.row.bad("fault %d: audit verify: %v %.300s", d.row.Runs, err, strings.Join(verified.Errors, "; "))
		return s
	}
	if arrived := d.load.Counts().Arrived; arrived > verified.Records {
		d.row.Undecided += arrived - verified.Records
	}
	s, err := d.stat(ctx)
	if err != nil {
		d.row.bad("fault %d: %v", d.row.Runs, err)
		return s
	}
	d.records = s.Records
	t := &s.Totals
	if !t.Identity || t.Received != verified.Records {
		d.row.Mismatches++
	}
	if c := d.load.Counts(); d.relay == nil && (c.Acked > t.Received || c.Stayed > t.Held+t.Blocked) {
		d.row.bad("fault %d: %d messages are acknowledged, of which %d stay; on the record are %d, %d held, %d blocked",
			d.row.Runs, c.Acked, c.Stayed, t.Received, t.Held, t.Blocked)
	}
	return s
}

// stat is what journal stat says.
type stat struct {
	Records uint64 `json:"records"`
	Totals  struct {
		gateway.Totals
		Identity bool `json:"identity"`
	} `json:"totals"`
}

func (d *bed) stat(ctx context.Context) (s stat, err error) {
	err = d.ask(ctx, &s, "journal", "stat")
	return s, err
}

// ask runs a verb and decodes what it prints.
func (d *bed) ask(ctx context.Context, into any, words ...string) error {
	out, err := d.gate.Verb(ctx, append(words, "--json")...)
	if jsonErr := json.Unmarshal(out, into); jsonErr != nil && err == nil {
		err = fmt.Errorf("%s: %w", strings.Join(words, " "), jsonErr)
	}
	return err
}

// start runs the gate again and notes how long the cloud had to wait for the next message.
func (d *bed) start(ctx context.Context) error {
	since, seen := time.Now(), d.load.Counts().Arrived
	var err error
	if d.child, err = d.gate.Start(ctx); err != nil {
		return err
	}
	return d.flows(ctx, since, seen)
}

// flows waits until more than seen messages have arrived and notes how long it took since the fault was over.
func (d *bed) flows(ctx context.Context, since time.Time, seen uint64) error {
	err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Arrived > seen })
	if err != nil {
		var stat map[string]any
		askErr := d.ask(ctx, &stat, "journal", "stat")
		return fmt.Errorf("nothing arrives after fault %d: %w; counts %+v; gate says %v %v", d.row.Runs, err, d.load.Counts(), stat, askErr)
	}
	d.row.recovered(time.Since(since))
	return nil
}

// await waits until something holds.
func (d *bed) await(ctx context.Context, within time.Duration, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v", within)
		}
	}
	return nil
}

// pause lets things go on for a while.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// between draws a duration.
func (d *bed) between(shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(d.rng.Int64N(int64(longest-shortest)))
}

// close lets everything drain, stops the gate in good order and compares what the devices, the cloud and the files say.
func (d *bed) close(ctx context.Context) error {
	if d.child == nil {
		if err := d.start(ctx); err != nil {
			return err
		}
	}
	report, err := d.load.Stop()
	if err != nil {
		return err
	}
	d.mark()
	d.row.Acked += report.Acked
	d.row.Arrived += report.Arrived
	if report.Leaks > 0 {
		d.row.bad("%d messages arrived with a sensitive value inside", report.Leaks)
	}
	if report.Strangers > d.extra {
		d.row.bad("%d messages arrived that nobody sent", report.Strangers-d.extra)
	}
	for _, name := range slices.Sorted(maps.Keys(d.worst)) {
		d.row.note("%s: all that waited had arrived after %.0f ms", name, ms(d.worst[name]))
	}
	if report.Acked == 0 {
		d.row.bad("nothing was acknowledged")
	}
	d.row.Escaped += report.Escaped
	if d.stay {
		if err := d.stayed(ctx); err != nil {
			d.row.bad("%v", err)
		}
	}
	if err := d.child.Stop(); err != nil {
		d.row.bad("%v", err)
	}
	d.child = nil
	totals := d.inspect(ctx).Totals
	waiting := totals.Waiting
	d.row.Held += totals.Held
	d.row.Blocked += totals.Blocked
	if d.stay {
		d.openHolds(&totals.Totals)
	}
	if waiting > 0 {
		d.row.bad("%d messages still wait at the end", waiting)
	}
	d.row.Lost += report.Lost - min(report.Lost, waiting)
	return nil
}

// ready asks the gate's readyz.
func (d *bed) ready(ctx context.Context) (ready bool, text string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.gate.Admin+"/readyz", nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	var answer struct {
		Ready      bool `json:"ready"`
		Conditions []struct {
			Name   string
			Detail string
		} `json:"conditions"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return false, err.Error()
	}
	for _, c := range answer.Conditions {
		if c.Name == "journal" {
			text = c.Detail
		}
	}
	return answer.Ready, text
}
