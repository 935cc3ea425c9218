package gateway

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
)

// maxWritten bounds the bytes that edits write into one body. A ciphertext is a hundred times as long as the digit it hides,
// and a body made of digits would otherwise take that much memory, only to be too long for its receivers.
const maxWritten = 2 << 20

// edit makes the outbound topic and body for uplink u and checks what it made. Any reason but NoReason blocks.
func (s *VersionSet) edit(d *Decision, u int) Reason {
	up := &d.Uplinks[u]
	topic, why := s.mapTopic(d, up)
	if why != NoReason {
		return why
	}
	up.Topic = topic
	if len(up.steps) == 0 && len(d.Class.Unknown) == 0 {
		up.Payload = d.Message.Payload // nothing to edit, and the policy just ruled that all of it may leave
		if topic == d.Message.Topic {
			up.clash = s.clashes(&d.Body)
			return NoReason
		}
	} else {
		if why := s.compute(d, up); why != NoReason {
			return why
		}
		if why := s.changes(d, up); why != NoReason {
			return why
		}
		d.w.spans = d.w.spans[:0]
		from := len(d.arena)
		out, err := s.Codec.Encode(d.arena, &d.Body, d.w.changes, &d.w.spans)
		if err != nil {
			return ReasonOperator
		}
		d.arena, up.Payload = out, out[from:len(out):len(out)]
	}
	why = s.check(d, u)
	up.clash = s.clashes(&d.w.body)
	return why
}

// compute decides which nodes go and what replaces the others, all but the encryptions, whose binding to the outbound
// path needs the answer first. An operator that does not fit its value becomes remove, on both halves of a position.
func (s *VersionSet) compute(d *Decision, up *UplinkDecision) Reason {
	w := &d.w
	w.drop = grow(w.drop, len(d.Body.Nodes))
	w.renamed = grow(w.renamed, len(d.Body.Nodes))
	clear(w.drop)
	clear(w.renamed)
	w.outputs, w.text, w.index = w.outputs[:0], w.text[:0], w.index[:0]
	for _, n := range d.Class.Unknown {
		w.drop[n] = true
	}
	dropped := len(d.Class.Unknown) > 0
	for i := range up.steps {
		st := &up.steps[i]
		if st.op.Action == Remove || w.drop[st.node] {
			w.drop[st.node], dropped = true, true
			continue
		}
		v := Value{Kind: d.Body.Nodes[st.node].Kind, Text: d.Body.Text(int(st.node))}
		op := st.op
		if st.key {
			v = Value{Kind: String, Text: d.Body.Key(int(st.node))}
		} else if op.Action == Encrypt {
			if op = op.below(); op.Action == Pass {
				continue
			}
		}
		from := len(w.text)
		out, as, fits, err := s.Redactor.Apply(w.text, op, v, FieldContext{ID: d.Message.ID})
		switch {
		case err != nil:
			return ReasonOperator
		case !fits:
			w.drop[st.node], dropped = true, true
			continue
		}
		if w.text = out; len(out) > maxWritten {
			return ReasonOutput
		}
		if st.op.Action != Encrypt {
			w.outputs = append(w.outputs, output{with: out[from:len(out):len(out)], as: as, step: int32(i)})
		}
	}
	if dropped {
		d.dropPairs()
		d.noteDropped(up)
	}
	return NoReason
}

// dropPairs removes the other half of every position that lost one.
func (d *Decision) dropPairs() {
	drop := d.w.drop
	for again := true; again; {
		again = false
		for i := range d.Class.Findings {
			if a, b, ok := halves(d.Class.Findings, i); ok && drop[a] != drop[b] {
				drop[a], drop[b], again = true, true, true
			}
		}
	}
}

