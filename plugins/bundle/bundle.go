// Package bundle says who vouches for a plugin: it writes and checks the signature beside a module, keeps the list of
// keys that are trusted, and knows when a serial number may follow another. It never looks into a module.
//
// # Files
//
// A bundle is NAME.wasm, with its manifest inside, and NAME.wasm.sig beside it.
//
// # Signature
//
// The signature file is ASCII text of two or three lines, each ended by one newline, and nothing else:
//
//	sluice-sig v1
//	acme ed25519 neraHguCeA0/s5qkaCHyxHCa7zIAFX/33B6h4y481yU/V1Uf3uk3Xahey+3GJu+JlgNfBhUekQK/aEIyERz8DQ==
//
// A line is the id of the key, the algorithm and the signature in standard base64 with padding and zero spare bits,
// separated by one space. The line of ed25519 [RFC 8032 §5.1] must be there; one of ml-dsa-65 [FIPS 204, pure, empty
// context] may follow it, with the same id. An id is a letter or digit followed by up to 62 letters, digits, dots, hyphens
// and underscores. A file has one key and one written form, and at most 16 KiB. Both algorithms sign the same 48 bytes:
//
//	"sluice-plugin-v1" ‖ SHA-256 of the bytes of NAME.wasm
//
// The example is the signature over a file of the 6 bytes "hello\n" with the Ed25519 key of the seed of 32 bytes 0x01,
// which is iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w= in public.
//
// # Trust
//
// The trust file is strict YAML, read as the configuration is. An empty one trusts nobody.
//
//	keys:
//	  - id: acme
//	    ed25519: iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=
//	    names: [geofence, acme-*]
//	    grants: [read.payload, "read.value:VEH-LOC-*"]
//	    expires: 2027-12-31
//
// ed25519 and ml_dsa_65 are public keys in base64. A name, and the category of a grant, is matched whole; a * at its end
// stands for any rest, also none: geo covers geo only, geo* covers geofence and geofence-2. expires is the last day, in
// UTC, on which the key brings new versions. revoked is true or the day of it, which is told and not judged: a revoked
// key is good for nothing on any day. reason may say why. A private key that is lost is replaced by another id.
//
// # Rules
//
// The signature is checked over the exact bytes before any of them is parsed. A key with ml_dsa_65 needs both lines: with
// one taken away the file is refused. A line of ml-dsa-65 that the trust file has no key for is not checked, and said so.
// Expiry is asked when a version is taken in; what was taken in before is good until its key is revoked. A clock that is
// not set cannot tell whether a key has expired, and nothing new is taken in. What is refused is a *Refusal with a code.
//
// The package starts no goroutines. A Trust and a Signer never change and are safe for concurrent use.
package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
)

// Suffix makes the name of the signature file from that of the module.
const Suffix = ".sig"

// MaxSignature is the largest signature file in bytes. Readers need not read more than one byte beyond.
const MaxSignature = 16 << 10

// The algorithms.
const (
	Ed25519 = "ed25519"
	MLDSA65 = "ml-dsa-65"
)

const (
	title = "sluice-sig v1"
	label = "sluice-plugin-v1" // in front of the digest: what is signed is nothing but a plugin
)

var strict = base64.StdEncoding.Strict()

// signature is a signature file taken apart.
type signature struct {
	key     string
	ed25519 []byte // 64 bytes
	mldsa   []byte // 3309 bytes, or nil
}

// marshal writes the only form that parse reads.
func (s *signature) marshal() []byte {
	b := fmt.Appendf(nil, "%s\n%s %s %s\n", title, s.key, Ed25519, base64.StdEncoding.EncodeToString(s.ed25519))
	if s.mldsa != nil {
		b = fmt.Appendf(b, "%s %s %s\n", s.key, MLDSA65, base64.StdEncoding.EncodeToString(s.mldsa))
	}
	return b
}

// parse takes a signature file apart. Its errors never quote the text.
func parse(text []byte) (*signature, error) {
	if len(text) > MaxSignature {
		return nil, fmt.Errorf("more than %d bytes", MaxSignature)
	}
	body, ended := bytes.CutSuffix(text, []byte("\n"))
	lines := strings.Split(string(body), "\n")
	switch {
	case lines[0] != title:
		return nil, fmt.Errorf("first line is not %q", title)
	case !ended:
		return nil, errors.New("last line has no end")
	case len(lines) < 2 || len(lines) > 3:
		return nil, fmt.Errorf("%d lines; want 2 or 3", len(lines))
	}
	s := new(signature)
	var err error
	if s.key, s.ed25519, err = parseLine(lines[1], Ed25519, ed25519.SignatureSize); err != nil {
		return nil, fmt.Errorf("line 2: %w", err)
	}
	if len(lines) == 3 {
		var key string
		if key, s.mldsa, err = parseLine(lines[2], MLDSA65, mldsa65.SignatureSize); err != nil {
			return nil, fmt.Errorf("line 3: %w", err)
		}
		if key != s.key {
			return nil, errors.New("line 3: another key than in line 2")
		}
	}
	return s, nil
}

