package catalog

import (
	"bytes"
	"math"

	"github.com/sluice-edge/sluice/gateway"
)

// role is what a key says about positions.
type role uint8

const (
	noRole     role = iota
	latRole         // a latitude
	lonRole         // a longitude
	datumRole       // the reference system
	coordRole       // a pair, longitude first as in GeoJSON [RFC 7946 §3.1.1]
	latLonRole      // a pair, latitude first
)

// minDecimals is from how many decimals on two numbers side by side may be a position: 4 decimals are 11 m.
const minDecimals = 4

// near bounds how far apart in a body the two halves of a position may stand.
const near = 64

// half is a leaf that is a latitude or longitude, or that may be one.
type half struct {
	node     int32
	mate     int32 // index of the other half, -1 for none
	parent   int32
	scope    int32 // the object whose members may name the datum
	stem     uint64
	lat      bool
	conf     uint8 // of the detector gnss; 0: a key says so, but the value is none
	degrees  float64
	first, n int32 // its findings
}

// datumAt is a datum that an object names.
type datumAt struct {
	parent int32
	datum  gateway.Datum
}

// point is a position found in a text.
type point struct {
	from, to int
	lat, lon float64
}

// scan walks the body once before classifying: it looks up every key and collects what may be a position.
func (s *scratch) scan(c *Classifier, b *gateway.Body) {
	s.infos, s.halves, s.datums, s.loose = s.infos[:0], s.halves[:0], s.datums[:0], -1
	s.leaves = 0
	named := false
	for i := range b.Nodes {
		n := &b.Nodes[i]
		var k *key
		if n.Parent >= 0 && b.Nodes[n.Parent].Kind == gateway.Object {
			k = c.keys.lookup(c, b.Key(i))
		}
		s.infos = append(s.infos, k)
		if !n.Kind.Container() {
			s.leaves++
		}
		switch {
		case n.Kind == gateway.Array && len(b.Nodes)-i > 2:
			s.pairArray(b, int32(i))
		case k != nil && k.role != noRole:
			s.collect(b, int32(i), k)
			named = named || k.role == lonRole || k.role == latRole
		case n.Kind == gateway.Number && n.Text.Len > minDecimals+1 && n.Index > 0 && k != nil:
			s.pairLoose(b, int32(i))
		}
	}
	if named {
		s.pairNamed()
	}
}

// collect keeps a leaf whose key has a role.
func (s *scratch) collect(b *gateway.Body, i int32, k *key) {
	n := &b.Nodes[i]
	switch {
	case n.Kind.Container():
	case k.role == latRole || k.role == lonRole:
		s.halves = append(s.halves, half{node: i, mate: -1, parent: n.Parent, scope: n.Parent, stem: k.stem, lat: k.role == latRole})
		h := &s.halves[len(s.halves)-1]
		if n.Kind == gateway.Number || n.Kind == gateway.String {
			h.degrees = coordinate(b.Text(int(i)))
		} else {
			h.degrees = math.NaN()
		}
	case k.role == datumRole && n.Kind == gateway.String:
		if d := datumOf(b.Text(int(i))); d != gateway.UnknownDatum {
			s.datums = append(s.datums, datumAt{n.Parent, d})
		}
	}
}

// coordinate reads the number of a coordinate, which may be text with a hemisphere; NaN when it is none.
func coordinate(p []byte) float64 {
	sign := 1.0
	for len(p) > 0 && (p[0] == ' ' || hemisphere(p[0]) != 0) {
		sign *= sideOf(p[0])
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || hemisphere(p[len(p)-1]) != 0) {
		sign *= sideOf(p[len(p)-1])
		p = p[:len(p)-1]
	}
	d, ok := parseDecimal(p)
	if !ok {
		return math.NaN()
	}
	return sign * d.value
}

func hemisphere(c byte) byte {
	switch upper(c) {
	case 'N', 'S', 'E', 'W':
		return upper(c)
	}
	return 0
}

func sideOf(c byte) float64 {
	if h := hemisphere(c); h == 'S' || h == 'W' {
		return -1
	}
	return 1
}

