package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
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

// ErrUntold is returned for a journal of which nothing says reliably of which format it is. Nothing in it was changed.
var ErrUntold = errors.New("the format of the journal cannot be told")

// formatCopy says the format once more, with a sum: the text of formatFile and behind it the SHA-256 of that, in hexadecimal,
// and a line feed. Whoever raises the format writes it first.
var formatCopy = filepath.Join(oldLockFile, formatFile)

func formatText(n int) string { return fmt.Sprintf("%s%d\n", formatPrefix, n) }

func copyText(n int) string {
	return fmt.Sprintf("%s%x\n", formatText(n), sha256.Sum256([]byte(formatText(n))))
}

// parseFormat returns the number in a text that is as formatText makes it, else 0.
func parseFormat(text []byte) int {
	digits, _ := strings.CutPrefix(strings.TrimSuffix(string(text), "\n"), formatPrefix)
	if n, err := strconv.Atoi(digits); err == nil && n > 0 && string(text) == formatText(n) {
		return n
	}
	return 0
}

// parseCopy is parseFormat for formatCopy.
func parseCopy(text []byte) int {
	first, _, _ := strings.Cut(string(text), "\n")
	if n := parseFormat([]byte(first + "\n")); n > 0 && string(text) == copyText(n) {
		return n
	}
	return 0
}

// nearFormats returns the numbers that a text says when one bit of it is set right.
func nearFormats(text []byte) (list []int) {
	if len(text) > len(formatText(1<<30)) {
		return nil
	}
	t := slices.Clone(text)
	for bit := range 8 * len(t) {
		t[bit/8] ^= 1 << (bit % 8)
		if n := parseFormat(t); n > 0 && !slices.Contains(list, n) {
			list = append(list, n)
		}
		t[bit/8] ^= 1 << (bit % 8)
	}
	return list
}

// readFormat returns the format of the journal in a folder, newestFormat for a folder without one, and names the files that
// say it and are damaged or gone. What may be of a newer format is refused: ErrFormat, or ErrUntold when nothing says.
func readFormat(dir string) (n int, spoilt []string, err error) {
	text, err := readIfThere(filepath.Join(dir, formatFile))
	if err != nil {
		return 0, nil, err
	}
	second, err := readIfThere(filepath.Join(dir, formatCopy))
	if err != nil {
		return 0, nil, err
	}
	n, copied := parseFormat(text), parseCopy(second)
	newer := func(n int) error {
		return fmt.Errorf("%w: %d, this program reads %d to %d", ErrFormat, n, oldestFormat, newestFormat)
	}
	if most := max(n, copied); most > newestFormat {
		return most, nil, newer(most)
	}
	if second != nil && copied != max(n, copied) {
		spoilt = append(spoilt, formatCopy)
	}
	if n > 0 {
		return n, spoilt, nil
	}
	there, err := Exists(dir)
	switch near := nearFormats(text); {
	case err != nil:
		return 0, nil, err
	case copied > 0:
		if len(near) > 0 && !slices.Contains(near, copied) && slices.Max(near) > newestFormat {
			return slices.Max(near), nil, newer(slices.Max(near)) // two files are damaged, or a raise was interrupted: it may be newer
		}
		return copied, append(spoilt, formatFile), nil
	case len(near) == 1 && near[0] <= newestFormat:
		return near[0], append(spoilt, formatFile), nil
	case len(near) > 0 && slices.Min(near) > newestFormat:
		return near[0], nil, newer(near[0])
	case text == nil && second == nil && !there:
		return newestFormat, nil, nil
	case text == nil && second == nil:
		if st, err := os.Lstat(filepath.Join(dir, oldLockFile)); err == nil && st.Mode().IsRegular() {
			return oldestFormat, nil, nil // it had no such file
		}
	}
	return 0, nil, ErrUntold
}

// readIfThere reads a small file; nil when there is none. Behind a file where a folder should be there is none either.
func readIfThere(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	return append([]byte{}, text...), err
}

// formatDamage is the error for who only reads.
func formatDamage(spoilt []string) error {
	if len(spoilt) == 0 {
		return nil
	}
	return &damaged{strings.Join(spoilt, " and ") + " cannot be read or is gone"}
}

// raiseFormat makes the folder one of the newest format, before anything else is written in it: from here on older programs
// stay away. What says the format and is damaged is set aside and written anew.
func (j *Journal) raiseFormat() error {
	n, spoilt, err := readFormat(j.opt.Dir)
	if err != nil {
		return err
	}
	old := filepath.Join(j.opt.Dir, oldLockFile)
	if st, err := os.Lstat(old); err == nil && st.Mode().IsRegular() { // of format 1, which nothing else says: so not before that is said
		if err := j.writeFile(filepath.Join(j.opt.Dir, formatFile), []byte(formatText(newestFormat))); err != nil {
			return err
		}
		j.opt.step("format")
		if err := os.Remove(old); err != nil {
			return err
		}
	}
	if err := os.Mkdir(old, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, f := range []struct{ name, text string }{{formatCopy, copyText(newestFormat)}, {formatFile, formatText(newestFormat)}} {
		path := filepath.Join(j.opt.Dir, f.name)
		if have, err := readIfThere(path); err != nil {
			return err
		} else if string(have) == f.text {
			continue
		}
		if slices.Contains(spoilt, f.name) {
			if err := j.setFormatAside(f.name); err != nil {
				return err
			}
		}
		j.opt.step("format")
		if err := j.writeFile(path, []byte(f.text)); err != nil {
			return err
		}
	}
	if n != newestFormat {
		j.opt.Log.Info("journal is of the newest format now", "format", newestFormat)
	}
	return nil
}

// setFormatAside copies what a file said to the damaged files: it stays where it is until the new one takes its place, so
// that after a crash there is as much to tell the format by as before.
func (j *Journal) setFormatAside(name string) error {
	f := SetAside{File: filepath.ToSlash(name)}
	text, err := readIfThere(filepath.Join(j.opt.Dir, name))
	if err == nil && text != nil {
		if err = os.MkdirAll(filepath.Join(j.opt.Dir, damagedDir), 0o700); err == nil {
			f.Aside = asideName(j.opt.Dir, name, time.Now())
			err = j.writeFile(filepath.Join(j.opt.Dir, f.Aside), text)
		}
	}
	if err == nil {
		j.repaired = append(j.repaired, f)
	}
	return err
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
		if err := flock(f, how); err != nil {
			return err
		}
	}
	return nil
}

// lockPatience is how long a lock is waited for. Of a gateway that was killed while it started a process, that process has the
// lock until it runs its own program.
const lockPatience = time.Second

// flock locks a file, or returns ErrLocked.
func flock(f *os.File, how int) error {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock: %w", err)
		case time.Since(began) > lockPatience:
			return ErrLocked
		}
	}
}
