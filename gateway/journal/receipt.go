package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// receiptSuffix ends the name of the file that holds a collector's receipt for the archive that began at a seq.
const receiptSuffix = ".receipt"

// maxReceipt bounds a receipt that is read from a file.
const maxReceipt = 1 << 12

func receiptName(first uint64) string {
	return fmt.Sprintf("%s%020d%s", arcPrefix, first, receiptSuffix)
}

// receiptOver returns the first seq of the receipt that covers an archive: the one for it, or for a larger one of which it
// is what was left. j.mu is held.
func (j *Journal) receiptOver(a *archiveMeta) (first uint64, ok bool) {
	if j.receipts[a.First] >= a.Next {
		return a.First, true
	}
	for first, next := range j.receipts {
		if first <= a.First && a.Next <= next {
			return first, true
		}
	}
	return 0, false
}

// Unshipped returns the oldest archive that no collector has yet. ok is false when there is none. One that was found to be
// damaged is passed over until it is repaired, with the next start.
func (j *Journal) Unshipped() (a gateway.Archive, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range j.archives {
		m := &j.archives[i]
		if ok && m.First > a.First || slices.Contains(j.unreadable, m.First) {
			continue
		}
		if _, shipped := j.receiptOver(m); !shipped {
			a, ok = gateway.Archive{First: m.First, Next: m.Next, Bytes: m.Bytes}, true
		}
	}
	return a, ok
}

// metaOf returns what is known of an archive that is here.
func (j *Journal) metaOf(a gateway.Archive) (archiveMeta, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.IndexFunc(j.archives, func(m archiveMeta) bool { return m.First == a.First && m.Next == a.Next })
	if i < 0 {
		return archiveMeta{}, false
	}
	return j.archives[i], true
}

// Shipment reads the file of an archive through and opens it for a collector. The caller closes it. A damaged file is an
// error, and is not returned by Unshipped again: a collector is told what is in a file only after that was seen to be so.
func (j *Journal) Shipment(a gateway.Archive) (s gateway.Shipment, file io.ReadCloser, err error) {
	m, ok := j.metaOf(a)
	if !ok {
		return s, nil, fmt.Errorf("open archive: %w", os.ErrNotExist)
	}
	if s, err = j.inspect(&m); err != nil {
		if isDamage(err) {
			j.opt.Log.Error("archive is damaged and is not shipped", slog.Any("err", err))
			j.suspect()
			j.mu.Lock()
			j.unreadable = append(j.unreadable, m.First)
			j.mu.Unlock()
		}
		return s, nil, fmt.Errorf("open archive: %w", err)
	}
	f, err := os.Open(m.path)
	if err != nil {
		return s, nil, fmt.Errorf("open archive: %w", err)
	}
	return s, f, nil
}

// Shipped takes a collector's receipt for an archive, or for a larger one that it was a part of, and keeps it. It is
// durable when Shipped returns. One that does not hold is an error and changes nothing: package doc, "Trimming".
func (j *Journal) Shipped(a gateway.Archive, receipt []byte) error {
	if j.readOnly {
		return ErrReadOnly
	}
	m, ok := j.metaOf(a)
	if !ok {
		return fmt.Errorf("keep receipt: %w", os.ErrNotExist)
	}
	r, err := j.checkReceipt(&m, receipt)
	if err != nil {
		return fmt.Errorf("keep receipt: %w", err)
	}
	j.shipping.Lock()
	defer j.shipping.Unlock()
	if _, ok := j.metaOf(a); !ok {
		return fmt.Errorf("keep receipt: %w", os.ErrNotExist)
	}
	if err := j.writeFile(j.archivePath(receiptName(r.First)), receipt); err != nil {
		return fmt.Errorf("keep receipt: %w", err)
	}
	j.mu.Lock()
	j.receipts[r.First] = r.Next
	j.mu.Unlock()
	j.tidySoon()
	return nil
}

var (
	// errNoCollector says that nobody told the journal how to check a receipt.
	errNoCollector = errors.New("no collector is configured")
	errOtherFile   = errors.New("receipt is for another file")
	errOtherRecord = errors.New("receipt is for other records")
)

// checkReceipt returns a receipt when it proves that a collector has the records of an archive: it is signed for the file
// as it is on the disk, or for the root that the tree has over its range, and then the file is readable.
func (j *Journal) checkReceipt(m *archiveMeta, text []byte) (r gateway.Receipt, err error) {
	if j.opt.Receipt == nil {
		return r, errNoCollector
	}
	if r, err = j.opt.Receipt(text); err != nil {
		return r, err
	}
	if r.First > m.First || r.Next < m.Next {
		return r, errOtherRecord
	}
	stated, own := r.Root != [32]byte{}, [32]byte{}
	if stated {
		own = j.ownRoot(r.First, r.Next)
	}
	known := own != [32]byte{}
	if stated && known && own != r.Root {
		return r, errOtherRecord
	}
	file := gateway.Archive{First: m.First, Next: m.Next}
	digest, err := j.digest(&file)
	switch {
	case err != nil || file == r.Archive && digest == r.SHA256:
		return r, err
	case stated && known:
		_, err = j.inspect(m)
		return r, err
	}
	return r, errOtherFile
}

// digest returns the SHA-256 of an archive's file and sets its size.
func (j *Journal) digest(a *gateway.Archive) (digest [32]byte, err error) {
	f, err := os.Open(j.archivePath(archiveName(a.First)))
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

// readReceipt returns the receipt that is kept from a seq on.
func (j *Journal) readReceipt(first uint64) ([]byte, error) {
	f, err := os.Open(j.archivePath(receiptName(first)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxReceipt+1))
}

func (j *Journal) forgetReceipt(first uint64) error {
	j.shipping.Lock()
	defer j.shipping.Unlock()
	j.mu.Lock()
	delete(j.receipts, first)
	j.mu.Unlock()
	if err := os.Remove(j.archivePath(receiptName(first))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// findReceipts lists the receipts that cover an archive that is here, and removes others and what a crash left half written.
func (j *Journal) findReceipts() error {
	dir := j.archivePath("")
	for _, suffix := range []string{receiptSuffix, receiptSuffix + tmpSuffix} {
		firsts, err := listNumbered(dir, arcPrefix, suffix)
		if err != nil {
			return err
		}
		for _, first := range firsts {
			next := uint64(0)
			if suffix == receiptSuffix {
				next = j.receiptNext(first)
			}
			if slices.ContainsFunc(j.archives, func(m archiveMeta) bool { return first <= m.First && m.Next <= next }) {
				j.receipts[first] = next
			} else if !j.readOnly {
				if err := os.Remove(j.archivePath(fmt.Sprintf("%s%020d%s", arcPrefix, first, suffix))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// receiptNext returns where the range of a receipt ends: as it says itself or, where nobody can check it, the widest that
// an archive from there on had.
func (j *Journal) receiptNext(first uint64) (next uint64) {
	if j.opt.Receipt != nil {
		if text, err := j.readReceipt(first); err == nil {
			if r, err := j.opt.Receipt(text); err == nil && r.First == first {
				return r.Next
			}
		}
	}
	for i := range j.archives {
		if j.archives[i].First == first {
			next = j.archives[i].Next
		}
	}
	j.viewRanges(func(b *bbolt.Bucket) {
		c := b.Cursor()
		for k, v := c.Seek(rangeKey(first, 0)); k != nil; k, v = c.Next() {
			if r, ok := parseRange(k, v); ok && r.First == first {
				next = max(next, r.Next)
			} else if ok {
				return
			}
		}
	})
	return next
}
