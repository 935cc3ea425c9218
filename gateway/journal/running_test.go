package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

var (
	seeds   = flag.Int("seeds", 12, "damage a running journal so many times")
	oneSeed = flag.Uint64("seed", 0, "begin with this seed")
)

// TestDamageUnderARunningJournalNeverGivesAWrongBody flips bits in the files of a journal while messages are committed and
// forwarded, ends it by Close or as a kill would, and opens it again: it opens, every record and body is as it was, what is
// lost is on the record, all the rest is forwarded, and then it is whole.
func TestDamageUnderARunningJournalNeverGivesAWrongBody(t *testing.T) {
	var sum runningFigures
	for _, closed := range []bool{true, false} {
		tr := damageableAs(t, closed)
		list := []uint64{20341, 20354} // a body behind another's record; a lock that was not given back
		for seed := *oneSeed; seed < *oneSeed+uint64(*seeds); seed++ {
			list = append(list, seed)
		}
		for _, seed := range list {
			t.Run(fmt.Sprintf("closed last %v, seed %d", closed, seed), func(t *testing.T) {
				o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
				r := &running{t: t, tr: tr, o: o, rng: rand.New(rand.NewPCG(seed, 8)), messages: make(map[uint64]*sentMessage)}
				r.run(&sum)
				os.RemoveAll(o.Dir)
			})
		}
	}
	t.Logf("%+v", sum)
	if sum.Runs == 0 || sum.Damaged == 0 || sum.Sent == 0 || sum.Again == 0 {
		t.Errorf("the test tests nothing: %+v", sum)
	}
}

// runningFigures is what came of all runs.
type runningFigures struct {
	Runs, Killed, Damaged, Forked        int
	Committed, Sent, Again, Twice        int // messages; again: after the second Open
	LostRecords, LostBodies, LostMessage int
}

// sentMessage is a message that was committed.
type sentMessage struct {
	record []byte
	body   [32]byte
	waits  bool
	held   bool
	sent   int
}

// running is one run.
type running struct {
	t        *testing.T
	tr       *truth
	o        Options
	rng      *rand.Rand
	j        *Journal
	messages map[uint64]*sentMessage // by seq
	flipped  []string
}

func (r *running) run(sum *runningFigures) {
	t := r.t
	for seq, record := range r.tr.records {
		m := &sentMessage{record: record, held: r.tr.held[uint64(seq)]}
		m.body, m.waits = r.tr.waiting[uint64(seq)]
		r.messages[uint64(seq)] = m
	}
	j, err := Open(r.o)
	if err != nil {
		t.Fatal(err)
	}
	r.j = j
	defer func() {
		if t.Failed() {
			t.Logf("flipped: %s", strings.Join(r.flipped, "; "))
		}
	}()
	f := j.Feed(0)
	flips := 1 + r.rng.IntN(20)
	for range 30 {
		switch n := r.rng.IntN(4); {
		case n == 0:
			r.commit()
		case n == 1 && f != nil:
			if !r.send(f, 1+r.rng.IntN(120)) {
				f = nil
			}
		case flips > 0:
			flips--
			r.flip()
		}
	}
	killed := r.rng.IntN(2) == 0
	if killed {
		o := r.o
		o.Dir = filepath.Join(t.TempDir(), "killed")
		copyRunning(t, r.o.Dir, o.Dir)
		j.Close()
		os.RemoveAll(r.o.Dir)
		r.o = o
		sum.Killed++
	} else {
		j.Close() // whatever it says
	}
	sum.Runs++
	r.again(sum)
}

