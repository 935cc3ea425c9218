package journal

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-edge/sluice/gateway"
)

// Bounds of the rules by which messages are left behind.
const (
	abandonLen  = 4096             // messages of one settlement
	pointEvery  = time.Minute      // of age points, at the least
	maxPoints   = 4096             // of them; with more every other one goes
	rulesEvery  = 10 * time.Second // how often the rules are looked at
	pressureTop = 16               // dropping starts at 15/16 of the budget, so that taking in need not stop
)

// agePoint says how old the journal was when seq was the next to be committed. Ages count while the gateway runs, by a
// clock that cannot be set, and while it is off by the trusted clock.
type agePoint struct {
	Seq uint64        `json:"seq"`
	Age time.Duration `json:"age"`
}

// ages tells how long messages have waited, whatever is done to the clock. It is guarded by Journal.mu.
type ages struct {
	base   time.Duration // when the journal was opened
	points []agePoint
}

// savedAges is what a snapshot says of ages.
type savedAges struct {
	Age     time.Duration `json:"age"`
	Wall    int64         `json:"wall"` // ms since 1970
	Trusted bool          `json:"trusted"`
	Points  []agePoint    `json:"points"`
}

// elapsed is the time since some fixed moment by a clock that goes on in standby and that nobody can set.
func elapsed() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Since(processStart)
	}
	return time.Duration(ts.Nano())
}

var processStart = time.Now()

// age returns how old the journal is. j.mu is held.
func (j *Journal) age() time.Duration { return j.ages.base + j.opt.elapsed() - j.openedAt }

// resumeAges goes on from what a snapshot says: the time since then counts when the clock could be trusted then and now.
func (j *Journal) resumeAges(s savedAges) {
	now, trusted := j.opt.Clock()
	j.openedAt = j.opt.elapsed()
	j.ages = ages{base: s.Age, points: s.Points}
	if off := now.Sub(time.UnixMilli(s.Wall)); s.Trusted && trusted && off > 0 {
		j.ages.base += off
	}
	j.ages.add(j.led.tree.size, j.age())
}

func (j *Journal) saveAges() savedAges {
	now, trusted := j.opt.Clock()
	return savedAges{Age: j.age(), Wall: now.UnixMilli(), Trusted: trusted, Points: slices.Clone(j.ages.points)}
}

// add notes the age at seq, unless the last note is young enough.
func (a *ages) add(seq uint64, age time.Duration) {
	if n := len(a.points); n > 0 && (age-a.points[n-1].Age < pointEvery || a.points[n-1].Seq >= seq) {
		return
	}
	if a.points = append(a.points, agePoint{seq, age}); len(a.points) > maxPoints {
		kept := a.points[:0]
		for i, p := range a.points {
			if i%2 == 0 {
				kept = append(kept, p)
			}
		}
		a.points = kept
	}
}

// before returns the seq below which everything was committed at that age or earlier.
func (a *ages) before(age time.Duration) uint64 {
	i, _ := slices.BinarySearchFunc(a.points, age, func(p agePoint, age time.Duration) int {
		if p.Age <= age {
			return -1
		}
		return 1
	})
	if i == 0 {
		return 0
	}
	return a.points[i-1].Seq
}

// warden leaves messages behind by the operator's rules, until Close.
func (j *Journal) warden() {
	defer close(j.warded)
	tick := time.NewTicker(rulesEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-j.pressed:
		case <-j.closed:
			return
		}
		if err := j.applyRules(j.open); err != nil && j.open.Err() == nil && !errors.Is(err, ErrClosed) {
			j.opt.Log.Error("journal cannot apply its rules", slog.Any("err", err))
		}
	}
}

// press wakes the warden.
func (j *Journal) press() {
	select {
	case j.pressed <- struct{}{}:
	default:
	}
}

// applyRules expires what is too old and drops what there is no room for.
func (j *Journal) applyRules(ctx context.Context) error {
	if err := j.expire(ctx); err != nil {
		return err
	}
	for u := range gateway.MaxUplinks {
		if over := j.overBacklog(u); over > 0 {
			n, err := j.abandon(ctx, u, rule{state: gateway.Dropped, why: "max_backlog", bytes: over})
			j.tell("uplink has no room for its backlog, the oldest messages are dropped", u, n)
			if err != nil {
				return err
			}
		}
	}
	return j.dropGeneral(ctx)
}

