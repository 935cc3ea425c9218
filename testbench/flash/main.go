// Command flash measures what a gate writes to the block device, by rate, linger and state of the uplink. Bodies are of
// about 1 KB that nothing compresses: random letters, and sealed in the journal.
//
//	go run ./testbench/flash
//	go run ./testbench/flash --short
//
// Three figures are taken. "Device" is write_bytes of /proc/PID/io: the pages that the process made dirty in files, each
// counted once until it is written back. The journal syncs every commit, so that is what reaches the block device for the
// contents of files: segments, state, archive, everything. Not in it is what the file system writes for itself: its
// journal, inodes, allocation maps. "Journal" is the gate's own sluice_journal_written_bytes_total: the pages of segments,
// as bbolt counts them. "Block device" (--device) is what the device itself counted, everybody's writes and the file
// system's own included: it means something on a file system that nobody else uses.
//
// A body byte is a byte of payload that left, or would leave if there were an uplink; topics, records, hashes, receipts
// and everything else count as what it costs to write one. Every gate is stopped at the end, so that its last segment is
// archived, too: "per body byte" includes that, "a second" is while messages came in.
//
// Everything runs in a temporary folder on free loopback ports; low rates are measured side by side. Exit status 0 when
// the bounds hold, 1 when one is missed or something is off, 2 for usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// options are the flags.
type options struct {
	sluice  string
	dir     string
	rates   []float64 // 0: full load
	lingers []time.Duration
	links   []string
	long    time.Duration // of a case at a low rate
	length  time.Duration // of the others
	size    int
	device  bool
	json    bool
	short   bool
}

// slowest is the rate up to which cases are measured side by side.
const slowest = 100

func main() {
	stand.Program("flash", parse, func(ctx context.Context, o options) (bool, error) {
		s, err := run(ctx, o)
		if err != nil {
			return false, err
		}
		if o.json {
			return s.Good, json.NewEncoder(os.Stdout).Encode(s)
		}
		s.table(os.Stdout)
		return s.Good, nil
	})
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("flash", flag.ContinueOnError)
	f.StringVar(&o.sluice, "sluice", "", "sluice binary; empty: built from this module")
	f.StringVar(&o.dir, "dir", "", "folder on the disk to measure; empty: the one for temporary files")
	rates := f.String("rates", "10,100,1000,full", "messages a second")
	lingers := f.String("lingers", "0s,100ms,1s", "journal.linger")
	links := f.String("links", "up,down", "state of the uplink")
	f.DurationVar(&o.long, "long", 61*time.Second, "length of a measurement at up to 100 messages a second")
	f.DurationVar(&o.length, "for", 20*time.Second, "length of the others")
	f.IntVar(&o.size, "size", 1024, "bytes of a body, about")
	f.BoolVar(&o.device, "device", false, "also what the block device counts, which needs a file system of its own; one case at a time")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.short, "short", false, "a quick look: 10 a second with linger 1 s, and full load, for 4 s; bounds that a busy machine keeps")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.short {
		*rates, *lingers, *links, o.long, o.length = "10,full", "1s", "up", 4*time.Second, 4*time.Second
	}
	for _, s := range strings.Split(*rates, ",") {
		rate := 0.0
		if s != "full" {
			if rate, err = strconv.ParseFloat(s, 64); err != nil || rate <= 0 {
				return o, fmt.Errorf("rates: want numbers or full, not %q", s)
			}
		}
		o.rates = append(o.rates, rate)
	}
	for _, s := range strings.Split(*lingers, ",") {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 || d > time.Second {
			return o, fmt.Errorf("lingers: want durations of 0 to 1s, not %q", s)
		}
		o.lingers = append(o.lingers, d)
	}
	for _, s := range strings.Split(*links, ",") {
		if s != "up" && s != "down" {
			return o, fmt.Errorf("links: want up or down, not %q", s)
		}
		o.links = append(o.links, s)
	}
	if f.NArg() > 0 || o.long <= 0 || o.length <= 0 || o.size < 256 {
		return o, errors.New("want times over 0, a size of at least 256, and no arguments")
	}
	return o, nil
}

// run measures every case.
func run(ctx context.Context, o options) (s *summary, err error) {
	s = &summary{short: o.short}
	err = stand.OnDisk(ctx, "flash", o.dir, o.sluice, func(dir, binary string, _ uint64) error {
		o.sluice = binary
		return measureAll(ctx, o, dir, s)
	})
	return s, err
}

// measureAll measures every case below dir.
func measureAll(ctx context.Context, o options, dir string, s *summary) (err error) {
	if s.Bodies, err = calibrate(ctx, o, dir); err != nil {
		return err
	}
	var slow, fast []*result
	for _, rate := range o.rates {
		for _, linger := range o.lingers {
			for _, link := range o.links {
				c := &result{Rate: rate, Linger: linger.Seconds(), Uplink: link, length: o.length}
				s.Cases = append(s.Cases, c)
				if rate > 0 && rate <= slowest {
					c.length = o.long
				}
				if rate > 0 && rate <= slowest && !o.device {
					slow = append(slow, c)
				} else {
					fast = append(fast, c)
				}
			}
		}
	}
	if err := together(ctx, o, dir, slow, s.Bodies.Outbound); err != nil {
		return err
	}
	for _, c := range fast {
		if err := together(ctx, o, dir, []*result{c}, s.Bodies.Outbound); err != nil {
			return err
		}
	}
	s.judge()
	return nil
}
