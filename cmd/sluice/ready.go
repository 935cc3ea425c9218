package main

import (
	"cmp"

	"github.com/sluice-edge/sluice/gateway/console"
)

// ready lists what must hold for the gateway to do its job. An absent uplink is no reason not to be ready: that is what
// the journal is for.
func (a *assembly) ready() []console.Condition {
	why, detail := a.journal.Trouble()
	list := []console.Condition{{Name: "journal", OK: a.journal.Writable()}, {Name: "version set", OK: a.gateway.Set() != nil}}
	if why != "" {
		list[0].Detail = string(why) + ": " + detail
	}
	books := console.Condition{Name: "identity", OK: true}
	if text := a.broken.Load(); text != nil {
		books.OK, books.Detail = false, *text
	}
	list = append(list, books)
	if detail := a.configCondition(); detail != "" {
		list = append(list, console.Condition{Name: "configuration", OK: true, Detail: detail})
	}
	for _, p := range a.plugins(false) {
		c := console.Condition{Name: "plugin " + p.Name, OK: p.Absent == "" && !p.Struck}
		switch {
		case p.Absent != "":
			c.Detail = "no version loads (" + p.Absent + "): messages on its topics take on_error"
		case p.Struck:
			c.Detail = "lost three instances within a minute: messages on its topics take on_error"
		case p.Pending != nil:
			c.Detail = "on probation until " + untilText(p.Pending.Pending) + ", then rolled back unless it is confirmed"
		}
		list = append(list, c)
	}
	for _, f := range a.forwarders {
		if why := f.Hindered(); why != "" { // the journal keeps what waits: the gateway does its job
			list = append(list, console.Condition{Name: "uplink " + f.Name(), OK: true, Detail: why})
		}
	}
	if a.shipper != nil { // an absent collector is no reason not to be ready either
		c := console.Condition{Name: "collector", OK: true}
		if s := a.shipper.Status(); !s.Answering {
			c.Detail = "archives are not shipped: " + cmp.Or(s.Err, "not yet")
		}
		list = append(list, c)
	}
	insecure := insecureSources(a.cfg)
	for _, s := range a.sources {
		s.mu.Lock()
		c := console.Condition{Name: "source " + s.name, OK: s.down == nil && s.Listening()}
		if s.down != nil {
			c.Detail = s.down.Error()
		}
		s.mu.Unlock()
		for _, name := range insecure {
			if name == s.name {
				c.Detail = "insecure: plain or anonymous traffic from elsewhere is taken in"
			}
		}
		list = append(list, c)
	}
	return list
}
