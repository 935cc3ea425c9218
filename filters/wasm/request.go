package wasm

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/sluice-edge/sluice/gateway"
)

// Sizes of the request record and its parts, in bytes.
const (
	headerLen   = 64
	findingLen  = 32
	positionLen = 20
)

// Flags of a finding in a request.
const (
	flagPersonal  = 1
	flagSensitive = 2
)

// Flags of a request.
const (
	flagPayload = 1 // the payload is there
	flagShadow  = 8 // the verdict is only compared
)

// Offsets of the request header.
const (
	atVersion = 4
	atMsgID   = 8
	atTime    = 16
	atFacts   = 24 // protocol, encoding, grade, flags
	atPayload = 28
	atFinds   = 36
	atLabels  = 42
	atTopic   = 48
)

// view is what one plugin may see: the manifest's labels and the grants, by category index.
type view struct {
	label     []uint16 // category → 1 + index in the manifest's labels, 0 = not listed
	value     []bool   // category → read.value granted
	payload   bool
	source    bool
	shadow    bool // what the plugin says is only compared
	pseudonym func(source, client string) string
}

// scratch is an instance's memory for building requests and reading verdicts, so that neither allocates.
type scratch struct {
	labels  []uint16
	reached []uint16          // labels of the counts that the message goes beyond
	hidden  []uint64          // bit set of nodes whose keys are values that were not granted
	byNode  []int32           // node → 1 + first finding on its value
	names   map[device]string // pseudonyms of devices seen lately
}

type device struct{ source, client string }

// Bounds of the pseudonyms that an instance remembers.
const (
	maxNames   = 1024
	maxNameLen = 256
)

// builder writes one record into buf, which is the in region of an instance.
type builder struct {
	buf  []byte
	n    int
	full bool // something did not fit
}

// put appends p and returns where it stands.
func (w *builder) put(p []byte) uint32 {
	if len(p) > len(w.buf)-w.n {
		w.full = true
		return 0
	}
	at := w.n
	w.n += copy(w.buf[at:], p)
	return uint32(at)
}

func (w *builder) putString(s string) uint32 {
	if len(s) > len(w.buf)-w.n {
		w.full = true
		return 0
	}
	at := w.n
	w.n += copy(w.buf[at:], s)
	return uint32(at)
}

// align pads with zeros to a multiple of 8; the buffer's length is one.
func (w *builder) align() {
	for w.n%8 != 0 {
		w.buf[w.n] = 0
		w.n++
	}
}

var le = binary.LittleEndian

// build writes the request for one message into buf, whose length is a multiple of 8, and returns the record's length.
// false means that the record does not fit.
func (v *view) build(buf []byte, s *scratch, m *gateway.Message, b *gateway.Body, c *gateway.Classification) (int, bool) {
	w := builder{buf: buf, n: headerLen + findingLen*len(c.Findings)}
	if w.n > len(buf) || len(c.Findings) > math.MaxUint16 || len(m.Topic) > math.MaxUint16 || len(m.Payload) > math.MaxInt32 {
		return 0, false
	}
	clear(buf[:w.n])
	grade := v.whole(s, b, c)
	s.labels = append(s.labels, s.reached...)
	le.PutUint16(buf[atVersion:], 1)
	le.PutUint16(buf[atVersion+2:], headerLen)
	le.PutUint64(buf[atMsgID:], m.ID.Counter)
	le.PutUint64(buf[atTime:], uint64(m.Received.UnixMilli()))
	buf[atFacts], buf[atFacts+1], buf[atFacts+2] = byte(m.Protocol), byte(b.Encoding), byte(grade)
	le.PutUint32(buf[atPayload:], uint32(len(m.Payload)))
	le.PutUint32(buf[atFinds:], headerLen)
	le.PutUint16(buf[atFinds+4:], uint16(len(c.Findings)))
	le.PutUint16(buf[atLabels:], uint16(len(s.labels)))
	le.PutUint32(buf[atLabels+2:], uint32(w.n))
	for _, l := range s.labels {
		w.put([]byte{byte(l), byte(l >> 8)})
	}
	le.PutUint32(buf[atTopic:], w.putString(m.Topic))
	le.PutUint16(buf[atTopic+4:], uint16(len(m.Topic)))
	device := v.device(s, m)
	le.PutUint16(buf[atTopic+6:], uint16(len(device)))
	le.PutUint32(buf[atTopic+8:], w.putString(device))
	v.positions(&w, c)
	v.findings(&w, s, m, b, c)
	if v.payload && len(m.Payload) > 0 {
		w.align()
		le.PutUint32(buf[atPayload+4:], w.put(m.Payload))
		buf[atFacts+3] |= flagPayload
	}
	if v.shadow {
		buf[atFacts+3] |= flagShadow
	}
	w.align()
	if w.full || len(device) > math.MaxUint16 {
		return 0, false
	}
	le.PutUint32(buf, uint32(w.n))
	return w.n, true
}

