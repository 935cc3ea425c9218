package journal

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// Names and sizes of what is kept of trimmed records, see the package doc.
const (
	baseFile    = "trimmed"
	baseMagic   = "SLRTRM01"
	baseHead    = 28 // magic, key id, salt
	maxBase     = 256 << 20
	keptChanges = 16
	baseVersion = 1
)

var (
	bucketTrimmed = []byte("trimmed")
	errBase       = errors.New("what is kept of trimmed records cannot be opened")
)

// ErrTrimmed reports records that are no longer in the journal: a collector has them, or they were older than they had
// to be kept.
type ErrTrimmed struct {
	Next uint64 // the first record that is here
}

func (e *ErrTrimmed) Error() string {
	return fmt.Sprintf("records below %d are trimmed: the collector has them, if one is configured", e.Next)
}

// base is what is kept of trimmed records: the state as of record Next, where the records here begin, with the newest
// checkpoint in the state's Checkpoint.
type base struct {
	snapshot
	Version   int                 `json:"base"`
	Names     map[string][]string `json:"names"`
	Newest    int64               `json:"newest"`    // of their times, of those that can be trusted, in milliseconds since 1970
	Provision uint64              `json:"provision"` // seq behind the last decision of the class provision
	States    []baseStates        `json:"states"`
	Nodes     []node              `json:"nodes"`
	Changes   []kept              `json:"changes"`
	Settings  []openSetting       `json:"settings"`
	Open      []byte              `json:"open"`

	nodes map[nodeID]tlog.Hash
	open  openSet
}

// baseStates is one chunk of states of one uplink.
type baseStates struct {
	Chunk  uint64 `json:"chunk"`
	Uplink int    `json:"uplink"`
	Value  []byte `json:"value"`
}

// all returns the states as a base stores them.
func (s *states) all() (list []baseStates) {
	for _, n := range slices.Sorted(maps.Keys(s.chunks)) {
		for u := range gateway.MaxUplinks {
			if c := s.chunks[n]; c.of[u] != nil {
				list = append(list, baseStates{n, u, c.encode(u)})
			}
		}
	}
	return list
}

// node is the root of a complete subtree.
type node struct {
	Level int       `json:"level"`
	N     uint64    `json:"n"`
	Hash  tlog.Hash `json:"hash"`
}

type nodeID struct {
	level int
	n     uint64
}

// kept is a record that outlives its archive.
type kept struct {
	Seq    uint64 `json:"seq"`
	Record []byte `json:"record"`
}

// state returns the state as of Next, for a ledger to start from. Nothing of it counts as stored.
func (b *base) state() *snapshot {
	s := b.snapshot
	s.Tree, s.states = slices.Clone(s.Tree), make(map[uint64]*chunk)
	for _, st := range b.States {
		c := s.states[st.Chunk]
		if c == nil {
			c = new(chunk)
			s.states[st.Chunk] = c
		}
		if err := c.decode(st.Uplink, st.Value); err != nil {
			panic("journal: states were checked before: " + err.Error())
		}
		c.fresh |= 1 << st.Uplink
	}
	return &s
}

// node returns a hash that was kept.
func (b *base) node(level int, n uint64) (h tlog.Hash, ok bool) {
	h, ok = b.nodes[nodeID{level, n}]
	return h, ok
}

// reaches reports whether a subtree can consist of hashes that were kept and records that are here.
func (b *base) reaches(level int, n uint64) bool {
	if (n+1)<<level > b.Next {
		return true
	}
	for id := range b.nodes {
		if id.level < level && id.n>>(level-id.level) == n {
			return true
		}
	}
	return false
}

// index makes what is looked up of what is stored.
func (b *base) index() error {
	b.nodes = make(map[nodeID]tlog.Hash, len(b.Nodes))
	for _, n := range b.Nodes {
		if n.Level < 0 || n.Level > 62 {
			return errBase
		}
		b.nodes[nodeID{n.Level, n.N}] = n.Hash
	}
	for _, st := range b.States {
		if st.Uplink < 0 || st.Uplink >= gateway.MaxUplinks || new(chunk).decode(st.Uplink, st.Value) != nil {
			return errBase
		}
	}
	b.open = openSet{settings: b.Settings, bytes: b.Open}
	return b.open.index()
}

// seal returns the base as it is stored.
func (b *base) seal(keys *keyring) ([]byte, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestSpeed)
	w.Write(text) // into memory: cannot fail
	w.Close()
	var head [baseHead]byte
	copy(head[:], baseMagic)
	binary.BigEndian.PutUint32(head[8:], keys.current.ID)
	rand.Read(head[12:])
	var iv [12]byte
	return keys.derive(keys.current, head[12:], "sluice trimmed v1").Seal(head[:], iv[:], packed.Bytes(), head[:]), nil
}

// openBase reads what seal wrote.
func openBase(sealed []byte, keys *keyring) (*base, error) {
	if len(sealed) < baseHead || string(sealed[:8]) != baseMagic {
		return nil, errBase
	}
	key := keys.keys[binary.BigEndian.Uint32(sealed[8:])]
	if key == nil {
		return nil, errBase
	}
	var iv [12]byte
	packed, err := keys.derive(key, sealed[12:baseHead], "sluice trimmed v1").Open(nil, iv[:], sealed[baseHead:], sealed[:baseHead])
	if err != nil {
		return nil, errBase
	}
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxBase))
	if err != nil {
		return nil, errBase
	}
	b := new(base)
	if json.Unmarshal(text, b) != nil || b.Version != baseVersion || b.snapshot.Version != snapshotVersion ||
		b.Next == 0 || !(&compact{b.Next, b.Tree}).valid() {
		return nil, errBase
	}
	return b, b.index()
}

