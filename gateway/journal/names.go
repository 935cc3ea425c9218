package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// names numbers sources and uplinks for ever.
type names struct {
	mu       sync.RWMutex // guards what follows
	list     map[string][]string
	number   map[string]map[string]int
	recalled bool // from the records, and not yet in state.bolt
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
		if err := b.Put(binary.BigEndian.AppendUint32(nil, uint32(i)), []byte(name)); err != nil {
			return err
		}
		return sumNames(tx)
	})
	if err != nil {
		return 0, fmt.Errorf("number %s %q: %w", kind, name, err)
	}
	n.set(kind, name, i)
	j.Append([]*gateway.Entry{j.eventEntry(event{Event: eventNamed, Kind: kind, Number: &i, Name: name})}, func(uint64, error) {})
	return i, nil
}

// recall takes a name over from its event record, when state.bolt has lost it.
func (n *names) recall(r *gateway.Record) {
	var e event
	if r.Kind != gateway.EventRecord || json.Unmarshal(r.Detail, &e) != nil || e.Event != eventNamed || e.Number == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if list, known := n.list[e.Kind]; known && *e.Number == len(list) && e.Name != "" {
		n.set(e.Kind, e.Name, *e.Number)
		n.recalled = true
	}
}

// keepRecalled makes names durable that were taken over from the records.
func (j *Journal) keepRecalled() error {
	if !j.names.recalled || j.readOnly {
		return nil
	}
	return j.state.update(func(tx *bbolt.Tx) error {
		for kind, list := range j.names.list {
			b, err := tx.CreateBucketIfNotExists([]byte(kind))
			if err != nil {
				return err
			}
			for i, name := range list {
				if err := b.Put(binary.BigEndian.AppendUint32(nil, uint32(i)), []byte(name)); err != nil {
					return err
				}
			}
		}
		return sumNames(tx)
	})
}

// namesSum returns the SHA-256 of all names, each as kind ‖ 0 ‖ key ‖ name ‖ 0.
func namesSum(tx *bbolt.Tx) []byte {
	h := sha256.New()
	for _, kind := range []string{kindSource, kindUplink} {
		if b := tx.Bucket([]byte(kind)); b != nil {
			b.ForEach(func(k, v []byte) error {
				fmt.Fprintf(h, "%s\x00%s%s\x00", kind, k, v)
				return nil
			})
		}
	}
	return h.Sum(nil)
}

// sumNames stores the sum of all names: with a name that is another one, messages would wait for an uplink that nobody has.
func sumNames(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists(bucketSnapshot)
	if err != nil {
		return err
	}
	return b.Put(keyNames, namesSum(tx))
}
