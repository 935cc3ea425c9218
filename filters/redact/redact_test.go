package redact

import (
	"bytes"
	"crypto/aes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-edge/sluice/crypto/seal"
	"github.com/sluice-edge/sluice/gateway"
)

// kit is a redactor with two token domains, "a" and "b", two recipients, "oem" and "tsp", and an opener for oem.
type kit struct {
	*Redactor
	opener *seal.Opener
}

func newKit(tb testing.TB) *kit {
	tb.Helper()
	k := &kit{}
	recipients := map[string]*seal.PublicKey{}
	for _, name := range []string{"oem", "tsp"} {
		key, err := hpke.MLKEM768X25519().GenerateKey()
		if err != nil {
			tb.Fatal(err)
		}
		if recipients[name], err = seal.ParsePublicKey(key.PublicKey().Bytes()); err != nil {
			tb.Fatal(err)
		}
		if name == "oem" {
			seed, _ := key.Bytes()
			private, err := seal.ParsePrivateKey(seed)
			if err != nil {
				tb.Fatal(err)
			}
			k.opener = seal.NewOpener(private)
		}
	}
	epochs, err := seal.NewEpochs(seal.Options{Recipients: recipients, Announce: func(a seal.Announcement) error {
		if a.Recipient != "oem" {
			return nil
		}
		_, _, err := k.opener.Learn(a.Message)
		return err
	}})
	if err != nil {
		tb.Fatal(err)
	}
	k.Redactor, err = New(Options{TokenKeys: map[string][]byte{"a": bytes.Repeat([]byte{1}, 32), "b": bytes.Repeat([]byte{2}, 32)}, Epochs: epochs})
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func text(s string) gateway.Value { return gateway.Value{Kind: gateway.String, Text: []byte(s)} }
func num(s string) gateway.Value  { return gateway.Value{Kind: gateway.Number, Text: []byte(s)} }

func decimals(n int8) gateway.Operation {
	return gateway.Operation{Action: gateway.Generalize, Decimals: n, Prefix: -1}
}
func prefix(n int16) gateway.Operation {
	return gateway.Operation{Action: gateway.Generalize, Decimals: -1, Prefix: n}
}
func bucket(d time.Duration) gateway.Operation {
	return gateway.Operation{Action: gateway.Generalize, Decimals: -1, Prefix: -1, Bucket: d}
}
func masking(head, tail uint8, char rune) gateway.Operation {
	return gateway.Operation{Action: gateway.Mask, Head: head, Tail: tail, Char: char}
}
func token(domain string) gateway.Operation {
	return gateway.Operation{Action: gateway.Tokenize, Domain: domain}
}
func encryptTo(to string) gateway.Operation {
	return gateway.Operation{Action: gateway.Encrypt, To: to}
}

// none is a result that an operator does not give.
const none = "does not fit"

func TestOperators(t *testing.T) {
	truth := gateway.Value{Kind: gateway.Bool, Text: []byte("true")}
	null := gateway.Value{Kind: gateway.Null, Text: []byte("null")}
	for _, c := range []struct {
		name string
		op   gateway.Operation
		in   gateway.Value
		want string
		as   gateway.Kind
	}{
		{"pass leaves text as it is", gateway.Operation{Action: gateway.Pass}, text("LSV"), "LSV", gateway.String},
		{"pass leaves a number as it is", gateway.Operation{Action: gateway.Pass}, num("1.50e3"), "1.50e3", gateway.Number},
		{"remove leaves nothing", gateway.Operation{Action: gateway.Remove}, text("LSV"), none, 0},

		{"decimals round down", decimals(2), num("31.230416"), "31.23", gateway.Number},
		{"decimals round up", decimals(2), num("121.475416"), "121.48", gateway.Number},
		{"decimals round half away from zero", decimals(2), num("0.125"), "0.13", gateway.Number},
		{"decimals round a negative half away from zero", decimals(2), num("-0.125"), "-0.13", gateway.Number},
		{"decimals know nothing of floating point", decimals(2), num("1.005"), "1.01", gateway.Number},
		{"decimals carry through nines", decimals(2), num("179.999"), "180.00", gateway.Number},
		{"decimals carry into a new digit", decimals(1), num("9.96"), "10.0", gateway.Number},
		{"decimals keep the zeros they end with", decimals(2), num("31.2001"), "31.20", gateway.Number},
		{"decimals drop zeros beyond them", decimals(2), num("31.500000"), "31.50", gateway.Number},
		{"no decimals drop the point", decimals(0), num("63.47"), "63", gateway.Number},
		{"no decimals round a half", decimals(0), num("0.5"), "1", gateway.Number},
		{"decimals make small numbers zero", decimals(2), num("0.00499"), "0.00", gateway.Number},
		{"decimals take the sign off zero", decimals(2), num("-0.00499"), "0.00", gateway.Number},
		{"decimals take the sign off a written zero", decimals(2), num("-0"), "0", gateway.Number},
		{"decimals take the sign off a written zero with places", decimals(2), num("-0.0"), "0.0", gateway.Number},
		{"more decimals than there are change nothing", decimals(4), num("31.23"), "31.23", gateway.Number},
		{"as many decimals as there are change nothing", decimals(2), num("-31.20"), "-31.20", gateway.Number},
		{"a whole degree has no decimals", decimals(2), num("31"), "31", gateway.Number},
		{"a heading of 360 is still an angle", decimals(1), num("360"), "360", gateway.Number},
		{"a scaled integer does not fit", decimals(2), num("312304160"), none, 0},
		{"a small scaled integer does not fit", decimals(2), num("-361"), none, 0},
		{"a scaled integer with a point does not fit", decimals(2), num("312304160.0"), none, 0},
		{"a scaled integer with an exponent does not fit", decimals(2), num("3.1230416E8"), none, 0},
		{"a number too large for anything does not fit", decimals(2), num("1e999999999999"), none, 0},
		{"a large number with a fraction is rounded", decimals(0), num("120345.6"), "120346", gateway.Number},
		{"an exponent is written out", decimals(2), num("3.1230416e1"), "31.23", gateway.Number},
		{"a capital exponent with a sign is written out", decimals(2), num("312.30416E-1"), "31.23", gateway.Number},
		{"an exponent that leaves fewer decimals adds none", decimals(4), num("312e-1"), "31.2", gateway.Number},
		{"an exponent that makes a whole number is written out", decimals(2), num("1.2e2"), "120", gateway.Number},
		{"a tiny number is zero", decimals(2), num("1e-999999999999"), "0.00", gateway.Number},
		{"a zero with an exponent is zero", decimals(2), num("-0.000e5"), "0", gateway.Number},
		{"decimals do not fit text", decimals(2), text("31.230416"), none, 0},
		{"decimals do not fit a truth value", decimals(2), truth, none, 0},
		{"decimals do not fit null", decimals(2), null, none, 0},

		{"a prefix keeps the first characters", prefix(6), text("LSVAA4182E2184847"), "LSVAA4", gateway.String},
		{"a prefix counts characters and not bytes", prefix(2), text("沪A12345"), "沪A", gateway.String},
		{"a prefix longer than the text changes nothing", prefix(10), text("沪A"), "沪A", gateway.String},
		{"a prefix of nothing leaves an empty text", prefix(0), text("abc"), "", gateway.String},
		{"a prefix does not fit a number", prefix(2), num("12345"), none, 0},

		{"a bucket rounds a time down", bucket(time.Hour), text("2026-03-01T08:15:42Z"), "2026-03-01T08:00:00Z", gateway.String},
		{"a bucket keeps fraction and offset", bucket(15 * time.Minute), text("2026-03-01T08:59:59.987+08:00"), "2026-03-01T08:45:00.000+08:00", gateway.String},
		{"a day begins at its own midnight", bucket(24 * time.Hour), text("2026-03-01T03:15:42-05:30"), "2026-03-01T00:00:00-05:30", gateway.String},
		{"a time without offset keeps its form", bucket(time.Minute), text("2026-03-01 08:15:42"), "2026-03-01 08:15:00", gateway.String},
		{"small letters stay small", bucket(time.Minute), text("2026-03-01t08:15:42z"), "2026-03-01t08:15:00z", gateway.String},
		{"a leap second belongs to the second before", bucket(time.Second), text("2016-12-31T23:59:60Z"), "2016-12-31T23:59:59Z", gateway.String},
		{"times before 1970 are rounded down too", bucket(time.Hour), text("1969-12-31T23:59:59Z"), "1969-12-31T23:00:00Z", gateway.String},
		{"a bucket does not fit a day that does not exist", bucket(time.Hour), text("2026-02-29T08:15:42Z"), none, 0},
		{"a bucket does not fit other text", bucket(time.Hour), text("yesterday at about eight"), none, 0},
		{"a bucket does not fit text behind a time", bucket(time.Hour), text("2026-03-01T08:15:42Z LSV"), none, 0},
		{"a bucket does not fit a malformed offset", bucket(time.Hour), text("2026-03-01T08:15:42+8:00"), none, 0},
		{"a bucket rounds seconds down", bucket(time.Hour), num("1767229542"), "1767229200", gateway.Number},
		{"a bucket rounds milliseconds down", bucket(time.Minute), num("1767229542987"), "1767229500000", gateway.Number},
		{"a bucket keeps the digits behind the point", bucket(time.Minute), num("1767229542.25"), "1767229500.00", gateway.Number},
		{"a bucket does not fit a negative number", bucket(time.Hour), num("-5"), none, 0},
		{"a bucket does not fit microseconds", bucket(time.Hour), num("1767229542987000"), none, 0},
		{"a bucket does not fit an exponent", bucket(time.Hour), num("1.7e9"), none, 0},
		{"a bucket of a fraction of a second does not fit", bucket(1500 * time.Millisecond), num("1767229542"), none, 0},
		{"decimals go to numbers before a bucket", gateway.Operation{Action: gateway.Generalize, Decimals: 1, Bucket: time.Hour, Prefix: 4}, num("31.27"), "31.3", gateway.Number},
		{"a bucket goes to times before a prefix", gateway.Operation{Action: gateway.Generalize, Decimals: 1, Bucket: time.Hour, Prefix: 4}, text("2026-03-01T08:15:42Z"), "2026-03-01T08:00:00Z", gateway.String},
		{"a prefix goes to other text", gateway.Operation{Action: gateway.Generalize, Decimals: 1, Bucket: time.Hour, Prefix: 4}, text("2026-W09"), "2026", gateway.String},

		{"a mask keeps head and tail", masking(3, 4, 0), text("13812345678"), "138****5678", gateway.String},
		{"a mask counts characters", masking(1, 0, '×'), text("沪A12345"), "沪××××××", gateway.String},
		{"a mask that would keep everything keeps nothing", masking(3, 4, 0), text("1234567"), "*******", gateway.String},
		{"a mask of nothing is nothing", masking(0, 0, 0), text(""), "", gateway.String},
		{"a mask makes text of a number", masking(0, 4, '#'), num("13812345678"), "#######5678", gateway.String},
		{"a mask does not fit a truth value", masking(0, 0, 0), truth, none, 0},
		{"a mask does not fit null", masking(0, 0, 0), null, none, 0},

		{"a token does not fit a truth value", token("a"), truth, none, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newKit(t)
			out, as, ok, err := r.Apply([]byte("before"), c.op, c.in, gateway.FieldContext{})
			if err != nil {
				t.Fatal(err)
			}
			got := none
			if ok {
				got = strings.TrimPrefix(string(out), "before")
			} else if string(out) != "before" {
				t.Errorf("left %q behind", out)
			}
			if got != c.want || ok && as != c.as {
				t.Fatalf("got %q as %d, want %q as %d", got, as, c.want, c.as)
			}
			if ok && !r.Check(c.op, gateway.Value{Kind: as, Text: []byte(got)}) {
				t.Error("its own check refuses it")
			}
		})
	}
}

