package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// Report is what Check found.
type Report struct {
	OK          bool           `json:"ok"`
	Records     uint64         `json:"records"`
	Trimmed     uint64         `json:"trimmed,omitempty"` // the records begin here; those before it are a collector's
	Decisions   uint64         `json:"decisions"`
	Bodies      uint64         `json:"bodies"` // opened, one by one
	Checkpoints uint64         `json:"checkpoints"`
	Unsigned    uint64         `json:"unsigned"` // records behind the newest checkpoint
	Totals      gateway.Totals `json:"totals"`
	LostRecords uint64         `json:"lost_records"` // to damage, ever; all of it on the record, else it is a problem
	LostBodies  uint64         `json:"lost_bodies"`
	Problems    []string       `json:"problems"`

	more int
}

// maxProblems bounds the problems that a report lists; the rest are counted.
const maxProblems = 100

func (r *Report) add(format string, args ...any) {
	r.OK = false
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
		return
	}
	r.more++
	r.Problems = append(r.Problems[:maxProblems], fmt.Sprintf("and %d more", r.more))
}

// Check reads a whole journal that nobody writes to and proves its invariants: every record decodes, has its hash and
// follows the one before; every checkpoint states the root of its records; every body opens and belongs to its decision;
// no message is decided twice; what waits or is held still has its body; every delivery counts what it covers; totals,
// tally, states and stored hashes are what the records come to, and received equals the sum of the states.
//
// verify checks a checkpoint's signature; with nil, signatures are not looked at and checkpoints only counted. progress,
// when not nil, is told how many records of how many were read. What is wrong with the journal is in the report; the
// error is ErrLocked while a gateway has it, the context's, or that of a folder that cannot be read at all.
func Check(ctx context.Context, dir string, keys []Key, verify func(text []byte) (size uint64, root [32]byte, err error), progress func(done, total uint64)) (Report, error) {
	r := Report{OK: true, Problems: []string{}}
	j, err := OpenReadOnly(dir, keys)
	if isDamage(err) {
		r.add("%v", err)
		return r, nil
	}
	if err != nil {
		return r, err
	}
	defer j.Close()
	c := checker{ctx: ctx, j: j, report: &r, verify: verify, progress: progress, ids: make(idSet), parked: make(map[uint64]gateway.UplinkSet), parkedDead: make(map[uint64]gateway.UplinkSet), controls: make(map[uint64]bool), led: newLedger()}
	c.led.lost = &j.lost
	r.LostRecords, r.LostBodies = j.lost.records(), uint64(len(j.lost.Bodies))
	c.readParked()
	c.readCheckpoints()
	c.readRecords()
	c.readBodies()
	c.compare()
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	return r, nil
}

// checker is the state of one Check.
type checker struct {
	ctx      context.Context
	j        *Journal
	report   *Report
	verify   func(text []byte) (uint64, [32]byte, error)
	progress func(done, total uint64)

	led         ledger
	record      gateway.Record
	ids         idSet
	parked      map[uint64]gateway.UplinkSet // seq → where its parked bodies are held
	parkedDead  map[uint64]gateway.UplinkSet // seq → for whom its parked bodies were meant that a cloud refused
	controls    map[uint64]bool              // the gateway's own entries, whose waiting the records do not tell
	checkpoints []Checkpoint                 // not reached yet
	roots       []tlog.Hash                  // of checkpoints
	signed      uint64
	whole       bool        // every record was read
	lost        [][2]uint64 // records that events say to be lost
	held        []uint64    // messages whose holds events say to be lost
}

func (c *checker) readCheckpoints() {
	err := c.j.Checkpoints(func(size uint64, text []byte) error {
		c.report.Checkpoints++
		if c.verify == nil {
			c.signed = size
			return nil
		}
		stated, root, err := c.verify(text)
		if err != nil || stated != size {
			c.report.add("checkpoint of size %d: %v", size, errors.Join(err, errors.New("does not belong there or is not signed")))
			return nil
		}
		if size < c.j.Trimmed() {
			c.consistent(size, root)
			return nil
		}
		c.checkpoints, c.roots = append(c.checkpoints, Checkpoint{Size: size}), append(c.roots, root)
		return nil
	})
	if err != nil {
		c.report.add("read checkpoints: %v", err)
	}
}

