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

// Bounds of the short form, which other programs on the machine must not break: times only as ratios within the run.
const (
	shortRate  = 0.3 // of the live throughput, also after a short outage
	shortReady = 20  // times what an empty gate takes
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
	EmptyMillis   float64  `json:"empty_connect_ms"` // without a backlog
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
	CutRatio      float64  `json:"cut_to_steady"`
	Lost          uint64   `json:"lost"`
	Duplicates    uint64   `json:"duplicates"`
	Missed        []string `json:"missed"`
	Good          bool     `json:"good"`

	short bool
	cut   uint64 // messages that waited for the cut to end
}

// judge compares with the bounds.
func (s *summary) judge() {
	s.Ratio = s.Drained / s.Steady
	s.CutRatio = float64(s.cut) / s.CutMillis * 1000 / s.Steady
	s.Missed = []string{}
	miss := func(bad bool, format string, args ...any) {
		if bad {
			s.Missed = append(s.Missed, fmt.Sprintf(format, args...))
		}
	}
	least := leastRate
	if s.short {
		least = shortRate
		miss(s.ConnectMillis > shortReady*s.EmptyMillis, "a device can connect after %.0f ms, without a backlog after %.0f, want at most %d times that", s.ConnectMillis, s.EmptyMillis, shortReady)
		miss(s.CutRatio < shortRate, "a short backlog drains at %.2f of the live throughput, want at least %.2f", s.CutRatio, shortRate)
	} else {
		miss(s.ReadyMillis > mostReady, "ready after %.0f ms, want at most %d", s.ReadyMillis, mostReady)
		miss(s.CutMillis > mostCut, "a short backlog drains within %.0f ms, want at most %d", s.CutMillis, mostCut)
	}
	miss(max(mib(s.AnonReady), mib(s.AnonMost)) > mostAnon, "%.1f MiB of anonymous memory, want at most %d", max(mib(s.AnonReady), mib(s.AnonMost)), mostAnon)
	miss(s.Ratio < least, "the backlog drains at %.2f of the live throughput, want at least %.2f", s.Ratio, least)
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
	row("start to a device's connection", "%.0f ms, %.0f without a backlog", s.ConnectMillis, s.EmptyMillis)
	row("start to ready", "%.0f ms", s.ReadyMillis)
	row("start to first delivery", "%.0f ms", s.FirstMillis)
	row("anonymous memory when ready", "%.1f MiB", mib(s.AnonReady))
	row("the most while draining", "%.1f MiB", mib(s.AnonMost))
	row("live throughput without backlog", "%.0f/s arrived, %.0f/s acknowledged, %.0f commits/s of %.1f ms", s.Steady, s.SteadyAcked, s.SteadyCommits, s.SteadyCommit)
	row("backlog drained", "%.0f/s over %.1f s, %.2f of it", s.Drained, s.DrainSeconds, s.Ratio)
	row("live meanwhile", "%.0f/s acknowledged, %.0f/s arrived", s.LiveAcked, s.LiveArrived)
	row("short outage", "drained %.0f ms after the connection, at %.2f of the live throughput; it came %.0f ms after the mending", s.CutMillis, s.CutRatio, s.CutWaitMillis)
	row("lost, duplicates", "%d, %d", s.Lost, s.Duplicates)
	t.Flush()
	for _, m := range s.Missed {
		fmt.Fprintln(w, "missed:", m)
	}
}
