package journal

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// Bounds of one transaction.
const (
	groupBytes   = 4 << 20
	groupEntries = 4096

	// sharedBytes bounds one that holds a settlement: the window of an uplink turns over once in two commits, so that large
	// ones would let devices pass by the uplink.
	sharedBytes = 512 << 10
)

// Bounds of the pause after a commit that failed.
const (
	retryFirst = 50 * time.Millisecond
	retryLast  = 5 * time.Second
)

// enqueue hands b to the committer and reports whether it still takes anything.
func (j *Journal) enqueue(b *batch) bool {
	j.qmu.Lock()
	defer j.qmu.Unlock()
	if j.closing {
		return false
	}
	if len(j.urgent)+len(j.queue) == 0 {
		j.queuedAt = time.Now()
	}
	j.queuedBytes += b.size
	if b.settle != nil {
		j.urgent = append(j.urgent, b)
	} else {
		j.queue = append(j.queue, b)
	}
	j.wake.Signal()
	return true
}

// poke makes the committer look again at what holds it up.
func (j *Journal) poke() {
	j.qmu.Lock()
	defer j.qmu.Unlock()
	j.look = true
	j.wake.Signal()
}

// due reports, once, what take was woken for: a checkpoint by time or count, and a look at what holds the committer up.
func (j *Journal) due() (checkpoint, look bool) {
	j.qmu.Lock()
	defer j.qmu.Unlock()
	checkpoint, look = j.ticked, j.look
	j.ticked, j.look = false, false
	return checkpoint || j.Size() >= j.Checkpoint().Size+j.opt.CheckpointCount, look
}

// blocked reports whether nothing but urgent batches may be committed.
func (j *Journal) blocked() bool { return j.spent() || j.uplinkRoom.Load() <= 0 }

// spent reports whether a bound is reached that holds for all uplinks together.
func (j *Journal) spent() bool {
	return j.bodyBytes.Load() >= j.opt.MaxSize || j.recordBytes.Load() >= j.opt.AuditMaxSize-j.opt.auditReserve() || j.reserveSpent.Load()
}

// Full reports that the budget is spent or the disk refuses to write: what is appended now waits.
func (j *Journal) Full() bool { return j.failing.Load() || j.blocked() }

// Writable reports whether the last commit succeeded.
func (j *Journal) Writable() bool { return !j.failing.Load() && !j.readOnly }

// run is the committer: it turns the queue into transactions, one after the other, until Close.
func (j *Journal) run() {
	defer close(j.committed)
	var group []*batch
	for {
		var work bool
		if group, work = j.take(group[:0]); !work {
			break
		}
		if len(group) > 0 {
			settled := group[0].settle != nil
			j.commitGroup(group)
			if settled {
				j.awaitSettlement()
			}
		}
		checkpoint, look := j.due()
		if checkpoint {
			j.signCheckpoint()
		}
		if look && j.reserveSpent.Load() {
			j.tryReserve()
		}
		if j.blocked() && j.writeBodies > 0 {
			j.retire() // so that it can drain and make room
		}
	}
	j.signCheckpoint()
	j.retire()
	j.qmu.Lock()
	rest := append(j.urgent, j.queue...)
	j.urgent, j.queue = nil, nil
	j.qmu.Unlock()
	for _, b := range rest {
		b.finish(0, ErrClosed)
	}
}

