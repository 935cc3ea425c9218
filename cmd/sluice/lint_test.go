package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	yaml "go.yaml.in/yaml/v4"

	"github.com/sluice-edge/sluice/gateway/config"
)

// wanted is one expectation at the top of a fixture: # severity | line | key | part of the message | part of the hint
type wanted struct {
	severity, key, message, hint string
	line                         int
}

func expectations(t *testing.T, file string) []wanted {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []wanted
	for _, l := range strings.Split(string(data), "\n") {
		parts := strings.Split(strings.TrimPrefix(l, "# "), " | ")
		if !strings.HasPrefix(l, "# ") || len(parts) < 4 {
			break
		}
		line, err := strconv.Atoi(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		w := wanted{severity: parts[0], line: line, key: strings.TrimSpace(parts[2]), message: parts[3]}
		if len(parts) > 4 {
			w.hint = strings.TrimSpace(parts[4])
		}
		list = append(list, w)
	}
	return list
}

// TestBadConfigurationsAreReported lints every testdata/config/bad-*.yaml. Each problem stands at the top of its file,
// and no other is reported.
func TestBadConfigurationsAreReported(t *testing.T) {
	files, err := filepath.Glob("testdata/config/bad-*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	closeKeys(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "bad-"), ".yaml"), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			status := lintVerb([]string{"--json", file}, nil, &stdout, &stderr)
			var got lintReport
			if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || stderr.Len() > 0 {
				t.Fatal(err, stderr.String())
			}
			want, errors := expectations(t, file), 0
			if len(want) == 0 {
				t.Fatal("fixture without expectations")
			}
			for _, w := range want {
				found := false
				for i, p := range got.Problems {
					if string(p.Severity) == w.severity && p.Line == w.line && p.Key == w.key && strings.Contains(p.Message, w.message) && strings.Contains(p.Hint, w.hint) && p.Column >= 1 {
						got.Problems = append(got.Problems[:i], got.Problems[i+1:]...)
						found = true
						break
					}
				}
				if !found {
					t.Errorf("missing: %s %d %s: %s (%s)", w.severity, w.line, w.key, w.message, w.hint)
				}
				if w.severity == "error" {
					errors++
				}
			}
			for _, p := range got.Problems {
				t.Errorf("not expected: %s %s (%s)", p.Severity, p, p.Hint)
			}
			if (status == exitBad) != (errors > 0) {
				t.Errorf("exit status %d with %d errors", status, errors)
			}
			if s := lintVerb([]string{"--strict", file}, nil, &stdout, &stderr); s != exitBad {
				t.Errorf("strict exit status %d", s)
			}
		})
	}
}

