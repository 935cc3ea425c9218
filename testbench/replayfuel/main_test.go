package main

import (
	"testing"

	"github.com/sluice-edge/sluice/filters/catalog"
)

// The engines agree, and the digest is one over what was asked.
func TestEnginesGiveTheSameLine(t *testing.T) {
	vehicle, err := catalog.Builtin("vehicle")
	if err != nil {
		t.Fatal(err)
	}
	classifier, err := catalog.New(vehicle)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins[:2] {
		line := func(messages uint64, interpret bool) string {
			l, err := replay("../../"+p.file, p.config, classifier, messages, interpret)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		compiled := line(100, false)
		if interpreted := line(100, true); interpreted != compiled {
			t.Errorf("%s: compiled %s, interpreted %s", p.file, compiled, interpreted)
		}
		if line(99, false) == compiled {
			t.Errorf("%s: one message less makes no difference", p.file)
		}
	}
}
