package guard

import (
	"fmt"
	"unicode/utf8"
)

// reader takes fields off a module. The first error sticks: later reads give zeros and the position stays, so a loop over a
// count that was checked ends by itself. It never reads past end and allocates nothing but names.
type reader struct {
	b        []byte
	pos, end int
	err      error
}

// fail keeps the first error, with the offset at which it was found.
func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("at offset %d: %s", r.pos, fmt.Sprintf(format, args...))
	}
	r.end = r.pos
}

func (r *reader) left() int { return r.end - r.pos }

func (r *reader) byte() byte {
	if r.pos >= r.end {
		r.fail("cut off")
		return 0
	}
	c := r.b[r.pos]
	r.pos++
	return c
}

// skip passes over n bytes and returns them.
func (r *reader) skip(n int) []byte {
	if n > r.left() {
		r.fail("cut off")
		return nil
	}
	b := r.b[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return b
}

// u32 reads an unsigned LEB128: at most five bytes, no bits beyond 32. [WebAssembly Core 2.0 §5.2.2]
func (r *reader) u32() uint32 {
	if r.pos < r.end && r.b[r.pos] < 0x80 {
		r.pos++
		return uint32(r.b[r.pos-1])
	}
	var v uint32
	for shift := 0; shift < 35; shift += 7 {
		c := r.byte()
		if shift == 28 && c > 0x0f {
			break
		}
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
	r.fail("number of more than 32 bits")
	return 0
}

// signed reads a signed LEB128 of the given width: no more bytes than it needs at most, unused bits repeat the sign.
// [WebAssembly Core 2.0 §5.2.2]
func (r *reader) signed(bits int) int64 {
	var v int64
	for shift := 0; shift < bits; shift += 7 {
		c := r.byte()
		v |= int64(c&0x7f) << shift
		if rest := bits - shift; rest < 7 {
			if high := int8(c<<1) >> rest; c >= 0x80 || (high != 0 && high != -1) {
				break
			}
		}
		if c < 0x80 {
			if shift += 7; shift < 64 && c&0x40 != 0 {
				v |= -1 << shift
			}
			return v
		}
	}
	r.fail("number of more than %d bits", bits)
	return 0
}

// count reads the length of a vector whose items take at least size bytes each, so that nothing is allocated for items
// that cannot be there.
func (r *reader) count(what string, size, most int) int {
	n := r.u32()
	if uint64(n)*uint64(size) > uint64(r.left()) {
		r.fail("%d %s do not fit into the bytes left", n, what)
		return 0
	}
	if uint64(n) > uint64(most) {
		r.fail("%d %s; at most %d are allowed", n, what, most)
		return 0
	}
	return int(n)
}

// index reads a number below n.
func (r *reader) index(what string, n int) uint32 {
	i := r.u32()
	if uint64(i) >= uint64(n) {
		r.fail("%s %d; there are %d", what, i, n)
		return 0
	}
	return i
}

const maxName = 256

func (r *reader) name() string {
	n := r.u32()
	if n > maxName || uint64(n) > uint64(r.left()) {
		r.fail("name of %d bytes is cut off or longer than %d", n, maxName)
		return ""
	}
	b := r.skip(int(n))
	if !utf8.Valid(b) {
		r.fail("name is not UTF-8")
		return ""
	}
	return string(b)
}
