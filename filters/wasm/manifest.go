package wasm

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/semver"

	"github.com/sluice-edge/sluice/gateway"
)

// Limits that the host sets whatever a manifest wishes.
const (
	maxManifest  = 16 << 10
	maxLabels    = 256
	maxReasons   = 256
	maxPages     = 160 // 10 MiB
	maxFuel      = 50_000_000
	defaultFuel  = 5_000_000
	maxDepth     = 1000
	maxRegion    = 1 << 20
	minRegion    = 1 << 10
	defaultBytes = 64 << 10
)

// Manifest is what a module says about itself, in its custom section sluice.manifest.
type Manifest struct {
	Name        string            `json:"name"`
	Version     string            `json:"version"` // semantic version without a v
	Serial      uint64            `json:"serial"`
	ABI         int               `json:"abi"`
	SDK         string            `json:"sdk"`
	Description string            `json:"description"`
	Profile     string            `json:"profile"`
	Protocols   []string          `json:"protocols"`
	Topics      []string          `json:"topics"`
	Labels      []string          `json:"labels"`
	Reasons     map[string]string `json:"reasons"`
	Grants      []string          `json:"grants"`
	Limits      Limits            `json:"limits"`
	OnError     string            `json:"on_error"`
	Vectors     string            `json:"vectors"`
	MinHost     string            `json:"min_host"`
}

// Limits are what a module asks for; 0 is the default.
type Limits struct {
	MemoryPages uint32 `json:"memory_pages"`
	Fuel        uint64 `json:"fuel"`
	FuelInit    uint64 `json:"fuel_init"`
	Depth       uint32 `json:"depth"`
	InBytes     uint32 `json:"in_bytes"`
	OutBytes    uint32 `json:"out_bytes"`
}

// protocolNumbers are the written forms of the protocols.
var protocolNumbers = map[string]gateway.Protocol{"mqtt": gateway.MQTT, "opcua": gateway.OPCUA, "gbt32960": gateway.GBT32960, "jtt808": gateway.JTT808}

// parseManifest reads and checks a manifest; unknown and repeated members are errors. Absent limits get their defaults.
func parseManifest(data []byte) (*Manifest, error) {
	if len(data) > maxManifest {
		return nil, fmt.Errorf("read manifest: %d bytes; at most %d are allowed", len(data), maxManifest)
	}
	m := new(Manifest)
	if err := json.Unmarshal(data, m, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("check manifest: %w", err)
	}
	return m, nil
}

// check returns the first problem.
func (m *Manifest) check() error { return first(m.problems()) }

// problems lists everything that is wrong with a manifest, and fills in the defaults of absent limits.
func (m *Manifest) problems() (list []error) {
	bad := func(is bool, format string, args ...any) {
		if is {
			list = append(list, fmt.Errorf(format, args...))
		}
	}
	bad(!validName(m.Name), "name is not made of 1 to 64 of a-z, 0-9, - and _")
	bad(!semver.IsValid("v"+m.Version) || len(m.Version) > 64, "version is no semantic version")
	bad(m.Serial == 0, "serial is missing")
	bad(m.ABI != 1, "abi %d; this version speaks 1", m.ABI)
	bad(len(m.SDK) > 64 || len(m.Description) > 1024, "sdk or description is too long")
	bad(m.Profile != profileBare && m.Profile != profileWASI, "profile %q: want %s or %s", m.Profile, profileBare, profileWASI)
	bad(m.OnError != "" && m.OnError != "block" && m.OnError != "hold", "on_error %q: want block or hold", m.OnError)
	bad(m.MinHost != "" && !semver.IsValid("v"+m.MinHost), "min_host is no semantic version")
	digest, err := hex.DecodeString(m.Vectors)
	bad(err != nil || (len(digest) != 32 && len(digest) != 0), "vectors is no SHA-256")
	m.lists(bad)
	m.Limits.fill(m.Profile)
	m.Limits.check(bad)
	return list
}

