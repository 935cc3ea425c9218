package stand

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/testbench/fleet"
)

// Gate is a sluice with its folders, not necessarily running.
type Gate struct {
	Binary string
	Dir    string
	Config string // configuration file
	Addr   string // where devices connect
	Admin  string // where health and metrics are

	Under []string // words in front of the binary when it is started: strace and its flags
}

// BuildGate builds the sluice binary into dir, from the module of the current directory.
func BuildGate(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "sluice")
	_, err := Run(ctx, "go", "build", "-trimpath", "-o", binary, "github.com/sluice-edge/sluice/cmd/sluice")
	return binary, err
}

// NewGate makes keys, a site catalog and a configuration in dir for a gate that sends to the broker at cloud: graded,
// masked, with the geofence plugin, journaled. sections replaces top-level sections of the configuration, by key, or adds some.
func NewGate(ctx context.Context, binary, dir, cloud string, sections map[string]string) (*Gate, error) {
	g := &Gate{Binary: binary, Dir: dir, Config: filepath.Join(dir, "sluice.yaml")}
	var err error
	if g.Addr, err = FreeAddress(); err != nil {
		return nil, err
	}
	if g.Admin, err = FreeAddress(); err != nil {
		return nil, err
	}
	keys := filepath.Join(dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, err
	}
	for _, k := range [][2]string{{"recipient", RecipientKey}, {"custodian", CustodianKey}} {
		if _, err := Run(ctx, binary, "keys", "new", "--use", k[0], "--id", k[1], "--dir", keys); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "site.catalog.yaml"), []byte(SiteCatalog), 0o600); err != nil {
		return nil, err
	}
	return g, os.WriteFile(g.Config, []byte(g.configuration(cloud, sections)), 0o600)
}

// RecipientKey is the id of the key to which important positions are encrypted; Gate.Dir/keys holds both halves.
const RecipientKey = "oem-dso"

// CustodianKey is the id of the key to which held messages are sealed; Gate.Dir/keys holds both halves.
const CustodianKey = "custodian"

// SiteCatalog is the catalog beside the vehicle catalog.
const SiteCatalog = `version: 1
name: site
title: Catalog of the test bench
categories:
  - id: SITE-CONVOY
    name: plan of a protected convoy
    class: commercial
    grade: core
    basis: the operator's own list
    match: { names: ["` + fleet.CoreKey + `"] }
    handling: { default: block }
`

// configuration writes the file.
func (g *Gate) configuration(cloud string, sections map[string]string) string {
	var areas strings.Builder
	for _, a := range fleet.Areas() {
		fmt.Fprintf(&areas, "\n        - { name: %s, datum: wgs84, points: [[%v, %v], [%v, %v], [%v, %v], [%v, %v]] }", a.Name,
			a.South, a.West, a.South, a.East, a.North, a.East, a.North, a.West)
	}
	values := strings.NewReplacer("@DIR@", g.Dir, "@LISTEN@", g.Addr, "@ADMIN@", g.Admin, "@CLOUD@", cloud, "@AREAS@", areas.String(),
		"@KEY@", RecipientKey, "@CUSTODIAN@", CustodianKey, "@UNTIL@", time.Now().AddDate(1, 0, 0).Format(time.DateOnly))
	var b strings.Builder
	used := map[string]bool{}
	for _, section := range gateSections {
		if text, ok := sections[section[0]]; ok {
			section[1] = " " + text
			used[section[0]] = true
		}
		b.WriteString(section[0] + ":" + section[1] + "\n")
	}
	for key, text := range sections {
		if !used[key] {
			b.WriteString(key + ": " + text + "\n")
		}
	}
	return values.Replace(b.String())
}

// gateSections is the configuration of a bench: key and value, in order.
var gateSections = [][2]string{
	{"gateway", " bench"},
	{"responsible", " { name: Data Security Office, contact: dso@example.com }"},
	{"data_dir", ` "@DIR@/data"`},
	{"key_dir", ` "@DIR@/keys"`},
	{"sources", `
  - name: vehicles
    mqtt: { listen: "tcp://@LISTEN@", anonymous: true, allow: [{ client: "*", publish: ["v1/#"] }] }`},
	{"catalogs", ` [vehicle, "@DIR@/site.catalog.yaml"]`},
	{"unknown_field", " remove"},
	{"plugins", `
  - name: geofence
    file: builtin:geofence
    grants: ["read.value:VEH-LOC-POINT"]
    on_error: block
    config:
      areas:@AREAS@`},
	{"policy", policyRows},
	{"token_domains", " { fleet: { key: tokens-fleet } }"},
	{"keys", " { recipients: { @KEY@: @KEY@.pub }, custodian: @CUSTODIAN@.pub }"},
	{"uplinks", `
  - name: tsp
    recipient: Example Motors TSP
    jurisdiction: CN
    purpose: remote diagnosis
    legal_basis: contract
    mqtt: { url: "tcp://@CLOUD@", qos: 1, inflight: 1024 }`},
	{"journal", " { max_size: 2GiB, max_age: 168h, when_full: refuse }"},
	{"admin", ` { listen: "@ADMIN@" }`},
}

const policyRows = `
  - { match: { grade: core }, action: block }
  - { match: { grade: important, category: "VEH-LOC-*" }, action: encrypt, to: @KEY@, approval: { ref: BENCH-1, until: @UNTIL@ } }
  - { match: { grade: important }, action: block }
  - { match: { category: VEH-ID-VIN }, action: tokenize, domain: fleet }
  - { match: { category: "VEH-LOC-*" }, action: generalize, decimals: 2 }
  - { match: { category: VEH-DRV-DYNAMICS }, action: pass }
  - { match: { personal: true }, action: remove }
  - { match: {}, action: pass }`

// PolicyBehind returns the section policy of a bench with another row in front.
func PolicyBehind(row string) string { return "\n  - " + row + policyRows }

// Start runs the gate and waits until devices can connect.
func (g *Gate) Start(ctx context.Context) (*Child, error) {
	c, err := g.Launch()
	if err != nil {
		return nil, err
	}
	if err := c.Ready(ctx, g.Addr); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// Launch runs the gate and does not wait for it.
func (g *Gate) Launch() (*Child, error) {
	words := append(slices.Clone(g.Under), g.Binary, "run", "-c", g.Config)
	return Spawn(g.Dir, "sluice", words[0], words[1:]...)
}

// Verb runs a verb of the binary on the gate's configuration and returns what it printed.
func (g *Gate) Verb(ctx context.Context, args ...string) ([]byte, error) {
	return Run(ctx, g.Binary, append(args, "-c", g.Config)...)
}