// closeKeys makes the keys of the fixtures as private as a checkout may have left them open.
func closeKeys(t *testing.T) {
	t.Helper()
	for name, mode := range map[string]os.FileMode{"keys": 0o755, "gate.key": 0o600} {
		if err := os.Chmod(filepath.Join("testdata/config", name), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGoodConfigurationsHaveNoProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/config/good-*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	closeKeys(t)
	t.Setenv("SLUICE_TEST_USER", "vgw")
	var schema any
	if err := json.Unmarshal(config.Schema(Config{}, "test"), &schema); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		var stdout, stderr bytes.Buffer
		if status := lintVerb([]string{"--strict", file}, nil, &stdout, &stderr); status != exitGood {
			t.Errorf("%s: status %d\n%s", file, status, stderr.String())
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var free any
		if err := yaml.Unmarshal(data, &free); err != nil {
			t.Fatal(err)
		}
		if problem := validate(schema.(map[string]any), free, ""); problem != "" {
			t.Errorf("%s: schema refuses %s", file, problem)
		}
	}
}

// validate checks v against the words of JSON Schema that config.Schema uses, and names the first place that does not fit.
func validate(s map[string]any, v any, path string) string {
	if any, ok := s["anyOf"].([]any); ok {
		for _, a := range any {
			if validate(a.(map[string]interface{}), v, path) == "" {
				return ""
			}
		}
		return path + " (none of anyOf)"
	}
	if enum, ok := s["enum"].([]any); ok {
		for _, e := range enum {
			if e == v {
				return ""
			}
		}
		return path + " (enum)"
	}
	if t := s["type"]; t != nil {
		names, ok := t.([]any)
		if !ok {
			names = []any{t}
		}
		fits := false
		for _, n := range names {
			fits = fits || n == typeOf(v) || n == "number" && typeOf(v) == "integer"
		}
		if !fits {
			return fmt.Sprintf("%s (%v is no %v)", path, typeOf(v), t)
		}
	}
	if pattern, ok := s["pattern"].(string); ok && typeOf(v) == "string" && !regexp.MustCompile(pattern).MatchString(v.(string)) {
		return path + " (pattern)"
	}
	switch v := v.(type) {
	case map[string]any:
		props, _ := s["properties"].(map[string]any)
		for k, e := range v {
			sub, ok := props[k].(map[string]any)
			if !ok {
				if sub, ok = s["additionalProperties"].(map[string]any); !ok && s["additionalProperties"] == false {
					return path + "." + k + " (unknown)"
				}
			}
			if ok {
				if p := validate(sub, e, path+"."+k); p != "" {
					return p
				}
			}
		}
		if required, ok := s["required"].([]any); ok {
			for _, k := range required {
				if _, ok := v[k.(string)]; !ok {
					return path + "." + k.(string) + " (missing)"
				}
			}
		}
	case []any:
		items, _ := s["items"].(map[string]any)
		for i, e := range v {
			if p := validate(items, e, fmt.Sprintf("%s[%d]", path, i)); p != "" {
				return p
			}
		}
	}
	return ""
}

func typeOf(v any) string {
	switch reflect.ValueOf(v).Kind() {
	case reflect.Invalid:
		return "null"
	case reflect.Map:
		return "object"
	case reflect.Slice:
		return "array"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	}
	return "string"
}

func TestValidateRefusesWhatDecodeRefuses(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(config.Schema(Config{}, "test"), &schema); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"unknown-key", "unknown-key-deep", "missing-gateway", "source-yes", "source-wrong-type", "unknown-field", "policy-action", "policy-match-missing"} {
		data, err := os.ReadFile("testdata/config/bad-" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		var free any
		if err := yaml.Unmarshal(data, &free); err != nil {
			t.Fatal(err)
		}
		if validate(schema, free, "") == "" {
			t.Errorf("schema takes bad-%s.yaml", name)
		}
	}
}

// FuzzConfig: no file makes the checks panic, and every problem has a place.
func FuzzConfig(f *testing.F) {
	for _, pattern := range []string{"testdata/config/bad-*.yaml", "testdata/config/good-*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if data, err := os.ReadFile(file); err == nil {
				f.Add(data)
			}
		}
	}
	testTime := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, p := range lintFile(file, estimatedRate, testTime) {
			if p.Line < 1 || p.Column < 1 || p.Message == "" || p.File == "" {
				t.Fatalf("problem without place or message: %+v", p)
			}
		}
	})
}

// TestKeysThatExpireSoonAreSaid: a trust file is warned of 30 days before one of its keys brings no more new versions.
func TestKeysThatExpireSoonAreSaid(t *testing.T) {
	closeKeys(t)
	for day, want := range map[string]string{"2025-12-01": "", "2025-12-15": `key "acme" brings new versions for 17 more days`, "2026-01-01": `key "acme" has expired`} {
		now, err := time.Parse(time.DateOnly, day)
		if err != nil {
			t.Fatal(err)
		}
		problems := lintFile("testdata/config/bad-trust-expired.yaml", estimatedRate, now)
		if want == "" && len(problems) != 0 || want != "" && (len(problems) != 1 || problems[0].Severity != config.Warning || !strings.Contains(problems[0].Message, want)) {
			t.Errorf("%s: %v", day, problems)
		}
	}
}