// readBase returns what is kept of trimmed records, from its file or, when that is damaged, from state.bolt; nil when
// nothing is trimmed.
func (j *Journal) readBase() (*base, error) {
	sealed, err := os.ReadFile(j.archivePath(baseFile))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	var b *base
	if err == nil && sealed != nil {
		b, err = openBase(sealed, j.keys)
	}
	if b != nil && err == nil {
		return b, nil
	}
	var copied []byte
	if j.state.db != nil {
		if e := j.state.db.read(func(tx *bbolt.Tx) error {
			if bucket := tx.Bucket(bucketTrimmed); bucket != nil {
				copied = slices.Clone(bucket.Get(keyNewest))
			}
			return nil
		}); e != nil {
			return nil, errors.Join(err, e)
		}
	}
	if copied == nil {
		return nil, err
	}
	if err != nil {
		j.opt.Log.Error("what is kept of trimmed records is damaged and is read from "+stateFile, "err", err)
		j.suspect()
	}
	return openBase(copied, j.keys)
}

// openSetting is what open entries have in common.
type openSetting struct {
	Kind       gateway.RecordKind `json:"kind"`
	Source     uint16             `json:"source"`
	Grade      gateway.Grade      `json:"grade"`
	Waits      gateway.UplinkSet  `json:"waits"`
	Holds      gateway.UplinkSet  `json:"holds"`
	Blocks     gateway.UplinkSet  `json:"blocks"`
	Priorities uint64             `json:"priorities"`
}

func (s *openSetting) setDecision(d decision) {
	s.Source, s.Grade, s.Waits, s.Holds, s.Blocks, s.Priorities = d.source, d.grade, d.waits, d.holds, d.blocks, d.priorities
}

// record returns as much of a record as decisionOf needs.
func (s *openSetting) record() *gateway.Record {
	r := &gateway.Record{Kind: s.Kind, Source: s.Source, Grade: s.Grade}
	for u := range gateway.MaxUplinks {
		o := gateway.Outcome{Uplink: uint8(u), State: gateway.Blocked, Priority: byte(s.Priorities >> (2 * u) & 3)}
		switch {
		case s.Waits.Has(u):
			o.State = gateway.Waiting
		case s.Holds.Has(u):
			o.State = gateway.Held
		case !s.Blocks.Has(u):
			continue
		}
		r.Outcomes = append(r.Outcomes, o)
	}
	return r
}

// openSet lists trimmed entries that were not settled where the records here begin, by growing seq: for each the
// distance to the one before, uvarint, and the number of its setting, uvarint.
type openSet struct {
	settings []openSetting
	bytes    []byte

	last    uint64
	numbers map[openSetting]uint64 // while it is made
	marks   []openMark             // every markLen entries, to begin at
	records []*gateway.Record      // of the settings
}

type openMark struct {
	at  int
	seq uint64 // of the entry before
}

const markLen = 1024

func (o *openSet) add(seq uint64, s openSetting) {
	n, ok := o.numbers[s]
	if !ok {
		if o.numbers == nil {
			o.numbers = make(map[openSetting]uint64)
		}
		n = uint64(len(o.settings))
		o.settings, o.numbers[s] = append(o.settings, s), n
	}
	o.bytes = binary.AppendUvarint(binary.AppendUvarint(o.bytes, seq-o.last), n)
	o.last = seq
}

// index checks the bytes and makes what is looked up.
func (o *openSet) index() error {
	for i := range o.settings {
		o.records = append(o.records, o.settings[i].record())
	}
	n := 0
	var seq uint64
	for at := 0; at < len(o.bytes); n++ {
		if n%markLen == 0 {
			o.marks = append(o.marks, openMark{at, seq})
		}
		step, setting, used := o.read(at)
		if used == 0 || setting >= uint64(len(o.settings)) || step == 0 || seq+step < seq {
			return errBase
		}
		at, seq = at+used, seq+step
	}
	return nil
}

func (o *openSet) read(at int) (step, setting uint64, used int) {
	step, a := binary.Uvarint(o.bytes[at:])
	if a <= 0 {
		return 0, 0, 0
	}
	setting, b := binary.Uvarint(o.bytes[at+a:])
	if b <= 0 {
		return 0, 0, 0
	}
	return step, setting, a + b
}

// each calls fn for the open entries from first to last. The record is not fn's.
func (o *openSet) each(first, last uint64, fn func(seq uint64, r *gateway.Record) error) error {
	i, _ := slices.BinarySearchFunc(o.marks, first, func(m openMark, seq uint64) int {
		if m.seq < seq {
			return -1
		}
		return 1
	})
	if i == 0 {
		if len(o.marks) == 0 {
			return nil
		}
		i = 1
	}
	m := o.marks[i-1]
	for at, seq := m.at, m.seq; at < len(o.bytes); {
		step, setting, used := o.read(at)
		at, seq = at+used, seq+step
		if seq < first {
			continue
		}
		if seq > last {
			return nil
		}
		if err := fn(seq, o.records[setting]); err != nil {
			return err
		}
	}
	return nil
}
