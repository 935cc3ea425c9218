package main

import (
	"strings"
	"testing"
)

func TestFlagsAreChecked(t *testing.T) {
	if o, err := parse(nil); err != nil || o.kills != 30 || o.longest <= o.shortest {
		t.Errorf("%v %+v", err, o)
	}
	for _, args := range []string{"--kills 0", "--longest 1ms", "extra", "--seed x"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%s is accepted", args)
		}
	}
}
