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
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// module is one that says its name and serial, for identify.
func module(name string, serial uint64) (Bundle, Version) {
	b := Bundle{Module: fmt.Appendf(nil, "%s %d", name, serial), Sig: []byte("signed")}
	sum := sha256.Sum256(b.Module)
	return b, Version{Digest: hex.EncodeToString(sum[:]), Serial: serial, Key: "acme"}
}

func identify(b Bundle) (name string, v Version, err error) {
	if string(b.Sig) != "signed" {
		return "", v, errors.New("unsigned")
	}
	if _, err := fmt.Sscanf(string(b.Module), "%s %d", &name, &v.Serial); err != nil {
		return "", v, err
	}
	_, v = module(name, v.Serial)
	return name, v, nil
}

var now = time.Date(2026, 11, 24, 17, 0, 0, 0, time.UTC)

func options(d *disk) Options { return Options{Identify: identify, Now: now, disk: d} }

var errPower = errors.New("power is gone")

// power is a disk whose power goes before an operation. What was not synced may then be there, in part or not at all,
// and what happened to names since the last sync of the folder may have happened or not, each for itself.
type power struct {
	files map[string]*file // as running programs see it
	names map[string]*file // as it is surely on disk
	left  int              // operations until the power goes; negative: it stays
	ops   int
}

type file struct{ data, safe []byte }

func newPower() *power {
	return &power{files: map[string]*file{}, names: map[string]*file{}, left: -1}
}

func (p *power) step() error {
	if p.left == 0 {
		return errPower
	}
	p.left--
	p.ops++
	return nil
}

// restart is the disk after the power came back.
func (p *power) restart(r *rand.Rand) {
	names := maps.Clone(p.names)
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		if r.IntN(2) == 0 {
			names[name] = p.files[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.names)) {
		if p.files[name] == nil && r.IntN(2) == 0 {
			delete(names, name)
		}
	}
	p.files = map[string]*file{}
	for name, f := range names {
		data := f.safe
		if !bytes.Equal(f.data, f.safe) {
			data = f.data[:r.IntN(len(f.data)+1)]
		}
		p.files[name] = &file{data: data, safe: data}
	}
	p.names, p.left, p.ops = maps.Clone(p.files), -1, 0
}

func (p *power) disk() *disk {
	do := func(f func() error) error {
		if err := p.step(); err != nil {
			return err
		}
		return f()
	}
	find := func(name string) (*file, error) {
		if f := p.files[name]; f != nil {
			return f, nil
		}
		return nil, fs.ErrNotExist
	}
	return &disk{
		create: func(name string, data []byte) error {
			return do(func() error { p.files[name] = &file{data: data}; return nil })
		},
		sync: func(name string) error {
			return do(func() error {
				f, err := find(name)
				if err == nil {
					f.safe = f.data
				}
				return err
			})
		},
		rename: func(from, to string) error {
			return do(func() error {
				f, err := find(from)
				if err == nil {
					p.files[to] = f
					delete(p.files, from)
				}
				return err
			})
		},
		syncFolder: func() error { return do(func() error { p.names = maps.Clone(p.files); return nil }) },
		remove:     func(name string) error { return do(func() error { delete(p.files, name); return nil }) },
		read: func(name string) ([]byte, error) {
			f, err := find(name)
			if err != nil {
				return nil, err
			}
			return f.data, nil
		},
		list: func() ([]string, error) { return slices.Sorted(maps.Keys(p.files)), nil },
	}
}

// act is one random transition with the bundle that it brings.
func act(r *rand.Rand, s Slot, name string, serial *uint64) (Slot, []Bundle, error) {
	*serial += uint64(r.IntN(2))
	b, v := module(name, max(*serial, 1))
	var p *Pending
	if r.IntN(3) == 0 {
		p = &Pending{Until: now}
	}
	var next Slot
	var err error
	switch r.IntN(8) {
	case 0, 1, 2:
		next, _, err = s.Load(name, v, r.IntN(2) == 0, p, "")
	case 3:
		next, _, err = s.Rollback(name, Operator, "")
		b = Bundle{}
	case 4:
		next, _, err = s.Confirm(name, "")
		b = Bundle{}
	case 5:
		next, _, err = s.StartShadow(name, v, "")
	case 6:
		next, _, err = s.StartCanary(name, v, 0.5, "")
	case 7:
		next, _, err = s.Promote(name, p, "")
		b = Bundle{}
	}
	if b.Module == nil {
		return next, nil, err
	}
	return next, []Bundle{b}, err
}

// settled is the slots as Open leaves them: probations rolled back.
func settled(t *testing.T, slots map[string]Slot) map[string]Slot {
	out := map[string]Slot{}
	for name, s := range slots {
		if s.Pending != nil {
			s = must(t)(s.Rollback(name, Restarted, "gateway"))
		}
		out[name] = s
	}
	return out
}

