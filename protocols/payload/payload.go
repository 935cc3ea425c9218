// Package payload reads and edits the bodies that devices send: JSON, and raw bytes that nobody can look into.
//
// A gate must read a body as every receiver behind it will. A text that two honest parsers could read differently is
// therefore refused, not interpreted: the message is then an opaque body. JSON accepts the texts of RFC 8259 without
//
//   - two members of one object with the same name, compared after unescaping [RFC 8259 §4: "unpredictable"],
//   - invalid UTF-8, also overlong forms and encoded surrogates, and a byte order mark [RFC 8259 §8.1],
//   - a \u escape that is half of a surrogate pair [RFC 8259 §8.2],
//   - U+0000 in a member name, where receivers in C end the name,
//   - anything behind the value but white space,
//   - more bytes, nodes or nesting than the limits.
//
// Comments, NaN, leading zeros, bare control characters and single quotes are no JSON at all. Numbers keep their text:
// how many digits a receiver keeps of them is not for us to guess.
//
// Edits are spliced. What no change touches leaves as the same bytes, white space and number notation included.
// The errors of this package never quote the body and never say where in it they stand.
package payload

import (
	"errors"

	"github.com/sluice-edge/sluice/gateway"
)

// The limits that a zero field of JSON stands for.
const (
	DefaultMaxBytes = 1 << 20
	DefaultMaxDepth = 64
	DefaultMaxNodes = 1 << 16
)

// hardMaxBytes keeps every offset inside a Span.
const hardMaxBytes = 1 << 30

var (
	errTooLarge   = errors.New("decode json: body over the size limit")
	errTooDeep    = errors.New("decode json: nesting over the limit")
	errTooMany    = errors.New("decode json: more values than the limit")
	errSyntax     = errors.New("decode json: not a json text")
	errTruncated  = errors.New("decode json: text ends early")
	errTrailing   = errors.New("decode json: data behind the value")
	errUTF8       = errors.New("decode json: invalid utf-8")
	errControl    = errors.New("decode json: control character in a string")
	errEscape     = errors.New("decode json: invalid escape")
	errSurrogate  = errors.New("decode json: half of a surrogate pair")
	errNumber     = errors.New("decode json: invalid number")
	errNulKey     = errors.New("decode json: nul in a member name")
	errDuplicate  = errors.New("decode json: duplicate member name")
	errOpaque     = errors.New("decode raw body: nothing to look into")
	errOpaqueEdit = errors.New("encode raw body: it cannot be edited")
)

// Raw is the codec of bodies that are bytes to us: nothing is ever decoded, so each one is an opaque body.
type Raw struct{}

// Decode always fails, which makes the body opaque.
func (Raw) Decode(raw []byte, b *gateway.Body) error {
	reset(raw, b)
	return errOpaque
}

// Encode appends the body as it is; any change is an error.
func (Raw) Encode(dst []byte, b *gateway.Body, changes []gateway.Change, _ *[]gateway.Span) ([]byte, error) {
	if len(changes) != 0 {
		return dst, errOpaqueEdit
	}
	return append(dst, b.Raw...), nil
}

// reset empties b for the next decode and keeps its memory.
func reset(raw []byte, b *gateway.Body) {
	b.Encoding, b.Raw, b.Arena, b.Nodes = gateway.UnknownEncoding, raw, b.Arena[:0], b.Nodes[:0]
}
