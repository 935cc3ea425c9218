// Command swaps loads plugins into a gate under load and reads afterwards, from its records, that every message was judged
// by one version, whole, and got that version's verdict.
//
//	go run ./testbench/swaps            200 versions, 50 kills
//	go run ./testbench/swaps --short    CI's form
//
// The versions are one C plugin, built here, whose verdict says which version gave it (verdict.c); every version is code of
// its own that the gate has not compiled before, signed by a key of its trust file, under a serial higher than the last.
//
//	swap     loads while messages flow, and now and then one that must be refused: nothing lost, nothing undecided, the
//	         latency of acknowledgements during loads beside that outside, and what the gate says an exchange took
//	kills    kill -9 at some moment of a load: the next start has the version before or the new one, and the floor of serials
//	         never goes back
//	confirm  a version on probation that blocks everything, and is rolled back by itself
//	struck   a version that traps at every message, and is rolled back at the third
//
// It needs mosquitto, clang and lld, and runs in a temporary folder on free loopback ports. Exit status 0 when all held, 1
// when something did not, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// options are the flags.
type options struct {
	sluice string
	dir    string
	rate   float64
	swaps  int
	kills  int
	seed   uint64
	short  bool
	json   bool
}

// Counts of the short form.
const (
	shortSwaps = 16
	shortKills = 8
)

// count is how often something is done.
func (o *options) count(full, short int) int {
	if o.short {
		return short
	}
	return full
}

func main() {
	stand.Program("swaps", parse, func(ctx context.Context, o options) (bool, error) {
		s, err := run(ctx, o)
		if o.json {
			err = errors.Join(err, json.NewEncoder(os.Stdout).Encode(s))
		} else {
			s.table(os.Stdout)
		}
		return s.good(), err
	})
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("swaps", flag.ContinueOnError)
	f.StringVar(&o.sluice, "sluice", "", "sluice `binary`; empty: built from this module")
	f.StringVar(&o.dir, "dir", "", "`folder` on a disk; empty: the one for temporary files")
	f.Float64Var(&o.rate, "rate", 5000, "messages a second that are offered during swaps; halved until the machine bears it")
	f.IntVar(&o.swaps, "swaps", 200, "versions to load")
	f.IntVar(&o.kills, "kills", 50, "kills")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the instants")
	f.BoolVar(&o.short, "short", false, "CI's form: 16 versions, 8 kills, bounds that a busy machine keeps")
	f.BoolVar(&o.json, "json", false, "print JSON")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.rate < leastRate || o.swaps < 1 || o.swaps > 10_000 || o.kills < 1 || o.kills > 10_000 {
		return o, fmt.Errorf("want a rate of at least %d, 1 to 10000 swaps and kills, and no arguments", leastRate)
	}
	return o, nil
}

// run does the rows. What it returns with an error is what was done until then.
func run(ctx context.Context, o options) (*summary, error) {
	s := &summary{Figures: []figure{}}
	err := stand.OnDisk(ctx, "swaps", o.dir, o.sluice, func(dir, binary string, _ uint64) error {
		o.sluice = binary
		for _, row := range []struct {
			name string
			do   func(ctx context.Context, o options, a *author, dir string, s *summary) error
		}{{"swap", swap}, {"kills", kills}, {"trials", trials}} {
			a, err := newAuthor(ctx, dir)
			if err != nil {
				return err
			}
			if err := row.do(ctx, o, a, dir, s); err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
		}
		s.done = true
		return nil
	})
	return s, err
}

// figure is one line of the table.
type figure struct {
	Row   string `json:"row"`
	What  string `json:"what"`
	Is    string `json:"is"`
	Bound string `json:"bound,omitempty"`
	Held  bool   `json:"held"`
}

// summary is what was found.
type summary struct {
	Figures []figure `json:"figures"`
	done    bool
}

func (s *summary) figure(row, what, is, bound string, held bool) {
	s.Figures = append(s.Figures, figure{row, what, is, bound, held})
}

// counts are the figures of records beside what devices sent and what the cloud saw.
func (s *summary) counts(row string, l *ledger, sent, arrived uint64) {
	s.figure(row, "messages sent, decided, let through, arrived", fmt.Sprintf("%d, %d, %d, %d", sent, l.decisions, l.waiting, arrived), "", sent > 0)
	lost := max(sent, l.decisions) - l.decisions + max(l.waiting, arrived) - arrived
	s.figure(row, "lost", fmt.Sprint(lost), "0", lost == 0)
	s.figure(row, "arrived though not let through", fmt.Sprint(max(arrived, l.waiting)-l.waiting), "0", arrived <= l.waiting)
	s.verdicts(row, l)
}

// verdicts are the figures of records alone.
func (s *summary) verdicts(row string, l *ledger) {
	s.figure(row, "undecided", fmt.Sprint(l.undecided), "0", l.undecided == 0)
	wrong := fmt.Sprint(l.wrong)
	if l.example != "" {
		wrong += " (" + l.example + ")"
	}
	s.figure(row, "decisions of no version, or not its verdict", wrong, "0", l.wrong == 0 && l.decisions > 0)
	s.figure(row, "sets; decisions of the set before, in hand at a swap", fmt.Sprintf("%d; %d", len(l.sets), l.behind), "", true)
}

// good reports whether everything was done and held.
func (s *summary) good() bool {
	for _, f := range s.Figures {
		if !f.Held {
			return false
		}
	}
	return s.done
}

// table prints what people read.
func (s *summary) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "row\twhat\tmeasured\tbound\t")
	row := ""
	for _, f := range s.Figures {
		name, mark := f.Row, ""
		if name == row {
			name = ""
		}
		row = f.Row
		if !f.Held {
			mark = "NOT HELD"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, f.What, f.Is, f.Bound, mark)
	}
	t.Flush()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
func us(d time.Duration) string { return fmt.Sprintf("%.0f µs", float64(d.Nanoseconds())/1000) }

func holds(err error) string {
	if err != nil {
		return err.Error()
	}
	return "hold"
}
