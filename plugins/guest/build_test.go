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

// What plugin new writes builds with one command, away from this repository and, but for the compiler that npm fetches, without network.
func TestNewProjectsBuild(t *testing.T) {
	sluice := filepath.Join(t.TempDir(), "sluice")
	if text, err := exec.Command("go", "build", "-o", sluice, "../../cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	t.Setenv("SLUICE", sluice)
	t.Setenv("GOPROXY", "off")
	for _, lang := range Languages() {
		t.Run(lang, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a-b_1")
			if text, err := exec.Command(sluice, "plugin", "new", "--lang", lang, "--dir", dir, "a-b_1").CombinedOutput(); err != nil {
				t.Fatalf("plugin new: %v\n%s", err, text)
			}
			if text, err := exec.Command(filepath.Join(dir, "build.sh")).CombinedOutput(); err != nil {
				t.Fatalf("build.sh: %v\n%s", err, text)
			}
			if module, err := os.ReadFile(filepath.Join(dir, "a-b_1.wasm")); err != nil || !bytes.Contains(module, []byte(`"name":"a-b_1"`)) {
				t.Errorf("%d bytes without the manifest, %v", len(module), err)
			}
		})
	}
}
