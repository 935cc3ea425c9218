package journal

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// tidy wakes the sweeper and has it save the state.
func (j *Journal) tidy() {
	j.saveDue.Store(true)
	j.tidySoon()
}

// tidySoon wakes the sweeper.
func (j *Journal) tidySoon() {
	select {
	case j.tidyNow <- struct{}{}:
	default:
	}
}

// sweep saves the state when that is due and replaces drained segments by archives, until the committer has ended.
func (j *Journal) sweep() {
	defer close(j.swept)
	failed := false
	var retry <-chan time.Time
	for {
		ended := false
		select {
		case <-j.tidyNow:
		case <-retry:
		case <-j.committed:
			ended = true
		}
		retry = nil
		err := j.sweepOnce()
		if errors.Is(err, errStopping) {
			err = nil
		}
		if err != nil && !failed {
			j.opt.Log.Error("journal cannot tidy up", slog.Any("err", err))
		}
		if errors.Is(err, syscall.ENOSPC) && j.spendReserve() { // an archive makes room, but needs some first
			j.opt.after(retryLast, j.poke)
			j.tidySoon()
		}
		if failed = err != nil; failed {
			retry = time.After(retryLast)
		}
		if ended {
			return
		}
	}
}

// lastTidy is for how long Close still lets drained segments become archives.
const lastTidy = 200 * time.Millisecond

// errStopping gives up work that the next start does again.
var errStopping = errors.New("journal closes")

// stopping returns errStopping when Close has waited long enough for what the next start can do as well.
func (j *Journal) stopping() error {
	if j.open.Err() == nil {
		return nil
	}
	j.qmu.Lock()
	defer j.qmu.Unlock()
	if time.Since(j.closingAt) < lastTidy {
		return nil
	}
	return errStopping
}

// sweepOnce saves the state if due and archives every segment that is drained.
func (j *Journal) sweepOnce() error {
	if j.saveDue.Swap(false) {
		j.opt.step("save")
		if err := j.saveState(); err != nil {
			j.saveDue.Store(true)
			return err
		}
	}
	if err := j.unpark(); err != nil {
		return err
	}
	for {
		if err := j.stopping(); err != nil {
			return err
		}
		what := j.archive
		s := j.drainedSegment()
		if s == nil {
			if s, what = j.sparse(), j.rewrite; s == nil {
				return j.trimOnce()
			}
		}
		err := what(s)
		if isDamage(err) {
			j.opt.Log.Error("segment is kept, a file is damaged", slog.Any("err", err))
			j.mu.Lock()
			s.Damaged = true
			j.mu.Unlock()
			j.suspect()
		} else if err != nil {
			return err
		}
	}
}

func (j *Journal) drainedSegment() *segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		if s != j.write && s.drained() {
			return s
		}
	}
	return nil
}

// archive replaces a drained segment by its records. A crash between any two of its steps leaves the segment, the
// archive or both; Open then deletes the segment or archives it again.
func (j *Journal) archive(s *segment) error {
	j.opt.step("park") // 1. what is held survives the segment
	parked, err := j.park(s)
	if err != nil {
		return err
	}
	j.opt.step("archive") // 2. records and checkpoints, sealed, under their final name
	meta, err := j.writeArchive(s)
	if err != nil {
		return err
	}
	j.opt.step("cursors") // 3. the root of its records, and the cursors that say that it is drained
	if _, err := j.rootOf(s.First, s.Next); err != nil {
		j.opt.Log.Warn("root of an archive is not known", slog.Uint64("seq", s.First), slog.Any("err", err))
	}
	if err := j.saveState(); err != nil {
		return err
	}
	j.opt.step("unlink") // 4. from here on everybody reads the archive
	j.mu.Lock()
	j.segments = slices.DeleteFunc(slices.Clone(j.segments), func(o *segment) bool { return o == s })
	j.archives = append(slices.Clone(j.archives), meta)
	j.mu.Unlock()
	j.files.drop(s)
	j.bodyBytes.Add(parked - int64(s.BodyBytes))
	j.recordBytes.Add(meta.Bytes - int64(s.RecordBytes))
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syncDir(j.opt.Dir); err != nil {
		return err
	}
	j.opt.step("unlinked")
	j.poke() // there may be room again
	return nil
}

