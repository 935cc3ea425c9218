package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Bounds.
const (
	mostReady = 2000 // ms
	mostAnon  = 64   // MiB
	leastRate = 0.8  // of the live throughput
	mostCut   = 1000 // ms
)

// summary is the whole outcome. Rates are messages a second, times milliseconds from the start of the process.
type summary struct {
	Messages      uint64   `json:"messages"`
	Size          int      `json:"body_bytes"`
	Live          float64  `json:"live_rate"` // asked for; 0: as fast as the gate takes it
	LiveShare     int      `json:"live_share_percent"`
	Steady        float64  `json:"steady_arrived_per_second"`
	SteadyAcked   float64  `json:"steady_acked_per_second"`
	SteadyCommits float64  `json:"steady_commits_per_second"`
	SteadyCommit  float64  `json:"steady_commit_ms"`
	Filled        float64  `json:"filled_per_second"`
	StopMillis    float64  `json:"stop_ms"` // with the backlog
	ConnectMillis float64  `json:"connect_ms"`
	ReadyMillis   float64  `json:"ready_ms"`
	FirstMillis   float64  `json:"first_delivery_ms"`
	AnonReady     uint64   `json:"rss_anon_ready_bytes"`
	AnonMost      uint64   `json:"rss_anon_most_bytes"`
	DrainSeconds  float64  `json:"drain_seconds"`
	Drained       float64  `json:"backlog_arrived_per_second"`
	LiveArrived   float64  `json:"live_arrived_per_second"`
	LiveAcked     float64  `json:"live_acked_per_second"`
	Ratio         float64  `json:"backlog_to_steady"`
	Complete      bool     `json:"complete"` // all of the backlog was waited for
	CutMillis     float64  `json:"cut_drain_ms"`
	CutWaitMillis float64  `json:"cut_reconnect_ms"` // from the mending to the accepted connection
	Lost          uint64   `json:"lost"`
	Duplicates    uint64   `json:"duplicates"`
	Missed        []string `json:"missed"`
	Good          bool     `json:"good"`
}

// judge compares with the bounds.
func (s *summary) judge() {
	s.Ratio = s.Drained / s.Steady
	s.Missed = []string{}
	miss := func(bad bool, format string, args ...any) {
		if bad {
			s.Missed = append(s.Missed, fmt.Sprintf(format, args...))
		}
	}
	miss(s.ReadyMillis > mostReady, "ready after %.0f ms, want at most %d", s.ReadyMillis, mostReady)
	miss(max(mib(s.AnonReady), mib(s.AnonMost)) > mostAnon, "%.1f MiB of anonymous memory, want at most %d", max(mib(s.AnonReady), mib(s.AnonMost)), mostAnon)
	miss(s.Ratio < leastRate, "the backlog drains at %.2f of the live throughput, want at least %.2f", s.Ratio, leastRate)
	miss(s.CutMillis > mostCut, "a short backlog drains within %.0f ms, want at most %d", s.CutMillis, mostCut)
	miss(s.Lost > 0, "%d messages lost", s.Lost)
	miss(s.Duplicates > 0, "%d duplicates without a fault", s.Duplicates)
	s.Good = len(s.Missed) == 0
}

// table prints what people read.
func (s *summary) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(what, format string, args ...any) { fmt.Fprintf(t, what+"\t"+format+"\n", args...) }
	row("waiting messages", "%d of %d bytes, filled at %.0f/s", s.Messages, s.Size, s.Filled)
	row("SIGTERM to end, with them waiting", "%.0f ms", s.StopMillis)
	row("start to a device's connection", "%.0f ms", s.ConnectMillis)
	row("start to ready", "%.0f ms (at most %d)", s.ReadyMillis, mostReady)
	row("start to first delivery", "%.0f ms", s.FirstMillis)
	row("anonymous memory when ready", "%.1f MiB", mib(s.AnonReady))
	row("the most while draining", "%.1f MiB (at most %d)", mib(s.AnonMost), mostAnon)
	row("live throughput without backlog", "%.0f/s arrived, %.0f/s acknowledged, %.0f commits/s of %.1f ms", s.Steady, s.SteadyAcked, s.SteadyCommits, s.SteadyCommit)
	row("backlog drained", "%.0f/s over %.1f s, %.2f of it (at least %.2f)", s.Drained, s.DrainSeconds, s.Ratio, leastRate)
	row("live meanwhile", "%.0f/s acknowledged, %.0f/s arrived", s.LiveAcked, s.LiveArrived)
	row("short outage", "drained %.0f ms after the connection (at most %d), which came %.0f ms after the mending", s.CutMillis, mostCut, s.CutWaitMillis)
	row("lost, duplicates", "%d, %d", s.Lost, s.Duplicates)
	t.Flush()
	for _, m := range s.Missed {
		fmt.Fprintln(w, "missed:", m)
	}
}