// noteDropped writes down what did not stay although no rule says remove: its operator did not fit, it is unknown beside
// being found, or something around it went.
func (d *Decision) noteDropped(up *UplinkDecision) {
	up.Action = Stricter(up.Action, Remove)
	for i := range d.Class.Findings {
		f := &d.Class.Findings[i]
		if f.Place.Kind != AtValue && f.Place.Kind != AtKey {
			continue
		}
		for n := f.Place.Index; n >= 0; n = d.Body.Nodes[n].Parent {
			if d.w.drop[n] {
				up.Final[i] = Stricter(up.Final[i], Remove)
				break
			}
		}
	}
}

// changes turns what compute decided into changes in document order, and makes the encryptions.
func (s *VersionSet) changes(d *Decision, up *UplinkDecision) Reason {
	w := &d.w
	w.changes = w.changes[:0]
	if len(w.drop) > 0 && w.drop[0] {
		if len(d.Class.Unknown) > 0 && d.Class.Unknown[0] == 0 {
			return ReasonUnknownField
		}
		return ReasonNoLeaf // the body is one value, and it may not leave
	}
	for i := range w.outputs { // keys first: the paths of encrypted fields run over them
		if st := &up.steps[w.outputs[i].step]; st.key {
			w.renamed[st.node] = int32(i) + 1
		}
	}
	next, out := 0, 0
	for node := int32(0); int(node) < len(d.Body.Nodes); {
		for next < len(up.steps) && up.steps[next].node < node {
			next++ // below something that goes
		}
		if w.drop[node] {
			w.changes = append(w.changes, Change{Node: node, Op: DropNode})
			node = d.Body.Nodes[node].Next
			continue
		}
		for ; next < len(up.steps) && up.steps[next].node == node; next++ {
			st := &up.steps[next]
			for out < len(w.outputs) && int(w.outputs[out].step) < next {
				out++
			}
			switch {
			case st.op.Action == Encrypt && !st.key:
				if why := s.encrypt(d, st); why != NoReason {
					return why
				}
			case out < len(w.outputs) && int(w.outputs[out].step) == next && st.key:
				w.changes = append(w.changes, Change{Node: node, Op: SetKey, With: w.outputs[out].with})
			case out < len(w.outputs) && int(w.outputs[out].step) == next:
				w.changes = append(w.changes, Change{Node: node, Op: SetValue, As: w.outputs[out].as, With: w.outputs[out].with})
			default:
				return ReasonInternal
			}
		}
		node++
	}
	return NoReason
}

// encrypt appends the change that encrypts one field.
func (s *VersionSet) encrypt(d *Decision, st *step) Reason {
	n := &d.Body.Nodes[st.node]
	if n.Kind.Container() {
		return ReasonInternal
	}
	from := len(d.w.text)
	out, as, fits, err := s.Redactor.Apply(d.w.text, st.op, Value{Kind: n.Kind, Text: d.Body.Text(int(st.node))},
		FieldContext{ID: d.Message.ID, Pointer: d.outPointer(st.node), Raw: d.Body.Raw[n.Value.Off:n.Value.End()]})
	if err != nil || !fits {
		return ReasonOperator
	}
	if d.w.text = out; len(out) > maxWritten {
		return ReasonOutput
	}
	d.w.changes = append(d.w.changes, Change{Node: st.node, Op: SetValue, As: as, With: out[from:len(out):len(out)]})
	return NoReason
}

// outPointer is the JSON pointer that a node will have in the outbound body: with renamed keys, and without the
// elements that go.
func (d *Decision) outPointer(node int32) string {
	n := &d.Body.Nodes[node]
	if n.Parent < 0 {
		return ""
	}
	parent := d.outPointer(n.Parent)
	if d.Body.HasKey(int(node)) {
		key := string(d.Body.Key(int(node)))
		if i := d.w.renamed[node]; i > 0 {
			key = string(d.w.outputs[i-1].with)
		}
		return parent + "/" + pointerEscaper.Replace(key)
	}
	if len(d.w.index) == 0 {
		d.number()
	}
	return parent + "/" + strconv.Itoa(int(d.w.index[node]))
}

