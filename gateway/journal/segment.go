package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/sluice-edge/sluice/gateway"
)

// Names of the files in a journal's folder.
const (
	stateFile   = "state.bolt"
	parkedFile  = "parked.bolt"
	lockFile    = "writer"
	reserveFile = "reserve"
	archiveDir  = "archive"
	segPrefix   = "segment-"
	segSuffix   = ".bolt"
	arcPrefix   = "archive-"
	arcSuffix   = ".slr"
	tmpSuffix   = ".tmp"
)

// entries is the one bucket of a segment: one bucket, so that there is one right-most path to rewrite in a commit.
var entries = []byte("entries")

// Lengths of the keys, and the last byte of a record's key; a body's key ends in 1 + its variant.
const (
	checkpointKeyLen = 8
	entryKeyLen      = 9
	recordByte       = 0
	hashSize         = 32
	maxOutlets       = 2 * gateway.MaxUplinks
)

func entryKey(k *[entryKeyLen]byte, seq uint64, last byte) []byte {
	binary.BigEndian.PutUint64(k[:], seq)
	k[8] = last
	return k[:]
}

// damaged is the error for a file that bbolt gave up on.
type damaged struct{ cause any }

func (d *damaged) Error() string { return fmt.Sprintf("file is damaged: %v", d.cause) }

// guard calls fn and turns a panic, also a fault in mapped memory, into an error: bbolt asserts where a file is
// damaged, and a page number that a flipped bit made up points outside of the file.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &damaged{r}
		}
	}()
	return fn()
}