func TestOperationsThatBlock(t *testing.T) {
	r := newKit(t)
	bare, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		r    *Redactor
		op   gateway.Operation
	}{
		{"undecided", r.Redactor, gateway.Operation{}},
		{"hold", r.Redactor, gateway.Operation{Action: gateway.Hold}},
		{"block", r.Redactor, gateway.Operation{Action: gateway.Block}},
		{"a token domain without key", r.Redactor, token("c")},
		{"a recipient without key", r.Redactor, encryptTo("nobody")},
		{"no recipients at all", bare, encryptTo("oem")},
		{"a domain without key inside an encryption", r.Redactor, gateway.Operation{Action: gateway.Encrypt, To: "oem", Inner: gateway.Tokenize, Domain: "c"}},
		{"an encryption inside an encryption", r.Redactor, gateway.Operation{Action: gateway.Encrypt, To: "oem", Inner: gateway.Encrypt}},
		{"a removal inside an encryption", r.Redactor, gateway.Operation{Action: gateway.Encrypt, To: "oem", Inner: gateway.Remove}},
	} {
		out, _, ok, err := c.r.Apply([]byte("before"), c.op, text("x"), gateway.FieldContext{Raw: []byte(`"x"`)})
		if err == nil || ok || string(out) != "before" {
			t.Errorf("%s: %q %v %v", c.name, out, ok, err)
		}
		if c.r.Check(c.op, text("x")) {
			t.Errorf("%s: checked", c.name)
		}
	}
	if _, _, _, err := r.Apply(nil, encryptTo("oem"), text("x"), gateway.FieldContext{}); err == nil {
		t.Error("encrypted without a value")
	}
	if _, _, _, err := r.Apply(nil, token("c"), text("x"), gateway.FieldContext{}); !errors.Is(err, ErrNoDomain) {
		t.Error(err)
	}
	if _, err := New(Options{TokenKeys: map[string][]byte{"a": make([]byte, 16)}}); err == nil {
		t.Error("a short token key was accepted")
	}
}