// expire leaves behind what waited longer than the maximal age of its grade.
func (j *Journal) expire(ctx context.Context) error {
	j.mu.Lock()
	j.ages.add(j.led.tree.size, j.age())
	j.mu.Unlock()
	for g := gateway.Ungraded; g <= gateway.Core; g++ {
		most := j.opt.MaxAge[g]
		if most <= 0 {
			continue
		}
		j.mu.Lock()
		below := j.ages.before(j.age() - most)
		j.mu.Unlock()
		if below == 0 {
			continue
		}
		for u := range gateway.MaxUplinks {
			n, err := j.abandon(ctx, u, rule{state: gateway.Expired, why: "max_age", grade: g, graded: true, below: below})
			j.tell("messages are older than max_age and expire", u, n)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// overBacklog returns by how many bytes the backlog of an uplink that may drop is too large.
func (j *Journal) overBacklog(u int) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := &j.limits[u]
	if !l.DropOldest || l.MaxBacklog <= 0 {
		return 0
	}
	top := l.MaxBacklog - l.MaxBacklog/pressureTop
	if waits := j.waitingBytes(u); waits > top {
		return waits - top
	}
	return 0
}

// waitingBytes returns the bytes of the bodies that wait for an uplink. j.mu is held.
func (j *Journal) waitingBytes(u int) (sum int64) {
	for _, w := range &j.waiting[u] {
		sum += int64(w.Bytes)
	}
	return sum
}

// dropGeneral leaves the oldest general messages behind while the journal has hardly any room.
func (j *Journal) dropGeneral(ctx context.Context) error {
	if !j.opt.DropGeneral {
		return nil
	}
	var dropped [gateway.MaxUplinks]int
	defer func() {
		for u, n := range dropped {
			j.tell("journal is full, the oldest general messages are dropped", u, n)
		}
		j.tidySoon()
	}()
	for some := true; some; {
		some = false
		for u := range gateway.MaxUplinks {
			over := j.bodyBytes.Load() - j.reclaiming() - (j.opt.MaxSize - j.opt.MaxSize/pressureTop)
			if over <= 0 {
				return nil
			}
			n, err := j.abandon(ctx, u, rule{state: gateway.Dropped, why: "when_full", grade: gateway.General, graded: true, bytes: over})
			dropped[u] += n
			some = some || n > 0
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// reclaiming returns the bytes of bodies that nothing waits for any more, in segments that are not yet gone: the sweeper
// makes room of them.
func (j *Journal) reclaiming() (sum int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		if s != j.write && s.sparse() {
			sum += int64(s.BodyBytes - s.Live)
		}
	}
	return sum
}

func (j *Journal) tell(what string, u, n int) {
	if n > 0 {
		j.opt.Log.Warn(what, slog.String("uplink", j.names.name(kindUplink, u)), slog.Int("messages", n))
	}
}

// rule says which messages are left behind: the oldest first.
type rule struct {
	state  gateway.State // Expired or Dropped
	why    string        // code, for the record
	graded bool          // of this grade only
	grade  gateway.Grade
	below  uint64 // with a lower seq only; 0: any
	bytes  int64  // until so many bytes are settled; 0: all
}

// abandon settles what waits for an uplink by a rule, in batches, and returns how many messages that were. What is in the
// hand of the uplink's forwarder stays: it may be on the wire.
func (j *Journal) abandon(ctx context.Context, u int, r rule) (n int, err error) {
	left := r.bytes
	for ctx.Err() == nil {
		var items []waiting
		err := j.settleFor(ctx, u, func() (*settlement, error) {
			var err error
			items, err = j.abandoned(u, &r, left)
			s := &settlement{uplink: u, kind: gateway.ExpiryRecord, state: r.state, scope: scope{Why: r.why}, items: items}
			if r.graded {
				s.scope.Grades = []int{int(r.grade)}
			}
			return s, err
		}, func(*settlement) {})
		if err != nil || len(items) == 0 {
			return n, err
		}
		n += len(items)
		for i := range items {
			left -= int64(items[i].size)
		}
		if r.bytes > 0 && left <= 0 {
			return n, nil
		}
	}
	return n, ctx.Err()
}

// abandoned finds the next messages that a rule is about, by lane and seq.
func (j *Journal) abandoned(u int, r *rule, left int64) (items []waiting, err error) {
	c := candidates{j: j, u: u, rule: r, left: left}
	j.mu.Lock()
	if f := j.feeds[u]; f != nil {
		c.feed = f
	}
	segments := j.segments
	var from uint64
	if r.graded {
		from = j.gradeAt[u][r.grade]
	}
	j.mu.Unlock()
	for _, s := range segments {
		next, some := j.hasWaiting(s, u)
		if !some || next <= from || r.below > 0 && s.First >= r.below {
			continue
		}
		if r.below > 0 {
			next = min(next, r.below)
		}
		var key [entryKeyLen]byte
		err := j.files.scan(s, entryKey(&key, max(from, s.First), 1), next, c.visit)
		if err != nil && !errors.Is(err, errGone) {
			return nil, err
		}
		if c.full() {
			break
		}
	}
	if r.graded && c.first > 0 {
		j.mu.Lock()
		j.gradeAt[u][r.grade] = c.first
		j.mu.Unlock()
	}
	slices.SortStableFunc(c.items, func(a, b waiting) int { return cmp.Compare(a.lane, b.lane) })
	return c.items, nil
}

// candidates gathers the messages of one settlement by a rule.
type candidates struct {
	j     *Journal
	u     int
	rule  *rule
	feed  *Feed
	left  int64
	items []waiting
	first uint64 // that is of the grade, in hand or not
	seen  uint64 // newest that waits, of any grade and lane
	last  [lanes]uint64
}

func (c *candidates) full() bool {
	return len(c.items) >= abandonLen || c.rule.bytes > 0 && c.left <= 0
}

func (c *candidates) visit(seq uint64, key, value []byte) error {
	if len(key) != entryKeyLen || key[8] == recordByte {
		return nil
	}
	h, ok := parseHeader(value)
	if !ok || h.hold() || !h.own.Has(c.u) || !c.j.waits(c.u, seq) {
		return nil
	}
	if c.j.waitsBetween(c.u, c.seen, seq) { // hidden by a damaged page: nothing says how they wait
		clear(c.last[:])
	}
	c.seen = seq
	if h.control() || c.rule.graded && h.grade != c.rule.grade {
		return nil
	}
	if c.first == 0 {
		c.first = seq
	}
	if c.feed != nil && c.feed.holds(seq) {
		c.last[h.lane()] = 0
		return nil
	}
	w := waitingOf(seq, &h, len(value))
	w.follows = c.last[w.lane]
	c.last[w.lane] = seq
	c.items = append(c.items, w)
	if c.left -= int64(len(value)); c.full() {
		return errStop
	}
	return nil
}
