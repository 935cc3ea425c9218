package journal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// appendMany appends n messages of size bytes for the uplinks, one by one, and returns what waits for their commits.
func appendMany(j *Journal, n, size int, waits gateway.UplinkSet) (*sync.WaitGroup, *atomic.Int64) {
	var wg sync.WaitGroup
	var committed atomic.Int64
	wg.Add(n)
	for range n {
		j.Append([]*gateway.Entry{message(j, "bench", gateway.General, waits, 0, 0, "v1", make([]byte, size))}, func(_ uint64, err error) {
			if err == nil {
				committed.Add(1)
			}
			wg.Done()
		})
	}
	return &wg, &committed
}

// awaitFull waits for the journal to be full.
func awaitFull(t *testing.T, j *Journal) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !j.Full(); {
		if time.Now().After(deadline) {
			t.Fatal("the journal does not get full")
		}
		j.mu.Lock()
		j.waiters++
		changed := j.changed
		j.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestAFullJournalTakesDeliveriesAndThenTheRest(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MaxSize = 8 << 20
	j := openTest(t, o)
	const n = 400
	wg, committed := appendMany(j, n, 64<<10, 0b11)
	awaitFull(t, j)
	event := gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})
	commit(t, j, &gateway.Entry{Record: event}) // overtakes the messages
	if got := j.bodyBytes.Load(); got > o.MaxSize+groupBytes || committed.Load() >= n {
		t.Fatalf("%d bytes, %d committed", got, committed.Load())
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for settled := false; !settled; { // two uplinks, one half as fast
		for u, most := range []int{40, 20} {
			f, out := read(t, j, u, most)
			forward(t, f, out)
		}
		select {
		case <-done:
			settled = true
		default:
		}
	}
	if committed.Load() != n {
		t.Fatalf("%d committed", committed.Load())
	}
	drain(t, j, 0)
	drain(t, j, 1)
	if got := j.Totals(); got.Forwarded != n || !got.Identity() {
		t.Fatalf("totals %+v", got)
	}
	j.Close()
	mustCheck(t, o.Dir)
}

func TestAFullAuditStopsMessagesOnly(t *testing.T) {
	o := testOptions(t.TempDir())
	o.AuditMaxSize = 64 << 10
	j := openTest(t, o)
	wg, _ := appendMany(j, 2000, 10, 1)
	awaitFull(t, j)
	if n := drain(t, j, 0); n == 0 || n == 2000 {
		t.Fatalf("%d delivered", n)
	}
	j.Close()
	wg.Wait()
	if r := mustCheck(t, o.Dir); r.Totals.Waiting != 0 {
		t.Fatalf("totals %+v", r.Totals)
	}
}

// faultyCommit fails commits while it is told to: before they happen or after, as far as the disk is concerned.
type faultyCommit struct {
	fail  atomic.Bool
	after atomic.Bool
}

func (f *faultyCommit) commit(tx *bbolt.Tx) error {
	if f.fail.Load() && f.after.Load() {
		if err := tx.Commit(); err != nil {
			return err
		}
		return syscall.EIO
	}
	if f.fail.Load() {
		return syscall.ENOSPC
	}
	return tx.Commit()
}

