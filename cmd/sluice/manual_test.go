package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	yaml "go.yaml.in/yaml/v4"

	"github.com/sluice-edge/sluice/gateway/config"
)

// root is the folder of the repository.
const root = "../.."

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestTheDeployedExampleIsGood lints deploy/vehicle.yaml: all that may be wrong with it are files of a real box.
func TestTheDeployedExampleIsGood(t *testing.T) {
	missing := regexp.MustCompile(`^(public key )?file "/etc/sluice/[^"]+" is missing$`)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC) // its approval ends one day
	for _, p := range lintFile(filepath.Join(root, "deploy/vehicle.yaml"), estimatedRate, now) {
		if !missing.MatchString(p.Message) {
			t.Errorf("%s: %s (%s)", p.Severity, p, p.Hint)
		}
	}
}

// manual lists the pages for people.
func manual(t *testing.T) []string {
	t.Helper()
	pages := []string{"README.md", "deploy/README.md"}
	more, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil || len(more) < 3 {
		t.Fatalf("%d pages in docs, %v", len(more), err)
	}
	for _, page := range more {
		pages = append(pages, "docs/"+filepath.Base(page))
	}
	return pages
}

// TestTheManualNamesVerbsAndFlagsThatExist reads every command line of the manual that begins with sluice.
func TestTheManualNamesVerbsAndFlagsThatExist(t *testing.T) {
	command := regexp.MustCompile("(?m)(?:^ {4,}(?:.*[|] *)?|`|go run )(?:\\./)?(?:cmd/)?sluice ((?:[^`\n#|&<>]|\\\\\n)*)")
	flagForm := regexp.MustCompile(`^--?[a-z][a-z-]*`)
	help := func(words ...string) string {
		var stdout, stderr bytes.Buffer
		if status := dispatch(slices.Concat(words, []string{"--help"}), nil, &stdout, &stderr); status != exitGood {
			return ""
		}
		return stdout.String()
	}
	seen := 0
	for _, page := range manual(t) {
		for _, m := range command.FindAllStringSubmatch(readText(t, page), -1) {
			words := strings.Fields(m[1])
			if len(words) == 0 || words[0] == "help" || words[0] == "VERB" {
				continue
			}
			seen++
			verb := words[:1]
			text := help(verb...)
			if text == "" {
				t.Errorf("%s: no verb: sluice %s", page, m[1])
				continue
			}
			if slices.Contains([]string{"journal", "hold", "audit", "keys", "plugin"}, words[0]) && len(words) > 1 && !strings.HasPrefix(words[1], "-") {
				if !strings.Contains(text, "\n  "+words[1]+" ") {
					t.Errorf("%s: no verb: sluice %s", page, m[1])
					continue
				}
				verb = words[:2]
				text = help(verb...)
			}
			for _, w := range words[len(verb):] {
				if f := flagForm.FindString(w); f != "" && !strings.Contains(text, "\n  "+f+" ") {
					t.Errorf("%s: sluice %s has no flag %s", page, strings.Join(verb, " "), f)
				}
			}
		}
	}
	if seen < 15 {
		t.Errorf("found %d command lines only", seen)
	}
}

// TestTheManualPointsAtWhatExists follows relative links, and looks for the tests and folders that the pages name.
func TestTheManualPointsAtWhatExists(t *testing.T) {
	var tests bytes.Buffer
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		tests.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#: ]+)(?:#[^)]*)?\)`)
	name := regexp.MustCompile(`\bTest[A-Z]\w+`)
	folder := regexp.MustCompile("`((?:cmd|gateway|filters|crypto|plugins|protocols|testbench|deploy|docs)/[A-Za-z0-9_./-]+)`")
	for _, page := range manual(t) {
		text := readText(t, page)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: dead link %s", page, m[1])
			}
		}
		for _, m := range folder.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s: no %s", page, m[1])
			}
		}
		for _, m := range name.FindAllString(text, -1) {
			if !bytes.Contains(tests.Bytes(), []byte("func "+m+"(")) {
				t.Errorf("%s: no test %s", page, m)
			}
		}
	}
}

