package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// The shapes of bbolt's pages, in the byte order of the machine that wrote them.
const (
	pageHead    = 16 // id(8) ‖ flags(2) ‖ count(2) ‖ overflow(4)
	pageElement = 16 // leaf: flags(4) ‖ position(4) ‖ key size(4) ‖ value size(4); branch: position(4) ‖ key size(4) ‖ page(8)
	metaLen     = 64 // magic(4) ‖ version(4) ‖ page size(4) ‖ flags(4) ‖ root(8) ‖ sequence(8) ‖ freelist(8) ‖ pages(8) ‖ tx(8) ‖ FNV-1a(8)
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	flagBranch  = 1
	flagLeaf    = 2
	bucketFlag  = 1
	minPage     = 512
	maxPage     = 1 << 16
	maxDepth    = 16
	maxImage    = 1 << 30
)

var native = binary.NativeEndian

// image is the content of a bbolt file that may be damaged. It is read without trusting any number in it: what is taken
// out is what proves itself, a record by its leaf hash, a body by its tag, a tree by its sum.
type image struct {
	b     []byte
	page  int
	metas []metaPage // valid ones, newest first
	reach map[int]bool
	twice bool  // a page is reached on two ways, or is not there
	tops  []int // offsets of the pages reached, without those that follow one
	work  int   // bytes that may still be looked at, hashed or opened

	inline bool // a page within a page
	keys   *keyring
}

type metaPage struct{ tx, root, free, pages uint64 }

// readImage reads a bbolt file that may be damaged.
func readImage(path string) (*image, error) {
	b, err := readBytes(path)
	if err != nil {
		return nil, err
	}
	return newImage(b), nil
}

// readBytes reads a file as far as the disk gives it; what it does not give is zero.
func readBytes(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(st.Size(), maxImage))
	const chunk, least = 1 << 20, 4096
	for at := 0; at < len(b); at += chunk {
		part := b[at:min(at+chunk, len(b))]
		if _, err := f.ReadAt(part, int64(at)); err == nil || err == io.EOF {
			continue
		}
		for i := 0; i < len(part); i += least {
			small := part[i:min(i+least, len(part))]
			if _, err := f.ReadAt(small, int64(at+i)); err != nil && err != io.EOF {
				clear(small)
			}
		}
	}
	return b, nil
}

// newImage finds page size, meta pages and what the newest of these reaches.
func newImage(b []byte) *image {
	m := &image{b: b, reach: make(map[int]bool), work: 16*len(b) + 1<<20}
	m.page = m.pageSize()
	for i := range 2 {
		if meta, ok := m.meta(i * m.page); ok {
			m.metas = append(m.metas, meta)
		}
	}
	slices.SortFunc(m.metas, func(a, b metaPage) int { return cmp.Compare(b.tx, a.tx) })
	if len(m.metas) > 0 {
		m.walk(m.metas[0].root, 0)
	}
	return m
}

// maxFreeCheck bounds the files whose list of free pages is looked at.
const maxFreeCheck = 64 << 20

// treeFits returns an error of damage for a file in which a page leads to one that is above it or is not there, or in which
// an element does not stand in its page, so that bbolt takes anything for the number of a page: it goes round and round, and
// takes memory for every step. Segments are not looked at: they are large, and read at every start.
func treeFits(path string) error {
	if st, err := os.Stat(path); err != nil || st.Size() == 0 || st.Size() > maxFreeCheck {
		return nil // made anew, or bbolt's to say
	}
	m, err := readImage(path)
	if err == nil && (m.twice || slices.ContainsFunc(m.tops, func(at int) bool { return !m.ordered(at) })) {
		err = &damaged{"its pages do not make a tree"}
	}
	return err
}

// freeListFits returns an error of damage for a file that is going to be written to and whose list of free pages names
// one that is in use or does not exist: bbolt believes it, and would write there.
func freeListFits(path string) error {
	if st, err := os.Stat(path); err != nil || st.Size() == 0 || st.Size() > maxFreeCheck {
		return nil // made anew, or bbolt's to say
	}
	m, err := readImage(path)
	if err != nil || len(m.metas) == 0 {
		return err
	}
	meta := m.metas[0]
	at := meta.free * uint64(m.page)
	if meta.free == ^uint64(0) {
		return nil
	}
	if meta.free >= meta.pages || at+pageHead > uint64(len(m.b)) {
		return &damaged{"there is no list of free pages"}
	}
	page := m.b[at:]
	n, from := uint64(native.Uint16(page[10:])), uint64(pageHead)
	if n == 0xffff && len(page) >= pageHead+8 {
		n, from = native.Uint64(page[pageHead:]), pageHead+8
	}
	if native.Uint64(page) != meta.free || n > uint64(len(page))/8 || from+8*n > uint64(len(page)) {
		return &damaged{"the list of free pages is damaged"}
	}
	before := uint64(1)
	for i := range n {
		id := native.Uint64(page[from+8*i:])
		if id <= before || id >= meta.pages || m.reach[int(id)] {
			return &damaged{"the list of free pages is damaged"}
		}
		before = id
	}
	return nil
}

