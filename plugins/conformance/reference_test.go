package conformance

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// references are the plugins in the folders beside this one: NAME/NAME.wasm, NAME.vectors, manifest.json.
func references(t testing.TB) (names []string) {
	t.Helper()
	files, err := filepath.Glob("../*/manifest.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no reference plugins", err)
	}
	for _, file := range files {
		names = append(names, filepath.Base(filepath.Dir(file)))
	}
	return names
}

// selfTest reads the vectors of a reference plugin.
func selfTest(t testing.TB, name string) (list []vector) {
	t.Helper()
	text, err := os.ReadFile("../" + name + "/" + name + ".vectors")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(text), "\n\n")[1:] {
		v, err := parse(block)
		if err != nil || v.guest != name {
			t.Fatalf("%v in\n%s", err, block)
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		t.Fatal("no vectors")
	}
	return list
}

func TestReferencePluginsKeepTheirVectors(t *testing.T) {
	for _, name := range references(t) {
		t.Run(name, func(t *testing.T) {
			p := open(t, name, "../"+name+"/"+name+".wasm")
			for _, v := range selfTest(t, name) {
				in, refused := p.start(t, outBytes, v.config)
				if refused != "" {
					t.Fatalf("%s: %s", v.name, refused)
				}
				if got := said(in.call(v.request, v.length)); !v.wants(got) {
					t.Errorf("%s:\n  %s\nwant\n  %s", v.name, cut(got), cut(v.want))
				}
				in.mod.Close(background)
			}
		})
	}
}

func TestReferencePluginsCarryTheirManifests(t *testing.T) {
	for _, name := range references(t) {
		manifest, err := os.ReadFile("../" + name + "/manifest.json")
		if err != nil {
			t.Fatal(err)
		}
		module, err := os.ReadFile("../" + name + "/" + name + ".wasm")
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, manifest); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.HasSuffix(module, append([]byte("\x0fsluice.manifest"), compact.Bytes()...)) {
			t.Errorf("%s.wasm carries another manifest than manifest.json: run build.sh", name)
		}
	}
}
