package fleet

import (
	"errors"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/plugins/bundle"
)

func v(serial uint64, digest string) Version {
	return Version{Digest: digest, Serial: serial, Key: "acme"}
}

func must(t *testing.T) func(s Slot, events []Event, err error) Slot {
	return func(s Slot, events []Event, err error) Slot {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			t.Error("nothing for the record")
		}
		return s
	}
}

func wants(t *testing.T, s Slot, active, good string) {
	t.Helper()
	if digestOf(s.Active) != active || digestOf(s.Good) != good {
		t.Errorf("in force %q, good %q; want %q, %q", digestOf(s.Active), digestOf(s.Good), active, good)
	}
}

func TestSwapsAndRollback(t *testing.T) {
	do := must(t)
	s := do(Slot{}.Load("p", v(3, "a"), true, nil, "start"))
	wants(t, s, "a", "")
	s = do(s.Load("p", v(4, "b"), false, nil, "uid:0"))
	wants(t, s, "b", "a")
	s = do(s.Rollback("p", Operator, "uid:0"))
	wants(t, s, "a", "")
	if s.Floor != 4 || s.Top != "b" {
		t.Errorf("floor %d %q after a rollback", s.Floor, s.Top)
	}
	for name, c := range map[string]struct {
		v        Version
		byItself bool
		want     error
	}{
		"from a file, what was rolled back stays away":  {v(4, "b"), true, ErrRefused},
		"from a file, what is in force is nothing new":  {v(3, "a"), true, ErrSame},
		"a person may load it again":                    {v(4, "b"), false, nil},
		"other content under the highest serial is not": {v(4, "c"), false, &bundle.Refusal{}},
		"a lower serial is not":                         {v(2, "d"), false, &bundle.Refusal{}},
		"a higher one is":                               {v(5, "e"), true, nil},
	} {
		err := s.May(c.v, c.byItself)
		var r *bundle.Refusal
		if _, old := c.want.(*bundle.Refusal); old && !(errors.As(err, &r) && r.Reason == bundle.OldSerial) || !old && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := s.Rollback("p", Operator, ""); !errors.Is(err, ErrNoGood) {
		t.Errorf("a second rollback: %v", err)
	}
	s = do(s.Load("p", v(4, "b"), false, nil, "uid:0"))
	if wants(t, s, "b", "a"); s.WhyRefused("b") != "" {
		t.Error("what a person loaded again is still refused")
	}
}

func TestProbation(t *testing.T) {
	do := must(t)
	until := time.Date(2026, 11, 24, 18, 0, 0, 5, time.UTC)
	first := do(Slot{}.Load("p", v(1, "a"), true, nil, "start"))
	first = do(first.Load("p", v(2, "b"), false, nil, ""))
	tried := do(first.Load("p", v(3, "c"), false, &Pending{Until: until, MaxDelta: 0.05}, "uid:0"))
	wants(t, tried, "c", "a")
	if p := tried.Pending; p.Previous.Digest != "b" || p.By != "uid:0" || p.Until.Nanosecond() != 0 || p.MaxDelta != 0.05 {
		t.Errorf("%+v", p)
	}
	if err := tried.May(v(9, "z"), false); !errors.Is(err, ErrPending) {
		t.Errorf("another load meanwhile: %v", err)
	}
	if _, _, err := first.Confirm("p", ""); !errors.Is(err, ErrNoPending) {
		t.Errorf("confirm without a probation: %v", err)
	}
	wants(t, do(tried.Confirm("p", "uid:0")), "c", "b")
	back := do(tried.Rollback("p", Tripped, "gateway"))
	wants(t, back, "b", "a")
	if back.Pending != nil || back.WhyRefused("c") != Tripped || back.Floor != 3 {
		t.Errorf("%+v", back)
	}
	wants(t, first, "b", "a") // transitions change nothing in place
}

func TestAStruckVersionIsNeverTheGoodOne(t *testing.T) {
	do := must(t)
	s := do(Slot{}.Load("p", v(1, "a"), true, nil, "start"))
	s, events, back := s.Strike("p")
	if back || len(events) != 1 || s.WhyRefused("a") != Struck {
		t.Fatalf("%+v, %v", s, back)
	}
	wants(t, s, "a", "")
	s = do(s.Load("p", v(2, "b"), false, nil, ""))
	wants(t, s, "b", "")
	s = do(s.Load("p", v(3, "c"), false, nil, ""))
	s, events, back = s.Strike("p")
	if wants(t, s, "b", ""); !back || len(events) != 2 || events[1].From != "c" || events[1].Why != Struck {
		t.Errorf("%+v", events)
	}
	tried := do(s.Load("p", v(4, "d"), false, &Pending{}, ""))
	if tried, _, back = tried.Strike("p"); !back {
		t.Error("no way back from a probation")
	}
	wants(t, tried, "b", "")
	// the good version of a probation that is confirmed is not one that was struck before it
	lone := do(Slot{}.Load("p", v(1, "a"), true, nil, "start"))
	lone, _, _ = lone.Strike("p")
	lone = do(lone.Load("p", v(2, "b"), false, &Pending{}, ""))
	wants(t, do(lone.Confirm("p", "")), "b", "")
}

func TestShadowAndCanary(t *testing.T) {
	do := must(t)
	s := do(Slot{}.Load("p", v(1, "a"), true, nil, "start"))
	if _, _, err := s.Promote("p", nil, ""); !errors.Is(err, ErrNoShadow) {
		t.Errorf("promote nothing: %v", err)
	}
	for _, share := range []float64{0, 1, -1, 2} {
		if _, _, err := s.StartCanary("p", v(2, "b"), share, ""); err == nil {
			t.Errorf("a share of %v", share)
		}
	}
	if _, _, err := s.StartShadow("p", v(1, "x"), ""); err == nil {
		t.Error("an old serial shadows")
	}
	both := do(do(s.StartShadow("p", v(2, "b"), "")).StartCanary("p", v(3, "c"), 0.1, ""))
	if both.Floor != 1 || len(both.versions()) != 3 {
		t.Errorf("%+v", both)
	}
	up := do(both.Promote("p", nil, ""))
	if wants(t, up, "c", "a"); up.Canary != nil || up.Shadow == nil || up.Floor != 3 {
		t.Errorf("%+v", up)
	}
	if _, _, err := up.Promote("p", nil, ""); err == nil {
		t.Error("a shadow of an older serial is promoted")
	}
	struck := do(both.EndCanary("p", Struck, "gateway"))
	if struck.Canary != nil || struck.Shadow == nil || struck.WhyRefused("c") != Struck {
		t.Errorf("%+v", struck)
	}
	if gone := do(both.EndShadow("p", Operator, "")); gone.Shadow != nil || gone.Canary == nil || gone.WhyRefused("b") != "" {
		t.Errorf("%+v", gone)
	}
}

func TestTheProgramsOwnModuleComesBackWhenNothingElseIsThere(t *testing.T) {
	do := must(t)
	own := Version{Digest: "own", Serial: 1}
	s := Slot{Floor: 7, Top: "x"}
	wants(t, do(s.Load("p", own, true, nil, "start")), "own", "")
	if _, _, err := s.Load("p", v(1, "signed"), true, nil, "start"); err == nil {
		t.Error("a signed one with a low serial comes too")
	}
	s.Active = &Version{Digest: "y", Serial: 7}
	if _, _, err := s.Load("p", own, true, nil, "start"); err == nil {
		t.Error("it takes the place of a newer one")
	}
}

func TestThreeStrikesWithinAMinute(t *testing.T) {
	s := new(Strikes)
	for i, c := range []struct {
		at   time.Duration
		want bool
	}{{0, false}, {0, false}, {time.Minute, true}, {time.Minute + 1, false}, {2 * time.Minute, true}, {4 * time.Minute, false}, {4*time.Minute + 1, false}, {4*time.Minute + 2, true}} {
		if got := s.Add(c.at); got != c.want {
			t.Errorf("%d, at %s: %v", i, c.at, got)
		}
	}
}

func TestTheListOfRefusedIsBounded(t *testing.T) {
	s := Slot{}
	for i := range 200 {
		s.Refused = s.refuse(string(rune('A'+i)), Struck)
	}
	if len(s.Refused) != maxRefused || s.WhyRefused(string(rune('A'+199))) != Struck {
		t.Errorf("%d", len(s.Refused))
	}
}
