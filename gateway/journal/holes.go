package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// lossFile says what was lost for good: SHA-256 in hexadecimal of the line behind it ‖ newline ‖ JSON of losses.
const lossFile = "losses"

// hole is a range of records that are lost. Its seqs are never given again: a signed tree covers them.
type hole struct {
	First  uint64      `json:"first"`
	Next   uint64      `json:"next"`
	Filled bool        `json:"filled,omitempty"` // no signed tree covers them: event records stand in their place
	Resume uint64      `json:"resume,omitempty"` // the size from which the tree is known again, Next or more
	Tree   []tlog.Hash `json:"tree,omitempty"`   // of that size
}

// lostBody is a message whose record is there and whose body is not, with the uplinks that it was for.
type lostBody struct {
	Seq   uint64            `json:"seq"`
	Waits gateway.UplinkSet `json:"waits,omitempty"`
	Holds gateway.UplinkSet `json:"holds,omitempty"`
}

// losses is all that a journal knows to be lost, in order.
type losses struct {
	Holes  []hole     `json:"holes,omitempty"`
	Bodies []lostBody `json:"bodies,omitempty"`
}

// Losses counts what a journal lost to damage, ever. All of it is on the record.
type Losses struct {
	Records uint64 `json:"records"`
	Bodies  uint64 `json:"bodies"`
	Files   int    `json:"files"` // in the folder "damaged", which nothing but its owner empties
	Bytes   int64  `json:"bytes"` // of these
}

// Losses returns what was lost to damage.
func (j *Journal) Losses() Losses {
	j.mu.Lock()
	l := Losses{Records: j.lost.records(), Bodies: uint64(len(j.lost.Bodies))}
	j.mu.Unlock()
	l.Files, l.Bytes = damagedFiles(j.opt.Dir)
	return l
}

func damagedFiles(dir string) (n int, size int64) {
	files, _ := os.ReadDir(filepath.Join(dir, damagedDir))
	for _, f := range files {
		if st, err := f.Info(); err == nil {
			n++
			size += st.Size()
		}
	}
	return n, size
}

func (l *losses) records() (n uint64) {
	for _, h := range l.Holes {
		n += h.Next - h.First
	}
	return n
}

// at returns the hole, not filled, that seq is in.
func (l *losses) at(seq uint64) *hole {
	for i := range l.Holes {
		if h := &l.Holes[i]; !h.Filled && h.First <= seq && seq < h.Next {
			return h
		}
	}
	return nil
}

// between reports whether a record from first to last is lost.
func (l *losses) between(first, last uint64) bool {
	return slices.ContainsFunc(l.Holes, func(h hole) bool { return h.First <= last && first < h.Next })
}

// body returns what is known to be lost of message seq.
func (l *losses) body(seq uint64) (b lostBody) {
	i, ok := slices.BinarySearchFunc(l.Bodies, seq, func(b lostBody, seq uint64) int {
		if b.Seq < seq {
			return -1
		} else if b.Seq > seq {
			return 1
		}
		return 0
	})
	if ok {
		return l.Bodies[i]
	}
	return b
}

// addBody notes the loss of a body and reports whether it was new.
func (l *losses) addBody(seq uint64, waits, holds gateway.UplinkSet) bool {
	i := 0
	for i < len(l.Bodies) && l.Bodies[i].Seq < seq {
		i++
	}
	if i == len(l.Bodies) || l.Bodies[i].Seq != seq {
		l.Bodies = slices.Insert(l.Bodies, i, lostBody{Seq: seq})
	}
	b := &l.Bodies[i]
	if b.Waits|waits == b.Waits && b.Holds|holds == b.Holds {
		return false
	}
	b.Waits |= waits
	b.Holds |= holds
	return true
}

// pass moves a tree that ends in front of seq, or in it, behind the lost records between.
func (l *losses) pass(t *compact, seq uint64) {
	for i := range l.Holes {
		h := &l.Holes[i]
		if !h.Filled && h.First <= t.size && t.size < h.Resume && (t.size < seq || h.First == h.Next && h.First == seq) {
			*t = compact{h.Resume, slices.Clone(h.Tree)}
		}
	}
}

// resume is Journal.Resume.
func (l *losses) resume(tree, seq uint64) (size uint64, roots []tlog.Hash, ok bool) {
	t := compact{size: tree}
	if l.pass(&t, seq); t.size < seq {
		return 0, nil, false
	}
	return t.size, t.roots, true
}

// knows reports whether the tree of a size is known, as far as lost records go.
func (l *losses) knows(size uint64) bool {
	return !slices.ContainsFunc(l.Holes, func(h hole) bool { return !h.Filled && h.First < size && size < h.Resume })
}

// root returns the root of the complete subtree n of a level, when a tree behind a hole has it.
func (l *losses) root(level int, n uint64) (tlog.Hash, bool) {
	for i := range l.Holes {
		h := &l.Holes[i]
		at := uint64(0)
		for k, top := 0, 63; top >= 0; top-- {
			if h.Resume>>top&1 == 0 {
				continue
			}
			if top == level && at>>top == n && k < len(h.Tree) {
				return h.Tree[k], true
			}
			at += 1 << top
			k++
		}
	}
	return tlog.Hash{}, false
}

func (l *losses) encode() []byte {
	text, err := json.Marshal(l)
	if err != nil {
		panic("journal: encode losses: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return append(append([]byte(hex.EncodeToString(sum[:])), '\n'), text...)
}

// errLosses marks the error for a file of losses that is damaged itself.
var errLosses = errors.New("the list of losses is damaged")

func readLosses(dir string) (l losses, err error) {
	b, err := os.ReadFile(filepath.Join(dir, lossFile))
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	sum, text, _ := bytes.Cut(b, []byte{'\n'})
	want := sha256.Sum256(text)
	if string(sum) != hex.EncodeToString(want[:]) || json.Unmarshal(text, &l) != nil {
		return losses{}, &damaged{errLosses}
	}
	for _, h := range l.Holes {
		if h.Next < h.First || !h.Filled && (h.Resume < h.Next || !(&compact{h.Resume, h.Tree}).valid()) {
			return losses{}, &damaged{errLosses}
		}
	}
	return l, nil
}
