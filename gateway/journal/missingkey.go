package journal

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// KeyError reports an at-rest key that the journal was written under and that is not given. Nothing is dropped because
// of it: put the key back.
type KeyError struct {
	ID   uint32
	File string
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("at-rest key %08x is missing: %s was written under it", e.ID, e.File)
}

// keyOf returns the id of the key that a body value is sealed under.
func keyOf(value []byte) uint32 { return binary.BigEndian.Uint32(value[headerSize+1:]) }

// missing reports whether a body is sealed under a key that is not given, which is not the same as a damaged body.
func (r *keyring) missing(value []byte, variant byte) bool {
	if _, ok := parseHeader(value); !ok || value[headerSize] != frameVersion || r.keys[keyOf(value)] != nil {
		return false
	}
	_, mended := r.proves(value, variant)
	return !mended && !r.near(keyOf(value))
}

// near reports whether a key is given whose id differs by one bit only: ids are drawn from 32 bits, so this is damage.
func (r *keyring) near(id uint32) bool {
	for known := range r.keys {
		if bits.OnesCount32(id^known) == 1 {
			return true
		}
	}
	return false
}
