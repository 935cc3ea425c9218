// Package config reads strict YAML into structs and reports every problem of a file at once, each with file, line,
// column, key path and a hint that says what to type.
//
// A struct says by tags what it accepts:
//
//	yaml:"snake_case"   the key; fields without it are not read; ",inline" flattens an embedded struct
//	doc:"one line"      description in the JSON Schema
//	default:"256KiB"    written form of the value that an absent key gets; an already set field keeps its value
//	enum:"a,b"          the allowed texts, for a string or each element of a list of strings
//	required:"true"     the key must be there and not be empty
//	scalar:"true"       a list that may also be written as one scalar
//	secret:"true"       never quoted in a message, redacted by Encode
//	min:"1" max:"256"   bounds of a number, duration or size
//
// Fields may be strings, booleans, numbers, time.Duration ("168h"), Size ("64MiB"), anything with UnmarshalText,
// structs, pointers, slices, maps with text or number keys, and any.
//
// Refused, each with its own message: unknown and duplicate keys, keys that are not scalars, merge keys, tags, more
// than one document, numbers with leading zeros (YAML 1.1 reads 0123 as 83) or in another base, yes and no for
// booleans, sizes and durations without a unit, NUL bytes, byte order marks, tabs as indentation, files over 4 MiB,
// aliases that expand to more than 100,000 values.
//
// In scalar values ${NAME} is replaced by the environment variable and ${file:PATH} by the content of a file, without
// its final newline; a relative PATH starts at the folder of the configuration file. $${ stands for a literal ${.
//
// Paths of keys are written sources[0].mqtt.allow[1].client.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
)

// Limits of what is read.
const (
	maxFileSize  = 4 << 20
	maxValues    = 100_000
	maxDepth     = 64
	maxProblems  = 500
	maxExpansion = 64 << 10 // bytes of one ${file:…}
)

// DropIns is the name of the folder beside a configuration file whose *.yaml files Load merges into it.
const DropIns = "sluice.d"

// Decode reads one YAML document into the struct that into points to and reports every problem. What could be read is
// set even when the report holds errors. The file name is used for messages and as the base of ${file:…} only.
func Decode(file string, data []byte, into any) *Report {
	r := newReport(file)
	if root := parse(r, file, data); root != nil {
		r.decode(root, into)
	}
	return r
}

// Load reads the file and the *.yaml files of the folder sluice.d beside it, in the order of their names, as one
// configuration: lists at the top level are appended, sections merged; a value that two files set is an error.
// A missing folder is no problem, an unreadable file is.
func Load(file string, into any) *Report {
	folder := filepath.Join(filepath.Dir(file), DropIns)
	dropIns, err := os.ReadDir(folder) // ordered by name
	var names []string
	for _, entry := range dropIns {
		names = append(names, entry.Name())
	}
	return load(file, names, err, ReadFile, into)
}

// LoadKept is Load for files whose content was kept: what kept has by its path is not read from the disk, and only drop-ins
// that it has are taken in.
func LoadKept(file string, kept map[string][]byte, into any) *Report {
	folder := filepath.Join(filepath.Dir(file), DropIns)
	var names []string
	for path := range kept {
		if filepath.Dir(path) == folder {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	return load(file, names, nil, func(name string) ([]byte, error) {
		if data, ok := kept[name]; ok {
			return data, nil
		}
		return ReadFile(name)
	}, into)
}

// load is Load with the names of what is in the folder, and a way to read.
func load(file string, dropIns []string, listErr error, read func(name string) ([]byte, error), into any) *Report {
	r := newReport(file)
	data, err := read(file)
	if err != nil {
		r.fail(Problem{File: file, Line: 1, Column: 1, Message: readError(err), Hint: "name the configuration file: -c /etc/sluice/sluice.yaml"})
		return r
	}
	root := parse(r, file, data)
	folder := filepath.Join(filepath.Dir(file), DropIns)
	if listErr != nil && !errors.Is(listErr, os.ErrNotExist) {
		r.fail(Problem{File: folder, Line: 1, Column: 1, Message: readError(listErr), Hint: "make the folder readable or move it away"})
	}
	for _, entry := range dropIns {
		if filepath.Ext(entry) != ".yaml" {
			continue
		}
		name := filepath.Join(folder, entry)
		data, err := read(name)
		if err != nil {
			r.fail(Problem{File: name, Line: 1, Column: 1, Message: readError(err), Hint: "make the drop-in readable or move it away"})
			continue
		}
		if more := parse(r, name, data); more != nil && root != nil {
			r.mark(more, name)
			r.merge(root, more, "", 0)
		}
	}
	if root != nil {
		r.decode(root, into)
	}
	return r
}

// ReadFile reads a file up to the largest size that Decode takes, and one byte more: whatever the name stands for, memory
// stays bounded.
func ReadFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFileSize+1))
}

