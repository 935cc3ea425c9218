package powercut

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// script turns readable lines into what strace prints: 'text' becomes a string of hex.
func script(lines string) string {
	var b strings.Builder
	for i, part := range strings.Split(lines, "'") {
		if i%2 == 0 {
			b.WriteString(part)
			continue
		}
		b.WriteByte('"')
		for _, c := range []byte(part) {
			fmt.Fprintf(&b, `\x%s`, hex.EncodeToString([]byte{c}))
		}
		b.WriteByte('"')
	}
	return b.String()
}

// after returns a disk that followed the lines.
func after(t *testing.T, lines string) *Disk {
	t.Helper()
	d := NewDisk("/d")
	if err := Parse(strings.NewReader(script(lines)), d.Apply); err != nil {
		t.Fatal(err)
	}
	return d
}

// images counts what n images hold: of every one the files with their content, on one line.
func images(t *testing.T, d *Disk, n int) map[string]int {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	seen := map[string]int{}
	for i := range n {
		if err := d.Image(rand.New(rand.NewPCG(uint64(i), 7)), dir); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, f.Name()+"="+strings.ReplaceAll(string(b), "\x00", "0"))
		}
		seen[strings.Join(list, " ")]++
	}
	return seen
}

func want(t *testing.T, got map[string]int, may ...string) {
	t.Helper()
	for _, m := range may {
		if got[m] == 0 {
			t.Errorf("%q never happens", m)
		}
		delete(got, m)
	}
	for g, n := range got {
		t.Errorf("%q happens %d times", g, n)
	}
}

const created = `7 openat(AT_FDCWD, '/d/a', O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 5
7 openat(AT_FDCWD, '/d', O_RDONLY|O_CLOEXEC) = 6
7 fsync(6) = 0
7 close(6) = 0
`

func TestWhatWasNotSyncedCanVanishAndWhatWasCannot(t *testing.T) {
	want(t, images(t, after(t, created), 50), "a=")
	unsynced := created + "7 pwrite64(5, 'one', 3, 0) = 3\n"
	want(t, images(t, after(t, unsynced), 200), "a=", "a=one", "a=000")
	synced := unsynced + "7 fdatasync(5) = 0\n"
	want(t, images(t, after(t, synced), 50), "a=one")
	want(t, images(t, after(t, synced+"7 pwrite64(5, 'two', 3, 0) = 3\n"), 200), "a=one", "a=two")
	want(t, images(t, after(t, unsynced+"7 fdatasync(5) = -1 EIO (Input/output error)\n"), 200), "a=", "a=one", "a=000")
}

func TestASyncCoversWhatEndedBeforeItBeganOnly(t *testing.T) {
	racing := created + `7 fdatasync(5 <unfinished ...>
8 pwrite64(5, 'one', 3, 0) = 3
7 <... fdatasync resumed>) = 0
`
	want(t, images(t, after(t, racing), 200), "a=", "a=one", "a=000")
	underWay := created + "7 pwrite64(5, 'one', 3, 0) = 3\n7 fdatasync(5 <unfinished ...>\n"
	want(t, images(t, after(t, underWay), 200), "a=", "a=one", "a=000")
	writing := created + "7 pwrite64(5, 'one', 3, 0 <unfinished ...>\n8 fdatasync(5) = 0\n7 <... pwrite64 resumed>) = 3\n"
	want(t, images(t, after(t, writing), 200), "a=", "a=one", "a=000")
}

func TestSectorsAreIndependent(t *testing.T) {
	old, fresh := strings.Repeat("o", sector), strings.Repeat("n", sector)
	d := after(t, created+"7 pwrite64(5, '"+old+old+"', 1024, 0) = 1024\n7 fsync(5) = 0\n7 pwrite64(5, '"+fresh+fresh+"', 1024, 0) = 1024\n")
	want(t, images(t, d, 200), "a="+old+old, "a="+fresh+fresh, "a="+old+fresh, "a="+fresh+old)
}

func TestSizesAreChanges(t *testing.T) {
	d := after(t, created+"7 pwrite64(5, 'one', 3, 0) = 3\n7 fsync(5) = 0\n7 ftruncate(5, 1) = 0\n")
	want(t, images(t, d, 100), "a=one", "a=o")
	d = after(t, created+"7 write(5, 'one', 3) = 3\n7 write(5, 'two', 3) = 3\n7 fsync(5) = 0\n7 openat(AT_FDCWD, '/d/a', O_WRONLY|O_TRUNC) = 8\n")
	want(t, images(t, d, 100), "a=onetwo", "a=")
}

func TestNamesAreDurableWithTheirFolder(t *testing.T) {
	file := `7 openat(AT_FDCWD, '/d/a', O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 5
7 write(5, 'one', 3) = 3
7 fsync(5) = 0
`
	want(t, images(t, after(t, file), 100), "", "a=one")
	renamed := file + "7 openat(AT_FDCWD, '/d', O_RDONLY|O_CLOEXEC) = 6\n7 fsync(6) = 0\n7 renameat(AT_FDCWD, '/d/a', AT_FDCWD, '/d/b') = 0\n"
	want(t, images(t, after(t, renamed), 100), "a=one", "b=one")
	want(t, images(t, after(t, renamed+"7 fsync(6) = 0\n"), 100), "b=one")
	want(t, images(t, after(t, renamed+"7 fsync(6) = 0\n7 unlinkat(AT_FDCWD, '/d/b', 0) = 0\n"), 100), "b=one", "")
}

func TestWhatTheModelDoesNotKnowIsAnError(t *testing.T) {
	for _, call := range []string{"fallocate(5, 0, 0, 4096) = 0", "renameat(AT_FDCWD, '/d/a', AT_FDCWD, '/e/a') = 0", "writev(5, [], 1) = 3",
		"linkat(AT_FDCWD, '/d/a', AT_FDCWD, '/d/b', 0) = 0"} {
		d := NewDisk("/d")
		if err := Parse(strings.NewReader(script(created+"7 "+call+"\n")), d.Apply); err == nil {
			t.Errorf("%s is accepted", call)
		}
	}
	after(t, created+"7 fallocate(9, 0, 0, 4096) = 0\n7 openat(AT_FDCWD, '/etc/x', O_RDONLY) = 9\n7 linkat(AT_FDCWD, '/a', AT_FDCWD, '/b', 0) = 0\n")
}

func TestWhatWasSaidIsKeptInOrder(t *testing.T) {
	d := after(t, created+"7 write(1, 'a 1\n', 4) = 4\n9 write(1, 'a 2\n', 4 <unfinished ...>\n7 +++ killed by SIGKILL +++\n7 clo")
	if string(d.Said) != "a 1\na 2\n" {
		t.Errorf("%q", d.Said)
	}
	if d.Boot(); len(d.fds) != 0 || d.top.names["a"] == nil {
		t.Error("a new process has the old one's descriptors, or not its files")
	}
}