func TestAFailedCommitIsDoneAgainInAnotherSegment(t *testing.T) {
	for name, after := range map[string]bool{"nothing was written": false, "all was written": true} {
		t.Run(name, func(t *testing.T) {
			var f faultyCommit
			f.after.Store(after)
			o := testOptions(t.TempDir())
			o.commit = f.commit
			retries := make(chan func(), 64)
			o.after = func(_ time.Duration, fn func()) *time.Timer {
				retries <- fn
				return time.NewTimer(time.Hour)
			}
			j := openTest(t, o)
			commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1/before", nil))
			f.fail.Store(true)
			wg, committed := appendMany(j, 5, 100, 1)
			(<-retries)() // it failed once, and fails again
			again := <-retries
			if j.Writable() || !j.Full() || committed.Load() != 0 {
				t.Fatal("a failed commit is not noticed")
			}
			f.fail.Store(false)
			stop := make(chan struct{})
			go func() {
				again()
				for {
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
			if committed.Load() != 5 {
				t.Fatalf("%d committed", committed.Load())
			}
			if n := drain(t, j, 0); n != 6 {
				t.Fatalf("%d delivered", n)
			}
			if got := j.Totals(); got.Forwarded != 6 || !j.Writable() {
				t.Fatalf("totals %+v", got)
			}
			j.Close()
			mustCheck(t, o.Dir)
			j = openTest(t, o)
			if got := j.Totals(); got.Forwarded != 6 {
				t.Fatalf("totals after reopening %+v", got)
			}
		})
	}
}

func TestCloseGivesUpWhatCannotBeWritten(t *testing.T) {
	var f faultyCommit
	o := testOptions(t.TempDir())
	o.commit = f.commit
	j := openTest(t, o)
	f.fail.Store(true)
	failed := make(chan error, 1)
	j.Append([]*gateway.Entry{message(j, "bench", gateway.General, 1, 0, 0, "v1", nil)}, func(_ uint64, err error) { failed <- err })
	j.Close()
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Fatalf("err = %v", err)
	}
	late := make(chan error, 1)
	j.Append([]*gateway.Entry{{Record: []byte{1, 6, 0}}}, func(_ uint64, err error) { late <- err })
	if err := <-late; !errors.Is(err, ErrClosed) {
		t.Fatalf("err = %v", err)
	}
	mustCheck(t, o.Dir)
}

func TestAwaitEndsWithACommitItsContextOrTheJournal(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	ended := make(chan error)
	f := j.Feed(3)
	go func() { ended <- f.Await(context.Background()) }()
	commit(t, j, message(j, "bench", gateway.General, 1<<3, 0, 0, "v1", nil))
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if out, err := f.Next(10, 1<<20, nil); err != nil || len(out) != 1 {
		t.Fatalf("%d handed out, %v", len(out), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Await(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v", err)
	}
	go func() { ended <- f.Await(context.Background()) }()
	j.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Fatalf("err = %v", err)
	}
}

func TestAFullDiskStillRecordsDeliveries(t *testing.T) {
	o := testOptions(t.TempDir())
	reserve := filepath.Join(o.Dir, reserveFile)
	var full atomic.Bool
	o.commit = func(tx *bbolt.Tx) error { // the disk has as much room as the reserve gives up
		if _, err := os.Stat(reserve); full.Load() && err == nil {
			return syscall.ENOSPC
		}
		return tx.Commit()
	}
	o.openFile = func(name string, flag int, perm os.FileMode) (*os.File, error) {
		if full.Load() && name == reserve {
			return nil, syscall.ENOSPC
		}
		return os.OpenFile(name, flag, perm)
	}
	retries := make(chan func(), 1024)
	o.after = func(_ time.Duration, fn func()) *time.Timer {
		retries <- fn
		return time.NewTimer(time.Hour)
	}
	j := openTest(t, o)
	commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
	full.Store(true)
	wg, committed := appendMany(j, 3, 100, 1)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case fn := <-retries:
				fn()
			case <-stop:
				return
			}
		}
	}()
	if n := drain(t, j, 0); n != 1 || committed.Load() != 0 || !j.Full() {
		t.Fatalf("%d delivered, %d committed", n, committed.Load())
	}
	full.Store(false)
	wg.Wait()
	close(stop)
	if _, err := os.Stat(reserve); err != nil || j.Full() || committed.Load() != 3 {
		t.Fatalf("%d committed, reserve: %v", committed.Load(), err)
	}
	j.Close()
	mustCheck(t, o.Dir)
}

func TestAFullDiskStillLetsDrainedSegmentsGo(t *testing.T) {
	o := testOptions(t.TempDir())
	o.SegmentSize = 1 << 20
	reserve := filepath.Join(o.Dir, reserveFile)
	o.openFile = func(name string, flag int, perm os.FileMode) (*os.File, error) {
		if _, err := os.Stat(reserve); strings.HasSuffix(name, arcSuffix+tmpSuffix) && err == nil {
			return nil, syscall.ENOSPC
		}
		return os.OpenFile(name, flag, perm)
	}
	archived := make(chan struct{}, 16)
	o.step = func(name string) {
		if name == "unlinked" {
			archived <- struct{}{}
		}
	}
	j := openTest(t, o)
	wg, _ := appendMany(j, 40, 64<<10, 1)
	wg.Wait()
	drain(t, j, 0)
	<-archived
	j.Close()
	mustCheck(t, o.Dir)
}