// pairNamed joins latitudes and longitudes of one object whose keys differ in that word only.
func (s *scratch) pairNamed() {
	for i := range s.halves {
		a := &s.halves[i]
		if a.mate >= 0 {
			continue
		}
		for j := i + 1; j < len(s.halves) && j <= i+near; j++ {
			z := &s.halves[j]
			if z.mate >= 0 || z.parent != a.parent || z.stem != a.stem || z.lat == a.lat {
				continue
			}
			a.mate, z.mate = int32(j), int32(i)
			lat, lon := a, z
			if !a.lat {
				lat, lon = z, a
			}
			if la, lo, ok := degrees(lat.degrees, lon.degrees); ok {
				lat.degrees, lon.degrees = la, lo
				a.conf, z.conf = medium, medium
			}
			break
		}
	}
}

// degrees turns the two values of one position into degrees: as they are, as integers scaled by 1e6 or 1e7, or as
// degrees and minutes of NMEA 0183 (ddmm.mmmm).
func degrees(lat, lon float64) (la, lo float64, ok bool) {
	if math.IsNaN(lat) || math.IsNaN(lon) {
		return 0, 0, false
	}
	if inRange(lat, lon) {
		return lat, lon, true
	}
	if lat == math.Trunc(lat) && lon == math.Trunc(lon) {
		for _, scale := range [...]float64{1e6, 1e7} {
			if inRange(lat/scale, lon/scale) {
				return lat / scale, lon / scale, true
			}
		}
		return 0, 0, false
	}
	la, lo = nmea(lat), nmea(lon)
	return la, lo, inRange(la, lo) // false for NaN
}

func inRange(lat, lon float64) bool { return math.Abs(lat) <= 90 && math.Abs(lon) <= 180 }

// nmea reads ddmm.mmmm or dddmm.mmmm; NaN when the minutes are none.
func nmea(v float64) float64 {
	whole := math.Trunc(v / 100)
	minutes := v - whole*100
	if math.Abs(minutes) >= 60 {
		return math.NaN()
	}
	return whole + minutes/60
}

// pairArray looks whether array i is one position: two numbers, or three with a height.
func (s *scratch) pairArray(b *gateway.Body, i int32) {
	n := &b.Nodes[i]
	if size := n.Next - i - 1; size != 2 && size != 3 {
		return
	}
	for j := i + 1; j < n.Next; j++ {
		if b.Nodes[j].Kind != gateway.Number {
			return
		}
	}
	first, ok1 := parseDecimal(b.Text(int(i + 1)))
	second, ok2 := parseDecimal(b.Text(int(i + 2)))
	if !ok1 || !ok2 {
		return
	}
	role, scope := s.nearestKey(b, i)
	fine := min(first.decimals(), second.decimals()) >= minDecimals
	named := role == coordRole || role == latLonRole
	latFirst := role == latLonRole || math.Abs(second.value) > 90 && math.Abs(first.value) < math.Abs(second.value)
	lat, lon := second.value, first.value
	if latFirst {
		lat, lon = lon, lat
	}
	la, lo, ok := degrees(lat, lon)
	scaled := ok && (la != lat || lo != lon)
	conf := uint8(0)
	switch {
	case !ok:
		return
	case named && (scaled || max(first.decimals(), second.decimals()) >= 2):
		conf = medium
	case fine && !scaled && inChina(la, lo):
		conf = medium
	case fine && !scaled:
		conf = weak
	default:
		return
	}
	s.pair(half{node: i + 1, parent: i, scope: scope, lat: latFirst, conf: conf, degrees: pick(latFirst, la, lo)},
		half{node: i + 2, parent: i, scope: scope, lat: !latFirst, conf: conf, degrees: pick(!latFirst, la, lo)})
}

func pick(lat bool, la, lo float64) float64 {
	if lat {
		return la
	}
	return lo
}

func inChina(lat, lon float64) bool { return lat >= 3 && lat <= 54 && lon >= 73 && lon <= 136 }

