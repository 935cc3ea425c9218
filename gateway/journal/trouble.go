package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/sluice-edge/sluice/gateway"
)

// Trouble is a code for why a journal takes nothing in; "" is none.
type Trouble string

// The troubles. Of the first three the disk is the cause: not even deliveries are recorded.
const (
	DiskFull     Trouble = "disk_full"
	DiskReadOnly Trouble = "disk_read_only"
	DiskError    Trouble = "disk_error"
	FullBodies   Trouble = "max_size"
	FullRecords  Trouble = "audit_max_size"
	FullUplink   Trouble = "max_backlog"
)

// troubleOf classifies why a commit failed.
func troubleOf(err error) Trouble {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return DiskFull
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return DiskReadOnly
	}
	return DiskError
}

// Trouble says why nothing is taken in at the moment, as a code and in words; "" when something is.
func (j *Journal) Trouble() (why Trouble, detail string) {
	j.mu.Lock()
	failure := j.failure
	j.mu.Unlock()
	switch {
	case j.failing.Load():
		why = troubleOf(failure)
		what := map[Trouble]string{DiskFull: "the disk is full", DiskReadOnly: "the disk is read-only", DiskError: "the disk fails"}[why]
		return why, fmt.Sprintf("%s, nothing is acknowledged until it takes writes again: %v", what, failure)
	case j.reserveSpent.Load():
		return DiskFull, "the disk is full, nothing is taken in until there is room for the journal's reserve; what waits is sent"
	case j.bodyBytes.Load() >= j.opt.MaxSize:
		return FullBodies, "journal.max_size is spent, nothing is taken in until an uplink drains it"
	case j.recordBytes.Load() >= j.opt.AuditMaxSize-j.opt.auditReserve():
		return FullRecords, "audit.max_size is spent, nothing is taken in; what waits is sent"
	case j.uplinkRoom.Load() <= 0:
		return FullUplink, fmt.Sprintf("max_backlog of uplink %s is spent, nothing is taken in until it drains", j.fullUplink())
	}
	return "", ""
}

// fullUplink names the uplink whose backlog has no room.
func (j *Journal) fullUplink() string {
	for u := range gateway.MaxUplinks {
		if j.backlogSpent(u) {
			return fmt.Sprintf("%q", j.names.name(kindUplink, u))
		}
	}
	return "that just drained"
}

// backlogSpent reports whether an uplink that does not drop has no room in its own backlog.
func (j *Journal) backlogSpent(u int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := &j.limits[u]
	return l.MaxBacklog > 0 && !l.DropOldest && j.waitingBytes(u) >= l.MaxBacklog
}

// identityStates are the states whose sum is received. [product.md §3, States]
var identityStates = [...]gateway.State{gateway.Waiting, gateway.Held, gateway.Forwarded, gateway.Dead, gateway.Expired, gateway.Dropped, gateway.Rejected, gateway.Erased, gateway.Blocked}

// Identity checks that the counters agree, as of the last commit: in the totals, and per source, uplink and grade,
// received is the sum of the states, and what waits for an uplink by the states is what waits by the bodies. It takes time
// by the number of series, not of messages. The error says what does not agree.
func (j *Journal) Identity() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if t := &j.led.totals; !t.Identity() {
		return fmt.Errorf("received %d is not the sum of the states", t.Received)
	}
	var waiting [gateway.MaxUplinks]uint64
	for source, c := range j.led.tally {
		for u := range c {
			for g := range c[u] {
				var sum uint64
				for _, st := range identityStates {
					sum += c[u][g][st]
				}
				if n := c[u][g][gateway.Received]; n != sum {
					return fmt.Errorf("received %d of source %q for uplink %q, grade %s, but the states count %d", n,
						j.names.name(kindSource, source), j.names.name(kindUplink, u), gateway.Grade(g), sum)
				}
				waiting[u] += c[u][g][gateway.Waiting]
			}
		}
	}
	for u := range waiting {
		var bodies uint64
		for lane := range j.waiting[u] {
			if lane != controlLane {
				bodies += j.waiting[u][lane].Count
			}
		}
		if bodies != waiting[u] {
			return fmt.Errorf("%d messages wait for uplink %q by their states and %d by their bodies", waiting[u], j.names.name(kindUplink, u), bodies)
		}
	}
	return nil
}
