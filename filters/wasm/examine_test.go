package wasm

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

func TestExamineTellsEverything(t *testing.T) {
	g := guest{manifest: strings.NewReplacer(`"serial":7`, `"serial":0`, `"abi":1`, `"abi":7`).Replace(testManifest), mistyped: true,
		types: wasiTypes, imports: [][]byte{importOf(wasiModule, "path_open", 3)}}
	m, problems := Examine(g.bytes())
	var all []string
	for _, err := range problems {
		if loadCode(err) == "" {
			t.Errorf("%v has no code", err)
		}
		all = append(all, err.Error())
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"path_open", "serial is missing", "abi 7", "only the profile wasi-stub", "has another type"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if m == nil {
		t.Error("no manifest")
	}
	for name, data := range map[string][]byte{"no module": []byte("hello"), "a start section": guest{start: true}.bytes(), "a manifest that is none": guest{manifest: "{"}.bytes()} {
		if _, problems := Examine(data); len(problems) != 1 {
			t.Errorf("%s: %v", name, problems)
		}
	}
	if _, problems := Examine(guest{out: nothing}.bytes()); len(problems) != 0 {
		t.Errorf("a good module: %v", problems)
	}
}

// A probe is held to the same limits, answers what the plugin says, and starts anew after a trap.
func TestProbe(t *testing.T) {
	g := guest{out: nothing}
	p, err := NewProbe(context.Background(), g.bytes(), []byte("{}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	request := g.load(t, PluginConfig{}).Request(messageOf(flat("a", "1")), flat("a", "1"), &gateway.Classification{})
	got, err := p.Ask(request, uint32(len(request)))
	if err != nil || got.Return != 16 || !bytes.Equal(got.Verdict, nothing) || got.Fuel == 0 || p.Memory() == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if p.Fits(1<<20) || !p.Fits(len(request)) {
		t.Error("what fits is not what the limits say")
	}
	trap, err := NewProbe(context.Background(), guest{filter: []byte{0x00}}.bytes(), []byte("{}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	for range 2 {
		if got, err := trap.Ask(request, uint32(len(request))); err != nil || got.Trap != codeTrap || got.Err == nil {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if _, err := NewProbe(context.Background(), guest{configure: i32Const(1)}.bytes(), []byte("{}"), nil); loadCode(err) != LoadConfigure {
		t.Error(err)
	}
}
