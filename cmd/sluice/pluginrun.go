package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/plugins/conformance"
)

// ranMessage is one line of plugin run --json; the names are fixed.
type ranMessage struct {
	Message  string       `json:"message"` // file:line
	Topic    string       `json:"topic"`
	Asked    bool         `json:"asked"` // the topic is one of the plugin's
	Findings []ranFinding `json:"findings"`
	Verdict  *ranVerdict  `json:"verdict"` // null when it failed or was not asked
	Failed   string       `json:"failed,omitempty"`
	Error    string       `json:"error,omitempty"`
	Fuel     uint64       `json:"fuel"`
}

type ranFinding struct {
	Where    string `json:"where"`
	Category string `json:"category"`
	Label    int    `json:"label"` // number in the manifest's labels, 0: the plugin does not see what it is
	Grade    string `json:"grade"`
	Personal bool   `json:"personal"`
	Edit     string `json:"edit,omitempty"` // what the plugin wants for it
}

type ranVerdict struct {
	Action string   `json:"action"` // none, hold, block
	Grade  string   `json:"grade,omitempty"`
	Labels []string `json:"labels,omitempty"`
	Reason uint16   `json:"reason"`
	Text   string   `json:"reason_text,omitempty"`
	Edits  int      `json:"edits"`
}

// pluginRun shows a plugin recorded messages.
func pluginRun(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("plugin run", "[-c FILE] [--config FILE] [--grants LIST] [--vectors OUT] [--json] FILE.wasm MESSAGES")
	flags := addAuthorFlags(fs)
	vectors := fs.String("vectors", "", "write requests and verdicts to this `file`: the plugin's self-test")
	asJSON := fs.Bool("json", false, "print one line of JSON for each message")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) != 2 {
		return usage(stderr, errors.New("plugin run: want one module, and a file or folder of messages"), "for example: sluice plugin run speedguard.wasm testdata", recordedHint)
	}
	a, status := flags.open(rest[0], stderr)
	if status != exitGood {
		return status
	}
	defer a.close()
	list, err := readRecorded(rest[1])
	if err != nil {
		return fail(stderr, err, recordedHint)
	}
	plugin, status := a.load(a.env(), stderr)
	if status != exitGood {
		return status
	}
	defer plugin.Close()
	a.warn(plugin, stderr)
	failed, code := 0, ""
	for i := range list {
		a.classify(&list[i])
		r := a.ask(plugin, &list[i])
		if r.Failed != "" {
			failed, code = failed+1, r.Failed
		}
		if *asJSON {
			if status := printJSON(stdout, stderr, r); status != exitGood {
				return status
			}
		} else {
			r.print(stdout)
		}
	}
	if failed > 0 {
		return fail(stderr, fmt.Errorf("the plugin fails on %d of %d messages: a gateway would do what on_error says, %s", failed, len(list), plugin.OnError()), a.failHint(code))
	}
	if *vectors != "" {
		return a.writeVectors(*vectors, plugin, list, *asJSON, stdout, stderr)
	}
	return exitGood
}

// failHint says what to do about a plugin that fails on a message.
func (a *authored) failHint(code string) string {
	switch {
	case code != "refused":
		return codeHint(code)
	case a.from == "":
		return "edits name numbers of the operator's list: write it into " + entryFile + " beside the module, or name a file with -c"
	}
	return "what a verdict may name: edits by their number and action in " + a.from + ", reasons and labels of manifest.json"
}

// load loads the plugin, or says why it does not load.
func (a *authored) load(env wasm.Env, stderr io.Writer) (*wasm.Plugin, int) {
	plugin, err := wasm.Load(context.Background(), a.entry, a.module, env)
	if err != nil {
		return nil, fail(stderr, err, checkHint(err, a), "sluice plugin check "+a.file+" tells everything that is wrong")
	}
	return plugin, exitGood
}

// warn tells what the plugin has to do without.
func (a *authored) warn(plugin *wasm.Plugin, stderr io.Writer) {
	from := "--grants"
	if a.from != "" {
		from += " or " + a.from
	}
	for _, g := range a.manifest.Grants {
		if !slices.Contains(plugin.Grants(), g) {
			fmt.Fprintf(stderr, "sluice: warning: the manifest asks for %s, and it is not granted: %s can\n", g, from)
		}
	}
}

