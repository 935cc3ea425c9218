package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/testbench/stand"
	"github.com/sluice-edge/sluice/testbench/traffic"
)

// Sizes of a bed.
const (
	connections  = 8
	deviceWindow = 256
	bodySize     = 1024
	uplinkWindow = 4096
)

// bed is a gate with the plugin, serial 1 in its file, between devices and a mosquitto.
type bed struct {
	author *author
	gate   *stand.Gate
	child  *stand.Child // nil while the gate is down
	cloud  *stand.Broker
	admin  *http.Client
	serial uint64 // the last one that was made
	sent   uint64 // by the runs so far: they share the sequence numbers
	seen   uint64 // of these, at the cloud
}

// makeBed starts everything. Whoever makes it calls remove.
func makeBed(ctx context.Context, a *author, binary, dir, name string, first manner) (_ *bed, err error) {
	b := &bed{author: a, serial: 1}
	defer func() {
		if err != nil {
			b.remove()
		}
	}()
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if b.cloud, err = stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{}); err != nil {
		return nil, err
	}
	module, sig, err := a.make(1, first)
	if err != nil {
		return nil, err
	}
	for file, data := range map[string][]byte{"trust.yaml": a.trust(), "verdict.wasm": module, "verdict.wasm.sig": sig} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			return nil, err
		}
	}
	b.gate, err = stand.NewGate(ctx, binary, dir, b.cloud.Addr, map[string]string{"trust": `"@DIR@/trust.yaml"`, "plugins": `
  - { name: ` + plugin + `, file: "@DIR@/verdict.wasm", on_error: block, edits: { 1: { action: generalize, decimals: 2 } } }`, "uplinks": fmt.Sprintf(`
  - name: tsp
    recipient: Example Motors TSP
    jurisdiction: CN
    purpose: remote diagnosis
    legal_basis: contract
    mqtt: { url: "tcp://@CLOUD@", qos: 1, inflight: %d }`, uplinkWindow)})
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "data", "admin.sock")
	b.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	b.child, err = b.gate.Start(ctx)
	return b, err
}

// remove ends what still runs.
func (b *bed) remove() {
	if b.child != nil {
		b.child.Kill()
		b.child = nil
	}
	if b.admin != nil {
		b.admin.CloseIdleConnections()
	}
	if b.cloud != nil {
		b.cloud.Kill()
	}
}

// devices starts devices that send at a rate until they are stopped.
func (b *bed) devices(ctx context.Context, rate float64, capacity uint64, again bool) (*traffic.Run, error) {
	return traffic.Start(ctx, traffic.Config{Devices: []string{b.gate.Addr}, Cloud: b.cloud.Addr, Connections: connections, QoS: 1, CloudQoS: 1, Window: deviceWindow, Rate: rate,
		Size: bodySize, Seed: 1, Capacity: capacity, Drain: 2 * time.Second, Reconnect: again, Times: true, First: b.sent})
}

// refusal is what the gate answers to a change that it does not make.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("refused with status %d: %s", r.status, r.text) }

// api asks the gate, over its socket; what is not nil is posted.
func (b *bed) api(ctx context.Context, path string, what, into any) error {
	method, body := http.MethodGet, []byte(nil)
	if what != nil {
		method = http.MethodPost
		var err error
		if body, err = json.Marshal(what); err != nil {
			return err
		}
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://gate/api/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r, err := b.admin.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return &refusal{r.StatusCode, string(text)}
	}
	return json.Unmarshal(text, into)
}

// request is the body of POST plugins.
type request struct {
	Name     string `json:"name"`
	Module   []byte `json:"wasm"`
	Sig      []byte `json:"sig"`
	Confirm  string `json:"confirm,omitempty"`
	MaxDelta string `json:"max_delta,omitempty"`
}

// load makes the next version and has it taken in.
func (b *bed) load(ctx context.Context, m manner, confirm, maxDelta string) error {
	module, sig, err := b.author.make(b.serial+1, m)
	if err != nil {
		return err
	}
	b.serial++
	return b.post(ctx, request{plugin, module, sig, confirm, maxDelta})
}

func (b *bed) post(ctx context.Context, q request) error {
	var answer struct{ Serial uint64 }
	return b.api(ctx, "plugins", q, &answer)
}

// state is how the plugin stands.
type state struct {
	InForce *struct {
		Serial uint64 `json:"serial"`
	} `json:"in_force"`
	Absent string `json:"absent"`
	Struck bool   `json:"struck"`
	Floor  uint64 `json:"floor"`
}

type states struct {
	Plugins []state `json:"plugins"`
}

// one is the state of the plugin, which has to be whole.
func (s *states) one() (state, error) {
	if len(s.Plugins) != 1 || s.Plugins[0].InForce == nil || s.Plugins[0].Absent != "" || s.Plugins[0].Struck {
		return state{}, fmt.Errorf("no version is in force: %+v", s.Plugins)
	}
	return s.Plugins[0], nil
}

func (b *bed) state(ctx context.Context) (state, error) {
	var s states
	if err := b.api(ctx, "plugins", nil, &s); err != nil {
		return state{}, err
	}
	return s.one()
}

// verb runs a verb of the program that answers in JSON.
func (b *bed) verb(ctx context.Context, into any, args ...string) error {
	out, err := b.gate.Verb(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}

// stop ends the gate as an operator does and checks what it left: the files, the log and the identity.
func (b *bed) stop(ctx context.Context) error {
	err := b.child.Stop()
	b.child = nil
	if err != nil {
		return err
	}
	var checked, verified struct {
		OK       bool
		Problems []string
		Errors   []string
	}
	var stat struct{ Totals struct{ Identity bool } }
	err = errors.Join(b.verb(ctx, &checked, "journal", "check"), b.verb(ctx, &verified, "audit", "verify"), b.verb(ctx, &stat, "journal", "stat"))
	switch {
	case err != nil:
		return err
	case !checked.OK || !verified.OK:
		return fmt.Errorf("the journal is not sound: %.300s", strings.Join(append(checked.Problems, verified.Errors...), "; "))
	case !stat.Totals.Identity:
		return errors.New("received is not the sum of the states")
	}
	return nil
}

// records reads every record that the gate left.
func (b *bed) records(fn func(r *gateway.Record)) error {
	ring, err := keyring.Open(filepath.Join(b.gate.Dir, "keys"))
	if err != nil {
		return err
	}
	list, err := ring.AtRest()
	if err != nil {
		return err
	}
	var keys []journal.Key
	for _, k := range list {
		keys = append(keys, journal.Key{ID: k.Tag(), Secret: [32]byte(k.Secret())})
		k.Destroy()
	}
	j, err := journal.OpenReadOnly(filepath.Join(b.gate.Dir, "data"), keys)
	if err != nil {
		return err
	}
	defer j.Close()
	var r gateway.Record
	return j.Records(0, func(_ uint64, raw []byte) error {
		if err := gateway.DecodeRecord(raw, &r); err != nil {
			return err
		}
		fn(&r)
		return nil
	})
}
