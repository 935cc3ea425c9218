package catalog

import "bytes"

// run is one word of letters and digits in a text, as offsets.
type run struct{ from, to, digits int }

// maxJoined bounds how many words are read as one number that somebody wrote with spaces or hyphens.
const maxJoined = 8

// longestNumber is the length of the longest number that any detector knows.
const longestNumber = 20

// findNumbers looks for everything that is a run of letters and digits: VIN, identity card, mobile, IMEI, ICCID, IMSI,
// organisation code, bank card. Runs that a single space or hyphen separates are also read as one.
func findNumbers(t *text, h *hits) {
	var chain [maxJoined]run
	n := 0
	for i := 0; i < len(t.s); {
		if !isAlnum(t.s[i]) {
			i++
			continue
		}
		r := run{from: i}
		for ; i < len(t.s) && isAlnum(t.s[i]); i++ {
			r.digits += int(byteClass[t.s[i]] & isDigit)
		}
		r.to = i
		if n > 0 && (r.from != chain[n-1].to+1 || t.s[r.from-1] != ' ' && t.s[r.from-1] != '-') {
			n = 0
		}
		if n == maxJoined {
			n = copy(chain[:], chain[1:])
		}
		chain[n] = r
		n++
		t.word(r, h)
		t.joined(chain[:n], h)
	}
}

// joined reads the last two, three and more words of the chain as one.
func (t *text) joined(chain []run, h *hits) {
	var buf [longestNumber]byte
	last := len(chain) - 1
	size, digits := chain[last].to-chain[last].from, chain[last].digits
	for k := last - 1; k >= 0; k-- {
		size += chain[k].to - chain[k].from
		digits += chain[k].digits
		if size > longestNumber {
			return
		}
		if size < 11 || digits < 4 {
			continue
		}
		p := buf[:0]
		for _, r := range chain[k:] {
			p = append(p, t.s[r.from:r.to]...)
		}
		whole := t.covers(chain[k].from, chain[last].to)
		if digits == size {
			findDigits(p, whole, h)
		} else {
			findCode(p, whole, h)
		}
	}
}

// word reads one word, and the runs of digits inside it.
func (t *text) word(r run, h *hits) {
	p := t.s[r.from:r.to]
	if r.digits < 4 || len(p) < 11 {
		return
	}
	whole := t.covers(r.from, r.to)
	if r.digits == len(p) {
		findDigits(p, whole, h)
		return
	}
	findCode(p, whole, h)
	if r.digits < 11 {
		return
	}
	for i := 0; i < len(p); i++ {
		from := i
		for i < len(p) && isNumeral(p[i]) {
			i++
		}
		if i-from >= 11 {
			findDigits(p[from:i], false, h)
		}
		if i-from == 17 && i+1 == len(p) && upper(p[i]) == 'X' && validIDCard(p[from:]) {
			h.add(idCard, strong, false)
		}
	}
}

// findDigits judges a run of decimal digits with none beside it.
func findDigits(d []byte, whole bool, h *hits) {
	switch len(d) {
	case 11:
		if isMobile(d) {
			h.add(mobile, weak, whole)
		}
	case 13:
		if d[0] == '8' && d[1] == '6' && isMobile(d[2:]) {
			h.add(mobile, weak, whole)
		}
	case 15:
		if string(d[:4]) == "0086" && isMobile(d[4:]) {
			h.add(mobile, weak, whole)
		}
		if string(d[:3]) == "460" {
			h.add(imsi, weak, whole)
		}
		if luhn(d) {
			h.add(imei, weak, whole)
		}
		if isRegion(d) && isDate(1900+number2(d[6:]), number2(d[8:]), number2(d[10:])) {
			h.add(idCard, weak, whole) // the form until 1999, without a check
		}
	case 17:
		if validVIN(d) {
			h.add(vin, weak, whole) // digits alone are more often a time
		}
	case 18:
		if validIDCard(d) {
			h.add(idCard, strong, whole)
			return
		}
		if validUSCC(d) {
			h.add(uscc, medium, whole)
		}
	case 19, 20:
		if string(d[:4]) == "8986" {
			h.add(iccid, medium, whole)
			return
		}
	}
	if len(d) >= 13 && len(d) <= 19 && isIssuer(d) && luhn(d) {
		h.add(bankCard, weak, whole)
	}
}

// findCode judges a run that has letters and digits.
func findCode(p []byte, whole bool, h *hits) {
	switch n := len(p); {
	case n == 17:
		if validVIN(p) {
			h.add(vin, medium, whole)
		} else if likeVIN(p) {
			h.add(vin, weak, whole)
		}
	case n == 18 && validIDCard(p):
		h.add(idCard, strong, whole)
	case n == 18 && validUSCC(p):
		h.add(uscc, medium, whole)
	case (n == 19 || n == 20) && string(p[:4]) == "8986" && countDigits(p) >= 16:
		h.add(iccid, medium, whole)
	case n > 17 && n <= 64:
		for i := 0; i+17 <= n; i++ {
			if w := p[i : i+17]; validVIN(w) && (upper(w[0]) == 'L' && countDigits(w[12:]) == 5 || i == 3 && n == 20 && isVINLabel(p)) {
				h.add(vin, medium, false)
				return
			}
		}
	}
}

