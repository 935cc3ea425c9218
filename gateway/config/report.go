package config

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Severity says whether a problem keeps a configuration from being used.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Problem is one thing that is wrong or unwise in a file. Line and Column count from 1.
type Problem struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Key      string   `json:"key"`     // path of the key, "" for the file as a whole
	Message  string   `json:"message"` // what was found, and what is allowed
	Hint     string   `json:"hint"`    // what to type, may be empty
}

// String is the one-line form without the hint: file:line:column: key: message.
func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	if p.Key != "" {
		s += p.Key + ": "
	}
	return s + p.Message
}

// position is where a key stands.
type position struct {
	file         string
	line, column int
}

// Report collects the problems of one configuration and knows where each key stands. It is not safe for concurrent use.
type Report struct {
	file     string
	problems []Problem
	keys     map[string]position
	origins  map[string]string     // path → text before ${…} was expanded
	failed   map[string]bool       // paths whose values could not be read: nothing more is said about them and what is below
	owners   map[*yaml.Node]string // file of a node, where it is not the main file
	order    []string              // files, in the order of reading
}

func newReport(file string) *Report {
	return &Report{file: file, keys: map[string]position{}, origins: map[string]string{}, failed: map[string]bool{},
		owners: map[*yaml.Node]string{}, order: []string{file}}
}

// File is the name of the main file.
func (r *Report) File() string { return r.file }

// Error adds a problem that keeps the configuration from being used. A path that the file does not hold stands at its
// nearest ancestor that it does. Nothing is added at or below a path whose value could not be read.
func (r *Report) Error(path, message, hint string) { r.add(Error, path, message, hint) }

// Warn adds advice.
func (r *Report) Warn(path, message, hint string) { r.add(Warning, path, message, hint) }

func (r *Report) add(s Severity, path, message, hint string) {
	for p := path; ; p = parentPath(p) {
		if r.failed[p] {
			return
		}
		if p == "" {
			break
		}
	}
	at := r.position(path)
	r.fail(Problem{Severity: s, File: at.file, Line: at.line, Column: at.column, Key: path, Message: message, Hint: hint})
}

// Add takes over a problem of another file as it is, with its own file and line.
func (r *Report) Add(p Problem) {
	if !slices.Contains(r.order, p.File) {
		r.order = append(r.order, p.File)
	}
	r.fail(p)
}

// fail appends a problem once.
func (r *Report) fail(p Problem) {
	if p.Severity == "" {
		p.Severity = Error
	}
	if len(r.problems) == maxProblems {
		last := &r.problems[maxProblems-1]
		last.Severity, last.Key, last.Message, last.Hint = Error, "", fmt.Sprintf("more than %d problems; the others are not shown", maxProblems-1), "solve these first"
		return
	}
	if !slices.Contains(r.problems, p) {
		r.problems = append(r.problems, p)
	}
}

// Has reports whether the files hold the key.
func (r *Report) Has(path string) bool {
	_, ok := r.keys[path]
	return ok
}

// Failed reports whether the value at the path, or one that holds it, could not be read.
func (r *Report) Failed(path string) bool {
	for ; ; path = parentPath(path) {
		if r.failed[path] {
			return true
		}
		if path == "" {
			return false
		}
	}
}

// Position returns file, line and column of a key, or of its nearest ancestor that the file holds.
func (r *Report) Position(path string) (file string, line, column int) {
	at := r.position(path)
	return at.file, at.line, at.column
}

func (r *Report) position(path string) position {
	for ; path != ""; path = parentPath(path) {
		if at, ok := r.keys[path]; ok {
			return at
		}
	}
	return position{r.file, 1, 1}
}

// Problems returns what was found, ordered by file, line and column. The slice is the caller's.
func (r *Report) Problems() []Problem {
	sorted := slices.Clone(r.problems)
	slices.SortStableFunc(sorted, func(a, b Problem) int {
		if a.File != b.File {
			return slices.Index(r.order, a.File) - slices.Index(r.order, b.File)
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return sorted
}

// OK reports whether there is no error; warnings may be there.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.problems, func(p Problem) bool { return p.Severity == Error })
}

// Err joins the errors, nil when there are none. Each line of its text is one problem.
func (r *Report) Err() error {
	var errs []error
	for _, p := range r.Problems() {
		if p.Severity == Error {
			errs = append(errs, errors.New(p.String()))
		}
	}
	return errors.Join(errs...)
}

// Join appends a key to the path of a section.
func Join(path, key string) string {
	if strings.ContainsAny(key, ".[]\"") || key == "" {
		return path + "[" + strconv.Quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// Index appends the number of an element, from 0, to the path of a list.
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// parentPath cuts the last key or index off a path.
func parentPath(path string) string {
	if strings.HasSuffix(path, "\"]") {
		for i := len(path) - 3; i >= 0; i-- { // a quoted key: its opening ["
			if _, err := strconv.Unquote(path[i : len(path)-1]); err == nil && i > 0 && path[i-1] == '[' {
				return path[:i-1]
			}
		}
	}
	if strings.HasSuffix(path, "]") {
		if i := strings.LastIndexByte(path, '['); i >= 0 {
			return path[:i]
		}
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }
