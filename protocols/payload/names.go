package payload

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"sync"

	"github.com/sluice-edge/sluice/gateway"
)

// fewMembers is up to how many members an object's names are compared one by one where a filter is in doubt.
const fewMembers = 32

// duplicates reports whether two of the count members of the object open have the same name. It costs about the same
// per member whatever names a device chooses.
func (s *scanner) duplicates(open, count int32) bool {
	if count > fewMembers {
		return s.duplicatesHashed(open, count)
	}
	var seen [4]uint64
	for i := open + 1; int(i) < len(s.nodes); i = s.nodes[i].Next {
		k := s.name(i)
		h := mark(k)
		if bit := uint64(1) << (h & 63); seen[h>>6]&bit == 0 {
			seen[h>>6] |= bit
			continue
		}
		for j := open + 1; j < i; j = s.nodes[j].Next {
			if bytes.Equal(s.name(j), k) {
				return true
			}
		}
	}
	return false
}

// mark maps a name to 0..255, so that names of one object mostly differ.
func mark(k []byte) uint8 {
	if len(k) == 0 {
		return 0
	}
	h := uint32(len(k))*0x9E3779B1 + uint32(k[0])*0x85EBCA6B + uint32(k[len(k)-1])*0xC2B2AE35 + uint32(k[len(k)/2])*0x27D4EB2F
	return uint8(h >> 24)
}

func (s *scanner) name(i int32) []byte {
	n := &s.nodes[i]
	if n.Flags&gateway.KeyInArena != 0 {
		return s.arena[n.Key.Off:n.Key.End()]
	}
	return s.raw[n.Key.Off:n.Key.End()]
}

func (s *scanner) duplicatesHashed(open, count int32) bool {
	t := newTable(int(count))
	defer tables.Put(t)
	for i := open + 1; int(i) < len(s.nodes); i = s.nodes[i].Next {
		k := s.name(i)
		at := t.first(0, k)
		for ; t.slots[at] != 0; at = t.next(at) {
			if bytes.Equal(s.name(t.slots[at]-1), k) {
				return true
			}
		}
		t.slots[at] = i + 1
	}
	return false
}

// table is an open-addressed set of numbers that stand for names; its user compares. Its hash is seeded at random, so
// a device cannot choose names that collide.
type table struct {
	slots []int32 // number + 1; 0 = free
	mask  int
}

var (
	tables = sync.Pool{New: func() any { return new(table) }}
	seed   = maphash.MakeSeed()
)

// newTable returns an empty table with room for n numbers; its user puts it back.
func newTable(n int) *table {
	t := tables.Get().(*table)
	size := 1 << bits.Len(uint(2*n))
	if cap(t.slots) < size {
		t.slots = make([]int32, size)
	}
	t.slots, t.mask = t.slots[:size], size-1
	clear(t.slots)
	return t
}

// first returns where a name of the object parent belongs; next goes on from a slot that another name took.
func (t *table) first(parent int32, name []byte) int {
	return int(maphash.Bytes(seed, name)+uint64(parent)*0x9E3779B97F4A7C15) & t.mask
}

func (t *table) next(at int) int { return (at + 1) & t.mask }
