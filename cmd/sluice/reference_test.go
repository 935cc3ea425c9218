package main

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/filters/wasm"
)

// What the program carries is what it knows by digest, under the name in the manifest.
func TestShippedPluginsArePinned(t *testing.T) {
	for name, module := range shippedPlugins {
		sum := sha256.Sum256(module)
		if !slices.Contains(pinnedPlugins, hex.EncodeToString(sum[:])) {
			t.Errorf("%s is not pinned", name)
		}
		m, err := wasm.ReadManifest(module)
		if err != nil {
			t.Fatal(err)
		}
		if m.Name != name {
			t.Errorf("%s calls itself %s", name, m.Name)
		}
	}
	if len(pinnedPlugins) != len(shippedPlugins) {
		t.Errorf("%d digests for %d modules", len(pinnedPlugins), len(shippedPlugins))
	}
}

// process-recipe knows every category of the industrial catalog: one that it did not know could not be regraded.
func TestProcessRecipeKnowsTheCatalog(t *testing.T) {
	c, err := catalog.Builtin("industrial")
	if err != nil {
		t.Fatal(err)
	}
	m, err := wasm.ReadManifest(shippedPlugins["process-recipe"])
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, category := range c.Categories {
		ids = append(ids, category.ID)
		if !slices.Contains(m.Labels, category.ID) {
			t.Errorf("%s is not among the labels", category.ID)
		}
	}
	for _, l := range m.Labels {
		if !slices.Contains(ids, l) {
			t.Errorf("the catalog has no %s", l)
		}
	}
	if want := []string{"IND-PR-RECIPE", "IND-PR-SETPOINT", "IND-PR-PROGRAM"}; !slices.Equal(m.Labels[:3], want) {
		t.Errorf("labels begin with %v; the source counts on %v", m.Labels[:3], want)
	}
}
