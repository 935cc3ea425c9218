package main

import (
	"testing"

	"github.com/sluice-edge/sluice/filters/catalog"
)

// The message of plugin bench is what its name says.
func TestTheTypicalMessage(t *testing.T) {
	c, err := catalog.Builtin("vehicle")
	if err != nil {
		t.Fatal(err)
	}
	a := new(authored)
	if a.cats, err = catalog.New(c); err != nil {
		t.Fatal(err)
	}
	r := typicalMessage()
	a.classify(&r)
	if len(r.m.Payload) != 1024 || len(r.d.Class.Findings) != 12 {
		t.Errorf("%d bytes, %d findings", len(r.m.Payload), len(r.d.Class.Findings))
		for _, f := range r.d.Class.Findings {
			t.Log(where(&r.d, f.Place), a.cats.Categories()[f.Category].ID)
		}
	}
}
