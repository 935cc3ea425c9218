package catalog

import (
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/sluice-edge/sluice/gateway"
)

// cover is a match that holds for the node it was made at and all below.
type cover struct {
	match
	topic bool
	depth int32 // of the node that matched, in segments
	from  int32 // least depth of the leaves it holds for
}

// frame is an object or array that the walk is in.
type frame struct {
	end    int32 // first node behind it
	path   int   // length of the path outside
	start  int   // first cover that holds outside
	covers int   // length of the covers outside
}

// scratch is the memory of one classification, reused.
type scratch struct {
	infos   []*key // by node
	halves  []half
	datums  []datumAt
	loose   int32
	leaves  int // of the body
	frames  []frame
	path    []int32
	covers  []cover
	start   int // covers from here on hold at the node in hand
	topics  []cover
	chosen  []cover
	folded  []byte
	level   []byte
	decoded []byte    // of an encoded text
	inside  bool      // while that is looked at
	trace   *[]Reason // when somebody asks why
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Classify appends what it finds to class: topic levels first, then the client id, then the body in document order, a
// key before its value. A body that could not be decoded is one finding of the opaque category.
func (c *Classifier) Classify(m *gateway.Message, b *gateway.Body, class *gateway.Classification) {
	s := scratches.Get().(*scratch)
	s.trace = nil
	c.classify(s, m, b, class)
	scratches.Put(s)
}

// Reclassify implements gateway.Reclassifier. What a leaf, the keys on its path and the topic make is what it was before
// the edit; what neighbours make together, positions, is looked for again.
func (c *Classifier) Reclassify(m *gateway.Message, b *gateway.Body, class *gateway.Classification) {
	s := scratches.Get().(*scratch)
	s.trace = nil
	c.matchTopic(s, m)
	s.scan(c, b)
	if s.leaves == 0 {
		c.whole(s, class)
	} else if len(s.halves) > 0 {
		c.walk(s, b, class, true)
		s.link(class)
	}
	scratches.Put(s)
}

func (c *Classifier) classify(s *scratch, m *gateway.Message, b *gateway.Body, class *gateway.Classification) {
	c.matchTopic(s, m)
	c.outside(s, m, class)
	if len(b.Nodes) == 0 {
		s.emit(c, class, gateway.Place{Kind: gateway.AtBody}, c.opaque, gateway.ByCatalog, matched, Reason{Kind: "opaque"})
		c.whole(s, class)
		return
	}
	s.scan(c, b)
	c.walk(s, b, class, false)
	if s.leaves == 0 {
		c.whole(s, class)
	}
	s.link(class)
}

// walk makes the findings of the body, in document order; with onlyHalves those of leaves that may be half of a position.
func (c *Classifier) walk(s *scratch, b *gateway.Body, class *gateway.Classification, onlyHalves bool) {
	s.frames, s.path, s.covers, s.start = s.frames[:0], s.path[:0], s.covers[:0], 0
	next := 0 // next half of a position
	for i := 0; i < len(b.Nodes); i++ {
		n := &b.Nodes[i]
		for next < len(s.halves) && s.halves[next].node < int32(i) {
			next++
		}
		if onlyHalves {
			if next == len(s.halves) {
				return
			}
			if s.halves[next].node >= n.Next {
				i = int(n.Next) - 1 // nothing to see in here
				continue
			}
		}
		s.leave(int32(i))
		path, start, covers := len(s.path), s.start, len(s.covers)
		if k := s.infos[i]; k != nil {
			s.path = append(s.path, k.segs...)
			if k.hits.seen != 0 && !onlyHalves {
				c.bare(s, class, gateway.Place{Kind: gateway.AtKey, Index: int32(i)}, &k.hits)
			}
			c.enter(s, b, i, k, path)
		} else if n.Parent >= 0 {
			s.path = append(s.path, element)
		}
		if n.Kind.Container() {
			if len(s.covers) > covers {
				c.narrow(s)
			}
			s.frames = append(s.frames, frame{n.Next, path, start, covers})
			continue
		}
		if next < len(s.halves) && s.halves[next].node == int32(i) {
			c.leaf(s, b, i, class, &s.halves[next])
		} else {
			c.leaf(s, b, i, class, nil)
		}
		s.path, s.start, s.covers = s.path[:path], start, s.covers[:covers]
	}
}

// leave ends the objects and arrays that node i is no longer in.
func (s *scratch) leave(i int32) {
	for n := len(s.frames); n > 0 && i >= s.frames[n-1].end; n-- {
		f := &s.frames[n-1]
		s.path, s.start, s.covers = s.path[:f.path], f.start, s.covers[:f.covers]
		s.frames = s.frames[:n-1]
	}
}

// matchTopic matches the topic.
func (c *Classifier) matchTopic(s *scratch, m *gateway.Message) {
	s.topics = s.topics[:0]
	for i := range c.topics {
		if f := &c.topics[i]; f.fits(m.Topic) {
			s.topics = append(s.topics, cover{match: f.match, topic: true})
		}
	}
}

// outside looks into the levels of the topic and the client id.
func (c *Classifier) outside(s *scratch, m *gateway.Message, class *gateway.Classification) {
	s.level = append(s.level[:0], m.Topic...)
	p, found := point{}, false // a position may stand in two levels
	if t := (text{s: s.level}); len(s.level) >= shortest {
		t.trim()
		p, found = findPosition(&t)
	}
	from := 0
	for i := int32(0); ; i++ {
		level, _, more := strings.Cut(m.Topic[from:], "/")
		var h hits
		s.level = append(s.level[:0], level...)
		s.detect(s.level, &h)
		if found && from < p.to && from+len(level) > p.from {
			h.add(gnss, medium, false)
		}
		if h.seen != 0 {
			c.bare(s, class, gateway.Place{Kind: gateway.AtTopic, Index: i}, &h)
		}
		if from += len(level) + 1; !more {
			break
		}
	}
	if len(m.Client) >= shortest {
		var h hits
		s.level = append(s.level[:0], m.Client...)
		s.detect(s.level, &h)
		if h.seen != 0 {
			c.bare(s, class, gateway.Place{Kind: gateway.AtClient}, &h)
		}
	}
}

// bare makes the findings of a place that has nothing but its content: a key, a topic level, a client id.
// Every hit counts, also a weak one.
func (c *Classifier) bare(s *scratch, class *gateway.Classification, at gateway.Place, h *hits) {
	c.alone(s, class, at, h, h.seen, len(class.Findings))
}

// whole puts the topic's categories on the body where it has no leaf to put them on.
func (c *Classifier) whole(s *scratch, class *gateway.Classification) {
	for _, t := range s.topics {
		if c.rules[t.category].needs == 0 {
			s.emit(c, class, gateway.Place{Kind: gateway.AtBody}, t.category, gateway.ByCatalog, matched, c.reason(t.source))
		}
	}
}

// enter adds the matches that the key of node i makes. Its segments end the path, which had length before.
func (c *Classifier) enter(s *scratch, b *gateway.Body, i int, k *key, before int) {
	container := b.Nodes[i].Kind.Container()
	depth := int32(len(s.path))
	for _, m := range k.names {
		if !c.rules[m.category].envelope || !container && isEnvelope(b, i) {
			s.covers = append(s.covers, cover{match: m, depth: depth, from: depth})
		}
	}
	for j, seg := range k.segs {
		if seg == 0 {
			continue
		}
		for _, p := range c.anchored[seg] {
			end := before + j + 1
			if c.rules[p.match.category].envelope && (container || !isEnvelope(b, i)) || !p.fits(s.path[:end]) {
				continue
			}
			from := int32(end) + p.tail
			s.covers = append(s.covers, cover{match: p.match, depth: from, from: from})
		}
	}
}

// narrow settles what holds inside the container just entered: what is not outdone of what held outside and of the
// covers that it brought. The list stays as short as there are classes and grades.
func (c *Classifier) narrow(s *scratch) {
	begin := len(s.covers)
	for i := s.start; i < begin; i++ {
		if !c.outdone(s.covers[s.start:begin], i-s.start, int32(len(s.path)), 0) {
			s.covers = append(s.covers, s.covers[i])
		}
	}
	s.start = begin
}

// outdone reports whether cover i of the list has to give way at a leaf of that depth: to an equal one of its category
// before it, to a more specific one of its class at the same node, and, unless its grade is higher, to any that is
// nearer to the leaf. A topic gives way to its own class only. Covers that do not hold yet, or whose needs are not
// seen, count for nothing.
func (c *Classifier) outdone(list []cover, i int, depth int32, seen set) bool {
	a := &list[i]
	r := &c.rules[a.category]
	nearer, rank := false, uint8(0)
	for j := range list {
		z := &list[j]
		q := &c.rules[z.category]
		if j == i || z.from > depth || q.needs&^seen != 0 {
			continue
		}
		same := q.class == r.class
		if z.depth == a.depth && (same && z.rank > a.rank || z.category == a.category && z.rank == a.rank && j < i) {
			return true
		}
		if z.depth > a.depth && (same || !a.topic) {
			nearer, rank = true, max(rank, q.rank)
		}
	}
	return nearer && r.rank <= rank
}

// leaf makes the findings of one leaf. half is set when it is, or may be, half of a position.
func (c *Classifier) leaf(s *scratch, b *gateway.Body, i int, class *gateway.Classification, half *half) {
	var h hits
	var written point
	found := false
	at := gateway.Place{Kind: gateway.AtValue, Index: int32(i)}
	first := len(class.Findings)
	switch b.Nodes[i].Kind {
	case gateway.String:
		written, found = s.detect(b.Text(i), &h)
	case gateway.Number:
		s.detectNumber(b.Text(i), &h)
	}
	if half != nil && half.conf != 0 {
		h.add(gnss, half.conf, true)
	}
	list := s.candidates(c, h.seen)
	known := set(0) // detectors that confirm something here
	for _, m := range list {
		r := &c.rules[m.category]
		conf := uint8(matched)
		if r.confirms&h.seen != 0 {
			conf = confirmed
			known |= r.confirms
		}
		s.emit(c, class, at, m.category, gateway.ByCatalog, conf, c.reason(m.source))
	}
	rest := h.seen &^ known
	if len(list) > 0 && rest != 0 { // named otherwise: a weak hit counts inside a longer text only
		for d := range detectors {
			if rest.has(d) && h.conf[d] < medium && h.whole.has(d) {
				rest &^= 1 << d
			}
		}
	}
	if rest != 0 {
		c.alone(s, class, at, &h, rest, first)
	}
	if len(list) == 0 && h.whole == 0 {
		class.Unknown = append(class.Unknown, int32(i))
	}
	if found && len(class.Findings) > first { // both halves are one finding
		class.Positions = append(class.Positions, gateway.Position{Lat: written.lat, Lon: written.lon, LatFind: int32(first), LonFind: int32(first)})
	}
	if half != nil && (half.conf != weak || len(list) == 0 || known.has(gnss)) { // else the keys say that it is no position
		half.first, half.n = int32(first), int32(len(class.Findings)-first)
	}
}

// candidates returns the matches that make a finding at the leaf in hand.
func (s *scratch) candidates(c *Classifier, seen set) []cover {
	held := s.covers[s.start:]
	if len(held) == 0 && len(s.topics) == 0 {
		return nil
	}
	depth := int32(len(s.path))
	if len(s.topics) == 0 && len(held) == 1 && held[0].from <= depth && c.rules[held[0].category].needs&^seen == 0 {
		return held
	}
	all := append(append(s.chosen[:0], held...), s.topics...)
	n := len(all)
	for i := range n {
		if all[i].from <= depth && c.rules[all[i].category].needs&^seen == 0 && !c.outdone(all[:n], i, depth, seen) {
			all = append(all, all[i])
		}
	}
	s.chosen = all
	return all[n:]
}

// alone makes findings of the primary categories of the detectors in which. Detectors of one category make one.
// Findings of the same place begin at first.
func (c *Classifier) alone(s *scratch, class *gateway.Classification, at gateway.Place, h *hits, which set, first int) {
	for d := range detectors {
		if !which.has(d) {
			continue
		}
		category := c.primary[d]
		if c.rules[category].needs&^h.seen != 0 {
			category = c.unlisted
		}
		done := false
		for j := first; j < len(class.Findings); j++ {
			if f := &class.Findings[j]; f.Place == at && f.Category == category {
				f.Confidence, done = max(f.Confidence, h.conf[d]), true
			}
		}
		if !done {
			s.emit(c, class, at, category, gateway.ByDetector, h.conf[d], Reason{Kind: "detector", Matcher: detectorNames[d]})
		}
	}
}

// emit appends one finding, and why it was made when somebody asks.
func (s *scratch) emit(c *Classifier, class *gateway.Classification, at gateway.Place, category uint16, by gateway.Finder, conf uint8, why Reason) {
	k := &c.categories[category]
	class.Findings = append(class.Findings, gateway.Finding{Place: at, Category: category, Grade: k.Grade, Personal: k.Personal, Sensitive: k.Sensitive,
		By: by, Confidence: conf, Pair: -1})
	if s.trace != nil {
		*s.trace = append(*s.trace, why)
	}
}

// link joins the findings of the two halves of each position and lists the positions.
func (s *scratch) link(class *gateway.Classification) {
	for i := range s.halves {
		a := &s.halves[i]
		if !a.lat || a.mate < 0 || a.n == 0 || s.halves[a.mate].n == 0 {
			continue
		}
		z := &s.halves[a.mate]
		pairUp(class.Findings, a, z)
		pairUp(class.Findings, z, a)
		if a.conf != 0 {
			lat := a.first
			for j := a.first; j < a.first+a.n; j++ { // the finding that both halves share, if there is one
				if class.Findings[j].Category == class.Findings[class.Findings[j].Pair].Category {
					lat = j
					break
				}
			}
			class.Positions = append(class.Positions, gateway.Position{Lat: a.degrees, Lon: z.degrees, Datum: s.datum(a), LatFind: lat, LonFind: class.Findings[lat].Pair})
		}
	}
}

// pairUp points every finding of one half to the finding of the same category on the other, else to its first.
func pairUp(findings []gateway.Finding, a, z *half) {
	for i := a.first; i < a.first+a.n; i++ {
		findings[i].Pair = z.first
		for j := z.first; j < z.first+z.n; j++ {
			if findings[j].Category == findings[i].Category {
				findings[i].Pair = j
				break
			}
		}
	}
}

// The bounds of a value of an envelope.
const (
	maxEnvelopeText   = 16 // characters
	maxEnvelopeNumber = 32 // bytes
)

// isEnvelope reports whether leaf i may be part of an envelope: a number, a time of RFC 3339 or a short text.
func isEnvelope(b *gateway.Body, i int) bool {
	t := b.Text(i)
	switch b.Nodes[i].Kind {
	case gateway.Number:
		return len(t) <= maxEnvelopeNumber
	case gateway.String:
		return len(t) <= maxEnvelopeText || len(t) <= 4*maxEnvelopeText && utf8.RuneCount(t) <= maxEnvelopeText || isTime(t)
	}
	return false
}

// isTime reports whether t is a time of RFC 3339, with up to 9 decimals of a second. [RFC 3339 §5.6]
func isTime(t []byte) bool {
	const shape = "0000-00-00T00:00:00"
	if len(t) < len(shape)+1 {
		return false
	}
	for i := range shape {
		switch c := t[i]; shape[i] {
		case '0':
			if !isNumeral(c) {
				return false
			}
		case 'T':
			if upper(c) != 'T' && c != ' ' {
				return false
			}
		default:
			if c != shape[i] {
				return false
			}
		}
	}
	month, day := number2(t[5:]), number2(t[8:])
	if month < 1 || month > 12 || day < 1 || day > 31 || number2(t[11:]) > 23 || number2(t[14:]) > 59 || number2(t[17:]) > 60 {
		return false
	}
	t = t[len(shape):]
	if t[0] == '.' {
		n := countLeadingDigits(t[1:])
		if n == 0 || n > 9 {
			return false
		}
		t = t[1+n:]
	}
	if len(t) == 1 {
		return upper(t[0]) == 'Z'
	}
	return len(t) == 6 && (t[0] == '+' || t[0] == '-') && isNumeral(t[1]) && isNumeral(t[2]) && t[3] == ':' && isNumeral(t[4]) && isNumeral(t[5]) &&
		number2(t[1:]) <= 23 && number2(t[4:]) <= 59
}
