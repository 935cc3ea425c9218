package catalog

import (
	"bytes"
	"unicode/utf8"
)

// isProvince reports whether r begins a Chinese number plate. [GA 36]
func isProvince(r rune) bool {
	switch r {
	case '京', '津', '沪', '渝', '冀', '豫', '云', '辽', '黑', '湘', '皖', '鲁', '新', '苏', '浙', '赣', '鄂', '桂', '甘', '晋', '蒙', '陕', '吉', '闽',
		'贵', '粤', '青', '藏', '川', '宁', '琼':
		return true
	}
	return false
}

// findPlates looks for Chinese number plates, with or without a separator behind the city letter.
func findPlates(t *text, h *hits) {
	for i := 0; i < len(t.s); {
		if t.s[i] < 0xE4 || t.s[i] > 0xE9 { // the provinces lie there
			i++
			continue
		}
		r, size := utf8.DecodeRune(t.s[i:])
		if isProvince(r) {
			if n := plateLength(t.s[i+size:]); n > 0 {
				h.add(plate, strong, t.covers(i, i+size+n))
				i += n
			}
		}
		i += size
	}
}

// plateLength returns the length of what makes a plate of the province character before p, 0 for nothing.
func plateLength(p []byte) int {
	var code [8]byte // city letter and up to 7 characters; a final Chinese character counts as 'z'
	n, i := 0, 0
	for i < len(p) && n < len(code) {
		c := p[i]
		switch {
		case isAlnum(c):
			code[n] = upper(c)
			n, i = n+1, i+1
			continue
		case (c == '-' || c == ' ' || c == '.') && n > 0 && i+1 < len(p) && isAlnum(p[i+1]):
			i++
			continue
		}
		if r, size := utf8.DecodeRune(p[i:]); n == 5 && (r == '挂' || r == '学' || r == '警' || r == '港' || r == '澳') {
			code[n] = 'z'
			n, i = n+1, i+size
		}
		break
	}
	if n > 0 && code[n-1] != 'z' && i < len(p) && isAlnum(p[i]) {
		return 0 // a longer word
	}
	if isPlate(code[:n]) {
		return i
	}
	return 0
}

// isPlate judges what stands behind the province: a city letter and five characters, or six of a new-energy plate.
func isPlate(code []byte) bool {
	if len(code) != 6 && len(code) != 7 || !plateLetter(code[0]) {
		return false
	}
	if len(code) == 6 {
		for i, c := range code[1:] {
			if !plateLetter(c) && !isNumeral(c) && !(c == 'z' && i == 4) {
				return false
			}
		}
		return true
	}
	small := energyLetter(code[1]) && (plateLetter(code[2]) || isNumeral(code[2])) && countDigits(code[3:]) == 4
	large := countDigits(code[1:6]) == 5 && energyLetter(code[6])
	return small || large
}

func plateLetter(c byte) bool { return c >= 'A' && c <= 'Z' && c != 'I' && c != 'O' }

func energyLetter(c byte) bool { return c >= 'A' && c <= 'K' && c != 'I' }

// findEmail looks for an address: something before the @, a domain with a dot and a top level of letters behind it.
func findEmail(t *text, h *hits) {
	for i := bytes.IndexByte(t.s, '@'); i >= 0 && i < len(t.s); {
		from, to := i, i+1
		for from > 0 && mailChar(t.s[from-1]) {
			from--
		}
		dot := -1
		for to < len(t.s) && (isAlnum(t.s[to]) || t.s[to] == '-' || t.s[to] == '.') {
			if t.s[to] == '.' {
				dot = to
			}
			to++
		}
		if from < i && dot > i+1 && to-dot > 2 && countDigits(t.s[dot:to]) == 0 {
			h.add(email, medium, t.covers(from, to))
			return
		}
		next := bytes.IndexByte(t.s[i+1:], '@')
		if next < 0 {
			return
		}
		i += 1 + next
	}
}

func mailChar(c byte) bool {
	return isAlnum(c) || c == '.' || c == '_' || c == '-' || c == '+' || c == '%' || c >= utf8.RuneSelf
}

// findIPv4 looks for four numbers up to 255 with dots between and no digit or dot beside.
func findIPv4(t *text, h *hits) {
	for i := 0; i < len(t.s); {
		if !isNumeral(t.s[i]) || i > 0 && (isAlnum(t.s[i-1]) || t.s[i-1] == '.') {
			i++
			continue
		}
		from, parts := i, 0
		for parts < 4 {
			start, v := i, 0
			for i < len(t.s) && isNumeral(t.s[i]) && i-start < 4 {
				v = v*10 + int(t.s[i]-'0')
				i++
			}
			if i == start || v > 255 || i-start > 1 && t.s[start] == '0' {
				break
			}
			if parts++; parts == 4 || i >= len(t.s) || t.s[i] != '.' {
				break
			}
			i++
		}
		if parts == 4 && (i == len(t.s) || !isAlnum(t.s[i]) && !(t.s[i] == '.' && i+1 < len(t.s) && isNumeral(t.s[i+1]))) {
			h.add(ipv4, medium, t.covers(from, i))
			return
		}
		i = max(i, from+1)
	}
}

// sizeMAC is the length of a MAC address in text.
const sizeMAC = 17

// findMAC looks for six pairs of hexadecimal digits with the same separator between.
func findMAC(t *text, h *hits) {
	const size = sizeMAC
	for i := 0; i+size <= len(t.s); i++ {
		sep := t.s[i+2]
		if sep != ':' && sep != '-' || i > 0 && isAlnum(t.s[i-1]) || i+size < len(t.s) && isAlnum(t.s[i+size]) {
			continue
		}
		k := 0
		for ; k < size; k++ {
			if c := t.s[i+k]; k%3 == 2 && c != sep || k%3 != 2 && !isHex(c) {
				break
			}
		}
		if k == size {
			h.add(mac, medium, t.covers(i, i+size))
			return
		}
	}
}

func isHex(c byte) bool { return isNumeral(c) || upper(c) >= 'A' && upper(c) <= 'F' }

// findCredential looks for private keys in PEM and for JWTs.
func findCredential(t *text, h *hits) {
	if bytes.IndexByte(t.s, '-') < 0 && bytes.IndexByte(t.s, '.') < 0 {
		return
	}
	if i := bytes.Index(t.s, pemBegin); i >= 0 && (bytes.Contains(t.s[i:], pemKey) || bytes.Contains(t.s[i:], pemCert)) {
		h.add(credential, strong, t.covers(i, t.hi))
		return
	}
	for i := bytes.Index(t.s, jwtBegin); i >= 0; {
		to, dots := i, 0
		for to < len(t.s) && (isAlnum(t.s[to]) || t.s[to] == '-' || t.s[to] == '_' || t.s[to] == '.') {
			if t.s[to] == '.' {
				dots++
			}
			to++
		}
		if dots == 2 && to-i >= 20 {
			h.add(credential, strong, t.covers(i, to))
			return
		}
		next := bytes.Index(t.s[to:], jwtBegin)
		if next < 0 {
			return
		}
		i = to + next
	}
}

var (
	pemBegin = []byte("-----BEGIN ")
	pemKey   = []byte("PRIVATE KEY")
	pemCert  = []byte("OPENSSH")
	jwtBegin = []byte("eyJ")
)
