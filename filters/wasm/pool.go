package wasm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/sluice-edge/sluice/filters/wasm/guard"
)

// instance is one running copy of a module. It serves one goroutine at a time.
type instance struct {
	ctx         context.Context // of calls: it never ends, and leads functions of the host to the instance
	mod         api.Module
	filter      api.Function
	mem         api.Memory
	fuel, depth api.MutableGlobal
	room        *memory
	maxDepth    uint32
	in, out     uint32 // where the regions begin
	stack       [2]uint64
	started     uint64 // fuel that starting took
	log         *diagnostics
	scratch     scratch
}

// pool hands out the instances of one module. Each slot is an instance or nil, for one to be made when it is taken.
// The slots in hand are the reference count of the version: close waits until every one is back.
type pool struct {
	runtime  wazero.Runtime
	cache    wazero.CompilationCache // nil without a folder for it
	compiled wazero.CompiledModule
	exported map[string]api.FunctionDefinition
	limits   Limits
	config   []byte
	log      *diagnostics
	slots    chan *instance
	closing  chan struct{}
	once     sync.Once
	closed   chan struct{}
	closeErr error
}

// engine is how a module is compiled and run.
type engine struct {
	compiler  *Compiler // nil: in this process, at once
	interpret bool      // also where there is a compiler
}

// newPool compiles the module and makes the first instance, so that a bad configuration is found here. A module without
// sluice_configure refuses a configuration that says something.
func newPool(ctx context.Context, m *module, e engine, config []byte, log *diagnostics, size int) (_ *pool, err error) {
	dir, done, err := e.compiler.prove(ctx, m.code, e.interpret || !compiles())
	defer done()
	if err != nil {
		return nil, err
	}
	p := &pool{limits: m.manifest.Limits, config: config, log: log, slots: make(chan *instance, size), closing: make(chan struct{}), closed: make(chan struct{})}
	c := runtimeConfig(e.interpret)
	if dir != "" {
		if p.cache, err = wazero.NewCompilationCacheWithDir(dir); err != nil {
			return nil, refuse(LoadCompile, fmt.Errorf("open compilation cache: %w", err))
		}
		c = c.WithCompilationCache(p.cache)
	}
	p.runtime = wazero.NewRuntimeWithConfig(ctx, c)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.free())
		}
	}()
	if err := link(ctx, p.runtime, m.imports); err != nil {
		return nil, refuse(LoadStart, fmt.Errorf("link imports: %w", err))
	}
	if p.compiled, err = compile(ctx, p.runtime, m.code); err != nil {
		return nil, refuse(LoadCompile, fmt.Errorf("compile module: %w", firstLine(err)))
	}
	p.exported = p.compiled.ExportedFunctions()
	if p.exported["sluice_configure"] == nil && string(config) != "{}" {
		return nil, refuse(LoadConfigure, errors.New("the plugin takes no configuration"))
	}
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

// runtimeConfig is the same in the process that compiles for the cache and in the one that reads it. Instances bound
// their memory themselves; calls are bounded by fuel and not by their context, see RATIONALE.md.
func runtimeConfig(interpret bool) wazero.RuntimeConfig {
	c := wazero.NewRuntimeConfig()
	if interpret {
		c = wazero.NewRuntimeConfigInterpreter()
	}
	return c.WithCoreFeatures(api.CoreFeaturesV2).WithDebugInfoEnabled(false)
}

// compiles reports whether the runtime has a compiler for this machine. Where it has none, it interprets.
func compiles() bool { return runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" }

// compile turns a panic of the decoder or compiler into an error: a file can never be the cause of one.
func compile(ctx context.Context, rt wazero.Runtime, code []byte) (compiled wazero.CompiledModule, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("compiler broke off")
		}
	}()
	return rt.CompileModule(ctx, code)
}