// pagesFit returns an error of damage for a file in which not every page is in use once, or free: what bbolt meets only when
// it writes.
func pagesFit(path string) error {
	m, err := readImage(path)
	if err != nil || len(m.metas) == 0 || m.metas[0].free == ^uint64(0) {
		return err // what is wrong with it shows when it is read
	}
	meta := m.metas[0]
	at := int(meta.free) * m.page // freeListFits was here
	used, free := uint64(native.Uint32(m.b[at+12:]))+1, uint64(native.Uint16(m.b[at+10:]))
	if free == 0xffff {
		free = native.Uint64(m.b[at+pageHead:])
	}
	if m.twice || m.reach[int(meta.free)] || uint64(len(m.reach))+free+used+2 != meta.pages {
		return &damaged{"its pages do not add up"}
	}
	for _, at := range m.tops {
		if !m.ordered(at) {
			return &damaged{"a page is not in order"}
		}
	}
	return nil
}

// ordered reports whether the elements of a page stand in it, one behind the other and by their keys.
func (m *image) ordered(at int) bool {
	flags, count, end := native.Uint16(m.b[at+8:]), int(native.Uint16(m.b[at+10:])), at+m.room(at)
	if flags != flagBranch && flags != flagLeaf || native.Uint64(m.b[at:]) != uint64(at/m.page) || at+pageHead+count*pageElement > end {
		return false
	}
	next := int64(at + pageHead + count*pageElement)
	var before []byte
	for k := range count {
		start, ksize, stop := m.bounds(at, k)
		kind := native.Uint32(m.b[at+pageHead+k*pageElement:])
		if flags == flagBranch {
			start = int64(at+pageHead+k*pageElement) + int64(kind)
			ksize = int64(native.Uint32(m.b[at+pageHead+k*pageElement+4:]))
			stop = start + ksize
		} else if kind > bucketFlag {
			return false
		}
		if start != next || stop > int64(end) || k > 0 && bytes.Compare(before, m.b[start:start+ksize]) >= 0 {
			return false
		}
		before, next = m.b[start:start+ksize], stop
	}
	return true
}

// meta reads the meta page at an offset.
func (m *image) meta(at int) (p metaPage, ok bool) {
	if at+pageHead+metaLen > len(m.b) {
		return p, false
	}
	b := m.b[at+pageHead:][:metaLen]
	sum := fnv.New64a()
	sum.Write(b[:metaLen-8])
	if native.Uint32(b) != metaMagic || native.Uint32(b[4:]) != metaVersion || native.Uint64(b[metaLen-8:]) != sum.Sum64() {
		return p, false
	}
	return metaPage{tx: native.Uint64(b[48:]), root: native.Uint64(b[16:]), free: native.Uint64(b[32:]), pages: native.Uint64(b[40:])}, true
}

// pageSize returns the page size that a meta page states, else the one at which most pages bear their own number.
func (m *image) pageSize() int {
	best, most := 4096, 0
	if _, ok := m.meta(0); ok {
		if n := int(native.Uint32(m.b[pageHead+8:])); n >= minPage && n <= maxPage && n&(n-1) == 0 {
			return n
		}
	}
	for n := minPage; n <= maxPage; n *= 2 {
		if _, ok := m.meta(n); ok && int(native.Uint32(m.b[n+pageHead+8:])) == n {
			return n
		}
		own := 0
		for i := 2; i*n+pageHead <= len(m.b); i++ {
			if native.Uint64(m.b[i*n:]) == uint64(i) {
				own++
			}
		}
		if own > most {
			best, most = n, own
		}
	}
	return best
}

