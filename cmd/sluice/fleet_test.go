package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/fleet"
	"github.com/sluice-edge/sluice/plugins/bundle"
)

// What a module of the tests does with every message.
const (
	lets   = 1 // its verdict is none
	holds  = 2
	blocks = 3
	traps  = 9
)

// section is a section of a module: its number, its length and what is in it.
func section(id byte, body ...byte) []byte {
	return append([]byte{id, byte(len(body)&0x7f | 0x80), byte(len(body) >> 7)}, body...)
}

// module is a plugin that says the same of every message, written by hand: three types, three functions, four pages of memory,
// the regions at 64 KiB and 128 KiB.
func module(name string, serial int, does byte) []byte {
	manifest := fmt.Sprintf(`{"name":%q,"version":"1.%d.0","serial":%d,"abi":1,"profile":"bare","protocols":["mqtt"],"topics":["#"],`+
		`"labels":["VEH-LOC-POINT"],"limits":{"memory_pages":4,"fuel":100000,"fuel_init":100000,"depth":64,"in_bytes":65536,"out_bytes":65536}}`, name, serial, serial)
	export := func(name string, kind, index byte) []byte {
		return append(append([]byte{byte(len(name))}, name...), kind, index)
	}
	code := []byte{0, // no locals
		0x41, 0x80, 0x80, 0x08, 0x41, 16, 0x36, 2, 0, // store 16 at 131072
		0x41, 0x80, 0x80, 0x08, 0x41, 0x81, 0x80, does << 2, 0x36, 2, 4, // version 1, the action in byte 6: bit 16 on, and the third group of seven begins at bit 14
		0x41, 0x80, 0x80, 0x08, 0x42, 0, 0x37, 3, 8, // no edits, no labels
		0x41, 16, 0x0b}
	if does == traps {
		code = []byte{0, 0x00, 0x0b}
	}
	bodies := slices.Concat([]byte{3, 2, 0, 0x0b}, arena(), []byte{byte(len(code))}, code)
	m := []byte("\x00asm\x01\x00\x00\x00")
	m = append(m, section(1, 3, 0x60, 0, 0, 0x60, 2, 0x7f, 0x7f, 1, 0x7e, 0x60, 1, 0x7f, 1, 0x7f)...)
	m = append(m, section(3, 3, 0, 1, 2)...)
	m = append(m, section(5, 1, 1, 4, 4)...)
	m = append(m, section(7, slices.Concat([]byte{4}, export("memory", 2, 0), export("sluice_abi_v1", 0, 0), export("sluice_arena", 0, 1), export("sluice_filter", 0, 2))...)...)
	m = append(m, section(10, bodies...)...)
	return append(m, section(0, append(append([]byte{15}, "sluice.manifest"...), manifest...)...)...)
}

// arena is the body of sluice_arena: the constant 65536<<32 | 131072.
func arena() []byte {
	body := []byte{0, 0x42}
	for v := int64(65536<<32 | 131072); ; v >>= 7 {
		b := byte(v & 0x7f)
		if v>>7 == 0 && b&0x40 == 0 {
			body = append(body, b)
			break
		}
		body = append(body, b|0x80)
	}
	body = append(body, 0x0b)
	return append([]byte{byte(len(body))}, body...)
}

// author signs with a key whose secret is one byte, over and over.
type author byte

func (k author) id() string { return fmt.Sprintf("author-%d", byte(k)) }

func (k author) sign(t testing.TB, module []byte) fleet.Bundle {
	t.Helper()
	sig, err := bundle.Sign(module, k.id(), bytes.Repeat([]byte{byte(k)}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return fleet.Bundle{Module: module, Sig: sig}
}

// trusts is the entry of the key in a trust file.
func (k author) trusts(t testing.TB, more string) string {
	t.Helper()
	public := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(k)}, 32))[32:]
	return fmt.Sprintf("  - { id: %s, ed25519: %s, names: [\"*\"], expires: 2099-12-31%s }\n", k.id(), base64.StdEncoding.EncodeToString(public), more)
}

// pluginBox is a gateway with two plugins, alpha and beta, whose files are signed versions with serial 1 that let everything pass.
type pluginBox struct {
	t    *testing.T
	dir  string
	file string
	*assembly
}

