// Package traffic drives a gate or broker with simulated devices and looks at the cloud side what becomes of it.
//
// It speaks raw MQTT 3.1.1 packets out of templates made in advance, so that it costs far less than what it drives: a
// message is a copy of its template with ten digits and two bytes replaced, and many go out in one write. Message g of
// a run has the sequence number fleet.FirstSeq+Config.First+g and belongs to connection g mod Connections.
//
// Goroutines: per connection one that sends and, while connected, one that reads acknowledgements; one that reads the
// cloud; one that samples the memory of the processes watched. Start starts them, Run.Stop ends them and waits.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/leaks"
)

// Config says what to send where. The zero value of every optional field is usable.
type Config struct {
	Devices     []string      // addresses host:port; connection i uses number i mod len
	Cloud       string        // broker at which a subscriber checks what arrives; empty: nobody looks
	Connections int           // at least 1
	QoS         byte          // 0 or 1
	CloudQoS    byte          // of the subscription
	Window      int           // unacknowledged messages per connection, 1 to 32768; with QoS 0: not yet arrived
	Rate        float64       // messages a second over all connections; 0: as fast as the window allows
	Size        int           // bytes of a body, about; 0: as small as they come
	Kinds       []fleet.Kind  // of the messages, in turn on every connection, up to 32; none: telemetry
	Seed        uint64        //
	Duration    time.Duration // sends for this long; 0: until Count or Stop
	Count       uint64        // sends this many; 0: until Duration or Stop
	First       uint64        // messages that earlier runs sent: sequence numbers go on behind them, and their arrivals are counted apart
	Capacity    uint64        // most messages of a run, default 8 Mi; sending ends there
	Drain       time.Duration // how long without any progress until what is missing is given up, default 15 s
	Reconnect   bool          // a broken connection is made again, and what was not acknowledged is sent again
	IDs         bool          // the last topic level at the cloud is the id that the gate gave the message: Counts.Copies counts by it
	Watch       []Process     // processes whose cost is measured
	Times       bool          // keeps when every message was acknowledged, for Run.Acknowledged
}

const (
	defaultCapacity = 8 << 20
	defaultDrain    = 15 * time.Second
	maxWindow       = 32768
	templates       = 32 // per connection
	deepEvery       = 64 // every so many arrivals the whole leak scan is done
)

// Run is load under way.
type Run struct {
	cfg     Config
	ledger  *ledger
	devices []*device
	cloud   *cloud
	meter   *meter
	started time.Time

	stop     context.CancelFunc // ends the sending
	quit     context.CancelFunc // ends everything
	sending  sync.WaitGroup
	watching sync.WaitGroup
	stopOnce sync.Once

	mu  sync.Mutex // guards err
	err error
}

// Start connects everything and begins to send. Sending ends by itself as the configuration says; Stop is needed in
// any case.
func Start(ctx context.Context, cfg Config) (*Run, error) {
	if cfg.Connections < 1 || cfg.Window < 1 || cfg.Window > maxWindow || cfg.QoS > 1 || cfg.CloudQoS > 1 || len(cfg.Devices) == 0 {
		return nil, errors.New("start load: connections, window or QoS out of range, or no address")
	}
	if cfg.Capacity == 0 {
		cfg.Capacity = defaultCapacity
	}
	if cfg.Drain == 0 {
		cfg.Drain = defaultDrain
	}
	all, quit := context.WithCancel(ctx)
	send, stop := context.WithCancel(all)
	r := &Run{cfg: cfg, ledger: newLedger(cfg.Capacity, cfg.First), stop: stop, quit: quit, started: time.Now()}
	if cfg.Times {
		r.ledger.ackedAt = make([]int64, cfg.Capacity)
	}
	if err := r.build(); err != nil {
		quit()
		return nil, err
	}
	if r.cloud != nil {
		r.watching.Go(func() { r.fail(r.cloud.run(all)) })
	}
	r.meter = newMeter(cfg.Watch)
	r.watching.Go(func() { r.meter.run(all) })
	r.started = time.Now()
	r.ledger.epoch = r.started
	if cfg.Duration > 0 {
		time.AfterFunc(cfg.Duration, stop)
	}
	for _, d := range r.devices {
		r.sending.Go(func() { r.fail(d.drive(send, all)) })
	}
	return r, nil
}

