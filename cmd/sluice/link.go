package main

import (
	"io"
	"os"
	"strings"
	"unicode"
)

// maxLinkFile bounds what is read of link_file, in bytes.
const maxLinkFile = 4 << 10

// linkAnswer is the link in GET and PUT /api/v1/link.
type linkAnswer struct {
	Link string `json:"link"`
}

// setLink says which network the gateway is on; by is who said so. A change is logged and on the record.
func (a *assembly) setLink(name, by string) {
	a.linking.Lock()
	defer a.linking.Unlock()
	if !a.links.Set(name) {
		return
	}
	a.log.Info("link changed", "link", name, "by", by)
	a.event(map[string]string{"event": "link changed", "link": name, "by": by})
}

// linkFile follows a file whose first word is the name of the link. A file that is absent, empty or has no word that is a
// name says nothing.
type linkFile struct {
	path  string
	said  string // the word that counted last
	seen  string // the word of the last look, which may be half written
	wrong bool   // what stands there is no name, and somebody was told
}

// look reads the file and returns its word when that is news, else "". A word that does not end its line counts when it
// stands there at the next look too. bad is what stands there and is no name, told once.
func (f *linkFile) look() (word string, bad bool) {
	text := readStart(f.path)
	first := strings.TrimLeftFunc(text, unicode.IsSpace)
	word, ended := cutSpace(first)
	if word == "" || word == f.said {
		f.seen, f.wrong = word, false
		return "", false
	}
	if !ended && word != f.seen {
		f.seen = word
		return "", false
	}
	f.seen = word
	if !nameForm.MatchString(word) {
		bad = !f.wrong
		f.wrong = true
		return "", bad
	}
	f.said, f.wrong = word, false
	return word, false
}

// cutSpace cuts text at the first white space, if there is any.
func cutSpace(text string) (word string, ended bool) {
	if i := strings.IndexFunc(text, unicode.IsSpace); i >= 0 {
		return text[:i], true
	}
	return text, false
}

// readStart returns the beginning of a file, "" when it is no file that can be read.
func readStart(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return "" // opening a pipe would wait
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLinkFile))
	if err != nil {
		return ""
	}
	return string(text)
}
