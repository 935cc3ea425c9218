package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// picky is a cloud that acknowledges after a moment, in order, and breaks the link at what it refuses.
func picky(refuses func(seq uint64) bool) *cloud {
	return &cloud{onSend: func(w *wire, seq uint64) {
		switch {
		case w.refuses(refuses): // it reads no further
			if refuses(seq) {
				time.AfterFunc(20*time.Millisecond, w.snap)
			}
		default:
			time.AfterFunc(10*time.Millisecond, func() { w.ack(seq) })
		}
	}}
}

// refuses reports whether something was sent that a cloud refuses.
func (w *wire) refuses(what func(seq uint64) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.sent, what)
}

// inState lists the messages of a spool in one state.
func (s *spool) inState(st State) (list []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq := uint64(1); seq <= s.size; seq++ {
		if s.states[seq] == st {
			list = append(list, seq)
		}
	}
	return list
}

func TestAMessageThatTheCloudRefusesIsParkedAndTheRestGoesOn(t *testing.T) {
	for _, poison := range [][]uint64{{1}, {2}, {1000}, {500}, {3, 4, 5}, {10, 400, 401, 900}, {1, 1000}} {
		t.Run(fmt.Sprint(poison), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newSpool(1000), picky(func(seq uint64) bool { return slices.Contains(poison, seq) })
				stop := forwarding(s, c)
				time.Sleep(5 * time.Minute)
				s.add(2) // something goes through while the last suspect waits
				time.Sleep(5 * time.Minute)
				s.add(2)
				time.Sleep(5 * time.Minute)
				stop()
				if got := s.inState(Dead); !slices.Equal(got, poison) {
					t.Errorf("dead: %v", got)
				}
				if got := len(s.inState(Forwarded)); got != 1004-len(poison) {
					t.Errorf("%d forwarded", got)
				}
				if n := len(c.links); n > 40*len(poison)+60 {
					t.Errorf("%d links", n)
				}
				s.checkProblems(t)
			})
		})
	}
}

func TestAMessageThatIsNeverAcknowledgedIsParkedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(500)
		c := &cloud{}
		c.onSend = func(w *wire, seq uint64) {
			time.AfterFunc(10*time.Millisecond, func() {
				if w.blocked(77) || seq == 77 {
					return // acknowledgements come in order
				}
				w.ack(seq)
			})
		}
		stop := forwarding(s, c, func(o *ForwardOptions) { o.AckTimeout = 30 * time.Second })
		time.Sleep(time.Hour)
		stop()
		if got := s.inState(Dead); !slices.Equal(got, []uint64{77}) {
			t.Errorf("dead: %v", got)
		}
		if got := len(s.inState(Forwarded)); got != 499 {
			t.Errorf("%d forwarded", got)
		}
		s.checkProblems(t)
	})
}

func TestAMessageThatIsPassedByIsParkedWhileTheOthersFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(100), &cloud{}
		c.onSend = func(w *wire, seq uint64) {
			if seq != 7 {
				time.AfterFunc(10*time.Millisecond, func() { w.acked(seq) })
			}
		}
		stop := forwarding(s, c, func(o *ForwardOptions) { o.AckTimeout = 30 * time.Second })
		time.Sleep(time.Second)
		synctest.Wait()
		if got := len(s.inState(Forwarded)); got != 99 {
			t.Errorf("%d are forwarded at once", got)
		}
		for range 120 {
			s.add(1)
			time.Sleep(time.Second)
		}
		stop()
		if got := s.inState(Dead); !slices.Equal(got, []uint64{7}) || len(s.inState(Forwarded)) != 219 {
			t.Errorf("dead: %v, %d forwarded", got, len(s.inState(Forwarded)))
		}
		if len(c.links) > 6 {
			t.Errorf("%d links", len(c.links))
		}
		s.checkProblems(t)
	})
}

// blocked reports whether seq was sent on this link and stands in front of everything behind it.
func (w *wire) blocked(seq uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.sent, seq)
}

