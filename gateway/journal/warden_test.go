package journal

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// ageing is a journal whose time stands still until it is told to pass.
type ageing struct {
	*Journal
	o       Options
	passed  atomic.Int64
	wall    atomic.Int64
	trusted atomic.Bool
}

func newAgeing(t *testing.T, change func(o *Options)) *ageing {
	a := &ageing{o: testOptions(t.TempDir())}
	a.wall.Store(1_790_000_000_000)
	a.trusted.Store(true)
	a.o.Clock = func() (time.Time, bool) { return time.UnixMilli(a.wall.Load()), a.trusted.Load() }
	a.o.elapsed = func() time.Duration { return time.Duration(a.passed.Load()) }
	a.o.MaxAge = [4]time.Duration{gateway.General: 24 * time.Hour, gateway.Important: 240 * time.Hour}
	if change != nil {
		change(&a.o)
	}
	a.Journal = openTest(t, a.o)
	return a
}

// pass lets time pass, and the journal notice it in between.
func (a *ageing) pass(d time.Duration) {
	for _, d := range []time.Duration{min(d, pointEvery), d - min(d, pointEvery)} {
		a.passed.Add(int64(d))
		a.wall.Add(d.Milliseconds())
		a.mu.Lock()
		a.ages.add(a.led.tree.size, a.age())
		a.mu.Unlock()
	}
}

func (a *ageing) rules(t *testing.T) {
	t.Helper()
	if err := a.applyRules(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reopen closes the journal, lets time pass and opens it again; the monotonic clock starts anew.
func (a *ageing) reopen(t *testing.T, off time.Duration) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, a.o.Dir)
	a.wall.Add(off.Milliseconds())
	a.passed.Store(0)
	a.Journal = openTest(t, a.o)
}

func (a *ageing) want(t *testing.T, want gateway.Totals) {
	t.Helper()
	if got := a.Totals(); got != want || !got.Identity() {
		t.Fatalf("totals %+v, want %+v", got, want)
	}
}

func TestMessagesExpireByTheAgeOfTheirGrade(t *testing.T) {
	a := newAgeing(t, nil)
	for range 5 {
		commit(t, a.Journal, message(a.Journal, "bench", gateway.General, 0b01, 0, 0, "v1", nil), message(a.Journal, "bench", gateway.Important, 0b11, 0, 0, "v1", nil))
		a.pass(5 * time.Hour)
	}
	a.rules(t) // the oldest is 25 hours old
	a.want(t, gateway.Totals{Received: 10, Waiting: 9, Expired: 1})
	a.pass(6 * time.Hour)
	a.rules(t)
	a.want(t, gateway.Totals{Received: 10, Waiting: 8, Expired: 2})
	drain(t, a.Journal, 1)
	a.want(t, gateway.Totals{Received: 10, Waiting: 8, Expired: 2})
	a.reopen(t, 200*time.Hour) // off for 200 hours
	a.rules(t)
	a.want(t, gateway.Totals{Received: 10, Waiting: 5, Expired: 5})
	a.pass(30 * time.Hour)
	a.rules(t)
	if got := a.Totals(); got.Forwarded < 3 || got.Expired != 5 || !got.Identity() { // expired for one uplink, forwarded to the other
		t.Fatalf("totals %+v", got)
	}
	a.reopen(t, 0)
}

func TestAClockThatIsSetExpiresNothing(t *testing.T) {
	a := newAgeing(t, nil)
	commit(t, a.Journal, message(a.Journal, "bench", gateway.General, 1, 0, 0, "v1", nil))
	for _, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		a.wall.Add(jump.Milliseconds())
		a.pass(time.Hour)
		a.rules(t)
	}
	a.want(t, gateway.Totals{Received: 1, Waiting: 1})
	a.trusted.Store(false) // off, and on again without a set clock
	a.reopen(t, 100*365*24*time.Hour)
	a.rules(t)
	a.want(t, gateway.Totals{Received: 1, Waiting: 1})
	a.pass(25 * time.Hour)
	a.rules(t)
	a.want(t, gateway.Totals{Received: 1, Expired: 1})
}

func TestWhatIsOnTheWireDoesNotExpire(t *testing.T) {
	a := newAgeing(t, nil)
	for range 10 {
		commit(t, a.Journal, message(a.Journal, "bench", gateway.General, 1, 0, 0, "v1", nil))
	}
	f := a.Feed(0)
	f.Begin()
	out, err := f.Next(3, 1<<20, nil)
	if err != nil || len(out) != 3 {
		t.Fatal(err)
	}
	a.pass(48 * time.Hour)
	a.rules(t)
	a.want(t, gateway.Totals{Received: 10, Waiting: 3, Expired: 7})
	f.Return(out[1:])
	a.rules(t)
	a.want(t, gateway.Totals{Received: 10, Waiting: 1, Expired: 9})
	forward(t, f, out[:1])
	a.want(t, gateway.Totals{Received: 10, Forwarded: 1, Expired: 9})
	if out, err = f.Next(10, 1<<20, nil); err != nil || len(out) != 0 {
		t.Fatalf("%d messages are handed out although they expired, %v", len(out), err)
	}
	a.reopen(t, 0)
}

