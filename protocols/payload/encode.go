package payload

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"github.com/sluice-edge/sluice/gateway"
)

var (
	errChangeOrder = errors.New("encode json: changes out of order or below one another")
	errChange      = errors.New("encode json: unknown change or one that does not fit its node")
	errDropRoot    = errors.New("encode json: the root cannot be removed")
	errLiteral     = errors.New("encode json: replacement is not of its kind")
	errText        = errors.New("encode json: replacement is not utf-8")
	errKeyTaken    = errors.New("encode json: member name exists already")
)

// Encode appends b with the changes applied. The result is one JSON text that Decode accepts, unless it grew over a
// limit. Of a member that is removed and renamed only the removal counts; its span in out is empty. An object or array
// that loses all its members stays, empty. On an error dst is returned as it came.
func (j JSON) Encode(dst []byte, b *gateway.Body, changes []gateway.Change, out *[]gateway.Span) ([]byte, error) {
	if err := check(b, changes); err != nil {
		return dst, err
	}
	e := editor{raw: b.Raw, dst: dst, base: len(dst), out: out, leadParent: -1}
	for i := 0; i < len(changes); {
		n := 1
		if i+1 < len(changes) && changes[i+1].Node == changes[i].Node {
			n = 2
		}
		e.apply(b, changes[i:i+n])
		i += n
	}
	return append(e.dst, b.Raw[e.done:]...), nil
}

// check refuses every set of changes that could not be spliced into valid JSON.
func check(b *gateway.Body, changes []gateway.Change) error {
	last, below, renames := int32(-1), int32(0), 0
	for i := range changes {
		c := &changes[i]
		if c.Node < 0 || int(c.Node) >= len(b.Nodes) {
			return errChange
		}
		if c.Node < last || (c.Node != last && c.Node < below) {
			return errChangeOrder
		}
		if c.Node == last && (i > 1 && changes[i-2].Node == last || (c.Op == gateway.SetKey) == (changes[i-1].Op == gateway.SetKey)) {
			return errChangeOrder
		}
		last = c.Node
		switch c.Op {
		case gateway.DropNode:
			if b.Nodes[c.Node].Parent < 0 {
				return errDropRoot
			}
			below = b.Nodes[c.Node].Next
		case gateway.SetValue:
			if err := checkValue(c); err != nil {
				return err
			}
			below = b.Nodes[c.Node].Next
		case gateway.SetKey:
			if !b.HasKey(int(c.Node)) || bytes.IndexByte(c.With, 0) >= 0 {
				return errChange
			}
			if !utf8.Valid(c.With) {
				return errText
			}
			renames++
		default:
			return errChange
		}
	}
	if renames > 0 {
		return checkNames(b, changes, renames)
	}
	return nil
}

func checkValue(c *gateway.Change) error {
	switch c.As {
	case gateway.String:
		if !utf8.Valid(c.With) {
			return errText
		}
		return nil
	case gateway.Number:
		if n, err := number(c.With); err != nil || n != len(c.With) {
			return errLiteral
		}
		return nil
	case gateway.Bool:
		if s := string(c.With); s == "true" || s == "false" {
			return nil
		}
	case gateway.Null:
		if string(c.With) == "null" {
			return nil
		}
	}
	return errLiteral
}

// checkNames refuses new names that another member of the same object has in the result. It costs one pass over the
// body's names, however many are new.
func checkNames(b *gateway.Body, changes []gateway.Change, renames int) error {
	t := newTable(renames)
	defer tables.Put(t)
	taken := func(parent int32, name []byte) (int, bool) {
		at := t.first(parent, name)
		for ; t.slots[at] != 0; at = t.next(at) {
			if c := &changes[t.slots[at]-1]; b.Nodes[c.Node].Parent == parent && bytes.Equal(c.With, name) {
				return at, true
			}
		}
		return at, false
	}
	for i := range changes {
		if c := &changes[i]; c.Op == gateway.SetKey && !dropped(changes, i) {
			at, found := taken(b.Nodes[c.Node].Parent, c.With)
			if found {
				return errKeyTaken
			}
			t.slots[at] = int32(i) + 1
		}
	}
	next := 0
	for i := range b.Nodes {
		touched := false
		for ; next < len(changes) && int(changes[next].Node) == i; next++ {
			touched = touched || changes[next].Op != gateway.SetValue
		}
		if touched || !b.HasKey(i) {
			continue
		}
		if _, found := taken(b.Nodes[i].Parent, b.Key(i)); found {
			return errKeyTaken
		}
	}
	return nil
}

