package journal

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// Archives lists the files of the archive, oldest first.
func (j *Journal) Archives() []gateway.Archive {
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []gateway.Archive
	for _, a := range j.archives {
		list = append(list, gateway.Archive{First: a.First, Next: a.Next, Bytes: a.Bytes})
	}
	slices.SortFunc(list, func(a, b gateway.Archive) int { return int(int64(a.First) - int64(b.First)) })
	return list
}

// ShippedLog is a part of a log, from record 0 on, as a collector keeps it: a folder of archive files. It reads only.
type ShippedLog struct {
	keys *keyring
	lost losses
	list []shippedPart // that follow each other, from record 0 on; lost records may be between them
	next uint64
}

// shippedPart is an archive of which the records from a seq on count: an older file may have those in front of it.
type shippedPart struct {
	archiveMeta
	from uint64
}

// OpenShipped opens the archive files in a folder, under the names that the archive or a collector gives them, with the
// at-rest keys that they were sealed under. Of what the list of losses in the gateway's data_dir names, records may be
// missing; an empty dataDir is none. The log ends before the first other record that is in no file.
func OpenShipped(dir, dataDir string, keys []Key) (*ShippedLog, error) {
	l := new(ShippedLog)
	var err error
	if dataDir != "" {
		if l.lost, err = readLosses(dataDir); err != nil {
			return nil, fmt.Errorf("open shipped archives: %w", err)
		}
	}
	if l.keys, err = newKeyring(keys); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open shipped archives: %w", err)
	}
	var all []archiveMeta
	for _, f := range files {
		var first, next uint64
		name := f.Name()
		if n, _ := fmt.Sscanf(name, "%020d-%020d", &first, &next); !(n == 2 && name == fmt.Sprintf("%020d-%020d", first, next)) {
			if n, _ := fmt.Sscanf(name, arcPrefix+"%020d"+arcSuffix, &first); n != 1 || name != archiveName(first) {
				continue
			}
		}
		m, err := readArchiveMeta(filepath.Join(dir, name), l.keys)
		if err != nil {
			return nil, fmt.Errorf("open shipped archives: %w", err)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b archiveMeta) int { return cmp.Compare(a.First, b.First) })
	l.chain(all)
	return l, nil
}

// chain lists the archives, sorted by their first record, that lead on from record 0: of those with the next record the one
// that reaches furthest; where it is lost and in none, those behind it.
func (l *ShippedLog) chain(all []archiveMeta) {
	for {
		best, behind := -1, -1
		for i, a := range all {
			if a.First <= l.next && l.next < a.Next && (best < 0 || a.Next > all[best].Next) {
				best = i
			} else if a.First > l.next && behind < 0 {
				behind = i
			}
		}
		if best >= 0 {
			l.list = append(l.list, shippedPart{all[best], l.next})
			l.next = all[best].Next
			continue
		}
		h := l.lost.at(l.next)
		if h == nil || behind < 0 {
			return
		}
		l.next = min(h.Next, all[behind].First)
	}
}

// Next returns the seq behind the last record of the log.
func (l *ShippedLog) Next() uint64 { return l.next }

// Records is that of Journal.
func (l *ShippedLog) Records(from uint64, fn func(seq uint64, record []byte) error) error {
	for i := range l.list {
		a := &l.list[i]
		if a.Next <= from {
			continue
		}
		at := max(from, a.from)
		err := archiveRecords(&a.archiveMeta, l.keys, &at, fn)
		if err == nil && at != a.Next {
			err = &ErrRecord{at, "is missing"}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Resume is that of Journal.
func (l *ShippedLog) Resume(tree, seq uint64) (size uint64, roots []tlog.Hash, ok bool) {
	return l.lost.resume(tree, seq)
}

// Checkpoints is that of Journal.
func (l *ShippedLog) Checkpoints(fn func(size uint64, text []byte) error) error {
	var last uint64
	for i := range l.list {
		err := archiveCheckpoints(&l.list[i].archiveMeta, l.keys, func(size uint64, text []byte) error {
			if size <= last {
				return nil
			}
			last = size
			return fn(size, text)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