// writeArchive writes the archive of a segment.
func (j *Journal) writeArchive(s *segment) (m archiveMeta, err error) {
	path := filepath.Join(j.opt.Dir, archiveDir, archiveName(s.First))
	f, err := j.opt.openFile(path+tmpSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return m, err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(path + tmpSuffix)
		}
	}()
	w, err := newArchiveWriter(f, j.keys, s.First, s.Next)
	if err != nil {
		return m, err
	}
	at := s.First
	err = j.segmentRecords(s, s.Next, &at, func(seq uint64, record []byte) error {
		if seq%256 == 0 && j.stopping() != nil {
			return errStopping
		}
		return w.record(seq, record)
	})
	if err != nil {
		return m, err
	}
	list, err := j.files.checkpoints(s, s.First, s.Next)
	if err != nil {
		return m, err
	}
	if err := w.finish(s.Next, list); err != nil {
		return m, err
	}
	st, err := f.Stat()
	if err != nil {
		return m, err
	}
	if err := f.Sync(); err != nil {
		return m, err
	}
	j.opt.step("rename")
	if err := os.Rename(path+tmpSuffix, path); err != nil {
		return m, err
	}
	return archiveMeta{s.First, s.Next, st.Size(), path}, syncDir(filepath.Dir(path))
}

// openParked opens parked.bolt and counts what is in it.
func (j *Journal) openParked() (err error) {
	path := filepath.Join(j.opt.Dir, parkedFile)
	if _, err := os.Stat(path); j.readOnly && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if !j.readOnly {
		if err := ensureBolt(path, j.opt.openFile); err != nil {
			return err
		}
	}
	if j.parked, err = openBolt(path, bbolt.Options{ReadOnly: j.readOnly}, j.opt.openFile); err != nil {
		return err
	}
	return j.eachParked(func(key, value []byte) error {
		if key[8] != recordByte {
			j.bodyBytes.Add(int64(len(value)))
		}
		return nil
	})
}

// eachParked calls fn for the records and bodies in parked.bolt, in order.
func (j *Journal) eachParked(fn func(key, value []byte) error) error { return eachEntry(j.parked, fn) }

// eachEntry calls fn for the entries of a bbolt file, in order.
func eachEntry(db *boltFile, fn func(key, value []byte) error) error {
	if db == nil {
		return nil
	}
	return db.read(func(tx *bbolt.Tx) error {
		b := tx.Bucket(entries)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(k) != entryKeyLen {
				return &damaged{"a key has an unexpected length"}
			}
			return fn(k, v)
		})
	})
}

// park copies the held and dead bodies of a segment, and the records they belong to, to parked.bolt. It may run twice. It
// returns the bytes of bodies that were not there before.
func (j *Journal) park(s *segment) (added int64, err error) {
	dead := j.deadIn(s.First, s.Next)
	if s.Held == 0 && len(dead) == 0 {
		return 0, nil
	}
	var record, key []byte
	var put [][]byte
	err = j.parked.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(entries)
		if err != nil {
			return err
		}
		var from [entryKeyLen]byte
		return j.files.scan(s, entryKey(&from, s.First, recordByte), s.Next, func(seq uint64, k, v []byte) error {
			if len(k) != entryKeyLen {
				return nil
			}
			if k[8] == recordByte {
				key, record = append(key[:0], k...), append([]byte(nil), v...)
				return nil
			}
			if h, ok := parseHeader(v); !ok {
				return &ErrCorrupt{seq, int(k[8] - 1)}
			} else if !h.hold() && dead[seq]&h.own == 0 {
				return nil
			}
			if b.Get(k) == nil {
				added += int64(len(v))
			}
			if err := b.Put(key, record); err != nil {
				return err
			}
			put = append(put, slices.Clone(k))
			return b.Put(k, append([]byte(nil), v...))
		})
	})
	if err == nil {
		err = j.areParked(put)
	}
	return added, err
}

// areParked returns an error of damage when one of the keys is not found in parked.bolt: where a page of bbolt's is damaged,
// what is put there may be written and out of reach. Then the segment stays.
func (j *Journal) areParked(keys [][]byte) error {
	return j.parked.read(func(tx *bbolt.Tx) error {
		b := tx.Bucket(entries)
		for _, k := range keys {
			if b == nil || b.Get(k) == nil {
				return &damaged{"a body that was parked is not found"}
			}
		}
		return nil
	})
}
