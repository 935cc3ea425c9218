package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// receiptSuffix ends the name of the file beside an archive that holds a collector's receipt for it.
const receiptSuffix = ".receipt"

// maxReceipt bounds a receipt that is read from a file.
const maxReceipt = 1 << 12

func receiptName(first uint64) string {
	return fmt.Sprintf("%s%020d%s", arcPrefix, first, receiptSuffix)
}

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
		if j.receipts[a.First] {
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
		if j.receipts[a.First] {
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

// Unshipped returns the oldest archive that no collector has yet. ok is false when there is none.
func (j *Journal) Unshipped() (a gateway.Archive, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.archives {
		if m := &j.archives[i]; !j.receipts[m.First] && (!ok || m.First < a.First) {
			a, ok = gateway.Archive{First: m.First, Next: m.Next, Bytes: m.Bytes}, true
		}
	}
	return a, ok
}

// OpenArchive opens the file of an archive for reading, as a collector gets it. The caller closes it.
func (j *Journal) OpenArchive(a gateway.Archive) (io.ReadSeekCloser, error) {
	f, err := os.Open(j.archivePath(archiveName(a.First)))
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	return f, nil
}

// Shipped takes a collector's receipt for an archive and keeps it beside the file. It is durable when Shipped returns.
// The receipt is checked against the file as it is on the disk; one that is not for it is an error and changes nothing.
func (j *Journal) Shipped(a gateway.Archive, receipt []byte) error {
	if j.readOnly {
		return ErrReadOnly
	}
	if _, _, err := j.checkReceipt(a, receipt); err != nil {
		return fmt.Errorf("keep receipt: %w", err)
	}
	j.shipping.Lock()
	defer j.shipping.Unlock()
	j.mu.Lock()
	here := slices.ContainsFunc(j.archives, func(m archiveMeta) bool { return m.First == a.First && m.Next == a.Next })
	j.mu.Unlock()
	if !here {
		return fmt.Errorf("keep receipt: %w", os.ErrNotExist)
	}
	if err := j.writeFile(j.archivePath(receiptName(a.First)), receipt); err != nil {
		return fmt.Errorf("keep receipt: %w", err)
	}
	j.mu.Lock()
	j.receipts[a.First] = true
	j.mu.Unlock()
	j.tidySoon()
	return nil
}

// errNoCollector says that nobody told the journal how to check a receipt.
var errNoCollector = errors.New("no collector is configured")

// checkReceipt checks a receipt against an archive's file and returns the file's digest and who signed.
func (j *Journal) checkReceipt(a gateway.Archive, receipt []byte) (digest [32]byte, collector string, err error) {
	if j.opt.Receipt == nil {
		return digest, "", errNoCollector
	}
	if digest, err = j.digest(&a); err != nil {
		return digest, "", err
	}
	collector, err = j.opt.Receipt(a, digest, receipt)
	return digest, collector, err
}

// digest returns the SHA-256 of an archive's file and sets its size.
func (j *Journal) digest(a *gateway.Archive) (digest [32]byte, err error) {
	f, err := j.OpenArchive(*a)
	if err != nil {
		return digest, err
	}
	defer f.Close()
	h := sha256.New()
	if a.Bytes, err = io.Copy(h, f); err != nil {
		return digest, err
	}
	return [32]byte(h.Sum(nil)), nil
}

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

// readReceipt returns the receipt kept for an archive.
func (j *Journal) readReceipt(first uint64) ([]byte, error) {
	f, err := os.Open(j.archivePath(receiptName(first)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxReceipt+1))
}

// findReceipts lists the receipts of the archives that are here, and removes others and what a crash left half written.
func (j *Journal) findReceipts() error {
	dir := j.archivePath("")
	for _, suffix := range []string{receiptSuffix, receiptSuffix + tmpSuffix} {
		firsts, err := listNumbered(dir, arcPrefix, suffix)
		if err != nil {
			return err
		}
		for _, first := range firsts {
			if suffix == receiptSuffix && slices.ContainsFunc(j.archives, func(m archiveMeta) bool { return m.First == first }) {
				j.receipts[first] = true
			} else if !j.readOnly {
				if err := os.Remove(j.archivePath(fmt.Sprintf("%s%020d%s", arcPrefix, first, suffix))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