// number counts, for every node, the siblings in front of it that stay.
func (d *Decision) number() {
	w := &d.w
	w.index, w.kept = grow(w.index, len(d.Body.Nodes)), grow(w.kept, len(d.Body.Nodes))
	clear(w.kept)
	for i := range d.Body.Nodes {
		if p := d.Body.Nodes[i].Parent; p >= 0 {
			w.index[i] = w.kept[p]
			if !w.drop[i] {
				w.kept[p]++
			}
		}
	}
}

// check reads what edit wrote as a receiver would, grades it again and finds anything that the policy would not leave
// as it is. What an operator wrote is checked by that operator's own check and is then exempt.
func (s *VersionSet) check(d *Decision, u int) Reason {
	up, w := &d.Uplinks[u], &d.w
	if err := s.Codec.Decode(up.Payload, &w.body); err != nil {
		return ReasonOutput
	}
	if !s.exempt(d, up) || !d.lineUp(len(up.steps) == 0 && len(d.Class.Unknown) == 0) {
		return ReasonOutput
	}
	w.msg = *d.Message
	w.msg.Topic, w.msg.Payload = up.Topic, up.Payload
	w.class.Reset()
	if again, ok := s.Classifier.(Reclassifier); ok && len(up.levels) == 0 && !d.renames() {
		again.Reclassify(&w.msg, &w.body, &w.class)
	} else {
		s.Classifier.Classify(&w.msg, &w.body, &w.class)
	}
	for _, n := range w.class.Unknown {
		if w.exempt[n]&exemptValue == 0 {
			return ReasonOutput
		}
	}
	floor := d.floor(s, u)
	for i := range w.class.Findings {
		f := &w.class.Findings[i]
		if k := f.Place.Kind; (k == AtValue || k == AtKey) && (f.Place.Index < 0 || int(f.Place.Index) >= len(w.body.Nodes)) {
			return ReasonInternal
		}
		switch f.Place.Kind {
		case AtValue:
			if w.exempt[f.Place.Index]&exemptValue != 0 || d.ruled(Place{AtValue, w.from[f.Place.Index]}, f.Category) {
				continue
			}
		case AtKey:
			if w.exempt[f.Place.Index]&exemptKey != 0 || d.ruled(Place{AtKey, w.from[f.Place.Index]}, f.Category) {
				continue
			}
		case AtTopic:
			if slices.ContainsFunc(up.levels, func(l level) bool { return l.index == f.Place.Index }) || d.ruled(f.Place, f.Category) {
				continue
			}
		case AtClient:
			continue // does not leave
		case AtBody:
			if d.ruled(f.Place, f.Category) { // on every leaf, which was edited or left alone accordingly
				continue
			}
		}
		g := f.Grade
		if floor != Ungraded {
			g = Highest(g, floor)
		}
		if r := s.Policy.Rule(u, f.Category, g, d.Message, d.Now, d.Trusted); r.Op.Action != Pass {
			return ReasonOutput
		}
	}
	return NoReason
}

// renames reports whether some key was replaced: what lies below it is then elsewhere.
func (d *Decision) renames() bool {
	return slices.ContainsFunc(d.w.changes, func(c Change) bool { return c.Op == SetKey })
}

// ruled reports whether the message as received had the same finding at the same place: then the ruling on it stands,
// and since the editor left the place alone, it was to leave it as it is. Classifiers find in one order, so that asking
// in that order walks the places once.
func (d *Decision) ruled(p Place, category uint16) bool {
	w := &d.w
	if len(w.places) == 0 {
		for i := range d.Class.Findings {
			if f := &d.Class.Findings[i]; f.By != ByPlugin {
				w.places = append(w.places, placed{placeKey(f.Place), f.Category})
			}
		}
		byKey := func(a, b placed) int { return cmp.Compare(a.key, b.key) }
		if !slices.IsSortedFunc(w.places, byKey) {
			slices.SortFunc(w.places, byKey)
		}
		w.asked = 0
	}
	key := placeKey(p)
	if w.asked > 0 && w.places[w.asked-1].key >= key {
		w.asked = 0
	}
	for w.asked < len(w.places) && w.places[w.asked].key < key {
		w.asked++
	}
	for i := w.asked; i < len(w.places) && w.places[i].key == key; i++ {
		if w.places[i].category == category {
			return true
		}
	}
	return false
}

