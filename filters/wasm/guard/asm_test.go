package guard

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// fn is one function of a module that a test puts together. Its type has its own number.
type fn struct {
	params, results []byte
	locals          []byte // vector of groups, nil = none
	body            []byte // without the last end
	export          string
}

// mod is a module that a test puts together; sections replaces or adds a section by number.
type mod struct {
	funcs    []fn
	sections map[byte][]byte
	order    []byte // of sections, nil = as it must be
	tail     []byte
}

// code joins bytes, given as numbers or as slices.
func code(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case byte:
			b = append(b, p)
		case []byte:
			b = append(b, p...)
		case string:
			b = append(uleb(b, uint32(len(p))), p...)
		}
	}
	return b
}

func i32c(v int32) []byte { return sleb([]byte{opI32Const}, int64(v)) }
func i64c(v int64) []byte { return sleb([]byte{opI64Const}, v) }

func times(n int, b []byte) []byte { return []byte(strings.Repeat(string(b), n)) }

func vec(items ...[]byte) []byte {
	b := uleb(nil, uint32(len(items)))
	for _, i := range items {
		b = append(b, i...)
	}
	return b
}

func sized(b []byte) []byte { return append(uleb(nil, uint32(len(b))), b...) }

// bytes is the module: a memory of one page, one table of two elements, globals 0 (i32, mutable) and 1 (i64, constant).
func (m mod) bytes() []byte {
	var types, funcs, exports, bodies [][]byte
	exports = append(exports, code("memory", 2, 0))
	for i, f := range m.funcs {
		types = append(types, code(0x60, sized(f.params), sized(f.results)))
		funcs = append(funcs, uleb(nil, uint32(i)))
		if f.export != "" {
			exports = append(exports, code(f.export, 0, uleb(nil, uint32(i))))
		}
		if f.locals == nil {
			f.locals = []byte{0}
		}
		bodies = append(bodies, sized(code(f.locals, f.body, opEnd)))
	}
	sections := map[byte][]byte{sectionType: vec(types...), sectionFunction: vec(funcs...), sectionTable: {1, 0x70, 0, 2}, sectionMemory: {1, 0, 1},
		sectionGlobal: code(2, I32, 1, opI32Const, 0, opEnd, I64, 0, opI64Const, 7, opEnd), sectionExport: vec(exports...), sectionCode: vec(bodies...)}
	for id, s := range m.sections {
		if sections[id] = s; s == nil {
			delete(sections, id)
		}
	}
	order := m.order
	if order == nil {
		order = sectionOrder[:]
	}
	out := []byte(magic)
	for _, id := range order {
		if s, ok := sections[id]; ok {
			out = append(append(out, id), sized(s)...)
		}
	}
	return append(out, m.tail...)
}

// one is a module with one function "f".
func one(params, results, body []byte) []byte {
	return mod{funcs: []fn{{params: params, results: results, body: body, export: "f"}}}.bytes()
}

func none(n int) []byte { return times(n, []byte{I32}) }

