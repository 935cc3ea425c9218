package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// ledger is what the records say, held against what the versions are made to say.
type ledger struct {
	manners map[uint64]manner

	sets          map[uint64]uint64 // serial of the version, by number of the set
	newest, older uint64            // sets in force: the last two change records
	changes       []change
	events        map[string]int // of plugins, by "event why"

	decisions uint64
	waiting   uint64 // decisions that let the message leave
	undecided uint64 // decisions without an outcome, or with one that is none
	wrong     uint64 // decisions that name no set that was in force, or have another verdict than its version
	behind    uint64 // decisions by the set before, behind the change record: batches in hand
	example   string // the first wrong one
	versions  map[uint64]uint64
}

// change is one version set.
type change struct {
	set, serial uint64
	at          time.Time
	decisions   uint64
}

func newLedger(manners map[uint64]manner) *ledger {
	return &ledger{manners: manners, sets: map[uint64]uint64{}, events: map[string]int{}, versions: map[uint64]uint64{}}
}

// add takes the next record in.
func (l *ledger) add(r *gateway.Record) {
	switch r.Kind {
	case gateway.ChangeRecord:
		l.change(r)
	case gateway.EventRecord:
		var e struct{ Event, Why, Plugin string }
		if json.Unmarshal(r.Detail, &e) == nil && (e.Plugin == plugin || strings.HasPrefix(e.Event, "plugin ")) {
			l.events[e.Event+" "+e.Why]++
		}
	case gateway.DecisionRecord:
		l.decision(r)
	}
}

func (l *ledger) change(r *gateway.Record) {
	var d struct {
		Change  string
		Plugins []struct {
			Name   string
			Serial uint64
		}
	}
	if json.Unmarshal(r.Detail, &d) != nil || d.Change != "version set" {
		return
	}
	c := change{set: r.Set, at: r.Time}
	if len(d.Plugins) == 1 {
		c.serial = d.Plugins[0].Serial
	}
	if _, again := l.sets[r.Set]; again {
		l.bad("two sets have the number %d", r.Set)
	}
	l.sets[r.Set], l.newest, l.older = c.serial, r.Set, l.newest
	l.changes = append(l.changes, c)
}

func (l *ledger) bad(format string, args ...any) {
	if l.wrong++; l.example == "" {
		l.example = fmt.Sprintf(format, args...)
	}
}

func (l *ledger) decision(r *gateway.Record) {
	l.decisions++
	serial, known := l.sets[r.Set]
	switch {
	case !known:
		l.bad("set %d is not on the record", r.Set)
		return
	case r.Set == l.older:
		l.behind++
		l.changes[len(l.changes)-2].decisions++
	case r.Set != l.newest:
		l.bad("set %d decides after two others came in force", r.Set)
	default:
		l.changes[len(l.changes)-1].decisions++
	}
	if len(r.Outcomes) != 1 || r.Outcomes[0].Action == gateway.Undecided || r.Outcomes[0].State != gateway.Waiting && r.Outcomes[0].State != gateway.Blocked {
		l.undecided++
		return
	}
	blocked := r.Outcomes[0].State == gateway.Blocked
	if !blocked {
		l.waiting++
	}
	l.versions[serial]++
	if why := contradicts(serial, l.manners[serial], r.Plugins, blocked); why != "" {
		l.bad("serial %d: %s", serial, why)
	}
}

// contradicts says how a verdict is not the one of the version, "" when it is.
func contradicts(serial uint64, m manner, list []gateway.PluginOutcome, blocked bool) string {
	if len(list) != 1 {
		return fmt.Sprintf("%d verdicts", len(list))
	}
	p := &list[0]
	odd, against := serial%2 == 1, p.Action == gateway.Block
	switch {
	case m == traps && (!p.Failed || !blocked):
		return "it traps, and the message did not take on_error"
	case m == traps:
		return ""
	case p.Failed:
		return "it failed"
	case uint64(p.Reason) != serial:
		return fmt.Sprintf("the reason is %d", p.Reason)
	case odd != (p.Edits > 0):
		return fmt.Sprintf("%d edits", p.Edits)
	case against != blocked:
		return "what it said and what became of the message differ"
	case m == blocks && !against:
		return "it blocks everything, and this passed"
	case against && (m == gentle || m == ordinary && odd):
		return "it blocks nothing, and this is blocked"
	}
	return ""
}
