package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

func TestAJournalSaysWhichTroubleTheDiskHas(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want Trouble
	}{
		"full":         {fmt.Errorf("write: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), DiskFull},
		"over quota":   {syscall.EDQUOT, DiskFull},
		"file limit":   {syscall.EFBIG, DiskFull},
		"read-only":    {&fs.PathError{Op: "open", Path: "x", Err: syscall.EROFS}, DiskReadOnly},
		"permission":   {&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, DiskReadOnly},
		"I/O error":    {syscall.EIO, DiskError},
		"anything odd": {errors.New("odd"), DiskError},
	} {
		t.Run(name, func(t *testing.T) {
			var fails atomic.Bool
			var log bytes.Buffer
			o := testOptions(t.TempDir())
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			o.commit = func(tx *bbolt.Tx) error {
				if fails.Load() {
					return c.err
				}
				return tx.Commit()
			}
			retries := make(chan func(), 1024)
			o.after = func(_ time.Duration, fn func()) *time.Timer {
				retries <- fn
				return time.NewTimer(time.Hour)
			}
			j := openTest(t, o)
			commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
			if why, detail := j.Trouble(); why != "" || detail != "" {
				t.Fatalf("trouble %q: %s", why, detail)
			}
			fails.Store(true)
			wg, _ := appendMany(j, 3, 100, 1)
			(<-retries)() // it failed once, and fails again
			again := <-retries
			if why, detail := j.Trouble(); why != c.want || !strings.Contains(detail, c.err.Error()) {
				t.Errorf("trouble %q: %s", why, detail)
			}
			fails.Store(false)
			stop := make(chan struct{})
			go func() {
				for again(); ; {
					select {
					case fn := <-retries:
						fn()
					case <-stop:
						return
					}
				}
			}()
			wg.Wait()
			close(stop)
			if why, detail := j.Trouble(); why != "" {
				t.Errorf("trouble after recovery %q: %s", why, detail)
			}
			j.Close()
			if n := strings.Count(log.String(), "journal cannot write"); n != 1 || !strings.Contains(log.String(), "reason="+string(c.want)) || strings.Count(log.String(), "journal writes again") != 1 {
				t.Errorf("log: %s", &log)
			}
			mustCheck(t, o.Dir)
		})
	}
}

func TestAJournalRecoversFromADirectoryThatIsReadOnly(t *testing.T) {
	o := testOptions(t.TempDir())
	var readOnly atomic.Bool
	o.openFile = func(name string, flag int, perm os.FileMode) (*os.File, error) {
		if readOnly.Load() && flag&os.O_CREATE != 0 {
			return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EROFS}
		}
		return os.OpenFile(name, flag, perm)
	}
	o.after = func(_ time.Duration, fn func()) *time.Timer { return time.AfterFunc(time.Millisecond, fn) }
	j := openTest(t, o)
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
	readOnly.Store(true)
	j.qmu.Lock()
	j.look = true
	j.qmu.Unlock()
	j.bodyBytes.Add(o.MaxSize) // the committer starts another segment when it looks
	j.poke()
	for j.writing() {
		time.Sleep(time.Millisecond)
	}
	j.bodyBytes.Add(-o.MaxSize)
	wg, _ := appendMany(j, 1, 100, 1)
	for j.Writable() {
		time.Sleep(time.Millisecond)
	}
	if why, _ := j.Trouble(); why != DiskReadOnly {
		t.Errorf("trouble %q", why)
	}
	readOnly.Store(false)
	wg.Wait()
	j.Close()
	mustCheck(t, o.Dir)
}

// writing reports whether a segment is open for writing.
func (j *Journal) writing() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.write != nil
}

func TestAJournalSaysWhichBudgetIsSpent(t *testing.T) {
	o := testOptions(t.TempDir())
	j := openTest(t, o)
	n, err := j.Number(kindUplink, "tsp")
	if err != nil {
		t.Fatal(err)
	}
	commit(t, j, message(j, "bench", gateway.General, 1<<n, 0, 0, "v1", make([]byte, 2000)))
	expect := func(want Trouble, words string) {
		t.Helper()
		if why, detail := j.Trouble(); why != want || !strings.Contains(detail, words) || j.Full() != (want != "") {
			t.Errorf("trouble %q: %s, full %v", why, detail, j.Full())
		}
	}
	expect("", "")
	j.Limit(n, Limits{MaxBacklog: 1000})
	expect(FullUplink, `max_backlog of uplink "tsp" is spent`)
	j.Limit(n, Limits{})
	j.recordBytes.Add(j.opt.AuditMaxSize)
	expect(FullRecords, "audit.max_size is spent")
	j.recordBytes.Add(-j.opt.AuditMaxSize)
	j.bodyBytes.Add(j.opt.MaxSize)
	expect(FullBodies, "journal.max_size is spent")
	j.bodyBytes.Add(-j.opt.MaxSize)
	expect("", "")
}

