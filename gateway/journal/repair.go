package journal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// Names of what a repair makes in a journal's folder.
const (
	damagedDir  = "damaged" // files that were set aside: never written to nor removed
	repairDir   = "repair"  // a repair that is decided on: it is carried out, however often that is interrupted
	draftDir    = "repair" + tmpSuffix
	olderDir    = "repair.old" // one that is carried out and not on the record yet, while another takes its place
	planFile    = "plan"
	suspectFile = "suspect" // made when a running gateway met damage: the next Open reads everything
	asideTime   = "20060102T150405Z"
	maxFill     = 1 << 20 // lost records that are replaced by events, in one gap
)

// ErrForked is the error for a journal that cannot be made whole: a signed checkpoint covers lost records, and the tree
// behind them is not known any more. A log that went on would contradict its own signature.
var ErrForked = errors.New("a signed checkpoint covers lost records and its tree is lost too")

// SetAside is a file that was damaged: where it is kept, and what of it is lost.
type SetAside struct {
	File        string `json:"file"`
	Aside       string `json:"aside,omitempty"`
	First       uint64 `json:"first"` // seq of its first record, and of the last one that is known of
	Last        uint64 `json:"last"`
	Records     uint64 `json:"records"` // salvaged
	RecordsLost uint64 `json:"records_lost"`
	BodiesLost  uint64 `json:"bodies_lost"`
}

// repair reads a whole journal that is locked for writing, and decides what becomes of what is damaged.
type repair struct {
	opt    Options
	j      *Journal // for reading
	snap   *snapshot
	pieces []*piece
	known  map[uint64]compact // trees by size, each with its sum
	signed uint64             // the largest size that is known to have been signed
	tree   compact
	block  compact // the tree at the last multiple of 256
	lost   losses
	parked *readable                    // of a damaged parked.bolt
	holds  map[uint64]gateway.UplinkSet // what archives say is held: it has to be parked
	heldAt map[gateway.ID]uint64        // and where the records of these messages stand
	base   *base                        // where the records here begin; nil: at 0
	spoilt bool                         // the file that says so is damaged, and its copy is not
	needed *needed

	gone, goneFirst, goneLast uint64 // records that are newly lost, and no damaged file is there that they were in
	plan                      plan
}

// piece is one file with records, or two of the same first seq.
type piece struct {
	first, next uint64
	limit       uint64
	segment     *segment
	archive     *archiveMeta
	damaged     []string // names of its damaged files
	leaves      []leafAt // of a damaged one
	bare        []bareMessage
	records     uint64 // newly lost
	lostBodies  uint64
}

type leafAt struct {
	seq  uint64
	hash tlog.Hash
}

// makeWhole repairs the folder of a journal. It returns nil when nothing was damaged.
func makeWhole(o Options, keys *keyring) error {
	r, err := examine(o, keys)
	if err != nil {
		return err
	}
	defer r.j.release()
	if len(r.plan.Roots) > 0 {
		r.plan.Files = append(r.plan.Files, SetAside{File: stateFile}) // set right where it stands
	}
	if r.nothing() {
		return os.RemoveAll(filepath.Join(o.Dir, suspectFile))
	}
	if err := r.stage(); err != nil {
		return err
	}
	_, err = carryOut(o)
	return err
}

// examine reads a whole journal, decides what becomes of what is damaged, and changes nothing. Whoever asks releases r.j.
func examine(o Options, keys *keyring) (_ *repair, err error) {
	r := &repair{opt: o, known: make(map[uint64]compact), holds: make(map[uint64]gateway.UplinkSet), heldAt: make(map[gateway.ID]uint64)}
	r.plan.Roots = make(map[uint64]tlog.Hash)
	if r.j, err = newJournal(o, true); err != nil {
		return nil, err
	}
	r.j.keys = keys
	if r.snap, err = r.j.openState(); err == nil {
		err = r.read()
	}
	if err == nil {
		err = r.walk()
	}
	if err != nil {
		r.j.release()
		return nil, err
	}
	return r, nil
}

// nothing reports whether there is nothing to repair.
func (r *repair) nothing() bool {
	return len(r.plan.Moves) == 0 && len(r.plan.Roots) == 0 && r.sameLosses()
}

// sameLosses reports whether nothing is lost that was not known to be.
func (r *repair) sameLosses() bool { return string(r.lost.encode()) == string(r.j.lost.encode()) }

