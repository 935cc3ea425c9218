package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/console"
)

// reload reads the configuration again and puts catalogs, policy, plugins, keys and roles in force. Where devices and clouds
// connect, and where things are kept, needs a restart; a change of that is refused as a whole. On probation it comes with
// the certificates of sources and the roles; files of plugins are left for a later reload, and logins stay as read.
func (a *assembly) reload(by string, want probationOf) (err error) {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	defer func() { a.metrics.Reloaded(err == nil) }()
	if err := a.busy(); err != nil {
		return err
	}
	cfg, report := loadConfig(a.cfg.file, time.Now())
	if err := report.Err(); err != nil {
		return err
	}
	if what := needsRestart(a.cfg, cfg); what != "" {
		return fmt.Errorf("reload configuration: %s changed, which needs a restart", what)
	}
	created, err := ensureKeys(cfg, a.ring)
	if err != nil {
		return err
	}
	in := a.surroundings(cfg, by)
	in.choose = a.chooser(&in, false)
	in.leaveFiles = want.confirm != 0
	b, err := buildSet(cfg, in)
	if err != nil {
		return err
	}
	roles := a.now.Load().cfg.roles
	undo := []func(){func() { a.renewRoles(roles) }}
	for _, s := range a.sources {
		if d, ok := s.runner.(device); ok {
			undo = append(undo, d.KeepTLS())
		}
	}
	for _, s := range a.sources { // what can still fail comes before the swap
		if err := s.Reload(); err != nil {
			closeSet(b.set)
			return fmt.Errorf("reload source %q: %w", s.name, err)
		}
	}
	if err := a.console.Renew(cfg.roles); err != nil {
		closeSet(b.set)
		return err
	}
	a.checkWay(cfg)
	if err := a.keepNews(b.news); err != nil {
		closeSet(b.set)
		return err
	}
	if want.confirm == 0 {
		if err := a.settle(cfg); err != nil {
			a.log.Error("remove the copy of the confirmed configuration", "err", err)
		}
		a.put(b, nil, nil)
	} else if err := a.tryConfig(b, want, undo, by); err != nil {
		for _, f := range undo {
			f()
		}
		closeSet(b.set)
		return err
	}
	a.note(b)
	a.tellNews(b.news)
	for _, id := range created {
		a.event(map[string]string{"event": "key created", "id": id})
	}
	a.noteCertificates()
	a.log.Info("configuration reloaded", "set", b.set.Number)
	return nil
}

// renewRoles puts roles in force that were before.
func (a *assembly) renewRoles(roles *console.Roles) {
	if err := a.console.Renew(roles); err != nil {
		a.log.Error("put roles in force again", "err", err)
	}
}

// connections are the uplinks without what a reload takes in.
func connections(cfg *Config) []UplinkConfig {
	list := slices.Clone(cfg.Uplinks)
	for i := range list {
		list[i].Identity = gateway.IdentityConfig{}
	}
	return list
}

// needsRestart names the first part of the configuration that differs and cannot be exchanged while running.
func needsRestart(old, new *Config) string {
	for _, part := range []struct {
		name     string
		old, new any
	}{
		{"gateway", old.Gateway, new.Gateway}, {"data_dir", old.DataDir, new.DataDir}, {"key_dir", old.KeyDir, new.KeyDir},
		{"sources", old.Sources, new.Sources}, {"uplinks", connections(old), connections(new)},
		{"link_file", old.LinkFile, new.LinkFile}, {"journal", old.Journal, new.Journal}, {"audit", old.Audit, new.Audit}, {"admin", old.Admin, new.Admin},
	} {
		a, errA := json.Marshal(part.old)
		b, errB := json.Marshal(part.new)
		if errA != nil || errB != nil || string(a) != string(b) {
			return part.name
		}
	}
	return ""
}
