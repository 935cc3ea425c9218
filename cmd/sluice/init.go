package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/filters/catalog"
)

// Names that init gives.
const (
	firstRecipient = "oem-dso"
	firstCustodian = "custodian"
	firstDomain    = "fleet"
	siteCatalog    = "site.catalog.yaml"
)

// initVerb writes a first configuration with its keys; with --from it watches traffic first and proposes a policy and
// catalog entries for what it saw. It never overwrites a file.
func initVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("init", "[--dir DIR] [--gateway NAME] [--from mqtt://HOST:PORT [--topic '#'] [--for 30s]]")
	dir := fs.String("dir", ".", "`folder` that gets sluice.yaml, keys/ and officer/")
	name := fs.String("gateway", "vgw-0001", "identity of the gateway")
	catalogName := fs.String("catalog", "vehicle", "shipped catalog: vehicle or industrial")
	w := watch{}
	fs.StringVar(&w.from, "from", "", "watch this broker, or read this NDJSON `file` (- for standard input), and propose")
	fs.StringVar(&w.topic, "topic", "#", "topic `filter` to watch")
	fs.DurationVar(&w.length, "for", w.defaultLength(), "how long to watch")
	fs.IntVar(&w.count, "count", 0, "stop watching after this many messages")
	fs.StringVar(&w.user, "user", "", "user `name` at the broker")
	fs.StringVar(&w.passwordFile, "password-file", "", "`file` with the password")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	switch {
	case done:
		return status
	case len(rest) > 0:
		return usage(stderr, fmt.Errorf("init: unexpected argument %q", rest[0]), "type sluice init --dir "+rest[0])
	case !nameForm.MatchString(*name):
		return usage(stderr, fmt.Errorf("init: %q is no name for a gateway", *name), nameHint)
	case !isShippedCatalog(*catalogName):
		return usage(stderr, fmt.Errorf("init: no shipped catalog is called %q", *catalogName), nearOr(*catalogName, catalog.Shipped, "have: "+strings.Join(catalog.Shipped, ", ")))
	}
	first := firstConfig{dir: *dir, gateway: *name, catalog: *catalogName, topics: []string{"v1/#"}, policy: firstPolicy[*catalogName]}
	if err := first.free(w.from != ""); err != nil {
		return fail(stderr, err, "sluice init never overwrites: name another folder with --dir, or move the file away")
	}
	if w.from != "" {
		seen, err := w.run(*catalogName, stdin, stderr)
		if err != nil {
			return fail(stderr, err, w.hint())
		}
		first.policy, first.site, first.topics = seen.policy(), seen.catalog(), seen.filters()
		fmt.Fprint(stdout, seen.summary())
	}
	if err := first.write(); err != nil {
		return fail(stderr, err)
	}
	first.next(stdout)
	return exitGood
}

// firstConfig is what init writes.
type firstConfig struct {
	dir, gateway, catalog string
	topics                []string // that devices may publish
	policy                string   // rows of the table, indented
	site                  string   // catalog of the site, "" for none
}

func (f *firstConfig) path(name string) string { return filepath.Join(f.dir, name) }

// free reports what stands in the way.
func (f *firstConfig) free(withSite bool) error {
	names := []string{"sluice.yaml", "keys", "officer"}
	if withSite {
		names = append(names, siteCatalog)
	}
	for _, name := range names {
		if _, err := os.Lstat(f.path(name)); err == nil {
			return fmt.Errorf("%s exists", f.path(name))
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look for %s: %w", f.path(name), errors.Unwrap(err))
		}
	}
	return nil
}

// write makes the keys, then the catalog, last the configuration: a half-written folder has none.
func (f *firstConfig) write() error {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return fmt.Errorf("make folder %q: %w", f.dir, errors.Unwrap(err))
	}
	if err := f.makeKeys(); err != nil {
		return err
	}
	if f.site != "" {
		if err := writeNew(f.path(siteCatalog), f.site); err != nil {
			return err
		}
	}
	text := strings.NewReplacer("@GATEWAY@", f.gateway, "@CATALOG@", f.catalog, "@SITE@", f.siteHint(), "@TOPICS@", yamlList(f.topics), "@RECIPIENT@", firstRecipient,
		"@CUSTODIAN@", firstCustodian, "@DOMAIN@", firstDomain).Replace(strings.Replace(firstText, "@POLICY@", f.policy, 1))
	return writeNew(f.path("sluice.yaml"), text)
}

