package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// explanation is what explain prints with --json; the names are fixed.
type explanation struct {
	ID       string                    `json:"id"`
	Grade    string                    `json:"grade"`
	Personal bool                      `json:"personal"`
	Action   string                    `json:"action"`
	Reason   string                    `json:"reason"`
	Findings []explainedFinding        `json:"findings"`
	Rules    []explainedRule           `json:"rules"`
	Plugins  []explainedPlugin         `json:"plugins"`
	Uplinks  map[string]explainedShape `json:"uplinks"`
}

type explainedFinding struct {
	Where      string `json:"where"` // JSON pointer; key:POINTER, topic:LEVEL, client, body
	Category   string `json:"category"`
	Grade      string `json:"grade"`
	Personal   bool   `json:"personal"`
	By         string `json:"by"`
	Confidence int    `json:"confidence"`
	Action     string `json:"action"` // the strictest over the uplinks
}

type explainedRule struct {
	Uplink   string `json:"uplink"`
	Where    string `json:"where"`
	Category string `json:"category"`
	Row      string `json:"row"` // policy[3], or none
	Says     string `json:"says"`
	Merged   string `json:"merged"` // with plugins, other findings on the place and what became of it
	Reason   string `json:"reason"`
}

type explainedPlugin struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Verdict string `json:"verdict"`
}

type explainedShape struct {
	Action string `json:"action"`
	Reason string `json:"reason"`
	State  string `json:"state"`
	Topic  string `json:"topic,omitempty"`
	Body   string `json:"body_base64,omitempty"`
}

func explainVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("explain", "-c FILE --topic TOPIC [--source NAME] [--client ID] [--json] [MESSAGE or -]")
	file := fs.String("c", "", "configuration `file`")
	source := fs.String("source", "", "`name` of the source; may be left out when there is one")
	topic := fs.String("topic", "", "`topic` of the message")
	client := fs.String("client", "explain", "client `id` of the device")
	asJSON := fs.Bool("json", false, "print one line of JSON")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if *file == "" || *topic == "" || len(rest) > 1 {
		return usage(stderr, fmt.Errorf("explain needs a configuration and a topic"),
			`sluice explain -c sluice.yaml --source bench --topic v1/car/telemetry message.json`)
	}
	cfg, status := configured(*file, stderr)
	if cfg == nil {
		return status
	}
	if *source == "" && len(cfg.Sources) == 1 {
		*source = cfg.Sources[0].Name
	}
	payload, err := readInput(append(rest, "-")[0], stdin)
	if err != nil {
		return fail(stderr, err, "name a file with the body of one message, or - for standard input")
	}
	set, err := dryVersionSet(cfg)
	if err != nil {
		return fail(stderr, err)
	}
	defer closeSet(set)
	if _, known := set.Sources[*source]; !known {
		return usage(stderr, fmt.Errorf("no source %q in %s", *source, *file), "--source takes one of: "+strings.Join(sourceNames(cfg), ", "))
	}
	m := &gateway.Message{ID: gateway.ID{Incarnation: 0, Counter: 1}, Source: *source, Protocol: gateway.MQTT, Client: *client,
		Topic: *topic, Payload: payload, Received: time.Now(), QoS: 1}
	if refusal := cfg.refuses(m); refusal != "" {
		return printExplanation(stdout, refusedExplanation(m, refusal), *asJSON)
	}
	now, trusted := gateway.SystemClock()
	return printExplanation(stdout, explain(set, set.Explain(m, now, trusted)), *asJSON)
}

// readInput reads a file, or standard input for "" and "-", up to the size of the largest message.
func readInput(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read message: %w", err)
		}
		defer f.Close()
		r = f
	}
	const most = 64 << 20
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	if len(b) > most {
		return nil, fmt.Errorf("read message: more than 64 MiB")
	}
	return b, nil
}

// refusedExplanation is the answer for a message that the source would not even take in.
func refusedExplanation(m *gateway.Message, why gateway.Refusal) explanation {
	return explanation{ID: m.ID.String(), Grade: gateway.Ungraded.String(), Action: gateway.Block.String(), Reason: "refused: " + string(why),
		Findings: []explainedFinding{}, Rules: []explainedRule{}, Plugins: []explainedPlugin{}, Uplinks: map[string]explainedShape{}}
}

// explain turns a decision into what is printed. It quotes the message's own keys: it is for the operator's eyes.
func explain(set *gateway.VersionSet, d *gateway.Decision) explanation {
	cats := set.Classifier.Categories()
	x := explanation{ID: d.Message.ID.String(), Grade: d.Grade.String(), Personal: d.Personal, Action: d.Action.String(), Reason: gateway.NoReason.String(),
		Findings: []explainedFinding{}, Rules: []explainedRule{}, Plugins: []explainedPlugin{}, Uplinks: map[string]explainedShape{}}
	for i := range d.Class.Findings {
		f := &d.Class.Findings[i]
		x.Findings = append(x.Findings, explainedFinding{Where: where(d, f.Place), Category: cats[f.Category].ID, Grade: f.Grade.String(),
			Personal: f.Personal, By: finder(set, f), Confidence: int(f.Confidence), Action: d.ActionOn(i).String()})
	}
	unlisted, action := cats[set.Classifier.Unlisted(false)].ID, gateway.Remove
	if set.UnknownBlocks {
		action = gateway.Block
	}
	for _, n := range d.Class.Unknown {
		x.Findings = append(x.Findings, explainedFinding{Where: where(d, gateway.Place{Kind: gateway.AtValue, Index: n}), Category: unlisted,
			Grade: gateway.Ungraded.String(), By: "catalog", Action: action.String()})
	}
	for u := range d.Uplinks {
		up := &d.Uplinks[u]
		for i := range d.Class.Findings {
			r := up.Rulings[i]
			row := "none"
			if r.Row >= 0 {
				row = fmt.Sprintf("policy[%d]", r.Row)
			}
			x.Rules = append(x.Rules, explainedRule{Uplink: set.Uplinks[u].Name, Where: x.Findings[i].Where, Category: x.Findings[i].Category,
				Row: row, Says: operation(r.Op), Merged: up.Final[i].String(), Reason: r.Reason.String()})
		}
		shape := explainedShape{Action: up.Action.String(), Reason: up.Reason.String(), State: up.State.String()}
		if up.State == gateway.Waiting {
			shape.Topic, shape.Body = up.Topic, base64.StdEncoding.EncodeToString(up.Payload)
		}
		x.Uplinks[set.Uplinks[u].Name] = shape
		if up.Action == d.Action {
			x.Reason = up.Reason.String()
		}
	}
	for i := range d.Opinions {
		x.Plugins = append(x.Plugins, explainOpinion(set, &d.Opinions[i]))
	}
	return x
}