// TestTokenVector computes a token from the package doc alone.
func TestTokenVector(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	spell := func(b []byte) string {
		return strings.NewReplacer("0", "b", "1", "c", "2", "d", "3", "f", "4", "g", "5", "h", "6", "j", "7", "k",
			"8", "m", "9", "n", "a", "p", "b", "q", "c", "r", "d", "s", "e", "t", "f", "v").Replace(hex.EncodeToString(b))
	}
	mac := func(key []byte, s string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		return h.Sum(nil)
	}
	check, err := hkdf.Key(sha256.New, key, nil, "sluice token check v1", 32)
	if err != nil {
		t.Fatal(err)
	}
	body := mac(key, "LSVAA4182E2184847")[:16]
	block, err := aes.NewCipher(check)
	if err != nil {
		t.Fatal(err)
	}
	sealed := make([]byte, 16)
	block.Encrypt(sealed, body)
	want := "tk" + spell(body) + spell(sealed[:4])
	r := newKit(t)
	for range 3 { // pooled states are reused
		out, as, ok, err := r.Apply(nil, token("a"), text("LSVAA4182E2184847"), gateway.FieldContext{})
		if string(out) != want || as != gateway.String || !ok || err != nil {
			t.Fatalf("%s, want %s (%v)", out, want, err)
		}
	}
}

