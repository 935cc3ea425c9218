package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
)

// newBox makes a configuration and a journal with an archive, and with messages that wait in a segment.
func newBox(t *testing.T) (file, data string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "box")
	file, data = filepath.Join(dir, "sluice.yaml"), filepath.Join(dir, "data")
	var out bytes.Buffer
	if initVerb([]string{"--dir", dir}, nil, &out, &out) != exitGood {
		t.Fatal(out.String())
	}
	cfg, _ := readConfig(file)
	ring, err := keyring.Open(cfg.KeyDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ensureKeys(cfg, ring); err != nil {
		t.Fatal(err)
	}
	o, err := journalOptions(cfg, ring)
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(o)
	if err == nil {
		j.Close() // what is in it waits for nobody
		j, err = journal.Open(o)
	}
	if err != nil {
		t.Fatal(err)
	}
	id := j.NextID()
	r := gateway.Record{Kind: gateway.DecisionRecord, Time: time.Now(), ID: id, Set: 1, Received: time.Now(), Grade: gateway.General,
		Outcomes: []gateway.Outcome{{Action: gateway.Pass, Reason: gateway.ReasonPolicy, State: gateway.Waiting}}}
	done := make(chan error, 1)
	j.Append([]*gateway.Entry{{Record: gateway.AppendRecord(nil, &r), ID: id, Source: "bench", Grade: gateway.General, Waits: 1,
		Outlets: []gateway.Outlet{{Uplinks: 1, Topic: "v1", Payload: []byte("{}")}}}}, func(_ uint64, err error) { done <- err })
	if err := errors.Join(<-done, j.Close()); err != nil {
		t.Fatal(err)
	}
	return file, data
}

// TestADamagedFolderSaysWhatToType damages every file of a journal, in three ways, and asks everything of it that reads.
func TestADamagedFolderSaysWhatToType(t *testing.T) {
	file, data := newBox(t)
	whole := filepath.Join(t.TempDir(), "whole")
	if err := os.Rename(data, whole); err != nil {
		t.Fatal(err)
	}
	var files []string
	filepath.WalkDir(whole, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "reserve" {
			rel, _ := filepath.Rel(whole, path)
			files = append(files, rel)
		}
		return err
	})
	ways := map[string]func(path string) error{
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"garbage": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("garbage "), 2000), 0o600) },
		"gone":    os.Remove,
	}
	refused := 0
	for _, name := range files {
		for how, damage := range ways {
			os.RemoveAll(data)
			if err := os.CopyFS(data, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(data, name)); err != nil {
				t.Fatal(err)
			}
			for _, verb := range []string{"ls", "stat", "check"} {
				var out, stderr bytes.Buffer
				if journalVerb([]string{verb, "-c", file}, nil, &out, &stderr) == exitGood {
					continue // it can be read without
				}
				refused++
				if !strings.Contains(stderr.String(), "\nsluice: hint: sluice journal repair -c FILE") {
					t.Errorf("%s is %s, journal %s: %s", name, how, verb, stderr.String())
				}
			}
		}
	}
	if refused < 10 {
		t.Errorf("only %d answers are errors", refused)
	}
}