// dropped reports whether the node of change i is removed by the change beside it.
func dropped(changes []gateway.Change, i int) bool {
	node := changes[i].Node
	return i > 0 && changes[i-1].Node == node && changes[i-1].Op == gateway.DropNode ||
		i+1 < len(changes) && changes[i+1].Node == node && changes[i+1].Op == gateway.DropNode
}

// editor copies raw to dst, with what changes put between.
type editor struct {
	raw  []byte
	dst  []byte
	base int // length of dst before
	done int // raw up to here is copied or left out
	out  *[]gateway.Span

	// lead is the node that would continue a run of removed members from the first one of the object or array
	// leadParent: these take the comma behind them with them, all others the comma before.
	lead, leadParent int32
}

// apply writes one node's changes: one, or a SetKey and another in either order.
func (e *editor) apply(b *gateway.Body, changes []gateway.Change) {
	var key, other *gateway.Change
	for i := range changes {
		if changes[i].Op == gateway.SetKey {
			key = &changes[i]
		} else {
			other = &changes[i]
		}
	}
	n := &b.Nodes[changes[0].Node]
	if other != nil && other.Op == gateway.DropNode {
		e.drop(b, changes[0].Node)
		if key != nil && e.out != nil {
			*e.out = append(*e.out, gateway.Span{})
		}
		return
	}
	var spans [2]gateway.Span
	if key != nil {
		spans[0] = e.replace(n.Member.Off, n.Member.Off+quoted(e.raw[n.Member.Off:]), key)
	}
	if other != nil {
		spans[1] = e.replace(n.Value.Off, n.Value.End(), other)
	}
	if e.out == nil {
		return
	}
	for i := range changes {
		if &changes[i] == key {
			*e.out = append(*e.out, spans[0])
		} else {
			*e.out = append(*e.out, spans[1])
		}
	}
}

// replace leaves out raw[from:to] and writes the change instead.
func (e *editor) replace(from, to int32, c *gateway.Change) gateway.Span {
	e.dst = append(e.dst, e.raw[e.done:from]...)
	e.done = int(to)
	at := len(e.dst)
	if c.Op == gateway.SetKey || c.As == gateway.String {
		e.dst = appendQuoted(e.dst, c.With)
	} else {
		e.dst = append(e.dst, c.With...)
	}
	return gateway.Span{Off: int32(at - e.base), Len: int32(len(e.dst) - at)}
}

// drop leaves out node i and one comma, so that the commas of what stays are right whatever else is removed.
func (e *editor) drop(b *gateway.Body, i int32) {
	n := &b.Nodes[i]
	from, to := int(n.Member.Off), int(n.Member.End())
	if n.Index > 0 && (e.lead != i || e.leadParent != n.Parent) {
		for from--; e.raw[from] != ','; from-- { // only white space is between
		}
		for space(e.raw[from-1]) {
			from--
		}
	} else {
		e.lead, e.leadParent = n.Next, n.Parent
		if int(n.Next) < len(b.Nodes) && b.Nodes[n.Next].Parent == n.Parent {
			to = int(b.Nodes[n.Next].Member.Off)
		}
	}
	if from > e.done {
		e.dst = append(e.dst, e.raw[e.done:from]...)
	}
	e.done = to
}

func space(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// quoted returns the length of the string literal that p begins with.
func quoted(p []byte) int32 {
	i := 1
	for ; p[i] != '"'; i++ {
		if p[i] == '\\' {
			i++
		}
	}
	return int32(i + 1)
}

// appendQuoted appends text as a JSON string, escaping no more than it must. [RFC 8259 §7]
func appendQuoted(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for len(text) > 0 {
		n := plain(text)
		dst = append(dst, text[:n]...)
		if text = text[n:]; len(text) == 0 {
			break
		}
		switch c := text[0]; {
		case c >= utf8.RuneSelf:
			dst = append(dst, c)
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		text = text[1:]
	}
	return append(dst, '"')
}
