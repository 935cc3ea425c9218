package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
)

// plan is what a repair is going to do. It is carried out in this order, and again from the start after a crash.
type plan struct {
	ID      string               `json:"id"`
	From    uint64               `json:"from"` // size of the tree: the record of the repair comes next
	Files   []SetAside           `json:"files"`
	Moves   []move               `json:"moves"` // damaged files, then new ones
	Places  []move               `json:"places"`
	Roots   map[uint64]tlog.Hash `json:"roots,omitempty"` // of subtrees, stored wrongly in state.bolt
	Restate bool                 `json:"restate"`         // records or held bodies are lost: the counters cannot follow from the rest
}

// move is a file's old and new name, within the journal's folder.
type move struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// readPlan returns the repair that was decided on and is not on the record yet, if there is one.
func readPlan(dir string) (*plan, error) {
	text, err := os.ReadFile(filepath.Join(dir, repairDir, planFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := new(plan)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("read the plan of a repair: %w", err)
	}
	return p, nil
}

// carryOut moves damaged files aside and new ones in their place. It does what is left to do, after a crash too.
func carryOut(o Options) (*plan, error) {
	if err := os.RemoveAll(filepath.Join(o.Dir, draftDir)); err != nil {
		return nil, err
	}
	if err := place(o.Dir, olderDir, repairDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := os.RemoveAll(filepath.Join(o.Dir, olderDir)); err != nil {
		return nil, err
	}
	p, err := readPlan(o.Dir)
	if p == nil || err != nil {
		return nil, err
	}
	return p, p.carryOut(o)
}

func (p *plan) carryOut(o Options) error {
	if err := os.MkdirAll(filepath.Join(o.Dir, damagedDir), 0o700); err != nil {
		return err
	}
	for _, m := range p.Moves {
		o.step("repair move")
		if err := renameOnce(o.Dir, m.From, m.To); err != nil {
			return err
		}
	}
	if err := syncFolders(o.Dir); err != nil { // what is damaged is safe before its name is used again
		return err
	}
	for _, m := range p.Places {
		o.step("repair place")
		if err := place(o.Dir, filepath.Join(repairDir, m.From), m.To); err != nil {
			return err
		}
	}
	o.step("repair placed")
	return syncFolders(o.Dir)
}

// renameOnce moves a file unless that was done before.
func renameOnce(dir, from, to string) error {
	if _, err := os.Lstat(filepath.Join(dir, to)); err == nil {
		return nil
	}
	err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// place moves a new file to its name unless that was done before.
func place(dir, from, to string) error {
	err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncFolders(dir string) error {
	for _, d := range []string{"", archiveDir, damagedDir, repairDir} {
		if err := syncDir(filepath.Join(dir, d)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
