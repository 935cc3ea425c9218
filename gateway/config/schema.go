package config

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// Schema returns the JSON Schema (draft 2020-12) of the files that Decode reads into structs of v's type, indented.
// It accepts what Decode accepts, as far as a schema can say it; ${…} may stand for any scalar.
func Schema(v any, title string) []byte {
	t := deref(reflect.TypeOf(v))
	s := structSchema(t)
	s.Schema, s.Title = "https://json-schema.org/draft/2020-12/schema", title
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		panic("config: schema: " + err.Error())
	}
	return b.Bytes()
}

// schema is one node of a JSON Schema.
type schema struct {
	Schema               string      `json:"$schema,omitempty"`
	Title                string      `json:"title,omitempty"`
	Description          string      `json:"description,omitempty"`
	Type                 any         `json:"type,omitempty"` // a name or a list of names
	Enum                 []string    `json:"enum,omitempty"`
	Pattern              string      `json:"pattern,omitempty"`
	Minimum              json.Number `json:"minimum,omitempty"`
	Maximum              json.Number `json:"maximum,omitempty"`
	Default              any         `json:"default,omitempty"`
	AnyOf                []*schema   `json:"anyOf,omitempty"`
	Items                *schema     `json:"items,omitempty"`
	Properties           properties  `json:"properties,omitempty"`
	AdditionalProperties any         `json:"additionalProperties,omitempty"` // false or a schema
	Required             []string    `json:"required,omitempty"`
}

// properties keeps the order of the struct.
type properties []property

type property struct {
	name   string
	schema *schema
}

// MarshalJSON writes an object.
func (p properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(e.name) + ":")
		text, err := json.Marshal(e.schema)
		if err != nil {
			return nil, err
		}
		b.Write(text)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

const (
	durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`
	sizePattern     = `^(0|[1-9][0-9]*)(B|KiB|MiB|GiB|TiB)$`
	expandPattern   = `\$\{`
)

func structSchema(t reflect.Type) *schema {
	s := &schema{Type: []string{"object", "null"}, AdditionalProperties: false}
	for _, f := range fieldsOf(t) {
		p := typeSchema(f.typ, f.tag)
		p.Description = f.tag.Get("doc")
		if text, ok := f.tag.Lookup("default"); ok {
			p.Default = defaultValue(f.typ, text)
		}
		s.Properties = append(s.Properties, property{f.name, p})
		if f.required() {
			s.Required = append(s.Required, f.name)
		}
	}
	return s
}

// typeSchema is the schema of one value.
func typeSchema(t reflect.Type, tag reflect.StructTag) *schema {
	t = deref(t)
	switch {
	case t == durationType:
		return &schema{Type: []string{"string", "integer"}, Pattern: durationPattern + "|" + expandPattern, Minimum: "0", Maximum: "0"}
	case t == sizeType:
		return &schema{Type: "string", Pattern: sizePattern + "|" + expandPattern}
	case isScalar(t) && t.Kind() == reflect.String || isScalar(t) && reflect.PointerTo(t).Implements(textUnmarshaler):
		if enum := tag.Get("enum"); enum != "" {
			return expandable(&schema{Enum: strings.Split(enum, ",")})
		}
		return &schema{Type: []string{"string", "number"}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		items := typeSchema(t.Elem(), tag)
		list := &schema{Type: []string{"array", "null"}, Items: items}
		if tag.Get("scalar") == "true" {
			return &schema{AnyOf: []*schema{items, list}}
		}
		return list
	case reflect.Map:
		return &schema{Type: []string{"object", "null"}, AdditionalProperties: typeSchema(t.Elem(), tag)}
	case reflect.Bool:
		return expandable(&schema{Type: "boolean"})
	case reflect.Interface:
		return &schema{}
	}
	s := &schema{Type: "integer", Minimum: json.Number(tag.Get("min")), Maximum: json.Number(tag.Get("max"))}
	if t.Kind() == reflect.Float64 || t.Kind() == reflect.Float32 {
		s.Type = "number"
	}
	if strings.HasPrefix(t.Kind().String(), "uint") && s.Minimum == "" {
		s.Minimum = "0"
	}
	return expandable(s)
}

// expandable also allows a ${…} in place of the value.
func expandable(s *schema) *schema {
	return &schema{AnyOf: []*schema{s, {Type: "string", Pattern: expandPattern}}}
}

// defaultValue is the default as the file would hold it.
func defaultValue(t reflect.Type, text string) any {
	t = deref(t)
	if t.Kind() == reflect.Slice {
		return strings.Split(text, ",")
	}
	if t == durationType || t == sizeType || t.Kind() == reflect.String || reflect.PointerTo(t).Implements(textUnmarshaler) {
		return text
	}
	if t.Kind() == reflect.Bool {
		return text == "true"
	}
	return json.Number(text)
}
