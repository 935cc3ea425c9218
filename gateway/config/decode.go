package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

// decoder walks a document and a value side by side.
type decoder struct {
	r      *Report
	values int // how many more values may be read, aliases expanded
	depth  int
	full   bool // a bound was reached and reported
}

// field is one key of a struct.
type field struct {
	name  string
	index []int
	tag   reflect.StructTag
	typ   reflect.Type
}

// required reports whether the key must be there.
func (f *field) required() bool { return f.tag.Get("required") == "true" }

// fieldsOf lists the keys of a struct in the order of its declaration.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, option, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				fields = append(fields, f)
			}
		case name != "" && name != "-":
			fields = append(fields, field{name: name, index: []int{i}, tag: sf.Tag, typ: sf.Type})
		}
	}
	return fields
}

// resolve follows an alias to its anchor.
func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n.Kind == yaml.AliasNode && n.Alias != nil && i < maxDepth; i++ {
		n = n.Alias
	}
	return n
}

// enter counts one value; false means that no more are read.
func (d *decoder) enter(n *yaml.Node, path string) bool {
	if d.values--; d.values >= 0 && d.depth < maxDepth {
		return true
	}
	if d.full {
		return false
	}
	d.full = true
	message, hint := fmt.Sprintf("file expands to more than %d values", maxValues), "write values out instead of nesting aliases"
	if d.depth >= maxDepth {
		message, hint = fmt.Sprintf("values nest deeper than %d levels", maxDepth), "look for an alias that contains itself"
	}
	d.error(n, path, message, hint)
	return false
}

// error reports a value that could not be read, at its node.
func (d *decoder) error(n *yaml.Node, path, message, hint string) {
	d.r.failed[path] = true
	d.r.fail(Problem{File: d.r.fileOf(n), Line: max(n.Line, 1), Column: max(n.Column, 1), Key: path, Message: message, Hint: hint})
}

// value reads n into v, whose tag says what is allowed.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value, tag reflect.StructTag) {
	n = resolve(n)
	if !d.enter(n, path) {
		return
	}
	d.depth++
	defer func() { d.depth-- }()
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if isScalar(v.Type()) {
		d.scalar(n, path, v, tag)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, path, v)
	case reflect.Slice:
		d.list(n, path, v, tag)
	case reflect.Map:
		d.mapping(n, path, v, tag)
	case reflect.Interface:
		if x := d.free(n, path, tag); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	default:
		panic("config: cannot read into " + v.Type().String())
	}
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// isScalar reports whether values of type t are written as one scalar.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map, reflect.Interface:
		return reflect.PointerTo(t).Implements(textUnmarshaler)
	}
	return true
}

// pair is one key of a section with its value.
type pair struct {
	name       string
	key, value *yaml.Node
}

// pairs reads the keys of a section and reports those that are no names, or stand twice.
func (d *decoder) pairs(n *yaml.Node, path string) []pair {
	var list []pair
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.error(key, path, "key is "+describe(key)+"; want a name", "put the key in quotes if it begins with [, { or ?")
			continue
		case key.Tag == "!!merge":
			d.error(key, Join(path, key.Value), "merge keys (<<) are not read", "write the keys out")
			continue
		}
		sub := Join(path, key.Value)
		if before, ok := first[key.Value]; ok {
			d.error(key, sub, fmt.Sprintf("key %q stands twice; first in line %d", key.Value, before.Line), "keep one of the two")
			continue
		}
		first[key.Value] = key
		d.r.keys[sub] = position{d.r.fileOf(key), max(key.Line, 1), max(key.Column, 1)}
		list = append(list, pair{key.Value, key, value})
	}
	return list
}

// structure reads a section with known keys.
func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value) {
	n = resolve(n)
	fields := fieldsOf(v.Type())
	if n.Kind != yaml.MappingNode && !isNull(n) {
		d.error(n, path, "found "+describe(n)+"; want a section with the keys "+names(fields), "")
		return
	}
	given := map[string]bool{}
	for _, p := range d.pairs(n, path) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == p.name })
		sub := Join(path, p.name)
		if i < 0 {
			d.error(p.key, sub, fmt.Sprintf("unknown key %q", p.name), suggestion(p.name, fieldNames(fields)))
			continue
		}
		f := &fields[i]
		if isNull(resolve(p.value)) && !isScalar(deref(f.typ)) && !f.required() {
			continue // an empty section, list or map is an absent one
		}
		given[p.name] = true
		d.value(p.value, sub, v.FieldByIndex(f.index), f.tag)
		if f.required() && isEmpty(v.FieldByIndex(f.index)) && !isEmptySection(resolve(p.value)) && !d.r.failed[sub] {
			d.error(p.key, sub, "value is empty", "give "+p.name+" a value: "+f.tag.Get("doc"))
		}
	}
	for i := range fields {
		if f := &fields[i]; !given[f.name] {
			d.absent(n, path, v.FieldByIndex(f.index), f)
		}
	}
}

