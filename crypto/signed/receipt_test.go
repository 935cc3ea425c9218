package signed

import (
	"errors"
	"strings"
	"testing"
	"time"
)

var testReceipt = Receipt{Gateway: "vgw-0001", First: 4711, Next: 9000, Bytes: 1 << 20, SHA256: [32]byte{7}, At: time.Date(2026, 11, 22, 6, 14, 10, 0, time.UTC)}

func TestAReceiptSaysWhatWasSigned(t *testing.T) {
	s, v := testSigner(t, "collector-1")
	text, err := s.SignReceipt(testReceipt)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.ParseVerifyReceipt(text)
	if err != nil || got != testReceipt {
		t.Fatalf("got %+v, %v", got, err)
	}
	want := "sluice receipt v1\nvgw-0001\n4711\n9000\n1048576\n07" + strings.Repeat("00", 31) + "\nat 2026-11-22T06:14:10Z\n\n— collector-1 "
	if !strings.HasPrefix(string(text), want) {
		t.Fatalf("text %q", text)
	}
}

func TestAReceiptWithTheRootOfTheRecordsSaysSo(t *testing.T) {
	s, v := testSigner(t, "collector-1")
	with := testReceipt
	with.Root = [32]byte{9}
	text, err := s.SignReceipt(with)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.ParseVerifyReceipt(text)
	if err != nil || got != with {
		t.Fatalf("got %+v, %v", got, err)
	}
	zeros := strings.Repeat("00", 31)
	want := "sluice receipt v2\nvgw-0001\n4711\n9000\n1048576\n07" + zeros + "\n09" + zeros + "\nat 2026-11-22T06:14:10Z\n"
	if !strings.HasPrefix(string(text), want+"\n— collector-1 ") {
		t.Fatalf("text %q", text)
	}
	for _, other := range []string{
		strings.Replace(want, "v2", "v1", 1), strings.Replace(want, "09"+zeros+"\n", "", 1), strings.Replace(want, "\n09", "\n00", 1),
		strings.Replace(want, "\n09", "\nxx", 1), want + "\n", strings.Replace(want, "\n09", "\n0909", 1),
	} {
		if _, err := ParseReceipt(other); !errors.Is(err, ErrReceipt) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func TestEveryAlteredByteOfAReceiptIsNoticed(t *testing.T) {
	for _, root := range [][32]byte{{}, {9}} {
		everyByteAltered(t, root)
	}
}

func everyByteAltered(t *testing.T, root [32]byte) {
	s, v := testSigner(t, "collector-1")
	r := testReceipt
	r.Root = root
	text, err := s.SignReceipt(r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		for bit := range 8 {
			altered := []byte(string(text))
			altered[i] ^= 1 << bit
			if _, err := v.ParseVerifyReceipt(altered); !errors.Is(err, ErrReceipt) {
				t.Fatalf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
	_, other := testSigner(t, "collector-2")
	if _, err := other.ParseVerifyReceipt(text); !errors.Is(err, ErrReceipt) {
		t.Fatalf("of another collector: %v", err)
	}
	if _, err := v.ParseVerifyReceipt(append(text, make([]byte, MaxReceipt)...)); !errors.Is(err, ErrReceipt) {
		t.Fatalf("endless: %v", err)
	}
}

// TestAReceiptIsNoCheckpoint: one key may sign both, a text can never stand for the other.
func TestAReceiptIsNoCheckpoint(t *testing.T) {
	s, v := testSigner(t, "vgw-0001")
	receipt, err := s.SignReceipt(testReceipt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.ParseVerify(receipt); !errors.Is(err, ErrCheckpoint) {
		t.Fatalf("err = %v", err)
	}
	checkpoint, err := s.SignCheckpoint(Checkpoint{Size: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.ParseVerifyReceipt(checkpoint); !errors.Is(err, ErrReceipt) {
		t.Fatalf("err = %v", err)
	}
}

func TestWhatIsNoReceiptIsNotSigned(t *testing.T) {
	s, _ := testSigner(t, "collector-1")
	for name, alter := range map[string]func(*Receipt){
		"a name with a line end": func(r *Receipt) { r.Gateway = "vgw\n1" },
		"no name":                func(r *Receipt) { r.Gateway = "" },
		"an empty range":         func(r *Receipt) { r.Next = r.First },
		"a huge number":          func(r *Receipt) { r.Next = 1 << 63 },
	} {
		r := testReceipt
		alter(&r)
		if _, err := s.SignReceipt(r); !errors.Is(err, ErrReceipt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	s, _ := testSigner(f, "collector-1")
	good, _ := s.SignReceipt(testReceipt)
	text, _, _ := strings.Cut(string(good), "\n\n")
	f.Add(text + "\n")
	f.Add(receiptContext + "\na\n0\n1\n0\n" + strings.Repeat("0", 64) + "\nat 0000-01-01T00:00:00Z\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseReceipt(text)
		if err != nil {
			return
		}
		signed, err := s.SignReceipt(r)
		if err != nil || !strings.HasPrefix(string(signed), text+"\n") {
			t.Fatalf("encoding of %q is %q, %v", text, signed, err)
		}
	})
}
