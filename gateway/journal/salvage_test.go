package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

var flips = flag.Int("flips", 60, "damage a journal in so many places")

// long reports whether the long form of the tests was asked for.
func long() bool { return *flips > 500 }

// truth is what a journal held before it was damaged.
type truth struct {
	o       Options
	records [][]byte
	waiting map[uint64][32]byte
	held    map[uint64]bool
	files   []string
}

// readTruth reads a closed journal that is whole.
func readTruth(t testing.TB, o Options, waiting map[uint64][32]byte) *truth {
	t.Helper()
	tr := &truth{o: o, waiting: waiting, held: make(map[uint64]bool)}
	j, err := OpenReadOnly(o.Dir, o.Keys)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	err = j.Records(0, func(_ uint64, record []byte) error {
		tr.records = append(tr.records, bytes.Clone(record))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	held, err := j.ListHeld(10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held {
		tr.held[h.Seq] = true
	}
	err = filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != lockFile && d.Name() != reserveFile && d.Name() != formatFile {
			rel, _ := filepath.Rel(o.Dir, path)
			tr.files = append(tr.files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// copyTo copies the journal, so that it can be damaged.
func (tr *truth) copyTo(t testing.TB, dir string) Options {
	t.Helper()
	o := tr.o
	o.Dir = dir
	if err := os.CopyFS(dir, os.DirFS(tr.o.Dir)); err != nil {
		t.Fatal(err)
	}
	return o
}

// damageable makes a closed journal with archives, parked holds, and small segments in which messages wait.
func damageable(t testing.TB) *truth { return damageableAs(t, true) }

// damageableAs makes one that was opened and closed once more in the end, or was not: then what was drained last still
// stands in a segment.
func damageableAs(t testing.TB, settled bool) *truth {
	t.Helper()
	o := testOptions(t.TempDir())
	o.MaxSize, o.Sign, o.CheckpointCount = 8<<20, testSign, 50
	waiting := make(map[uint64][32]byte)
	for part := range 5 {
		j := openTest(t, o)
		for i := range 120 {
			holds := gateway.UplinkSet(0)
			if i%7 == 0 {
				holds = 1 << 1
			}
			commit(t, j, message(j, "bench", gateway.General, 1, holds, gateway.UplinkSet(i%2)<<2, "v1/t", bytes.Repeat([]byte{byte(i), byte(part)}, 200+300*(i%5))))
		}
		if part < 2 {
			drain(t, j, 0)
		}
		if part == 4 {
			_, out := read(t, j, 0, 1000)
			for _, m := range out {
				waiting[m.Seq] = sha256.Sum256(m.Payload)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	shorten(t, o.Dir)
	mustCheck(t, o.Dir)
	if r, err := Repair(o); err != nil || !r.Whole {
		t.Fatalf("a whole journal was repaired: %+v, %v", r, err)
	}
	if settled {
		openTest(t, o).Close()
	}
	return readTruth(t, o, waiting)
}

// shorten cuts the room off that bbolt keeps at the end of its files, so that damage hits something.
func shorten(t testing.TB, dir string) {
	t.Helper()
	segments, err := listNumbered(dir, segPrefix, segSuffix)
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range segments {
		path := filepath.Join(dir, segmentName(first))
		db, err := openBolt(path, bbolt.Options{ReadOnly: true}, os.OpenFile)
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil })
		db.Close()
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
}

// repairedFigures is what a repair kept and lost.
type repairedFigures struct{ records, bodies, held, lost int }

// afterRepair opens a damaged journal, as repair does, and compares what it has with what it had.
func (tr *truth) afterRepair(t testing.TB, o Options) (n repairedFigures) {
	t.Helper()
	o.verify = true
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	n = tr.compare(t, j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := Check(context.Background(), o.Dir, o.Keys, testVerify, nil)
	if err != nil || !r.OK {
		t.Fatalf("check: %v, %q", err, r.Problems)
	}
	n.lost = int(r.LostRecords)
	if again := rand.IntN(4); again > 0 && !long() {
		return n
	}
	if j, err = Open(o); err != nil {
		t.Fatalf("second open: %v", err)
	}
	if len(j.repaired) > 0 {
		t.Fatalf("second open: %+v", j.repaired)
	}
	if again := tr.compare(t, j); again.records != n.records || again.bodies != n.bodies || again.held != n.held {
		t.Fatalf("second open: %+v, before %+v", again, n)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

// compare reads records and bodies: each must be as it was.
func (tr *truth) compare(t testing.TB, j *Journal) (n repairedFigures) {
	t.Helper()
	err := j.Records(0, func(seq uint64, record []byte) error {
		if seq < uint64(len(tr.records)) {
			if bytes.Equal(record, tr.records[seq]) {
				n.records++
			} else if !bytes.Equal(record, fillRecord(seq)) {
				if seq >= uint64(len(tr.records))-2 {
					return nil // the end was lost, and the log went on
				}
				t.Fatalf("record %d is another one", seq)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for f := j.Feed(0); ; {
		out, err := f.Next(100, 1<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range out {
			if sha256.Sum256(m.Payload) != tr.waiting[m.Seq] || m.Topic != "v1/t" {
				t.Fatalf("record %d: a wrong body was read", m.Seq)
			}
			n.bodies++
		}
		if len(out) == 0 {
			break
		}
	}
	held, err := j.ListHeld(10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held {
		if !tr.held[h.Seq] {
			t.Fatalf("record %d is held and was not", h.Seq)
		}
	}
	n.held = len(held)
	totals := j.Totals()
	if j.Identity() != nil || totals.Waiting != uint64(n.bodies) {
		t.Fatalf("totals %+v, %d wait", totals, n.bodies)
	}
	return n
}

// spoilFile changes a file of a closed journal.
func spoilFile(t testing.TB, dir, name string, change func(b []byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestBitsFlippedAtRandomPlacesCostNoMoreThanWhatTheyHit(t *testing.T) {
	tr := damageable(t)
	rng := rand.New(rand.NewPCG(11, 7))
	var repaired, records, bodies int
	for range *flips {
		name := tr.files[rng.IntN(len(tr.files))]
		var at, bit int
		o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
		spoilFile(t, o.Dir, name, func(b []byte) []byte {
			at, bit = rng.IntN(len(b)), rng.IntN(8)
			if rng.IntN(2) == 0 { // where pages begin, the structures stand
				at = min(at/4096*4096+rng.IntN(128), len(b)-1)
			}
			b[at] ^= 1 << bit
			return b
		})
		t.Run(fmt.Sprintf("%s, bit %d of byte %d", name, bit, at), func(t *testing.T) {
			n := tr.afterRepair(t, o)
			lost := len(tr.records) - n.records
			if most := mostLost(name); lost > most || n.bodies < len(tr.waiting)-2 || n.held < len(tr.held)-1 {
				t.Fatalf("%d of %d records, %d of %d bodies, %d of %d holds", n.records, len(tr.records), n.bodies, len(tr.waiting), n.held, len(tr.held))
			}
			if lost > 0 || n.bodies < len(tr.waiting) {
				t.Logf("%d records and %d bodies lost", lost, len(tr.waiting)-n.bodies)
			}
			records, bodies = records+lost, bodies+len(tr.waiting)-n.bodies
			if files, _ := os.ReadDir(filepath.Join(o.Dir, damagedDir)); len(files) > 0 {
				repaired++
			}
		})
		os.RemoveAll(o.Dir)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d flips: %d repaired, %d records and %d bodies lost", *flips, repaired, records, bodies)
}

// mostLost is how many records one flipped bit can cost: of an archive the block of 256 that is sealed together.
func mostLost(name string) int {
	if strings.HasSuffix(name, arcSuffix) {
		return blockLen
	}
	return 1
}

func TestAnyDamageIsRepairedOnce(t *testing.T) {
	tr := damageable(t)
	rng := rand.New(rand.NewPCG(3, 4))
	page := func(b []byte) (from, to int) {
		from = rng.IntN(len(b)/4096+1) * 4096
		return min(from, len(b)), min(from+4096, len(b))
	}
	kinds := map[string]func(b []byte) []byte{
		"a page emptied":     func(b []byte) []byte { from, to := page(b); clear(b[from:to]); return b },
		"cut":                func(b []byte) []byte { return b[:rng.IntN(len(b))] },
		"garbage at the end": func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0xa5, 2, 0}, 5000)...) },
		"two pages swapped": func(b []byte) []byte {
			x, xe := page(b)
			y, ye := page(b)
			if xe-x == ye-y {
				p := bytes.Clone(b[x:xe])
				copy(b[x:], b[y:ye])
				copy(b[y:], p)
			}
			return b
		},
		"a page of another segment": func(b []byte) []byte {
			other, err := os.ReadFile(filepath.Join(tr.o.Dir, tr.files[rng.IntN(len(tr.files))]))
			if err != nil {
				t.Fatal(err)
			}
			x, xe := page(other)
			y, ye := page(b)
			copy(b[y:ye], other[x:xe])
			return b
		},
		"overwritten": func(b []byte) []byte {
			for i := range b[:min(len(b), 3*4096)] {
				b[i] = byte(rng.Uint32())
			}
			return b
		},
	}
	names := make([]string, 0, len(kinds))
	for what := range kinds {
		names = append(names, what)
	}
	slices.Sort(names)
	for range max(1, *flips/200) {
		for _, what := range names {
			for _, name := range tr.files {
				o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
				spoilFile(t, o.Dir, name, kinds[what])
				t.Run(what+", "+name, func(t *testing.T) { tr.afterRepair(t, o) })
				os.RemoveAll(o.Dir)
				if t.Failed() {
					return
				}
			}
		}
	}
}

func TestAForkIsRefused(t *testing.T) {
	tr := damageable(t)
	last := ""
	for _, name := range tr.files {
		if strings.HasPrefix(name, segPrefix) {
			last = name
		}
	}
	c := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
	os.Remove(filepath.Join(c.Dir, stateFile))
	// Without state.bolt and with every tree in the segment spoilt, nothing says how the log went on behind a lost record.
	spoilFile(t, c.Dir, last, func(b []byte) []byte {
		m := newImage(b)
		first := true
		for at := 0; at+pageHead <= len(b); at += m.page {
			for _, cell := range m.leaf(at) {
				seq := binary.BigEndian.Uint64(cell.key[:])
				if _, ok := parseTree(seq, cell.value); ok {
					clear(cell.value[1:20])
				} else if cell.size == entryKeyLen && cell.key[8] == recordByte && seq%100 == 90 {
					clear(cell.value[40:60])
					first = false
				}
			}
		}
		if first {
			t.Fatal("no record was spoilt")
		}
		return b
	})
	if _, err := Open(withVerify(c)); !errors.Is(err, ErrForked) {
		t.Fatalf("err = %v", err)
	}
}

func withVerify(o Options) Options { o.verify = true; return o }

// flipOpen flips one bit of a file that a journal may have mapped.
func flipOpen(t *testing.T, dir, name string, rng *rand.Rand) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return // drained meanwhile
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, _ := f.Stat()
	at, b := rng.Int64N(st.Size()), make([]byte, 1)
	f.ReadAt(b, at)
	b[0] ^= 1 << rng.IntN(8)
	f.WriteAt(b, at)
}

// readPast reads what waits, past every body that cannot be opened, and delivers nothing.
func readPast(t *testing.T, j *Journal, tr *truth) {
	t.Helper()
	for f := j.Feed(0); ; {
		out, err := f.Next(100, 1<<20, nil)
		for _, m := range out {
			if sha256.Sum256(m.Payload) != tr.waiting[m.Seq] || m.Topic != "v1/t" {
				t.Fatalf("record %d: a wrong body was read", m.Seq)
			}
		}
		switch {
		case err != nil:
			if !isDamage(err) {
				t.Fatal(err)
			}
			return
		case len(out) == 0:
			return
		}
	}
}

func TestADamagedJournalOpensWithoutReadingEverything(t *testing.T) {
	tr := damageable(t)
	rng := rand.New(rand.NewPCG(21, 22))
	for range max(20, *flips/10) {
		o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
		for range 3 {
			flipOpen(t, o.Dir, tr.files[rng.IntN(len(tr.files))], rng)
		}
		j, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		readPast(t, j, tr)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		tr.afterRepair(t, o)
		os.RemoveAll(o.Dir)
	}
}

func TestAStoredRootThatIsWrongIsSetRight(t *testing.T) {
	tr := damageable(t)
	o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
	spoilFile(t, o.Dir, stateFile, func(b []byte) []byte {
		j, err := OpenReadOnly(tr.o.Dir, tr.o.Keys)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		h, ok := j.storedRoot(1)
		at := bytes.Index(b, h[:])
		if !ok || at < 0 {
			t.Fatal("no root is stored")
		}
		for ; at >= 0; at = bytes.Index(b, h[:]) {
			b[at] ^= 1
		}
		return b
	})
	if n := tr.afterRepair(t, o); n.records != len(tr.records) {
		t.Fatalf("%+v", n)
	}
}

// TestARepairOfAWholeJournalOnlyReads repairs one that is whole, and one that a gateway has.
func TestARepairOfAWholeJournalOnlyReads(t *testing.T) {
	tr := damageable(t)
	before := contents(t, tr.o.Dir)
	for range 2 {
		r, err := Repair(tr.o)
		if err != nil || !r.Whole || r.Records != uint64(len(tr.records)) || r.Totals.Received != 600 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if after := contents(t, tr.o.Dir); !maps.Equal(after, before) {
		t.Fatal("something was changed")
	}
	j := openTest(t, tr.o)
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil)) // behind what Open puts on the record
	if _, err := Repair(tr.o); !errors.Is(err, ErrLocked) {
		t.Fatalf("err = %v", err)
	}
}

// TestARepairThatOnlyReadsMissesNothing flips bits of state.bolt: what a repair calls whole, the next Open does too.
func TestARepairThatOnlyReadsMissesNothing(t *testing.T) {
	tr := damageable(t)
	rng := rand.New(rand.NewPCG(7, 7))
	var whole, mended int
	for range *flips {
		o := tr.copyTo(t, t.TempDir())
		path := filepath.Join(o.Dir, stateFile)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := rng.IntN(len(b)/4096)*4096 + rng.IntN(64) // where a page says what it is
		b[at] ^= 1 << rng.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Repair(o)
		if err != nil {
			t.Fatal(err)
		}
		if !r.Whole {
			mended++
			continue
		}
		whole++
		j := openTest(t, o)
		if len(j.repaired) > 0 {
			t.Errorf("byte %d: a repair called it whole and Open mended %v", at, j.repaired)
		}
		j.Close()
		if _, err := os.Stat(filepath.Join(o.Dir, suspectFile)); err == nil {
			t.Errorf("byte %d: a repair called it whole and it could not be written", at)
		}
	}
	if whole == 0 || mended == 0 {
		t.Fatalf("%d whole, %d mended", whole, mended)
	}
}
