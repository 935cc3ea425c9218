package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
)

// asked is what plugin explain --json prints: what the record of a decided message says of the plugins that were asked.
type asked struct {
	Seq      uint64         `json:"seq"`
	ID       string         `json:"id"`
	Set      uint64         `json:"set"`
	Received string         `json:"received"`
	Grade    string         `json:"grade"`
	Personal bool           `json:"personal"`
	Findings []askedFinding `json:"findings"`
	Plugins  []askedPlugin  `json:"plugins"`
	Note     string         `json:"note"` // why there is no more
}

type askedFinding struct {
	Category string `json:"category"`
	Action   string `json:"action"` // what was done in the end
	Count    uint32 `json:"count"`
}

type askedPlugin struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	Verdict string `json:"verdict"` // none, hold, block, failed
	Grade   string `json:"grade,omitempty"`
	Reason  uint16 `json:"reason"`
	Edits   uint16 `json:"edits"`
}

// askedNote says what a record leaves out, so that nobody looks for it.
const askedNote = "values, positions of findings and fuel are not on the record, and the body that a plugin saw is kept nowhere: what waits is what may leave, " +
	"and what is held is sealed to the custodian; sluice plugin run shows a recorded message of the same kind to the same module"

// nameOfSet is what a change record says of its version set, as far as records of decisions refer to it.
type nameOfSet struct {
	Categories []string `json:"categories"`
	Plugins    []struct {
		Name    string `json:"name"`
		Number  uint8  `json:"number"` // by which decisions name it
		Version string `json:"version"`
		Digest  string `json:"digest"`
	} `json:"plugins"`
}

var (
	errEnough  = errors.New("enough")
	errNoSuch  = errors.New("no such record")
	errNoAsked = errors.New("not a decision")
)

// pluginExplain shows what plugins said about one decided message.
func pluginExplain(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	r, status := parseReading("plugin explain", args, stdout, stderr, func(_ *flag.FlagSet, r *reading) { r.synopsis, r.operands = "SEQ [-c FILE] [--json]", 1 })
	if r == nil {
		return status
	}
	defer r.stop()
	seq, err := strconv.ParseUint(append(r.args, "")[0], 10, 64)
	if err != nil {
		return usage(stderr, errors.New("plugin explain: want the number of a record"), "sluice journal ls and sluice hold ls list numbers: sluice plugin explain 42 -c FILE")
	}
	a, err := question(r, "plugins/explain", url.Values{"seq": {strconv.FormatUint(seq, 10)}}, func(j *journal.Journal) (*asked, error) { return explainRecord(j, seq) })
	if err != nil {
		return fail(stderr, err, "sluice journal ls and sluice hold ls list numbers of messages")
	}
	if r.asJSON {
		return printJSON(stdout, stderr, a)
	}
	a.print(stdout)
	return exitGood
}

// explainRecord reads the record of a decision, and the change record of its version set for the names.
func explainRecord(j *journal.Journal, seq uint64) (*asked, error) {
	var d gateway.Record
	found := false
	err := j.Records(seq, func(at uint64, b []byte) error {
		if found = at == seq; found {
			if err := gateway.DecodeRecord(b, &d); err != nil {
				return err
			}
		}
		return errEnough
	})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		return nil, err
	case !found:
		return nil, fmt.Errorf("record %d: %w", seq, errNoSuch)
	case d.Kind != gateway.DecisionRecord:
		return nil, fmt.Errorf("record %d: a %s record, %w", seq, d.Kind, errNoAsked)
	}
	names, err := setNames(j, d.Set, seq)
	if err != nil {
		return nil, err
	}
	a := &asked{Seq: seq, ID: d.ID.String(), Set: d.Set, Received: d.Received.UTC().Format("2006-01-02T15:04:05.000Z"), Grade: d.Grade.String(), Personal: d.Personal,
		Findings: []askedFinding{}, Plugins: []askedPlugin{}, Note: askedNote}
	for _, f := range d.Findings {
		k := askedFinding{Category: fmt.Sprintf("category %d", f.Category), Action: f.Action.String(), Count: f.Count}
		if int(f.Category) < len(names.Categories) {
			k.Category = names.Categories[f.Category]
		}
		a.Findings = append(a.Findings, k)
	}
	for _, p := range d.Plugins {
		k := askedPlugin{Name: fmt.Sprintf("plugin %d", p.Plugin), Verdict: "none", Reason: p.Reason, Edits: p.Edits}
		for _, n := range names.Plugins {
			if n.Number == p.Plugin {
				k.Name, k.Version, k.Digest = n.Name, n.Version, n.Digest
			}
		}
		switch {
		case p.Failed:
			k.Verdict = "failed, " + p.Action.String()
		case p.Action != gateway.Pass:
			k.Verdict = p.Action.String()
		}
		if p.Grade != gateway.Ungraded {
			k.Grade = p.Grade.String()
		}
		a.Plugins = append(a.Plugins, k)
	}
	return a, nil
}

// setNames finds the change record of a version set: its number is that of a record shortly before it.
func setNames(j *journal.Journal, set, before uint64) (n nameOfSet, err error) {
	from := set
	if from > 0 {
		from--
	}
	err = j.Records(max(from, j.Trimmed()), func(at uint64, b []byte) error {
		var r gateway.Record
		if at >= before {
			return errEnough
		}
		if err := gateway.DecodeRecord(b, &r); err != nil || r.Kind != gateway.ChangeRecord || r.Set != set {
			return err
		}
		if err := json.Unmarshal(r.Detail, &n); err != nil {
			return err
		}
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return n, err
}

// print writes it for people.
func (a *asked) print(w io.Writer) {
	personal := ""
	if a.Personal {
		personal = ", personal"
	}
	fmt.Fprintf(w, "record %d, message %s, received %s, version set %d: %s%s\n", a.Seq, a.ID, a.Received, a.Set, a.Grade, personal)
	for _, f := range a.Findings {
		fmt.Fprintf(w, "  %-24s %4d  %s\n", f.Category, f.Count, f.Action)
	}
	for _, p := range a.Plugins {
		fmt.Fprintf(w, "  plugin %s %s: %s, reason %d, %d edits", p.Name, p.Version, p.Verdict, p.Reason, p.Edits)
		if p.Grade != "" {
			fmt.Fprintf(w, ", grade %s", p.Grade)
		}
		fmt.Fprintln(w)
	}
	if len(a.Plugins) == 0 {
		fmt.Fprintln(w, "  no plugin was asked")
	}
	fmt.Fprintf(w, "  note: %s\n", a.Note)
}

// explainQuery answers plugin explain in a running gateway.
func (a *assembly) explainQuery(_ context.Context, r *http.Request) (any, error) {
	seq, err := strconv.ParseUint(r.URL.Query().Get("seq"), 10, 64)
	if err != nil {
		return nil, errors.New("seq is no number")
	}
	return explainRecord(a.journal, seq)
}