// walk marks the pages that the tree of a meta page reaches. What it cannot follow it passes by.
func (m *image) walk(page uint64, depth int) {
	i := int(page)
	if page >= uint64(len(m.b)/m.page+1) || i*m.page+pageHead > len(m.b) || m.reach[i] || depth > maxDepth {
		m.twice = true // or not at all
		return
	}
	m.reach[i] = true
	at := i * m.page
	m.tops = append(m.tops, at)
	flags, count := native.Uint16(m.b[at+8:]), int(native.Uint16(m.b[at+10:]))
	for more := range min(int(native.Uint32(m.b[at+12:])), len(m.b)/m.page) {
		m.twice = m.twice || m.reach[i+1+more]
		m.reach[i+1+more] = true
	}
	for k := range count {
		e := at + pageHead + k*pageElement
		if e+pageElement > len(m.b) {
			return
		}
		switch {
		case flags == flagBranch:
			m.walk(native.Uint64(m.b[e+8:]), depth+1)
		case flags == flagLeaf && native.Uint32(m.b[e:])&bucketFlag != 0:
			if _, value, ok := m.element(at, k); ok && len(value) >= pageHead && native.Uint64(value) != 0 {
				m.walk(native.Uint64(value), depth+1)
			}
		}
	}
}

// element returns key and value of element k of the leaf page at an offset.
func (m *image) element(at, k int) (key, value []byte, ok bool) {
	e := at + pageHead + k*pageElement
	if e+pageElement > len(m.b) {
		return nil, nil, false
	}
	pos, ksize, vsize := int64(native.Uint32(m.b[e+4:])), int64(native.Uint32(m.b[e+8:])), int64(native.Uint32(m.b[e+12:]))
	from := int64(e) + pos
	if ksize == 0 || from+ksize+vsize > int64(len(m.b)) {
		return nil, nil, false
	}
	return m.b[from : from+ksize], m.b[from+ksize : from+ksize+vsize], true
}

// cell is one key with its value in a leaf page, and where else the value may end.
type cell struct {
	key   [entryKeyLen]byte
	size  int // of the key
	value []byte
	other []byte // the value as the next element bounds it; nil when that is the same
	right bool   // the value has its hash, tag or sum
}

// leaf returns the cells of our keys in what may be a leaf page at an offset, in their order. A count or an element that
// is damaged costs no more than itself.
func (m *image) leaf(at int) (cells []cell) {
	if at+pageHead+pageElement > len(m.b) {
		return nil
	}
	flags, count := native.Uint16(m.b[at+8:]), int(native.Uint16(m.b[at+10:]))
	first := int(native.Uint32(m.b[at+pageHead+4:])) / pageElement // the data follow the elements
	if flags != flagLeaf && (count == 0 || first != count) {
		return nil
	}
	if most := m.most(at); flags == flagLeaf && count != first {
		switch {
		case count > most:
			count = first
		case first <= most:
			count = max(count, first)
		}
		count = min(count, most)
	}
	for k := range count {
		e := at + pageHead + k*pageElement
		if m.work -= pageElement; e+pageElement > len(m.b) || m.work < 0 {
			break
		}
		if size := native.Uint32(m.b[e+8:]); native.Uint32(m.b[e:])&bucketFlag != 0 && size != entryKeyLen && size != checkpointKeyLen {
			if _, value, ok := m.element(at, k); ok && !m.inline && len(value) > pageHead && native.Uint64(value) == 0 {
				inline := image{b: value[pageHead:], inline: true, work: len(value), keys: m.keys} // a small bucket stands in its parent's page
				cells = append(cells, inline.leaf(0)...)
			}
			continue
		}
		if c, ok := m.cell(at, k, count); ok {
			cells = append(cells, c)
		}
	}
	mend(cells)
	return cells
}

// most returns how many elements of ours a page can hold, with those that it says follow it.
func (m *image) most(at int) int {
	if m.inline {
		return len(m.b) / (pageElement + checkpointKeyLen)
	}
	return m.room(at) / (pageElement + checkpointKeyLen)
}

// room returns the length of a page with those that it says follow it.
func (m *image) room(at int) int {
	if m.inline {
		return len(m.b)
	}
	return int(min((int64(native.Uint32(m.b[at+12:]))+1)*int64(m.page), int64(len(m.b)-at)))
}

