package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"sync"
)

// The parts of a field have fixed places: all but the ciphertext have a fixed length.
const (
	headerStart = `{"alg":"dir","enc":"A256GCM","kid":"` // 36 bytes: 48 characters of base64, whatever follows
	headerEnd   = `"}`
	epochDigits = 16
	idDigits    = 32
	pathDigits  = 16
	kidSize     = epochDigits + 1 + idDigits + 1 + pathDigits
	headerSize  = len(headerStart) + kidSize + len(headerEnd) // 104

	header64 = (headerSize*8 + 5) / 6
	ivSize   = 12
	iv64     = ivSize * 8 / 6
	tagSize  = 16
	tag64    = (tagSize*8 + 5) / 6
	ivAt     = header64 + 2 // behind the header, a point, no encrypted key, a point
	textAt   = ivAt + iv64 + 1
)

// base64url is the one alphabet of compact JWE; Strict refuses a second spelling of the same bytes.
var base64url = base64.RawURLEncoding.Strict()

var headerStart64 = base64url.EncodeToString([]byte(headerStart))

// scratch is memory that one operation on a field needs. It holds plaintext and is cleared before it is put back.
type scratch struct {
	header [headerSize]byte
	iv     [ivSize]byte
	path   []byte
	text   []byte
}

var scratches = sync.Pool{New: func() any { return &scratch{path: make([]byte, 0, 128), text: make([]byte, 0, 256)} }}

func (s *scratch) release() {
	clear(s.text[:cap(s.text)])
	s.text = s.text[:0]
	if cap(s.text) <= 1<<16 {
		scratches.Put(s)
	}
}

// pathHash appends the 16 digits that name a JSON pointer.
func (s *scratch) pathHash(dst []byte, pointer string) []byte {
	s.path = append(s.path[:0], pointer...)
	sum := sha256.Sum256(s.path)
	return hex.AppendEncode(dst, sum[:pathDigits/2])
}

// appendField appends a field in compact form. The caller never gives the same iv twice for one key.
func appendField(dst []byte, key cipher.AEAD, epoch string, iv *[ivSize]byte, id *[16]byte, pointer string, plaintext []byte) []byte {
	s := scratches.Get().(*scratch)
	defer s.release()
	h := append(s.header[:0], headerStart...)
	h = append(h, epoch...)
	h = append(h, '.')
	h = hex.AppendEncode(h, id[:])
	h = append(h, '.')
	h = s.pathHash(h, pointer)
	h = append(h, headerEnd...)
	s.iv = *iv

	start := len(dst)
	dst = base64url.AppendEncode(dst, h)
	s.text = key.Seal(s.text[:0], s.iv[:], plaintext, dst[start:]) // the additional data is the encoded header [RFC 7516 §5.1]
	dst = append(dst, '.', '.')
	dst = base64url.AppendEncode(dst, s.iv[:])
	dst = append(dst, '.')
	n := len(s.text) - tagSize
	dst = base64url.AppendEncode(dst, s.text[:n])
	dst = append(dst, '.')
	return base64url.AppendEncode(dst, s.text[n:])
}

// errMalformed means that a text that looks like a field is none of ours.
var errMalformed = errors.New("malformed field")

// Sealed reports whether a text claims to be a field that this package wrote: whether it begins like one.
func Sealed(text []byte) bool {
	return len(text) >= len(headerStart64) && string(text[:len(headerStart64)]) == headerStart64
}

// kid is the three parts of a key id, in the memory of a scratch.
type kid struct{ epoch, id, path []byte }

// readHeader decodes the protected header of a field and checks that it is written as we write it.
func (s *scratch) readHeader(text []byte) (kid, error) {
	if len(text) < textAt+1+tag64 || text[header64] != '.' || text[header64+1] != '.' || text[textAt-1] != '.' || text[len(text)-tag64-1] != '.' {
		return kid{}, errMalformed
	}
	n, err := base64url.Decode(s.header[:], text[:header64])
	if err != nil || n != headerSize || string(s.header[:len(headerStart)]) != headerStart || string(s.header[headerSize-2:]) != headerEnd {
		return kid{}, errMalformed
	}
	k := s.header[len(headerStart) : headerSize-len(headerEnd)]
	parts := kid{k[:epochDigits], k[epochDigits+1 : epochDigits+1+idDigits], k[kidSize-pathDigits:]}
	if k[epochDigits] != '.' || k[epochDigits+1+idDigits] != '.' || !lowerHex(parts.epoch) || !lowerHex(parts.id) || !lowerHex(parts.path) {
		return kid{}, errMalformed
	}
	return parts, nil
}

func lowerHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// readText decrypts a field whose header was read, into s.text.
func (s *scratch) readText(key cipher.AEAD, text []byte) ([]byte, error) {
	n, err := base64url.Decode(s.iv[:], text[ivAt:textAt-1])
	if err != nil || n != ivSize {
		return nil, errMalformed
	}
	ciphertext, tag := text[textAt:len(text)-tag64-1], text[len(text)-tag64:]
	s.text, err = base64url.AppendDecode(s.text[:0], ciphertext)
	if err != nil || base64url.EncodedLen(len(s.text)) != len(ciphertext) { // a decoder passes over line ends
		return nil, errMalformed
	}
	n = len(s.text)
	s.text, err = base64url.AppendDecode(s.text, tag)
	if err != nil || len(s.text) != n+tagSize {
		return nil, errMalformed
	}
	plaintext, err := key.Open(s.text[:0], s.iv[:], s.text, text[:header64])
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// Contains reports whether a field begins anywhere in b, as in a body that cannot be taken apart.
func Contains(b []byte) bool { return bytes.Contains(b, []byte(headerStart64)) }
