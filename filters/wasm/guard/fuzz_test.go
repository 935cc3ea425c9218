package guard

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// seeds are small modules of all kinds, and a real one.
func seeds(f *testing.F) {
	for _, module := range attacks() {
		if len(module) < 10_000 {
			f.Add(module)
		}
	}
	f.Add(readFile(f, geofence))
	for _, line := range strings.Split(string(readFile(f, "testdata/metered.txt")), "\n") {
		if _, digits, ok := strings.Cut(line, "module "); ok {
			module, err := hex.DecodeString(strings.TrimSpace(digits))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(module)
		}
	}
	vectors := code(i32c(0), opVector, 0x5c, 2, 0, opVector, 0x80, 1, opVector, 0x1b, 3, 0x1a, i32c(0), opVector, 12, make([]byte, 16),
		opVector, 0x58, 0, 0, 1, opVector, 12, make([]byte, 16), opVector, 12, make([]byte, 16), opVector, 13, make([]byte, 16), 0x1a)
	f.Add(one(nil, nil, vectors))
	for i := range uint64(8) {
		g := &generator{rand: newRand(i)}
		f.Add(mod{funcs: []fn{{params: []byte{I32}, results: []byte{I32}, locals: []byte{1, 1, I32}, body: code(g.statements(0, 12), opGlobalGet, 0), export: "f"},
			{params: []byte{I32}, results: []byte{I32}, body: get0}}}.bytes())
	}
}

// small limits keep the memory of a fuzz run bounded, and the compiler's time short.
func small() Limits {
	l := withStub()
	l.Size, l.Flow, l.MemoryPages = 64<<10, 512, 16
	return l
}

// Whatever it is given, Read neither panics nor takes memory beyond the length of it, and what it accepts can be metered.
func FuzzRead(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, module []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := Read(module, small())
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(128*len(module)+64<<10) {
			t.Errorf("%d bytes allocated for %d", took, len(module))
		}
		if (m == nil) == (err == nil) {
			t.Fatalf("Read = %v, %v", m, err)
		}
		if m == nil {
			return
		}
		if n := len(m.marks); n > len(module)*2 {
			t.Errorf("%d marks for %d bytes", n, len(module))
		}
		if out := m.Meter(); len(out) > 64*len(module)+1024 {
			t.Errorf("%d bytes become %d", len(module), len(out))
		}
	})
}

// fuzzEngine is one runtime for all modules of a fuzzing process; modules are closed after use.
func fuzzRuntime(f *testing.F, c wazero.RuntimeConfig) wazero.Runtime {
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, c.WithCoreFeatures(api.CoreFeaturesV2).WithMemoryLimitPages(16))
	f.Cleanup(func() { _ = rt.Close(ctx) })
	if err := addStub(ctx, rt); err != nil {
		f.Fatal(err)
	}
	return rt
}

// What Read accepts is valid metered exactly when it is valid as it is, runs to its end within its fuel whatever it does,
// takes the same fuel in both engines, and does what it does unmetered when it has fuel enough.
func FuzzMeter(f *testing.F) {
	seeds(f)
	ctx := context.Background()
	compiler, interpreter := fuzzRuntime(f, wazero.NewRuntimeConfigCompiler()), fuzzRuntime(f, wazero.NewRuntimeConfigInterpreter())
	f.Fuzz(func(t *testing.T, module []byte) {
		m, err := Read(module, small())
		if err != nil {
			return
		}
		metered := m.Meter()
		if name := os.Getenv("GUARD_FUZZ_LAST"); name != "" { // tells what a hanging process was at
			_ = os.WriteFile(name, module, 0o666)
		}
		plain, err1 := interpreter.CompileModule(ctx, module)
		counted, err2 := interpreter.CompileModule(ctx, metered)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("as it is: %v; metered: %v", err1, err2)
		}
		if err1 != nil {
			return
		}
		defer plain.Close(ctx)
		defer counted.Close(ctx)
		fast, err := compiler.CompileModule(ctx, metered)
		if err != nil {
			t.Fatal(err)
		}
		defer fast.Close(ctx)
		config := wazero.NewModuleConfig().WithName("").WithStartFunctions()
		a, err1 := interpreter.InstantiateModule(ctx, counted, config)
		b, err2 := compiler.InstantiateModule(ctx, fast, config)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("interpreter: %v; compiler: %v", err1, err2)
		}
		if err1 != nil {
			return
		}
		defer a.Close(ctx)
		defer b.Close(ctx)
		c, err := interpreter.InstantiateModule(ctx, plain, config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		runs := []*run{counters(a), counters(b)}
		for _, e := range m.Exports {
			if e.Kind != Func {
				continue
			}
			var outcomes []outcome
			for _, r := range runs {
				outcomes = append(outcomes, r.outcome(e, 20_000))
			}
			if x, y := outcomes[0], outcomes[1]; x != y {
				t.Fatalf("%s: interpreter %v, compiler %v", e.Name, x, y)
			}
			// the module as it is runs only where the metered one came back: it would end
			if !outcomes[0].trap {
				if want := (&run{mod: c}).outcome(e, 0); want.trap || want.results != outcomes[0].results {
					t.Fatalf("%s: as it is %v, metered %v", e.Name, want, outcomes[0])
				}
			} else {
				return // the instances are in different states now
			}
		}
	})
}

func counters(m api.Module) *run {
	return &run{mod: m, fuel: m.ExportedGlobal(FuelGlobal).(api.MutableGlobal), depth: m.ExportedGlobal(DepthGlobal).(api.MutableGlobal)}
}

// outcome is what can be compared of a call.
type outcome struct {
	trap, fuel, depth bool // why it ended, where it did not come back
	used              int64
	results           string
}

func (r *run) outcome(e Export, fuel int64) outcome {
	args := make([]uint64, 0, 2*len(e.Type.Params))
	for i, p := range e.Type.Params {
		if args = append(args, uint64(i+1)); p == V128 {
			args = append(args, 0)
		}
	}
	results, used, err := r.call(e.Name, fuel, 20, args...)
	o := outcome{trap: err != nil, used: used, results: fmt.Sprint(results)}
	if r.fuel == nil {
		o.used = 0
		return o
	}
	o.fuel, o.depth = r.left() < 0, int32(r.depth.Get()) < 0
	return o
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }
