package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// spell is a time in which the kernel refuses some calls of the gate.
type spell struct {
	name    string
	calls   string
	what    string // strace's error=… and when=…
	refuses bool   // nothing may be acknowledged, and readyz says so
}

var spells = []spell{
	{"pwrite EIO", "pwrite64", "error=EIO", true},
	{"every 7th pwrite EIO", "pwrite64", "error=EIO:when=3+7", false},
	{"fdatasync EIO", "fdatasync", "error=EIO", true},
	{"fdatasync ENOSPC", "fdatasync", "error=ENOSPC", true},
	{"every 5th fdatasync EIO", "fdatasync", "error=EIO:when=2+5", false},
	{"openat EMFILE", "openat", "error=EMFILE", false},
	{"fsync EIO", "fsync", "error=EIO", false},
	{"rename and unlink EIO", "renameat,unlinkat", "error=EIO", false},
	{"read-only", "pwrite64,fdatasync,fsync,ftruncate,renameat,unlinkat,mkdirat", "error=EROFS", true},
}

// attach lets strace refuse calls of a running process, until the returned function is called.
func (d *bed) attach(ctx context.Context, name string, s *spell) (stop func() error, err error) {
	file := filepath.Join(d.dir, name+".trace")
	c, err := stand.Spawn(d.dir, name, "strace", "-f", "-p", fmt.Sprint(d.child.PID()), "-s", "16", "-e", "signal=none", "-e", "trace="+s.calls,
		"-e", "inject="+s.calls+":"+s.what, "-o", file)
	if err != nil {
		return nil, err
	}
	err = d.await(ctx, 5*time.Second, func() bool {
		select {
		case <-c.Done():
			return true
		default:
			return strings.Contains(c.Tail(), "attached")
		}
	})
	return func() error { c.Stop(); return nil }, err
}

// ioErrors refuses what the gate asks of the kernel, for a while each time. It must refuse in turn, say so and recover
// alone, without a device having to connect again.
func ioErrors(ctx context.Context, b *bench, r *row) error {
	d, err := b.makeBed(ctx, r, plan{})
	if err != nil {
		return err
	}
	defer d.remove()
	for round := range b.count(3, 1) {
		for _, i := range d.rng.Perm(len(spells))[:b.count(len(spells), 5)] {
			if err := d.endure(ctx, fmt.Sprintf("spell-%d-%d", round, i), &spells[i]); err != nil {
				return err
			}
		}
	}
	return d.close(ctx)
}

const (
	spellLasts = 1500 * time.Millisecond
	inHand     = 400 * time.Millisecond // what was committed before a spell is acknowledged by then
)

func (d *bed) endure(ctx context.Context, name string, s *spell) error {
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return err
	}
	d.mark()
	d.row.Runs++
	stop, err := d.attach(ctx, name, s)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	resent := d.load.Counts().Resent
	if err := pause(ctx, inHand); err != nil {
		return err
	}
	acked := d.load.Counts().Acked
	if err := pause(ctx, spellLasts); err != nil {
		return err
	}
	more := d.load.Counts().Acked - acked
	ready, detail := d.ready(ctx)
	if s.refuses && more > 0 {
		d.row.bad("%s: %d messages were acknowledged meanwhile", s.name, more)
	}
	if s.refuses && (ready || detail == "") {
		d.row.bad("%s: readyz does not say so: ready %v, %q", s.name, ready, detail)
	}
	acked = d.load.Counts().Acked
	since, seen := time.Now(), d.load.Counts().Arrived
	if err := stop(); err != nil {
		return err
	}
	select {
	case <-d.child.Done():
		d.row.bad("%s: the gate ended: %s", s.name, d.child.Tail())
		return d.start(ctx)
	default:
	}
	if err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Acked > acked }); err != nil {
		return fmt.Errorf("%s: nothing is acknowledged afterwards: %w", s.name, err)
	}
	if err := d.caughtUp(ctx, s.name, since, seen); err != nil {
		return err
	}
	if ready, detail := d.ready(ctx); !ready {
		d.row.bad("%s: not ready afterwards: %s", s.name, detail)
	}
	if again := d.load.Counts().Resent - resent; again > 0 {
		d.row.bad("%s: devices had to send %d messages again", s.name, again)
	}
	return nil
}

// unsettled has a backlog drain while the disk takes no deliveries, then kills the gate: what the cloud acknowledged
// meanwhile is sent again.
func unsettled(ctx context.Context, b *bench, r *row) error {
	d, proxy, err := b.wire(ctx, r, plan{})
	if err != nil {
		return err
	}
	defer d.remove()
	for i := range b.count(3, 1) {
		if err := proxy.Set(stand.Weather{Down: true}); err != nil {
			return err
		}
		if err := pause(ctx, 2*time.Second); err != nil { // 2,000 messages wait
			return err
		}
		d.mark()
		d.row.Runs++
		stop, err := d.attach(ctx, fmt.Sprint("unsettled-", i), &spells[2])
		if err != nil {
			return err
		}
		if err := proxy.Set(stand.Weather{}); err != nil {
			return err
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
		d.kill(ctx)
		if err := stop(); err != nil {
			return err
		}
		if err := d.start(ctx); err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		d.mark()
	}
	return d.close(ctx)
}
