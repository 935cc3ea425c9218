package catalog

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"
)

// normalize returns a key in the form in which names are compared: lower case, full-width forms as ASCII, and an
// underscore for every point, hyphen, slash and space and at the humps of camel case.
func normalize(key string) string {
	var b strings.Builder
	b.Grow(len(key) + 8)
	folded := string(fold(make([]byte, 0, len(key)), []byte(key)))
	last := rune(0)
	for i, r := range folded {
		switch {
		case r == '.' || r == '-' || r == '/' || r == ' ':
			r = '_'
		case unicode.IsUpper(r):
			next, _ := utf8.DecodeRuneInString(folded[i+utf8.RuneLen(r):])
			if unicode.IsLower(last) || unicode.IsDigit(last) || unicode.IsUpper(last) && unicode.IsLower(next) {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
		last = r
	}
	return b.String()
}

// glob reports whether name fits pattern, in which * stands for any characters.
func glob(pattern, name string) bool {
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	name = name[len(head):]
	for {
		part, more, again := strings.Cut(rest, "*")
		if !again {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], more
	}
}

// key is everything that the classifier knows about one key as devices write it.
type key struct {
	raw   string
	segs  []int32 // segments as numbers of the classifier, 0 for one that no pattern names
	names []match
	hits  hits // of the detectors on the key itself
	role  role
	stem  uint64 // of a role: the rest of the name
}

// match is a category that a name matched.
type match struct {
	category uint16
	rank     uint8
	source   int32
}

// The bounds of what is kept about keys, and of the segments that a flat key such as Vehicle.Speed may have.
const (
	maxKeys      = 4096
	longestKey   = 64
	mostSegments = 16
)

// keys remembers what is known about the keys that were seen last. It is bounded, needs no lock, and forgets a key
// when another takes its place. Keys that are identifiers themselves are not kept.
type keys struct {
	seed  maphash.Seed
	slots [maxKeys]atomic.Pointer[key]
}

// lookup returns what is known about a key; it allocates only for one that is not kept yet.
func (ks *keys) lookup(c *Classifier, raw []byte) *key {
	if len(raw) > longestKey {
		return c.study(string(raw))
	}
	h := maphash.Bytes(ks.seed, raw)
	first, second := &ks.slots[h%maxKeys], &ks.slots[h>>32%maxKeys]
	k := first.Load()
	if k != nil && k.raw == string(raw) {
		return k
	}
	if other := second.Load(); other != nil && other.raw == string(raw) {
		return other
	}
	fresh := c.study(string(raw))
	if fresh.hits.seen != 0 {
		return fresh
	}
	if k != nil {
		first = second
	}
	first.Store(fresh)
	return fresh
}

// study works out everything about a key.
func (c *Classifier) study(raw string) *key {
	k := &key{raw: raw}
	name := normalize(raw)
	k.names = append(k.names, c.exact[name]...)
	for _, g := range c.globs {
		if glob(g.pattern, name) {
			k.names = append(k.names, g.match)
		}
	}
	parts := strings.FieldsFunc(raw, isSegmentEnd)
	if len(parts) == 0 || len(parts) > mostSegments {
		parts = []string{raw}
	}
	for _, p := range parts {
		k.segs = append(k.segs, c.segments[normalize(p)])
	}
	k.role, k.stem = roleOf(name)
	s := scratches.Get().(*scratch)
	s.detect([]byte(raw), &k.hits)
	scratches.Put(s)
	return k
}

// isSegmentEnd reports whether r separates the segments of a flat key or of a path in a catalog.
func isSegmentEnd(r rune) bool { return r == '.' || r == '/' }

var pairWords = map[string]role{"coord": coordRole, "coords": coordRole, "coordinate": coordRole, "coordinates": coordRole, "position": coordRole,
	"positions": coordRole, "location": coordRole, "locations": coordRole, "point": coordRole, "points": coordRole, "gps": coordRole, "gnss": coordRole,
	"geo": coordRole, "loc": coordRole, "lnglat": coordRole, "lonlat": coordRole, "latlng": latLonRole, "latlon": latLonRole}

var datumWords = map[string]bool{"datum": true, "map_datum": true, "geodetic_datum": true, "coord_sys": true, "coord_system": true, "coordsys": true,
	"coordinate_system": true, "coord_type": true, "coordinate_type": true, "crs": true, "srs": true}

// roleOf returns what a normalized name says about positions, and the hash of the rest of it: start_lat pairs with
// start_lng and with nothing else.
func roleOf(name string) (role, uint64) {
	if datumWords[name] {
		return datumRole, 0
	}
	words := strings.Split(name, "_")
	found, at := noRole, -1
	for i, w := range words {
		r := noRole
		switch {
		case w == "lat" || strings.HasSuffix(w, "latitude") || strings.HasSuffix(w, "纬度"):
			r = latRole
		case w == "lon" || w == "lng" || strings.HasSuffix(w, "longitude") || strings.HasSuffix(w, "经度"), w == "long" && i == len(words)-1:
			r = lonRole
		}
		if r == noRole {
			continue
		}
		if found != noRole { // both words in one name: a pair
			if found == latRole {
				return latLonRole, 0
			}
			return coordRole, 0
		}
		found, at = r, i
	}
	if found == noRole {
		return pairWords[words[len(words)-1]], 0
	}
	const prime = 1099511628211
	stem := uint64(14695981039346656037) // FNV-1a
	for i, w := range words {
		if i == at {
			for _, suffix := range [...]string{"latitude", "longitude", "纬度", "经度"} {
				w = strings.TrimSuffix(w, suffix)
			}
			if w == "lat" || w == "lon" || w == "lng" || w == "long" {
				w = ""
			}
		}
		for j := range len(w) {
			stem = (stem ^ uint64(w[j])) * prime
		}
		stem = (stem ^ '_') * prime
	}
	return found, stem
}
