package wasm

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

var update = flag.Bool("update", false, "write the vector files of the reference plugins")

// referenceCase is one case of plugins/NAME/testdata/cases.json: a message with its findings, and what the plugin says.
type referenceCase struct {
	Name     string           `json:"name"`
	Config   map[string]any   `json:"config"`
	Grants   []string         `json:"grants"` // nil: all that the manifest asks for
	Topic    string           `json:"topic"`
	Encoding string           `json:"encoding"` // json unless said otherwise: binary, text, unknown, cbor
	Payload  string           `json:"payload"`  // instead of fields: text, or base64: or hex: in front of bytes, with *N behind for N times
	Fields   []referenceField `json:"fields"`
	Whole    []string         `json:"whole"`   // categories of the whole message
	Reached  []string         `json:"reached"` // counts that this message goes beyond
	Want     struct {
		Action string   `json:"action"` // hold or block
		Grade  string   `json:"grade"`
		Edits  []string `json:"edits"` // finding, operation, parameter
		Labels []string `json:"labels"`
		Reason uint16   `json:"reason"`
		Error  string   `json:"error"` // code of the FilterError
	} `json:"want"`
}

// referenceField is one member of a flat message.
type referenceField struct {
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value"`
	Category string          `json:"category"` // none: no finding
}

func (rc *referenceCase) add(key, value, category string) {
	rc.Fields = append(rc.Fields, referenceField{key, json.RawMessage(value), category})
}

var encodings = map[string]gateway.Encoding{"": gateway.JSON, "json": gateway.JSON, "binary": gateway.BinaryFrame, "text": gateway.Text, "unknown": gateway.UnknownEncoding, "cbor": gateway.CBOR}

// message builds the message and classification of a case.
func (rc *referenceCase) message(t testing.TB, categories []gateway.Category) (*gateway.Message, *gateway.Body, *gateway.Classification) {
	t.Helper()
	number := func(id string) uint16 {
		i := slices.IndexFunc(categories, func(c gateway.Category) bool { return c.ID == id })
		if i < 0 {
			t.Fatalf("category %s is not in the test's catalog", id)
		}
		return uint16(i)
	}
	var pairs []string
	c := &gateway.Classification{}
	for _, f := range rc.Fields {
		pairs = append(pairs, f.Key, string(f.Value))
		if f.Category != "" {
			c.Findings = append(c.Findings, at(int32(len(pairs)/2), number(f.Category)))
		}
	}
	for _, id := range rc.Whole {
		c.Findings = append(c.Findings, gateway.Finding{Place: gateway.Place{Kind: gateway.AtBody}, Category: number(id), Grade: gateway.General, By: gateway.ByCatalog, Pair: -1})
	}
	b := flat(pairs...)
	if rc.Payload != "" {
		b = &gateway.Body{Raw: payloadOf(t, rc.Payload)}
	}
	b.Encoding = encodings[rc.Encoding]
	m := messageOf(b)
	if rc.Topic != "" {
		m.Topic = rc.Topic
	}
	return m, b, c
}

// payloadOf reads a payload: text, or parts base64:… and hex:… between blanks, *N behind one for N times.
func payloadOf(t testing.TB, s string) []byte {
	t.Helper()
	if !strings.HasPrefix(s, "base64:") && !strings.HasPrefix(s, "hex:") {
		return []byte(s)
	}
	var out []byte
	for _, word := range strings.Fields(s) {
		word, times, repeated := strings.Cut(word, "*")
		n := 1
		if repeated {
			if _, err := fmt.Sscan(times, &n); err != nil {
				t.Fatal(err)
			}
		}
		scheme, text, _ := strings.Cut(word, ":")
		decode := hex.DecodeString
		if scheme == "base64" {
			decode = base64.StdEncoding.DecodeString
		}
		part, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.Repeat(part, n)...)
	}
	return out
}

