package bundle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	hello  = []byte("hello\n")
	secret = slices.Concat(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32))
	today  = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// trusted is testdata/trust.yaml with lines added to its entry, or removed with a minus in front.
func trusted(t testing.TB, changes ...string) *Trust {
	t.Helper()
	text := string(read(t, "trust.yaml"))
	for _, c := range changes {
		if key, remove := strings.CutPrefix(c, "-"); remove {
			_, rest, ok := strings.Cut(text, "    "+key+": ")
			if !ok {
				t.Fatalf("no key %q to remove", key)
			}
			line, _, _ := strings.Cut(rest, "\n")
			text = strings.Replace(text, "    "+key+": "+line+"\n", "", 1)
		} else {
			text += "    " + c + "\n"
		}
	}
	trust, r := ParseTrust("trust.yaml", []byte(text))
	if trust == nil {
		t.Fatal(r.Err())
	}
	return trust
}

// vector is one case of testdata/signatures.txt.
type vector struct {
	name      string
	file, sig []byte
	trust     []string
	now       time.Time
	want      string
}

func vectors(t testing.TB) (list []vector) {
	t.Helper()
	words := placeholders(t)
	_, body, _ := strings.Cut(string(read(t, "signatures.txt")), "\n\n")
	for _, p := range strings.Split(strings.TrimSuffix(body, "\n"), "\n\n") {
		lines := strings.Split(p, "\n")
		v := vector{name: lines[0], file: hello, now: today}
		for _, line := range lines[1:] {
			key, value, _ := strings.Cut(line, " ")
			switch key {
			case "sig":
				v.sig = []byte(words.Replace(strings.Join(quoted(t, value), "")))
			case "file":
				v.file = []byte(strings.Join(quoted(t, value), ""))
			case "trust":
				v.trust = []string{value}
				if strings.HasPrefix(value, `"`) {
					v.trust = quoted(t, value)
				}
			case "now":
				v.now = time.Time{}
				if value != "unset" {
					var err error
					if v.now, err = time.Parse(time.RFC3339, value); err != nil {
						t.Fatal(err)
					}
				}
			case "want":
				v.want = value
			default:
				t.Fatalf("case %q: unknown line %q", v.name, line)
			}
		}
		list = append(list, v)
	}
	if len(list) < 50 {
		t.Fatalf("%d vectors only", len(list))
	}
	return list
}

// quoted reads Go strings with one space between them.
func quoted(t testing.TB, s string) (list []string) {
	t.Helper()
	for s != "" {
		q, err := strconv.QuotedPrefix(s)
		if err != nil {
			t.Fatalf("%v: %s", err, s)
		}
		text, _ := strconv.Unquote(q)
		list, s = append(list, text), strings.TrimPrefix(s[len(q):], " ")
	}
	return list
}

func placeholders(t testing.TB) *strings.Replacer {
	t.Helper()
	lines := strings.Split(string(read(t, "hello.sig")), "\n")
	ed, ml := strings.Fields(lines[1])[2], strings.Fields(lines[2])[2]
	msg, _ := message(hello)
	other := ed25519.Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32)), msg)
	flipped, _ := base64.StdEncoding.DecodeString(ml)
	flipped[len(flipped)-1] ^= 1

	raw, _ := base64.StdEncoding.DecodeString(ed) // s + L is the same number to a verifier that does not look
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(raw[32:])
	slices.Reverse(s)
	high := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(high)

	spare := []byte(ed) // 64 bytes leave four spare bits in front of ==
	at := len(spare) - 3
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	spare[at] = alphabet[strings.IndexByte(alphabet, spare[at])|1]
	if string(spare) == ed {
		t.Fatal("the spare bit was set before")
	}
	encode := base64.StdEncoding.EncodeToString
	return strings.NewReplacer("{ed}", ed, "{ml}", ml, "{other}", encode(other), "{high}", encode(append(raw[:32:32], high...)),
		"{ed-1}", ed[:len(ed)-1], "{ml-1}", ml[:len(ml)-1], "{ml-0}", encode(flipped), "{ed+0}", string(spare), "{ed+4}", ed+"AAAA")
}

