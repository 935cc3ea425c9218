package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDecodeRefusesWhatIsNoConfiguration(t *testing.T) {
	os.Unsetenv("SLUICE_TEST_NOWHERE")
	bomb := "gateway: x\nextra:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 8 {
		bomb += "  " + string(rune('b'+i)) + ": &" + string(rune('b'+i)) + " [" + strings.Repeat("*"+string(rune('a'+i))+", ", 9) + "*" + string(rune('a'+i)) + "]\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"a byte order mark":      {"\ufeffgateway: x\n", "1:1 : file begins with a byte order mark | save it as UTF-8 without BOM"},
		"a NUL byte":             {"gateway: x\nkeys: { a: \x00 }\n", "2:12 : NUL byte in the file | save it as plain UTF-8 text"},
		"text in GBK":            {"gateway: \xb3\xb5\n", "1:10 : text is not UTF-8 | save it as UTF-8: iconv -f GBK -t UTF-8"},
		"every tab":              {"gateway: x\nkeys:\n\ta: b\n\tc: d\n", "3:1 : tab used as indentation | indent with spaces: two for each level\n4:1 : tab used as indentation | indent with spaces: two for each level"},
		"an open bracket":        {"gateway: [x\nkeys: 1", "2:5 : no valid YAML: did not find expected ',' or ']' | check indentation, brackets and quotes from line 1 on; put quotes around a value with : or # in it"},
		"two documents":          {"gateway: x\n---\ngateway: y\n", "2:1 : second document in one file | keep one document: remove --- and what follows, or move it to sluice.d/"},
		"a list":                 {"- gateway\n", "1:1 : found a list; want a section with the keys gateway, sources, policy, keys, edits, ratio, extra, limits | "},
		"an empty file":          {"# nothing\n", "1:1 gateway: required key is missing | add gateway: identity"},
		"a null document":        {"~\n", "1:1 gateway: required key is missing | add gateway: identity"},
		"an empty name":          {"gateway: \"\"\n", "1:1 gateway: value is empty | give gateway a value: identity"},
		"a missing value":        {"gateway:\n", `1:9 gateway: value is empty; want text | delete the key, or write "" for an empty text`},
		"a truth value as text":  {"gateway: true\n", `1:10 gateway: found the truth value true; want text | put quotes around it: "true"`},
		"a number in quotes":     {"gateway: x\nratio: \"0.5\"\n", "2:8 ratio: found text in quotes; want a number | remove the quotes"},
		"hexadecimal":            {"gateway: x\nsources: [{ listen: x, window: 0x10 }]\n", `2:32 sources[0].window: found "0x10"; want a whole number from 1 to 4096 | write a plain decimal number`},
		"a day":                  {"gateway: x\nsources: [{ listen: x, wait: 7d }]\n", `2:30 sources[0].wait: found "7d"; want a duration such as 90s or 168h; days are no unit | write 168h`},
		"less than nothing":      {"gateway: x\nsources: [{ listen: x, wait: -7s }]\n", `2:30 sources[0].wait: found "-7s"; want a duration such as 90s or 168h, not less than nothing | `},
		"a merge key":            {"gateway: x\nlimits: { <<: { limit: 1B } }\n", "2:11 limits.<<: merge keys (<<) are not read | write the keys out"},
		"a key that is a list":   {"gateway: x\n? [a]\n: 1\n", "2:3 : key is a list; want a name | put the key in quotes if it begins with [, { or ?"},
		"a tag":                  {"gateway: !!binary aGk=\n", `1:10 gateway: tag "!!binary" is not read | write the value without a tag`},
		"an unset variable":      {"gateway: ${SLUICE_TEST_NOWHERE}\n", "1:10 gateway: environment variable SLUICE_TEST_NOWHERE is not set | set it before the start: SLUICE_TEST_NOWHERE=… sluice run, or Environment= in the unit"},
		"a missing file":         {"gateway: ${file:/nonexistent/pw}\n", `1:10 gateway: ${file:…} "/nonexistent/pw": read file: no such file or directory | create the file, readable by the gateway's user only`},
		"an open expansion":      {"gateway: ${HOME\n", "1:10 gateway: ${ without } | close it, or write $${ for a literal ${"},
		"an odd expansion":       {"gateway: ${a b}\n", "1:10 gateway: ${a b} is neither a variable nor a file | write ${NAME} or ${file:PATH}, or $${ for a literal ${"},
		"an unknown anchor":      {"gateway: *x\n", "1:10 : no valid YAML: unknown anchor 'x' referenced | define the anchor with & above its use, or put quotes around a text that begins with *"},
		"an alias inside itself": {"gateway: x\nextra: &a [*a]\n", "2:8 extra" + strings.Repeat("[0]", 64) + ": values nest deeper than 64 levels | look for an alias that contains itself"},
	} {
		t.Run(name, func(t *testing.T) {
			var s site
			if got := strings.TrimSuffix(lines(Decode("x.yaml", []byte(c.text), &s)), "\n"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	var s site
	if r := Decode("x.yaml", []byte(bomb), &s); r.OK() || !strings.Contains(lines(r), "file expands to more than 100000 values") {
		t.Errorf("alias bomb: %.300s", lines(r))
	}
	if r := Decode("x.yaml", make([]byte, maxFileSize+1), &s); !strings.Contains(lines(r), "at most 4194304 are read") {
		t.Errorf("large file: %s", lines(r))
	}
}

func TestMessagesNeverQuoteSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pw"), []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var s struct {
		Pin    int    `yaml:"pin" secret:"true"`
		Window uint16 `yaml:"window"`
		Level  string `yaml:"level" enum:"a,b" secret:"true"`
	}
	r := Decode(filepath.Join(dir, "x.yaml"), []byte("pin: hunter2\nwindow: ${file:pw}\nlevel: hunter2\n"), &s)
	if got := lines(r); strings.Contains(got, "hunter2") || len(r.Problems()) != 3 {
		t.Errorf("got %s", got)
	}
}

func TestReportPlacesProblems(t *testing.T) {
	var s site
	r := Decode("x.yaml", []byte("gateway: x\nsources:\n  - { listen: 1883, window: none }\nlimits:\n  limit: 1GiB\n"), &s)
	r.Error("sources[0].window", "follow-up of what was reported", "")
	r.Error("sources[0].tls.cert_file", "missing", "")
	r.Warn("limits.limit", "small", "")
	r.Error("policy", "missing", "")
	r.Add(Problem{File: "other.yaml", Line: 9, Column: 1, Key: "k", Message: "foreign"})
	want := "1:1 policy: missing | \n3:5 sources[0].tls.cert_file: missing | \n3:29 sources[0].window: found \"none\"; want a whole number from 1 to 4096 | write a plain decimal number\n5:3 limits.limit: small | \n9:1 k: foreign | \n"
	if got := lines(r); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if err := r.Err(); r.OK() || err == nil || !strings.HasPrefix(err.Error(), "x.yaml:1:1: policy: missing\nx.yaml:3:5: ") || strings.Contains(err.Error(), "small") {
		t.Errorf("Err is %v", err)
	}
	for path, parent := range map[string]string{`a["b.c"]`: "a", `a["b\"].x"].d`: `a["b\"].x"]`, "a[3]": "a", "a.b": "a", "a": ""} {
		if got := parentPath(path); got != parent {
			t.Errorf("parent of %s is %s, want %s", path, got, parent)
		}
	}
}

// write puts files below dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadMergesDropIns(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"sluice.yaml":         "gateway: x\npolicy:\n  - { action: pass }\nkeys: { a: 1 }\nsources:\n",
		"sluice.d/10-a.yaml":  "policy:\n  - { action: block }\nkeys: { b: 2 }\n",
		"sluice.d/20-b.yaml":  "sources:\n  - { listen: y }\n",
		"sluice.d/README.txt": "not read",
	})
	var s site
	r := Load(filepath.Join(dir, "sluice.yaml"), &s)
	if !r.OK() || len(s.Policy) != 2 || s.Policy[1].Action != "block" || len(s.Keys) != 2 || len(s.Sources) != 1 {
		t.Fatalf("%+v\n%s", s, lines(r))
	}
	if file, line, _ := r.Position("policy[1].action"); filepath.Base(file) != "10-a.yaml" || line != 2 {
		t.Errorf("appended row stands in %s:%d", file, line)
	}
	write(t, dir, map[string]string{"sluice.d/30-c.yaml": "gateway: y\npolicy: { action: pass }\nkeys: { a: 3 }\nnope: 1\n", "sluice.d/40-d.yaml": "- x\n"})
	r = Load(filepath.Join(dir, "sluice.yaml"), &s)
	got := strings.ReplaceAll(r.Err().Error(), dir+"/", "")
	want := `sluice.d/30-c.yaml:1:1: gateway: value is set twice: also in ` + dir + `/sluice.yaml, line 1
sluice.d/30-c.yaml:2:1: policy: value is set twice: also in ` + dir + `/sluice.yaml, line 3
sluice.d/30-c.yaml:3:9: keys.a: value is set twice: also in ` + dir + `/sluice.yaml, line 4
sluice.d/30-c.yaml:4:1: nope: unknown key "nope"
sluice.d/40-d.yaml:1:1: found a list; want a section`
	if got != strings.ReplaceAll(want, dir+"/", "") {
		t.Errorf("got\n%s", got)
	}
	if r := Load(filepath.Join(dir, "absent.yaml"), &s); r.OK() || !strings.Contains(r.Err().Error(), "no such file") {
		t.Errorf("absent file: %v", r.Err())
	}
}

