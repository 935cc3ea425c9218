package main

import (
	"bytes"
	"context"
	"path/filepath"
	"runtime"
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
