package redact

import "strconv"

// wholeLimit is the largest whole number that may be an angle in degrees; anything over it is a count or scaled.
const wholeLimit = 360

// decimal is a number as written: its value is ±digits × 10^-scale.
type decimal struct {
	negative bool
	digits   []byte // without leading zeros and, after trim, without trailing ones; empty for zero
	scale    int    // digits behind the point, may be negative
	places   int    // digits behind the point as written
	exponent bool   // written with one
}

// parseDecimal takes a JSON number apart. It appends the digits to room.
func parseDecimal(room []byte, lit []byte) (d decimal, ok bool) {
	if len(lit) > 0 && lit[0] == '-' {
		d.negative, lit = true, lit[1:]
	}
	whole := digitsOf(lit)
	room = append(room, lit[:whole]...)
	lit = lit[whole:]
	if len(lit) > 0 && lit[0] == '.' {
		d.places = digitsOf(lit[1:])
		if d.places == 0 {
			return d, false
		}
		room = append(room, lit[1:1+d.places]...)
		lit = lit[1+d.places:]
	}
	exp := 0
	if len(lit) > 0 && lit[0]|0x20 == 'e' {
		d.exponent = true
		if exp, ok = parseExponent(lit[1:]); !ok {
			return d, false
		}
		lit = nil
	}
	for len(room) > 0 && room[0] == '0' {
		room = room[1:]
	}
	d.digits, d.scale = room, d.places-exp
	return d, whole > 0 && len(lit) == 0
}

// parseExponent reads what follows the e. Exponents that no sensible number has are cut off: all that matters of them is
// their sign.
func parseExponent(lit []byte) (exp int, ok bool) {
	const limit = 1 << 30
	negative := false
	if len(lit) > 0 && (lit[0] == '+' || lit[0] == '-') {
		negative, lit = lit[0] == '-', lit[1:]
	}
	if len(lit) == 0 || digitsOf(lit) != len(lit) {
		return 0, false
	}
	for _, c := range lit {
		exp = min(exp*10+int(c-'0'), limit/10)
	}
	if negative {
		exp = -exp
	}
	return exp, true
}

func digitsOf(b []byte) int {
	for i, c := range b {
		if c < '0' || c > '9' {
			return i
		}
	}
	return len(b)
}

// trimmed is d without trailing zeros: its scale is positive exactly when the number is not whole.
func (d decimal) trimmed() decimal {
	n := len(d.digits)
	for n > 0 && d.digits[n-1] == '0' {
		n--
	}
	d.scale -= len(d.digits) - n
	d.digits = d.digits[:n]
	return d
}

// scaled reports whether the trimmed number is whole and over wholeLimit.
func (d decimal) scaled() bool {
	if len(d.digits) == 0 || d.scale > 0 {
		return false
	}
	if len(d.digits)-d.scale > 3 {
		return true
	}
	n, _ := strconv.Atoi(string(d.digits)) // at most three digits
	for range -d.scale {
		n *= 10
	}
	return n > wholeLimit
}

// round appends the number rounded to n digits behind the point; package doc, "Numbers".
func round(dst, lit []byte, n int) (out []byte, ok bool) {
	var room [64]byte
	d, ok := parseDecimal(room[:0], lit)
	if !ok {
		return dst, false
	}
	d = d.trimmed()
	if d.scaled() {
		return dst, false
	}
	if !d.exponent && d.places <= n {
		if len(d.digits) == 0 && d.negative {
			lit = lit[1:]
		}
		return append(dst, lit...), true
	}
	if d.exponent {
		n = min(n, max(d.scale, 0))
		if len(d.digits) == 0 {
			n = 0
		}
	}
	d = d.roundedTo(n)
	if d.negative && len(d.digits) > 0 {
		dst = append(dst, '-')
	}
	return d.appendPlain(dst, n), true
}

// roundedTo is the trimmed d with scale n, half away from zero. The digits are changed in place.
func (d decimal) roundedTo(n int) decimal {
	if len(d.digits) == 0 {
		d.scale = n
		return d
	}
	for d.scale < n { // few: a whole number here is at most wholeLimit
		d.digits, d.scale = append(d.digits, '0'), d.scale+1
	}
	keep := len(d.digits) - (d.scale - n)
	d.scale = n
	if keep < 0 {
		d.digits = d.digits[:0]
		return d
	}
	if keep == len(d.digits) {
		return d
	}
	up := d.digits[keep] >= '5'
	d.digits = d.digits[:keep]
	for i := keep - 1; up && i >= 0; i-- {
		if up = d.digits[i] == '9'; up {
			d.digits[i] = '0'
		} else {
			d.digits[i]++
		}
	}
	if up {
		d.digits = append(d.digits, '0') // every digit was a nine and is a zero now, or there was none
		d.digits[0] = '1'
	}
	return d
}

// appendPlain writes the digits with the point n digits from the right.
func (d decimal) appendPlain(dst []byte, n int) []byte {
	whole := len(d.digits) - n
	if whole <= 0 {
		dst = append(dst, '0')
	} else {
		dst = append(dst, d.digits[:whole]...)
	}
	if n == 0 {
		return dst
	}
	dst = append(dst, '.')
	for range max(-whole, 0) {
		dst = append(dst, '0')
	}
	return append(dst, d.digits[max(whole, 0):]...)
}

// rounded reports whether a number is written with at most n digits behind the point and without exponent.
func rounded(lit []byte, n int) bool {
	var room [64]byte
	d, ok := parseDecimal(room[:0], lit)
	return ok && !d.exponent && d.places <= n && !(d.negative && len(d.digits) == 0)
}
