package traffic

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/leaks"
)

// cloud is the subscriber that sees everything that a broker received.
type cloud struct {
	cfg     *Config
	link    *link
	ledger  *ledger
	devices []*device
	scanner *leaks.Scanner

	arrival histogram           // of the reader goroutine; read when the run has ended
	kinds   map[string]int      // of leaks, likewise
	ids     map[string]struct{} // that were seen, with Config.IDs
	seen    []int               // QoS 0: arrivals by connection since the window was last freed
	count   uint64
}

// subscribeAll connects to the cloud and subscribes to everything.
func subscribeAll(cfg *Config, l *ledger, devices []*device, scanner *leaks.Scanner) (*cloud, error) {
	lk, err := dial(cfg.Cloud, "cloud-check", false)
	if err != nil {
		return nil, err
	}
	c := &cloud{cfg: cfg, link: lk, ledger: l, devices: devices, scanner: scanner, kinds: map[string]int{}, ids: map[string]struct{}{}, seen: make([]int, len(devices))}
	body := append([]byte{0, 1}, append(text("#"), cfg.CloudQoS)...)
	if err := lk.exchange(subscribe, body, suback); err != nil {
		lk.conn.Close()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	if len(lk.buf) != 3 || lk.buf[2] > 1 {
		lk.conn.Close()
		return nil, fmt.Errorf("subscribe: refused")
	}
	return c, nil
}

// run reads until ctx ends. It acknowledges what the socket held in one write.
func (c *cloud) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { c.link.conn.Close() })()
	var acks []byte
	for {
		first, err := c.link.read()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read cloud: %w", err)
		}
		if first&0xF0 == publish {
			topic, payload, id, err := publication(first, c.link.buf)
			if err != nil {
				return fmt.Errorf("read cloud: %w", err)
			}
			c.look(topic, payload)
			if id != 0 {
				acks = append(acks, puback, 2, byte(id>>8), byte(id))
			}
		}
		if c.link.r.Buffered() < 4 {
			if _, err := c.link.conn.Write(acks); err != nil && ctx.Err() == nil {
				return fmt.Errorf("acknowledge to cloud: %w", err)
			}
			acks = acks[:0]
			c.free()
		}
	}
}

// look finds out which message arrived and whether anything sensitive is in it.
func (c *cloud) look(topic, payload []byte) {
	c.count++
	g, ok := sequence(payload)
	if ok && g < c.cfg.First {
		if !set(c.ledger.earlier, g) {
			c.ledger.duplicates.Add(1)
			return
		}
		c.ledger.before.Add(1)
		c.ledger.lastArrival.Store(c.ledger.now())
		return
	}
	g -= c.cfg.First
	if !ok || g >= c.cfg.Capacity || atomic.LoadInt64(&c.ledger.sentAt[g]) == 0 {
		if !bytes.Contains(topic, []byte("/$sluice/")) {
			c.ledger.strangers.Add(1)
		}
		c.scan(topic, payload)
		return
	}
	n := uint64(len(c.devices))
	d := c.devices[g%n]
	if d.templates[g/n%templates].stays {
		c.ledger.escaped.Add(1)
	}
	leaked := slices.ContainsFunc(d.templates[g/n%templates].secrets, func(s []byte) bool {
		return bytes.Contains(payload, s) || bytes.Contains(topic, s)
	})
	if leaked {
		c.leak("value plain")
	} else if c.count%deepEvery == 0 {
		c.scan(topic, payload)
	}
	if c.cfg.IDs {
		id := string(topic[bytes.LastIndexByte(topic, '/')+1:])
		if _, seen := c.ids[id]; seen {
			c.ledger.copies.Add(1)
		}
		c.ids[id] = struct{}{}
	}
	if !set(c.ledger.arrived, g) {
		c.ledger.duplicates.Add(1)
		return
	}
	now := c.ledger.now()
	c.ledger.arrivals.Add(1)
	c.ledger.lastArrival.Store(now)
	c.arrival.add(time.Duration(now - atomic.LoadInt64(&c.ledger.sentAt[g])))
	c.seen[g%n]++
}

// scan does the whole leak scan.
func (c *cloud) scan(topic, payload []byte) {
	if found := c.scanner.Scan(string(topic), payload); len(found) > 0 {
		c.leak(found[0].Kind + " " + found[0].Form)
	}
}

func (c *cloud) leak(kind string) {
	c.ledger.leaks.Add(1)
	c.kinds[kind]++
}

// free gives QoS 0 devices their window back.
func (c *cloud) free() {
	if c.cfg.QoS > 0 {
		return
	}
	for i, n := range c.seen {
		if n > 0 {
			c.devices[i].seen(n)
			c.seen[i] = 0
		}
	}
}

var seqMember = []byte(`"seq":`)

// sequence reads the number of the message in the run out of its body.
func sequence(payload []byte) (uint64, bool) {
	at := bytes.Index(payload, seqMember)
	if at < 0 {
		return 0, false
	}
	var seq uint64
	for _, c := range payload[at+len(seqMember):] {
		if c < '0' || c > '9' || seq > 1<<40 {
			break
		}
		seq = seq*10 + uint64(c-'0')
	}
	return seq - fleet.FirstSeq, seq >= fleet.FirstSeq
}
