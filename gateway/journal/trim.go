package journal

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// trimShare of AuditMaxSize is what records may take before archives go that a collector has.
const trimShare = 0.5

// Trimmed returns the seq of the first record that is here.
func (j *Journal) Trimmed() uint64 {
	if b := j.trimmedBase(); b != nil {
		return b.Next
	}
	return 0
}

func (j *Journal) trimmedBase() *base {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.base
}

// trimmedMeanwhile reports whether reading at a seq failed because its archive was trimmed since it was looked up.
func (j *Journal) trimmedMeanwhile(at uint64, err error) bool {
	return errors.Is(err, fs.ErrNotExist) && at < j.Trimmed()
}

// Start returns where the records here begin: their first seq, the roots of the complete subtrees of the tree over all
// before it, largest first, and the seqs of the change records among these that are kept. All is zero when nothing is
// trimmed.
func (j *Journal) Start() (next uint64, roots []tlog.Hash, changes []uint64) {
	b := j.trimmedBase()
	if b == nil {
		return 0, nil, nil
	}
	for _, k := range b.Changes {
		changes = append(changes, k.Seq)
	}
	return b.Next, slices.Clone(b.Tree), changes
}

// Kept returns a change record that outlives its archive; nil when the seq is not that of one.
func (j *Journal) Kept(seq uint64) []byte {
	if b := j.trimmedBase(); b != nil {
		for _, k := range b.Changes {
			if k.Seq == seq {
				return slices.Clone(k.Record)
			}
		}
	}
	return nil
}

// findTrimmed reads what is kept of trimmed records, removes what is left of them, and lists receipts. It returns the
// snapshot to recover from.
func (j *Journal) findTrimmed(snap *snapshot) (*snapshot, error) {
	b, err := j.readBase()
	if err != nil {
		if snap == nil || j.readOnly {
			return nil, fmt.Errorf("read %s: %w", baseFile, err)
		}
		j.opt.Log.Error("what is kept of trimmed records is damaged: the log cannot be verified from there", slog.Any("err", err))
	}
	if b != nil {
		j.base = b
		if err := j.restoreNames(b); err != nil {
			return nil, err
		}
		var here []archiveMeta
		for _, a := range j.archives {
			if a.First >= b.Next {
				here = append(here, a)
			} else if a.Next > b.Next {
				return nil, &ErrRecord{b.Next, "stands in an archive that is partly trimmed"}
			} else if !j.readOnly {
				j.leftover = append(j.leftover, a.path)
			}
		}
		j.archives = here
		if snap == nil || snap.Next < b.Next {
			snap = b.state()
			snap.Checkpoint = b.Checkpoint
		}
	}
	if j.state.db != nil {
		j.restoreClock()
	}
	return snap, j.findReceipts()
}

