package payload

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"

	"github.com/sluice-edge/sluice/gateway"
)

// JSON is the codec of JSON bodies. The zero value has the default limits. It is safe for concurrent use.
type JSON struct {
	MaxBytes int // bytes of a body; 0 = DefaultMaxBytes
	MaxDepth int // objects and arrays around a value; 0 = DefaultMaxDepth
	MaxNodes int // values of a body, containers included; 0 = DefaultMaxNodes
}

var _ gateway.Codec = JSON{}

// Decode indexes raw into b in one pass. It allocates only while b's slices still grow.
func (j JSON) Decode(raw []byte, b *gateway.Body) error {
	reset(raw, b)
	if len(raw) > min(orDefault(j.MaxBytes, DefaultMaxBytes), hardMaxBytes) {
		return errTooLarge
	}
	s := scanner{raw: raw, nodes: b.Nodes, arena: b.Arena,
		maxDepth: orDefault(j.MaxDepth, DefaultMaxDepth), maxNodes: min(orDefault(j.MaxNodes, DefaultMaxNodes), hardMaxBytes)}
	err := s.scan()
	b.Arena, b.Nodes = s.arena, s.nodes
	if err != nil {
		b.Nodes = b.Nodes[:0]
		return err
	}
	b.Encoding = gateway.JSON
	return nil
}

func orDefault(n, fallback int) int {
	if n > 0 {
		return n
	}
	return fallback
}

// scanner holds one pass over raw. Its open containers are a chain of Node.Parent, so it needs no stack.
type scanner struct {
	raw      []byte
	pos      int
	nodes    []gateway.Node
	arena    []byte
	maxDepth int
	maxNodes int
}

// member is what stands in front of a value: where it began and the key that was read.
type member struct {
	off   int
	key   gateway.Span
	flags gateway.NodeFlags
}

// scan reads one value and white space around it, and leaves the nodes complete.
func (s *scanner) scan() error {
	open, count, depth := int32(-1), int32(0), 0
	for {
		var m member
		named := open >= 0 && s.nodes[open].Kind == gateway.Object
		if named {
			if err := s.key(&m); err != nil {
				return err
			}
		}
		c, err := s.peek()
		if err != nil {
			return err
		}
		if !named {
			m.off = s.pos
		}
		at, err := s.node(c, open, count, &m)
		if err != nil {
			return err
		}
		if s.nodes[at].Kind.Container() {
			if depth++; depth > s.maxDepth {
				return errTooDeep
			}
			open, count = at, 0
			if c, err = s.peek(); err != nil {
				return err
			}
			if c != '}' && c != ']' {
				continue
			}
		} else {
			count++
		}
		for { // behind a value, or behind the opening bracket of an empty container
			if open < 0 {
				return s.end()
			}
			if c, err = s.peek(); err != nil {
				return err
			}
			if c == ',' && count > 0 {
				s.pos++
				break
			}
			if err = s.close(c, open, count); err != nil {
				return err
			}
			depth--
			open, count = s.nodes[open].Parent, s.nodes[open].Index+1
		}
	}
}

// peek skips white space and returns the byte behind it, unread.
func (s *scanner) peek() (byte, error) {
	for p := s.pos; p < len(s.raw); p++ {
		if c := s.raw[p]; c > ' ' || (c != ' ' && c != '\n' && c != '\t' && c != '\r') {
			s.pos = p
			return c, nil
		}
	}
	return 0, errTruncated
}

// end accepts white space only.
func (s *scanner) end() error {
	if _, err := s.peek(); err == nil {
		return errTrailing
	}
	return nil
}

// key reads a member's name and the colon behind it.
func (s *scanner) key(m *member) error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	if c != '"' {
		return errSyntax
	}
	m.off = s.pos
	span, decoded, err := s.text()
	if err != nil {
		return err
	}
	m.key = span
	if decoded {
		m.flags = gateway.KeyInArena
		if bytes.IndexByte(s.arena[span.Off:span.End()], 0) >= 0 {
			return errNulKey
		}
	}
	if c, err = s.peek(); err != nil {
		return err
	}
	if c != ':' {
		return errSyntax
	}
	s.pos++
	return nil
}

// node reads a scalar, or the opening bracket of a container, into a new node.
func (s *scanner) node(c byte, parent, index int32, m *member) (int32, error) {
	at, start := len(s.nodes), s.pos
	if at >= s.maxNodes {
		return 0, errTooMany
	}
	if at < cap(s.nodes) {
		s.nodes = s.nodes[:at+1]
	} else {
		s.nodes = append(s.nodes, gateway.Node{})
	}
	n := &s.nodes[at]
	*n = gateway.Node{Parent: parent, Next: int32(at) + 1, Index: index, Key: m.key, Flags: m.flags}
	var err error
	switch {
	case c == '"':
		var decoded bool
		n.Kind = gateway.String
		if n.Text, decoded, err = s.text(); decoded {
			n.Flags |= gateway.TextInArena
		}
	case c == '-' || c-'0' <= 9:
		n.Kind = gateway.Number
		var size int
		size, err = number(s.raw[start:])
		s.pos += size
	case c == '{':
		n.Kind = gateway.Object
		s.pos++
	case c == '[':
		n.Kind = gateway.Array
		s.pos++
	case c == 't':
		n.Kind, err = gateway.Bool, s.literal("true")
	case c == 'f':
		n.Kind, err = gateway.Bool, s.literal("false")
	case c == 'n':
		n.Kind, err = gateway.Null, s.literal("null")
	default:
		err = errSyntax
	}
	if err != nil {
		return 0, err
	}
	n.Value = gateway.Span{Off: int32(start), Len: int32(s.pos - start)}
	n.Member = gateway.Span{Off: int32(m.off), Len: int32(s.pos - m.off)}
	if n.Kind != gateway.String && !n.Kind.Container() {
		n.Text = n.Value
	}
	return int32(at), nil
}

