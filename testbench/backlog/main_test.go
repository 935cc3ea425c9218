package main

import (
	"strings"
	"testing"
)

func TestFiguresAreComparedWithTheirBounds(t *testing.T) {
	s := summary{Steady: 1000, Drained: 900, ReadyMillis: 10, AnonReady: 1 << 20, AnonMost: 60 << 20, CutMillis: 500, cut: 1000}
	if s.judge(); !s.Good || s.Ratio != 0.9 || s.CutRatio != 2 {
		t.Errorf("%+v", s)
	}
	s.Drained, s.ReadyMillis, s.AnonMost, s.CutMillis, s.Lost, s.Duplicates = 700, 2001, 65<<20, 1001, 1, 1
	if s.judge(); s.Good || len(s.Missed) != 6 {
		t.Errorf("%v", s.Missed)
	}
	short := summary{short: true, Steady: 1000, Drained: 400, EmptyMillis: 200, ConnectMillis: 3000, ReadyMillis: 3000, CutMillis: 2000, cut: 1000}
	if short.judge(); !short.Good {
		t.Errorf("a busy machine breaks the short form: %v", short.Missed)
	}
	short.Drained, short.EmptyMillis, short.CutMillis = 200, 100, 4000
	if short.judge(); len(short.Missed) != 3 {
		t.Errorf("%v", short.Missed)
	}
	var b strings.Builder
	if s.table(&b); strings.Count(b.String(), "missed: ") != 6 {
		t.Errorf("%s", &b)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	if o, err := parse([]string{"--short"}); err != nil || o.messages != 50_000 || o.cut != 10_000 || o.size != 1024 {
		t.Errorf("%v %+v", err, o)
	}
	for _, bad := range [][]string{{"--messages", "0"}, {"--live", "-1"}, {"--live-share", "91"}, {"--steady", "1ms"}, {"more"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}
