package wasm

import (
	"cmp"
	"encoding/hex"
	"fmt"
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

func (m *Manifest) check() error {
	switch {
	case !validName(m.Name):
		return fmt.Errorf("name is not made of 1 to 64 of a-z, 0-9, - and _")
	case !semver.IsValid("v"+m.Version) || len(m.Version) > 64:
		return fmt.Errorf("version is no semantic version")
	case m.Serial == 0:
		return fmt.Errorf("serial is missing")
	case m.ABI != 1:
		return fmt.Errorf("abi %d; this version speaks 1", m.ABI)
	case len(m.SDK) > 64 || len(m.Description) > 1024:
		return fmt.Errorf("sdk or description is too long")
	case m.Profile != profileBare && m.Profile != profileWASI:
		return fmt.Errorf("profile %q: want %s or %s", m.Profile, profileBare, profileWASI)
	case m.OnError != "" && m.OnError != "block" && m.OnError != "hold":
		return fmt.Errorf("on_error %q: want block or hold", m.OnError)
	case m.MinHost != "" && !semver.IsValid("v"+m.MinHost):
		return fmt.Errorf("min_host is no semantic version")
	}
	if digest, err := hex.DecodeString(m.Vectors); err != nil || (len(digest) != 32 && len(digest) != 0) {
		return fmt.Errorf("vectors is no SHA-256")
	}
	if err := m.checkLists(); err != nil {
		return err
	}
	return m.Limits.check(m.Profile)
}

func (m *Manifest) checkLists() error {
	if len(m.Protocols) == 0 || len(m.Topics) == 0 {
		return fmt.Errorf("protocols or topics is empty")
	}
	for _, p := range m.Protocols {
		if protocolNumbers[p] == 0 {
			return fmt.Errorf("protocol %q is unknown", p)
		}
	}
	for _, f := range m.Topics {
		if !gateway.ValidTopicFilter(f) {
			return fmt.Errorf("%q is no topic filter", f)
		}
	}
	if len(m.Labels) > maxLabels || len(m.Reasons) > maxReasons || len(m.Grants) > 3*maxLabels {
		return fmt.Errorf("more than %d labels, %d reasons or %d grants", maxLabels, maxReasons, 3*maxLabels)
	}
	for i, l := range m.Labels {
		if l == "" || len(l) > 64 || slices.Contains(m.Labels[:i], l) {
			return fmt.Errorf("label %d is empty, too long or stands twice", i+1)
		}
	}
	for code, text := range m.Reasons {
		if n, err := strconv.ParseUint(code, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != code || len(text) > 256 {
			return fmt.Errorf("reason %q is no number from 1 to 65535, or its text is too long", code)
		}
	}
	for _, g := range m.Grants {
		kind, label, listed := strings.Cut(g, ":")
		switch kind {
		case "read.payload", "read.source", "replace", "log":
			if listed {
				return fmt.Errorf("grant %q is unknown", g)
			}
		case "read.value", "declassify":
			if !slices.Contains(m.Labels, label) {
				return fmt.Errorf("grant %q: the category is not among the labels", g)
			}
		default:
			return fmt.Errorf("grant %q is unknown", g)
		}
	}
	return nil
}

// check refuses limits over the host's and fills in the defaults of the profile.
func (l *Limits) check(profile string) error {
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
	switch {
	case l.MemoryPages > maxPages:
		return fmt.Errorf("limits.memory_pages is over %d", maxPages)
	case l.Fuel > maxFuel || l.FuelInit > maxFuel:
		return fmt.Errorf("limits.fuel or fuel_init is over %d", maxFuel)
	case l.Depth > maxDepth:
		return fmt.Errorf("limits.depth is over %d", maxDepth)
	}
	for _, n := range []uint32{l.InBytes, l.OutBytes} {
		if n < minRegion || n > maxRegion || n%8 != 0 {
			return fmt.Errorf("limits.in_bytes or out_bytes is no multiple of 8 from %d to %d", minRegion, maxRegion)
		}
	}
	return nil
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