func TestEncodeWritesWhatDecodeReadsAgain(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"name": "vgw-from-file\n"})
	text := `
gateway: ${file:name}
sources:
  - { listen: "tcp://user:pass@host:1", password: hunter2, qos: 0, wait: 168h, window: 7 }
  - { listen: "$${x}: #y", tls: {} }
policy: [{ grade: core, action: block }]
keys: { yes: "no", b: "017" }
edits: { 10: { action: pass }, 9: { action: block } }
extra: [1, { a: "1" }]
ratio: 0
`
	var first, second site
	r := Decode(filepath.Join(dir, "x.yaml"), []byte(text), &first)
	out, err := Encode(&first, r)
	if err != nil || !r.OK() {
		t.Fatal(err, lines(r))
	}
	for _, secret := range []string{"hunter2", ":pass@", "vgw-from-file"} {
		if strings.Contains(string(out), secret) {
			t.Errorf("output holds %s:\n%s", secret, out)
		}
	}
	if r := Decode(filepath.Join(dir, "y.yaml"), out, &second); !r.OK() {
		t.Fatalf("%s\n%s", out, lines(r))
	}
	first.Sources[0].Password, first.Sources[0].Listen = Redacted, "tcp://user:xxxxx@host:1"
	if !reflect.DeepEqual(first, second) {
		t.Errorf("got  %+v\nwant %+v\nfrom\n%s", second, first, out)
	}
}

func TestSchemaDescribesTheStruct(t *testing.T) {
	var s map[string]any
	if err := json.Unmarshal(Schema(&site{}, "Site"), &s); err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) any {
		var v any = s
		for _, p := range path {
			v = v.(map[string]any)[p]
		}
		return v
	}
	if at("additionalProperties") != false || !reflect.DeepEqual(at("required"), []any{"gateway"}) || at("$schema") != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("root is %v", s)
	}
	if got := at("properties", "sources", "items", "properties", "max_packet", "default"); got != "256KiB" {
		t.Errorf("default is %v", got)
	}
	if got := at("properties", "keys", "additionalProperties", "type"); !reflect.DeepEqual(got, []any{"string", "number"}) {
		t.Errorf("map value is %v", got)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0B": 0, "512B": 512, "64MiB": 64 * MiB, "2TiB": 2 * TiB, "1GiB": GiB} {
		if got, err := ParseSize(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s is %d (%v), written %s", text, got, err, got)
		}
	}
	for _, text := range []string{"", "1", "MiB", "-1MiB", "1.5GiB", "01MiB", "1 MiB", "9999999999TiB", "1mib"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
	if got := shortDuration(90 * time.Minute); got != "1h30m" {
		t.Errorf("got %s", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"gateway: x\n", "gateway: &a [*a]\n", "a: {b: [c, {d: e}]}\n", "sources:\n  - listen: ${X}\n    max_packet: 1MiB\n", "\ta: b", "? [a]\n: b", "a: !!x y\n<<: *b\n", "policy: [{grade: core, action: block}]\nlimits: ~\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s site
		r := Decode("x.yaml", data, &s)
		for _, p := range r.Problems() {
			if p.Line < 1 || p.Column < 1 || p.Message == "" {
				t.Fatalf("problem without place or message: %+v", p)
			}
		}
		if !r.OK() {
			return
		}
		out, err := Encode(&s, r)
		if err != nil {
			t.Fatal(err)
		}
		var again site
		if r := Decode("y.yaml", out, &again); !r.OK() {
			t.Fatalf("%q is written as %q: %s", data, out, lines(r))
		}
	})
}
