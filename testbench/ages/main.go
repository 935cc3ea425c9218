// Command ages lets a journal live through 184 and 1,096 days at 10 and 100 messages a second, with a collector and
// without, and prints how large it was, what was forecast and what happened, and whether everything can still be proved.
//
//	go run ./testbench/ages
//	go run ./testbench/ages --short
//
// The journal and the collector are the real ones; time and size are not. The clock of the journal is moved by hand, and
// of the messages of a day every k-th is sent, with audit.max_size divided by k: a column of the table says k. What
// depends on the number of records is true to scale then; sizes are printed multiplied by k. Segments are 1 MiB, not
// 64 MiB divided by k, so that the archives here are coarser than on a box: sizes are high by a few of them.
//
// Exit status 0 when all went as docs/retention.md says, 1 when something did not, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("ages", flag.ContinueOnError)
	fs.SetOutput(stderr)
	short := fs.Bool("short", false, "a tenth of the messages and fewer ages, for tests")
	asJSON := fs.Bool("json", false, "print one line of JSON for each age")
	dir := fs.String("dir", "", "`folder` to work in; default: a temporary one")
	if fs.Parse(args) != nil || fs.NArg() > 0 {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *dir == "" {
		tmp, err := os.MkdirTemp("", "ages-")
		if err != nil {
			fmt.Fprintln(stderr, "ages: error:", err)
			return 1
		}
		defer os.RemoveAll(tmp)
		*dir = tmp
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	if !*asJSON {
		fmt.Fprintln(w, "rate\tdays\tmax_size\tk\trecords\tbytes each\tlargest\tarchives\tshipped\ttrimmed\tkept\tforecast\tlowest\thappened\tproofs\ttook")
		w.Flush()
	}
	status := 0
	for _, a := range ages(*short) {
		r, err := live(ctx, a, *dir)
		if err != nil {
			fmt.Fprintln(stderr, "ages: error:", err)
			return 1
		}
		if *asJSON {
			json.NewEncoder(stdout).Encode(r)
		} else {
			print(w, r)
			w.Flush()
		}
		for _, p := range r.Problems {
			fmt.Fprintf(stderr, "ages: error: %s: %s\n", a.name(), p)
			status = 1
		}
	}
	return status
}

func print(w io.Writer, r *result) {
	happened, forecast := "never full", "never full"
	if r.FullDay > 0 {
		happened = fmt.Sprintf("full on day %.1f", r.FullDay)
	}
	if r.Forecast < never {
		forecast = fmt.Sprintf("full on day %.1f", r.Forecast)
	}
	lowest := "–"
	if r.Lowest < never {
		lowest = fmt.Sprintf("%.1f days", r.Lowest)
	}
	proofs := "good"
	if len(r.Problems) > 0 {
		proofs = "NOT GOOD"
	}
	fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t%.0f\t%s\t%d\t%d\t%d\t%.1f KiB\t%s\t%s\t%s\t%d, %s\t%s\n", r.Age.name(), r.Days, size(r.Age.MaxSize), r.K, r.Records, r.Each, size(r.Largest),
		r.Archives, r.Shipped, r.Trimmed, float64(r.Kept)/1024, forecast, lowest, happened, r.Proofs, proofs, time.Duration(r.Took*float64(time.Second)).Round(100*time.Millisecond))
}

func size(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
}
