package bundle

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"

	"github.com/sluice-edge/sluice/gateway/config"
)

// Key is one key of a trust file.
type Key struct {
	ID      string     `yaml:"id" doc:"name of the key in signature files" required:"true"`
	Ed25519 string     `yaml:"ed25519" doc:"public key, 32 bytes in base64" required:"true"`
	MLDSA65 string     `yaml:"ml_dsa_65" doc:"public key, 1952 bytes in base64; then both signatures are needed"`
	Names   []string   `yaml:"names" doc:"plugins that it may sign: geofence, or geo* for every name that begins so" required:"true"`
	Grants  []string   `yaml:"grants" doc:"the most that they may be granted: read.payload, read.value:VEH-LOC-*"`
	Expires Day        `yaml:"expires" doc:"last day on which it brings new versions: 2027-12-31" required:"true"`
	Revoked Revocation `yaml:"revoked" doc:"true, or the day on which it was"`
	Reason  string     `yaml:"reason" doc:"why it is revoked"`

	ed25519 ed25519.PublicKey
	mldsa   *mldsa65.PublicKey // nil: not asked for
}

// End returns the first instant at which the key has expired.
func (k *Key) End() time.Time { return k.Expires.end }

// Day is a day in UTC, written 2027-12-31.
type Day struct{ end time.Time } // the instant at which it is over

// UnmarshalText reads the written form.
func (d *Day) UnmarshalText(text []byte) error {
	day, err := time.Parse(time.DateOnly, string(text))
	if err != nil {
		return errors.New("write a day: 2027-12-31")
	}
	d.end = day.AddDate(0, 0, 1)
	return nil
}

// lastDay writes the day that is over at end.
func lastDay(end time.Time) string { return end.AddDate(0, 0, -1).Format(time.DateOnly) }

// Revocation says whether a key is revoked, and may say since when.
type Revocation struct {
	Is    bool
	Since string // 2027-12-31, or empty
}

// UnmarshalText reads true, false or a day.
func (r *Revocation) UnmarshalText(text []byte) error {
	switch s := string(text); s {
	case "true":
		*r = Revocation{Is: true}
	case "false":
		*r = Revocation{}
	default:
		if _, err := time.Parse(time.DateOnly, s); err != nil {
			return errors.New("write true, false or the day: 2027-12-31")
		}
		*r = Revocation{true, s}
	}
	return nil
}

func (r Revocation) text(reason string) string {
	s := ""
	if r.Since != "" {
		s = " since " + r.Since
	}
	if reason != "" {
		s += ": " + reason
	}
	return s
}

// Trust is a trust file that has no error. The zero Trust, and nil, trust nobody.
type Trust struct{ keys []Key }

// Keys returns the keys in the order of the file. The slice is the caller's, what is in it is not.
func (t *Trust) Keys() []Key {
	if t == nil {
		return nil
	}
	return slices.Clone(t.keys)
}

// Covers reports whether a key that is not revoked may sign plugins of this name.
func (t *Trust) Covers(name string) bool {
	return slices.ContainsFunc(t.Keys(), func(k Key) bool { return !k.Revoked.Is && coversAny(k.Names, name) })
}

func (t *Trust) key(id string) *Key {
	if t == nil {
		return nil
	}
	i := slices.IndexFunc(t.keys, func(k Key) bool { return k.ID == id })
	if i < 0 {
		return nil
	}
	return &t.keys[i]
}

// ReadTrust reads a trust file. The trust is nil when the report has an error.
func ReadTrust(file string) (*Trust, *config.Report) {
	bad := func(message, hint string) (*Trust, *config.Report) {
		r := config.Decode(file, nil, &struct{}{})
		r.Error("", message, hint)
		return nil, r
	}
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		return bad("not a regular file", "")
	}
	if err == nil && info.Mode().Perm()&0o002 != 0 {
		return bad(fmt.Sprintf("trust file of mode %04o: others could add a key", info.Mode().Perm()), "chmod 644 "+file)
	}
	data, err := config.ReadFile(file)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return bad("read trust file: "+err.Error(), "an empty file trusts nobody; sluice keys export --trust prints an entry")
	}
	return ParseTrust(file, data)
}