func parseLine(line, algorithm string, size int) (key string, sig []byte, err error) {
	parts := strings.Split(line, " ")
	switch {
	case len(parts) != 3:
		return "", nil, errors.New("want key id, algorithm and signature, one space between them")
	case checkID(parts[0]) != nil:
		return "", nil, checkID(parts[0])
	case parts[1] != algorithm:
		return "", nil, fmt.Errorf("algorithm is not %s", algorithm)
	case strings.Contains(parts[2], "\r"): // which the decoder passes over
		return "", nil, errors.New("line ends with a carriage return")
	}
	if sig, err = strict.DecodeString(parts[2]); err != nil {
		return "", nil, errors.New("signature is no canonical base64")
	}
	if len(sig) != size {
		return "", nil, fmt.Errorf("signature has %d bytes; want %d", len(sig), size)
	}
	return parts[0], sig, nil
}

// checkID reports what is wrong with the id of a key, which is formed as in package keyring.
func checkID(id string) error {
	ok := len(id) > 0 && len(id) <= 63
	for i, c := range []byte(id) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (alnum || i > 0 && (c == '.' || c == '-' || c == '_'))
	}
	if !ok {
		return errors.New("key id is not a letter or digit followed by up to 62 letters, digits, dots, hyphens and underscores")
	}
	return nil
}

// message is what is signed, and the digest in it.
func message(file []byte) (msg []byte, digest string) {
	sum := sha256.Sum256(file)
	return append([]byte(label), sum[:]...), hex.EncodeToString(sum[:])
}

// Sign returns the signature file of a module. The secret is that of a plugin key of package keyring: an Ed25519 seed of 32
// bytes, or that and an ML-DSA-65 seed of 32 bytes; it stays the caller's. The same module and key give the same file.
func Sign(file []byte, key string, secret []byte) ([]byte, error) {
	if err := checkID(key); err != nil {
		return nil, fmt.Errorf("sign plugin: %w", err)
	}
	if len(secret) != ed25519.SeedSize && len(secret) != ed25519.SeedSize+mldsa65.SeedSize {
		return nil, fmt.Errorf("sign plugin: a secret of %d bytes; want 32 or 64", len(secret))
	}
	msg, _ := message(file)
	private := ed25519.NewKeyFromSeed(secret[:ed25519.SeedSize])
	s := &signature{key: key, ed25519: ed25519.Sign(private, msg)}
	good := ed25519.Verify(private.Public().(ed25519.PublicKey), msg, s.ed25519)
	clear(private)
	if len(secret) > ed25519.SeedSize {
		public, private := mldsa65.NewKeyFromSeed((*[mldsa65.SeedSize]byte)(secret[ed25519.SeedSize:]))
		s.mldsa = make([]byte, mldsa65.SignatureSize)
		if err := mldsa65.SignTo(private, msg, nil, false, s.mldsa); err != nil {
			return nil, fmt.Errorf("sign plugin: %w", err)
		}
		good = good && mldsa65.Verify(public, msg, nil, s.mldsa)
		*private = mldsa65.PrivateKey{}
	}
	if !good { // a fault of the machine: such a signature may give the key away
		return nil, errors.New("sign plugin: the signature does not hold")
	}
	return s.marshal(), nil
}

// Signer is who vouches for a module, and for how much.
type Signer struct {
	Key        string    // id in the trust file
	Digest     string    // SHA-256 of the module, hexadecimal
	Algorithms []string  // that were checked, in the order of the file
	Unchecked  bool      // there is a line of ml-dsa-65, and no key for it in the trust file
	Names      []string  // what it may sign
	Grants     []string  // the most that may be granted
	Expires    time.Time // the first instant at which it has expired
}

// Verify checks the signature file sig of a module that is to be taken in: by a key that is trusted, not revoked and, at
// now, not expired. clockSet says whether now means anything. Whoever finds no signature file gives nil. The file is not
// parsed; who reads its manifest then asks Covers for the name in it. Errors are *Refusal.
func Verify(file, sig []byte, trust *Trust, now time.Time, clockSet bool) (*Signer, error) {
	s, err := Recheck(file, sig, trust)
	switch {
	case err != nil:
		return nil, err
	case !clockSet:
		return nil, &Refusal{ClockUnset, s.Key, "the clock is not set: nobody can tell whether the key has expired", "set the clock, then try again"}
	case !now.Before(s.Expires):
		return nil, &Refusal{Expired, s.Key, "the key has expired: its last day was " + lastDay(s.Expires), "sign with a key that is in force, or renew expires in the trust file"}
	}
	return s, nil
}