// read opens every file and finds out what is damaged.
func (r *repair) read() (err error) {
	if r.j.lost, err = readLosses(r.opt.Dir); isDamage(err) {
		r.setAside(lossFile, SetAside{File: lossFile})
	} else if err != nil {
		return err
	}
	if err := r.readBase(); err != nil {
		return err
	}
	r.needed = newNeeded(r.snap)
	for _, h := range r.j.lost.Holes {
		if !h.Filled {
			r.know(compact{h.Resume, h.Tree})
		}
	}
	r.lost.Bodies = slices.Clone(r.j.lost.Bodies)
	if r.snap != nil {
		r.know(compact{r.snap.Next, r.snap.Tree})
		if len(r.snap.Checkpoint.Text) > 0 {
			r.signed = r.snap.Checkpoint.Size
		}
	}
	if t, ok := r.j.signedTree(); ok {
		r.know(t.compact)
		r.signed = max(r.signed, t.size)
	}
	if err := r.list(); err != nil {
		return err
	}
	for i, p := range r.pieces {
		p.limit = ^uint64(0)
		if i+1 < len(r.pieces) {
			p.limit = r.pieces[i+1].first
		}
		if err := r.verify(p); err != nil {
			return err
		}
	}
	if err := r.missBodies(); err != nil {
		return err
	}
	return r.readParked()
}

// readBase finds out where the records here begin.
func (r *repair) readBase() (err error) {
	if r.base, err = r.j.readBase(); err != nil {
		return fmt.Errorf("read %s: %w", baseFile, err)
	}
	if r.base == nil {
		return nil
	}
	name := filepath.Join(archiveDir, baseFile)
	if sealed, err := os.ReadFile(filepath.Join(r.opt.Dir, name)); err == nil {
		if _, err = openBase(sealed, r.j.keys); err != nil {
			r.spoilt = true
			r.setAside(name, SetAside{File: name})
		}
	}
	r.tree = compact{r.base.Next, slices.Clone(r.base.Tree)}
	r.know(r.tree)
	if len(r.base.Checkpoint.Text) > 0 {
		r.signed = max(r.signed, r.base.Checkpoint.Size)
	}
	if r.snap == nil || r.snap.Next < r.base.Next {
		r.snap = r.base.state()
	}
	return nil
}

// start returns the seq of the first record that should be here.
func (r *repair) start() uint64 {
	if r.base == nil {
		return 0
	}
	return r.base.Next
}

