package wasm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// instance is one running copy of a module. It serves one goroutine at a time.
type instance struct {
	mod     api.Module
	filter  api.Function
	mem     api.Memory
	in, out uint32 // where the regions begin
	stack   [1]uint64
	scratch scratch
}

// pool hands out the instances of one module. Each slot is an instance or nil, for one to be made when it is taken.
// The slots in hand are the reference count of the version: close waits until every one is back.
type pool struct {
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
	limits   Limits
	config   []byte
	slots    chan *instance
	closing  chan struct{}
	once     sync.Once
	closed   chan struct{}
	closeErr error
}

// signature of an export.
type signature struct {
	params, results []api.ValueType
	optional        bool
}

// exports are the functions of the ABI. sluice_abi_v1 marks the version and is never called.
var exports = map[string]signature{
	"sluice_abi_v1":    {},
	"_initialize":      {optional: true},
	"sluice_arena":     {params: []api.ValueType{api.ValueTypeI32, api.ValueTypeI32}, results: []api.ValueType{api.ValueTypeI64}},
	"sluice_configure": {params: []api.ValueType{api.ValueTypeI32}, results: []api.ValueType{api.ValueTypeI32}, optional: true},
	"sluice_filter":    {params: []api.ValueType{api.ValueTypeI32}, results: []api.ValueType{api.ValueTypeI32}},
}

// newPool compiles the module and makes the first instance, so that a bad configuration is found here. A module without
// sluice_configure refuses a configuration that says something.
func newPool(ctx context.Context, m *module, config []byte, size int) (p *pool, err error) {
	limits := m.manifest.Limits
	rt := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2).
		WithMemoryLimitPages(limits.MemoryPages).WithDebugInfoEnabled(false))
	defer func() {
		if err != nil {
			err = errors.Join(err, rt.Close(ctx))
		}
	}()
	compiled, err := compile(ctx, rt, m.code)
	if err != nil {
		return nil, fmt.Errorf("compile module: %w", err)
	}
	if err := checkExports(compiled, config); err != nil {
		return nil, fmt.Errorf("check exports: %w", err)
	}
	p = &pool{runtime: rt, compiled: compiled, limits: limits, config: config, slots: make(chan *instance, size),
		closing: make(chan struct{}), closed: make(chan struct{})}
	first, err := p.instantiate(ctx)
	if err != nil {
		return nil, err
	}
	p.slots <- first
	for range size - 1 {
		p.slots <- nil
	}
	return p, nil
}

// compile turns a panic of the decoder or compiler into an error: a file can never be the cause of one.
func compile(ctx context.Context, rt wazero.Runtime, code []byte) (compiled wazero.CompiledModule, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("compiler broke off")
		}
	}()
	return rt.CompileModule(ctx, code)
}

func checkExports(compiled wazero.CompiledModule, config []byte) error {
	have := compiled.ExportedFunctions()
	for name, want := range exports {
		f, ok := have[name]
		if !ok {
			if want.optional {
				continue
			}
			return fmt.Errorf("%s is missing", name)
		}
		if string(f.ParamTypes()) != string(want.params) || string(f.ResultTypes()) != string(want.results) {
			return fmt.Errorf("%s has another type", name)
		}
	}
	for name := range have {
		if name == "sluice_state_export" || name == "sluice_state_import" {
			return fmt.Errorf("%s is reserved", name)
		}
	}
	if _, ok := compiled.ExportedMemories()["memory"]; !ok {
		return errors.New("memory is missing")
	}
	if _, ok := have["sluice_configure"]; !ok && string(config) != "{}" {
		return errors.New("the plugin takes no configuration")
	}
	return nil
}

