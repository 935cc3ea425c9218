package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/leaks"
)

const (
	demoVehicles = 6
	demoRate     = 60 // messages per second over all vehicles
	demoDecimals = 2  // what the demo's policy leaves of a position
)

// demoResult is what the demo prints at the end; the names are fixed.
type demoResult struct {
	gateway.Totals
	Lost       int  `json:"lost"`
	Duplicates int  `json:"duplicates"`
	Leaks      int  `json:"leaks"`
	Identity   bool `json:"identity"`
}

// demo is one run: vehicles, gateway and cloud in this process, and the book that is kept on all three.
type demo struct {
	out   io.Writer // table and progress; discarded with --json
	dir   string
	cloud *demoCloud
	gate  *assembly
	scan  *leaks.Scanner
	began time.Time

	signer  *demoSigner
	swapped string // digest of the version that was put in force
	faulty  uint64 // version set with the plugin that traps

	mu       sync.Mutex // guards the book
	sent     map[uint64]*demoMessage
	leaks    []string
	strange  int // arrived without being sent
	offline  bool
	trapping bool // what is sent now may meet the plugin that traps
}

// demoMessage is one line of the book.
type demoMessage struct {
	fleet.Message
	acked   bool
	arrived int
	sample  bool // shown in the table
	trapped bool // sent while a faulty plugin was in force, so that it may have been blocked
}

func demoVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("demo", "[--for 20s] [--json] [--admin ADDR] [--seed N]")
	length := fs.Duration("for", 20*time.Second, "how long the vehicles drive, 5s to 10m")
	asJSON := fs.Bool("json", false, "print one line of JSON at the end instead of the table")
	admin := fs.String("admin", "", "serve health and metrics on this `address`, such as 127.0.0.1:9600")
	seed := fs.Uint64("seed", 1, "seed of the simulated vehicles")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) > 0 || *length < 5*time.Second || *length > 10*time.Minute {
		return usage(stderr, fmt.Errorf("demo runs from 5s to 10m and takes no arguments"), "sluice demo --for 20s")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{out: &oneWriter{w: stdout}, scan: leaks.New(demoDecimals), sent: map[uint64]*demoMessage{}}
	if *asJSON {
		d.out = io.Discard
	}
	result, problems, err := d.run(ctx, *length, *admin, *seed)
	if err != nil {
		return fail(stderr, fmt.Errorf("demo: %w", err))
	}
	if *asJSON {
		json.NewEncoder(stdout).Encode(result)
	} else {
		d.summary(result)
	}
	for _, p := range problems {
		fmt.Fprintln(stderr, "sluice: error: demo:", p)
	}
	if len(problems) > 0 {
		return 1
	}
	return 0
}

// run plays the whole piece: start, drive, outage, recovery, drain, check.
func (d *demo) run(ctx context.Context, length time.Duration, admin string, seed uint64) (r demoResult, problems []string, err error) {
	if d.dir, err = os.MkdirTemp("", "sluice-demo-"); err != nil {
		return r, nil, err
	}
	defer os.RemoveAll(d.dir)
	if d.cloud, err = newDemoCloud(d.arrived); err != nil {
		return r, nil, err
	}
	if err := d.cloud.start(); err != nil {
		return r, nil, err
	}
	defer d.cloud.stop()
	listen, err := freeAddress()
	if err != nil {
		return r, nil, err
	}
	file, err := d.configure(listen, admin)
	if err != nil {
		return r, nil, err
	}
	cfg, report := loadConfig(file, time.Now())
	if err := report.Err(); err != nil {
		return r, nil, err
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if d.gate, err = assemble(cfg, log, parts{}); err != nil {
		return r, nil, err
	}
	running, stopGate := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.gate.Run(running) }()
	defer stopGate()

	d.began = time.Now()
	d.head(cfg)
	if err := d.drive(ctx, listen, length, seed); err != nil {
		return r, nil, err
	}
	d.drain(ctx)
	failures := d.failures()
	stopGate()
	if err := <-done; err != nil {
		return r, nil, err
	}
	d.gate = nil
	return d.check(cfg, failures)
}

