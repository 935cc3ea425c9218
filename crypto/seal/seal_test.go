package seal

import (
	"bytes"
	"crypto/hpke"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// keyPair returns a fresh X-Wing key pair.
func keyPair(tb testing.TB) (*PublicKey, *PrivateKey) {
	tb.Helper()
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		tb.Fatal(err)
	}
	seed, err := k.Bytes()
	if err != nil {
		tb.Fatal(err)
	}
	pub, err := ParsePublicKey(k.PublicKey().Bytes())
	if err != nil {
		tb.Fatal(err)
	}
	private, err := ParsePrivateKey(seed)
	if err != nil {
		tb.Fatal(err)
	}
	return pub, private
}

// bench is one gateway with one recipient, "oem", and what was announced.
type bench struct {
	*Epochs
	private   *PrivateKey
	mu        sync.Mutex
	announced []Announcement
	fail      error
}

func newBench(tb testing.TB, o Options) *bench {
	tb.Helper()
	pub, private := keyPair(tb)
	b := &bench{private: private}
	o.Recipients = map[string]*PublicKey{"oem": pub}
	o.Announce = func(a Announcement) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.fail == nil {
			b.announced = append(b.announced, a)
		}
		return b.fail
	}
	var err error
	if b.Epochs, err = NewEpochs(o); err != nil {
		tb.Fatal(err)
	}
	return b
}

// opener knows every epoch that was announced.
func (b *bench) opener(tb testing.TB) *Opener {
	tb.Helper()
	o := NewOpener(b.private)
	for _, a := range b.announced {
		if _, _, err := o.Learn(a.Message); err != nil {
			tb.Fatal(err)
		}
	}
	return o
}

func (b *bench) encrypt(tb testing.TB, id byte, pointer, plaintext string) []byte {
	tb.Helper()
	field, err := b.Encrypt(nil, "oem", [16]byte{15: id}, pointer, []byte(plaintext))
	if err != nil {
		tb.Fatal(err)
	}
	return field
}

