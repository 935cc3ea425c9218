package journal

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
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
	var w Waiting
	j.mu.Lock()
	for _, lane := range &j.waiting[uplink] {
		w.Messages += lane.Count
		w.Bytes += lane.Bytes
	}
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

// Listed is one message that waits, is held or is dead, without its content.
type Listed struct {
	Seq     uint64    `json:"seq"`
	ID      string    `json:"id,omitempty"` // empty for an epoch key or checkpoint on its way
	Time    time.Time `json:"time"`
	Grade   string    `json:"grade"`
	Source  string    `json:"source,omitempty"`
	Uplinks []string  `json:"uplinks"`
	Size    int       `json:"size"` // bytes of topic and payload, or of the sealed hold
}

// oldest returns when the first message that waits for the uplink was committed, by its record. ok is false when none waits.
func (j *Journal) oldest(uplink int) (at int64, ok bool) {
	j.mu.Lock()
	from, segments := j.oldestAt[uplink], j.segments
	j.mu.Unlock()
	var found uint64
	for _, s := range segments {
		next, some := j.hasWaiting(s, uplink)
		if !some || next <= from {
			continue
		}
		var key [entryKeyLen]byte
		err := j.files.scan(s, entryKey(&key, max(from, s.First), recordByte), next, func(seq uint64, k, v []byte) error {
			switch {
			case len(k) != entryKeyLen:
			case k[8] == recordByte:
				if len(v) >= hashSize+11 {
					at = int64(binary.BigEndian.Uint64(v[hashSize+3:]))
				}
			default:
				if h, good := parseHeader(v); good && !h.hold() && h.own.Has(uplink) && j.waits(uplink, seq) {
					found = seq
					return errStop
				}
			}
			return nil
		})
		if err != nil || found > 0 {
			break
		}
	}
	if found > 0 {
		j.mu.Lock()
		j.oldestAt[uplink] = found
		j.mu.Unlock()
	}
	return at, found > 0
}

// OpenWaiting opens every body that waits for any uplink, and forgets it: whether all of them can be. It returns the first
// error, *ErrCorrupt for a body that cannot be opened, or the context's.
func (j *Journal) OpenWaiting(ctx context.Context) error {
	j.mu.Lock()
	segments := j.segments
	j.mu.Unlock()
	for _, s := range segments {
		j.mu.Lock()
		next, drained := s.Next, s.drained()
		j.mu.Unlock()
		if drained {
			continue
		}
		var key [entryKeyLen]byte
		err := j.files.scan(s, entryKey(&key, s.First, recordByte), next, func(seq uint64, k, v []byte) error {
			if len(k) != entryKeyLen || k[8] == recordByte {
				return ctx.Err()
			}
			h, ok := parseHeader(v)
			if ok && (h.hold() || !j.waitsAnywhere(seq)) {
				return nil
			}
			if _, err := j.keys.open(v, k[8]-1); err != nil {
				return &ErrCorrupt{seq, int(k[8] - 1)}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return ctx.Err()
}

// waitsAnywhere reports whether entry seq waits for any uplink.
func (j *Journal) waitsAnywhere(seq uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for u := range gateway.MaxUplinks {
		if j.led.states.get(u, seq) == gateway.Waiting {
			return true
		}
	}
	return false
}

// hasWaiting reports whether something in the segment waits for the uplink, and where what counts in it ends.
func (j *Journal) hasWaiting(s *segment, uplink int) (next uint64, some bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w := s.Waits[uplink]; w != nil {
		for _, lane := range w {
			some = some || lane.Count > 0
		}
	}
	return s.Next, some
}

// List returns up to limit messages that wait for any uplink, oldest first.
func (j *Journal) List(limit int) ([]Listed, error) {
	l := lister{j: j, limit: limit, state: gateway.Waiting}
	return l.segments(func(s *segment) bool { return !s.drained() })
}

// ListDead returns up to limit messages that an uplink refused for good, oldest first.
func (j *Journal) ListDead(limit int) ([]Listed, error) {
	l := lister{j: j, limit: limit, state: gateway.Dead}
	return l.parkedToo(func(s *segment) bool {
		for seq := range j.led.dead {
			if s.First <= seq && seq < s.Next {
				return true
			}
		}
		return false
	})
}

// ListHeld returns up to limit held messages, oldest first.
func (j *Journal) ListHeld(limit int) ([]Listed, error) {
	l := lister{j: j, limit: limit, state: gateway.Held}
	return l.parkedToo(func(s *segment) bool { return s.Held > 0 })
}

// parkedToo visits the segments of which some is true, and then parked.bolt: what is moved there meanwhile is seen twice.
func (l *lister) parkedToo(some func(s *segment) bool) ([]Listed, error) {
	found, err := l.segments(some)
	if err != nil {
		return found, err
	}
	l.out = nil
	err = l.j.eachParked(func(k, v []byte) error { return l.visit(binary.BigEndian.Uint64(k), k, v) })
	if err != nil && err != errStop {
		return found, err
	}
	all := append(found, l.out...)
	slices.SortStableFunc(all, func(a, b Listed) int { return cmp.Compare(a.Seq, b.Seq) })
	all = slices.CompactFunc(all, func(a, b Listed) bool { return a.Seq == b.Seq && slices.Equal(a.Uplinks, b.Uplinks) })
	return all[:min(len(all), l.limit)], nil
}

// segments visits the segments of which some is true, called with j.mu held.
func (l *lister) segments(some func(s *segment) bool) ([]Listed, error) {
	j := l.j
	var list []*segment
	var ends []uint64
	j.mu.Lock()
	for _, s := range j.segments {
		if some(s) {
			list, ends = append(list, s), append(ends, s.Next)
		}
	}
	j.mu.Unlock()
	for i, s := range list {
		if len(l.out) >= l.limit {
			break
		}
		var key [entryKeyLen]byte
		if err := j.files.scan(s, entryKey(&key, s.First, recordByte), ends[i], l.visit); err != nil && err != errGone {
			return l.out, err
		}
	}
	return l.out, nil
}

// lister gathers the entries in one state from keys in order: Waiting, Held or Dead.
type lister struct {
	j      *Journal
	limit  int
	state  gateway.State
	out    []Listed
	record gateway.Record
}

// inState returns those of the uplinks of a body for which it is in the state that is listed.
func (l *lister) inState(seq uint64, own gateway.UplinkSet) (set gateway.UplinkSet) {
	switch l.state {
	case gateway.Held:
		return own
	case gateway.Dead:
		return own & l.j.refused(seq)
	}
	for u := range gateway.MaxUplinks {
		if own.Has(u) && l.j.waits(u, seq) {
			set |= 1 << u
		}
	}
	return set
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
	if h.hold() != (l.state == gateway.Held) {
		return nil
	}
	in := l.inState(seq, h.own)
	var uplinks []string
	for u := range gateway.MaxUplinks {
		if in.Has(u) {
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