// consistent checks the checkpoint that was kept of the records that are trimmed: the hashes kept with it make its root,
// and the tree at which the records here begin.
func (c *checker) consistent(size uint64, root tlog.Hash) {
	b := c.j.trimmedBase()
	start := compact{b.Next, b.Tree}
	if h, err := tlog.TreeHash(int64(size), c.j); err != nil || h != root {
		c.report.add("checkpoint of size %d: the hashes kept of trimmed records have another root", size)
	} else if h, err := tlog.TreeHash(int64(b.Next), c.j); err != nil || h != start.root() {
		c.report.add("the hashes kept of trimmed records do not lead to record %d", b.Next)
	} else {
		c.signed = size
	}
}

// match compares the tree with the checkpoint of its size.
func (c *checker) match() {
	if len(c.checkpoints) == 0 || c.checkpoints[0].Size != c.led.tree.size {
		return
	}
	if c.led.tree.root() != c.roots[0] {
		c.report.add("checkpoint of size %d: the records have another root", c.led.tree.size)
	} else {
		c.signed = c.led.tree.size
	}
	c.checkpoints, c.roots = c.checkpoints[1:], c.roots[1:]
}

// readRecords lets a ledger of its own follow all records.
func (c *checker) readRecords() {
	total := c.j.Size()
	if b := c.j.trimmedBase(); b != nil {
		c.led.restore(b.state())
		c.report.Trimmed = b.Next
		c.match()
	}
	err := c.j.Records(c.report.Trimmed, func(seq uint64, record []byte) error {
		if seq%1024 == 0 {
			if c.progress != nil {
				c.progress(seq, total)
			}
			if c.ctx.Err() != nil {
				return c.ctx.Err()
			}
		}
		c.report.Records++
		c.known(seq)
		if err := c.led.apply(seq, record, &c.record, c.j.between, c.compareRoot, nil); err != nil {
			c.report.add("%v", err)
			if c.led.tree.size == seq { // it was not pushed
				c.led.tree.push(leafHash(record))
			}
		} else if c.record.Kind == gateway.DecisionRecord {
			c.decision(seq)
		}
		c.match()
		c.note()
		return nil
	})
	if err != nil {
		c.report.add("read records: %v", err)
	}
	c.known(c.j.end())
	c.lossesRecorded()
	c.whole = err == nil
	for _, p := range c.checkpoints {
		c.report.add("checkpoint of size %d: there are %d records only", p.Size, c.led.tree.size)
	}
	c.report.Totals, c.report.Unsigned = c.led.totals, c.led.tree.size-min(c.signed, c.led.tree.size)
	if c.progress != nil {
		c.progress(c.report.Trimmed+c.report.Records, total)
	}
}

// known passes what is lost in front of record seq. A checkpoint of a tree in between cannot be compared with anything.
func (c *checker) known(seq uint64) {
	before := c.led.tree.size
	if c.j.lost.pass(&c.led.tree, seq); c.led.tree.size == before {
		return
	}
	for len(c.checkpoints) > 0 && c.checkpoints[0].Size < c.led.tree.size {
		c.checkpoints, c.roots = c.checkpoints[1:], c.roots[1:]
	}
	c.match()
}

// note takes down what the record in hand says to be lost.
func (c *checker) note() {
	if c.record.Kind != gateway.EventRecord {
		return
	}
	if r, ok := parseRestatement(c.record.Detail); ok {
		c.lost = append(c.lost, r.Lost...)
	} else if p, ok := parseStated(c.record.Detail); ok {
		c.held = append(c.held, p.Held...)
	}
}

