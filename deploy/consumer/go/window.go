package main

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
)

// id names one message for ever: 64 bits of incarnation and a 64-bit counter. All that a consumer needs to know is that
// copies of a message have the same one.
type id [16]byte

// parseID reads 32 hexadecimal digits.
func parseID(s string) (id, error) {
	var i id
	if len(s) != 2*len(i) {
		return i, fmt.Errorf("id has %d characters, want %d", len(s), 2*len(i))
	}
	_, err := hex.Decode(i[:], []byte(s))
	return i, err
}

// window remembers the last ids in the order in which they came, in a file of fixed size:
//
//	file  = slots, message number n in slot n modulo their count
//	slot  = n(8) ‖ id(16) ‖ CRC-32C of these 24 bytes(4) ‖ 0(4), big-endian; n counts from 1
//
// A slot that was torn by a power cut has a wrong checksum and is forgotten: it is one that was not synced, so its message
// was not acknowledged and comes again.
type window struct {
	file *os.File
	ring []id // ring[n % len]: what the slots hold
	have []bool
	seen map[id]struct{}
	next uint64
}

const slotSize = 32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openWindow opens or makes the file of a window of size ids. A file of another size keeps its newest ids.
func openWindow(name string, size int) (*window, error) {
	if size < 1 {
		return nil, fmt.Errorf("open window: size %d", size)
	}
	w, err := readWindow(name, size)
	if err != nil {
		return nil, fmt.Errorf("open window: %w", err)
	}
	return w, nil
}

// slot is one id with its number.
type slot struct {
	n  uint64
	id id
}

func readWindow(name string, size int) (*window, error) {
	data, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var slots []slot
	inPlace := true
	for at := 0; len(data) >= slotSize; at++ {
		if s := data[:slotSize]; crc32.Checksum(s[:24], castagnoli) == binary.BigEndian.Uint32(s[24:]) && binary.BigEndian.Uint64(s) > 0 {
			slots = append(slots, slot{binary.BigEndian.Uint64(s), id(s[8:24])})
			inPlace = inPlace && slots[len(slots)-1].n%uint64(size) == uint64(at)
		}
		data = data[slotSize:]
	}
	slices.SortFunc(slots, func(a, b slot) int { return cmp.Compare(a.n, b.n) })
	slots = slots[max(0, len(slots)-size):]
	w := &window{ring: make([]id, size), have: make([]bool, size), seen: make(map[id]struct{}, size), next: 1}
	if inPlace {
		if w.file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return nil, err
		}
		for _, s := range slots {
			w.put(s.n, s.id)
		}
		return w, nil
	}
	if w.file, err = os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	for _, s := range slots {
		err = errors.Join(err, w.add(s.id))
	}
	if err = errors.Join(err, w.sync(), os.Rename(name+".new", name)); err != nil {
		w.file.Close()
		return nil, err
	}
	return w, nil
}

// has reports whether an id is in the window.
func (w *window) has(i id) bool {
	_, ok := w.seen[i]
	return ok
}

// add puts an id in that is not, in the place of the oldest. It lasts once sync returned.
func (w *window) add(i id) error {
	n := w.next
	at := int(n % uint64(len(w.ring)))
	s := make([]byte, 0, slotSize)
	s = binary.BigEndian.AppendUint64(s, n)
	s = append(s, i[:]...)
	s = binary.BigEndian.AppendUint32(s, crc32.Checksum(s, castagnoli))
	s = append(s, 0, 0, 0, 0)
	if _, err := w.file.WriteAt(s, int64(at)*slotSize); err != nil {
		return fmt.Errorf("write window: %w", err)
	}
	w.put(n, i)
	return nil
}

// put is add in memory.
func (w *window) put(n uint64, i id) {
	at := int(n % uint64(len(w.ring)))
	if old := w.ring[at]; w.have[at] {
		delete(w.seen, old)
	}
	w.ring[at], w.have[at], w.seen[i], w.next = i, true, struct{}{}, n+1
}

// sync makes what was added last.
func (w *window) sync() error {
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("sync window: %w", err)
	}
	return nil
}

func (w *window) close() error { return w.file.Close() }