// ask asks the plugin about one message.
func (a *authored) ask(plugin *wasm.Plugin, r *recorded) *ranMessage {
	cats := a.cats.Categories()
	out := &ranMessage{Message: r.at, Topic: r.m.Topic, Asked: plugin.Matches(r.m.Topic), Findings: []ranFinding{}}
	for i := range r.d.Class.Findings {
		f := &r.d.Class.Findings[i]
		out.Findings = append(out.Findings, ranFinding{Where: where(&r.d, f.Place), Category: cats[f.Category].ID,
			Label: 1 + slices.Index(a.manifest.Labels, cats[f.Category].ID), Grade: f.Grade.String(), Personal: f.Personal})
	}
	if !out.Asked {
		return out
	}
	o := gateway.Opinion{Action: gateway.Pass}
	err := plugin.Filter(&r.m, &r.d.Body, &r.d.Class, &o)
	if out.Fuel = o.Fuel; err != nil {
		out.Failed, out.Error = filterCode(err)
		return out
	}
	v := &ranVerdict{Action: "none", Reason: o.Reason, Text: plugin.Reason(o.Reason), Edits: len(o.Edits)}
	if o.Action != gateway.Pass {
		v.Action = o.Action.String()
	}
	if o.Grade != gateway.Ungraded {
		v.Grade = o.Grade.String()
	}
	for _, l := range o.Labels {
		v.Labels = append(v.Labels, cats[l].ID)
	}
	for _, e := range o.Edits {
		text := operation(e.Op)
		if e.Regrade != gateway.Ungraded {
			text = "regrade to " + e.Regrade.String()
		}
		out.Findings[e.Finding].Edit = text
	}
	out.Verdict = v
	return out
}

// print writes it for people.
func (r *ranMessage) print(w io.Writer) {
	var said []string
	switch v := r.Verdict; {
	case !r.Asked:
		said = append(said, "not asked: its topics do not match")
	case v == nil:
		said = append(said, "FAILED "+r.Failed+": "+r.Error)
	default:
		said = append(said, v.Action)
		if v.Reason != 0 {
			said = append(said, fmt.Sprintf("reason %d (%s)", v.Reason, v.Text))
		}
		if v.Grade != "" {
			said = append(said, "grade "+v.Grade)
		}
		for _, l := range v.Labels {
			said = append(said, "label "+l)
		}
		said = append(said, fmt.Sprintf("%d edits", v.Edits))
	}
	fmt.Fprintf(w, "%s  %s: %s, %d fuel\n", r.Message, r.Topic, strings.Join(said, ", "), r.Fuel)
	for _, f := range r.Findings {
		edit := f.Edit
		if f.Label == 0 {
			edit = "(not a label of the plugin)"
		}
		fmt.Fprintf(w, "  %-24s %-20s %-10s %s\n", f.Where, f.Category, f.Grade, edit)
	}
}

// writeVectors writes the self-test: the very bytes of requests and verdicts.
func (a *authored) writeVectors(file string, plugin *wasm.Plugin, list []recorded, quiet bool, stdout, stderr io.Writer) int {
	settings, err := a.entry.Configuration(a.dir)
	if err != nil {
		return fail(stderr, err)
	}
	p, err := wasm.NewProbe(context.Background(), a.module, settings, a.compiler())
	if err != nil {
		return fail(stderr, err, checkHint(err, a))
	}
	defer p.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Self-test of %s %s: requests and the answers to them, written by sluice plugin run --vectors.\n", a.manifest.Name, a.manifest.Version)
	n := 0
	for i := range list {
		r := &list[i]
		if !plugin.Matches(r.m.Topic) {
			continue
		}
		request := plugin.Request(&r.m, &r.d.Body, &r.d.Class)
		got, err := p.Ask(request, uint32(len(request)))
		if err = errors.Join(err, got.Err); err != nil {
			return fail(stderr, fmt.Errorf("ask about %s: %w", r.at, err))
		}
		conformance.Write(&b, r.at, a.manifest.Name, string(settings), request, got.Return, got.Verdict)
		n++
	}
	if n == 0 {
		return fail(stderr, errors.New("no message is on a topic of the plugin: there is nothing to test"), "topics stand in "+entryFile)
	}
	if b.Len() > wasm.MaxVectors {
		return fail(stderr, fmt.Errorf("a self-test of %d bytes; at most %d are allowed", b.Len(), wasm.MaxVectors), "take fewer messages")
	}
	if err := replaceFile(file, 0o644, b.Bytes()); err != nil {
		return fail(stderr, err)
	}
	if !quiet {
		fmt.Fprintf(stdout, "%s  %d vectors, sha256 %x\n  it tests nothing before the manifest names it: ./build.sh, or\n  sluice plugin pack --manifest manifest.json --vectors %s %s\n",
			file, n, sha256.Sum256(b.Bytes()), file, a.file)
	}
	return exitGood
}