// operations of edits in the words of the cases.
func (rc *referenceCase) said(o *gateway.Opinion, categories []gateway.Category) string {
	var edits, labels []string
	for _, e := range o.Edits {
		if e.Regrade != gateway.Ungraded {
			edits = append(edits, fmt.Sprintf("%d regrade %v", e.Finding, e.Regrade))
			continue
		}
		edits = append(edits, fmt.Sprintf("%d %v", e.Finding, e.Op.Action))
	}
	for _, l := range o.Labels {
		labels = append(labels, categories[l].ID)
	}
	action, grade := "", ""
	if o.Action != gateway.Pass {
		action = o.Action.String()
	}
	if o.Grade != gateway.Ungraded {
		grade = o.Grade.String()
	}
	return fmt.Sprintf("action %q, grade %q, edits %q, labels %q, reason %d", action, grade, edits, labels, o.Reason)
}

func (rc *referenceCase) wanted() string {
	w := &rc.Want
	return fmt.Sprintf("action %q, grade %q, edits %q, labels %q, reason %d", w.Action, w.Grade, w.Edits, w.Labels, w.Reason)
}

// reference is a plugin under test: its module, the catalog of its cases, and the operator's edits.
type reference struct {
	name       string
	categories []gateway.Category
	edits      map[uint32]EditConfig
	counts     map[string]CountConfig
}

func (r *reference) dir() string { return "../../plugins/" + r.name + "/" }