// ParseTrust reads the content of a trust file; the name is for messages. The trust is nil when the report has an error.
func ParseTrust(file string, data []byte) (*Trust, *config.Report) {
	var doc struct {
		Keys []Key `yaml:"keys" doc:"keys that may sign plugins"`
	}
	r := config.Decode(file, data, &doc)
	for i := range doc.Keys {
		doc.Keys[i].check(r, config.Index("keys", i), doc.Keys[:i])
	}
	if !r.OK() {
		return nil, r
	}
	return &Trust{doc.Keys}, r
}

// check reports what is wrong with a key, alone and beside those before it, and reads its public keys.
func (k *Key) check(r *config.Report, at string, before []Key) {
	if k.ID != "" {
		if err := checkID(k.ID); err != nil {
			r.Error(at+".id", err.Error(), "id: acme")
		}
	}
	if k.Ed25519 != "" {
		public, err := strict.DecodeString(k.Ed25519)
		switch {
		case err != nil || len(public) != ed25519.PublicKeySize || base64.StdEncoding.EncodeToString(public) != k.Ed25519:
			r.Error(at+".ed25519", "not 32 bytes in base64", "copy the line that sluice keys export --trust prints")
		case isWeak(public):
			r.Error(at+".ed25519", "a key under which anybody can sign", "copy the line that sluice keys export --trust prints")
		}
		k.ed25519 = public
	}
	if r.Has(at + ".ml_dsa_65") { // also an empty one: it must not mean that no second signature is needed
		public, err := strict.DecodeString(k.MLDSA65)
		if err != nil || len(public) != mldsa65.PublicKeySize || base64.StdEncoding.EncodeToString(public) != k.MLDSA65 {
			r.Error(at+".ml_dsa_65", "not 1952 bytes in base64", "copy the line that sluice keys export --trust prints, or remove it")
		} else {
			k.mldsa = new(mldsa65.PublicKey)
			k.mldsa.Unpack((*[mldsa65.PublicKeySize]byte)(public))
		}
	}
	for i, n := range k.Names {
		if !validName(n) {
			r.Error(config.Index(at+".names", i), fmt.Sprintf("%q is neither the name of a plugin nor the beginning of one with * behind it", n), "geofence is that plugin alone, geo* every name that begins so")
		}
	}
	for i, g := range k.Grants {
		if !validGrant(g) {
			r.Error(config.Index(at+".grants", i), fmt.Sprintf("grant %q is unknown", g), "have read.payload, read.source, replace, log, read.value:CATEGORY and declassify:CATEGORY; VEH-LOC-* is every category that begins so")
		}
	}
	if k.Reason != "" && !k.Revoked.Is {
		r.Error(at+".reason", "a reason for what is not revoked", "add revoked: true, or remove it")
	}
	for i := range before {
		if k.ID != "" && before[i].ID == k.ID {
			r.Error(at+".id", fmt.Sprintf("key %q stands twice", k.ID), "give each key an id of its own")
		} else if k.Ed25519 != "" && before[i].Ed25519 == k.Ed25519 || k.MLDSA65 != "" && before[i].MLDSA65 == k.MLDSA65 {
			r.Error(at, fmt.Sprintf("the same key as %q under another name", before[i].ID), "keep one: revoking one would leave the other")
		}
	}
}

// coversAny reports whether one of the patterns is the name, or the beginning of it with a * behind it.
func coversAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, open := strings.CutSuffix(p, "*")
		return p == name || open && strings.HasPrefix(name, prefix)
	})
}

// validName reports whether s is a pattern for names of plugins.
func validName(s string) bool {
	rest, _ := strings.CutSuffix(s, "*")
	return s != "" && len(s) <= 64 && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// validGrant reports whether s is a pattern for grants: those of a manifest, where a category may end in *.
func validGrant(s string) bool {
	kind, category, listed := strings.Cut(s, ":")
	switch kind {
	case "read.payload", "read.source", "replace", "log":
		return !listed
	case "read.value", "declassify":
		return category != "" && len(category) <= 64 && !strings.Contains(category[:len(category)-1], "*")
	}
	return false
}

// weak are the encodings of the points of small order, without the bit of the sign: y of 0, 1, -1, of the two of order 8,
// and of 0 and 1 with the prime added, which is read as the same. A signature under such a key is made without a secret.
var weak = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
}

func isWeak(public []byte) bool {
	b := slices.Clone(public)
	b[len(b)-1] &= 0x7f
	return slices.Contains(weak, hex.EncodeToString(b))
}