func TestACloudThatIsIllKillsNobody(t *testing.T) {
	for _, c := range []struct {
		name    string
		options func(*ForwardOptions)
		cloud   func(ill *atomic.Bool) *cloud
	}{
		{"breaks at everything", func(*ForwardOptions) {}, func(ill *atomic.Bool) *cloud { return picky(func(uint64) bool { return ill.Load() }) }},
		{"never acknowledges", func(o *ForwardOptions) { o.AckTimeout = 20 * time.Second }, func(ill *atomic.Bool) *cloud {
			return &cloud{onSend: func(w *wire, seq uint64) {
				if !ill.Load() {
					w.ack(seq)
				}
			}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ill atomic.Bool
				ill.Store(true)
				s, c, with := newSpool(300), c.cloud(&ill), c.options
				stop := forwarding(s, c, with)
				time.Sleep(12 * time.Hour)
				synctest.Wait()
				if dead := s.inState(Dead); len(dead) > 0 {
					t.Errorf("dead: %v", dead)
				}
				c.mu.Lock()
				if n := len(c.links); n > 12*60*30 {
					t.Errorf("%d links in half a day", n)
				}
				c.mu.Unlock()
				ill.Store(false)
				time.Sleep(5 * time.Minute)
				stop()
				s.check(t, 300)
			})
		})
	}
}

func TestALinkThatFlapsKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		s, c := newSpool(3000), &cloud{}
		c.onSend = func(w *wire, seq uint64) {
			if r.IntN(20) == 0 {
				w.snap()
				return
			}
			time.AfterFunc(10*time.Millisecond, func() { w.ack(seq) })
		}
		stop := forwarding(s, c)
		time.Sleep(24 * time.Hour)
		stop()
		s.check(t, 3000)
	})
}

func TestAMessageThatFitsNoPacketIsParkedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(10), picky(func(uint64) bool { return false })
		c.refuse = func(seq uint64) error {
			if seq == 4 {
				return fmt.Errorf("send: %w", ErrUnsendable)
			}
			return nil
		}
		stop := forwarding(s, c)
		time.Sleep(time.Minute)
		stop()
		if got := s.inState(Dead); !slices.Equal(got, []uint64{4}) || len(s.inState(Forwarded)) != 9 || len(c.links) != 1 {
			t.Errorf("dead %v, %d forwarded, %d links", got, len(s.inState(Forwarded)), len(c.links))
		}
		s.checkProblems(t)
	})
}

func TestNoMoreThanTheWindowIsSentWithoutADeliveryOnTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(100), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		s.deliver = func(context.Context) error { time.Sleep(time.Second); return nil }
		stop := forwarding(s, c, func(o *ForwardOptions) { o.Window = 16 })
		most := 0
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			s.mu.Lock()
			c.current.mu.Lock()
			most = max(most, len(c.current.sent)-len(s.states))
			c.current.mu.Unlock()
			s.mu.Unlock()
		}
		stop()
		s.check(t, 100)
		if most > 16 || most < 10 {
			t.Errorf("%d messages were sent and not on the record", most)
		}
	})
}

func TestBandwidthIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newSpool(1000), &cloud{onSend: func(w *wire, seq uint64) { w.ack(seq) }}
		s.payload = make([]byte, 1000)
		stop := forwarding(s, c, func(o *ForwardOptions) { o.Bandwidth = 10_000 })
		time.Sleep(20 * time.Second)
		synctest.Wait()
		got := len(s.inState(Forwarded))
		stop()
		if got < 200 || got > 213 {
			t.Errorf("%d messages of 1000 bytes in 20 s at 10,000 bytes a second", got)
		}
	})
}

func TestWhatWaitsForALinkIsSentWhenItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := NewLinkState()
		s, c := newSpool(100), picky(func(uint64) bool { return false })
		stop := forwarding(s, c, func(o *ForwardOptions) { o.When, o.Links = "wifi", links })
		links.Set("lte")
		time.Sleep(time.Minute)
		if len(c.links) != 0 {
			t.Error("the cloud is called over another link")
		}
		links.Set("wifi")
		time.Sleep(time.Minute)
		synctest.Wait()
		s.check(t, 100)
		links.Set("lte")
		time.Sleep(time.Minute)
		s.add(50)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.check(t, 100)
		links.Set("wifi")
		time.Sleep(2 * time.Minute)
		stop()
		s.check(t, 150)
	})
}
