package journal

import (
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAParkedKeyWithAFlippedBitHoldsNoOtherMessage flips a bit in the key of a parked record and in that of its body.
func TestAParkedKeyWithAFlippedBitHoldsNoOtherMessage(t *testing.T) {
	tr := damageable(t)
	seq := slices.Min(slices.Collect(maps.Keys(tr.held))) // held, and in an archive: see damageable
	for _, last := range []byte{recordByte, 2} {
		for _, bit := range []int{0, 6, 30, 58, 63} {
			o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
			flipped := 0
			spoilFile(t, o.Dir, parkedFile, func(b []byte) []byte {
				m := newImage(b)
				for at := 0; at+pageHead <= len(b); at += m.page {
					for k := range int(native.Uint16(b[at+10:])) {
						key, _, ok := m.element(at, k)
						if ok && len(key) == entryKeyLen && binary.BigEndian.Uint64(key) == seq && key[8] == last {
							key[7-bit/8] ^= 1 << (bit % 8)
							flipped++
						}
					}
				}
				return b
			})
			if flipped == 0 {
				t.Fatalf("no key of record %d ends in %d", seq, last)
			}
			if n := tr.afterRepair(t, o); n.held != len(tr.held) {
				t.Errorf("key ends in %d, bit %d: %d of %d are held", last, bit, n.held, len(tr.held))
			}
		}
	}
}

// TestAKeyAboveThePagesOfASegmentIsSetRight flips bits in the keys of branch pages: every entry is met by whoever goes through
// all of them, and some are not found by their keys.
func TestAKeyAboveThePagesOfASegmentIsSetRight(t *testing.T) {
	tr := damageable(t)
	name := ""
	for _, file := range tr.files {
		if strings.HasPrefix(file, segPrefix) {
			name = file
		}
	}
	repaired := 0
	for bit := range 16 {
		o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
		flipped := 0
		spoilFile(t, o.Dir, name, func(b []byte) []byte {
			m := newImage(b)
			for _, at := range m.tops {
				for k := range int(native.Uint16(b[at+10:])) {
					if e := at + pageHead + k*pageElement; native.Uint16(b[at+8:]) == flagBranch && k > 0 {
						key := b[e+int(native.Uint32(b[e:])):]
						key[7-bit/8] ^= 1 << (bit % 8)
						flipped++
						return b
					}
				}
			}
			return b
		})
		if flipped == 0 {
			t.Fatal("there is no branch page")
		}
		if n := tr.afterRepair(t, o); n.records != len(tr.records) || n.bodies != len(tr.waiting) || n.held != len(tr.held) {
			t.Errorf("bit %d: %+v", bit, n)
		}
		if files, _ := os.ReadDir(filepath.Join(o.Dir, damagedDir)); len(files) > 0 {
			repaired++
		}
	}
	if repaired == 0 {
		t.Error("no bit hides anything")
	}
}
