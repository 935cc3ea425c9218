package catalog

import "unicode/utf8"

// mostEmbedded bounds how much of an encoded text is decoded.
const mostEmbedded = 4096

// findEmbedded runs the detectors on what a text says when it is Base64 or hexadecimal digits that hold text. One
// level deep: what is encoded twice stays what it is, an unknown field unless its name is known. A hit never covers
// the whole value, since the value is something else.
func (s *scratch) findEmbedded(t *text, h *hits) {
	p := t.s[t.lo:t.hi]
	if cap(s.decoded) == 0 {
		s.decoded = make([]byte, mostEmbedded)
	}
	n := decodeHex(s.decoded, p)
	if 2*n < len(p) && n < mostEmbedded {
		n = decodeBase64(s.decoded, p)
		tail := p[min(n/3*4, len(p)):]
		if n+3 <= mostEmbedded {
			more, ok := decodeTail(s.decoded[n:], tail)
			if !ok {
				return
			}
			n += more
		}
	}
	if n < shortest || !isText(s.decoded[:n]) {
		return
	}
	var inner hits
	s.inside = true
	s.detect(s.decoded[:n], &inner)
	s.inside = false
	for d := range detectors {
		if inner.seen.has(d) {
			h.add(d, inner.conf[d], false)
		}
	}
}

// decodeTail decodes the last group of Base64, which may be short or padded.
func decodeTail(dst, p []byte) (n int, ok bool) {
	for len(p) > 0 && p[len(p)-1] == '=' {
		p = p[:len(p)-1]
	}
	if len(p) == 1 || len(p) > 3 {
		return 0, false
	}
	var w uint32
	for _, c := range p {
		v := base64Value(c)
		if v < 0 {
			return 0, false
		}
		w = w<<6 | uint32(v)
	}
	switch len(p) {
	case 2:
		dst[0] = byte(w >> 4)
		return 1, true
	case 3:
		dst[0], dst[1] = byte(w>>10), byte(w>>2)
		return 2, true
	}
	return 0, true
}

// isText reports whether p is UTF-8 without control characters. A character cut at the end is forgiven.
func isText(p []byte) bool {
	for len(p) > 0 {
		r, size := utf8.DecodeRune(p)
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == utf8.RuneError && size == 1 && len(p) > utf8.UTFMax {
			return false
		}
		p = p[size:]
	}
	return true
}
