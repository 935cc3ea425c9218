package wasm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/sluice-edge/sluice/gateway"
)

// kit are the example plugins of the author's kit, and what an operator lets their edits do.
var (
	kit      = []string{"c", "rust", "assemblyscript", "go"}
	kitEdits = map[uint32]EditConfig{1: {Action: "generalize", Decimals: new(int)}, 2: {Action: "tokenize", Domain: "d"}, 3: {Action: "mask"}}
)

// loadKit loads an example of the kit.
func loadKit(t testing.TB, lang string, interpret bool) *Plugin {
	t.Helper()
	data := kitModule(t, lang+"/example/example.wasm")
	return loadWith(t, PluginConfig{Name: "example", Edits: kitEdits}, data, Env{Pinned: []string{digestOf(data)}, Categories: vehicleCategories, Instances: 1, Interpret: interpret,
		Compiler: child(t, "")})
}

// randomMessage has up to 20 fields, some of them found, and is the same for the same n.
func randomMessage(n uint64) (*gateway.Message, *gateway.Body, *gateway.Classification) {
	random := rand.New(rand.NewPCG(n, 7))
	var pairs []string
	c := &gateway.Classification{}
	for i := range random.IntN(20) {
		value := strconv.FormatFloat(random.Float64()*180, 'f', random.IntN(7), 64)
		if random.IntN(3) == 0 {
			value = strconv.Quote(strconv.FormatUint(random.Uint64(), 36))
		}
		pairs = append(pairs, fmt.Sprint("field", random.IntN(1000), "_", i), value)
		if random.IntN(4) > 0 {
			f := at(int32(i+1), uint16(random.IntN(len(vehicleCategories))))
			f.Grade = gateway.Grade(1 + random.IntN(3))
			c.Findings = append(c.Findings, f)
		}
	}
	for random.IntN(4) == 0 {
		c.Findings = append(c.Findings, gateway.Finding{Place: gateway.Place{Kind: gateway.AtBody}, Category: uint16(random.IntN(len(vehicleCategories))), Grade: gateway.Important, Pair: -1})
	}
	b := flat(pairs...)
	m := messageOf(b)
	m.ID.Counter, m.Topic = n, fmt.Sprint("v1/car-", random.IntN(50), "/telemetry")
	return m, b, c
}

// The same message has the same verdict and the same fuel on the compiler and on the interpreter, later, in another order and on
// a fresh instance: what a record says about a plugin can be replayed.
func TestVerdictAndFuelAreTheSameEverywhere(t *testing.T) {
	messages := uint64(2000)
	if raced {
		messages = 100
	}
	for _, lang := range kit {
		t.Run(lang, func(t *testing.T) {
			if lang == "go" && testing.Short() {
				t.Skip("compiling takes seconds")
			}
			ask := func(p *Plugin, n uint64) string {
				m, b, c := randomMessage(n)
				o := noObjection()
				err := p.Filter(m, b, c, o)
				return fmt.Sprint(*o, err)
			}
			compiled, interpreted := loadKit(t, lang, false), loadKit(t, lang, true)
			said, kinds := make([]string, messages), map[string]bool{}
			for n := range messages {
				said[n] = ask(compiled, n)
				kinds[said[n]] = true
				if again := ask(interpreted, n); again != said[n] {
					t.Fatalf("message %d: the compiler says %s, the interpreter %s", n, said[n], again)
				}
			}
			if len(kinds) < int(messages)/10 {
				t.Errorf("only %d different answers", len(kinds))
			}
			fresh := loadKit(t, lang, false)
			for n := messages; n > 0; n-- {
				if again := ask(fresh, n-1); again != said[n-1] {
					t.Fatalf("message %d: at first %s, on a fresh instance %s", n-1, said[n-1], again)
				}
			}
		})
	}
}

// cpuOf reports the computing time of an iteration, which others on the machine disturb less than the time that passes. It is called
// before the loop, and what it returns behind it.
func cpuOf(b *testing.B) func() {
	began := cpuTime()
	return func() { b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op") }
}

// What a plugin adds to a message of 1 KB with 12 findings: a gateway without plugins does not make this call.
func BenchmarkPlugins(b *testing.B) {
	for _, lang := range kit {
		for _, engine := range []string{"compiled", "interpreted"} {
			b.Run(lang+"/"+engine, func(b *testing.B) {
				p := loadKit(b, lang, engine == "interpreted")
				m, body, class := typical(b)
				o := noObjection()
				b.ReportAllocs()
				done := cpuOf(b)
				for b.Loop() {
					*o = gateway.Opinion{Action: gateway.Pass, Labels: o.Labels[:0], Edits: o.Edits[:0]}
					if err := p.Filter(m, body, class, o); err != nil {
						b.Fatal(err)
					}
				}
				done()
				b.ReportMetric(float64(o.Fuel), "fuel")
			})
		}
	}
}

// The guest alone with one request, as the toolchain made it and metered: the cost of the counters.
func BenchmarkMetering(b *testing.B) {
	for _, lang := range kit {
		p := loadKit(b, lang, false)
		in, err := p.pool.take()
		if err != nil {
			b.Fatal(err)
		}
		m, body, class := typical(b)
		region, _ := in.mem.Read(in.in, p.manifest.Limits.InBytes)
		n, _ := p.view.build(region, &in.scratch, m, body, class)
		request := append([]byte(nil), region[:n]...)
		plain := unmetered(b, p, in, kitModule(b, lang+"/example/example.wasm"))
		plain.mem.Write(plain.in, request)
		b.Run(lang+"/metered", func(b *testing.B) {
			defer cpuOf(b)()
			for b.Loop() {
				in.stack[0] = uint64(n)
				in.fuel.Set(p.manifest.Limits.Fuel)
				in.depth.Set(uint64(in.maxDepth))
				if err := in.filter.CallWithStack(in.ctx, in.stack[:]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(lang+"/plain", func(b *testing.B) {
			defer cpuOf(b)()
			for b.Loop() {
				plain.stack[0] = uint64(n)
				if err := plain.filter.CallWithStack(in.ctx, plain.stack[:]); err != nil {
					b.Fatal(err)
				}
			}
		})
		p.pool.put(in)
	}
}

// unmetered starts the module as it is; functions of the host see the metered instance.
func unmetered(b *testing.B, p *Plugin, metered *instance, data []byte) *instance {
	b.Helper()
	ctx := metered.ctx
	rt := wazero.NewRuntimeWithConfig(ctx, runtimeConfig(false))
	b.Cleanup(func() { rt.Close(context.Background()) })
	m, err := readModule(data)
	if err != nil {
		b.Fatal(err)
	}
	if err := link(ctx, rt, m.imports); err != nil {
		b.Fatal(err)
	}
	mod, err := rt.InstantiateWithConfig(ctx, data, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		b.Fatal(err)
	}
	call := func(name string, params ...uint64) uint64 {
		f := mod.ExportedFunction(name)
		if f == nil {
			return 0
		}
		metered.fuel.Set(maxFuel)
		res, err := f.Call(ctx, params...)
		if err != nil {
			b.Fatal(name, err)
		}
		return append(res, 0)[0]
	}
	call("_initialize")
	at := call("sluice_arena", uint64(p.manifest.Limits.InBytes), uint64(p.manifest.Limits.OutBytes))
	in := &instance{mod: mod, filter: mod.ExportedFunction("sluice_filter"), mem: mod.Memory(), in: uint32(at >> 32), out: uint32(at)}
	in.mem.Write(in.in, []byte("{}"))
	call("sluice_configure", 2)
	return in
}
