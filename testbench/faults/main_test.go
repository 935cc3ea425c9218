package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFlagsAreChecked(t *testing.T) {
	o, err := parse(strings.Fields("--only kills,power --seed 7 --short --json"))
	if err != nil || len(o.only) != 2 || o.seed != 7 || !o.short || !o.asJSON {
		t.Errorf("%v %+v", err, o)
	}
	for _, args := range []string{"--only nothing", "extra", "--seed x", "--soak -1s"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%s is accepted", args)
		}
	}
}

func TestFaultsThatMustBeNamedAre(t *testing.T) {
	o, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for i := range faults {
		f := &faults[i]
		if names[f.name] {
			t.Errorf("two faults are named %q", f.name)
		}
		names[f.name] = true
		if o.wanted(f) == f.asked {
			t.Errorf("%s: wanted %v", f.name, o.wanted(f))
		}
	}
	o.soak = time.Second
	for i := range faults {
		if f := &faults[i]; f.name == "soak" && !o.wanted(f) {
			t.Error("--soak does not ask for soak")
		}
	}
}

func TestTheTableSaysWhatDidNotHold(t *testing.T) {
	good := &row{Fault: "cut", Runs: 3, Acked: 10, Arrived: 10}
	bad := &row{Fault: "kill", Runs: 1, Acked: 10, Arrived: 8, Lost: 2, Undecided: 1, Mismatches: 1, Held: 5, Blocked: 6, Escaped: 3}
	idle := &row{Fault: "idle"}
	for _, r := range []*row{good, bad, idle} {
		r.judge()
	}
	if len(good.Problems) != 0 || len(bad.Problems) != 4 || len(idle.Problems) != 1 {
		t.Errorf("%q %q %q", good.Problems, bad.Problems, idle.Problems)
	}
	var b strings.Builder
	if err := printTable(&b, []*row{good, bad}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"held", "blocked", "NOT HELD", "kill: NOT HELD: 3 messages that the policy holds or blocks are at the cloud", "kill: NOT HELD: 2 acknowledged messages are lost"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, &b)
		}
	}
	if text, err := json.Marshal(bad); err != nil || !strings.Contains(string(text), `"held":5,"blocked":6,"escaped":3`) || !strings.Contains(string(text), `"lost":2`) {
		t.Errorf("%s %v", text, err)
	}
}

func TestTheCallOfAKillIsFound(t *testing.T) {
	for text, want := range map[string]string{
		"7 fdatasync(5</x/data/state.bolt>) = 0\n7 pwrite64(5</x/data/segment-00042.bolt>, \"\"..., 4096, 0) = ?\n7 +++ killed by SIGKILL +++\n": "pwrite64 of segment-N.bolt",
		"7 renameat(AT_FDCWD, \"/x/data/archive/archive-7.slr.tmp\", AT_FDCWD, \"/x/data/archive/archive-7.slr\" <unfinished ...>\n":             "renameat of archive-N.slr.tmp",
		"7 fsync(5</x/data>) = ?\n": "fsync of data/",
		"7 +++ exited with 1 +++\n": "",
	} {
		file := filepath.Join(t.TempDir(), "trace")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastCall(file); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestWhatTheDriverSaysIsHeard(t *testing.T) {
	var h heard
	leaf := strings.Repeat("0a", 32)
	if rest := h.listen([]byte("a 3 " + leaf + "\nd 1 3\na 4 " + leaf[:5])); string(rest) != "a 4 "+leaf[:5] {
		t.Errorf("rest %q", rest)
	}
	if len(h.acked) != 1 || h.acked[0].seq != 3 || h.acked[0].leaf[31] != 10 || h.delivered[1] != 3 {
		t.Errorf("%+v", h)
	}
}

// TestAJournalThatLostAnAcknowledgedMessageIsFoundOut checks the check.
func TestAJournalThatLostAnAcknowledgedMessageIsFoundOut(t *testing.T) {
	c := &jumping{row: &row{}, dir: t.TempDir(), rng: rand.New(rand.NewPCG(1, 1)), start: time.Now(), seen: map[uint64]bool{}}
	c.now.Store(&instants[1])
	if err := c.live(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	size := c.journal.Size()
	if err := c.close(t.Context()); err != nil || len(c.row.Problems) > 0 || c.row.Lost > 0 {
		t.Fatal(err, c.row.Problems)
	}
	f, err := checkImage(context.Background(), c.dir, &heard{})
	if err != nil || f.lost != 0 || f.mismatches != 0 {
		t.Errorf("%v %+v", err, f)
	}
	for name, h := range map[string]heard{
		"a message behind the end":      {acked: []ack{{seq: size + 10}}},
		"another record at the place":   {acked: []ack{{seq: 1, leaf: [32]byte{1}}}},
		"a delivery that never was":     {delivered: [driverUplinks]uint64{size + 5, 0}},
		"a delivery of the other cloud": {delivered: [driverUplinks]uint64{0, size + 5}},
	} {
		if _, err := checkImage(context.Background(), c.dir, &h); err == nil {
			t.Errorf("%s: not found out", name)
		}
	}
}
