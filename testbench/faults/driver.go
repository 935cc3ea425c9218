package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
)

// driveVerb is the hidden word with which the bench starts itself as the process whose file operations are recorded.
const driveVerb = "drive"

// The driver's journal: small, so that segments are drained, archived and removed all the time.
const (
	driverUplinks = 2
	driverHolds   = driverUplinks // number of an uplink that messages are held for
	driverWindow  = 12            // messages handed over and not yet committed
)

var driverKey = journal.Key{ID: 1, Secret: [32]byte{'f', 'a', 'u', 'l', 't', 's'}}

func driverOptions(dir string) journal.Options {
	return journal.Options{
		Dir: dir, Keys: []journal.Key{driverKey}, MaxSize: 8 << 20, AuditMaxSize: 64 << 20, SegmentSize: 1 << 20,
		Sign: driverSign, CheckpointEvery: time.Hour, CheckpointCount: 150, Clock: gateway.SystemClock,
	}
}

// driverSign stands for a signature: what it returns can be told from any other checkpoint, which is all that is looked at here.
func driverSign(size uint64, root [32]byte, _ time.Time) ([]byte, error) {
	return fmt.Appendf(nil, "%d %x\n", size, root), nil
}

func driverVerify(text []byte) (size uint64, root [32]byte, err error) {
	var digits []byte
	if _, err := fmt.Sscanf(string(text), "%d %x\n", &size, &digits); err != nil || len(digits) != len(root) {
		return 0, root, errors.New("not a checkpoint of the driver")
	}
	return size, [32]byte(digits), nil
}

// drive appends messages to a journal and delivers them. On standard output it says "a SEQ LEAF" for every message that
// is committed, so that a device would be told, and "d UPLINK SEQ" for every delivery. It ends by kill -9, or in good order.
func drive(args []string) error {
	f := flag.NewFlagSet(driveVerb, flag.ContinueOnError)
	dir := f.String("dir", "", "folder of the journal")
	seed := f.Uint64("seed", 1, "seed of sizes and pauses")
	messages := f.Int("messages", 1000, "messages")
	killed := f.Bool("killed", false, "end by kill -9")
	if err := f.Parse(args); err != nil {
		return err
	}
	j, err := journal.Open(driverOptions(*dir))
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(*seed, 0xD81))
	say := func(uplink int, seq uint64) { fmt.Printf("d %d %d\n", uplink, seq) }
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	failed := make(chan error, driverUplinks)
	for u := range driverUplinks {
		n, err := j.Number("uplink", fmt.Sprint("cloud-", u))
		if err != nil {
			return err
		}
		pauses := rand.New(rand.NewPCG(rng.Uint64(), uint64(u)))
		go func() { failed <- deliver(ctx, j, n, pauses, say) }()
	}
	window := make(chan struct{}, driverWindow)
	for i := range *messages {
		window <- struct{}{}
		e, err := driverEntry(j, rng, i)
		if err != nil {
			return err
		}
		list := []*gateway.Entry{e}
		j.Append(list, func(first uint64, err error) {
			if err == nil {
				fmt.Printf("a %d %x\n", first, list[0].Leaf)
			}
			<-window
		})
	}
	for range driverWindow {
		window <- struct{}{}
	}
	if *killed {
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	stop()
	for range driverUplinks {
		if err := <-failed; err != nil {
			return err
		}
	}
	return j.Close()
}

// driverEntry makes a decided message: most wait for both uplinks, some for one, some are held, some blocked.
func driverEntry(j *journal.Journal, rng *rand.Rand, i int) (*gateway.Entry, error) {
	source, err := j.Number("source", "bench")
	if err != nil {
		return nil, err
	}
	e := &gateway.Entry{ID: j.NextID(), Source: "bench", Grade: gateway.General, QoS: 1, Waits: 1<<driverUplinks - 1}
	switch {
	case i%40 == 7:
		e.Waits, e.Holds = 1, 1<<driverHolds
	case i%40 == 17:
		e.Waits, e.Blocks = 0, 1<<driverUplinks-1
	case i%10 == 3:
		e.Waits, e.Blocks = 2, 1
	}
	now, trusted := gateway.SystemClock()
	r := gateway.Record{Kind: gateway.DecisionRecord, Time: now, Trusted: trusted, ID: e.ID, Set: 1, Source: uint16(source), Grade: e.Grade, Received: now}
	for u := range driverUplinks + 1 {
		o := gateway.Outcome{Uplink: uint8(u), Action: gateway.Pass, Reason: gateway.ReasonPolicy}
		switch {
		case e.Waits.Has(u):
			o.State = gateway.Waiting
		case e.Holds.Has(u):
			o.State, o.Action = gateway.Held, gateway.Hold
		case e.Blocks.Has(u):
			o.State, o.Action = gateway.Blocked, gateway.Block
		default:
			continue
		}
		r.Outcomes = append(r.Outcomes, o)
	}
	e.Record = gateway.AppendRecord(nil, &r)
	payload := make([]byte, 100+rng.IntN(1400))
	for k := range payload {
		payload[k] = byte(rng.Uint32())
	}
	if e.Waits != 0 {
		e.Outlets = append(e.Outlets, gateway.Outlet{Uplinks: e.Waits, Topic: "v1/car/telemetry", Payload: payload})
	}
	if e.Holds != 0 {
		e.Outlets = append(e.Outlets, gateway.Outlet{Uplinks: e.Holds, Hold: true, Payload: payload})
	}
	return e, nil
}

// deliver plays an uplink that takes everything, with pauses in which a backlog grows, until ctx ends. told, when not nil,
// is told of every delivery once it is committed.
func deliver(ctx context.Context, j *journal.Journal, uplink int, rng *rand.Rand, told func(uplink int, seq uint64)) error {
	feed := j.Feed(uplink)
	for {
		if feed.Await(ctx) != nil {
			return nil
		}
		out, err := feed.Next(1+rng.IntN(64), 1<<20, nil)
		if err != nil {
			return err
		}
		if len(out) == 0 {
			continue
		}
		if err := feed.Settle(ctx, out, gateway.Forwarded, ""); err != nil {
			return nil // the end
		}
		if told != nil {
			told(uplink, out[len(out)-1].Seq)
		}
		if rng.IntN(20) == 0 {
			time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
		}
	}
}
