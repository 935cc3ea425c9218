package wasm

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// trackguard counts at most one position an hour; the last category is one that it counts.
var trackguard = &reference{name: "trackguard", edits: map[uint32]EditConfig{1: {Action: "generalize", Decimals: new(int)}},
	counts:     map[string]CountConfig{"track": {Category: "VEH-LOC-*", Above: 1, Per: time.Hour}},
	categories: []gateway.Category{{ID: "VEH-ID-VIN"}, {ID: "VEH-LOC-POINT"}, {ID: "VEH-LOC-DEST"}, {ID: "VEH-LOC-TRACK"}}}

func TestTrackguardCases(t *testing.T) { trackguard.run(t) }

func TestTrackguardRefusesBadConfigurations(t *testing.T) { trackguard.refuses(t, nil) }

// newCounter is one of a fresh set of counts, for so many devices.
func newCounter(per time.Duration, most int) *counter {
	k := new(Counts).take(countKey{per: per})
	k.most = most
	return k
}

var began = time.UnixMilli(1_700_000_000_000)

// message is number n of a device, so long after the first.
func numbered(device string, n uint64, after time.Duration) *gateway.Message {
	return &gateway.Message{ID: gateway.ID{Incarnation: 1, Counter: n}, Source: "s", Client: device, Received: began.Add(after)}
}

// In no stretch of the length do more positions stay within the count than it says, whatever the messages; and after it some do again.
func TestNoStretchHasMoreThanTheCount(t *testing.T) {
	k := newCounter(time.Hour, 10)
	var within []time.Duration
	n := uint64(0)
	for after := time.Duration(0); after < 10*time.Hour; after += 7*time.Minute + 13*time.Second {
		for range 3 {
			n++
			if !k.beyond(numbered("a", n, after), 2, 9, true) {
				within = append(within, after, after)
			}
		}
	}
	for i := range within {
		if j := i + 9; j < len(within) && within[j]-within[i] < time.Hour {
			t.Fatalf("ten positions between %v and %v", within[i], within[j])
		}
	}
	if len(within) < 8*8 {
		t.Errorf("%d positions in ten hours; the count gives back too little", len(within))
	}
}

// A clock that goes backwards, or there and back, gives nothing free.
func TestClockBackwardsGivesNothing(t *testing.T) {
	k := newCounter(time.Hour, 10)
	within := 0
	for i, after := range []time.Duration{0, 0, -30 * time.Minute, -48 * time.Hour, 10 * time.Minute, -72 * time.Hour, 30 * time.Minute, 59 * time.Minute} {
		if !k.beyond(numbered("a", uint64(i+1), after), 1, 2, true) {
			within++
		}
	}
	if within != 2 {
		t.Errorf("%d positions within an hour; want 2", within)
	}
	if k.beyond(numbered("a", 99, 66*time.Minute), 1, 2, true) {
		t.Error("after more than the hour there is still nothing left")
	}
}

// One message is counted once, whoever asks, and a shadow run counts nothing.
func TestOneMessageCountsOnce(t *testing.T) {
	k := newCounter(time.Hour, 10)
	for range 5 {
		if k.beyond(numbered("a", 1, 0), 1, 2, true) {
			t.Fatal("asked again, the first message is beyond the count")
		}
	}
	for n := range uint64(5) {
		if k.beyond(numbered("a", 10+n, 0), 1, 2, false) {
			t.Fatal("shadow runs count")
		}
	}
	if k.beyond(numbered("a", 2, 0), 1, 2, true) {
		t.Error("the second message is beyond the count")
	}
	for range 2 {
		if !k.beyond(numbered("a", 3, 0), 1, 2, true) {
			t.Error("the third message is within the count")
		}
	}
	if k.beyond(numbered("b", 4, 0), 1, 2, true) {
		t.Error("devices share a count")
	}
	other := numbered("a", 5, 0)
	if other.Source = "t"; k.beyond(other, 1, 2, true) {
		t.Error("sources share a count")
	}
	for i := range 3 { // without an id, nothing tells copies apart
		if m := (&gateway.Message{Client: "c", Received: began}); k.beyond(m, 1, 2, true) != (i == 2) {
			t.Errorf("message %d without an id", i)
		}
	}
}

