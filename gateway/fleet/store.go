package fleet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	setName     = "set.json"
	setVersion  = 1
	moduleEnd   = ".wasm"
	sigEnd      = ".sig"
	newEnd      = ".new"
	damagedPart = ".damaged-"
)

// ErrFormat reports that set.json was written by a newer program.
var ErrFormat = errors.New("set of plugins has a format that this version does not know")

// Bundle is the bytes of a module and of its signature file, nil when the program knows the module by digest.
type Bundle struct {
	Module, Sig []byte
	Vectors     []byte // self-test of a version that is taken in; it is run once and not kept
}

// Options are what a store is opened with.
type Options struct {
	// Identify checks a bundle that was taken in before: its signature by a key that is not revoked, or the digest by the
	// program; and reads the name in its manifest. It is asked when set.json is damaged.
	Identify func(b Bundle) (name string, v Version, err error)
	Now      time.Time

	disk *disk // of a test
}

// Store is the folder of bundles and the slots that they are in.
type Store struct {
	disk  disk
	mu    sync.Mutex // guards slots, and the folder
	slots map[string]Slot
}

// Open opens the folder, making it when it is absent, and returns what happened while nobody looked. Nothing else may
// have it open.
func Open(dir string, o Options) (*Store, []Event, error) {
	s := &Store{slots: map[string]Slot{}}
	if o.disk != nil {
		s.disk = *o.disk
	} else {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, nil, fmt.Errorf("open plugins: %w", err)
		}
		s.disk = folder(dir)
	}
	events, err := s.open(o)
	if err != nil {
		return nil, nil, fmt.Errorf("open plugins: %w", err)
	}
	return s, events, nil
}

func (s *Store) open(o Options) (events []Event, err error) {
	names, err := s.disk.list()
	if err != nil {
		return nil, err
	}
	data, err := s.disk.read(setName)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return nil, err
	}
	holds := slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, moduleEnd) })
	slots, err := parseSet(data)
	switch {
	case absent && !holds:
		return nil, s.commit(map[string]Slot{}, true) // before the first bundle: without it, bundles alone are a damage
	case errors.Is(err, ErrFormat):
		return nil, err
	case err != nil:
		if !absent {
			if err := s.disk.rename(setName, setName+damagedPart+o.Now.UTC().Format("20060102T150405Z")); err != nil {
				return nil, err
			}
		}
		slots = s.rebuild(names, o)
		events = append(events, Event{Event: "plugin set rebuilt", Count: len(slots), By: "gateway"})
	}
	next := maps.Clone(slots)
	for _, name := range slices.Sorted(maps.Keys(slots)) {
		if slots[name].Pending == nil {
			continue
		}
		slot, rolled, err := slots[name].Rollback(name, Restarted, "gateway")
		if err != nil {
			return nil, err
		}
		next[name] = slot
		events = append(events, rolled...)
	}
	if err := s.commit(next, len(events) > 0); err != nil {
		return nil, err
	}
	return events, nil
}

