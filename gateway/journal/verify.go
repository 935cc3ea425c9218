package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// hasKey returns a *KeyError when the first bodies of a segment are all under one key that is not given. A segment is
// written under one key, so that another number in one of several bodies is damage.
func (j *Journal) hasKey(s *segment) error {
	var unknown, known int
	var id uint32
	var key [entryKeyLen]byte
	err := j.files.scan(s, entryKey(&key, s.First, recordByte), s.Next, func(_ uint64, k, v []byte) error {
		if len(k) != entryKeyLen || k[8] == recordByte {
			return nil
		}
		if j.keys.missing(v, k[8]-1) && (unknown == 0 || keyOf(v) == id) {
			unknown++
			id = keyOf(v)
		} else {
			known++
		}
		if known > 0 || unknown == 4 {
			return errStop
		}
		return nil
	})
	if err == nil && unknown > 0 && known == 0 {
		return &KeyError{id, segmentName(s.First)}
	}
	return err
}

// spoiltMeta reports whether a bbolt file has a meta page that is not valid. bbolt then reads the one before, without
// the last commit, and says nothing.
func spoiltMeta(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, 2*maxPage)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return true, nil
	}
	m := image{b: b[:n]}
	m.page = m.pageSize()
	for i := range 2 {
		if _, ok := m.meta(i * m.page); !ok {
			return true, nil
		}
	}
	return false, nil
}

// openable returns the seq behind the last record of a segment that counts. A file whose meta page is damaged, or that
// looks empty and is not, is damage: bbolt would read it without its last commit, or as a new one.
func (j *Journal) openable(s *segment, limit uint64) (next uint64, err error) {
	if next, err = j.files.lastSeq(s); err != nil {
		return 0, err
	}
	s.Next = min(next, limit)
	spoilt, err := spoiltMeta(s.path)
	if err != nil {
		return 0, err
	}
	if spoilt || s.Next == s.First {
		if hidden, err := j.hidden(s, limit); err != nil {
			return 0, err
		} else if hidden {
			return 0, &damaged{"entries stand behind the end of the file's tree"}
		}
	}
	if s.Next > s.First {
		err = j.hasKey(s)
	}
	next, s.Next = s.Next, s.First
	return next, err
}

// hidden reports whether the pages of a segment hold records that count and that its tree does not reach.
func (j *Journal) hidden(s *segment, limit uint64) (bool, error) {
	m, err := readImage(s.path)
	if err != nil {
		return false, err
	}
	if len(m.metas) == 2 && m.metas[0].tx <= firstCommit && s.Next == s.First {
		return false, nil // nothing was ever committed to it
	}
	all := m.salvage(j.keys, s.First, limit).entries
	return len(all) > 0 && all[len(all)-1].seq >= s.Next, nil
}

// firstCommit is the number of the transaction that makes the bucket of a new segment.
const firstCommit = 2

// bareMessage is a message without some of the bodies that waited.
type bareMessage struct {
	seq      uint64
	decision decision
	missing  gateway.UplinkSet
}

// verifySegment reads every entry of a segment and returns the first thing that is not as it was committed. Messages
// without a body that waited are listed: when nobody needs it any more, it may be gone. seen is told of every record.
func (j *Journal) verifySegment(s *segment, seen func(seq uint64, r *gateway.Record)) (bare []bareMessage, err error) {
	stored, err := j.files.trees(s)
	if err != nil {
		return nil, err
	}
	texts := make(map[uint64][hashSize]byte, len(stored))
	for _, t := range stored {
		texts[t.size] = t.text
	}
	v := verifier{j: j, next: s.First, seen: seen}
	err = j.files.scan(s, nil, s.Next, func(seq uint64, k, value []byte) error {
		if len(k) == checkpointKeyLen {
			if want, ok := texts[seq]; ok && want != ([hashSize]byte{}) && want != sha256.Sum256(value) {
				return &damaged{"a checkpoint is not the one that was signed"}
			}
			return nil
		}
		if k[8] == recordByte {
			return v.record(seq, value)
		}
		return v.body(seq, k[8]-1, value)
	})
	if err == nil {
		err = v.end()
	}
	if err == nil && v.next != s.Next {
		err = &ErrRecord{v.next, "is missing"}
	}
	if err == nil {
		err = j.files.view(s, reachable)
	}
	return v.bare, err
}