// whole collects the labels of the whole message and notes keys that must not be shown; it returns the highest grade.
func (v *view) whole(s *scratch, b *gateway.Body, c *gateway.Classification) gateway.Grade {
	grade := gateway.General
	if len(b.Nodes) == 0 {
		grade = gateway.Ungraded
	}
	s.labels, s.hidden = s.labels[:0], s.hidden[:0]
	var seen [maxLabels/64 + 1]uint64
	for i := range c.Findings {
		f := &c.Findings[i]
		grade = gateway.Highest(grade, f.Grade)
		switch f.Place.Kind {
		case gateway.AtBody:
			if l := v.labelOf(f.Category); l != 0 && seen[l/64]&(1<<(l%64)) == 0 {
				seen[l/64] |= 1 << (l % 64)
				s.labels = append(s.labels, l)
			}
		case gateway.AtKey:
			if v.granted(f.Category) {
				continue
			}
			if len(s.hidden) == 0 {
				words := len(b.Nodes)/64 + 1
				if cap(s.hidden) < words {
					s.hidden = make([]uint64, words)
				}
				s.hidden = s.hidden[:words]
				clear(s.hidden)
			}
			s.hidden[f.Place.Index/64] |= 1 << (f.Place.Index % 64)
		}
	}
	return grade
}

func (v *view) labelOf(category uint16) uint16 {
	if int(category) < len(v.label) {
		return v.label[category]
	}
	return 0
}

func (v *view) granted(category uint16) bool {
	return int(category) < len(v.value) && v.value[category]
}

// device is what the plugin sees of the device: its own name for itself when granted, else the pseudonym.
func (v *view) device(s *scratch, m *gateway.Message) string {
	if m.Client == "" || (!v.source && v.pseudonym == nil) {
		return ""
	}
	if v.source {
		return m.Client
	}
	if name, ok := s.names[device{m.Source, m.Client}]; ok {
		return name
	}
	name := v.pseudonym(m.Source, m.Client)
	if len(m.Client) > maxNameLen {
		return name
	}
	if s.names == nil || len(s.names) >= maxNames {
		s.names = make(map[device]string)
	}
	s.names[device{strings.Clone(m.Source), strings.Clone(m.Client)}] = name // the source may reuse the memory of the message
	return name
}

// positions writes the values of granted positions and points both findings of each to its value.
func (v *view) positions(w *builder, c *gateway.Classification) {
	for i := range c.Positions {
		p := &c.Positions[i]
		at := uint32(0)
		for _, half := range [2]int32{p.LatFind, p.LonFind} {
			if half < 0 || int(half) >= len(c.Findings) || !v.granted(c.Findings[half].Category) {
				continue
			}
			if at == 0 {
				var value [positionLen]byte
				le.PutUint64(value[0:], math.Float64bits(p.Lat))
				le.PutUint64(value[8:], math.Float64bits(p.Lon))
				le.PutUint32(value[16:], uint32(p.Datum))
				w.align()
				if at = w.put(value[:]); w.full {
					return
				}
			}
			f := w.buf[headerLen+findingLen*int(half):]
			le.PutUint32(f[20:], at)
			le.PutUint32(f[24:], positionLen)
		}
	}
}

