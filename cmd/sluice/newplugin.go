package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sluice-edge/sluice/plugins/guest"
)

// authorVerbs are for those who write plugins, and for those who ask what one did.
var authorVerbs = []verb{
	{"new", "begin a plugin: --lang go|c|rust|as NAME", pluginNew},
	{"check", "report everything that keeps a module from being a plugin: FILE.wasm", pluginCheck},
	{"run", "show it recorded messages: FILE.wasm MESSAGES", pluginRun},
	{"bench", "measure what it costs for each message: FILE.wasm [MESSAGES]", pluginBench},
	{"explain", "what plugins said about a decided message: SEQ -c FILE", pluginExplain},
}

// newName is what a plugin of one's own may be called: what manifests allow, with a letter in front.
var newName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)

// pluginNew writes a project that builds with one command.
func pluginNew(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("plugin new", "--lang go|c|rust|as [--dir DIR] NAME")
	lang := fs.String("lang", "", "`language`: "+strings.Join(guest.Languages(), ", "))
	dir := fs.String("dir", "", "`folder` to make; NAME when absent")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	const example = "for example: sluice plugin new --lang c speedguard"
	if *lang == "" || len(rest) != 1 {
		return usage(stderr, errors.New("plugin new: want one name and --lang"), example)
	}
	name := rest[0]
	if !newName.MatchString(name) {
		return usage(stderr, fmt.Errorf("plugin new: %q is no name of a plugin", name), "a letter and then a-z, 0-9, - and _, at most 64 of them", example)
	}
	files, source := guest.Project(*lang, name)
	if files == nil {
		hint := "have " + strings.Join(guest.Languages(), ", ")
		if *lang == "assemblyscript" || *lang == "typescript" || *lang == "ts" {
			hint = "AssemblyScript is --lang as"
		}
		return usage(stderr, fmt.Errorf("plugin new: no kit for the language %q", *lang), hint)
	}
	if *dir == "" {
		*dir = name
	}
	if old, err := os.ReadDir(*dir); err == nil && len(old) > 0 {
		return fail(stderr, fmt.Errorf("folder %q is not empty", *dir), "name another one: --dir DIR")
	}
	for _, at := range sortedKeys(files) {
		if err := writeProjectFile(filepath.Join(*dir, filepath.FromSlash(at)), files[at]); err != nil {
			return fail(stderr, err)
		}
	}
	fmt.Fprintf(stdout, "%s  a plugin in %s; begin with %s\nnext:\n  cd %s\n  ./build.sh\n  sluice plugin check %s.wasm\n  sluice plugin run %s.wasm testdata\n",
		*dir, map[string]string{"go": "Go", "c": "C", "rust": "Rust", "as": "AssemblyScript"}[*lang], source, *dir, name, name)
	if *lang == "as" {
		fmt.Fprintln(stdout, "the first build fetches the compiler with npm")
	}
	return exitGood
}

// writeProjectFile writes a file of a new project, and never over one that is there.
func writeProjectFile(at string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if strings.HasSuffix(at, ".sh") {
		mode = 0o755
	}
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