// yamlList writes texts as a YAML list.
func yamlList(texts []string) string {
	quoted := make([]string, len(texts))
	for i, t := range texts {
		quoted[i] = strconv.Quote(t)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func (f *firstConfig) siteHint() string {
	if f.site == "" {
		return ""
	}
	return "   # add ./" + siteCatalog + " once you have decided about its entries"
}

// makeKeys makes the pairs of the recipient and the custodian in officer/ and copies their public halves to keys/: the
// gateway must not be able to open what it seals.
func (f *firstConfig) makeKeys() error {
	officer, err := keyring.Open(f.path("officer"))
	if err != nil {
		return err
	}
	if err := os.Mkdir(f.path("keys"), 0o700); err != nil {
		return fmt.Errorf("make folder %q: %w", f.path("keys"), errors.Unwrap(err))
	}
	for id, use := range map[string]keyring.Use{firstRecipient: keyring.Recipient, firstCustodian: keyring.Custodian} {
		if err := officer.Generate(use, id); err != nil {
			return err
		}
		public, err := officer.Export(id, false)
		if err != nil {
			return err
		}
		if err := writeNew(f.path(filepath.Join("keys", id+".pub")), string(public)); err != nil {
			return err
		}
	}
	return nil
}

// writeNew writes a file that must not exist.
func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write %q: %w", path, errors.Unwrap(err))
	}
	_, err = file.WriteString(text)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return err
}

// next says what init wrote and what to type now.
func (f *firstConfig) next(w io.Writer) {
	fmt.Fprintf(w, "wrote %s: devices on 127.0.0.1:1883, cloud on 127.0.0.1:1884\n", f.path("sluice.yaml"))
	if f.site != "" {
		fmt.Fprintf(w, "wrote %s: fields that no catalog knows; they stay until you decide\n", f.path(siteCatalog))
	}
	fmt.Fprintf(w, "wrote %s: public keys of a recipient (%s) and of the custodian\n", f.path("keys"), firstRecipient)
	fmt.Fprintf(w, "wrote %s: their private keys; move this folder to the officer's machine, the gateway never needs it\n", f.path("officer"))
	fmt.Fprintf(w, "next: sluice lint %s && sluice run -c %s\n", f.path("sluice.yaml"), f.path("sluice.yaml"))
}

// firstText is the first configuration.
const firstText = `# Sluice: the gate between devices and the cloud. Relative paths start at the folder of this file.
# Check it with: sluice lint sluice.yaml    Every key: sluice schema

gateway: @GATEWAY@               # identity in every record
responsible: { name: Data Security Office, contact: dso@example.com }
data_dir: data                   # journal and archive; /var/lib/sluice on a real box
key_dir: keys                    # never inside data_dir; what is missing is made at the first start

sources:
  - name: bench                  # plain and anonymous: on loopback only
    mqtt:
      listen: "tcp://127.0.0.1:1883"
      anonymous: true
      allow: [{ client: "*", publish: @TOPICS@ }]

catalogs: [@CATALOG@]@SITE@
unknown_field: remove            # or block: what no catalog knows never leaves

# The first row that matches decides, for every finding and uplink.
policy:
@POLICY@
token_domains: { @DOMAIN@: { key: tokens-@DOMAIN@ } }
keys: { recipients: { @RECIPIENT@: @RECIPIENT@.pub }, custodian: @CUSTODIAN@.pub }

uplinks:
  - name: cloud
    recipient: Example Cloud     # who receives the data, where, for what, on what ground
    jurisdiction: CN
    purpose: remote diagnosis
    legal_basis: contract
    identity: { mode: field }    # by which the cloud tells copies apart; see docs/delivery.md
    mqtt: { url: "tcp://127.0.0.1:1884" }   # mosquitto -p 1884; elsewhere tls://

journal: { max_size: 2GiB, max_age: 168h }
audit: { max_size: 4GiB }
admin: { listen: "127.0.0.1:9600" }
`

// firstPolicy is a total and safe table for each shipped catalog. Core and important data stay.
var firstPolicy = map[string]string{
	"vehicle": `  - { match: { grade: core }, action: block }
  # Important data leave under an approval only: action: encrypt, to: @RECIPIENT@, approval: { ref: …, until: … }
  - { match: { grade: important }, action: block }
  - { match: { category: VEH-ID-VIN }, action: tokenize, domain: @DOMAIN@ }
  - { match: { category: [VEH-LOC-POINT, VEH-LOC-CHARGE] }, action: generalize, decimals: 2 }   # about 1.1 km
  - { match: { category: VEH-DRV-EDR }, action: encrypt, to: @RECIPIENT@ }
  - { match: { category: VEH-DRV-DYNAMICS }, action: pass }
  - { match: { personal: true }, action: remove }
  - { match: {}, action: pass }
`,
	"industrial": `  - { match: { grade: core }, action: block }
  # Important data leave under an approval only: action: encrypt, to: @RECIPIENT@, approval: { ref: …, until: … }
  - { match: { grade: important }, action: block }
  - { match: { personal: true }, action: remove }
  - { match: {}, action: pass }
`,
}
