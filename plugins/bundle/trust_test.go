package bundle

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestTrustFiles reads testdata/trust: the first line of a file is good, or line, key, message and hint of its one problem.
func TestTrustFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/trust/*.yaml")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			trust, r := ReadTrust(file)
			text, _ := os.ReadFile(file)
			first, _, _ := strings.Cut(string(text), "\n")
			if first == "# good" {
				if trust == nil || len(r.Problems()) != 0 || len(trust.Keys()) != 1 {
					t.Fatal(r.Problems())
				}
				return
			}
			want := strings.Split(strings.TrimPrefix(first, "# "), "|")
			for i := range want {
				want[i] = strings.TrimSpace(want[i])
			}
			if trust != nil || len(r.Problems()) != 1 {
				t.Fatal(r.Problems())
			}
			if p := r.Problems()[0]; strconv.Itoa(p.Line) != want[0] || p.Key != want[1] || !strings.Contains(p.Message, want[2]) || !strings.Contains(p.Hint, want[3]) || p.File != file {
				t.Errorf("%s (%s)", p, p.Hint)
			}
		})
	}
}

func TestTrustFilesThatAreNotRead(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open.yaml")
	if err := os.WriteFile(open, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if trust, _ := ReadTrust(open); trust == nil {
		t.Error("an empty file is an error")
	}
	os.Chmod(open, 0o646)
	for file, want := range map[string]string{open: "others could add a key", dir: "not a regular file", filepath.Join(dir, "none.yaml"): "no such file"} {
		trust, r := ReadTrust(file)
		if trust != nil || r.OK() || !strings.Contains(r.Err().Error(), want) || !strings.HasPrefix(r.Err().Error(), file+":1:1: ") {
			t.Errorf("%s: %v", file, r.Err())
		}
	}
}

// TestCoversAsksKeysThatAreNotRevoked: what lint warns of is what nobody could bring.
func TestCoversAsksKeysThatAreNotRevoked(t *testing.T) {
	if trust := trusted(t); !trust.Covers("geofence") || !trust.Covers("acme-2") || trust.Covers("geofence-2") {
		t.Error("a name of the file is not covered, or another is")
	}
	if trusted(t, "revoked: true").Covers("geofence") {
		t.Error("a revoked key covers a name")
	}
}

func FuzzTrust(f *testing.F) {
	f.Add(read(f, "trust.yaml"))
	files, _ := filepath.Glob("testdata/trust/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	sig := read(f, "hello.sig")
	f.Fuzz(func(t *testing.T, text []byte) {
		trust, r := ParseTrust("trust.yaml", text)
		if (trust != nil) != r.OK() {
			t.Fatalf("a trust with errors, or none without: %v", r.Err())
		}
		ids := map[string]bool{}
		for _, k := range trust.Keys() {
			if checkID(k.ID) != nil || ids[k.ID] || len(k.ed25519) != 32 || isWeak(k.ed25519) || len(k.Names) == 0 || slices.Contains(k.Names, "") || k.End().IsZero() {
				t.Fatalf("%+v", k)
			}
			if ids[k.ID] = true; (k.MLDSA65 != "") != (k.mldsa != nil) {
				t.Fatalf("ml_dsa_65 %q was not read", k.MLDSA65)
			}
		}
		s, err := Verify(hello, sig, trust, today, true)
		if _, again := Verify(hello, sig, trust, today, false); again == nil {
			t.Fatal("taken in while the clock is not set")
		}
		if err != nil {
			return
		}
		k := trust.key(s.Key)
		if k.Revoked.Is || !today.Before(k.End()) || k.ID != "acme" || slices.Contains(s.Algorithms, MLDSA65) != (k.mldsa != nil) {
			t.Fatalf("%+v by %+v", s, k)
		}
	})
}
