package redact

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"hash"
	"sync"
)

const (
	tokenStart = "tk"
	tokenBytes = 16 // of the value's HMAC
	checkBytes = 4
	tokenSize  = len(tokenStart) + 2*(tokenBytes+checkBytes)

	letters   = "bcdfghjkmnpqrstv"
	checkInfo = "sluice token check v1"
)

// domain is one token domain: equal values have equal tokens in it, and in no other.
type domain struct {
	name   string
	check  cipher.Block
	states sync.Pool // of *tokenState
}

// tokenState is a domain's keyed hash, ready to be written to, and the memory of one token.
type tokenState struct {
	value hash.Hash
	sum   [sha256.Size]byte
	check [aes.BlockSize]byte
}

func newDomain(name string, key []byte) (*domain, error) {
	if len(key) != 32 {
		return nil, errors.New("want a key of 32 bytes")
	}
	key = append([]byte(nil), key...)
	checkKey, err := hkdf.Key(sha256.New, key, nil, checkInfo, 32)
	if err != nil {
		return nil, err
	}
	d := &domain{name: name}
	if d.check, err = aes.NewCipher(checkKey); err != nil {
		return nil, err
	}
	clear(checkKey)
	d.states.New = func() any { return &tokenState{value: hmac.New(sha256.New, key)} }
	return d, nil
}

func (d *domain) appendToken(dst, value []byte) []byte {
	s := d.states.Get().(*tokenState)
	defer d.states.Put(s)
	s.value.Reset()
	s.value.Write(value)
	body := s.value.Sum(s.sum[:0])[:tokenBytes]
	d.check.Encrypt(s.check[:], body)
	dst = append(dst, tokenStart...)
	dst = appendLetters(dst, body)
	return appendLetters(dst, s.check[:checkBytes])
}

func appendLetters(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, letters[c>>4], letters[c&15])
	}
	return dst
}

// isToken reports whether text is a token of the domain: the check is, but for one in 2^32, only ours to make.
func (d *domain) isToken(text []byte) bool {
	if len(text) != tokenSize || string(text[:len(tokenStart)]) != tokenStart {
		return false
	}
	text = text[len(tokenStart):]
	s := d.states.Get().(*tokenState)
	defer d.states.Put(s)
	for i := range tokenBytes + checkBytes {
		high, low := letterValue[text[2*i]], letterValue[text[2*i+1]]
		if high|low > 15 {
			return false
		}
		s.sum[i] = high<<4 | low
	}
	d.check.Encrypt(s.check[:], s.sum[:tokenBytes])
	return subtle.ConstantTimeCompare(s.check[:checkBytes], s.sum[tokenBytes:tokenBytes+checkBytes]) == 1
}

// letterValue maps the letters to 0–15 and every other byte to 255.
var letterValue = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i, c := range []byte(letters) {
		t[c] = byte(i)
	}
	return t
}()
