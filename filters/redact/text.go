package redact

import (
	"unicode/utf8"

	"github.com/sluice-edge/sluice/gateway"
)

// generalize appends the coarser value; ok is false when no given parameter fits, and dst is then as it was.
func generalize(dst []byte, op gateway.Operation, v gateway.Value) (out []byte, ok bool) {
	switch {
	case v.Kind == gateway.Number && op.Decimals >= 0:
		return round(dst, v.Text, int(op.Decimals))
	case v.Kind == gateway.Number && op.Bucket > 0:
		return unixBucket(dst, v.Text, op.Bucket)
	case v.Kind != gateway.String:
		return dst, false
	}
	if op.Bucket > 0 {
		if out, ok := textBucket(dst, v.Text, op.Bucket); ok {
			return out, true
		}
	}
	if op.Prefix >= 0 {
		return append(dst, v.Text[:prefixLen(v.Text, int(op.Prefix))]...), true
	}
	return dst, false
}

// generalized reports whether generalize could have written out.
func generalized(op gateway.Operation, out gateway.Value) bool {
	var room [64]byte
	switch {
	case out.Kind == gateway.Number && op.Decimals >= 0:
		return rounded(out.Text, int(op.Decimals))
	case out.Kind == gateway.Number && op.Bucket > 0:
		again, ok := unixBucket(room[:0], out.Text, op.Bucket)
		return ok && string(again) == string(out.Text)
	case out.Kind != gateway.String:
		return false
	}
	if op.Bucket > 0 {
		if again, ok := textBucket(room[:0], out.Text, op.Bucket); ok && string(again) == string(out.Text) {
			return true
		}
	}
	return op.Prefix >= 0 && prefixLen(out.Text, int(op.Prefix)) == len(out.Text)
}

// prefixLen returns the length in bytes of the first n characters.
func prefixLen(text []byte, n int) int {
	at := 0
	for ; n > 0 && at < len(text); n-- {
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return at
}

// mask appends text with every character replaced but op.Head in front and op.Tail behind. A text of no more than that
// many characters is replaced whole.
func mask(dst []byte, op gateway.Operation, text []byte) []byte {
	n := utf8.RuneCount(text)
	head, tail := int(op.Head), int(op.Tail)
	if head+tail >= n {
		head, tail = 0, 0
	}
	at := prefixLen(text, head)
	dst = append(dst, text[:at]...)
	for range n - head - tail {
		dst = utf8.AppendRune(dst, maskChar(op))
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return append(dst, text[at:]...)
}

// masked reports whether mask could have written text.
func masked(op gateway.Operation, text []byte) bool {
	n := utf8.RuneCount(text)
	head, tail := int(op.Head), int(op.Tail)
	if head+tail >= n {
		head, tail = 0, 0
	}
	at := prefixLen(text, head)
	for range n - head - tail {
		c, size := utf8.DecodeRune(text[at:])
		if c != maskChar(op) {
			return false
		}
		at += size
	}
	return true
}

func maskChar(op gateway.Operation) rune {
	if op.Char == 0 {
		return '*'
	}
	return op.Char
}
