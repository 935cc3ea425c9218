package catalog

import (
	"fmt"
	"math/bits"
	"strings"
)

// Numbers of segments that are no names.
const (
	anySegment   int32 = -1 // * in a pattern
	restSegments int32 = -2 // ** in a pattern
	element      int32 = -3 // an array element in a body
)

// maxPattern bounds the segments of a pattern, so that its states fit one word.
const maxPattern = 24

// pattern is a compiled path. It is tried when the walk enters a node whose segment is the last name in it, the
// anchor; what follows the anchor can only ask for more depth.
type pattern struct {
	segs   []int32 // up to and with the anchor
	float  bool    // may begin anywhere
	rest   bool    // has **
	tail   int32   // segments behind the anchor: the match begins so much deeper
	match  match
	anchor int32
}

// splitPath cuts a path of a catalog into segments and says what is wrong with it.
func splitPath(path string) (segs []string, message string) {
	segs = strings.FieldsFunc(path, isSegmentEnd)
	names := 0
	for _, s := range segs {
		switch {
		case s == "*" || s == "**":
		case strings.Contains(s, "*"):
			return nil, fmt.Sprintf("segment %q mixes a name and *; a segment is a name, * or **", s)
		default:
			names++
		}
	}
	switch {
	case names == 0:
		return nil, fmt.Sprintf("path %q names nothing and would match every field", path)
	case len(segs) > maxPattern:
		return nil, fmt.Sprintf("path has %d segments; want at most %d", len(segs), maxPattern)
	case strings.Contains(path, "..") || strings.HasSuffix(path, ".") || strings.HasPrefix(path, "."):
		return nil, fmt.Sprintf("path %q has an empty segment", path)
	}
	return segs, ""
}

// compilePath turns the segments of a path into a pattern; number gives every name its number.
func compilePath(segs []string, float bool, number func(string) int32) *pattern {
	p := &pattern{float: float}
	last, names, wild := 0, 0, 0
	for i, s := range segs {
		switch s {
		case "*":
			p.segs = append(p.segs, anySegment)
			wild++
		case "**":
			p.segs = append(p.segs, restSegments)
			p.rest = true
			wild++
		default:
			p.segs = append(p.segs, number(normalize(s)))
			last = i
			names++
		}
	}
	for _, s := range p.segs[last+1:] {
		if s == anySegment {
			p.tail++
		}
	}
	p.anchor, p.segs = p.segs[last], p.segs[:last+1]
	p.match.rank = uint8(rankPath + 2*names)
	if wild == 0 {
		p.match.rank++
	}
	return p
}

// The ranks of matches at one node: a topic says least, then a name with *, a whole name, a path by its names.
const (
	rankTopic = 0
	rankGlob  = 100
	rankName  = 101
	rankPath  = 102
)

// fits reports whether the pattern ends exactly at the last segment of path, which is its anchor. Array elements may
// be left out of account or taken by *. It costs at most len(path) steps of a few states each.
func (p *pattern) fits(path []int32) bool {
	if p.float && len(p.segs) == 1 {
		return true
	}
	if n := len(p.segs); n > 1 && p.segs[n-2] > 0 { // most patterns fail here
		i := len(path) - 2
		for i >= 0 && path[i] == element {
			i--
		}
		if i < 0 || path[i] != p.segs[n-2] {
			return false
		}
	}
	if p.float && !p.rest { // what is further up cannot matter
		i := len(path)
		for names := 0; i > 0 && names < len(p.segs); i-- {
			if path[i-1] != element {
				names++
			}
		}
		path = path[i:]
	}
	end := uint32(1) << len(p.segs)
	state := p.closure(1)
	for _, c := range path {
		next := uint32(0)
		if p.float {
			next = 1
		}
		for m := state &^ end; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m)
			switch seg := p.segs[i]; {
			case seg == restSegments:
				next |= 1 << i
			case c == element:
				next |= 1 << i
				if seg == anySegment {
					next |= 2 << i
				}
			case seg == anySegment || seg == c:
				next |= 2 << i
			}
		}
		if state = p.closure(next); state == 0 {
			return false
		}
	}
	return state&end != 0
}

// closure adds the states that ** lets pass without a segment.
func (p *pattern) closure(state uint32) uint32 {
	if !p.rest {
		return state
	}
	for i, seg := range p.segs {
		if seg == restSegments && state&(1<<i) != 0 {
			state |= 2 << i
		}
	}
	return state
}
