package main

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/protocols/payload"
)

// TestReclassifyMissesNothing edits random bodies at random and compares the cheap second look with a whole one: what only
// the whole one finds must have been found at the same place before the edit.
func TestReclassifyMissesNothing(t *testing.T) {
	var catalogs []*catalog.Catalog
	for _, name := range catalog.Shipped {
		c, err := catalog.Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		catalogs = append(catalogs, c)
	}
	classifier, err := catalog.New(catalogs...)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(7, 11))
	edited, again := 0, 0
	for range 6000 {
		w := &writer{Rand: random}
		if random.IntN(3) == 0 {
			w.numbers()
		} else {
			w.object(0)
		}
		m := &gateway.Message{Source: "bench", Client: "car-7", Topic: "v1/car-7/telemetry", Payload: w.out.Bytes()}
		n, more := reclassify(t, classifier, m, random)
		edited, again = edited+n, again+more
	}
	if edited < 3000 || again < 300 {
		t.Fatalf("only %d bodies were edited, and %d findings came from a second look: nothing was tested", edited, again)
	}
}

// numbers writes positions and numbers that could be taken for some, side by side and apart.
func (w *writer) numbers() {
	values := []string{"39.90923", "116.397428", "31.23041", "121.47372", "7", `"x"`, "39909230", "116397428", "12.3456", "100.1234"}
	keys := []string{"lat", "lon", "a", "b", "start_lat", "start_lng", "position", "speed", "coord", "datum"}
	w.out.WriteString(`{"list":[`)
	for i := range 1 + w.IntN(5) {
		if i > 0 {
			w.out.WriteByte(',')
		}
		w.out.WriteString(values[w.IntN(len(values))])
	}
	w.out.WriteByte(']')
	for _, i := range w.Perm(len(keys))[:w.IntN(7)] {
		w.out.WriteString(`,"` + keys[i] + `":` + values[w.IntN(len(values))])
	}
	w.out.WriteByte('}')
}

// reclassify edits one body and compares both looks. It returns whether the body was edited and how many findings the
// second look made that the whole one made too.
func reclassify(t *testing.T, c *catalog.Classifier, m *gateway.Message, random *rand.Rand) (edited, again int) {
	var codec payload.JSON
	var in, out gateway.Body
	if codec.Decode(m.Payload, &in) != nil {
		return 0, 0
	}
	var before, whole, second gateway.Classification
	c.Classify(m, &in, &before)
	var changes []gateway.Change
	var from []int32 // outbound node → node
	replaced := map[int32]bool{}
	for i := int32(0); int(i) < len(in.Nodes); {
		n := &in.Nodes[i]
		switch {
		case i > 0 && random.IntN(6) == 0:
			changes = append(changes, gateway.Change{Node: i, Op: gateway.DropNode})
			i = n.Next
			continue
		case !n.Kind.Container() && random.IntN(8) == 0:
			changes = append(changes, gateway.Change{Node: i, Op: gateway.SetValue, As: gateway.Number, With: []byte("39.91")})
			replaced[i] = true
		}
		from = append(from, i)
		i++
	}
	if len(changes) == 0 {
		return 0, 0
	}
	body, err := codec.Encode(nil, &in, changes, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := codec.Decode(body, &out); err != nil {
		t.Fatal(err)
	}
	edit := *m
	edit.Payload = body
	c.Classify(&edit, &out, &whole)
	c.Reclassify(&edit, &out, &second)
	same := func(list []gateway.Finding, p gateway.Place, category uint16) bool {
		return slices.ContainsFunc(list, func(f gateway.Finding) bool { return f.Place == p && f.Category == category })
	}
	for _, f := range whole.Findings {
		p := f.Place
		if p.Kind == gateway.AtValue || p.Kind == gateway.AtKey {
			p.Index = from[p.Index]
		}
		if p.Kind == gateway.AtValue && replaced[p.Index] {
			continue // its operator answers for it
		}
		if same(second.Findings, f.Place, f.Category) {
			again++
		} else if !same(before.Findings, p, f.Category) {
			t.Fatalf("category %s is found in %s, edited from %s, and not by the second look", c.Categories()[f.Category].ID, body, m.Payload)
		}
	}
	for _, n := range whole.Unknown {
		if slices.ContainsFunc(before.Findings, func(f gateway.Finding) bool {
			return f.Place == gateway.Place{Kind: gateway.AtValue, Index: from[n]}
		}) {
			continue // it was known, as what its neighbour made of it, and was ruled as that
		}
		if !replaced[from[n]] && !slices.Contains(second.Unknown, n) && !slices.Contains(before.Unknown, from[n]) {
			t.Fatalf("a leaf of %s, edited from %s, is unknown, and not to the second look", body, m.Payload)
		}
	}
	return 1, again
}
