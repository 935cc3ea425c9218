package gateway

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound how far a version set on probation may move from its predecessor. Both decide the same messages, and nothing of
// what the predecessor says is applied, so that traffic which changes by itself is not held against the set.
type Limits struct {
	Changed   float64 // share of messages with another outcome on some uplink, or with another number of edits: 0 to 1
	Slower    float64 // factor by which half of all decisions may take longer; 0 for 2
	PerSecond int     // messages compared in a second at most, 0 for 500
}

// Delta counts what was compared since the beginning of a probation.
type Delta struct {
	Compared uint64 `json:"compared"`
	Outcomes uint64 `json:"outcomes"` // messages with another state or action on some uplink
	Edits    uint64 `json:"edits"`    // messages with another number of edited places on some uplink
	Slow     uint64 `json:"slow"`     // decisions that took longer than the limit allows
}

const (
	defaultSlower    = 2
	defaultPerSecond = 500
	leastCompared    = 5                     // before this many nothing is concluded
	slowFrom         = 50 * time.Microsecond // what a decision may take longer in any case
)

// Exceeds names what lies beyond the limits, "" for nothing: outcomes, edits or latency. A few odd messages do not count: what
// must lie beyond is the lower end of the Wilson interval of three standard deviations. [E. B. Wilson, JASA 22 (1927)]
func (d Delta) Exceeds(l Limits) string {
	switch {
	case d.Compared < leastCompared:
		return ""
	case atLeast(d.Outcomes, d.Compared) > l.Changed:
		return "outcomes"
	case atLeast(d.Edits, d.Compared) > l.Changed:
		return "edits"
	case atLeast(d.Slow, d.Compared) > 0.5:
		return "latency"
	}
	return ""
}

// atLeast is the share that k of n stand for, at the lower end of what chance allows.
func atLeast(k, n uint64) float64 {
	const z2 = 9
	p, m := float64(k)/float64(n), float64(n)
	return (p + z2/(2*m) - math.Sqrt(z2*(p*(1-p)/m+z2/(4*m*m)))) / (1 + z2/m)
}

// Probation is a version set in force whose predecessor is kept, to be compared with and to go back to.
type Probation struct {
	gateway *Gateway
	limits  Limits
	tripped func(why string, d Delta)
	once    sync.Once
	next    atomic.Int64 // ns of the process's clock from which another message is compared

	outcomes, edits, slow, compared atomic.Uint64

	mu     sync.RWMutex // guards before; held for reading while it decides
	before *VersionSet  // nil: the probation is over
	spare  sync.Pool    // *Decision
}

// ErrNoProbation reports that the set is no longer on probation: it was kept, replaced, or there was nothing to go back to.
var ErrNoProbation = errors.New("nothing waits for confirmation")

// Try puts a version set in force like Swap and keeps its predecessor. tripped is called once, as soon as the set moves
// beyond the limits; it must not block, and by itself nothing is taken back. Keep or Back end the probation; Swap and Close
// end it as Keep does, and so does another Try.
func (g *Gateway) Try(set *VersionSet, l Limits, tripped func(why string, d Delta)) *Probation {
	if l.Slower <= 0 {
		l.Slower = defaultSlower
	}
	if l.PerSecond <= 0 {
		l.PerSecond = defaultPerSecond
	}
	g.swap.Lock()
	defer g.swap.Unlock()
	p := &Probation{gateway: g, limits: l, tripped: tripped}
	tried := &inForce{VersionSet: set, probation: p}
	if g.closed.Load() {
		tried.retire()
		return p
	}
	old := g.set.Load()
	if old != nil {
		p.before = old.VersionSet
	}
	began := time.Now()
	g.put(tried)
	if old != nil {
		old.idle()
		old.probation.end()
	}
	g.metrics.swap.Observe(time.Since(began).Seconds())
	return p
}

// Delta returns what was compared so far.
func (p *Probation) Delta() Delta {
	return Delta{Compared: p.compared.Load(), Outcomes: p.outcomes.Load(), Edits: p.edits.Load(), Slow: p.slow.Load()}
}

// Keep ends the probation: the set stays, its predecessor is closed.
func (p *Probation) Keep() error {
	if !p.end() {
		return ErrNoProbation
	}
	return nil
}

// Back puts the predecessor in force again, as version set number, and closes the set that was tried.
func (p *Probation) Back(number uint64, by string) error {
	g := p.gateway
	g.swap.Lock()
	defer g.swap.Unlock()
	now := g.set.Load()
	if now == nil || now.probation != p {
		return ErrNoProbation
	}
	p.mu.Lock()
	before := p.before
	p.before = nil
	p.mu.Unlock()
	if before == nil {
		return ErrNoProbation
	}
	again := *before
	again.Number, again.By = number, by
	g.replace(&inForce{VersionSet: &again})
	return nil
}

// end lets go of the predecessor; it reports whether there was one. p may be nil.
func (p *Probation) end() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	before := p.before
	p.before = nil
	p.mu.Unlock()
	if before != nil && before.Close != nil {
		before.Close()
	}
	return before != nil
}

// due reports whether a message is to be compared now.
func (p *Probation) due() bool {
	if p == nil {
		return false
	}
	now, next := int64(time.Since(processStart)), p.next.Load()
	return now >= next && p.next.CompareAndSwap(next, now+int64(time.Second)/int64(p.limits.PerSecond))
}

// processStart is what monotonic time is measured from: the time since is one reading of one clock.
var processStart = time.Now()

// decide decides m by set into d, and by its predecessor as well. Which of them goes first alternates, as the second finds the
// caches warm.
func (p *Probation) decide(set *VersionSet, m *Message, now time.Time, trusted bool, d *Decision) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.before == nil {
		set.decide(m, now, trusted, d)
		return
	}
	other, _ := p.spare.Get().(*Decision)
	if other == nil {
		other = new(Decision)
	}
	defer p.spare.Put(other)
	other.arena = other.arena[:0]
	began := time.Since(processStart)
	if p.compared.Load()%2 == 0 {
		set.decide(m, now, trusted, d)
		between := time.Since(processStart)
		p.before.decide(m, now, trusted, other)
		p.note(d, other, between-began, time.Since(processStart)-between)
		return
	}
	p.before.decide(m, now, trusted, other)
	between := time.Since(processStart)
	set.decide(m, now, trusted, d)
	p.note(d, other, time.Since(processStart)-between, between-began)
}

// note counts one comparison and looks whether it is enough.
func (p *Probation) note(d, before *Decision, took, tookBefore time.Duration) {
	outcome, edits := len(d.Uplinks) != len(before.Uplinks), false
	for u := 0; u < len(d.Uplinks) && !outcome; u++ {
		a, b := &d.Uplinks[u], &before.Uplinks[u]
		outcome = a.State != b.State || a.Action != b.Action
		edits = edits || a.places() != b.places()
	}
	add := func(c *atomic.Uint64, when bool) {
		if when {
			c.Add(1)
		}
	}
	add(&p.outcomes, outcome)
	add(&p.edits, edits)
	add(&p.slow, took > time.Duration(p.limits.Slower*float64(tookBefore))+slowFrom)
	p.compared.Add(1)
	delta := p.Delta()
	if why := delta.Exceeds(p.limits); why != "" {
		p.once.Do(func() { p.tripped(why, delta) })
	}
}

// places counts what is edited on an uplink.
func (up *UplinkDecision) places() int {
	return len(up.steps) + len(up.levels)
}