// ensureBolt makes a bbolt file that does not exist: whole, and then under its name.
func ensureBolt(path string, open func(string, int, os.FileMode) (*os.File, error)) error {
	if st, err := os.Stat(path); err == nil && st.Size() > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	half := path + tmpSuffix
	if err := os.Remove(half); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := openBolt(half, bbolt.Options{}, open) // writes and syncs an empty file
	if err == nil {
		err = closeBolt(db)
	}
	if err == nil {
		err = os.Rename(half, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

// openBolt opens a bbolt file under guard. When opening panics, the file is closed all the same.
func openBolt(path string, o bbolt.Options, open func(string, int, os.FileMode) (*os.File, error)) (*boltFile, error) {
	var file *os.File
	var db *bbolt.DB
	o.FreelistType, o.NoStatistics, o.Timeout = bbolt.FreelistMapType, true, 2*time.Second
	if !o.ReadOnly || o.PreLoadFreelist {
		if err := freeListFits(path); err != nil {
			return nil, fmt.Errorf("open %s: %w", filepath.Base(path), err)
		}
	}
	if !strings.HasPrefix(filepath.Base(path), segPrefix) {
		if err := treeFits(path); err != nil {
			return nil, fmt.Errorf("open %s: %w", filepath.Base(path), err)
		}
	}
	if st, err := os.Stat(path); o.ReadOnly && err == nil && st.Size() == 0 { // bbolt would make it anew
		return nil, fmt.Errorf("open %s: %w", filepath.Base(path), &damaged{"it is empty"})
	}
	o.OpenFile = func(name string, flag int, perm os.FileMode) (*os.File, error) {
		f, err := open(name, flag, perm)
		file = f
		return f, err
	}
	err := guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &o)
		return err
	})
	var d *damaged
	if errors.As(err, &d) && file != nil {
		letGo(file)
	}
	var refused syscall.Errno // by the file system; all else bbolt says of what stands in the file
	if err != nil && file != nil && !errors.As(err, &d) && !errors.As(err, &refused) && !errors.Is(err, bolterrors.ErrTimeout) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		err = errors.Join(errBolt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	return &boltFile{DB: db, file: file}, nil
}

// isDamage reports whether an error is about what stands in a file, not about reading it.
func isDamage(err error) bool {
	var d *damaged
	var r *ErrRecord
	var b *ErrCorrupt
	return errors.As(err, &d) || errors.As(err, &r) || errors.As(err, &b) || errors.Is(err, errArchive) || errors.Is(err, errBolt)
}

// Damaged reports whether an error of OpenReadOnly or of what was opened is about what stands in a file, or does not stand
// there any more: Repair finds out what can be kept.
func Damaged(err error) bool { return isDamage(err) || errors.Is(err, errBase) }

// errBolt marks the error for a file that is no longer one of bbolt's.
var errBolt = errors.New("file is damaged")

// lanes are the orders in which entries wait: one for each priority, and one for the gateway's own entries, which go first.
const (
	lanes       = gateway.Priorities + 1
	controlLane = gateway.Priorities
)

// waitStat says what of a segment, or of the whole journal, waits for one uplink in one lane.
type waitStat struct {
	Last  uint64 `json:"last"`  // seq of the last body that was put in for the uplink
	Count uint64 `json:"count"` // bodies that wait
	Bytes uint64 `json:"bytes"` // their values
}

// segmentMeta is what the journal knows of a segment without reading it. It is guarded by Journal.mu.
type segmentMeta struct {
	First       uint64                   `json:"first"`
	Next        uint64                   `json:"next"` // seq behind the last one that counts; what stands behind it in the file does not
	BodyBytes   uint64                   `json:"body_bytes"`
	Live        uint64                   `json:"live"` // of them, what waits, is held or is dead
	RecordBytes uint64                   `json:"record_bytes"`
	Held        uint64                   `json:"held"`    // held bodies
	Damaged     bool                     `json:"damaged"` // something in it cannot be read: it is never deleted
	Waits       map[int]*[lanes]waitStat `json:"waits"`   // by uplink
}

// addBody counts a body that was put in. state says what became of it for an uplink; only what waits is counted as waiting.
// dead says that a cloud refused the message, so that its body is kept.
func (m *segmentMeta) addBody(seq uint64, h *header, size int, dead bool, state func(u int) gateway.State) {
	m.BodyBytes += uint64(size)
	if h.hold() {
		m.Live += uint64(size)
		m.Held++
		return
	}
	live := dead
	for u := range gateway.MaxUplinks {
		if !h.own.Has(u) {
			continue
		}
		if state(u) == gateway.Waiting {
			live = true
			w := m.of(u)
			w[h.lane()].Last = seq
			w[h.lane()].Count++
			w[h.lane()].Bytes += uint64(size)
		}
	}
	if live {
		m.Live += uint64(size)
	}
}

func (m *segmentMeta) of(u int) *[lanes]waitStat {
	w := m.Waits[u]
	if w == nil {
		w = new([lanes]waitStat)
		m.Waits[u] = w
	}
	return w
}

// drained reports whether nothing in the segment waits for any uplink.
func (m *segmentMeta) drained() bool {
	if m.Damaged {
		return false
	}
	for _, w := range m.Waits {
		for i := range w {
			if w[i].Count > 0 {
				return false
			}
		}
	}
	return true
}

func (m *segmentMeta) clone() segmentMeta {
	c := *m
	c.Waits = make(map[int]*[lanes]waitStat, len(m.Waits))
	for u, w := range m.Waits {
		copied := *w
		c.Waits[u] = &copied
	}
	return c
}

// segment is one bbolt file with a range of seqs.
type segment struct {
	segmentMeta
	path string

	db   *boltFile // guarded by handles.mu, like the next three
	last int64     // number of its last transaction, when this process wrote it
	refs int
	gone bool
}

// errGone is returned for a segment that was deleted since it was looked up: its records are in the archive now.
var errGone = errors.New("segment is gone")

// handles bounds the segments that are open, and mapped, at the same time.
type handles struct {
	open func(string, int, os.FileMode) (*os.File, error)
	max  int

	mu   sync.Mutex // guards the fields of segments named above, and idle
	idle []*segment // open and not in use, oldest first
}

// acquire returns the open file of s for reading, until release.
func (h *handles) acquire(s *segment) (*boltFile, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.gone {
		return nil, errGone
	}
	if s.db == nil {
		db, err := openBolt(s.path, bbolt.Options{ReadOnly: true}, h.open)
		if err != nil {
			return nil, err
		}
		db.last.Store(s.last)
		s.db = db
	}
	h.idle = slices.DeleteFunc(h.idle, func(o *segment) bool { return o == s })
	s.refs++
	return s.db, nil
}

func (h *handles) release(s *segment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.refs--; s.refs > 0 {
		return
	}
	if s.gone {
		s.shut()
		return
	}
	h.idle = append(h.idle, s)
	for len(h.idle) > h.max {
		h.idle[0].shut()
		h.idle = h.idle[1:]
	}
}

// drop closes s for good, at the latest when its last reader is done.
func (h *handles) drop(s *segment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.gone = true
	h.idle = slices.DeleteFunc(h.idle, func(o *segment) bool { return o == s })
	if s.refs == 0 && s.db != nil {
		s.shut()
	}
}

// close closes s, which nobody reads, until it is acquired again.
func (h *handles) close(s *segment) {
	h.drop(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	s.gone = false
}

// shut closes the file of s, which nobody reads. handles.mu is held.
func (s *segment) shut() {
	s.last = s.db.last.Load()
	closeBolt(s.db)
	s.db = nil
}

// view calls fn with the bucket of s in a read transaction of its own, under guard. fn keeps nothing of the pages.
func (h *handles) view(s *segment, fn func(b *bbolt.Bucket) error) error {
	db, err := h.acquire(s)
	if err != nil {
		return err
	}
	defer h.release(s)
	return db.read(func(tx *bbolt.Tx) error {
		b := tx.Bucket(entries)
		if b == nil {
			return nil // created and not yet written
		}
		return fn(b)
	})
}

// viewLen bounds the keys that one read transaction passes, so that no transaction is long.
const viewLen = 4096

// scan calls fn for the keys of s from the given one on, in order and over several read transactions, until fn returns
// an error; errStop ends it without one. Keys of seqs that do not count are left out, checkpoints are included.
func (h *handles) scan(s *segment, from []byte, next uint64, fn func(seq uint64, key, value []byte) error) error {
	at := slices.Clone(from)
	for {
		more := false
		err := h.view(s, func(b *bbolt.Bucket) error {
			c := b.Cursor()
			n := 0
			for k, v := c.Seek(at); k != nil; k, v = c.Next() {
				if len(k) != checkpointKeyLen && len(k) != entryKeyLen {
					return &damaged{"a key has an unexpected length"}
				}
				seq := binary.BigEndian.Uint64(k)
				if seq >= next && (len(k) == entryKeyLen || seq > next) {
					return nil
				}
				if n++; n > viewLen {
					at, more = append(at[:0], k...), true
					return nil
				}
				if err := fn(seq, k, v); err != nil {
					return err
				}
			}
			return nil
		})
		if err == errStop {
			return nil
		}
		if err != nil || !more {
			return err
		}
	}
}

// errStop ends an iteration early and is no error to its caller.
var errStop = errors.New("stop")

// createSegment makes an empty segment file whose first record will be first, durable with its folder. It has its name
// only when it is whole: a power cut never leaves half a file where a segment is expected.
func createSegment(dir string, first uint64, mapSize int, open func(string, int, os.FileMode) (*os.File, error)) (*segment, error) {
	path := filepath.Join(dir, segmentName(first))
	half := path + tmpSuffix
	for _, left := range []string{path, half} {
		if err := os.Remove(left); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	db, err := openBolt(half, bbolt.Options{InitialMmapSize: mapSize, NoFreelistSync: true}, open) // never opened for writing again
	if err == nil {
		err = db.update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket(entries)
			return err
		})
	}
	if err == nil {
		err = os.Rename(half, path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		closeBolt(db)
		os.Remove(half)
		os.Remove(path)
		return nil, err
	}
	s := newSegment(dir, first)
	s.db, s.refs = db, 1
	return s, nil
}

func newSegment(dir string, first uint64) *segment {
	return &segment{segmentMeta: segmentMeta{First: first, Next: first, Waits: make(map[int]*[lanes]waitStat)}, path: filepath.Join(dir, segmentName(first))}
}

func segmentName(first uint64) string { return fmt.Sprintf("%s%020d%s", segPrefix, first, segSuffix) }
func archiveName(first uint64) string { return fmt.Sprintf("%s%020d%s", arcPrefix, first, arcSuffix) }

// listNumbered returns the numbers in the names of the files of a folder that have the prefix and suffix, ascending.
func listNumbered(dir, prefix, suffix string) ([]uint64, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, f := range files {
		digits, ok := strings.CutPrefix(f.Name(), prefix)
		digits, ok2 := strings.CutSuffix(digits, suffix)
		if n, err := strconv.ParseUint(digits, 10, 64); ok && ok2 && err == nil && len(digits) == 20 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Exists reports whether the folder holds a journal. What waits in it and its archives are sealed, so that it is of no
// use without the at-rest keys that it was written under.
func Exists(dir string) (bool, error) {
	segments, err := listNumbered(dir, segPrefix, segSuffix)
	if err != nil || len(segments) > 0 {
		return len(segments) > 0, err
	}
	archives, err := listNumbered(filepath.Join(dir, archiveDir), arcPrefix, arcSuffix)
	return len(archives) > 0, err
}

// syncDir makes the creation, renaming and removal of files in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
