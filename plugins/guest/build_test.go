//go:build peers

package guest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The committed modules are what the committed sources make. Needs every tool that README.md lists.
func TestBuildsAreReproducible(t *testing.T) {
	modules, err := filepath.Glob("*/*/*.wasm")
	if err != nil || len(modules) == 0 {
		t.Fatal("no modules", err)
	}
	sluice := filepath.Join(t.TempDir(), "sluice")
	if text, err := exec.Command("go", "build", "-o", sluice, "../../cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	t.Setenv("SLUICE", sluice)
	for _, module := range modules {
		t.Run(strings.TrimSuffix(module, ".wasm"), func(t *testing.T) {
			want, err := os.ReadFile(module)
			if err != nil {
				t.Fatal(err)
			}
			folder, out := filepath.Dir(module), filepath.Join(t.TempDir(), filepath.Base(module))
			if text, err := exec.Command(filepath.Join(filepath.Dir(folder), "build.sh"), folder, out).CombinedOutput(); err != nil {
				t.Fatalf("build.sh: %v\n%s", err, text)
			}
			if built, err := os.ReadFile(out); err != nil || !bytes.Equal(built, want) {
				t.Errorf("build.sh makes %d bytes that differ from the %d committed (%v)", len(built), len(want), err)
			}
		})
	}
}
