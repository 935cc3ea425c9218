package wasm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm/guard"
	"github.com/sluice-edge/sluice/gateway"
)

// loadCode is the code of a LoadError, "" for none.
func loadCode(err error) string {
	if le, ok := errors.AsType[*LoadError](err); ok {
		return le.Code
	}
	return ""
}

// kitModule is a module of the author's kit.
func kitModule(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../../plugins/guest/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestASignatureIsAsGoodAsAPin(t *testing.T) {
	data := guest{out: nothing}.bytes()
	env := testEnv(data)
	env.Pinned = nil
	if _, err := Load(context.Background(), PluginConfig{Name: "x"}, data, env); !errors.Is(err, ErrNotPinned) || loadCode(err) != LoadUnsigned {
		t.Errorf("nobody vouches for it: %v", err)
	}
	wish := []string{"read.value:CAT-A", "read.payload", "read.source"}
	for name, c := range map[string]struct {
		signer *Signer
		want   []string
	}{
		"a key without limit of its own has no grants": {&Signer{Key: "acme"}, nil},
		"a key may have what it may have": {&Signer{Key: "acme", Limit: func(grants []string) (allowed, refused []string) {
			if !slices.Contains(grants, "read.payload") {
				t.Errorf("asked for %v", grants)
			}
			return []string{"read.source"}, nil
		}}, []string{"read.source"}},
	} {
		env.Signer = c.signer
		p := loadWith(t, PluginConfig{Grants: wish}, data, env)
		if !slices.Equal(p.Grants(), c.want) {
			t.Errorf("%s: %v", name, p.Grants())
		}
	}
}

// Every code of a load, by the real way in.
func TestLoadErrorsHaveCodes(t *testing.T) {
	for code, c := range map[string]struct {
		g guest
		c PluginConfig
	}{
		LoadConfig:    {guest{out: nothing}, PluginConfig{OnError: "pass"}},
		LoadGuard:     {guest{start: true}, PluginConfig{}},
		LoadManifest:  {guest{manifest: "{}"}, PluginConfig{}},
		LoadExports:   {guest{mistyped: true}, PluginConfig{}},
		LoadCompile:   {guest{filter: []byte{0x6a}}, PluginConfig{}},
		LoadStart:     {guest{arena: 65536<<32 | guestOut}, PluginConfig{}},
		LoadConfigure: {guest{configure: i32Const(1)}, PluginConfig{}},
	} {
		c.c.Name = "x"
		data := c.g.bytes()
		if _, err := Load(context.Background(), c.c, data, testEnv(data)); loadCode(err) != code || !slices.Contains(LoadErrorCodes, code) {
			t.Errorf("code %q: %v", code, err)
		}
	}
}

func TestEveryCodeOfAFailureIsCounted(t *testing.T) {
	for _, code := range []string{codeTrap, codeFuel, codeDepth, codeMemory, codeRefused, codeTooLarge, codeNegative, codeClosed} {
		if !slices.Contains(gateway.FilterErrorCodes, code) {
			t.Errorf("%s is not among the codes of the metrics", code)
		}
	}
}

// The fuel of a call is told, is the same for the same message, on another instance too, and bounds the call to the unit.
func TestFuelIsToldAndBounds(t *testing.T) {
	spin := func(fuel string) *Plugin { // one loop of 10 rounds: i32.const 10, local.set 0, loop …
		code := []byte{0x41, 10, 0x21, 0, 0x03, 0x40, 0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b}
		g := guest{filter: append(code, i32Const(int32(len(nothing)))...), out: nothing, manifest: strings.Replace(testManifest, `"limits":{`, `"limits":{"fuel":`+fuel+`,`, 1)}
		return g.load(t, PluginConfig{})
	}
	b := flat("a", "1")
	ask := func(p *Plugin) (uint64, string) {
		o := noObjection()
		code := codeOf(p.Filter(messageOf(b), b, &gateway.Classification{}, o))
		return o.Fuel, code
	}
	p := spin("1000")
	used, code := ask(p)
	if code != "" || used == 0 {
		t.Fatalf("code %q, fuel %d", code, used)
	}
	for range 3 {
		if again, _ := ask(p); again != used {
			t.Errorf("fuel %d; at first %d", again, used)
		}
	}
	if n, code := ask(spin(itoa(used))); code != "" || n != used {
		t.Errorf("with exactly that fuel: %q, %d", code, n)
	}
	if n, code := ask(spin(itoa(used - 1))); code != codeFuel || n != used-1 {
		t.Errorf("with one less: %q, %d", code, n)
	}
}

func itoa(n uint64) string { return string(appendUint(nil, n)) }

func appendUint(b []byte, n uint64) []byte {
	if n >= 10 {
		b = appendUint(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

func TestStartingIsMetered(t *testing.T) {
	spin := []byte{0x03, 0x40, 0x0c, 0, 0x0b, 0}
	data := guest{configure: spin}.bytes()
	if _, err := Load(context.Background(), PluginConfig{Name: "x"}, data, testEnv(data)); loadCode(err) != LoadConfigure || !strings.Contains(err.Error(), codeFuel) {
		t.Errorf("a configuration without end: %v", err)
	}
}

// wasiManifest is testManifest with the profile for stock Go.
var wasiManifest = strings.Replace(testManifest, `"bare"`, `"wasi-stub"`, 1)

var wasiTypes = [][]byte{{0x60, 2, 0x7f, 0x7f, 1, 0x7f}, {0x60, 1, 0x7f, 0}, {0x60, 3, 0x7f, 0x7f, 0x7f, 0}} // from 3 on

func TestImportsNeedTheirProfileAndTheirType(t *testing.T) {
	for name, c := range map[string]struct {
		g    guest
		want string
	}{
		"WASI in a bare module":      {guest{types: wasiTypes, imports: [][]byte{importOf(wasiModule, "random_get", 3)}}, "only the profile wasi-stub"},
		"another type":               {guest{manifest: wasiManifest, types: wasiTypes, imports: [][]byte{importOf(wasiModule, "random_get", 4)}}, "import"},
		"a function WASI also has":   {guest{manifest: wasiManifest, types: wasiTypes, imports: [][]byte{importOf(wasiModule, "path_open", 3)}}, "import"},
		"log of another type":        {guest{types: wasiTypes, imports: [][]byte{importOf(logModule, "log", 3)}}, "import"},
		"log without the grant":      {guest{types: wasiTypes, imports: [][]byte{importOf(logModule, "log", 5)}}, "without asking for the grant"},
		"another function of ours":   {guest{types: wasiTypes, imports: [][]byte{importOf(logModule, "send", 5)}}, "import"},
		"WASI's name, other module":  {guest{manifest: wasiManifest, types: wasiTypes, imports: [][]byte{importOf("env", "random_get", 3)}}, "import"},
		"the log in WASI's own name": {guest{manifest: wasiManifest, types: wasiTypes, imports: [][]byte{importOf(wasiModule, "log", 5)}}, "import"},
	} {
		data := c.g.bytes()
		if _, err := Load(context.Background(), PluginConfig{Name: "x"}, data, testEnv(data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// The 15 functions, with the types of WASI preview 1 as wazero's own module of them states.
func TestTheStubHasFifteenFunctions(t *testing.T) {
	if len(wasi) != 15 {
		t.Errorf("%d functions", len(wasi))
	}
	for name, f := range wasi {
		if !known(guard.Import{Module: wasiModule, Name: name, Type: guard.FuncType{Params: []byte(f.params), Results: []byte(f.results)}}) {
			t.Errorf("%s is not known", name)
		}
	}
}

func TestProcExitIsATrap(t *testing.T) {
	g := guest{manifest: wasiManifest, types: wasiTypes, imports: [][]byte{importOf(wasiModule, "proc_exit", 4)}, filter: []byte{0x41, 0, 0x10, 0, 0x00}}
	p := g.load(t, PluginConfig{})
	b := flat("a", "1")
	for range 2 {
		if err := p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection()); codeOf(err) != codeTrap || !strings.Contains(err.Error(), errExit.Error()) {
			t.Error(err)
		}
	}
}

func TestRandomIsFixedAndPaidByLength(t *testing.T) {
	// random_get(out, 8): the verdict's region then holds sevens, which is no verdict.
	get := func(n int32) []byte {
		b := append(i32Const(guestOut), i32Const(n)...)
		return append(append(b, 0x10, 0, 0x1a), i32Const(16)...)
	}
	g := guest{manifest: wasiManifest, types: wasiTypes, imports: [][]byte{importOf(wasiModule, "random_get", 3)}, filter: get(8)}
	p := g.load(t, PluginConfig{})
	b := flat("a", "1")
	if code := codeOf(p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection())); code != codeRefused {
		t.Errorf("code %q", code)
	}
	cost := func(n int32) uint64 {
		g.filter = get(n)
		g.out = nothing
		o := noObjection()
		if err := g.load(t, PluginConfig{}).Filter(messageOf(b), b, &gateway.Classification{}, o); codeOf(err) == codeTrap {
			t.Fatal(err)
		}
		return o.Fuel
	}
	if d := cost(8192) - cost(0); d != 4096 {
		t.Errorf("8,192 random bytes cost %d", d)
	}
	g.filter = get(-1) // far more than there is: paid for, so out of fuel
	if code := codeOf(g.load(t, PluginConfig{}).Filter(messageOf(b), b, &gateway.Classification{}, noObjection())); code != codeFuel {
		t.Errorf("4 GiB of random: %q", code)
	}
}

func TestThePluginsLog(t *testing.T) {
	manifest := strings.Replace(testManifest, `"replace"`, `"log"`, 1)
	say := append(append(append([]byte{0x41, 2}, i32Const(guestOut+16)...), i32Const(300)...), 0x10, 0)
	g := guest{manifest: manifest, types: wasiTypes, imports: [][]byte{importOf(logModule, "log", 5)}, filter: append(say, i32Const(int32(len(nothing)))...),
		out: append(slices.Clone(nothing), "quite\nso "+strings.Repeat("x", 400)...)}
	b := flat("a", "1")
	for _, granted := range []bool{false, true} {
		var out bytes.Buffer
		data := g.bytes()
		env := testEnv(data)
		c := PluginConfig{Name: "talker"}
		if granted {
			c.Grants = []string{"log"}
		}
		p := loadWith(t, c, data, env)
		if p.pool.log != nil {
			t.Fatal("there is a log although the host has none")
		}
		env.Log = slog.New(slog.NewTextHandler(&out, nil))
		p = loadWith(t, c, data, env)
		out.Reset()
		now := time.Unix(1_700_000_000, 0)
		if granted {
			p.pool.log.now = func() time.Time { return now }
		}
		for range 15 {
			if err := p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection()); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(time.Second)
		if err := p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection()); err != nil {
			t.Fatal(err)
		}
		lines := strings.Count(out.String(), "\n")
		if want := map[bool]int{true: maxLogRate + 1}[granted]; lines != want {
			t.Errorf("granted %v: %d lines\n%s", granted, lines, &out)
		}
		if granted && (!strings.Contains(out.String(), `level=WARN msg="plugin says" plugin=talker text="quite?so xxx`) || !strings.Contains(out.String(), "dropped=5") ||
			strings.Contains(out.String(), strings.Repeat("x", maxLogText-8))) {
			t.Errorf("log:\n%s", &out)
		}
	}
}

// The kit's examples load and give the kit's own verdict; the one in Go starts on the stub. A call allocates nothing.
func TestTheKitsExamplesRun(t *testing.T) {
	for _, lang := range kit {
		t.Run(lang, func(t *testing.T) {
			if lang == "go" && testing.Short() {
				t.Skip("compiling takes a second")
			}
			p := loadKit(t, lang, false)
			m, b, c := typical(t)
			o := noObjection()
			if err := p.Filter(m, b, c, o); err != nil {
				t.Fatal(err)
			}
			if len(o.Edits) != 12 || o.Edits[0].Op.Action != gateway.Generalize || o.Edits[11].Op.Action != gateway.Tokenize || o.Fuel == 0 {
				t.Errorf("opinion %+v", o)
			}
			if n := testing.AllocsPerRun(100, func() {
				*o = gateway.Opinion{Action: gateway.Pass, Labels: o.Labels[:0], Edits: o.Edits[:0]}
				if err := p.Filter(m, b, c, o); err != nil {
					t.Fatal(err)
				}
			}); n != 0 && compiles() && !raced {
				t.Errorf("%v allocations for each message", n)
			}
		})
	}
}
