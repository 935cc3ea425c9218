package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"go.etcd.io/bbolt"
)

// bucketTrees is a segment's second bucket: size(8) → the tree of that size, of the segment's first seq and of every
// checkpoint. It lets the log go on when leaves in front of it are lost. It is in a bucket of its own, so that "entries"
// is what it always was.
var bucketTrees = []byte("trees")

// keySigned is the key of the tree that was signed last, beside the snapshot: size(8) ‖ tree, as in segments.
var keySigned = []byte("signed")

// treeVersion is the first byte of a stored tree: version ‖ roots ‖ SHA-256 of the checkpoint's text, or zero ‖ SHA-256
// of the key and all this.
const treeVersion = 1

// storedTree is a tree with the text that was signed of it.
type storedTree struct {
	compact
	text [hashSize]byte // zero when nothing was signed
}

// encodeTree writes a tree; text is the checkpoint of it, or empty.
func encodeTree(c *compact, text []byte) (key, value []byte) {
	t := storedTree{compact: *c}
	if len(text) > 0 {
		t.text = sha256.Sum256(text)
	}
	return t.encode()
}

// encode writes a stored tree.
func (t *storedTree) encode() (key, value []byte) {
	key = binary.BigEndian.AppendUint64(nil, t.size)
	value = append(value, treeVersion)
	for i := range t.roots {
		value = append(value, t.roots[i][:]...)
	}
	value = append(value, t.text[:]...)
	sum := sha256.Sum256(append(key[:8:8], value...))
	return key, append(value, sum[:]...)
}

// parseTree reads the tree at a key and accepts it only with its sum.
func parseTree(size uint64, value []byte) (t storedTree, ok bool) {
	n := bits.OnesCount64(size)
	if len(value) != 1+(n+2)*hashSize || value[0] != treeVersion {
		return t, false
	}
	head := value[:len(value)-hashSize]
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, size), head...))
	if !bytes.Equal(sum[:], value[len(head):]) {
		return t, false
	}
	t.size = size
	for i := range n {
		t.roots = append(t.roots, [hashSize]byte(head[1+i*hashSize:]))
	}
	copy(t.text[:], head[1+n*hashSize:])
	return t, true
}

// saveSigned stores the tree in state.bolt before it is signed: whatever happens to the segment, the log can go on from
// what its signature says.
func (j *Journal) saveSigned() error {
	j.mu.Lock()
	tree := j.led.tree.clone()
	j.mu.Unlock()
	key, value := encodeTree(&tree, nil)
	err := j.state.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketSnapshot)
		if err != nil {
			return err
		}
		return b.Put(keySigned, append(key, value...))
	})
	if isDamage(err) {
		j.suspectState()
	}
	return err
}

// signedTree returns the tree that was signed last, as far as state.bolt knows.
func (j *Journal) signedTree() (t storedTree, ok bool) {
	if j.state.db == nil {
		return t, false
	}
	err := j.state.db.read(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketSnapshot); b != nil {
			if v := b.Get(keySigned); len(v) > checkpointKeyLen {
				t, ok = parseTree(binary.BigEndian.Uint64(v), v[checkpointKeyLen:])
			}
		}
		return nil
	})
	return t, ok && err == nil
}

// putTree stores a tree beside the entries in a segment.
func putTree(tx *bbolt.Tx, c *compact, text []byte) error {
	b, err := tx.CreateBucketIfNotExists(bucketTrees)
	if err != nil {
		return err
	}
	key, value := encodeTree(c, text)
	return b.Put(key, value)
}

// trees lists the trees that are stored in a segment.
func (h *handles) trees(s *segment) (list []storedTree, err error) {
	db, err := h.acquire(s)
	if err != nil {
		return nil, err
	}
	defer h.release(s)
	err = db.read(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketTrees)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(k) != checkpointKeyLen {
				return &damaged{"a tree has an unexpected key"}
			}
			t, ok := parseTree(binary.BigEndian.Uint64(k), v)
			if !ok {
				return &damaged{"a stored tree does not have its sum"}
			}
			list = append(list, t)
			return nil
		})
	})
	return list, err
}
