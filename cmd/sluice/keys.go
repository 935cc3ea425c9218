package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
)

// defaultKeyDir is the key_dir of an installed gateway.
const defaultKeyDir = "/etc/sluice/keys"

// cmdKeys makes, lists and exports keys.
func cmdKeys(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	const help = "Usage: sluice keys VERB [flags]\n\n" +
		"  new     make a key: --use token|recipient|custodian|audit|at-rest|plugin --id NAME [--dir DIR] [--ml-dsa]\n" +
		"  ls      list the keys: [--dir DIR] [--json]\n" +
		"  export  print the public part of a key, or all of it: --id NAME [--dir DIR] [--private | --trust [--names LIST] [--grants LIST] [--expires DATE]]\n"
	if len(args) == 0 {
		return usage(stderr, errors.New("keys: no verb given"), "type sluice keys new, sluice keys ls or sluice keys export")
	}
	switch args[0] {
	case "new":
		return keysNew(args[1:], stdout, stderr)
	case "ls":
		return keysList(args[1:], stdout, stderr)
	case "export":
		return keysExport(args[1:], stdout, stderr)
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, help)
		return exitGood
	}
	return usage(stderr, fmt.Errorf("keys: unknown verb %q", args[0]), "type sluice keys new, sluice keys ls or sluice keys export")
}

func keysNew(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("keys new", "--use USE --id NAME [--dir DIR] [--ml-dsa]")
	use := fs.String("use", "", "`use` of the key: token, recipient, custodian, audit, at-rest or plugin")
	id := fs.String("id", "", "`name` of the key, and of its files")
	dir := fs.String("dir", defaultKeyDir, "`folder` of the keys")
	mldsa := fs.Bool("ml-dsa", false, "plugin keys: sign with ML-DSA-65 beside Ed25519")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	const example = "for example: sluice keys new --use recipient --id oem-dso --dir keys"
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("keys new: unexpected argument %q", rest[0]), example)
	}
	if *use == "" || *id == "" {
		return usage(stderr, errors.New("keys new: --use and --id are needed"), example)
	}
	u, err := keyring.ParseUse(*use)
	if err != nil {
		return usage(stderr, err, example)
	}
	if err := keyring.CheckID(*id); err != nil {
		return usage(stderr, err, example)
	}
	if *mldsa && u != keyring.Plugin {
		return usage(stderr, fmt.Errorf("keys new: --ml-dsa is for plugin keys, not for %s", u), "for example: sluice keys new --use plugin --id acme --dir keys --ml-dsa")
	}
	ring, err := keyring.Open(*dir)
	if err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	generate := func() error { return ring.Generate(u, *id) }
	if *mldsa {
		generate = func() error { return ring.GeneratePlugin(*id) }
	}
	if err := generate(); err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	fmt.Fprintf(stdout, "%s  private: keep it, and keep a copy\n", ring.PrivatePath(*id))
	if u.HasPublic() {
		fmt.Fprintf(stdout, "%s  public: %s\n", ring.PublicPath(*id), publicAdvice[u])
	}
	return exitGood
}

// publicAdvice says what the public part of a key is for.
var publicAdvice = map[keyring.Use]string{
	keyring.Recipient: "give it to the gateways, under keys.recipients",
	keyring.Custodian: "give it to the gateways, under keys.custodian",
	keyring.Audit:     "give it to whoever inspects",
	keyring.Plugin:    "give it to the gateways, for their trust file: sluice keys export --trust",
}

