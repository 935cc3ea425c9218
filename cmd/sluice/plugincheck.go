package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/plugins/conformance"
)

// checkReport is what plugin check --json prints; the names are fixed.
type checkReport struct {
	OK       bool           `json:"ok"`
	Errors   []string       `json:"errors"`
	Hints    []string       `json:"hints"`
	Manifest *wasm.Manifest `json:"manifest"`
	Fuel     checkFuel      `json:"fuel"`
	Digest   string         `json:"digest"`
	Bytes    int            `json:"bytes"`
	Memory   uint32         `json:"memory_bytes"`
	Cases    int            `json:"cases"` // of conformance, and of the self-test
	SelfTest int            `json:"self_test"`
}

// checkFuel is what calls took, and what they may take.
type checkFuel struct {
	Start        uint64 `json:"start"` // all that comes before the first message
	StartLimit   uint64 `json:"start_limit"`
	Message      uint64 `json:"message"` // the most of any case
	MessageLimit uint64 `json:"message_limit"`
}

// pluginCheck reports everything that would keep a module from being a plugin.
func pluginCheck(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("plugin check", "[-c FILE] [--config FILE] [--json] FILE.wasm")
	flags := addAuthorFlags(fs)
	asJSON := fs.Bool("json", false, "print one line of JSON")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) != 1 {
		return usage(stderr, errors.New("plugin check: want one module"), "for example: sluice plugin check speedguard.wasm")
	}
	a, status := flags.open(rest[0], stderr)
	if status != exitGood {
		return status
	}
	defer a.close()
	r := a.check()
	if *asJSON {
		if status := printJSON(stdout, stderr, r); status != exitGood || r.OK {
			return status
		}
		return exitBad
	}
	for i, e := range r.Errors {
		fail(stderr, errors.New(e), r.Hints[i])
	}
	if !r.OK {
		return exitBad
	}
	m := r.Manifest
	fmt.Fprintf(stdout, "%s  %s %s, serial %d: ok\n", a.file, m.Name, m.Version, m.Serial)
	fmt.Fprintf(stdout, "  module   %d bytes, sha256 %s\n", r.Bytes, r.Digest)
	fmt.Fprintf(stdout, "  start    %d of %d fuel, then %d KiB of memory\n", r.Fuel.Start, r.Fuel.StartLimit, r.Memory>>10)
	fmt.Fprintf(stdout, "  message  at most %d of %d fuel in %d cases\n", r.Fuel.Message, r.Fuel.MessageLimit, r.Cases+r.SelfTest)
	for _, g := range m.Grants {
		fmt.Fprintf(stdout, "  asks for %s\n", g)
	}
	if r.SelfTest == 0 {
		fmt.Fprintf(stdout, "  no self-test: sluice plugin run --vectors %s %s MESSAGES writes one\n", a.vectorsFile(), a.file)
	}
	return exitGood
}

func (a *authored) vectorsFile() string {
	return strings.TrimSuffix(a.file, ".wasm") + wasm.VectorsSuffix
}

// bad notes an error, and what to do about it.
func (r *checkReport) bad(err error, hint string) {
	r.Errors, r.Hints = append(r.Errors, err.Error()), append(r.Hints, hint)
}

// check runs what can be run. What stands behind a step that failed is not tried.
func (a *authored) check() *checkReport {
	sum := sha256.Sum256(a.module)
	r := &checkReport{Errors: []string{}, Hints: []string{}, Manifest: a.manifest, Bytes: len(a.module), Digest: hex.EncodeToString(sum[:])}
	for _, err := range a.problems {
		r.bad(err, checkHint(err, a))
	}
	if len(r.Errors) > 0 {
		return r
	}
	r.Fuel.StartLimit, r.Fuel.MessageLimit = a.manifest.Limits.FuelInit, a.manifest.Limits.Fuel
	if plugin, err := wasm.Load(context.Background(), a.entry, a.module, a.env()); err != nil {
		r.bad(err, checkHint(err, a))
		return r
	} else {
		plugin.Close()
	}
	settings, err := a.entry.Configuration(a.dir)
	if err != nil {
		r.bad(err, checkHint(err, a))
		return r
	}
	a.conform(r, settings)
	a.selfTest(r)
	r.OK = len(r.Errors) == 0
	return r
}