// placed is a finding of the message as received, for ruled.
type placed struct {
	key      uint64
	category uint16
}

// placeKey orders places as classifiers go through a message: topic, client id, then the nodes, a key before its value.
func placeKey(p Place) uint64 {
	index := uint64(uint32(p.Index))
	switch p.Kind {
	case AtTopic:
		return index
	case AtClient:
		return 1 << 40
	case AtKey:
		return 2<<40 | index<<1
	case AtValue:
		return 2<<40 | index<<1 | 1
	}
	return 1<<63 | uint64(p.Kind)<<40 | index
}

const (
	exemptValue = 1 << iota
	exemptKey
)

// exempt finds every replacement in the outbound body and lets its operator check it.
func (s *VersionSet) exempt(d *Decision, up *UplinkDecision) bool {
	w := &d.w
	w.exempt = grow(w.exempt, len(w.body.Nodes))
	clear(w.exempt)
	if len(up.steps) == 0 && len(d.Class.Unknown) == 0 {
		return true
	}
	span, change := 0, 0
	next := func() (step, bool) { // the step behind the next written span
		for ; change < len(w.changes); change++ {
			c := &w.changes[change]
			if c.Op == SetValue || c.Op == SetKey {
				change++
				return step{node: c.Node, key: c.Op == SetKey, op: *w.at(up, c.Node, c.Op == SetKey)}, true
			}
		}
		return step{}, false
	}
	for i := range w.body.Nodes {
		n := &w.body.Nodes[i]
		for span < len(w.spans) {
			isKey := n.Member.Off == w.spans[span].Off && w.spans[span].Off != n.Value.Off
			isValue := n.Value == w.spans[span]
			if !isKey && !isValue {
				break
			}
			st, ok := next()
			if !ok || st.key != isKey {
				return false
			}
			v := Value{Kind: n.Kind, Text: w.body.Text(i)}
			mark := byte(exemptValue)
			if isKey {
				v, mark = Value{Kind: String, Text: w.body.Key(i)}, exemptKey
			}
			if !s.Redactor.Check(st.op, v) {
				return false
			}
			w.exempt[i] |= mark
			span++
		}
	}
	_, more := next()
	return span == len(w.spans) && !more
}

// lineUp maps every node of the outbound body to the node that it was. The two lists run in the same order, without
// the nodes that went, and what is not exempt is byte by byte what it was; anything else means that the editor wrote
// something that nobody asked for.
func (d *Decision) lineUp(untouched bool) bool {
	w := &d.w
	w.from = w.from[:0]
	for i := int32(0); int(i) < len(d.Body.Nodes); {
		if !untouched && w.drop[i] {
			i = d.Body.Nodes[i].Next
			continue
		}
		n := len(w.from)
		w.from = append(w.from, i)
		if n >= len(w.body.Nodes) || !untouched && !d.kept(n, int(i)) {
			return false
		}
		i++
	}
	return len(w.from) == len(w.body.Nodes)
}

// kept reports whether outbound node out is node in of the body as received, but for what is exempt.
func (d *Decision) kept(out, in int) bool {
	a, b, exempt := &d.w.body, &d.Body, d.w.exempt[out]
	x, y := &a.Nodes[out], &b.Nodes[in]
	if x.Parent < 0 != (y.Parent < 0) || x.Parent >= 0 && d.w.from[x.Parent] != y.Parent {
		return false
	}
	if exempt&exemptKey == 0 && !bytes.Equal(a.Key(out), b.Key(in)) {
		return false
	}
	if exempt&exemptValue != 0 {
		return true
	}
	return x.Kind == y.Kind && (x.Kind.Container() ||
		bytes.Equal(a.Raw[x.Value.Off:x.Value.End()], b.Raw[y.Value.Off:y.Value.End()]))
}
