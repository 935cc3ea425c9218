package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/sluice-edge/sluice/gateway"
)

// ErrRecord reports a record that is missing or does not have the hash that it was committed with.
type ErrRecord struct {
	Seq uint64
	Why string
}

func (e *ErrRecord) Error() string { return fmt.Sprintf("record %d: %s", e.Seq, e.Why) }

// batchLen is how many records are copied out of one read transaction.
const batchLen = 256

// Records calls fn for every record from the given seq on, in order, from archive and segments alike, and returns the
// first error, its own or fn's: *ErrTrimmed when the record is no longer here. The record is fn's only until it returns.
// Records committed meanwhile are included.
func (j *Journal) Records(from uint64, fn func(seq uint64, record []byte) error) error {
	for at := from; ; {
		a, s, next := j.container(at)
		var err error
		switch {
		case a != nil:
			err = archiveRecords(a, j.keys, &at, fn)
		case s != nil:
			err = j.segmentRecords(s, next, &at, fn)
		default:
			if next := j.Trimmed(); at < next {
				return &ErrTrimmed{next}
			}
			if h := j.holeAt(at); h != nil {
				at = h.Next
				continue
			}
			if end := j.end(); at < end {
				return &ErrRecord{at, "is missing"}
			}
			return nil
		}
		if err == errStop {
			return nil
		}
		if err != nil && !errors.Is(err, errGone) && !j.trimmedMeanwhile(at, err) {
			return err
		}
		if err == nil && at < next {
			return &ErrRecord{at, "is missing"}
		}
	}
}

// container returns where record at stands, archive or segment, and the seq behind the last one there.
func (j *Journal) container(at uint64) (*archiveMeta, *segment, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		if s.First <= at && at < s.Next {
			return nil, s, s.Next
		}
	}
	for i := range j.archives {
		if a := j.archives[i]; a.First <= at && at < a.Next {
			return &a, nil, a.Next
		}
	}
	return nil, nil, 0
}

// holeAt returns the hole that seq is in, nil when it is in none.
func (j *Journal) holeAt(seq uint64) *hole {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lost.at(seq)
}

// end returns the seq behind the last record of all containers, or that is lost.
func (j *Journal) end() (end uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.base != nil {
		end = j.base.Next
	}
	for _, s := range j.segments {
		end = max(end, s.Next)
	}
	for _, a := range j.archives {
		end = max(end, a.Next)
	}
	for _, h := range j.lost.Holes {
		end = max(end, h.Next)
	}
	return end
}

// segmentRecords hands out the records of a segment from *at on and moves *at behind them. fn runs outside of read
// transactions.
func (j *Journal) segmentRecords(s *segment, next uint64, at *uint64, fn func(seq uint64, record []byte) error) error {
	var buf []byte
	var ends []int
	for *at < next {
		var key [entryKeyLen]byte
		buf, ends = buf[:0], ends[:0]
		want := *at
		err := j.files.scan(s, entryKey(&key, *at, recordByte), next, func(seq uint64, k, v []byte) error {
			if len(k) != entryKeyLen || k[8] != recordByte {
				return nil
			}
			if seq != want || len(v) < hashSize {
				return &ErrRecord{want, "is missing"}
			}
			want++
			buf = append(buf, v...)
			ends = append(ends, len(buf))
			if len(ends) == batchLen {
				return errStop
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(ends) == 0 {
			return &ErrRecord{*at, "is missing"}
		}
		start := 0
		for _, end := range ends {
			hash, record := buf[start:start+hashSize], buf[start+hashSize:end]
			if h := leafHash(record); !bytes.Equal(hash, h[:]) {
				return &ErrRecord{*at, "does not have its hash"}
			}
			if err := fn(*at, record); err != nil {
				return err
			}
			*at++
			start = end
		}
	}
	return nil
}

// between calls fn for every record from first to last; of those that are trimmed, for every entry that was not settled
// where the records here begin, with as much of its record as a settlement needs.
func (j *Journal) between(first, last uint64, fn func(seq uint64, r *gateway.Record) error) error {
	if b := j.trimmedBase(); b != nil && first < b.Next {
		if err := b.open.each(first, last, fn); err != nil || last < b.Next {
			return err
		}
		first = b.Next
	}
	var r gateway.Record
	return j.Records(first, func(seq uint64, record []byte) error {
		if seq > last {
			return errStop
		}
		if err := gateway.DecodeRecord(record, &r); err != nil {
			return &ErrRecord{seq, "is malformed"}
		}
		if err := fn(seq, &r); err != nil {
			return err
		}
		if seq == last {
			return errStop
		}
		return nil
	})
}

// lastSeq returns the seq behind the last record in the file of s.
func (h *handles) lastSeq(s *segment) (next uint64, err error) {
	next = s.First
	if st, err := os.Stat(s.path); err == nil && st.Size() == 0 { // made, and nothing written yet
		return next, nil
	}
	err = guardView(h, s, func(k []byte) error {
		if len(k) != entryKeyLen {
			return nil
		}
		next = binary.BigEndian.Uint64(k) + 1
		return errStop
	})
	return next, err
}
