package journal

import (
	"errors"
	"maps"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// baseBehind makes what is kept when the records here begin behind the oldest archives, by letting a ledger follow them.
func (j *Journal) baseBehind(list []archiveMeta) (*base, error) {
	old := j.trimmedBase()
	if old == nil {
		old = &base{Names: map[string][]string{}}
	}
	f := follower{j: j, led: newLedger(), b: &base{Version: baseVersion, Changes: slices.Clone(old.Changes)}, age: archiveAge{newest: old.Newest, provision: old.Provision}}
	f.led.restore(old.state())
	f.led.lost = &j.lost
	f.checkpoint = old.Checkpoint
	next := list[len(list)-1].Next
	for i := range list {
		a := &list[i]
		err := archiveCheckpoints(a, j.keys, func(size uint64, text []byte) error {
			if size <= a.Next && size > f.checkpoint.Size && j.lost.knows(size) {
				f.checkpoint = Checkpoint{Size: size, Text: slices.Clone(text)}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		at := a.First
		if err := archiveRecords(a, j.keys, &at, f.record); err != nil {
			return nil, err
		}
	}
	if f.wrong != nil {
		return nil, f.wrong
	}
	b := f.b
	if f.led.tree.size != next {
		return nil, &ErrRecord{next, "has no known tree in front of it"}
	}
	f.led.states.prune(f.led.tree.size)
	b.snapshot, b.States = *f.led.snapshot(), f.led.states.all()
	b.Checkpoint, b.Newest, b.Provision = f.checkpoint, f.age.newest, f.age.provision
	if err := f.keepOpen(); err != nil {
		return nil, err
	}
	if err := f.keepNodes(); err != nil {
		return nil, err
	}
	j.names.mu.RLock()
	b.Names = maps.Clone(j.names.list)
	for kind, list := range b.Names {
		b.Names[kind] = slices.Clone(list)
	}
	j.names.mu.RUnlock()
	return b, b.index()
}

// follower lets a ledger follow the records of an archive that goes.
type follower struct {
	j          *Journal
	b          *base
	led        ledger
	r          gateway.Record
	age        archiveAge
	checkpoint Checkpoint
	wrong      error
}

func (f *follower) record(seq uint64, record []byte) error {
	err := f.led.apply(seq, record, &f.r, f.j.between, func(n uint64, h [32]byte) {
		if stored, ok := f.j.storedRoot(n); ok && stored != h {
			f.wrong = &ErrRecord{seq, "does not lead to the stored hash"}
		}
	}, nil)
	if err != nil {
		return err
	}
	f.age.add(seq, &f.r)
	if f.r.Kind == gateway.ChangeRecord {
		f.b.Changes = append(f.b.Changes, kept{seq, slices.Clone(record)})
		f.b.Changes = f.b.Changes[max(0, len(f.b.Changes)-keptChanges):]
	}
	return nil
}

// keepOpen keeps what of the entries that are not settled a settlement behind them needs: their decisions. Of held
// messages it keeps them too, of messages sent again the record that says so.
func (f *follower) keepOpen() error {
	var o openSet
	visit := func(seq uint64, r *gateway.Record) error {
		s := openSetting{Kind: r.Kind}
		open := false
		for u := range gateway.MaxUplinks {
			open = open || f.led.states.get(u, seq) == gateway.Waiting
		}
		if r.Kind == gateway.DecisionRecord {
			s.setDecision(decisionOf(r))
			open = open || s.Holds != 0
		}
		if open {
			o.add(seq, s)
		}
		return nil
	}
	if err := f.j.between(0, f.b.Next-1, visit); err != nil {
		return err
	}
	f.b.Settings, f.b.Open = o.settings, o.bytes
	return nil
}

// keepNodes keeps the hashes that proofs need of the records that go: the subtrees that the tree consists of, those of
// the checkpoint that is kept and those between, and those beside the change records that are kept.
func (f *follower) keepNodes() error {
	b := f.b
	want := make(map[nodeID]tlog.Hash)
	at, top := uint64(0), make(map[nodeID]bool)
	between(0, b.Next, top)
	for _, h := range b.Tree { // what it consists of, whatever was lost below
		for level := 63; level >= 0; level-- {
			if id := (nodeID{level, at >> level}); top[id] && at>>level<<level == at && b.Next-at >= 1<<level {
				want[id] = h
				at += 1 << level
				break
			}
		}
	}
	older := make(map[nodeID]bool)
	between(0, b.Checkpoint.Size, older)
	between(b.Checkpoint.Size, b.Next, older)
	if err := f.known(older, want); errors.Is(err, errLostLeaf) {
		b.Checkpoint = Checkpoint{} // it cannot be led to what is here: records between are lost
	} else if err != nil {
		return err
	}
	var changes []kept
	for _, k := range b.Changes {
		beside := map[nodeID]bool{{0, k.Seq}: true}
		for level := 0; k.Seq>>level<<level > 0 || 1<<level < b.Next; level++ {
			if n := k.Seq>>level ^ 1; (n+1)<<level <= b.Next {
				beside[nodeID{level, n}] = true
			}
		}
		if err := f.known(beside, want); err == nil {
			changes = append(changes, k)
		} else if !errors.Is(err, errLostLeaf) {
			return err
		}
	}
	b.Changes = changes
	for id, h := range want {
		b.Nodes = append(b.Nodes, node{id.level, id.n, h})
	}
	slices.SortFunc(b.Nodes, func(x, y node) int {
		return slices.Compare([]uint64{uint64(x.Level), x.N}, []uint64{uint64(y.Level), y.N})
	})
	return nil
}

// known adds the hashes of all these nodes, or, with an error, of none.
func (f *follower) known(list map[nodeID]bool, to map[nodeID]tlog.Hash) error {
	found := make(map[nodeID]tlog.Hash, len(list))
	for id := range list {
		h, err := f.j.subtree(id.level, id.n)
		if err != nil {
			return err
		}
		found[id] = h
	}
	maps.Copy(to, found)
	return nil
}

// between adds the largest complete subtrees that leaves from first up to, not with, next consist of.
func between(first, next uint64, to map[nodeID]bool) {
	for first < next {
		level := min(bits.Len64(next-first)-1, bits.TrailingZeros64(first))
		to[nodeID{level, first >> level}] = true
		first += 1 << level
	}
}
