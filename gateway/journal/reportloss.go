package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// reportRepair puts a repair on the record, once: what was set aside, what is lost, the messages that do not wait any
// more, and the counters when they do not follow from what is left. It runs before anything else is appended.
func (j *Journal) reportRepair() error {
	p, err := readPlan(j.opt.Dir)
	if err != nil {
		return err
	}
	if p == nil {
		if len(j.repaired) == 0 {
			return nil
		}
		p = &plan{From: j.Size(), ID: hex.EncodeToString(binary.BigEndian.AppendUint64(nil, j.seal.incarnation))} // state.bolt, which all else makes again
	}
	p.Files = append(j.repaired, p.Files...)
	if done, err := j.reported(p); err != nil {
		return err
	} else if !done {
		if err := j.report(p); err != nil {
			return err
		}
	}
	if err := j.countAgain(); err != nil {
		return err
	}
	for n, h := range p.Roots {
		j.roots[n] = h
	}
	for _, f := range p.Files {
		j.opt.Log.Error("journal file is damaged and was set aside", slog.String("file", f.File), slog.String("aside", f.Aside),
			slog.Uint64("records", f.Records), slog.Uint64("records_lost", f.RecordsLost), slog.Uint64("bodies_lost", f.BodiesLost))
	}
	j.opt.step("repair reported")
	if err := j.saveState(); err != nil {
		return err
	}
	j.repaired = p.Files
	if err := os.RemoveAll(filepath.Join(j.opt.Dir, suspectFile)); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(j.opt.Dir, repairDir)); err != nil {
		return err
	}
	return syncDir(j.opt.Dir)
}

// reported reports whether the repair is on the record: a process may have ended right after.
func (j *Journal) reported(p *plan) (done bool, err error) {
	var rec gateway.Record
	mark := fmt.Appendf(nil, `"repair":"%s"`, p.ID)
	err = j.Records(p.From, func(seq uint64, record []byte) error {
		if seq > p.From+1 {
			return errStop
		}
		if err := gateway.DecodeRecord(record, &rec); err != nil {
			return err
		}
		done = done || rec.Kind == gateway.EventRecord && bytes.Contains(rec.Detail, mark)
		return nil
	})
	return done, err
}

// report commits the records of a repair, all in one transaction.
func (j *Journal) report(p *plan) error {
	b := new(batch)
	now, trusted := j.opt.Clock()
	add := func(r gateway.Record) {
		r.Time, r.Trusted = now, trusted
		record := gateway.AppendRecord(make([]byte, hashSize, 256), &r)
		leaf := leafHash(record[hashSize:])
		copy(record, leaf[:])
		b.items = append(b.items, item{record: record})
		b.size += len(record)
	}
	before := j.led.totals.Dropped
	drops, err := j.dropLost(p)
	if err != nil {
		return err
	}
	details := [][]byte{encodeDetail(map[string]any{"event": "journal repaired", "repair": p.ID})}
	if p.Restate {
		if details, err = j.restated(); err != nil {
			return err
		}
	}
	for _, f := range p.Files {
		add(gateway.Record{Kind: gateway.EventRecord, Detail: encodeDetail(map[string]any{
			"event": eventDamaged, "repair": p.ID, "file": f.File, "aside": f.Aside, "first": f.First, "last": f.Last,
			"records": f.Records, "records_lost": f.RecordsLost, "bodies_lost": f.BodiesLost})})
	}
	for _, r := range drops {
		add(r)
	}
	for _, d := range details {
		add(gateway.Record{Kind: gateway.EventRecord, Detail: d})
	}
	j.droppedNow = j.led.totals.Dropped - before
	return j.commit([]*batch{b}, b.size)
}

// countAgain counts what is in the segments: they are not what the snapshot says.
func (j *Journal) countAgain() error {
	for _, s := range j.segments {
		bodies, records := int64(s.BodyBytes), int64(s.RecordBytes)
		if err := j.recount(s); err != nil {
			return err
		}
		j.bodyBytes.Add(int64(s.BodyBytes) - bodies)
		j.recordBytes.Add(int64(s.RecordBytes) - records)
	}
	clear(j.waiting[:])
	j.countWaiting()
	return nil
}

