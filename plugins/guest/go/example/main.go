// Example shows most of what a plugin can do; the same plugin stands in every language of the kit.
//
// A message that lies in a sensitive area is blocked. Otherwise location fields are generalized, VINs tokenized, contacts
// masked, each as edit 1, 2, 3 of the operator's list says. A message with more location fields than "hold_above" is held
// for a person: it is a track, no position. Configuration, JSON: {"hold_above": 16}, 1 to 9999; 16 when absent.
package main

import (
	"bytes"
	"errors"

	sluice "github.com/sluice-edge/sluice/plugins/guest/go"
)

// Labels of the manifest, from 1.
const (
	point         = 1
	track         = 2
	vin           = 3
	contact       = 4
	sensitiveArea = 5
)

// Reasons of the manifest.
const (
	inSensitiveArea = 1
	longTrack       = 2
)

// Ids of the operator's edits.
const (
	coarse = 1
	fleet  = 2
	hidden = 3
)

var holdAbove = 16

func init() {
	sluice.Main(filter)
	sluice.Configure(configure)
}

func main() {}

func filter(r *sluice.Request, v *sluice.Verdict) {
	locations := 0
	for label := range r.Labels() {
		if label == sensitiveArea {
			v.Block(inSensitiveArea)
		}
	}
	for f := range r.Findings() {
		switch f.Label {
		case point, track:
			v.Generalize(f.Target(), coarse)
			locations++
		case vin:
			v.Tokenize(f.Target(), fleet)
		case contact:
			v.Mask(f.Target(), hidden)
		}
	}
	if locations > holdAbove {
		v.Hold(longTrack)
	}
}

// configure reads the one number by hand: encoding/json would make the module twice as large, and five times as slow to load.
func configure(json []byte) error {
	n, s, ok := 16, bytes.TrimLeft(json, blanks), false
	if s, ok = take(s, "{"); !ok {
		return errors.New("want an object")
	}
	if rest, ok := take(s, `"hold_above"`); ok {
		if s, ok = take(rest, ":"); !ok {
			return errors.New("malformed JSON")
		}
		digits := 0
		for n = 0; digits < min(5, len(s)) && s[digits] >= '0' && s[digits] <= '9'; digits++ {
			n = 10*n + int(s[digits]-'0')
		}
		if digits == 0 || s[0] == '0' || n > 9999 {
			return errors.New("hold_above is no number from 1 to 9999")
		}
		s = bytes.TrimLeft(s[digits:], blanks)
	}
	if s, ok = take(s, "}"); !ok || len(s) > 0 {
		return errors.New(`want {"hold_above": NUMBER} and nothing else`)
	}
	holdAbove = n
	return nil
}

const blanks = " \t\n\r"

// take returns what follows text and the blanks after it, when s begins with it.
func take(s []byte, text string) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(s, []byte(text))
	return bytes.TrimLeft(rest, blanks), ok
}