// instantiate makes, starts and configures one instance.
func (p *pool) instantiate(ctx context.Context) (in *instance, err error) {
	mod, err := p.runtime.InstantiateModule(ctx, p.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, fmt.Errorf("instantiate module: %w", firstLine(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, mod.Close(ctx))
		}
	}()
	in = &instance{mod: mod, filter: mod.ExportedFunction("sluice_filter"), mem: mod.ExportedMemory("memory")}
	if f := mod.ExportedFunction("_initialize"); f != nil {
		if _, err := f.Call(ctx); err != nil {
			return nil, fmt.Errorf("initialize module: %w", firstLine(err))
		}
	}
	res, err := mod.ExportedFunction("sluice_arena").Call(ctx, uint64(p.limits.InBytes), uint64(p.limits.OutBytes))
	if err != nil {
		return nil, fmt.Errorf("ask for regions: %w", firstLine(err))
	}
	if err := in.regions(res[0], p.limits); err != nil {
		return nil, fmt.Errorf("ask for regions: %w", err)
	}
	if err := in.configure(ctx, p.config, p.limits); err != nil {
		return nil, fmt.Errorf("configure plugin: %w", err)
	}
	return in, nil
}

// regions checks and keeps where the module put its regions.
func (in *instance) regions(packed uint64, l Limits) error {
	in.in, in.out = uint32(packed>>32), uint32(packed)
	inEnd, outEnd := uint64(in.in)+uint64(l.InBytes), uint64(in.out)+uint64(l.OutBytes)
	size := uint64(in.mem.Size())
	switch {
	case packed == 0:
		return errors.New("the plugin has no room for them")
	case in.in%8 != 0 || in.out%8 != 0:
		return errors.New("a region is not aligned to 8")
	case inEnd > size || outEnd > size:
		return errors.New("a region lies outside of the memory")
	case uint64(in.in) < outEnd && uint64(in.out) < inEnd:
		return errors.New("the regions overlap")
	}
	return nil
}

// maxErrorText bounds what a plugin may say about its configuration.
const maxErrorText = 256

func (in *instance) configure(ctx context.Context, config []byte, l Limits) error {
	f := in.mod.ExportedFunction("sluice_configure")
	if f == nil {
		return nil
	}
	if len(config) > int(l.InBytes) || !in.mem.Write(in.in, config) {
		return fmt.Errorf("configuration has %d bytes; the plugin takes %d", len(config), l.InBytes)
	}
	res, err := f.Call(ctx, uint64(len(config)))
	if err != nil {
		return firstLine(err)
	}
	if int32(res[0]) == 0 {
		return nil
	}
	text := "the plugin does not accept it"
	if n, ok := in.mem.ReadUint32Le(in.out); ok && n > 0 && n <= l.OutBytes-4 {
		if b, ok := in.mem.Read(in.out+4, min(n, maxErrorText)); ok {
			text = strings.Map(printable, string(b))
		}
	}
	return errors.New(text)
}

// printable keeps what can stand in an error text.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '?'
	}
	return r
}

// firstLine cuts the stack trace off a trap.
func firstLine(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(line)
}

// take waits for a slot and returns its instance, making it if there is none. Every instance taken goes back by put or
// drop. It blocks while all are in use.
func (p *pool) take() (*instance, error) {
	var in *instance
	select {
	case <-p.closing:
		return nil, errClosed
	default:
	}
	select {
	case in = <-p.slots:
	default:
		select {
		case in = <-p.slots:
		case <-p.closing:
			return nil, errClosed
		}
	}
	if in != nil {
		return in, nil
	}
	in, err := p.instantiate(context.Background())
	if err != nil {
		p.slots <- nil
		return nil, err
	}
	return in, nil
}

func (p *pool) put(in *instance) { p.slots <- in }

// drop closes an instance whose memory cannot be trusted any more; the next take makes another.
func (p *pool) drop(in *instance) {
	_ = in.mod.Close(context.Background()) // frees memory only: there is nobody to tell and nothing to do about it
	p.slots <- nil
}

// close waits until no call is inside and frees everything. It may be called more than once and by many.
func (p *pool) close() error {
	p.once.Do(func() {
		close(p.closing)
		for range cap(p.slots) {
			<-p.slots
		}
		p.closeErr = p.runtime.Close(context.Background()) // closes instances and compiled code
		close(p.closed)
	})
	<-p.closed
	return p.closeErr
}
