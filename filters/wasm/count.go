package wasm

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// Plugins keep nothing from one message to the next, so the host counts for them. PluginConfig.Counts says what; a message that
// would go beyond a count carries the label count:NAME of the manifest among those of the whole message.
//
// What is counted are the positions of the categories in a message, and a message that has findings of them but no position
// that can be read counts as one. A message that goes beyond is not counted itself: what stays within is never more than Above in any
// stretch of Per, by the time of receipt. A clock that goes backwards gives nothing free: the time of a device never does.
// Counts belong to the gateway and not to a version: those that are loaded, compared or rolled back to share them, and a message
// is counted once, by its id. They begin anew at a start.

// CountConfig is one count that the host keeps for a plugin.
type CountConfig struct {
	Category string        `yaml:"category" doc:"what is counted: positions of this category; a * at its end stands for any rest" required:"true"`
	Above    int           `yaml:"above" doc:"so many of a device stay within the count, 1 to 65535" required:"true"`
	Per      time.Duration `yaml:"per" doc:"in any stretch of this length, 1m to 168h" required:"true"`
}

// countLabel in front of a count's name is its label in a manifest. No category has such a name.
const countLabel = "count:"

// Bounds of counting.
const (
	maxCounts  = 8     // of one plugin
	maxDevices = 65536 // of one count; when all are taken, messages of other devices are beyond it
	buckets    = 12    // parts of Per; what was counted is forgotten in steps of one
	evictions  = 16    // devices looked at to find one that may be forgotten
)

// check reports what is wrong with one count.
func (c *CountConfig) check(r *config.Report, path, name string) {
	if !validName(name) {
		r.Error(path, "name of a count is not made of 1 to 64 of a-z, 0-9, - and _", "track: { category: \"VEH-LOC-*\", above: 20, per: 1h }")
	}
	if star := strings.IndexByte(c.Category, '*'); c.Category == "" || c.Category == "*" || star >= 0 && star != len(c.Category)-1 {
		r.Error(config.Join(path, "category"), "category is empty, or has a * that is not its end", `category: "VEH-LOC-*"`)
	}
	if c.Above < 1 || c.Above > 65535 {
		r.Error(config.Join(path, "above"), "above is not between 1 and 65535", "to let none leave needs no count: say so in the policy")
	}
	if c.Per < time.Minute || c.Per > 168*time.Hour {
		r.Error(config.Join(path, "per"), "per is not between 1m and 168h", "per: 1h")
	}
}

func (c *CountConfig) covers(category string) bool {
	if stem, wide := strings.CutSuffix(c.Category, "*"); wide {
		return strings.HasPrefix(category, stem)
	}
	return c.Category == category
}

// Counts are the counts of every plugin of a gateway. The zero value is ready; it is safe for concurrent use.
type Counts struct {
	mu sync.Mutex // guards of
	of map[countKey]*counter
}

// countKey tells counts apart. Another bound goes on with what was counted; another category or length of time begins anew.
type countKey struct {
	plugin, name, category string
	per                    time.Duration
}

// take returns the counter of the key, for one more plugin that uses it.
func (c *Counts) take(key countKey) *counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[countKey]*counter{}
	}
	k := c.of[key]
	if k == nil {
		k = &counter{bucket: key.per / buckets, most: maxDevices, seed: maphash.MakeSeed(), index: map[uint64]int32{}}
		c.of[key] = k
	}
	k.users++
	return k
}

// give ends what take began; a counter that nobody uses is forgotten.
func (c *Counts) give(key countKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.of[key]; k != nil {
		if k.users--; k.users == 0 {
			delete(c.of, key)
		}
	}
}

// counting is what the host counts for one loaded plugin.
type counting struct {
	counts *Counts
	list   []count
	once   sync.Once
}

type count struct {
	key        countKey
	counter    *counter
	above      int
	label      uint16
	categories []bool
}

