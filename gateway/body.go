package gateway

import (
	"strconv"
	"strings"
)

// Encoding is the notation of a body. The numbers are those of the plugin ABI.
type Encoding uint8

// The encodings of the plugin ABI.
const (
	UnknownEncoding Encoding = iota
	JSON
	CBOR
	Protobuf
	BinaryFrame
	Text
)

// Kind is the shape of one node of a body.
type Kind uint8

// The kinds. Object and Array are containers; the others are leaves.
const (
	InvalidKind Kind = iota
	Object
	Array
	String
	Number
	Bool
	Null
	Bytes
)

// Container reports whether nodes of this kind hold other nodes instead of a value.
func (k Kind) Container() bool { return k == Object || k == Array }

// Span is a range of bytes of Body.Raw or Body.Arena.
type Span struct{ Off, Len int32 }

// End returns the offset behind the last byte.
func (s Span) End() int32 { return s.Off + s.Len }

// Flags of a node.
type NodeFlags uint8

// KeyInArena and TextInArena say that the decoded form differs from the raw bytes and stands in Body.Arena.
const (
	KeyInArena NodeFlags = 1 << iota
	TextInArena
)

// Node is one value of a body: a container or a leaf, with the key that names it when its parent is an object.
// Nodes stand in document order, a container before its contents.
type Node struct {
	Kind   Kind
	Flags  NodeFlags
	Parent int32 // index of the container, -1 for the root
	Next   int32 // index of the first node behind this one and all below it
	Index  int32 // position among its siblings, from 0
	Member Span  // raw bytes of the whole member or element: key (if any), colon, value; no comma
	Value  Span  // raw bytes of the value, quotes included
	Key    Span  // decoded key, in Raw or (KeyInArena) in Arena; empty for elements and the root
	Text   Span  // decoded scalar: the characters of a string, the literal of a number, bool or null; empty for containers
}

// Body is a decoded payload: the raw bytes and an index over them. It is filled by a Codec and reused from message to
// message; nothing in it outlives the next Decode. Nodes is empty when the payload could not be decoded.
type Body struct {
	Encoding Encoding
	Raw      []byte
	Arena    []byte // decoded forms that differ from the raw bytes
	Nodes    []Node
}

// Key returns the decoded key of node i, empty for an element or the root. The slice belongs to the body.
func (b *Body) Key(i int) []byte {
	n := &b.Nodes[i]
	if n.Flags&KeyInArena != 0 {
		return b.Arena[n.Key.Off:n.Key.End()]
	}
	return b.Raw[n.Key.Off:n.Key.End()]
}

// Text returns the decoded scalar of node i, empty for a container. The slice belongs to the body.
func (b *Body) Text(i int) []byte {
	n := &b.Nodes[i]
	if n.Flags&TextInArena != 0 {
		return b.Arena[n.Text.Off:n.Text.End()]
	}
	return b.Raw[n.Text.Off:n.Text.End()]
}

// HasKey reports whether node i is a member of an object.
func (b *Body) HasKey(i int) bool {
	p := b.Nodes[i].Parent
	return p >= 0 && b.Nodes[p].Kind == Object
}

// Pointer returns the JSON pointer of node i, "" for the root. [RFC 6901 §3]
// It quotes keys that the device chose: it is for explain and open, never for records, logs or metrics.
func (b *Body) Pointer(i int) string {
	if b.Nodes[i].Parent < 0 {
		return ""
	}
	parent := b.Pointer(int(b.Nodes[i].Parent))
	if b.HasKey(i) {
		return parent + "/" + pointerEscaper.Replace(string(b.Key(i)))
	}
	return parent + "/" + strconv.Itoa(int(b.Nodes[i].Index))
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

// ChangeOp is what a Change does to its node.
type ChangeOp uint8

// The operations of a Change.
const (
	InvalidChange ChangeOp = iota
	DropNode               // the member or element goes, with its key and one comma; the root cannot be removed
	SetValue               // the value becomes With, written as kind As
	SetKey                 // the key becomes With, decoded text that the codec quotes
)

// Change is one edit of a body, in terms of its nodes.
type Change struct {
	Node int32
	Op   ChangeOp
	As   Kind   // SetValue: String (With is decoded text, the codec quotes it) or Number, Bool, Null (With is the literal)
	With []byte //
}

// Codec reads and edits one notation. A Codec is safe for concurrent use; a Body is not.
type Codec interface {
	// Decode indexes raw into b, reusing b's slices; b.Raw is raw, not a copy. What a receiver could read differently
	// from us is an error, and then b.Nodes is empty. The error text never quotes the payload.
	Decode(raw []byte, b *Body) error
	// Encode appends b with the changes applied to dst. Changes are ordered by node, at most one SetKey and one other
	// per node, none below a removed or replaced node. Bytes that no change touches are copied as they are. out, when
	// not nil, receives where each SetValue and SetKey wrote, in order, as offsets into what was appended (quotes included).
	Encode(dst []byte, b *Body, changes []Change, out *[]Span) ([]byte, error)
}
