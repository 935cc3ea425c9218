package signed

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func testSigner(t testing.TB, name string) (*Signer, *Verifier) {
	t.Helper()
	s, err := NewSigner(name, [32]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(s.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestACheckpointSaysWhatWasSigned(t *testing.T) {
	s, v := testSigner(t, "vgw-0001")
	for _, c := range []Checkpoint{
		{Origin: "vgw-0001", Size: 0},
		{Origin: "vgw-0001", Size: 4711, Root: [32]byte{9}, At: time.Date(2026, 11, 22, 6, 14, 10, 0, time.UTC)},
		{Origin: "vgw-0001", Size: 1 << 40, Root: [32]byte{9}, Extensions: []string{"policy 3", "catalog vehicle"}},
	} {
		text, err := s.SignCheckpoint(c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := v.ParseVerify(text)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Fatalf("got %+v, %v; want %+v", got, err, c)
		}
	}
}

func TestEveryAlteredByteIsNoticed(t *testing.T) {
	s, v := testSigner(t, "vgw-0001")
	text, err := s.SignCheckpoint(Checkpoint{Size: 4711, Root: [32]byte{9}, At: time.Unix(1_790_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		for bit := range 8 {
			altered := []byte(string(text))
			altered[i] ^= 1 << bit
			if _, err := v.ParseVerify(altered); err == nil {
				t.Fatalf("byte %d, bit %d: accepted", i, bit)
			}
		}
	}
}

func TestACheckpointOfAnotherKeyOrGatewayIsRefused(t *testing.T) {
	s, _ := testSigner(t, "vgw-0001")
	text, err := s.SignCheckpoint(Checkpoint{Size: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, other := testSigner(t, "vgw-0002")
	if _, err := other.ParseVerify(text); !errors.Is(err, ErrCheckpoint) {
		t.Fatalf("err = %v", err)
	}
	s2, err := NewSigner("vgw-0001", [32]byte{4})
	if err != nil {
		t.Fatal(err)
	}
	v2, err := NewVerifier(s2.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v2.ParseVerify(text); !errors.Is(err, ErrCheckpoint) {
		t.Fatalf("err = %v", err)
	}
}

func TestWhatCannotBeSignedIsAnError(t *testing.T) {
	for _, name := range []string{"", "two words", "a+b"} {
		if _, err := NewSigner(name, [32]byte{1}); err == nil {
			t.Errorf("name %q: accepted", name)
		}
	}
	s, _ := testSigner(t, "vgw-0001")
	for _, line := range []string{"", "two\nlines", "at once"} {
		if _, err := s.SignCheckpoint(Checkpoint{Extensions: []string{line}}); err == nil {
			t.Errorf("extension %q: accepted", line)
		}
	}
	if _, err := NewVerifier("vgw-0001+00000000+AAAA"); err == nil {
		t.Error("verifier key: accepted")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("vgw-0001\n4711\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nat 2026-11-22T06:14:10Z\nmore\n")
	f.Add("a\n0\n" + strings.Repeat("A", 43) + "=\n")
	f.Add("a\n01\n\n")
	f.Add("00\n0\n0000000000000000000000000000000000000000000=\nat 0000-01-01T0:00:00Z\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		s, err := NewSigner(c.Origin, [32]byte{1})
		if err != nil {
			return // an origin that cannot be a key's name
		}
		signed, err := s.SignCheckpoint(c)
		if err != nil {
			return // a later line that begins like the time
		}
		if !strings.HasPrefix(string(signed), text+"\n") {
			t.Fatalf("encoding of %q is %q", text, signed)
		}
	})
}