// build makes the devices and the subscriber.
func (r *Run) build() error {
	scanner := leaks.New(2)
	vehicles := fleet.New(r.cfg.Seed, r.cfg.Connections, r.cfg.Size)
	for i := range r.cfg.Connections {
		d := &device{
			cfg: &r.cfg, number: i, ledger: r.ledger, addr: r.cfg.Devices[i%len(r.cfg.Devices)], client: vehicles.Clients()[i],
			done: make([]bool, identifiers), moved: time.Now(),
		}
		d.freed = sync.NewCond(&d.mu)
		r.devices = append(r.devices, d)
	}
	for n := range templates {
		kind := fleet.Telemetry
		if k := len(r.cfg.Kinds); k > 0 && r.cfg.Kinds[n%k] != fleet.NoKind {
			kind = r.cfg.Kinds[n%k]
		}
		for _, d := range r.devices {
			m := vehicles.Of(kind)
			for m.Inside {
				for range r.cfg.Connections { // the same vehicle, further on
					m = vehicles.Of(kind)
				}
			}
			t, err := newTemplate(m, r.cfg.QoS)
			if err != nil {
				return err
			}
			d.templates = append(d.templates, t)
			for _, s := range m.Secrets {
				scanner.Add(s)
			}
			if m.Position != nil {
				scanner.AddPosition(m.Position.Lat, m.Position.Lon)
			}
		}
	}
	if r.cfg.Cloud == "" {
		return nil
	}
	var err error
	r.cloud, err = subscribeAll(&r.cfg, r.ledger, r.devices, scanner)
	return err
}

// fail remembers the first error and ends the sending.
func (r *Run) fail(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		r.stop()
	}
}

// Counts returns how much was sent, acknowledged and seen so far.
func (r *Run) Counts() Counts { return r.ledger.counts() }

// End ends the sending and returns at once.
func (r *Run) End() { r.stop() }

// Stop ends the sending, then does what Wait does.
func (r *Run) Stop() (Report, error) {
	r.stop()
	return r.Wait()
}

