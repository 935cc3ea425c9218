package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
	"github.com/sluice-edge/sluice/plugins/bundle"
)

func isShippedCatalog(name string) bool { return slices.Contains(catalog.Shipped, name) }

// isShippedPlugin reports whether a module is carried by the program instead of read from a file.
func isShippedPlugin(file string) bool { return strings.HasPrefix(file, wasm.BuiltinScheme) }

// shippedCatalogs lists the versions of the catalogs that the program carries.
func shippedCatalogs() map[string]string {
	versions := map[string]string{}
	for _, name := range catalog.Shipped {
		if c, err := catalog.Builtin(name); err == nil {
			versions[name] = fmt.Sprint(c.Version)
		}
	}
	return versions
}

// lintCatalog reports the problems of one catalog file.
func lintCatalog(file string) []config.Problem {
	data, err := config.ReadFile(file)
	if err != nil {
		return []config.Problem{{Severity: config.Error, File: file, Line: 1, Column: 1, Message: err.Error()}}
	}
	_, report := catalog.Load(file, data)
	return report.Problems()
}

// checkCatalogs reads the catalogs and returns the categories in force, nil when there is an error in one of them.
func (c *Config) checkCatalogs(r *config.Report) []gateway.Category {
	var list []*catalog.Catalog
	good := !r.Failed("catalogs") && len(c.Catalogs) > 0
	for i, name := range c.Catalogs {
		at := config.Index("catalogs", i)
		if slices.Contains(c.Catalogs[:i], name) {
			r.Error(at, fmt.Sprintf("catalog %q stands twice", filepath.Base(name)), "keep one")
			good = false
			continue
		}
		if isShippedCatalog(name) {
			k, err := catalog.Builtin(name)
			if err != nil {
				panic("sluice: shipped catalog: " + err.Error())
			}
			list = append(list, k)
			continue
		}
		data, err := config.ReadFile(name)
		if err != nil {
			r.Error(at, fmt.Sprintf("catalog %q is neither shipped (%s) nor a file that can be read", filepath.Base(name), strings.Join(catalog.Shipped, ", ")),
				nearOr(filepath.Base(name), catalog.Shipped, "write the path of your file: ./site.catalog.yaml"))
			good = false
			continue
		}
		k, report := catalog.Load(name, data)
		for _, p := range report.Problems() {
			r.Add(p)
		}
		if good = good && report.OK(); report.OK() {
			list = append(list, k)
		}
	}
	if !good {
		return nil
	}
	joined, err := catalog.New(list...)
	if err != nil {
		r.Error("catalogs", err.Error(), "give every category an id of its own")
		return nil
	}
	return joined.Categories()
}

// checkPlugins checks what the plugins name.
func (c *Config) checkPlugins(r *config.Report, cats []gateway.Category) {
	namesOf(r, "plugins", "a plugin", len(c.Plugins), func(i int) string { return c.Plugins[i].Name })
	var uplinks, ids []string
	for _, u := range c.Uplinks {
		uplinks = append(uplinks, u.Name)
	}
	for _, k := range cats {
		ids = append(ids, k.ID)
	}
	for i := range c.Plugins {
		p, at := &c.Plugins[i], config.Index("plugins", i)
		p.Check(r, at)
		checkModule(r, at+".file", p.File)
		if p.ConfigFile != "" {
			if _, err := os.Stat(p.ConfigFile); err != nil {
				r.Error(at+".config_file", fmt.Sprintf("file %q cannot be read", p.ConfigFile), "relative paths start at the folder of the configuration file")
			}
		}
		for j, name := range p.Uplinks {
			if !slices.Contains(uplinks, name) {
				r.Error(config.Index(at+".uplinks", j), fmt.Sprintf("no uplink is called %q", name), nearOr(name, uplinks, "have: "+strings.Join(uplinks, ", ")))
			}
		}
		for j, grant := range p.Grants {
			_, id, ok := strings.Cut(grant, ":")
			if ok && cats != nil && !strings.Contains(id, "*") && !slices.Contains(ids, id) {
				r.Error(config.Index(at+".grants", j), fmt.Sprintf("no catalog in force has a category %q", id), nearOr(id, ids, "grant a category of the catalogs under catalogs"))
			}
		}
		for _, op := range p.Operations() {
			if op.Domain != "" && c.TokenDomains[op.Domain].Key == "" {
				r.Error(at+".edits", fmt.Sprintf("token domain %q is not under token_domains", op.Domain), "add token_domains: { "+op.Domain+": { key: tokens-"+op.Domain+" } }")
			}
			if op.To != "" && c.Keys.Recipients[op.To] == "" {
				r.Error(at+".edits", fmt.Sprintf("recipient %q is not under keys.recipients", op.To), "add keys: { recipients: { "+op.To+": "+op.To+".pub } }")
			}
		}
	}
}