func TestFieldsOfAnotherImplementation(t *testing.T) {
	text, err := os.ReadFile("testdata/fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	aead, err := newGCM(key)
	if err != nil {
		t.Fatal(err)
	}
	id := [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 15: 7}
	n := 0
	for block := range strings.SplitSeq(string(text), "\n\n") {
		lines := strings.Split(strings.TrimSpace(block), "\n")
		if len(lines) != 4 {
			continue
		}
		value := func(i int, name string) string {
			v, ok := strings.CutPrefix(lines[i]+" ", name+" ")
			if !ok {
				t.Fatalf("line %q, want %s", lines[i], name)
			}
			return strings.TrimSpace(v)
		}
		pointer, plain, field := value(0, "pointer"), value(1, "plain"), value(3, "field")
		iv, err := hex.DecodeString(value(2, "iv"))
		if err != nil {
			t.Fatal(err)
		}
		got := appendField([]byte("before"), aead, "00112233445566aa", (*[ivSize]byte)(iv), &id, pointer, []byte(plain))
		if string(got) != "before"+field {
			t.Errorf("pointer %q: wrote\n%s, want\n%s", pointer, got, field)
		}
		o := NewOpener(nil)
		o.epochs["00112233445566aa"] = &openEpoch{key: aead}
		opened, err := o.Message().Open(pointer, []byte(field))
		if err != nil || string(opened) != plain {
			t.Errorf("pointer %q: opened %q, %v", pointer, opened, err)
		}
		n++
	}
	if n != 4 {
		t.Fatalf("%d vectors", n)
	}
}

func TestEpochMessagesOpenWithTheStandardLibrary(t *testing.T) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ParsePublicKey(k.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var a Announcement
	e, err := NewEpochs(Options{Recipients: map[string]*PublicKey{"oem": pub}, Announce: func(x Announcement) error { a = x; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	field, err := e.Encrypt(nil, "oem", [16]byte{1}, "/vin", []byte(`"LSV"`))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(a.Message, &m); err != nil || len(m) != 6 || m["v"] != 1.0 || m["kem"] != "X-Wing" || m["recipient"] != "oem" || m["epoch"] != a.Epoch {
		t.Fatalf("announcement %s: %v", a.Message, err)
	}
	enc, _ := base64.RawURLEncoding.DecodeString(m["enc"].(string))
	sealed, _ := base64.RawURLEncoding.DecodeString(m["sealed"].(string))
	r, err := hpke.NewRecipient(enc, k, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("sluice epoch v1"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := r.Open([]byte(a.Epoch+".oem"), sealed)
	if err != nil {
		t.Fatal(err)
	}
	// RFC 7516 §5.2 by hand, from the key alone
	parts := strings.Split(string(field), ".")
	iv, _ := base64.RawURLEncoding.DecodeString(parts[2])
	text, _ := base64.RawURLEncoding.DecodeString(parts[3])
	tag, _ := base64.RawURLEncoding.DecodeString(parts[4])
	aead, err := newGCM(key)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := aead.Open(nil, iv, append(text, tag...), []byte(parts[0]))
	if err != nil || string(plain) != `"LSV"` || parts[1] != "" {
		t.Fatalf("%q, %v", plain, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	b := newBench(t, Options{})
	lat, lon := b.encrypt(t, 1, "/lat", "31.2304"), b.encrypt(t, 1, "/lon", "121.4737")
	later := b.encrypt(t, 2, "/lon", "121.4999")
	other := newBench(t, Options{})
	stranger := other.encrypt(t, 1, "/lat", "1")
	foreign := NewOpener(b.private)
	if _, _, err := foreign.Learn(other.announced[0].Message); !errors.Is(err, ErrOpen) {
		t.Fatal(err)
	}
	change := func(field []byte, at int) []byte {
		c := bytes.Clone(field)
		if c[at] == 'A' {
			c[at] = 'B'
		} else {
			c[at] = 'A'
		}
		return c
	}
	for _, c := range []struct {
		name   string
		opener *Opener
		fields [][2]string // pointer, field; only the last one is refused
		want   error
	}{
		{"a field that stands elsewhere", b.opener(t), [][2]string{{"/lon", string(lat)}}, ErrMoved},
		{"a field of another message", b.opener(t), [][2]string{{"/lat", string(lat)}, {"/lon", string(later)}}, ErrOtherMessage},
		{"an epoch that was not announced", NewOpener(b.private), [][2]string{{"/lat", string(lat)}}, ErrUnknownEpoch},
		{"an epoch for somebody else", foreign, [][2]string{{"/lat", string(stranger)}}, ErrForeign},
		{"a changed key id", b.opener(t), [][2]string{{"/lat", string(change(lat, 100))}}, nil},
		{"a changed initialization vector", b.opener(t), [][2]string{{"/lat", string(change(lat, ivAt+3))}}, ErrOpen},
		{"a changed ciphertext", b.opener(t), [][2]string{{"/lat", string(change(lat, textAt+2))}}, ErrOpen},
		{"a changed tag", b.opener(t), [][2]string{{"/lat", string(change(lat, len(lat)-5))}}, ErrOpen},
		{"a cut field", b.opener(t), [][2]string{{"/lat", string(lat[:len(lat)-1])}}, errMalformed},
		{"a line end inside", b.opener(t), [][2]string{{"/lat", string(lat[:textAt+1]) + "\n" + string(lat[textAt+1:])}}, errMalformed},
		{"a fourth point", b.opener(t), [][2]string{{"/lat", string(lat) + "."}}, errMalformed},
		{"an encrypted key", b.opener(t), [][2]string{{"/lat", string(lat[:header64+1]) + "AA" + string(lat[header64+1:])}}, errMalformed},
		{"plain text", b.opener(t), [][2]string{{"/lat", "31.2304"}}, errMalformed},
		{"the beginning of a field", b.opener(t), [][2]string{{"/lat", headerStart64}}, errMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.opener.Message()
			for i, f := range c.fields {
				got, err := m.Open(f[0], []byte(f[1]))
				if i < len(c.fields)-1 {
					if err != nil {
						t.Fatal(err)
					}
					continue
				}
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Fatalf("%q, %v; want %v", got, err, c.want)
				}
			}
		})
	}
	m := b.opener(t).Message()
	for pointer, field := range map[string][]byte{"/lat": lat, "/lon": lon} {
		if _, err := m.Open(pointer, field); err != nil {
			t.Fatal(err)
		}
	}
	if id, ok := m.ID(); !ok || id != [16]byte{15: 1} {
		t.Fatalf("id %x", id)
	}
}

func TestHeadersThatAreNotOurs(t *testing.T) {
	b := newBench(t, Options{})
	good := b.encrypt(t, 1, "/a", "1")
	raw, err := base64url.DecodeString(string(good[:header64]))
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range [][2]string{
		{`"dir"`, `"DIR"`}, {`"A256GCM"`, `"A128GCM"`}, {`"}`, `" `}, {`","enc"`, `", "enc`}, {".", "-"}, {`"kid":"`, `"kid":"A`},
	} {
		h := strings.Replace(string(raw), edit[0], edit[1], 1)
		for _, digits := range []string{h, strings.ToUpper(h)} {
			field := base64url.EncodeToString([]byte(digits)) + string(good[header64:])
			if _, err := b.opener(t).Message().Open("/a", []byte(field)); err == nil {
				t.Errorf("header %s was accepted", digits)
			}
		}
	}
}

func TestEpochsChangeByCountAndAge(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBench(t, Options{MaxUses: 3, MaxAge: time.Minute})
	b.now = func() time.Time { return now }
	var fields [][]byte
	for range 7 {
		fields = append(fields, b.encrypt(t, 1, "/a", "1"))
	}
	if len(b.announced) != 3 {
		t.Fatalf("%d epochs for 7 fields of at most 3", len(b.announced))
	}
	now = now.Add(time.Minute)
	fields = append(fields, b.encrypt(t, 1, "/a", "1"))
	if len(b.announced) != 4 {
		t.Fatal("an epoch outlived its age")
	}
	o := b.opener(t)
	seen := map[string]bool{}
	for i, f := range fields {
		if seen[string(f)] {
			t.Fatal("two fields are equal")
		}
		seen[string(f)] = true
		if p, err := o.Message().Open("/a", f); err != nil || string(p) != "1" {
			t.Fatal(p, err)
		}
		_, ok := b.Reopen(nil, "oem", f)
		if want := i >= 6; ok != want { // the last two epochs
			t.Errorf("field %d: reopened %v, want %v", i, ok, want)
		}
	}
	if len(o.Keys()) != 4 {
		t.Fatal("the opener lost a key")
	}
}

func TestAnEpochThatCannotBeAnnouncedIsNotUsed(t *testing.T) {
	b := newBench(t, Options{})
	b.fail = errors.New("journal closed")
	dst := []byte("before")
	got, err := b.Encrypt(dst, "oem", [16]byte{}, "/a", []byte("1"))
	if !errors.Is(err, b.fail) || string(got) != "before" {
		t.Fatalf("%q, %v", got, err)
	}
	b.fail = nil
	field := b.encrypt(t, 1, "/a", "1")
	if len(b.announced) != 1 || !strings.Contains(string(b.announced[0].Message), b.announced[0].Epoch) {
		t.Fatal("the epoch in use is not the one announced")
	}
	if p, err := b.opener(t).Message().Open("/a", field); err != nil || string(p) != "1" {
		t.Fatal(p, err)
	}
	if _, err := b.Encrypt(nil, "nobody", [16]byte{}, "/a", nil); !errors.Is(err, ErrNoRecipient) {
		t.Fatal(err)
	}
}

func TestReopenKnowsItsOwnFieldsOnly(t *testing.T) {
	b, other := newBench(t, Options{}), newBench(t, Options{})
	own, strange := b.encrypt(t, 1, "/a", `"x"`), other.encrypt(t, 1, "/a", `"x"`)
	if p, ok := b.Reopen([]byte("> "), "oem", own); !ok || string(p) != `> "x"` {
		t.Fatalf("%q %v", p, ok)
	}
	tampered := bytes.Clone(own)
	tampered[textAt] ^= 1
	for name, field := range map[string][]byte{"another gateway's": strange, "tampered": tampered, "empty": nil, "plain": []byte("x"), "cut": own[:100]} {
		if _, ok := b.Reopen(nil, "oem", field); ok {
			t.Errorf("a field that is %s was reopened", name)
		}
	}
	if _, ok := b.Reopen(nil, "nobody", own); ok {
		t.Error("reopened for nobody")
	}
}

func TestLearn(t *testing.T) {
	b := newBench(t, Options{})
	b.encrypt(t, 1, "/a", "1")
	good := string(b.announced[0].Message)
	t.Run("refuses what is not exactly an epoch message", func(t *testing.T) {
		for _, c := range [][2]string{
			{`"v":1`, `"v":2`}, {`"v":1`, `"v":1,"v":1`}, {`"v":1`, `"x":1,"v":1`}, {"X-Wing", "X-Ring"}, {`"enc":"`, `"enc":"A`},
			{`"oem"`, `"o/m"`}, {b.announced[0].Epoch, "../../../../../a"}, {good, "null"}, {good, "[]"}, {good, ""}, {`{"v"`, `{"V"`},
		} {
			if _, _, err := NewOpener(b.private).Learn([]byte(strings.Replace(good, c[0], c[1], 1))); !errors.Is(err, ErrNotEpoch) {
				t.Errorf("%q for %q: %v", c[1], c[0], err)
			}
		}
	})
	t.Run("refuses a message under another name", func(t *testing.T) {
		for _, c := range [][2]string{{`"oem"`, `"own"`}, {b.announced[0].Epoch, "0123456789abcdef"}} {
			if _, _, err := NewOpener(b.private).Learn([]byte(strings.Replace(good, c[0], c[1], 1))); !errors.Is(err, ErrOpen) {
				t.Errorf("%q for %q: %v", c[1], c[0], err)
			}
		}
	})
	t.Run("keeps the first key of an epoch", func(t *testing.T) {
		o := b.opener(t)
		if _, _, err := o.Learn([]byte(good)); err != nil {
			t.Fatalf("the same again: %v", err)
		}
		enc, sealed, err := b.recipients[0].key.seal(epochInfo, []byte(b.announced[0].Epoch+".oem"), make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		forged := `{"v":1,"epoch":"` + b.announced[0].Epoch + `","recipient":"oem","kem":"X-Wing","enc":"` +
			base64url.EncodeToString(enc) + `","sealed":"` + base64url.EncodeToString(sealed) + `"}`
		if _, _, err := o.Learn([]byte(forged)); !errors.Is(err, ErrEpochTwice) {
			t.Fatal(err)
		}
	})
}

func TestEpochsUnderManyGoroutines(t *testing.T) {
	b := newBench(t, Options{MaxUses: 50})
	var wg sync.WaitGroup
	var mu sync.Mutex
	ivs := map[string]bool{}
	for g := range 8 {
		wg.Go(func() {
			var dst []byte
			for range 100 {
				var err error
				dst, err = b.Encrypt(dst[:0], "oem", [16]byte{15: byte(g)}, "/a", []byte("12345"))
				if err != nil {
					t.Error(err)
					return
				}
				raw, _ := base64url.DecodeString(string(dst[:header64]))
				mu.Lock()
				key := string(raw[len(headerStart):len(headerStart)+epochDigits]) + string(dst[ivAt:textAt-1])
				if ivs[key] {
					t.Error("an initialization vector was used twice")
				}
				ivs[key] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(b.announced) != 16 {
		t.Fatalf("%d epochs for 800 fields of at most 50", len(b.announced))
	}
}

func TestNewEpochsRefuses(t *testing.T) {
	pub, _ := keyPair(t)
	ok := func(Announcement) error { return nil }
	for name, o := range map[string]Options{
		"no announcer":        {Recipients: map[string]*PublicKey{"a": pub}},
		"a recipient no key":  {Recipients: map[string]*PublicKey{"a": nil}, Announce: ok},
		"a name with a slash": {Recipients: map[string]*PublicKey{"a/b": pub}, Announce: ok},
		"a name with a quote": {Recipients: map[string]*PublicKey{`a"`: pub}, Announce: ok},
		"an empty name":       {Recipients: map[string]*PublicKey{"": pub}, Announce: ok},
	} {
		if _, err := NewEpochs(o); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := ParsePublicKey(make([]byte, 1215)); err == nil {
		t.Error("a short public key was accepted")
	}
	if _, err := ParsePrivateKey(make([]byte, 31)); err == nil {
		t.Error("a short private key was accepted")
	}
}

func TestHoldRoundTrip(t *testing.T) {
	pub, private := keyPair(t)
	_, wrong := keyPair(t)
	for _, h := range []Hold{
		{},
		{ID: [16]byte{1, 15: 2}, Received: time.UnixMilli(1_700_000_000_123).UTC(), Protocol: 1, QoS: 1, Retain: true,
			Source: "can-bridge", Client: "车-1\x00", Topic: "v1/gnss", Payload: []byte(`{"lat":31.2}`)},
		{Received: time.UnixMilli(-5).UTC(), Payload: bytes.Repeat([]byte{0xff}, 300_000)},
	} {
		if h.Received.IsZero() {
			h.Received = time.UnixMilli(0).UTC()
		}
		b, err := SealHold(pub, &h)
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Payload) > 3 && bytes.Contains(b, h.Payload) {
			t.Fatal("the payload stands in clear")
		}
		got, err := OpenHold(private, b)
		if err != nil || got.ID != h.ID || !got.Received.Equal(h.Received) || got.Source != h.Source || got.Client != h.Client ||
			got.Topic != h.Topic || !bytes.Equal(got.Payload, h.Payload) || got.Protocol != h.Protocol || got.QoS != h.QoS || got.Retain != h.Retain {
			t.Fatalf("%+v, %v", got, err)
		}
		if _, err := OpenHold(wrong, b); !errors.Is(err, ErrOpen) {
			t.Errorf("another key: %v", err)
		}
		for _, at := range []int{1, 1 + encSize, len(b) - 1} {
			c := bytes.Clone(b)
			c[at] ^= 0x10
			if _, err := OpenHold(private, c); !errors.Is(err, ErrOpen) {
				t.Errorf("changed at %d: %v", at, err)
			}
		}
		for _, c := range [][]byte{nil, {1}, b[:encSize], append([]byte{2}, b[1:]...)} {
			if _, err := OpenHold(private, c); !errors.Is(err, ErrHold) {
				t.Errorf("malformed: %v", err)
			}
		}
		if _, err := private.open(epochInfo, b[:1], b[1:1+encSize], b[1+encSize:]); !errors.Is(err, ErrOpen) {
			t.Error("a hold opened as an epoch key")
		}
	}
}

func FuzzOpenField(f *testing.F) {
	b := newBench(f, Options{})
	field := b.encrypt(f, 1, "/a", `"value"`)
	o := b.opener(f)
	f.Add(field)
	f.Add(field[:len(field)-2])
	f.Add([]byte(headerStart64 + "..."))
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := o.Message().Open("/a", text); err == nil && (string(p) != `"value"` || !bytes.Equal(text, field)) {
			t.Fatal("a forged field was opened")
		}
		if _, ok := b.Reopen(nil, "oem", text); ok && !bytes.Equal(text, field) {
			t.Fatal("a forged field was taken for our own")
		}
	})
}

func FuzzDecodeHold(f *testing.F) {
	f.Add(make([]byte, holdFixed+4))
	f.Add(append(make([]byte, holdFixed), 1, 'a', 0, 2, 'b', 'c', 0))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := parseHold(p)
		if err == nil && len(h.Source)+len(h.Client)+len(h.Topic)+len(h.Payload) > len(p) {
			t.Fatal("a hold holds more than its bytes")
		}
	})
}

func FuzzDecodeEpoch(f *testing.F) {
	b := newBench(f, Options{})
	b.encrypt(f, 1, "/a", "1")
	f.Add(b.announced[0].Message)
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		if m, enc, _, err := parseEpoch(message); err == nil && (len(m.Epoch) != epochDigits || len(enc) != encSize) {
			t.Fatal("a malformed epoch message was accepted")
		}
	})
}

func BenchmarkEncrypt(b *testing.B) {
	e := newBench(b, Options{MaxUses: 1 << 40})
	value := make([]byte, 20)
	rand.Read(value)
	var dst []byte
	for b.Loop() {
		dst, _ = e.Encrypt(dst[:0], "oem", [16]byte{}, "/gnss/position/lat", value)
	}
	b.ReportAllocs()
}

func BenchmarkReopen(b *testing.B) {
	e := newBench(b, Options{})
	field := e.encrypt(b, 1, "/gnss/position/lat", "31.230416")
	var dst []byte
	for b.Loop() {
		dst, _ = e.Reopen(dst[:0], "oem", field)
	}
	b.ReportAllocs()
}

func BenchmarkSealHold(b *testing.B) {
	pub, _ := keyPair(b)
	h := &Hold{Payload: make([]byte, 1024)}
	for b.Loop() {
		if _, err := SealHold(pub, h); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
}

func TestContainsFindsFieldsInBrokenBodies(t *testing.T) {
	field := newBench(t, Options{}).encrypt(t, 1, "/a", "1")
	if !Contains([]byte(`{"a":"`+string(field)+`"`)) || Contains([]byte(`{"a":"eyJhbGciOiJkaXIi"}`)) {
		t.Fatal("a field was not found, or another JWE was taken for one")
	}
}
