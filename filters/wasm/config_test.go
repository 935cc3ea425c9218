package wasm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

type pluginsFile struct {
	Plugins []PluginConfig `yaml:"plugins" doc:"filter plugins"`
}

func decodePlugins(text string) (*pluginsFile, *config.Report) {
	var f pluginsFile
	r := config.Decode("sluice.yaml", []byte(text), &f)
	for i := range f.Plugins {
		f.Plugins[i].Check(r, config.Index("plugins", i))
	}
	return &f, r
}

func TestPluginConfigOfTheManual(t *testing.T) {
	f, r := decodePlugins(`plugins:
  - { name: geofence, file: plugins/geofence.wasm, topics: ["v1/+/gnss/#"], uplinks: [tsp], config_file: areas.yaml,
      grants: ["read.value:VEH-LOC-POINT"], edits: { 1: { action: generalize, decimals: 2 }, 7: { action: encrypt, to: dso, domain: fleet } }, on_error: block }
  - name: inline
    file: builtin:geofence
    config: { areas: [ { center: [39.9, 116.4], radius_m: 500 } ], label: true }
    edits: { 2: { action: mask, head: 3, char: "#" }, 3: { action: tokenize, domain: fleet } }
`)
	if !r.OK() {
		t.Fatal(r.Err())
	}
	ops := f.Plugins[0].Operations()
	if len(ops) != 2 || ops[0] != (gateway.Operation{Action: gateway.Generalize, Decimals: 2, Prefix: -1}) ||
		ops[1] != (gateway.Operation{Action: gateway.Encrypt, Inner: gateway.Tokenize, Decimals: -1, Prefix: -1, To: "dso", Domain: "fleet"}) {
		t.Errorf("operations %+v", ops)
	}
	ops = f.Plugins[1].Operations()
	if len(ops) != 2 || ops[0] != (gateway.Operation{Action: gateway.Mask, Decimals: -1, Prefix: -1, Head: 3, Char: '#'}) {
		t.Errorf("operations %+v", ops)
	}
	if got, err := f.Plugins[1].configuration(""); err != nil || string(got) != `{"areas":[{"center":[39.9,116.4],"radius_m":500}],"label":true}` {
		t.Errorf("configuration %s, %v", got, err)
	}
}

func TestPluginConfigProblems(t *testing.T) {
	for _, c := range []struct{ line, key, message string }{
		{`name: "Geo Fence"`, "plugins[0].name", "not made of"},
		{`topics: ["v1/gps#"]`, "plugins[0].topics[0]", "no topic filter"},
		{`grants: [read.payload, read.keys]`, "plugins[0].grants[1]", "unknown"},
		{`grants: ["read.value"]`, "plugins[0].grants[0]", "needs a category"},
		{`grants: ["read.value:"]`, "plugins[0].grants[0]", "needs a category"},
		{`grants: ["read.payload:x"]`, "plugins[0].grants[0]", "unknown"},
		{`grants: [replace]`, "plugins[0].grants[0]", "cannot be given in this version"},
		{`grants: ["declassify:VEH-ID-VIN"]`, "plugins[0].grants[0]", "cannot be given in this version"},
		{`edits: { 0: { action: mask } }`, "plugins[0].edits.0", "no number"},
		{`edits: { x: { action: mask } }`, "plugins[0].edits.x", ""},
		{`edits: { 1: { action: remove } }`, "plugins[0].edits.1.action", "remove"},
		{`edits: { 1: { action: generalize } }`, "plugins[0].edits.1", "needs decimals"},
		{`edits: { 1: { action: generalize, decimals: 10 } }`, "plugins[0].edits.1", "0 and 9"},
		{`edits: { 1: { action: generalize, prefix: -1 } }`, "plugins[0].edits.1", "0 and 1024"},
		{`edits: { 1: { action: generalize, bucket: 1ms } }`, "plugins[0].edits.1", "shorter"},
		{`edits: { 1: { action: mask, decimals: 1 } }`, "plugins[0].edits.1", "belong to generalize"},
		{`edits: { 1: { action: tokenize, domain: d, head: 1 } }`, "plugins[0].edits.1", "belong to mask"},
		{`edits: { 1: { action: mask, domain: d } }`, "plugins[0].edits.1", "belongs to tokenize"},
		{`edits: { 1: { action: tokenize, domain: d, to: r } }`, "plugins[0].edits.1", "belongs to encrypt"},
		{`edits: { 1: { action: tokenize } }`, "plugins[0].edits.1", "needs a domain"},
		{`edits: { 1: { action: encrypt } }`, "plugins[0].edits.1", "needs a recipient"},
		{`edits: { 1: { action: mask, head: 256 } }`, "plugins[0].edits.1", "255"},
		{`edits: { 1: { action: mask, char: ab } }`, "plugins[0].edits.1", "one printable"},
		{`on_error: pass`, "plugins[0].on_error", "pass"},
		{"config: {a: 1}\n    config_file: x.yaml", "plugins[0].config", "both"},
		{`topic: ["#"]`, "plugins[0].topic", "unknown key"},
	} {
		name := "\n    name: g"
		if strings.HasPrefix(c.line, "name:") {
			name = ""
		}
		_, r := decodePlugins("plugins:\n  - file: builtin:geofence\n    " + c.line + name + "\n")
		found := false
		for _, p := range r.Problems() {
			found = found || p.Key == c.key && strings.Contains(p.Message, c.message) && p.Line > 1
		}
		if !found {
			t.Errorf("%s: problems %v; want %q at %s", c.line, r.Problems(), c.message, c.key)
		}
	}
}

func TestConfigurationFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("areas.yaml", "areas:\n  - { name: works, center: [39.9, 116.4], radius_m: 500 }\n")
	write("areas.json", "{\"areas\":[\n\t{\"radius_m\":500,\"center\":[39.9,116.4],\"name\":\"works\"}]}")
	write("list.yaml", "- a\n- b\n")
	write("sealed", "SLUICE SEALED\x00\x01\x02")
	write("text", "sealed text that is no mapping")
	write("twice.yaml", "a: 1\na: 2\n")
	write("twice.json", `{"a":1,"a":2}`)
	write("infinite.yaml", "a: .inf\n")
	write("large.yaml", "a: "+strings.Repeat("x", maxConfigFile))
	const want = `{"areas":[{"center":[39.9,116.4],"name":"works","radius_m":500}]}`
	for name, message := range map[string]string{"areas.yaml": "", "areas.json": "", "list.yaml": "want an object", "sealed": "sealed", "text": "sealed",
		"twice.yaml": "neither", "twice.json": "neither", "infinite.yaml": "not finite", "large.yaml": "more than", "absent": "no such file", ".": "not a regular file"} {
		c := PluginConfig{Name: "g", ConfigFile: name}
		got, err := c.configuration(dir)
		if message == "" && (err != nil || string(got) != want) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if message != "" && (err == nil || !strings.Contains(err.Error(), message)) {
			t.Errorf("%s: %v; want %q", name, err, message)
		}
	}
	c := PluginConfig{Name: "g", ConfigFile: filepath.Join(dir, "areas.yaml")}
	if got, err := c.configuration("/nowhere"); err != nil || string(got) != want {
		t.Errorf("absolute path: %s, %v", got, err)
	}
}

func TestOpenFindsTheModule(t *testing.T) {
	data := geofenceModule(t)
	dir := t.TempDir()
	for name, content := range map[string][]byte{"geofence.wasm": data, "patched.wasm": append([]byte{}, append(data, 0)...), "large.wasm": make([]byte, MaxModule+1)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := Env{Dir: dir, Builtin: map[string][]byte{"geofence": data}, Pinned: []string{digestOf(data)}, Categories: vehicleCategories}
	for file, message := range map[string]string{"builtin:geofence": "", "geofence.wasm": "", "builtin:decoy": `no module "decoy" is built in (have geofence)`,
		"patched.wasm": "neither signed", "large.wasm": "more than", "absent.wasm": "no such file", "": "not a regular file"} {
		p, err := Open(context.Background(), PluginConfig{Name: "g", File: file, Config: oneArea()}, env)
		if err == nil {
			if p.Digest() != digestOf(data) {
				t.Errorf("%s: digest %s", file, p.Digest())
			}
			p.Close()
		}
		if (err == nil) != (message == "") || (err != nil && !strings.Contains(err.Error(), message)) {
			t.Errorf("%q: %v; want %q", file, err, message)
		}
	}
	if _, err := Open(context.Background(), PluginConfig{Name: "G!", File: "builtin:geofence", Config: oneArea()}, env); err == nil {
		t.Error("a configuration that Check refuses is loaded")
	}
}