func TestSignatureFiles(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			s, err := Verify(v.file, v.sig, trusted(t, v.trust...), v.now, !v.now.IsZero())
			if what, ok := strings.CutPrefix(v.want, "ok "); ok {
				if err != nil {
					t.Fatal(err)
				}
				got := strings.Join(s.Algorithms, " ")
				if s.Unchecked {
					got += " unchecked"
				}
				if got != what || s.Key != "acme" || s.Digest != "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" {
					t.Errorf("%+v, want %s", s, what)
				}
				return
			}
			reason, text, _ := strings.Cut(v.want, " ")
			var r *Refusal
			if s != nil || !errors.As(err, &r) || string(r.Reason) != reason || !strings.Contains(err.Error(), text) || r.Hint() == "" {
				t.Errorf("%v, %v; want %s: %s", s, err, reason, text)
			}
		})
	}
}

// TestWhatWasTakenInStaysUntilItsKeyIsRevoked: Recheck is Verify but for expiry.
func TestWhatWasTakenInStaysUntilItsKeyIsRevoked(t *testing.T) {
	for _, v := range vectors(t) {
		want, err := Verify(v.file, v.sig, trusted(t, v.trust...), today, true)
		var refusal *Refusal
		errors.As(err, &refusal)
		got, err := Recheck(v.file, v.sig, trusted(t, v.trust...))
		var again *Refusal
		errors.As(err, &again)
		if (want == nil) != (got == nil) || refusal != nil && again.Reason != refusal.Reason {
			t.Errorf("%s: %v where Verify on a good day says %v", v.name, again, refusal)
		}
	}
}

func TestNobodyTrusted(t *testing.T) {
	empty, r := ParseTrust("trust.yaml", []byte("# nobody\n"))
	if empty == nil {
		t.Fatal(r.Err())
	}
	for _, trust := range []*Trust{nil, {}, empty} {
		var refusal *Refusal
		if _, err := Verify(hello, read(t, "hello.sig"), trust, today, true); !errors.As(err, &refusal) || refusal.Reason != UnknownKey {
			t.Errorf("%v", err)
		}
		if trust.Covers("geofence") || len(trust.Keys()) != 0 {
			t.Error("somebody is trusted")
		}
	}
}

// TestSigningIsFrozen: the same module and key give the bytes of testdata/hello.sig, in this and every later version.
func TestSigningIsFrozen(t *testing.T) {
	both, err := Sign(hello, "acme", secret)
	if err != nil || !bytes.Equal(both, read(t, "hello.sig")) {
		t.Fatalf("another signature file: %v", err)
	}
	one, err := Sign(hello, "acme", secret[:32])
	if err != nil || !bytes.HasPrefix(both, one) || bytes.Count(one, []byte("\n")) != 2 {
		t.Fatalf("%q, %v", one, err)
	}
	doc, err := os.ReadFile("bundle.go")
	if err != nil || !bytes.Contains(doc, []byte("//	"+strings.ReplaceAll(strings.TrimSuffix(string(one), "\n"), "\n", "\n//	"))) {
		t.Error("the example of the package's documentation is another one")
	}
	page, err := os.ReadFile("../../docs/formats.md")
	if err != nil || !bytes.Contains(page, []byte("    "+strings.ReplaceAll(strings.TrimSuffix(string(one), "\n"), "\n", "\n    "))) {
		t.Error("the example of docs/formats.md is another one")
	}
	for _, bad := range []struct {
		key string
		n   int
	}{{"acme", 0}, {"acme", 31}, {"acme", 33}, {"acme", 63}, {"", 32}, {"a b", 32}, {"a\nb", 32}} {
		if sig, err := Sign(hello, bad.key, secret[:bad.n]); err == nil {
			t.Errorf("id %q with a secret of %d bytes: %q", bad.key, bad.n, sig)
		}
	}
}

func TestEveryBitOfASignatureFileCounts(t *testing.T) {
	sig, trust := read(t, "hello.sig"), trusted(t)
	for n := range sig {
		if n > 120 && n%37 != 0 && n < len(sig)-4 {
			continue // the middle of the second signature
		}
		for bit := range 8 {
			changed := slices.Clone(sig)
			changed[n] ^= 1 << bit
			if _, err := Verify(hello, changed, trust, today, true); err == nil {
				t.Fatalf("bit %d of byte %d does not count", bit, n)
			}
		}
		if _, err := Verify(hello, sig[:n], trust, today, true); err == nil {
			t.Fatalf("%d bytes of %d are enough", n, len(sig))
		}
	}
}

