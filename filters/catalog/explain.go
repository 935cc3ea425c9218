package catalog

import (
	"slices"
	"strings"

	"github.com/sluice-edge/sluice/gateway"
)

// Reason says what made a finding, in the words of the catalog: nothing in it comes from a device.
type Reason struct {
	Kind    string // topic, path, name, vss, opcua, detector, opaque
	Matcher string // the filter, path or name of the catalog, or the detector
}

// String is the reason in one phrase: name "lat".
func (r Reason) String() string {
	if r.Matcher == "" {
		return r.Kind
	}
	return r.Kind + " " + `"` + r.Matcher + `"`
}

func (c *Classifier) reason(source int32) Reason {
	s := c.sources[source]
	return Reason{Kind: s.kind, Matcher: s.text}
}

// Explain classifies like Classify and also returns, for each finding it appended, what made it. It allocates.
func (c *Classifier) Explain(m *gateway.Message, b *gateway.Body, class *gateway.Classification) []Reason {
	var why []Reason
	s := scratches.Get().(*scratch)
	s.trace = &why
	c.classify(s, m, b, class)
	s.trace = nil
	scratches.Put(s)
	return why
}

// Suggest returns the ids of categories that the key of leaf i, or one above it, makes likely although nothing matched:
// those whose names stand in the key as whole words. It is for proposing catalog entries, and only that.
func (c *Classifier) Suggest(b *gateway.Body, i int) []string {
	var ids []string
	for ; i >= 0; i = int(b.Nodes[i].Parent) {
		if !b.HasKey(i) {
			continue
		}
		words := strings.Split(normalize(string(b.Key(i))), "_")
		for size := len(words); size > 0; size-- { // longer names first
			for at := 0; at+size <= len(words); at++ {
				for _, m := range c.exact[strings.Join(words[at:at+size], "_")] {
					if id := c.categories[m.category].ID; !slices.Contains(ids, id) {
						ids = append(ids, id)
					}
				}
			}
		}
		if len(ids) > 0 {
			break
		}
	}
	return ids
}
