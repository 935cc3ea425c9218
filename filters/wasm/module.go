package wasm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-edge/sluice/filters/wasm/guard"
)

// module is a verified module: somebody vouched for its bytes before the first of them was read, and its structure keeps
// the rules. Pools are made of modules and of nothing else.
type module struct {
	digest   string // SHA-256 of the file, hexadecimal
	manifest *Manifest
	code     []byte // metered, without custom sections
	imports  []guard.Import
}

// ErrNotPinned means that nobody vouches for a module: its digest is not among those that the program loads, and no
// signature over it was verified.
var ErrNotPinned = errors.New("module is neither signed by a trusted key nor one of the program's own")

// verify turns the bytes of a file into a module. Nothing is parsed before it is known who vouches for it.
func verify(data []byte, env *Env) (*module, error) {
	if len(data) > MaxModule {
		return nil, refuse(LoadGuard, fmt.Errorf("module has %d bytes; at most %d are allowed", len(data), MaxModule))
	}
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	if env.Signer == nil && !slices.Contains(env.Pinned, digest) {
		return nil, refuse(LoadUnsigned, fmt.Errorf("%w (sha256 %s)", ErrNotPinned, digest))
	}
	m, err := readModule(data)
	if err != nil {
		return nil, err
	}
	m.digest = digest
	return m, nil
}

const manifestSection = "sluice.manifest"

// readModule decodes a module, reads its manifest, holds one against the other and meters what is left.
func readModule(data []byte) (*module, error) {
	limits := guard.DefaultLimits()
	limits.Size, limits.MemoryPages = MaxModule, maxPages
	limits.Import = func(i guard.Import) bool { return known(i) }
	g, err := guard.Read(data, limits)
	if err != nil {
		return nil, refuse(LoadGuard, fmt.Errorf("check module: %w", err))
	}
	m := &module{imports: g.Imports}
	for _, c := range g.Custom {
		if c.Name != manifestSection {
			continue
		}
		if m.manifest != nil {
			return nil, refuse(LoadManifest, errors.New("more than one manifest"))
		}
		if m.manifest, err = parseManifest(c.Data); err != nil {
			return nil, refuse(LoadManifest, err)
		}
	}
	if m.manifest == nil {
		return nil, refuse(LoadManifest, errors.New("no custom section "+manifestSection))
	}
	if limit := m.manifest.Limits.MemoryPages; g.MemoryMin > limit {
		return nil, refuse(LoadManifest, fmt.Errorf("memory starts with %d pages; the limit is %d", g.MemoryMin, limit))
	}
	if err := first(m.manifest.importProblems(m.imports)); err != nil {
		return nil, refuse(LoadManifest, err)
	}
	if err := first(exportProblems(g.Exports)); err != nil {
		return nil, refuse(LoadExports, fmt.Errorf("check exports: %w", err))
	}
	m.code = g.Meter()
	return m, nil
}

// importProblems allows what the profile has, and the log to who asks for the grant.
func (m *Manifest) importProblems(imports []guard.Import) (problems []error) {
	for _, i := range imports {
		switch {
		case i.Module == wasiModule && m.Profile != profileWASI:
			problems = append(problems, fmt.Errorf("module imports %s.%s, which only the profile %s has", i.Module, i.Name, profileWASI))
		case i.Module == logModule && !slices.Contains(m.Grants, "log"):
			problems = append(problems, fmt.Errorf("module imports %s.%s without asking for the grant log", i.Module, i.Name))
		}
	}
	return problems
}

// first is the first of the problems, nil when there is none.
func first(problems []error) error {
	if len(problems) == 0 {
		return nil
	}
	return problems[0]
}

// signature of an export.
type signature struct {
	params, results string
	optional        bool
}

const (
	i32 = string(rune(guard.I32))
	i64 = string(rune(guard.I64))
)

// exports are the functions of the ABI. sluice_abi_v1 marks the version and is never called.
var exports = map[string]signature{
	"sluice_abi_v1":    {},
	"_initialize":      {optional: true},
	"sluice_arena":     {params: i32 + i32, results: i64},
	"sluice_configure": {params: i32, results: i32, optional: true},
	"sluice_filter":    {params: i32, results: i32},
}

func exportProblems(have []guard.Export) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(exports)) {
		want := exports[name]
		i := slices.IndexFunc(have, func(e guard.Export) bool { return e.Name == name })
		switch {
		case i < 0 && want.optional:
		case i < 0:
			problems = append(problems, fmt.Errorf("%s is missing", name))
		case have[i].Kind != guard.Func || string(have[i].Type.Params) != want.params || string(have[i].Type.Results) != want.results:
			problems = append(problems, fmt.Errorf("%s has another type", name))
		}
	}
	for _, e := range have {
		if e.Name == "sluice_state_export" || e.Name == "sluice_state_import" {
			problems = append(problems, fmt.Errorf("%s is reserved", e.Name))
		}
	}
	return problems
}

// ReadManifest returns the manifest in a module. Whoever calls it has verified the signature over the same bytes.
func ReadManifest(data []byte) (*Manifest, error) {
	m, err := readModule(data)
	if err != nil {
		return nil, err
	}
	return m.manifest, nil
}

// LoadError is why a plugin does not load, by a code that is safe for records and metrics.
type LoadError struct {
	Code string // one of LoadErrorCodes
	Err  error
}

func (e *LoadError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *LoadError) Unwrap() error { return e.Err }

// Codes of a LoadError, in the order of the steps of a load.
const (
	LoadConfig    = "config"         // the operator's side of it: file, topics, categories, edits
	LoadUnsigned  = "unsigned"       // nobody vouches for the file
	LoadGuard     = "guard"          // the module's structure, or what it would cost a compiler
	LoadManifest  = "manifest"       // the manifest, or it and the module do not agree
	LoadExports   = "exports"        // a function of the ABI is missing or has another type
	LoadCompile   = "compile"        // the compiler refuses it or died
	LoadTime      = "compile_time"   // compiling took too long
	LoadMemory    = "compile_memory" // compiling took too much memory
	LoadStart     = "start"          // it cannot be instantiated, initialized, or gives no regions
	LoadConfigure = "configure"      // the plugin does not accept its configuration
	LoadVectors   = "vectors"        // its self-test
)

// LoadErrorCodes lists the codes, for metrics.
var LoadErrorCodes = []string{LoadConfig, LoadUnsigned, LoadGuard, LoadManifest, LoadExports, LoadCompile, LoadTime, LoadMemory, LoadStart, LoadConfigure, LoadVectors}

func refuse(code string, err error) error {
	if err == nil {
		return nil
	}
	return &LoadError{code, err}
}
