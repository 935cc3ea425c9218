package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/circl/hpke"

	"github.com/sluice-edge/sluice/crypto/seal"
	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/filters/redact"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
	"github.com/sluice-edge/sluice/protocols/payload"
)

// decisionsPage is the page whose vectors are the data of this test.
const decisionsPage = "../../docs/decisions.md"

// vector is one worked decision of the page, as it is written there.
type vector struct {
	Message struct {
		Source        string `yaml:"source" default:"bench"`
		Client        string `yaml:"client" default:"c-1"`
		Topic         string `yaml:"topic" default:"v1/telemetry"`
		Payload       string `yaml:"payload"`
		PayloadBase64 string `yaml:"payload_base64"`
	} `yaml:"message" required:"true"`
	Catalog      []string            `yaml:"catalog" scalar:"true"`
	Categories   []catalog.Category  `yaml:"categories"`
	UnknownField string              `yaml:"unknown_field" enum:"remove,block" default:"remove"`
	Policy       []gateway.RowConfig `yaml:"policy" required:"true"`
	Plugins      []scriptedPlugin    `yaml:"plugins"`
	Uplinks      []declaredUplink    `yaml:"uplinks"`
	Custodian    bool                `yaml:"custodian"`
	Now          string              `yaml:"now" default:"2026-03-02T08:00:00Z"`
	ClockUnset   bool                `yaml:"clock_unset"`
	Expect       expectation         `yaml:"expect" required:"true"`
}

type declaredUplink struct {
	Name         string `yaml:"name" required:"true"`
	Recipient    string `yaml:"recipient"`
	Jurisdiction string `yaml:"jurisdiction"`
	Purpose      string `yaml:"purpose"`
	LegalBasis   string `yaml:"legal_basis"`
}

type expectation struct {
	Refused   string                     `yaml:"refused"` // what lint says of a policy that does not come into force
	Lint      string                     `yaml:"lint"`    // what lint advises
	Grade     string                     `yaml:"grade"`
	Personal  bool                       `yaml:"personal"`
	Sensitive bool                       `yaml:"sensitive"`
	Action    string                     `yaml:"action"`
	Findings  []string                   `yaml:"findings"`
	Unknown   []string                   `yaml:"unknown"`
	Uplinks   map[string]expectedOutcome `yaml:"uplinks"`
	Record    expectedRecord             `yaml:"record"`
}

type expectedOutcome struct {
	State  string `yaml:"state" required:"true" enum:"waiting,held,blocked"`
	Action string `yaml:"action" required:"true"`
	Reason string `yaml:"reason" default:"none"`
	Topic  string `yaml:"topic"`
	Body   string `yaml:"body"`
}

type expectedRecord struct {
	Findings []string `yaml:"findings"`
	Plugins  []string `yaml:"plugins"`
	Outcomes []string `yaml:"outcomes"`
}

// scriptedPlugin is a filter that says what a vector wants it to say.
type scriptedPlugin struct {
	Label   string   `yaml:"name" required:"true"`
	Topics  []string `yaml:"topics"`
	Uplinks []string `yaml:"uplinks"`
	OnError string   `yaml:"on_error" enum:"block,hold" default:"block"`
	Error   string   `yaml:"error"`
	Verdict struct {
		Action string         `yaml:"action" enum:"none,hold,block" default:"none"`
		Grade  string         `yaml:"grade"`
		Labels []string       `yaml:"labels"`
		Edits  []scriptedEdit `yaml:"edits"`
		Reason uint16         `yaml:"reason"`
	} `yaml:"verdict"`

	bench *decisionBench
}

// scriptedEdit is a plugin's edit: where, and a regrade or the operation of a policy row.
type scriptedEdit struct {
	Where    string `yaml:"where" required:"true"`
	Category string `yaml:"category"`
	Regrade  string `yaml:"regrade"`
	Action   string `yaml:"action"`
	Decimals *int   `yaml:"decimals"`
	Prefix   *int   `yaml:"prefix"`
	Head     int    `yaml:"head"`
	Tail     int    `yaml:"tail"`
	Domain   string `yaml:"domain"`
	To       string `yaml:"to"`
}

func (p *scriptedPlugin) Name() string { return p.Label }