func TestTokens(t *testing.T) {
	r := newKit(t)
	make := func(domain string, v gateway.Value) string {
		out, _, ok, err := r.Apply(nil, token(domain), v, gateway.FieldContext{})
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		return string(out)
	}
	vin := make("a", text("LSVAA4182E2184847"))
	if vin == make("b", text("LSVAA4182E2184847")) || vin == make("a", text("LSVAA4182E2184848")) {
		t.Error("different domains or values share a token")
	}
	if make("a", text("12")) != make("a", num("12")) {
		t.Error("a number and its text have different tokens")
	}
	if strings.ContainsAny(vin, "0123456789aeiou/+#$") || len(vin) != 42 {
		t.Errorf("token %q", vin)
	}
	for name, s := range map[string]string{
		"a token of another domain": make("b", text("x")),
		"a changed body":            vin[:5] + "z" + vin[6:],
		"a swapped letter":          vin[:2] + swap(vin[2]) + vin[3:],
		"a swapped check letter":    vin[:41] + swap(vin[41]),
		"capitals":                  strings.ToUpper(vin),
		"a cut token":               vin[:41],
		"a longer token":            vin + "b",
		"the value":                 "LSVAA4182E2184847",
		"nothing":                   "",
	} {
		if r.Check(token("a"), text(s)) {
			t.Errorf("%s passed the check", name)
		}
	}
	if r.Check(token("a"), num(vin)) {
		t.Error("a token that is no text passed the check")
	}
}

// swap returns another letter of the tokens' alphabet.
func swap(c byte) string {
	if c == 'b' {
		return "c"
	}
	return "b"
}