func TestNamesAndGrantsMatchWholeOrFromTheFront(t *testing.T) {
	s := &Signer{Key: "acme", Names: []string{"geo", "acme-*"}, Grants: []string{"read.payload", "read.value:VEH-LOC-*", "declassify:VEH-CAB-STATE"}}
	for name, want := range map[string]bool{"geo": true, "geofence-evil": false, "ge": false, "geo*": false, "acme-": true, "acme-x": true,
		"acme": false, "acme-*": true, "": false, "Geo": false, "xacme-x": false} {
		var r *Refusal
		err := s.CheckName(name)
		if got := s.Covers(name); got != want || want != (err == nil) || !want && (!errors.As(err, &r) || r.Reason != NameOutside) {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	if all := (&Signer{Names: []string{"*"}}); !all.Covers("geo") || (&Signer{}).Covers("geo") || (&Signer{}).Covers("") {
		t.Error("* is not every name, or nothing is one")
	}
	allowed, refused := s.Limit([]string{"read.payload", "read.source", "read.value:VEH-LOC-POINT", "read.value:VEH-LOC-", "read.value:VEH-LOC",
		"read.value:VEH-LOC-*", "read.value:VEH-ID-VIN", "read.payload:x", "declassify:VEH-CAB-STATE", "declassify:VEH-CAB-STATES", "declassify:VEH-LOC-POINT"})
	if want := []string{"read.payload", "read.value:VEH-LOC-POINT", "read.value:VEH-LOC-", "declassify:VEH-CAB-STATE"}; !slices.Equal(allowed, want) || len(refused) != 7 {
		t.Errorf("allowed %q, refused %q", allowed, refused)
	}
	if allowed, refused := (&Signer{}).Limit([]string{"log"}); allowed != nil || !slices.Equal(refused, []string{"log"}) {
		t.Error("a key without grants grants something")
	}
}

func TestSerialsOnlyRise(t *testing.T) {
	for _, c := range []struct {
		name         string
		floor        uint64
		have         string
		serial       uint64
		digest, want string
	}{
		{"the first", 0, "", 1, "a", ""},
		{"the next", 4, "a", 5, "b", ""},
		{"one far ahead", 4, "a", 1 << 63, "b", ""},
		{"the same content under a new serial", 4, "a", 5, "a", ""},
		{"the same again", 4, "a", 4, "a", ""},
		{"other content under the same serial", 4, "a", 4, "b", "serial 4 was taken in before with other content"},
		{"a lower one", 4, "a", 3, "b", "serial 3, but 4 was taken in before"},
		{"the same content under a lower one", 4, "a", 3, "a", "serial 3, but 4"},
		{"none", 0, "", 0, "", "serials begin with 1"},
	} {
		err := CheckSerial(c.floor, c.have, c.serial, c.digest)
		var r *Refusal
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &r) || r.Reason != OldSerial || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestWeakKeysAreThoseThatNeedNoSecret makes a signature under every key of the list without a secret: R and s are the
// identity and 0, which hold for one message in at most 8.
func TestWeakKeysAreThoseThatNeedNoSecret(t *testing.T) {
	forged := append([]byte{1}, make([]byte, 63)...)
	for _, text := range weak {
		for _, sign := range []byte{0, 0x80} {
			public, _ := hex.DecodeString(text)
			public[31] |= sign
			if !isWeak(public) {
				t.Errorf("%x passes", public)
			}
			holds := false
			for n := 0; n < 200 && !holds; n++ {
				holds = ed25519.Verify(public, strconv.AppendInt(nil, int64(n), 10), forged)
			}
			if !holds {
				t.Errorf("no forgery under %x", public)
			}
		}
	}
	if isWeak(ed25519.NewKeyFromSeed(secret[:32])[32:]) {
		t.Error("a good key is weak")
	}
}

func FuzzSignature(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.sig)
	}
	both, one := trusted(f), trusted(f, "-ml_dsa_65")
	good := read(f, "hello.sig")
	first := good[:bytes.Index(good, []byte("acme ml"))]
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parse(text)
		if err == nil && !bytes.Equal(s.marshal(), text) {
			t.Fatal("one signature has two written forms")
		}
		if _, err := Verify(hello, text, both, today, true); err == nil && !bytes.Equal(text, good) {
			t.Fatalf("another signature holds: %q", text)
		}
		if _, err := Verify(hello, text, one, today, true); err == nil && !bytes.HasPrefix(text, first) {
			t.Fatalf("another signature holds: %q", text)
		}
	})
}
