package redact

import (
	"strconv"
	"time"
)

// Bounds of Unix numbers: below the first they are seconds, below the second milliseconds.
const (
	firstMillis = 100_000_000_000
	endMillis   = 100_000_000_000_000
)

// wholeSeconds returns the bucket in seconds; ok is false for one that is not whole seconds.
func wholeSeconds(bucket time.Duration) (int64, bool) {
	return int64(bucket / time.Second), bucket >= time.Second && bucket%time.Second == 0
}

// unixBucket appends a Unix time rounded down, with as many digits behind the point as it had.
func unixBucket(dst, lit []byte, bucket time.Duration) (out []byte, ok bool) {
	step, ok := wholeSeconds(bucket)
	whole := digitsOf(lit)
	if !ok || whole == 0 || whole > 15 {
		return dst, false
	}
	places := 0
	if rest := lit[whole:]; len(rest) > 0 {
		places = digitsOf(rest[1:])
		if rest[0] != '.' || places == 0 || places != len(rest)-1 {
			return dst, false
		}
	}
	v, err := strconv.ParseInt(string(lit[:whole]), 10, 64)
	if err != nil || v >= endMillis {
		return dst, false
	}
	millis := v >= firstMillis
	if millis {
		step *= 1000
	}
	if v -= v % step; millis && v < firstMillis {
		return dst, false // would be read as seconds
	}
	dst = strconv.AppendInt(dst, v, 10)
	if places > 0 {
		dst = append(dst, '.')
	}
	return appendZeros(dst, places), true
}

func appendZeros(dst []byte, n int) []byte {
	for range n {
		dst = append(dst, '0')
	}
	return dst
}

// textBucket appends a date and time rounded down, in the form it has; package doc, "Times".
func textBucket(dst, text []byte, bucket time.Duration) (out []byte, ok bool) {
	step, ok := wholeSeconds(bucket)
	if !ok || len(text) < len("2006-01-02T15:04:05") || text[4] != '-' || text[7] != '-' || text[13] != ':' || text[16] != ':' ||
		(text[10] != 'T' && text[10] != 't' && text[10] != ' ') {
		return dst, false
	}
	year, ok1 := number(text[0:4])
	month, ok2 := number(text[5:7])
	day, ok3 := number(text[8:10])
	hour, ok4 := number(text[11:13])
	minute, ok5 := number(text[14:16])
	second, ok6 := number(text[17:19])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 60 {
		return dst, false
	}
	places, zone, ok := fractionAndZone(text[19:])
	midnight := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if !ok || midnight.Day() != day {
		return dst, false
	}
	t := midnight.Unix() + int64(hour*3600+minute*60+min(second, 59)) // a leap second counts to the one before
	over := t % step
	if over < 0 {
		over += step // before 1970
	}
	return appendTime(dst, t-over, text[10], places, zone)
}

// appendTime writes the clock of t seconds after 1970 and what goes with it.
func appendTime(dst []byte, t int64, middle byte, places int, zone []byte) ([]byte, bool) {
	clock := time.Unix(t, 0).UTC()
	if clock.Year() < 0 {
		return dst, false
	}
	at := len(dst) + 10
	dst = clock.AppendFormat(dst, "2006-01-02T15:04:05")
	dst[at] = middle
	if places > 0 {
		dst = append(dst, '.')
	}
	return append(appendZeros(dst, places), zone...), true
}

// fractionAndZone reads what follows the seconds: how many digits of a second, and the offset as written, if any.
func fractionAndZone(rest []byte) (places int, zone []byte, ok bool) {
	if len(rest) > 0 && rest[0] == '.' {
		places = digitsOf(rest[1:])
		if places == 0 || places > 9 {
			return 0, nil, false
		}
		rest = rest[1+places:]
	}
	switch {
	case len(rest) == 0, len(rest) == 1 && (rest[0] == 'Z' || rest[0] == 'z'):
		return places, rest, true
	case len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':':
		h, ok1 := number(rest[1:3])
		m, ok2 := number(rest[4:6])
		return places, rest, ok1 && ok2 && h < 24 && m < 60
	}
	return 0, nil, false
}

// number reads a few digits.
func number(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
