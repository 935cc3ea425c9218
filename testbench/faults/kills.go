package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// killsPerBed bounds how many kills one journal sees, as checking it takes longer with every record.
const killsPerBed = 40

// randomKills ends the gate at random instants: once as it is, once under more load than the uplink's window holds, and
// once with a broker between some devices and the gate as well.
func randomKills(ctx context.Context, b *bench, r *row) error {
	for n, left := 0, b.count(120, 8); left > 0; n++ {
		kills := min(left, b.count(killsPerBed, 4))
		left -= kills
		d, err := b.makeBed(ctx, r, plan{stay: true, bridge: n%3 == 1, rate: bedRate * float64(1+3*min(n%3, 1))})
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
	return d.atRandom(ctx, kills, func() { d.kill(ctx) })
}

// atRandom ends the gate at random instants and starts it again.
func (d *bed) atRandom(ctx context.Context, times int, end func()) error {
	for range times {
		if err := pause(ctx, d.between(30*time.Millisecond, 900*time.Millisecond)); err != nil {
			return err
		}
		d.mark()
		d.row.Runs++
		end()
		if err := d.start(ctx); err != nil {
			return err
		}
	}
	return d.close(ctx)
}

// Bounds of stops.
const (
	fullRate    = 50_000 // messages a second that the devices have: more than any gate takes
	stopsPerBed = 15
)

// stops ends the gate by SIGTERM at random instants, with devices sending as fast as it takes it.
func stops(ctx context.Context, b *bench, r *row) error {
	longest := time.Duration(0)
	for left := b.count(60, 6); left > 0; {
		times := min(left, stopsPerBed)
		left -= times
		d, err := b.makeBed(ctx, r, plan{stay: true, rate: fullRate})
		if err != nil {
			return err
		}
		err = d.atRandom(ctx, times, func() { longest = max(longest, d.stop(ctx)) })
		d.remove()
		if err != nil {
			return err
		}
	}
	r.note("from SIGTERM to the end: at most %.0f ms", ms(longest))
	return nil
}

const stopsWithin = 2 * time.Second // from SIGTERM to the end

// stop ends the gate by SIGTERM and returns how long that took; what the files say then must be sound.
func (d *bed) stop(ctx context.Context) time.Duration {
	since := time.Now()
	if err := d.child.Stop(); err != nil {
		d.row.bad("%v", err)
	}
	d.child = nil
	took := time.Since(since)
	if took > stopsWithin {
		d.row.bad("fault %d: from SIGTERM to the end it took %.0f ms", d.row.Runs, ms(took))
	}
	d.inspect(ctx)
	return took
}

// point is a system call before which the gate is killed. The counts are strace's: of one thread.
type point struct {
	call   string
	on     target
	first  int // the smallest count, of the first kill
	spread int // the next kills come up to so many calls later
	times  int // how often in the full form
}

// target is the file that a point is about.
type target int

const (
	anything target = iota
	nextSegment
	nextArchive
	oldestSegment
	state
	parked
)

// points cover the commit (data, sync, meta page, sync), the making of a segment, the growth of files, saving the state,
// parking holds, writing, renaming and removing.
var points = []point{
	{"openat", anything, 1, 25, 8},
	{"pwrite64", anything, 1, 30, 10},
	{"pwrite64", anything, 30, 150, 16},
	{"fdatasync", anything, 1, 20, 8},
	{"fdatasync", anything, 20, 100, 12},
	{"fsync", anything, 1, 6, 10},
	{"ftruncate", anything, 1, 2, 6},
	{"openat", nextSegment, 1, 1, 4},
	{"pwrite64", nextSegment, 1, 1, 4}, // the file is there and empty
	{"pwrite64", nextSegment, 2, 7, 8},
	{"fdatasync", nextSegment, 1, 5, 8},
	{"openat", nextArchive, 1, 1, 3},
	{"write", nextArchive, 1, 5, 6},
	{"fsync", nextArchive, 1, 1, 3},
	{"renameat", nextArchive, 1, 1, 4},
	{"unlinkat", oldestSegment, 1, 1, 6},
	{"pwrite64", state, 1, 8, 8},
	{"fdatasync", state, 1, 6, 6},
	{"pwrite64", parked, 1, 8, 6}, // held bodies leave their segment
	{"fdatasync", parked, 1, 4, 4},
}

// path returns the file that a target is at the next start. Segments and archives are named after their first record.
func (t target) path(data string, records uint64) (string, error) {
	segments, err := filepath.Glob(filepath.Join(data, "segment-*.bolt"))
	if err != nil {
		return "", err
	}
	oldest := filepath.Join(data, fmt.Sprintf("segment-%020d.bolt", records))
	if len(segments) > 0 {
		oldest = slices.Min(segments)
	}
	switch t {
	case nextSegment:
		return filepath.Join(data, fmt.Sprintf("segment-%020d.bolt", records)), nil
	case nextArchive:
		number := strings.TrimPrefix(strings.TrimSuffix(filepath.Base(oldest), ".bolt"), "segment-")
		return filepath.Join(data, "archive", "archive-"+number+".slr.tmp"), nil
	case oldestSegment:
		return oldest, nil
	case state:
		return filepath.Join(data, "state.bolt"), nil
	case parked:
		return filepath.Join(data, "parked.bolt"), nil
	}
	return "", nil
}

// inject returns the words that start a program under strace, which writes to file and does what says to calls, on one
// path only unless that is empty.
func inject(file, path, calls, what string) []string {
	words := []string{"strace", "-D", "-f", "-y", "-s", "16", "-e", "signal=kill", "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + what, "-o", file}
	if path != "" {
		words = append(words, "-P", path)
	}
	return words
}

// pointKills ends the gate at named points, in the middle of its first start, of its life, and of its restarts.
func pointKills(ctx context.Context, b *bench, r *row) error {
	seen := map[string]int{}
	var todo []point
	for _, p := range points {
		for range b.count(p.times, 1) {
			todo = append(todo, p)
		}
	}
	b.rng(r).Shuffle(len(todo), func(i, k int) { todo[i], todo[k] = todo[k], todo[i] })
	todo = todo[:b.count(len(todo), 10)]
	for len(todo) > 0 {
		d, err := b.makeBed(ctx, r, plan{stay: true})
		if err != nil {
			return err
		}
		done, err := d.killAtPoints(ctx, todo[:min(len(todo), killsPerBed)], seen)
		d.remove()
		if err != nil {
			return err
		}
		todo = todo[done:]
	}
	for _, where := range slices.Sorted(maps.Keys(seen)) {
		r.note("%d kills at %s", seen[where], where)
	}
	return nil
}

// pointWithin bounds how long the gate lives until its point comes; else it is killed where it is.
const pointWithin = 2 * time.Second

// killAtPoints returns how many points were done: not all of them when the gate does not start again.
func (d *bed) killAtPoints(ctx context.Context, list []point, seen map[string]int) (done int, err error) {
	if err := pause(ctx, time.Second); err != nil {
		return 0, err
	}
	d.mark()
	d.row.Runs++
	d.kill(ctx)
	for i, p := range list {
		d.row.Runs++
		where, err := d.killAt(ctx, fmt.Sprintf("point-%d.trace", i), &p)
		if err != nil {
			return i, err
		}
		seen[where]++
		d.debug("kill %d, %s %d: %s", d.row.Runs, p.call, p.on, where)
		if d.inspect(ctx); d.broken {
			c := d.load.Counts()
			d.row.bad("fault %d, killed at %s: the gate does not start again; %d messages are acknowledged and not at the cloud", d.row.Runs, where, c.Acked-c.Arrived)
			return i + 1, nil
		}
		if i%3 == 2 { // otherwise it is killed on the way back up as well
			if err := d.start(ctx); err != nil {
				return i, err
			}
			if err := pause(ctx, d.between(100*time.Millisecond, time.Second)); err != nil {
				return i, err
			}
			d.mark()
			d.row.Runs++ // this kill too may cost a window of copies
			d.kill(ctx)
		}
	}
	return len(list), d.close(ctx)
}

// killAt runs the gate until it dies at a point, or for a while, and returns where it died.
func (d *bed) killAt(ctx context.Context, name string, p *point) (where string, err error) {
	path, err := p.on.path(filepath.Join(d.dir, "data"), d.records)
	if err != nil {
		return "", err
	}
	trace := filepath.Join(d.dir, name)
	d.gate.Under = inject(trace, path, p.call, fmt.Sprintf("signal=KILL:when=%d", p.first+d.rng.IntN(p.spread)))
	c, err := d.gate.Launch()
	d.gate.Under = nil
	if err != nil {
		return "", err
	}
	select {
	case <-c.Done():
		where = lastCall(trace)
	case <-time.After(pointWithin):
		where = "no point within its life"
	case <-ctx.Done():
	}
	c.Kill()
	if where == "" {
		d.row.bad("fault %d: the gate ended by itself: %s", d.row.Runs, c.Tail())
	}
	return where, nil
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
