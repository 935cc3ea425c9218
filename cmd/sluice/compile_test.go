package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/plugins/geofence"
)

// The program is the other process that compiles plugins, and the code comes back through the folder.
func TestPluginsAreCompiledByTheProgramStartedAgain(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "plugins", "cache")
	c := wasm.PluginConfig{Name: "geofence", File: "builtin:geofence", Config: map[string]any{"areas": []any{map[string]any{"datum": "wgs84", "center": []any{39.9, 116.4}, "radius_m": 500}}}}
	p, err := wasm.Open(context.Background(), c, wasm.Env{Builtin: shippedPlugins, Pinned: []string{geofence.Digest}, Compiler: newCompiler(folder),
		Categories: []gateway.Category{{ID: "VEH-LOC-POINT"}}})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if files, _ := filepath.Glob(filepath.Join(folder, "*", "*")); len(files) != 1 && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64") {
		t.Errorf("%d files of code; want 1", len(files))
	}
}

func TestTheCompilersVerbIsNotForPeople(t *testing.T) {
	var out bytes.Buffer
	if status := dispatch([]string{compileVerb}, strings.NewReader(""), &out, &out); status == exitGood || !strings.Contains(out.String(), "for the program itself") {
		t.Errorf("status %d: %s", status, &out)
	}
	out.Reset()
	dispatch([]string{"help"}, nil, &out, &out)
	if strings.Contains(out.String(), compileVerb) {
		t.Error("help shows it")
	}
}

// selfTested gives a module of the tests a self-test file that its manifest names.
func selfTested(m []byte, vectors string) []byte {
	at := bytes.LastIndex(m, []byte(`{"name":`))
	sum := sha256.Sum256([]byte(vectors))
	manifest := strings.TrimSuffix(string(m[at:]), "}") + fmt.Sprintf(`,"vectors":"%x"}`, sum)
	return append(slices.Clone(m[:at-19]), section(0, append(append([]byte{15}, "sluice.manifest"...), manifest...)...)...)
}

// A version is tested when it is taken in; what was tested comes back at a start without its self-test file.
func TestASelfTestDecidesOnceWhetherAVersionComesIn(t *testing.T) {
	b := newPluginBox(t)
	const passes, fails = "guest any\nrequest\n\t00\nverdict\n\t10000000010003*1\n\t000000000000000000\n", "guest any\nrequest\n\t00\nerror -1\n"
	load := func(serial int, vectors, have string) error {
		bundle := author(1).sign(t, selfTested(module("alpha", serial, blocks), vectors))
		if have != "" {
			bundle.Vectors = []byte(have)
		}
		_, err := b.loadPlugin("alpha", bundle, inForce, 0, probationOf{}, false, "test")
		return err
	}
	for _, c := range [][2]string{{passes, ""}, {passes, fails}, {fails, fails}} {
		if err := load(2, c[0], c[1]); err == nil {
			t.Errorf("a version whose self-test is not there, another or not passed comes in: %q", c)
		}
		b.saw("plugin refused vectors")
	}
	if err := load(3, passes, passes); err != nil {
		t.Fatal(err)
	}
	b.restart()
	if b.serial() != 3 || b.send(1) != gateway.Blocked {
		t.Errorf("serial %d after a restart", b.serial())
	}
}
