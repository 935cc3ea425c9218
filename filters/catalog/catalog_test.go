package catalog

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

func TestShippedCatalogs(t *testing.T) {
	for name, want := range map[string]int{"vehicle": 60, "industrial": 47} {
		c, err := Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		_, r := Load(name, map[string][]byte{"vehicle": vehicleYAML, "industrial": industrialYAML}[name])
		if n := len(r.Problems()); n != 0 {
			t.Errorf("%s: %v", name, r.Problems())
		}
		if len(c.Categories) != want || c.Name != name || !c.Shipped() || len(c.Digest()) != 64 || c.Version < 1 {
			t.Errorf("%s: %d categories, version %d", c.Name, len(c.Categories), c.Version)
		}
		primary := set(0)
		for i := range c.Categories {
			k := &c.Categories[i]
			primary |= setOf(k.Primary)
			if k.Handling.Default == "" || k.Handling.Foreign == "" || k.Basis == "" || k.Confidence == "" {
				t.Errorf("%s: advice, basis or confidence is missing", k.ID)
			}
			if k.Grade == "" && !stands(k.ID, unlistedIDs) && !stands(k.ID, opaqueIDs) {
				t.Errorf("%s has no grade", k.ID)
			}
		}
		if primary != 1<<detectors-1 {
			t.Errorf("%s: not every detector has a primary category: %b", name, primary)
		}
	}
	if _, err := Builtin("maritime"); err == nil || !strings.Contains(err.Error(), "vehicle") {
		t.Errorf("unknown catalog: %v", err)
	}
}

func TestCategoriesCarryTheCatalog(t *testing.T) {
	c := classifier(t, "vehicle", "industrial")
	for _, k := range c.Categories() {
		if k.ID == "VEH-SAFETY-THERMAL" {
			want := gateway.Category{ID: k.ID, Name: "thermal event, fire, hydrogen leak", Catalog: "vehicle", Class: "maintenance", Grade: gateway.General,
				Basis: "lives depend on it: filtering must not delay it", Handling: "pass", Foreign: "mask", Priority: true}
			if k != want {
				t.Errorf("got %+v", k)
			}
			return
		}
	}
	t.Error("category is missing")
}

// entryWith is a catalog with one category that is good but for the lines given.
func entryWith(lines string) string {
	return "name: x\nversion: 1\ncategories:\n  - id: X-A\n    name: a\n    grade: general\n" + lines
}

