package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// testArchive makes the bytes of an archive of the records from 200 up to 600, which no compression shortens.
func testArchive(t testing.TB, k *keyring) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := newArchiveWriter(&file, k, 200, 600)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(200); seq < 600; seq++ {
		noise := sha256.Sum256(binary.BigEndian.AppendUint64(nil, seq))
		if err := w.record(seq, gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: noise[:8]})); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.finish(600, []Checkpoint{{Size: 255, Text: []byte("text")}, {Size: 600, Text: []byte("more")}}); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func TestAnArchiveWithAnyOneBitFlippedIsReadWhole(t *testing.T) {
	k := fuzzKeys(t)
	whole := testArchive(t, k)
	step := 1
	if !long() {
		step = 37
	}
	for bit := 0; bit < 8*len(whole); bit += step {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		for _, next := range []uint64{0, 600} {
			if r := scanArchive(b, k, 200, next); len(r.entries) != 400 || len(r.checkpoints) != 2 {
				t.Errorf("bit %d of byte %d, next %d: %d records, %d checkpoints", bit%8, bit/8, next, len(r.entries), len(r.checkpoints))
			}
		}
	}
	t.Logf("%d bytes", len(whole))
}

func TestABodyWithAnyOneBitFlippedIsSetRight(t *testing.T) {
	k := fuzzKeys(t)
	s := sealer{aead: k.frameKey(7, 1), key: 7, incarnation: 1}
	for _, size := range []int{0, 1, 15, 16, 333} {
		h := header{own: 1, waits: 3, holds: 4, source: 9, grade: gateway.Important, flags: flagRetain | 1<<qosShift}
		payload := bytes.Repeat([]byte("p"), size)
		value := make([]byte, bodySize("v1/t", payload))
		s.seal(value, &h, 5, 2, gateway.ID{Incarnation: 1, Counter: 4}, &[16]byte{1}, "v1/t", payload)
		for bit := 0; bit < 8*len(value); bit += 1 + size/100 {
			v := bytes.Clone(value)
			v[bit/8] ^= 1 << (bit % 8)
			if got, ok := k.rightBody(v, 2); !ok || !bytes.Equal(got, value) {
				t.Fatalf("body of %d bytes, bit %d of byte %d: not set right", len(value), bit%8, bit/8)
			}
		}
		v := bytes.Clone(value)
		v[50] ^= 1
		v[60] ^= 1
		if _, ok := k.rightBody(v, 2); ok {
			t.Fatal("two bits were set right by one")
		}
	}
}

func TestARecordWithAnyOneBitFlippedIsSetRight(t *testing.T) {
	record := gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{"event":"x"}`)})
	h := leafHash(record)
	value := append(h[:], record...)
	for bit := range 8 * len(value) {
		v := bytes.Clone(value)
		v[bit/8] ^= 1 << (bit % 8)
		if got, ok := rightRecord(v); !ok || !bytes.Equal(got, value) {
			t.Fatalf("bit %d of byte %d: not set right", bit%8, bit/8)
		}
	}
}

func TestOneBitWhereAPageBeginsCostsOneRecordAtMost(t *testing.T) {
	tr := damageable(t)
	k := fuzzKeys(t)
	rng, lost := rand.New(rand.NewPCG(5, 6)), 0
	for _, name := range tr.files {
		first, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(name, segPrefix), segSuffix), 10, 64)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(tr.o.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want := len(newImage(b).salvage(k, first, ^uint64(0)).entries)
		for range *flips * 5 {
			at, bit := rng.IntN(len(b)/4096)*4096+rng.IntN(64), rng.IntN(8)
			b[at] ^= 1 << bit
			if r := newImage(b).salvage(k, first, ^uint64(0)); len(r.entries) < want-1 {
				t.Errorf("%s, bit %d of byte %d: %d of %d records", name, bit, at, len(r.entries), want)
			} else if len(r.entries) != want {
				lost++
			}
			b[at] ^= 1 << bit
		}
	}
	if t.Logf("%d of %d flips cost a record", lost, 15**flips); lost > *flips/5 {
		t.Errorf("%d of %d flips cost a record", lost, 15**flips)
	}
}
