package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// Kinds of names that are numbered.
const (
	kindSource = "source"
	kindUplink = "uplink"
	maxSources = 1 << 16
)

// Buckets and keys of state.bolt.
var (
	bucketSnapshot = []byte("snapshot")
	bucketRoots    = []byte("roots")
	bucketStates   = []byte("states")
	keyNewest      = []byte("newest")
	keySum         = []byte("sum")   // of the newest snapshot and its states, see snapshotSum
	keyNames       = []byte("names") // beside it: the sum of all names, see namesSum
)

// eventNamed is the event that says what a number stands for: a name outlives state.bolt.
const eventNamed = "number given"

// stateDB is state.bolt: names, and what the records up to some seq come to. All but the names can be made again.
type stateDB struct {
	db *boltFile
}

// tallyRow is one series in a snapshot.
type tallyRow struct {
	Source uint16        `json:"source"`
	Uplink int           `json:"uplink"`
	Grade  gateway.Grade `json:"grade"`
	State  gateway.State `json:"state"`
	Count  uint64        `json:"count"`
}

// deadRow is one message that is dead for an uplink, or was and waits again.
type deadRow struct {
	Seq        uint64            `json:"seq"`
	Source     uint16            `json:"source"`
	Grade      gateway.Grade     `json:"grade"`
	Waits      gateway.UplinkSet `json:"waits"`
	Holds      gateway.UplinkSet `json:"holds"`
	Blocks     gateway.UplinkSet `json:"blocks"`
	Priorities uint64            `json:"priorities"`
	States     []gateway.State   `json:"states"` // by uplink
	Again      []uint64          `json:"again"`  // seqs under which it waits once more
}

// snapshot is the state as of record Next, together with the bucket "states".
type snapshot struct {
	Version    int            `json:"version"`
	Next       uint64         `json:"next"`
	Tree       []tlog.Hash    `json:"tree"`
	Totals     gateway.Totals `json:"totals"`
	Tally      []tallyRow     `json:"tally"`
	Dead       []deadRow      `json:"dead"`
	Segments   []segmentMeta  `json:"segments"`
	Checkpoint Checkpoint     `json:"checkpoint"`
	Ages       savedAges      `json:"ages"`

	states map[uint64]*chunk
}

// snapshotVersion is the format of a snapshot; one of another version is left aside, and everything follows from the
// records again.
const snapshotVersion = 2

// update runs fn in a synced transaction of state.bolt.
func (s *stateDB) update(fn func(tx *bbolt.Tx) error) error {
	return s.db.update(fn)
}

// openState opens state.bolt. When it is damaged it is set aside, unless readOnly, and everything but the names is made
// again from the records.
func (j *Journal) openState() (*snapshot, error) {
	path := filepath.Join(j.opt.Dir, stateFile)
	if _, err := os.Stat(path); j.readOnly && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	snap, err := j.readState(path)
	if err == nil && !j.readOnly {
		err = j.tryState()
	}
	if err == nil {
		return snap, nil
	}
	closeBolt(j.state.db)
	j.state.db, j.names = nil, newNames()
	j.opt.Log.Error("journal state is damaged and is made again from the records", "err", err)
	if j.readOnly {
		j.stateLost = true
		return nil, nil
	}
	if err := j.setStateAside(); err != nil {
		return nil, err
	}
	return j.readState(path)
}

// stateSuspect is the content of suspectFile when state.bolt could be read and not be written.
const stateSuspect = "state"

// suspectState lets the next Open make state.bolt again.
func (j *Journal) suspectState() {
	os.WriteFile(filepath.Join(j.opt.Dir, suspectFile), []byte(stateSuspect), 0o600)
}

// tryState returns an error of damage when state.bolt can be read and not be written: a damaged page may show only then.
func (j *Journal) tryState() error {
	if j.stateSpoilt {
		return &damaged{"it could not be written"}
	}
	err := j.state.update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{[]byte(kindSource), []byte(kindUplink), bucketRoots, bucketStates, bucketSnapshot, bucketTrimmed} {
			b, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return &damaged{err}
			}
			probe := []byte("probe")
			if err := errors.Join(b.Put(probe, probe), b.Delete(probe)); err != nil {
				return &damaged{err}
			}
		}
		return nil
	})
	if isDamage(err) {
		return err
	}
	return nil // a disk that is full is not the file's fault
}

// stateWhole returns an error of damage when anything in state.bolt cannot be read, or could not be written. It writes
// nothing: tryState is for who may.
func (j *Journal) stateWhole() error {
	path := filepath.Join(j.opt.Dir, stateFile)
	if j.stateLost {
		return &damaged{stateFile}
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil // it is made anew
	}
	db, err := openBolt(path, bbolt.Options{ReadOnly: true, PreLoadFreelist: true}, j.opt.openFile)
	if err != nil {
		return err
	}
	defer closeBolt(db)
	err = guard(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
				return b.ForEach(func(_, _ []byte) error { return nil })
			})
		})
	})
	if err == nil {
		err = pagesFit(path)
	}
	return err
}

