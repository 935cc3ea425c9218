package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"slices"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/plugins/geofence"
)

// shippedPlugins are the modules that the program carries.
var shippedPlugins = map[string][]byte{"geofence": geofence.Wasm}

// pinnedPlugins are the digests of the modules that may load.
var pinnedPlugins = []string{geofence.Digest}

// loadPlugin loads one plugin for the categories of the set.
func loadPlugin(c *wasm.PluginConfig, set *gateway.VersionSet, in surroundings) (*wasm.Plugin, error) {
	pseudonym, err := newPseudonym()
	if err != nil {
		return nil, err
	}
	return wasm.Open(context.Background(), *c, wasm.Env{Builtin: shippedPlugins, Pinned: pinnedPlugins,
		Compiler: newCompiler(in.compiled), Categories: set.Classifier.Categories(), Pseudonym: pseudonym, Log: in.log,
		OnStrike: func(plugin, code string) { in.log.Error("plugin instance dropped", "plugin", plugin, "err", code) }})
}

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
func newPseudonym() (func(source, client string) string, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return func(source, client string) string {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(source + "\x00" + client))
		return hex.EncodeToString(h.Sum(nil)[:8])
	}, nil
}

// timed measures a plugin's calls.
type timed struct {
	*wasm.Plugin
	observe  func(time.Duration)
	encrypts []string
}

// Filter implements gateway.Filter.
func (t timed) Filter(m *gateway.Message, b *gateway.Body, c *gateway.Classification, o *gateway.Opinion) error {
	began := time.Since(started)
	err := t.Plugin.Filter(m, b, c, o)
	t.observe(time.Since(started) - began)
	return err
}

// started is when the process began: the time since is one reading of one clock, where time.Now takes two.
var started = time.Now()

// Encrypts lists the recipients that the plugin's edits may encrypt to.
func (t timed) Encrypts() []string { return t.encrypts }

func encryptsOf(c *wasm.PluginConfig) []string {
	var to []string
	for _, op := range c.Operations() {
		if op.Action == gateway.Encrypt && !slices.Contains(to, op.To) {
			to = append(to, op.To)
		}
	}
	return to
}