// Repaired says what a repair did.
type Repaired struct {
	Whole   bool           `json:"whole"` // nothing was damaged
	Files   []SetAside     `json:"files"` // what was damaged and where it is kept
	Records uint64         `json:"records"`
	Lost    Losses         `json:"lost"` // ever
	Dropped uint64         `json:"dropped"`
	Totals  gateway.Totals `json:"totals"`
}

// NothingLost reports whether all that was damaged could be salvaged.
func (r *Repaired) NothingLost() bool {
	return r.Dropped == 0 && !slices.ContainsFunc(r.Files, func(f SetAside) bool { return f.RecordsLost+f.BodiesLost > 0 })
}

// Repair reads a whole journal that nobody has open and makes it whole: what is damaged is set aside, what is readable
// of it is kept, and what is lost is put on the record. Open does the same with what it meets; Repair looks everywhere.
// When nothing is damaged it only reads. The error is ErrLocked while a gateway has the folder, a *KeyError when a key is missing, and ErrForked when the log
// cannot be continued; then nothing was changed.
func Repair(o Options) (Repaired, error) {
	r := Repaired{Files: []SetAside{}}
	if there, err := Exists(o.Dir); err != nil || !there {
		return r, errors.Join(err, fmt.Errorf("repair journal %q: %w", o.Dir, fs.ErrNotExist))
	}
	if whole, err := r.inspect(o); err != nil || whole {
		return r, err
	}
	o.verify = true
	for range 2 { // the first time an earlier repair may have had to be ended
		pending, err := readPlan(o.Dir)
		if err != nil {
			return r, err
		}
		j, err := Open(o)
		if err != nil {
			return r, err
		}
		r.Files = append(r.Files, j.repaired...)
		r.Dropped += j.droppedNow
		r.Records, r.Lost, r.Totals = j.Size(), j.Losses(), j.Totals()
		if err := j.Close(); err != nil {
			return r, err
		}
		if pending == nil {
			break
		}
	}
	r.Whole = len(r.Files) == 0
	return r, nil
}

// inspect reads a whole journal without changing anything in it. It reports false when something is damaged, was met as
// damaged by an earlier process, or is not finished: then it is to be opened for writing.
func (r *Repaired) inspect(o Options) (whole bool, err error) {
	o.setDefaults()
	o.Log = slog.New(slog.DiscardHandler) // what is found is said by who mends it
	j, err := newJournal(o, true)
	if err != nil {
		return false, err
	}
	defer j.release()
	_, spoilt, err := readFormat(o.Dir)
	if err == nil {
		err = errors.Join(j.lockDir(), formatDamage(spoilt)) // who has it is said first
	}
	if errors.Is(err, ErrLocked) {
		return false, fmt.Errorf("open journal %q: %w", o.Dir, ErrLocked)
	}
	for _, left := range []string{suspectFile, repairDir, olderDir, draftDir} {
		if _, e := os.Lstat(filepath.Join(o.Dir, left)); err == nil && !errors.Is(e, fs.ErrNotExist) {
			return false, nil
		}
	}
	if err == nil {
		var found *repair
		if found, err = examine(o, j.keys); err == nil {
			found.j.release()
			if !found.nothing() {
				return false, nil
			}
			err = j.load()
		}
	}
	if err == nil {
		err = j.stateWhole()
	}
	if isDamage(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open journal %q: %w", o.Dir, err)
	}
	r.Whole, r.Records, r.Lost, r.Totals = true, j.Size(), j.Losses(), j.Totals()
	return true, nil
}

func encodeDetail(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("journal: encode event: " + err.Error())
	}
	return text
}