// Recheck is Verify for a module that was taken in before: its key may have expired since, and may not be revoked.
func Recheck(file, sig []byte, trust *Trust) (*Signer, error) {
	if len(sig) == 0 {
		return nil, &Refusal{Unsigned, "", "no signature", "sluice plugin sign --key KEY FILE.wasm writes FILE.wasm" + Suffix}
	}
	s, err := parse(sig)
	if err != nil {
		return nil, &Refusal{Malformed, "", "malformed signature file: " + err.Error(), "take " + Suffix + " and module from the same delivery, byte by byte"}
	}
	k := trust.key(s.key)
	if k == nil {
		return nil, &Refusal{UnknownKey, s.key, "no such key in the trust file", "if its owner is trusted, add the entry that sluice keys export --trust prints"}
	}
	if k.Revoked.Is {
		return nil, &Refusal{Revoked, k.ID, "the key is revoked" + k.Revoked.text(k.Reason), "ask for a version that is signed with another key"}
	}
	msg, digest := message(file)
	bad := func(algorithm string) error {
		return &Refusal{BadSignature, k.ID, "the signature of " + algorithm + " is not over this file, or by another key of this name",
			"compare the key with the owner's, and take " + Suffix + " and module from the same delivery"}
	}
	if !ed25519.Verify(k.ed25519, msg, s.ed25519) {
		return nil, bad(Ed25519)
	}
	out := &Signer{Key: k.ID, Digest: digest, Algorithms: []string{Ed25519}, Unchecked: s.mldsa != nil && k.mldsa == nil,
		Names: k.Names, Grants: k.Grants, Expires: k.Expires.end}
	switch {
	case k.mldsa == nil:
	case s.mldsa == nil:
		return nil, &Refusal{Downgrade, k.ID, "no signature of " + MLDSA65 + ", which this key must give too", "take the whole " + Suffix + " file from its owner"}
	case !mldsa65.Verify(k.mldsa, msg, nil, s.mldsa):
		return nil, bad(MLDSA65)
	default:
		out.Algorithms = append(out.Algorithms, MLDSA65)
	}
	return out, nil
}

// LastDay returns the last day on which the key brings new versions: 2027-12-31.
func (s *Signer) LastDay() string { return lastDay(s.Expires) }

// Covers reports whether the key may sign plugins of this name.
func (s *Signer) Covers(name string) bool { return coversAny(s.Names, name) }

// CheckName is Covers as a *Refusal.
func (s *Signer) CheckName(name string) error {
	if s.Covers(name) {
		return nil
	}
	return &Refusal{NameOutside, s.Key, fmt.Sprintf("the key may not sign a plugin called %q: it has %s", name, strings.Join(s.Names, ", ")), "add the name to the key's names in the trust file, if its owner may have it"}
}

// Limit parts grants into those that the key may have and those that it may not. A grant with a * in it is refused: a plugin
// asks for one category at a time.
func (s *Signer) Limit(grants []string) (allowed, refused []string) {
	for _, g := range grants {
		if !strings.Contains(g, "*") && coversAny(s.Grants, g) {
			allowed = append(allowed, g)
		} else {
			refused = append(refused, g)
		}
	}
	return allowed, refused
}

// CheckSerial says whether a module with this serial and digest may follow one of serial floor, the highest that was ever
// taken in under the name, with digest have; a floor of 0 is none. Serials only rise; the very same module may come again.
func CheckSerial(floor uint64, have string, serial uint64, digest string) error {
	switch {
	case serial == 0:
		return &Refusal{OldSerial, "", "serial 0; serials begin with 1", "give the manifest a serial"}
	case serial == floor && digest == have:
		return nil
	case serial == floor:
		return &Refusal{OldSerial, "", fmt.Sprintf("serial %d was taken in before with other content", serial), fmt.Sprintf("raise the serial over %d", floor)}
	case serial < floor:
		return &Refusal{OldSerial, "", fmt.Sprintf("serial %d, but %d was taken in before", serial, floor), fmt.Sprintf("raise the serial over %d; what this gateway ran before comes back by rollback", floor)}
	}
	return nil
}

// Reason is a code for why a module is refused: safe for records, logs and metrics.
type Reason string

// The reasons.
const (
	Unsigned     Reason = "unsigned"      // there is no signature file
	Malformed    Reason = "malformed"     // it is no signature file
	UnknownKey   Reason = "unknown_key"   // the trust file does not have the key
	Revoked      Reason = "revoked"       // the key is revoked
	BadSignature Reason = "bad_signature" // another file, or another key of that name
	Downgrade    Reason = "downgrade"     // the second algorithm is missing
	ClockUnset   Reason = "clock_unset"   // nobody can tell whether the key has expired
	Expired      Reason = "expired"       // the key has
	NameOutside  Reason = "name_outside"  // the key may not sign plugins of that name
	OldSerial    Reason = "old_serial"    // a serial that was there, or a lower one
)

// Refusal says why a module is not taken in, and what to do.
type Refusal struct {
	Reason Reason
	Key    string // id of the key, where it is known
	text   string
	hint   string
}

func (r *Refusal) Error() string {
	if r.Key == "" {
		return "verify plugin: " + r.text
	}
	return fmt.Sprintf("verify plugin: key %q: %s", r.Key, r.text)
}

// Hint says what to type.
func (r *Refusal) Hint() string { return r.hint }
