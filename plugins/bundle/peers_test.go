//go:build peers

package bundle

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
)

// openssl runs it in dir and returns what it printed.
func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// OpenSSL signs what we verify, and verifies what we sign: with Ed25519, and with ML-DSA-65 where it has it (from 3.5 on).
func TestOpenSSLSignsAndVerifies(t *testing.T) {
	dir := t.TempDir()
	msg, _ := message(hello)
	write(t, dir, "msg", msg)
	both := strings.Contains(openssl(t, dir, "list", "-signature-algorithms"), "ML-DSA-65")
	k := Key{ID: "peer", Names: []string{"*"}, Expires: trusted(t).keys[0].Expires}

	openssl(t, dir, "genpkey", "-algorithm", "ed25519", "-out", "ed.pem")
	openssl(t, dir, "pkeyutl", "-sign", "-rawin", "-inkey", "ed.pem", "-in", "msg", "-out", "ed.sig")
	text, err := os.ReadFile(filepath.Join(dir, "ed.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	edKey := private.(ed25519.PrivateKey)
	k.ed25519 = edKey.Public().(ed25519.PublicKey)
	seed := edKey.Seed()
	s := &signature{key: "peer"}
	if s.ed25519, err = os.ReadFile(filepath.Join(dir, "ed.sig")); err != nil {
		t.Fatal(err)
	}
	if both {
		openssl(t, dir, "genpkey", "-algorithm", "ML-DSA-65", "-pkeyopt", "hexseed:"+strings.Repeat("02", 32), "-out", "ml.pem")
		openssl(t, dir, "pkeyutl", "-sign", "-rawin", "-inkey", "ml.pem", "-in", "msg", "-out", "ml.sig")
		k.mldsa, _ = mldsa65.NewKeyFromSeed((*[32]byte)(secret[32:]))
		seed = append(seed, secret[32:]...)
		if s.mldsa, err = os.ReadFile(filepath.Join(dir, "ml.sig")); err != nil {
			t.Fatal(err)
		}
	}
	trust := &Trust{[]Key{k}}
	got, err := Verify(hello, s.marshal(), trust, today, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("OpenSSL signed with %v", got.Algorithms)
	if _, err := Verify(hello[1:], s.marshal(), trust, today, true); err == nil {
		t.Error("holds over another file too")
	}

	ours, err := Sign(hello, "peer", seed)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parse(ours)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "ours.sig", parsed.ed25519)
	openssl(t, dir, "pkeyutl", "-verify", "-rawin", "-inkey", "ed.pem", "-sigfile", "ours.sig", "-in", "msg")
	if both {
		write(t, dir, "ours.sig", parsed.mldsa)
		openssl(t, dir, "pkeyutl", "-verify", "-rawin", "-inkey", "ml.pem", "-sigfile", "ours.sig", "-in", "msg")
	}
}
