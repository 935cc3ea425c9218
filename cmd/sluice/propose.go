package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-edge/sluice/gateway"
)

// summary says what was seen, for the terminal.
func (s *sighting) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "saw %s, %d of them opaque\n", count(s.messages, "message"), s.opaque)
	for _, t := range firstOf(byCount(s.topics, func(n int) int { return n }), 20) {
		fmt.Fprintf(&b, "  topic %s: %d\n", t, s.topics[t])
	}
	cats := s.classifier.Categories()
	for _, c := range byCount(s.categories, func(v *categorySeen) int { return v.findings }) {
		fmt.Fprintf(&b, "  known %s (%s): %s, %d by a detector alone\n", cats[c].ID, cats[c].Name, count(s.categories[c].findings, "finding"), s.categories[c].detected)
	}
	for _, n := range firstOf(byCount(s.unknown, func(f *fieldSeen) int { return f.times }), 40) {
		fmt.Fprintf(&b, "  unknown %s: %s\n", n, s.unknown[n].line())
	}
	return b.String()
}

func firstOf[T any](list []T, n int) []T { return list[:min(n, len(list))] }

// line describes a field without a value.
func (f *fieldSeen) line() string {
	var kinds []string
	for _, k := range byCount(f.kinds, func(n int) int { return n }) {
		kinds = append(kinds, kindNames[k])
	}
	distinct := fmt.Sprint(len(f.distinct))
	if len(f.distinct) >= maxDistinct {
		distinct += " or more"
	}
	return fmt.Sprintf("%s, %s, %s different, on %s", count(f.times, "time"), strings.Join(kinds, " or "), distinct,
		strings.Join(firstOf(byCount(f.topics, func(n int) int { return n }), 3), " "))
}

var kindNames = map[gateway.Kind]string{gateway.String: "text", gateway.Number: "number", gateway.Bool: "truth value", gateway.Null: "null", gateway.Bytes: "bytes"}

// policy proposes rows for the categories that were seen, each with the handling that its catalog advises. What was not
// seen is removed.
func (s *sighting) policy() string {
	var b strings.Builder
	b.WriteString("  - { match: { grade: core }, action: block }\n  - { match: { grade: important }, action: block }   # they need an approval\n")
	cats := s.classifier.Categories()
	for _, c := range byCount(s.categories, func(v *categorySeen) int { return v.findings }) {
		if k := &cats[c]; k.Grade == gateway.General {
			fmt.Fprintf(&b, "  - { match: { category: %s }, %s }   # %s: %s; advice: %s\n", k.ID, adviceAction[k.Handling], k.Name, count(s.categories[c].findings, "finding"), cmp.Or(k.Handling, "none"))
		}
	}
	b.WriteString("  - { match: {}, action: remove }   # what was not seen stays until somebody decides\n")
	return b.String()
}

// adviceAction turns a catalog's advice into a row; what has no safe equivalent is removed.
var adviceAction = map[string]string{
	"": "action: remove", "pass": "action: pass", "mask": "action: tokenize, domain: @DOMAIN@", "tokenize": "action: tokenize, domain: @DOMAIN@",
	"generalize": "action: generalize, decimals: 2", "encrypt": "action: encrypt, to: @RECIPIENT@",
	"remove": "action: remove", "hold": "action: remove", "block": "action: remove",
}

// catalog proposes entries for the fields that nobody knows, all of them commented out: until somebody decides, they
// stay unknown and do not leave.
func (s *sighting) catalog() string {
	var b strings.Builder
	b.WriteString("# Fields that no catalog knows. They stay until you decide: remove the # in front of an entry, set grade and flags, say\n" +
		"# who decided and why (basis), and add this file to catalogs in sluice.yaml. Then: sluice lint " + siteCatalog + "\n\n" +
		"version: 1\nname: site\ntitle: Catalog of this site\ncategories:\n")
	for i, name := range byCount(s.unknown, func(f *fieldSeen) int { return f.times }) {
		fmt.Fprintf(&b, "# %s: %s\n", name, s.unknown[name].line())
		if strings.HasPrefix(name, "(") {
			continue
		}
		like := s.unknown[name].like
		if len(like) > 0 {
			fmt.Fprintf(&b, "# reads like a field of %s, and is graded and handled here as the strictest of them\n", strings.Join(like, ", "))
		}
		k := s.strictest(like)
		fmt.Fprintf(&b, "#  - id: %s\n#    name: %q\n#    class: site\n#    grade: %s\n#    personal: %t\n#    sensitive: %t\n#    basis: \"…\"\n#    match: { names: [%q] }\n#    handling: { default: %s }\n",
			siteID(name, i), name, k.Grade, k.Personal, k.Sensitive, name, k.Handling)
	}
	return b.String()
}

// strictest joins categories into one that is at least as strict as each: general and passed when there is none.
func (s *sighting) strictest(ids []string) gateway.Category {
	joined := gateway.Category{Grade: gateway.General, Handling: "pass"}
	for _, c := range s.classifier.Categories() {
		if !slices.Contains(ids, c.ID) {
			continue
		}
		joined.Grade = gateway.Highest(joined.Grade, c.Grade)
		joined.Personal, joined.Sensitive = joined.Personal || c.Personal, joined.Sensitive || c.Sensitive
		have, err := gateway.ParseAction(joined.Handling)
		advised, err2 := gateway.ParseAction(c.Handling)
		if err == nil && err2 == nil {
			joined.Handling = gateway.Stricter(have, advised).String()
		}
	}
	if joined.Grade == gateway.Ungraded {
		joined.Grade = gateway.Core
	}
	return joined
}

// siteID is a category id for a field: its name where that is ASCII, else its number.
func siteID(name string, i int) string {
	id := strings.Trim(strings.ToUpper(strings.ReplaceAll(name, "_", "-")), "-")
	if id == "" || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
		id = fmt.Sprintf("FIELD-%d", i+1)
	}
	return "SITE-" + id
}

// filters proposes topic filters that let in what was seen: the first levels of the topics.
func (s *sighting) filters() []string {
	var list []string
	for _, t := range byCount(s.topics, func(n int) int { return n }) {
		first, _, more := strings.Cut(t, "/")
		if first == "+" || first == "" || len(list) >= 8 {
			return []string{"#"}
		}
		if more {
			first += "/#"
		}
		if !slices.Contains(list, first) {
			list = append(list, first)
		}
	}
	return list
}

// byCount orders names by how often they were seen, then by name.
func byCount[K cmp.Ordered, V any](m map[K]V, times func(V) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int {
		return cmp.Or(cmp.Compare(times(m[b]), times(m[a])), cmp.Compare(a, b))
	})
	return keys
}
