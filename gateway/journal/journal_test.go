package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

var testKey = Key{ID: 7, Secret: [32]byte{1, 2, 3}}

func testOptions(dir string) Options {
	return Options{Dir: dir, Keys: []Key{testKey}, MaxSize: 64 << 20, AuditMaxSize: 64 << 20, Clock: func() (time.Time, bool) { return time.UnixMilli(1_790_000_000_000), true }}
}

func openTest(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// message makes an entry with its record: it waits for the uplinks of waits, is held for those of holds and blocked
// for those of blocks.
func message(j *Journal, source string, grade gateway.Grade, waits, holds, blocks gateway.UplinkSet, topic string, payload []byte) *gateway.Entry {
	id := j.NextID()
	number, err := j.Number(kindSource, source)
	if err != nil {
		panic(err)
	}
	r := gateway.Record{Kind: gateway.DecisionRecord, Time: time.UnixMilli(1_790_000_000_000), Trusted: true, ID: id, Set: 1, Source: uint16(number), Grade: grade, Received: time.UnixMilli(1_790_000_000_000)}
	for u := range gateway.MaxUplinks {
		o := gateway.Outcome{Uplink: uint8(u), Action: gateway.Pass, Reason: gateway.ReasonPolicy}
		switch {
		case waits.Has(u):
			o.State = gateway.Waiting
		case holds.Has(u):
			o.State, o.Action = gateway.Held, gateway.Hold
		case blocks.Has(u):
			o.State, o.Action = gateway.Blocked, gateway.Block
		default:
			continue
		}
		r.Outcomes = append(r.Outcomes, o)
	}
	e := &gateway.Entry{Record: gateway.AppendRecord(nil, &r), ID: id, Source: source, Grade: grade, Waits: waits, Holds: holds, Blocks: blocks, QoS: 1}
	if waits != 0 {
		e.Outlets = append(e.Outlets, gateway.Outlet{Uplinks: waits, Topic: topic, Payload: payload})
	}
	if holds != 0 {
		e.Outlets = append(e.Outlets, gateway.Outlet{Uplinks: holds, Hold: true, Payload: payload})
	}
	return e
}

// prioritized gives an entry of message a priority.
func prioritized(e *gateway.Entry, priority byte) *gateway.Entry {
	var r gateway.Record
	if err := gateway.DecodeRecord(e.Record, &r); err != nil {
		panic(err)
	}
	for i := range r.Outcomes {
		if r.Outcomes[i].State == gateway.Waiting {
			r.Outcomes[i].Priority = priority
		}
	}
	e.Record = gateway.AppendRecord(nil, &r)
	for i := range e.Outlets {
		if !e.Outlets[i].Hold {
			e.Outlets[i].Priority = priority
		}
	}
	return e
}

// commit appends entries and waits for the commit.
func commit(t testing.TB, j *Journal, entries ...*gateway.Entry) uint64 {
	t.Helper()
	type result struct {
		first uint64
		err   error
	}
	c := make(chan result, 1)
	j.Append(entries, func(first uint64, err error) { c <- result{first, err} })
	r := <-c
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.first
}

// read hands out up to most messages that wait for the uplink, from a new feed.
func read(t testing.TB, j *Journal, uplink, most int) (gateway.Feed, []*gateway.Outbound) {
	t.Helper()
	f := j.Feed(uplink)
	var out []*gateway.Outbound
	for len(out) < most {
		n := len(out)
		var err error
		if out, err = f.Next(most-n, 1<<30, out); err != nil {
			t.Fatal(err)
		}
		if len(out) == n {
			break
		}
	}
	return f, out
}

// forward settles what a feed handed out as forwarded.
func forward(t testing.TB, f gateway.Feed, list []*gateway.Outbound) {
	t.Helper()
	if err := f.Settle(context.Background(), list, gateway.Forwarded, ""); err != nil {
		t.Fatal(err)
	}
}

// drain delivers everything that waits for the uplink and returns how much it was.
func drain(t testing.TB, j *Journal, uplink int) (n int) {
	t.Helper()
	f := j.Feed(uplink)
	for {
		out, err := f.Next(256, 1<<30, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) == 0 {
			return n
		}
		forward(t, f, out)
		n += len(out)
	}
}

func TestWhatIsAppendedIsReadInOrderAndCounted(t *testing.T) {
	o := testOptions(t.TempDir())
	j := openTest(t, o)
	a := message(j, "bench", gateway.Important, 0b01, 0, 0b10, "v1/a", []byte("one"))
	b := message(j, "bench", gateway.General, 0b11, 0, 0, "v1/b", []byte("two"))
	c := message(j, "bench", gateway.Core, 0, 0b01, 0b10, "", []byte("sealed"))
	d := message(j, "bench", gateway.Core, 0, 0, 0b11, "", nil)
	if first := commit(t, j, a, b, c, d); first != 2 {
		t.Fatalf("first seq = %d, want 2: record 0 is the journal's own, record 1 the number of the source", first)
	}
	want := gateway.Totals{Received: 4, Waiting: 2, Held: 1, Blocked: 1}
	if got := j.Totals(); got != want {
		t.Fatalf("totals = %+v", got)
	}
	_, out := read(t, j, 0, 10)
	if len(out) != 2 || out[0].Topic != "v1/a" || string(out[1].Payload) != "two" || out[1].ID != b.ID || out[1].Seq != 3 || out[0].QoS != 1 || out[0].Source != "bench" || out[1].Waits != 0b11 {
		t.Fatalf("read %+v", out)
	}
	if n := drain(t, j, 1); n != 1 {
		t.Fatalf("uplink 1 had %d", n)
	}
	if got := j.Totals(); got != want {
		t.Fatalf("totals after one of two uplinks = %+v", got)
	}
	drain(t, j, 0)
	want = gateway.Totals{Received: 4, Forwarded: 2, Held: 1, Blocked: 1}
	if got := j.Totals(); got != want || !got.Identity() {
		t.Fatalf("totals = %+v", got)
	}
	tally := j.Tally()
	key := gateway.TallyKey{Source: "bench", Uplink: "uplink-0", Grade: gateway.Core, State: gateway.Held}
	if tally[key] != 1 {
		t.Fatalf("tally = %v", tally)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openTest(t, o)
	if got := j.Totals(); got != want || j.Waiting(0).Messages != 0 || j.Waiting(1).Messages != 0 {
		t.Fatalf("after reopening: totals %+v, waiting %+v %+v", got, j.Waiting(0), j.Waiting(1))
	}
}

func TestASecondWriterIsToldThatTheFolderIsInUse(t *testing.T) {
	o := testOptions(t.TempDir())
	openTest(t, o)
	if _, err := Open(o); err == nil || !bytes.Contains([]byte(err.Error()), []byte(ErrLocked.Error())) {
		t.Fatalf("err = %v", err)
	}
	if _, err := OpenReadOnly(o.Dir, o.Keys); err == nil {
		t.Fatal("opened beside a writer")
	}
}

func BenchmarkAppend(b *testing.B) {
	o := testOptions(b.TempDir())
	o.MaxSize, o.AuditMaxSize = 1<<40, 1<<40
	j := openTest(b, o)
	const callers, batch = 8, 64
	b.SetBytes(1024)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			payload := make([]byte, 1024)
			list := make([]*gateway.Entry, batch)
			for i := range list {
				list[i] = message(j, fmt.Sprint("source-", c), gateway.General, 1, 0, 0, "v1/vehicle/telemetry", payload)
			}
			window := make(chan struct{}, 4)
			for n := c * batch; n < b.N; n += callers * batch {
				window <- struct{}{}
				j.Append(list, func(uint64, error) { <-window })
			}
			for range cap(window) {
				window <- struct{}{}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(j.WrittenBytes())/float64(b.N*1024), "written/body")
}

func BenchmarkRead(b *testing.B) {
	j := openTest(b, testOptions(b.TempDir()))
	var list []*gateway.Entry
	for i := range 8192 {
		p := make([]byte, 1024)
		binary.BigEndian.PutUint64(p, uint64(i))
		list = append(list, message(j, "bench", gateway.General, 1, 0, 0, "v1/vehicle/telemetry", p))
	}
	commit(b, j, list...)
	b.SetBytes(1024)
	b.ReportAllocs()
	var out []*gateway.Outbound
	f := j.Feed(0)
	for n := 0; n < b.N; n += len(out) {
		if out, _ = f.Next(256, 1<<20, out[:0]); len(out) == 0 {
			f = j.Feed(0)
		}
	}
}
