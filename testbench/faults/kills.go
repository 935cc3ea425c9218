package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// killsPerBed bounds how many kills one journal sees, as checking it takes longer with every record.
const killsPerBed = 40

// randomKills ends the gate at random instants, with every other gate under more load than the uplink's window holds.
func randomKills(ctx context.Context, b *bench, r *row) error {
	for n, left := 0, b.count(120, 12); left > 0; n++ {
		kills := min(left, b.count(killsPerBed, 6))
		left -= kills
		d, err := b.makeBed(ctx, r, plan{bridge: true, rate: bedRate * float64(1+3*(n%2))})
		if err != nil {
			return err
		}
		err = d.killAtRandom(ctx, kills)
		d.remove()
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *bed) killAtRandom(ctx context.Context, kills int) error {
	for range kills {
		if err := pause(ctx, d.between(30*time.Millisecond, 900*time.Millisecond)); err != nil {
			return err
		}
		d.mark()
		d.row.Runs++
		d.kill(ctx)
		if err := d.start(ctx); err != nil {
			return err
		}
	}
	return d.close(ctx)
}

// point is a system call at which the gate is killed, before the call is done. The counts are strace's: of one thread.
type point struct {
	call   string
	first  int // the smallest count, of the first kill
	spread int // the next kills come up to so many calls later
	times  int // how often in the full form
}

// points cover the making of a journal, the commit (data, sync, meta page, sync), the change of segments, the growth of
// files, saving the state, writing, renaming and removing.
var points = []point{
	{"openat", 1, 60, 16},
	{"pwrite64", 1, 30, 12}, {"pwrite64", 30, 400, 18},
	{"fdatasync", 1, 20, 12}, {"fdatasync", 20, 300, 14},
	{"fsync", 1, 12, 16},
	{"ftruncate", 1, 10, 10},
	{"renameat", 1, 3, 8},
	{"unlinkat", 1, 4, 12},
	{"write", 1, 40, 8}, // archives; also the log and the sockets
}

// inject returns the words that start a program under strace, which writes to file and does what says.
func inject(file, calls, what string) []string {
	return []string{"strace", "-D", "-f", "-y", "-s", "16", "-e", "signal=kill", "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + what, "-o", file}
}

// pointKills ends the gate at named points, in the middle of its first start, of its life, and of its restarts.
func pointKills(ctx context.Context, b *bench, r *row) error {
	seen := map[string]int{}
	var todo []point
	for _, p := range points {
		for range max(p.times/b.count(1, 6), 1) {
			todo = append(todo, p)
		}
	}
	for len(todo) > 0 {
		n := min(len(todo), killsPerBed)
		d, err := b.makeBed(ctx, r, plan{})
		if err == nil {
			d.rng.Shuffle(len(todo), func(i, k int) { todo[i], todo[k] = todo[k], todo[i] })
			err = d.killAtPoints(ctx, todo[:n], seen)
			d.remove()
		}
		if err != nil {
			return err
		}
		todo = todo[n:]
	}
	for where, n := range seen {
		r.note("%d kills at %s", n, where)
	}
	return nil
}

// pointWithin bounds how long the gate lives until its point comes; else it is killed where it is.
const pointWithin = 4 * time.Second

func (d *bed) killAtPoints(ctx context.Context, list []point, seen map[string]int) error {
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	d.mark()
	d.row.Runs++
	d.kill(ctx)
	for i, p := range list {
		d.row.Runs++
		trace := filepath.Join(d.dir, fmt.Sprintf("point-%d.trace", i))
		d.gate.Under = inject(trace, p.call, fmt.Sprintf("signal=KILL:when=%d", p.first+d.rng.IntN(p.spread)))
		c, err := d.gate.Launch()
		if err != nil {
			return err
		}
		died := true
		select {
		case <-c.Done():
		case <-time.After(pointWithin):
			died = false
		case <-ctx.Done():
		}
		c.Kill()
		d.gate.Under = nil
		where := "no point within its life"
		if died {
			where = lastCall(trace)
		}
		if seen[where]++; where == "" {
			d.row.bad("fault %d: the gate ended by itself: %s", d.row.Runs, c.Tail())
		}
		d.debug("kill %d: %s", d.row.Runs, where)
		d.inspect(ctx)
		if i%3 == 2 { // otherwise it is killed on the way back up as well
			if err := d.start(ctx); err != nil {
				return err
			}
			if err := pause(ctx, d.between(100*time.Millisecond, time.Second)); err != nil {
				return err
			}
			d.mark()
			d.kill(ctx)
		}
	}
	return d.close(ctx)
}

var (
	tracedCall = regexp.MustCompile(`^\d+ +(\w+)\((.*)`)
	tracedFile = regexp.MustCompile(`[<"]([^<>"]*/data(?:/[^<>"]*)?)[">]`)
	digits     = regexp.MustCompile(`\d+`)
)

// lastCall names the call in which a process was killed and the kind of file it was on.
func lastCall(trace string) string {
	tail, err := tailOf(trace, 64<<10)
	if err != nil {
		return ""
	}
	lines := strings.Split(string(tail), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		m := tracedCall.FindStringSubmatch(lines[i])
		if m == nil || strings.Contains(lines[i], ") = ") && !strings.Contains(lines[i], "= ?") {
			continue
		}
		where := m[1]
		if f := tracedFile.FindStringSubmatch(m[2]); f != nil {
			where += " of " + kind(f[1])
		}
		return where
	}
	return ""
}

// kind is the name of a file in data_dir without its number.
func kind(path string) string {
	name := filepath.Base(path)
	if name == "data" || name == "archive" {
		return name + "/"
	}
	return digits.ReplaceAllString(name, "N")
}
