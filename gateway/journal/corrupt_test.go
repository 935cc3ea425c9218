package journal

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// corruptible makes a closed journal with archives, parked and waiting bodies, and says what waits for uplink 0.
func corruptible(t *testing.T) (o Options, waiting map[uint64][32]byte) {
	o = testOptions(t.TempDir())
	o.SegmentSize, o.Sign, o.CheckpointCount = 1<<20, testSign, 50
	j := openTest(t, o)
	add := func(n int) {
		for i := range n {
			p := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 2000)
			holds := gateway.UplinkSet(0)
			if i%7 == 0 {
				holds = 1 << 1
			}
			commit(t, j, message(j, "bench", gateway.General, 1, holds, 0, "v1/t", p))
		}
	}
	add(400)
	drain(t, j, 0)
	add(400)
	waiting = make(map[uint64][32]byte)
	_, out := read(t, j, 0, 1000)
	for _, m := range out {
		waiting[m.Seq] = sha256.Sum256(m.Payload)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if st := mustCheck(t, o.Dir); st.Decisions != 800 || len(waiting) != 400 {
		t.Fatalf("report %+v, %d wait", st, len(waiting))
	}
	return o, waiting
}

// probe checks and reads a journal that may be damaged. It fails the test when a body is wrong, or when the check found
// nothing and yet a body is missing.
func probe(t *testing.T, o Options, waiting map[uint64][32]byte) (found bool) {
	t.Helper()
	r, err := Check(context.Background(), o.Dir, o.Keys, testVerify, nil)
	found = err != nil || !r.OK
	j, err := Open(o)
	if err != nil {
		return found
	}
	defer j.Close()
	n := 0
	for f := j.Feed(0); ; {
		out, err := f.Next(100, 1<<20, nil)
		for _, m := range out {
			if sha256.Sum256(m.Payload) != waiting[m.Seq] || m.Topic != "v1/t" {
				t.Fatalf("record %d: a wrong body was read", m.Seq)
			}
		}
		n += len(out)
		if err != nil || len(out) == 0 {
			break
		}
	}
	if !found && n != len(waiting) {
		t.Fatalf("%d of %d bodies could be read and the check found nothing", n, len(waiting))
	}
	return found
}

func TestADamagedFileNeverEndsTheProcessNorGivesAWrongBody(t *testing.T) {
	o, waiting := corruptible(t)
	var files []string
	err := filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != lockFile && d.Name() != reserveFile {
			rel, _ := filepath.Rel(o.Dir, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	found := 0
	const rounds = 24
	for i := range rounds {
		copied := o
		copied.Dir = filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied.Dir, os.DirFS(o.Dir)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(copied.Dir, files[i%len(files)])
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		what := ""
		switch i / len(files) % 4 {
		case 0:
			at := rng.IntN(len(content))
			content[at] ^= 1 << rng.IntN(8)
			what = fmt.Sprintf("bit in byte %d", at)
		case 1: // where pages begin, every structure stands
			at := rng.IntN(len(content)/4096+1)*4096 + rng.IntN(64)
			content[min(at, len(content)-1)] ^= 0xff
			what = fmt.Sprintf("byte %d", at)
		case 2:
			content = content[:rng.IntN(len(content))]
			what = fmt.Sprintf("cut at %d", len(content))
		case 3:
			at := rng.IntN(len(content)/4096+1) * 4096
			clear(content[min(at, len(content)):min(at+4096, len(content))])
			what = fmt.Sprintf("page %d emptied", at/4096)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprintf("%s, %s", files[i%len(files)], what), func(t *testing.T) {
			if probe(t, copied, waiting) {
				found++
			}
		})
		os.RemoveAll(copied.Dir)
	}
	if found < rounds/4 {
		t.Fatalf("the check found %d of %d", found, rounds)
	}
}

func TestAMissingKeyIsAMistakeAndDropsNothing(t *testing.T) {
	o := testOptions(t.TempDir())
	j := openTest(t, o)
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", []byte("old")))
	j.Close()
	other := o
	other.Keys = []Key{{ID: 8, Secret: [32]byte{9}}}
	var missing *KeyError
	if _, err := Open(other); !errors.As(err, &missing) || missing.ID != testKey.ID {
		t.Fatalf("err = %v", err)
	}
	other.verify = true
	if _, err := Open(other); !errors.As(err, &missing) {
		t.Fatalf("err = %v", err)
	}
	both := o
	both.Keys = append(slices.Clone(other.Keys), o.Keys...)
	j = openTest(t, both)
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", []byte("new")))
	j.keys.keys = map[uint32]*Key{8: &other.Keys[0]} // lost while it runs
	j.keys.aeads = make(map[aeadID]cipher.AEAD)
	if out, err := j.Feed(0).Next(10, 1<<20, nil); !errors.As(err, &missing) || len(out) != 0 {
		t.Fatalf("read %d, err = %v", len(out), err)
	}
	j.Close()
	j = openTest(t, both)
	if n := drain(t, j, 0); n != 2 {
		t.Fatalf("%d delivered", n)
	}
}

func TestADamagedBodyIsLeftBehindAndHoldsNothingUp(t *testing.T) {
	for _, header := range []bool{false, true} {
		t.Run(fmt.Sprintf("header %t", header), func(t *testing.T) {
			o := testOptions(t.TempDir())
			j := openTest(t, o)
			commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", []byte("first")))
			commit(t, j, prioritized(message(j, "bench", gateway.General, 3, 0, 0, "v1", bytes.Repeat([]byte("second"), 10)), 2))
			commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", []byte("third")))
			j.Close()
			j = openTest(t, o)
			f := j.Feed(0)
			spoilBody(t, o, 3, header)
			out, err := f.Next(10, 1<<20, nil)
			if err != nil || len(out) != 2 || string(out[0].Payload) != "first" || string(out[1].Payload) != "third" {
				t.Fatalf("read %d, err = %v", len(out), err)
			}
			if got := j.Totals(); got.Waiting != 3 || got.Dropped != 0 {
				t.Fatalf("totals %+v", got)
			}
			if n := drain(t, j, 1); n != 0 {
				t.Fatalf("%d delivered", n)
			}
			if got := j.Totals(); got.Waiting != 2 || got.Dropped != 1 {
				t.Fatalf("totals %+v", got)
			}
			forward(t, f, out)
			j.Close()
			j = openTest(t, o)
			if got := j.Totals(); got.Waiting != 0 || got.Forwarded != 2 || got.Dropped != 1 {
				t.Fatalf("totals %+v", got)
			}
			j.Close()
			mustCheck(t, o.Dir)
		})
	}
}

// spoilBody flips a bit in the header or in the sealed part of a body in the first segment of a journal.
func spoilBody(t *testing.T, o Options, seq uint64, header bool) {
	t.Helper()
	path := filepath.Join(o.Dir, segmentName(0))
	m, err := readImage(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spoilt := 0
	for at := 0; at+pageHead <= len(m.b); at += m.page {
		for _, c := range m.leaf(at) {
			if c.size == entryKeyLen && c.key[8] == 1 && binary.BigEndian.Uint64(c.key[:]) == seq {
				if header {
					c.value[3] ^= 4
				} else {
					c.value[len(c.value)-20] ^= 4
				}
				spoilt++
			}
		}
	}
	if _, err := f.WriteAt(m.b, 0); err != nil || spoilt == 0 {
		t.Fatalf("%d copies spoilt, %v", spoilt, err)
	}
}
