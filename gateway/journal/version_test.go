package journal

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// fixture puts a journal that a program of an earlier format wrote into a folder of its own.
//
// format1: 40 messages of source bench for the uplinks tsp and oem; 19 are forwarded to tsp, message 3 is held for oem and
// forwarded to tsp, the last 20 wait for oem, 13 of them for tsp too, and one control entry for both. One archive.
func fixture(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.FileInfo().IsDir() {
			os.MkdirAll(path, 0o700)
			continue
		}
		b, err := io.ReadAll(r)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// contents digests every file of a folder.
func contents(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	list := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		list[path] = sha256.Sum256(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestAJournalOfTheFirstFormatIsTakenOver(t *testing.T) {
	o := testOptions(fixture(t, "format1"))
	o.Sign = testSign
	before := contents(t, o.Dir)
	if r := mustCheck(t, o.Dir); r.Decisions != 40 || r.Checkpoints == 0 {
		t.Fatalf("report %+v", r)
	}
	if after := contents(t, o.Dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatal("a check changed the journal")
	}
	j := openTest(t, o)
	want := gateway.Totals{Received: 40, Forwarded: 19, Held: 1, Waiting: 20}
	if got := j.Totals(); got != want {
		t.Fatalf("totals %+v", got)
	}
	for i, name := range []string{"tsp", "oem"} {
		if n, err := j.Number(kindUplink, name); err != nil || n != i {
			t.Fatalf("uplink %s has number %d, %v", name, n, err)
		}
	}
	_, out := read(t, j, 0, 100)
	if len(out) != 14 || !out[0].Control || out[1].Topic != "v1/27" || string(out[13].Payload) != "body 39" {
		t.Fatalf("%d wait for tsp", len(out))
	}
	if _, out = read(t, j, 1, 100); len(out) != 21 || !out[0].Control || out[1].Topic != "v1/20" {
		t.Fatalf("%d wait for oem", len(out))
	}
	commit(t, j, message(j, "bench", gateway.General, 0b11, 0, 0, "v1/new", []byte("new")))
	drain(t, j, 0)
	drain(t, j, 1)
	if held, err := j.ListHeld(10); err != nil || len(held) != 1 {
		t.Fatalf("%d held, %v", len(held), err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if r := mustCheck(t, o.Dir); r.Totals.Forwarded != 40 || r.Totals.Held != 1 {
		t.Fatalf("report %+v", r)
	}
}

// TestAProgramOfTheFirstFormatStopsAtANewerJournal does what such a program did first: it opened this file to lock it.
func TestAProgramOfTheFirstFormatStopsAtANewerJournal(t *testing.T) {
	for name, dir := range map[string]string{"made anew": t.TempDir(), "taken over": fixture(t, "format1")} {
		openTest(t, testOptions(dir)).Close()
		if f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err == nil {
			f.Close()
			t.Errorf("%s: it could go on", name)
		}
	}
}

// anyText stands for a file that is gone.
const anyText = "\x00gone"

// TestTheFormatIsToldByWhatIsLeft puts two texts into the files that say the format, and opens the journal: by reading,
// which never changes anything, by a repair and by Open.
func TestTheFormatIsToldByWhatIsLeft(t *testing.T) {
	tr := damageable(t)
	good, second := formatText(2), copyText(2)
	type texts struct{ first, second string }
	cases := map[texts]error{ // nil: it is recovered
		{formatText(3), second}:                  ErrFormat,
		{formatText(3), copyText(3)}:             ErrFormat,
		{good, copyText(3)}:                      ErrFormat,
		{anyText, copyText(3)}:                   ErrFormat,
		{"", copyText(3)}:                        ErrFormat,
		{"garbage", copyText(3)}:                 ErrFormat,
		{"sluice jousnal format 3\n", second}:    ErrFormat,
		{"sluice jousnal format 3\n", anyText}:   ErrFormat,
		{"sluice journal format 0\n", anyText}:   ErrUntold, // one bit from 2, from 4 and from 8
		{"", anyText}:                            ErrUntold,
		{anyText, anyText}:                       ErrUntold,
		{anyText, "garbage"}:                     ErrUntold,
		{"garbage", "garbage"}:                   ErrUntold,
		{anyText, second}:                        nil,
		{"", second}:                             nil,
		{"garbage", second}:                      nil,
		{"sluice journal form", second}:          nil,
		{"sluice journal format 0\n", second}:    nil,
		{"sluice jousnal format 2\n", anyText}:   nil,
		{"sluice jousnal format 2\n", "garbage"}: nil,
		{good, ""}:                               nil,
	}
	for bit := range 8 * len(good) {
		b := []byte(good)
		b[bit/8] ^= 1 << (bit % 8)
		if n := parseFormat(b); n <= newestFormat && bit%5 == 0 {
			cases[texts{string(b), second}] = nil
		}
	}
	put := func(dir string, c texts) {
		for name, text := range map[string]string{formatFile: c.first, formatCopy: c.second} {
			path := filepath.Join(dir, name)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if text != anyText && os.WriteFile(path, []byte(text), 0o600) != nil {
				t.Fatal("cannot write")
			}
		}
	}
	for c, want := range cases {
		o := tr.copyTo(t, t.TempDir())
		put(o.Dir, c)
		before := contents(t, o.Dir)
		if _, err := OpenReadOnly(o.Dir, o.Keys); want == nil && !Damaged(err) || want != nil && !errors.Is(err, want) {
			t.Errorf("%q: reading says %v", c, err)
		}
		if want != nil {
			_, err := Open(o)
			if _, err2 := Repair(o); !errors.Is(err, want) || !errors.Is(err2, want) {
				t.Errorf("%q: %v, %v", c, err, err2)
			}
		}
		if !maps.Equal(before, contents(t, o.Dir)) {
			t.Errorf("%q: something was changed", c)
		}
		if want != nil {
			continue
		}
		r, err := Repair(o)
		if err != nil || r.Whole || len(r.Files) == 0 || !r.NothingLost() {
			t.Errorf("%q: %+v, %v", c, r, err)
			continue
		}
		for _, f := range r.Files {
			was := map[string]string{formatFile: c.first, formatCopy: c.second}[f.File]
			if b, _ := os.ReadFile(filepath.Join(o.Dir, f.Aside)); f.Aside != "" && string(b) != was || f.Aside == "" && was != anyText {
				t.Errorf("%q: %+v is %q", c, f, b)
			}
		}
		if n, spoilt, err := readFormat(o.Dir); n != 2 || spoilt != nil || err != nil {
			t.Errorf("%q: then %d, %q, %v", c, n, spoilt, err)
		}
		mustCheck(t, o.Dir)
		if r, err := Repair(o); err != nil || !r.Whole {
			t.Errorf("%q: then %+v, %v", c, r, err)
		}
	}
}

// TestAJournalWithoutTheSecondCopyGetsOne: earlier programs of this format did not write it.
func TestAJournalWithoutTheSecondCopyGetsOne(t *testing.T) {
	o := testOptions(t.TempDir())
	openTest(t, o).Close()
	if err := os.Remove(filepath.Join(o.Dir, formatCopy)); err != nil {
		t.Fatal(err)
	}
	if r, err := Repair(o); err != nil || !r.Whole {
		t.Fatalf("%+v, %v", r, err)
	}
	openTest(t, o).Close()
	if b, err := os.ReadFile(filepath.Join(o.Dir, formatCopy)); err != nil || string(b) != copyText(newestFormat) {
		t.Fatalf("%q, %v", b, err)
	}
}

func TestAProgramOfTheFirstFormatThatRunsIsNoticed(t *testing.T) {
	o := testOptions(fixture(t, "format1"))
	defer lockAs(t, filepath.Join(o.Dir, "lock"))()
	if _, err := Open(o); !errors.Is(err, ErrLocked) {
		t.Fatalf("err = %v", err)
	}
	if _, err := OpenReadOnly(o.Dir, o.Keys); !errors.Is(err, ErrLocked) {
		t.Fatalf("err = %v", err)
	}
}

// lockAs locks a file as another program would.
func lockAs(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}
