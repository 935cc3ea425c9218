package catalog

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// A detector looks at content alone. Its confidence says how much a hit proves: a shape is weak, a checksum or a
// strict shape medium, a checksum with a date or a structure strong.
type detector uint8

// The detectors, in the order of their names in a catalog.
const (
	vin detector = iota
	plate
	idCard
	mobile
	imei
	iccid
	imsi
	mac
	uscc
	bankCard
	email
	ipv4
	gnss
	image
	video
	audio
	credential
	detectors // how many there are
)

var detectorNames = [detectors]string{"vin", "plate", "id_card", "mobile", "imei", "iccid", "imsi", "mac", "uscc", "bank_card",
	"email", "ipv4", "gnss", "image", "video", "audio", "credential"}

// The confidences of findings, in percent.
const (
	weak      = 30
	medium    = 60
	strong    = 90
	matched   = 80 // a path, topic or name match
	confirmed = 95 // a match whose category lists a detector that hit
)

// detectorNamed returns the detector of a catalog's word.
func detectorNamed(name string) (detector, bool) {
	for d, n := range detectorNames {
		if n == name {
			return detector(d), true
		}
	}
	return 0, false
}

// set is a set of detectors.
type set uint32

func (s set) has(d detector) bool { return s&(1<<d) != 0 }

// hits is what the detectors found in one text.
type hits struct {
	seen  set // found
	whole set // a hit covers the whole text
	conf  [detectors]uint8
}

func (h *hits) add(d detector, conf uint8, whole bool) {
	h.seen |= 1 << d
	if whole {
		h.whole |= 1 << d
	}
	h.conf[d] = max(h.conf[d], conf)
}

// The classes of bytes.
const (
	isDigit = 1 << iota
	isLetter
)

var byteClass = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c >= '0' && c <= '9':
			t[c] = isDigit
		case c|0x20 >= 'a' && c|0x20 <= 'z' && c < 0x80:
			t[c] = isLetter
		}
	}
	return t
}()

// shortest is the length of the shortest text that any detector finds, an address such as 1.1.1.1 or a@b.cn.
const shortest = 6

// text is one string under detection: what it says after folding, and where it begins and ends without white space.
type text struct {
	s      []byte
	lo, hi int
}

// covers reports whether a hit at s[from:to] is the whole text.
func (t *text) covers(from, to int) bool { return from <= t.lo && to >= t.hi }

// detect runs every detector that looks at text and adds what it finds to h. A position found in the text is returned.
func (s *scratch) detect(raw []byte, h *hits) (p point, found bool) {
	if len(raw) < shortest {
		return p, false
	}
	digits, high := count(raw)
	t := text{s: raw}
	if high {
		s.folded = fold(s.folded[:0], raw)
		t.s = s.folded
		digits, _ = count(t.s) // full-width digits count now
	}
	t.trim()
	if high {
		findPlates(&t, h)
	}
	if bytes.IndexByte(t.s, '@') > 0 {
		findEmail(&t, h)
	}
	if digits >= 4 {
		if bytes.IndexByte(t.s, '.') > 0 {
			findIPv4(&t, h)
			if p, found = findPosition(&t); found {
				h.add(gnss, medium, t.covers(p.from, p.to))
			}
		}
		if len(t.s) >= sizeMAC {
			findMAC(&t, h)
		}
		if len(t.s) >= 11 {
			findNumbers(&t, h)
		}
	}
	if len(t.s) >= shortestMedia {
		findMedia(t.s, h)
		findCredential(&t, h)
		if !s.inside && !high {
			s.findEmbedded(&t, h)
		}
	}
	return p, found
}

// count returns how many ASCII digits p has and whether it has anything that is not ASCII.
func count(p []byte) (digits int, high bool) {
	const highs, zeros, tens = 0x8080808080808080, 0x3030303030303030, 0x7676767676767676
	var all uint64
	for ; len(p) >= 8; p = p[8:] {
		w := binary.LittleEndian.Uint64(p)
		all |= w
		// '0' to '9' become 0 to 9, and only these stay under 0x80 when 0x76 is added
		x := (w &^ highs) ^ zeros
		digits += bits.OnesCount64(^(x + tens) & highs &^ w)
	}
	for _, c := range p {
		all |= uint64(c)
		digits += int(byteClass[c] & isDigit)
	}
	return digits, all&highs != 0
}

// trim finds where the text begins and ends without white space and the plus sign of a telephone number.
func (t *text) trim() {
	t.lo, t.hi = 0, len(t.s)
	for t.lo < t.hi && (t.s[t.lo] <= ' ' || t.s[t.lo] == '+') {
		t.lo++
	}
	for t.hi > t.lo && t.s[t.hi-1] <= ' ' {
		t.hi--
	}
}

// fold appends text as a person would read it: full-width letters, digits and signs as ASCII, the many dots, hyphens
// and spaces as - and space, and without characters that have no width.
func fold(dst, text []byte) []byte {
	for _, r := range string(text) {
		switch {
		case r < 0x80:
			dst = append(dst, byte(r))
		case r >= 0xFF01 && r <= 0xFF5E:
			dst = append(dst, byte(r-0xFF01+'!'))
		case r == 0x00A0, r >= 0x2000 && r <= 0x200A, r == 0x202F, r == 0x3000:
			dst = append(dst, ' ')
		case r == 0x00B7, r == 0x2022, r == 0x2027, r == 0x30FB, r == 0xFF65, r >= 0x2010 && r <= 0x2015, r == 0x2212:
			dst = append(dst, '-')
		case r == 0x00AD, r >= 0x200B && r <= 0x200F, r == 0x2060, r == 0xFEFF:
		default:
			dst = append(dst, string(r)...)
		}
	}
	return dst
}

func isAlnum(c byte) bool { return byteClass[c]&(isDigit|isLetter) != 0 }

func isNumeral(c byte) bool { return c-'0' <= 9 }

func upper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - 0x20
	}
	return c
}

// countDigits returns how many of p are decimal digits.
func countDigits(p []byte) (n int) {
	for _, c := range p {
		n += int(byteClass[c] & isDigit)
	}
	return n
}
