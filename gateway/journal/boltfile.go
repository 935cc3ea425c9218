package journal

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"go.etcd.io/bbolt"
)

// boltFile is a bbolt file that may be damaged while it is open. A panic in the midst of a writing transaction leaves
// bbolt's own locks held, so that whoever writes or closes afterwards would wait for ever: from then on the file is only
// read, and given back without bbolt.
type boltFile struct {
	*bbolt.DB
	file   *os.File
	writer sync.Mutex   // held while a transaction writes, and until last says so
	last   atomic.Int64 // number of the transaction committed last, 0 when that is not known
	spoilt atomic.Bool
	stuck  atomic.Bool // not even a reading transaction can begin: both meta pages are damaged
}

var (
	errSpoilt = &damaged{"it could not be written, and is not written to again"}
	errStuck  = &damaged{"neither of its meta pages is valid any more"}
)

// write runs fn in a transaction, under guard, and ends that by commit.
func (b *boltFile) write(fn, commit func(tx *bbolt.Tx) error) error {
	b.writer.Lock()
	defer b.writer.Unlock()
	if b.spoilt.Load() {
		return errSpoilt
	}
	ended := false
	err := guard(func() error {
		err := b.transact(fn, commit)
		ended = true
		return err
	})
	if !ended {
		b.spoilt.Store(true)
	}
	return err
}

// update is write with a synced commit.
func (b *boltFile) update(fn func(tx *bbolt.Tx) error) error { return b.write(fn, (*bbolt.Tx).Commit) }

func (b *boltFile) transact(fn, commit func(tx *bbolt.Tx) error) error {
	tx, err := b.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	number := int64(tx.ID())
	if last := b.last.Load(); last > 0 && number != last+1 {
		b.spoilt.Store(true) // it would write over what the newer meta page reaches
		return errStale
	}
	if err := fn(tx); err != nil {
		return err
	}
	b.last.Store(0)
	if err := commit(tx); err != nil {
		return err
	}
	b.last.Store(number)
	return nil
}

// errStale is for a file whose newest meta page is damaged: bbolt goes on from the one before, without what was committed
// last, and says nothing.
var errStale = &damaged{"its newest meta page is not valid any more"}

// read runs fn in a reading transaction, under guard.
func (b *boltFile) read(fn func(tx *bbolt.Tx) error) error {
	if b.stuck.Load() {
		return errStuck
	}
	last, began := b.last.Load(), false
	err := guard(func() error {
		return b.View(func(tx *bbolt.Tx) error {
			began = true
			if int64(tx.ID()) < last {
				return errStale
			}
			return fn(tx)
		})
	})
	var d *damaged
	if !began && errors.As(err, &d) {
		b.stuck.Store(true)
		b.spoilt.Store(true)
	}
	return err
}

// closeBolt closes a file, unless it is nil. One that is spoilt stays mapped.
func closeBolt(b *boltFile) error {
	if b == nil {
		return nil
	}
	if b.spoilt.Load() {
		letGo(b.file)
		return nil
	}
	return guard(b.Close)
}

// letGo closes a file that bbolt cannot close any more. Its lock is given back, which the mapping would keep.
func letGo(f *os.File) {
	syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}
