package journal

import (
	"fmt"
	"os"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// TestACopiedJournalSharesNoIDAndNoNonceWithItsOriginal copies a folder, as a backup or an image of a disk does, and lets
// original, copy and a copy of the copy go on.
func TestACopiedJournalSharesNoIDAndNoNonceWithItsOriginal(t *testing.T) {
	o := testOptions(t.TempDir())
	j := openTest(t, o)
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", []byte("before")))
	j.Close()
	ids, nonces := map[gateway.ID]bool{}, map[string]bool{}
	dir := o.Dir
	var incarnations []uint64
	for range 3 {
		to := t.TempDir()
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{dir, to} {
			o.Dir = dir
			j := openTest(t, o)
			incarnations = append(incarnations, j.Incarnation())
			for range 20 {
				e := message(j, "bench", gateway.General, 1, 0, 0, "v1", []byte("after"))
				if ids[e.ID] {
					t.Fatalf("id %s was given before", e.ID)
				}
				ids[e.ID] = true
				commit(t, j, e)
			}
			for _, s := range j.segments {
				next := s.Next
				err := j.files.scan(s, nil, next, func(seq uint64, k, v []byte) error {
					if len(k) == entryKeyLen && k[8] != recordByte && seq+20 >= j.Size() {
						head := fmt.Sprintf("%x", v[headerSize:headerSize+frameHead]) // key, incarnation, counter
						if nonces[head] {
							t.Errorf("frame %s is there before", head)
						}
						nonces[head] = true
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			mustCheck(t, dir)
		}
		dir = to
	}
	if len(nonces) != 6*20 {
		t.Fatalf("%d frames were compared", len(nonces))
	}
	seen := map[uint64]bool{}
	for _, i := range incarnations {
		if seen[i] {
			t.Fatalf("incarnation %x twice", i)
		}
		seen[i] = true
	}
}