func explainOpinion(set *gateway.VersionSet, o *gateway.FilterOpinion) explainedPlugin {
	f := set.FilterOf(o)
	p := explainedPlugin{Name: f.Name()}
	if v, ok := f.(interface{ Version() string }); ok {
		p.Version = v.Version()
	}
	switch {
	case o.Failed != "":
		p.Verdict = "failed: " + o.Failed + " → " + o.Action.String()
	case o.Action != gateway.Pass:
		p.Verdict = o.Action.String()
	default:
		p.Verdict = "none"
	}
	if o.Grade != gateway.Ungraded {
		p.Verdict += ", grade " + o.Grade.String()
	}
	for _, e := range o.Edits {
		if e.Regrade != gateway.Ungraded {
			p.Verdict += fmt.Sprintf(", finding %d to %s", e.Finding, e.Regrade)
		} else {
			p.Verdict += fmt.Sprintf(", finding %d %s", e.Finding, operation(e.Op))
		}
	}
	return p
}

// where writes a place for people.
func where(d *gateway.Decision, p gateway.Place) string {
	switch p.Kind {
	case gateway.AtValue:
		return d.Body.Pointer(int(p.Index))
	case gateway.AtKey:
		return "key:" + d.Body.Pointer(int(p.Index))
	case gateway.AtTopic:
		return "topic:" + strconv.Itoa(int(p.Index))
	case gateway.AtClient:
		return "client"
	}
	return "body"
}

func finder(set *gateway.VersionSet, f *gateway.Finding) string {
	switch f.By {
	case gateway.ByCatalog:
		return "catalog"
	case gateway.ByDetector:
		return "detector"
	case gateway.ByPlugin:
		if int(f.Plugin) < len(set.Filters) {
			return "plugin:" + set.Filters[f.Plugin].Filter.Name()
		}
	}
	return "nobody"
}

// operation writes an operation with its parameters.
func operation(op gateway.Operation) string {
	s := op.Action.String()
	add := func(format string, args ...any) { s += " " + fmt.Sprintf(format, args...) }
	switch {
	case op.Action == gateway.Generalize && op.Decimals >= 0:
		add("decimals %d", op.Decimals)
	case op.Action == gateway.Generalize && op.Prefix >= 0:
		add("prefix %d", op.Prefix)
	case op.Action == gateway.Generalize:
		add("bucket %v", op.Bucket)
	case op.Action == gateway.Tokenize:
		add("domain %s", op.Domain)
	case op.Action == gateway.Encrypt:
		add("to %s", op.To)
		if op.Inner != gateway.Undecided && op.Inner != gateway.Pass {
			add("after %s", op.Inner)
		}
	}
	return s
}

func printExplanation(w io.Writer, x explanation, asJSON bool) int {
	if asJSON {
		json.NewEncoder(w).Encode(x)
		return exitGood
	}
	personal := ""
	if x.Personal {
		personal = ", personal"
	}
	fmt.Fprintf(w, "%s (%s%s): %s\n", x.Action, x.Grade, personal, x.Reason)
	for _, f := range x.Findings {
		fmt.Fprintf(w, "  finding  %-28s %-22s %-9s by %s (%d) → %s\n", f.Where, f.Category, f.Grade, f.By, f.Confidence, f.Action)
	}
	for _, p := range x.Plugins {
		fmt.Fprintf(w, "  plugin   %s %s: %s\n", p.Name, p.Version, p.Verdict)
	}
	for _, r := range x.Rules {
		fmt.Fprintf(w, "  rule     %-10s %-28s %-10s %s → %s (%s)\n", r.Uplink, r.Where, r.Row, r.Says, r.Merged, r.Reason)
	}
	for _, name := range sortedKeys(x.Uplinks) {
		u := x.Uplinks[name]
		fmt.Fprintf(w, "  uplink   %-10s %s, %s (%s)\n", name, u.State, u.Action, u.Reason)
		if body, err := base64.StdEncoding.DecodeString(u.Body); err == nil && u.State == gateway.Waiting.String() {
			fmt.Fprintf(w, "           topic %s\n           %s\n", u.Topic, bytes.TrimRight(body, "\r\n"))
		}
	}
	if slices.ContainsFunc(x.Findings, func(f explainedFinding) bool { return f.Action == "tokenize" || f.Action == "encrypt" }) {
		fmt.Fprintln(w, "  note     tokens and ciphertexts are made with throw-away keys: those that the gateway sends differ")
	}
	return exitGood
}
