package journal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// testReceipt believes any receipt of its form.
func testReceipt(text []byte) (r gateway.Receipt, err error) {
	var digest, root string
	if _, err := fmt.Sscanf(string(text), "receipt %d %d %d %s %s", &r.First, &r.Next, &r.Bytes, &digest, &root); err != nil {
		return r, err
	}
	for text, to := range map[string]*[32]byte{digest: &r.SHA256, root: &r.Root} {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(to) {
			return r, errors.New("not a receipt")
		}
		copy(to[:], b)
	}
	r.By = "collector-1"
	return r, nil
}

// receiptText is what testReceipt reads.
func receiptText(s *gateway.Shipment) []byte {
	return fmt.Appendf(nil, "receipt %d %d %d %x %x", s.First, s.Next, s.Bytes, s.SHA256, s.Root)
}

// trimOptions are those of a journal that fills up with a few archives.
func trimOptions(dir string) Options {
	o := testOptions(dir)
	o.SegmentSize, o.AuditMaxSize, o.Sign, o.CheckpointCount, o.Receipt = 1<<20, 110<<10, testSign, 64, testReceipt
	return o
}

// ship copies every archive without a receipt to a folder and hands in its receipt, as a collector would.
func ship(t testing.TB, j *Journal, dir string) (n int) {
	t.Helper()
	for ; ; n++ {
		a, ok := j.Unshipped()
		if !ok {
			return n
		}
		out, f, err := j.Shipment(a)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%020d-%020d", a.First, a.Next)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := j.Shipped(a, receiptText(&out)); err != nil {
			t.Fatal(err)
		}
	}
}

// fill commits and delivers n messages in batches, and one change record in front of each batch.
func fill(t testing.TB, j *Journal, n int) {
	t.Helper()
	for i := 0; i < n; i += 50 {
		change := gateway.Record{Kind: gateway.ChangeRecord, Set: uint64(i), Time: time.UnixMilli(1_790_000_000_000), Trusted: true, Detail: fmt.Appendf(nil, `{"set":%d}`, i)}
		list := []*gateway.Entry{{Record: gateway.AppendRecord(nil, &change)}}
		for range 50 {
			list = append(list, varied(t, message(j, "bench", gateway.General, 0b11, 0, 0, "v1/t", make([]byte, 4000))))
		}
		commit(t, j, list...)
		drain(t, j, 0)
		if i/50%7 == 3 { // the other uplink lags, so that archives begin with deliveries of what is before them
			drain(t, j, 1)
		}
	}
}

// varied gives the record of an entry commitments that do not compress, as real ones.
func varied(t testing.TB, e *gateway.Entry) *gateway.Entry {
	t.Helper()
	var r gateway.Record
	if err := gateway.DecodeRecord(e.Record, &r); err != nil {
		t.Fatal(err)
	}
	rand.Read(r.Input[:])
	for i := range r.Outcomes {
		rand.Read(r.Outcomes[i].Left[:])
	}
	e.Record = gateway.AppendRecord(nil, &r)
	return e
}

// until waits until the sweeper got somewhere.
func until(t testing.TB, j *Journal, what string, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		j.tidySoon()
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s; %+v", what, j.Stat())
}

// trimmed makes a journal whose oldest archives are trimmed.
func trimmed(t testing.TB) (j *Journal, o Options, shipped string) {
	t.Helper()
	o, shipped = trimOptions(t.TempDir()), t.TempDir()
	j = openTest(t, o)
	for _, name := range []string{"tsp", "oem"} {
		if _, err := j.Number(kindUplink, name); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		fill(t, j, 500)
		until(t, j, "archived", func() bool { return j.Stat().Archives > 0 || j.Trimmed() > 0 })
		ship(t, j, shipped)
	}
	quiet(t, j, shipped)
	return j, o, shipped
}

// quiet ships until nothing more is trimmed.
func quiet(t testing.TB, j *Journal, shipped string) {
	t.Helper()
	until(t, j, "trimmed", func() bool {
		ship(t, j, shipped)
		return j.Trimmed() > 0 && !j.announces.Load() && j.announced.Load() <= j.Trimmed() &&
			(float64(j.recordBytes.Load()) < trimShare*float64(j.opt.AuditMaxSize) || j.Stat().Archives == 0)
	})
}

