package journal

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// Waiting says what waits for one uplink: bodies and their bytes on disk.
type Waiting struct {
	Messages uint64    `json:"messages"`
	Bytes    uint64    `json:"bytes"`
	Oldest   time.Time `json:"oldest,omitzero"` // when the oldest of them was decided
}

// Stat describes the journal as of the last commit. Sizes are in bytes.
type Stat struct {
	Totals       gateway.Totals     `json:"totals"`
	Records      uint64             `json:"records"`
	Uplinks      map[string]Waiting `json:"uplinks"`
	Segments     int                `json:"segments"`
	Archives     int                `json:"archives"`
	BodyBytes    int64              `json:"body_bytes"` // counted against MaxSize
	MaxSize      int64              `json:"max_size"`
	RecordBytes  int64              `json:"record_bytes"` // counted against AuditMaxSize
	AuditMaxSize int64              `json:"audit_max_size"`
	DiskBytes    int64              `json:"disk_bytes"` // of all files, as allocated lengths
	Checkpoint   Checkpoint         `json:"checkpoint"`
	Full         bool               `json:"full"`
	ArchiveStat
}

// Stat returns the journal's figures. MaxSize and AuditMaxSize are zero when it is open for reading only.
func (j *Journal) Stat() Stat {
	j.mu.Lock()
	s := Stat{Totals: j.led.totals, Records: j.led.tree.size, Segments: len(j.segments), Archives: len(j.archives), Checkpoint: j.checkpoint}
	j.mu.Unlock()
	s.BodyBytes, s.RecordBytes = j.bodyBytes.Load(), j.recordBytes.Load()
	if !j.readOnly {
		s.MaxSize, s.AuditMaxSize, s.Full = j.opt.MaxSize, j.opt.AuditMaxSize, j.Full()
	}
	s.DiskBytes = j.diskBytes()
	s.ArchiveStat = j.archiveStat()
	s.Uplinks = make(map[string]Waiting)
	j.names.mu.RLock()
	uplinks := append([]string(nil), j.names.list[kindUplink]...)
	j.names.mu.RUnlock()
	for u, name := range uplinks {
		s.Uplinks[name] = j.Waiting(u)
	}
	return s
}

// Waiting returns what waits for an uplink.
func (j *Journal) Waiting(uplink int) Waiting {
	j.mu.Lock()
	w := j.waiting[uplink]
	j.mu.Unlock()
	if w.Messages > 0 {
		if at, ok := j.oldest(uplink); ok {
			w.Oldest = time.UnixMilli(at).UTC()
		}
	}
	return w
}

func (j *Journal) diskBytes() (sum int64) {
	for _, dir := range []string{j.opt.Dir, filepath.Join(j.opt.Dir, archiveDir)} {
		files, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, f := range files {
			if st, err := f.Info(); err == nil && st.Mode().IsRegular() {
				sum += st.Size()
			}
		}
	}
	return sum
}

// Listed is one message that waits or is held, without its content.
type Listed struct {
	Seq     uint64    `json:"seq"`
	ID      string    `json:"id,omitempty"` // empty for an epoch key or checkpoint on its way
	Time    time.Time `json:"time"`
	Grade   string    `json:"grade"`
	Source  string    `json:"source,omitempty"`
	Uplinks []string  `json:"uplinks"`
	Size    int       `json:"size"` // bytes of topic and payload, or of the sealed hold
}

// List returns up to limit messages that wait for any uplink, oldest first.
func (j *Journal) List(limit int) ([]Listed, error) {
	j.mu.Lock()
	cursors, segments := j.led.cursors, j.segments
	ends := make([]uint64, len(segments))
	drained := make([]bool, len(segments))
	for i, s := range segments {
		ends[i], drained[i] = s.Next, s.drained(&cursors)
	}
	j.mu.Unlock()
	l := lister{j: j, limit: limit, cursors: &cursors}
	for i, s := range segments {
		if drained[i] {
			continue
		}
		var key [entryKeyLen]byte
		err := j.files.scan(s, entryKey(&key, s.First, recordByte), ends[i], l.visit)
		if err != nil && err != errGone || len(l.out) >= limit {
			return l.out, err
		}
	}
	return l.out, nil
}

// ListHeld returns up to limit held messages, oldest first.
func (j *Journal) ListHeld(limit int) ([]Listed, error) {
	l := lister{j: j, limit: limit}
	err := j.eachParked(func(k, v []byte) error { return l.visit(binary.BigEndian.Uint64(k), k, v) })
	if err == errStop {
		return l.out, nil
	}
	if err != nil {
		return l.out, err
	}
	j.mu.Lock()
	segments := j.segments
	ends, held := make([]uint64, len(segments)), make([]bool, len(segments))
	for i, s := range segments {
		ends[i], held[i] = s.Next, s.Held > 0
	}
	j.mu.Unlock()
	for i, s := range segments {
		if !held[i] || len(l.out) >= limit {
			continue
		}
		var key [entryKeyLen]byte
		if err := j.files.scan(s, entryKey(&key, s.First, recordByte), ends[i], l.visit); err != nil && err != errGone {
			return l.out, err
		}
	}
	return l.out, nil
}

// lister gathers entries from keys in order. With cursors it looks for what waits, without for what is held.
type lister struct {
	j       *Journal
	limit   int
	cursors *[gateway.MaxUplinks]uint64
	out     []Listed
	record  gateway.Record
}

func (l *lister) visit(seq uint64, key, value []byte) error {
	if len(key) != entryKeyLen {
		return nil
	}
	if key[8] == recordByte {
		if len(value) < hashSize || gateway.DecodeRecord(value[hashSize:], &l.record) != nil {
			return &ErrRecord{seq, "is malformed"}
		}
		return nil
	}
	h, ok := parseHeader(value)
	if !ok {
		return &ErrCorrupt{seq, int(key[8] - 1)}
	}
	if h.hold() != (l.cursors == nil) {
		return nil
	}
	var uplinks []string
	for u := range gateway.MaxUplinks {
		if h.own.Has(u) && (l.cursors == nil || l.cursors[u] < seq) {
			uplinks = append(uplinks, l.j.names.name(kindUplink, u))
		}
	}
	if len(uplinks) == 0 {
		return nil
	}
	e := Listed{Seq: seq, Time: l.record.Time, Grade: h.grade.String(), Uplinks: uplinks, Size: len(value) - bodyOverhead}
	if l.record.Kind == gateway.DecisionRecord {
		e.ID, e.Source = l.record.ID.String(), l.j.names.name(kindSource, int(h.source))
	}
	if l.out = append(l.out, e); len(l.out) >= l.limit {
		return errStop
	}
	return nil
}
