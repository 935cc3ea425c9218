package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

func TestFlagsAreChecked(t *testing.T) {
	o, err := parse(strings.Fields("--short --rate 1000 --swaps 7 --kills 3 --seed 9"))
	if err != nil || !o.short || o.rate != 1000 || o.seed != 9 || o.count(o.swaps, shortSwaps) != shortSwaps {
		t.Errorf("%v %+v", err, o)
	}
	for _, bad := range []string{"--rate 10", "--swaps 0", "--kills -1", "--kills 10001", "extra", "--rate x"} {
		if _, err := parse(strings.Fields(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestAMarkIsReplacedWhereItStandsOnce(t *testing.T) {
	if got, err := stamped([]byte{9, 1, 2, 3, 4, 9}, 0x04030201, 0x0A0B0C0D); err != nil || !bytes.Equal(got, []byte{9, 0x0D, 0x0C, 0x0B, 0x0A, 9}) {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range [][]byte{{1, 2, 3}, {1, 2, 3, 4, 1, 2, 3, 4}} {
		if _, err := stamped(bad, 0x04030201, 7); err == nil {
			t.Errorf("%v is stamped", bad)
		}
	}
}

// history is a gate's records: set 10 with serial 1, set 20 with serial 2, set 30 with serial 3.
func history() (l *ledger, change func(set, serial uint64), decide func(set uint64, p gateway.PluginOutcome, state gateway.State)) {
	l = newLedger(map[uint64]manner{1: ordinary, 2: ordinary, 3: blocks, 4: traps})
	at := time.UnixMilli(1000)
	change = func(set, serial uint64) {
		at = at.Add(5 * time.Millisecond)
		l.add(&gateway.Record{Kind: gateway.ChangeRecord, Set: set, Time: at,
			Detail: []byte(`{"change":"version set","plugins":[{"name":"verdict","serial":` + string(rune('0'+serial)) + `}]}`)})
	}
	decide = func(set uint64, p gateway.PluginOutcome, state gateway.State) {
		l.add(&gateway.Record{Kind: gateway.DecisionRecord, Set: set, Plugins: []gateway.PluginOutcome{p}, Outcomes: []gateway.Outcome{{State: state, Action: gateway.Pass}}})
	}
	return l, change, decide
}

func TestVerdictsAreThoseOfTheirVersion(t *testing.T) {
	l, change, decide := history()
	one, two := gateway.PluginOutcome{Action: gateway.Pass, Reason: 1, Edits: 2}, gateway.PluginOutcome{Action: gateway.Pass, Reason: 2}
	change(10, 1)
	decide(10, one, gateway.Waiting)
	change(20, 2)
	decide(10, one, gateway.Waiting) // in hand
	decide(20, two, gateway.Waiting)
	decide(20, gateway.PluginOutcome{Action: gateway.Block, Reason: 2}, gateway.Blocked)
	change(30, 3)
	decide(30, gateway.PluginOutcome{Action: gateway.Block, Reason: 3, Edits: 1}, gateway.Blocked)
	change(40, 4)
	decide(40, gateway.PluginOutcome{Action: gateway.Block, Failed: true}, gateway.Blocked)
	change(50, 2)
	l.add(&gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{"event":"plugin refused","why":"unsigned"}`)})
	if l.wrong != 0 || l.undecided != 0 || l.decisions != 6 || l.waiting != 3 || l.behind != 1 || len(l.versions) != 4 || l.events["plugin refused unsigned"] != 1 {
		t.Errorf("%+v", l)
	}
	if n, took := l.reign(3); n != 1 || took != 5*time.Millisecond {
		t.Errorf("%d decisions in %v", n, took)
	}
	if n, _ := l.reign(1); n != 2 {
		t.Errorf("%d decisions of serial 1", n)
	}
}

// TestWrongVerdictsAreFoundOut checks the check.
func TestWrongVerdictsAreFoundOut(t *testing.T) {
	good := gateway.PluginOutcome{Action: gateway.Pass, Reason: 2}
	for name, c := range map[string]struct {
		set    uint64
		p      gateway.PluginOutcome
		state  gateway.State
		serial uint64
	}{
		"a set that is not on the record":  {99, good, gateway.Waiting, 2},
		"a set from before the last":       {10, gateway.PluginOutcome{Action: gateway.Pass, Reason: 1, Edits: 1}, gateway.Waiting, 2},
		"another version's reason":         {30, gateway.PluginOutcome{Action: gateway.Pass, Reason: 1}, gateway.Waiting, 2},
		"another version's edits":          {30, gateway.PluginOutcome{Action: gateway.Pass, Reason: 2, Edits: 1}, gateway.Waiting, 2},
		"a failure":                        {30, gateway.PluginOutcome{Action: gateway.Block, Reason: 2, Failed: true}, gateway.Blocked, 2},
		"a block that left":                {30, gateway.PluginOutcome{Action: gateway.Block, Reason: 2}, gateway.Waiting, 2},
		"no block, and it stayed":          {30, good, gateway.Blocked, 2},
		"an odd one that blocks":           {30, gateway.PluginOutcome{Action: gateway.Block, Reason: 1, Edits: 1}, gateway.Blocked, 1},
		"one that blocks everything, pass": {30, gateway.PluginOutcome{Action: gateway.Pass, Reason: 3, Edits: 1}, gateway.Waiting, 3},
		"a trap that left":                 {30, gateway.PluginOutcome{Action: gateway.Block, Failed: true}, gateway.Waiting, 4},
		"no version at all":                {30, gateway.PluginOutcome{Action: gateway.Block, Failed: true}, gateway.Blocked, 0},
	} {
		l, change, decide := history()
		change(10, 1)
		change(20, 2)
		change(30, c.serial)
		decide(c.set, c.p, c.state)
		if l.wrong != 1 || l.example == "" {
			t.Errorf("%s: %d wrong (%s)", name, l.wrong, l.example)
		}
	}
	l, change, _ := history()
	change(10, 2)
	l.add(&gateway.Record{Kind: gateway.DecisionRecord, Set: 10, Plugins: []gateway.PluginOutcome{good}})
	l.add(&gateway.Record{Kind: gateway.DecisionRecord, Set: 10, Plugins: []gateway.PluginOutcome{good}, Outcomes: []gateway.Outcome{{State: gateway.Held, Action: gateway.Hold}}})
	if l.undecided != 2 {
		t.Errorf("%d undecided", l.undecided)
	}
}

func TestMessagesSentAroundALoadAreTheLoads(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	windows := []window{{at(100), at(120)}, {at(200), at(220)}}
	sent := [][2]int{{5, 150}, {50, 300}, {89, 101}, {90, 95}, {110, 115}, {120, 370}, {121, 199}, {190, 200}, {221, 222}}
	during, outside := split(func(fn func(sent, acked time.Time)) {
		for _, m := range sent {
			fn(at(m[0]), at(m[1]))
		}
	}, windows, at(10))
	if len(during) != 4 || len(outside) != 4 {
		t.Errorf("%v %v", during, outside)
	}
	if q := quantile(during, 1); q != 250*time.Millisecond || quantile(nil, 0.5) != 0 {
		t.Errorf("%v", q)
	}
}

func TestTheTableSaysWhatDidNotHold(t *testing.T) {
	l, _, _ := history()
	l.decisions, l.waiting = 90, 80
	s := &summary{done: true}
	s.counts("swap", l, 100, 79)
	var b strings.Builder
	s.table(&b)
	if s.good() || !strings.Contains(b.String(), "11 ") || strings.Count(b.String(), "NOT HELD") != 1 {
		t.Errorf("\n%s", &b)
	}
	s = &summary{done: true}
	if s.counts("swap", l, 90, 80); !s.good() {
		t.Errorf("%+v", s)
	}
	if s.done = false; s.good() {
		t.Error("what was not done is good")
	}
}
