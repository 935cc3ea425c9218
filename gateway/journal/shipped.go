package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

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
	keys     *keyring
	archives []archiveMeta
	next     uint64
}

// OpenShipped opens the archive files in a folder, under the names that the archive or a collector gives them, with the
// at-rest keys that they were sealed under. The log ends before the first record that is in none of them.
func OpenShipped(dir string, keys []Key) (*ShippedLog, error) {
	l := new(ShippedLog)
	var err error
	if l.keys, err = newKeyring(keys); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open shipped archives: %w", err)
	}
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
		l.archives = append(l.archives, m)
	}
	slices.SortFunc(l.archives, func(a, b archiveMeta) int { return int(int64(a.First) - int64(b.First)) })
	for _, a := range l.archives {
		if a.First == l.next {
			l.next = a.Next
		}
	}
	return l, nil
}

// Next returns the seq behind the last record of the log.
func (l *ShippedLog) Next() uint64 { return l.next }

// Records is that of Journal.
func (l *ShippedLog) Records(from uint64, fn func(seq uint64, record []byte) error) error {
	return l.each(func(a *archiveMeta) error {
		if a.Next <= from {
			return nil
		}
		at := max(from, a.First)
		err := archiveRecords(a, l.keys, &at, fn)
		if err == nil && at != a.Next {
			err = &ErrRecord{at, "is missing"}
		}
		return err
	})
}

// Checkpoints is that of Journal.
func (l *ShippedLog) Checkpoints(fn func(size uint64, text []byte) error) error {
	var last uint64
	return l.each(func(a *archiveMeta) error {
		return archiveCheckpoints(a, l.keys, func(size uint64, text []byte) error {
			if size <= last {
				return nil
			}
			last = size
			return fn(size, text)
		})
	})
}

// each calls fn for the archives that follow each other from record 0 on.
func (l *ShippedLog) each(fn func(a *archiveMeta) error) error {
	var at uint64
	for i := range l.archives {
		if a := &l.archives[i]; a.First == at {
			if err := fn(a); err != nil {
				return err
			}
			at = a.Next
		}
	}
	return nil
}
