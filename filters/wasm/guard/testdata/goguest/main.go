//go:build wasip1

// Command goguest is a guest in stock Go for the tests of package guard.
package main

import (
	"sort"
	"strconv"
	"strings"
	"unsafe"
)

var in [65536]byte

//go:wasmexport buffer
func buffer() int32 { return int32(uintptr(unsafe.Pointer(&in))) }

// scan walks over n bytes of text as a plugin does that looks for numbers, depth included, without allocating.
//
//go:wasmexport scan
func scan(n int32) int32 {
	sum, depth, number, digits := int32(0), int32(0), int32(0), 0
	for _, c := range in[:n] {
		switch {
		case c >= '0' && c <= '9':
			number = number*10 + int32(c-'0')
			digits++
			continue
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if digits == 11 {
			sum += number ^ depth
		}
		number, digits = 0, 0
	}
	return sum
}

// work allocates, sorts, and uses maps and strings.
//
//go:wasmexport work
func work(n int32) int32 {
	words := strings.Fields(string(in[:n]))
	sort.Strings(words)
	seen := map[string]int{}
	for i, w := range words {
		if v, err := strconv.Atoi(w); err == nil {
			seen[w] += v
		} else {
			seen[w] += i
		}
	}
	sum := int32(0)
	for w, v := range seen {
		sum += int32(v) * int32(len(w))
	}
	return sum
}

//go:wasmexport recurse
func recurse(n int32) int32 {
	if n == 0 {
		return 0
	}
	return recurse(n-1) + 1
}

func main() {}