func TestLoadReportsProblems(t *testing.T) {
	for _, c := range []struct {
		name, text string
		line       int
		key, want  string
	}{
		{"a name is needed", "version: 1\ncategories:\n  - { id: A, name: a, grade: core, match: { names: [a] } }\n", 1, "name", "required key is missing"},
		{"a version is needed", "name: x\ncategories:\n  - { id: A, name: a, grade: core, match: { names: [a] } }\n", 1, "version", "required key is missing"},
		{"a version counts from one", "name: x\nversion: 0\ncategories:\n  - { id: A, name: a, grade: core, match: { names: [a] } }\n", 2, "version", "0"},
		{"categories are needed", "name: x\nversion: 1\n", 1, "categories", "required key is missing"},
		{"a name is one word", "name: a b\nversion: 1\ncategories:\n  - { id: A, name: a, grade: core, match: { names: [a] } }\n", 1, "name", "has a space"},
		{"an unknown key", entryWith("    match: { names: [a] }\n    grading: core\n"), 8, "categories[0].grading", `unknown key "grading"`},
		{"an unknown matcher", entryWith("    match: { name: [a] }\n"), 7, "categories[0].match.name", `unknown key "name"`},
		{"an unknown grade", "name: x\nversion: 1\ncategories:\n  - id: X-A\n    name: a\n    grade: secret\n    match: { names: [a] }\n", 6, "categories[0].grade", `found "secret"; want one of general, important, core`},
		{"ungraded is not written", "name: x\nversion: 1\ncategories:\n  - id: X-A\n    name: a\n    grade: ungraded\n    match: { names: [a] }\n", 6, "categories[0].grade", "want one of general, important, core"},
		{"an id of small letters", "name: x\nversion: 1\ncategories:\n  - { id: x-a, name: a, grade: core, match: { names: [a] } }\n", 4, "categories[0].id", "want capital letters"},
		{"an id twice", entryWith("    match: { names: [a] }\n  - { id: X-A, name: b, grade: core, match: { names: [b] } }\n"), 8, "categories[1].id", "stands twice"},
		{"a category that matches nothing", entryWith("    basis: none\n"), 4, "categories[0]", "matches nothing"},
		{"# before the end", entryWith("    match:\n      topics: [\"a/#/b\"]\n"), 8, "categories[0].match.topics[0]", "# before its end"},
		{"a wildcard inside a level", entryWith("    match: { topics: [\"a/b+/c\"] }\n"), 7, "categories[0].match.topics[0]", "mixes a wildcard"},
		{"an empty filter", entryWith("    match: { topics: [\"\"] }\n"), 7, "categories[0].match.topics[0]", "empty"},
		{"a regular expression as a name", entryWith("    match: { names: [\"^vin$\"] }\n"), 7, "categories[0].match.names[0]", "looks like a regular expression"},
		{"another regular expression", entryWith("    match: { names: [\"(lat|lon)\"] }\n"), 7, "categories[0].match.names[0]", "looks like a regular expression"},
		{"a name that is a star", entryWith("    match: { names: [\"*\"] }\n"), 7, "categories[0].match.names[0]", "would match every field"},
		{"an empty name", entryWith("    match: { names: [\"\"] }\n"), 7, "categories[0].match.names[0]", "name is empty"},
		{"a path of stars", entryWith("    match: { paths: [\"**.*\"] }\n"), 7, "categories[0].match.paths[0]", "names nothing"},
		{"a star inside a segment", entryWith("    match: { paths: [a.b*.c] }\n"), 7, "categories[0].match.paths[0]", "mixes a name and *"},
		{"an empty segment", entryWith("    match: { vss: [Vehicle..Speed] }\n"), 7, "categories[0].match.vss[0]", "empty segment"},
		{"a path without end", entryWith("    match: { opcua: [a" + strings.Repeat("/a", 30) + "] }\n"), 7, "categories[0].match.opcua[0]", "want at most"},
		{"an unknown constraint", entryWith("    match: { names: [a], values: numbers }\n"), 7, "categories[0].match.values", "envelope"},
		{"a constraint on nothing", entryWith("    match: { topics: [a], values: envelope }\n"), 7, "categories[0].match.values", "there are none"},
		{"an unknown detector", entryWith("    match: { names: [a] }\n    detectors: [vin, fin]\n"), 8, "categories[0].detectors[1]", `unknown detector "fin"`},
		{"a detector twice", entryWith("    match: { names: [a] }\n    detectors: [vin, vin]\n"), 8, "categories[0].detectors[1]", "stands twice"},
		{"an unknown primary detector", entryWith("    primary: [gps]\n"), 7, "categories[0].primary[0]", `unknown detector "gps"`},
		{"a detector that is primary twice", entryWith("    primary: [vin]\n  - { id: X-B, name: b, grade: core, primary: [vin] }\n"), 8, "categories[1].primary[0]", "primary for X-A already"},
		{"an unknown condition", entryWith("    match: { names: [a] }\n    requires: [geofense]\n"), 8, "categories[0].requires[0]", `unknown condition "geofense"`},
		{"an action that is none", entryWith("    match: { names: [a] }\n    handling: { default: drop }\n"), 8, "categories[0].handling.default", `found "drop"`},
		{"sensitive but not personal", entryWith("    match: { names: [a] }\n    sensitive: true\n"), 8, "categories[0].sensitive", "not personal"},
		{"a bool that is none", entryWith("    match: { names: [a] }\n    personal: yes\n"), 8, "categories[0].personal", "want true or false"},
		{"no yaml at all", "name: [x\n", 1, "", ""},
		{"nothing", "", 1, "name", "required key is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, r := Load("x.catalog.yaml", []byte(c.text))
			if r.OK() || k != nil {
				t.Fatal("taken")
			}
			for _, p := range r.Problems() {
				if p.Key == c.key && strings.Contains(p.Message, c.want) {
					if p.Line != c.line && c.key != "" || p.Line < 1 || p.File != "x.catalog.yaml" {
						t.Errorf("stands at %s:%d, want line %d", p.File, p.Line, c.line)
					}
					return
				}
			}
			t.Errorf("not reported: %v", r.Problems())
		})
	}
}

