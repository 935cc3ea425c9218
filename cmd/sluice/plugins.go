package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/fleet"
	"github.com/sluice-edge/sluice/plugins/bundle"
	"github.com/sluice-edge/sluice/plugins/geofence"
	"github.com/sluice-edge/sluice/plugins/media"
	recipe "github.com/sluice-edge/sluice/plugins/process-recipe"
	"github.com/sluice-edge/sluice/plugins/trackguard"
)

// shippedPlugins are the modules that the program carries.
var shippedPlugins = map[string][]byte{"geofence": geofence.Wasm, "media": media.Wasm, "process-recipe": recipe.Wasm, "trackguard": trackguard.Wasm}

// pinnedPlugins are the digests of the modules that may load without a signature: they are part of the program.
var pinnedPlugins = []string{geofence.Digest, media.Digest, recipe.Digest, trackguard.Digest}

// offer is a module that may come in force in a slot, with what vouches for it.
type offer struct {
	fleet.Bundle
	fleet.Version
	name   string         // in its manifest
	signer *bundle.Signer // nil: the program knows it by digest
	fresh  bool           // taken in now: not tested before
}

// vouch checks the signature over the bytes of a module, then reads the manifest. One that is fresh is taken in now: its key
// must not have expired.
func vouch(b fleet.Bundle, trust *bundle.Trust, fresh bool) (*offer, error) {
	if len(b.Module) > wasm.MaxModule {
		return nil, fmt.Errorf("module has more than %d bytes", wasm.MaxModule)
	}
	sum := sha256.Sum256(b.Module)
	of := &offer{Bundle: b, Version: fleet.Version{Digest: hex.EncodeToString(sum[:])}, fresh: fresh}
	if len(b.Sig) > 0 || !slices.Contains(pinnedPlugins, of.Digest) {
		var err error
		if fresh {
			now, clockSet := gateway.SystemClock()
			of.signer, err = bundle.Verify(b.Module, b.Sig, trust, now, clockSet)
		} else {
			of.signer, err = bundle.Recheck(b.Module, b.Sig, trust)
		}
		if err != nil {
			return of, err
		}
		of.Key = of.signer.Key
	}
	m, err := wasm.ReadManifest(b.Module)
	if err != nil {
		return of, &moduleError{"manifest", err}
	}
	of.name, of.Serial = m.Name, m.Serial
	if of.signer != nil {
		return of, of.signer.CheckName(m.Name)
	}
	return of, nil
}

// fits reports whether the module may have the slot of that name. Those of the program may have any.
func (of *offer) fits(name string) error {
	if of.signer != nil && of.name != name {
		return &moduleError{"other_name", fmt.Errorf("module is for a plugin called %q", of.name)}
	}
	return nil
}

// moduleError is why a module does not come in, with a code for the record.
type moduleError struct {
	code string
	err  error
}

func (e *moduleError) Error() string { return e.err.Error() }
func (e *moduleError) Unwrap() error { return e.err }

// refusalCode is the code of an error for records: nothing of its text.
func refusalCode(err error) string {
	var signature *bundle.Refusal
	var module *moduleError
	var load *wasm.LoadError
	switch {
	case errors.As(err, &signature):
		return string(signature.Reason)
	case errors.As(err, &module):
		return module.code
	case errors.As(err, &load):
		return load.Code
	case errors.Is(err, fleet.ErrPending):
		return "pending"
	case errors.Is(err, fleet.ErrRefused):
		return "refused_before"
	case errors.Is(err, fs.ErrNotExist):
		return "missing"
	}
	return "does_not_load"
}