// lists tells bad what is wrong with the members that are lists.
func (m *Manifest) lists(bad func(is bool, format string, args ...any)) {
	bad(len(m.Protocols) == 0 || len(m.Topics) == 0, "protocols or topics is empty")
	for _, p := range m.Protocols {
		bad(protocolNumbers[p] == 0, "protocol %q is unknown", p)
	}
	for _, f := range m.Topics {
		bad(!gateway.ValidTopicFilter(f), "%q is no topic filter", f)
	}
	if len(m.Labels) > maxLabels || len(m.Reasons) > maxReasons || len(m.Grants) > 3*maxLabels {
		bad(true, "more than %d labels, %d reasons or %d grants", maxLabels, maxReasons, 3*maxLabels)
		return
	}
	for i, l := range m.Labels {
		bad(l == "" || len(l) > 64 || slices.Contains(m.Labels[:i], l), "label %d is empty, too long or stands twice", i+1)
	}
	for _, code := range slices.Sorted(maps.Keys(m.Reasons)) {
		n, err := strconv.ParseUint(code, 10, 16)
		bad(err != nil || n == 0 || strconv.FormatUint(n, 10) != code || len(m.Reasons[code]) > 256,
			"reason %q is no number from 1 to 65535, or its text is too long", code)
	}
	for _, g := range m.Grants {
		kind, label, listed := strings.Cut(g, ":")
		switch kind {
		case "read.payload", "read.source", "replace", "log":
			bad(listed, "grant %q is unknown", g)
		case "read.value", "declassify":
			bad(!slices.Contains(m.Labels, label), "grant %q: the category is not among the labels", g)
		default:
			bad(true, "grant %q is unknown", g)
		}
	}
}

// fill puts in the defaults of the profile.
func (l *Limits) fill(profile string) {
	def := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	if profile == profileWASI {
		def(&l.MemoryPages, maxPages)
		def(&l.Depth, maxDepth)
	}
	def(&l.MemoryPages, 16)
	def(&l.Depth, 256)
	l.Fuel = cmp.Or(l.Fuel, defaultFuel)
	l.FuelInit = cmp.Or(l.FuelInit, maxFuel)
	def(&l.InBytes, defaultBytes)
	def(&l.OutBytes, defaultBytes)
}

// check tells bad of limits over the host's.
func (l *Limits) check(bad func(is bool, format string, args ...any)) {
	bad(l.MemoryPages > maxPages, "limits.memory_pages is over %d", maxPages)
	bad(l.Fuel > maxFuel || l.FuelInit > maxFuel, "limits.fuel or fuel_init is over %d", maxFuel)
	bad(l.Depth > maxDepth, "limits.depth is over %d", maxDepth)
	for _, n := range []uint32{l.InBytes, l.OutBytes} {
		bad(n < minRegion || n > maxRegion || n%8 != 0, "limits.in_bytes or out_bytes is no multiple of 8 from %d to %d", minRegion, maxRegion)
	}
}

// checkGrant says what is wrong with a grant of the operator, and what to type.
func checkGrant(g string) (message, hint string) {
	kind, category, listed := strings.Cut(g, ":")
	switch {
	case kind == "read.value" && category != "", !listed && slices.Contains([]string{"read.payload", "read.source", "log"}, g):
		return "", ""
	case kind == "read.value":
		return "read.value needs a category", "read.value:VEH-LOC-POINT"
	case g == "replace" || kind == "declassify":
		return fmt.Sprintf("grant %s cannot be given in this version", kind), "remove it: the plugin then does without"
	}
	return fmt.Sprintf("grant %q is unknown", g), "have read.value:CATEGORY, read.payload, read.source, log"
}

// permitted is what of the operator's grants the manifest asked for.
type permitted struct {
	payload, source bool
	log             bool
	values          map[string]bool // by category
	list            []string        // effective grants, sorted
}

// permit intersects what the manifest requests with what the operator grants.
func permit(request, grants []string) permitted {
	p := permitted{values: map[string]bool{}}
	for _, g := range request {
		if !slices.Contains(grants, g) {
			continue
		}
		p.list = append(p.list, g)
		switch category, isValue := strings.CutPrefix(g, "read.value:"); {
		case isValue:
			p.values[category] = true
		case g == "read.payload":
			p.payload = true
		case g == "read.source":
			p.source = true
		case g == "log":
			p.log = true
		}
	}
	slices.Sort(p.list)
	p.list = slices.Compact(p.list)
	return p
}

// covers reports whether every topic that the filter narrow matches is also matched by wide.
func covers(wide, narrow string) bool {
	for {
		w, wrest, wmore := strings.Cut(wide, "/")
		if w == "#" {
			return true
		}
		n, nrest, nmore := strings.Cut(narrow, "/")
		if n == "#" || (w != "+" && w != n) {
			return false
		}
		if !wmore || !nmore {
			return wmore == nmore || (!nmore && wrest == "#")
		}
		wide, narrow = wrest, nrest
	}
}