// checkTrust reads the trust file, and warns of plugins that nobody could bring.
func (c *Config) checkTrust(r *config.Report, now time.Time) {
	if c.Trust == "" {
		return
	}
	if _, err := os.Stat(c.Trust); errors.Is(err, fs.ErrNotExist) {
		r.Error("trust", fmt.Sprintf("trust file %q is missing", c.Trust), "an empty file trusts nobody; sluice keys export --id NAME --trust prints an entry")
		return
	}
	trust, report := bundle.ReadTrust(c.Trust)
	for _, p := range report.Problems() {
		r.Add(p)
	}
	if trust == nil {
		return
	}
	for _, k := range trust.Keys() {
		if left := k.End().Sub(now); !k.Revoked.Is && left < 30*24*time.Hour {
			message := fmt.Sprintf("key %q brings new versions for %.0f more days", k.ID, days(left))
			if left <= 0 {
				message = fmt.Sprintf("key %q has expired: it brings no new versions", k.ID)
			}
			r.Warn("trust", message, "renew expires in the trust file, or ask for another key")
		}
	}
	for i, p := range c.Plugins {
		if p.Name != "" && !isShippedPlugin(p.File) && !trust.Covers(p.Name) {
			r.Warn(config.Index("plugins", i)+".name", fmt.Sprintf("no key of the trust file may sign a plugin called %q", p.Name), "add the name to the names of a key")
		}
	}
}

// lintTrust reports the problems of a trust file alone.
func lintTrust(file string) []config.Problem {
	_, report := bundle.ReadTrust(file)
	return report.Problems()
}

// checkModule checks that a plugin's module can be had: this version carries one and loads no others.
func checkModule(r *config.Report, at, file string) {
	name, shipped := strings.CutPrefix(file, wasm.BuiltinScheme)
	switch {
	case file == "" || shipped && shippedPlugins[name] != nil:
	case shipped:
		have := slices.Sorted(maps.Keys(shippedPlugins))
		r.Error(at, fmt.Sprintf("no module %q is built in", name), "have "+wasm.BuiltinScheme+strings.Join(have, ", "+wasm.BuiltinScheme))
	default:
		if _, err := os.Stat(file); err != nil {
			r.Error(at, fmt.Sprintf("module %q cannot be read", file), "file: "+wasm.BuiltinScheme+"geofence, or a path that starts at the folder of the configuration file")
		}
	}
}

// tryPlugins loads every plugin with its configuration, as run will, and reports what does not load.
func (c *Config) tryPlugins(r *config.Report) {
	if len(c.Plugins) == 0 || !r.OK() {
		return
	}
	catalogs, err := loadCatalogs(c)
	if err != nil {
		return // reported
	}
	classifier, err := catalog.New(catalogs...)
	if err != nil {
		return // reported
	}
	dry := &built{cfg: c, set: &gateway.VersionSet{Classifier: classifier}}
	if c.Trust != "" {
		dry.trust, _ = bundle.ReadTrust(c.Trust) // its problems are reported
	}
	in := throwAway(slog.New(slog.DiscardHandler))
	for i := range c.Plugins {
		at := config.Index("plugins", i)
		loaded, err := in.fromFile(dry, i)
		if err == nil {
			closePlace(loaded)
			continue
		}
		var refusal *bundle.Refusal
		hint := "correct what the plugin reads: config, config_file, grants and edits"
		switch {
		case errors.As(err, &refusal):
			at, hint = at+".file", refusal.Hint()
			if c.Trust == "" {
				hint = "trust: trust.yaml, with the key that signs it; or file: " + wasm.BuiltinScheme + "geofence"
			}
		case refusalCode(err) == "other_name":
			at, hint = at+".name", "name the plugin as its manifest does"
		case r.Has(at + ".config"):
			at += ".config"
		case r.Has(at + ".config_file"):
			at += ".config_file"
		}
		r.Error(at, "plugin does not load: "+err.Error(), hint)
	}
}
