package journal

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Sizes of an archive file, see the package doc.
const (
	archiveMagic  = "SLRARC01"
	archiveHead   = 48 // magic, key id, salt, first, next, blocks
	blockHead     = 16 // first, count, length
	maxBlockPlain = blockLen * (1<<20 + 1<<16)
)

// errArchive is returned for bytes that are no archive of ours: altered, cut or sealed under an unknown key.
var errArchive = errors.New("archive cannot be opened")

// archiveMeta is what the journal knows of an archive file without reading it.
type archiveMeta struct {
	First uint64
	Next  uint64 // seq behind the last record
	Bytes int64  // of the file
	path  string
}

// archiveWriter writes one archive file; nothing counts before finish.
type archiveWriter struct {
	w     *bufio.Writer
	head  [archiveHead]byte
	aead  cipher.AEAD
	block uint32
	count uint32
	first uint64
	plain bytes.Buffer
	comp  *flate.Writer
}

// blocksOf returns how many blocks the records from first up to next make: they end at multiples of 256, and one block
// of checkpoints follows.
func blocksOf(first, next uint64) uint32 {
	if next <= first {
		return 1
	}
	return uint32((next-1)>>rootLevel-first>>rootLevel) + 2
}

func newArchiveWriter(w io.Writer, keys *keyring, first, next uint64) (*archiveWriter, error) {
	a := &archiveWriter{w: bufio.NewWriterSize(w, 1<<16), first: first}
	copy(a.head[:], archiveMagic)
	binary.BigEndian.PutUint32(a.head[8:], keys.current.ID)
	rand.Read(a.head[12:28])
	binary.BigEndian.PutUint64(a.head[28:], first)
	binary.BigEndian.PutUint64(a.head[36:], next)
	binary.BigEndian.PutUint32(a.head[44:], blocksOf(first, next))
	a.aead = keys.derive(keys.current, a.head[12:28], "sluice archive v1")
	a.comp, _ = flate.NewWriter(&a.plain, flate.BestSpeed)
	_, err := a.w.Write(a.head[:])
	return a, err
}

// record adds the next record.
func (a *archiveWriter) record(seq uint64, record []byte) error {
	var size [binary.MaxVarintLen64]byte
	a.comp.Write(size[:binary.PutUvarint(size[:], uint64(len(record)))]) // into memory: cannot fail
	a.comp.Write(record)
	a.count++
	if (seq+1)%blockLen == 0 {
		return a.flush(seq + 1)
	}
	return nil
}

// flush seals the block in hand; the next one begins at seq next.
func (a *archiveWriter) flush(next uint64) error {
	if err := a.comp.Close(); err != nil {
		return err
	}
	var head [blockHead]byte
	binary.BigEndian.PutUint64(head[:], a.first)
	binary.BigEndian.PutUint32(head[8:], a.count)
	binary.BigEndian.PutUint32(head[12:], uint32(a.plain.Len()+tagSize))
	iv := nonce(uint64(a.block), 0)
	sealed := a.aead.Seal(head[:], iv[:], a.plain.Bytes(), append(a.head[:archiveHead:archiveHead], head[:]...))
	_, err := a.w.Write(sealed)
	a.block, a.count, a.first = a.block+1, 0, next
	a.plain.Reset()
	a.comp.Reset(&a.plain)
	return err
}

// finish writes the checkpoints and what is buffered.
func (a *archiveWriter) finish(next uint64, list []Checkpoint) error {
	if a.count > 0 {
		if err := a.flush(next); err != nil {
			return err
		}
	}
	for _, c := range list {
		b := binary.AppendUvarint(binary.AppendUvarint(nil, c.Size), uint64(len(c.Text)))
		a.comp.Write(append(b, c.Text...))
		a.count++
	}
	if err := a.flush(next); err != nil {
		return err
	}
	if want := binary.BigEndian.Uint32(a.head[44:]); a.block != want {
		return fmt.Errorf("archive has %d blocks instead of %d", a.block, want)
	}
	return a.w.Flush()
}

// archiveReader reads one archive, block after block.
type archiveReader struct {
	r     io.ReaderAt
	size  int64
	head  [archiveHead]byte
	aead  cipher.AEAD
	meta  archiveMeta
	at    int64
	block uint32
}

func newArchiveReader(r io.ReaderAt, size int64, keys *keyring) (*archiveReader, error) {
	a := &archiveReader{r: r, size: size, at: archiveHead}
	if _, err := r.ReadAt(a.head[:], 0); err != nil || string(a.head[:8]) != archiveMagic {
		return nil, errArchive
	}
	a.meta = archiveMeta{First: binary.BigEndian.Uint64(a.head[28:]), Next: binary.BigEndian.Uint64(a.head[36:]), Bytes: size}
	id := binary.BigEndian.Uint32(a.head[8:])
	key := keys.keys[id]
	if key == nil {
		return nil, &KeyError{id, archiveName(a.meta.First)}
	}
	if a.meta.Next <= a.meta.First || a.blocks() != blocksOf(a.meta.First, a.meta.Next) {
		return nil, errArchive
	}
	a.aead = keys.derive(key, a.head[12:28], "sluice archive v1")
	return a, nil
}