func (p *scriptedPlugin) Filter(_ *gateway.Message, b *gateway.Body, c *gateway.Classification, o *gateway.Opinion) error {
	if p.Error != "" {
		return &gateway.FilterError{Code: p.Error, Err: errors.New("told to fail")}
	}
	v := &p.Verdict
	if v.Action != "none" {
		o.Action = must(gateway.ParseAction(v.Action))
	}
	if v.Grade != "" {
		o.Grade = must(gateway.ParseGrade(v.Grade))
	}
	o.Reason = v.Reason
	for _, label := range v.Labels {
		o.Labels = append(o.Labels, p.bench.category(label))
	}
	for _, e := range v.Edits {
		edit := gateway.Edit{Finding: p.bench.finding(b, c, e.Where, e.Category)}
		if e.Regrade != "" {
			edit.Regrade = must(gateway.ParseGrade(e.Regrade))
		} else {
			row := gateway.RowConfig{Action: e.Action, Decimals: e.Decimals, Prefix: e.Prefix, Head: e.Head, Tail: e.Tail, Domain: e.Domain, To: e.To}
			op, problems := row.Operation()
			if len(problems) > 0 {
				panic(problems[0].Message)
			}
			edit.Op = op
		}
		o.Edits = append(o.Edits, edit)
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (b *decisionBench) category(id string) uint16 {
	i := slices.IndexFunc(b.set.Classifier.Categories(), func(c gateway.Category) bool { return c.ID == id })
	if i < 0 {
		panic("no category " + id)
	}
	return uint16(i)
}

// finding returns the index of the finding at a place; when several are there, of the category.
func (b *decisionBench) finding(body *gateway.Body, c *gateway.Classification, at, category string) int32 {
	d := &gateway.Decision{Body: *body}
	for i := range c.Findings {
		if where(d, c.Findings[i].Place) == at && (category == "" || c.Findings[i].Category == b.category(category)) {
			return int32(i)
		}
	}
	panic("no finding at " + at)
}

// decisionBench is everything that decides one vector, under throw-away keys.
type decisionBench struct {
	set       *gateway.VersionSet
	now       time.Time
	trusted   bool
	openers   map[string]*seal.Opener
	custodian *seal.PrivateKey
	entries   []*gateway.Entry
}

func throwAwayKey(t *testing.T, n byte) (*seal.PublicKey, *seal.PrivateKey) {
	t.Helper()
	seed := bytes.Repeat([]byte{n}, seal.PrivateKeySize)
	key, err := hpke.KEM_XWING.Scheme().UnmarshalBinaryPrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	b, err := key.Public().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	public, err := seal.ParsePublicKey(b)
	if err != nil {
		t.Fatal(err)
	}
	private, err := seal.ParsePrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// newBench joins the real catalog, codec and operators with the scripted plugins; problems is what lint says.
func newBench(t *testing.T, v *vector) (*decisionBench, []gateway.PolicyProblem) {
	t.Helper()
	b := &decisionBench{trusted: !v.ClockUnset, openers: map[string]*seal.Opener{}}
	var err error
	if b.now, err = time.Parse(time.RFC3339, v.Now); err != nil {
		t.Fatal(err)
	}
	var catalogs []*catalog.Catalog
	if len(v.Catalog) == 0 && len(v.Categories) == 0 {
		v.Catalog = []string{"vehicle"}
	}
	for _, name := range v.Catalog {
		c, err := catalog.Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		catalogs = append(catalogs, c)
	}
	if len(v.Categories) > 0 {
		catalogs = append(catalogs, &catalog.Catalog{Name: "site", Version: 1, Categories: v.Categories})
	}
	classifier, err := catalog.New(catalogs...)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Uplinks) == 0 {
		v.Uplinks = []declaredUplink{{"tsp", "Example Motors TSP", "CN", "remote diagnosis", "contract"}}
	}
	b.set = &gateway.VersionSet{Number: 1, Classifier: classifier, Codec: payload.JSON{}, UnknownBlocks: v.UnknownField == "block",
		Sources: map[string]uint16{v.Message.Source: 0}, Describe: func(string) []byte { return []byte("{}") }}
	for i, u := range v.Uplinks {
		b.set.Uplinks = append(b.set.Uplinks, gateway.UplinkInfo{Name: u.Name, Number: i, Recipient: u.Recipient, Jurisdiction: u.Jurisdiction, Purpose: u.Purpose, LegalBasis: u.LegalBasis})
	}
	var problems []gateway.PolicyProblem
	if b.set.Policy, problems = gateway.CompilePolicy(v.Policy, classifier.Categories(), b.set.Uplinks, b.now); b.set.Policy == nil {
		return b, problems
	}
	for i := range v.Plugins {
		p := &v.Plugins[i]
		p.bench = b
		a := gateway.Attached{Filter: p, Topics: p.Topics, OnError: must(gateway.ParseAction(p.OnError))}
		for u := range v.Uplinks {
			if len(p.Uplinks) == 0 || slices.Contains(p.Uplinks, v.Uplinks[u].Name) {
				a.Uplinks |= 1 << u
			}
		}
		b.set.Filters = append(b.set.Filters, a)
	}
	b.addKeys(t, v.Custodian)
	return b, problems
}

// addKeys makes the keys that the page says there are: two token domains, two recipients and, on demand, a custodian.
func (b *decisionBench) addKeys(t *testing.T, custodian bool) {
	recipients := map[string]*seal.PublicKey{}
	for i, name := range []string{"oem-dso", "oem-lab"} {
		public, private := throwAwayKey(t, byte(i+1))
		recipients[name], b.openers[name] = public, seal.NewOpener(private)
	}
	epochs, err := seal.NewEpochs(seal.Options{Recipients: recipients, Announce: func(a seal.Announcement) error {
		_, _, err := b.openers[a.Recipient].Learn(a.Message)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.set.Redactor, err = redact.New(redact.Options{Epochs: epochs, TokenKeys: map[string][]byte{"fleet-a": bytes.Repeat([]byte{1}, 32), "fleet-b": bytes.Repeat([]byte{2}, 32)}})
	if err != nil {
		t.Fatal(err)
	}
	if custodian {
		var public *seal.PublicKey
		public, b.custodian = throwAwayKey(t, 9)
		b.set.Custodian = func(m *gateway.Message) ([]byte, error) {
			return seal.SealHold(public, &seal.Hold{Received: m.Received, Source: m.Source, Client: m.Client, Topic: m.Topic, Payload: m.Payload})
		}
	}
}

// Append, with Full, makes the bench a journal that remembers what it is given.
func (b *decisionBench) Append(entries []*gateway.Entry, done func(uint64, error)) {
	for _, e := range entries {
		kept := *e
		kept.Outlets = slices.Clone(e.Outlets)
		for i := range kept.Outlets {
			kept.Outlets[i].Payload = bytes.Clone(kept.Outlets[i].Payload)
		}
		b.entries = append(b.entries, &kept)
	}
	done(0, nil)
}

type benchJournal struct {
	gateway.Journal
	*decisionBench
}

func (j benchJournal) Append(entries []*gateway.Entry, done func(uint64, error)) {
	j.decisionBench.Append(entries, done)
}

// TestDecisions decides every vector of the page and compares all that it says.
func TestDecisions(t *testing.T) {
	page, err := os.ReadFile(decisionsPage)
	if err != nil {
		t.Fatal(err)
	}
	vectors := regexp.MustCompile("(?ms)^### ([^\n]+)\n(?:[^`#][^\n]*\n|\n)*```yaml\n(.*?)^```$").FindAllSubmatch(page, -1)
	if n := bytes.Count(page, []byte("\n### ")); len(vectors) < 30 || len(vectors) != n || n != bytes.Count(page, []byte("```yaml\n")) {
		t.Fatalf("%d vectors under %d headings with %d blocks; want one each, and at least 30", len(vectors), n, bytes.Count(page, []byte("```yaml\n")))
	}
	names := map[string]bool{}
	for _, m := range vectors {
		name := string(m[1])
		if names[name] {
			t.Errorf("two vectors are named %q", name)
		}
		names[name] = true
		t.Run(name, func(t *testing.T) {
			var v vector
			if err := config.Decode("decisions.md", m[2], &v).Err(); err != nil {
				t.Fatal(err)
			}
			v.decide(t)
		})
	}
}

func (v *vector) decide(t *testing.T) {
	b, problems := newBench(t, v)
	for _, p := range problems {
		if want := v.Expect.Refused + v.Expect.Lint; want == "" && p.Error {
			t.Errorf("lint: row %d: %s", p.Row, p.Message)
		}
	}
	for _, want := range []string{v.Expect.Refused, v.Expect.Lint} {
		if !slices.ContainsFunc(problems, func(p gateway.PolicyProblem) bool {
			return strings.Contains(p.Message, want) && p.Error == (want == v.Expect.Refused)
		}) && want != "" {
			t.Errorf("lint does not say %q: %+v", want, problems)
		}
	}
	if (b.set.Policy == nil) != (v.Expect.Refused != "") {
		t.Fatal("the policy comes into force, or it does not, against what is expected")
	}
	if b.set.Policy == nil {
		return
	}
	body := []byte(v.Message.Payload)
	if v.Message.PayloadBase64 != "" {
		var err error
		if body, err = base64.StdEncoding.DecodeString(v.Message.PayloadBase64); err != nil {
			t.Fatal(err)
		}
	}
	message := func() *gateway.Message {
		return &gateway.Message{ID: gateway.ID{Incarnation: 1, Counter: 1}, Source: v.Message.Source, Protocol: gateway.MQTT, Client: v.Message.Client,
			Topic: v.Message.Topic, Payload: bytes.Clone(body), Received: b.now, QoS: 1}
	}
	v.compareDecision(t, b, b.set.Explain(message(), b.now, b.trusted))

	g := gateway.New(gateway.Options{Journal: benchJournal{decisionBench: b}, NextID: func() gateway.ID { return gateway.ID{Incarnation: 1, Counter: 1} },
		Clock: func() (time.Time, bool) { return b.now, b.trusted }, Log: slog.New(slog.DiscardHandler),
		Metrics: gateway.NewMetrics([]string{v.Message.Source}, nil, nil, "test")})
	g.Swap(b.set)
	defer g.Close()
	if _, err := g.Admit(context.Background(), []*gateway.Message{message()}); err != nil {
		t.Fatal(err)
	}
	v.compareEntry(t, b, message(), b.entries[len(b.entries)-1])
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s\n got %s\nwant %s", what, g, w)
	}
}

// compareDecision compares what explain says.
func (v *vector) compareDecision(t *testing.T, b *decisionBench, d *gateway.Decision) {
	same(t, "grade", d.Grade, v.Expect.Grade)
	same(t, "personal", d.Personal, v.Expect.Personal)
	same(t, "sensitive", d.Sensitive, v.Expect.Sensitive)
	same(t, "action", d.Action, v.Expect.Action)
	var findings, unknown []string
	for i := range d.Class.Findings {
		f := &d.Class.Findings[i]
		findings = append(findings, fmt.Sprintf("%s %s %s", where(d, f.Place), b.set.Classifier.Categories()[f.Category].ID, d.ActionOn(i)))
	}
	for _, n := range d.Class.Unknown {
		unknown = append(unknown, d.Body.Pointer(int(n)))
	}
	same(t, "findings", strings.Join(findings, "\n"), strings.Join(v.Expect.Findings, "\n"))
	same(t, "unknown", strings.Join(unknown, " "), strings.Join(v.Expect.Unknown, " "))
	if len(v.Expect.Uplinks) != len(d.Uplinks) {
		t.Errorf("%d uplinks are expected of %d", len(v.Expect.Uplinks), len(d.Uplinks))
	}
	for u := range d.Uplinks {
		name, up := b.set.Uplinks[u].Name, &d.Uplinks[u]
		want := v.Expect.Uplinks[name]
		same(t, name, up.State.String()+" "+up.Action.String()+" "+up.Reason.String(), want.State+" "+want.Action+" "+want.Reason)
		if up.State == gateway.Blocked && (up.Topic != "" || up.Payload != nil) {
			t.Errorf("%s: blocked, and yet there is something to send", name)
		}
	}
}

// compareEntry compares what the journal is given: the record, and what may leave.
func (v *vector) compareEntry(t *testing.T, b *decisionBench, m *gateway.Message, e *gateway.Entry) {
	var r gateway.Record
	if err := gateway.DecodeRecord(e.Record, &r); err != nil {
		t.Fatal(err)
	}
	same(t, "record: grade", r.Grade, v.Expect.Grade)
	if want := gateway.Commitment("sluice input v1", &e.Salt, []byte(m.Topic), []byte(m.Client), m.Payload); r.Input != want {
		t.Error("record: the input's commitment does not open")
	}
	var findings, plugins, outcomes []string
	for _, f := range r.Findings {
		findings = append(findings, fmt.Sprintf("%s %s %d", b.set.Classifier.Categories()[f.Category].ID, f.Action, f.Count))
	}
	for _, p := range r.Plugins {
		s := fmt.Sprintf("%s %s %s", b.set.Filters[p.Plugin].Filter.Name(), p.Action, p.Grade)
		if p.Failed {
			s += " failed"
		}
		plugins = append(plugins, s)
	}
	var expected []string
	for u, o := range r.Outcomes {
		name := b.set.Uplinks[u].Name
		outcomes = append(outcomes, fmt.Sprintf("%s %s %s %s", name, o.State, o.Action, o.Reason))
		want := v.Expect.Uplinks[name]
		expected = append(expected, fmt.Sprintf("%s %s %s %s", name, want.State, want.Action, want.Reason))
		v.compareOutlet(t, b, m, e, name, u, o, want)
	}
	if len(v.Expect.Record.Outcomes) > 0 {
		expected = v.Expect.Record.Outcomes
	}
	same(t, "record: findings", strings.Join(findings, "\n"), strings.Join(v.Expect.Record.Findings, "\n"))
	same(t, "record: plugins", strings.Join(plugins, "\n"), strings.Join(v.Expect.Record.Plugins, "\n"))
	same(t, "record: outcomes", strings.Join(outcomes, "\n"), strings.Join(expected, "\n"))
}

// compareOutlet compares what may leave by one uplink, or is held for it.
func (v *vector) compareOutlet(t *testing.T, b *decisionBench, m *gateway.Message, e *gateway.Entry, name string, u int, o gateway.Outcome, want expectedOutcome) {
	i := slices.IndexFunc(e.Outlets, func(x gateway.Outlet) bool { return x.Uplinks.Has(u) })
	if o.State == gateway.Blocked {
		if i >= 0 || e.Waits.Has(u) || e.Holds.Has(u) || !e.Blocks.Has(u) {
			t.Errorf("%s: blocked, and yet the journal is given something", name)
		}
		return
	}
	if i < 0 {
		t.Errorf("%s: %s, and the journal is given nothing", name, o.State)
		return
	}
	out := e.Outlets[i]
	if left := gateway.Commitment("sluice left v1", &e.Salt, []byte(out.Topic), out.Payload); left != o.Left {
		t.Errorf("%s: the commitment of what leaves does not open", name)
	}
	if o.State == gateway.Held {
		h, err := seal.OpenHold(b.custodian, out.Payload)
		if err != nil || !out.Hold || out.Topic != "" || h.Topic != m.Topic || h.Client != m.Client || !bytes.Equal(h.Payload, m.Payload) {
			t.Errorf("%s: the hold does not open to the message: %v", name, err)
		}
		return
	}
	topic := want.Topic
	if topic == "" {
		topic = m.Topic
	}
	same(t, name+": topic", out.Topic, b.fill(topic))
	b.compareBody(t, name, string(out.Payload), b.fill(want.Body))
}

var (
	tokenPlace  = regexp.MustCompile(`<token (\S+) ([^<>]*)>`)
	cipherPlace = regexp.MustCompile(`<jwe (\S+) ([^<>]*)>`)
	cipherText  = regexp.MustCompile(`^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)
)

// fill writes the tokens that <token DOMAIN VALUE> stands for.
func (b *decisionBench) fill(text string) string {
	return tokenPlace.ReplaceAllStringFunc(text, func(place string) string {
		m := tokenPlace.FindStringSubmatch(place)
		op := gateway.Operation{Action: gateway.Tokenize, Domain: m[1]}
		out, _, _, err := b.set.Redactor.Apply(nil, op, gateway.Value{Kind: gateway.String, Text: []byte(m[2])}, gateway.FieldContext{})
		if err != nil {
			panic(err)
		}
		return string(out)
	})
}

// compareBody compares a body with what is expected, where <jwe RECIPIENT VALUE> stands for a ciphertext that opens to
// the JSON value, at its own place.
func (b *decisionBench) compareBody(t *testing.T, name, got, want string) {
	t.Helper()
	var body gateway.Body
	if err := (payload.JSON{}).Decode([]byte(got), &body); err != nil {
		t.Errorf("%s: the body cannot be read: %v", name, err)
		return
	}
	rest := got
	places := cipherPlace.FindAllStringSubmatchIndex(want, -1)
	at := 0
	opened := map[string]*seal.Fields{}
	for _, p := range places {
		clear := want[at:p[0]]
		text := cipherText.FindString(strings.TrimPrefix(rest, clear))
		if !strings.HasPrefix(rest, clear) || text == "" {
			break
		}
		recipient, value := want[p[2]:p[3]], want[p[4]:p[5]]
		node := slices.IndexFunc(body.Nodes, func(n gateway.Node) bool { return string(body.Raw[n.Value.Off:n.Value.End()]) == strconv.Quote(text) })
		if opened[recipient] == nil {
			opened[recipient] = b.openers[recipient].Message()
		}
		if plain, err := opened[recipient].Open(body.Pointer(node), []byte(text)); err != nil || string(plain) != value {
			t.Errorf("%s: the ciphertext for %s opens to %s (%v), want %s", name, recipient, plain, err, value)
		}
		rest, at = rest[len(clear)+len(text):], p[1]
	}
	if rest != want[at:] {
		t.Errorf("%s: body\n got %s\nwant %s", name, got, want)
	}
}