// restoreNames gives back the names that the lost state.bolt had.
func (j *Journal) restoreNames(b *base) error {
	for _, kind := range []string{kindSource, kindUplink} {
		have := len(j.names.list[kind])
		if have >= len(b.Names[kind]) {
			continue
		}
		if !j.readOnly {
			err := j.state.update(func(tx *bbolt.Tx) error {
				bucket, err := tx.CreateBucketIfNotExists([]byte(kind))
				for i := have; err == nil && i < len(b.Names[kind]); i++ {
					err = bucket.Put(binary.BigEndian.AppendUint32(nil, uint32(i)), []byte(b.Names[kind][i]))
				}
				if err == nil {
					err = sumNames(tx)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		for i := have; i < len(b.Names[kind]); i++ {
			j.names.set(kind, b.Names[kind][i], i)
		}
	}
	return nil
}

// trimOnce takes archives off the front of the log, as far as they may go. What it says on the log it does when that is
// committed and the sweeper runs again.
func (j *Journal) trimOnce() error {
	j.removeTrimmed()
	closing := false
	select {
	case <-j.closed:
		closing = true
	default:
	}
	now, steady := j.lookAtClocks(closing)
	for {
		list := j.oldestArchives()
		if len(list) == 0 {
			return nil
		}
		going, err := j.mayAllGo(list, now.UnixMilli(), steady)
		if err == nil && going {
			err = j.trim(list)
		}
		if isDamage(err) {
			j.opt.Log.Error("archive is damaged and is kept", slog.Any("err", err))
			j.suspect()
			j.damagedNext = list[len(list)-1].Next
			return nil
		}
		if err != nil || !going {
			return err
		}
	}
}

// mayAllGo decides about archives that go together, and announces the next one of them.
func (j *Journal) mayAllGo(list []archiveMeta, now int64, steady bool) (bool, error) {
	for i := range list {
		a := &list[i]
		if err := j.noteAge(a); err != nil {
			return false, err
		}
		t, err := j.mayGo(a, now, steady)
		if err != nil || t == nil {
			return false, err
		}
		if j.announced.Load() < a.Next {
			j.announce(t)
			return false, nil
		}
	}
	return true, nil
}

// oldestArchives returns the archive with which the records here begin; where records behind it are lost and the tree is
// not known at its end, with those that follow, up to one at whose end it is.
func (j *Journal) oldestArchives() (list []archiveMeta) {
	first := j.Trimmed()
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		for h := j.lost.at(first); h != nil; h = j.lost.at(first) { // what is lost holds nothing up
			first = h.Next
		}
		i := slices.IndexFunc(j.archives, func(a archiveMeta) bool { return a.First == first })
		if i < 0 || j.archives[i].Next == j.damagedNext {
			return nil
		}
		list = append(list, j.archives[i])
		if first = j.archives[i].Next; j.lost.knows(first) {
			return list
		}
	}
}

// trimming is the event of an archive that goes.
type trimming struct {
	Event     string   `json:"event"`
	First     uint64   `json:"first"`
	Next      uint64   `json:"next"`
	Bytes     int64    `json:"bytes"`  // of the file: the collector's, or the one that goes
	SHA256    string   `json:"sha256"` // of this file
	Why       string   `json:"why"`    // shipped or retention
	Collector string   `json:"collector,omitempty"`
	Of        []uint64 `json:"of,omitempty"` // first and next of the collector's file, when it holds more
}

// mayGo decides about the oldest archive; nil: it stays.
func (j *Journal) mayGo(a *archiveMeta, now int64, steady bool) (*trimming, error) {
	j.mu.Lock()
	over, shipped := j.receiptOver(a)
	j.mu.Unlock()
	shipped = shipped && j.opt.Receipt != nil
	room := float64(j.recordBytes.Load()) >= trimShare*float64(j.opt.AuditMaxSize) || j.announced.Load() >= a.Next
	var old bool
	if steady && !(shipped && room) {
		var err error
		if old, err = j.expired(a, time.UnixMilli(now)); err != nil {
			return nil, err
		}
	}
	t := &trimming{Event: "archive trimmed", First: a.First, Next: a.Next, Why: "shipped"}
	file := gateway.Archive{First: a.First, Next: a.Next, Bytes: a.Bytes}
	switch {
	case shipped && (room || old):
		text, err := j.readReceipt(over)
		var r gateway.Receipt
		if err == nil {
			r, err = j.checkReceipt(a, text)
		}
		if isDamage(err) {
			return nil, err
		}
		if err != nil {
			j.opt.Log.Error("receipt does not hold, the archive ships again", slog.Any("err", err))
			return nil, j.forgetReceipt(over)
		}
		t.SHA256, t.Bytes, t.Collector = hex.EncodeToString(r.SHA256[:]), r.Bytes, r.By
		if r.First != a.First || r.Next != a.Next {
			t.Of = []uint64{r.First, r.Next}
		}
		return t, nil
	case old && (room || j.opt.Receipt == nil): // with a collector it is given time to take the archive, while there is room
		digest, err := j.digest(&file)
		if err != nil {
			return nil, err
		}
		t.SHA256, t.Bytes, t.Why = hex.EncodeToString(digest[:]), file.Bytes, "retention"
		return t, nil
	}
	return nil, nil
}

// announce puts on the log that an archive goes.
func (j *Journal) announce(t *trimming) {
	if j.announces.Swap(true) {
		return
	}
	detail, err := json.Marshal(t)
	if err != nil {
		panic("journal: encode event: " + err.Error())
	}
	now, trusted := j.opt.Clock()
	r := gateway.Record{Kind: gateway.EventRecord, Time: now, Trusted: trusted, Detail: detail}
	j.opt.step("announce")
	j.Append([]*gateway.Entry{{Record: gateway.AppendRecord(nil, &r)}}, func(_ uint64, err error) {
		if err == nil {
			j.announced.Store(t.Next)
		}
		j.announces.Store(false)
		j.tidySoon()
	})
}

// trim takes the oldest archives off the log, mostly one. That they go is on the log already. A crash between any two of
// its steps leaves the archives, or what is kept of them, or both; Open then goes on with what is kept.
func (j *Journal) trim(list []archiveMeta) error {
	j.opt.step("keep") // 1. what is kept of the records
	b, err := j.baseBehind(list)
	if err != nil {
		return err
	}
	sealed, err := b.seal(j.keys)
	if err != nil {
		return err
	}
	if err := j.writeFile(j.archivePath(baseFile), sealed); err != nil {
		return err
	}
	j.opt.step("forget") // 2. from here on everybody begins behind them
	j.mu.Lock()
	j.base = b
	j.archives = slices.DeleteFunc(slices.Clone(j.archives), func(o archiveMeta) bool { return o.First < b.Next })
	for _, a := range list {
		j.recordBytes.Add(-a.Bytes)
		j.leftover = append(j.leftover, a.path)
	}
	for first, next := range j.receipts {
		if next <= b.Next {
			delete(j.receipts, first)
			j.leftover = append(j.leftover, j.archivePath(receiptName(first)))
		}
	}
	j.mu.Unlock()
	j.opt.step("roots") // 3. their roots, and a second copy of what is kept
	if err := j.dropRoots(b.Next, sealed); err != nil {
		return err
	}
	j.opt.step("remove") // 4. the file
	j.removeTrimmed()
	j.opt.step("removed")
	j.opt.Log.Debug("archive trimmed", slog.Uint64("seq", b.Next))
	j.poke() // there may be room again
	return nil
}

// removeTrimmed removes the files of trimmed archives; what cannot be removed is tried again.
func (j *Journal) removeTrimmed() {
	if len(j.leftover) == 0 {
		return
	}
	j.leftover = slices.DeleteFunc(j.leftover, func(path string) bool {
		err := os.Remove(path)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
	syncDir(j.archivePath(""))
}

// dropRoots removes the stored roots of records below next from state.bolt and keeps a copy of the base there.
func (j *Journal) dropRoots(next uint64, sealed []byte) error {
	return j.state.update(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketRoots); b != nil {
			for c := b.Cursor(); ; {
				k, _ := c.First()
				if len(k) != 8 || binary.BigEndian.Uint64(k) >= next>>rootLevel {
					break
				}
				if err := c.Delete(); err != nil {
					return err
				}
			}
		}
		if err := dropRanges(tx, next); err != nil {
			return err
		}
		b, err := tx.CreateBucketIfNotExists(bucketTrimmed)
		if err != nil {
			return err
		}
		return b.Put(keyNewest, sealed)
	})
}