// Wait waits until the sending has ended by itself, drains, ends everything and reports; the report is zero on a second
// call. The error is the first of any connection that was not to be made again.
func (r *Run) Wait() (Report, error) {
	var report Report
	r.stopOnce.Do(func() {
		r.sending.Wait()
		if r.cloud != nil {
			r.drain()
		}
		r.meter.finish()
		r.quit()
		r.watching.Wait()
		report = r.report()
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return report, fmt.Errorf("load: %w", r.err)
	}
	return report, nil
}

// drain waits for what was acknowledged (QoS 0: sent) to arrive, until nothing has happened for the drain time.
func (r *Run) drain() {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	seen, since := r.ledger.counts().Arrived, time.Now()
	for range tick.C {
		c := r.ledger.counts()
		if c.Arrived != seen {
			seen, since = c.Arrived, time.Now()
		}
		want := c.Acked - c.Stayed
		if r.cfg.QoS == 0 {
			want = c.Sent - r.ledger.staying.Load()
		}
		if c.Arrived >= want && r.lost() == 0 || time.Since(since) > r.cfg.Drain {
			return
		}
	}
}

// Counts are the running numbers of a run.
type Counts struct {
	Sent       uint64 `json:"sent"`       // messages, each once however often it was sent again
	Resent     uint64 `json:"resent"`     // publications repeated after a reconnect
	Acked      uint64 `json:"acked"`      // messages acknowledged
	Arrived    uint64 `json:"arrived"`    // different messages seen at the cloud
	Duplicates uint64 `json:"duplicates"` // further copies seen at the cloud, whoever made them
	Copies     uint64 `json:"copies"`     // publications with an id that was seen before: copies that the gate made
	Leaks      uint64 `json:"leaks"`      // messages seen with a sensitive value inside
	Strangers  uint64 `json:"strangers"`  // publications that are no message of this run, reserved topics aside
	Earlier    uint64 `json:"earlier"`    // different messages of earlier runs seen at the cloud
	Stayed     uint64 `json:"stayed"`     // messages acknowledged that must not arrive
	Escaped    uint64 `json:"escaped"`    // publications seen of messages that must not arrive, which are counted as arrived, too
}

// ledger is what is known of every message. It is safe for concurrent use.
type ledger struct {
	epoch   time.Time
	sentAt  []int64         // ns since epoch, by message; 0 is not sent
	ackedAt []int64         // the same; nil when nobody asks
	acked   []atomic.Uint64 // bit sets
	arrived []atomic.Uint64
	earlier []atomic.Uint64 // of the messages of earlier runs: arrived

	sent, resent, acks, arrivals, duplicates, copies, leaks, strangers, before atomic.Uint64
	staying, stayed, escaped                                                   atomic.Uint64 // must not arrive: sent, acknowledged, arrived all the same
	firstSent, lastAck, lastArrival                                            atomic.Int64  // ns since epoch
}

func newLedger(capacity, first uint64) *ledger {
	words := capacity/64 + 1
	return &ledger{epoch: time.Now(), sentAt: make([]int64, capacity), acked: make([]atomic.Uint64, words),
		arrived: make([]atomic.Uint64, words), earlier: make([]atomic.Uint64, first/64+1)}
}

func (l *ledger) now() int64 { return int64(time.Since(l.epoch)) }

// set sets bit g and reports whether it was clear.
func set(bits []atomic.Uint64, g uint64) bool {
	return bits[g/64].Or(1<<(g%64))>>(g%64)&1 == 0
}

func (l *ledger) counts() Counts {
	return Counts{l.sent.Load(), l.resent.Load(), l.acks.Load(), l.arrivals.Load(), l.duplicates.Load(), l.copies.Load(), l.leaks.Load(), l.strangers.Load(), l.before.Load(),
		l.stayed.Load(), l.escaped.Load()}
}

// lost counts the messages that were acknowledged, may arrive and never did.
func (r *Run) lost() (n uint64) {
	l := r.ledger
	for i := range l.acked {
		for missing := l.acked[i].Load() &^ l.arrived[i].Load(); missing != 0; missing &= missing - 1 {
			if g := uint64(i)*64 + uint64(bits.TrailingZeros64(missing)); !r.template(g).stays {
				n++
			}
		}
	}
	return n
}

// template is what message g is made of.
func (r *Run) template(g uint64) *template {
	n := uint64(len(r.devices))
	return &r.devices[g%n].templates[g/n%templates]
}

// Kind returns the kind of message g of the run, and whether its device was told that it is safe.
func (r *Run) Kind(g uint64) (k fleet.Kind, acked bool) {
	return r.template(g).kind, r.ledger.acked[g/64].Load()>>(g%64)&1 == 1
}

// Message returns message g of the run as its device sent it; ok is false when it was not sent.
func (r *Run) Message(g uint64) (topic string, payload []byte, ok bool) {
	if g >= r.cfg.Capacity || atomic.LoadInt64(&r.ledger.sentAt[g]) == 0 {
		return "", nil, false
	}
	t := r.template(g)
	packet := t.appendTo(nil, 0, fleet.FirstSeq+r.cfg.First+g, false)
	return t.topic, packet[len(packet)-t.size:], true
}

// Acknowledged calls fn for every message that was acknowledged: when it was sent, or with a rate when it was due, and when
// the acknowledgement came. It is for a run with Times that has ended.
func (r *Run) Acknowledged(fn func(sent, acked time.Time)) {
	for g, at := range r.ledger.ackedAt {
		if at != 0 {
			fn(r.ledger.epoch.Add(time.Duration(r.ledger.sentAt[g])), r.ledger.epoch.Add(time.Duration(at)))
		}
	}
}

// Sequence reads the number of the message in the run out of its body.
func (r *Run) Sequence(payload []byte) (g uint64, ok bool) {
	g, ok = sequence(payload)
	return g - r.cfg.First, ok && g >= r.cfg.First
}
