package journal

import (
	"bytes"
	"io"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

func fuzzKeys(t testing.TB) *keyring {
	t.Helper()
	k, err := newKeyring([]Key{testKey})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// FuzzDecode feeds the readers of body values: what opens was sealed by us, and seals again to the same bytes.
func FuzzDecode(f *testing.F) {
	k := fuzzKeys(f)
	s := sealer{aead: k.frameKey(7, 1), key: 7, incarnation: 1}
	h := header{own: 1, waits: 3, holds: 4, source: 9, grade: gateway.Important, flags: flagRetain | 1<<qosShift}
	value := make([]byte, bodySize("v1/t", []byte("payload")))
	s.seal(value, &h, 5, 0, gateway.ID{Incarnation: 1, Counter: 4}, &[16]byte{1}, "v1/t", []byte("payload"))
	f.Add(value, byte(0))
	f.Add(value[:60], byte(0))
	f.Add([]byte{}, byte(1))
	f.Fuzz(func(t *testing.T, b []byte, variant byte) {
		c, err := k.open(b, variant)
		if err != nil {
			return
		}
		again := make([]byte, len(b))
		s := sealer{aead: k.frameKey(7, 1), key: 7, incarnation: 1}
		s.seal(again, &c.header, 5, variant, c.id, &c.salt, string(c.topic), c.payload)
		if !bytes.Equal(again, b) {
			t.Fatalf("sealed again: %x, was %x", again, b)
		}
	})
}

// FuzzArchive feeds the reader of archive files, and the content of blocks as if it had been sealed by us.
func FuzzArchive(f *testing.F) {
	k := fuzzKeys(f)
	var file bytes.Buffer
	w, err := newArchiveWriter(&file, k, 250, 260)
	if err != nil {
		f.Fatal(err)
	}
	for seq := uint64(250); seq < 260; seq++ {
		if err := w.record(seq, []byte{1, 2, byte(seq)}); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.finish(260, []Checkpoint{{Size: 255, Text: []byte("text")}}); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes(), uint32(3))
	f.Add([]byte{3, 1, 2, 3, 0}, uint32(2))
	f.Add([]byte{200, 1, 2, 't', 'x'}, uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, count uint32) {
		splitRecords(b, count, func([]byte) error { return nil })
		splitCheckpoints(b, count, func(uint64, []byte) error { return nil })
		unpack(b)
		a, err := newArchiveReader(bytes.NewReader(b), int64(len(b)), k)
		if err != nil {
			return
		}
		records := uint64(0)
		for {
			plain, _, n, err := a.next(func(uint64, uint32) bool { return false })
			if err == io.EOF && records != a.meta.Next-a.meta.First {
				t.Fatalf("archive of %d to %d has %d records", a.meta.First, a.meta.Next, records)
			}
			if err != nil {
				return
			}
			if a.block < a.blocks() {
				records += uint64(n)
				if err := splitRecords(plain, n, func([]byte) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
