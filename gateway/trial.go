package gateway

import "slices"

// Bounds of a trial.
const (
	roundsDead    = 3  // links that broke at a message although others went through in between, before it is dead
	suspectsAtAll = 16 // held back at a time: with more the cloud refuses everything
)

// trial finds the message at which a cloud breaks its links, among those that were on the wire, and tells it from a cloud
// that is ill. Two links that break without an acknowledgement of what was on the wire start it. The oldest of them is sent
// alone, since clouds read in order; if it goes through, half as many messages are sent at a time, and half again, until one
// is alone. When the link breaks with that one too, it is a suspect: it is held back while others are sent alone. When one
// of them is acknowledged, the cloud is well, and the suspect is tried again, alone; when the link breaks again, three times
// after another message went through, it is dead. When nothing goes through, nobody is: the cloud is ill.
//
// A cloud that acknowledges what was sent later, and not the oldest, three links in a row, refuses that one.
//
// It belongs to a Forwarder and is guarded by its mutex.
type trial struct {
	window     int
	limit      int             // messages that may be open at a time
	candidates map[uint64]bool // on the wire when a link broke, not acknowledged since
	breaks     int             // links that broke since the first candidate was one
	alone      bool            // the oldest candidate is sent alone first
	suspects   []*suspect
	passedBy   map[uint64]int // links on which later messages were acknowledged, and this one was not
	ill        bool           // nothing went through since the cloud was found to be ill
	news       bool           // and nobody was told yet
}

type suspect struct {
	o         *Outbound
	rounds    int  // links that broke at it after another message went through
	witnessed bool // another message went through since it was tried
	ready     bool // it may be tried
	wired     bool // it is on the wire
}

func newTrial(window int) trial {
	return trial{window: window, limit: window, candidates: make(map[uint64]bool), passedBy: make(map[uint64]int)}
}

// running reports whether links break for a reason that is being looked for, in a cloud that may be well.
func (t *trial) running() bool { return !t.ill && (t.breaks > 0 || len(t.suspects) > 0) }

// holding reports whether a message is held back.
func (t *trial) holding() bool { return len(t.suspects) > 0 }

// turn returns the suspect that is to be sent next, nil when others are.
func (t *trial) turn() *Outbound {
	for _, s := range t.suspects {
		if s.ready && !s.wired {
			s.wired = true
			return s.o
		}
	}
	return nil
}

// tryAgain lets the suspects be sent although nothing else went through: there is nothing else.
func (t *trial) tryAgain() {
	for _, s := range t.suspects {
		s.ready = true
	}
}

// acked notes that the cloud took message seq over.
func (t *trial) acked(seq uint64) {
	t.ill, t.alone = false, false
	delete(t.candidates, seq)
	delete(t.passedBy, seq)
	t.suspects = slices.DeleteFunc(t.suspects, func(s *suspect) bool { return s.o.Seq == seq })
	for _, s := range t.suspects {
		s.ready, s.witnessed = true, true
	}
	t.adjust()
}

// adjust sets the limit to what the search needs.
func (t *trial) adjust() {
	switch {
	case len(t.suspects) > 0:
		t.limit = 1
	case len(t.candidates) == 0:
		t.limit, t.breaks, t.alone = t.window, 0, false
	case t.alone:
		t.limit = 1
	case t.breaks >= 2:
		t.limit = max(1, len(t.candidates)/2)
	}
}

// passed notes that a link was given up because the cloud did not acknowledge the oldest message on the wire although it
// took later ones over, and returns those that go back to the journal and the one that is dead. Nobody else is to blame.
func (t *trial) passed(left []*Outbound) (back []*Outbound, dead *Outbound) {
	o := left[0]
	if t.passedBy[o.Seq]++; t.passedBy[o.Seq] < roundsDead {
		return t.unsent(left), nil
	}
	t.suspects = slices.DeleteFunc(t.suspects, func(s *suspect) bool { return s.o.Seq == o.Seq })
	delete(t.candidates, o.Seq)
	delete(t.passedBy, o.Seq)
	t.adjust()
	return t.unsent(left[1:]), o
}

// unsent notes that messages did not get onto the wire, and returns those that go back to the journal.
func (t *trial) unsent(list []*Outbound) (back []*Outbound) {
	for _, o := range list {
		if s := t.suspect(o); s != nil {
			s.wired = false
		} else {
			back = append(back, o)
		}
	}
	return back
}

// ended draws the lesson from a link that ended with messages on the wire, and returns those that go back to the journal
// and the one that is dead. Without blame, the gateway itself ended it.
func (t *trial) ended(left []*Outbound, blame bool) (back []*Outbound, dead *Outbound) {
	back = t.unsent(left)
	if !blame || len(left) == 0 {
		return back, nil
	}
	if len(left) == 1 && (len(t.suspects) > 0 || t.breaks > 0 && t.candidates[left[0].Seq]) {
		return t.strike(left[0])
	}
	for seq := range t.candidates {
		if !slices.ContainsFunc(left, func(o *Outbound) bool { return o.Seq == seq }) {
			delete(t.candidates, seq) // it is not sent any more
		}
	}
	if len(t.candidates) == 0 {
		t.breaks = 0
		for _, o := range left {
			t.candidates[o.Seq] = true
		}
	}
	t.breaks++
	t.alone = t.breaks == 2
	t.adjust()
	return back, nil
}

func (t *trial) suspect(o *Outbound) *suspect {
	for _, s := range t.suspects {
		if s.o.Seq == o.Seq {
			return s
		}
	}
	return nil
}

// strike notes that a link broke with o alone on the wire: it is held back from now on, unless it is dead, or too many are.
func (t *trial) strike(o *Outbound) (back []*Outbound, dead *Outbound) {
	s := t.suspect(o)
	if s == nil {
		s = &suspect{o: o}
		t.suspects = append(t.suspects, s)
	}
	if s.witnessed {
		s.rounds++
	}
	s.ready, s.witnessed = false, false
	if s.rounds >= roundsDead {
		t.suspects = slices.DeleteFunc(t.suspects, func(o *suspect) bool { return o == s })
		delete(t.candidates, o.Seq)
		dead = o
	}
	if len(t.suspects) >= suspectsAtAll {
		for _, s := range t.suspects {
			back = append(back, s.o)
		}
		news := !t.ill
		*t = newTrial(t.window)
		t.ill, t.news = true, news
	}
	t.adjust()
	return back, dead
}

// foundIll reports, once, that the cloud breaks links whatever is sent.
func (t *trial) foundIll() bool {
	news := t.news
	t.news = false
	return news
}