// close ends the open container at the bracket c.
func (s *scanner) close(c byte, open, count int32) error {
	n := &s.nodes[open]
	switch {
	case c == '}' && n.Kind == gateway.Object:
		if count > 1 && s.duplicates(open, count) {
			return errDuplicate
		}
	case c == ']' && n.Kind == gateway.Array:
	default:
		return errSyntax
	}
	s.pos++
	n.Next = int32(len(s.nodes))
	n.Value.Len = int32(s.pos) - n.Value.Off
	n.Member.Len = int32(s.pos) - n.Member.Off
	return nil
}

func (s *scanner) literal(want string) error {
	if len(s.raw)-s.pos < len(want) || string(s.raw[s.pos:s.pos+len(want)]) != want {
		return errSyntax
	}
	s.pos += len(want)
	return nil
}

// number returns the length of the number that p begins with. [RFC 8259 §6]
func number(p []byte) (int, error) {
	i := 0
	if i < len(p) && p[i] == '-' {
		i++
	}
	switch {
	case i < len(p) && p[i] == '0':
		i++
	case i < len(p) && p[i]-'1' <= 8:
		i += digits(p[i:])
	default:
		return 0, errNumber
	}
	if i < len(p) && p[i] == '.' {
		n := digits(p[i+1:])
		if n == 0 {
			return 0, errNumber
		}
		i += 1 + n
	}
	if i < len(p) && p[i]|0x20 == 'e' {
		i++
		if i < len(p) && (p[i] == '+' || p[i] == '-') {
			i++
		}
		n := digits(p[i:])
		if n == 0 {
			return 0, errNumber
		}
		i += n
	}
	return i, nil
}

func digits(p []byte) int {
	for i, c := range p {
		if c-'0' > 9 {
			return i
		}
	}
	return len(p)
}

// text reads the string at the scanner and returns its decoded characters: a span of raw, or of the arena when the
// string has escapes.
func (s *scanner) text() (span gateway.Span, decoded bool, err error) {
	start := s.pos + 1
	p := start
	for {
		p += plain(s.raw[p:])
		if p >= len(s.raw) {
			return span, false, errTruncated
		}
		switch c := s.raw[p]; {
		case c == '"':
			s.pos = p + 1
			return gateway.Span{Off: int32(start), Len: int32(p - start)}, false, nil
		case c == '\\':
			return s.unescape(start, p)
		case c < ' ':
			return span, false, errControl
		default:
			r, size := utf8.DecodeRune(s.raw[p:])
			if r == utf8.RuneError && size == 1 {
				return span, false, errUTF8
			}
			p += size
		}
	}
}

// plain returns how many bytes at the start of p are ASCII that stands for itself in a string.
func plain(p []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; len(p)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(p[i:])
		quote, slash := w^('"'*ones), w^('\\'*ones)
		// The lowest marked byte is exact; marks above it may be borrows.
		if m := ((quote-ones)&^quote | (slash-ones)&^slash | (w-' '*ones)&^w | w) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(p); i++ {
		if c := p[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			break
		}
	}
	return i
}

// unescape decodes the string that began at start into the arena; p is its first backslash.
func (s *scanner) unescape(start, p int) (span gateway.Span, decoded bool, err error) {
	off := len(s.arena)
	s.arena = append(s.arena, s.raw[start:p]...)
	for {
		n := plain(s.raw[p:])
		s.arena = append(s.arena, s.raw[p:p+n]...)
		if p += n; p >= len(s.raw) {
			return span, false, errTruncated
		}
		switch c := s.raw[p]; {
		case c == '"':
			s.pos = p + 1
			return gateway.Span{Off: int32(off), Len: int32(len(s.arena) - off)}, true, nil
		case c == '\\':
			if n, err = s.escape(s.raw[p:]); err != nil {
				return span, false, err
			}
		case c < ' ':
			return span, false, errControl
		default:
			var r rune
			if r, n = utf8.DecodeRune(s.raw[p:]); r == utf8.RuneError && n == 1 {
				return span, false, errUTF8
			}
			s.arena = append(s.arena, s.raw[p:p+n]...)
		}
		p += n
	}
}

// escape decodes the escape that p begins with and returns its length. [RFC 8259 §7]
func (s *scanner) escape(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, errTruncated
	}
	c := p[1]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return s.unicode(p)
	default:
		return 0, errEscape
	}
	s.arena = append(s.arena, c)
	return 2, nil
}

// unicode decodes \uXXXX, or two of them that are a surrogate pair.
func (s *scanner) unicode(p []byte) (int, error) {
	r, ok := hex4(p)
	if !ok {
		return 0, errEscape
	}
	size := 6
	if r >= 0xD800 && r <= 0xDFFF {
		low, ok := hex4(p[6:])
		if !ok || r >= 0xDC00 || low < 0xDC00 || low > 0xDFFF {
			return 0, errSurrogate
		}
		r = (r-0xD800)<<10 | (low - 0xDC00) + 0x10000
		size = 12
	}
	s.arena = utf8.AppendRune(s.arena, r)
	return size, nil
}

// hex4 reads \uXXXX.
func hex4(p []byte) (rune, bool) {
	if len(p) < 6 || p[0] != '\\' || p[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range p[2:6] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
