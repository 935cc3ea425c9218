package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// describe says what a node is, for messages.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the truth value " + n.Value
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	}
	return "text"
}

// wanted says what a type accepts, for messages.
func wanted(t reflect.Type, tag reflect.StructTag) string {
	switch t = deref(t); {
	case t == durationType:
		return "a duration such as 90s or 168h"
	case t == sizeType:
		return "a size such as 64MiB"
	case tag.Get("enum") != "":
		return "one of " + strings.ReplaceAll(tag.Get("enum"), ",", ", ")
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		low, hasLow := tag.Lookup("min")
		high, hasHigh := tag.Lookup("max")
		switch {
		case hasLow && hasHigh:
			return "a whole number from " + low + " to " + high
		case hasLow:
			return "a whole number from " + low
		case hasHigh:
			return "a whole number up to " + high
		}
		return "a whole number"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a section"
	}
	return "text"
}

// sizeHint says how to write a size that has no binary unit.
func sizeHint(text string, show bool) string {
	number := strings.TrimRight(text, "KMGTkmgtiIbB ")
	if !show || !isDigits(number) {
		return "write a whole number and a unit: 64MiB, 1GiB"
	}
	unit := strings.ToUpper(strings.Trim(text[len(number):], " iIbB"))
	if unit == "" {
		return fmt.Sprintf("say the unit: %sB, %sKiB, %sMiB", number, number, number)
	}
	return "units are binary: write " + number + unit[:1] + "iB"
}

func fieldNames(fields []field) []string {
	list := make([]string, len(fields))
	for i := range fields {
		list[i] = fields[i].name
	}
	return list
}

func names(fields []field) string { return strings.Join(fieldNames(fields), ", ") }

// suggestion names the nearest known word, or all of them.
func suggestion(word string, known []string) string {
	if near := Nearest(word, known); near != "" {
		return "did you mean " + strconv.Quote(near) + "?"
	}
	return "known here: " + strings.Join(known, ", ")
}

// Nearest returns the known word that word was most likely meant to be, or "" when none is near.
func Nearest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", 1+max(1, len(word)/3)
	lower := strings.ToLower(strings.NewReplacer("-", "_", " ", "_").Replace(word))
	for _, k := range known {
		d := distance(lower, strings.ToLower(k))
		if len(lower) >= 4 && (strings.HasPrefix(k, lower) || strings.HasPrefix(lower, k) && len(k) >= 4) {
			d = min(d, 1)
		}
		if d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of neighbours that turn a into b.
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, slices.Clone(prev2)
	}
	return prev[len(b)]
}

// clip shortens what a message quotes.
func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
