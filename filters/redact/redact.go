// Package redact carries out the field actions: generalize, mask, tokenize, encrypt.
//
// # What fits
//
// An operator that does not fit its value leaves nothing: the gateway then removes the field.
//
//	generalize, decimals   numbers: see below
//	generalize, prefix     text: the first n characters stay, the rest goes
//	generalize, bucket     times: RFC 3339 text and Unix numbers, rounded down
//	mask                   text, and numbers, which become text
//	tokenize               text, and numbers, which become text
//	encrypt                every JSON value
//
// With several generalizations in one operation, decimals go to numbers before bucket does, and bucket to times before
// prefix goes to text. A character is one Unicode code point. Truth values and null can only be encrypted.
//
// # Numbers
//
// Numbers are rounded as text, never as floating point: half away from zero, to exactly n digits behind the point. A
// number that has no more than n is left as it is written. Exponents are written out and zero has no sign. Whole numbers
// over 360 do not fit: they are counts or scaled coordinates such as 312304160, and no digit behind their point says
// anything about them. That is told from the value: 312304160.0 and 3.1230416e8 do not fit either.
//
// # Times
//
// Text like 2026-03-01T08:15:42.250+08:00, also with a space or a small t in the middle, small z, any number of digits of
// a second up to nine, or no offset, keeps its form; the clock that it shows is rounded down, so that a bucket of 24h ends
// at its own midnight. Buckets count from 1970-01-01T00:00:00. Numbers are seconds since 1970 below 1e11, milliseconds
// from there to 1e14; digits behind the point stay, as zeros. Buckets that are no whole seconds do not fit anything.
//
// # Tokens
//
// A token is "tk" and 40 letters out of bcdfghjkmnpqrstv, each four bits, the higher half of a byte first: the first 16
// bytes of HMAC-SHA256(key, value), then the first 4 bytes of those 16 encrypted as one block of AES-256 under the check
// key, which is HKDF-SHA256 of the key without salt, with info "sluice token check v1", 32 bytes. The value is the decoded
// text or the number as written, byte by byte: "1" and 1 have the same token, 1 and 1.0 have not. There are no digits and
// no vowels, so that no token is mistaken for a number, a plate, a VIN or a word.
//
// The package starts no goroutines.
package redact

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-edge/sluice/crypto/seal"
	"github.com/sluice-edge/sluice/gateway"
)

// Options are the keys of a Redactor.
type Options struct {
	TokenKeys map[string][]byte // key of each token domain, 32 bytes; copied
	Epochs    *seal.Epochs      // recipients of encrypted fields; nil: there are none
}

// Redactor is the gateway's operators. It is immutable and safe for concurrent use.
type Redactor struct {
	domains []*domain
	epochs  *seal.Epochs
}

var _ gateway.Redactor = (*Redactor)(nil)

// Why an operation cannot be carried out. Each blocks the message.
var (
	ErrNoDomain  = errors.New("tokenize: no key for the domain")
	ErrNoEpochs  = errors.New("encrypt: no recipients configured")
	errOperation = errors.New("redact: not an operation on a field")
	errNoValue   = errors.New("encrypt: no value given")
)

// New returns a Redactor.
func New(o Options) (*Redactor, error) {
	r := &Redactor{epochs: o.Epochs}
	for name, key := range o.TokenKeys {
		d, err := newDomain(name, key)
		if err != nil {
			return nil, fmt.Errorf("token domain %q: %w", name, err)
		}
		r.domains = append(r.domains, d)
	}
	return r, nil
}

// Apply implements gateway.Redactor. Remove never fits: nothing is what it writes. On an error or when the operator does
// not fit, dst is returned as it was.
func (r *Redactor) Apply(dst []byte, op gateway.Operation, v gateway.Value, f gateway.FieldContext) (out []byte, as gateway.Kind, ok bool, err error) {
	switch op.Action {
	case gateway.Pass:
		return append(dst, v.Text...), v.Kind, true, nil
	case gateway.Generalize:
		out, ok := generalize(dst, op, v)
		return out, v.Kind, ok, nil
	case gateway.Mask:
		if v.Kind != gateway.String && v.Kind != gateway.Number {
			return dst, gateway.InvalidKind, false, nil
		}
		return mask(dst, op, v.Text), gateway.String, true, nil
	case gateway.Tokenize:
		if v.Kind != gateway.String && v.Kind != gateway.Number {
			return dst, gateway.InvalidKind, false, nil
		}
		d := r.domain(op.Domain)
		if d == nil {
			return dst, gateway.InvalidKind, false, ErrNoDomain
		}
		return d.appendToken(dst, v.Text), gateway.String, true, nil
	case gateway.Encrypt:
		return r.encrypt(dst, op, v, f)
	case gateway.Remove:
		return dst, gateway.InvalidKind, false, nil
	}
	return dst, gateway.InvalidKind, false, errOperation
}

