package journal

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"math/bits"
)

// One flipped bit is what flash and memory do most, and a tag or a hash that does not fit still says which one it was.
// What is put right here is accepted only when it then proves itself like everything else.

// field is an element of GF(2^128) as GCM writes it: the first bit of the first byte is the coefficient of 1.
// [NIST SP 800-38D §6.3]
type field struct{ hi, lo uint64 }

func fieldOf(b []byte) field {
	var padded [16]byte
	copy(padded[:], b)
	return field{binary.BigEndian.Uint64(padded[:]), binary.BigEndian.Uint64(padded[8:])}
}

func (x field) plus(y field) field { return field{x.hi ^ y.hi, x.lo ^ y.lo} }

func (x field) times(y field) (z field) {
	for _, word := range [2]uint64{x.hi, x.lo} {
		for i := 63; i >= 0; i-- {
			if word>>i&1 == 1 {
				z = z.plus(y)
			}
			carry := y.lo & 1
			y = field{y.hi >> 1, y.lo>>1 | y.hi<<63}
			y.hi ^= carry * (0xe1 << 56)
		}
	}
	return z
}

// inverse returns x to the power of 2^128-2.
func (x field) inverse() field {
	z := field{hi: 1 << 63}
	for range 127 {
		x = x.times(x)
		z = z.times(x)
	}
	return z
}

// bit returns the number of the only bit that is set.
func (x field) bit() (n int, only bool) {
	if bits.OnesCount64(x.hi)+bits.OnesCount64(x.lo) != 1 {
		return 0, false
	}
	if x.hi == 0 {
		return 64 + bits.LeadingZeros64(x.lo), true
	}
	return bits.LeadingZeros64(x.hi), true
}

// rightBit sets the one bit right that was flipped in what AES-GCM sealed, and reports whether there is such a bit. data
// is the additional data, sealed ends in the tag. One wrong bit in block i of m changes the tag by that bit times
// H^(m-i+1): the difference of the tags, divided by H again and again, has a single bit set where it stands.
func rightBit(block cipher.Block, iv [12]byte, data, sealed []byte) bool {
	if len(sealed) < tagSize {
		return false
	}
	text, tag := sealed[:len(sealed)-tagSize], sealed[len(sealed)-tagSize:]
	var b [16]byte
	block.Encrypt(b[:], b[:])
	h := fieldOf(b[:])
	var sum field
	for _, part := range [][]byte{data, text} {
		for i := 0; i < len(part); i += 16 {
			sum = sum.plus(fieldOf(part[i:min(i+16, len(part))])).times(h)
		}
	}
	sum = sum.plus(field{uint64(len(data)) * 8, uint64(len(text)) * 8}).times(h)
	copy(b[:], iv[:])
	binary.BigEndian.PutUint32(b[12:], 1)
	block.Encrypt(b[:], b[:])
	diff := sum.plus(fieldOf(b[:])).plus(fieldOf(tag))
	if n, only := diff.bit(); only {
		tag[n/8] ^= 0x80 >> (n % 8)
		return true
	}
	under := h.inverse()
	diff = diff.times(under) // the block of the lengths
	for _, part := range [][]byte{text, data} {
		for i := (len(part) - 1) / 16 * 16; i >= 0 && len(part) > 0; i -= 16 {
			diff = diff.times(under)
			if n, only := diff.bit(); only && i+n/8 < len(part) {
				part[i+n/8] ^= 0x80 >> (n % 8)
				return true
			}
		}
	}
	return false
}

// rightBody returns a body value with one bit set right, so that it opens.
func (r *keyring) rightBody(value []byte, variant byte) ([]byte, bool) {
	if len(value) < bodyOverhead || len(value) > maxRight {
		return nil, false
	}
	v := bytes.Clone(value)
	for bit := headerSize * 8; bit < (headerSize+frameHead)*8; bit++ { // these say with which key and nonce it opens
		v[bit/8] ^= 1 << (bit % 8)
		if _, err := r.open(v, variant); err == nil {
			return v, true
		}
		v[bit/8] ^= 1 << (bit % 8)
	}
	f := v[headerSize:]
	key := r.keys[keyOf(v)]
	if key == nil {
		return nil, false
	}
	block := r.deriveBlock(key, f[5:13], "sluice journal v1")
	if !rightBit(block, nonce(binary.BigEndian.Uint64(f[13:]), variant), v[:headerSize+frameHead], f[frameHead:]) {
		return nil, false
	}
	_, err := r.open(v, variant)
	return v, err == nil
}

// maxRight bounds what a bit is looked for in.
const maxRight = 1 << 20

// rightRecord returns a record's value with one bit set right, in its hash or in itself.
func rightRecord(value []byte) ([]byte, bool) {
	if len(value) < hashSize || len(value) > 1<<13 {
		return nil, false
	}
	v := bytes.Clone(value)
	h, differ := leafHash(v[hashSize:]), 0
	for i := range h {
		differ += bits.OnesCount8(h[i] ^ v[i])
	}
	if differ == 1 {
		copy(v, h[:])
		return v, true
	}
	for bit := hashSize * 8; bit < len(v)*8; bit++ {
		v[bit/8] ^= 1 << (bit % 8)
		if h := leafHash(v[hashSize:]); bytes.Equal(h[:], v[:hashSize]) {
			return v, true
		}
		v[bit/8] ^= 1 << (bit % 8)
	}
	return nil, false
}