// nearestKey returns the role of the key above node i, through arrays, and the object that holds it.
func (s *scratch) nearestKey(b *gateway.Body, i int32) (role, int32) {
	for i >= 0 {
		if k := s.infos[i]; k != nil {
			return k.role, b.Nodes[i].Parent
		}
		i = b.Nodes[i].Parent
	}
	return noRole, -1
}

// pairLoose looks whether the members i-1 and i are two numbers with the decimals of a position and no third beside.
func (s *scratch) pairLoose(b *gateway.Body, i int32) {
	if s.loose == b.Nodes[i].Parent {
		return // a run of such numbers is a series, or was looked at
	}
	first, ok1 := s.fine(b, i-1, b.Nodes[i].Parent)
	second, ok2 := s.fine(b, i, b.Nodes[i].Parent)
	if !ok1 || !ok2 {
		return
	}
	_, before := s.fine(b, i-2, b.Nodes[i].Parent)
	_, behind := s.fine(b, i+1, b.Nodes[i].Parent)
	latFirst := math.Abs(first) <= 90 && (math.Abs(second) > 90 || inChina(first, second) || !inChina(second, first))
	lat, lon := first, second
	if !latFirst {
		lat, lon = second, first
	}
	if before || behind || !inRange(lat, lon) {
		s.loose = b.Nodes[i].Parent
		return
	}
	s.pair(half{node: i - 1, parent: b.Nodes[i].Parent, scope: b.Nodes[i].Parent, lat: latFirst, conf: weak, degrees: first},
		half{node: i, parent: b.Nodes[i].Parent, scope: b.Nodes[i].Parent, lat: !latFirst, conf: weak, degrees: second})
}

// fine returns the value of member i of an object if it is a number with the decimals of a position.
func (s *scratch) fine(b *gateway.Body, i, parent int32) (float64, bool) {
	if i <= parent || int(i) >= len(b.Nodes) {
		return 0, false
	}
	n := &b.Nodes[i]
	if n.Parent != parent || n.Kind != gateway.Number || n.Text.Len <= minDecimals+1 {
		return 0, false
	}
	if int(i) < len(s.infos) && s.infos[i] != nil && s.infos[i].role != noRole {
		return 0, false
	}
	d, ok := parseDecimal(b.Text(int(i)))
	return d.value, ok && d.decimals() >= minDecimals && math.Abs(d.value) <= 180
}

// pair appends two halves that belong together.
func (s *scratch) pair(a, z half) {
	n := int32(len(s.halves))
	a.mate, z.mate = n+1, n
	s.halves = append(s.halves, a, z)
}

// datumOf reads the name of a reference system.
func datumOf(p []byte) gateway.Datum {
	var buf [8]byte
	n := 0
	for _, c := range p {
		if isAlnum(c) {
			if n == len(buf) {
				return gateway.UnknownDatum
			}
			buf[n] = upper(c)
			n++
		}
	}
	switch string(buf[:n]) {
	case "WGS84", "EPSG4326", "4326":
		return gateway.WGS84
	case "GCJ02":
		return gateway.GCJ02
	case "BD09", "BD09LL":
		return gateway.BD09
	}
	return gateway.UnknownDatum
}

// datum returns the reference system that the object of a half names.
func (s *scratch) datum(h *half) gateway.Datum {
	for i := 0; i < len(s.datums) && i < near; i++ {
		if s.datums[i].parent == h.scope {
			return s.datums[i].datum
		}
	}
	return gateway.UnknownDatum
}