// conform asks what every plugin has to answer, on two instances: the second has to say the same for the same fuel.
func (a *authored) conform(r *checkReport, settings []byte) {
	var before []wasm.Answer
	for instance := range 2 {
		p, err := wasm.NewProbe(context.Background(), a.module, settings, a.compiler())
		if err != nil {
			r.bad(err, checkHint(err, a))
			return
		}
		r.Fuel.Start = max(r.Fuel.Start, p.Started())
		n := 0
		for _, c := range conformance.Cases() {
			if !p.Fits(len(c.Request)) {
				continue
			}
			got, err := p.Ask(c.Request, c.Length)
			if err != nil {
				r.bad(err, checkHint(err, a))
				break
			}
			if instance == 0 {
				before = append(before, got)
				r.judge("conformance case "+c.Name, &c, got)
			} else if b := before[n]; b.Return != got.Return || !bytes.Equal(b.Verdict, got.Verdict) || b.Fuel != got.Fuel {
				r.bad(fmt.Errorf("conformance case %s: a fresh instance answers otherwise, or for other fuel (%d, then %d)", c.Name, b.Fuel, got.Fuel),
					"a verdict may depend on the request and the configuration alone")
				break
			}
			n++
		}
		r.Cases, r.Memory = n, max(r.Memory, p.Memory())
		p.Close()
	}
}

// judge notes an answer that is not the one.
func (r *checkReport) judge(what string, c *conformance.Case, got wasm.Answer) {
	r.Fuel.Message = max(r.Fuel.Message, got.Fuel)
	if got.Err != nil {
		r.bad(fmt.Errorf("%s: %s: %w", what, got.Trap, got.Err), trapHint(got.Trap, c))
		return
	}
	if ok, want := c.Accepts(got.Return, got.Verdict); !ok {
		said := fmt.Sprintf("error %d", got.Return)
		if got.Return > 0 {
			said = fmt.Sprintf("a verdict of %d bytes", got.Return)
		}
		if line, _, long := strings.Cut(want, " "); long && line == "verdict" {
			want = "the verdict " + strings.TrimPrefix(want, "verdict ")
		}
		r.bad(fmt.Errorf("%s: says %s; want %s", what, said, clipText(want, 80)), "compare the request with the package documentation of filters/wasm; the kit answers as it should")
	}
}

// trapHint says where to look after a trap.
func trapHint(code string, c *conformance.Case) string {
	if _, want := c.Accepts(0, nil); strings.HasPrefix(want, "error -1") {
		return "a request that breaks a rule is an error, -1, and no trap: the kit sees to it before the filter is called"
	}
	return codeHint(code)
}

// codeHint says where to look when a plugin fails on a whole request.
func codeHint(code string) string {
	switch code {
	case "fuel":
		return "a loop without end, or limits in manifest.json: fuel is what one message may take, fuel_init what each call of a start may"
	case "depth":
		return "a recursion without end, or limits in manifest.json: depth"
	case "memory":
		return "limits in manifest.json: memory_pages; memory that is taken for a message is to be given back"
	case "trap":
		return "a panic, an access outside of the memory, or unreachable, in the filter"
	case "too_large":
		return "limits in manifest.json: in_bytes"
	case "negative":
		return "-4 is a mistake of the filter: edits that overlap, an unknown grade, fail; -3 wants a larger out_bytes in limits"
	}
	return ""
}