// commit commits a few messages, some of which are held for another uplink.
func (r *running) commit() {
	var list []*gateway.Entry
	n := 1 + r.rng.IntN(8)
	for range n {
		holds := gateway.UplinkSet(0)
		if r.rng.IntN(5) == 0 {
			holds = 1 << 1
		}
		body := make([]byte, r.rng.IntN(6000))
		for i := range body {
			body[i] = byte(r.rng.Uint32())
		}
		list = append(list, message(r.j, "bench", gateway.General, 1, holds, 0, "v1/t", body))
	}
	done := make(chan uint64, 1)
	r.j.Append(list, func(first uint64, err error) {
		if err != nil {
			first = 0
		}
		done <- first
	})
	select {
	case first := <-done:
		if first == 0 {
			r.t.Fatal("a commit failed")
		}
		for i, e := range list {
			r.messages[first+uint64(i)] = &sentMessage{record: bytes.Clone(e.Record), body: sha256.Sum256(e.Outlets[0].Payload), waits: true, held: e.Holds != 0}
		}
	case <-time.After(20 * time.Second):
		r.t.Fatal("a commit does not end")
	}
}

// send forwards what comes next. It reports whether the feed can go on.
func (r *running) send(f gateway.Feed, most int) bool {
	out, err := f.Next(most, 1<<20, nil)
	if err != nil && !isDamage(err) {
		r.t.Fatal(err)
	}
	r.right(out)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if len(out) > 0 {
		if err := f.Settle(ctx, out, gateway.Forwarded, ""); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, m := range out {
		r.messages[m.Seq].sent++
	}
	return err == nil
}

// right compares what is sent with what was committed.
func (r *running) right(out []*gateway.Outbound) {
	for _, m := range out {
		if was := r.messages[m.Seq]; was == nil || !was.waits || sha256.Sum256(m.Payload) != was.body || m.Topic != "v1/t" {
			r.t.Fatalf("record %d: a wrong body was read", m.Seq)
		}
	}
}

// flip flips a bit of a file: of one of each kind as often.
func (r *running) flip() {
	kinds := make(map[string][]string)
	var names []string
	filepath.WalkDir(r.o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		kind, _, _ := strings.Cut(d.Name(), "0")
		rel, _ := filepath.Rel(r.o.Dir, path)
		if kind == stateFile || kind == parkedFile || kind == segPrefix && strings.HasSuffix(rel, segSuffix) || kind == arcPrefix && strings.HasSuffix(rel, arcSuffix) {
			if kinds[kind] == nil {
				names = append(names, kind)
			}
			kinds[kind] = append(kinds[kind], rel)
		}
		return nil
	})
	slices.Sort(names)
	kind := names[r.rng.IntN(len(names))]
	name := kinds[kind][r.rng.IntN(len(kinds[kind]))]
	if kind == segPrefix && r.rng.IntN(2) == 0 {
		name = kinds[kind][len(kinds[kind])-1] // the open one
	}
	file, err := os.OpenFile(filepath.Join(r.o.Dir, name), os.O_RDWR, 0)
	if err != nil {
		return // drained meanwhile
	}
	defer file.Close()
	st, _ := file.Stat()
	if st.Size() == 0 {
		return
	}
	size := st.Size()
	if kind == segPrefix && size > 1<<18 {
		size = 1 << 18 // most of the rest is not used yet
	}
	at, b := r.rng.Int64N(size), make([]byte, 1)
	if r.rng.IntN(2) == 0 {
		at = min(at/4096*4096+r.rng.Int64N(128), size-1)
	}
	if r.rng.IntN(8) == 0 {
		at = r.rng.Int64N(min(size, 2*4096))
	}
	file.ReadAt(b, at)
	bit := r.rng.IntN(8)
	b[0] ^= 1 << bit
	file.WriteAt(b, at)
	r.flipped = append(r.flipped, fmt.Sprintf("%s, bit %d of byte %d", name, bit, at))
}