// reachable returns an error of damage when a key does not lead to its entry, although going through all of them meets it: in
// a page above it a key is damaged. What reads from some record on would not find it.
func reachable(b *bbolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if got := b.Get(k); got == nil || len(got) != len(v) {
			return &damaged{"a key does not lead to its entry"}
		}
		return nil
	})
}

// verifier follows the entries of one segment.
type verifier struct {
	j            *Journal
	next         uint64
	have         bool
	rec          gateway.Record
	waits, holds gateway.UplinkSet
	bare         []bareMessage
	seen         func(seq uint64, r *gateway.Record) // may be nil
}

func (v *verifier) record(seq uint64, value []byte) error {
	if err := v.end(); err != nil {
		return err
	}
	if seq != v.next || len(value) < hashSize {
		return &ErrRecord{v.next, "is missing"}
	}
	if h := leafHash(value[hashSize:]); !bytes.Equal(h[:], value[:hashSize]) {
		return &ErrRecord{seq, "does not have its hash"}
	}
	if gateway.DecodeRecord(value[hashSize:], &v.rec) != nil {
		return &ErrRecord{seq, "is malformed"}
	}
	v.have, v.waits, v.holds = true, 0, 0
	v.next++
	if v.seen != nil {
		v.seen(seq, &v.rec)
	}
	return nil
}

func (v *verifier) body(seq uint64, variant byte, value []byte) error {
	c, err := v.j.keys.open(value, variant)
	if err != nil {
		if v.j.keys.missing(value, variant) {
			return &KeyError{keyOf(value), fmt.Sprintf("body %d of record %d", variant, seq)}
		}
		return &ErrCorrupt{seq, int(variant)}
	}
	if !v.have || seq+1 != v.next || !belongs(&v.rec, &c) {
		return &ErrCorrupt{seq, int(variant)}
	}
	if c.hold() {
		v.holds |= c.own
	} else {
		v.waits |= c.own
	}
	return nil
}

// end finds out whether the record in hand has its bodies.
func (v *verifier) end() error {
	if !v.have || v.rec.Kind != gateway.DecisionRecord {
		return nil
	}
	d, l := decisionOf(&v.rec), v.j.lost.body(v.next-1)
	if d.holds&^(v.holds|l.Holds) != 0 {
		return &ErrCorrupt{v.next - 1, 0}
	}
	if missing := d.waits &^ v.waits; missing != 0 {
		v.bare = append(v.bare, bareMessage{v.next - 1, d, missing})
	}
	return nil
}

// archiveDamage turns the error for a key that is not given into that of damage, when the archive opens under another.
func (j *Journal) archiveDamage(err error, path string, first, next uint64) error {
	var missing *KeyError
	if !errors.As(err, &missing) {
		return err
	}
	if j.keys.near(missing.ID) {
		return errArchive
	}
	if all, readErr := readDamagedArchive(path, j.keys, first, next); readErr == nil && len(all.entries)+len(all.checkpoints) > 0 {
		return errArchive
	}
	return err
}

// verifyArchive opens every block of an archive. seen is told of every record.
func (j *Journal) verifyArchive(a *archiveMeta, seen func(seq uint64, r *gateway.Record)) error {
	at := a.First
	var rec gateway.Record
	err := archiveRecords(a, j.keys, &at, func(seq uint64, record []byte) error {
		if gateway.DecodeRecord(record, &rec) != nil {
			return &ErrRecord{seq, "is malformed"}
		}
		seen(seq, &rec)
		return nil
	})
	if err == nil && at != a.Next {
		err = &ErrRecord{at, "is missing"}
	}
	if err == nil {
		err = archiveCheckpoints(a, j.keys, func(uint64, []byte) error { return nil })
	}
	return err
}

// verifyParked opens every body in a file of parked bodies.
func (j *Journal) verifyParked(db *boltFile) error {
	v := verifier{j: j}
	err := eachEntry(db, func(k, value []byte) error {
		seq := binary.BigEndian.Uint64(k)
		if k[8] == recordByte {
			v.have, v.next = false, seq // seqs have gaps
			return v.record(seq, value)
		}
		if h, ok := parseHeader(value); ok && !parkable(&h) {
			return &ErrCorrupt{seq, int(k[8] - 1)}
		}
		return v.body(seq, k[8]-1, value)
	})
	if err != nil {
		return err
	}
	return db.read(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(entries); b != nil {
			return reachable(b)
		}
		return nil
	})
}
