package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// Sizes of the disk: smaller than the journal may become, then larger.
const (
	smallDisk = "size=32m"
	largeDisk = "size=128m"
	fillRate  = 3000
	lines     = 1500 // that mosquitto_pub publishes, one every few milliseconds
)

// fullDisk fills a small disk under load while the uplink is away. No device may be told that something is safe, nor
// have to connect again; what makes room is the disk growing, or the uplink coming back.
func fullDisk(ctx context.Context, b *bench, r *row) error {
	for range b.count(3, 1) {
		for _, grow := range []bool{true, false}[:b.count(2, 1)] {
			var data string
			d, proxy, err := b.wire(ctx, r, plan{rate: fillRate, before: func(dir string) error {
				if err := os.Mkdir(dir, 0o700); err != nil {
					return err
				}
				data = dir
				return syscall.Mount("tmpfs", dir, "tmpfs", 0, smallDisk)
			}})
			if err == nil {
				err = d.fill(ctx, proxy, data, grow)
				d.remove()
			}
			if data != "" {
				err = errors.Join(err, syscall.Unmount(data, 0))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *bed) fill(ctx context.Context, proxy *stand.Proxy, data string, grow bool) error {
	d.extra = 2 * lines
	host, port, _ := strings.Cut(d.cloud.Addr, ":")
	seen, err := stand.Spawn(d.dir, "seen", "mosquitto_sub", "-h", host, "-p", port, "-q", "1", "-t", "v1/line/#")
	if err != nil {
		return err
	}
	defer seen.Kill()
	publisher, err := stand.Spawn(d.dir, "publisher", "sh", "-c", fmt.Sprintf(
		`i=0; while [ $i -lt %d ]; do echo "{\"speed\":$i}"; i=$((i+1)); sleep 0.004; done | exec mosquitto_pub -d -l %s`,
		lines, strings.Join(d.publish("-t", "v1/line/telemetry"), " ")))
	if err != nil {
		return err
	}
	defer publisher.Kill()
	if err := proxy.Set(stand.Weather{Down: true}); err != nil {
		return err
	}
	d.row.Runs++
	if err := d.untilFull(ctx); err != nil {
		return err
	}
	resent, acked := d.load.Counts().Resent, d.load.Counts().Acked
	ready, detail := d.ready(ctx)
	if detail == "" {
		d.row.bad("the disk is full and readyz does not say so: ready %v", ready)
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	if more := d.load.Counts().Acked - acked; more > 0 {
		d.row.bad("%d messages were acknowledged on a full disk", more)
	}
	name, since := "drained", time.Now()
	if grow {
		name = "grown"
		if err := syscall.Mount("tmpfs", data, "tmpfs", syscall.MS_REMOUNT, largeDisk); err != nil {
			return err
		}
		if err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Acked > acked }); err != nil {
			d.row.bad("there is room again and nothing is acknowledged: %v", err)
		}
		d.row.note("grown: acknowledged again after %.0f ms", ms(time.Since(since)))
		since = time.Now()
	}
	if err := proxy.Set(stand.Weather{}); err != nil {
		return err
	}
	if err := d.caughtUp(ctx, name, since, d.load.Counts().Arrived); err != nil {
		return err
	}
	if err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Acked > acked }); err != nil {
		d.row.bad("%s: nothing is acknowledged afterwards: %v", name, err)
	}
	if again := d.load.Counts().Resent - resent; again > 0 {
		d.row.bad("%s: devices had to send %d messages again", name, again)
	}
	d.lines(ctx, publisher, seen)
	return d.close(ctx)
}

// untilFull waits until nothing was acknowledged for a second.
func (d *bed) untilFull(ctx context.Context) error {
	acked, since := d.load.Counts().Acked, time.Now()
	return d.await(ctx, 2*recoverWithin, func() bool {
		if now := d.load.Counts().Acked; now != acked {
			acked, since = now, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// lines checks what a real publisher that reads lines made of it: it ends well, connected once, and all has arrived.
func (d *bed) lines(ctx context.Context, publisher, seen *stand.Child) {
	limited, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	if err := publisher.Wait(limited); err != nil {
		d.row.bad("mosquitto_pub -l: %v: %s", err, publisher.Tail())
		return
	}
	log, err := os.ReadFile(publisher.Log)
	if n := strings.Count(string(log), "sending CONNECT"); err != nil || n != 1 {
		d.row.bad("mosquitto_pub -l connected %d times: %v", n, err)
	}
	missing := lines
	err = d.await(ctx, recoverWithin, func() bool {
		out, err := os.ReadFile(seen.Log)
		got := map[int]bool{}
		for line := range strings.Lines(string(out)) {
			digits, ok := strings.CutPrefix(strings.TrimSpace(line), `{"speed":`)
			if n, err := strconv.Atoi(strings.TrimSuffix(digits, "}")); ok && err == nil && n < lines {
				got[n] = true
			}
		}
		missing = lines - len(got)
		pause(ctx, 100*time.Millisecond)
		return err == nil && missing == 0
	})
	if err != nil {
		d.row.bad("%d of %d lines of mosquitto_pub -l did not arrive", missing, lines)
	}
}