// same compares slots by their written form.
func same(a, b map[string]Slot) bool { return bytes.Equal(writeSet(a), writeSet(b)) }

// whole checks that every bundle that a slot names is there, with its signature.
func whole(t *testing.T, s *Store) {
	t.Helper()
	for name, slot := range s.Slots() {
		for _, v := range slot.versions() {
			if b, err := s.Bundle(*v); err != nil || string(b.Sig) != "signed" {
				t.Fatalf("%s: bundle of serial %d: %v", name, v.Serial, err)
			}
		}
	}
}

// TestTheSetBeforeOrTheSetAfterWhole takes the power away at every operation of the disk of random transitions, also
// while the store comes back: what is found is the set before or the set after, with every bundle.
func TestTheSetBeforeOrTheSetAfterWhole(t *testing.T) {
	runs := 400
	if testing.Short() {
		runs = 60
	}
	before, after, crashes := 0, 0, 0
	for run := range runs {
		r := rand.New(rand.NewPCG(uint64(run), 7))
		p := newPower()
		s, _, err := Open("", options(p.disk()))
		if err != nil {
			t.Fatal(err)
		}
		model := map[string]Slot{}
		serials := map[string]*uint64{"a": new(uint64), "b": new(uint64)}
		for range 12 {
			name := []string{"a", "b"}[r.IntN(2)]
			slot, with, err := act(r, s.Slot(name), name, serials[name])
			if err != nil {
				if !reflect.DeepEqual(slot, s.Slot(name)) {
					t.Fatal("a transition that is refused changes the slot")
				}
				continue
			}
			next := maps.Clone(model)
			next[name] = slot
			if crash := r.IntN(2) == 0; crash {
				p.left = r.IntN(24)
			}
			err = s.Put(name, slot, with...)
			if err == nil && p.left != 0 {
				p.left = -1
				model = next
				if !same(s.Slots(), model) {
					t.Fatal("the store is not what was put")
				}
				continue
			}
			crashes++
			old := settled(t, model)
			new := settled(t, next)
			if err == nil {
				old = new // it was told to be done: it stays done
			}
			for open := false; !open; {
				p.restart(r)
				if r.IntN(3) == 0 {
					p.left = r.IntN(10)
				}
				s, _, err = Open("", options(p.disk()))
				open = err == nil
				if err != nil && !errors.Is(err, errPower) {
					t.Fatalf("run %d: %v", run, err)
				}
			}
			p.left = -1
			switch got := s.Slots(); {
			case same(got, new):
				model = new
				after++
			case same(got, old):
				model = old
				before++
			default:
				t.Fatalf("run %d: neither before nor after:\n%s%s%s", run, writeSet(got), writeSet(old), writeSet(new))
			}
			whole(t, s)
		}
		whole(t, s)
	}
	t.Logf("%d runs, %d crashes: %d before, %d after", runs, crashes, before, after)
	if before == 0 || after == 0 {
		t.Error("only one of the two was ever found")
	}
}

