package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

// boltPages makes a bbolt file with something in it and returns it open.
func boltPages(t *testing.T) (*boltFile, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), stateFile)
	b, err := openBolt(path, bbolt.Options{}, os.OpenFile)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := b.update(func(tx *bbolt.Tx) error {
			e, err := tx.CreateBucketIfNotExists(entries)
			if err == nil {
				err = e.Put([]byte{byte(i)}, make([]byte, 5000))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return b, path
}

// spoilPages overwrites pages of an open file.
func spoilPages(t *testing.T, path string, pages ...int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range pages {
		if _, err := f.WriteAt(make([]byte, 4096), 4096*p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFileThatPanicsInATransactionIsGivenBack(t *testing.T) {
	b, path := boltPages(t)
	st, _ := os.Stat(path)
	var pages []int64
	for p := int64(2); p < st.Size()/4096; p++ {
		pages = append(pages, p)
	}
	spoilPages(t, path, pages...)
	put := func(tx *bbolt.Tx) error {
		e, err := tx.CreateBucketIfNotExists(entries)
		if err == nil {
			err = e.Put([]byte{9}, nil)
		}
		return err
	}
	if err := b.update(put); !isDamage(err) {
		t.Fatalf("err = %v", err)
	}
	if err := b.update(put); !errors.Is(err, errSpoilt) { // bbolt would wait for ever
		t.Fatalf("err = %v", err)
	}
	if err := closeBolt(b); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatalf("it is still locked: %v", err)
	}
	f.Close()
}

func TestAFileWithoutItsNewestMetaPageIsNotWrittenTo(t *testing.T) {
	b, path := boltPages(t)
	newest := b.last.Load() % 2
	spoilPages(t, path, newest)
	read := func(tx *bbolt.Tx) error { return nil }
	if err := b.read(read); err != errStale {
		t.Fatalf("err = %v", err)
	}
	if err := b.update(read); err != errStale {
		t.Fatalf("err = %v", err)
	}
	spoilPages(t, path, 1-newest)
	for range 2 {
		if err := b.read(read); !isDamage(err) { // bbolt would wait for ever
			t.Fatalf("err = %v", err)
		}
	}
	if err := closeBolt(b); err != nil {
		t.Fatal(err)
	}
}

// TestNoBitOfASmallFileTakesAllMemory flips every bit of the pages' heads and elements: what opens can be read to its end.
func TestNoBitOfASmallFileTakesAllMemory(t *testing.T) {
	b, path := boltPages(t)
	if err := closeBolt(b); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read, refused := 0, 0
	for page := 2 * 4096; page < len(whole); page += 4096 {
		for bit := range 8 * (pageHead + 2*pageElement) {
			spoilt := bytes.Clone(whole)
			spoilt[page+bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, spoilt, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := openBolt(path, bbolt.Options{ReadOnly: true}, os.OpenFile)
			if err != nil {
				refused++
				continue
			}
			left := 1000
			b.read(func(tx *bbolt.Tx) error {
				return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
					return b.ForEach(func(_, _ []byte) error {
						if left--; left < 0 {
							t.Fatalf("byte %d, bit %d: there is no end", page+bit/8, bit%8)
						}
						return nil
					})
				})
			})
			closeBolt(b)
			read++
		}
	}
	if read == 0 || refused == 0 {
		t.Fatalf("%d read, %d refused", read, refused)
	}
}
