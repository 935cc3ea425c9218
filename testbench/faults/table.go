package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// row is what one kind of fault came to.
type row struct {
	Fault string `json:"fault"`
	Runs  int    `json:"runs"` // faults done

	Acked      uint64  `json:"acked"`   // messages that devices were told are safe
	Arrived    uint64  `json:"arrived"` // different messages at the cloud
	Lost       uint64  `json:"lost"`    // acknowledged and neither arrived nor held nor blocked; of images: acknowledged and not in the journal
	Held       uint64  `json:"held"`    // by the journals in the end: for a person; each opened and compared
	Blocked    uint64  `json:"blocked"` // by the journals in the end
	Escaped    uint64  `json:"escaped"` // at the cloud, of messages that the policy holds or blocks
	Undecided  uint64  `json:"undecided"`
	Duplicates uint64  `json:"duplicates_max_per_fault"`
	Resent     uint64  `json:"resent_max_per_fault"` // what devices published again, in their own account
	Window     uint64  `json:"window"`               // of the uplink: copies that one fault may cause
	Mismatches int     `json:"identity_mismatches"`
	Recovered  float64 `json:"recovered_within_ms"` // longest time from the end of a fault to the next arrival; of images: to open

	Seconds  float64  `json:"seconds"`
	Notes    []string `json:"notes"`
	Problems []string `json:"problems"`
}

const maxProblems = 20

func (r *row) bad(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

func (r *row) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *row) recovered(d time.Duration) {
	r.Recovered = max(r.Recovered, float64(d.Microseconds())/1000)
}

// judge adds to the problems what the figures say.
func (r *row) judge() {
	if r.Lost > 0 {
		r.bad("%d acknowledged messages are lost", r.Lost)
	}
	if r.Escaped > 0 {
		r.bad("%d messages that the policy holds or blocks are at the cloud", r.Escaped)
	}
	if r.Undecided > 0 {
		r.bad("%d messages were forwarded without a decision on the record", r.Undecided)
	}
	if r.Mismatches > 0 {
		r.bad("received was not the sum of the states %d times", r.Mismatches)
	}
	if r.Runs == 0 {
		r.bad("nothing was done")
	}
}

func (r *row) verdict() string {
	if len(r.Problems) > 0 {
		return "NOT HELD"
	}
	return "held"
}

// printTable writes the rows for people, then what is worth a sentence.
func printTable(w io.Writer, rows []*row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "fault\truns\tacked\tarrived\theld\tblocked\tlost\tundecided\tcopies/fault\tsent again\twindow\tidentity\trecovered ms\tseconds\tverdict\t\n")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%.0f\t%s\t\n", r.Fault, r.Runs, r.Acked, r.Arrived, r.Held, r.Blocked, r.Lost, r.Undecided,
			r.Duplicates, r.Resent, r.Window, r.Mismatches, r.Recovered, r.Seconds, r.verdict())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		for _, n := range r.Notes {
			fmt.Fprintf(w, "%s: %s\n", r.Fault, n)
		}
	}
	for _, r := range rows {
		for _, p := range r.Problems {
			fmt.Fprintf(w, "%s: NOT HELD: %s\n", r.Fault, p)
		}
	}
	return nil
}