// lossesRecorded finds losses that are known to the journal and not on the record, as far as that is here.
func (c *checker) lossesRecorded() {
	for _, h := range c.j.lost.Holes {
		on := func(r [2]uint64) bool { return r[0] <= h.First && h.Next-1 <= r[1] }
		if h.Next > max(h.First, c.report.Trimmed) && !slices.ContainsFunc(c.lost, on) {
			c.report.add("records %d to %d are lost and that is not on the record", h.First, h.Next-1)
		}
	}
	for _, b := range c.j.lost.Bodies {
		if b.Holds != 0 && b.Seq >= c.report.Trimmed && !slices.Contains(c.held, b.Seq) {
			c.report.add("the hold of record %d is lost and that is not on the record", b.Seq)
		}
	}
}

func (c *checker) compareRoot(n uint64, h [32]byte) {
	if stored, ok := c.j.storedRoot(n); ok && stored != h {
		c.report.add("stored hash of records %d to %d is wrong", n<<rootLevel, (n+1)<<rootLevel-1)
	}
}

// decision checks what a decision record needs beside itself. The bodies of a decision in a segment are readBodies'.
func (c *checker) decision(seq uint64) {
	c.report.Decisions++
	if !c.ids.add(c.record.ID) {
		c.report.add("record %d: message %s is decided a second time", seq, c.record.ID)
	}
	if a, _, _ := c.j.container(seq); a == nil {
		return
	}
	d := decisionOf(&c.record)
	if c.needs(seq, d.waits)&^c.parkedDead[seq] != 0 {
		c.report.add("record %d: its message still waits, or is dead, and has no body", seq)
	}
	if d.holds&^c.parked[seq]&^c.j.lost.body(seq).Holds != 0 {
		c.report.add("record %d: its message is held and has no body", seq)
	}
}

// needs returns the uplinks for which the body of message seq is still needed: it waits there, or is dead.
func (c *checker) needs(seq uint64, waits gateway.UplinkSet) (set gateway.UplinkSet) {
	for u := range gateway.MaxUplinks {
		if !waits.Has(u) {
			continue
		}
		dead := c.j.led.dead[seq] != nil && c.j.led.dead[seq].state[u] == gateway.Dead && !c.j.lost.body(seq).Waits.Has(u)
		if dead || c.j.led.states.get(u, seq) == gateway.Waiting {
			set |= 1 << u
		}
	}
	return set
}

func (c *checker) readParked() {
	err := c.j.eachParked(func(k, v []byte) error {
		seq := binary.BigEndian.Uint64(k)
		if k[8] == recordByte {
			return nil
		}
		b, err := c.j.keys.open(v, k[8]-1)
		if err != nil {
			c.report.add("parked body of record %d cannot be opened", seq)
			return nil
		}
		c.report.Bodies++
		if b.hold() {
			c.parked[seq] |= b.own
		} else {
			c.parkedDead[seq] |= b.own
		}
		return nil
	})
	if err != nil {
		c.report.add("read %s: %v", parkedFile, err)
	}
}

// readBodies opens every body in the segments.
func (c *checker) readBodies() {
	for _, s := range c.j.segments {
		b := bodies{c: c}
		var key [entryKeyLen]byte
		err := c.j.files.scan(s, entryKey(&key, s.First, recordByte), s.Next, b.visit)
		b.end()
		if err != nil {
			c.report.add("read %s: %v", segmentName(s.First), err)
		}
	}
}

// bodies checks the bodies of one segment against the record in front of them.
type bodies struct {
	c            *checker
	seq          uint64
	have         bool
	record       gateway.Record
	decision     decision
	waits, holds gateway.UplinkSet
}

