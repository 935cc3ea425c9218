package journal

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"os"
)

// scanArchive takes what can be opened out of the bytes of a damaged archive whose first seq is known from its name and
// whose end from the file behind it, or not at all (0). Blocks are sealed one by one, and all but the last say where
// they begin with a number that is known beforehand.
func scanArchive(b []byte, keys *keyring, first, next uint64) *readable {
	r := new(readable)
	a := archiveSalvage{b: b, keys: keys, work: 64 * (len(b) + 1<<20)}
	if len(b) < archiveHead {
		return r
	}
	a.findHeads()
	if a.sure = a.open(first, next); !a.sure {
		a.work = 64 * len(b) // no block opens as it is: perhaps each has a bit flipped
		if a.sure = a.known(first, next); !a.sure {
			return r
		}
	}
	at := archiveHead
	for k := range a.blocks() {
		at = a.block(k, at, r)
	}
	return r
}

// archiveSalvage reads a damaged archive.
type archiveSalvage struct {
	b     []byte
	keys  *keyring
	r     archiveReader
	heads map[uint64][]int // offsets of what may be the head of the block that begins at a seq
	work  int              // bytes that may still be tried
	sure  bool             // the header is the right one
}

func (a *archiveSalvage) blocks() uint32 { return a.r.blocks() }

// maxHeads bounds the places where one block may begin.
const maxHeads = 16

// findHeads notes where a number stands that may begin a block: a multiple of 256 and a count up to 256.
func (a *archiveSalvage) findHeads() {
	a.heads = make(map[uint64][]int)
	for at := archiveHead; at+blockHead+tagSize <= len(a.b); at++ {
		if a.b[at] != 0 || binary.BigEndian.Uint16(a.b[at+8:]) != 0 {
			continue
		}
		first, count := binary.BigEndian.Uint64(a.b[at:]), binary.BigEndian.Uint32(a.b[at+8:])
		if first%blockLen == 0 && count > 0 && count <= 1<<16 && len(a.heads) < 1<<16 && len(a.heads[first]) < maxHeads {
			a.heads[first] = append(a.heads[first], at)
		}
	}
}

// places returns the offsets at which the block that begins at a seq may stand.
func (a *archiveSalvage) places(first uint64) []int {
	list, have := a.heads[first]
	if have || first%blockLen == 0 {
		return list
	}
	mark := append(binary.BigEndian.AppendUint64(nil, first), 0, 0) // the checkpoints, which begin anywhere
	for at := archiveHead; len(list) < maxHeads; at++ {
		n := bytes.Index(a.b[min(at, len(a.b)):], mark)
		if n < 0 {
			break
		}
		at += n
		list = append(list, at)
	}
	a.heads[first] = list
	return list
}

// open finds the header under which a block opens: as it stands, with what is known put right, or with one bit flipped.
func (a *archiveSalvage) open(first, next uint64) bool {
	var head [archiveHead]byte
	copy(head[:], a.b)
	if a.try(head) {
		return true
	}
	copy(head[:], archiveMagic)
	binary.BigEndian.PutUint64(head[28:], first)
	if a.try(head) {
		return true
	}
	if next > first {
		known := head
		binary.BigEndian.PutUint64(known[36:], next)
		binary.BigEndian.PutUint32(known[44:], blocksOf(first, next))
		if a.tryKeys(known) {
			return true
		}
	}
	if n := binary.BigEndian.Uint64(head[36:]); n > first {
		known := head
		binary.BigEndian.PutUint32(known[44:], blocksOf(first, n))
		if a.tryKeys(known) {
			return true
		}
	}
	for bit := range 8 * archiveHead {
		flipped := head
		flipped[bit/8] ^= 1 << (bit % 8)
		if a.try(flipped) {
			return true
		}
	}
	return false
}

// known takes the header as it stands, with what is known of it put right.
func (a *archiveSalvage) known(first, next uint64) bool {
	var head [archiveHead]byte
	copy(head[:], a.b)
	copy(head[:], archiveMagic)
	binary.BigEndian.PutUint64(head[28:], first)
	if next > first {
		binary.BigEndian.PutUint64(head[36:], next)
		binary.BigEndian.PutUint32(head[44:], blocksOf(first, next))
	}
	r, err := newArchiveReader(bytes.NewReader(head[:]), int64(len(a.b)), a.keys)
	if err != nil || uint64(r.blocks()) > uint64(len(a.b)/blockHead) {
		return false
	}
	a.r = *r
	return true
}

// tryKeys tries a header under every key.
func (a *archiveSalvage) tryKeys(head [archiveHead]byte) bool {
	if a.try(head) {
		return true
	}
	for id := range a.keys.keys {
		binary.BigEndian.PutUint32(head[8:], id)
		if a.try(head) {
			return true
		}
	}
	return false
}

