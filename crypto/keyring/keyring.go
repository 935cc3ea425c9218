// Package keyring keeps keys as files in one folder, the key_dir.
//
// # Files
//
// A key has an id and a use. Its private part is <id>.key, mode 0600; its public part, where the use has one, is
// <id>.pub. An id is a letter or digit followed by up to 62 letters, digits, dots, hyphens and underscores.
//
//	use        private part, 32 bytes     public part
//	token      HMAC-SHA256 key            none
//	at-rest    AES-256 key                none
//	audit      Ed25519 seed               Ed25519 key, 32 bytes
//	recipient  X-Wing seed                X-Wing encapsulation key, 1216 bytes
//	custodian  X-Wing seed                X-Wing encapsulation key, 1216 bytes
//	plugin     Ed25519 seed               Ed25519 key, 32 bytes
//
// A plugin key may also sign with ML-DSA-65 [FIPS 204]. Its private part is then 64 bytes, the Ed25519 seed and the seed ξ
// of ML-DSA.KeyGen, drawn apart, and its public part 1984 bytes, the Ed25519 key and the ML-DSA-65 key of 1952.
//
// # Format
//
// Both files are ASCII lines, each ended by one newline, in this order and nothing else:
//
//	sluice private key v1
//	use: at-rest
//	id: journal
//	created: 2026-03-01T08:00:00Z
//	generation: 2
//	key: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
//	check: 9c31fd02
//
// The first line of a public file is "sluice public key v1". The line generation stands in at-rest keys only: a decimal
// number from 1; the key with the highest one is current, the others still open what they sealed. key is standard
// base64 with padding. check is the first 4 bytes, in hexadecimal, of the SHA-256 of all bytes before its line: it finds
// truncated and mistyped files and says nothing about the key that could be used.
//
// The public file of an audit key is instead one line in the verifier format of golang.org/x/mod/sumdb/note,
// <id>+<hash>+<base64>, so that other verifiers can read it.
//
// # Rules
//
// A private file that group or others may read or write, or that is a symbolic link, is refused. A file appears whole
// or not at all (temporary file, fsync, link, fsync of the folder), and no file is ever overwritten.
//
// The package starts no goroutines. A Ring is safe for concurrent use, also by several processes.
package keyring

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cloudflare/circl/kem/xwing"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"golang.org/x/mod/sumdb/note"
)

// Use says what a key may be used for. A key is never used for anything else.
type Use uint8

// The uses.
const (
	InvalidUse Use = iota
	Token          // pseudonyms of one token domain
	Recipient      // a recipient of encrypted fields
	Custodian      // who may open holds
	Audit          // signs checkpoints
	AtRest         // seals the journal
	Plugin         // signs plugins
	lastUse    = Plugin
)

var useNames = [...]string{"invalid", "token", "recipient", "custodian", "audit", "at-rest", "plugin"}

// String returns the written form of the use.
func (u Use) String() string {
	if int(u) < len(useNames) {
		return useNames[u]
	}
	return fmt.Sprintf("use(%d)", uint8(u))
}

// ParseUse reads the written form of a use.
func ParseUse(s string) (Use, error) {
	for u := Token; u <= lastUse; u++ {
		if useNames[u] == s {
			return u, nil
		}
	}
	return InvalidUse, fmt.Errorf("key use %q: want token, recipient, custodian, audit, at-rest or plugin", s)
}

// GatewayOnly reports whether only the gateway itself uses such keys, so that it may create them on first start.
func (u Use) GatewayOnly() bool { return u == Token || u == Audit || u == AtRest }

// HasPublic reports whether keys of this use have a public part.
func (u Use) HasPublic() bool {
	return u == Recipient || u == Custodian || u == Audit || u == Plugin
}

// publicSize returns the length of the public part in bytes.
func (u Use) publicSize() int {
	if u == Audit || u == Plugin {
		return ed25519.PublicKeySize
	}
	return xwing.PublicKeySize
}

// isPublicSize reports whether a public part may have n bytes.
func (u Use) isPublicSize(n int) bool {
	return n == u.publicSize() || u == Plugin && n == ed25519.PublicKeySize+mldsa65.PublicKeySize
}

