package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// wrecked runs the model for a while and damages what it left on the disk.
func wrecked(t *testing.T, seed uint64) *model {
	t.Helper()
	o := testOptions(t.TempDir())
	o.SegmentSize, o.Sign, o.CheckpointCount = 1<<20, testSign, 37
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 9)), o: o, j: openTest(t, o)}
	for u := range 3 {
		if _, err := m.j.Number(kindUplink, fmt.Sprintf("uplink %d", u)); err != nil {
			t.Fatal(err)
		}
	}
	for range 120 {
		switch n := m.rng.IntN(100); {
		case n < 50:
			m.append()
		case n < 86:
			m.deliver()
		case n < 94:
			m.retry()
		default:
			m.abandon()
		}
	}
	m.j.Close()
	shorten(t, o.Dir)
	var files []string
	filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, segSuffix) || strings.HasSuffix(path, arcSuffix)) {
			rel, _ := filepath.Rel(o.Dir, path)
			files = append(files, rel)
		}
		return err
	})
	for range 1 + m.rng.IntN(3) {
		spoilFile(t, o.Dir, files[m.rng.IntN(len(files))], func(b []byte) []byte {
			at := m.rng.IntN(len(b)) / 4096 * 4096
			clear(b[at:min(at+4096*(1+m.rng.IntN(3)), len(b))])
			return b
		})
	}
	return m
}

// left compares what waits with the model, and returns the seqs by uplink. What is not in the model's hands any more may
// wait again: the record of its delivery may be lost.
func (m *model) left() (seqs [3][]uint64) {
	m.t.Helper()
	for u := range 3 {
		byOwn := make(map[uint64]*modelMessage)
		for _, w := range m.messages {
			if w.was.Has(u) {
				byOwn[w.seq], byOwn[w.seqs[u]] = w, w
			}
		}
		_, out := read(m.t, m.j, u, 1<<20)
		for _, o := range out {
			w := byOwn[o.Seq]
			if w == nil || o.Topic != w.topic || !bytes.Equal(o.Payload, w.payload) {
				m.t.Fatalf("uplink %d: record %d has a wrong body", u, o.Seq)
			}
			seqs[u] = append(seqs[u], o.Seq)
		}
		if got := m.j.Waiting(u).Messages; got != uint64(len(out)) {
			m.t.Fatalf("uplink %d: %d messages read, %d wait", u, len(out), got)
		}
	}
	if err := m.j.Identity(); err != nil {
		m.t.Fatal(err)
	}
	return seqs
}

func TestWhatIsLeftAfterDamageFollowsFromTheRecordsAlone(t *testing.T) {
	lost, forked := uint64(0), 0
	for seed := range uint64(max(8, *flips/10)) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			m := wrecked(t, seed)
			if m.rng.IntN(3) == 0 {
				os.Remove(filepath.Join(m.o.Dir, stateFile))
			}
			var err error
			if m.j, err = Open(withVerify(m.o)); errors.Is(err, ErrForked) {
				forked++
				return
			} else if err != nil {
				t.Fatal(err)
			}
			want := m.left()
			totals, series := m.j.Totals(), m.j.led.series()
			lost += m.j.Losses().Records
			if err := m.j.Close(); err != nil {
				t.Fatal(err)
			}
			mustCheck(t, m.o.Dir)
			if err := os.Remove(filepath.Join(m.o.Dir, stateFile)); err != nil {
				t.Fatal(err)
			}
			m.j = openTest(t, m.o)
			got := m.left()
			for u := range want {
				if !slices.Equal(got[u], want[u]) {
					t.Fatalf("uplink %d: %d wait, before %d", u, got[u], want[u])
				}
			}
			if m.j.Totals() != totals || !bytes.Equal(m.j.led.series(), series) {
				t.Fatalf("totals %+v, before %+v; tally\n%s\nbefore\n%s", m.j.Totals(), totals, m.j.led.series(), series)
			}
			for u := range 3 {
				drain(t, m.j, u)
			}
			if got := m.j.Totals(); got.Waiting != 0 || !got.Identity() {
				t.Fatalf("totals %+v", got)
			}
			m.j.Close()
			mustCheck(t, m.o.Dir)
		})
	}
	t.Logf("%d records lost, %d journals forked", lost, forked)
}

