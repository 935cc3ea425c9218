package keyring

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"golang.org/x/mod/sumdb/note"
)

func open(t *testing.T) *Ring {
	t.Helper()
	r, err := Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func generate(t *testing.T, r *Ring, use Use, id string) *Private {
	t.Helper()
	if err := r.Generate(use, id); err != nil {
		t.Fatal(err)
	}
	k, err := r.Private(use, id)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestEveryUseCanBeGeneratedReadAndExported(t *testing.T) {
	r := open(t)
	for use := Token; use <= lastUse; use++ {
		t.Run(use.String(), func(t *testing.T) {
			id := "k-" + use.String()
			k := generate(t, r, use, id)
			if len(k.Secret()) != 32 || bytes.Equal(k.Secret(), make([]byte, 32)) {
				t.Fatal("no secret")
			}
			info, err := os.Stat(r.PrivatePath(id))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("private file: mode %v, %v", info.Mode(), err)
			}
			private, err := r.Export(id, true)
			if err != nil || !bytes.HasPrefix(private, []byte("sluice private key v1\nuse: "+use.String()+"\n")) {
				t.Fatalf("private export: %v", err)
			}
			public, err := r.Export(id, false)
			if !use.HasPublic() {
				if err == nil {
					t.Fatal("a public part where there is none")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p, err := ParsePublic(public)
			if err != nil || p.Use != use || p.ID != id || len(p.Key) != use.publicSize() {
				t.Fatalf("public export: %+v, %v", p, err)
			}
			if err := os.Remove(r.PublicPath(id)); err != nil {
				t.Fatal(err)
			}
			derived, err := r.Public(id)
			if err != nil || !bytes.Equal(derived.Key, p.Key) || derived.Fingerprint() != p.Fingerprint() {
				t.Fatal("the public part derived from the private one differs")
			}
		})
	}
}

func TestRecipientKeysAreThoseOfTheStandardLibrary(t *testing.T) {
	k := generate(t, open(t), Recipient, "oem")
	p, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	other, err := hpke.MLKEM768X25519().NewPrivateKey(k.Secret())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(other.PublicKey().Bytes(), p.Key) {
		t.Fatal("another implementation derives another public key")
	}
}

func TestPluginKeysWithTwoAlgorithms(t *testing.T) {
	r := open(t)
	if err := r.GeneratePlugin("acme"); err != nil {
		t.Fatal(err)
	}
	k, err := r.Private(Plugin, "acme")
	if err != nil || len(k.Secret()) != 64 || bytes.Equal(k.Secret()[:32], k.Secret()[32:]) {
		t.Fatalf("private part: %v", err)
	}
	p, err := ReadPublic(r.PublicPath("acme"))
	if err != nil || p.Use != Plugin || len(p.Key) != 32+1952 {
		t.Fatalf("public part: %v", err)
	}
	message := []byte("message")
	if !ed25519.Verify(p.Key[:32], message, ed25519.Sign(ed25519.NewKeyFromSeed(k.Secret()[:32]), message)) {
		t.Error("the first 32 bytes are not the Ed25519 key of the first seed")
	}
	public, private := mldsa65.NewKeyFromSeed((*[32]byte)(k.Secret()[32:]))
	signature := make([]byte, mldsa65.SignatureSize)
	if err := mldsa65.SignTo(private, message, nil, false, signature); err != nil || !bytes.Equal(p.Key[32:], public.Bytes()) || !mldsa65.Verify(public, message, nil, signature) {
		t.Errorf("the rest is not the ML-DSA-65 key of the second seed: %v", err)
	}
	if infos, err := r.List(); err != nil || len(infos) != 1 || infos[0].Err != nil {
		t.Errorf("%+v, %v", infos, err)
	}
	for _, use := range []Use{Token, Recipient, Audit} { // sizes of one use are not those of another
		path := filepath.Join(t.TempDir(), "long.key")
		os.WriteFile(path, marshal(privateTitle, use, "long", k.Created, 0, k.Secret()), 0o600)
		if _, err := ReadPrivate(path); err == nil || !strings.Contains(err.Error(), "a private key of 64 bytes, want 32") {
			t.Errorf("%s key of 64 bytes: %v", use, err)
		}
	}
	if _, err := ParsePublic(marshal(publicTitle, Plugin, "acme", k.Created, 0, p.Key[:1984-1])); err == nil {
		t.Error("a short public key was accepted")
	}
}

func TestAuditKeysSignNotes(t *testing.T) {
	r := open(t)
	k := generate(t, r, Audit, "vgw-0001")
	s, err := k.Signer()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(r.PublicPath("vgw-0001"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		t.Fatal(err)
	}
	k.Destroy() // the signer does not depend on the key
	signed, err := note.Sign(&note.Note{Text: "checkpoint\n"}, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(v)); err != nil {
		t.Fatal(err)
	}
}

func TestEnsure(t *testing.T) {
	r := open(t)
	t.Run("creates a key once", func(t *testing.T) {
		for i, want := range []bool{true, false, false} {
			if created, err := r.Ensure(Token, "fleet-a"); err != nil || created != want {
				t.Fatalf("call %d: created %v, %v", i, created, err)
			}
		}
	})
	t.Run("never creates a key of somebody else", func(t *testing.T) {
		for _, use := range []Use{Recipient, Custodian, InvalidUse} {
			if _, err := r.Ensure(use, "other"); err == nil {
				t.Errorf("%s was created", use)
			}
		}
	})
	t.Run("refuses an id that is used otherwise", func(t *testing.T) {
		if _, err := r.Ensure(AtRest, "fleet-a"); err == nil {
			t.Fatal("a token key was taken for an at-rest key")
		}
	})
	t.Run("refuses a damaged key instead of making a new one", func(t *testing.T) {
		if err := os.WriteFile(r.PrivatePath("broken"), []byte("sluice private key v1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Ensure(Token, "broken"); err == nil {
			t.Fatal("a damaged key was passed over")
		}
	})
	t.Run("completes a key whose public part was not written", func(t *testing.T) {
		generate(t, r, Audit, "gw")
		before, _ := os.ReadFile(r.PublicPath("gw"))
		os.Remove(r.PublicPath("gw"))
		if created, err := r.Ensure(Audit, "gw"); err != nil || created {
			t.Fatal(created, err)
		}
		if after, _ := os.ReadFile(r.PublicPath("gw")); !bytes.Equal(before, after) {
			t.Fatal("another public part")
		}
	})
}

func TestGenerateNeverOverwrites(t *testing.T) {
	r := open(t)
	generate(t, r, Recipient, "oem")
	before, _ := os.ReadFile(r.PrivatePath("oem"))
	if err := r.Generate(Recipient, "oem"); !errors.Is(err, ErrExists) {
		t.Fatalf("second generation: %v", err)
	}
	os.Remove(r.PrivatePath("oem")) // only the public part is left, as on a gateway
	if err := r.Generate(Recipient, "oem"); !errors.Is(err, ErrExists) {
		t.Fatalf("generation over a public file: %v", err)
	}
	if err := writeNew(r.PublicPath("oem"), before, 0o644); !errors.Is(err, ErrExists) {
		t.Fatalf("write over a file: %v", err)
	}
	entries, _ := os.ReadDir(r.Dir())
	if len(entries) != 1 {
		t.Fatalf("temporary files are left: %v", entries)
	}
}

func TestAtRestKeysAreOrderedByGeneration(t *testing.T) {
	r := open(t)
	for _, id := range []string{"zz", "aa", "mm"} { // the clock of a box may stand still or go back
		generate(t, r, AtRest, id)
	}
	generate(t, r, Token, "bb")
	keys, err := r.AtRest()
	if err != nil || len(keys) != 3 {
		t.Fatal(len(keys), err)
	}
	for i, want := range []string{"mm", "aa", "zz"} {
		if keys[i].ID != want || keys[i].Generation != 3-i {
			t.Errorf("position %d: %s of generation %d, want %s", i, keys[i].ID, keys[i].Generation, want)
		}
	}
	if keys[0].Tag() == keys[1].Tag() {
		t.Error("two keys share a tag")
	}
	os.WriteFile(r.PrivatePath("aa"), nil, 0o600)
	if _, err := r.AtRest(); err == nil {
		t.Error("an unreadable key was passed over")
	}
}

func TestListNamesEveryKeyAndItsTrouble(t *testing.T) {
	r := open(t)
	if infos, err := r.List(); err != nil || len(infos) != 0 {
		t.Fatal("a missing folder is not empty", infos, err)
	}
	generate(t, r, Token, "a")
	generate(t, r, Recipient, "b")
	generate(t, r, Custodian, "c")
	generate(t, r, Audit, "d")
	os.Remove(r.PrivatePath("b"))
	other, _ := os.ReadFile(r.PublicPath("b"))
	os.WriteFile(r.PublicPath("c"), other, 0o644)
	os.WriteFile(filepath.Join(r.Dir(), "README"), []byte("x"), 0o644)
	os.WriteFile(filepath.Join(r.Dir(), ".hidden.key"), []byte("x"), 0o644)
	infos, err := r.List()
	if err != nil || len(infos) != 4 {
		t.Fatal(infos, err)
	}
	if in := infos[1]; in.Use != Recipient || in.HasPrivate || !in.HasPublic || in.Err != nil || in.Fingerprint == "" {
		t.Errorf("public part alone: %+v", in)
	}
	if in := infos[2]; in.Err == nil || in.Use != InvalidUse {
		t.Errorf("exchanged public part: %+v", in)
	}
	if in := infos[3]; in.Use != Audit || !in.HasPrivate || !in.HasPublic || in.Err != nil {
		t.Errorf("audit key: %+v", in)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, r *Ring, path string) // path of a good token key "k"
		want string
	}{
		{"readable by the group", func(t *testing.T, r *Ring, p string) { os.Chmod(p, 0o640) }, "mode 0640"},
		{"writable by everybody", func(t *testing.T, r *Ring, p string) { os.Chmod(p, 0o602) }, "mode 0602"},
		{"a symbolic link", func(t *testing.T, r *Ring, p string) {
			os.Rename(p, p+".real")
			if err := os.Symlink(p+".real", p); err != nil {
				t.Fatal(err)
			}
		}, "symbolic link"},
		{"a dangling link", func(t *testing.T, r *Ring, p string) { os.Remove(p); os.Symlink("nowhere", p) }, "symbolic link"},
		{"a folder", func(t *testing.T, r *Ring, p string) { os.Remove(p); os.Mkdir(p, 0o700) }, "not a regular file"},
		{"empty", func(t *testing.T, r *Ring, p string) { os.Truncate(p, 0) }, "not a key file"},
		{"too long", func(t *testing.T, r *Ring, p string) { os.WriteFile(p, make([]byte, 1<<20), 0o600) }, "too long"},
		{"another version", edit("v1", "v2"), "another kind or version"},
		{"a public file", edit("private", "public"), "another kind or version"},
		{"another use inside", edit("use: token", "use: audit"), "check line"},
		{"a changed id", edit("id: k", "id: l"), "check line"},
		{"a changed time", edit("created: 20", "created: 21"), "check line"},
		{"an unknown line", edit("id: k\n", "id: k\ncolour: red\n"), "damaged"},
		{"a missing line", edit("id: k\n", ""), "damaged"},
		{"text behind the end", func(t *testing.T, r *Ring, p string) {
			text, _ := os.ReadFile(p)
			os.WriteFile(p, append(text, '\n'), 0o600)
		}, "damaged"},
		{"windows line ends", edit("\n", "\r\n"), "not a key file|another kind"},
		{"another key's name", func(t *testing.T, r *Ring, p string) { os.Rename(r.PrivatePath("other"), p) }, `holds the key "other"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := open(t)
			generate(t, r, Token, "k")
			generate(t, r, Token, "other")
			c.do(t, r, r.PrivatePath("k"))
			_, err := r.Private(Token, "k")
			if err == nil {
				t.Fatal("accepted")
			}
			found := false
			for _, want := range strings.Split(c.want, "|") {
				found = found || strings.Contains(err.Error(), want)
			}
			if !found {
				t.Fatalf("%v, want %q in it", err, c.want)
			}
		})
	}
}

// edit replaces text in a key file.
func edit(from, to string) func(*testing.T, *Ring, string) {
	return func(t *testing.T, _ *Ring, path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), from, to, 1)
		if changed == string(text) {
			t.Fatal("nothing to edit")
		}
		os.WriteFile(path, []byte(changed), 0o600)
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	r := open(t)
	generate(t, r, AtRest, "k")
	text, _ := os.ReadFile(r.PrivatePath("k"))
	for n := range text {
		if _, err := parse(text[:n], privateTitle); err == nil {
			t.Fatalf("a file cut to %d of %d bytes was accepted", n, len(text))
		}
		flipped := bytes.Clone(text)
		flipped[n] ^= 1
		if _, err := parse(flipped, privateTitle); err == nil {
			t.Fatalf("a flipped bit in byte %d was accepted", n)
		}
	}
}

func TestAWrongUseIsRefused(t *testing.T) {
	r := open(t)
	generate(t, r, Custodian, "k")
	_, err := r.Private(Recipient, "k")
	var file *FileError
	if !errors.As(err, &file) || !strings.Contains(file.Hint(), "sluice keys new --use recipient") {
		t.Fatalf("%v", err)
	}
	if _, err := ParsePublic(k(t, r)); err == nil || !strings.Contains(err.Error(), "private key where a public one") {
		t.Fatalf("a private file in place of a public one: %v", err)
	}
}

func k(t *testing.T, r *Ring) []byte {
	t.Helper()
	text, err := r.Export("k", true)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestFoldersThatOthersMayWriteToAreRefused(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o770)
	if _, err := Open(dir); err == nil {
		t.Fatal("accepted")
	}
	os.Chmod(dir, 0o750)
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	if _, err := Open(file); err == nil {
		t.Fatal("a file was taken for a folder")
	}
}

func TestPublicFilesThatAreRefused(t *testing.T) {
	r := open(t)
	generate(t, r, Recipient, "k")
	good, _ := os.ReadFile(r.PublicPath("k"))
	path := r.PublicPath("k")
	os.Chmod(path, 0o666)
	if _, err := r.Public("k"); err == nil {
		t.Error("a file that everybody may write was accepted")
	}
	os.Chmod(path, 0o644)
	for name, text := range map[string]string{
		"cut":                 string(good[:len(good)-20]),
		"another use":         strings.Replace(string(good), "use: recipient", "use: audit", 1),
		"random text":         "hello\n",
		"a malformed note":    "vgw+00000000+AAAA\n",
		"a note of two lines": "vgw+00000000+AAAA\nvgw+00000000+AAAA\n",
	} {
		if _, err := ParsePublic([]byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	short := marshal(publicTitle, Recipient, "k", time.Now(), 0, make([]byte, 32))
	if _, err := ParsePublic(short); err == nil {
		t.Error("a short public key was accepted")
	}
}

func TestIDs(t *testing.T) {
	r := open(t)
	for _, id := range []string{"", ".", "..", "../x", "a/b", "-a", "a b", "a+b", "ä", "a\n", strings.Repeat("a", 64)} {
		if err := r.Generate(Token, id); err == nil {
			t.Errorf("%q was accepted", id)
		}
		if _, err := r.Private(Token, id); err == nil {
			t.Errorf("%q was read", id)
		}
	}
	if _, err := r.Private(Token, "absent"); !errors.Is(err, ErrNoKey) {
		t.Error(err)
	}
}

func TestDestroyZeroesTheKey(t *testing.T) {
	key := generate(t, open(t), Token, "k")
	s := key.Secret()
	key.Destroy()
	if !bytes.Equal(s, make([]byte, 32)) || key.Secret() != nil {
		t.Fatal("the key is still there")
	}
}

func TestOneOfManyCreatesAKey(t *testing.T) {
	r := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 16 {
		wg.Go(func() {
			created, err := r.Ensure(AtRest, "journal")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if created {
				made++
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Fatalf("%d goroutines created the key", made)
	}
}

func FuzzParse(f *testing.F) {
	r, _ := Open(f.TempDir())
	for use := Token; use <= lastUse; use++ {
		id := "k-" + use.String()
		if err := r.Generate(use, id); err != nil {
			f.Fatal(err)
		}
		text, _ := r.Export(id, true)
		f.Add(text)
		if text, err := r.Export(id, false); err == nil {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := ParsePublic(text); err == nil {
			again, err := p.marshal()
			if err != nil || p.Use != Audit && !bytes.Equal(again, text) {
				t.Fatalf("one public key has two encodings (%v)", err)
			}
		}
		if k, err := parse(text, privateTitle); err == nil {
			again := marshal(privateTitle, k.use, k.id, k.created, k.generation, k.key)
			if !bytes.Equal(again, text) {
				t.Fatal("one private key has two encodings")
			}
		}
	})
}
