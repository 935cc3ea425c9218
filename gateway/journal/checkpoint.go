package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/bbolt"
)

// Checkpoint is a signed statement of the tree's size and root.
type Checkpoint struct {
	Size uint64    `json:"size"`
	At   time.Time `json:"at"`
	Text []byte    `json:"text"`
}

// Checkpoint returns the newest checkpoint; its Text is empty when there is none.
func (j *Journal) Checkpoint() Checkpoint {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.checkpoint
}

// signCheckpoint signs the tree as of the last commit, when it grew, and stores the checkpoint. It runs in the committer.
func (j *Journal) signCheckpoint() {
	size, root := j.Root()
	if j.opt.Sign == nil || size == 0 || size == j.Checkpoint().Size && len(j.Checkpoint().Text) > 0 {
		return
	}
	if err := j.saveSigned(); err != nil {
		j.opt.Log.Error("checkpoint is not signed", slog.Any("err", err))
		return
	}
	now, _ := j.opt.Clock()
	text, err := j.opt.Sign(size, root, now)
	if err != nil {
		j.opt.Log.Error("checkpoint is not signed", slog.Any("err", err))
		return
	}
	if err := j.putCheckpoint(size, text); err != nil {
		j.opt.Log.Error("checkpoint is not stored", slog.Any("err", err))
		return
	}
	j.mu.Lock()
	j.checkpoint = Checkpoint{size, now.UTC(), text}
	j.mu.Unlock()
	j.saveDue.Store(true)
	j.tidy()
}

// putCheckpoint writes a checkpoint behind the last record of its tree. Between two segments the next one takes it up.
func (j *Journal) putCheckpoint(size uint64, text []byte) error {
	if j.write == nil {
		return nil
	}
	err := j.write.db.write(func(tx *bbolt.Tx) error {
		b := tx.Bucket(entries)
		b.FillPercent = 1
		if err := b.Put(binary.BigEndian.AppendUint64(nil, size), text); err != nil {
			return err
		}
		return putTree(tx, &j.led.tree, text)
	}, j.opt.commit)
	if isDamage(err) {
		j.suspect()
	}
	if err != nil {
		j.retire() // a file that failed once is not written to again
	}
	return err
}

// Checkpoints calls fn for every checkpoint that is stored, by growing size. Of those over records that are trimmed it is
// the newest. text is fn's only until it returns.
func (j *Journal) Checkpoints(fn func(size uint64, text []byte) error) error {
	var last uint64
	once := func(size uint64, text []byte) error {
		if size <= last {
			return nil
		}
		last = size
		return fn(size, text)
	}
	var at uint64
	if b := j.trimmedBase(); b != nil {
		at = b.Next
		if c := b.Checkpoint; len(c.Text) > 0 {
			if err := once(c.Size, c.Text); err != nil {
				return err
			}
		}
	}
	for {
		a, s, next := j.container(at)
		var err error
		switch {
		case a != nil:
			err = archiveCheckpoints(a, j.keys, once)
		case s != nil:
			err = j.segmentCheckpoints(s, next, once)
		default:
			if next := j.Trimmed(); at < next { // trimmed meanwhile
				at = next
				continue
			}
			if h := j.holeAt(at); h != nil {
				at = h.Next
				continue
			}
			if c := j.Checkpoint(); len(c.Text) > 0 {
				return once(c.Size, c.Text)
			}
			return nil
		}
		if errors.Is(err, errGone) || j.trimmedMeanwhile(at, err) {
			continue
		}
		if err != nil {
			return err
		}
		at = next
	}
}

func (j *Journal) segmentCheckpoints(s *segment, next uint64, fn func(size uint64, text []byte) error) error {
	list, err := j.files.checkpoints(s, s.First, next)
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	for _, c := range list {
		if err := fn(c.Size, c.Text); err != nil {
			return err
		}
	}
	return nil
}

// checkpoints lists the checkpoints in a segment, of a size from the given one on.
func (h *handles) checkpoints(s *segment, from, next uint64) (list []Checkpoint, err error) {
	err = h.scan(s, binary.BigEndian.AppendUint64(nil, from), next, func(seq uint64, key, value []byte) error {
		if len(key) == checkpointKeyLen {
			list = append(list, Checkpoint{Size: seq, Text: append([]byte(nil), value...)})
		}
		return nil
	})
	return list, err
}