// TestTheFirstMessageOfTheReadme sends the message of the walkthrough through what init writes.
func TestTheFirstMessageOfTheReadme(t *testing.T) {
	message := regexp.MustCompile(`'(\{"vin".*\})'`).FindStringSubmatch(readText(t, "README.md"))
	if message == nil {
		t.Fatal("no message in the README")
	}
	dir := filepath.Join(t.TempDir(), "first")
	file := filepath.Join(dir, "sluice.yaml")
	var stdout, stderr bytes.Buffer
	run := func(args ...string) {
		t.Helper()
		stdout.Reset()
		if status := dispatch(args, strings.NewReader(message[1]), &stdout, &stderr); status != exitGood {
			t.Fatalf("sluice %s: status %d\n%s", strings.Join(args, " "), status, stderr.String())
		}
	}
	run("init", "--dir", dir)
	run("lint", "--strict", file)
	run("explain", "-c", file, "--topic", "v1/car-7/telemetry", "--json")
	var x explanation
	if err := json.Unmarshal(stdout.Bytes(), &x); err != nil {
		t.Fatal(err)
	}
	body, err := base64.StdEncoding.DecodeString(x.Uplinks["cloud"].Body)
	if err != nil || !regexp.MustCompile(`^\{"_sluice_id":"[0-9a-f]{32}","_sluice_salt":"[0-9a-f]{32}","vin":"tk[a-z]+","lat":39\.91,"lon":116\.40,"speed":61\.5\}$`).Match(body) {
		t.Errorf("the cloud sees %s, %v", body, err)
	}
}

// node is what configuration.md takes from the JSON Schema.
type node struct {
	Description string
	Type        any
	Enum        []string
	Pattern     string
	Default     any
	AnyOf       []node `yaml:"anyOf"`
	Items       *node
	Properties  yaml.Node // in the order of the file
	Additional  yaml.Node `yaml:"additionalProperties"`
	Required    []string
}

// kind names what a key takes.
func (n *node) kind() string {
	switch {
	case len(n.Enum) > 0:
		return strings.Join(n.Enum, ", ")
	case len(n.AnyOf) == 2 && n.AnyOf[1].Items != nil:
		return n.AnyOf[0].kind() + ", or a list"
	case len(n.AnyOf) > 0:
		return n.AnyOf[0].kind()
	case n.Items != nil:
		return "list"
	case strings.Contains(n.Pattern, "KiB"):
		return "size"
	case strings.Contains(n.Pattern, "ms"):
		return "duration"
	case n.Type == "boolean":
		return "true, false"
	case n.Type == "integer" || n.Type == "number":
		return "number"
	case n.Type == nil:
		return "anything"
	case strings.Contains(fmt.Sprint(n.Type), "object"):
		return "section"
	}
	return "text"
}

// rows lists the keys below n in the order of the file.
func (n *node) rows(t *testing.T, prefix string) (list []string) {
	t.Helper()
	for i := 0; i+1 < len(n.Properties.Content); i += 2 {
		name := n.Properties.Content[i].Value
		var p node
		if err := n.Properties.Content[i+1].Decode(&p); err != nil {
			t.Fatal(err)
		}
		path, below := prefix+name, p
		fallback := "–"
		switch {
		case slices.Contains(n.Required, name):
			fallback = "required"
		case p.Default != nil:
			fallback = fmt.Sprintf("`%v`", p.Default)
		}
		list = append(list, fmt.Sprintf("| `%s` | %s | %s | %s |", path, strings.ReplaceAll(p.Description, "|", `\|`), p.kind(), fallback))
		if p.Items != nil {
			path, below = path+"[]", *p.Items
		}
		if p.Additional.Kind == yaml.MappingNode {
			var element node
			if err := p.Additional.Decode(&element); err != nil {
				t.Fatal(err)
			}
			path, below = path+".NAME", element
		}
		list = append(list, below.rows(t, path+".")...)
	}
	return list
}

// TestEveryKeyIsInTheManual compares the table of docs/configuration.md with the schema; UPDATE_DOCS=1 writes it.
func TestEveryKeyIsInTheManual(t *testing.T) {
	const page, mark = "docs/configuration.md", "| key | meaning | takes | default |\n|---|---|---|---|\n"
	var schema node
	if err := yaml.Unmarshal(config.Schema(Config{}, "test"), &schema); err != nil {
		t.Fatal(err)
	}
	rows := schema.rows(t, "")
	if len(rows) < 80 {
		t.Fatalf("%d keys only", len(rows))
	}
	want := strings.Join(rows, "\n") + "\n"
	head, got, ok := strings.Cut(readText(t, page), mark)
	if !ok {
		t.Fatalf("%s has no table of keys", page)
	}
	if got == want {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("%s does not say what the schema says; write its table with UPDATE_DOCS=1 go test ./cmd/sluice -run %s", page, t.Name())
	}
	if err := os.WriteFile(filepath.Join(root, page), []byte(head+mark+want), 0o644); err != nil {
		t.Fatal(err)
	}
}
