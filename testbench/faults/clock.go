package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
)

// instant is what a clock says.
type instant struct {
	name    string
	add     time.Duration // to the true time
	epoch   bool          // the box has never set its clock
	trusted bool
}

const year = 365 * 24 * time.Hour

var instants = []instant{
	{"never set", 0, true, false},
	{"set", 0, false, true},
	{"ten years on", 10 * year, false, true},
	{"back again", 0, false, true},
	{"ten years back", -10 * year, false, true},
	{"an hour back", -time.Hour, false, true},
	{"never set again", 0, true, false},
	{"right at last", 0, false, true},
}

// clocks lets the clock of a journal jump, while it is open and between two processes, and checks that nothing depends
// on it: no message is lost, records stay in order, checkpoints cover them, and the time is never taken for more than it was.
func clocks(ctx context.Context, b *bench, r *row) error {
	dir, err := os.MkdirTemp(b.dir, "clock-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := &jumping{row: r, dir: filepath.Join(dir, "data"), rng: rand.New(rand.NewPCG(b.seed, 0xC10C)), start: time.Now(), seen: map[uint64]bool{}}
	for range b.count(10, 2) {
		for i := range instants {
			c.now.Store(&instants[i])
			r.Runs++
			if err := c.live(ctx, i%3 == 0); err != nil {
				return fmt.Errorf("%s: %w", instants[i].name, err)
			}
		}
	}
	if c.journal != nil {
		return c.close(ctx)
	}
	return nil
}

type jumping struct {
	row     *row
	dir     string
	rng     *rand.Rand
	start   time.Time
	now     atomic.Pointer[instant]
	journal *journal.Journal
	seen    map[uint64]bool // incarnations
	count   int
}

func (c *jumping) clock() (time.Time, bool) {
	i := c.now.Load()
	if i.epoch {
		return time.Unix(0, 0).Add(time.Since(c.start)), i.trusted
	}
	return time.Now().Add(i.add), i.trusted
}

// live appends and delivers under the clock as it is, in a journal that was open before the jump or is opened after it.
func (c *jumping) live(ctx context.Context, reopen bool) (err error) {
	if reopen && c.journal != nil {
		if err := c.close(ctx); err != nil {
			return err
		}
	}
	if c.journal == nil {
		o := driverOptions(c.dir)
		o.Clock, o.CheckpointEvery = c.clock, 20*time.Millisecond
		if c.journal, err = journal.Open(o); err != nil {
			return err
		}
		if c.seen[c.journal.Incarnation()] {
			c.row.bad("an incarnation is used a second time")
		}
		c.seen[c.journal.Incarnation()] = true
		for u := range driverUplinks {
			if _, err := c.journal.Number("uplink", fmt.Sprint("cloud-", u)); err != nil {
				return err
			}
		}
	}
	j := c.journal
	sub, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, driverUplinks)
	for u := range driverUplinks {
		go func() { ended <- deliver(sub, j, u, rand.New(rand.NewPCG(1, uint64(u))), nil) }()
	}
	for range 100 {
		c.count++
		e, err := driverEntry(j, c.rng, c.count)
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		j.Append([]*gateway.Entry{e}, func(_ uint64, err error) { done <- err })
		if err := <-done; err != nil {
			return err
		}
		c.row.Acked++
	}
	size := j.Size()
	for deadline := time.Now().Add(10 * time.Second); j.Checkpoint().Size < size || j.Totals().Waiting > 0; {
		if time.Now().After(deadline) {
			c.row.bad("%s: checkpoint of %d for %d records, %d wait", c.now.Load().name, j.Checkpoint().Size, size, j.Totals().Waiting)
			break
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	for range driverUplinks {
		err = errors.Join(err, <-ended)
	}
	return err
}

// close ends the journal and proves it; a delivery made while the clock was not set does not say that it was.
func (c *jumping) close(ctx context.Context) error {
	err := c.journal.Close()
	c.journal = nil
	if err != nil {
		return err
	}
	report, err := journal.Check(ctx, c.dir, []journal.Key{driverKey}, driverVerify, nil)
	if err != nil {
		return err
	}
	if !report.OK {
		c.row.bad("check: %s", strings.Join(report.Problems[:min(len(report.Problems), 3)], "; "))
	}
	if !report.Totals.Identity() {
		c.row.Mismatches++
	}
	if uint64(c.count) != report.Decisions {
		c.row.Lost += uint64(c.count) - report.Decisions
	}
	j, err := journal.OpenReadOnly(c.dir, []journal.Key{driverKey})
	if err != nil {
		return err
	}
	defer j.Close()
	var rec gateway.Record
	return j.Records(0, func(seq uint64, record []byte) error {
		if err := gateway.DecodeRecord(record, &rec); err != nil {
			return err
		}
		if rec.Kind == gateway.DeliveryRecord && rec.Trusted && rec.Time.Year() < 1980 {
			c.row.bad("record %d: a time of 1970 is trusted", seq)
		}
		return nil
	})
}