// dropLost lets everything that waits and has no body leave its uplink, and returns the records that say so. What of it has
// no record any more is for the restatement to say.
func (j *Journal) dropLost(p *plan) (records []gateway.Record, err error) {
	gone, err := j.bodiless(p)
	if err != nil || len(gone) == 0 {
		return nil, errors.Join(err, j.writeLosses())
	}
	l := &j.led
	seqs := slices.Sorted(maps.Keys(gone))
	last := make(map[[2]int]int) // by uplink and lane: index of the newest record, plus 1
	drop := func(u, lane int, seq uint64) {
		i := last[[2]int{u, lane}]
		if i > 0 && records[i-1].Last+1 == seq {
			records[i-1].Last = seq
		} else {
			sc := scope{Why: "damage", Control: lane == controlLane}
			if lane != controlLane {
				sc.Priority = &lane
			}
			records = append(records, gateway.Record{Kind: gateway.ExpiryRecord, Uplink: uint8(u), First: seq, Last: seq, State: gateway.Dropped, Detail: sc.detail()})
			i = len(records)
			last[[2]int{u, lane}] = i
		}
		if lane != controlLane {
			records[i-1].Count++
		}
	}
	err = j.between(seqs[0], seqs[len(seqs)-1], func(seq uint64, r *gateway.Record) error {
		if j.lost.between(seq, seq) {
			return nil // an event in the place of a record
		}
		set := gone[seq]
		delete(gone, seq)
		for rest := set; rest != 0; rest &= rest - 1 {
			u := bits.TrailingZeros32(uint32(rest))
			d, message := l.waitingAs(seq, r)
			if !message {
				l.states.set(u, seq, gateway.Dropped, l.tree.size)
				drop(u, controlLane, seq)
				continue
			}
			l.settle(u, seq, &d, gateway.Dropped)
			drop(u, d.priority(u), seq)
			j.noteBody(p, seq, 1<<u)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for seq, set := range gone {
		p.Restate = true
		for ; set != 0; set &= set - 1 {
			u := bits.TrailingZeros32(uint32(set))
			if m := l.dead[l.again[seq]]; m != nil {
				l.settle(u, seq, &m.decision, gateway.Dropped)
			} else {
				l.states.set(u, seq, gateway.Dropped, l.tree.size)
			}
		}
	}
	return records, j.writeLosses()
}

// waitingAs returns the decision by which entry seq waits; ok is false for one of the gateway's own.
func (l *ledger) waitingAs(seq uint64, r *gateway.Record) (d decision, ok bool) {
	if r.Kind == gateway.DecisionRecord {
		return decisionOf(r), true
	}
	if m := l.dead[l.again[seq]]; m != nil && r.Kind == gateway.ReleaseRecord {
		return m.decision, true
	}
	return d, false
}

// bodiless returns what waits and has no body, and notes dead messages that have none.
func (j *Journal) bodiless(p *plan) (map[uint64]gateway.UplinkSet, error) {
	l := &j.led
	have, refused := newStates(), make(map[uint64]gateway.UplinkSet)
	err := j.eachBody(func(seq uint64, h *header, parked bool) {
		if h.hold() {
			return
		}
		if l.dead[seq] != nil {
			refused[seq] |= h.own
		}
		for set := h.own; set != 0 && !parked; set &= set - 1 {
			if u := bits.TrailingZeros32(uint32(set)); l.states.get(u, seq) == gateway.Waiting {
				have.set(u, seq, gateway.Waiting, 0)
			}
		}
	})
	gone := make(map[uint64]gateway.UplinkSet)
	for n, c := range l.states.chunks {
		for u := range gateway.MaxUplinks {
			if c.open == 0 || c.of[u] == nil {
				continue
			}
			for i := range chunkLen {
				seq := n<<chunkBits + uint64(i)
				if c.get(u, i) == gateway.Waiting && have.get(u, seq) != gateway.Waiting {
					gone[seq] |= 1 << u
				}
			}
		}
	}
	for seq, m := range l.dead {
		if lost := m.in(gateway.Dead) &^ refused[seq]; lost != 0 {
			j.noteBody(p, seq, lost)
		}
	}
	return gone, err
}

// noteBody takes down that the body of a message is lost, and counts it for the file that it was in.
func (j *Journal) noteBody(p *plan, seq uint64, uplinks gateway.UplinkSet) {
	known := j.lost.body(seq).Waits != 0
	if !j.lost.addBody(seq, uplinks, 0) || known || len(p.Files) == 0 {
		return
	}
	i := slices.IndexFunc(p.Files, func(f SetAside) bool { return f.First <= seq && seq <= f.Last && strings.HasPrefix(f.File, segPrefix) })
	p.Files[max(i, 0)].BodiesLost++
}

// writeLosses makes the list of losses durable.
func (j *Journal) writeLosses() error {
	if len(j.lost.Holes)+len(j.lost.Bodies) == 0 {
		return nil
	}
	return j.writeFile(filepath.Join(j.opt.Dir, lossFile), j.lost.encode())
}

// damagedBody is for a body that does not open although its key is there. It keeps the body's bytes in the folder of damaged
// files, lets the next Open rebuild the file without it, logs one line, and returns how it waits and for which uplinks; for
// those it has to be settled as dropped, why "damage". For a body under a key that is not given the error is a *KeyError
// and nothing is to be settled.
func (j *Journal) damagedBody(seq uint64, variant int) (w waiting, err error) {
	value, err := j.bodyBytesOf(seq, variant)
	if err != nil {
		return w, err
	}
	if j.keys.missing(value, byte(variant)) {
		return w, &KeyError{keyOf(value), fmt.Sprintf("body %d of record %d", variant, seq)}
	}
	if h, ok := parseHeader(value); ok {
		w = waitingOf(seq, &h, len(value))
		if h.hold() {
			w.own = 0
		}
	} else if w, err = j.waitingByRecord(seq, variant, len(value)); err != nil {
		return w, err
	}
	j.suspect()
	name := asideName(j.opt.Dir, fmt.Sprintf("body-%020d-%d", seq, variant), time.Now())
	keep := errors.Join(os.MkdirAll(filepath.Join(j.opt.Dir, damagedDir), 0o700), os.WriteFile(filepath.Join(j.opt.Dir, name), value, 0o600))
	j.opt.Log.Error("journal has a damaged body, its message is dropped", slog.Uint64("seq", seq), slog.String("aside", name), slog.Any("err", keep))
	return w, nil
}

// waitingByRecord says how a body waits whose header is damaged: by its record, for the uplinks that no other body of the
// message is for.
func (j *Journal) waitingByRecord(seq uint64, variant, size int) (w waiting, err error) {
	w = waiting{seq: seq, size: size, lane: controlLane}
	err = j.between(seq, seq, func(_ uint64, r *gateway.Record) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		d, message := j.led.waitingAs(seq, r)
		switch {
		case !message:
			w.own = ^gateway.UplinkSet(0)
		case r.Kind == gateway.ReleaseRecord:
			w.own = 1 << r.Uplink
		default:
			w.own = d.waits
		}
		w.decision = d
		return nil
	})
	if err != nil {
		return w, err
	}
	_, s, _ := j.container(seq)
	if s == nil {
		return w, &ErrCorrupt{seq, variant}
	}
	var key [entryKeyLen]byte
	err = j.files.scan(s, entryKey(&key, seq, 1), min(seq+1, s.Next), func(at uint64, k, v []byte) error {
		if at == seq && len(k) == entryKeyLen {
			if h, ok := parseHeader(v); ok && !h.hold() {
				w.own &^= h.own
			}
		}
		return nil
	})
	for u := range gateway.MaxUplinks {
		if w.own.Has(u) && w.decision.waits != 0 {
			w.lane = w.decision.priority(u) // one body has one
		}
	}
	return w, err
}

// bodyBytesOf copies a body value as it stands in its segment.
func (j *Journal) bodyBytesOf(seq uint64, variant int) (value []byte, err error) {
	_, s, _ := j.container(seq)
	if s == nil || variant < 0 || variant >= maxOutlets {
		return nil, &ErrCorrupt{seq, variant}
	}
	var key [entryKeyLen]byte
	from := entryKey(&key, seq, byte(variant)+1)
	err = j.files.scan(s, from, s.Next, func(_ uint64, k, v []byte) error {
		if bytes.Equal(k, from) {
			value = slices.Clone(v)
		}
		return errStop
	})
	if err == nil && value == nil {
		err = &ErrCorrupt{seq, variant}
	}
	return value, err
}

// suspect lets the next Open read everything: something in the folder is damaged.
func (j *Journal) suspect() {
	if j.readOnly {
		return
	}
	if f, err := os.OpenFile(filepath.Join(j.opt.Dir, suspectFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		f.Close() // one that is there may say more
	}
}
