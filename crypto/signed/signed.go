// Package signed writes and checks signed statements: those of a gateway about its record log, and those of a collector
// about archives that it keeps.
//
// # Checkpoints
//
// A checkpoint is a text of lines in the manner of C2SP tlog-checkpoint, signed as a note with Ed25519:
//
//	vgw-0001
//	4711
//	AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
//	at 2026-11-22T06:14:10Z
//
//	— vgw-0001 7OZ7ulU4HQ8LxP35ZbCVj5pg7D9skWkzwV72XDsa7pTWOam8EF7tBD3g5yeQ93Vv5PpGC5Y/CBjH4ei2FmappZobogk=
//
// Line by line: the origin, which is the gateway's identity; the size, which is the number of records in decimal; the
// root, which is the RFC 6962 tree hash of these records in base64; extension lines, none of them empty, of which the
// first may say when; an empty line, which ends the text; signature lines. The root of this example is 32 bytes 0x02,
// its key comes from a seed of 32 bytes 0x01 and is checked with
//
//	vgw-0001+ece67bba+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c
//
// The signature line is an em dash, a space, the key's name, a space and base64 of the key's hash (4 bytes) and the
// Ed25519 signature (64 bytes) over the text with its line ends, up to and without the empty line. The key's name is the
// origin. A verifier key is one line, `vgw-0001+<hash, 8 hexadecimal digits>+<base64 of 0x01 ‖ public key>`, where the
// hash is the first 4 bytes of SHA-256 of name, line end, 0x01 and public key. Whoever implements golang.org/x/mod's
// notes or C2SP signed-note can check it.
//
// # Receipts
//
// A receipt is a note of the same kind, signed by a collector, which thereby says that it keeps one archive file:
//
//	sluice receipt v1
//	vgw-0001
//	4711
//	9000
//	1048576
//	0700000000000000000000000000000000000000000000000000000000000000
//	at 2026-11-22T06:14:10Z
//
//	— collector-1 …
//
// Line by line: these words; the gateway; the seq of the first record in the file; the seq behind its last; the size of
// the file in bytes; its SHA-256 in lower-case hexadecimal digits; when the collector had it on disk, in UTC. Numbers are
// decimal, without leading zeros, below 1<<63. When the gateway stated the root of the records in the file (package
// gateway/journal, "Archives"), the first line ends in v2 and the root follows the SHA-256, in a line of its own and in
// the same digits; it is not zero. There is one written form and there are no further lines. A signed receipt has at most
// 4096 bytes. The first line holds spaces, which no origin of a checkpoint can: neither text can be taken for the other,
// whatever one key signs.
package signed

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// maxText bounds a checkpoint that is read.
const maxText = 1 << 16

// atPrefix begins the extension line with the time.
const atPrefix = "at "

// ErrCheckpoint reports a text that is no checkpoint, or not signed by the key in question.
var ErrCheckpoint = errors.New("malformed checkpoint")

// Checkpoint is a statement about a record log: its size and root.
type Checkpoint struct {
	Origin     string
	Size       uint64
	Root       [32]byte
	At         time.Time // whole seconds; zero when the text does not say
	Extensions []string  // further lines, not empty
}

// Signer signs checkpoints with one key. It is safe for concurrent use.
type Signer struct {
	name   string
	vkey   string
	signer note.Signer
}

// NewSigner makes a signer from an Ed25519 seed. The name is the gateway's identity; it has no space and no plus sign.
func NewSigner(name string, seed [32]byte) (*Signer, error) {
	public := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return nil, fmt.Errorf("make signer: %w", err)
	}
	if _, err := note.NewVerifier(vkey); err != nil {
		return nil, fmt.Errorf("make signer %q: %w", name, err)
	}
	hash := strings.Split(vkey, "+")[1]
	signer, err := note.NewSigner("PRIVATE+KEY+" + name + "+" + hash + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...)))
	if err != nil {
		return nil, fmt.Errorf("make signer %q: %w", name, errors.New("key is not usable")) // the cause may quote the key
	}
	return &Signer{name, vkey, signer}, nil
}

// VerifierKey returns the line that lets others check what this signer signs.
func (s *Signer) VerifierKey() string { return s.vkey }

// SignCheckpoint returns the signed text of c. The origin is the signer's name, whatever c says.
func (s *Signer) SignCheckpoint(c Checkpoint) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\n", s.name, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	if !c.At.IsZero() {
		b.WriteString(atPrefix + c.At.UTC().Truncate(time.Second).Format(time.RFC3339) + "\n")
	}
	for _, line := range c.Extensions {
		if line == "" || strings.Contains(line, "\n") || strings.HasPrefix(line, atPrefix) {
			return nil, errors.New("sign checkpoint: an extension is one line, not empty and not the time")
		}
		b.WriteString(line + "\n")
	}
	text, err := note.Sign(&note.Note{Text: b.String()}, s.signer)
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	return text, nil
}

// Verifier checks checkpoints of one gateway. It is safe for concurrent use.
type Verifier struct {
	verifier note.Verifier
}

// NewVerifier reads a verifier key.
func NewVerifier(vkey string) (*Verifier, error) {
	v, err := note.NewVerifier(strings.TrimSpace(vkey))
	if err != nil {
		return nil, fmt.Errorf("read verifier key: %w", err)
	}
	return &Verifier{v}, nil
}

// Name returns the identity of the gateway whose checkpoints the key checks.
func (v *Verifier) Name() string { return v.verifier.Name() }

// ParseVerify reads a signed checkpoint. Signatures of other keys beside the right one are passed over. The error is
// ErrCheckpoint when the text is malformed, of another gateway or not signed by this key.
func (v *Verifier) ParseVerify(text []byte) (c Checkpoint, err error) {
	if len(text) > maxText {
		return c, ErrCheckpoint
	}
	n, err := note.Open(text, note.VerifierList(v.verifier))
	if err != nil {
		return c, fmt.Errorf("%w: no valid signature of %q", ErrCheckpoint, v.Name())
	}
	if c, err = Parse(n.Text); err != nil {
		return c, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, fmt.Errorf("%w: of another gateway", ErrCheckpoint)
	}
	return c, nil
}

// Parse reads the text of a checkpoint without its signatures.
func Parse(text string) (c Checkpoint, err error) {
	body, ok := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 3 || lines[0] == "" {
		return c, ErrCheckpoint
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return c, ErrCheckpoint
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(c.Root) || base64.StdEncoding.EncodeToString(root) != lines[2] {
		return c, ErrCheckpoint
	}
	out := Checkpoint{Origin: lines[0], Size: size, Root: [32]byte(root)}
	for _, line := range lines[3:] {
		if line == "" {
			return c, ErrCheckpoint
		}
		if at, isTime := strings.CutPrefix(line, atPrefix); isTime && out.At.IsZero() && len(out.Extensions) == 0 {
			out.At, err = time.Parse(time.RFC3339, at)
			if err != nil || out.At.IsZero() || out.At.Format("2006-01-02T15:04:05Z") != at { // one written form only
				return c, ErrCheckpoint
			}
			continue
		}
		out.Extensions = append(out.Extensions, line)
	}
	return out, nil
}