func TestWhatACollectorHasIsTrimmedAndStaysProvable(t *testing.T) {
	j, o, shipped := trimmed(t)
	fill(t, j, 100)
	commit(t, j, message(j, "bench", gateway.General, 0b11, 0, 0, "v1/t", nil)) // waits on
	drain(t, j, 1)
	quiet(t, j, shipped)
	for round := range 2 {
		x, size := j.Trimmed(), j.Size()
		var gone *ErrTrimmed
		if err := j.Records(x-1, nil); !errors.As(err, &gone) || gone.Next != x {
			t.Fatalf("records of what is trimmed: %v", err)
		}
		_, root := j.Root()
		var first uint64
		records := 0
		err := j.Records(x, func(seq uint64, record []byte) error {
			records++
			if seq < x+300 || seq%97 == 0 {
				p, err := tlog.ProveRecord(int64(size), int64(seq), j)
				if err != nil {
					return err
				}
				return tlog.CheckRecord(p, int64(size), root, int64(seq), tlog.RecordHash(record))
			}
			return nil
		})
		if err != nil || uint64(records) < size-x { // it says on its log that it was opened
			t.Fatalf("%d records from %d of %d in round %d, %v", records, x, size, round, err)
		}
		err = j.Checkpoints(func(m uint64, text []byte) error {
			if first == 0 {
				first = m
			}
			_, stated, err := testVerify(text)
			if err != nil {
				return err
			}
			p, err := tlog.ProveTree(int64(size), int64(m), j)
			if err != nil {
				return fmt.Errorf("checkpoint of size %d: %w", m, err)
			}
			return tlog.CheckTree(p, int64(size), root, int64(m), stated)
		})
		if err != nil || first == 0 || first > x {
			t.Fatalf("oldest checkpoint %d, records from %d: %v", first, x, err)
		}
		b := j.trimmedBase()
		if len(b.Changes) != keptChanges {
			t.Fatalf("%d change records are kept", len(b.Changes))
		}
		if next, _, seqs := j.Start(); next != x || len(seqs) != keptChanges || j.Kept(seqs[3]) == nil || j.Kept(seqs[3]+1) != nil {
			t.Fatalf("start %d, kept %d", next, seqs)
		}
		for _, k := range b.Changes {
			p, err := tlog.ProveRecord(int64(size), int64(k.Seq), j)
			if err != nil || tlog.CheckRecord(p, int64(size), root, int64(k.Seq), tlog.RecordHash(k.Record)) != nil {
				t.Fatalf("kept change record %d is not proved: %v", k.Seq, err)
			}
		}
		if _, err := tlog.ProveRecord(int64(size), 5, j); !errors.As(err, &gone) {
			t.Fatalf("a trimmed record is proved: %v", err)
		}
		if n := len(b.Nodes); n > 400 {
			t.Fatalf("%d hashes are kept", n)
		}
		if round == 0 {
			reopened(t, &j, o)
			quiet(t, j, shipped)
		}
	}
	events := events(t, j)
	if n := strings.Count(events, `"why":"shipped","collector":"collector-1"`); n == 0 {
		t.Fatalf("events %s", events)
	}
	if len(j.Archives()) != 0 && j.Archives()[0].First != j.Trimmed() {
		t.Fatalf("archives %v, trimmed %d", j.Archives(), j.Trimmed())
	}
	totals := j.Totals()
	j.Close()
	r := mustCheck(t, o.Dir)
	if r.Trimmed == 0 || r.Totals != totals || r.Totals.Received != 3*500+100+1 {
		t.Fatalf("report %+v", r)
	}
	l, err := OpenShipped(shipped, o.Dir, []Key{testKey})
	if err != nil || l.Next() < r.Trimmed {
		t.Fatalf("shipped up to %d of %d, %v", l.Next(), r.Trimmed, err)
	}
	var tree compact
	if err := l.Records(0, func(seq uint64, record []byte) error {
		if seq < r.Trimmed {
			tree.push(leafHash(record))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if j.base.Next != tree.size || tree.root() != (&compact{j.base.Next, j.base.Tree}).root() {
		t.Fatal("what was shipped is not what was trimmed")
	}
}

// reopened closes, checks and opens the journal again.
func reopened(t testing.TB, j **Journal, o Options) {
	t.Helper()
	if err := (*j).Close(); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, o.Dir)
	*j = openTest(t, o)
}

// events returns the details of the events that are here.
func events(t testing.TB, j *Journal) string {
	t.Helper()
	var b strings.Builder
	var r gateway.Record
	if err := j.Records(j.Trimmed(), func(_ uint64, record []byte) error {
		if err := gateway.DecodeRecord(record, &r); err != nil {
			return err
		}
		if r.Kind == gateway.EventRecord {
			b.Write(r.Detail)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestATrimmedJournalSurvivesTheLossOfItsStateOrOfWhatItKept(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"state lost":           func(dir string) error { return os.Remove(filepath.Join(dir, stateFile)) },
		"trimmed lost":         func(dir string) error { return os.Remove(filepath.Join(dir, archiveDir, baseFile)) },
		"trimmed with one bit": func(dir string) error { return flip(filepath.Join(dir, archiveDir, baseFile), 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			j, o, _ := trimmed(t)
			commit(t, j, message(j, "bench", gateway.General, 0b11, 0, 0, "v1/t", []byte("waits")))
			totals, tally, x := j.Totals(), fmt.Sprint(j.Tally()), j.Trimmed()
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if err := spoil(o.Dir); err != nil {
				t.Fatal(err)
			}
			j = openTest(t, o)
			if j.Totals() != totals || fmt.Sprint(j.Tally()) != tally || j.Trimmed() < x {
				t.Fatalf("totals %+v, want %+v; trimmed %d, was %d", j.Totals(), totals, j.Trimmed(), x)
			}
			fill(t, j, 50)
			drain(t, j, 1)
			j.Close()
			mustCheck(t, o.Dir)
		})
	}
}

func flip(path string, at int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[at%len(data)] ^= 1
	return os.WriteFile(path, data, 0o600)
}

func TestWithoutAReceiptThatHoldsNothingGoes(t *testing.T) {
	o := trimOptions(t.TempDir())
	o.AuditMaxSize = 64 << 20
	j := openTest(t, o)
	fill(t, j, 700)
	until(t, j, "archived", func() bool { return j.Stat().Archives > 1 })
	a, _ := j.Unshipped()
	b := j.Archives()[1]
	texts := []string{"", "receipt", strings.Repeat("x", 1<<20)}
	for _, alter := range []func(s, other *gateway.Shipment){
		func(s, other *gateway.Shipment) { *s = *other },
		func(s, other *gateway.Shipment) { s.Root = other.Root },
		func(s, other *gateway.Shipment) { s.Root, s.SHA256 = [32]byte{}, other.SHA256 },
		func(s, other *gateway.Shipment) { s.Root, s.Bytes = [32]byte{}, s.Bytes+1 },
		func(s, _ *gateway.Shipment) { s.Next-- },
		func(s, other *gateway.Shipment) { s.Next = other.Next },
	} {
		s, f, err := j.Shipment(a)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		other, f, err := j.Shipment(b)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		alter(&s, &other)
		texts = append(texts, string(receiptText(&s)))
	}
	for _, text := range texts {
		if err := j.Shipped(a, []byte(text)); err == nil {
			t.Fatalf("receipt %.200q was taken", text)
		}
	}
	ship(t, j, t.TempDir())
	if err := os.WriteFile(j.archivePath(receiptName(a.First)), []byte("receipt of somebody else"), 0o600); err != nil {
		t.Fatal(err)
	}
	j.Close()
	o.AuditMaxSize = 128 << 10
	j = openTest(t, o)
	until(t, j, "forgotten", func() bool { _, again := j.Unshipped(); return again })
	if j.Trimmed() != 0 {
		t.Fatalf("trimmed to %d on a receipt that does not hold", j.Trimmed())
	}
	until(t, j, "trimmed", func() bool { ship(t, j, t.TempDir()); return j.Trimmed() > a.First })
	o.Receipt = nil
	j.Close()
	x := j.Trimmed()
	j = openTest(t, o) // no collector any more: what it has stays all the same
	fill(t, j, 50)
	j.Close()
	if j.Trimmed() != x {
		t.Fatalf("trimmed to %d without a collector", j.Trimmed())
	}
	mustCheck(t, o.Dir)
}

// movedClock is a clock that a test moves.
type movedClock struct {
	wall, up atomic.Int64 // milliseconds
	unset    atomic.Bool
}

func (a *movedClock) set(o *Options) {
	a.wall.Store(1_790_000_000_000)
	o.Clock = func() (time.Time, bool) { return time.UnixMilli(a.wall.Load()), !a.unset.Load() }
	o.Uptime = func() time.Duration { return time.Duration(a.up.Load()) * time.Millisecond }
}

func (a *movedClock) run(d time.Duration)  { a.jump(d); a.up.Add(d.Milliseconds()) }
func (a *movedClock) jump(d time.Duration) { a.wall.Add(d.Milliseconds()) }

const day = 24 * time.Hour

// pass lets the sweeper run at least once and says whether anything went.
func pass(t testing.TB, j *Journal) bool {
	t.Helper()
	for range 3 {
		if err := j.saveNow(); err != nil {
			t.Fatal(err)
		}
	}
	return j.Trimmed() > 0
}

func TestRecordsGoWhenTheyAreOlderThanTheirClassDemandsAndTheClockIsSteady(t *testing.T) {
	for name, c := range map[string]struct {
		personal bool
		days     int
		jump     bool
		unset    bool
		went     bool
	}{
		"general, 190 days":                 {days: 190},
		"general, 192 days":                 {days: 192, went: true},
		"personal, 192 days":                {personal: true, days: 192},
		"personal, 1,104 days":              {personal: true, days: 1104, went: true},
		"a clock that jumped 27,000 days":   {days: 27000, jump: true},
		"a clock that is not set, 192 days": {days: 192, unset: true},
		"a clock that jumped 400 days":      {days: 400, jump: true},
	} {
		t.Run(name, func(t *testing.T) {
			var clock movedClock
			o := trimOptions(t.TempDir())
			o.Receipt, o.AuditMaxSize, o.Retention = nil, 64<<20, Retention{184 * day, 1096 * day}
			clock.set(&o)
			j := openTest(t, o)
			fillAt(t, j, c.personal, &clock)
			until(t, j, "archived", func() bool { return j.Stat().Archives > 1 })
			pass(t, j)
			clock.unset.Store(c.unset)
			for left := c.days; !c.jump && left > 0; {
				step := min(left, 1+c.days/16)
				left -= step
				clock.run(time.Duration(step) * day)
				pass(t, j)
			}
			if c.jump {
				clock.jump(time.Duration(c.days) * day)
				pass(t, j)
				clock.run(23 * time.Hour)
			}
			if went := pass(t, j) || pass(t, j); went != c.went {
				t.Fatalf("went %v; %+v", went, j.steady)
			}
			j.Close()
			r := mustCheck(t, o.Dir)
			if (r.Trimmed > 0) != c.went {
				t.Fatalf("report %+v", r)
			}
		})
	}
}

// fillAt commits and delivers messages under a clock of the test, personal ones or others.
func fillAt(t testing.TB, j *Journal, personal bool, clock *movedClock) {
	t.Helper()
	for range 8 {
		var list []*gateway.Entry
		for range 50 {
			e := message(j, "bench", gateway.General, 1, 0, 0, "v1/t", make([]byte, 4000))
			var r gateway.Record
			if err := gateway.DecodeRecord(e.Record, &r); err != nil {
				t.Fatal(err)
			}
			r.Time, r.Personal = time.UnixMilli(clock.wall.Load()), personal
			e.Record = gateway.AppendRecord(nil, &r)
			list = append(list, e)
		}
		commit(t, j, list...)
		drain(t, j, 0)
	}
}

func TestAClockIsSteadyAfterADayOfRunningWithoutAJump(t *testing.T) {
	at := time.UnixMilli(1_790_000_000_000)
	var s steadyClock
	up := time.Duration(0)
	step := func(wall, mono time.Duration, trusted bool) bool {
		at, up = at.Add(wall), up+mono
		s.look(at, trusted, up)
		return s.Steady >= steadyNeeded
	}
	step(0, 0, true)
	for range 23 {
		if step(time.Hour, time.Hour, true) {
			t.Fatal("steady too early")
		}
	}
	if !step(time.Hour, time.Hour, true) {
		t.Fatal("not steady after a day")
	}
	off := steadyClock{Wall: s.Wall, Steady: s.Steady} // a restart keeps it, when the box was off for six days
	off.look(at.Add(6*day), true, 0)
	if off.Steady < steadyNeeded {
		t.Fatal("not steady after six days off")
	}
	off.look(at.Add(6*day+time.Hour), true, time.Hour)
	off = steadyClock{Wall: off.Wall, Steady: off.Steady}
	if off.look(at.Add(14*day), true, 0); off.Steady != 0 {
		t.Fatal("steady after more than a week off")
	}
	if step(time.Hour, time.Minute, true) || s.Steady != 0 {
		t.Fatal("steady after a jump")
	}
	step(25*time.Hour, 25*time.Hour, true)
	if step(time.Hour, time.Hour, false) || s.Steady != 0 {
		t.Fatal("steady while the clock is not set")
	}
	if step(time.Hour, time.Hour, true) || s.Steady != 0 {
		t.Fatal("the time before the clock was set counts")
	}
}

func TestATrimmedJournalSurvivesTheEndOfItsProcessAtEveryStep(t *testing.T) {
	dir := t.TempDir()
	times := 2
	if testing.Short() {
		times = 1
	}
	for _, step := range trimSteps {
		for n := 1; n <= times; n++ {
			t.Run(fmt.Sprintf("%s the %d. time", step, n), func(t *testing.T) {
				committed, delivered := crash(t, dir, fmt.Sprint(step, " ", n), 1<<30)
				afterCrash(t, dir, committed, delivered)
			})
		}
	}
	j := openTest(t, trimOptions(dir))
	if j.Trimmed() == 0 {
		t.Fatal("nothing was trimmed")
	}
	drain(t, j, 0)
	drain(t, j, 1)
	j.Close()
	mustCheck(t, dir)
}

// saveNow has the sweeper run and waits for it.
func (j *Journal) saveNow() error {
	j.saveDue.Store(true)
	j.tidySoon()
	for ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second); ; {
		if !j.saveDue.Load() && len(j.tidyNow) == 0 {
			cancel()
			time.Sleep(time.Millisecond)
			return nil
		}
		if ctx.Err() != nil {
			cancel()
			return ctx.Err()
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// TestWhatIsDeadOutlivesItsArchive: a cloud refuses a message, its record is trimmed, and the message is sent again.
func TestWhatIsDeadOutlivesItsArchive(t *testing.T) {
	for _, lost := range []bool{false, true} {
		o, shipped := trimOptions(t.TempDir()), t.TempDir()
		j := openTest(t, o)
		for _, name := range []string{"tsp", "oem"} {
			if _, err := j.Number(kindUplink, name); err != nil {
				t.Fatal(err)
			}
		}
		seq := commit(t, j, varied(t, message(j, "bench", gateway.General, 0b11, 0, 0, "v1/dead", []byte("poison"))))
		held := commit(t, j, varied(t, message(j, "bench", gateway.Core, 0b1, 0b10, 0, "v1/held", []byte("sealed"))))
		f := j.Feed(1)
		out, err := f.Next(10, 1<<20, nil)
		if err != nil || len(out) != 1 || out[0].Seq != seq {
			t.Fatalf("%d messages, %v", len(out), err)
		}
		if err := f.Settle(t.Context(), out, gateway.Dead, "refused"); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			fill(t, j, 500)
			drain(t, j, 1)
			ship(t, j, shipped)
		}
		quiet(t, j, shipped)
		if j.Trimmed() <= held || j.Dead(1) != 1 {
			t.Fatalf("trimmed %d, %d dead", j.Trimmed(), j.Dead(1))
		}
		totals := j.Totals()
		if lost {
			j.Close()
			if err := os.Remove(filepath.Join(o.Dir, stateFile)); err != nil {
				t.Fatal(err)
			}
			j = openTest(t, o)
			if j.Totals() != totals || j.Dead(1) != 1 {
				t.Fatalf("totals %+v, were %+v; %d dead", j.Totals(), totals, j.Dead(1))
			}
		}
		if names, err := j.Retry(t.Context(), seq, "test"); err != nil || len(names) != 1 || names[0] != "oem" {
			t.Fatalf("retried for %v, %v", names, err)
		}
		if n := drain(t, j, 1); n != 1 || j.Dead(1) != 0 {
			t.Fatalf("%d sent, %d dead", n, j.Dead(1))
		}
		j.Close()
		mustCheck(t, o.Dir)
	}
}