func TestLoadReportsAllProblemsAtOnce(t *testing.T) {
	_, r := Load("x.yaml", []byte(entryWith("    match: { names: [\"*\"], topics: [\"#/a\"], paths: [\"**\"] }\n    detectors: [fin]\n    requires: [luck]\n    sensitive: true\n")))
	if n := len(r.Problems()); n != 6 {
		t.Errorf("%d problems: %v", n, r.Problems())
	}
}

func TestLoadWarns(t *testing.T) {
	for name, text := range map[string]string{
		"treated as core":      "name: x\nversion: 1\ncategories:\n  - { id: X-A, name: a, match: { names: [a] } }\n",
		"covers every message": entryWith("    match: { topics: [\"#\"] }\n"),
	} {
		k, r := Load("x.yaml", []byte(text))
		if k == nil || len(r.Problems()) != 1 || !strings.Contains(r.Problems()[0].Message, name) {
			t.Errorf("%s: %v", name, r.Problems())
		}
	}
}

func TestNormalize(t *testing.T) {
	for key, want := range map[string]string{"": "", "vin": "vin", "licensePlate": "license_plate", "GPSLat": "gps_lat", "tripID": "trip_id", "cellVoltage1": "cell_voltage1",
		"latE6": "lat_e6", "A-b.C d/e": "a_b_c_d_e", "ＶＩＮ": "vin", "车牌 号": "车牌_号", "__x": "__x", "ÄrgerÜber": "ärger_über", "a\u200bb": "ab"} {
		if got := normalize(key); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"vin", "vin", true}, {"vin", "vinx", false}, {"*_vin", "a_vin", true}, {"*_vin", "_vin", true}, {"*_vin", "vin", false}, {"wifi_*", "wifi_", true},
		{"*a*", "bab", true}, {"*a*", "bbb", false}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "axxbyy", false}, {"a*a", "a", false}, {"*", "", true},
	} {
		if got := glob(c.pattern, c.name); got != c.want {
			t.Errorf("%q %q: %v", c.pattern, c.name, got)
		}
	}
}

func TestTopicFilters(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/b/", false}, {"a/b", "a", false}, {"a/b", "a/bc", false}, {"+", "a", true}, {"+", "", true}, {"+", "a/b", false},
		{"a/+", "a/", true}, {"a/+", "a", false}, {"+/+", "/a", true}, {"/+", "/a", true}, {"#", "a/b", true}, {"#", "", true}, {"a/#", "a", true}, {"a/#", "a/b/c", true},
		{"a/#", "ab", false}, {"#", "$SYS/x", false}, {"+/x", "$SYS/x", false}, {"$SYS/#", "$SYS/x", true}, {"$SYS/+", "$SYS/x", true}, {"a/+/c", "a//c", true}, {"", "", true},
	} {
		f := compileFilter(c.filter)
		if got := f.fits(c.topic); got != c.want {
			t.Errorf("%q %q: got %v", c.filter, c.topic, got)
		}
	}
}

func TestPatternsAreBounded(t *testing.T) {
	c := &Classifier{segments: map[string]int32{}, anchored: make([][]*pattern, 1)}
	segs, msg := splitPath("**.*.*.a.**.*.b.**.c.*.z")
	if msg != "" {
		t.Fatal(msg)
	}
	c.addPath(segs, false, 0, 0)
	p := c.anchored[c.segments["z"]][0]
	path := make([]int32, 2000)
	for i := range path {
		path[i] = element
	}
	path = append(path, c.segments["z"])
	if p.fits(path) {
		t.Error("fits nothing it names")
	}
	path = append(path[:0], 0, 0, c.segments["a"], element, 0, c.segments["b"], c.segments["c"], element, c.segments["z"])
	if !p.fits(path) {
		t.Error("does not fit")
	}
}

func ExampleNew() {
	vehicle, err := Builtin("vehicle")
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := New(vehicle)
	if err != nil {
		fmt.Println(err)
		return
	}
	var class gateway.Classification
	c.Classify(&gateway.Message{Topic: "v1/LTEST1238R0000001/x"}, &gateway.Body{}, &class)
	for _, f := range class.Findings {
		fmt.Println(c.Categories()[f.Category].ID, f.Confidence)
	}
	// Output:
	// VEH-ID-VIN 60
	// VEH-OPAQUE 80
}
