//go:build peers

package geofence

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The committed module is what the committed source makes. Needs clang 14 and lld 14.
func TestBuildIsReproducible(t *testing.T) {
	out := filepath.Join(t.TempDir(), "geofence.wasm")
	if text, err := exec.Command("./build.sh", out).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, text)
	}
	built, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, Wasm) {
		t.Errorf("build.sh makes %d bytes that differ from the %d committed", len(built), len(Wasm))
	}
}
