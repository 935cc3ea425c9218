package config

import (
	"encoding"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
)

// Size is a number of bytes, written with a binary unit: 512B, 256KiB, 64MiB, 1GiB, 2TiB.
type Size int64

// The units of a Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var units = []struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText writes what ParseSize reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the written form.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSize(string(text))
	return err
}

// ParseSize reads a whole number with one of the units B, KiB, MiB, GiB, TiB.
func ParseSize(text string) (Size, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		if !isDigits(digits) {
			break
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt64/int64(u.size) {
			return 0, fmt.Errorf("size %q is too large", text)
		}
		return Size(n) * u.size, nil
	}
	return 0, fmt.Errorf("size %q: want a whole number with a unit: B, KiB, MiB, GiB or TiB", text)
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == "" && (s == "0" || s[0] != '0')
}

// scalar reads one scalar with its expansions.
func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value, tag reflect.StructTag) {
	if n.Kind != yaml.ScalarNode {
		d.error(n, path, "found "+describe(n)+"; want "+wanted(v.Type(), tag), "")
		return
	}
	if isNull(n) && n.Value != "null" || isNull(n) && v.Kind() != reflect.String {
		d.error(n, path, "value is empty; want "+wanted(v.Type(), tag), `delete the key, or write "" for an empty text`)
		return
	}
	if n.Style&yaml.TaggedStyle != 0 && strings.HasPrefix(n.Tag, "!") {
		d.error(n, path, "tag "+strconv.Quote(n.Tag)+" is not read", "write the value without a tag")
		return
	}
	text, secret, message, hint := d.expand(n, path)
	if message != "" {
		d.error(n, path, message, hint)
		return
	}
	expanded := text != n.Value
	secret = secret || tag.Get("secret") == "true"
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if v.Kind() == reflect.String && !quoted && !expanded && (n.Tag == "!!bool" || n.Tag == "!!null") {
		d.error(n, path, "found "+describe(n)+"; want text", "put quotes around it: "+strconv.Quote(n.Value))
		return
	}
	if _, isText := v.Addr().Interface().(encoding.TextUnmarshaler); quoted && !expanded && !isText && v.Kind() != reflect.String && v.Type() != durationType {
		d.error(n, path, "found text in quotes; want "+wanted(v.Type(), tag), "remove the quotes")
		return
	}
	if message, hint = setScalar(v, text, !secret, tag); message != "" {
		d.error(n, path, message, hint)
	}
}

// setScalar parses text into v. show allows the message to quote the text.
func setScalar(v reflect.Value, text string, show bool, tag reflect.StructTag) (message, hint string) {
	found := "found a value that is not shown here"
	if show {
		found = "found " + strconv.Quote(clip(text))
	}
	want := found + "; want " + wanted(v.Type(), tag)
	switch t := v.Type(); {
	case t == durationType:
		return setDuration(v, text, want, tag)
	case t == sizeType:
		size, err := ParseSize(text)
		if err != nil {
			return want, sizeHint(text, show)
		}
		v.SetInt(int64(size))
		return bounds(v, found, tag)
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return want + ": " + err.Error(), ""
		}
		return "", ""
	}
	switch v.Kind() {
	case reflect.String:
		if allowed := tag.Get("enum"); allowed != "" {
			if list := strings.Split(allowed, ","); !slices.Contains(list, text) {
				return want, suggestion(text, list)
			}
		}
		v.SetString(text)
		return "", ""
	case reflect.Bool:
		if text != "true" && text != "false" {
			return want, "write true or false"
		}
		v.SetBool(text == "true")
		return "", ""
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || strings.ContainsAny(text, "xX_") {
			return want, "write a number such as 0.5"
		}
		v.SetFloat(f)
		return bounds(v, found, tag)
	}
	return setInteger(v, text, found, want, tag)
}

func setInteger(v reflect.Value, text, found, want string, tag reflect.StructTag) (message, hint string) {
	digits := strings.TrimPrefix(text, "-")
	if len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "01234567_") == "" {
		return found + " with a leading zero, which YAML 1.1 reads as octal; want " + wanted(v.Type(), tag), "write it without leading zeros, or in quotes if it is text"
	}
	if !isDigits(digits) {
		return want, "write a plain decimal number"
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return found + ", which is out of range; want " + wanted(v.Type(), tag), ""
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return found + ", which is out of range; want " + wanted(v.Type(), tag), ""
		}
		v.SetUint(u)
	default:
		panic("config: cannot read into " + v.Type().String())
	}
	return bounds(v, found, tag)
}