func TestControlEntriesNeverExpireNorAreDropped(t *testing.T) {
	a := newAgeing(t, nil)
	a.Limit(0, Limits{MaxBacklog: 1, DropOldest: true})
	record := gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})
	e := &gateway.Entry{Record: record, ID: a.NextID(), Control: true, Retain: true, Waits: 1, Outlets: []gateway.Outlet{{Uplinks: 1, Topic: "epoch", Payload: []byte("key")}}}
	commit(t, a.Journal, message(a.Journal, "bench", gateway.General, 1, 0, 0, "v1", nil), e, message(a.Journal, "bench", gateway.Important, 1, 0, 0, "v1", nil))
	a.pass(1000 * time.Hour)
	a.rules(t)
	if got := a.Totals(); got.Waiting != 0 || got.Received != 2 || !got.Identity() {
		t.Fatalf("totals %+v", got)
	}
	a.reopen(t, 0)
	_, out := read(t, a.Journal, 0, 10)
	if len(out) != 1 || !out[0].Control || string(out[0].Payload) != "key" {
		t.Fatalf("%d entries are left", len(out))
	}
}

func TestAnUplinkWithoutRoomDropsItsOldest(t *testing.T) {
	a := newAgeing(t, func(o *Options) { o.MaxAge = [4]time.Duration{} })
	a.Limit(1, Limits{MaxBacklog: 100 << 10, DropOldest: true})
	for range 200 {
		commit(t, a.Journal, message(a.Journal, "bench", gateway.Important, 0b11, 0, 0, "v1", make([]byte, 1000)))
		a.rules(t)
	}
	a.slots[1] <- struct{}{} // the warden does nothing meanwhile
	if w := a.Waiting(1); w.Bytes > 100<<10 || w.Bytes < 80<<10 {
		t.Fatalf("waiting %+v", w)
	}
	if w := a.Waiting(0); w.Messages != 200 {
		t.Fatalf("the other uplink: waiting %+v", w)
	}
	_, out := read(t, a.Journal, 1, 1000)
	newest := out[len(out)-1].Seq
	if uint64(len(out)) != a.Waiting(1).Messages || newest != a.Size()-1 && a.Size()-newest > 60 {
		t.Fatalf("%d handed out, up to %d of %d", len(out), newest, a.Size())
	}
	<-a.slots[1]
	drain(t, a.Journal, 0)
	n := drain(t, a.Journal, 1)
	a.want(t, gateway.Totals{Received: 200, Forwarded: 200})
	dropped := a.Tally()[gateway.TallyKey{Source: "bench", Uplink: "uplink-1", Grade: gateway.Important, State: gateway.Dropped}]
	if int(dropped)+n != 200 {
		t.Fatalf("%d dropped, %d forwarded", dropped, n)
	}
	a.reopen(t, 0)
}

func TestAnUplinkWithoutRoomThatRefusesStopsTheDevices(t *testing.T) {
	a := newAgeing(t, nil)
	a.Limit(1, Limits{MaxBacklog: 20 << 10})
	wg, committed := appendMany(a.Journal, 100, 1000, 0b10)
	awaitFull(t, a.Journal)
	if n := committed.Load(); n < 15 || n > 25 {
		t.Fatalf("%d committed", n)
	}
	a.Limit(1, Limits{})
	wg.Wait()
	if committed.Load() != 100 {
		t.Fatalf("%d committed", committed.Load())
	}
}

func TestAFullJournalDropsGeneralMessagesAndKeepsTheOthers(t *testing.T) {
	a := newAgeing(t, func(o *Options) {
		o.MaxAge, o.MaxSize, o.SegmentSize, o.DropGeneral = [4]time.Duration{}, 16<<20, 1<<20, true
	})
	const n = 3000
	for i := range n {
		g := gateway.General
		if i%10 == 0 {
			g = gateway.Important
		}
		commit(t, a.Journal, message(a.Journal, "bench", g, 0b11, 0, 0, fmt.Sprint("v1/", i), make([]byte, 20<<10)))
	}
	got := a.Totals()
	if got.Received != n || got.Dropped < n/2 || got.Waiting < n/10 || !got.Identity() {
		t.Fatalf("totals %+v", got)
	}
	a.reopen(t, 0)
	for u := range 2 {
		_, out := read(t, a.Journal, u, n)
		important := slices.DeleteFunc(out, func(o *gateway.Outbound) bool { return o.Grade != gateway.Important })
		if len(important) != n/10 {
			t.Fatalf("uplink %d: %d important messages are left", u, len(important))
		}
		for i, o := range important {
			if o.Topic != fmt.Sprint("v1/", i*10) {
				t.Fatalf("message %d is on %s", i, o.Topic)
			}
		}
	}
	drain(t, a.Journal, 0)
	drain(t, a.Journal, 1)
	if st := a.Stat(); st.Totals.Waiting != 0 || !st.Totals.Identity() {
		t.Fatalf("stat %+v", st)
	}
	a.reopen(t, 0)
}

func TestARuleIsOnTheRecord(t *testing.T) {
	a := newAgeing(t, nil)
	commit(t, a.Journal, message(a.Journal, "bench", gateway.General, 1, 0, 0, "v1", nil))
	a.pass(48 * time.Hour)
	a.rules(t)
	found := false
	var r gateway.Record
	err := a.Records(0, func(_ uint64, record []byte) error {
		if err := gateway.DecodeRecord(record, &r); err != nil {
			return err
		}
		if r.Kind == gateway.ExpiryRecord {
			found = r.State == gateway.Expired && r.Count == 1 && strings.Contains(string(r.Detail), `"why":"max_age"`)
		}
		return nil
	})
	if err != nil || !found {
		t.Fatalf("no expiry record: %v", err)
	}
}
