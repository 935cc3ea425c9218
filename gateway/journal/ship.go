package journal

import (
	"os"
	"path/filepath"
	"time"
)

func (j *Journal) archivePath(name string) string { return filepath.Join(j.opt.Dir, archiveDir, name) }

// ArchiveStat says what the archive holds and what became of it.
type ArchiveStat struct {
	Trimmed        uint64 `json:"trimmed"` // records below this seq are no longer here
	ArchiveRecords uint64 `json:"archive_records"`
	ArchiveBytes   int64  `json:"archive_bytes"`
	Shipped        int    `json:"shipped"`       // archives here that a collector has
	ShippedBytes   int64  `json:"shipped_bytes"` // of those at the front, which go when the records need their room
	StuckBytes     int64  `json:"stuck_bytes"`   // of records in segments that are full and not drained

	KeepDays float64 `json:"keep_days,omitempty"` // how old the oldest archive has to be to go without a collector
}

func (j *Journal) archiveStat() (s ArchiveStat) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.base != nil {
		s.Trimmed = j.base.Next
	}
	s.KeepDays = time.Duration(j.keepFor.Load()).Hours() / 24
	front := make(map[uint64]archiveMeta) // with a receipt, by first seq
	for _, a := range j.archives {
		s.ArchiveRecords += a.Next - a.First
		s.ArchiveBytes += a.Bytes
		if _, ok := j.receiptOver(&a); ok {
			s.Shipped++
			front[a.First] = a
		}
	}
	for at := s.Trimmed; front[at].Next > 0; at = front[at].Next {
		s.ShippedBytes += front[at].Bytes
	}
	for _, g := range j.segments {
		if g != j.write {
			s.StuckBytes += int64(g.RecordBytes)
		}
	}
	return s
}

// Receipts returns the size of the tree up to which every archive has a receipt, is trimmed or is lost, and how many archives
// have none.
func (j *Journal) Receipts() (size uint64, waiting int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := make(map[uint64]uint64) // of those with a receipt, by first seq
	for _, a := range j.archives {
		if _, ok := j.receiptOver(&a); ok {
			next[a.First] = a.Next
		} else {
			waiting++
		}
	}
	if j.base != nil {
		size = j.base.Next
	}
	for {
		if h := j.lost.at(size); h != nil {
			size = h.Next
		} else if n := next[size]; n > size {
			size = n
		} else {
			return size, waiting
		}
	}
}

// maxDays stands for a date too far away to matter.
const maxDays = 36500

// DaysToFull forecasts when records have no room left and nothing is taken in any more, at perDay records a day. It
// reckons with the bytes that a record takes in the archives that are here; with those of the segments, which are more,
// before there is one. answering says that a collector takes archives: then only what cannot be shipped fills the room,
// which are the records of segments in which something waits, and none when nothing does. Nor does a log fill up whose
// oldest records go, because they are old enough, before there is no room.
func (s *Stat) DaysToFull(perDay float64, answering bool) float64 {
	inSegments := s.Records - s.Trimmed - s.ArchiveRecords
	each := bytesPerRecord
	if inSegments > 0 {
		each = float64(s.RecordBytes-s.ArchiveBytes) / float64(inSegments)
	}
	o := Options{AuditMaxSize: s.AuditMaxSize}
	left := s.AuditMaxSize - o.auditReserve() - s.RecordBytes
	switch {
	case left <= 0 && !answering:
		return 0
	case perDay <= 0 || answering && s.StuckBytes == 0:
		return maxDays
	case answering:
		left += s.ShippedBytes
	case s.ArchiveRecords > 0:
		each = float64(s.ArchiveBytes) / float64(s.ArchiveRecords)
	}
	if holds := float64(s.AuditMaxSize-o.auditReserve()) / each / perDay; !answering && s.KeepDays > 0 && holds > 1.1*s.KeepDays {
		return maxDays
	}
	return min(maxDays, max(0, float64(left)/each/perDay))
}

// bytesPerRecord is reckoned with where there is no record yet to measure.
const bytesPerRecord = 200.0

// writeFile makes a file durable, whole or not at all.
func (j *Journal) writeFile(path string, data []byte) error {
	f, err := j.opt.openFile(path+tmpSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+tmpSuffix, path)
	}
	if err != nil {
		os.Remove(path + tmpSuffix)
		return err
	}
	return syncDir(filepath.Dir(path))
}
