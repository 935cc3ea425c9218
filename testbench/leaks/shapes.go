package leaks

import (
	"strings"
	"time"
	"unicode/utf8"
)

// shapes looks for identities that nobody announced.
func shapes(b []byte, note func(kind, form string)) {
	for i := 0; i < len(b); {
		if !alnum(b[i]) {
			if b[i] >= 0xE4 && plate(b[i:]) {
				note("plate", "plain")
			}
			i++
			continue
		}
		j := i + 1
		for j < len(b) && alnum(b[j]) {
			j++
		}
		switch run := b[i:j]; {
		case len(run) == 17 && vin(run):
			note("vin", "plain")
		case len(run) == 18 && idCard(run):
			note("id_card", "plain")
		case len(run) == 11 && mobile(run), len(run) == 13 && run[0] == '8' && run[1] == '6' && mobile(run[2:]):
			if (i == 0 || b[i-1] != '.') && !(j+1 < len(b) && b[j] == '.' && number(b[j+1])) {
				note("mobile", "plain")
			}
		}
		i = j
	}
}

func alnum(c byte) bool {
	return number(c) || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

func number(c byte) bool { return c >= '0' && c <= '9' }

// vin reports whether 17 letters and digits are a VIN: one case, no I, O or Q, letters and digits both, and the right
// check digit. [ISO 3779]
func vin(run []byte) bool {
	const values = "0123456789.ABCDEFGH..JKLMN.P.R..STUVWXYZ" // the value of a character is its index, mod 10
	weights := [17]int{8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2}
	sum, upper, lower, figures := 0, 0, 0, 0
	for i, c := range run {
		switch {
		case number(c):
			figures++
		case c >= 'a':
			lower++
			c -= 'a' - 'A'
		default:
			upper++
		}
		at := strings.IndexByte(values, c)
		if at < 0 {
			return false
		}
		sum += at % 10 * weights[i]
	}
	check := "0123456789X"[sum%11]
	return (upper == 0) != (lower == 0) && upper+lower >= 2 && figures >= 3 && (run[8] == check || run[8] == 'x' && check == 'X')
}

// mobile reports whether 11 characters are a mobile number of mainland China.
func mobile(run []byte) bool {
	for _, c := range run {
		if !number(c) {
			return false
		}
	}
	return run[0] == '1' && run[1] >= '3'
}

// idCard reports whether 18 characters are an identity number with a real date and the right check character. [GB 11643-1999]
func idCard(run []byte) bool {
	sum := 0
	for i, w := range [17]int{7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2} {
		if !number(run[i]) {
			return false
		}
		sum += w * int(run[i]-'0')
	}
	last := run[17]
	if last == 'x' {
		last = 'X'
	}
	_, err := time.Parse("20060102", string(run[6:14]))
	return err == nil && "10X98765432"[sum%11] == last
}

// plate reports whether b begins with a number plate: province, letter, five or six letters and digits, or an end such as 学.
func plate(b []byte) bool {
	province, n := utf8.DecodeRune(b)
	if !strings.ContainsRune("京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼", province) || n >= len(b) {
		return false
	}
	count := 0
	for b = b[n:]; len(b) > 0; {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == ' ' || r == '-' || r == '·':
		case r < utf8.RuneSelf && alnum(byte(r)):
			if count == 0 && number(byte(r)) {
				return false
			}
			count++
		case strings.ContainsRune("挂学警港澳", r):
			return count == 5
		default:
			return count == 6 || count == 7
		}
		b = b[n:]
	}
	return count == 6 || count == 7
}
