package main

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/fleet"
)

// change changes the configuration of the box: every speed is blocked.
func (b *pluginBox) change() {
	b.t.Helper()
	b.write("sluice.yaml", []byte(strings.Replace(boxConfig, "  - { match: {}, action: pass }", "  - { match: {}, action: block }", 1)))
}

// startConfirmed is a start as run does it.
func (b *pluginBox) startConfirmed() {
	b.t.Helper()
	if err := b.close(); err != nil {
		b.t.Fatal(err)
	}
	var errs strings.Builder
	cfg, _ := startable(b.file, &errs)
	if cfg == nil {
		b.t.Fatal(errs.String())
	}
	b.startWith(cfg)
}

func TestAConfigurationThatNobodyConfirms(t *testing.T) {
	b := newPluginBox(t)
	kept := filepath.Join(b.dir, "data", keptName)
	b.change()
	if err := b.reloadWith(url.Values{"confirm": {"1h"}}, "test"); err != nil {
		t.Fatal(err)
	}
	if b.send(1) != gateway.Blocked {
		t.Error("it is not in force")
	}
	if c := b.condition("configuration"); !c.OK || !strings.Contains(c.Detail, "on probation until") {
		t.Errorf("%+v", c)
	}
	if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := b.reload("test", probationOf{}); err == nil {
		t.Error("a reload meanwhile")
	}
	if _, err := b.load(1, module("alpha", 2, lets), probationOf{}); err == nil {
		t.Error("a load meanwhile")
	}
	b.endTrial(b.trial, fleet.Unconfirmed, nil) // as its timer does
	if b.send(1) != gateway.Waiting {
		t.Error("it was not rolled back")
	}
	b.startConfirmed()
	if b.send(1) != gateway.Waiting {
		t.Error("a start took the configuration that was rolled back")
	}
	if c := b.condition("configuration"); !strings.Contains(c.Detail, "last confirmed one") {
		t.Errorf("%+v", c)
	}
	if err := b.reload("test", probationOf{}); err != nil { // a person takes the files as they are
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err == nil || b.send(1) != gateway.Blocked || b.condition("configuration").Detail != "" {
		t.Errorf("a plain reload: %v", err)
	}
}

func TestAConfigurationOnProbationEndsWithTheProcess(t *testing.T) {
	b := newPluginBox(t)
	b.change()
	if err := b.reloadWith(url.Values{"confirm": {"1h"}}, "test"); err != nil {
		t.Fatal(err)
	}
	b.write("trust.yaml", []byte("keys: broken"))
	b.startConfirmed()
	if b.send(1) != gateway.Waiting || b.serial() != 1 {
		t.Error("a start took a configuration that nobody confirmed")
	}
	b.startConfirmed() // and so does the next one
	if b.send(1) != gateway.Waiting {
		t.Error("the second start")
	}
	data := filepath.Join(b.dir, "data", keptName)
	text, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	b.write("data/"+keptName, text)
	var errs strings.Builder
	if cfg, _ := startable(b.file, &errs); cfg != nil || !strings.Contains(errs.String(), "remove it to start") {
		t.Errorf("a damaged copy: %q", errs.String())
	}
}

func TestAConfirmedConfigurationStays(t *testing.T) {
	b := newPluginBox(t)
	if err := b.endReload(true, "test"); err == nil {
		t.Error("confirmed without a probation")
	}
	b.change()
	if err := b.reloadWith(url.Values{"confirm": {"1h"}, "max_delta": {"100%"}}, "test"); err != nil {
		t.Fatal(err)
	}
	if err := b.endReload(true, "test"); err != nil {
		t.Fatal(err)
	}
	b.startConfirmed()
	if b.send(1) != gateway.Blocked || b.condition("configuration").Detail != "" {
		t.Error("it did not stay")
	}
	b.write("sluice.yaml", []byte(boxConfig))
	if err := b.reloadWith(url.Values{"confirm": {"1h"}}, "test"); err != nil {
		t.Fatal(err)
	}
	if err := b.endReload(false, "test"); err != nil || b.send(1) != gateway.Blocked {
		t.Errorf("back: %v", err)
	}
}

// TestAConfigurationThatBlocksTooMuchIsRolledBack: nobody has to look.
func TestAConfigurationThatBlocksTooMuchIsRolledBack(t *testing.T) {
	b := newPluginBox(t)
	b.change()
	if err := b.reloadWith(url.Values{"confirm": {"1h"}, "max_delta": {"5%"}}, "test"); err != nil {
		t.Fatal(err)
	}
	first := b.gateway.Set().Number
	b.until("rolled back", func() bool { b.send(1); return b.gateway.Set().Number != first })
	b.until("told", func() bool {
		return b.condition("configuration").Detail == "the last confirmed one, which the files on disk are not; sluice reload takes those in"
	})
	if b.send(1) != gateway.Waiting {
		t.Error("it still blocks")
	}
}

func TestTheKeptFilesAreThoseThatWereConfirmed(t *testing.T) {
	b := newPluginBox(t)
	if err := os.Mkdir(filepath.Join(b.dir, "sluice.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.write("sluice.d/10-more.yaml", []byte("unknown_field: block\n"))
	cfg, report := loadConfig(b.file, time.Now())
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	k := cfg.keep()
	b.write("sluice.d/10-more.yaml", []byte("unknown_field: remove\n"))
	b.write("sluice.d/20-more.yaml", []byte("nope: 1\n"))
	b.write("trust.yaml", nil)
	again, report := k.load(cfg.DataDir, time.Now())
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	if again.UnknownField != "block" || again.file != cfg.file || again.Trust == cfg.Trust || again.Plugins[0].File != cfg.Plugins[0].File {
		t.Errorf("%+v", again)
	}
	if got, err := os.ReadFile(again.Trust); err != nil || !strings.Contains(string(got), "author-1") {
		t.Errorf("%q %v", got, err)
	}
}