func setDuration(v reflect.Value, text, want string, tag reflect.StructTag) (message, hint string) {
	dur, err := time.ParseDuration(text)
	switch {
	case err != nil && isDigits(text):
		return want + " with its unit", "write " + text + "s, " + text + "m or " + text + "h"
	case err != nil && strings.HasSuffix(text, "d") && isDigits(text[:len(text)-1]):
		days, _ := strconv.Atoi(text[:len(text)-1])
		return want + "; days are no unit", fmt.Sprintf("write %dh", 24*days)
	case err != nil:
		return want, "units are ms, s, m and h: 90s, 1h30m"
	case dur < 0:
		return want + ", not less than nothing", ""
	}
	v.SetInt(int64(dur))
	return bounds(v, "found "+text, tag)
}

// bounds checks a number against the min and max tags.
func bounds(v reflect.Value, found string, tag reflect.StructTag) (message, hint string) {
	for _, name := range []string{"min", "max"} {
		text, ok := tag.Lookup(name)
		if !ok {
			continue
		}
		limit := reflect.New(v.Type()).Elem()
		if m, _ := setScalar(limit, text, true, ""); m != "" {
			panic("config: " + name + " tag: " + m)
		}
		if c := compare(v, limit); name == "min" && c < 0 {
			return found + "; want at least " + text, ""
		} else if name == "max" && c > 0 {
			return found + "; want at most " + text, ""
		}
	}
	return "", ""
}

func compare(a, b reflect.Value) int {
	cmp := func(less, greater bool) int {
		if less {
			return -1
		} else if greater {
			return 1
		}
		return 0
	}
	switch {
	case a.CanInt():
		return cmp(a.Int() < b.Int(), a.Int() > b.Int())
	case a.CanUint():
		return cmp(a.Uint() < b.Uint(), a.Uint() > b.Uint())
	}
	return cmp(a.Float() < b.Float(), a.Float() > b.Float())
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} and ${file:PATH}. What came from a file is secret: messages do not quote it.
func (d *decoder) expand(n *yaml.Node, path string) (text string, secret bool, message, hint string) {
	rest, out := n.Value, strings.Builder{}
	for {
		i := strings.Index(rest, "${")
		if i < 0 {
			out.WriteString(rest)
			break
		}
		if i > 0 && rest[i-1] == '$' {
			out.WriteString(rest[:i-1] + "${")
			rest = rest[i+2:]
			continue
		}
		name, after, ok := strings.Cut(rest[i+2:], "}")
		if !ok {
			return "", false, "${ without }", "close it, or write $${ for a literal ${"
		}
		value, isSecret, message, hint := d.lookup(n, name)
		if message != "" {
			return "", false, message, hint
		}
		out.WriteString(rest[:i] + value)
		secret, rest = secret || isSecret, after
	}
	if text = out.String(); text != n.Value {
		d.r.origins[path] = n.Value
	}
	return text, secret, "", ""
}

// lookup finds what stands for one ${…}.
func (d *decoder) lookup(n *yaml.Node, name string) (value string, secret bool, message, hint string) {
	if file, ok := strings.CutPrefix(name, "file:"); ok {
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(d.r.fileOf(n)), file)
		}
		info, err := os.Stat(file)
		if err == nil && (!info.Mode().IsRegular() || info.Size() > maxExpansion) {
			return "", true, fmt.Sprintf("${file:…}: %q is no regular file of at most %d bytes", file, maxExpansion), "name a file that holds the value alone"
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return "", true, fmt.Sprintf("${file:…} %q: %s", file, readError(err)), "create the file, readable by the gateway's user only"
		}
		if len(data) > maxExpansion || !utf8.Valid(data) || slices.Contains(data, 0) {
			return "", true, fmt.Sprintf("${file:…}: %q is no text", file), "name a text file"
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), true, "", ""
	}
	if !envName.MatchString(name) {
		return "", false, fmt.Sprintf("${%s} is neither a variable nor a file", clip(name)), "write ${NAME} or ${file:PATH}, or $${ for a literal ${"
	}
	value, ok := os.LookupEnv(name)
	if !ok {
		return "", false, "environment variable " + name + " is not set", "set it before the start: " + name + "=… sluice run, or Environment= in the unit"
	}
	return value, false, "", ""
}
