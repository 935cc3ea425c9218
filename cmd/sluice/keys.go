package main

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
)

// defaultKeyDir is the key_dir of an installed gateway.
const defaultKeyDir = "/etc/sluice/keys"

// cmdKeys makes, lists and exports keys.
func cmdKeys(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	const help = "Usage: sluice keys VERB [flags]\n\n" +
		"  new     make a key: --use token|recipient|custodian|audit|at-rest --id NAME [--dir DIR]\n" +
		"  ls      list the keys: [--dir DIR] [--json]\n" +
		"  export  print the public part of a key, or all of it: --id NAME [--dir DIR] [--private]\n"
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
	fs := newFlags("keys new", "--use USE --id NAME [--dir DIR]")
	use := fs.String("use", "", "`use` of the key: token, recipient, custodian, audit or at-rest")
	id := fs.String("id", "", "`name` of the key, and of its files")
	dir := fs.String("dir", defaultKeyDir, "`folder` of the keys")
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
	ring, err := keyring.Open(*dir)
	if err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	if err := ring.Generate(u, *id); err != nil {
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
	fs := newFlags("keys export", "--id NAME [--dir DIR] [--private]")
	id := fs.String("id", "", "`name` of the key")
	dir := fs.String("dir", defaultKeyDir, "`folder` of the keys")
	private := fs.Bool("private", false, "print the private key instead")
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
	text, err := ring.Export(*id, *private)
	if err != nil {
		return fail(stderr, err, keyHint(err, *dir))
	}
	defer clear(text)
	if _, err := stdout.Write(text); err != nil {
		return fail(stderr, fmt.Errorf("write key: %w", err))
	}
	return exitGood
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