// configure writes the keys, the catalog of the site and the configuration of the demo.
func (d *demo) configure(listen, admin string) (string, error) {
	keys := filepath.Join(d.dir, "keys")
	ring, err := keyring.Open(keys)
	if err != nil {
		return "", err
	}
	for _, k := range []struct {
		use keyring.Use
		id  string
	}{{keyring.Recipient, "oem-dso"}, {keyring.Custodian, "custodian"}} {
		if err := ring.Generate(k.use, k.id); err != nil {
			return "", err
		}
	}
	var areas strings.Builder
	for _, a := range fleet.Areas() {
		fmt.Fprintf(&areas, "        - { name: %s, datum: wgs84, points: [[%v, %v], [%v, %v], [%v, %v], [%v, %v]] }\n", a.Name,
			a.South, a.West, a.South, a.East, a.North, a.East, a.North, a.West)
	}
	if admin != "" {
		admin = fmt.Sprintf("admin: { listen: %q }\n", admin)
	}
	text := strings.NewReplacer("@DIR@", d.dir, "@LISTEN@", listen, "@CLOUD@", d.cloud.address, "@AREAS@", areas.String(),
		"@UNTIL@", time.Now().AddDate(1, 0, 0).Format(time.DateOnly), "@ADMIN@", admin, "@CORE@", fleet.CoreKey).Replace(demoConfig)
	site := strings.ReplaceAll(demoCatalog, "@CORE@", fleet.CoreKey)
	if d.signer, err = newDemoSigner(d.dir); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "site.catalog.yaml"), []byte(site), 0o600); err != nil {
		return "", err
	}
	file := filepath.Join(d.dir, "sluice.yaml")
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// demoCatalog grades what the vehicle catalog does not know.
const demoCatalog = `version: 1
name: site
title: Catalog of the demo's operator
categories:
  - id: SITE-CONVOY
    name: plan of a protected convoy
    class: commercial
    grade: core
    basis: the operator's own list
    match: { names: ["@CORE@"] }
    handling: { default: block }
`

// demoConfig is an ordinary configuration: the demo's gateway is the real one.
const demoConfig = `gateway: demo
responsible: { name: Data Security Office, contact: dso@example.com }
data_dir: "@DIR@/data"
key_dir: "@DIR@/keys"
sources:
  - name: vehicles
    mqtt: { listen: "tcp://@LISTEN@", anonymous: true, allow: [{ client: "*", publish: ["v1/#"] }] }
catalogs: [vehicle, "@DIR@/site.catalog.yaml"]
unknown_field: remove
plugins:
  - name: geofence
    file: builtin:geofence
    grants: ["read.value:VEH-LOC-POINT"]
    on_error: block
    config:
      areas:
@AREAS@trust: "@DIR@/trust.yaml"
policy:
  - { match: { grade: core }, action: block }
  - { match: { grade: important, category: "VEH-LOC-*" }, action: encrypt, to: oem-dso, approval: { ref: DEMO-1, until: @UNTIL@ } }
  - { match: { grade: important }, action: block }
  - { match: { category: VEH-ID-VIN }, action: tokenize, domain: fleet }
  - { match: { category: "VEH-LOC-*" }, action: generalize, decimals: 2 }
  - { match: { category: [VEH-DRV-DYNAMICS, VEH-DRV-TRIP] }, action: pass }
  - { match: { personal: true }, action: remove }
  - { match: {}, action: pass }
token_domains: { fleet: { key: tokens-fleet } }
keys: { recipients: { oem-dso: oem-dso.pub }, custodian: custodian.pub }
uplinks:
  - name: tsp
    recipient: Example Motors TSP
    jurisdiction: CN
    purpose: remote diagnosis
    legal_basis: contract
    identity: { mode: field }
    mqtt: { url: "tcp://@CLOUD@", qos: 1 }
@ADMIN@`

// drive lets the vehicles publish for the given time, with an outage of the cloud on the way.
func (d *demo) drive(ctx context.Context, address string, length time.Duration, seed uint64) error {
	f := fleet.New(seed, demoVehicles, 0)
	cars := map[string]paho.Client{}
	for _, name := range f.Clients() {
		c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + address).SetClientID(name).SetAutoReconnect(false).
			SetConnectRetry(true).SetConnectRetryInterval(50 * time.Millisecond).SetCleanSession(true))
		if t := c.Connect(); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
			return fmt.Errorf("connect vehicle: %v", t.Error())
		}
		defer c.Disconnect(100)
		cars[name] = c
	}
	ctx, cancel := context.WithCancel(ctx)
	exchanged := make(chan error, 1)
	go func() { exchanged <- d.exchange(ctx, length) }()
	var acks sync.WaitGroup
	defer acks.Wait()
	defer cancel()
	tick := time.NewTicker(time.Second / demoRate)
	defer tick.Stop()
	cut, mend, end := length*35/100, length*60/100, length*85/100
	progress := time.Duration(0)
	for now := time.Duration(0); now < end; now = time.Since(d.began) {
		switch {
		case cut > 0 && now >= cut:
			cut = 0
			d.outage(true)
		case cut == 0 && d.offline && now >= mend:
			d.outage(false)
			if err := d.cloud.start(); err != nil {
				return err
			}
		}
		if now >= progress {
			progress += time.Second
			d.progress(now)
		}
		m := &demoMessage{Message: f.Next()}
		d.note(m)
		token := cars[m.Client].Publish(m.Topic, 1, false, m.Payload)
		acks.Go(func() {
			if token.WaitTimeout(20*time.Second) && token.Error() == nil {
				d.mu.Lock()
				m.acked = true
				d.mu.Unlock()
			}
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("stopped before the end")
		}
	}
	cancel()
	return <-exchanged
}

