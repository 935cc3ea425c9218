package wasm

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// tested is a guest that answers every request with nothing to say, and its manifest asks for a self-test file.
func tested(vectors string) []byte {
	g := guest{out: nothing, configure: i32Const(0), manifest: strings.Replace(testManifest, `"vectors":""`, `"vectors":"`+digestOf([]byte(vectors))+`"`, 1)}
	return g.bytes()
}

func TestVectorsAreRunAtLoad(t *testing.T) {
	good := fmt.Sprintf("# A comment.\n\n# says nothing\nguest guest\nrequest\n\t00*64\nverdict\n\t%x\n\n# of another plugin\nguest other\nrequest\n\t00\ntrap\n", nothing)
	for name, c := range map[string]struct{ vectors, have, want string }{
		"as wanted":           {good, good, ""},
		"not there":           {good, "", "is not there"},
		"another file":        {good, good + "\n", "not the one of the manifest"},
		"another verdict":     {strings.Replace(good, "verdict\n\t10", "verdict\n\t11", 1), "=", "another answer"},
		"an error wanted":     {"guest any\nrequest\n\t00\nerror -1\n", "=", "another answer"},
		"a trap wanted":       {"guest any\nrequest\n\t00\ntrap\n", "=", "another answer"},
		"a refusal wanted":    {"guest any\nconfig {\"a\":1}\nrefused no\n", "=", "another answer"},
		"by its digest":       {fmt.Sprintf("guest any\nrequest\n\t00\ndigest 16 %s\n", digestOf(nothing)), "=", ""},
		"of nobody":           {"guest other\nrequest\n\t00\ntrap\n", "=", "no vector is for this plugin"},
		"empty":               {"", "=", "no vector is for this plugin"},
		"no hexadecimal":      {"guest any\nrequest\n\t0x\ntrap\n", "=", "vector 1"},
		"nothing wanted":      {"guest any\nrequest\n\t00\n", "=", "nothing is wanted"},
		"an unknown word":     {"guest any\nrequest\n\t00\nmaybe\n", "=", "not understood"},
		"far too many zeros":  {"guest any\nrequest\n\t00*1048577\ntrap\n", "=", "how often"},
		"more than it can be": {"guest any\nrequest\n\t0000*1048576\ntrap\n", "=", "more than"},
	} {
		data := tested(c.vectors)
		env := testEnv(data)
		if c.have == "=" {
			c.have = c.vectors
		}
		if env.Vectors = []byte(c.have); name == "not there" {
			env.Vectors = nil
		}
		p, err := Load(context.Background(), PluginConfig{Name: "x"}, data, env)
		if err == nil {
			p.Close()
		}
		if (err == nil) != (c.want == "") || err != nil && (loadCode(err) != LoadVectors || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	data := tested(good)
	env := testEnv(data)
	env.Tested = true
	loadWith(t, PluginConfig{}, data, env)
}

// A self-test that never ends is out of fuel, and refuses the module.
func TestVectorsRunUnderFuel(t *testing.T) {
	vectors := "guest any\nrequest\n\t00\nerror -1\n"
	g := guest{filter: []byte{0x03, 0x40, 0x0c, 0, 0x0b, 0}, manifest: strings.Replace(testManifest, `"vectors":""`, `"vectors":"`+digestOf([]byte(vectors))+`"`, 1)}
	data := g.bytes()
	env := testEnv(data)
	env.Vectors = []byte(vectors)
	if _, err := Load(context.Background(), PluginConfig{Name: "x"}, data, env); loadCode(err) != LoadVectors {
		t.Error(err)
	}
}

// The reader understands the vectors of the kit and of the shipped plugin.
func TestVectorFilesOfTheProjectPass(t *testing.T) {
	for _, c := range []struct{ module, name, vectors string }{
		{"../../plugins/geofence/geofence.wasm", "geofence", "../../plugins/geofence/geofence.vectors"},
		{"../../plugins/guest/c/example/example.wasm", "example", "../../plugins/conformance/11-example.txt"},
		{"../../plugins/guest/rust/example/example.wasm", "example", "../../plugins/conformance/12-settings.txt"},
		{"../../plugins/guest/c/example/example.wasm", "example", "../../plugins/conformance/06-hostile.txt"},
	} {
		data, err := os.ReadFile(c.module)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(c.vectors)
		if err != nil {
			t.Fatal(err)
		}
		m, err := readModule(data)
		if err != nil {
			t.Fatal(err)
		}
		m.manifest.Vectors = digestOf(text)
		config := "{}"
		if c.name == "geofence" {
			config = `{"areas":[{"datum":"wgs84","center":[39.9,116.4],"radius_m":500}]}`
		}
		p, err := newPool(context.Background(), m, engine{}, []byte(config), nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.checkVectors(context.Background(), m.manifest, text); err != nil {
			t.Errorf("%s with %s: %v", c.module, c.vectors, err)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
}
