package main

import (
	"sync"
	"time"

	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/gateway/ship"
)

// journalNumbers gives metrics what they read from the journal.
type journalNumbers struct {
	*journal.Journal
	shipper *ship.Shipper // nil: none

	mu      sync.Mutex // guards the fields below
	since   time.Time
	records uint64
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

// DaysToFull implements gateway.JournalNumbers: at the rate of records since the start of the gateway.
func (n *journalNumbers) DaysToFull() float64 {
	s := n.Stat()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if n.since.IsZero() {
		n.since, n.records = now, s.Records
	}
	perDay := 0.0
	if took := now.Sub(n.since).Hours() / 24; took > 0 {
		perDay = float64(s.Records-n.records) / took
	}
	return s.DaysToFull(perDay, n.shipper != nil && n.shipper.Status().Answering)
}
