package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// TestKilledDuringALoad ends the program with kill -9 at some moment of a load, 50 times: the next start has the version
// before or the new one, whole, and never none; a load that was answered is there.
func TestKilledDuringALoad(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the program fifty times")
	}
	binary, err := exec.LookPath("sluice") // this test, as the program: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	gate, err := stand.NewGate(t.Context(), binary, dir, "127.0.0.1:1", map[string]string{"trust": "trust.yaml",
		"plugins": `[{ name: alpha, file: alpha.wasm, on_error: block }, { name: beta, file: beta.wasm, on_error: block }]`})
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("trust.yaml", []byte("keys:\n"+author(1).trusts(t, "")))
	for _, name := range []string{"alpha", "beta"} {
		b := author(1).sign(t, module(name, 1, lets))
		write(name+".wasm", b.Module)
		write(name+".wasm.sig", b.Sig)
	}
	cfg, report := loadConfig(gate.Config, time.Now())
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	load := func(ctx context.Context, serial int) error {
		b := author(1).sign(t, module("alpha", serial, []byte{lets, holds, blocks}[serial%3]))
		return tell(ctx, cfg, http.MethodPost, "plugins", &loadRequest{Name: "alpha", Module: b.Module, Sig: b.Sig}, new(pluginAnswer))
	}
	// inForce is what a gateway that just started has.
	inForce := func() uint64 {
		t.Helper()
		var answer struct{ Plugins []pluginState }
		if err := ask(t.Context(), cfg, "plugins", nil, &answer); err != nil {
			t.Fatal(err)
		}
		for _, p := range answer.Plugins {
			if p.InForce == nil || p.Absent != "" || p.Struck {
				t.Fatalf("not whole: %+v", p)
			}
		}
		if len(answer.Plugins) != 2 || answer.Plugins[1].InForce.Serial != 1 {
			t.Fatalf("the other plugin: %+v", answer.Plugins)
		}
		return answer.Plugins[0].InForce.Serial
	}
	child, err := gate.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { child.Kill() }()
	began := time.Now()
	if err := load(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	took, last := time.Since(began), uint64(2)
	old, young, answered := 0, 0, 0
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		next := round + 3
		done := make(chan error, 1)
		go func() { done <- load(t.Context(), next) }()
		time.Sleep(time.Duration(r.Float64() * 1.2 * float64(took))) // the moment is what is tried
		child.Kill()
		loadErr := <-done
		if child, err = gate.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		switch got := inForce(); {
		case got == uint64(next):
			young++
		case got == last && loadErr != nil:
			old++
		default:
			t.Fatalf("round %d: serial %d in force, %d before, %d loaded: %v", round, got, last, next, loadErr)
		}
		if loadErr == nil {
			answered++
		}
		last = inForce()
	}
	t.Logf("a load took %v; %d times the version before, %d times the new one, %d of these answered", took.Round(time.Millisecond), old, young, answered)
	if old == 0 || young == 0 {
		t.Error("only one of the two was ever found")
	}
}