// isEmpty reports whether a value says nothing: zero, or a list or map without elements.
func isEmpty(v reflect.Value) bool {
	if k := v.Kind(); k == reflect.Slice || k == reflect.Map {
		return v.Len() == 0
	}
	return v.IsZero()
}

// isEmptySection reports whether {} was written, which is a value although it sets nothing.
func isEmptySection(n *yaml.Node) bool { return n.Kind == yaml.MappingNode }

// absent gives a key that the file does not hold its default, or reports it.
func (d *decoder) absent(n *yaml.Node, path string, v reflect.Value, f *field) {
	if !v.IsZero() {
		return // set by the caller
	}
	sub := Join(path, f.name)
	if f.required() {
		at := position{d.r.fileOf(n), max(n.Line, 1), max(n.Column, 1)}
		if known, ok := d.r.keys[path]; ok {
			at = known
		}
		d.r.failed[sub] = true
		d.r.fail(Problem{File: at.file, Line: at.line, Column: at.column, Key: sub, Message: "required key is missing", Hint: strings.TrimSuffix("add "+f.name+": "+f.tag.Get("doc"), ": ")})
		return
	}
	setDefaults(v, f.tag)
}

// setDefaults fills a value that the file does not hold from the default tags of its type.
func setDefaults(v reflect.Value, tag reflect.StructTag) {
	if text, ok := tag.Lookup("default"); ok {
		if v.Kind() == reflect.Pointer {
			v.Set(reflect.New(v.Type().Elem()))
			v = v.Elem()
		}
		if v.Kind() == reflect.Slice {
			for e := range strings.SplitSeq(text, ",") {
				v.Set(reflect.Append(v, reflect.ValueOf(e).Convert(v.Type().Elem())))
			}
			return
		}
		if message, _ := setScalar(v, text, true, tag); message != "" {
			panic("config: default " + strconv.Quote(text) + ": " + message)
		}
		return
	}
	if v.Kind() == reflect.Struct && !isScalar(v.Type()) {
		for _, f := range fieldsOf(v.Type()) {
			if e := v.FieldByIndex(f.index); e.IsZero() {
				setDefaults(e, f.tag)
			}
		}
	}
}

// Defaults fills the zero fields of the struct that into points to from their default tags.
func Defaults(into any) { setDefaults(reflect.ValueOf(into).Elem(), "") }

// list reads a sequence, or with scalar:"true" a single scalar as a list of one.
func (d *decoder) list(n *yaml.Node, path string, v reflect.Value, tag reflect.StructTag) {
	switch {
	case isNull(n):
		if tag.Get("required") == "true" {
			d.error(n, path, "list is empty", "")
		}
		return
	case n.Kind == yaml.ScalarNode && tag.Get("scalar") == "true":
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(n, path, e, tag)
		v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 1), e))
		return
	case n.Kind != yaml.SequenceNode:
		d.error(n, path, "found "+describe(n)+"; want a list", "write each element on a line of its own that begins with - , or all in [ ]")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, min(len(n.Content), 1024))
	for i, c := range n.Content {
		sub := Index(path, i)
		d.r.keys[sub] = position{d.r.fileOf(c), max(c.Line, 1), max(c.Column, 1)}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(c, sub, e, tag)
		out = reflect.Append(out, e)
		if d.full {
			break
		}
	}
	v.Set(out)
}

// mapping reads a section whose keys are chosen by the operator.
func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value, tag reflect.StructTag) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.error(n, path, "found "+describe(n)+"; want a section", "write NAME: VALUE, one a line")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, p := range d.pairs(n, path) {
		sub := Join(path, p.name)
		k := reflect.New(v.Type().Key()).Elem()
		if message, hint := setScalar(k, p.name, true, ""); message != "" {
			d.error(p.key, sub, "key: "+message, hint)
			continue
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(p.value, sub, e, tag)
		out.SetMapIndex(k, e)
		if d.full {
			break
		}
	}
	v.Set(out)
}

// free reads a value whose shape is not ours: map[string]any, []any, string, int64, float64, bool or nil.
func (d *decoder) free(n *yaml.Node, path string, tag reflect.StructTag) any {
	var v reflect.Value
	switch n.Kind {
	case yaml.MappingNode:
		v = reflect.New(reflect.TypeFor[map[string]any]()).Elem()
		d.mapping(n, path, v, tag)
		return v.Interface()
	case yaml.SequenceNode:
		v = reflect.New(reflect.TypeFor[[]any]()).Elem()
		d.list(n, path, v, tag)
		return v.Interface()
	}
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		v = reflect.New(reflect.TypeFor[bool]()).Elem()
	case "!!int":
		v = reflect.New(reflect.TypeFor[int64]()).Elem()
	case "!!float":
		v = reflect.New(reflect.TypeFor[float64]()).Elem()
	default:
		v = reflect.New(reflect.TypeFor[string]()).Elem()
	}
	d.scalar(n, path, v, tag)
	return v.Interface()
}

func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// durationType is told apart from other integers.
var durationType = reflect.TypeFor[time.Duration]()

// sizeType likewise.
var sizeType = reflect.TypeFor[Size]()