// offerOf reads the module that the configuration names and what vouches for it.
func offerOf(c *wasm.PluginConfig, trust *bundle.Trust) (*offer, error) {
	module, err := c.Module("", shippedPlugins)
	if err != nil {
		return nil, err
	}
	b := fleet.Bundle{Module: module}
	if !isShippedPlugin(c.File) {
		if b.Sig, err = readBounded(c.File+bundle.Suffix, bundle.MaxSignature); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if b.Vectors, err = c.Vectors(""); err != nil {
		return nil, err
	}
	of, err := vouch(b, trust, true)
	if err == nil {
		err = of.fits(c.Name)
	}
	return of, err
}

// fitted is one version of a plugin under one configuration, as version sets have it. Sets that follow each other share it;
// it is closed with the last one.
type fitted struct {
	*wasm.Plugin
	of       fleet.Version
	observe  func(time.Duration)
	encrypts []string
	tell     func(f *fitted, code string, third bool) // of a strike; must not block
	sets     atomic.Int32
	struck   atomic.Bool
	mu       sync.Mutex // guards what follows
	strikes  fleet.Strikes
	lost     int           // instances since toldAt that the record does not have
	toldAt   time.Duration // since the process began; 0: never
}

// fit loads a module for a slot.
func (in *surroundings) fit(c *wasm.PluginConfig, of *offer, categories []gateway.Category, shadow bool) (*fitted, error) {
	f := &fitted{of: of.Version, observe: func(time.Duration) {}, encrypts: encryptsOf(c), tell: in.strike}
	if !shadow { // its time is nobody's
		f.observe = in.observe(c.Name)
	}
	env := wasm.Env{Pinned: pinnedPlugins, Vectors: of.Vectors, Tested: !of.fresh || of.signer == nil, Compiler: newCompiler(in.compiled), Categories: categories, Pseudonym: in.pseudonym, Counts: in.counts, Shadow: shadow, Log: in.log,
		OnStrike: func(_, code string) { f.strike(code) }}
	if of.signer != nil {
		env.Signer = &wasm.Signer{Key: of.Key, Limit: of.signer.Limit}
		if _, refused := of.signer.Limit(c.Grants); len(refused) > 0 {
			in.log.Warn("grants without effect: the key of the plugin may not have them", "plugin", c.Name, "grants", refused)
		}
	}
	var err error
	f.Plugin, err = wasm.Load(context.Background(), *c, of.Module, env)
	return f, err
}

// strike notes a lost instance; the third within a minute takes the version out of service.
func (f *fitted) strike(code string) {
	f.mu.Lock()
	third := f.strikes.Add(time.Since(started))
	f.mu.Unlock()
	third = third && f.struck.CompareAndSwap(false, true)
	if f.tell != nil {
		f.tell(f, code, third)
	}
}

// errStruck is the answer of a version that is out of service.
var errStruck = errors.New("plugin lost three instances within a minute")

// Filter implements gateway.Filter.
func (f *fitted) Filter(m *gateway.Message, b *gateway.Body, c *gateway.Classification, o *gateway.Opinion) error {
	if f.struck.Load() {
		return &gateway.FilterError{Code: "struck", Err: errStruck}
	}
	began := time.Since(started)
	err := f.Plugin.Filter(m, b, c, o)
	f.observe(time.Since(started) - began)
	return err
}

// Encrypts lists the recipients that the plugin's edits may encrypt to.
func (f *fitted) Encrypts() []string { return f.encrypts }

func (f *fitted) hold() {
	if f != nil {
		f.sets.Add(1)
	}
}

func (f *fitted) release() {
	if f != nil && f.sets.Add(-1) == 0 {
		f.Close()
	}
}

// absent stands in for a plugin of which no version loads: every message on its topics takes on_error.
type absent struct {
	name     string
	encrypts []string
	why      string // code
}

var errAbsent = errors.New("no version of the plugin loads")

// Name implements gateway.Filter.
func (a absent) Name() string { return a.name }

// Filter implements gateway.Filter.
func (a absent) Filter(*gateway.Message, *gateway.Body, *gateway.Classification, *gateway.Opinion) error {
	return &gateway.FilterError{Code: "absent", Err: errAbsent}
}

// Encrypts lists the recipients that the plugin's edits may encrypt to.
func (a absent) Encrypts() []string { return a.encrypts }

// compileVerb is a verb that help does not show: the program starts itself with it to compile a plugin.
const compileVerb = "compile-plugin"

// compilePluginVerb is the program as the other process of a wasm.Compiler.
func compilePluginVerb(args []string, stdin io.Reader, _, stderr io.Writer) int {
	return wasm.CompileChild(args, stdin, stderr)
}

// newCompiler compiles plugins in this program, started again, for a folder of compiled code or for nobody.
func newCompiler(folder string) *wasm.Compiler {
	self := "/proc/self/exe" // the program that runs, also when its file was replaced
	if _, err := os.Stat(self); err != nil {
		if self, err = os.Executable(); err != nil {
			self = os.Args[0]
		}
	}
	return &wasm.Compiler{Command: []string{self, compileVerb}, Cache: folder}
}

// newPseudonym makes names for devices that plugins may see: the same device has the same name until the next start.
func newPseudonym() func(source, client string) string {
	key := make([]byte, 32)
	rand.Read(key) // never fails since Go 1.24
	return func(source, client string) string {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(source + "\x00" + client))
		return hex.EncodeToString(h.Sum(nil)[:8])
	}
}

// started is when the process began: the time since is one reading of one clock, where time.Now takes two.
var started = time.Now()

func encryptsOf(c *wasm.PluginConfig) []string {
	var to []string
	for _, op := range c.Operations() {
		if op.Action == gateway.Encrypt && !slices.Contains(to, op.To) {
			to = append(to, op.To)
		}
	}
	return to
}
