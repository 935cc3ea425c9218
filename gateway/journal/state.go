package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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
	keyNewest      = []byte("newest")
)

// names numbers sources and uplinks for ever.
type names struct {
	mu     sync.RWMutex // guards what follows
	list   map[string][]string
	number map[string]map[string]int
}

func newNames() *names {
	return &names{
		list:   map[string][]string{kindSource: nil, kindUplink: nil},
		number: map[string]map[string]int{kindSource: {}, kindUplink: {}},
	}
}

// name returns the name with a number. A number whose name was lost with state.bolt has a name that says so.
func (n *names) name(kind string, number int) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if number < len(n.list[kind]) {
		return n.list[kind][number]
	}
	return fmt.Sprintf("%s-%d", kind, number)
}

func (n *names) lookup(kind, name string) (int, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	i, ok := n.number[kind][name]
	return i, ok
}

// set puts name at a number of its own; gaps get names that say so.
func (n *names) set(kind, name string, number int) {
	for len(n.list[kind]) < number {
		n.set(kind, fmt.Sprintf("%s-%d", kind, len(n.list[kind])), len(n.list[kind]))
	}
	n.list[kind] = append(n.list[kind], name)
	n.number[kind][name] = number
}

// Number returns the journal's lasting number for a name of the given kind ("source" or "uplink"), from 0 in order of
// first use. A new name is durable before Number returns. There are at most gateway.MaxUplinks uplinks.
func (j *Journal) Number(kind, name string) (int, error) {
	if i, ok := j.names.lookup(kind, name); ok {
		return i, nil
	}
	if j.readOnly {
		return 0, ErrReadOnly
	}
	limit := map[string]int{kindSource: maxSources, kindUplink: gateway.MaxUplinks}[kind]
	if limit == 0 || name == "" {
		return 0, fmt.Errorf("number %s: no such kind of name, or no name", kind)
	}
	n := j.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if i, ok := n.number[kind][name]; ok {
		return i, nil
	}
	i := len(n.list[kind])
	if i >= limit {
		return 0, fmt.Errorf("number %s %q: %d names are in use, which is the most there can be", kind, name, limit)
	}
	err := j.state.update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(kind))
		if err != nil {
			return err
		}
		return b.Put(binary.BigEndian.AppendUint32(nil, uint32(i)), []byte(name))
	})
	if err != nil {
		return 0, fmt.Errorf("number %s %q: %w", kind, name, err)
	}
	n.set(kind, name, i)
	return i, nil
}

// stateDB is state.bolt: names, and what the records up to some seq come to. All but the names can be made again.
type stateDB struct {
	db *bbolt.DB
}

// tallyRow is one series in a snapshot.
type tallyRow struct {
	Source uint16        `json:"source"`
	Uplink int           `json:"uplink"`
	Grade  gateway.Grade `json:"grade"`
	State  gateway.State `json:"state"`
	Count  uint64        `json:"count"`
}

// snapshot is the state as of record Next.
type snapshot struct {
	Version    int                        `json:"version"`
	Next       uint64                     `json:"next"`
	Tree       []tlog.Hash                `json:"tree"`
	Cursors    [gateway.MaxUplinks]uint64 `json:"cursors"`
	Totals     gateway.Totals             `json:"totals"`
	Tally      []tallyRow                 `json:"tally"`
	Segments   []segmentMeta              `json:"segments"`
	Checkpoint Checkpoint                 `json:"checkpoint"`
}

const snapshotVersion = 1

// update runs fn in a synced transaction of state.bolt.
func (s *stateDB) update(fn func(tx *bbolt.Tx) error) error {
	return guard(func() error { return s.db.Update(fn) })
}

// openState opens state.bolt. When it is damaged it is set aside, unless readOnly, and everything but the names is made
// again from the records.
func (j *Journal) openState() (*snapshot, error) {
	path := filepath.Join(j.opt.Dir, stateFile)
	if _, err := os.Stat(path); j.readOnly && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	snap, err := j.readState(path)
	if err == nil {
		return snap, nil
	}
	closeBolt(j.state.db)
	j.state.db, j.names = nil, newNames()
	j.opt.Log.Error("journal state is damaged and is made again from the records", "err", err)
	if j.readOnly {
		return nil, nil
	}
	if err := os.Rename(path, fmt.Sprintf("%s.damaged-%d", path, time.Now().Unix())); err != nil {
		return nil, err
	}
	return j.readState(path)
}

func (j *Journal) readState(path string) (snap *snapshot, err error) {
	j.state.db, err = openBolt(path, bbolt.Options{ReadOnly: j.readOnly}, j.opt.openFile)
	if err != nil {
		return nil, err
	}
	if !j.readOnly {
		if err := syncDir(j.opt.Dir); err != nil {
			return nil, err
		}
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
			if b == nil || b.Get(keyNewest) == nil {
				return nil
			}
			snap = new(snapshot)
			if err := json.Unmarshal(b.Get(keyNewest), snap); err != nil {
				return &damaged{err}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if snap != nil && (snap.Version != snapshotVersion || !(&compact{snap.Next, snap.Tree}).valid()) {
		return nil, &damaged{"the snapshot is of another version or does not add up"}
	}
	return snap, nil
}

// takeSnapshot copies the state as of the last commit, and the subtree roots that are not stored yet.
func (j *Journal) takeSnapshot() (*snapshot, map[uint64]tlog.Hash) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &snapshot{Version: snapshotVersion, Next: j.led.tree.size, Tree: j.led.tree.clone().roots, Cursors: j.led.cursors, Totals: j.led.totals, Checkpoint: j.checkpoint}
	j.led.each(func(source uint16, u int, g gateway.Grade, st gateway.State, n uint64) {
		s.Tally = append(s.Tally, tallyRow{source, u, g, st, n})
	})
	for _, seg := range j.segments {
		s.Segments = append(s.Segments, seg.clone())
	}
	roots := make(map[uint64]tlog.Hash, len(j.roots))
	for n, h := range j.roots {
		roots[n] = h
	}
	return s, roots
}

// saveState makes the state of the last commit durable in state.bolt.
func (j *Journal) saveState() error {
	snap, roots := j.takeSnapshot()
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
			if err := b.Put(binary.BigEndian.AppendUint64(nil, n), h[:]); err != nil {
				return err
			}
		}
		if b, err = tx.CreateBucketIfNotExists(bucketSnapshot); err != nil {
			return err
		}
		return b.Put(keyNewest, text)
	})
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for n := range roots {
		delete(j.roots, n)
	}
	return nil
}

// storedRoot returns the root of the complete subtree n of level 8, when it is known.
func (j *Journal) storedRoot(n uint64) (h tlog.Hash, ok bool) {
	j.mu.Lock()
	h, ok = j.roots[n]
	j.mu.Unlock()
	if ok || j.state.db == nil {
		return h, ok
	}
	err := guard(func() error {
		return j.state.db.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket(bucketRoots); b != nil {
				if v := b.Get(binary.BigEndian.AppendUint64(nil, n)); len(v) == len(h) {
					copy(h[:], v)
					ok = true
				}
			}
			return nil
		})
	})
	return h, ok && err == nil
}

// restore starts the ledger from a snapshot.
func (l *ledger) restore(s *snapshot) {
	l.tree = compact{s.Next, s.Tree}
	l.cursors, l.totals = s.Cursors, s.Totals
	for _, r := range s.Tally {
		if r.Uplink >= 0 && r.Uplink < gateway.MaxUplinks && r.Grade <= gateway.Core && r.State <= gateway.Received {
			l.of(r.Source)[r.Uplink][r.Grade][r.State] = r.Count
		}
	}
}
