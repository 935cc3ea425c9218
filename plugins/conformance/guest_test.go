package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Regions that the vectors count on, unless one says otherwise.
const (
	inBytes  = 131072 // the conformance plugins
	outBytes = 65536
)

var background = context.Background()

// plugin is a compiled module that instances are made of.
type plugin struct {
	name    string // example, conformance or another
	file    string
	in      uint64 // size of the in region
	runtime wazero.Runtime
	code    wazero.CompiledModule
}

// stub lists the functions of WASI that a plugin may import, with the parameters that the ABI's host knows. They tell
// nothing: no arguments, no environment, a clock that stands, bytes that are always the same, no descriptors.
var stub = map[string]struct {
	params string // i: i32, I: i64
	answer func(m api.Memory, p []uint64) uint32
}{
	"args_get":          {"ii", zero},
	"args_sizes_get":    {"ii", none},
	"environ_get":       {"ii", zero},
	"environ_sizes_get": {"ii", none},
	"clock_time_get":    {"iIi", func(m api.Memory, p []uint64) uint32 { return written(m.WriteUint64Le(uint32(p[2]), 1<<60)) }},
	"random_get": {"ii", func(m api.Memory, p []uint64) uint32 {
		return written(m.Write(uint32(p[0]), bytes.Repeat([]byte{7}, int(min(p[1], 1<<16)))))
	}},
	"fd_write":            {"iiii", badf},
	"fd_close":            {"i", badf},
	"fd_fdstat_get":       {"ii", badf},
	"fd_fdstat_set_flags": {"ii", badf},
	"fd_prestat_get":      {"ii", badf},
	"fd_prestat_dir_name": {"iii", badf},
	"poll_oneoff":         {"iiii", func(api.Memory, []uint64) uint32 { return 52 }}, // ENOSYS
	"sched_yield":         {"", zero},
}

func zero(api.Memory, []uint64) uint32 { return 0 }
func badf(api.Memory, []uint64) uint32 { return 8 }

func none(m api.Memory, p []uint64) uint32 {
	return written(m.WriteUint32Le(uint32(p[0]), 0) && m.WriteUint32Le(uint32(p[1]), 0))
}

func written(ok bool) uint32 {
	if !ok {
		return 21 // EFAULT
	}
	return 0
}

// opened are the modules that were compiled already: a module made with Go takes its time.
var opened = map[string]*plugin{}

// open compiles a module.
func open(t testing.TB, name, file string) *plugin {
	t.Helper()
	if p := opened[file]; p != nil {
		return p
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rt := wazero.NewRuntimeWithConfig(background, wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2).WithMemoryLimitPages(160))
	host := rt.NewHostModuleBuilder("wasi_snapshot_preview1")
	for name, f := range stub {
		var params []api.ValueType
		for _, p := range f.params {
			params = append(params, map[rune]api.ValueType{'i': api.ValueTypeI32, 'I': api.ValueTypeI64}[p])
		}
		host.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, m api.Module, stack []uint64) {
			stack[0] = uint64(f.answer(m.Memory(), stack))
		}), params, []api.ValueType{api.ValueTypeI32}).Export(name)
	}
	host.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(context.Context, api.Module, []uint64) { panic(errors.New("proc_exit")) }),
		[]api.ValueType{api.ValueTypeI32}, nil).Export("proc_exit")
	if _, err := host.Instantiate(background); err != nil {
		t.Fatal(err)
	}
	code, err := rt.CompileModule(background, data)
	if err != nil {
		t.Fatal(err)
	}
	p := &plugin{name: name, file: file, in: inBytes, runtime: rt, code: code}
	if name != "conformance" {
		p.in = 65536
	}
	opened[file] = p
	return p
}

// instance is one running copy of a plugin.
type instance struct {
	t       testing.TB
	mod     api.Module
	filter  api.Function
	mem     api.Memory
	size    uint32 // of the in region
	in, out uint32
	outSize uint32
}

// start makes an instance with an out region of n bytes; refused is the text of a configuration that it does not take.
func (p *plugin) start(t testing.TB, n uint64, config string) (in *instance, refused string) {
	t.Helper()
	mod, err := p.runtime.InstantiateModule(background, p.code, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mod.Close(background) })
	in = &instance{t: t, mod: mod, filter: mod.ExportedFunction("sluice_filter"), mem: mod.Memory(), size: uint32(p.in), outSize: uint32(n)}
	if f := mod.ExportedFunction("_initialize"); f != nil {
		if _, err := f.Call(background); err != nil {
			t.Fatalf("_initialize: %v", err)
		}
	}
	res, err := mod.ExportedFunction("sluice_arena").Call(background, p.in, n)
	if err != nil {
		t.Fatalf("sluice_arena: %v", err)
	}
	in.in, in.out = uint32(res[0]>>32), uint32(res[0])
	inEnd, outEnd := uint64(in.in)+p.in, uint64(in.out)+n
	if size := uint64(in.mem.Size()); res[0] == 0 || in.in%8 != 0 || in.out%8 != 0 || inEnd > size || outEnd > size || (uint64(in.in) < outEnd && uint64(in.out) < inEnd) {
		t.Fatalf("regions at %d and %d in a memory of %d", in.in, in.out, size)
	}
	if mod.ExportedFunction("sluice_configure") != nil {
		return in, in.configure(t, []byte(config))
	}
	if config != "{}" {
		t.Fatalf("%s takes no configuration", p.file)
	}
	return in, ""
}

