package catalog

import (
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/sluice-edge/sluice/gateway"
)

// The categories that stand for what no catalog lists, best first, and the id of the one that is there when no
// catalog in force has any of them.
var (
	unlistedIDs = []string{"VEH-OTHER", "IND-UNKNOWN", implicitID}
	opaqueIDs   = []string{"VEH-OPAQUE", "IND-UNKNOWN", implicitID}
)

const implicitID = "UNLISTED"

// Classifier grades messages against the catalogs in force. It is immutable but for a bounded memory of keys, and safe
// for concurrent use.
type Classifier struct {
	catalogs   []*Catalog
	categories []gateway.Category
	rules      []rule            // by category
	primary    [detectors]uint16 // by detector: the category that a hit alone yields
	exact      map[string][]match
	globs      []globMatch
	segments   map[string]int32
	anchored   [][]*pattern // by the number of the last name
	topics     []filter
	sources    []source
	unlisted   uint16
	opaque     uint16
	keys       *keys
}

var _ gateway.Classifier = (*Classifier)(nil)

// rule is what matching needs to know of a category.
type rule struct {
	class    uint16
	rank     uint8 // of the grade
	envelope bool  // matches certain values only
	never    bool  // requires what no message shows
	confirms set   // detectors that confirm a match
	needs    set   // detectors that must hit for it to be found at all
}

type globMatch struct {
	pattern string
	match   match
}

// source is the matcher that a match came from, in the words of the catalog.
type source struct{ kind, text string }

// New compiles catalogs into a classifier, the first in force first. A category of a later catalog replaces that of
// the same id in an earlier one. The detectors' primary categories: those of the operator's catalogs go before those
// that the program carries, and among these the first in force goes first; a detector that is primary nowhere yields
// the unlisted category.
func New(cats ...*Catalog) (*Classifier, error) {
	c := &Classifier{catalogs: slices.Clone(cats), exact: map[string][]match{}, segments: map[string]int32{}, anchored: make([][]*pattern, 1),
		keys: &keys{seed: maphash.MakeSeed()}}
	names := map[string]bool{}
	at := map[string]int{}
	var entries []entry
	for _, k := range cats {
		if names[k.Name] {
			return nil, fmt.Errorf("join catalogs: two are named %q", k.Name)
		}
		names[k.Name] = true
		for i := range k.Categories {
			e := entry{k, &k.Categories[i]}
			if j, ok := at[e.ID]; ok {
				entries[j] = e
				continue
			}
			at[e.ID] = len(entries)
			entries = append(entries, e)
		}
	}
	if firstOf(at, unlistedIDs) < 0 || firstOf(at, opaqueIDs) < 0 {
		at[implicitID] = len(entries)
		entries = append(entries, entry{&Catalog{Name: "builtin"}, &Category{ID: implicitID, Name: "data in no catalog", Class: "unknown", Basis: "unknown is not general"}})
	}
	if len(entries) >= 1<<16 {
		return nil, fmt.Errorf("join catalogs: more than %d categories", 1<<16-1)
	}
	c.unlisted, c.opaque = uint16(firstOf(at, unlistedIDs)), uint16(firstOf(at, opaqueIDs))
	c.compile(entries)
	return c, nil
}

// entry is a category with the catalog it stands in.
type entry struct {
	from *Catalog
	*Category
}

func firstOf(at map[string]int, ids []string) int {
	for _, id := range ids {
		if i, ok := at[id]; ok {
			return i
		}
	}
	return -1
}

func (c *Classifier) compile(entries []entry) {
	classes := map[string]uint16{}
	for i, e := range entries {
		class := e.Class
		if class == "" {
			class = " " + e.ID // of its own: it gives way to nothing beside it
		}
		if _, ok := classes[class]; !ok {
			classes[class] = uint16(len(classes))
		}
		facts := e.facts(e.from.Name)
		r := rule{class: classes[class], rank: uint8(facts.Grade.Rank()), envelope: e.Match.Values != "", confirms: setOf(e.Detectors) | setOf(e.Primary)}
		for _, q := range e.Requires {
			if d, ok := detectorNamed(q); ok {
				r.needs |= 1 << d
			} else {
				r.never = true
			}
		}
		c.categories, c.rules = append(c.categories, facts), append(c.rules, r)
		if !r.never {
			c.compileMatch(uint16(i), &e.Match)
		}
	}
	c.choosePrimary(entries)
}

func setOf(names []string) (s set) {
	for _, n := range names {
		if d, ok := detectorNamed(n); ok {
			s |= 1 << d
		}
	}
	return s
}

func (c *Classifier) compileMatch(category uint16, m *Match) {
	from := func(kind, text string) int32 {
		c.sources = append(c.sources, source{kind, text})
		return int32(len(c.sources) - 1)
	}
	for _, f := range m.Topics {
		t := compileFilter(f)
		t.match.category, t.match.source = category, from("topic", f)
		c.topics = append(c.topics, t)
	}
	for _, n := range m.Names {
		c.addName(n, match{category: category, source: from("name", n)})
	}
	for _, p := range m.Paths {
		segs, _ := splitPath(p)
		c.addPath(segs, false, category, from("path", p))
	}
	for _, p := range m.OPCUA {
		segs, _ := splitPath(p)
		c.addPath(segs, true, category, from("opcua", p))
	}
	for _, p := range m.VSS {
		segs, _ := splitPath(p)
		s := from("vss", p)
		c.addPath(segs, true, category, s)
		if len(segs) > 2 && segs[1] != "*" && segs[1] != "**" {
			c.addPath(segs[1:], true, category, s) // bodies often leave the root out
		}
	}
}

// addName enters a name pattern. Its * stays, the rest is normalized like a key.
func (c *Classifier) addName(name string, m match) {
	n := normalize(name)
	for i := range len(n) {
		if n[i] == '*' {
			m.rank = rankGlob
			c.globs = append(c.globs, globMatch{n, m})
			return
		}
	}
	m.rank = rankName
	c.exact[n] = append(c.exact[n], m)
}

func (c *Classifier) addPath(segs []string, float bool, category uint16, source int32) {
	p := compilePath(segs, float, func(name string) int32 {
		n, ok := c.segments[name]
		if !ok {
			n = int32(len(c.anchored))
			c.segments[name] = n
			c.anchored = append(c.anchored, nil)
		}
		return n
	})
	p.match.category, p.match.source = category, source
	c.anchored[p.anchor] = append(c.anchored[p.anchor], p)
}

func (c *Classifier) choosePrimary(entries []entry) {
	var chosen [detectors]bool
	var own [detectors]bool // chosen from an operator's catalog
	for d := range c.primary {
		c.primary[d] = c.unlisted
	}
	for i, e := range entries {
		for _, name := range e.Primary {
			d, ok := detectorNamed(name)
			if !ok || c.rules[i].never || chosen[d] && (e.from.shipped || own[d] && e.from == entries[c.primary[d]].from) {
				continue
			}
			c.primary[d], chosen[d], own[d] = uint16(i), true, !e.from.shipped
		}
	}
}

// Categories lists the categories in force. The slice is shared and must not be changed.
func (c *Classifier) Categories() []gateway.Category { return c.categories }

// Catalogs lists the catalogs in force, in the order of New.
func (c *Classifier) Catalogs() []*Catalog { return slices.Clone(c.catalogs) }

// Unlisted returns the category that counts unknown fields, or opaque bodies.
func (c *Classifier) Unlisted(opaque bool) uint16 {
	if opaque {
		return c.opaque
	}
	return c.unlisted
}
