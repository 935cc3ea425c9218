package gateway

import (
	"hash/maphash"
	"log/slog"
	"sync/atomic"
)

// maxHints bounds the lines about unlisted fields over the life of the process.
const maxHints = 256

// fieldHints logs the first refusal of every unlisted field with the configuration line that would allow it. It
// remembers hashes in a table of fixed size: a field that shares a slot with another may be told twice, never more than
// maxHints lines in all.
type fieldHints struct {
	seed  maphash.Seed
	slots [1024]atomic.Uint64
	lines atomic.Int32
}

// tell looks at the unlisted fields of one decision.
func (h *fieldHints) tell(log *slog.Logger, d *Decision, blocks bool) {
	for _, n := range d.Class.Unknown {
		key := d.name(n)
		sum := maphash.Bytes(h.seed, key) | 1
		if slot := &h.slots[sum%uint64(len(h.slots))]; slot.Load() == sum || h.lines.Load() >= maxHints {
			continue
		} else {
			slot.Store(sum)
		}
		if h.lines.Add(1) > maxHints {
			return
		}
		line := "add a category to an operator catalog: match: { names: [" + string(key) + "] }"
		if !wordLike(key) || d.keyFound(n) {
			line = "its name looks like data; see it with sluice explain, and add a category that matches its path"
		}
		what := "unlisted field is removed"
		if blocks {
			what = "unlisted field blocks its message"
		}
		log.Warn(what, "source", d.Message.Source, "hint", line)
	}
}

// name is the key of a node, or of the nearest named container around it.
func (d *Decision) name(n int32) []byte {
	for n >= 0 {
		if d.Body.HasKey(int(n)) {
			return d.Body.Key(int(n))
		}
		n = d.Body.Nodes[n].Parent
	}
	return nil
}

// keyFound reports whether anything was found in the key of a node.
func (d *Decision) keyFound(n int32) bool {
	for i := range d.Class.Findings {
		if d.Class.Findings[i].Place == (Place{AtKey, n}) {
			return true
		}
	}
	return false
}

// wordLike reports whether a key reads like a word of a schema and not like data: letters, underscores, a few digits.
// Only such keys enter the log; what devices choose freely does not.
func wordLike(key []byte) bool {
	digits := 0
	for _, c := range key {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '-' || c == '.':
		default:
			return false
		}
	}
	return len(key) > 0 && len(key) <= 32 && digits <= 2
}
