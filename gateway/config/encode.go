package config

import (
	"cmp"
	"encoding"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

// Redacted stands for every secret in what Encode writes.
const Redacted = "[redacted]"

// Encode writes the struct v as YAML that Decode reads again: the effective values, defaults included. Fields tagged
// secret and passwords inside URLs are redacted; a value that came from ${file:…} is written as that reference, which
// r, the report of the Decode that read v, remembers. A nil r knows of none.
func Encode(v any, r *Report) ([]byte, error) {
	e := encoder{}
	if r != nil {
		e.origins = r.origins
	}
	n := e.value(reflect.ValueOf(v), "", "")
	out, err := yaml.Dump(n, yaml.WithIndent(2), yaml.WithLineWidth(-1), yaml.WithQuotePreference(yaml.QuoteDouble))
	if err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return out, nil
}

type encoder struct{ origins map[string]string }

// value returns the node of one value.
func (e *encoder) value(v reflect.Value, path string, tag reflect.StructTag) *yaml.Node {
	if !v.IsValid() {
		return text("null", "!!null")
	}
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return text("null", "!!null")
		}
		v = v.Elem()
	}
	if isScalar(v.Type()) {
		return e.scalar(v, path, tag)
	}
	switch v.Kind() {
	case reflect.Struct:
		return e.section(v, path)
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for i := range v.Len() {
			n.Content = append(n.Content, e.value(v.Index(i), Index(path, i), tag))
		}
		return compact(n)
	}
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		if a.CanUint() {
			return cmp.Compare(a.Uint(), b.Uint())
		}
		return strings.Compare(fmt.Sprint(a.Interface()), fmt.Sprint(b.Interface()))
	})
	for _, k := range keys {
		name := fmt.Sprint(k.Interface())
		key := text(name, "!!str")
		if k.CanInt() || k.CanUint() {
			key.Tag = "!!int"
		}
		n.Content = append(n.Content, key, e.value(v.MapIndex(k), Join(path, name), tag))
	}
	return compact(n)
}

// section writes the fields of a struct that are set, required or have a default.
func (e *encoder) section(v reflect.Value, path string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, f := range fieldsOf(v.Type()) {
		value := v.FieldByIndex(f.index)
		_, hasDefault := f.tag.Lookup("default")
		if isEmpty(value) && !f.required() && (!hasDefault || !isScalar(deref(f.typ)) || value.Kind() == reflect.Pointer) {
			continue
		}
		n.Content = append(n.Content, text(f.name, "!!str"), e.value(value, Join(path, f.name), f.tag))
	}
	return compact(n)
}

// compact writes short collections of scalars on one line.
func compact(n *yaml.Node) *yaml.Node {
	length := 0
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode && (len(c.Content) > 0 && c.Style&yaml.FlowStyle == 0 || n.Kind == yaml.SequenceNode) {
			return n
		}
		length += len(c.Value) + 2
		for _, cc := range c.Content {
			length += len(cc.Value) + 2
		}
	}
	if length < 100 {
		n.Style = yaml.FlowStyle
	}
	return n
}

// scalar writes one scalar.
func (e *encoder) scalar(v reflect.Value, path string, tag reflect.StructTag) *yaml.Node {
	origin := e.origins[path]
	switch x := v.Interface().(type) {
	case time.Duration:
		return text(shortDuration(x), "!!str")
	case encoding.TextMarshaler:
		b, err := x.MarshalText()
		if err != nil {
			panic("config: write " + path + ": " + err.Error())
		}
		return text(string(b), "!!str")
	}
	switch v.Kind() {
	case reflect.String:
		s := v.String()
		switch {
		case tag.Get("secret") == "true" && s != "":
			s = Redacted
		case strings.Contains(origin, "${file:"):
			return quoted(origin)
		default:
			s = strings.ReplaceAll(withoutPassword(s), "${", "$${")
		}
		return quoted(s)
	case reflect.Bool:
		return text(strconv.FormatBool(v.Bool()), "!!bool")
	case reflect.Float32, reflect.Float64:
		return text(strconv.FormatFloat(v.Float(), 'f', -1, 64), "!!float")
	}
	return text(fmt.Sprint(v.Interface()), "!!int")
}

// withoutPassword redacts the password of a URL.
func withoutPassword(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		return s
	}
	if _, has := u.User.Password(); !has {
		return s
	}
	return u.Redacted()
}

// shortDuration writes 168h instead of 168h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func text(s, tag string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: s} }

// quoted writes text, in quotes unless every reading of YAML takes it for text without them.
func quoted(s string) *yaml.Node {
	n := text(s, "!!str")
	plain := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_ ./") == "" &&
		strings.Trim(s[:1], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/.") == "" && !strings.HasSuffix(s, " ")
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n", ".inf", ".nan":
		plain = false
	}
	if !plain {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