func TestEncryptedFieldsOpenToWhatTheInnerOperationMade(t *testing.T) {
	id := gateway.ID{Incarnation: 0x0102030405060708, Counter: 9}
	for _, c := range []struct {
		name string
		op   gateway.Operation
		in   gateway.Value
		raw  string
		want string
	}{
		{"nothing: the value as it was written", encryptTo("oem"), text("A\"中"), `"\u0041\"中"`, `"\u0041\"中"`},
		{"nothing: a number as it was written", encryptTo("oem"), num("1.50e3"), `1.50e3`, `1.50e3`},
		{"nothing: null", encryptTo("oem"), gateway.Value{Kind: gateway.Null, Text: []byte("null")}, `null`, `null`},
		{"pass", gateway.Operation{Action: gateway.Encrypt, Inner: gateway.Pass, To: "oem"}, num("1"), `1`, `1`},
		{"generalize", gateway.Operation{Action: gateway.Encrypt, Inner: gateway.Generalize, Decimals: 2, Prefix: -1, To: "oem"}, num("31.2304"), `31.2304`, `31.23`},
		{"mask", gateway.Operation{Action: gateway.Encrypt, Inner: gateway.Mask, Head: 1, Char: '"', To: "oem"}, text("abc"), `"abc"`, `"a\"\""`},
		{"tokenize", gateway.Operation{Action: gateway.Encrypt, Inner: gateway.Tokenize, Domain: "a", To: "oem"}, text("x"), `"x"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newKit(t)
			out, as, ok, err := r.Apply([]byte("before"), c.op, c.in, gateway.FieldContext{ID: id, Pointer: "/a/0", Raw: []byte(c.raw)})
			if err != nil || !ok || as != gateway.String {
				t.Fatal(ok, as, err)
			}
			field := bytes.TrimPrefix(out, []byte("before"))
			m := r.opener.Message()
			plain, err := m.Open("/a/0", field)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := m.ID(); hex.EncodeToString(got[:]) != id.String() {
				t.Errorf("id %x", got)
			}
			if c.want != "" && string(plain) != c.want {
				t.Errorf("opened %s, want %s", plain, c.want)
			}
			if c.op.Inner == gateway.Tokenize && !r.Check(token("a"), text(strings.Trim(string(plain), `"`))) {
				t.Errorf("opened %s, want a token", plain)
			}
			if !r.Check(c.op, text(string(field))) {
				t.Error("its own check refuses it")
			}
			stricter := c.op
			if stricter.Inner, stricter.Domain = gateway.Tokenize, "b"; r.Check(stricter, text(string(field))) {
				t.Error("the check does not look inside")
			}
			other := c.op
			if other.To = "tsp"; r.Check(other, text(string(field))) {
				t.Error("a field for another recipient passed the check")
			}
			field[len(field)-30] ^= 1
			if r.Check(c.op, text(string(field))) {
				t.Error("a changed field passed the check")
			}
		})
	}
}

func TestAnInnerOperationThatDoesNotFitDoesNotFit(t *testing.T) {
	op := gateway.Operation{Action: gateway.Encrypt, Inner: gateway.Generalize, Decimals: 2, Prefix: -1, To: "oem"}
	out, _, ok, err := newKit(t).Apply(nil, op, text("31.2304"), gateway.FieldContext{Raw: []byte(`"31.2304"`)})
	if ok || err != nil || len(out) != 0 {
		t.Fatalf("%q %v %v", out, ok, err)
	}
}

// value draws a value as devices send them.
func value(r *rand.Rand) gateway.Value {
	switch r.IntN(6) {
	case 0:
		return num(fmt.Sprintf("%.*f", r.IntN(12), r.Float64()*400-200))
	case 1:
		return num(fmt.Sprintf("%d.%0*de%d", r.IntN(10), 1+r.IntN(5), r.IntN(10), r.IntN(9)-5))
	case 2:
		return num(fmt.Sprint(r.Int64N(1 << uint(1+r.IntN(45)))))
	case 3:
		return text(time.Unix(r.Int64N(4e9), r.Int64N(1e9)).In(time.FixedZone("", (r.IntN(27)-13)*3600)).Format(time.RFC3339Nano))
	case 4:
		b := []rune{}
		for range r.IntN(30) {
			b = append(b, []rune("aZ0 *沪\U0001f697\"")[r.IntN(8)])
		}
		return text(string(b))
	default:
		return text("LSVAA4182E2184847")
	}
}

