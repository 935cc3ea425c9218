package main

import (
	"context"
	"time"

	"github.com/sluice-edge/sluice/gateway/journal"
)

const (
	tendEvery    = time.Second
	balanceEvery = 3 // of these
)

// tend looks after what changes by itself, until ctx ends: the file that names the link, whether the journal takes
// something in, and whether the books balance.
func (a *assembly) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	file := linkFile{path: a.cfg.LinkFile}
	var full journal.Trouble
	for n := 0; ; n++ {
		if file.path != "" {
			if word, bad := file.look(); word != "" {
				a.setLink(word, "link_file")
			} else if bad {
				a.log.Warn("link_file holds no name of a link, the link stays as it was", "link", a.links.Name())
			}
		}
		if n%balanceEvery == 0 {
			a.balance(a.journal.Identity())
			full = a.noteFull(full)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// balance raises the alarm, once, when the counters of messages contradict each other, as err says.
func (a *assembly) balance(err error) {
	switch before := a.broken.Load(); {
	case err == nil && before != nil:
		a.broken.Store(nil)
		a.log.Info("the counters of messages agree again")
	case err != nil:
		text := err.Error()
		a.broken.Store(&text)
		if before == nil {
			a.log.Error("the counters of messages contradict each other, stop the gateway and run sluice journal check", "err", err)
			a.event(map[string]string{"event": "identity mismatch", "what": text})
		}
	}
}

// noteFull logs when the journal begins or ends to take something in; what fails at the disk is logged by the journal.
func (a *assembly) noteFull(before journal.Trouble) journal.Trouble {
	why, detail := a.journal.Trouble()
	if !a.journal.Writable() {
		return before
	}
	switch {
	case why != "" && why != before:
		a.log.Warn("journal takes nothing in", "reason", string(why), "detail", detail)
	case why == "" && before != "":
		a.log.Info("journal takes messages in again")
	}
	return why
}