func (a *archiveReader) blocks() uint32 { return binary.BigEndian.Uint32(a.head[44:]) }

// next returns the plain content of the next block, its first seq and the number of what is in it; io.EOF behind the
// last. With skip the block is passed by and plain is nil.
func (a *archiveReader) next(skip func(first uint64, count uint32) bool) (plain []byte, first uint64, count uint32, err error) {
	if a.block == a.blocks() {
		if a.at != a.size {
			return nil, 0, 0, errArchive
		}
		return nil, 0, 0, io.EOF
	}
	var head [blockHead]byte
	if _, err := a.r.ReadAt(head[:], a.at); err != nil {
		return nil, 0, 0, errArchive
	}
	first, count = binary.BigEndian.Uint64(head[:]), binary.BigEndian.Uint32(head[8:])
	length := int64(binary.BigEndian.Uint32(head[12:]))
	if length > a.size-a.at-blockHead {
		return nil, 0, 0, errArchive
	}
	if !skip(first, count) {
		sealed := make([]byte, length)
		if _, err := a.r.ReadAt(sealed, a.at+blockHead); err != nil {
			return nil, 0, 0, errArchive
		}
		iv := nonce(uint64(a.block), 0)
		packed, err := a.aead.Open(sealed[:0], iv[:], sealed, append(a.head[:archiveHead:archiveHead], head[:]...))
		if err != nil {
			return nil, 0, 0, errArchive
		}
		if plain, err = unpack(packed); err != nil {
			return nil, 0, 0, err
		}
	}
	a.at += blockHead + length
	a.block++
	return plain, first, count, nil
}

// unpack inflates a block, within bounds.
func unpack(packed []byte) ([]byte, error) {
	r := flate.NewReader(bytes.NewReader(packed))
	plain, err := io.ReadAll(io.LimitReader(r, maxBlockPlain+1))
	if err != nil || len(plain) > maxBlockPlain {
		return nil, errArchive
	}
	return plain, nil
}

// splitRecords cuts the plain content of a block into count records.
func splitRecords(plain []byte, count uint32, fn func(record []byte) error) error {
	for range count {
		n, used := binary.Uvarint(plain)
		if used <= 0 || n > uint64(len(plain)-used) {
			return errArchive
		}
		if err := fn(plain[used : used+int(n)]); err != nil {
			return err
		}
		plain = plain[used+int(n):]
	}
	if len(plain) != 0 {
		return errArchive
	}
	return nil
}

// splitCheckpoints cuts the plain content of the last block into count checkpoints.
func splitCheckpoints(plain []byte, count uint32, fn func(size uint64, text []byte) error) error {
	for range count {
		size, used := binary.Uvarint(plain)
		if used <= 0 {
			return errArchive
		}
		plain = plain[used:]
		n, used := binary.Uvarint(plain)
		if used <= 0 || n > uint64(len(plain)-used) {
			return errArchive
		}
		if err := fn(size, plain[used:used+int(n)]); err != nil {
			return err
		}
		plain = plain[used+int(n):]
	}
	if len(plain) != 0 {
		return errArchive
	}
	return nil
}

// withArchive opens an archive file for fn.
func withArchive(path string, keys *keyring, fn func(a *archiveReader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	a, err := newArchiveReader(f, st.Size(), keys)
	if err == nil {
		err = fn(a)
	}
	if errors.Is(err, errArchive) {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return err
}

func readArchiveMeta(path string, keys *keyring) (m archiveMeta, err error) {
	err = withArchive(path, keys, func(a *archiveReader) error {
		m = a.meta
		return nil
	})
	m.path = path
	return m, err
}

// archiveRecords hands out the records of an archive from *at on and moves *at behind them.
func archiveRecords(m *archiveMeta, keys *keyring, at *uint64, fn func(seq uint64, record []byte) error) error {
	return withArchive(m.path, keys, func(a *archiveReader) error {
		for {
			plain, first, count, err := a.next(func(first uint64, count uint32) bool { return first+uint64(count) <= *at })
			if err == io.EOF || err == nil && a.block == a.blocks() {
				return nil // the last block holds the checkpoints
			}
			if err != nil {
				return err
			}
			if plain == nil {
				continue
			}
			seq := first
			err = splitRecords(plain, count, func(record []byte) error {
				if seq < *at {
					seq++
					return nil
				}
				if err := fn(seq, record); err != nil {
					return err
				}
				seq++
				*at = seq
				return nil
			})
			if err != nil {
				return err
			}
		}
	})
}

// archiveCheckpoints hands out the checkpoints of an archive.
func archiveCheckpoints(m *archiveMeta, keys *keyring, fn func(size uint64, text []byte) error) error {
	return withArchive(m.path, keys, func(a *archiveReader) error {
		for {
			plain, _, count, err := a.next(func(uint64, uint32) bool { return a.block+1 < a.blocks() })
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if plain != nil {
				if err := splitCheckpoints(plain, count, fn); err != nil {
					return err
				}
			}
		}
	})
}
