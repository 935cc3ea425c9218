package journal

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// walk lets a tree follow all readable records and decides on every gap: the records behind it keep their seqs, because
// the tree is known again from some size on, or because nothing was signed that covers the gap.
func (r *repair) walk() error {
	at := r.start()
	for _, p := range r.pieces {
		if p.next <= p.first && len(p.damaged) == 0 {
			continue
		}
		if err := r.gap(at, p.first); err != nil {
			return err
		}
		at = max(at, p.first)
		err := r.leaves(p, func(seq uint64, leaf tlog.Hash) error {
			if seq < at {
				return nil
			}
			if err := r.gap(at, seq); err != nil {
				return err
			}
			r.push(seq, leaf)
			at = seq + 1
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := r.tail(at); err != nil {
		return err
	}
	for _, p := range r.pieces {
		r.noteDamage(p)
	}
	if r.gone > 0 {
		r.plan.Files = append(r.plan.Files, SetAside{File: "missing", First: r.goneFirst, Last: r.goneLast, RecordsLost: r.gone})
	}
	return nil
}

// miss counts records that are lost and were not before, for the file that they were in.
func (r *repair) miss(first, next uint64) {
	n := next - first
	for _, h := range r.j.lost.Holes {
		if h.First < next && first < h.Next {
			n -= min(h.Next, next) - max(h.First, first)
		}
	}
	if n == 0 {
		return
	}
	r.plan.Restate = true
	for _, p := range r.pieces {
		if len(p.damaged) > 0 && p.first <= first && first < p.limit {
			p.records += n
			p.next = max(p.next, min(next, p.limit))
			return
		}
	}
	if r.gone == 0 {
		r.goneFirst = first
	}
	r.gone += n
	r.goneLast = next - 1
}

// noteDamage plans to set the files of a piece aside.
func (r *repair) noteDamage(p *piece) {
	for i, name := range p.damaged {
		f := SetAside{File: name, First: p.first, Last: max(p.next, p.first+1) - 1}
		if i == len(p.damaged)-1 {
			f.Records, f.RecordsLost, f.BodiesLost = uint64(len(p.leaves)), p.records, p.lostBodies
		}
		r.setAside(name, f)
	}
}

// leaves calls fn for the leaf hash of every record of a piece.
func (r *repair) leaves(p *piece, fn func(seq uint64, leaf tlog.Hash) error) error {
	if len(p.damaged) > 0 {
		for _, l := range p.leaves {
			if err := fn(l.seq, l.hash); err != nil {
				return err
			}
		}
		return r.lostBodies(p)
	}
	at := p.first
	visit := func(seq uint64, record []byte) error {
		if p.archive != nil && r.parked != nil {
			r.missHeld(seq, record)
		}
		return fn(seq, leafHash(record))
	}
	if p.archive != nil {
		return archiveRecords(p.archive, r.j.keys, &at, visit)
	}
	defer r.j.files.close(p.segment)
	return r.j.segmentRecords(p.segment, p.next, &at, visit)
}

// lostBodies notes the bodies that the records of a damaged segment decided on and that are not readable.
func (r *repair) lostBodies(p *piece) error {
	all, err := r.salvage(p)
	if err != nil {
		return err
	}
	var rec gateway.Record
	for i := range all.entries {
		e := &all.entries[i]
		if gateway.DecodeRecord(e.record[hashSize:], &rec) != nil || rec.Kind != gateway.DecisionRecord {
			continue
		}
		d := decisionOf(&rec)
		waits, holds := e.has()
		missing := r.needed.waits(e.seq, &d, d.waits&^waits)
		if p.segment == nil { // an archive has no bodies; what is held is parked
			missing, holds = 0, d.holds
			if r.parked != nil {
				r.missHeld(e.seq, e.record[hashSize:])
			}
		}
		if (missing != 0 || d.holds&^holds != 0) && r.lost.addBody(e.seq, missing, d.holds&^holds) {
			p.lostBodies++
			r.plan.Restate = r.plan.Restate || d.holds&^holds != 0
		}
	}
	return nil
}

// missHeld notes a held body that is neither in a segment nor, any more, parked.
func (r *repair) missHeld(seq uint64, record []byte) {
	var rec gateway.Record
	if gateway.DecodeRecord(record, &rec) != nil || rec.Kind != gateway.DecisionRecord {
		return
	}
	d := decisionOf(&rec)
	i, ok := slices.BinarySearchFunc(r.parked.entries, seq, func(e salvaged, seq uint64) int { return cmp.Compare(e.seq, seq) })
	if ok {
		_, have := r.parked.entries[i].has()
		d.holds &^= have
	}
	if d.holds != 0 && r.lost.addBody(seq, 0, d.holds) {
		r.plan.Restate = true
		for i := range r.plan.Files {
			if r.plan.Files[i].File == parkedFile {
				r.plan.Files[i].BodiesLost++
			}
		}
	}
}

// push lets the tree grow by the record at seq, unless it is past it already.
func (r *repair) push(seq uint64, leaf tlog.Hash) {
	if r.tree.size != seq {
		return
	}
	if root, complete := r.tree.push(leaf); complete {
		if stored, ok, spoilt := r.j.lookRoot(seq >> rootLevel); spoilt || ok && stored != root {
			r.plan.Roots[seq>>rootLevel] = root
		}
	}
	if k, ok := r.known[r.tree.size]; ok && !slices.Equal(k.roots, r.tree.roots) {
		// Every record has its hash and yet another tree was stored, and perhaps signed: it is the one that counts.
		r.lost.Holes = append(r.lost.Holes, hole{First: seq, Next: seq, Resume: k.size, Tree: k.roots})
		r.tree = k.clone()
	}
	if r.tree.size%blockLen == 0 {
		r.block = r.tree.clone()
	}
}

// gap passes the lost records from first up to next.
func (r *repair) gap(first, next uint64) error {
	if first >= next {
		return nil
	}
	r.miss(first, next)
	if r.tree.size >= next {
		r.hole(first, next)
		return nil
	}
	if t, ok := r.resume(next); ok {
		r.grow(t)
		r.hole(first, next)
		return nil
	}
	if mid := r.largest(r.tree.size, next); mid.size > 0 { // beyond the last tree that is known
		r.grow(mid)
	}
	if r.signed > r.tree.size {
		return fmt.Errorf("%w: records %d to %d are lost, a checkpoint of size %d was signed", ErrForked, first, next-1, r.signed)
	}
	if r.tree.size > first {
		r.hole(first, r.tree.size)
	}
	return r.fill(r.tree.size, next)
}

// grow lets the tree be a larger one that is known.
func (r *repair) grow(t compact) {
	r.tree = t.clone()
	if t.size%blockLen == 0 {
		r.block = t.clone()
	}
}

// hole notes that the records from first up to next are lost and the tree is known.
func (r *repair) hole(first, next uint64) {
	if n := len(r.lost.Holes); n > 0 && !r.lost.Holes[n-1].Filled && r.lost.Holes[n-1].Next == first {
		first = r.lost.Holes[n-1].First
		r.lost.Holes = r.lost.Holes[:n-1]
	}
	r.lost.Holes = append(r.lost.Holes, hole{First: first, Next: next, Resume: r.tree.size, Tree: slices.Clone(r.tree.roots)})
}

// resume returns the smallest tree of at least next records that is known: stored as such, or made of the roots of
// whole subtrees.
func (r *repair) resume(next uint64) (t compact, ok bool) {
	for size, k := range r.known {
		if size >= next && (!ok || size < t.size) {
			t, ok = k, true
		}
	}
	b := r.block.clone()
	for b.size < next && (!ok || b.size < t.size) {
		root, have := r.j.storedRoot(b.size >> rootLevel)
		if !have {
			return t, ok
		}
		b.pushRoot(root)
	}
	if b.size >= next && (!ok || b.size < t.size) {
		return b, true
	}
	return t, ok
}

// largest returns the largest tree that is known with a size between two seqs.
func (r *repair) largest(first, next uint64) (t compact) {
	for size, k := range r.known {
		if size > first && size < next && size > t.size {
			t = k
		}
	}
	return t
}

// fill puts event records in the place of lost ones that nothing signed covers.
func (r *repair) fill(first, next uint64) error {
	if next-first > maxFill {
		return &ErrRecord{first, "is missing, with more behind it than can be replaced"}
	}
	for seq := first; seq < next; seq++ {
		h := fillLeaf(seq)
		r.push(seq, h)
	}
	r.lost.Holes = append(r.lost.Holes, hole{First: first, Next: next, Filled: true})
	return nil
}

// fillRecord is the record that stands in the place of a lost one.
func fillRecord(seq uint64) []byte {
	return gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Time: time.UnixMilli(0), Detail: fmt.Appendf(nil, `{"event":"record lost","seq":%d}`, seq)})
}

func fillLeaf(seq uint64) tlog.Hash { return leafHash(fillRecord(seq)) }

// tail ends the walk: what a larger tree covers was there and is lost.
func (r *repair) tail(at uint64) error {
	end := max(at, r.tree.size)
	for size := range r.known {
		end = max(end, size)
	}
	if r.snap != nil && r.snap.Next > end {
		end = r.snap.Next
	}
	if err := r.gap(at, end); err != nil {
		return err
	}
	if r.signed > end {
		return fmt.Errorf("%w: %d records are left, a checkpoint of size %d was signed", ErrForked, end, r.signed)
	}
	r.keepFilled()
	r.plan.From = end
	return nil
}

// keepFilled takes over what an earlier repair filled.
func (r *repair) keepFilled() {
	for _, h := range r.j.lost.Holes {
		if h.Filled && !r.lost.between(h.First, h.Next-1) {
			r.lost.Holes = append(r.lost.Holes, h)
		}
	}
	slices.SortStableFunc(r.lost.Holes, func(a, b hole) int { return cmp.Compare(a.First, b.First) })
}