// findings writes every finding, in order; those that are half of a granted position have their value already.
func (v *view) findings(w *builder, s *scratch, m *gateway.Message, b *gateway.Body, c *gateway.Classification) {
	named, keyAt, keyLen := int32(-1), uint32(0), 0 // findings on one place share its key
	for i := range c.Findings {
		f := &c.Findings[i]
		out := w.buf[headerLen+findingLen*i : headerLen+findingLen*(i+1)]
		span, kind := span(b, f.Place, len(m.Payload))
		le.PutUint32(out, uint32(span.Off))
		le.PutUint32(out[4:], uint32(span.Len))
		le.PutUint16(out[8:], v.labelOf(f.Category))
		out[10], out[11], out[12] = kind, f.Confidence, byte(f.Grade)
		if f.Personal {
			out[13] |= flagPersonal
		}
		if f.Sensitive {
			out[13] |= flagSensitive
		}
		if node := nameNode(b, f.Place); node >= 0 && !s.hides(node) {
			if node != named {
				key := b.Key(int(node))
				if len(key) > math.MaxUint16 {
					w.full = true
					return
				}
				named, keyAt, keyLen = node, w.put(key), len(key)
			}
			le.PutUint16(out[14:], uint16(keyLen))
			le.PutUint32(out[16:], keyAt)
		}
		if v.granted(f.Category) && le.Uint32(out[20:]) == 0 {
			v.text(w, out, m, b, f.Place)
		}
	}
}

// text writes the value of a place as its decoded bytes.
func (v *view) text(w *builder, out []byte, m *gateway.Message, b *gateway.Body, p gateway.Place) {
	w.align()
	at, before := uint32(0), w.n
	switch p.Kind {
	case gateway.AtValue:
		if b.Nodes[p.Index].Kind.Container() {
			return
		}
		at = w.put(b.Text(int(p.Index)))
	case gateway.AtKey:
		at = w.put(b.Key(int(p.Index)))
	case gateway.AtTopic:
		at = w.putString(level(m.Topic, p.Index))
	case gateway.AtClient:
		at = w.putString(m.Client)
	default:
		return
	}
	le.PutUint32(out[20:], at)
	le.PutUint32(out[24:], uint32(w.n-before))
}

// level returns topic level i, from 0, empty when there is none.
func level(topic string, i int32) string {
	for ; i > 0; i-- {
		_, rest, ok := strings.Cut(topic, "/")
		if !ok {
			return ""
		}
		topic = rest
	}
	first, _, _ := strings.Cut(topic, "/")
	return first
}

// nameNode is the node whose key names a place: its own, or for an element that of the nearest container with a name.
func nameNode(b *gateway.Body, p gateway.Place) int32 {
	if p.Kind != gateway.AtValue && p.Kind != gateway.AtKey {
		return -1
	}
	node := p.Index
	for node >= 0 && !b.HasKey(int(node)) {
		node = b.Nodes[node].Parent
	}
	return node
}

// hides reports whether the key of a node is a value that the plugin may not see.
func (s *scratch) hides(node int32) bool {
	return len(s.hidden) > 0 && s.hidden[node/64]&(1<<(node%64)) != 0
}

// abiKinds maps the kinds of nodes to those of the ABI: 1 string, 2 number, 3 bool, 4 bytes, 5 subtree (also null, which
// has no value to edit).
var abiKinds = [...]byte{gateway.InvalidKind: 5, gateway.Object: 5, gateway.Array: 5, gateway.String: 1, gateway.Number: 2, gateway.Bool: 3, gateway.Null: 5, gateway.Bytes: 4}

// span is where in the payload a place is, and its kind. Topic levels, the client id and keys whose text differs from
// their bytes are nowhere in it.
func span(b *gateway.Body, p gateway.Place, payload int) (gateway.Span, byte) {
	switch p.Kind {
	case gateway.AtValue:
		n := &b.Nodes[p.Index]
		return n.Value, abiKinds[n.Kind]
	case gateway.AtKey:
		if n := &b.Nodes[p.Index]; n.Flags&gateway.KeyInArena == 0 {
			return n.Key, 1
		}
		return gateway.Span{}, 1
	case gateway.AtBody:
		return gateway.Span{Len: int32(payload)}, 5
	}
	return gateway.Span{}, 1
}
