package catalog

import (
	"bytes"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-edge/sluice/gateway"
)

// decode indexes a JSON text the slow way, for tests: every key and text stands in the arena.
func decode(t testing.TB, raw string) *gateway.Body {
	t.Helper()
	b := &gateway.Body{Encoding: gateway.JSON, Raw: []byte(raw)}
	d := jsontext.NewDecoder(bytes.NewReader(b.Raw))
	keep := func(p []byte) gateway.Span {
		b.Arena = append(b.Arena, p...)
		return gateway.Span{Off: int32(len(b.Arena) - len(p)), Len: int32(len(p))}
	}
	var value func(parent, index int32, key *string)
	value = func(parent, index int32, key *string) {
		tok, err := d.ReadToken()
		if err != nil {
			t.Fatalf("decode %s: %v", raw, err)
		}
		n := gateway.Node{Parent: parent, Index: index, Flags: gateway.TextInArena}
		if key != nil {
			n.Key, n.Flags = keep([]byte(*key)), n.Flags|gateway.KeyInArena
		}
		at := int32(len(b.Nodes))
		switch k := tok.Kind(); k {
		case '{', '[':
			n.Kind = gateway.Array
			if k == '{' {
				n.Kind = gateway.Object
			}
			b.Nodes = append(b.Nodes, n)
			for i := int32(0); d.PeekKind() != '}' && d.PeekKind() != ']'; i++ {
				if k == '[' {
					value(at, i, nil)
					continue
				}
				name, err := d.ReadToken()
				if err != nil {
					t.Fatalf("decode %s: %v", raw, err)
				}
				s := name.String()
				value(at, i, &s)
			}
			if _, err := d.ReadToken(); err != nil {
				t.Fatalf("decode %s: %v", raw, err)
			}
			b.Nodes[at].Next = int32(len(b.Nodes))
			return
		case '"':
			n.Kind = gateway.String
		case '0':
			n.Kind = gateway.Number
		case 't', 'f':
			n.Kind = gateway.Bool
		case 'n':
			n.Kind = gateway.Null
		}
		n.Text, n.Next = keep([]byte(tok.String())), at+1
		b.Nodes = append(b.Nodes, n)
	}
	value(-1, 0, nil)
	return b
}

// where writes a place like explain does.
func where(m *gateway.Message, b *gateway.Body, p gateway.Place) string {
	switch p.Kind {
	case gateway.AtValue:
		return b.Pointer(int(p.Index))
	case gateway.AtKey:
		return "key " + b.Pointer(int(p.Index))
	case gateway.AtTopic:
		return "topic " + string(rune('0'+p.Index))
	case gateway.AtClient:
		return "client"
	}
	return "body"
}

// jsonOK reports whether decode can read raw.
func jsonOK(raw string) bool { return jsontext.Value(raw).IsValid() }
