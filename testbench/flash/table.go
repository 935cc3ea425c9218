package main

import (
	"fmt"
	"io"
	"syscall"
	"text/tabwriter"
	"time"
)

// Bounds.
const (
	mostPerBody   = 2.4 // bytes written per body byte at full load
	mostPerSecond = 64  // KiB a second at 10 messages a second with a linger of 1 s
	shortSlack    = 1.5 // times these in the short form: few commits, and their number varies
)

// summary is the whole outcome.
type summary struct {
	Bodies bodies    `json:"bodies"`
	Cases  []*result `json:"cases"`
	Missed []string  `json:"missed"`
	Good   bool      `json:"good"`

	short bool
}

// judge compares the cases with the bounds.
func (s *summary) judge() {
	s.Missed = []string{}
	miss := func(format string, args ...any) { s.Missed = append(s.Missed, fmt.Sprintf(format, args...)) }
	body, second := float64(mostPerBody), float64(mostPerSecond)
	if s.short {
		body, second = body*shortSlack, second*shortSlack
	}
	for _, c := range s.Cases {
		switch {
		case c.Lost > 0 || c.Messages == 0:
			miss("%s: %d of %d messages lost", c.name(), c.Lost, c.Messages)
		case c.Rate == 0 && c.PerBody > body:
			miss("%s: %.2f bytes per body byte, want at most %.2f", c.name(), c.PerBody, body)
		case c.Rate == 10 && c.Linger == 1 && c.PerSecond > second:
			miss("%s: %.1f KiB a second, want at most %.0f", c.name(), c.PerSecond, second)
		}
	}
	s.Good = len(s.Missed) == 0
}

func (c *result) name() string {
	rate := "full load"
	if c.Rate > 0 {
		rate = fmt.Sprintf("%g msg/s", c.Rate)
	}
	return fmt.Sprintf("%s, linger %v, uplink %s", rate, time.Duration(c.Linger*float64(time.Second)), c.Uplink)
}

// String is one line about a case.
func (c *result) String() string {
	return fmt.Sprintf("%s: %d messages, %.0f bytes each, %.2f per body byte, %.1f KiB/s", c.name(), c.Messages, c.PerMessage, c.PerBody, c.PerSecond)
}

// table prints what people read.
func (s *summary) table(w io.Writer) {
	fmt.Fprintf(w, "bodies of %.0f bytes, deflated %.2f of it; a regular report has %.0f bytes, deflated %.2f of it\n\n",
		s.Bodies.Outbound, s.Bodies.Deflated, s.Bodies.Telemetry, s.Bodies.Compressed)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "msg/s\tlinger\tuplink\tacked/s\tack p50 ms\tp99\tdevice KiB/s\tdevice B/msg\tper body byte\tjournal per body byte\tblock device per body byte\t")
	for _, c := range s.Cases {
		rate, block := "full", "-"
		if c.Rate > 0 {
			rate = fmt.Sprintf("%g", c.Rate)
		}
		if c.Block > 0 {
			block = fmt.Sprintf("%.2f", c.BlockPer)
		}
		fmt.Fprintf(t, "%s\t%v\t%s\t%.0f\t%.1f\t%.1f\t%.1f\t%.0f\t%.2f\t%.2f\t%s\t\n", rate, time.Duration(c.Linger*float64(time.Second)), c.Uplink,
			c.AckedRate, c.AckP50, c.AckP99, c.PerSecond, c.PerMessage, c.PerBody, c.JournalPer, block)
	}
	t.Flush()
	for _, m := range s.Missed {
		fmt.Fprintln(w, "missed:", m)
	}
}

// syncAll waits until everything is written back.
func syncAll() { syscall.Sync() }
