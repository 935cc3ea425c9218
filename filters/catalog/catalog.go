// Package catalog grades messages against catalogs of important data (重要数据目录): it says which categories hold
// which places of a message.
//
// A catalog is a YAML file:
//
//	name: site                       # how the configuration and records call it
//	version: 3
//	title: Plant 7, press shop
//	categories:
//	  - id: SITE-PRESS-FORCE         # capital letters, digits, hyphens
//	    name: press force curve
//	    class: process               # kind: inside a class the most specific matcher wins a place
//	    grade: important             # general, important, core; absent: ungraded, treated as core
//	    personal: false              # 个人信息
//	    sensitive: false             # 敏感个人信息
//	    basis: trade secret of the die maker
//	    confidence: general          # in the basis: confirmed, secondary, general
//	    match:
//	      topics: ["plant7/+/press/#"]        # topic filters; a match is a finding on every leaf
//	      paths: [press.*.force, "**.tonnage"] # from the root of the body, ** = any number of segments
//	      names: [force, "*_force"]           # whole keys, normalized; only * widens
//	      vss: [Vehicle.Speed]                # as paths, beginning anywhere, the first segment may be absent
//	      opcua: [Part/PartQuality]           # as paths, beginning anywhere
//	      gbt32960: [block 0x05]              # where the datum stands in frames: for readers and those decoders
//	      jtt808: ["0x0200"]                  # likewise
//	      values: envelope                    # only numbers, RFC 3339 times and texts up to 16 characters match
//	    detectors: [vin]             # hits that confirm a match of this category
//	    primary: [vin]               # hits that alone are a finding of this category
//	    requires: [geofence]         # all of it, or the category is not found: detectors, and conditions
//	    handling: { default: encrypt, how: to the die maker only, foreign: block }   # advice, never acted on
//	    priority: true               # life safety: first in line
//	    threshold, raise_to, note, state: texts for people; max_age_days, datum likewise
//
// A key is normalized before it is compared: lower case, full-width forms as ASCII; camel case humps, points, hyphens,
// slashes and spaces become underscores. Segments of paths are normalized too. A key that holds points or slashes
// counts as that many segments. Array elements are left out of account by paths, or taken by *.
//
// Several categories may hold one place, each with its own finding; inside a class only the most specific matcher of a
// node counts: a path before a whole name before a name with *, a path of more names before one of fewer. A match on
// an object or array is a finding on each leaf below, unless something nearer to the leaf matches; a container of a
// higher grade than all that is nearer stays. A topic match is a finding on every leaf, unless its own class matches
// there with no lower grade. A category with values matches leaves only.
//
// The conditions geofence, anonymiser, aggregate, threshold and state cannot be seen in one message. A category that
// requires one of them is found only by a filter that says so with a label.
//
// Several catalogs may be in force. A category of a later one replaces that of the same id in an earlier one.
package catalog

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// Catalog is one catalog as it was written. It is not changed after Load.
type Catalog struct {
	Name       string     `yaml:"name" doc:"how the configuration and records call the catalog" required:"true"`
	Version    int        `yaml:"version" doc:"number of this edition, rising" required:"true" min:"1"`
	Title      string     `yaml:"title" doc:"what the catalog covers"`
	Notes      []string   `yaml:"notes" doc:"remarks for readers"`
	Categories []Category `yaml:"categories" doc:"the categories" required:"true"`

	digest  [sha256.Size]byte
	shipped bool
}