const boxConfig = `gateway: vgw-0001
data_dir: data
key_dir: keys
sources:
  - name: bench
    mqtt: { listen: "tcp://127.0.0.1:0", anonymous: true, allow: [{ client: "*", publish: ["v1/#"] }] }
catalogs: [vehicle]
trust: trust.yaml
plugins:
  - { name: alpha, file: alpha.wasm, on_error: block }
  - { name: beta, file: beta.wasm, on_error: block }
policy:
  - { match: { grade: core }, action: block }
  - { match: { grade: important }, action: block }
  - { match: {}, action: pass }
uplinks:
  - { name: tsp, recipient: R, jurisdiction: CN, purpose: p, legal_basis: contract, mqtt: { url: "tcp://127.0.0.1:1" } }
`

func newPluginBox(t *testing.T) *pluginBox {
	t.Helper()
	b := &pluginBox{t: t, dir: t.TempDir()}
	b.file = filepath.Join(b.dir, "sluice.yaml")
	b.write("sluice.yaml", []byte(boxConfig))
	b.write("trust.yaml", []byte("keys:\n"+author(1).trusts(t, "")+author(2).trusts(t, ", revoked: true")))
	b.put("alpha", 1, lets)
	b.put("beta", 1, lets)
	b.start()
	return b
}

