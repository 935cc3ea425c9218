package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Formats of a journal's folder. docs/formats.md says what differs, and the policy.
const (
	oldestFormat = 1 // that can be read
	newestFormat = 2 // that is written
)

const (
	formatFile   = "format"
	formatPrefix = "sluice journal format "
	oldLockFile  = "lock" // of format 1; now a folder, at which programs that know format 1 only stop before they change anything
)

// ErrFormat is returned for a journal of a format that this program does not know. Nothing in it was changed.
var ErrFormat = errors.New("journal is of a newer format")

// readFormat returns the format of the journal in a folder; newestFormat for a folder without one.
func readFormat(dir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		if there, err := Exists(dir); err != nil || there {
			return oldestFormat, err
		}
		return newestFormat, nil
	}
	if err != nil {
		return 0, err
	}
	digits, ok := strings.CutPrefix(string(b), formatPrefix)
	n, err := strconv.Atoi(strings.TrimSuffix(digits, "\n"))
	if !ok || err != nil || n < 1 {
		return 0, fmt.Errorf("read %s: want %q and a number", formatFile, formatPrefix)
	}
	if n > newestFormat {
		return n, fmt.Errorf("%w: %d, this program reads %d to %d", ErrFormat, n, oldestFormat, newestFormat)
	}
	return n, nil
}

// raiseFormat makes the folder one of the newest format, before anything is written in it: from here on older programs
// stay away.
func (j *Journal) raiseFormat() error {
	path := filepath.Join(j.opt.Dir, formatFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	old := filepath.Join(j.opt.Dir, oldLockFile)
	if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	return j.writeFile(path, fmt.Appendf(nil, "%s%d\n", formatPrefix, newestFormat))
}

// lockFiles are the files that are locked: the one of this format, and that of format 1 while a program of that age may
// be running.
func (j *Journal) lockFiles() []string {
	list := []string{filepath.Join(j.opt.Dir, lockFile)}
	if st, err := os.Stat(filepath.Join(j.opt.Dir, oldLockFile)); err == nil && st.Mode().IsRegular() {
		list = append(list, filepath.Join(j.opt.Dir, oldLockFile))
	}
	return list
}

// lockDir takes the folder: for itself to write, together with others to read.
func (j *Journal) lockDir() error {
	flag, how := os.O_RDWR|os.O_CREATE, syscall.LOCK_EX
	if j.readOnly {
		flag, how = os.O_RDONLY, syscall.LOCK_SH
	} else if err := os.MkdirAll(filepath.Join(j.opt.Dir, archiveDir), 0o700); err != nil {
		return err
	} else if err := syncDir(filepath.Dir(filepath.Clean(j.opt.Dir))); err != nil {
		return err
	}
	for _, path := range j.lockFiles() {
		f, err := os.OpenFile(path, flag, 0o600)
		if j.readOnly && errors.Is(err, fs.ErrNotExist) && len(j.lockFiles()) > 1 {
			continue // a journal of format 1 that nobody has written to since
		}
		if j.readOnly && errors.Is(err, fs.ErrNotExist) {
			if there, _ := Exists(j.opt.Dir); there {
				err = &damaged{"there is no file " + lockFile}
			}
		}
		if err != nil {
			return err
		}
		j.locks = append(j.locks, f)
		if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return ErrLocked
			}
			return fmt.Errorf("lock: %w", err)
		}
	}
	return nil
}
