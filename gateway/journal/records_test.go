package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// longJournal makes a journal of several archives and segments with 1000 messages, of which the later half waits.
func longJournal(t *testing.T) (*Journal, Options) {
	t.Helper()
	o := testOptions(t.TempDir())
	o.SegmentSize, o.Sign, o.CheckpointCount = 1<<20, testSign, 64
	j := openTest(t, o)
	if _, err := j.Number(kindUplink, "tsp"); err != nil {
		t.Fatal(err)
	}
	for half := range 2 {
		for range 50 {
			var list []*gateway.Entry
			for range 10 {
				list = append(list, message(j, "bench", gateway.Important, 1, 0, 0, "v1/t", make([]byte, 5000)))
			}
			commit(t, j, list...)
		}
		if half == 0 {
			drain(t, j, 0)
		}
	}
	return j, o
}

func TestEveryRecordCanBeProved(t *testing.T) {
	j, o := longJournal(t)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openTest(t, o)
	if st := j.Stat(); st.Archives == 0 || st.Segments == 0 {
		t.Fatalf("stat %+v", st)
	}
	size, root := j.Root()
	records := make([][]byte, 0, size)
	err := j.Records(0, func(seq uint64, record []byte) error {
		if seq == size {
			return errStop
		}
		if seq != uint64(len(records)) {
			t.Fatalf("record %d follows %d", seq, len(records)-1)
		}
		records = append(records, bytes.Clone(record))
		return nil
	})
	if err != nil || uint64(len(records)) != size {
		t.Fatalf("%d of %d records, %v", len(records), size, err)
	}
	for seq := uint64(0); seq < size; seq += 97 {
		p, err := tlog.ProveRecord(int64(size), int64(seq), j)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, int64(size), root, int64(seq), tlog.RecordHash(records[seq])); err != nil {
			t.Fatalf("record %d: %v", seq, err)
		}
	}
	var last uint64
	n := 0
	err = j.Checkpoints(func(size uint64, text []byte) error {
		stated, root, err := testVerify(text)
		if err != nil || stated != size || size <= last {
			t.Fatalf("checkpoint of size %d: %d, %v", size, stated, err)
		}
		if h, err := tlog.TreeHash(int64(size), j); err != nil || h != root {
			t.Fatalf("checkpoint of size %d: wrong root, %v", size, err)
		}
		last = size
		n++
		return nil
	})
	if err != nil || n < 8 || last < 1000 {
		t.Fatalf("%d checkpoints up to %d, %v", n, last, err)
	}
}

func TestEverythingIsMadeAgainFromTheRecords(t *testing.T) {
	j, o := longJournal(t)
	totals, waiting := j.Totals(), j.Waiting(0)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(o.Dir, stateFile)); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, o.Dir)
	j = openTest(t, o)
	if j.Totals() != totals || j.Waiting(0) != waiting {
		t.Fatalf("totals %+v, waiting %+v", j.Totals(), j.Waiting(0))
	}
	if n, err := j.Number(kindUplink, "tsp"); err != nil || n != 0 || len(j.names.list[kindSource]) == 0 {
		t.Fatalf("the uplink has number %d, %v", n, err)
	}
}

func TestWhatWaitsIsListedWithoutItsContent(t *testing.T) {
	j, o := longJournal(t)
	j.Close()
	j, err := OpenReadOnly(o.Dir, o.Keys)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	list, err := j.List(7)
	if err != nil || len(list) != 7 {
		t.Fatalf("%d listed, %v", len(list), err)
	}
	first := list[0]
	if first.Source != "bench" || first.Grade != "important" || len(first.Uplinks) != 1 || first.Uplinks[0] != "tsp" || first.Size != 5004 || first.ID == "" {
		t.Fatalf("first %+v", first)
	}
	if list, err = j.List(1 << 20); err != nil || uint64(len(list)) != j.Totals().Waiting {
		t.Fatalf("%d listed, %v", len(list), err)
	}
	if _, err := j.Number(kindUplink, "new"); err != ErrReadOnly {
		t.Fatalf("err = %v", err)
	}
	done := make(chan error, 1)
	j.Append(nil, func(_ uint64, err error) { done <- err })
	if err := <-done; err != ErrReadOnly {
		t.Fatalf("err = %v", err)
	}
}