// Check implements gateway.Redactor. A ciphertext is decrypted and what is inside checked in turn; it is known for as
// long as its epoch is in force, and until the next one ends.
func (r *Redactor) Check(op gateway.Operation, out gateway.Value) bool {
	switch op.Action {
	case gateway.Pass:
		return true
	case gateway.Generalize:
		return generalized(op, out)
	case gateway.Mask:
		return out.Kind == gateway.String && masked(op, out.Text)
	case gateway.Tokenize:
		d := r.domain(op.Domain)
		return d != nil && out.Kind == gateway.String && d.isToken(out.Text)
	case gateway.Encrypt:
		return out.Kind == gateway.String && r.encrypted(op, out.Text)
	}
	return false
}

func (r *Redactor) domain(name string) *domain {
	for _, d := range r.domains {
		if d.name == name {
			return d
		}
	}
	return nil
}

// inner returns the operation inside an encryption; ok is false when there is none.
func inner(op gateway.Operation) (_ gateway.Operation, ok bool) {
	op.Action, op.Inner, op.To = op.Inner, gateway.Undecided, ""
	return op, op.Action != gateway.Undecided && op.Action != gateway.Pass
}

// memory is what one encryption needs for plaintext; it is cleared before it is put back.
type memory struct{ value, json []byte }

var memories = sync.Pool{New: func() any { return &memory{make([]byte, 0, 256), make([]byte, 0, 256)} }}

func (m *memory) release() {
	clear(m.value[:cap(m.value)])
	clear(m.json[:cap(m.json)])
	if cap(m.value)+cap(m.json) <= 1<<17 {
		memories.Put(m)
	}
}

// encrypt appends a field, of the value as it is or of what the inner operation makes of it.
func (r *Redactor) encrypt(dst []byte, op gateway.Operation, v gateway.Value, f gateway.FieldContext) (_ []byte, as gateway.Kind, ok bool, err error) {
	if r.epochs == nil {
		return dst, gateway.InvalidKind, false, ErrNoEpochs
	}
	plaintext := f.Raw
	if in, ok := inner(op); ok {
		if in.Action != gateway.Generalize && in.Action != gateway.Mask && in.Action != gateway.Tokenize {
			return dst, gateway.InvalidKind, false, errOperation
		}
		m := memories.Get().(*memory)
		defer m.release()
		var kind gateway.Kind
		if m.value, kind, ok, err = r.Apply(m.value[:0], in, v, f); err != nil || !ok {
			return dst, gateway.InvalidKind, false, err
		}
		plaintext = m.value
		if kind == gateway.String {
			if m.json, err = jsontext.AppendQuote(m.json[:0], m.value); err != nil {
				return dst, gateway.InvalidKind, false, errNoValue // invalid UTF-8, which no codec lets through
			}
			plaintext = m.json
		}
	}
	if len(plaintext) == 0 {
		return dst, gateway.InvalidKind, false, errNoValue
	}
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], f.ID.Incarnation)
	binary.BigEndian.PutUint64(id[8:], f.ID.Counter)
	dst, err = r.epochs.Encrypt(dst, op.To, id, f.Pointer, plaintext)
	if err != nil {
		return dst, gateway.InvalidKind, false, err
	}
	return dst, gateway.String, true, nil
}

// encrypted reports whether text is a field for the operation's recipient with the right kind of value inside.
func (r *Redactor) encrypted(op gateway.Operation, text []byte) bool {
	if r.epochs == nil {
		return false
	}
	m := memories.Get().(*memory)
	defer m.release()
	var ok bool
	if m.json, ok = r.epochs.Reopen(m.json[:0], op.To, text); !ok || len(m.json) == 0 {
		return false
	}
	in, ok := inner(op)
	if !ok {
		return true
	}
	if m.json[0] != '"' {
		return r.Check(in, gateway.Value{Kind: gateway.Number, Text: m.json})
	}
	var err error
	if m.value, err = jsontext.AppendUnquote(m.value[:0], m.json); err != nil {
		return false
	}
	return r.Check(in, gateway.Value{Kind: gateway.String, Text: m.value})
}