// try reports whether one of the first blocks opens under a header, which is then the one to read with.
func (a *archiveSalvage) try(head [archiveHead]byte) bool {
	r, err := newArchiveReader(bytes.NewReader(head[:]), int64(len(a.b)), a.keys)
	if err != nil || uint64(r.blocks()) > uint64(len(a.b)/blockHead) {
		return false
	}
	a.r = *r
	at := archiveHead
	for k := range min(r.blocks(), 4) {
		var none readable
		if at = a.block(k, at, &none); len(none.entries)+len(none.checkpoints) > 0 {
			return true
		}
	}
	return false
}

// begin returns the first seq of block k and how many records it holds; of the last one, which holds checkpoints, the
// count is not known.
func (a *archiveSalvage) begin(k uint32) (first uint64, count uint32) {
	m := &a.r.meta
	if k+1 == a.blocks() {
		return m.Next, 0
	}
	first = m.First
	if k > 0 {
		first = (m.First>>rootLevel + uint64(k)) << rootLevel
	}
	return first, uint32(min((first>>rootLevel+1)<<rootLevel, m.Next) - first)
}

// block opens block k, which should stand at an offset, adds what it holds and returns where the next one stands.
func (a *archiveSalvage) block(k uint32, at int, r *readable) int {
	if next, ok := a.find(k, at, false, r); ok {
		return next
	}
	if a.sure {
		if next, ok := a.find(k, at, true, r); ok {
			return next
		}
	}
	if k+1 < a.blocks() { // lost: go on where the next one says that it begins
		following, _ := a.begin(k + 1)
		if h := a.places(following); len(h) > 0 {
			return h[0]
		}
	}
	return len(a.b)
}

// find opens block k at an offset, or where else it may stand.
func (a *archiveSalvage) find(k uint32, at int, right bool, r *readable) (next int, ok bool) {
	first, count := a.begin(k)
	for _, from := range append([]int{at}, a.places(first)...) {
		if from+blockHead+tagSize > len(a.b) {
			continue
		}
		var head [blockHead]byte
		copy(head[:], a.b[from:])
		binary.BigEndian.PutUint64(head[:], first)
		if count > 0 {
			binary.BigEndian.PutUint32(head[8:], count)
		}
		stated := uint64(binary.BigEndian.Uint32(head[12:])) + uint64(from) + blockHead
		ends := []uint64{stated, uint64(len(a.b))}
		if k+1 < a.blocks() {
			following, _ := a.begin(k + 1)
			for _, h := range a.places(following) {
				ends = append(ends, uint64(h))
			}
		}
		for _, end := range ends {
			if end > uint64(len(a.b)) || end < uint64(from+blockHead+tagSize) {
				continue
			}
			binary.BigEndian.PutUint32(head[12:], uint32(end-uint64(from)-blockHead))
			if a.take(k, &head, a.b[from+blockHead:end], right, r) {
				return int(end), true
			}
		}
	}
	return 0, false
}

// cipher returns the cipher of the blocks.
func (a *archiveSalvage) cipher() cipher.Block {
	key := a.keys.keys[binary.BigEndian.Uint32(a.r.head[8:])]
	return a.keys.deriveBlock(key, a.r.head[12:28], "sluice archive v1")
}

// take opens one sealed block under a head, with right also when one bit of it is flipped, and adds what it holds.
func (a *archiveSalvage) take(k uint32, head *[blockHead]byte, sealed []byte, right bool, r *readable) bool {
	if a.work -= len(sealed); a.work < 0 {
		return false
	}
	iv := nonce(uint64(k), 0)
	data := append(a.r.head[:archiveHead:archiveHead], head[:]...)
	packed, err := a.r.aead.Open(nil, iv[:], sealed, data)
	if err != nil && right {
		sealed = bytes.Clone(sealed)
		if rightBit(a.cipher(), iv, data, sealed) {
			packed, err = a.r.aead.Open(nil, iv[:], sealed, data)
		}
	}
	if err != nil {
		return false
	}
	plain, err := unpack(packed)
	if err != nil {
		return false
	}
	first, count := binary.BigEndian.Uint64(data[archiveHead:]), binary.BigEndian.Uint32(data[archiveHead+8:]) // set right, too
	var in readable
	if k+1 == a.blocks() {
		err = splitCheckpoints(plain, count, func(size uint64, text []byte) error {
			in.checkpoints = append(in.checkpoints, Checkpoint{Size: size, Text: bytes.Clone(text)})
			return nil
		})
	} else {
		err = splitRecords(plain, count, func(record []byte) error {
			h := leafHash(record)
			in.entries = append(in.entries, salvaged{seq: first, record: append(h[:], record...), tree: true})
			first++
			return nil
		})
	}
	if err != nil {
		return false
	}
	r.entries, r.checkpoints = append(r.entries, in.entries...), append(r.checkpoints, in.checkpoints...)
	return true
}

// readDamagedArchive reads what is readable of an archive file.
func readDamagedArchive(path string, keys *keyring, first, next uint64) (*readable, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() == 0 {
		return new(readable), nil
	}
	b, err := readBytes(path)
	if err != nil {
		return nil, err
	}
	return scanArchive(b, keys, first, next), nil
}