func TestIdentityFindsEveryCounterThatIsWrong(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	for range 3 {
		commit(t, j, message(j, "bench", gateway.General, 0b11, 0, 0, "v1", nil), message(j, "line", gateway.Important, 0b01, 0b10, 0, "v1", nil))
	}
	f, out := read(t, j, 0, 2)
	forward(t, f, out)
	if err := j.Identity(); err != nil {
		t.Fatal(err)
	}
	broken := func(counter *uint64, words string) {
		t.Helper()
		j.mu.Lock()
		*counter++
		j.mu.Unlock()
		if err := j.Identity(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q, got %v", words, err)
		}
		j.mu.Lock()
		*counter--
		j.mu.Unlock()
	}
	for st := gateway.Waiting; st <= gateway.Received; st++ {
		broken(j.led.totals.Of(st), "is not the sum of the states")
		for source := range j.led.tally {
			for u := range 2 {
				broken(&j.led.tally[source][u][gateway.General][st], "grade general, but the states count")
			}
		}
	}
	broken(&j.waiting[1][0].Count, "by their bodies")
	c := j.led.tally[0]
	j.mu.Lock() // as if something had been settled and its body were still there
	c[1][gateway.General][gateway.Waiting]--
	c[1][gateway.General][gateway.Forwarded]++
	j.mu.Unlock()
	if err := j.Identity(); err == nil || !strings.Contains(err.Error(), "2 messages wait for uplink") {
		t.Errorf("got %v", err)
	}
	j.mu.Lock()
	c[1][gateway.General][gateway.Waiting]++
	c[1][gateway.General][gateway.Forwarded]--
	j.mu.Unlock()
	if err := j.Identity(); err != nil {
		t.Fatal(err)
	}
}

// TestARetryWhileTheJournalIsFull makes the journal full between the look and the append.
func TestARetryWhileTheJournalIsFull(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil), message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
	f, out := read(t, j, 0, 1)
	if err := f.Settle(t.Context(), out, gateway.Dead, "refused"); err != nil {
		t.Fatal(err)
	}
	j.bodyBytes.Add(j.opt.MaxSize)
	if _, err := j.Retry(t.Context(), out[0].Seq, "test"); !errors.Is(err, ErrFull) {
		t.Fatalf("err = %v", err)
	}
	if err := j.retry(t.Context(), 0, out[0].Seq, "test"); err != nil { // it was not full a moment before
		t.Fatal(err)
	}
	j.bodyBytes.Add(-j.opt.MaxSize)
	if n := drain(t, j, 0); n != 2 {
		t.Fatalf("%d delivered", n)
	}
}

// TestARetryDependsOnTheUplinkItIsFor spends the backlog of one uplink of two that refused a message.
func TestARetryDependsOnTheUplinkItIsFor(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	for i, name := range []string{"tsp", "oem"} {
		if n, err := j.Number(kindUplink, name); err != nil || n != i {
			t.Fatal(n, err)
		}
	}
	commit(t, j, message(j, "bench", gateway.General, 0b11, 0, 0, "v1", []byte("refused")), message(j, "bench", gateway.General, 0b10, 0, 0, "v1", make([]byte, 4096)))
	var seq uint64
	for u := range 2 {
		f, out := read(t, j, u, 1)
		if seq = out[0].Seq; f.Settle(t.Context(), out, gateway.Dead, "refused") != nil {
			t.Fatal("it was not settled")
		}
	}
	j.Limit(1, Limits{MaxBacklog: 1024})
	if !j.Full() {
		t.Fatal("the backlog is not spent")
	}
	names, err := j.Retry(t.Context(), seq, "test")
	if len(names) != 1 || names[0] != "tsp" || !errors.Is(err, ErrBacklog) || errors.Is(err, ErrFull) || !strings.Contains(err.Error(), `"oem"`) {
		t.Fatalf("it waits again for %q, err = %v", names, err)
	}
	if names, err := j.Retry(t.Context(), seq, "test"); len(names) != 0 || !errors.Is(err, ErrBacklog) {
		t.Fatalf("it waits again for %q, err = %v", names, err)
	}
	if n := drain(t, j, 0); n != 1 {
		t.Fatalf("%d delivered", n)
	}
	drain(t, j, 1)
	if names, err := j.Retry(t.Context(), seq, "test"); err != nil || len(names) != 1 || names[0] != "oem" {
		t.Fatalf("it waits again for %q, err = %v", names, err)
	}
	if n := drain(t, j, 1); n != 1 {
		t.Fatalf("%d delivered", n)
	}
}