func TestAnEntryThatContradictsItselfIsRefused(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	for name, spoil := range map[string]func(e *gateway.Entry){
		"no record":                  func(e *gateway.Entry) { e.Record = nil },
		"a decision without source":  func(e *gateway.Entry) { e.Source = "" },
		"an uplink without a body":   func(e *gateway.Entry) { e.Waits |= 1 << 5 },
		"a hold that does not hold":  func(e *gateway.Entry) { e.Outlets[0].Hold = true },
		"one uplink twice":           func(e *gateway.Entry) { e.Outlets = append(e.Outlets, e.Outlets[0]) },
		"an outlet for nobody":       func(e *gateway.Entry) { e.Outlets[0].Uplinks = 0 },
		"a topic that is too long":   func(e *gateway.Entry) { e.Outlets[0].Topic = string(make([]byte, 1<<16)) },
		"a delivery of the caller's": func(e *gateway.Entry) { e.Source, e.Record = "", []byte{1, byte(gateway.DeliveryRecord), 0} },
	} {
		t.Run(name, func(t *testing.T) {
			e := message(j, "bench", gateway.General, 1, 0, 0, "v1", nil)
			spoil(e)
			done := make(chan error, 1)
			j.Append([]*gateway.Entry{e}, func(_ uint64, err error) { done <- err })
			if err := <-done; err == nil {
				t.Fatal("accepted")
			}
		})
	}
	if j.Size() != 2 { // the journal's own, and the number of the source
		t.Fatalf("%d records", j.Size())
	}
}

func TestUplinksAreNumberedForEverAndBounded(t *testing.T) {
	o := testOptions(t.TempDir())
	j := openTest(t, o)
	for i := range gateway.MaxUplinks {
		if n, err := j.Number(kindUplink, string(rune('a'+i))); err != nil || n != i {
			t.Fatalf("number %d, %v", n, err)
		}
	}
	if _, err := j.Number(kindUplink, "one more"); err == nil {
		t.Fatal("accepted")
	}
	j.Close()
	j = openTest(t, o)
	if n, err := j.Number(kindUplink, "d"); err != nil || n != 3 {
		t.Fatalf("number %d, %v", n, err)
	}
}

func TestOnlyWhatWasHandedOutIsSettled(t *testing.T) {
	j := openTest(t, testOptions(t.TempDir()))
	for range 4 {
		commit(t, j, message(j, "bench", gateway.General, 1, 0, 0, "v1", nil))
	}
	f, out := read(t, j, 0, 3)
	_, all := read(t, j, 0, 4)
	for name, list := range map[string][]*gateway.Outbound{
		"one was not handed out":    {out[0], all[3]},
		"one is not there":          {out[0], out[1], {Seq: 99}},
		"another feed has all four": all,
	} {
		if err := f.Settle(t.Context(), list, gateway.Forwarded, ""); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, st := range []gateway.State{gateway.Waiting, gateway.Expired, gateway.NoState} {
		if err := f.Settle(t.Context(), out[:1], st, ""); err == nil {
			t.Errorf("state %s: accepted", st)
		}
	}
	forward(t, f, []*gateway.Outbound{out[2], out[0], out[0]}) // out of order, and twice
	if got := j.Totals(); got.Forwarded != 2 || got.Waiting != 2 {
		t.Fatalf("totals %+v", got)
	}
	forward(t, f, out) // again, and one more
	if got := j.Totals(); got.Forwarded != 3 || got.Waiting != 1 || !got.Identity() {
		t.Fatalf("totals %+v", got)
	}
}

// BenchmarkOpen opens a journal of 100,000 messages that wait, with its state and with all of it lost.
func BenchmarkOpen(b *testing.B) {
	o := testOptions(b.TempDir())
	o.MaxSize, o.AuditMaxSize = 1<<40, 1<<40
	j := openTest(b, o)
	for range 100 {
		var list []*gateway.Entry
		for range 1000 {
			list = append(list, message(j, "bench", gateway.General, 1, 0, 0, "v1/vehicle/telemetry", make([]byte, 1024)))
		}
		commit(b, j, list...)
	}
	j.Close()
	for _, lost := range []bool{false, true} {
		b.Run(fmt.Sprintf("state lost %v", lost), func(b *testing.B) {
			for b.Loop() {
				if lost {
					os.Remove(filepath.Join(o.Dir, stateFile))
				}
				j, err := Open(o)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				j.Close()
				b.StartTimer()
			}
		})
	}
}
