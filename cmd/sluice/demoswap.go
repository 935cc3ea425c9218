package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway/fleet"
	"github.com/sluice-edge/sluice/plugins/bundle"
	"github.com/sluice-edge/sluice/plugins/geofence"
	"github.com/sluice-edge/sluice/plugins/guest/pack"
)

// demoPlugin is the plugin that the demo exchanges while vehicles drive.
const demoPlugin = "geofence"

// faultyModule is a module without a fault in its form, whose filter does nothing but trap:
//
//	(memory (export "memory") 3)
//	(func (export "sluice_abi_v1"))
//	(func (export "sluice_arena") (param i32 i32) (result i64) i64.const 0x0001_0000_0002_0000)
//	(func (export "sluice_filter") (param i32) (result i32) unreachable)
//	(func (export "sluice_configure") (param i32) (result i32) i32.const 0)
const faultyModule = "0061736d01000000010f0360000060027f7f017e60017f017f030504000102020503010003074c05066d656d6f727902000d736c756963655f6162695f76" +
	"3100000c736c756963655f6172656e6100010d736c756963655f66696c746572000210736c756963655f636f6e66696775726500030a190402000b0b0042808088808080c0000b0300000b040041000b"

// demoSigner is the key of the demo's plugin author, made for one run.
type demoSigner struct{ seed []byte }

// newDemoSigner makes the key and a trust file that lets it sign the demo's plugin.
func newDemoSigner(dir string) (*demoSigner, error) {
	s := &demoSigner{seed: make([]byte, ed25519.SeedSize)}
	if _, err := rand.Read(s.seed); err != nil {
		return nil, err
	}
	public := ed25519.NewKeyFromSeed(s.seed).Public().(ed25519.PublicKey)
	trust := fmt.Sprintf("keys:\n  - { id: demo-author, ed25519: %q, names: [%s], grants: [%q], expires: %s }\n", base64.StdEncoding.EncodeToString(public),
		demoPlugin, "read.value:VEH-LOC-*", time.Now().AddDate(1, 0, 0).Format(time.DateOnly))
	return s, os.WriteFile(filepath.Join(dir, "trust.yaml"), []byte(trust), 0o600)
}

// bundle packs code with the manifest of the shipped plugin under another version, and signs it.
func (s *demoSigner) bundle(code []byte, version string, ahead uint64) (fleet.Bundle, error) {
	manifest, err := wasm.ReadManifest(geofence.Wasm)
	if err != nil {
		return fleet.Bundle{}, err
	}
	manifest.Version, manifest.Serial = version, manifest.Serial+ahead
	text, err := json.Marshal(manifest)
	if err != nil {
		return fleet.Bundle{}, err
	}
	module, err := pack.Pack(code, text)
	if err != nil {
		return fleet.Bundle{}, err
	}
	sig, err := bundle.Sign(module, "demo-author", s.seed)
	return fleet.Bundle{Module: module, Sig: sig}, err
}

// swap loads a signed version of the plugin while messages flow.
func (d *demo) swap() error {
	next, err := d.signer.bundle(geofence.Wasm, "2.0.0", 1)
	if err != nil {
		return err
	}
	answer, err := d.load(next)
	if err != nil {
		return fmt.Errorf("load a signed plugin: %w", err)
	}
	d.tell("%s %s is in force: signed by demo-author, loaded in %d ms while messages flow", demoPlugin, answer.version.Version, answer.Milliseconds)
	d.swapped = d.gate.fleet.Slot(demoPlugin).Active.Digest
	return nil
}

// refuse tries to load a plugin that nobody signed.
func (d *demo) refuse() error {
	next, err := d.signer.bundle(geofence.Wasm, "2.1.0", 2)
	if err != nil {
		return err
	}
	next.Sig = nil
	before := d.gate.now.Load()
	if _, err := d.load(next); err == nil || d.gate.now.Load() != before {
		return errors.New("an unsigned plugin came in force")
	}
	d.tell("an unsigned %s 2.1.0 is refused, and nothing changes", demoPlugin)
	return nil
}

// trap loads a plugin that is signed and traps on every message.
func (d *demo) trap() error {
	code, err := hex.DecodeString(faultyModule)
	if err != nil {
		return err
	}
	next, err := d.signer.bundle(code, "3.0.0", 3)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.trapping = true // before the first message that it may judge
	d.mu.Unlock()
	answer, err := d.load(next)
	if err != nil {
		return fmt.Errorf("load a faulty plugin: %w", err)
	}
	d.faulty = answer.Set
	d.tell("%s 3.0.0 is in force, and traps on every message: on_error blocks them", demoPlugin)
	return nil
}

// recovered reports whether the gateway went back to the version before the one that traps, by itself.
func (d *demo) recovered() bool {
	active := d.gate.fleet.Slot(demoPlugin).Active
	return active != nil && active.Digest == d.swapped && d.gate.now.Load().set.Number > d.faulty
}

// failures counts the messages that the plugin failed on since the start, by the gateway's own count.
func (d *demo) failures() int {
	families, err := d.gate.metrics.Gatherer().Gather()
	if err != nil {
		return 0
	}
	n := 0.0
	for _, f := range families {
		if f.GetName() == "sluice_filter_errors_total" {
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return int(n)
}

// exchange exchanges plugins while vehicles drive, each at its share of the demo's length. It returns when the last fault is mended,
// or ctx ends.
func (d *demo) exchange(ctx context.Context, length time.Duration) error {
	for _, step := range []struct {
		at int // percent
		do func() error
	}{{12, d.swap}, {17, d.refuse}, {22, d.trap}} {
		if err := pauseUntil(ctx, d.began.Add(length*time.Duration(step.at)/100)); err != nil {
			return err
		}
		if err := step.do(); err != nil {
			return err
		}
	}
	for !d.recovered() {
		if err := pauseUntil(ctx, time.Now().Add(10*time.Millisecond)); err != nil {
			return fmt.Errorf("the plugin that traps was not taken back: %w", err)
		}
	}
	d.tell("three strikes: the gateway went back to %s 2.0.0 by itself, after %d messages that it blocked", demoPlugin, d.failures())
	if err := pauseUntil(ctx, time.Now().Add(length/100)); err != nil { // what was on its way is decided then
		return err
	}
	d.mu.Lock()
	d.trapping = false
	d.mu.Unlock()
	return nil
}

func pauseUntil(ctx context.Context, at time.Time) error {
	select {
	case <-time.After(time.Until(at)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *demo) load(b fleet.Bundle) (*pluginAnswer, error) {
	return d.gate.loadPlugin(demoPlugin, b, inForce, 0, probationOf{}, false, "demo")
}

func (d *demo) tell(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1fs  -- %s --\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// oneWriter lets one write at a time.
type oneWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (o *oneWriter) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}