// outage switches the cloud off, or says that it comes back.
func (d *demo) outage(off bool) {
	d.mu.Lock()
	d.offline = off
	d.mu.Unlock()
	if off {
		fmt.Fprintf(d.out, "%5.1fs  -- the uplink is cut --\n", time.Since(d.began).Seconds())
		d.cloud.stop()
		return
	}
	fmt.Fprintf(d.out, "%5.1fs  -- the uplink is back --\n", time.Since(d.began).Seconds())
}

// note writes a message into the book before it is sent.
func (d *demo) note(m *demoMessage) {
	for _, s := range m.Secrets {
		d.scan.Add(s)
	}
	if m.Position != nil {
		d.scan.AddPosition(m.Position.Lat, m.Position.Lon)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent[m.Seq] = m
	m.trapped = d.trapping
	m.sample = !d.offline && len(d.sent)%80 == 1 || d.fresh(m)
	if m.sample && m.Expect == fleet.Stays {
		d.line(m, "", nil)
	}
}

// fresh reports whether no message of the kind was shown yet; one inside a guarded area is a kind of its own.
func (d *demo) fresh(m *demoMessage) bool {
	for _, o := range d.sent {
		if o != m && o.sample && o.Kind == m.Kind && o.Inside == m.Inside {
			return false
		}
	}
	return true
}

var seqPattern = regexp.MustCompile(`"seq":\s*(\d{10})`)

// arrived enters what the cloud saw into the book.
func (d *demo) arrived(topic string, payload []byte) {
	if strings.Contains(topic, "/$sluice/") {
		return
	}
	found := d.scan.Scan(topic, payload)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range found {
		d.leaks = append(d.leaks, l.Kind+" as "+l.Form)
	}
	match := seqPattern.FindSubmatch(payload)
	if match == nil {
		d.strange++
		return
	}
	seq, _ := strconv.ParseUint(string(match[1]), 10, 64)
	m := d.sent[seq]
	if m == nil {
		d.strange++
		return
	}
	m.arrived++
	if m.sample && m.arrived == 1 {
		d.line(m, topic, payload)
	}
}

// drain waits until nothing waits any more; the vehicles have stopped.
func (d *demo) drain(ctx context.Context) {
	deadline := time.Now().Add(15 * time.Second)
	for t := d.gate.journal.Totals(); t.Waiting > 0 && time.Now().Before(deadline) && ctx.Err() == nil; t = d.gate.journal.Totals() {
		time.Sleep(50 * time.Millisecond)
	}
}

// check closes the book: what the vehicles know, what the cloud saw, what the journal says, and what an inspector finds.
// failures is how many messages the faulty plugin stopped.
func (d *demo) check(cfg *Config, failures int) (r demoResult, problems []string, err error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	verified, err := verifyLog(context.Background(), cfg, "")
	if err != nil {
		return r, nil, err
	}
	for _, e := range verified.Errors {
		bad("audit verify: %s", e)
	}
	stat, err := offlineStat(cfg)
	if err != nil {
		return r, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	r.Totals, r.Leaks = stat.Totals, len(d.leaks)
	acked, mustArrive, stopped := 0, 0, 0
	for _, m := range d.sent {
		if m.acked {
			acked++
		}
		if m.arrived > 1 {
			r.Duplicates += m.arrived - 1
		}
		switch {
		case m.Expect == fleet.Arrives && m.trapped && m.arrived == 0:
			stopped++
		case m.Expect == fleet.Arrives && m.acked:
			mustArrive++
			if m.arrived == 0 {
				r.Lost++
			}
		case m.Expect == fleet.Stays && m.arrived > 0:
			r.Leaks++
			d.leaks = append(d.leaks, m.Kind.String()+" arrived")
		}
	}
	r.Identity = r.Totals.Identity() && r.Received == uint64(verified.Records)
	if r.Lost > 0 {
		bad("%d acknowledged messages did not arrive", r.Lost)
	}
	if stopped > failures || failures == 0 {
		bad("%d messages stayed under the faulty plugin, which failed on %d", stopped, failures)
	}
	for i, l := range d.leaks {
		if i == 5 {
			bad("and %d more leaks", len(d.leaks)-i)
			break
		}
		bad("leak: %s", l)
	}
	if !r.Identity {
		bad("received %d is not the sum of the states, or not the %d decision records", r.Received, verified.Records)
	}
	if r.Waiting > 0 {
		bad("%d messages still wait", r.Waiting)
	}
	if d.strange > 0 {
		bad("%d messages arrived that no vehicle sent", d.strange)
	}
	if acked < len(d.sent) || mustArrive == 0 {
		bad("only %d of %d messages were acknowledged", acked, len(d.sent))
	}
	return r, problems, nil
}

// freeAddress finds a free TCP port on loopback.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
