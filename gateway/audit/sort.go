package audit

import (
	"bufio"
	"bytes"
	"container/heap"
	"fmt"
	"io"
	"os"
	"slices"
)

// sorter puts any number of entries of one size in order, by their bytes. It holds about memory bytes of them; what is
// beyond goes, sorted run by sorted run, to a temporary file that has no name and vanishes with the process.
type sorter struct {
	size   int
	memory int
	buf    []byte
	file   *os.File
	runs   []int64 // where each run ends in file
}

// newSorter sorts entries of size bytes.
func newSorter(size, memory int) *sorter {
	return &sorter{size: size, memory: max(memory/size, 1) * size}
}

// add takes a copy of one entry.
func (s *sorter) add(entry []byte) error {
	if len(s.buf) == s.memory {
		if err := s.spill(); err != nil {
			return fmt.Errorf("sort on disk: %w", err)
		}
	}
	s.buf = append(s.buf, entry...)
	return nil
}

func (s *sorter) spill() (err error) {
	if s.file == nil {
		if s.file, err = os.CreateTemp("", "sluice-sort-"); err != nil {
			return err
		}
		if err = os.Remove(s.file.Name()); err != nil {
			return err
		}
	}
	s.order()
	if _, err = s.file.Write(s.buf); err != nil {
		return err
	}
	end := int64(len(s.buf))
	if n := len(s.runs); n > 0 {
		end += s.runs[n-1]
	}
	s.runs, s.buf = append(s.runs, end), s.buf[:0]
	return nil
}

// order sorts what is in memory.
func (s *sorter) order() {
	entries := make([][]byte, 0, len(s.buf)/s.size)
	for e := range slices.Chunk(s.buf, s.size) {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, bytes.Compare)
	sorted := make([]byte, 0, len(s.buf))
	for _, e := range entries {
		sorted = append(sorted, e...)
	}
	s.buf = sorted
}

// sorted ends the adding and returns the entries in order.
func (s *sorter) sorted() (*entries, error) {
	s.order()
	e := &entries{size: s.size}
	from := int64(0)
	for _, end := range s.runs {
		e.runs = append(e.runs, &run{r: bufio.NewReaderSize(io.NewSectionReader(s.file, from, end-from), 16<<10), head: make([]byte, s.size)})
		from = end
	}
	e.runs = append(e.runs, &run{r: bytes.NewReader(s.buf), head: make([]byte, s.size)})
	for i := 0; i < len(e.runs); {
		if ok, err := e.runs[i].next(); err != nil {
			return nil, err
		} else if !ok {
			e.runs = slices.Delete(e.runs, i, i+1)
			continue
		}
		i++
	}
	heap.Init(e)
	return e, nil
}

// close frees the disk.
func (s *sorter) close() {
	if s.file != nil {
		s.file.Close() // nothing was to stay
	}
	s.buf = nil
}

// entries are sorted entries, one after the other. It is a heap of runs, the one with the smallest head first.
type entries struct {
	size int
	runs []*run
	out  []byte
}

type run struct {
	r    io.Reader
	head []byte
}

// next reads the next entry of the run; false behind the last.
func (r *run) next() (bool, error) {
	_, err := io.ReadFull(r.r, r.head)
	if err == io.EOF {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("sort on disk: %w", err)
	}
	return true, nil
}

// next returns the next entry, valid until the one after it is asked for; nil behind the last.
func (e *entries) next() ([]byte, error) {
	if len(e.runs) == 0 {
		return nil, nil
	}
	e.out = append(e.out[:0], e.runs[0].head...)
	if ok, err := e.runs[0].next(); err != nil {
		return nil, err
	} else if !ok {
		heap.Pop(e)
	} else {
		heap.Fix(e, 0)
	}
	return e.out, nil
}

func (e *entries) Len() int           { return len(e.runs) }
func (e *entries) Less(i, j int) bool { return bytes.Compare(e.runs[i].head, e.runs[j].head) < 0 }
func (e *entries) Swap(i, j int)      { e.runs[i], e.runs[j] = e.runs[j], e.runs[i] }
func (e *entries) Push(x any)         { e.runs = append(e.runs, x.(*run)) }
func (e *entries) Pop() any {
	last := e.runs[len(e.runs)-1]
	e.runs = e.runs[:len(e.runs)-1]
	return last
}
