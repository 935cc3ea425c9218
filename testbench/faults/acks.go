package main

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/testbench/stand"
)

// scripted is a bed whose cloud follows scripts.
func (b *bench) scripted(ctx context.Context, r *row, p plan) (*bed, *stand.Cloud, error) {
	cloud, err := stand.StartCloud()
	if err != nil {
		return nil, nil, err
	}
	p.cloud, p.watch = cloud.Addr, cloud.Addr
	d, err := b.makeBed(ctx, r, p)
	if err != nil {
		cloud.Close()
		return nil, nil, err
	}
	d.own = cloud
	return d, cloud, nil
}

// oddAcks are the ways in which acknowledgements go wrong and still all come.
var oddAcks = []struct {
	name   string
	answer stand.Answer
	one    int // of how many messages
}{
	{"late", stand.TakeLate, 500},
	{"doubled", stand.TakeTwice, 3},
	{"out of order", stand.TakeSwap, 7},
	{"hang up", stand.Hang, 300},
}

// acks has the cloud acknowledge late, twice, out of order, and hang up in between.
func acks(ctx context.Context, b *bench, r *row) error {
	d, cloud, err := b.scripted(ctx, r, plan{})
	if err != nil {
		return err
	}
	defer d.remove()
	for range b.count(4, 1) {
		for _, odd := range oddAcks {
			d.mark()
			rng := rand.New(rand.NewPCG(d.rng.Uint64(), 2)) // of the script, which runs elsewhere
			hits := 0
			var mu sync.Mutex // guards hits
			cloud.Script(func(string, []byte) stand.Answer {
				if rng.IntN(odd.one) > 0 {
					return stand.Take
				}
				mu.Lock()
				defer mu.Unlock()
				hits++
				return odd.answer
			})
			if err := pause(ctx, 3*time.Second); err != nil {
				return err
			}
			since, seen := time.Now(), d.load.Counts().Arrived
			cloud.Script(nil)
			mu.Lock()
			d.row.Runs += hits
			d.debug("%s: %d times", odd.name, hits)
			mu.Unlock()
			if err := d.caughtUp(ctx, odd.name, since, seen); err != nil {
				return err
			}
		}
	}
	return d.close(ctx)
}

// impatient lets the gate give up a connection without acknowledgements soon, so that a case does not take minutes.
const impatient = ", ack_timeout: 2s"

// missingAcks has the cloud take a message now and then and never acknowledge it. The connection stands meanwhile, so
// that only the gate's own patience helps.
func missingAcks(ctx context.Context, b *bench, r *row) error {
	d, cloud, err := b.scripted(ctx, r, plan{patience: 10 * time.Second, uplink: impatient})
	if err != nil {
		return err
	}
	defer d.remove()
	for range b.count(4, 1) {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		d.mark()
		d.row.Runs++
		var once sync.Once
		cloud.Script(func(string, []byte) (a stand.Answer) {
			a = stand.Take
			once.Do(func() { a = stand.TakeSilent })
			return a
		})
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		since := time.Now()
		want := d.load.Counts().Acked
		err := d.await(ctx, 2*recoverWithin, func() bool { return d.load.Counts().Arrived >= want })
		if err != nil {
			c := d.load.Counts()
			d.row.bad("one PUBACK is missing and the uplink stands still for good: %d acknowledged, %d arrived after %v", c.Acked, c.Arrived, 2*recoverWithin)
			break
		}
		d.row.recovered(time.Since(since))
	}
	cloud.Script(nil)
	return d.close(ctx)
}

// poisonTopic is where the message is published that the cloud does not bear.
const poisonTopic = "v1/poison/telemetry"

// poison has one message among others that makes the cloud hang up, and one that it never acknowledges. Both end as
// dead, and the rest arrives.
func poison(ctx context.Context, b *bench, r *row) error {
	for _, answer := range []stand.Answer{stand.Hang, stand.Ignore}[:b.count(2, 1)] {
		d, cloud, err := b.scripted(ctx, r, plan{uplink: impatient})
		if err != nil {
			return err
		}
		err = d.poisoned(ctx, cloud, answer)
		d.remove()
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *bed) poisoned(ctx context.Context, cloud *stand.Cloud, answer stand.Answer) error {
	cloud.Script(func(topic string, _ []byte) stand.Answer {
		if strings.Contains(topic, poisonTopic) {
			return answer
		}
		return stand.Take
	})
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	d.row.Runs++
	since := time.Now()
	if _, err := stand.Run(ctx, "mosquitto_pub", d.publish("-t", poisonTopic, "-m", `{"speed":66}`)...); err != nil {
		return err
	}
	var dead uint64
	err := d.await(ctx, 2*time.Minute, func() bool {
		if s, err := d.stat(ctx); err == nil {
			dead = s.Totals.Dead
		}
		pause(ctx, 200*time.Millisecond)
		return dead > 0
	})
	if err != nil || dead != 1 {
		d.row.bad("answer %d: the poison is not parked as dead: %v, %d dead", answer, err, dead)
	}
	want := d.load.Counts().Acked
	if err := d.await(ctx, recoverWithin, func() bool { return d.load.Counts().Arrived >= want }); err != nil {
		d.row.bad("answer %d: the rest does not arrive", answer)
	}
	d.row.recovered(time.Since(since))
	d.before.Copies = d.load.Counts().Copies // finding the poison takes tries, each of which may copy a window
	return d.close(ctx)
}

// publish returns the arguments of mosquitto_pub to the gate.
func (d *bed) publish(args ...string) []string {
	host, port, _ := strings.Cut(d.gate.Addr, ":")
	return append([]string{"-h", host, "-p", port, "-q", "1"}, args...)
}