func (r *reference) module(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(r.dir() + r.name + ".wasm")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// open loads the plugin; grants nil: all that the manifest asks for.
func (r *reference) open(t testing.TB, config map[string]any, grants []string) *Plugin {
	t.Helper()
	data := r.module(t)
	if grants == nil {
		m, err := ReadManifest(data)
		if err != nil {
			t.Fatal(err)
		}
		grants = m.Grants
	}
	return loadWith(t, PluginConfig{Name: r.name, Config: config, Grants: grants, Edits: r.edits, Counts: r.counts}, data,
		Env{Pinned: []string{digestOf(data)}, Categories: r.categories, Instances: 1})
}

func (r *reference) cases(t testing.TB) (list []referenceCase) {
	t.Helper()
	data, err := os.ReadFile(r.dir() + "testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list
}

// run holds the plugin to its cases and its vector file to what the cases ask and get.
func (r *reference) run(t *testing.T) {
	v := r.vectors()
	for _, rc := range r.cases(t) {
		t.Run(rc.Name, func(t *testing.T) {
			p := r.open(t, rc.Config, rc.Grants)
			m, b, c := rc.message(t, r.categories)
			if len(rc.Reached) > 0 { // use the count up
				full := &gateway.Classification{Findings: []gateway.Finding{at(0, uint16(len(r.categories)-1))}}
				for i := range p.counting.list {
					p.counting.list[i].counter.beyond(m, p.counting.list[i].amount(full), 1, true)
					m.ID.Counter++
				}
			}
			o := noObjection()
			err := p.Filter(m, b, c, o)
			if code := codeOf(err); code != rc.Want.Error {
				t.Fatalf("error %q (%v); want %q", code, err, rc.Want.Error)
			}
			if got := rc.said(o, r.categories); err == nil && got != rc.wanted() {
				t.Errorf("%s\nwant %s", got, rc.wanted())
			}
			v.add(t, rc.Name, rc.Config, p, m, b, c)
		})
	}
	v.check(t)
}

// refuses holds the plugin to testdata/bad_configs.json.
func (r *reference) refuses(t *testing.T, good map[string]any) {
	data, err := os.ReadFile(r.dir() + "testdata/bad_configs.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ Name, Config, Want string }
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) == 0 {
		t.Fatal(err)
	}
	p := r.open(t, good, nil)
	in, err := p.pool.take()
	if err != nil {
		t.Fatal(err)
	}
	defer p.pool.put(in)
	for _, c := range cases {
		if err := in.configure([]byte(c.Config), p.manifest.Limits); err == nil || !strings.Contains(err.Error(), c.Want) {
			t.Errorf("%s: %v; want an error with %q", c.Name, err, c.Want)
		}
	}
	m, b, cl := (&referenceCase{}).message(t, r.categories)
	if _, verdict := ask(t, p, in, m, b, cl); verdict != "error -4" {
		t.Errorf("a message after a refused configuration: %s; want error -4", verdict)
	}
}

// ask speaks to an instance without the host's judgement: the request, and the answer in the words of a vector file.
func ask(t testing.TB, p *Plugin, in *instance, m *gateway.Message, b *gateway.Body, c *gateway.Classification) (request []byte, answer string) {
	t.Helper()
	region, ok := in.mem.Read(in.in, p.manifest.Limits.InBytes)
	if !ok {
		t.Fatal("no in region")
	}
	in.scratch.reached = p.counting.reached(in.scratch.reached[:0], m, c, false)
	n, ok := p.view.build(region, &in.scratch, m, b, c)
	if !ok {
		return nil, ""
	}
	request = bytes.Clone(region[:n])
	in.stack[0] = uint64(n)
	if _, err := in.call(in.filter, p.manifest.Limits.Fuel); err != nil {
		t.Fatal(err)
	}
	length := int32(uint32(in.stack[0]))
	if length <= 0 {
		return request, fmt.Sprintf("error %d", length)
	}
	verdict, ok := in.mem.Read(in.out, uint32(length))
	if !ok {
		t.Fatal("no verdict")
	}
	return request, "verdict" + hexLines(verdict)
}

// vectors collects a vector file in the format of plugins/conformance.
type vectorFile struct {
	name, path string
	text       strings.Builder
}

func (r *reference) vectors() *vectorFile {
	v := &vectorFile{name: r.name, path: r.dir() + r.name + ".vectors"}
	v.text.WriteString("# Self-test of " + r.name + ".wasm: requests and the verdicts on them, from testdata/cases.json.\n" +
		"# Written by go test ./filters/wasm -update; the format is in plugins/conformance/README.md.\n")
	return v
}

func (v *vectorFile) add(t testing.TB, name string, config map[string]any, p *Plugin, m *gateway.Message, b *gateway.Body, c *gateway.Classification) {
	t.Helper()
	if p.manifest.Profile != "bare" {
		t.Fatal("vectors are for bare plugins")
	}
	in, err := p.pool.take()
	if err != nil {
		t.Fatal(err)
	}
	defer p.pool.put(in)
	request, answer := ask(t, p, in, m, b, c)
	if request == nil || len(request) > defaultBytes {
		return // too large for the regions that vectors count on
	}
	if config == nil {
		config = map[string]any{}
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&v.text, "\n# %s\nguest %s\nconfig %s\nrequest%s\n%s\n", name, v.name, text, hexLines(request), answer)
}

// check compares the file with what was made.
func (v *vectorFile) check(t *testing.T) {
	if *update {
		if err := os.WriteFile(v.path, []byte(v.text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(v.path); err != nil || string(have) != v.text.String() {
		t.Errorf("%s differs from what the cases make (%v): go test ./filters/wasm -update writes it", v.path, err)
	}
}

func hexLines(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		n := 1
		for n < len(b) && b[n] == b[0] {
			n++
		}
		if n >= 64 { // long runs are written short
			fmt.Fprintf(&s, "\n\t%02x*%d", b[0], n)
			b = b[n:]
			continue
		}
		n = min(32, len(b))
		for i := range n { // up to the next long run
			if k := i + 64; i > 0 && k <= len(b) && b[i] == b[i-1] && bytes.Count(b[i:k], b[i:i+1]) == 64 {
				n = i
				break
			}
		}
		fmt.Fprintf(&s, "\n\t%x", b[:n])
		b = b[n:]
	}
	return s.String()
}