// copyRunning copies a folder as a kill would leave it: twice, until both copies are the same.
func copyRunning(t *testing.T, from, to string) {
	t.Helper()
	read := func() map[string][]byte {
		files := make(map[string][]byte)
		filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && d.Name() != reserveFile {
				if b, err := os.ReadFile(path); err == nil {
					rel, _ := filepath.Rel(from, path)
					files[rel] = b
				}
			}
			return nil
		})
		return files
	}
	files := read()
	for try := 0; ; try++ {
		again := read()
		same := len(files) == len(again)
		for name := range files {
			same = same && bytes.Equal(files[name], again[name])
		}
		if files = again; same {
			break
		}
		if try == 1000 {
			t.Fatal("the folder does not come to rest")
		}
	}
	for name, b := range files {
		path := filepath.Join(to, name)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// again opens the journal that was damaged.
func (r *running) again(sum *runningFigures) {
	t := r.t
	all := r.rng.IntN(2) == 0
	o := r.o
	o.verify = all
	j, err := Open(o)
	if errors.Is(err, ErrForked) {
		sum.Forked++
		t.Logf("%v; flipped: %s", err, strings.Join(r.flipped, "; "))
		return
	}
	if err != nil {
		t.Fatalf("open again: %v", err)
	}
	if len(j.repaired) > 0 {
		sum.Damaged++
	}
	if all {
		r.compare(j)
	}
	r.forwardRest(j, sum)
	if err := j.Close(); err != nil && all {
		t.Fatalf("close: %v", err)
	}
	if all {
		r.check("read whole")
	}
	if j, err = Open(withVerify(r.o)); err != nil {
		t.Fatalf("third open: %v", err)
	}
	if all && len(j.repaired) > 0 {
		t.Fatalf("third open: %+v", j.repaired)
	}
	r.compare(j)
	r.forwardRest(j, sum)
	r.accounted(j, sum)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	report := r.check("at the end")
	sum.LostRecords += int(report.LostRecords)
	sum.LostBodies += int(report.LostBodies)
}

func (r *running) check(when string) Report {
	r.t.Helper()
	report, err := Check(context.Background(), r.o.Dir, r.o.Keys, testVerify, nil)
	if err != nil || !report.OK {
		r.t.Fatalf("check, %s: %v, %q", when, err, report.Problems)
	}
	return report
}

// compare reads all records and holds of a journal that was read whole.
func (r *running) compare(j *Journal) {
	t := r.t
	t.Helper()
	err := j.Records(0, func(seq uint64, record []byte) error {
		if m := r.messages[seq]; m != nil && !bytes.Equal(m.record, record) && !bytes.Equal(record, fillRecord(seq)) {
			return fmt.Errorf("record %d is another one", seq)
		}
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
		if m := r.messages[h.Seq]; m == nil || !m.held {
			t.Fatalf("record %d is held and was not", h.Seq)
		}
	}
	if err := j.Identity(); err != nil {
		t.Fatal(err)
	}
}

// forwardRest forwards all that waits.
func (r *running) forwardRest(j *Journal, sum *runningFigures) {
	t := r.t
	t.Helper()
	for f := j.Feed(0); ; {
		out, err := f.Next(100, 1<<20, nil)
		if err != nil {
			if isDamage(err) && !j.opt.verify {
				return // for the next Open
			}
			t.Fatal(err)
		}
		if len(out) == 0 {
			break
		}
		r.right(out)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err = f.Settle(ctx, out, gateway.Forwarded, "")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range out {
			r.messages[m.Seq].sent++
		}
		sum.Again += len(out)
	}
}

// accounted makes sure that every message was sent, or that the journal says that it is lost.
func (r *running) accounted(j *Journal, sum *runningFigures) {
	t := r.t
	t.Helper()
	dropped := make(map[uint64]bool)
	var rec gateway.Record
	err := j.Records(0, func(seq uint64, record []byte) error {
		if err := gateway.DecodeRecord(record, &rec); err != nil {
			return err
		}
		var s scope
		if rec.Kind == gateway.ExpiryRecord && rec.Uplink == 0 && json.Unmarshal(rec.Detail, &s) == nil && s.Why == "damage" {
			for at := rec.First; at <= rec.Last; at++ {
				dropped[at] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := j.Totals().Waiting; n != 0 {
		t.Fatalf("%d messages still wait", n)
	}
	for seq, m := range r.messages {
		if !m.waits {
			continue
		}
		sum.Committed++
		switch {
		case m.sent > 0:
			sum.Sent++
			if m.sent > 1 {
				sum.Twice++
			}
		case dropped[seq] || j.lost.between(seq, seq) || j.lost.body(seq).Waits != 0:
			sum.LostMessage++
		default:
			t.Errorf("message %d was not sent, and nothing says that it is lost", seq)
		}
	}
}