// awaitSettlement gives an uplink whose settlement was just committed the time to hand in the next one. Otherwise that
// would miss the next commit, which devices fill at once, and the uplink's window turn over once in two commits.
func (j *Journal) awaitSettlement() {
	for range 5 {
		j.qmu.Lock()
		useless := len(j.urgent) > 0 || len(j.queue) == 0 || j.closing
		j.qmu.Unlock()
		if useless {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// take waits for work and gathers one group of batches; the group is empty when only a checkpoint is due or a retry of
// the reserve. work is false when the journal closes and nothing is left that can be committed.
func (j *Journal) take(group []*batch) (_ []*batch, work bool) {
	j.qmu.Lock()
	defer j.qmu.Unlock()
	for {
		if j.gaveUp {
			return group, false
		}
		if (!j.pausing || j.closing) && !j.lingering() {
			full := j.blocked()
			j.urgent = gather(&group, j.urgent, groupBytes, false)
			if !j.failing.Load() || len(group) == 0 { // after a failure what makes room goes alone
				room := j.room()
				if len(group) > 0 {
					room = min(room, sharedBytes)
				}
				j.queue = gather(&group, j.queue, room, full)
			}
			if len(group) > 0 {
				j.hurried, j.queuedAt, j.queuedBytes = false, time.Now(), 0
				for _, b := range j.queue {
					j.queuedBytes += b.size
				}
				return group, true
			}
			if j.closing {
				return group, false
			}
			if j.ticked || j.look {
				return group, true
			}
			if full && j.write != nil && j.writeBodies > 0 {
				return group, true // to retire it
			}
		}
		j.wake.Wait()
	}
}

// lingerBytes is how much is worth a transaction of its own: what that costs beside is small then.
const lingerBytes = 256 << 10

// lingering reports whether the committer waits for more before the next commit, and sees to it that it looks again. j.qmu
// is held.
func (j *Journal) lingering() bool {
	if j.opt.Linger <= 0 || j.closing || j.hurried || j.rushed || j.queuedBytes >= lingerBytes || len(j.urgent)+len(j.queue) == 0 {
		return false
	}
	left := j.opt.Linger - time.Since(j.queuedAt)
	if left <= 0 {
		return false
	}
	if !j.linger {
		j.linger = true
		j.opt.after(left, func() {
			j.qmu.Lock()
			defer j.qmu.Unlock()
			j.linger = false
			j.wake.Signal()
		})
	}
	return true
}

// Hurry ends the wait for more before the next commit: somebody waits for it who sends nothing more until then.
func (j *Journal) Hurry() {
	if j.opt.Linger <= 0 {
		return
	}
	j.qmu.Lock()
	defer j.qmu.Unlock()
	j.hurried = true
	j.wake.Signal()
}

// Rush ends lingering for good: the gateway stops.
func (j *Journal) Rush() {
	j.qmu.Lock()
	defer j.qmu.Unlock()
	j.rushed = true
	j.wake.Signal()
}

// room returns the bytes that one transaction may add: the last one before the journal is full ends where it is full.
func (j *Journal) room() int {
	left := min(j.opt.MaxSize-j.bodyBytes.Load(), j.opt.AuditMaxSize-j.opt.auditReserve()-j.recordBytes.Load(), j.uplinkRoom.Load())
	return int(min(groupBytes, left))
}

// gather moves batches from the front of queue to the group, up to room bytes but at least one batch; when full only
// those that may pass others. It returns the queue that is left.
func gather(group *[]*batch, queue []*batch, room int, full bool) []*batch {
	size, items := 0, 0
	for _, b := range *group {
		size, items = size+b.size, items+len(b.items)
	}
	kept := 0
	for i, b := range queue {
		if len(*group) > 0 && (size+b.size > room || items+len(b.items) > groupEntries) {
			kept += copy(queue[kept:], queue[i:])
			break
		}
		if full && !b.urgent && b.err == nil {
			queue[kept] = b
			kept++
			continue
		}
		*group = append(*group, b)
		size, items = size+b.size, items+len(b.items)
	}
	clear(queue[kept:])
	return queue[:kept]
}

// finish tells whoever waits for b.
func (b *batch) finish(first uint64, err error) {
	if b.ready != nil {
		b.err = err
		<-b.settle.slot
		close(b.ready)
		return
	}
	b.done(first, err)
}

// commitGroup commits the batches of a group that can be committed and calls their done. When the commit fails, they go
// back to the front of the queue and the committer pauses.
func (j *Journal) commitGroup(group []*batch) {
	good, size, items := 0, 0, 0
	for _, b := range group {
		if b.err == nil {
			good++
			size, items = size+b.size, items+len(b.items)
		}
	}
	first := j.Size()
	if good > 0 {
		start := time.Now()
		if err := j.commit(group, size); err != nil {
			j.commitFailed(group, err)
			return
		}
		j.commitWorked()
		if j.opt.OnCommit != nil {
			j.opt.OnCommit(time.Since(start), items, size)
		}
	}
	for i, b := range group {
		n := uint64(len(b.items))
		if err := b.err; err != nil {
			b.finish(0, err)
		} else {
			b.finish(first, nil)
			first += n
			b.recycleUnlessAwaited()
		}
		group[i] = nil
	}
}

// recycleUnlessAwaited returns the memory of b; that of a settlement belongs to its caller again.
func (b *batch) recycleUnlessAwaited() {
	if b.ready == nil {
		b.recycle()
	}
}

// commit writes the good batches of a group in one transaction and then lets the ledger follow.
func (j *Journal) commit(group []*batch, size int) error {
	if j.write == nil {
		if err := j.openSegment(); err != nil {
			return err
		}
	}
	tree := j.led.tree.clone() // only the committer changes it
	var written int64
	roots := j.freshRoots[:0]
	err := j.write.db.write(func(tx *bbolt.Tx) (err error) {
		b := tx.Bucket(entries)
		b.FillPercent = 1
		if err := j.putFirstCheckpoint(b); err != nil {
			return err
		}
		if err := j.putFirstTree(tx); err != nil {
			return err
		}
		for _, batch := range group {
			if batch.err != nil {
				continue
			}
			if roots, err = putBatch(b, batch, &tree, roots); err != nil {
				return err
			}
		}
		return nil
	}, func(tx *bbolt.Tx) error {
		err := j.opt.commit(tx)
		stats := tx.Stats()
		written = stats.GetPageAlloc() + int64(j.pageSize) // and the meta page
		return err
	})
	if err != nil {
		return err
	}
	j.written.Add(uint64(written))
	j.freshRoots = roots
	j.apply(group, tree, roots)
	if j.writeSize()+int64(size) >= j.opt.SegmentSize {
		j.retire()
	}
	return nil
}

// writeSize returns how far the segment open for writing is filled, in bytes of its file.
func (j *Journal) writeSize() (size int64) {
	err := j.write.db.read(func(tx *bbolt.Tx) error {
		size = tx.Size()
		return nil
	})
	if err != nil {
		return j.opt.SegmentSize // whatever is wrong with it, it is not written to again
	}
	return size
}

// putBatch puts the records and bodies of one batch behind the tree and lets it grow.
func putBatch(b *bbolt.Bucket, batch *batch, tree *compact, roots []freshRoot) ([]freshRoot, error) {
	var key [entryKeyLen]byte
	for i := range batch.items {
		it, seq := &batch.items[i], tree.size
		if err := b.Put(entryKey(&key, seq, recordByte), it.record); err != nil {
			return roots, err
		}
		for k := range it.bodies {
			if err := b.Put(entryKey(&key, seq, 1+it.bodies[k].variant), it.bodies[k].value); err != nil {
				return roots, err
			}
		}
		if root, complete := tree.push([hashSize]byte(it.record)); complete {
			roots = append(roots, freshRoot{seq >> rootLevel, root})
		}
	}
	return roots, nil
}

// apply lets the ledger, the segment's figures and the waiting readers follow a commit.
func (j *Journal) apply(group []*batch, tree compact, roots []freshRoot) {
	j.mu.Lock()
	defer j.mu.Unlock()
	seq := j.led.tree.size
	m := &j.write.segmentMeta
	var bodies, records int64
	for _, b := range group {
		if b.err != nil {
			continue
		}
		for i := range b.items {
			it := &b.items[i]
			j.enter(seq, it)
			for k := range it.bodies {
				s := &it.bodies[k]
				m.addBody(seq, &s.header, len(s.value), false, waitsNow)
				j.expect(seq, &s.header, len(s.value))
				bodies += int64(len(s.value))
			}
			records += int64(len(it.record))
			seq++
		}
		if b.settle != nil {
			j.settle(b.settle)
		}
	}
	j.led.tree = tree
	j.ages.add(tree.size, j.age())
	m.Next = tree.size
	m.RecordBytes += uint64(records)
	j.writeBodies += bodies
	j.bodyBytes.Add(bodies)
	j.recordBytes.Add(records)
	for _, r := range roots {
		j.roots[r.n] = r.hash
	}
	j.measure()
	j.wakeWaiters()
}

func waitsNow(int) gateway.State { return gateway.Waiting }

// enter lets the ledger follow one committed entry. j.mu is held.
func (j *Journal) enter(seq uint64, it *item) {
	switch {
	case it.message:
		j.led.decide(seq, &it.decision)
	case it.again > 0:
		if err := j.led.retry(bits.TrailingZeros32(uint32(it.decision.waits)), seq, it.again); err != nil {
			panic("journal: retry: " + err.Error()) // Retry made sure of it, and the uplink's slot was held since
		}
	default:
		j.led.expect(seq, it.decision.waits)
	}
}

// wakeWaiters wakes who waits for a change. j.mu is held.
func (j *Journal) wakeWaiters() {
	if j.waiters > 0 {
		close(j.changed)
		j.changed, j.waiters = make(chan struct{}), 0
	}
}

// notify is wakeWaiters for who does not hold j.mu.
func (j *Journal) notify() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.wakeWaiters()
}

// openSegment starts the next segment.
func (j *Journal) openSegment() error {
	first := j.Size()
	s, err := createSegment(j.opt.Dir, first, int(j.opt.SegmentSize+2*groupBytes), j.opt.openFile)
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	s.db.AllocSize = int(min(j.opt.SegmentSize/4, 16<<20))
	j.pageSize = s.db.Info().PageSize
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments = append(j.segments, s)
	j.write, j.writeBodies = s, 0
	return nil
}

// retire ends writing to the current segment; the next commit starts another.
func (j *Journal) retire() {
	if j.write == nil {
		return
	}
	j.mu.Lock()
	s := j.write
	j.write = nil
	empty := s.First == s.Next
	if empty {
		j.segments = slices.Clone(j.segments[:len(j.segments)-1])
	}
	j.mu.Unlock()
	j.files.release(s)
	if empty {
		j.files.drop(s) // its file is made anew
	}
	j.tidy()
}

// commitFailed puts the batches of a group back in order, gives up the segment and lets the committer pause.
func (j *Journal) commitFailed(group []*batch, err error) {
	j.mu.Lock()
	j.failure = err
	j.mu.Unlock()
	if !j.failing.Swap(true) {
		j.opt.Log.Error("journal cannot write", slog.Any("err", err), slog.String("reason", string(troubleOf(err))))
	}
	if isDamage(err) {
		j.suspect()
	}
	j.retire()
	if j.spendReserve() {
		j.lookAgain = j.opt.after(retryLast, j.poke)
	}
	j.qmu.Lock()
	defer j.qmu.Unlock()
	var urgent, queue []*batch
	for _, b := range group {
		if b.settle != nil {
			urgent = append(urgent, b)
		} else {
			queue = append(queue, b)
		}
	}
	j.urgent, j.queue = append(urgent, j.urgent...), append(queue, j.queue...)
	j.gaveUp = j.closing // one last attempt was enough
	j.pause = min(max(2*j.pause, retryFirst), retryLast)
	j.pausing = true
	j.opt.after(j.pause, func() {
		j.qmu.Lock()
		defer j.qmu.Unlock()
		j.pausing = false
		j.wake.Signal()
	})
}

// commitWorked ends a spell of failures.
func (j *Journal) commitWorked() {
	j.pause = 0
	if j.failing.Swap(false) {
		j.opt.Log.Info("journal writes again")
	}
}

// tryReserve makes the reserve again, when no delivery needs the room, or sees to it that it is tried later.
func (j *Journal) tryReserve() {
	j.qmu.Lock()
	needed := len(j.urgent) > 0
	j.qmu.Unlock()
	if !needed && j.restoreReserve() {
		return
	}
	if j.lookAgain != nil {
		j.lookAgain.Stop()
	}
	j.lookAgain = j.opt.after(retryLast, j.poke)
}

// putFirstTree stores the tree in front of a segment, so that it can go on from there whatever becomes of the files before.
func (j *Journal) putFirstTree(tx *bbolt.Tx) error {
	if j.write.Next != j.write.First {
		return nil
	}
	var text []byte
	if j.checkpoint.Size == j.write.First {
		text = j.checkpoint.Text
	}
	return putTree(tx, &j.led.tree, text)
}

// putFirstCheckpoint repeats the newest checkpoint in front of a segment that begins where it ends, so that no
// checkpoint is lost when it was signed between two segments.
func (j *Journal) putFirstCheckpoint(b *bbolt.Bucket) error {
	first := j.write.First
	if j.write.Next != first || j.checkpoint.Size != first || len(j.checkpoint.Text) == 0 {
		return nil
	}
	return b.Put(binary.BigEndian.AppendUint64(nil, first), j.checkpoint.Text)
}
