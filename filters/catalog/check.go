package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-edge/sluice/gateway/config"
)

// conditions are what a category may require beside detectors. No single message shows them.
var conditions = []string{"geofence", "anonymiser", "aggregate", "threshold", "state"}

// check reports what the YAML alone does not show.
func (c *Catalog) check(r *config.Report) {
	if c.Name != "" && strings.ContainsAny(c.Name, " \t\n/\\\"") {
		r.Error("name", fmt.Sprintf("name %q has a space, quote or slash", c.Name), "use lower-case letters, digits and hyphens")
	}
	first := map[string]int{}
	primary := map[string]string{}
	for i := range c.Categories {
		k := &c.Categories[i]
		at := config.Index("categories", i)
		if before, ok := first[k.ID]; ok && k.ID != "" {
			r.Error(at+".id", fmt.Sprintf("category %q stands twice; first as categories[%d]", k.ID, before), "give one of the two another id, or join them")
		} else {
			first[k.ID] = i
		}
		k.check(r, at)
		for j, d := range k.Primary {
			if other, ok := primary[d]; ok {
				r.Error(config.Index(at+".primary", j), fmt.Sprintf("detector %q is primary for %s already; a hit alone yields one category", d, other), "keep one, list the other under detectors")
			}
			primary[d] = k.ID
		}
	}
}

func (c *Category) check(r *config.Report, at string) {
	if c.ID != "" && !isID(c.ID) {
		r.Error(at+".id", fmt.Sprintf("id %q: want capital letters, digits and hyphens, up to 64", c.ID), "write it like SITE-PRESS-FORCE")
	}
	if c.Sensitive && !c.Personal {
		r.Error(at+".sensitive", "sensitive personal information that is not personal", "add personal: true")
	}
	if c.Grade == "" && !r.Has(at+".grade") && !stands(c.ID, unlistedIDs) && !stands(c.ID, opaqueIDs) {
		r.Warn(at, "category has no grade: what it finds is treated as core", "add grade: general, important or core")
	}
	checkDetectors(r, at+".detectors", c.Detectors)
	checkDetectors(r, at+".primary", c.Primary)
	known := append(slices.Clone(conditions), detectorNames[:]...)
	for i, q := range c.Requires {
		if !slices.Contains(known, q) {
			r.Error(config.Index(at+".requires", i), fmt.Sprintf("unknown condition %q; want a detector or one of %s", q, strings.Join(conditions, ", ")), nearest(q, known))
		}
	}
	c.Match.check(r, at+".match")
	if !c.Match.any() && len(c.Primary) == 0 && len(c.Requires) == 0 && !stands(c.ID, unlistedIDs) && !stands(c.ID, opaqueIDs) {
		r.Error(at, "category matches nothing: it has no match, no primary detector and requires nothing", "add match: { names: [...] }")
	}
}

func checkDetectors(r *config.Report, at string, list []string) {
	for i, d := range list {
		if _, ok := detectorNamed(d); !ok {
			r.Error(config.Index(at, i), fmt.Sprintf("unknown detector %q; want one of %s", d, strings.Join(detectorNames[:], ", ")), nearest(d, detectorNames[:]))
		} else if slices.Index(list, d) != i {
			r.Error(config.Index(at, i), fmt.Sprintf("detector %q stands twice", d), "keep one of the two")
		}
	}
}

func nearest(word string, known []string) string {
	if n := config.Nearest(word, known); n != "" {
		return "did you mean " + n + "?"
	}
	return ""
}

// any reports whether something can match.
func (m *Match) any() bool {
	return len(m.Topics)+len(m.Paths)+len(m.Names)+len(m.VSS)+len(m.OPCUA)+len(m.GBT32960)+len(m.JTT808) > 0
}

func (m *Match) check(r *config.Report, at string) {
	for i, f := range m.Topics {
		if msg := checkFilter(f); msg != "" {
			r.Error(config.Index(at+".topics", i), msg, `# stands alone at the end, + alone in a level: "v1/+/gnss/#"`)
		} else if f == "#" {
			r.Warn(config.Index(at+".topics", i), "filter # covers every message: no field is unknown any more", "narrow the filter")
		}
	}
	for i, n := range m.Names {
		if msg := checkName(n); msg != "" {
			r.Error(config.Index(at+".names", i), msg, "write the whole key; only * widens")
		}
	}
	for _, l := range []struct {
		key  string
		list []string
	}{{"paths", m.Paths}, {"vss", m.VSS}, {"opcua", m.OPCUA}} {
		for i, p := range l.list {
			if _, msg := splitPath(p); msg != "" {
				r.Error(config.Index(at+"."+l.key, i), msg, "write it like gnss.*.lat or **.lat")
			}
		}
	}
	if m.Values != "" && len(m.Paths)+len(m.Names)+len(m.VSS)+len(m.OPCUA) == 0 {
		r.Error(at+".values", "values narrows names and paths, and there are none", "add names, or remove values")
	}
}

// checkName says what is wrong with a name pattern, "" for nothing.
func checkName(n string) string {
	switch rest := strings.Trim(n, "*_.- "); {
	case n == "":
		return "name is empty"
	case rest == "":
		return fmt.Sprintf("name %q would match every field", n)
	case strings.ContainsAny(n, `^$()[]{}|\+?`):
		return fmt.Sprintf("name %q looks like a regular expression; names are compared whole", n)
	}
	return ""
}

func isID(id string) bool {
	for i := range len(id) {
		if c := id[i]; !(c >= 'A' && c <= 'Z') && !isNumeral(c) && c != '-' {
			return false
		}
	}
	return len(id) <= 64 && id[0] != '-' && id[len(id)-1] != '-'
}

// stands reports whether id is one of the categories that stand for what is in no catalog.
func stands(id string, ids []string) bool { return slices.Contains(ids, id) }