// load puts a version in force and fails the test when it cannot.
func load(t *testing.T, s *Store, name string, serial uint64, p *Pending) Version {
	t.Helper()
	b, v := module(name, serial)
	slot, _, err := s.Slot(name).Load(name, v, false, p, "uid:0")
	if err == nil {
		err = s.Put(name, slot, b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func open(t *testing.T, dir string) (*Store, []Event) {
	t.Helper()
	s, events, err := Open(dir, options(nil))
	if err != nil {
		t.Fatal(err)
	}
	return s, events
}

func TestTheFolderKeepsWhatIsNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plugins")
	s, events := open(t, dir)
	if len(events) != 0 {
		t.Error(events)
	}
	var last [3]Version
	for serial := range uint64(3) {
		last[serial] = load(t, s, "p", serial+1, nil)
	}
	if _, err := s.Bundle(last[0]); err == nil {
		t.Error("the version before the last two is still there")
	}
	if err := os.WriteFile(filepath.Join(dir, "x.new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, events := open(t, dir)
	if len(events) != 0 || !same(again.Slots(), s.Slots()) {
		t.Errorf("%v %s", events, writeSet(again.Slots()))
	}
	whole(t, again)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 5 {
		t.Errorf("%v %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s %v", e.Name(), info.Mode())
		}
	}
	file := filepath.Join(dir, last[2].Digest+moduleEnd)
	if err := os.WriteFile(file, []byte("p 4"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Bundle(last[2]); err == nil {
		t.Error("a module with another digest than its name is given out")
	}
}

func TestAProbationEndsWithTheProcess(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir)
	old := load(t, s, "p", 1, nil)
	tried := load(t, s, "p", 2, &Pending{Until: now})
	for i := range 2 {
		again, events := open(t, dir)
		slot := again.Slot("p")
		if slot.Active.Digest != old.Digest || slot.Pending != nil || slot.WhyRefused(tried.Digest) != Restarted || slot.Floor != 2 {
			t.Fatalf("%s", writeSet(again.Slots()))
		}
		if want := 1 - i; len(events) != want || want == 1 && (events[0].Event != "plugin rolled back" || events[0].From != tried.Digest) {
			t.Errorf("%+v", events)
		}
	}
}

func TestADamagedSetIsMadeAnewOfTheBundles(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(data []byte) []byte
	}{
		{"a bit", func(data []byte) []byte { data[len(data)/2] ^= 1; return data }},
		{"cut off", func(data []byte) []byte { return data[:len(data)-20] }},
		{"empty", func([]byte) []byte { return []byte{} }},
		{"zeros", func(data []byte) []byte { return make([]byte, len(data)) }},
		{"a lower floor", func(data []byte) []byte { return bytes.Replace(data, []byte(`"floor":3`), []byte(`"floor":1`), 1) }},
		{"gone", func([]byte) []byte { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := open(t, dir)
			load(t, s, "p", 1, nil)
			good := load(t, s, "p", 2, nil)
			top := load(t, s, "p", 3, nil)
			stranger := filepath.Join(dir, strings.Repeat("0", 64)+moduleEnd)
			if err := os.WriteFile(stranger, []byte("p 9"), 0o600); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, setName)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			bad := c.damage(bytes.Clone(data))
			if bad == nil {
				err = os.Remove(file)
			} else {
				err = os.WriteFile(file, bad, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			again, events := open(t, dir)
			slot := again.Slot("p")
			if wants(t, slot, top.Digest, good.Digest); slot.Floor != 3 || slot.Top != top.Digest {
				t.Errorf("%+v", slot)
			}
			if len(events) != 1 || events[0].Event != "plugin set rebuilt" || events[0].Count != 1 {
				t.Errorf("%+v", events)
			}
			aside, err := os.ReadFile(filepath.Join(dir, "set.json.damaged-20261124T170000Z"))
			if bad != nil && (err != nil || !bytes.Equal(aside, bad)) {
				t.Errorf("set aside: %v", err)
			}
			if _, err := os.Stat(stranger); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a bundle that is none stays")
			}
			if _, events = open(t, dir); len(events) != 0 {
				t.Errorf("again: %+v", events)
			}
		})
	}
}

func TestASetOfANewerProgramIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	text := []byte(`{"v":2,"slots":{}}`)
	if err := os.WriteFile(filepath.Join(dir, setName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, options(nil)); !errors.Is(err, ErrFormat) {
		t.Errorf("%v", err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, setName)); !bytes.Equal(data, text) {
		t.Error("it was changed")
	}
}

// TestTheWrittenFormIsFrozen: what this version wrote, later ones read.
func TestTheWrittenFormIsFrozen(t *testing.T) {
	a, b := v(3, "aa"), v(4, "bb")
	slots := map[string]Slot{"p": {Active: &b, Good: &a, Floor: 5, Top: "cc", Refused: []Refused{{"cc", Struck}}, Shadow: &a,
		Canary: &Canary{a, 0.25}, Pending: &Pending{Previous: &a, Until: now, MaxDelta: 0.05, MaxLatency: 2, By: "uid:0"}}}
	want := `{"v":1,"sum":"%x","slots":{"p":{"active":{"digest":"bb","serial":4,"key":"acme"},"good":{"digest":"aa","serial":3,"key":"acme"},` +
		`"floor":5,"top":"cc","refused":[{"digest":"cc","why":"struck"}],"shadow":{"digest":"aa","serial":3,"key":"acme"},` +
		`"canary":{"digest":"aa","serial":3,"key":"acme","share":0.25},"pending":{"previous":{"digest":"aa","serial":3,"key":"acme"},` +
		`"until":"2026-11-24T17:00:00Z","max_delta":0.05,"max_latency":2,"by":"uid:0"}}}}` + "\n"
	_, body, _ := strings.Cut(want, `"slots":`)
	sum := sha256.Sum256([]byte(strings.TrimSuffix(body, "}\n")))
	if want = fmt.Sprintf(want, sum); string(writeSet(slots)) != want {
		t.Errorf("%s, want %s", writeSet(slots), want)
	}
	got, err := parseSet([]byte(want))
	if err != nil || !same(got, slots) {
		t.Errorf("%v %v", got, err)
	}
	if !json.Valid([]byte(want)) {
		t.Error("no JSON")
	}
}
