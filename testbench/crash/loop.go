package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sluice-edge/sluice/testbench/traffic"
)

// loop kills and restarts the gate, then lets everything drain and closes the account.
func (b *bed) loop(ctx context.Context, o options, s *summary) error {
	rng := rand.New(rand.NewPCG(o.seed, 0xC4A54))
	bad := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	var restarts []float64
	var before traffic.Counts
	fmt.Println("kill  alive ms    acked  arrived  duplicates  records  check ms  ready ms")
	for kill := 1; kill <= o.kills; kill++ {
		alive := o.shortest + time.Duration(rng.Int64N(int64(o.longest-o.shortest)))
		select {
		case <-time.After(alive):
		case <-ctx.Done():
			return ctx.Err()
		}
		b.child.Kill()
		b.child = nil
		since := time.Now()
		records, err := b.check(ctx)
		if err != nil {
			bad("kill %d: %v", kill, err)
		}
		checked := time.Since(since)
		since = time.Now()
		if b.child, err = b.gate.Start(ctx); err != nil {
			return fmt.Errorf("kill %d: %w", kill, err)
		}
		ready := time.Since(since)
		restarts = append(restarts, ms(ready))
		now := b.load.Counts()
		fmt.Printf("%4d  %8.0f  %7d  %7d  %10d  %7d  %8.0f  %8.0f\n", kill, ms(alive), now.Acked, now.Arrived, now.Duplicates-before.Duplicates,
			records, ms(checked), ms(ready))
		s.MaxDuplicates = max(s.MaxDuplicates, now.Duplicates-before.Duplicates)
		before = now
	}
	report, err := b.load.Stop()
	if err != nil {
		return err
	}
	s.MaxDuplicates = max(s.MaxDuplicates, report.Duplicates-before.Duplicates)
	s.Sent, s.Acked, s.Arrived, s.Lost = report.Sent, report.Acked, report.Arrived, report.Lost
	s.Duplicates, s.Resent, s.Leaks = report.Duplicates, report.Resent, report.Leaks
	slices.Sort(restarts)
	s.RestartMedian, s.RestartMax = restarts[len(restarts)/2], restarts[len(restarts)-1]
	return b.close(ctx, s, bad)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// close stops the gate in good order and compares what the devices, the cloud and the files say.
func (b *bed) close(ctx context.Context, s *summary, bad func(string, ...any)) error {
	if err := b.child.Stop(); err != nil {
		bad("%v", err)
	}
	b.child = nil
	var err error
	if s.Records, err = b.check(ctx); err != nil {
		bad("at the end: %v", err)
	}
	out, err := b.gate.Verb(ctx, "journal", "stat", "--json")
	if err != nil {
		return err
	}
	var stat struct {
		Totals map[string]any `json:"totals"`
	}
	if err := json.Unmarshal(out, &stat); err != nil {
		return fmt.Errorf("journal stat: %w", err)
	}
	s.Totals = stat.Totals
	if identity, ok := stat.Totals["identity"].(bool); !ok || !identity {
		bad("journal stat: received is not the sum of the states")
	}
	if got, _ := stat.Totals["received"].(float64); uint64(got) != s.Records {
		bad("journal stat: received %.0f, audit verify: %d records", got, s.Records)
	}
	if got, _ := stat.Totals["waiting"].(float64); got > 0 {
		bad("%.0f messages still wait", got)
	}
	if s.Acked == 0 {
		bad("nothing was acknowledged")
	}
	if s.Records < s.Arrived {
		bad("%d messages arrived with %d decisions on the record", s.Arrived, s.Records)
	}
	if s.Lost > 0 {
		bad("%d acknowledged messages never arrived", s.Lost)
	}
	if s.Leaks > 0 {
		bad("%d messages arrived with a sensitive value inside", s.Leaks)
	}
	return nil
}

// check runs both offline checks of the files and returns the number of decision records.
func (b *bed) check(ctx context.Context) (uint64, error) {
	if out, err := b.gate.Verb(ctx, "journal", "check"); err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	out, err := b.gate.Verb(ctx, "audit", "verify", "--json")
	var verified struct {
		OK      bool     `json:"ok"`
		Records uint64   `json:"records"`
		Errors  []string `json:"errors"`
	}
	if jsonErr := json.Unmarshal(out, &verified); jsonErr != nil && err == nil {
		err = fmt.Errorf("audit verify: %w", jsonErr)
	}
	if err == nil && (!verified.OK || len(verified.Errors) > 0) {
		err = fmt.Errorf("audit verify: not ok")
	}
	if err != nil {
		return 0, fmt.Errorf("%w %v", err, verified.Errors)
	}
	return verified.Records, nil
}