// missBodies finds messages that wait and whose bodies do not stand in a file that seems whole.
func (r *repair) missBodies() error {
	for _, p := range r.pieces {
		needs := func(b bareMessage) bool { return r.needed.waits(b.seq, &b.decision, b.missing) != 0 }
		if len(p.damaged) > 0 || !slices.ContainsFunc(p.bare, needs) {
			continue
		}
		r.opt.Log.Warn("journal file is damaged", "file", segmentName(p.first), "err", "a body is missing")
		p.damaged = append(p.damaged, segmentName(p.first))
		if err := r.takeApart(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) know(t compact) {
	if t.valid() {
		r.known[t.size] = t
	}
}

// list finds the files with records.
func (r *repair) list() error {
	segments, err := listNumbered(r.opt.Dir, segPrefix, segSuffix)
	if err != nil {
		return err
	}
	archives, err := listNumbered(filepath.Join(r.opt.Dir, archiveDir), arcPrefix, arcSuffix)
	if err != nil {
		return err
	}
	firsts := append(slices.Clone(segments), archives...)
	slices.Sort(firsts)
	for _, first := range slices.Compact(firsts) {
		if first < r.start() {
			continue // left over when it was trimmed
		}
		p := &piece{first: first}
		if slices.Contains(archives, first) {
			p.archive = &archiveMeta{First: first, path: filepath.Join(r.opt.Dir, archiveDir, archiveName(first))}
		}
		if slices.Contains(segments, first) {
			p.segment = newSegment(r.opt.Dir, first)
		}
		r.pieces = append(r.pieces, p)
	}
	return nil
}

// verify reads a piece; when a file of it is damaged, what is readable of it counts.
func (r *repair) verify(p *piece) error {
	if p.archive != nil {
		m, err := readArchiveMeta(p.archive.path, r.j.keys)
		if err == nil {
			err = r.j.verifyArchive(&m, r.noteArchived)
		}
		if err = r.realDamage(err, p); err == nil {
			p.archive, p.segment, p.next = &m, nil, m.Next
			return r.checkpointsOf(p)
		} else if !isDamage(err) {
			return err
		}
		p.damaged = append(p.damaged, filepath.Join(archiveDir, archiveName(p.first)))
	}
	if p.segment != nil {
		whole, err := r.verifySegment(p)
		if err != nil {
			return err
		}
		for seq := range r.holds { // its bodies stand in it
			if p.first <= seq && seq < p.limit {
				delete(r.holds, seq)
			}
		}
		if whole {
			if p.archive != nil {
				r.setAside(p.damaged[0], SetAside{File: p.damaged[0], First: p.first, Last: max(p.next, 1) - 1})
			}
			p.archive, p.damaged = nil, nil
			return r.checkpointsOf(p)
		}
		p.damaged = append(p.damaged, segmentName(p.first))
	}
	return r.takeApart(p)
}

// takeApart takes out what is readable of a damaged piece.
func (r *repair) takeApart(p *piece) error {
	all, err := r.salvage(p)
	if err != nil {
		return err
	}
	var rec gateway.Record
	for i := range all.entries {
		e := &all.entries[i]
		switch err := gateway.DecodeRecord(e.record[hashSize:], &rec); {
		case err == nil && p.segment == nil:
			r.noteArchived(e.seq, &rec)
		case err == nil:
			r.needed.note(e.seq, &rec)
		}
		p.leaves = append(p.leaves, leafAt{e.seq, [hashSize]byte(e.record)})
		p.next = e.seq + 1
	}
	for _, t := range all.trees {
		r.know(t)
	}
	for _, c := range all.checkpoints {
		r.signed = max(r.signed, c.Size)
	}
	return nil
}

// noteArchived follows a record of an archive.
func (r *repair) noteArchived(seq uint64, rec *gateway.Record) {
	r.needed.note(seq, rec)
	if rec.Kind != gateway.DecisionRecord {
		return
	}
	d := decisionOf(rec)
	if holds := d.holds &^ r.j.lost.body(seq).Holds; holds != 0 {
		r.holds[seq], r.heldAt[rec.ID] = holds, seq
	}
}

// realDamage turns the error of a key that is not given into one of damage, when the archive opens under another key.
func (r *repair) realDamage(err error, p *piece) error {
	return r.j.archiveDamage(err, p.archive.path, p.first, p.end())
}

// end returns where the next piece begins, 0 when there is none.
func (p *piece) end() uint64 {
	if p.limit == ^uint64(0) {
		return 0
	}
	return p.limit
}

// verifySegment reports whether the segment of a piece is whole.
func (r *repair) verifySegment(p *piece) (bool, error) {
	s := p.segment
	defer r.j.files.close(s)
	next, err := r.j.openable(s, p.limit)
	if err == nil && next > s.First {
		s.Next = next
		p.bare, err = r.j.verifySegment(s, r.needed.note)
	}
	if err == nil {
		p.next = next
		return true, nil
	}
	if isDamage(err) {
		r.opt.Log.Warn("journal file is damaged", "file", segmentName(s.First), "err", err)
		err = nil
	}
	return false, err
}

// checkpointsOf notes trees and checkpoints of a whole piece.
func (r *repair) checkpointsOf(p *piece) error {
	if p.archive != nil {
		return archiveCheckpoints(p.archive, r.j.keys, func(size uint64, _ []byte) error {
			r.signed = max(r.signed, size)
			return nil
		})
	}
	if p.next <= p.first {
		return nil
	}
	defer r.j.files.close(p.segment)
	list, err := r.j.files.checkpoints(p.segment, p.first, p.next)
	if err != nil {
		return err
	}
	for _, c := range list {
		r.signed = max(r.signed, c.Size)
	}
	stored, err := r.j.files.trees(p.segment)
	for _, t := range stored {
		r.know(t.compact)
	}
	return err
}

// salvage takes out what is readable of the files of a piece. Called twice it returns the same.
func (r *repair) salvage(p *piece) (*readable, error) {
	all := new(readable)
	if p.segment != nil {
		m, err := readImage(p.segment.path)
		if err != nil {
			return nil, err
		}
		all = m.salvage(r.j.keys, p.first, p.limit)
	}
	if p.archive != nil {
		more, err := readDamagedArchive(p.archive.path, r.j.keys, p.first, p.end())
		if err != nil {
			return nil, err
		}
		for _, e := range more.entries {
			if _, have := slices.BinarySearchFunc(all.entries, e.seq, func(e salvaged, seq uint64) int { return cmp.Compare(e.seq, seq) }); !have && e.seq < p.limit {
				all.entries = append(all.entries, e)
			}
		}
		slices.SortFunc(all.entries, func(a, b salvaged) int { return cmp.Compare(a.seq, b.seq) })
		all.checkpoints = append(all.checkpoints, more.checkpoints...)
	}
	return all, nil
}

// readParked verifies the parked bodies.
func (r *repair) readParked() error {
	path := filepath.Join(r.opt.Dir, parkedFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if len(r.holds) > 0 {
			r.parked = new(readable)
			r.plan.Files = append(r.plan.Files, SetAside{File: parkedFile})
		}
		return nil
	}
	spoilt, err := spoiltMeta(path)
	if err == nil && spoilt {
		err = &damaged{"a meta page is not valid"}
	}
	if err == nil {
		var db *boltFile
		if db, err = openBolt(path, bbolt.Options{ReadOnly: true, PreLoadFreelist: true}, r.opt.openFile); err == nil {
			if err = r.j.verifyParked(db); err == nil {
				err = r.allParked(db)
			}
			closeBolt(db)
		}
	}
	if err == nil || !isDamage(err) {
		return err
	}
	m, err := readImage(path)
	if err != nil {
		return err
	}
	r.parked = m.salvageSpread(r.j.keys)
	r.replaceParked()
	r.setAside(parkedFile, SetAside{File: parkedFile, Records: uint64(len(r.parked.entries))})
	return nil
}

// replaceParked puts salvaged entries where their records stand. A record's hash does not cover its key, and a body goes with
// the record, so that a flipped bit in a key would let a message be held that never was. What stands behind the end of the
// journal, and of which no archive says where it belongs, is nobody's.
func (r *repair) replaceParked() {
	end := uint64(0)
	for _, p := range r.pieces {
		end = max(end, p.next)
	}
	if r.snap != nil {
		end = max(end, r.snap.Next)
	}
	var rec gateway.Record
	list := r.parked.entries
	for i := range list {
		if gateway.DecodeRecord(list[i].record[hashSize:], &rec) == nil && rec.Kind == gateway.DecisionRecord {
			if at, ok := r.heldAt[rec.ID]; ok {
				list[i].seq = at
			}
		}
	}
	list = slices.DeleteFunc(list, func(e salvaged) bool { return e.seq >= end })
	slices.SortStableFunc(list, func(a, b salvaged) int {
		return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(len(b.bodies), len(a.bodies)))
	})
	r.parked.entries = slices.CompactFunc(list, func(a, b salvaged) bool { return a.seq == b.seq })
}

// allParked returns an error of damage when something is held and its body does not stand in a file of parked bodies that
// seems whole: a damaged page of bbolt's hides what is behind it, or let a body be put where nobody finds it.
func (r *repair) allParked(db *boltFile) error {
	missing := maps.Clone(r.holds)
	err := eachEntry(db, func(k, value []byte) error {
		if h, ok := parseHeader(value); ok && k[8] != recordByte && h.hold() {
			seq := binary.BigEndian.Uint64(k)
			if missing[seq] &^= h.own; missing[seq] == 0 {
				delete(missing, seq)
			}
		}
		return nil
	})
	if err == nil && len(missing) > 0 {
		err = &damaged{"a held body is not parked"}
	}
	return err
}

// setAside plans to move a damaged file, under a name with the time.
func (r *repair) setAside(name string, f SetAside) {
	f.Aside = asideName(r.opt.Dir, name, time.Now())
	r.plan.Moves = append(r.plan.Moves, move{name, f.Aside})
	r.plan.Files = append(r.plan.Files, f)
}

// asideName returns a name in the folder of damaged files that is free.
func asideName(dir, name string, now time.Time) string {
	at := filepath.Join(damagedDir, filepath.Base(name)+"."+now.UTC().Format(asideTime))
	free := at
	for n := 2; ; n++ {
		if _, err := os.Lstat(filepath.Join(dir, free)); errors.Is(err, os.ErrNotExist) {
			return free
		}
		free = fmt.Sprintf("%s-%d", at, n)
	}
}