// When the places are taken, the messages of other devices are beyond the count, until a device has nothing left to remember.
func TestFullCountsFailClosed(t *testing.T) {
	k := newCounter(time.Hour, 100)
	for i := range 100 {
		if k.beyond(numbered(fmt.Sprint(i), uint64(i+1), 0), 1, 1, true) {
			t.Fatal("no place for device", i)
		}
	}
	for i := range 1000 {
		if !k.beyond(numbered(fmt.Sprint("new", i), uint64(1000+i), 59*time.Minute), 1, 1, true) {
			t.Fatal("a device without a place is within the count")
		}
	}
	if !k.beyond(numbered("7", 5000, 59*time.Minute), 1, 1, true) {
		t.Error("a device was forgotten early")
	}
	if len(k.devices) != 100 || len(k.index) != 100 {
		t.Errorf("%d devices, %d in the index", len(k.devices), len(k.index))
	}
	if k.beyond(numbered("new", 5001, 3*time.Hour), 1, 1, true) {
		t.Error("places are not given back")
	}
	if len(k.devices) != 100 || len(k.index) != 100 {
		t.Errorf("%d devices, %d in the index", len(k.devices), len(k.index))
	}
}

// Many at once: neither more nor fewer than the count.
func TestCountsUnderHammering(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	k := newCounter(time.Hour, 10)
	var ids, within atomic.Uint64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 200 {
				if !k.beyond(numbered("a", ids.Add(1), time.Minute), 1, 500, true) {
					within.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if within.Load() != 500 {
		t.Errorf("%d positions within a count of 500", within.Load())
	}
}

// Positions count once for both halves; a message with findings but without a position counts as one.
func TestWhatACountCounts(t *testing.T) {
	n := &count{categories: []bool{false, true}}
	finding := func(category uint16) gateway.Finding { return gateway.Finding{Category: category, Pair: -1} }
	for _, c := range []struct {
		class gateway.Classification
		want  int
	}{
		{gateway.Classification{}, 0},
		{gateway.Classification{Findings: []gateway.Finding{finding(0)}}, 0},
		{gateway.Classification{Findings: []gateway.Finding{finding(0), finding(1), finding(1)}}, 1},
		{gateway.Classification{Findings: []gateway.Finding{finding(1), finding(1), finding(1)}, Positions: []gateway.Position{{LatFind: 0, LonFind: 1}}}, 1},
		{gateway.Classification{Findings: []gateway.Finding{finding(0), finding(1), finding(1), finding(1)}, Positions: []gateway.Position{{LatFind: 0, LonFind: 1}, {LatFind: 2, LonFind: 3}}}, 2},
	} {
		if got := n.amount(&c.class); got != c.want {
			t.Errorf("%+v: %d, want %d", c.class, got, c.want)
		}
	}
}

// A version that is loaded goes on with what the one before it counted, and what nobody uses is forgotten.
func TestCountsOutliveAVersion(t *testing.T) {
	data := trackguard.module(t)
	counts := new(Counts)
	env := Env{Pinned: []string{digestOf(data)}, Categories: trackguard.categories, Instances: 1, Counts: counts}
	c := PluginConfig{Name: "trackguard", Counts: trackguard.counts}
	edits := func(p *Plugin, n uint64) int {
		m, b, class := (&referenceCase{Fields: []referenceField{{"lat", []byte("1"), "VEH-LOC-POINT"}}}).message(t, trackguard.categories)
		m.ID.Counter = n
		o := noObjection()
		if err := p.Filter(m, b, class, o); err != nil {
			t.Fatal(err)
		}
		return len(o.Edits)
	}
	first := loadWith(t, c, data, env)
	if got := edits(first, 1); got != 0 {
		t.Fatalf("%d edits of the first message", got)
	}
	second := loadWith(t, c, data, env)
	first.Close()
	first.Close()
	if got := edits(second, 2); got != 1 {
		t.Errorf("%d edits after a reload; the count began anew", got)
	}
	second.Close()
	if len(counts.of) != 0 {
		t.Errorf("%d counts are left", len(counts.of))
	}
}

func TestCountsThatAreRefused(t *testing.T) {
	data := trackguard.module(t)
	for want, counts := range map[string]map[string]CountConfig{
		"waits for the count":    nil,
		"has no effect":          {"track": {"VEH-LOC-*", 1, time.Hour}, "other": {"VEH-LOC-*", 1, time.Hour}},
		"have no category":       {"track": {"VEH-XYZ", 1, time.Hour}},
		"above is not":           {"track": {"VEH-LOC-*", 0, time.Hour}},
		"per is not":             {"track": {"VEH-LOC-*", 1, time.Second}},
		"category is empty":      {"track": {"*LOC", 1, time.Hour}},
		"name of a count is not": {"Track": {"VEH-LOC-*", 1, time.Hour}},
	} {
		p, err := Load(t.Context(), PluginConfig{Name: "trackguard", Counts: counts}, data, Env{Pinned: []string{digestOf(data)}, Categories: trackguard.categories, Instances: 1})
		if err == nil {
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	p := trackguard.open(t, nil, nil)
	if !slices.Contains(p.Labels(), "count:track") {
		t.Error("the label of the count is missing")
	}
}
