package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// bucketRanges of state.bolt keeps the roots of ranges that are or were an archive, so that they are known when a part of
// the records is lost: first(8) ‖ next(8) → root(32) ‖ SHA-256 of the key and the root(32).
var bucketRanges = []byte("ranges")

const rangeKeyLen = 16

// rootPrefix tells the root of a range from the hash of a leaf and of a node.
const rootPrefix = 2

// rangeRoot returns the root of the records from first up to next, of the roots of the complete subtrees of the tree that
// they consist of, from left to right.
func rangeRoot(first, next uint64, roots []tlog.Hash) [32]byte {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{rootPrefix}, first), next)
	for i := range roots {
		b = append(b, roots[i][:]...)
	}
	return sha256.Sum256(b)
}

// rangeTree makes the subtrees of a range out of its leaves.
type rangeTree struct {
	next   uint64 // leaf
	levels []int
	roots  []tlog.Hash
}

func (t *rangeTree) push(h tlog.Hash) {
	level := 0
	for n := t.next; n&1 == 1 && len(t.levels) > 0 && t.levels[len(t.levels)-1] == level; n >>= 1 {
		h = tlog.NodeHash(t.roots[len(t.roots)-1], h)
		t.levels, t.roots = t.levels[:len(t.levels)-1], t.roots[:len(t.roots)-1]
		level++
	}
	t.levels, t.roots = append(t.levels, level), append(t.roots, h)
	t.next++
}

// rootOf returns the root of the records from first up to next as the tree has it, also of records that are lost or
// trimmed when it was kept. It is kept from then on.
func (j *Journal) rootOf(first, next uint64) (root [32]byte, err error) {
	if root, ok := j.keptRoot(first, next); ok {
		return root, nil
	}
	var roots []tlog.Hash
	for at := first; at < next; {
		level := min(bits.Len64(next-at)-1, bits.TrailingZeros64(at))
		h, err := j.subtree(level, at>>level)
		if err != nil {
			return root, err
		}
		roots = append(roots, h)
		at += 1 << level
	}
	root = rangeRoot(first, next, roots)
	if j.readOnly {
		return root, nil
	}
	return root, j.state.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketRanges)
		if err != nil {
			return err
		}
		key := rangeKey(first, next)
		sum := sha256.Sum256(append(key, root[:]...))
		return b.Put(key, append(root[:], sum[:]...))
	})
}

func rangeKey(first, next uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(make([]byte, 0, rangeKeyLen), first), next)
}

// keptRoot returns the root that was kept of a range.
func (j *Journal) keptRoot(first, next uint64) (root [32]byte, ok bool) {
	j.viewRanges(func(b *bbolt.Bucket) {
		key := rangeKey(first, next)
		var r gateway.RootedRange
		r, ok = parseRange(key, b.Get(key))
		root = r.Root
	})
	return root, ok
}

// wasIn lists the larger ranges that an archive is a part of.
func (j *Journal) wasIn(a *archiveMeta) (list []gateway.RootedRange) {
	j.viewRanges(func(b *bbolt.Bucket) {
		for c, k, v := begin(b); k != nil && len(list) < maxWas; k, v = c.Next() {
			r, ok := parseRange(k, v)
			if ok && r.First > a.First {
				return
			}
			if ok && a.Next <= r.Next && r.Next-r.First > a.Next-a.First {
				list = append(list, r)
			}
		}
	})
	return list
}

// maxWas bounds how often one archive may have become smaller.
const maxWas = 8

func begin(b *bbolt.Bucket) (c *bbolt.Cursor, k, v []byte) {
	c = b.Cursor()
	k, v = c.First()
	return c, k, v
}

// parseRange reads a range that is kept and accepts it only with its sum.
func parseRange(k, v []byte) (r gateway.RootedRange, ok bool) {
	if len(k) != rangeKeyLen || len(v) != 2*hashSize {
		return r, false
	}
	sum := sha256.Sum256(append(bytes.Clone(k), v[:hashSize]...))
	r = gateway.RootedRange{First: binary.BigEndian.Uint64(k), Next: binary.BigEndian.Uint64(k[8:]), Root: [32]byte(v[:hashSize])}
	return r, bytes.Equal(sum[:], v[hashSize:]) && r.First < r.Next
}

// viewRanges calls fn with the bucket of ranges, when there is one; what cannot be read is not known.
func (j *Journal) viewRanges(fn func(b *bbolt.Bucket)) {
	if j.state.db == nil {
		return
	}
	err := j.state.db.read(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketRanges); b != nil {
			fn(b)
		}
		return nil
	})
	if err != nil {
		j.opt.Log.Warn("kept roots of ranges are not readable", "err", err)
	}
}

// dropRanges removes the ranges that end at or before next.
func dropRanges(tx *bbolt.Tx, next uint64) error {
	b := tx.Bucket(bucketRanges)
	if b == nil {
		return nil
	}
	var gone [][]byte
	err := b.ForEach(func(k, _ []byte) error {
		if len(k) != rangeKeyLen || binary.BigEndian.Uint64(k[8:]) <= next {
			gone = append(gone, bytes.Clone(k))
		}
		return nil
	})
	for _, k := range gone {
		if err == nil {
			err = b.Delete(k)
		}
	}
	return err
}

// inspect opens every block of an archive's file and returns what a collector is told of it. Digest and root are of the
// same bytes. A file that does not open is an error of damage.
func (j *Journal) inspect(a *archiveMeta) (s gateway.Shipment, err error) {
	defer func() {
		if errors.Is(err, errArchive) {
			err = fmt.Errorf("read %s: %w", archiveName(a.First), err)
		}
	}()
	f, err := os.Open(a.path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return s, err
	}
	h := hashedReader{r: f, sum: sha256.New()}
	r, err := newArchiveReader(&h, st.Size(), j.keys)
	if err != nil {
		return s, err
	}
	tree := rangeTree{next: a.First}
	for {
		plain, first, count, err := r.next(func(uint64, uint32) bool { return false })
		if err == io.EOF {
			break
		}
		if err == nil && r.block == r.blocks() { // the checkpoints
			err = splitCheckpoints(plain, count, func(uint64, []byte) error { return nil })
		} else if err == nil {
			if first != tree.next {
				err = errArchive
			} else {
				err = splitRecords(plain, count, func(record []byte) error { tree.push(leafHash(record)); return nil })
			}
		}
		if err != nil {
			return s, err
		}
	}
	if r.meta.First != a.First || r.meta.Next != a.Next || tree.next != a.Next || h.at != st.Size() {
		return s, errArchive
	}
	s = gateway.Shipment{Archive: gateway.Archive{First: a.First, Next: a.Next, Bytes: st.Size()}, SHA256: [32]byte(h.sum.Sum(nil))}
	if own := rangeRoot(a.First, a.Next, tree.roots); own == j.ownRoot(a.First, a.Next) {
		s.Root = own
	}
	s.Was = j.wasIn(a)
	return s, nil
}

// ownRoot is rootOf; zero when the root is not known.
func (j *Journal) ownRoot(first, next uint64) [32]byte {
	root, err := j.rootOf(first, next)
	if err != nil {
		return [32]byte{}
	}
	return root
}

// hashedReader hashes what is read from front to back.
type hashedReader struct {
	r   io.ReaderAt
	sum hash.Hash
	at  int64
}

func (h *hashedReader) ReadAt(p []byte, at int64) (int, error) {
	n, err := h.r.ReadAt(p, at)
	if at == h.at {
		h.sum.Write(p[:n])
		h.at += int64(n)
	}
	return n, err
}