func isVINLabel(p []byte) bool { return upper(p[0]) == 'V' && upper(p[1]) == 'I' && upper(p[2]) == 'N' }

// vinValues holds the values of the letters A to Z in the check of a VIN; 0 = not a letter of a VIN. [ISO 3779]
var vinValues = [26]uint8{1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 0, 7, 0, 9, 2, 3, 4, 5, 6, 7, 8, 9}

// vinWeights holds the weights of the 17 positions. [ISO 3779]
var vinWeights = [17]uint8{8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2}

// validVIN reports whether p is a vehicle identification number with the right check at position 9.
func validVIN(p []byte) bool {
	if len(p) != 17 {
		return false
	}
	sum := 0
	for i, c := range p {
		v := c - '0'
		if v > 9 {
			if c = upper(c); c < 'A' || c > 'Z' || vinValues[c-'A'] == 0 {
				return false
			}
			v = vinValues[c-'A']
		}
		sum += int(v) * int(vinWeights[i])
	}
	want := byte('0' + sum%11)
	if sum%11 == 10 {
		want = 'X'
	}
	return upper(p[8]) == want
}

// likeVIN reports whether p looks like a Chinese VIN whose check nobody computed: many are in use.
func likeVIN(p []byte) bool {
	if upper(p[0]) != 'L' || countDigits(p[12:]) != 5 {
		return false
	}
	for _, c := range p {
		if c = upper(c); c >= 'A' && vinValues[c-'A'] == 0 {
			return false
		}
	}
	return true
}

// validIDCard reports whether p is an identity number of 18 characters: region, date and check. [GB 11643-1999]
func validIDCard(p []byte) bool {
	if len(p) != 18 || countDigits(p[:17]) != 17 || !isRegion(p) {
		return false
	}
	year := number2(p[6:])*100 + number2(p[8:])
	if year < 1850 || year > 2100 || !isDate(year, number2(p[10:]), number2(p[12:])) {
		return false
	}
	sum, weight := 0, 1
	for i := 16; i >= 0; i-- { // the weights are the powers of 2 modulo 11
		weight = weight * 2 % 11
		sum += int(p[i]-'0') * weight
	}
	return upper(p[17]) == "10X98765432"[sum%11]
}

// isRegion reports whether an identity number begins with a region.
func isRegion(p []byte) bool { return p[0] != '0' && p[0] != '7' }

func number2(p []byte) int { return int(p[0]-'0')*10 + int(p[1]-'0') }

func isDate(year, month, day int) bool {
	if month < 1 || month > 12 || day < 1 {
		return false
	}
	last := [...]int{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1]
	if month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0) {
		last = 29
	}
	return day <= last
}

// isMobile reports whether the 11 digits are a Chinese mobile number.
func isMobile(d []byte) bool { return len(d) == 11 && d[0] == '1' && d[1] >= '3' }

// luhn reports whether the last digit checks the others.
func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i] - '0')
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}

// isIssuer reports whether d begins as bank cards of its length do.
func isIssuer(d []byte) bool {
	head, four := number2(d), number2(d)*100+number2(d[2:])
	switch {
	case head == 62:
		return len(d) >= 16
	case d[0] == '4':
		return len(d) == 13 || len(d) == 16 || len(d) == 19
	case head >= 51 && head <= 55, four >= 2221 && four <= 2720, head == 35, head == 60, head == 65:
		return len(d) == 16
	}
	return (head == 34 || head == 37) && len(d) == 15
}

// validUSCC reports whether p is a unified social credit code. [GB 32100-2015]
func validUSCC(p []byte) bool {
	const alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
	if len(p) != 18 || p[0] == '0' {
		return false
	}
	sum, weight := 0, 1
	for i, c := range p {
		v := -1
		for j := range alphabet {
			if alphabet[j] == upper(c) {
				v = j
				break
			}
		}
		if v < 0 {
			return false
		}
		if i == 17 {
			return v == (31-sum%31)%31
		}
		sum += v * weight
		weight = weight * 3 % 31
	}
	return false
}

// detectNumber judges a JSON number: its digits as an integer, however the device wrote them.
func (s *scratch) detectNumber(literal []byte, h *hits) {
	if len(literal) < 5 { // 1e10 has no digits to speak of
		return
	}
	if literal[0] == '-' {
		literal = literal[1:]
	}
	plain := len(literal)
	for i, c := range literal {
		if !isNumeral(c) {
			plain = i
			break
		}
	}
	if plain == len(literal) {
		if plain >= 11 && plain <= longestNumber {
			findDigits(literal, true, h)
		}
		return
	}
	if plain < 11 && bytes.IndexByte(literal, 'e') < 0 && bytes.IndexByte(literal, 'E') < 0 {
		return
	}
	d, ok := parseDecimal(literal)
	if !ok {
		return
	}
	if size := d.ints + d.exp - d.leadingZeros(); size >= 11 && size <= longestNumber {
		var buf [longestNumber]byte
		findDigits(d.integer(buf[:0]), true, h)
	}
}
