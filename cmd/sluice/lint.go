package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	yaml "go.yaml.in/yaml/v4"

	"github.com/sluice-edge/sluice/gateway/config"
)

// lintReport is what lint --json prints.
type lintReport struct {
	Problems []config.Problem `json:"problems"`
}

// lintVerb reports every problem of configuration, catalog and trust files. It reads the files that they name, never data_dir.
func lintVerb(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("lint", "[--strict] [--json] FILE…")
	strict := fs.Bool("strict", false, "warnings are not good either")
	asJSON := fs.Bool("json", false, "print one line of JSON")
	rate := fs.Float64("rate", estimatedRate, "messages a second assumed for the days until a budget is full; 0: no estimate")
	files, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(files) == 0 {
		return usage(stderr, fmt.Errorf("lint: no file"), "type sluice lint "+defaultConfigFile)
	}
	report := lintReport{Problems: []config.Problem{}}
	for _, file := range files {
		report.Problems = append(report.Problems, lintFile(file, *rate, time.Now())...)
	}
	status = exitGood
	if slices.ContainsFunc(report.Problems, func(p config.Problem) bool { return *strict || p.Severity == config.Error }) {
		status = exitBad
	}
	if *asJSON {
		if s := printJSON(stdout, stderr, report); s != exitGood {
			return s
		}
		return status
	}
	errors, warnings := 0, 0
	for _, p := range report.Problems {
		if p.Severity == config.Error {
			errors++
		} else {
			warnings++
		}
		fmt.Fprintf(stderr, "sluice: %s: %s\n", p.Severity, p)
		if p.Hint != "" {
			fmt.Fprintf(stderr, "sluice: hint: %s\n", p.Hint)
		}
	}
	fmt.Fprintf(stdout, "%s, %s in %s\n", count(errors, "error"), count(warnings, "warning"), count(len(files), "file"))
	return status
}

// lintFile reports the problems of one file, which is a configuration unless its keys say otherwise.
func lintFile(file string, rate float64, now time.Time) []config.Problem {
	switch kindOf(file) {
	case catalogFile:
		return lintCatalog(file)
	case trustFile:
		return lintTrust(file)
	}
	c, r := readConfig(file)
	c.check(r, now, rate)
	c.tryPlugins(r)
	problems := r.Problems()
	if wd, err := os.Getwd(); err == nil { // files that the configuration names appear as the caller would type them
		for i, p := range problems {
			if rel, err := filepath.Rel(wd, p.File); err == nil && filepath.IsAbs(p.File) && !filepath.IsAbs(file) && filepath.IsLocal(rel) {
				problems[i].File = rel
			}
		}
	}
	return problems
}

// Kinds of files that lint reads.
const (
	configFile = iota
	catalogFile
	trustFile
)

// kindOf looks at the keys of the top level: a catalog has categories, a trust file a list of keys, neither has a gateway or
// sources. What cannot be read is a configuration.
func kindOf(file string) int {
	data, err := config.ReadFile(file)
	if err != nil {
		return configFile
	}
	var keys struct {
		Gateway    yaml.Node `yaml:"gateway"`
		Sources    yaml.Node `yaml:"sources"`
		Categories yaml.Node `yaml:"categories"`
		Keys       yaml.Node `yaml:"keys"`
	}
	switch err := yaml.Unmarshal(data, &keys); {
	case err != nil || keys.Gateway.Kind != 0 || keys.Sources.Kind != 0:
		return configFile
	case keys.Categories.Kind != 0:
		return catalogFile
	case keys.Keys.Kind == yaml.SequenceNode:
		return trustFile
	}
	return configFile
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