// cell returns element k of a leaf page when it has the shape of ours. Where an element is damaged, its neighbours say
// where it begins and ends.
func (m *image) cell(at, k, count int) (c cell, ok bool) {
	start, ksize, end := m.bounds(at, k)
	before, behind := int64(at+pageHead+count*pageElement), int64(0)
	if k > 0 {
		_, _, before = m.bounds(at, k-1)
	}
	if k+1 < count {
		behind, _, _ = m.bounds(at, k+1)
	}
	vsize := end - start - ksize
	guesses := [...][3]int64{{start, ksize, end}, {start, ksize, behind}, {before, entryKeyLen, behind}, {before, entryKeyLen, before + entryKeyLen + vsize},
		{start, entryKeyLen, start + entryKeyLen + vsize}, {start, entryKeyLen, behind}, {before, checkpointKeyLen, behind}, {start, checkpointKeyLen, start + checkpointKeyLen + vsize}}
	for _, g := range guesses {
		guess, fits := m.guess(g)
		if !fits {
			continue
		}
		if guess.right = m.looksRight(&guess); guess.right {
			return guess, true
		}
		if !ok {
			c, ok = guess, true
		} else if c.other == nil && g[0] == start {
			c.other = guess.value
		}
	}
	if count > 1<<12 {
		return c, ok
	}
	e := m.b[at+pageHead+k*pageElement:][:pageElement]
	for bit := 32; bit < 8*pageElement; bit++ { // or with one bit of the element set right
		e[bit/8] ^= 1 << (bit % 8)
		from, ksize, to := m.bounds(at, k)
		e[bit/8] ^= 1 << (bit % 8)
		if to > int64(at+m.room(at)) || behind > 0 && to > behind {
			continue
		}
		if guess, fits := m.guess([3]int64{from, ksize, to}); fits && m.looksRight(&guess) {
			guess.right = true
			return guess, true
		}
	}
	return c, ok
}

// guess returns the cell whose key begins, is so long and whose value ends where g says.
func (m *image) guess(g [3]int64) (c cell, ok bool) {
	if g[1] != entryKeyLen && g[1] != checkpointKeyLen || g[0] < 0 || g[0]+g[1] > g[2] || g[2] > int64(len(m.b)) {
		return c, false
	}
	c.size = int(g[1])
	copy(c.key[:c.size], m.b[g[0]:])
	c.value = m.b[g[0]+g[1] : g[2]]
	return c, true
}

// bounds returns where element k of a leaf page says that its key begins, how long that is and where its value ends.
func (m *image) bounds(at, k int) (start, ksize, end int64) {
	e := at + pageHead + k*pageElement
	if e+pageElement > len(m.b) {
		return -1, 0, -1
	}
	start, ksize = int64(e)+int64(native.Uint32(m.b[e+4:])), int64(native.Uint32(m.b[e+8:]))
	return start, ksize, start + ksize + int64(native.Uint32(m.b[e+12:]))
}

// looksRight reports whether a value has its hash or its checksum. A checkpoint has neither.
func (m *image) looksRight(c *cell) bool {
	if c.size == checkpointKeyLen {
		_, ok := parseTree(binary.BigEndian.Uint64(c.key[:]), c.value)
		return ok
	}
	if m.work -= len(c.value); m.work < 0 {
		return false
	}
	if c.key[8] != recordByte {
		_, ok := parseHeader(c.value)
		if ok && m.keys != nil {
			_, err := m.keys.open(c.value, c.key[8]-1)
			ok = err == nil
		}
		return ok
	}
	if len(c.value) < hashSize || len(c.value) > hashSize+maxRecord {
		return false
	}
	h := leafHash(c.value[hashSize:])
	return bytes.Equal(h[:], c.value[:hashSize])
}

// follows reports whether key b can stand right behind key a: the next record, or the next body of the same one.
func follows(a, b *cell) bool {
	if a.size != entryKeyLen || b.size != entryKeyLen {
		return a.size == checkpointKeyLen || b.size == checkpointKeyLen
	}
	s, t := binary.BigEndian.Uint64(a.key[:]), binary.BigEndian.Uint64(b.key[:])
	return s+1 == t && b.key[8] == recordByte || s == t && a.key[8]+1 == b.key[8]
}

// mend sets a key right that has one bit flipped: its neighbours on the page say what it was. A record's hash does not
// cover its key.
func mend(cells []cell) {
	for i := range cells {
		c := &cells[i]
		if c.size != entryKeyLen {
			continue
		}
		fits := func() bool {
			return (i == 0 || follows(&cells[i-1], c)) && (i+1 == len(cells) || follows(c, &cells[i+1]))
		}
		if fits() || !sound(cells, i) {
			continue
		}
		from, to := 0, 8*checkpointKeyLen // the value shows that the last byte is right
		if !c.right {
			from, to = to, 8*entryKeyLen
		}
		for bit := from; bit < to; bit++ {
			c.key[bit/8] ^= 1 << (bit % 8)
			if fits() {
				break
			}
			c.key[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// sound reports whether the neighbours of cell i can say what its key was: at an end of the page the one neighbour must
// fit the one behind it.
func sound(cells []cell, i int) bool {
	n := len(cells)
	switch {
	case n < 3:
		return false
	case i == 0:
		return cells[1].right && follows(&cells[1], &cells[2])
	case i == n-1:
		return cells[n-2].right && follows(&cells[n-3], &cells[n-2])
	}
	return cells[i-1].right && cells[i+1].right
}
