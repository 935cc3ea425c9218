package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/sluice-edge/sluice/filters/wasm/guard"
	"github.com/sluice-edge/sluice/gateway"
)

// Examine checks the structure of a module, its manifest, its imports and its exports as a load does, and goes on after
// the first problem: it is for the author, who knows where the module comes from. Problems are *LoadError. The manifest is
// nil when there is none that can be read.
func Examine(data []byte) (m *Manifest, problems []error) {
	bad := func(code string, errs ...error) {
		for _, err := range errs {
			problems = append(problems, refuse(code, err))
		}
	}
	limits := guard.DefaultLimits()
	limits.Size, limits.MemoryPages = MaxModule, maxPages
	limits.Import = func(guard.Import) bool { return true }
	g, err := guard.Read(data, limits)
	if err != nil {
		bad(LoadGuard, fmt.Errorf("check module: %w", err))
		return nil, problems // nothing in it can be relied on
	}
	for _, i := range g.Imports {
		if !known(i) {
			bad(LoadGuard, fmt.Errorf("check module: import of %s.%s %v: no host has this function", legible(i.Module), legible(i.Name), i.Type))
		}
	}
	found := 0
	for _, c := range g.Custom {
		if c.Name != manifestSection {
			continue
		}
		if found++; found > 1 {
			bad(LoadManifest, errors.New("more than one manifest"))
			continue
		}
		m = new(Manifest)
		if err := json.Unmarshal(c.Data, m, json.RejectUnknownMembers(true)); len(c.Data) > maxManifest || err != nil {
			_, err := parseManifest(c.Data)
			bad(LoadManifest, err)
			m = nil
			continue
		}
		for _, p := range m.problems() {
			bad(LoadManifest, fmt.Errorf("check manifest: %w", p))
		}
	}
	if found == 0 {
		bad(LoadManifest, errors.New("no custom section "+manifestSection))
	}
	if m != nil {
		if limit := m.Limits.MemoryPages; g.MemoryMin > limit {
			bad(LoadManifest, fmt.Errorf("memory starts with %d pages; the limit is %d", g.MemoryMin, limit))
		}
		bad(LoadManifest, m.importProblems(g.Imports)...)
	}
	for _, err := range exportProblems(g.Exports) {
		bad(LoadExports, fmt.Errorf("check exports: %w", err))
	}
	return m, problems
}

// legible makes a name of a module's fit for an error text.
func legible(name string) string {
	clean := []rune(name)
	for i, r := range clean {
		clean[i] = printable(r)
	}
	return string(clean[:min(len(clean), 64)])
}

// Probe is one instance of a module under the hands of its author: requests and verdicts as bytes, without a gateway, and
// limited as in one. It serves one goroutine at a time.
type Probe struct {
	pool *pool
	in   *instance // nil after a trap
}

// NewProbe starts a module that Examine found good with a configuration as JSON. Errors are *LoadError.
func NewProbe(ctx context.Context, data []byte, config []byte, compiler *Compiler) (*Probe, error) {
	m, err := readModule(data)
	if err != nil {
		return nil, err
	}
	p := new(Probe)
	if p.pool, err = newPool(ctx, m, engine{compiler: compiler}, config, nil, 1); err != nil {
		return nil, err
	}
	p.in, err = p.pool.take()
	return p, err
}

// Answer is what became of one call.
type Answer struct {
	Return  int32  // length of the verdict, or an error of the ABI
	Verdict []byte // the caller's own
	Trap    string // fuel, depth, memory or trap; the instance is then replaced
	Err     error  // of a trap
	Fuel    uint64
}

// Fits reports whether the plugin's in region takes a request of n bytes.
func (p *Probe) Fits(n int) bool { return n <= int(p.pool.limits.InBytes) }

// Ask hands a request to the plugin. length is the argument of sluice_filter. An error means that there is no instance.
func (p *Probe) Ask(request []byte, length uint32) (a Answer, err error) {
	if p.in == nil {
		if p.in, err = p.pool.take(); err != nil {
			return a, err
		}
	}
	in := p.in
	if !p.Fits(len(request)) || !in.mem.Write(in.in, request) {
		return a, errTooLarge
	}
	in.stack[0] = uint64(length)
	a.Trap, a.Err = in.call(in.filter, p.pool.limits.Fuel)
	a.Fuel = in.used(p.pool.limits.Fuel)
	if a.Err != nil {
		p.pool.drop(in)
		p.in = nil
		return a, nil
	}
	a.Return = int32(uint32(in.stack[0]))
	if a.Return > 0 && uint32(a.Return) <= p.pool.limits.OutBytes {
		v, _ := in.mem.Read(in.out, uint32(a.Return))
		a.Verdict = bytes.Clone(v)
	}
	return a, nil
}

// Started is the fuel that starting took: _initialize, sluice_arena and sluice_configure.
func (p *Probe) Started() uint64 {
	if p.in == nil {
		return 0
	}
	return p.in.started
}

// Memory is the size of the instance's memory in bytes.
func (p *Probe) Memory() uint32 {
	if p.in == nil {
		return 0
	}
	return p.in.mem.Size()
}

// Close frees the instance.
func (p *Probe) Close() error {
	if p.in != nil {
		p.pool.put(p.in)
		p.in = nil
	}
	return p.pool.close()
}

// Interpreted makes env one whose plugins run as where the runtime has no compiler, to measure what that costs. Compiles
// reports whether there is a difference on this machine.
func Interpreted(env Env) Env {
	env.Interpret = true
	return env
}

// Compiles reports whether plugins are compiled on this machine.
func Compiles() bool { return compiles() }

// Request is the record that the plugin gets for a message, for its author's eyes and for self-tests. nil means that it does
// not fit into the plugin's in region.
func (p *Plugin) Request(m *gateway.Message, b *gateway.Body, c *gateway.Classification) []byte {
	buf := make([]byte, p.manifest.Limits.InBytes)
	n, ok := p.view.build(buf, new(scratch), m, b, c)
	if !ok {
		return nil
	}
	return buf[:n]
}

// Configuration is the configuration that the plugin is given, as JSON; relative paths start at dir.
func (c *PluginConfig) Configuration(dir string) ([]byte, error) { return c.configuration(dir) }
