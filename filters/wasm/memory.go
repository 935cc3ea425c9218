package wasm

import (
	"fmt"

	"github.com/tetratelabs/wazero/experimental"
)

// pageSize is the unit of a module's memory. [WebAssembly Core 2.0 §4.2.8]
const pageSize = 1 << 16

// memory is the linear memory of one instance: room for as many pages as its limit allows, taken from the system once and
// as a page is first touched, so that growing copies nothing and never needs more than the limit.
type memory struct {
	room    []byte
	refused bool // the module asked for more since the last call began
}

// newMemory sets room aside for a limit of pages.
func newMemory(pages uint32) (*memory, error) {
	room, err := mapMemory(int(pages) * pageSize)
	if err != nil {
		return nil, fmt.Errorf("set %d pages of memory aside: %w", pages, err)
	}
	return &memory{room: room}, nil
}

// Allocate implements experimental.MemoryAllocator for the one memory of the module.
func (m *memory) Allocate(_, _ uint64) experimental.LinearMemory { return m }

// Reallocate implements experimental.LinearMemory.
func (m *memory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.room)) {
		m.refused = true
		return nil
	}
	return m.room[:size:size]
}

// Free implements experimental.LinearMemory. Nobody may look into the memory afterwards.
func (m *memory) Free() {
	if m.room != nil {
		unmapMemory(m.room)
		m.room = nil
	}
}
