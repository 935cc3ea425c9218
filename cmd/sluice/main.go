// Sluice is the gate between devices and the cloud: it grades every outbound message against an important-data catalog,
// lets plugins judge it, passes, masks, encrypts, holds or blocks it, and keeps a record that an auditor can check.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-edge/sluice/gateway/config"
)

// Exit statuses.
const (
	exitGood  = 0 // what was asked about is good
	exitBad   = 1 // it is not
	exitUsage = 2 // the question was not understood
)

// abiVersion is the version of the plugin interface that this program speaks.
const abiVersion = 1

// verb is one subcommand. run gets the arguments behind the verb and returns the exit status.
type verb struct {
	name string
	help string
	run  func(args []string, stdin io.Reader, stdout, stderr io.Writer) int
}

// verbs lists the subcommands in the order of help.
func verbs() []verb {
	return []verb{
		{"demo", "play the whole path in one process: vehicles, gate, cloud, an outage", demoVerb},
		{"run", "run the gateway", runVerb},
		{"reload", "put the configuration on disk in force, or on probation", reloadVerb},
		{"init", "write a first configuration and its keys, or propose one from live traffic", initVerb},
		{"lint", "report every problem of configuration and catalog files, offline", lintVerb},
		{"schema", "print the JSON Schema of the configuration", schemaVerb},
		{"echo", "print the effective configuration, secrets redacted", echoVerb},
		{"explain", "decide one message and say why, without a journal", explainVerb},
		{"filter", "decide messages from standard input and print what may leave", filterVerb},
		{"journal", "what waits: stat, ls, check, repair", journalVerb},
		{"hold", "what is held for a person: ls", holdVerb},
		{"audit", "the record log: verify, reconcile", auditVerb},
		{"keys", "make, list and export keys", cmdKeys},
		{"plugin", "author: new, check, run, bench, pack, sign, verify; operator: explain, ls, load, shadow, promote, confirm, rollback", pluginVerb},
		{"open", "open encrypted fields on the recipient's side", cmdOpen},
		{"version", "print version, commit, Go, plugin ABI and catalog versions", versionVerb},
	}
}

func main() {
	os.Exit(dispatch(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// dispatch runs the verb that args name.
func dispatch(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printHelp(stderr)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			return dispatch([]string{args[1], "--help"}, stdin, stdout, stderr)
		}
		printHelp(stdout)
		return exitGood
	case "--version", "-version":
		name = "version"
	case compileVerb:
		return compilePluginVerb(args[1:], stdin, stdout, stderr)
	}
	list := verbs()
	if i := slices.IndexFunc(list, func(v verb) bool { return v.name == name }); i >= 0 {
		return list[i].run(args[1:], stdin, stdout, stderr)
	}
	var known []string
	for _, v := range list {
		known = append(known, v.name)
	}
	hint := "sluice help lists the verbs"
	if near := config.Nearest(name, known); near != "" {
		hint = "did you mean sluice " + near + "?"
	}
	return usage(stderr, fmt.Errorf("unknown verb %q", name), hint)
}

func printHelp(w io.Writer) {
	fmt.Fprintln(w, "Sluice is the gate between devices and the cloud: nothing undecided leaves.")
	fmt.Fprintln(w, "\nUsage: sluice VERB [flags] [arguments]")
	fmt.Fprintln(w)
	for _, v := range verbs() {
		fmt.Fprintf(w, "  %-8s  %s\n", v.name, v.help)
	}
	fmt.Fprintln(w, "\nsluice VERB --help shows the flags of a verb. Exit status: 0 good, 1 not good, 2 usage.")
}

// fail prints one error line and the hints, and returns the exit status for what is not good.
func fail(stderr io.Writer, err error, hints ...string) int {
	fmt.Fprintf(stderr, "sluice: error: %v\n", err)
	for _, h := range hints {
		if h != "" {
			fmt.Fprintf(stderr, "sluice: hint: %s\n", h)
		}
	}
	return exitBad
}

// usage is fail for a command line that was not understood.
func usage(stderr io.Writer, err error, hints ...string) int {
	fail(stderr, err, hints...)
	return exitUsage
}

// failProblems prints every error of a report, each with its hint, and returns the exit status: bad if there is one.
func failProblems(stderr io.Writer, r *config.Report) int {
	status := exitGood
	for _, p := range r.Problems() {
		if p.Severity == config.Error {
			status = fail(stderr, errors.New(p.String()), p.Hint)
		}
	}
	return status
}

// warnProblems prints the warnings of a report.
func warnProblems(stderr io.Writer, r *config.Report) {
	for _, p := range r.Problems() {
		if p.Severity == config.Warning {
			fmt.Fprintf(stderr, "sluice: warning: %s\n", p)
		}
	}
}

// newFlags returns the flag set of a verb. synopsis is what follows the verb: "[--json] FILE…".
func newFlags(name, synopsis string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = usageOf(fs, synopsis)
	return fs
}

// usageOf prints the help of a verb.
func usageOf(fs *flag.FlagSet, synopsis string) func() {
	return func() {
		fmt.Fprintf(fs.Output(), "Usage: sluice %s %s\n\n", fs.Name(), synopsis)
		fs.VisitAll(func(f *flag.Flag) {
			arg, text := flag.UnquoteUsage(f)
			dash := "--"
			if len(f.Name) == 1 {
				dash = "-"
			}
			head := dash + f.Name
			if arg != "" {
				head += " " + strings.ToUpper(arg)
			}
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
				text += " (" + f.DefValue + ")"
			}
			fmt.Fprintf(fs.Output(), "  %-24s  %s\n", head, text)
		})
	}
}

