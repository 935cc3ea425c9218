package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFlagsSayWhatIsMeasured(t *testing.T) {
	o, err := parse([]string{"--rates", "10,full", "--lingers", "0s,1s", "--links", "down"})
	if err != nil || !slices.Equal(o.rates, []float64{10, 0}) || !slices.Equal(o.lingers, []time.Duration{0, time.Second}) || !slices.Equal(o.links, []string{"down"}) {
		t.Errorf("%v %+v", err, o)
	}
	if o, err = parse([]string{"--short"}); err != nil || len(o.rates)*len(o.lingers)*len(o.links) != 2 || o.long > 5*time.Second {
		t.Errorf("%v %+v", err, o)
	}
	for _, bad := range [][]string{{"--rates", "0"}, {"--rates", "x"}, {"--lingers", "2s"}, {"--links", "slow"}, {"--size", "1"}, {"more"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

func TestFiguresAreComparedWithTheirBounds(t *testing.T) {
	s := summary{Cases: []*result{
		{Rate: 0, Uplink: "up", Messages: 1000, Seconds: 1, Written: 2_000_000, Loaded: 1_900_000, Journal: 1_500_000},
		{Rate: 10, Linger: 1, Uplink: "up", Messages: 1000, Seconds: 100, Written: 9_000_000, Loaded: 64 * 1024 * 101},
	}}
	for _, c := range s.Cases {
		c.sumUp(1000)
	}
	if c := s.Cases[0]; c.PerMessage != 2000 || c.PerBody != 2 || c.JournalPer != 1.5 {
		t.Errorf("%+v", c)
	}
	s.judge()
	if s.Good || len(s.Missed) != 1 || !strings.Contains(s.Missed[0], "10 msg/s, linger 1s, uplink up: 64.6 KiB a second") {
		t.Errorf("%v", s.Missed)
	}
	s.short = true
	if s.judge(); !s.Good {
		t.Errorf("the short form has no slack: %v", s.Missed)
	}
	s.Cases[0].PerBody, s.Cases[1].PerSecond = 3.7, 97
	if s.judge(); len(s.Missed) != 2 {
		t.Errorf("%v", s.Missed)
	}
	var b strings.Builder
	s.table(&b)
	for _, want := range []string{"full", "missed: 10 msg/s"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &b)
		}
	}
}
