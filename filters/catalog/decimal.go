package catalog

import "math"

// decimal is a number as a device wrote it.
type decimal struct {
	text  []byte // mantissa, without sign
	neg   bool
	ints  int // digits before the point
	frac  int // digits behind the point
	exp   int // exponent
	value float64
}

// parseDecimal reads all of p as a number: sign, digits, perhaps a point with digits, perhaps an exponent.
func parseDecimal(p []byte) (d decimal, ok bool) {
	if len(p) > 0 && (p[0] == '-' || p[0] == '+') {
		d.neg = p[0] == '-'
		p = p[1:]
	}
	var mantissa uint64
	kept, dropped := 0, 0
	i := 0
	for ; i < len(p) && (isNumeral(p[i]) || p[i] == '.' && d.frac == 0); i++ {
		if p[i] == '.' {
			n := countLeadingDigits(p[i+1:])
			if n == 0 {
				return d, false
			}
			d.frac = n
			continue
		}
		if d.frac == 0 {
			d.ints++
		}
		if kept < 19 {
			if mantissa = mantissa*10 + uint64(p[i]-'0'); mantissa > 0 {
				kept++ // leading zeros are free
			}
		} else {
			dropped++
		}
	}
	if d.text = p[:i]; d.ints == 0 {
		return d, false
	}
	if i < len(p) && p[i]|0x20 == 'e' {
		if d.exp, ok = parseExponent(p[i+1:]); !ok {
			return d, false
		}
	} else if i != len(p) {
		return d, false
	}
	d.value = float64(mantissa)
	if e := d.exp - d.frac + dropped; e < 0 {
		d.value /= math.Pow10(-e)
	} else if e > 0 {
		d.value *= math.Pow10(e)
	}
	if d.neg {
		d.value = -d.value
	}
	return d, true
}

func countLeadingDigits(p []byte) int {
	for i, c := range p {
		if !isNumeral(c) {
			return i
		}
	}
	return len(p)
}

const maxExponent = 9999

// parseExponent reads an exponent; beyond four digits it says no more than that it is large.
func parseExponent(p []byte) (e int, ok bool) {
	neg := len(p) > 0 && p[0] == '-'
	if len(p) > 0 && (neg || p[0] == '+') {
		p = p[1:]
	}
	for _, c := range p {
		if !isNumeral(c) {
			return 0, false
		}
		e = min(e*10+int(c-'0'), maxExponent)
	}
	if neg {
		e = -e
	}
	return e, len(p) > 0
}

// integer appends the digits before the decimal point, exponent applied, without leading zeros.
// The caller has made sure that these are few.
func (d *decimal) integer(dst []byte) []byte {
	left := d.ints + d.exp
	for _, c := range d.text {
		if left <= 0 {
			break
		}
		if c == '.' {
			continue
		}
		if left--; c != '0' || len(dst) > 0 {
			dst = append(dst, c)
		}
	}
	for ; left > 0; left-- {
		dst = append(dst, '0')
	}
	return dst
}

// leadingZeros returns how many digits stand before the first that is not zero. Of zero it returns more than there are, as
// many as no exponent makes up for.
func (d *decimal) leadingZeros() (n int) {
	for _, c := range d.text {
		if c != '0' && c != '.' {
			return n
		}
		if c == '0' {
			n++
		}
	}
	return n + maxExponent
}

// decimals returns how many digits behind the point are written.
func (d *decimal) decimals() int { return max(0, d.frac-d.exp) }
