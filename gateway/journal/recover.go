package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// guardView calls fn with the keys of s from the last one backwards, until fn returns an error; errStop is none.
func guardView(h *handles, s *segment, fn func(key []byte) error) error {
	err := h.view(s, func(b *bbolt.Bucket) error {
		c := b.Cursor()
		for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
			if err := fn(k); err != nil {
				return err
			}
		}
		return nil
	})
	if err == errStop {
		return nil
	}
	return err
}

// recover brings the journal to the state as of its last commit: the newest snapshot, and the records behind it.
func (j *Journal) recover() error {
	snap, err := j.openState()
	if err != nil {
		return err
	}
	if j.lost, err = readLosses(j.opt.Dir); err != nil {
		return err
	}
	if err := j.findArchives(); err != nil {
		return err
	}
	if snap, err = j.findTrimmed(snap); err != nil {
		return err
	}
	if err := j.findSegments(snap); err != nil {
		return err
	}
	if snap != nil && snap.Next > j.end() {
		return &ErrRecord{snap.Next - 1, "was committed and is missing"}
	}
	if snap != nil {
		j.led.restore(snap)
		j.checkpoint = snap.Checkpoint
	}
	if err := j.follow(); err != nil {
		return err
	}
	j.lost.pass(&j.led.tree, j.end())
	if snap == nil {
		snap = new(snapshot)
	}
	j.resumeAges(snap.Ages)
	if err := j.newestCheckpoint(snap.Next); err != nil {
		return err
	}
	for _, s := range j.segments {
		j.bodyBytes.Add(int64(s.BodyBytes))
		j.recordBytes.Add(int64(s.RecordBytes))
	}
	for _, a := range j.archives {
		j.recordBytes.Add(a.Bytes)
	}
	j.countWaiting()
	return nil
}

