package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// rootLevel is the level of the subtree roots that are kept: one for 256 leaves. Everything below is recomputed.
const (
	rootLevel = 8
	blockLen  = 1 << rootLevel
)

// leafHash returns the hash of a record as a leaf. [RFC 6962 §2.1]
func leafHash(record []byte) tlog.Hash {
	var buf [1024]byte
	return sha256.Sum256(append(append(buf[:0], 0), record...))
}

// compact is a compact range from leaf 0: the roots of the complete subtrees of a tree of size leaves, largest first.
type compact struct {
	size  uint64
	roots []tlog.Hash
}

func (c *compact) clone() compact {
	return compact{c.size, append(make([]tlog.Hash, 0, len(c.roots)+16), c.roots...)}
}

// push appends a leaf. When that completes a subtree of 256 leaves, it returns the subtree's root.
func (c *compact) push(leaf tlog.Hash) (root tlog.Hash, complete bool) {
	h := leaf
	for level := range bits.TrailingZeros64(^c.size) {
		h = tlog.NodeHash(c.roots[len(c.roots)-1], h)
		c.roots = c.roots[:len(c.roots)-1]
		if level+1 == rootLevel {
			root, complete = h, true
		}
	}
	c.roots = append(c.roots, h)
	c.size++
	return root, complete
}

// pushRoot appends a whole subtree of 256 leaves; the size is a multiple of that.
func (c *compact) pushRoot(h tlog.Hash) {
	for range bits.TrailingZeros64(^(c.size >> rootLevel)) {
		h = tlog.NodeHash(c.roots[len(c.roots)-1], h)
		c.roots = c.roots[:len(c.roots)-1]
	}
	c.roots = append(c.roots, h)
	c.size += blockLen
}

// root returns the tree hash; for an empty tree the hash of nothing. [RFC 6962 §2.1]
func (c *compact) root() tlog.Hash {
	if len(c.roots) == 0 {
		return sha256.Sum256(nil)
	}
	h := c.roots[len(c.roots)-1]
	for i := len(c.roots) - 2; i >= 0; i-- {
		h = tlog.NodeHash(c.roots[i], h)
	}
	return h
}

// valid reports whether the number of roots fits the size.
func (c *compact) valid() bool { return bits.OnesCount64(c.size) == len(c.roots) }

// ReadHashes returns the hashes of the record tree with the given stored-hash indices, so that a Journal is a
// tlog.HashReader for proofs. Hashes below level 8 are recomputed from the records. Of the records that are trimmed there
// are the hashes that proofs of all others need; for any other the error is *ErrTrimmed.
func (j *Journal) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		h, err := j.subtree(level, uint64(n))
		if err != nil {
			return nil, fmt.Errorf("read hash of record tree: %w", err)
		}
		out[i] = h
	}
	return out, nil
}

// subtree returns the root of the complete subtree n of a level.
func (j *Journal) subtree(level int, n uint64) (tlog.Hash, error) {
	if level > 62 || (n+1)<<level > j.Size() {
		return tlog.Hash{}, fmt.Errorf("subtree is not complete")
	}
	if h, ok := j.holeRoot(level, n); ok {
		return h, nil
	}
	if b := j.trimmedBase(); b != nil && n<<level < b.Next {
		if h, ok := b.node(level, n); ok {
			return h, nil
		}
		if level == 0 || !b.reaches(level, n) {
			return tlog.Hash{}, &ErrTrimmed{b.Next}
		}
		left, err := j.subtree(level-1, 2*n)
		if err != nil {
			return tlog.Hash{}, err
		}
		right, err := j.subtree(level-1, 2*n+1)
		return tlog.NodeHash(left, right), err
	}
	if level > rootLevel {
		left, err := j.subtree(level-1, 2*n)
		if err != nil {
			return tlog.Hash{}, err
		}
		right, err := j.subtree(level-1, 2*n+1)
		return tlog.NodeHash(left, right), err
	}
	if level == rootLevel {
		if h, ok := j.storedRoot(n); ok {
			return h, nil
		}
	}
	return j.leaves(n<<level, (n+1)<<level)
}

// leaves recomputes the root of the complete subtree over the records from first up to, not with, end.
func (j *Journal) leaves(first, end uint64) (tlog.Hash, error) {
	var c compact
	err := j.Records(first, func(seq uint64, record []byte) error {
		if seq != first+c.size {
			return errLostLeaf
		}
		c.push(leafHash(record))
		if seq+1 == end {
			return errStop
		}
		return nil
	})
	if err != nil {
		return tlog.Hash{}, err
	}
	if c.size != end-first {
		return tlog.Hash{}, fmt.Errorf("records end early")
	}
	return c.root(), nil
}

// errLostLeaf is for a proof that needs the hash of a record that is lost.
var errLostLeaf = errors.New("records of the subtree are lost")

// holeRoot returns the root of a subtree that was stored beside lost records.
func (j *Journal) holeRoot(level int, n uint64) (tlog.Hash, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lost.root(level, n)
}

// Resume returns the size from which the tree is known again when the record at seq comes next, the tree ended in front
// of it and what lies between is lost; and the roots of its complete subtrees, largest first.
func (j *Journal) Resume(tree, seq uint64) (size uint64, roots []tlog.Hash, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lost.resume(tree, seq)
}

// Size returns the number of records committed, which is the next seq.
func (j *Journal) Size() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.led.tree.size
}

// Root returns the number of records committed and the root of the tree over them.
func (j *Journal) Root() (size uint64, root [32]byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.led.tree.size, j.led.tree.root()
}