// secretSize is the length of a private part in bytes; a plugin key with two algorithms has two.
const secretSize = 32

// isSecretSize reports whether a private part may have n bytes.
func (u Use) isSecretSize(n int) bool { return n == secretSize || u == Plugin && n == 2*secretSize }

// Private is a private or symmetric key. Whoever got it calls Destroy when it is no longer needed.
// It must not be destroyed while another goroutine uses it.
type Private struct {
	Use        Use
	ID         string
	Created    time.Time // by the clock of the box, which may not have been set
	Generation int       // at-rest keys: from 1; others: 0
	secret     []byte
}

// Secret returns the bytes of the key, 32, or 64 of a plugin key with two algorithms; nil after Destroy. The slice belongs to the key and is zeroed by Destroy.
func (k *Private) Secret() []byte { return k.secret }

// Destroy overwrites the key in memory.
func (k *Private) Destroy() {
	clear(k.secret)
	k.secret = nil
}

// Tag is a short name for the key itself, whatever its file is called: the first 4 bytes of the SHA-256 of
// "sluice key tag v1", the written form of the use and the key. Two at-rest keys of one folder never share a tag.
func (k *Private) Tag() uint32 {
	b := append([]byte("sluice key tag v1"+k.Use.String()), k.secret...)
	sum := sha256.Sum256(b)
	clear(b)
	return binary.BigEndian.Uint32(sum[:])
}

// Public returns the public part. It is an error for uses that have none.
func (k *Private) Public() (*Public, error) {
	p := &Public{Use: k.Use, ID: k.ID, Created: k.Created}
	switch k.Use {
	case Audit:
		p.Key = ed25519.NewKeyFromSeed(k.secret).Public().(ed25519.PublicKey)
	case Plugin:
		p.Key = slices.Clone(ed25519.NewKeyFromSeed(k.secret[:secretSize])[ed25519.SeedSize:])
		if len(k.secret) > secretSize {
			public, _ := mldsa65.NewKeyFromSeed((*[mldsa65.SeedSize]byte)(k.secret[secretSize:]))
			p.Key = append(p.Key, public.Bytes()...)
		}
	case Recipient, Custodian:
		_, p.Key = xwing.DeriveKeyPairPacked(k.secret)
	default:
		return nil, fmt.Errorf("key %q: a key for %s has no public part", k.ID, k.Use)
	}
	return p, nil
}

// Signer returns the signer of an audit key, named after its id.
func (k *Private) Signer() (note.Signer, error) {
	if k.Use != Audit {
		return nil, fmt.Errorf("key %q: a key for %s does not sign", k.ID, k.Use)
	}
	return &signer{name: k.ID, hash: verifierHash(k.ID, k.secret), key: ed25519.NewKeyFromSeed(k.secret)}, nil
}

// signer signs notes. It keeps the key for as long as the signer lives.
type signer struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
}

func (s *signer) Name() string                    { return s.name }
func (s *signer) KeyHash() uint32                 { return s.hash }
func (s *signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// verifierHash is the key hash of the note format for the public key of the seed.
func verifierHash(name string, seed []byte) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n\x01"))
	h.Write(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// Public is the public part of a key.
type Public struct {
	Use     Use
	ID      string
	Created time.Time // zero for audit keys, whose format has no room for it
	Key     []byte    // 1216 bytes (X-Wing), 32 bytes (Ed25519) or 1984 bytes (Ed25519 and ML-DSA-65)
}

// Verifier returns the text form of an audit key, as golang.org/x/mod/sumdb/note.NewVerifier reads it.
func (p *Public) Verifier() (string, error) {
	if p.Use != Audit {
		return "", fmt.Errorf("key %q: a key for %s does not verify", p.ID, p.Use)
	}
	return note.NewEd25519VerifierKey(p.ID, p.Key)
}

// Fingerprint returns the first 16 hexadecimal digits of the SHA-256 of the public key, for people to compare.
func (p *Public) Fingerprint() string {
	sum := sha256.Sum256(p.Key)
	return fmt.Sprintf("%x", sum[:8])
}