// setStateAside moves state.bolt to the damaged files.
func (j *Journal) setStateAside() error {
	if err := os.MkdirAll(filepath.Join(j.opt.Dir, damagedDir), 0o700); err != nil {
		return err
	}
	aside := asideName(j.opt.Dir, stateFile, time.Now())
	if err := os.Rename(filepath.Join(j.opt.Dir, stateFile), filepath.Join(j.opt.Dir, aside)); err != nil {
		return err
	}
	j.repaired = append(j.repaired, SetAside{File: stateFile, Aside: aside})
	return syncFolders(j.opt.Dir)
}

func (j *Journal) readState(path string) (snap *snapshot, err error) {
	if !j.readOnly {
		if err := ensureBolt(path, j.opt.openFile); err != nil {
			return nil, err
		}
	}
	j.state.db, err = openBolt(path, bbolt.Options{ReadOnly: j.readOnly}, j.opt.openFile)
	if err != nil {
		return nil, err
	}
	err = guard(func() error {
		return j.state.db.View(func(tx *bbolt.Tx) error {
			for _, kind := range []string{kindSource, kindUplink} {
				b := tx.Bucket([]byte(kind))
				if b == nil {
					continue
				}
				err := b.ForEach(func(k, v []byte) error {
					if len(k) != 4 || int(binary.BigEndian.Uint32(k)) != len(j.names.list[kind]) {
						return &damaged{"the names have a gap"}
					}
					j.names.set(kind, string(v), len(j.names.list[kind]))
					return nil
				})
				if err != nil {
					return err
				}
			}
			b := tx.Bucket(bucketSnapshot)
			if b != nil {
				if sum := b.Get(keyNames); sum != nil && !bytes.Equal(sum, namesSum(tx)) {
					return &damaged{"the names do not have their sum"}
				}
			}
			if b == nil || b.Get(keyNewest) == nil {
				return nil
			}
			if sum := b.Get(keySum); sum != nil && !bytes.Equal(sum, snapshotSum(tx, b.Get(keyNewest))) {
				return &damaged{"the snapshot does not have its sum"}
			}
			snap = new(snapshot)
			if err := json.Unmarshal(b.Get(keyNewest), snap); err != nil {
				return &damaged{err}
			}
			if snap.Version != snapshotVersion {
				snap = nil
				return nil
			}
			return snap.readStates(tx.Bucket(bucketStates))
		})
	})
	if err != nil {
		return nil, err
	}
	if snap != nil && !(&compact{snap.Next, snap.Tree}).valid() {
		return nil, &damaged{"the snapshot does not add up"}
	}
	return snap, nil
}

// readStates reads the states that belong to the snapshot.
func (s *snapshot) readStates(b *bbolt.Bucket) error {
	s.states = make(map[uint64]*chunk)
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error {
		if len(k) != 9 || k[8] >= gateway.MaxUplinks {
			return &damaged{"a key of the states has an unexpected form"}
		}
		n := binary.BigEndian.Uint64(k)
		c := s.states[n]
		if c == nil {
			c = new(chunk)
			s.states[n] = c
		}
		if err := c.decode(int(k[8]), v); err != nil {
			return &damaged{err}
		}
		return nil
	})
}

// snapshotSum returns the SHA-256 of a snapshot's text and of keys and values of the states that belong to it.
func snapshotSum(tx *bbolt.Tx, text []byte) []byte {
	h := sha256.New()
	h.Write(text)
	if b := tx.Bucket(bucketStates); b != nil {
		b.ForEach(func(k, v []byte) error {
			h.Write(k)
			h.Write(v)
			return nil
		})
	}
	return h.Sum(nil)
}