func (b *bodies) visit(seq uint64, key, value []byte) error {
	if seq%1024 == 0 && b.c.ctx.Err() != nil {
		return b.c.ctx.Err()
	}
	if len(key) != entryKeyLen {
		return nil
	}
	if key[8] == recordByte {
		b.end()
		b.seq, b.waits, b.holds = seq, 0, 0
		b.have = len(value) >= hashSize && gateway.DecodeRecord(value[hashSize:], &b.record) == nil
		b.decision = decisionOf(&b.record)
		return nil
	}
	body, err := b.c.j.keys.open(value, key[8]-1)
	if err != nil {
		b.c.report.add("%v", &ErrCorrupt{seq, int(key[8] - 1)})
		b.have = false
		return nil
	}
	b.c.report.Bodies++
	if body.control() {
		b.c.controls[seq] = true
	}
	set := &b.waits
	if body.hold() {
		set = &b.holds
	}
	overlap := *set&body.own != 0
	*set |= body.own
	if seq != b.seq || overlap {
		b.c.report.add("body %d of record %d has no place", key[8]-1, seq)
		return nil
	}
	if b.have && b.record.Kind == gateway.DecisionRecord &&
		(body.id != b.record.ID || body.waits != b.decision.waits || body.holds != b.decision.holds || body.source != b.decision.source || body.grade != b.decision.grade) {
		b.c.report.add("body %d of record %d belongs to another message", key[8]-1, seq)
	}
	return nil
}

// end checks that the record in hand had all its bodies.
func (b *bodies) end() {
	if b.have && b.record.Kind == gateway.DecisionRecord {
		extra := b.waits&^b.decision.waits | b.holds&^b.decision.holds
		missing := b.decision.holds&^b.holds&^b.c.j.lost.body(b.seq).Holds | b.c.needs(b.seq, b.decision.waits)&^b.waits // what is settled may be gone
		if extra|missing != 0 {
			b.c.report.add("record %d does not have the bodies that it decided on", b.seq)
		}
	}
	b.have = false
}

// compare compares what the records come to with what the journal says.
func (c *checker) compare() {
	if !c.whole || c.ctx.Err() != nil {
		return
	}
	j, l := c.j, &c.led
	if l.tree.size != j.led.tree.size || l.tree.root() != j.led.tree.root() {
		c.report.add("the tree of the records is not the one in %s", stateFile)
	}
	if l.totals != j.led.totals {
		c.report.add("the totals of the records are not those in %s", stateFile)
	}
	c.compareStates()
	if !l.totals.Identity() {
		c.report.add("received is not the sum of the states")
	}
	if !bytes.Equal(l.series(), j.led.series()) {
		c.report.add("the tally of the records is not the one in %s", stateFile)
	}
}

// compareStates compares what waits by the records with what waits by the state.
func (c *checker) compareStates() {
	for _, led := range []*ledger{&c.led, &c.j.led} {
		other := &c.j.led
		if led == other {
			other = &c.led
		}
		for n, chunk := range led.states.chunks {
			for u := range gateway.MaxUplinks {
				if chunk.of[u] == nil {
					continue
				}
				for i := range chunkLen {
					seq := n<<chunkBits + uint64(i)
					if chunk.get(u, i) == gateway.Waiting && other.states.get(u, seq) != gateway.Waiting && !c.controls[seq] {
						c.report.add("record %d: what waits by the records is not what waits by %s", seq, stateFile)
						return
					}
				}
			}
		}
	}
}

// series writes every series of the tally in order, to be compared.
func (l *ledger) series() (b []byte) {
	l.each(func(source uint16, u int, g gateway.Grade, s gateway.State, n uint64) {
		b = fmt.Appendf(b, "%d %d %d %d %d\n", source, u, g, s, n)
	})
	return b
}

// idSet is a set of message ids. Counters of one incarnation are dense, so that a bit each is enough.
type idSet map[idChunk]*[1 << 10]uint64

type idChunk struct{ incarnation, high uint64 }

// add reports whether id was not in the set yet.
func (s idSet) add(id gateway.ID) bool {
	at := idChunk{id.Incarnation, id.Counter >> 16}
	bits := s[at]
	if bits == nil {
		bits = new([1 << 10]uint64)
		s[at] = bits
	}
	word, bit := &bits[id.Counter>>6&(1<<10-1)], uint64(1)<<(id.Counter&63)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}
