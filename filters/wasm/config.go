package wasm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	jsonx "github.com/go-json-experiment/json"
	yaml "go.yaml.in/yaml/v4"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// BuiltinScheme in front of PluginConfig.File names a module that the program carries instead of a file.
const BuiltinScheme = "builtin:"

// Limits of what an operator hands over.
const (
	MaxModule     = 8 << 20 // bytes of a module's file
	maxConfigFile = 1 << 20
	maxEdits      = 256
)

// PluginConfig is one plugin as the operator attaches it.
type PluginConfig struct {
	Name       string                 `yaml:"name" doc:"name of the plugin in records, logs and metrics" required:"true"`
	File       string                 `yaml:"file" doc:"module: a .wasm file, or builtin: and the name of a plugin that the program carries" required:"true"`
	Topics     []string               `yaml:"topics" doc:"topic filters of the messages that it judges; none = every message"`
	Uplinks    []string               `yaml:"uplinks" doc:"uplinks that its verdicts apply to; none = all"`
	ConfigFile string                 `yaml:"config_file" doc:"the plugin's own configuration: a JSON or YAML file"`
	Config     map[string]any         `yaml:"config" doc:"the plugin's own configuration, inline"`
	Grants     []string               `yaml:"grants" doc:"what it may read and do: read.value:CATEGORY, read.payload, read.source, log"`
	Edits      map[uint32]EditConfig  `yaml:"edits" doc:"what the numbers that its edits name stand for"`
	Counts     map[string]CountConfig `yaml:"counts" doc:"what the host counts for it, by name: a message beyond it has the label count:NAME"`
	OnError    string                 `yaml:"on_error" doc:"what happens to a message that it fails on; the plugin's own wish when absent" enum:"block,hold"`
}

// EditConfig is what one parameter id of a plugin's edits stands for. A plugin chooses among these and never gives a
// parameter itself.
type EditConfig struct {
	Action   string        `yaml:"action" doc:"what the host does" enum:"generalize,mask,tokenize,encrypt" required:"true"`
	Decimals *int          `yaml:"decimals" doc:"generalize a number: digits kept behind the point, 0 to 9"`
	Prefix   *int          `yaml:"prefix" doc:"generalize text: characters kept in front"`
	Bucket   time.Duration `yaml:"bucket" doc:"generalize a time: rounded down to a multiple of this"`
	Head     int           `yaml:"head" doc:"mask: characters kept in front"`
	Tail     int           `yaml:"tail" doc:"mask: characters kept behind"`
	Char     string        `yaml:"char" doc:"mask: the character written instead, * when absent"`
	Domain   string        `yaml:"domain" doc:"tokenize: token domain"`
	To       string        `yaml:"to" doc:"encrypt: recipient of keys.recipients"`
}

// Check reports what is wrong with the configuration as far as it can be told without the module. Names of uplinks,
// token domains and recipients are the caller's to check: see Operations.
func (c *PluginConfig) Check(r *config.Report, path string) {
	at := func(key string) string { return config.Join(path, key) }
	if c.Name != "" && !validName(c.Name) {
		r.Error(at("name"), "name is not made of 1 to 64 of a-z, 0-9, - and _", "name: geofence")
	}
	for i, f := range c.Topics {
		if !gateway.ValidTopicFilter(f) {
			r.Error(config.Index(at("topics"), i), fmt.Sprintf("%q is no topic filter", f), "a + stands for one whole level, # for the rest at the end")
		}
	}
	if c.ConfigFile != "" && c.Config != nil {
		r.Error(at("config"), "config and config_file are both given", "keep one of the two")
	}
	for i, g := range c.Grants {
		if message, hint := checkGrant(g); message != "" {
			r.Error(config.Index(at("grants"), i), message, hint)
		}
	}
	if len(c.Edits) > maxEdits {
		r.Error(at("edits"), fmt.Sprintf("%d edits; at most %d are allowed", len(c.Edits), maxEdits), "")
	}
	for _, id := range slices.Sorted(maps.Keys(c.Edits)) {
		e := c.Edits[id]
		sub := config.Join(at("edits"), fmt.Sprint(id))
		if id == 0 {
			r.Error(sub, "0 is no number of an edit", "count from 1")
		}
		if _, message, hint := e.operation(); message != "" {
			r.Error(sub, message, hint)
		}
	}
	if len(c.Counts) > maxCounts {
		r.Error(at("counts"), fmt.Sprintf("%d counts; at most %d are allowed", len(c.Counts), maxCounts), "")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Counts)) {
		n := c.Counts[name]
		n.check(r, config.Join(at("counts"), name), name)
	}
	switch c.OnError {
	case "", "block", "hold":
	default:
		r.Error(at("on_error"), fmt.Sprintf("on_error %q: want block or hold", c.OnError), "on_error: block; nothing makes an error a pass")
	}
}