// findPosition looks for a position in a text: two numbers with the decimals of one and only separators between them or
// the word for the second, or the fields of an NMEA sentence. Hemispheres may stand in front or behind. [ISO 6709 Annex H]
func findPosition(t *text) (p point, ok bool) {
	lastFrom, lastTo, lastSide := 0, -1, byte(0)
	var last decimal
	for i := 0; i < len(t.s); {
		if !isNumeral(t.s[i]) || i > 0 && t.s[i-1] == '.' {
			i++
			continue
		}
		from := i
		for i < len(t.s) && (isNumeral(t.s[i]) || t.s[i] == '.') {
			i++
		}
		d, good := parseDecimal(t.s[from:i])
		if !good || d.frac < minDecimals-2 || d.ints > 5 {
			lastTo = -1
			continue
		}
		to, side := i, byte(0)
		switch {
		case from > 0 && (t.s[from-1] == '-' || t.s[from-1] == '+'):
			if from--; t.s[from] == '-' {
				d.value = -d.value
			}
		case from > max(0, lastTo) && hemisphere(t.s[from-1]) != 0 && (from < 2 || byteClass[t.s[from-2]]&isLetter == 0):
			from--
			side = hemisphere(t.s[from])
		}
		j := skipBlank(t.s, i)
		if side == 0 && j < len(t.s) && hemisphere(t.s[j]) != 0 && (j+1 == len(t.s) || !isAlnum(t.s[j+1]) || isNumeral(t.s[j+1])) {
			side, to = hemisphere(t.s[j]), j+1
		}
		d.value *= sideOf(side)
		if lastTo >= 0 {
			glued := lastTo == from && (lastSide != 0 || isSign(t.s[lastFrom]) && isSign(t.s[from]))
			if between := t.s[lastTo:from]; glued || separators(between) || labels(between) {
				if p, ok = join(last, lastSide, d, side); ok {
					p.from, p.to = lastFrom, to
					return p, true
				}
			}
		}
		last, lastFrom, lastTo, lastSide, i = d, from, to, side, to
	}
	return p, false
}

func isSign(c byte) bool { return c == '-' || c == '+' }

// isDegree reports whether p begins with a sign for degrees, of two bytes.
func isDegree(p []byte) bool { return len(p) > 1 && p[0] == 0xC2 && (p[1] == 0xB0 || p[1] == 0xBA) }

// skipBlank returns the offset of the next byte that is no blank, comma or sign for degrees.
func skipBlank(s []byte, i int) int {
	for i < len(s) {
		switch {
		case s[i] == ' ' || s[i] == ',':
			i++
		case isDegree(s[i:]):
			i += 2
		default:
			return i
		}
	}
	return i
}

func separators(p []byte) bool {
	if len(p) == 0 || len(p) > 4 {
		return false
	}
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case ' ', ',', ';', ':', '/', '|', '\t', '\r', '\n', '+', '_', '&':
		default:
			if !isDegree(p[i:]) {
				return false
			}
			i++
		}
	}
	return true
}

// longestLabel bounds what may stand between the two numbers of a position when a word for the second is part of it.
const longestLabel = 24

// labels reports whether p, which stands between two numbers, has a word for the second of a position.
func labels(p []byte) bool {
	if len(p) > longestLabel {
		return false
	}
	for i := range p {
		switch rest := p[i:]; {
		case len(rest) < 3:
			return false
		case upper(rest[0]) != 'L' && rest[0] < 0x80:
		case bytes.HasPrefix(rest, []byte("经")), bytes.HasPrefix(rest, []byte("纬")),
			bytes.EqualFold(rest[:3], []byte("lat")), bytes.EqualFold(rest[:3], []byte("lon")), bytes.EqualFold(rest[:3], []byte("lng")):
			return true
		}
	}
	return false
}

// join makes a position of two numbers of a text. With hemispheres they may be in the form of NMEA 0183.
func join(a decimal, aSide byte, z decimal, zSide byte) (p point, ok bool) {
	if (aSide == 'N' || aSide == 'S') && (zSide == 'E' || zSide == 'W') {
		p.lat, p.lon = a.value, z.value
	} else if (aSide == 'E' || aSide == 'W') && (zSide == 'N' || zSide == 'S') {
		p.lat, p.lon = z.value, a.value
	} else {
		if min(a.frac, z.frac) < minDecimals {
			return p, false
		}
		p.lat, p.lon = a.value, z.value
		if math.Abs(a.value) > 90 || inChina(z.value, a.value) {
			p.lat, p.lon = z.value, a.value
		}
		return p, inRange(p.lat, p.lon)
	}
	p.lat, p.lon, ok = degrees(p.lat, p.lon)
	return p, ok
}