// configure hands over a configuration and returns the text with which it is refused.
func (in *instance) configure(t testing.TB, config []byte) (refused string) {
	t.Helper()
	in.mem.Write(in.in, config)
	res, err := in.mod.ExportedFunction("sluice_configure").Call(background, uint64(len(config)))
	if err != nil {
		t.Fatalf("sluice_configure: %v", err)
	}
	if int32(res[0]) == 0 {
		return ""
	}
	n, _ := in.mem.ReadUint32Le(in.out)
	text, ok := in.mem.Read(in.out+4, n)
	if !ok || n == 0 || n > in.outSize-4 {
		t.Fatalf("the text of a refused configuration has %d bytes", n)
	}
	return string(text)
}

// call asks for a verdict: the verdict, an error from -1 down, or a trap.
func (in *instance) call(request []byte, length uint32) (verdict []byte, code int32, trap error) {
	in.t.Helper()
	in.mem.Write(in.in, request)
	res, err := in.filter.Call(background, uint64(length))
	if err != nil {
		return nil, 0, err
	}
	n := int32(uint32(res[0]))
	if n <= 0 {
		return nil, n, nil
	}
	v, ok := in.mem.Read(in.out, uint32(n))
	if !ok || uint32(n) > in.outSize {
		in.t.Fatalf("verdict of %d bytes is larger than the out region", n)
	}
	return bytes.Clone(v), n, nil
}

// said is what a call returned, in the words of a vector file.
func said(verdict []byte, code int32, trap error) string {
	switch {
	case trap != nil:
		return "trap"
	case code <= 0:
		return fmt.Sprintf("error %d", code)
	}
	return fmt.Sprintf("verdict %x", verdict)
}

// Nothing but what the ABI asks for and allows goes in and out of a module.
func TestImportsAndExports(t *testing.T) {
	for _, p := range plugins(t) {
		t.Run(p.file, func(t *testing.T) {
			for _, f := range p.code.ImportedFunctions() {
				module, name, _ := f.Import()
				if _, known := stub[name]; module != "wasi_snapshot_preview1" || (!known && name != "proc_exit") {
					t.Errorf("imports %s.%s", module, name)
				}
				if !strings.Contains(p.file, "/go/") {
					t.Errorf("imports %s.%s; only plugins made with Go do", module, name)
				}
			}
			if n := len(p.code.ImportedMemories()); n > 0 {
				t.Error("imports a memory")
			}
			const i32, i64 = api.ValueTypeI32, api.ValueTypeI64
			for name, want := range map[string][2]string{"sluice_abi_v1": {}, "sluice_arena": {string([]byte{i32, i32}), string(i64)}, "sluice_filter": {string(i32), string(i32)},
				"sluice_configure": {string(i32), string(i32)}} {
				f := p.code.ExportedFunctions()[name]
				if f == nil || string(f.ParamTypes()) != want[0] || string(f.ResultTypes()) != want[1] {
					t.Errorf("%s is missing or has another type", name)
				}
			}
			for name := range p.code.ExportedFunctions() {
				if !strings.HasPrefix(name, "sluice_") && name != "_initialize" {
					t.Errorf("exports %s", name)
				}
			}
			if p.code.ExportedMemories()["memory"] == nil {
				t.Error("memory is not exported")
			}
		})
	}
}

func TestArenaRefusesAbsurdSizes(t *testing.T) {
	for _, p := range plugins(t) {
		in, _ := p.start(t, outBytes, "{}")
		arena := in.mod.ExportedFunction("sluice_arena")
		for _, c := range [][2]uint64{{64, 8}, {64, 0}, {1 << 31, 64}, {64, 1 << 31}, {1 << 31, 1 << 31}, {1<<32 - 8, 1<<32 - 8}} {
			if res, err := arena.Call(background, c[0], c[1]); err != nil || res[0] != 0 {
				t.Errorf("%s: regions of %v bytes: %v %v; want 0", p.file, c, res, err)
			}
		}
	}
}
