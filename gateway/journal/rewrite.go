package journal

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// sparse returns a segment of which little is wanted any more, while room is short; nil when there is none.
func (j *Journal) sparse() *segment {
	if j.bodyBytes.Load() < j.opt.MaxSize-j.opt.MaxSize/4 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		if s != j.write && s.sparse() {
			return s
		}
	}
	return nil
}

// sparse reports whether little of the segment is wanted: rewriting it costs less than it frees.
func (m *segmentMeta) sparse() bool { return !m.Damaged && m.Live < m.BodyBytes/2 }

// rewrite replaces the file of a segment by one without the bodies that nobody needs any more. The new file is whole before
// it takes the old one's name; who still reads the old one reads on.
func (j *Journal) rewrite(s *segment) error {
	j.opt.step("rewrite")
	n, err := j.copySegment(s)
	if errors.Is(err, syscall.ENOSPC) && j.spendReserve() { // it makes room, but needs some first
		j.opt.after(retryLast, j.poke)
		n, err = j.copySegment(s)
	}
	if err != nil {
		return err
	}
	j.opt.step("rewritten")
	if err := os.Rename(s.path+tmpSuffix, s.path); err != nil {
		return err
	}
	if err := syncDir(j.opt.Dir); err != nil {
		return err
	}
	j.mu.Lock()
	n.Waits, n.Damaged = s.Waits, s.Damaged
	n.Live = n.BodyBytes
	before := s.BodyBytes
	j.segments = slices.Clone(j.segments)
	j.segments[slices.Index(j.segments, s)] = n
	j.mu.Unlock()
	j.files.drop(s)
	j.bodyBytes.Add(int64(n.BodyBytes) - int64(before))
	j.opt.Log.Info("journal made room", slog.String("segment", filepath.Base(n.path)), slog.Uint64("bytes", before-n.BodyBytes))
	j.poke()
	j.saveDue.Store(true)
	return nil
}

// copySegment writes what is needed of a segment into a file beside it.
func (j *Journal) copySegment(s *segment) (_ *segment, err error) {
	path := s.path + tmpSuffix
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	db, err := openBolt(path, bbolt.Options{NoFreelistSync: true, NoGrowSync: true, NoSync: true}, j.opt.openFile) // synced once, at the end
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := closeBolt(db); err == nil {
			err = e
		}
		if err != nil {
			os.Remove(path)
		}
	}()
	n := newSegment(j.opt.Dir, s.First)
	n.Next = s.Next
	dead := j.deadIn(s.First, s.Next)
	c := copier{db: db}
	var key [entryKeyLen]byte
	err = j.files.scan(s, entryKey(&key, s.First, recordByte)[:checkpointKeyLen], s.Next, func(seq uint64, k, v []byte) error {
		if seq%256 == 0 && j.stopping() != nil {
			return errStopping
		}
		switch {
		case len(k) != entryKeyLen:
		case k[8] == recordByte:
			n.RecordBytes += uint64(len(v))
		default:
			h, ok := parseHeader(v)
			if !ok {
				return &ErrCorrupt{seq, int(k[8] - 1)}
			}
			if !h.hold() && dead[seq]&h.own == 0 && !j.waitsFor(h.own, seq) {
				return nil
			}
			n.BodyBytes += uint64(len(v))
			if h.hold() {
				n.Held++
			}
		}
		return c.put(k, v)
	})
	if err == nil {
		err = c.flush()
	}
	if err == nil {
		err = j.copyTrees(s, db)
	}
	if err == nil {
		err = guard(db.Sync)
	}
	return n, err
}

// copyTrees copies the trees that stand beside the entries.
func (j *Journal) copyTrees(s *segment, to *boltFile) error {
	list, err := j.files.trees(s)
	if err != nil || len(list) == 0 {
		return err
	}
	return to.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketTrees)
		for i := range list {
			if err == nil {
				err = b.Put(list[i].encode())
			}
		}
		return err
	})
}

// waitsFor reports whether entry seq waits for one of the uplinks.
func (j *Journal) waitsFor(set gateway.UplinkSet, seq uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for u := range gateway.MaxUplinks {
		if set.Has(u) && j.led.states.get(u, seq) == gateway.Waiting {
			return true
		}
	}
	return false
}

// copier puts keys in order, a transaction for some bytes.
type copier struct {
	db   *boltFile
	keys [][2][]byte
	size int
}

func (c *copier) put(k, v []byte) error {
	c.keys = append(c.keys, [2][]byte{slices.Clone(k), slices.Clone(v)})
	if c.size += len(v); c.size < groupBytes {
		return nil
	}
	return c.flush()
}

func (c *copier) flush() error {
	err := c.db.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(entries)
		if err != nil {
			return err
		}
		b.FillPercent = 1
		for _, kv := range c.keys {
			if err := b.Put(kv[0], kv[1]); err != nil {
				return err
			}
		}
		return nil
	})
	c.keys, c.size = c.keys[:0], 0
	return err
}
