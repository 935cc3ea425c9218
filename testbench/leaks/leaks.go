// Package leaks looks through what a cloud received for what must not have left.
//
// It is the counter-check of the gateway's classifier and shares no code with it. It knows two things that the gateway
// does not: the very values that the devices sent (Add, AddPosition), which it finds however they are written (other
// case, separators inside, URL or JSON escapes, base64, hexadecimal, UTF-16). For what nobody told it of it knows the
// shapes of VINs, number plates, mobile and identity numbers, each with its check where there is one.
//
// A view of the message (topic and payload as they are, with JSON escapes resolved, with URL escapes resolved) is folded
// to lower case and rid of separators; every six bytes of it are looked up among the first six bytes of the known
// values, so that the time does not grow with their number.
package leaks

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"math"
	"strings"
	"sync"
)

// Leak is one thing that should not have arrived. It quotes nothing.
type Leak struct {
	Kind string // "value" that was sent, "position", or a shape: "vin", "plate", "mobile", "id_card"
	Form string // how it was written: "plain", "base64", "hex", "number"; with "escaped" views "json" or "url" in front
}

// Scanner holds what was sent. It is safe for concurrent use: values are added while messages are scanned.
type Scanner struct {
	decimals int

	mu     sync.RWMutex // guards what follows
	values map[uint64][]form
	filter []uint64 // bit set over hashes of the keys of values
	lat    map[int32]struct{}
	lon    map[int32]struct{}
	known  map[string]struct{}
}

// form is one written form of a value, normalized.
type form struct {
	text   string
	name   string
	number bool // counts only where no digit or point stands beside it
}

const (
	keyLen     = 6
	filterBits = 1 << 22
)

// New returns a scanner without values for which positions may leave with at most the given decimals.
func New(decimals int) *Scanner {
	return &Scanner{
		decimals: decimals,
		values:   map[uint64][]form{},
		filter:   make([]uint64, filterBits/64),
		lat:      map[int32]struct{}{},
		lon:      map[int32]struct{}{},
		known:    map[string]struct{}{},
	}
}

// Add notes a value that was sent and must not arrive. Values under six bytes are ignored: they occur by chance.
// Coordinates belong to AddPosition; added here as well they are found also as text or base64.
func (s *Scanner) Add(value string) {
	if len(value) < keyLen {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[value]; ok {
		return
	}
	s.known[value] = struct{}{}
	s.add(value, "plain", false)
	s.add(hex.EncodeToString([]byte(value)), "hex", false)
	for shift := range 3 {
		text := base64Inside(value, shift)
		s.add(text, "base64", false)
		if strings.ContainsAny(text, "+/") {
			s.add(strings.NewReplacer("+", "-", "/", "_").Replace(text), "base64", false)
		}
	}
	if whole, fraction, ok := strings.Cut(value, "."); ok && digits(whole) && digits(fraction) {
		s.add(whole+fraction, "number", true)
	}
}

func (s *Scanner) add(text, name string, number bool) {
	b := normalize(nil, []byte(text))
	if len(b) < keyLen {
		return
	}
	k := key(b)
	h := hash(k)
	s.filter[h/64] |= 1 << (h % 64)
	s.values[k] = append(s.values[k], form{string(b), name, number})
}

// AddPosition notes where a device was. A number with more decimals than allowed within about 100 m of a latitude or
// longitude that was sent is a leak.
func (s *Scanner) AddPosition(lat, lon float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lat[cell(lat)] = struct{}{}
	s.lon[cell(lon)] = struct{}{}
}

func cell(v float64) int32 { return int32(math.Floor(v * 1000)) }

// Scan reports what of the values and shapes is in a message, each kind and form once; nil when it is clean.
func (s *Scanner) Scan(topic string, payload []byte) []Leak {
	bufs := buffers.Get().(*[2][]byte)
	defer buffers.Put(bufs)
	raw := append(append(append(bufs[0][:0], topic...), '\n'), payload...)
	bufs[0] = raw
	leaks := s.view(nil, "", raw, &bufs[1])
	if bytes.IndexByte(raw, '\\') >= 0 {
		leaks = s.view(leaks, "json ", unescapeJSON(raw), &bufs[1])
	}
	if bytes.IndexByte(raw, '%') >= 0 {
		leaks = s.view(leaks, "url ", unescapeURL(raw), &bufs[1])
	}
	return leaks
}

var buffers = sync.Pool{New: func() any { return new([2][]byte) }}

// view scans one reading of the message.
func (s *Scanner) view(leaks []Leak, prefix string, text []byte, scratch *[]byte) []Leak {
	note := func(kind, form string) {
		l := Leak{kind, prefix + form}
		for _, have := range leaks {
			if have.Kind == l.Kind {
				return
			}
		}
		leaks = append(leaks, l)
	}
	*scratch = normalize((*scratch)[:0], text)
	s.mu.RLock()
	s.sent(*scratch, note)
	s.positions(text, note)
	s.mu.RUnlock()
	shapes(text, note)
	return leaks
}

// sent looks for the values in normalized text.
func (s *Scanner) sent(b []byte, note func(kind, form string)) {
	var k uint64
	for i, c := range b {
		k = (k<<8 | uint64(c)) & (1<<(8*keyLen) - 1)
		if i < keyLen-1 {
			continue
		}
		if h := hash(k); s.filter[h/64]>>(h%64)&1 == 0 {
			continue
		}
		start := i - keyLen + 1
		for _, f := range s.values[k] {
			if bytes.HasPrefix(b[start:], []byte(f.text)) && (!f.number || alone(b, start, start+len(f.text))) {
				note("value", f.name)
			}
		}
	}
}

// alone reports whether b[i:j] is a whole number and not part of a longer one.
func alone(b []byte, i, j int) bool {
	part := func(c byte) bool { return c >= '0' && c <= '9' || c == '.' }
	return (i == 0 || !part(b[i-1])) && (j == len(b) || !part(b[j]))
}

// positions looks for numbers with too many decimals near a coordinate that was sent.
func (s *Scanner) positions(b []byte, note func(kind, form string)) {
	for i := 0; i < len(b); i++ {
		if b[i] != '.' || i == 0 || b[i-1] < '0' || b[i-1] > '9' {
			continue
		}
		start, end, value := i, i+1, 0.0
		for start > 0 && i-start < 4 && b[start-1] >= '0' && b[start-1] <= '9' {
			start--
		}
		for _, c := range b[start:i] {
			value = value*10 + float64(c-'0')
		}
		unit, written := 0.1, 0
		for end < len(b) && b[end] >= '0' && b[end] <= '9' {
			value += unit * float64(b[end]-'0')
			if unit /= 10; b[end] != '0' {
				written = end - i
			}
			end++
		}
		if written > s.decimals && s.near(value) {
			note("position", "number")
		}
		i = end - 1
	}
}

func (s *Scanner) near(v float64) bool {
	for c := cell(v) - 1; c <= cell(v)+1; c++ {
		if _, ok := s.lat[c]; ok {
			return true
		}
		if _, ok := s.lon[c]; ok {
			return true
		}
	}
	return false
}

// base64Inside returns the characters that stand for value in the base64 text of any bytes that hold it behind shift
// (mod 3) others.
func base64Inside(value string, shift int) string {
	text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), value...))
	return text[[3]int{0, 2, 3}[shift] : (shift+len(value))*8/6]
}

func key(b []byte) (k uint64) {
	for _, c := range b[:keyLen] {
		k = k<<8 | uint64(c)
	}
	return k
}

func hash(k uint64) uint64 { return k * 0x9E3779B97F4A7C15 >> 42 }

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
