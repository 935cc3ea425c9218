package journal

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// stage writes everything that the repaired journal needs into a folder of its own, which counts once it has its name.
func (r *repair) stage() error {
	dir := filepath.Join(r.opt.Dir, draftDir)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	r.opt.step("repair draft")
	for _, p := range r.pieces {
		if len(p.damaged) > 0 {
			if err := r.stagePiece(dir, p); err != nil {
				return err
			}
		}
	}
	for _, h := range r.lost.Holes {
		if h.Filled && !r.j.lost.between(h.First, h.Next-1) {
			if err := r.stageFill(dir, h); err != nil {
				return err
			}
		}
	}
	if r.parked != nil {
		if err := r.stageParked(dir); err != nil {
			return err
		}
	}
	if r.spoilt {
		sealed, err := r.base.seal(r.j.keys)
		if err == nil {
			err = r.stageBytes(dir, baseFile, sealed)
		}
		if err != nil {
			return err
		}
		r.plan.Places = append(r.plan.Places, move{baseFile, filepath.Join(archiveDir, baseFile)})
	}
	if err := r.stageBytes(dir, lossFile, r.lost.encode()); err != nil {
		return err
	}
	r.plan.Places = append(r.plan.Places, move{lossFile, lossFile})
	if older, err := readPlan(r.opt.Dir); err != nil {
		return err
	} else if older != nil {
		r.plan.Files, r.plan.Restate = append(older.Files, r.plan.Files...), r.plan.Restate || older.Restate
	}
	var id [8]byte
	rand.Read(id[:])
	r.plan.ID = hex.EncodeToString(id[:])
	text, err := json.Marshal(&r.plan)
	if err != nil {
		panic("journal: encode plan: " + err.Error())
	}
	if err := r.stageBytes(dir, planFile, text); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	r.opt.step("repair decide")
	final, older := filepath.Join(r.opt.Dir, repairDir), filepath.Join(r.opt.Dir, olderDir)
	if err := os.Rename(final, older); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(dir, final); err != nil {
		return err
	}
	if err := syncDir(r.opt.Dir); err != nil {
		return err
	}
	return os.RemoveAll(older)
}

func (r *repair) stageBytes(dir, name string, b []byte) error {
	f, err := r.opt.openFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}

// stagePiece writes every run of records without a gap as a file of its own.
func (r *repair) stagePiece(dir string, p *piece) error {
	all, err := r.salvage(p)
	if err != nil {
		return err
	}
	for rest := all.entries; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].seq == rest[n-1].seq+1 {
			n++
		}
		run := rest[:n]
		rest = rest[n:]
		upto := ^uint64(0)
		if len(rest) > 0 {
			upto = rest[0].seq
		}
		of := readable{entries: run}
		for _, c := range all.checkpoints {
			if c.Size >= run[0].seq && c.Size <= run[n-1].seq+1 && (c.Size < upto || len(rest) == 0) {
				of.checkpoints = append(of.checkpoints, c)
			}
		}
		for _, t := range all.trees {
			if t.size >= run[0].seq && t.size <= run[n-1].seq+1 {
				of.trees = append(of.trees, t)
			}
		}
		if err := r.stageRun(dir, &of, p.segment == nil); err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) stageRun(dir string, of *readable, archive bool) error {
	first, next := of.entries[0].seq, of.entries[len(of.entries)-1].seq+1
	if !archive {
		r.plan.Places = append(r.plan.Places, move{segmentName(first), segmentName(first)})
		return writeSegment(dir, of, r.opt.openFile)
	}
	r.plan.Places = append(r.plan.Places, move{archiveName(first), filepath.Join(archiveDir, archiveName(first))})
	f, err := r.opt.openFile(filepath.Join(dir, archiveName(first)), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := newArchiveWriter(f, r.j.keys, first, next)
	if err != nil {
		return err
	}
	for i := range of.entries {
		if err := w.record(of.entries[i].seq, of.entries[i].record[hashSize:]); err != nil {
			return err
		}
	}
	if err := w.finish(next, of.checkpoints); err != nil {
		return err
	}
	return f.Sync()
}

// writeSegment writes entries as a segment file, durable.
func writeSegment(dir string, of *readable, open func(string, int, os.FileMode) (*os.File, error)) error {
	s, err := createSegment(dir, of.entries[0].seq, 0, open)
	if err != nil {
		return err
	}
	defer closeBolt(s.db)
	s.db.AllocSize = 1 << 16
	checkpoints := of.checkpoints
	for rest := of.entries; len(rest) > 0; {
		err := s.db.update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(entries)
			b.FillPercent = 1
			size := 0
			for len(rest) > 0 && size < groupBytes {
				n, err := putSalvaged(b, &rest[0], &checkpoints)
				if err != nil {
					return err
				}
				size, rest = size+n, rest[1:]
			}
			if len(rest) > 0 {
				return nil
			}
			for _, c := range checkpoints {
				if err := b.Put(binary.BigEndian.AppendUint64(nil, c.Size), c.Text); err != nil {
					return err
				}
			}
			return putTrees(tx, of)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// putSalvaged puts one entry, behind the checkpoints that stand in front of it.
func putSalvaged(b *bbolt.Bucket, e *salvaged, checkpoints *[]Checkpoint) (size int, err error) {
	for len(*checkpoints) > 0 && (*checkpoints)[0].Size <= e.seq {
		c := (*checkpoints)[0]
		if err := b.Put(binary.BigEndian.AppendUint64(nil, c.Size), c.Text); err != nil {
			return 0, err
		}
		*checkpoints = (*checkpoints)[1:]
	}
	var key [entryKeyLen]byte
	if err := b.Put(entryKey(&key, e.seq, recordByte), e.record); err != nil {
		return 0, err
	}
	size = len(e.record)
	for i := range e.bodies {
		if err := b.Put(entryKey(&key, e.seq, 1+e.bodies[i].variant), e.bodies[i].value); err != nil {
			return 0, err
		}
		size += len(e.bodies[i].value)
	}
	return size, nil
}

// putTrees stores the trees of a rebuilt segment, each with the checkpoint of its size.
func putTrees(tx *bbolt.Tx, of *readable) error {
	for i := range of.trees {
		t := &of.trees[i]
		var text []byte
		for _, c := range of.checkpoints {
			if c.Size == t.size {
				text = c.Text
			}
		}
		if err := putTree(tx, t, text); err != nil {
			return err
		}
	}
	return nil
}

// stageFill writes the events that stand in the place of lost records.
func (r *repair) stageFill(dir string, h hole) error {
	of := new(readable)
	for seq := h.First; seq < h.Next; seq++ {
		record, leaf := fillRecord(seq), fillLeaf(seq)
		of.entries = append(of.entries, salvaged{seq: seq, record: append(leaf[:], record...)})
	}
	r.plan.Places = append(r.plan.Places, move{segmentName(h.First), segmentName(h.First)})
	return writeSegment(dir, of, r.opt.openFile)
}

// stageParked writes what is readable of the parked bodies.
func (r *repair) stageParked(dir string) error {
	db, err := openBolt(filepath.Join(dir, parkedFile), bbolt.Options{}, r.opt.openFile)
	if err != nil {
		return err
	}
	defer closeBolt(db)
	r.plan.Places = append(r.plan.Places, move{parkedFile, parkedFile})
	return db.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(entries)
		if err != nil {
			return err
		}
		var none []Checkpoint
		for i := range r.parked.entries {
			if _, err := putSalvaged(b, &r.parked.entries[i], &none); err != nil {
				return err
			}
		}
		return nil
	})
}