// keyEntry is one key in keys ls --json.
type keyEntry struct {
	ID          string `json:"id"`
	Use         string `json:"use,omitempty"`
	Created     string `json:"created,omitempty"`
	Generation  int    `json:"generation,omitempty"`
	Private     bool   `json:"private"`
	Public      bool   `json:"public"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Error       string `json:"error,omitempty"`
}

func keysList(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("keys ls", "[--dir DIR] [--json]")
	dir := fs.String("dir", defaultKeyDir, "`folder` of the keys")
	asJSON := fs.Bool("json", false, "print one line of JSON")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("keys ls: unexpected argument %q", rest[0]), "type sluice keys ls --dir "+rest[0])
	}
	ring, err := keyring.Open(*dir)
	if err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	infos, err := ring.List()
	if err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	if _, err := os.Stat(*dir); errors.Is(err, iofs.ErrNotExist) {
		return fail(stderr, fmt.Errorf("list keys: no folder %q", *dir), "name the key_dir of the gateway, or a folder made by sluice keys new: sluice keys ls --dir DIR")
	}
	entries := make([]keyEntry, 0, len(infos))
	for _, in := range infos {
		e := keyEntry{ID: in.ID, Generation: in.Generation, Private: in.HasPrivate, Public: in.HasPublic, Fingerprint: in.Fingerprint}
		if in.Err != nil {
			e.Error = in.Err.Error()
			status = fail(stderr, in.Err, keyHint(in.Err, *dir))
		} else {
			e.Use = in.Use.String()
		}
		if !in.Created.IsZero() {
			e.Created = in.Created.Format(time.RFC3339)
		}
		entries = append(entries, e)
	}
	if *asJSON {
		return max(status, printJSON(stdout, stderr, map[string]any{"keys": entries}))
	}
	tw := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	for _, e := range entries {
		parts := "public"
		if e.Private && e.Public {
			parts = "private+public"
		} else if e.Private {
			parts = "private"
		}
		if e.Error != "" {
			e.Use = "unusable"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", e.ID, e.Use, parts, e.Created, e.Fingerprint)
	}
	if err := tw.Flush(); err != nil {
		return fail(stderr, fmt.Errorf("write keys: %w", err))
	}
	return status
}

func keysExport(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("keys export", "--id NAME [--dir DIR] [--private | --trust [--names LIST] [--grants LIST] [--expires DATE]]")
	id := fs.String("id", "", "`name` of the key")
	dir := fs.String("dir", defaultKeyDir, "`folder` of the keys")
	private := fs.Bool("private", false, "print the private key instead")
	trust := fs.Bool("trust", false, "print a plugin key as an entry of a trust file, to be filled in")
	names := fs.String("names", "", "with --trust: `list` of plugins that it may sign, commas between; geo* is every name that begins so")
	grants := fs.String("grants", "", "with --trust: `list` of the most that they may be granted")
	expires := fs.String("expires", "", "with --trust: last `day` on which it brings new versions: 2027-12-31")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	const example = "for example: sluice keys export --id oem-dso --dir keys"
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("keys export: unexpected argument %q", rest[0]), example)
	}
	if *id == "" {
		return usage(stderr, errors.New("keys export: --id is needed"), example)
	}
	ring, err := keyring.Open(*dir)
	if err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	var text []byte
	switch {
	case *trust && *private:
		return usage(stderr, errors.New("keys export: --trust is for public keys"), "remove --private")
	case !*trust && *names+*grants+*expires != "":
		return usage(stderr, errors.New("keys export: --names, --grants and --expires are for a trust file"), "add --trust")
	case *trust:
		text, err = trustEntry(ring, *id, *names, *grants, *expires)
	default:
		text, err = ring.Export(*id, *private)
	}
	if err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	defer clear(text)
	if _, err := stdout.Write(text); err != nil {
		return fail(stderr, fmt.Errorf("write key: %w", err))
	}
	return exitGood
}

// trustEntry is a trust file with one key. What only the operator can say and does not is left open, and refused until it is said.
func trustEntry(ring *keyring.Ring, id, names, grants, expires string) ([]byte, error) {
	list := func(text string) string {
		var items []string
		for _, item := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
			items = append(items, strconv.Quote(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	p, err := ring.Public(id)
	if err != nil {
		return nil, err
	}
	if p.Use != keyring.Plugin {
		return nil, fmt.Errorf("key %q: a key for %s does not sign plugins", id, p.Use)
	}
	text := fmt.Appendf(nil, "keys:\n  - id: %s\n    ed25519: %s\n", p.ID, base64.StdEncoding.EncodeToString(p.Key[:ed25519.PublicKeySize]))
	if more := p.Key[ed25519.PublicKeySize:]; len(more) > 0 {
		text = fmt.Appendf(text, "    ml_dsa_65: %s\n", base64.StdEncoding.EncodeToString(more))
	}
	return fmt.Appendf(text, "    names: %s  # plugins that it may sign: geofence, or geo* for every name that begins so\n"+
		"    grants: %s  # the most that they may be granted: read.payload, read.value:VEH-LOC-*\n"+
		"    expires: %s  # last day on which it brings new versions: 2027-12-31\n", list(names), list(grants), expires), nil
}

// keyHint says what to type after an error about keys; empty when there is nothing to say.
func keyHint(err error, dir string) string {
	var hinted interface{ Hint() string }
	switch {
	case errors.As(err, &hinted):
		return hinted.Hint()
	case errors.Is(err, keyring.ErrNoKey):
		return "sluice keys ls --dir " + dir + " lists the keys"
	case errors.Is(err, keyring.ErrExists):
		return "choose another --id: keys are never overwritten"
	}
	return ""
}