// readError is the cause of a failed read without the path, which the problem names already.
func readError(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return "read file: " + err.Error()
}

// decode starts the walk over the document.
func (r *Report) decode(root *yaml.Node, into any) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic("config: Decode wants a pointer to a struct")
	}
	d := decoder{r: r, values: maxValues}
	d.structure(root, "", v.Elem())
}

// parse turns data into the node of the document's value. Problems that make the file unreadable go to r and yield
// nil; an empty file is an empty section.
func parse(r *Report, file string, data []byte) *yaml.Node {
	bad := func(line, column int, message, hint string) *yaml.Node {
		r.failed[""] = true
		r.fail(Problem{File: file, Line: max(line, 1), Column: max(column, 1), Message: message, Hint: hint})
		return nil
	}
	if len(data) > maxFileSize {
		return bad(1, 1, fmt.Sprintf("file has %d bytes; at most %d are read", len(data), maxFileSize), "split it, or check that this is the right file")
	}
	if line, column, message, hint := badBytes(data); message != "" {
		return bad(line, column, message, hint)
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return bad(1, 1, "read YAML: "+err.Error(), "")
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); err != nil && doc.Kind == 0 {
		if onlyComments(data) {
			return &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}
		}
		return syntax(bad, data, err)
	}
	if err := loader.Load(&second); err == nil || second.Kind != 0 {
		return bad(second.Line, second.Column, "second document in one file", "keep one document: remove --- and what follows, or move it to "+DropIns+"/")
	} else if !isEOF(err) {
		return syntax(bad, data, err)
	}
	if len(doc.Content) != 1 {
		return &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}
	}
	if n := doc.Content[0]; n.Kind != yaml.ScalarNode || n.Tag != "!!null" {
		return n
	}
	return &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}
}

// syntax reports a file that is no YAML: the tabs in front of its lines if there are any, else what the parser says.
func syntax(bad func(line, column int, message, hint string) *yaml.Node, data []byte, err error) *yaml.Node {
	tabs := 0
	for i, line := range bytes.Split(data, []byte("\n")) {
		body := bytes.TrimLeft(line, " \t")
		if indent := line[:len(line)-len(body)]; len(body) > 0 && bytes.IndexByte(indent, '\t') >= 0 && tabs < 20 {
			bad(i+1, bytes.IndexByte(indent, '\t')+1, "tab used as indentation", "indent with spaces: two for each level")
			tabs++
		}
	}
	if tabs > 0 {
		return nil
	}
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		return bad(1, 1, "read YAML: "+err.Error(), "")
	}
	message := "no valid YAML: " + strings.TrimSpace(le.Message)
	hint := "check indentation, brackets and quotes from line " + fmt.Sprint(max(le.ContextMark.Line, 1)) + " on; put quotes around a value with : or # in it"
	if strings.Contains(le.Message, "unknown anchor") {
		hint = "define the anchor with & above its use, or put quotes around a text that begins with *"
	}
	return bad(le.Mark.Line, le.Mark.Column, message, hint)
}

// badBytes finds bytes that no configuration file holds on purpose.
func badBytes(data []byte) (line, column int, message, hint string) {
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) || bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return 1, 1, "file begins with a byte order mark", "save it as UTF-8 without BOM"
	}
	at := bytes.IndexByte(data, 0)
	message, hint = "NUL byte in the file", "save it as plain UTF-8 text"
	if at < 0 {
		if utf8.Valid(data) {
			return 0, 0, "", ""
		}
		for at = 0; ; {
			c, n := utf8.DecodeRune(data[at:])
			if c == utf8.RuneError && n <= 1 {
				break
			}
			at += n
		}
		message, hint = "text is not UTF-8", "save it as UTF-8: iconv -f GBK -t UTF-8"
	}
	before := data[:at]
	return 1 + bytes.Count(before, []byte("\n")), at - bytes.LastIndexByte(before, '\n'), message, hint
}

// onlyComments reports whether the file says nothing.
func onlyComments(data []byte) bool {
	for line := range bytes.Lines(data) {
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' && string(t) != "---" {
			return false
		}
	}
	return true
}