// operation draws an operation.
func operation(r *rand.Rand) gateway.Operation {
	op := gateway.Operation{Decimals: int8(r.IntN(5) - 1), Prefix: int16(r.IntN(12) - 1), Head: uint8(r.IntN(5)), Tail: uint8(r.IntN(5)),
		Domain: []string{"a", "b"}[r.IntN(2)], To: []string{"oem", "tsp"}[r.IntN(2)]}
	if r.IntN(2) == 0 {
		op.Bucket = time.Duration(1+r.IntN(7200)) * time.Second
	}
	field := []gateway.Action{gateway.Generalize, gateway.Mask, gateway.Tokenize}
	if op.Action = field[r.IntN(3)]; r.IntN(4) == 0 {
		op.Action, op.Inner = gateway.Encrypt, op.Action
	}
	return op
}

func TestWhatIsAppliedPassesTheCheckAndRandomValuesDoNot(t *testing.T) {
	k := newKit(t)
	r := rand.New(rand.NewPCG(1, 2))
	applied, foreign := 0, 0
	for range 20_000 {
		op, v := operation(r), value(r)
		raw := v.Text
		if v.Kind == gateway.String {
			raw, _ = jsontext.AppendQuote(nil, v.Text)
		}
		out, as, ok, err := k.Apply(nil, op, v, gateway.FieldContext{Raw: raw, Pointer: "/x"})
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			applied++
			if !utf8.Valid(out) || !k.Check(op, gateway.Value{Kind: as, Text: out}) {
				t.Fatalf("%+v of %q: %q is refused", op, v.Text, out)
			}
		}
		// A value that nobody touched passes only where it is already as coarse as it would become, or masked by chance.
		if k.Check(op, v) {
			if op.Action == gateway.Tokenize || op.Action == gateway.Encrypt {
				t.Fatalf("%+v: %q is taken for ours", op, v.Text)
			}
			if op.Action == gateway.Generalize && ok && !bytes.Equal(out, v.Text) {
				t.Fatalf("%+v: %q passes, but becomes %q", op, v.Text, out)
			}
			continue
		}
		foreign++
	}
	if applied < 10_000 || foreign < 10_000 {
		t.Fatalf("%d applied, %d refused: the draw is lopsided", applied, foreign)
	}
}

func TestGeneralizeTwiceIsGeneralizeOnce(t *testing.T) {
	k := newKit(t)
	r := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		op, v := operation(r), value(r)
		op.Action, op.Inner = gateway.Generalize, 0
		once, as, ok, _ := k.Apply(nil, op, v, gateway.FieldContext{})
		if !ok {
			continue
		}
		twice, _, ok, _ := k.Apply(nil, op, gateway.Value{Kind: as, Text: once}, gateway.FieldContext{})
		if !ok {
			if n, _ := new(big.Rat).SetString(string(once)); n != nil && n.IsInt() && n.Num().CmpAbs(big.NewInt(wholeLimit)) > 0 {
				continue // a large fraction rounded to a whole number, which no longer shows what it was
			}
		}
		if !ok || !bytes.Equal(once, twice) {
			t.Fatalf("%+v: %q, %q, %q", op, v.Text, once, twice)
		}
	}
}

// FuzzRound compares with exact rational arithmetic.
func FuzzRound(f *testing.F) {
	for _, s := range []string{"31.230416", "-0.005", "9.995", "1e-3", "12.5E+1", "0.0e0", "99999.99999", "360", "1.0000e2"} {
		f.Add(s, uint8(2))
	}
	f.Fuzz(func(t *testing.T, lit string, n uint8) {
		if len(lit) > 40 || !jsontext.Value(lit).IsValid() || strings.ContainsAny(lit, " \t\r\n\"[{tfn") {
			return
		}
		if at := strings.IndexAny(lit, "eE"); at >= 0 && len(lit)-at > 5 {
			return // the reference writes such numbers out
		}
		n %= 12
		exact, ok := new(big.Rat).SetString(lit)
		if !ok {
			t.Fatalf("%q is no number", lit)
		}
		out, ok := round(nil, []byte(lit), int(n))
		if big := exact.IsInt() && exact.Num().CmpAbs(big.NewInt(wholeLimit)) > 0; ok == big {
			t.Fatalf("%q: fits %v, whole and large %v", lit, ok, big)
		}
		if !ok {
			return
		}
		got, valid := new(big.Rat).SetString(string(out))
		if !valid || !jsontext.Value(out).IsValid() {
			t.Fatalf("%q became %q", lit, out)
		}
		want, _ := new(big.Rat).SetString(exact.FloatString(int(n))) // rounds half away from zero
		if got.Cmp(want) != 0 {
			t.Fatalf("%q became %q, want %s", lit, out, want.FloatString(int(n)))
		}
		if !rounded(out, int(n)) || bytes.HasPrefix(out, []byte("-")) && got.Sign() == 0 {
			t.Fatalf("%q became %q", lit, out)
		}
	})
}