// putStates stores what changed of the states.
func putStates(tx *bbolt.Tx, list []stored) error {
	b, err := tx.CreateBucketIfNotExists(bucketStates)
	if err != nil {
		return err
	}
	for _, d := range list {
		key := append(binary.BigEndian.AppendUint64(nil, d.chunk), byte(d.uplink))
		if d.value != nil {
			if err := b.Put(key, d.value); err != nil {
				return err
			}
			continue
		}
		for u := range gateway.MaxUplinks {
			key[8] = byte(u)
			if err := b.Delete(key); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeSnapshot copies the state as of the last commit, and what differs from what is stored of states and subtree roots.
func (j *Journal) takeSnapshot() (*snapshot, []stored, map[uint64]tlog.Hash) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.led.snapshot()
	s.Checkpoint, s.Ages = j.checkpoint, j.saveAges()
	for _, seg := range j.segments {
		s.Segments = append(s.Segments, seg.clone())
	}
	roots := make(map[uint64]tlog.Hash, len(j.roots))
	for n, h := range j.roots {
		roots[n] = h
	}
	j.led.states.prune(j.led.tree.size)
	return s, j.led.states.changes(), roots
}

// snapshot copies what the records came to, but for the states.
func (l *ledger) snapshot() *snapshot {
	s := &snapshot{Version: snapshotVersion, Next: l.tree.size, Tree: l.tree.clone().roots, Totals: l.totals}
	l.each(func(source uint16, u int, g gateway.Grade, st gateway.State, n uint64) {
		s.Tally = append(s.Tally, tallyRow{source, u, g, st, n})
	})
	s.Dead = l.deadRows()
	return s
}

// deadRows lists the messages that are dead or were and wait again, by seq.
func (l *ledger) deadRows() (rows []deadRow) {
	for _, seq := range slices.Sorted(maps.Keys(l.dead)) {
		m := l.dead[seq]
		row := deadRow{Seq: seq, Source: m.source, Grade: m.grade, Waits: m.waits, Holds: m.holds, Blocks: m.blocks, Priorities: m.priorities}
		for again, origin := range l.again {
			if origin == seq {
				row.Again = append(row.Again, again)
			}
		}
		row.States = append([]gateway.State(nil), m.state[:]...)
		slices.Sort(row.Again)
		rows = append(rows, row)
	}
	return rows
}

// saveState makes the state of the last commit durable in state.bolt.
func (j *Journal) saveState() error {
	snap, states, roots := j.takeSnapshot()
	text, err := json.Marshal(snap)
	if err != nil {
		panic("journal: encode snapshot: " + err.Error())
	}
	err = j.state.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketRoots)
		if err != nil {
			return err
		}
		for n, h := range roots {
			if err := b.Put(rootEntry(n, h)); err != nil {
				return err
			}
		}
		if err := putStates(tx, states); err != nil {
			return err
		}
		if b, err = tx.CreateBucketIfNotExists(bucketSnapshot); err != nil {
			return err
		}
		if err := b.Put(keySum, snapshotSum(tx, text)); err != nil {
			return err
		}
		if err := b.Put(keyNewest, text); err != nil || b.Get(keyNames) != nil {
			return err
		}
		return sumNames(tx) // of an earlier build
	})
	if isDamage(err) {
		j.suspectState()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.led.states.again(states)
		return fmt.Errorf("save state: %w", err)
	}
	for n := range roots {
		delete(j.roots, n)
	}
	return nil
}

// rootEntry returns key and value of the root of subtree n: the hash, and the first 8 bytes of the SHA-256 of key and hash,
// which earlier builds did not store.
func rootEntry(n uint64, h tlog.Hash) (key, value []byte) {
	key = binary.BigEndian.AppendUint64(nil, n)
	sum := sha256.Sum256(append(key[:8:8], h[:]...))
	return key, append(h[:], sum[:8]...)
}

// storedRoot returns the root of the complete subtree n of level 8, when it is known.
func (j *Journal) storedRoot(n uint64) (h tlog.Hash, ok bool) {
	h, ok, _ = j.lookRoot(n)
	return h, ok
}

// lookRoot is storedRoot, and reports whether one is stored that does not have its sum.
func (j *Journal) lookRoot(n uint64) (h tlog.Hash, ok, spoilt bool) {
	j.mu.Lock()
	h, ok = j.roots[n]
	j.mu.Unlock()
	if ok || j.state.db == nil {
		return h, ok, false
	}
	err := j.state.db.read(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketRoots); b != nil {
			if v := b.Get(binary.BigEndian.AppendUint64(nil, n)); len(v) >= len(h) {
				copy(h[:], v)
				_, want := rootEntry(n, h)
				ok = len(v) == len(h) || bytes.Equal(v, want)
				spoilt = !ok
			}
		}
		return nil
	})
	return h, ok && err == nil, spoilt
}

// restore starts the ledger from a snapshot.
func (l *ledger) restore(s *snapshot) {
	l.tree, l.next = compact{s.Next, s.Tree}, s.Next
	l.totals = s.Totals
	for _, r := range s.Tally {
		if r.Uplink >= 0 && r.Uplink < gateway.MaxUplinks && r.Grade <= gateway.Core && r.State <= gateway.Received {
			l.of(r.Source)[r.Uplink][r.Grade][r.State] = r.Count
		}
	}
	l.states.chunks = s.states
	l.restoreDead(s.Dead)
}

func (l *ledger) restoreDead(rows []deadRow) {
	for _, r := range rows {
		m := &deadMessage{decision: decision{r.Source, r.Grade, r.Waits, r.Holds, r.Blocks, r.Priorities}}
		copy(m.state[:], r.States)
		l.dead[r.Seq] = m
		for _, again := range r.Again {
			l.again[again] = r.Seq
		}
	}
}