// validate is Check for callers without a file: the first problem as an error.
func (c *PluginConfig) validate() error {
	r := config.Decode("", nil, &struct{}{})
	c.Check(r, "plugin")
	if c.Name == "" {
		r.Error("plugin.name", "required key is missing", "")
	}
	return r.Err()
}

// Operations lists what the plugin's edits can do, ordered by id, so that the caller can check that every token domain
// and recipient in it exists. Edits that Check refuses are left out.
func (c *PluginConfig) Operations() []gateway.Operation {
	var ops []gateway.Operation
	for _, p := range c.profiles() {
		ops = append(ops, p.op)
	}
	return ops
}

// profile is one parameter id with its operation.
type profile struct {
	id uint32
	op gateway.Operation
}

// profiles resolves the edits, ordered by id.
func (c *PluginConfig) profiles() []profile {
	var list []profile
	for _, id := range slices.Sorted(maps.Keys(c.Edits)) {
		e := c.Edits[id]
		if op, message, _ := e.operation(); message == "" {
			list = append(list, profile{id, op})
		}
	}
	return list
}

// operation resolves one edit, or says what is wrong with it.
func (e *EditConfig) operation() (op gateway.Operation, message, hint string) {
	a, err := gateway.ParseAction(e.Action)
	if err != nil || a < gateway.Generalize || a > gateway.Encrypt {
		return op, "action is none of generalize, mask, tokenize, encrypt", "remove, hold and block need no edit: a plugin may always ask for them"
	}
	op = gateway.Operation{Action: a, Decimals: -1, Prefix: -1, Bucket: e.Bucket, Domain: e.Domain, To: e.To}
	generalizes := e.Decimals != nil || e.Prefix != nil || e.Bucket != 0
	masks := e.Head != 0 || e.Tail != 0 || e.Char != ""
	switch {
	case generalizes && a != gateway.Generalize:
		return op, "decimals, prefix and bucket belong to generalize", ""
	case masks && a != gateway.Mask:
		return op, "head, tail and char belong to mask", ""
	case e.Domain != "" && a != gateway.Tokenize && a != gateway.Encrypt:
		return op, "domain belongs to tokenize", ""
	case e.To != "" && a != gateway.Encrypt:
		return op, "to belongs to encrypt", ""
	case a == gateway.Generalize && !generalizes:
		return op, "generalize needs decimals, prefix or bucket", "decimals: 2 is about 1.1 km of latitude"
	case a == gateway.Tokenize && e.Domain == "":
		return op, "tokenize needs a domain", "domain: NAME, with NAME under token_domains"
	case a == gateway.Encrypt && e.To == "":
		return op, "encrypt needs a recipient", "to: NAME, with NAME under keys.recipients"
	case e.Decimals != nil && (*e.Decimals < 0 || *e.Decimals > 9):
		return op, "decimals is not between 0 and 9", ""
	case e.Prefix != nil && (*e.Prefix < 0 || *e.Prefix > 1024):
		return op, "prefix is not between 0 and 1024", ""
	case e.Bucket != 0 && e.Bucket < time.Second:
		return op, "bucket is shorter than 1s", "bucket: 1h"
	case e.Head < 0 || e.Head > 255 || e.Tail < 0 || e.Tail > 255:
		return op, "head and tail are between 0 and 255", ""
	}
	if e.Decimals != nil {
		op.Decimals = int8(*e.Decimals)
	}
	if e.Prefix != nil {
		op.Prefix = int16(*e.Prefix)
	}
	if a == gateway.Encrypt && e.Domain != "" {
		op.Inner = gateway.Tokenize
	}
	op.Head, op.Tail = uint8(e.Head), uint8(e.Tail)
	if char := []rune(e.Char); len(char) > 1 || (len(char) == 1 && (char[0] < ' ' || char[0] == '"' || char[0] == '\\')) {
		return op, "char is not one printable character", `char: "*"`
	} else if len(char) == 1 {
		op.Char = char[0]
	}
	return op, "", ""
}