// instantiate makes, starts and configures one instance.
func (p *pool) instantiate(ctx context.Context) (_ *instance, err error) {
	in := &instance{maxDepth: p.limits.Depth, log: p.log}
	in.ctx = context.WithValue(context.Background(), instanceKey{}, in)
	if in.room, err = newMemory(p.limits.MemoryPages); err != nil {
		return nil, refuse(LoadStart, err)
	}
	defer func() {
		if r := recover(); r != nil { // a fault of ours or the engine's
			err = refuse(LoadStart, errPanic)
		}
		if err != nil {
			in.close()
		}
	}()
	in.mod, err = p.runtime.InstantiateModule(experimental.WithMemoryAllocator(ctx, in.room), p.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, refuse(LoadStart, fmt.Errorf("instantiate module: %w", firstLine(err)))
	}
	in.filter, in.mem = in.mod.ExportedFunction("sluice_filter"), in.mod.ExportedMemory("memory")
	in.fuel, _ = in.mod.ExportedGlobal(guard.FuelGlobal).(api.MutableGlobal)
	in.depth, _ = in.mod.ExportedGlobal(guard.DepthGlobal).(api.MutableGlobal)
	if in.fuel == nil || in.depth == nil {
		return nil, refuse(LoadStart, errors.New("module is not metered"))
	}
	if p.exported["_initialize"] != nil {
		if code, err := in.begin(in.mod.ExportedFunction("_initialize"), p.limits.FuelInit); err != nil {
			return nil, refuse(LoadStart, fmt.Errorf("initialize module: %s: %w", code, err))
		}
	}
	in.stack = [2]uint64{uint64(p.limits.InBytes), uint64(p.limits.OutBytes)}
	if code, err := in.begin(in.mod.ExportedFunction("sluice_arena"), p.limits.FuelInit); err != nil {
		return nil, refuse(LoadStart, fmt.Errorf("ask for regions: %s: %w", code, err))
	}
	if err := in.regions(in.stack[0], p.limits); err != nil {
		return nil, refuse(LoadStart, fmt.Errorf("ask for regions: %w", err))
	}
	if err := in.configure(p.config, p.limits); err != nil {
		return nil, refuse(LoadConfigure, fmt.Errorf("configure plugin: %w", err))
	}
	return in, nil
}

// call runs a function of the module with the parameters in stack, for at most so much fuel. On an error the code says
// what became of it, and the instance must not be called again.
func (in *instance) call(f api.Function, fuel uint64) (code string, err error) {
	in.fuel.Set(fuel)
	in.depth.Set(uint64(in.maxDepth))
	in.room.refused = false
	if err = f.CallWithStack(in.ctx, in.stack[:]); err == nil {
		return "", nil
	}
	switch {
	case int64(in.fuel.Get()) < 0:
		return codeFuel, errFuel
	case int32(uint32(in.depth.Get())) < 0:
		return codeDepth, errDepth
	case in.room.refused:
		return codeMemory, errMemory
	}
	return codeTrap, firstLine(err)
}

// begin is call for what comes before the first message, and adds up what that took.
func (in *instance) begin(f api.Function, fuel uint64) (code string, err error) {
	code, err = in.call(f, fuel)
	in.started += in.used(fuel)
	return code, err
}

// charge takes fuel for what a function of the host does for the module, which ends when there is not enough.
func (in *instance) charge(n uint64) {
	left := int64(in.fuel.Get()) - int64(n)
	if in.fuel.Set(uint64(left)); left < 0 {
		panic(errFuel)
	}
}

// used is the fuel of the last call.
func (in *instance) used(fuel uint64) uint64 { return fuel - uint64(max(int64(in.fuel.Get()), 0)) }

// close frees the instance. There is nobody to tell of an error and nothing to do about it.
func (in *instance) close() {
	if in.mod != nil {
		_ = in.mod.Close(context.Background())
	}
	in.room.Free()
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

func (in *instance) configure(config []byte, l Limits) error {
	f := in.mod.ExportedFunction("sluice_configure")
	if f == nil {
		return nil
	}
	if len(config) > int(l.InBytes) || !in.mem.Write(in.in, config) {
		return fmt.Errorf("configuration has %d bytes; the plugin takes %d", len(config), l.InBytes)
	}
	in.stack[0] = uint64(len(config))
	if code, err := in.begin(f, l.FuelInit); err != nil {
		return fmt.Errorf("%s: %w", code, err)
	}
	if int32(uint32(in.stack[0])) == 0 {
		return nil
	}
	text := "the plugin does not accept it"
	if n, ok := in.mem.ReadUint32Le(in.out); ok && n > 0 && n <= l.OutBytes-4 {
		if b, ok := in.mem.Read(in.out+4, min(n, maxErrorText)); ok {
			text = strings.Map(printable, string(b))
		}
	}
	return &notAccepted{text}
}

// notAccepted is a configuration that the plugin refuses, in its own words.
type notAccepted struct{ text string }

func (e *notAccepted) Error() string { return e.text }

// printable keeps what can stand in an error text.
func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '?'
	}
	return r
}

// firstLine cuts the stack trace off a trap.
func firstLine(err error) error {
	if err == nil {
		return nil
	}
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
	in.close()
	p.slots <- nil
}

// close waits until no call is inside and frees everything. It may be called more than once and by many.
func (p *pool) close() error {
	p.once.Do(func() {
		close(p.closing)
		for range cap(p.slots) {
			if in := <-p.slots; in != nil {
				in.close()
			}
		}
		p.closeErr = p.free()
		close(p.closed)
	})
	<-p.closed
	return p.closeErr
}

// free closes what instances are made of.
func (p *pool) free() error {
	err := p.runtime.Close(context.Background()) // and compiled code, unless it belongs to the cache
	if p.cache != nil {
		err = errors.Join(err, p.cache.Close(context.Background()))
	}
	return err
}