// bind finds the labels and categories of the configured counts. A plugin is not left without a count that it waits for.
func (k *counting) bind(c *PluginConfig, m *Manifest, categories []gateway.Category, counts *Counts) error {
	for _, l := range m.Labels {
		if name, host := strings.CutPrefix(l, countLabel); host {
			if _, ok := c.Counts[name]; !ok {
				return fmt.Errorf("the plugin waits for the count %q: give counts: { %s: { category: …, above: …, per: … } }", name, name)
			}
		}
	}
	if k.counts = counts; counts == nil {
		k.counts = new(Counts)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Counts)) {
		cc := c.Counts[name]
		n := count{key: countKey{c.Name, name, cc.Category, cc.Per}, above: cc.Above, label: uint16(slices.Index(m.Labels, countLabel+name) + 1), categories: make([]bool, len(categories))}
		for i := range categories {
			n.categories[i] = cc.covers(categories[i].ID)
		}
		switch {
		case n.label == 0:
			return fmt.Errorf("count %q has no effect: the plugin has no label %s", name, countLabel+name)
		case !slices.Contains(n.categories, true):
			return fmt.Errorf("count %q: the catalogs in force have no category %q", name, cc.Category)
		}
		k.list = append(k.list, n)
	}
	for i := range k.list {
		k.list[i].counter = k.counts.take(k.list[i].key)
	}
	return nil
}

// reached appends the labels of the counts that the message goes beyond. A shadow run counts nothing.
func (k *counting) reached(labels []uint16, m *gateway.Message, c *gateway.Classification, shadow bool) []uint16 {
	for i := range k.list {
		n := &k.list[i]
		if n.counter.beyond(m, n.amount(c), n.above, !shadow) {
			labels = append(labels, n.label)
		}
	}
	return labels
}

func (k *counting) close() {
	k.once.Do(func() {
		for i := range k.list {
			k.counts.give(k.list[i].key)
		}
	})
}

// amount is how many positions of the categories a message has, at least 1 when there is any finding of them.
func (n *count) amount(c *gateway.Classification) (positions int) {
	covered := func(finding int32) bool {
		return finding >= 0 && int(finding) < len(c.Findings) && int(c.Findings[finding].Category) < len(n.categories) && n.categories[c.Findings[finding].Category]
	}
	for i := range c.Positions {
		if covered(c.Positions[i].LatFind) || covered(c.Positions[i].LonFind) {
			positions++
		}
	}
	for i := int32(0); positions == 0 && int(i) < len(c.Findings); i++ {
		if covered(i) {
			positions = 1
		}
	}
	return positions
}

// counter is one count of all devices.
type counter struct {
	users  int // guarded by Counts.mu
	bucket time.Duration
	most   int // devices
	seed   maphash.Seed

	mu      sync.Mutex // guards what follows
	began   time.Time  // of bucket 0: the first message; its monotonic reading, if any, keeps steps of the clock out
	index   map[uint64]int32
	devices []counted
	hand    int // where the search for a device to forget goes on
}

// counted is what one device has used up.
type counted struct {
	device uint64 // hash under the seed: two devices that share one share a count
	last   gateway.ID
	beyond bool                // what was said about last
	newest int64               // bucket
	within [buckets + 1]uint16 // by bucket modulo its length: the newest and those that Per reaches back to
}

// beyond reports whether a message with so many positions goes beyond the bound, and counts it.
func (k *counter) beyond(m *gateway.Message, positions, above int, counts bool) bool {
	if positions == 0 {
		return false
	}
	device := maphash.Comparable(k.seed, device{m.Source, m.Client})
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.began.IsZero() {
		k.began = m.Received
	}
	now := max(int64(m.Received.Sub(k.began)/k.bucket), 0)
	d := k.find(device, now)
	if d == nil {
		return true // no room to count: as if it had used up everything
	}
	if m.ID != (gateway.ID{}) && m.ID == d.last { // another version asks about the same message
		return d.beyond
	}
	for b := d.newest + 1; b <= now && b <= d.newest+int64(len(d.within)); b++ {
		d.within[b%int64(len(d.within))] = 0
	}
	d.newest = max(d.newest, now)
	sum := positions
	for _, n := range d.within {
		sum += int(n)
	}
	if !counts {
		return sum > above
	}
	d.last, d.beyond = m.ID, sum > above
	if !d.beyond {
		d.within[d.newest%int64(len(d.within))] += uint16(positions)
	}
	return d.beyond
}

// find returns the device's entry, made if there is room: for nobody, or of one that has nothing left to remember.
func (k *counter) find(device uint64, now int64) *counted {
	if at, ok := k.index[device]; ok {
		return &k.devices[at]
	}
	at := len(k.devices)
	if at < k.most {
		k.devices = append(k.devices, counted{})
	} else {
		at = -1
		for range min(evictions, len(k.devices)) {
			k.hand = (k.hand + 1) % len(k.devices)
			if now-k.devices[k.hand].newest > buckets {
				at = k.hand
				delete(k.index, k.devices[at].device)
				break
			}
		}
		if at < 0 {
			return nil
		}
	}
	k.devices[at] = counted{device: device, newest: now}
	k.index[device] = int32(at)
	return &k.devices[at]
}