// FuzzBucket compares with package time.
func FuzzBucket(f *testing.F) {
	f.Add("2026-03-01T08:15:42.5+08:00", uint32(3600))
	f.Add("1969-03-01T08:15:42Z", uint32(7))
	f.Add("0000-01-01T00:00:00Z", uint32(86400*7))
	f.Add("2024-02-29 23:59:60", uint32(60))
	f.Fuzz(func(t *testing.T, s string, seconds uint32) {
		step := time.Duration(seconds) * time.Second
		out, ok := textBucket(nil, []byte(s), step)
		if !ok {
			return
		}
		if len(out) != len(s) {
			t.Fatalf("%q became %q", s, out)
		}
		again, ok := textBucket(nil, out, step)
		if !ok && !strings.HasPrefix(string(out), "0000") || ok && !bytes.Equal(again, out) {
			t.Fatalf("%q became %q, then %q", s, out, again)
		}
		const layout = "2006-01-02T15:04:05"
		in, err := time.Parse(layout, s[:10]+"T"+s[11:19])
		if err != nil {
			return // a leap second
		}
		down, err := time.Parse(layout, string(out[:10])+"T"+string(out[11:19]))
		if err != nil || down.After(in) || in.Sub(down) >= step || down.Unix()%int64(seconds) != 0 {
			t.Fatalf("%q became %q with %v", s, out, step)
		}
	})
}

func TestManyGoroutinesShareARedactor(t *testing.T) {
	k := newKit(t)
	vin := text("LSVAA4182E2184847")
	want, _, _, _ := k.Apply(nil, token("a"), vin, gateway.FieldContext{})
	op := gateway.Operation{Action: gateway.Encrypt, Inner: gateway.Tokenize, Domain: "a", To: "oem"}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var dst []byte
			for range 300 {
				dst, _, _, _ = k.Apply(dst[:0], token("a"), vin, gateway.FieldContext{})
				if !bytes.Equal(dst, want) {
					t.Error("another token")
				}
				dst, _, _, _ = k.Apply(dst[:0], op, vin, gateway.FieldContext{Raw: []byte(`"x"`)})
				if !k.Check(op, gateway.Value{Kind: gateway.String, Text: dst}) {
					t.Error("a field was refused")
				}
			}
		})
	}
	wg.Wait()
}

func TestPlainOperatorsAllocateNothing(t *testing.T) {
	k := newKit(t)
	dst := make([]byte, 0, 1024)
	for _, c := range []struct {
		op gateway.Operation
		v  gateway.Value
	}{
		{decimals(2), num("31.230416")}, {bucket(time.Hour), text("2026-03-01T08:15:42.250+08:00")}, {bucket(time.Hour), num("1767229542987")},
		{prefix(3), text("LSVAA4182E2184847")}, {masking(3, 4, 0), text("13812345678")},
	} {
		if n := testing.AllocsPerRun(100, func() {
			out, as, _, _ := k.Apply(dst, c.op, c.v, gateway.FieldContext{})
			if !k.Check(c.op, gateway.Value{Kind: as, Text: out}) {
				t.Fatal("refused")
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", c.op.Action, n)
		}
	}
}

func BenchmarkOperators(b *testing.B) {
	k := newKit(b)
	for name, c := range map[string]struct {
		op gateway.Operation
		v  gateway.Value
	}{
		"decimals": {decimals(2), num("31.230416")}, "bucket": {bucket(time.Hour), text("2026-03-01T08:15:42.250+08:00")},
		"mask": {masking(3, 4, 0), text("13812345678")}, "tokenize": {token("a"), text("LSVAA4182E2184847")},
		"encrypt": {encryptTo("oem"), text("LSVAA4182E2184847")},
	} {
		f := gateway.FieldContext{Pointer: "/vin", Raw: []byte(`"LSVAA4182E2184847"`)}
		var out []byte
		var as gateway.Kind
		b.Run(name+"/apply", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				out, as, _, _ = k.Apply(out[:0], c.op, c.v, f)
			}
		})
		b.Run(name+"/check", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !k.Check(c.op, gateway.Value{Kind: as, Text: out}) {
					b.Fatal("refused")
				}
			}
		})
	}
}
