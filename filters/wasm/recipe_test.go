package wasm

import (
	"fmt"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// recipe is the process-recipe plugin with categories of the industrial catalog, and one of a site that it does not know.
var recipe = &reference{name: "process-recipe", categories: []gateway.Category{{ID: "SITE-OTHER", Grade: gateway.General}, {ID: "IND-PR-RECIPE", Grade: gateway.Important},
	{ID: "IND-PR-SETPOINT", Grade: gateway.General}, {ID: "IND-PR-PROGRAM", Grade: gateway.Important}, {ID: "IND-PR-ACTUAL", Grade: gateway.General},
	{ID: "IND-EQ-SENSOR", Grade: gateway.General}, {ID: "IND-EQ-STATE", Grade: gateway.General}, {ID: "IND-UNKNOWN"}}}

func TestProcessRecipeCases(t *testing.T) { recipe.run(t) }

func TestProcessRecipeRefusesBadConfigurations(t *testing.T) { recipe.refuses(t, nil) }

// The most names of the most awkward form end in time, and those that were not compared count as fitting.
func TestProcessRecipeEndsInTime(t *testing.T) {
	var patterns []any
	for i := range 64 {
		patterns = append(patterns, fmt.Sprintf("*a*a*a*a*a*a*a*a*b%d", i))
	}
	rc := &referenceCase{Topic: "t"}
	for i := range 300 {
		rc.add(fmt.Sprintf("%0100d", i)[:20]+"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "1", "IND-EQ-SENSOR")
	}
	p := recipe.open(t, map[string]any{"keys": patterns}, nil)
	m, b, c := rc.message(t, recipe.categories)
	o := noObjection()
	if err := p.Filter(m, b, c, o); err != nil {
		t.Fatal(err)
	}
	if o.Reason != 4 || len(o.Edits) == 0 || len(o.Edits) == 300 || o.Edits[len(o.Edits)-1].Finding != 299 {
		t.Errorf("reason %d, %d edits; want 4, and an edit of everything that was not compared", o.Reason, len(o.Edits))
	}
	t.Logf("%d fuel", o.Fuel)
}
