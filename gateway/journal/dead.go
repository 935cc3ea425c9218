package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// ErrNotDead is returned for a message that no uplink refused for good, or that waits again already.
var ErrNotDead = errors.New("message is not dead")

// deadIn returns the messages with a seq from first to below next that are dead or were and wait again, and the uplinks for
// which their bodies may be needed: a message that waits again may be refused again.
func (j *Journal) deadIn(first, next uint64) map[uint64]gateway.UplinkSet {
	j.mu.Lock()
	defer j.mu.Unlock()
	list := make(map[uint64]gateway.UplinkSet)
	for seq, m := range j.led.dead {
		if first <= seq && seq < next {
			list[seq] = m.in(gateway.Dead) | m.in(gateway.Waiting)
		}
	}
	return list
}

// refused returns the uplinks for which message seq is dead.
func (j *Journal) refused(seq uint64) gateway.UplinkSet {
	j.mu.Lock()
	defer j.mu.Unlock()
	if m := j.led.dead[seq]; m != nil {
		return m.in(gateway.Dead)
	}
	return 0
}

// Dead returns how many messages an uplink refused for good and may be sent again.
func (j *Journal) Dead(uplink int) (n uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, m := range j.led.dead {
		if m.state[uplink] == gateway.Dead {
			n++
		}
	}
	return n
}

// Retry lets a dead message wait again for every uplink that refused it: its body is sealed anew under a new seq, with a
// release record that names the seq of its decision, and keeps its id. by is who asked for it, for the record. It returns
// after the commit, with the names of the uplinks. While the journal as a whole takes nothing in, the error is ErrFull; for an
// uplink whose own backlog is spent it is ErrBacklog, and the message waits again for the others that refused it.
func (j *Journal) Retry(ctx context.Context, seq uint64, by string) ([]string, error) {
	if j.readOnly {
		return nil, ErrReadOnly
	}
	var done []string
	var spent error
	for u := range gateway.MaxUplinks {
		if !j.refused(seq).Has(u) {
			continue
		}
		if j.failing.Load() || j.spent() {
			return done, fmt.Errorf("retry message %d: %w", seq, ErrFull)
		}
		if j.backlogSpent(u) {
			spent = errors.Join(spent, fmt.Errorf("retry message %d for uplink %q: %w", seq, j.names.name(kindUplink, u), ErrBacklog))
			continue
		}
		if err := j.retry(ctx, u, seq, by); err != nil {
			return done, fmt.Errorf("retry message %d: %w", seq, err)
		}
		done = append(done, j.names.name(kindUplink, u))
	}
	if done == nil && spent == nil {
		return nil, fmt.Errorf("retry message %d: %w", seq, ErrNotDead)
	}
	return done, spent
}

func (j *Journal) retry(ctx context.Context, u int, seq uint64, by string) error {
	select { // nobody else changes what the message is for this uplink
	case j.slots[u] <- struct{}{}:
		defer func() { <-j.slots[u] }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !j.refused(seq).Has(u) {
		return ErrNotDead
	}
	c, err := j.body(u, seq)
	if err != nil {
		return err
	}
	now, trusted := j.opt.Clock()
	r := gateway.Record{Kind: gateway.ReleaseRecord, Time: now, Trusted: trusted, Uplink: uint8(u), State: gateway.Waiting, First: seq, Last: seq, Count: 1, Detail: event{By: by}.text()}
	e := &gateway.Entry{Record: gateway.AppendRecord(nil, &r), ID: c.id, Source: j.names.name(kindSource, int(c.source)), Grade: c.grade,
		Retain: c.retain(), QoS: c.qos(), Waits: 1 << u, Again: seq, Salt: c.salt,
		Outlets: []gateway.Outlet{{Uplinks: 1 << u, Priority: byte(c.priority()), Topic: string(c.topic), Payload: c.payload}}}
	committed := make(chan error, 1)
	j.Append([]*gateway.Entry{e}, func(_ uint64, err error) { committed <- err })
	j.Hurry()
	return <-committed // not given up before: who retries twice at a time would let the message wait twice
}

// body opens the body of entry seq for an uplink, from its segment or from parked.bolt.
func (j *Journal) body(u int, seq uint64) (c content, err error) {
	found := false
	var of owner // of a body in a segment; parked.bolt has no records
	inSegment := false
	look := func(at uint64, key, value []byte) error {
		if at != seq || len(key) != entryKeyLen {
			return nil
		}
		if key[8] == recordByte {
			of = ownerOf(at, value)
			return nil
		}
		if h, ok := parseHeader(value); !ok || h.hold() || !h.own.Has(u) {
			return nil
		}
		found = true
		if c, err = j.keys.open(value, key[8]-1); err != nil {
			return &ErrCorrupt{seq, int(key[8] - 1)}
		}
		if inSegment && !of.has(at, &c) {
			return &ErrCorrupt{seq, int(key[8] - 1)}
		}
		return errStop
	}
	j.mu.Lock()
	s := j.segmentOf(seq)
	j.mu.Unlock()
	if s != nil {
		var key [entryKeyLen]byte
		inSegment = true
		err := j.files.scan(s, entryKey(&key, seq, recordByte), seq+1, look)
		inSegment = false
		if found || err != nil && !errors.Is(err, errGone) {
			return c, err
		}
	}
	err = j.eachParked(func(k, v []byte) error { return look(binary.BigEndian.Uint64(k), k, v) })
	if err == errStop {
		err = nil
	}
	if err == nil && !found {
		err = errors.New("its body is gone")
	}
	return c, err
}

// unpark removes dead bodies from parked.bolt that nobody needs any more: they were sent after all.
func (j *Journal) unpark() error {
	if !j.unparkDue.Swap(false) {
		return nil
	}
	var gone [][]byte
	var bytes int64
	owners := make(map[uint64]int)
	err := j.eachParked(func(k, v []byte) error {
		if k[8] == recordByte {
			return nil
		}
		seq := binary.BigEndian.Uint64(k)
		if h, ok := parseHeader(v); ok && !h.hold() && !j.isDead(seq) {
			gone = append(gone, append([]byte(nil), k...))
			bytes += int64(len(v))
		} else {
			owners[seq]++
		}
		return nil
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	err = j.parked.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(entries)
		for _, k := range gone {
			if err := b.Delete(k); err != nil {
				return err
			}
			if owners[binary.BigEndian.Uint64(k)] == 0 {
				k[8] = recordByte
				if err := b.Delete(k); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		j.bodyBytes.Add(-bytes)
	}
	return err
}

func (j *Journal) isDead(seq uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.led.dead[seq] != nil
}
