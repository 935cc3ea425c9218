package config

import (
	"fmt"

	yaml "go.yaml.in/yaml/v4"
)

// mark notes that a tree of nodes comes from a drop-in file.
func (r *Report) mark(n *yaml.Node, file string) {
	r.order = append(r.order, file)
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		r.owners[n] = file
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(n)
}

// fileOf is the file that a node comes from.
func (r *Report) fileOf(n *yaml.Node) string {
	if file, ok := r.owners[n]; ok {
		return file
	}
	return r.file
}

// merge adds the section more to the section into: lists of the top level are appended, sections merged; anything else
// that both set is an error that names both files.
func (r *Report) merge(into, more *yaml.Node, path string, depth int) {
	if more.Kind != yaml.MappingNode {
		r.fail(Problem{File: r.fileOf(more), Line: max(more.Line, 1), Column: max(more.Column, 1), Key: path,
			Message: "found " + describe(more) + "; want a section", Hint: "a drop-in holds the same keys as the main file"})
		return
	}
	if into.Kind != yaml.MappingNode {
		return // reported when it is decoded
	}
	for i := 0; i+1 < len(more.Content); i += 2 {
		key, value := more.Content[i], more.Content[i+1]
		at := valueOf(into, key.Value)
		if at < 0 || isNull(into.Content[at]) {
			if at >= 0 {
				into.Content[at-1], into.Content[at] = key, value
			} else {
				into.Content = append(into.Content, key, value)
			}
			continue
		}
		have := into.Content[at]
		switch {
		case have.Kind == yaml.MappingNode && value.Kind == yaml.MappingNode && depth < maxDepth:
			r.merge(have, value, Join(path, key.Value), depth+1)
		case depth == 0 && have.Kind == yaml.SequenceNode && value.Kind == yaml.SequenceNode:
			have.Content = append(have.Content, value.Content...)
		case isNull(value):
		default:
			r.fail(Problem{File: r.fileOf(key), Line: key.Line, Column: key.Column, Key: Join(path, key.Value),
				Message: fmt.Sprintf("value is set twice: also in %s, line %d", r.fileOf(have), have.Line), Hint: "keep it in one of the two files"})
		}
	}
}

// valueOf returns the index of a key's value in a section, -1 when it is not there.
func valueOf(n *yaml.Node, name string) int {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == name {
			return i + 1
		}
	}
	return -1
}
