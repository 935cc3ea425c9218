package main

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// entryFile is the operator's side of a plugin that lies beside its module in a project.
const entryFile = "plugin.yaml"

// authorFlags are those that the verbs for authors share.
type authorFlags struct {
	file, config, grants *string
}

func addAuthorFlags(fs *flag.FlagSet) authorFlags {
	return authorFlags{
		file:   fs.String("c", "", "`file` with the plugin under plugins: a gateway's configuration; plugin.yaml beside the module when absent"),
		config: fs.String("config", "", "JSON or YAML `file`, instead of the plugin's config there"),
		grants: fs.String("grants", "", "`list` of grants with commas between, instead of those there; none for no grant"),
	}
}

// authored is what an author's verb works on: a module, and the operator's side of it.
type authored struct {
	file     string // of the module
	module   []byte
	manifest *wasm.Manifest // nil when it cannot be read
	problems []error        // of the module alone
	entry    wasm.PluginConfig
	dir      string // relative files of the entry start here
	from     string // file that the entry was read from, "" for none
	cats     *catalog.Classifier
	compiled string // folder of compiled code, for as long as the verb runs
}

// close removes what the verb made for itself.
func (a *authored) close() { os.RemoveAll(a.compiled) }

// compiler compiles the module once, in another process as a gateway does.
func (a *authored) compiler() *wasm.Compiler { return newCompiler(a.compiled) }

// open reads a module, and finds its entry.
func (f authorFlags) open(file string, stderr io.Writer) (*authored, int) {
	module, err := readBounded(file, wasm.MaxModule)
	if err != nil {
		return nil, fail(stderr, err, moduleHint(file))
	}
	a := &authored{file: file, module: module, dir: filepath.Dir(file)}
	a.manifest, a.problems = wasm.Examine(module)
	name := strings.TrimSuffix(filepath.Base(file), ".wasm")
	if a.manifest != nil {
		name = a.manifest.Name
	}
	catalogs, status := a.readEntry(*f.file, name, stderr)
	if status != exitGood {
		return nil, status
	}
	if a.entry.Name == "" {
		a.entry.Name = name
	}
	a.entry.File = file
	if *f.config != "" {
		a.entry.Config, a.entry.ConfigFile = nil, *f.config
		if a.entry.ConfigFile, err = filepath.Abs(*f.config); err != nil {
			return nil, fail(stderr, err)
		}
	}
	switch {
	case *f.grants == "none":
		a.entry.Grants = nil
	case *f.grants != "":
		a.entry.Grants = strings.Split(*f.grants, ",")
	}
	if status := a.openCatalogs(catalogs, stderr); status != exitGood {
		return nil, status
	}
	if a.compiled, err = os.MkdirTemp("", "sluice-plugin-"); err != nil {
		return nil, fail(stderr, err)
	}
	return a, exitGood
}

// readEntry finds the plugin in a configuration, of which only this part has to be good.
func (a *authored) readEntry(file, name string, stderr io.Writer) (catalogs []string, status int) {
	if file == "" {
		file = filepath.Join(a.dir, entryFile)
		if _, err := os.Stat(file); err != nil {
			return nil, exitGood
		}
	} else if _, err := os.Stat(file); err != nil {
		return nil, fail(stderr, fmt.Errorf("read configuration: %w", err), "name it with -c FILE")
	}
	cfg, report := readConfig(file)
	for _, p := range report.Problems() {
		if p.Severity == config.Error && (p.Key == "" || strings.HasPrefix(p.Key, "plugins") || strings.HasPrefix(p.Key, "catalogs[")) {
			status = fail(stderr, fmt.Errorf("%s", p), p.Hint)
		}
	}
	if status != exitGood {
		return nil, status
	}
	i := slices.IndexFunc(cfg.Plugins, func(p wasm.PluginConfig) bool { return p.Name == name })
	if i < 0 {
		var have []string
		for _, p := range cfg.Plugins {
			have = append(have, p.Name)
		}
		return nil, fail(stderr, fmt.Errorf("read %q: no plugin is called %q", file, name), nearOr(name, have, "its name there is the name in the manifest"))
	}
	a.entry, a.dir, a.from = cfg.Plugins[i], filepath.Dir(file), file
	return cfg.Catalogs, exitGood
}

// openCatalogs opens catalogs: those of the configuration, else the shipped ones that have categories of the manifest.
func (a *authored) openCatalogs(names []string, stderr io.Writer) int {
	if len(names) == 0 && a.manifest != nil {
		for _, name := range catalog.Shipped {
			c, err := catalog.Builtin(name)
			if err != nil {
				return fail(stderr, err)
			}
			one, err := catalog.New(c)
			if err != nil {
				return fail(stderr, err)
			}
			if slices.ContainsFunc(one.Categories(), func(k gateway.Category) bool { return slices.Contains(a.manifest.Labels, k.ID) }) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		names = []string{"vehicle"}
	}
	list, err := loadCatalogs(&Config{Catalogs: names})
	if err != nil {
		return fail(stderr, err)
	}
	if a.cats, err = catalog.New(list...); err != nil {
		return fail(stderr, err)
	}
	return exitGood
}

// env is what a plugin is loaded with: its author vouches for it, and is told of its self-test by check.
func (a *authored) env() wasm.Env {
	sum := sha256.Sum256(a.module)
	return wasm.Env{Dir: a.dir, Pinned: []string{hex.EncodeToString(sum[:])}, Compiler: a.compiler(), Tested: true, Categories: a.cats.Categories(), Instances: 1,
		Pseudonym: func(source, client string) string { return "device" }}
}