func (b *pluginBox) write(name string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// put puts a signed version in the place of a plugin's file.
func (b *pluginBox) put(name string, serial int, does byte) {
	b.t.Helper()
	s := author(1).sign(b.t, module(name, serial, does))
	b.write(name+".wasm.sig", s.Sig)
	b.write(name+".wasm", s.Module)
}

func (b *pluginBox) start() {
	b.t.Helper()
	cfg, report := loadConfig(b.file, time.Now())
	if err := report.Err(); err != nil {
		b.t.Fatal(err)
	}
	b.startWith(cfg)
}

func (b *pluginBox) startWith(cfg *Config) {
	b.t.Helper()
	a, err := assemble(cfg, slog.New(slog.DiscardHandler), parts{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.assembly = a
	b.t.Cleanup(func() { a.close() })
}

// restart is an end, as it should be, and another start.
func (b *pluginBox) restart() {
	b.t.Helper()
	if err := b.close(); err != nil {
		b.t.Fatal(err)
	}
	b.start()
}

// send lets n messages be decided and returns what became of the last one.
func (b *pluginBox) send(n int) gateway.State {
	b.t.Helper()
	before := b.journal.Stat().Totals
	for range n {
		m := &gateway.Message{Source: "bench", Protocol: gateway.MQTT, Client: "car-7", Topic: "v1/car-7/telemetry", Payload: []byte(`{"speed":61.5}`), Received: time.Now()}
		ticket, err := b.gateway.Admit(b.t.Context(), []*gateway.Message{m})
		if err == nil {
			err = ticket.Wait(b.t.Context())
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	if b.journal.Stat().Totals.Blocked > before.Blocked {
		return gateway.Blocked
	}
	return gateway.Waiting
}

// load takes a version of alpha in as author k.
func (b *pluginBox) load(k author, m []byte, want probationOf) (*pluginAnswer, error) {
	return b.loadPlugin("alpha", k.sign(b.t, m), inForce, 0, want, false, "test")
}

func (b *pluginBox) must(answer *pluginAnswer, err error) *pluginAnswer {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	return answer
}

// serial is that of alpha in force.
func (b *pluginBox) serial() uint64 {
	if f := b.now.Load().places[0].active; f != nil {
		return f.of.Serial
	}
	return 0
}

// events lists the events of plugins on the record as "event why".
func (b *pluginBox) events() (list []string) {
	b.t.Helper()
	err := b.journal.Records(0, func(_ uint64, raw []byte) error {
		var r gateway.Record
		if err := gateway.DecodeRecord(raw, &r); err != nil {
			return err
		}
		var e struct{ Event, Why, Plugin string }
		if r.Kind == gateway.EventRecord && json.Unmarshal(r.Detail, &e) == nil && (e.Plugin != "" || strings.HasPrefix(e.Event, "plugin")) {
			list = append(list, strings.TrimSpace(e.Event+" "+e.Why))
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// saw waits for an event on the record: it is told after what it tells of.
func (b *pluginBox) saw(event string) {
	b.t.Helper()
	b.until(event+" on the record", func() bool {
		b.send(1) // what was appended before it is committed
		return slices.Contains(b.events(), event)
	})
}

// until waits for what a goroutine of the gateway does.
func (b *pluginBox) until(what string, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatal("not in time: " + what)
		}
	}
}

func TestAPluginIsExchangedAndNothingElse(t *testing.T) {
	b := newPluginBox(t)
	first := b.now.Load()
	if b.send(1) != gateway.Waiting || b.serial() != 1 {
		t.Fatal("the files are not in force")
	}
	answer := b.must(b.load(1, module("alpha", 2, blocks), probationOf{}))
	second := b.now.Load()
	if b.send(1) != gateway.Blocked || answer.Serial != 2 || answer.Key != "author-1" || answer.Set <= first.set.Number || answer.Set != b.gateway.Set().Number {
		t.Errorf("%+v", answer)
	}
	if second.places[1].active != first.places[1].active || second.set.Policy != first.set.Policy || second.set.Redactor != first.set.Redactor || second.set.Classifier != first.set.Classifier {
		t.Error("something else was made again")
	}
	if f := first.places[0].active; f.sets.Load() != 0 {
		t.Error("the version before is still held")
	}
	if f := second.places[1].active; f.sets.Load() != 1 {
		t.Errorf("the other plugin is held %d times", f.sets.Load())
	}
	b.saw("plugin loaded")
	if answer = b.must(b.rollbackPlugin("alpha", "test")); answer.Serial != 1 || b.send(1) != gateway.Waiting {
		t.Errorf("%+v", answer)
	}
	b.saw("plugin rolled back operator")
	if _, err := b.rollbackPlugin("alpha", "test"); !errors.Is(err, fleet.ErrNoGood) {
		t.Errorf("a second rollback: %v", err)
	}
	b.must(b.load(1, module("alpha", 3, blocks), probationOf{}))
	b.restart()
	if b.serial() != 3 || b.send(1) != gateway.Blocked {
		t.Errorf("serial %d after a restart", b.serial())
	}
}

func TestWhatIsRefusedLeavesTheOldVersion(t *testing.T) {
	b := newPluginBox(t)
	b.must(b.load(1, module("alpha", 5, lets), probationOf{}))
	for _, c := range []struct {
		name, code string
		load       func() (*pluginAnswer, error)
	}{
		{"unsigned", "unsigned", func() (*pluginAnswer, error) {
			return b.loadPlugin("alpha", fleet.Bundle{Module: module("alpha", 6, blocks)}, inForce, 0, probationOf{}, false, "test")
		}},
		{"a signature over something else", "bad_signature", func() (*pluginAnswer, error) {
			s := author(1).sign(t, module("alpha", 6, blocks))
			return b.loadPlugin("alpha", fleet.Bundle{Module: module("alpha", 7, blocks), Sig: s.Sig}, inForce, 0, probationOf{}, false, "test")
		}},
		{"a stranger", "unknown_key", func() (*pluginAnswer, error) { return b.load(3, module("alpha", 6, blocks), probationOf{}) }},
		{"a revoked key", "revoked", func() (*pluginAnswer, error) { return b.load(2, module("alpha", 6, blocks), probationOf{}) }},
		{"a lower serial", "old_serial", func() (*pluginAnswer, error) { return b.load(1, module("alpha", 4, blocks), probationOf{}) }},
		{"the same serial with other content", "old_serial", func() (*pluginAnswer, error) { return b.load(1, module("alpha", 5, blocks), probationOf{}) }},
		{"another plugin's", "other_name", func() (*pluginAnswer, error) { return b.load(1, module("beta", 6, blocks), probationOf{}) }},
		{"no module", "manifest", func() (*pluginAnswer, error) { return b.load(1, []byte("none"), probationOf{}) }},
		{"not configured", "not_configured", func() (*pluginAnswer, error) {
			return b.loadPlugin("gamma", author(1).sign(t, module("gamma", 1, blocks)), inForce, 0, probationOf{}, false, "test")
		}},
	} {
		before := b.now.Load()
		if answer, err := c.load(); err == nil || b.now.Load() != before {
			t.Errorf("%s: %+v, %v", c.name, answer, err)
		}
		b.saw("plugin refused " + c.code)
	}
	if b.serial() != 5 || b.send(1) != gateway.Waiting {
		t.Error("the old version is not in force")
	}
	_, err := b.loadPlugin("alfa", fleet.Bundle{}, inForce, 0, probationOf{}, false, "test")
	if h := (hinted{}); !errors.As(err, &h) || !strings.Contains(h.hint, "alpha") {
		t.Errorf("no hint: %v", err)
	}
}

func TestAProbationThatNobodyConfirms(t *testing.T) {
	b := newPluginBox(t)
	want := probationOf{confirm: time.Hour, maxDelta: 1}
	b.must(b.load(1, module("alpha", 2, blocks), want))
	if _, err := b.load(1, module("alpha", 3, lets), probationOf{}); err == nil || b.serial() != 2 {
		t.Errorf("another load meanwhile: %v", err)
	}
	if err := b.reload("test", probationOf{}); err == nil {
		t.Error("a reload meanwhile")
	}
	b.endTrial(b.trial, fleet.Unconfirmed, nil) // as its timer does
	if b.serial() != 1 || b.send(1) != gateway.Waiting {
		t.Error("it was not rolled back")
	}
	b.saw("plugin rolled back unconfirmed")
	b.must(b.load(1, module("alpha", 2, blocks), want)) // a person may try again
	b.must(b.confirmPlugin("alpha", "test"))
	if b.serial() != 2 || b.trial != nil || b.fleet.Slot("alpha").Good.Serial != 1 {
		t.Errorf("%+v", b.fleet.Slot("alpha"))
	}
	if _, err := b.confirmPlugin("alpha", "test"); !errors.Is(err, fleet.ErrNoPending) {
		t.Errorf("confirmed again: %v", err)
	}
	b.must(b.load(1, module("alpha", 3, lets), want))
	if answer := b.must(b.rollbackPlugin("alpha", "test")); answer.Serial != 2 {
		t.Errorf("%+v", answer)
	}
	b.must(b.load(1, module("alpha", 4, lets), want))
	b.restart()
	if b.serial() != 2 {
		t.Errorf("serial %d after a restart on probation", b.serial())
	}
	b.saw("plugin rolled back restarted")
}

// TestAPluginThatBlocksEverythingIsRolledBack: it is valid and never traps.
func TestAPluginThatBlocksEverythingIsRolledBack(t *testing.T) {
	b := newPluginBox(t)
	b.must(b.load(1, module("alpha", 2, blocks), probationOf{confirm: time.Hour, maxDelta: 0.05}))
	b.until("rolled back", func() bool { b.send(1); return b.serial() == 1 })
	b.saw("probation tripped")
	b.saw("plugin rolled back tripped")
	if b.fleet.Slot("alpha").WhyRefused(b.now.Load().places[0].active.of.Digest) != "" {
		t.Error("the version before is refused")
	}
	if b.send(1) != gateway.Waiting {
		t.Error("it still blocks")
	}
}

func TestAStruckPluginGoesBackOrStaysOut(t *testing.T) {
	b := newPluginBox(t)
	b.must(b.load(1, module("alpha", 2, traps), probationOf{}))
	b.send(3)
	b.until("rolled back", func() bool { return b.serial() == 1 })
	b.saw("plugin lost instances trap")
	b.saw("plugin struck")
	b.saw("plugin rolled back struck")
	if b.send(1) != gateway.Waiting {
		t.Error("the good version does not judge")
	}

	b.must(b.load(1, module("alpha", 3, traps), probationOf{confirm: time.Hour}))
	b.send(3)
	b.until("rolled back from probation", func() bool { return b.serial() == 1 })

	b.must(b.load(1, module("alpha", 4, lets), probationOf{}))
	b.must(b.rollbackPlugin("alpha", "test")) // nothing good is left
	b.must(b.load(1, module("alpha", 5, traps), probationOf{}))
	b.send(3)
	b.until("rolled back", func() bool { return b.serial() == 1 })
	if slot := b.fleet.Slot("alpha"); slot.Good != nil {
		t.Fatalf("%+v", slot)
	}
	f := b.now.Load().places[0].active
	for range 3 {
		f.strike("trap")
	}
	if b.send(1) != gateway.Blocked {
		t.Error("a struck plugin lets messages pass")
	}
	b.until("out of service", func() bool { return b.fleet.Slot("alpha").WhyRefused(f.of.Digest) == fleet.Struck })
	if c := b.condition("plugin alpha"); c.OK || !strings.Contains(c.Detail, "on_error") {
		t.Errorf("%+v", c)
	}
	b.must(b.load(1, module("alpha", 6, lets), probationOf{}))
	if c := b.condition("plugin alpha"); !c.OK || b.send(1) != gateway.Waiting || b.fleet.Slot("alpha").Good != nil {
		t.Errorf("%+v", c)
	}
}

func (b *pluginBox) condition(name string) (c struct {
	OK     bool
	Detail string
}) {
	for _, r := range b.ready() {
		if r.Name == name {
			c.OK, c.Detail = r.OK, r.Detail
		}
	}
	return c
}

func TestShadowCanaryAndPromotion(t *testing.T) {
	b := newPluginBox(t)
	b.must(b.loadPlugin("alpha", author(1).sign(t, module("alpha", 2, blocks)), shadow, 0, probationOf{}, false, "test"))
	if b.send(70) != gateway.Waiting {
		t.Error("a shadow has an effect")
	}
	s := b.plugins(true)[0].Shadow
	if s == nil || s.Compared != 70 || s.Differed != 70 || len(s.Cases) != maxCases || s.Cases[0].InForce != "pass" || s.Cases[0].Shadow != "block" || len(s.Cases[0].Input) != 64 {
		t.Fatalf("%+v", s)
	}
	b.restart()
	if s := b.plugins(true)[0].Shadow; s == nil || s.Serial != 2 {
		t.Fatalf("after a restart: %+v", s)
	}
	b.must(b.promotePlugin("alpha", probationOf{}, "test"))
	if b.send(1) != gateway.Blocked || b.serial() != 2 || b.plugins(true)[0].Shadow != nil {
		t.Error("it was not promoted")
	}
	b.must(b.loadPlugin("alpha", author(1).sign(t, module("alpha", 3, traps)), canary, 0.9999, probationOf{}, false, "test"))
	if c := b.plugins(true)[0].Canary; c == nil || c.Serial != 3 {
		t.Fatalf("%+v", c)
	}
	b.send(3)
	b.until("canary struck", func() bool { return b.fleet.Slot("alpha").Canary == nil })
	b.until("canary gone", func() bool { return b.now.Load().places[0].canary == nil })
	b.saw("plugin canary ended struck")
	if b.serial() != 2 {
		t.Error("the version in force went with it")
	}
	b.must(b.loadPlugin("alpha", author(1).sign(t, module("alpha", 4, lets)), shadow, 0, probationOf{}, false, "test"))
	b.must(b.removeShadow("alpha", "test"))
	if _, err := b.removeShadow("alpha", "test"); !errors.Is(err, fleet.ErrNoShadow) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestAFileIsTakenInWhenItChanges(t *testing.T) {
	b := newPluginBox(t)
	c := &b.cfg.Plugins[0]
	b.put("alpha", 2, blocks)
	if !b.takeFile(c) || b.serial() != 2 {
		t.Fatalf("serial %d", b.serial())
	}
	before := b.now.Load()
	if !b.takeFile(c) || b.now.Load() != before {
		t.Error("the same file again is news")
	}
	b.must(b.rollbackPlugin("alpha", "test"))
	if !b.takeFile(c) || b.serial() != 1 {
		t.Error("what was rolled back came back by itself")
	}
	if err := b.reload("test", probationOf{}); err != nil || b.serial() != 1 {
		t.Errorf("reload: %v, serial %d", err, b.serial())
	}
	b.restart()
	if b.serial() != 1 {
		t.Error("what was rolled back came back by a restart")
	}
	b.must(b.load(1, module("alpha", 3, lets), probationOf{confirm: time.Hour}))
	b.put("alpha", 4, blocks)
	if b.takeFile(c) || b.serial() != 3 {
		t.Error("a file comes in while something is on probation")
	}
	b.must(b.confirmPlugin("alpha", "test"))
	if err := b.reload("test", probationOf{}); err != nil || b.serial() != 4 {
		t.Errorf("reload: %v, serial %d", err, b.serial())
	}
	b.write("alpha.wasm.sig", nil)
	b.write("alpha.wasm", module("alpha", 9, lets))
	if !b.takeFile(c) || b.serial() != 4 {
		t.Error("an unsigned file came in")
	}
	b.saw("plugin refused unsigned")
	b.restart()
	if b.serial() != 4 {
		t.Errorf("serial %d after a restart with an unsigned file", b.serial())
	}
}

// TestARevokedKeyEndsItsVersions: at a reload and at a start, where nothing else is left messages take on_error.
func TestARevokedKeyEndsItsVersions(t *testing.T) {
	b := newPluginBox(t)
	b.write("trust.yaml", []byte("keys:\n"+author(1).trusts(t, ", revoked: true")+author(2).trusts(t, "")))
	if err := b.reload("test", probationOf{}); err != nil {
		t.Fatal(err)
	}
	if b.serial() != 0 || b.send(1) != gateway.Blocked {
		t.Error("a version of a revoked key judges")
	}
	if c := b.condition("plugin alpha"); c.OK || !strings.Contains(c.Detail, "revoked") {
		t.Errorf("%+v", c)
	}
	b.restart()
	if b.serial() != 0 || b.send(1) != gateway.Blocked {
		t.Error("a version of a revoked key judges after a restart")
	}
	b.saw("plugin absent revoked")
	b.must(b.load(2, module("alpha", 2, lets), probationOf{}))
	b.must(b.loadPlugin("beta", author(2).sign(t, module("beta", 2, lets)), inForce, 0, probationOf{}, false, "test"))
	if b.send(1) != gateway.Waiting {
		t.Error("it does not go on")
	}
	if slot := b.fleet.Slot("alpha"); slot.Good != nil && slot.Good.Key == "author-1" {
		t.Logf("a rollback would be refused: %+v", slot.Good)
	}
}

func TestTheRecordSaysWhoVouchedForWhat(t *testing.T) {
	b := newPluginBox(t)
	b.must(b.load(1, module("alpha", 2, lets), probationOf{}))
	var d struct{ Plugins []vouched }
	if err := json.Unmarshal(b.gateway.Set().Describe("test"), &d); err != nil || len(d.Plugins) != 2 {
		t.Fatalf("%v %+v", err, d)
	}
	if p := d.Plugins[0]; p.Name != "alpha" || p.Serial != 2 || p.Key != "author-1" || len(p.Digest) != 64 || len(p.Config) != 64 {
		t.Errorf("%+v", p)
	}
}

func TestLoadRequests(t *testing.T) {
	form := func(fields ...string) (*bytes.Buffer, string) {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		for i := 0; i < len(fields); i += 2 {
			part, err := w.CreateFormFile(fields[i], "file")
			if err != nil {
				t.Fatal(err)
			}
			part.Write([]byte(fields[i+1]))
		}
		w.Close()
		return &body, w.FormDataContentType()
	}
	body, kind := form("name", "alpha", "wasm", "M\x00", "sig", "S")
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/api/v1/plugins?confirm=10m&max_delta=5%25&shadow=true", body)
	r.Header.Set("Content-Type", kind)
	q, err := readLoad(r)
	if err != nil || q.Name != "alpha" || string(q.Module) != "M\x00" || string(q.Sig) != "S" || q.Confirm != "10m" || q.MaxDelta != "5%" || !q.Shadow {
		t.Errorf("%+v %v", q, err)
	}
	q, err = readLoad(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"name":"alpha","wasm":"TQ==","sig":"Uw==","canary":"5%"}`)))
	if err != nil || string(q.Module) != "M" || string(q.Sig) != "S" || q.Canary != "5%" {
		t.Errorf("%+v %v", q, err)
	}
	for _, bad := range []string{``, `{}`, `{"name":"a"}`, `{"name":"a","wasm":"!"}`, `[]`} {
		if q, err := readLoad(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(bad))); err == nil {
			t.Errorf("%q: %+v", bad, q)
		}
	}
	for text, want := range map[string]float64{"5%": 0.05, "0.05": 0.05, "100%": 1, " 1% ": 0.01} {
		if got, err := parseShare(text); err != nil || got < want-1e-9 || got > want+1e-9 {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "%", "0", "0%", "101%", "-1", "NaN", "five"} {
		if got, err := parseShare(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
	for _, bad := range []probationRequest{{MaxDelta: "5%"}, {Confirm: "soon"}, {Confirm: "1ms"}, {Confirm: "1h", MaxDelta: "much"}, {Confirm: "1h", MaxLatency: "0.5"}, {Confirm: "1h", MaxLatency: "NaN"}} {
		if w, err := bad.parse(); err == nil {
			t.Errorf("%+v: %+v", bad, w)
		}
	}
}
