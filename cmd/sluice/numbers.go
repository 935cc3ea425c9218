package main

import (
	"sync"
	"time"

	"github.com/sluice-edge/sluice/gateway/journal"
)

// journalNumbers gives metrics what they read from the journal.
type journalNumbers struct {
	*journal.Journal
	limit int64 // audit.max_size

	mu    sync.Mutex // guards the fields below
	since time.Time
	bytes int64
}

// Backlog implements gateway.JournalNumbers.
func (n *journalNumbers) Backlog(uplink int) (messages, bytes uint64, oldest time.Time) {
	w := n.Waiting(uplink)
	return w.Messages, w.Bytes, w.Oldest
}

// TreeSize implements gateway.JournalNumbers.
func (n *journalNumbers) TreeSize() uint64 { return n.Size() }

// CheckpointTime implements gateway.JournalNumbers.
func (n *journalNumbers) CheckpointTime() time.Time { return n.Checkpoint().At }

// maxDays stands for a date too far away to matter.
const maxDays = 36500

// DaysToFull extrapolates the growth of the record log since the start of the gateway.
func (n *journalNumbers) DaysToFull() float64 {
	used := n.Stat().RecordBytes
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if n.since.IsZero() {
		n.since, n.bytes = now, used
	}
	grown, took := float64(used-n.bytes), now.Sub(n.since).Hours()/24
	if grown <= 0 || took <= 0 {
		return maxDays
	}
	return min(maxDays, max(0, float64(n.limit-used)/(grown/took)))
}