func mustRead(t testing.TB, module []byte) *Module {
	t.Helper()
	m, err := Read(module, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// engines are the two ways in which wazero runs a module.
var engines = map[string]func() wazero.RuntimeConfig{"compiler": wazero.NewRuntimeConfigCompiler, "interpreter": wazero.NewRuntimeConfigInterpreter}

// run is one instance of a module, metered or not.
type run struct {
	mod         api.Module
	fuel, depth api.MutableGlobal
}

func start(t testing.TB, engine string, module []byte, pages uint32) *run {
	t.Helper()
	r, err := tryStart(t, engine, module, pages)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryStart(t testing.TB, engine string, module []byte, pages uint32) (*run, error) {
	ctx := context.Background()
	rt := wazero.NewRuntimeWithConfig(ctx, engines[engine]().WithCoreFeatures(api.CoreFeaturesV2).WithMemoryLimitPages(pages))
	t.Cleanup(func() { _ = rt.Close(ctx) })
	if bytes.Contains(module, []byte("wasi_snapshot_preview1")) {
		if err := addStub(ctx, rt); err != nil {
			t.Fatal(err)
		}
	}
	compiled, err := rt.CompileModule(ctx, module)
	if err != nil {
		return nil, err
	}
	inst, err := rt.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, err
	}
	r := &run{mod: inst}
	if g := inst.ExportedGlobal(FuelGlobal); g != nil {
		r.fuel, r.depth = g.(api.MutableGlobal), inst.ExportedGlobal(DepthGlobal).(api.MutableGlobal)
	}
	return r, nil
}

// call calls a function with the counters set, and says what came back and what it took.
func (r *run) call(name string, fuel int64, depth int32, args ...uint64) (results []uint64, used int64, err error) {
	if r.fuel != nil {
		r.fuel.Set(uint64(fuel))
		r.depth.Set(api.EncodeI32(depth))
	}
	results, err = r.mod.ExportedFunction(name).Call(context.Background(), args...)
	if r.fuel != nil {
		used = fuel - r.left()
	}
	return results, used, err
}

func (r *run) left() int64 { return int64(r.fuel.Get()) }

// wasiNames are the imports of the stub; see the plugin ABI.
var wasiNames = strings.Fields(`args_get args_sizes_get environ_get environ_sizes_get clock_time_get random_get fd_write fd_close fd_fdstat_get
	fd_fdstat_set_flags fd_prestat_get fd_prestat_dir_name poll_oneoff proc_exit sched_yield`)

// wasiTypes are their parameters: i for i32, I for i64; all but proc_exit return an i32.
var wasiTypes = map[string]string{"args_get": "ii", "args_sizes_get": "ii", "environ_get": "ii", "environ_sizes_get": "ii", "clock_time_get": "iIi",
	"random_get": "ii", "fd_write": "iiii", "fd_close": "i", "fd_fdstat_get": "ii", "fd_fdstat_set_flags": "ii", "fd_prestat_get": "ii",
	"fd_prestat_dir_name": "iii", "poll_oneoff": "iiii", "proc_exit": "i", "sched_yield": ""}

// withStub are the limits of a plugin that may import the stub.
func withStub() Limits {
	l := DefaultLimits()
	l.Import = func(i Import) bool { _, ok := wasiTypes[i.Name]; return ok && i.Module == "wasi_snapshot_preview1" }
	return l
}

// addStub gives a runtime a WASI that says no, or nothing: constant clock, constant random bytes, no files.
func addStub(ctx context.Context, rt wazero.Runtime) error {
	b := rt.NewHostModuleBuilder("wasi_snapshot_preview1")
	for _, name := range wasiNames {
		var params []api.ValueType
		for _, p := range wasiTypes[name] {
			params = append(params, map[rune]api.ValueType{'i': api.ValueTypeI32, 'I': api.ValueTypeI64}[p])
		}
		results := []api.ValueType{api.ValueTypeI32}
		if name == "proc_exit" {
			results = nil
		}
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, m api.Module, stack []uint64) {
			switch name {
			case "proc_exit":
				panic("proc_exit")
			case "args_sizes_get", "environ_sizes_get":
				m.Memory().WriteUint32Le(uint32(stack[0]), 0)
				m.Memory().WriteUint32Le(uint32(stack[1]), 0)
				stack[0] = 0
			case "clock_time_get":
				m.Memory().WriteUint64Le(uint32(stack[2]), 1_700_000_000_000_000_000)
				stack[0] = 0
			case "random_get", "args_get", "environ_get", "sched_yield":
				if len(stack) > 0 {
					stack[0] = 0
				}
			default:
				stack[0] = 8 // EBADF
			}
		}), params, results).Export(name)
	}
	_, err := b.Instantiate(ctx)
	return err
}