func clipText(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// selfTest runs the file that the manifest names by its digest.
func (a *authored) selfTest(r *checkReport) {
	file := a.vectorsFile()
	text, err := readBounded(file, wasm.MaxVectors)
	switch {
	case errors.Is(err, os.ErrNotExist) && a.manifest.Vectors == "":
		return
	case err != nil:
		r.bad(err, "the manifest names a self-test; sluice plugin run --vectors "+file+" "+a.file+" MESSAGES writes one")
		return
	}
	sum := sha256.Sum256(text)
	if have := hex.EncodeToString(sum[:]); have != a.manifest.Vectors {
		r.bad(fmt.Errorf("%s: its SHA-256 is not the one in the manifest", file), "build again: sluice plugin pack --manifest manifest.json --vectors "+file+" "+a.file)
	}
	list, err := conformance.Read(text)
	if err != nil {
		r.bad(fmt.Errorf("read %q: %w", file, err), "the format is in plugins/conformance/README.md")
		return
	}
	probes := map[string]*wasm.Probe{}
	defer func() {
		for _, p := range probes {
			p.Close()
		}
	}()
	for _, c := range list {
		p := probes[c.Config]
		if p == nil {
			if p, err = wasm.NewProbe(context.Background(), a.module, []byte(c.Config), a.compiler()); err != nil {
				r.bad(fmt.Errorf("self-test %q: %w", c.Name, err), "")
				return
			}
			probes[c.Config] = p
		}
		got, err := p.Ask(c.Request, c.Length)
		if err != nil {
			r.bad(fmt.Errorf("self-test %q: %w", c.Name, err), "")
			return
		}
		r.SelfTest++
		if r.Fuel.Message = max(r.Fuel.Message, got.Fuel); got.Err != nil {
			r.bad(fmt.Errorf("self-test %q: %s: %w", c.Name, got.Trap, got.Err), "")
		} else if ok, _ := c.Accepts(got.Return, got.Verdict); !ok {
			r.bad(fmt.Errorf("self-test %q: another verdict than the file has", c.Name), "when the new one is right: sluice plugin run --vectors "+file+" "+a.file+" MESSAGES, and build again")
		}
	}
}

// checkHint says what to do about a problem of a module.
func checkHint(err error, a *authored) string {
	var le *wasm.LoadError
	if !errors.As(err, &le) {
		return ""
	}
	text := le.Error()
	has := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case le.Code == wasm.LoadGuard && has("no WebAssembly"):
		return "this is no module: build it first, ./build.sh"
	case le.Code == wasm.LoadGuard && has("import"):
		return "a plugin imports nothing (profile bare), or with the profile wasi-stub what stock Go needs to start; which function wants this one?"
	case le.Code == wasm.LoadGuard:
		return "docs/plugins.md, Limits, says what a module may have"
	case has("no custom section"):
		return "sluice plugin pack --manifest manifest.json " + a.file
	case has("which only the profile"):
		return `in manifest.json: "profile": "wasi-stub", which plugins made with Go need and no others`
	case has("grant log"):
		return `in manifest.json: "grants": ["log"]`
	case le.Code == wasm.LoadManifest:
		return "correct manifest.json and build again"
	case le.Code == wasm.LoadExports:
		return "the kit exports what the ABI asks for: sluice.Main (Go), SLUICE_FILTER (C), sluice::filter! (Rust), export { … } from \"./sluice/sluice\" (AssemblyScript)"
	case le.Code == wasm.LoadConfigure && a.from == "" && a.entry.ConfigFile == "":
		return "--config FILE gives it a configuration, and so does config in " + entryFile + " beside the module"
	case le.Code == wasm.LoadConfigure:
		return "correct config in " + a.from
	case le.Code == wasm.LoadStart:
		return "limits in manifest.json: fuel_init for what starting takes, memory_pages for its memory, in_bytes and out_bytes for its regions"
	case le.Code == wasm.LoadConfig && a.from != "":
		return "correct " + a.from
	}
	return ""
}