// Category is one entry of a catalog as it was written.
type Category struct {
	ID         string   `yaml:"id" doc:"unique name in capital letters, digits and hyphens" required:"true"`
	Name       string   `yaml:"name" doc:"what the data are" required:"true"`
	Class      string   `yaml:"class" doc:"kind of data: inside a class the most specific matcher wins; absent: a class of its own"`
	Grade      string   `yaml:"grade" doc:"general, important or core; absent: ungraded, treated as core" enum:"general,important,core"`
	Personal   bool     `yaml:"personal" doc:"personal information"`
	Sensitive  bool     `yaml:"sensitive" doc:"sensitive personal information"`
	Basis      string   `yaml:"basis" doc:"why the grade"`
	Confidence string   `yaml:"confidence" doc:"how sure the basis is" enum:"confirmed,secondary,general"`
	Match      Match    `yaml:"match" doc:"what makes a finding"`
	Detectors  []string `yaml:"detectors" doc:"detectors whose hits confirm a match"`
	Primary    []string `yaml:"primary" doc:"detectors whose hits alone are a finding of this category"`
	Requires   []string `yaml:"requires" doc:"detectors and conditions that must all hold"`
	Handling   Handling `yaml:"handling" doc:"advice for lint and filing"`
	Priority   bool     `yaml:"priority" doc:"life safety: first in line when draining"`
	Threshold  string   `yaml:"threshold" doc:"from what amount on the grade holds"`
	RaiseTo    string   `yaml:"raise_to" doc:"when the grade rises, and to what"`
	State      string   `yaml:"state" doc:"what must be known over several messages"`
	Note       string   `yaml:"note" doc:"remark for readers"`
	MaxAgeDays int      `yaml:"max_age_days" doc:"advised retention in days" min:"0"`
	Datum      string   `yaml:"datum" doc:"remark on reference systems"`
}

// Match lists what makes a finding of a category.
type Match struct {
	Topics   []string `yaml:"topics" doc:"topic filters"`
	Paths    []string `yaml:"paths" doc:"paths from the root of the body"`
	Names    []string `yaml:"names" doc:"whole keys, * widens"`
	VSS      []string `yaml:"vss" doc:"signal paths of the COVESA Vehicle Signal Specification"`
	OPCUA    []string `yaml:"opcua" doc:"browse paths"`
	GBT32960 []string `yaml:"gbt32960" doc:"where the datum stands in GB/T 32960 frames"`
	JTT808   []string `yaml:"jtt808" doc:"where the datum stands in JT/T 808 frames"`
	Values   string   `yaml:"values" doc:"what a value must be to match" enum:"envelope"`
}

// Handling is advised handling; only the policy acts.
type Handling struct {
	Default string `yaml:"default" doc:"advised action" enum:"pass,generalize,mask,tokenize,encrypt,remove,hold,block"`
	How     string `yaml:"how" doc:"how that is meant"`
	Foreign string `yaml:"foreign" doc:"advised action towards another country" enum:"pass,generalize,mask,tokenize,encrypt,remove,hold,block"`
}

//go:embed vehicle.yaml
var vehicleYAML []byte

//go:embed industrial.yaml
var industrialYAML []byte

// Shipped lists the names of the catalogs that the program carries.
var Shipped = []string{"vehicle", "industrial"}

// Builtin returns a catalog that the program carries, by its name.
func Builtin(name string) (*Catalog, error) {
	var data []byte
	switch name {
	case "vehicle":
		data = vehicleYAML
	case "industrial":
		data = industrialYAML
	default:
		return nil, fmt.Errorf("open catalog %q: want %s, or the path of a file", name, strings.Join(Shipped, " or "))
	}
	c, r := Load(name+".yaml", data)
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("open catalog %q: %w", name, err)
	}
	c.shipped = true
	return c, nil
}

// Load reads a catalog and reports every problem of it at once. The catalog is nil when the report holds errors.
// The file name is for the report only.
func Load(file string, data []byte) (*Catalog, *config.Report) {
	c := &Catalog{digest: sha256.Sum256(data)}
	r := config.Decode(file, data, c)
	c.check(r)
	if !r.OK() {
		return nil, r
	}
	return c, r
}

// Digest is the SHA-256 of the file, in hexadecimal digits.
func (c *Catalog) Digest() string { return hex.EncodeToString(c.digest[:]) }

// Shipped reports whether the program carries the catalog.
func (c *Catalog) Shipped() bool { return c.shipped }

// facts turns a written category into what the gateway knows of it.
func (c *Category) facts(from string) gateway.Category {
	g, err := gateway.ParseGrade(c.Grade)
	if err != nil {
		g = gateway.Ungraded
	}
	return gateway.Category{ID: c.ID, Name: c.Name, Catalog: from, Class: c.Class, Grade: g, Personal: c.Personal, Sensitive: c.Sensitive,
		Basis: c.Basis, Handling: c.Handling.Default, Foreign: c.Handling.Foreign, Priority: c.Priority}
}