func TestASegmentWithoutTheBodiesThatNobodyNeedsIsWhole(t *testing.T) {
	o := testOptions(t.TempDir())
	o.Sign = testSign
	j := openTest(t, o)
	for range 300 {
		commit(t, j, message(j, "bench", gateway.General, 0b11, 0, 0, "v1/t", make([]byte, 500)))
	}
	j.Close()
	j = openTest(t, o)
	f, out := read(t, j, 0, 300)
	forward(t, f, out)
	f, out = read(t, j, 1, 300)
	forward(t, f, append(slices.Clone(out[:100]), out[150:]...))
	if err := j.rewrite(j.segments[0]); err != nil {
		t.Fatal(err)
	}
	totals := j.Totals()
	j.Close()
	for _, lost := range []bool{false, true} {
		if lost {
			os.Remove(filepath.Join(o.Dir, stateFile))
		}
		r, err := Repair(o)
		if err != nil || !r.Whole || r.Totals != totals {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	j = openTest(t, o)
	if n := drain(t, j, 1); n != 50 {
		t.Fatalf("%d sent", n)
	}
	j.Close()
	mustCheck(t, o.Dir)
}

func TestALossInFrontIsTrimmedLikeEverythingElse(t *testing.T) {
	j, o, shipped := trimmed(t)
	fill(t, j, 250)
	drain(t, j, 1)
	until(t, j, "archived", func() bool { return j.Stat().Archives > 0 })
	front := j.oldestArchives()[0]
	j.Close()
	spoilFile(t, o.Dir, filepath.Join(archiveDir, archiveName(front.First)), func(b []byte) []byte {
		clear(b[:len(b)*2/3])
		return b
	})
	r, err := Repair(o)
	if err != nil || r.NothingLost() {
		t.Fatalf("%+v, %v", r, err)
	}
	lost := r.Lost.Records
	mustCheck(t, o.Dir)
	j = openTest(t, o)
	x := j.Trimmed()
	for range 20 {
		if j.Trimmed() >= front.Next {
			break
		}
		ship(t, j, shipped)
		fill(t, j, 50)
		drain(t, j, 1)
		quiet(t, j, shipped)
	}
	if j.Trimmed() == x || j.Losses().Records != lost {
		t.Fatalf("trimmed up to %d, %+v", j.Trimmed(), j.Losses())
	}
	shippedWithHoles(t, j, o, shipped)
	until(t, j, "all receipts, past the hole", func() bool {
		ship(t, j, shipped)
		size, waiting := j.Receipts()
		list := j.Archives()
		return waiting == 0 && size >= front.Next && (len(list) == 0 || size == list[len(list)-1].Next)
	})
	totals := j.Totals()
	j.Close()
	mustCheck(t, o.Dir)
	os.Remove(filepath.Join(o.Dir, stateFile))
	j = openTest(t, o)
	if j.Totals() != totals {
		t.Fatalf("totals %+v, before %+v", j.Totals(), totals)
	}
	j.Close()
	mustCheck(t, o.Dir)
	if r, err := Repair(o); err != nil || !r.Whole {
		t.Fatalf("%+v, %v", r, err)
	}
}

// shippedWithHoles reads the trimmed part of a log from a collector's folder: with the list of losses up to where the
// journal begins and with its tree there, without it up to the first hole.
func shippedWithHoles(t *testing.T, j *Journal, o Options, shipped string) {
	t.Helper()
	l, err := OpenShipped(shipped, o.Dir, o.Keys)
	if err != nil || l.Next() < j.Trimmed() {
		t.Fatalf("shipped up to %d, the records here begin with %d: %v", l.Next(), j.Trimmed(), err)
	}
	var tree compact
	var next, missing uint64
	err = l.Records(0, func(seq uint64, record []byte) error {
		if seq >= j.Trimmed() {
			return errStop
		}
		if seq != next {
			missing += seq - next
			if size, roots, ok := l.Resume(tree.size, seq); seq > tree.size && ok {
				tree = compact{size, roots}
			}
		}
		if seq == tree.size {
			tree.push(leafHash(record))
		}
		next = seq + 1
		return nil
	})
	if err != nil && err != errStop {
		t.Fatal(err)
	}
	if b := j.trimmedBase(); tree.size != b.Next || !slices.Equal(tree.roots, b.Tree) || missing == 0 || missing != j.Losses().Records {
		t.Fatalf("%d records missing of %d lost; tree of %d, want %d", missing, j.Losses().Records, tree.size, b.Next)
	}
	hole := j.lost.Holes[0]
	if l, err = OpenShipped(shipped, "", o.Keys); err != nil || l.Next() != hole.First {
		t.Fatalf("without the list of losses up to %d, the hole begins with %d: %v", l.Next(), hole.First, err)
	}
}

func TestWhatIsKeptOfTrimmedRecordsIsRepairedFromItsCopy(t *testing.T) {
	j, o, _ := trimmed(t)
	x := j.Trimmed()
	j.Close()
	if err := flip(filepath.Join(o.Dir, archiveDir, baseFile), 200); err != nil {
		t.Fatal(err)
	}
	r, err := Repair(o)
	if err != nil || !r.NothingLost() || len(r.Files) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	os.Remove(filepath.Join(o.Dir, stateFile)) // with the copy
	j = openTest(t, o)
	if j.Trimmed() != x {
		t.Fatalf("the records begin at %d, not at %d", j.Trimmed(), x)
	}
	j.Close()
	mustCheck(t, o.Dir)
}
