package journal

import (
	"encoding/binary"
	"errors"

	"github.com/sluice-edge/sluice/gateway"
)

// Chunks of states: 65,536 seqs each, four bits a seq and uplink.
const (
	chunkBits = 16
	chunkLen  = 1 << chunkBits
)

// states remembers what became of every entry for every uplink it waited for, as long as that matters: a chunk is
// forgotten when it is complete and nothing of it waits any more. What is not remembered is NoState.
type states struct {
	chunks map[uint64]*chunk
	gone   []uint64 // chunks forgotten since they were last stored
}

type chunk struct {
	open  int // pairs of entry and uplink that wait
	of    [gateway.MaxUplinks][]byte
	fresh gateway.UplinkSet // uplinks whose states changed since they were last stored
}

func newStates() *states { return &states{chunks: make(map[uint64]*chunk)} }

// get returns the state of entry seq for uplink u.
func (s *states) get(u int, seq uint64) gateway.State {
	c := s.chunks[seq>>chunkBits]
	if c == nil || c.of[u] == nil {
		return gateway.NoState
	}
	return c.get(u, int(seq%chunkLen))
}

// waitsBetween reports whether one of the entries from first up to next waits for uplink u.
func (s *states) waitsBetween(u int, first, next uint64) bool {
	for seq := first; seq < next; seq++ {
		c := s.chunks[seq>>chunkBits]
		if c == nil || c.of[u] == nil || c.open == 0 {
			seq |= chunkLen - 1
		} else if c.get(u, int(seq%chunkLen)) == gateway.Waiting {
			return true
		}
	}
	return false
}

func (c *chunk) get(u, i int) gateway.State {
	b := c.of[u][i/2]
	if i%2 == 1 {
		b >>= 4
	}
	return gateway.State(b & 0xF)
}

func (c *chunk) put(u, i int, st gateway.State) {
	p := &c.of[u][i/2]
	if i%2 == 1 {
		*p = *p&0x0F | byte(st)<<4
	} else {
		*p = *p&0xF0 | byte(st)
	}
}

// set changes the state of entry seq for uplink u. size is the number of entries: chunks below it are complete.
func (s *states) set(u int, seq uint64, st gateway.State, size uint64) {
	n := seq >> chunkBits
	c := s.chunks[n]
	if c == nil {
		c = new(chunk)
		s.chunks[n] = c
	}
	if c.of[u] == nil {
		c.of[u] = make([]byte, chunkLen/2)
	}
	i := int(seq % chunkLen)
	if was := c.get(u, i); was == gateway.Waiting {
		c.open--
	}
	if st == gateway.Waiting {
		c.open++
	}
	c.put(u, i, st)
	c.fresh |= 1 << u
	if c.open == 0 && n < size>>chunkBits {
		s.forget(n)
	}
}

func (s *states) forget(n uint64) {
	delete(s.chunks, n)
	s.gone = append(s.gone, n)
}

// prune forgets complete chunks in which nothing waits: those whose last entries were settled before they were complete.
func (s *states) prune(size uint64) {
	for n, c := range s.chunks {
		if c.open == 0 && n < size>>chunkBits {
			s.forget(n)
		}
	}
}

// encode writes the states of uplink u as runs of (length uvarint, state).
func (c *chunk) encode(u int) []byte {
	var b []byte
	for i := 0; i < chunkLen; {
		st, from := c.get(u, i), i
		for i < chunkLen && c.get(u, i) == st {
			i++
		}
		b = append(binary.AppendUvarint(b, uint64(i-from)), byte(st))
	}
	return b
}

var errStates = errors.New("stored states are malformed")

// decode reads what encode wrote.
func (c *chunk) decode(u int, b []byte) error {
	c.of[u] = make([]byte, chunkLen/2)
	i := 0
	for len(b) > 0 {
		n, used := binary.Uvarint(b)
		if used <= 0 || used == len(b) || n == 0 || n > uint64(chunkLen-i) || b[used] > byte(gateway.Blocked) {
			return errStates
		}
		st := gateway.State(b[used])
		b = b[used+1:]
		if st == gateway.Waiting {
			c.open += int(n)
		}
		for end := i + int(n); i < end; i++ {
			if st != gateway.NoState {
				c.put(u, i, st)
			}
		}
	}
	if i != chunkLen {
		return errStates
	}
	return nil
}

// stored is one chunk of one uplink as it stands in state.bolt; a nil value means that it is gone.
type stored struct {
	chunk  uint64
	uplink int // all of them when value is nil
	value  []byte
}

// changes returns what differs from what is stored, and takes it as stored. When storing fails, again makes everything
// differ.
func (s *states) changes() []stored {
	var list []stored
	for _, n := range s.gone {
		if s.chunks[n] == nil {
			list = append(list, stored{chunk: n})
		}
	}
	s.gone = nil
	for n, c := range s.chunks {
		for u := range gateway.MaxUplinks {
			if c.fresh.Has(u) {
				list = append(list, stored{n, u, c.encode(u)})
			}
		}
		c.fresh = 0
	}
	return list
}

// again undoes changes after a failure to store them.
func (s *states) again(list []stored) {
	for _, d := range list {
		if c := s.chunks[d.chunk]; d.value == nil {
			s.gone = append(s.gone, d.chunk)
		} else if c != nil {
			c.fresh |= 1 << d.uplink
		}
	}
}
