// Package sluice_test checks what no single package can: who may import whom.
package sluice_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sluice-edge/sluice"

// rooms says which packages of this module a package may import, besides the standard library and dependencies: the
// first pattern that matches it decides. A pattern ending in /... matches a folder and everything below. gateway/config
// is a leaf that everybody may import. Siblings are never listed, so they never import each other.
var rooms = []struct {
	packages string
	may      []string
}{
	{"gateway/config", nil},
	{"gateway", nil},
	{"gateway/journal/...", []string{"gateway"}},
	{"gateway/audit/...", []string{"crypto/signed", "gateway"}},
	{"gateway/ship/...", []string{"crypto/signed", "gateway"}},
	{"gateway/report/...", []string{"gateway", "gateway/audit"}},
	{"gateway/risk/...", []string{"gateway", "gateway/audit"}},
	{"gateway/complaint/...", []string{"gateway", "gateway/audit"}},
	{"gateway/console/...", []string{"gateway", "gateway/audit"}},
	{"gateway/fleet/...", []string{"crypto/signed", "gateway", "plugins/bundle"}},
	{"crypto/...", nil},
	{"protocols/...", []string{"gateway"}},
	{"filters/wasm/guard", nil},
	{"filters/wasm", []string{"crypto/...", "filters/wasm/guard", "gateway"}},
	{"filters/...", []string{"crypto/...", "gateway"}},
	{"plugins/bundle/...", []string{"crypto/signed"}},
	{"plugins/guest/go", nil},
	{"plugins/guest/...", []string{"plugins/guest/go"}},
	{"plugins/...", []string{"plugins/guest/..."}},
	{"cmd/...", []string{"..."}},
	{"testbench/...", []string{"..."}},
	{"deploy/consumer/...", nil},
	{"", nil},
}

// everywhere is what every package may import.
const everywhere = "gateway/config"

func TestNobodyImportsWhatIsNotInTheTable(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		may, found := allowed(name)
		if !found {
			t.Errorf("%s: not in the table; give it a room", name)
		}
		for _, i := range p.Imports {
			i, ours := strings.CutPrefix(i, module+"/")
			if ours && i != everywhere && !slices.ContainsFunc(may, func(pattern string) bool { return matches(pattern, i) }) {
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
}

// TestTestsStayWithinTheTable holds tests to the same table, except that they may use the test bench.
func TestTestsStayWithinTheTable(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		may, _ := allowed(name)
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			i, ours := strings.CutPrefix(i, module+"/")
			if ours && i != name && i != everywhere && !matches("testbench/...", i) &&
				!slices.ContainsFunc(may, func(pattern string) bool { return matches(pattern, i) }) {
				t.Errorf("tests of %s import %s", name, i)
			}
		}
	}
}

func TestTheTableMeansWhatItSays(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"gateway", "gateway", true},
		{"gateway", "gateway/journal", false},
		{"crypto/...", "crypto/seal", true},
		{"crypto/...", "crypto", true},
		{"crypto/...", "cryptography", false},
		{"...", "filters/wasm", true},
	} {
		if got := matches(c.pattern, c.name); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
	if may, found := allowed("protocols/mqtt"); !found || !slices.Equal(may, []string{"gateway"}) {
		t.Errorf("protocols/mqtt may import %v", may)
	}
	if _, found := allowed("util"); found {
		t.Error("a package util has a room")
	}
}

// allowed returns what a package may import.
func allowed(name string) (may []string, found bool) {
	for _, r := range rooms {
		if matches(r.packages, name) {
			return r.may, true
		}
	}
	return nil, false
}

// matches reports whether a pattern of the table matches the path of a package within the module.
func matches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(name+"/", prefix)
	}
	return pattern == name
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// list asks go list for the packages of the module; guests written in Go for WASM are among them.
func list(t *testing.T) []listed {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &stderr)
	}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}
