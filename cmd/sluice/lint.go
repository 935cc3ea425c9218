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

// lintVerb reports every problem of configuration and catalog files. It reads the files that they name, never data_dir.
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

// lintFile reports the problems of one file, which is a catalog when it has categories and no gateway.
func lintFile(file string, rate float64, now time.Time) []config.Problem {
	if isCatalogFile(file) {
		return lintCatalog(file)
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

// isCatalogFile looks at the keys of the top level. What cannot be read is no catalog.
func isCatalogFile(file string) bool {
	data, err := config.ReadFile(file)
	if err != nil {
		return false
	}
	var keys struct {
		Gateway    yaml.Node `yaml:"gateway"`
		Sources    yaml.Node `yaml:"sources"`
		Categories yaml.Node `yaml:"categories"`
	}
	if yaml.Unmarshal(data, &keys) != nil {
		return false
	}
	return keys.Categories.Kind != 0 && keys.Gateway.Kind == 0 && keys.Sources.Kind == 0
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
