package signed

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// The first line of a receipt, without and with the root of the records. No key has a name with a space, so that a receipt
// is never a checkpoint, nor the other way round.
const (
	receiptContext = "sluice receipt v1"
	rootedContext  = "sluice receipt v2"
)

// MaxReceipt bounds a signed receipt in bytes. Whoever reads one from a stranger reads no more.
const MaxReceipt = 4096

// ErrReceipt reports a text that is no receipt, or not signed by the key in question.
var ErrReceipt = errors.New("malformed receipt")

// Receipt is a collector's statement that it keeps one archive file of a gateway. Package doc, "Receipts".
type Receipt struct {
	Gateway string
	First   uint64 // seq of the first record in the file
	Next    uint64 // seq behind the last
	Bytes   uint64 // of the file
	SHA256  [32]byte
	Root    [32]byte  // of the records in it, as the gateway stated it; zero: it stated none
	At      time.Time // whole seconds
}

// SignReceipt returns the signed text of r.
func (s *Signer) SignReceipt(r Receipt) ([]byte, error) {
	context, root := receiptContext, ""
	if r.Root != ([32]byte{}) {
		context, root = rootedContext, fmt.Sprintf("%x\n", r.Root)
	}
	text := fmt.Sprintf("%s\n%s\n%d\n%d\n%d\n%x\n%sat %s\n", context, r.Gateway, r.First, r.Next, r.Bytes, r.SHA256, root,
		r.At.UTC().Truncate(time.Second).Format(time.RFC3339))
	if _, err := ParseReceipt(text); err != nil {
		return nil, fmt.Errorf("sign receipt: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: text}, s.signer)
	if err != nil {
		return nil, fmt.Errorf("sign receipt: %w", err)
	}
	return signed, nil
}

// ParseVerifyReceipt reads a signed receipt of the collector whose key this is. The error is ErrReceipt when the text is
// malformed or not signed by this key. Whether it is about the file in hand is for the caller to compare.
func (v *Verifier) ParseVerifyReceipt(text []byte) (r Receipt, err error) {
	if len(text) > MaxReceipt {
		return r, ErrReceipt
	}
	n, err := note.Open(text, note.VerifierList(v.verifier))
	if err != nil {
		return r, fmt.Errorf("%w: no valid signature of %q", ErrReceipt, v.Name())
	}
	for _, s := range n.Sigs { // note passes over the unused bits of the last digit
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return r, ErrReceipt
		}
	}
	return ParseReceipt(n.Text)
}

// ParseReceipt reads the text of a receipt without its signatures.
func ParseReceipt(text string) (r Receipt, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) == 9 && lines[0] == rootedContext {
		if !parseHash(lines[6], &r.Root) || r.Root == ([32]byte{}) {
			return Receipt{}, ErrReceipt
		}
		lines = append(lines[:6:6], lines[7:]...)
	} else if lines[0] != receiptContext {
		return r, ErrReceipt
	}
	if len(lines) != 8 || lines[7] != "" || !validName(lines[1]) {
		return Receipt{}, ErrReceipt
	}
	r.Gateway = lines[1]
	for i, n := range []*uint64{&r.First, &r.Next, &r.Bytes} {
		line := lines[2+i]
		if *n, err = strconv.ParseUint(line, 10, 63); err != nil || strconv.FormatUint(*n, 10) != line {
			return Receipt{}, ErrReceipt
		}
	}
	if !parseHash(lines[5], &r.SHA256) || r.Next <= r.First {
		return Receipt{}, ErrReceipt
	}
	at, ok := strings.CutPrefix(lines[6], atPrefix)
	if r.At, err = time.Parse(time.RFC3339, at); !ok || err != nil || r.At.Format("2006-01-02T15:04:05Z") != at {
		return Receipt{}, ErrReceipt
	}
	return r, nil
}

// parseHash reads lower-case hexadecimal digits.
func parseHash(line string, to *[32]byte) bool {
	b, err := hex.DecodeString(line)
	if err != nil || len(b) != len(to) || hex.EncodeToString(b) != line {
		return false
	}
	*to = [32]byte(b)
	return true
}

// validName reports whether a gateway may be called so: printable ASCII without space and plus sign, as in a key's name.
func validName(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == '+' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