// validName reports whether s can name a plugin in metrics and records.
func validName(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// Module reads the module that the configuration names: builtin:NAME from builtin, else a file; a relative path starts
// at dir. Nothing of it is parsed.
func (c *PluginConfig) Module(dir string, builtin map[string][]byte) ([]byte, error) {
	if name, ok := strings.CutPrefix(c.File, BuiltinScheme); ok {
		if b := builtin[name]; b != nil {
			return b, nil
		}
		return nil, fmt.Errorf("read plugin %q: no module %q is built in (have %s)", c.Name, name, strings.Join(slices.Sorted(maps.Keys(builtin)), ", "))
	}
	data, err := readFile(dir, c.File, MaxModule)
	if err != nil {
		return nil, fmt.Errorf("read plugin %q: %w", c.Name, err)
	}
	return data, nil
}

// Vectors reads the self-test file beside the module: NAME.vectors for NAME.wasm, nil when there is none. Built-in modules have none.
func (c *PluginConfig) Vectors(dir string) ([]byte, error) {
	if strings.HasPrefix(c.File, BuiltinScheme) {
		return nil, nil
	}
	data, err := readFile(dir, strings.TrimSuffix(c.File, ".wasm")+VectorsSuffix, MaxVectors)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read self-test file of plugin %q: %w", c.Name, err)
	}
	return data, nil
}

// configuration is the plugin's own configuration as JSON: inline, from a plain JSON or YAML file, or {} when there is
// none. The bytes are the same for the same values, whatever the order of keys.
func (c *PluginConfig) configuration(dir string) ([]byte, error) {
	var value any = c.Config
	if c.Config == nil {
		value = map[string]any{}
	}
	if c.ConfigFile != "" {
		data, err := readFile(dir, c.ConfigFile, maxConfigFile)
		if err != nil {
			return nil, fmt.Errorf("read config_file: %w", err)
		}
		if bytes.IndexByte(data, 0) >= 0 {
			return nil, fmt.Errorf("read config_file %q: no text; sealed configuration files are not supported by this version", c.ConfigFile)
		}
		value = nil
		if jsonx.Unmarshal(data, &value) == nil {
			// plain JSON: tabs and all
		} else if err := yaml.Unmarshal(data, &value); err != nil {
			return nil, fmt.Errorf("read config_file %q: neither JSON nor YAML; sealed configuration files are not supported by this version", c.ConfigFile)
		}
		if _, ok := value.(map[string]any); !ok {
			return nil, fmt.Errorf("read config_file %q: want an object with named members; sealed configuration files are not supported by this version", c.ConfigFile)
		}
	}
	out, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("write configuration as JSON: a key is no text, or a number is not finite")
	}
	return out, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(dir, name string, limit int64) ([]byte, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%q has more than %d bytes", name, limit)
	}
	return data, nil
}
