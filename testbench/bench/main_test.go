package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/testbench/traffic"
)

func TestMediansAndRatios(t *testing.T) {
	round := func(arrived, cpu float64, lost uint64) traffic.Report {
		return traffic.Report{ArrivedSecond: arrived, Lost: lost, Processes: []traffic.Cost{{Name: "sluice", PerMillion: cpu}, {Name: "load"}}}
	}
	base := &result{Name: "alone", Rounds: []traffic.Report{round(100, 1, 0), round(300, 1, 0)}}
	gate := &result{Name: "gate", Rounds: []traffic.Report{round(50, 9, 1), round(10, 7, 0), round(90, 5, 2)}}
	base.sumUp(base)
	gate.sumUp(base)
	if base.Arrived != 200 || gate.Arrived != 50 || gate.Ratio != 0.25 || gate.CPU["sluice"] != 7 || gate.Lost != 3 {
		t.Errorf("%+v\n%+v", base, gate)
	}
	var b strings.Builder
	(&summary{Cases: []*result{base, gate, gate, gate}, OneOfMany: 1}).table(&b)
	if n := strings.Count(b.String(), "gate"); n != 3 {
		t.Errorf("the table names the gate %d times:\n%s", n, &b)
	}
}

func TestACountReplacesTheTime(t *testing.T) {
	o, err := parse([]string{"--count", "1000"})
	if err != nil || o.load.Duration != 0 || o.load.Count != 1000 {
		t.Errorf("%v %+v", err, o)
	}
	if o, err = parse(nil); err != nil || o.load.Duration != 5*time.Second || o.connections != 8 || o.load.Window != 256 || o.load.Size != 1024 {
		t.Errorf("%v %+v", err, o)
	}
	if _, err := parse([]string{"--rounds", "0"}); err == nil {
		t.Error("no rounds are accepted")
	}
}