// parseFlags reads flags, which may stand before, between and behind the arguments that it returns. done means that the
// verb ends with the given status: help was asked for, or a flag was not understood.
func parseFlags(fs *flag.FlagSet, args []string, stdout, stderr io.Writer) (rest []string, status int, done bool) {
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(stdout)
			fs.Usage()
			return nil, exitGood, true
		}
		if err != nil {
			return nil, usage(stderr, fmt.Errorf("%s: %s", fs.Name(), err), flagHint(fs, err), "sluice "+fs.Name()+" --help shows the flags"), true
		}
		left := fs.Args()
		if len(left) == 0 {
			return rest, 0, false
		}
		if consumed := len(args) - len(left); consumed > 0 && args[consumed-1] == "--" {
			return append(rest, left...), 0, false
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// flagHint names the flag that was most likely meant.
func flagHint(fs *flag.FlagSet, err error) string {
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: ")
	if !ok {
		return ""
	}
	var known []string
	fs.VisitAll(func(f *flag.Flag) {
		if len(f.Name) > 1 { // one letter is near everything
			known = append(known, f.Name)
		}
	})
	if near := config.Nearest(strings.TrimLeft(name, "-"), known); near != "" {
		return "did you mean --" + near + "?"
	}
	return ""
}

// signalContext ends at SIGINT or SIGTERM; a second signal ends the program at once.
func signalContext() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// versionInfo is what version prints.
type versionInfo struct {
	Version  string            `json:"version"`
	Commit   string            `json:"commit"`
	Modified bool              `json:"modified"`
	Built    string            `json:"built"` // time of the commit
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	ABI      int               `json:"abi"`
	Catalogs map[string]string `json:"catalogs"`
}

// programVersion is the version of this program alone.
func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// readVersion collects what the linker knows about this program.
func readVersion() versionInfo {
	v := versionInfo{Version: programVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, ABI: abiVersion, Catalogs: shippedCatalogs()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Built = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func versionVerb(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("version", "[--json]")
	asJSON := fs.Bool("json", false, "print one line of JSON")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("version: unexpected argument %q", rest[0]), "type sluice version")
	}
	v := readVersion()
	if *asJSON {
		return printJSON(stdout, stderr, v)
	}
	commit := v.Commit
	if commit == "" {
		commit = "unknown"
	} else if v.Modified {
		commit += " (modified)"
	}
	fmt.Fprintf(stdout, "sluice %s\ncommit %s\n%s %s\nplugin ABI %d\n", v.Version, commit, v.Go, v.Platform, v.ABI)
	for _, name := range sortedKeys(v.Catalogs) {
		fmt.Fprintf(stdout, "catalog %s %s\n", name, v.Catalogs[name])
	}
	return exitGood
}

// printJSON prints v as one line.
func printJSON(stdout, stderr io.Writer, v any) int {
	enc := json.NewEncoder(stdout)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fail(stderr, fmt.Errorf("write JSON: %w", err))
	}
	return exitGood
}

// sortedKeys lists the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
