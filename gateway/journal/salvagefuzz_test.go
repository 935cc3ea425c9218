package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// FuzzSalvage feeds the readers of damaged files: whatever they take out proves itself, and nothing makes them panic or
// take more than a multiple of the file.
func FuzzSalvage(f *testing.F) {
	o := testOptions(f.TempDir())
	o.Sign = testSign
	j, err := Open(o)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 12 {
		commit(f, j, message(j, "bench", gateway.General, 1, gateway.UplinkSet(i%2)<<1, 0, "v1/t", bytes.Repeat([]byte{byte(i)}, 100)))
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	segment, err := os.ReadFile(filepath.Join(o.Dir, segmentName(0)))
	if err != nil {
		f.Fatal(err)
	}
	segment = segment[:min(len(segment), 48<<10)]
	k := fuzzKeys(f)
	var archive bytes.Buffer
	w, err := newArchiveWriter(&archive, k, 250, 260)
	if err != nil {
		f.Fatal(err)
	}
	record := gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})
	for seq := uint64(250); seq < 260; seq++ {
		if err := w.record(seq, record); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.finish(260, []Checkpoint{{Size: 255, Text: []byte("text")}}); err != nil {
		f.Fatal(err)
	}
	f.Add(segment)
	f.Add(segment[4096:])
	f.Add(archive.Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range []*readable{newImage(b).salvage(k, 0, 1<<62), newImage(b).salvageSpread(k), scanArchive(b, k, 250, 260)} {
			taken, last := 0, uint64(0)
			for i, e := range r.entries {
				if h := leafHash(e.record[hashSize:]); !bytes.Equal(h[:], e.record[:hashSize]) || i > 0 && e.seq <= last {
					t.Fatalf("record %d does not prove itself or has no place", e.seq)
				}
				for _, s := range e.bodies {
					if _, err := k.open(s.value, s.variant); err != nil {
						t.Fatal(err)
					}
					taken += len(s.value)
				}
				last = e.seq
				taken += len(e.record)
			}
			if taken > 64*len(b)+1<<20 {
				t.Fatalf("%d bytes out of %d", taken, len(b))
			}
		}
	})
}