// follow lets the ledger follow the records behind the snapshot, and counts again what waits in the segments that they
// touch.
func (j *Journal) follow() error {
	from := j.led.tree.size
	controls, err := j.controlsFrom(from)
	if err != nil {
		return err
	}
	touched := make(map[*segment]bool)
	for _, s := range j.segments {
		touched[s] = s.Next > from
	}
	var r gateway.Record
	err = j.Records(from, func(seq uint64, record []byte) error {
		err := j.led.apply(seq, record, &r, j.between, func(n uint64, h [32]byte) { j.roots[n] = h },
			func(_ int, seq uint64) {
				if s := j.segmentOf(seq); s != nil {
					touched[s] = true
				}
			})
		j.names.recall(&r)
		if waits, ok := controls[seq]; ok {
			j.led.expect(seq, waits)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := j.keepRecalled(); err != nil {
		return err
	}
	for s, yes := range touched {
		if yes {
			if err := j.recount(s); err != nil {
				return fmt.Errorf("read %s: %w", segmentName(s.First), err)
			}
		}
	}
	return nil
}

// controlsFrom lists the gateway's own entries from a seq on that wait: their records do not say so.
func (j *Journal) controlsFrom(from uint64) (map[uint64]gateway.UplinkSet, error) {
	list := make(map[uint64]gateway.UplinkSet)
	for _, s := range j.segments {
		if s.Next <= from {
			continue
		}
		var key [entryKeyLen]byte
		err := j.files.scan(s, entryKey(&key, max(from, s.First), recordByte), s.Next, func(seq uint64, k, v []byte) error {
			if len(k) == entryKeyLen && k[8] != recordByte {
				if h, ok := parseHeader(v); ok && h.control() {
					list[seq] |= h.own
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", segmentName(s.First), err)
		}
	}
	return list, nil
}

// findArchives lists the archive and removes what a crash left half written.
func (j *Journal) findArchives() error {
	dir := filepath.Join(j.opt.Dir, archiveDir)
	firsts, err := listNumbered(dir, arcPrefix, arcSuffix)
	if err != nil {
		return err
	}
	if err := j.removeHalves(dir, arcPrefix, arcSuffix+tmpSuffix); err != nil {
		return err
	}
	for _, first := range firsts {
		a, err := readArchiveMeta(filepath.Join(dir, archiveName(first)), j.keys)
		if err != nil {
			return j.archiveDamage(err, filepath.Join(dir, archiveName(first)), first, 0)
		}
		if a.First != first {
			return fmt.Errorf("read %s: %w", archiveName(first), errArchive)
		}
		j.archives = append(j.archives, a)
	}
	return nil
}

// removeHalves removes what a crash left half written.
func (j *Journal) removeHalves(dir, prefix, suffix string) error {
	if j.readOnly {
		return nil
	}
	left, err := listNumbered(dir, prefix, suffix)
	if err != nil {
		return err
	}
	for _, first := range left {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("%s%020d%s", prefix, first, suffix))); err != nil {
			return err
		}
	}
	return nil
}

// findSegments lists the segments, settles what of each counts and completes what the snapshot says of them.
func (j *Journal) findSegments(snap *snapshot) error {
	firsts, err := listNumbered(j.opt.Dir, segPrefix, segSuffix)
	if err != nil {
		return err
	}
	if err := j.removeHalves(j.opt.Dir, segPrefix, segSuffix+tmpSuffix); err != nil {
		return err
	}
	known := make(map[uint64]segmentMeta)
	if snap != nil {
		for _, m := range snap.Segments {
			known[m.First] = m
		}
	}
	for i, first := range firsts {
		s := newSegment(j.opt.Dir, first)
		archived := slices.ContainsFunc(j.archives, func(a archiveMeta) bool { return a.First == first }) || first < j.Trimmed()
		next := first
		if !archived {
			if next, err = j.openable(s, j.limitOf(first, firsts[i+1:])); err != nil {
				return fmt.Errorf("read %s: %w", segmentName(first), err)
			}
		}
		if archived || next <= first { // drained before a crash, or nothing committed: the file goes
			j.files.drop(s)
			if err := j.removeLeftover(s.path); err != nil {
				return err
			}
			continue
		}
		if m, ok := known[first]; ok && m.Next <= next {
			s.segmentMeta = m
			s.Damaged = m.Damaged && !j.verified
			if s.Waits == nil {
				s.Waits = make(map[int]*[lanes]waitStat)
			}
		}
		s.Next = next
		j.segments = append(j.segments, s)
	}
	return nil
}

// limitOf returns where the file behind a segment begins: what the segment holds from there on is of a commit that
// failed and was done again.
func (j *Journal) limitOf(first uint64, later []uint64) uint64 {
	limit := ^uint64(0)
	if len(later) > 0 {
		limit = later[0]
	}
	for _, a := range j.archives {
		if a.First > first {
			limit = min(limit, a.First)
		}
	}
	return limit
}

func (j *Journal) removeLeftover(path string) error {
	if j.readOnly {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(j.opt.Dir)
}

// recount counts the entries of s, and what of them waits.
func (j *Journal) recount(s *segment) error {
	s.segmentMeta = segmentMeta{First: s.First, Next: s.Next, Waits: make(map[int]*[lanes]waitStat)}
	var key [entryKeyLen]byte
	return j.files.scan(s, entryKey(&key, s.First, recordByte), s.Next, func(seq uint64, k, v []byte) error {
		switch {
		case len(k) != entryKeyLen:
		case k[8] == recordByte:
			s.RecordBytes += uint64(len(v))
		default:
			h, ok := parseHeader(v)
			if !ok {
				return &ErrCorrupt{seq, int(k[8] - 1)}
			}
			s.addBody(seq, &h, len(v), j.led.dead[seq] != nil, func(u int) gateway.State { return j.led.states.get(u, seq) })
		}
		return nil
	})
}

// newestCheckpoint finds the newest checkpoint when the snapshot, which is as of record from, does not have it.
func (j *Journal) newestCheckpoint(from uint64) error {
	for i := len(j.segments) - 1; i >= 0 && j.segments[i].Next > from; i-- {
		list, err := j.files.checkpoints(j.segments[i], max(from, j.segments[i].First), j.segments[i].Next)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			continue
		}
		if c := list[len(list)-1]; c.Size > j.checkpoint.Size {
			j.checkpoint = c
		}
		return nil
	}
	return nil
}

// countWaiting sums up what waits in the segments.
func (j *Journal) countWaiting() {
	for _, s := range j.segments {
		for u, w := range s.Waits {
			for lane := range w {
				t := &j.waiting[u][lane]
				t.Last = max(t.Last, w[lane].Last)
				t.Count += w[lane].Count
				t.Bytes += w[lane].Bytes
			}
		}
	}
}