// parseSet reads set.json.
func parseSet(data []byte) (map[string]Slot, error) {
	var set struct {
		V     int             `json:"v"`
		Sum   string          `json:"sum"`
		Slots json.RawMessage `json:"slots"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, err
	}
	if set.V > setVersion {
		return nil, fmt.Errorf("%w: %d", ErrFormat, set.V)
	}
	if sum := sha256.Sum256(set.Slots); set.V != setVersion || hex.EncodeToString(sum[:]) != set.Sum {
		return nil, errors.New("sum does not fit")
	}
	slots := map[string]Slot{}
	return slots, json.Unmarshal(set.Slots, &slots)
}

// writeSet is the written form that parseSet reads.
func writeSet(slots map[string]Slot) []byte {
	b, err := json.Marshal(slots)
	if err != nil {
		panic("fleet: slots cannot be written as JSON: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return fmt.Appendf(nil, `{"v":%d,"sum":"%x","slots":%s}`+"\n", setVersion, sum, b)
}

// rebuild makes slots of the bundles alone. What cannot be identified is left out, and so removed.
func (s *Store) rebuild(names []string, o Options) map[string]Slot {
	slots := map[string]Slot{}
	for _, file := range names {
		digest, ok := strings.CutSuffix(file, moduleEnd)
		if !ok || o.Identify == nil {
			continue
		}
		b, err := s.read(digest)
		if err != nil {
			continue
		}
		name, v, err := o.Identify(b)
		if err != nil || v.Digest != digest {
			continue
		}
		slot := slots[name]
		switch {
		case slot.Active == nil || v.Serial > slot.Active.Serial:
			slot.Good, slot.Active = slot.Active, &v
			slot.Floor, slot.Top = v.Serial, v.Digest
		case slot.Good == nil || v.Serial > slot.Good.Serial:
			slot.Good = &v
		}
		slots[name] = slot
	}
	return slots
}

// Slot returns the slot of a plugin; the zero Slot when nothing is known of it.
func (s *Store) Slot(name string) Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots[name]
}

// Slots returns all slots. The map is the caller's.
func (s *Store) Slots() map[string]Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.slots)
}

// Bundle reads the files of a version that a slot names. The bytes have its digest; the signature is the caller's to
// check again: its key may be revoked since.
func (s *Store) Bundle(v Version) (Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.read(v.Digest)
	if err != nil {
		return Bundle{}, fmt.Errorf("read stored plugin: %w", err)
	}
	return b, nil
}

func (s *Store) read(digest string) (b Bundle, err error) {
	if b.Module, err = s.disk.read(digest + moduleEnd); err != nil {
		return Bundle{}, err
	}
	if sum := sha256.Sum256(b.Module); hex.EncodeToString(sum[:]) != digest {
		return Bundle{}, errors.New("module is damaged: it has another digest than its name")
	}
	if b.Sig, err = s.disk.read(digest + sigEnd); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Bundle{}, err
	}
	return b, nil
}

// Put makes the slot of a plugin what a transition returned, with the bundle that it brings, if it does. The slot must
// still be as it was when the transition was asked for; whoever makes transitions takes turns. After an error the slot is
// as before in memory, and as before or after on disk.
func (s *Store) Put(name string, slot Slot, with ...Bundle) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range with {
		if err := s.keep(b); err != nil {
			return fmt.Errorf("store plugin: %w", err)
		}
	}
	next := maps.Clone(s.slots)
	next[name] = slot
	if err := s.commit(next, true); err != nil {
		return fmt.Errorf("store plugin: %w", err)
	}
	return nil
}

// keep writes a bundle. The signature comes first: a module that is there has its signature.
func (s *Store) keep(b Bundle) error {
	sum := sha256.Sum256(b.Module)
	digest := hex.EncodeToString(sum[:])
	if b.Sig != nil {
		if err := s.write(digest+sigEnd, b.Sig); err != nil {
			return err
		}
	}
	return s.write(digest+moduleEnd, b.Module)
}

// commit makes slots the state, writing them if they changed, then removes what no slot names.
func (s *Store) commit(slots map[string]Slot, changed bool) error {
	if changed {
		if err := s.write(setName, writeSet(slots)); err != nil {
			return err
		}
	}
	s.slots = slots
	s.sweep()
	return nil
}

// write puts a file in place of another, whole or not at all. One that has these bytes stays.
func (s *Store) write(name string, data []byte) error {
	if have, err := s.disk.read(name); err == nil && bytes.Equal(have, data) && name != setName {
		if err := s.disk.sync(name); err != nil { // it may be there and not on disk: the writer was cut off
			return err
		}
		return s.disk.syncFolder()
	}
	for _, err := range []func() error{
		func() error { return s.disk.create(name+newEnd, data) },
		func() error { return s.disk.sync(name + newEnd) },
		func() error { return s.disk.rename(name+newEnd, name) },
		s.disk.syncFolder,
	} {
		if err := err(); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes files that nothing names any more. What it cannot remove stays until the next time.
func (s *Store) sweep() {
	keep := map[string]bool{}
	for _, slot := range s.slots {
		for _, v := range slot.versions() {
			keep[v.Digest] = true
		}
	}
	names, err := s.disk.list()
	if err != nil {
		return
	}
	for _, name := range names {
		digest, isModule := strings.CutSuffix(name, moduleEnd)
		digest, isSig := strings.CutSuffix(digest, sigEnd)
		if strings.HasSuffix(name, newEnd) || (isModule || isSig) && !keep[digest] {
			_ = s.disk.remove(name)
		}
	}
}

// versions lists what a slot names.
func (s Slot) versions() (list []*Version) {
	for _, v := range []*Version{s.Active, s.Good, s.Shadow, s.Candidate()} {
		if v != nil {
			list = append(list, v)
		}
	}
	if s.Pending != nil && s.Pending.Previous != nil {
		list = append(list, s.Pending.Previous)
	}
	return list
}

// disk is what a store does with its folder: function fields, so that a test can take the power away between any two.
type disk struct {
	create     func(name string, data []byte) error
	sync       func(name string) error
	rename     func(from, to string) error
	syncFolder func() error
	remove     func(name string) error
	read       func(name string) ([]byte, error)
	list       func() ([]string, error)
}

// folder is the real one.
func folder(dir string) disk {
	at := func(name string) string { return filepath.Join(dir, name) }
	sync := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	}
	return disk{
		create:     func(name string, data []byte) error { return os.WriteFile(at(name), data, 0o600) },
		sync:       func(name string) error { return sync(at(name)) },
		rename:     func(from, to string) error { return os.Rename(at(from), at(to)) },
		syncFolder: func() error { return sync(dir) },
		remove:     func(name string) error { return os.Remove(at(name)) },
		read:       func(name string) ([]byte, error) { return os.ReadFile(at(name)) },
		list: func() (names []string, err error) {
			entries, err := os.ReadDir(dir)
			for _, e := range entries {
				names = append(names, e.Name())
			}
			return names, err
		},
	}
}
