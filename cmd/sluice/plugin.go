package main

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/plugins/bundle"
)

func pluginVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return subverb("plugin", "--help", slices.Concat(authorVerbs, []verb{
		{"pack", "put a manifest into a module: --manifest FILE FILE.wasm", pluginPack},
		{"sign", "sign a module: --key FILE FILE.wasm", pluginSign},
		{"verify", "check a module's signature: --trust FILE FILE.wasm", pluginVerify},
	}, fleetVerbs), args, stdin, stdout, stderr)
}

// pluginSign writes the signature file beside a module. The module is signed as it is: nothing of it is read.
func pluginSign(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("plugin sign", "--key FILE FILE.wasm")
	keyFile := fs.String("key", "", "private `file` of a plugin key")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if *keyFile == "" || len(rest) != 1 {
		return usage(stderr, errors.New("plugin sign: want one module and --key"), "for example: sluice plugin sign --key author/acme.key geofence.wasm",
			"sluice keys new --use plugin --id acme --dir author makes a key")
	}
	key, err := keyring.ReadPrivate(*keyFile)
	if err != nil {
		hint := keyHint(err, filepath.Dir(*keyFile))
		if errors.Is(err, keyring.ErrNoKey) {
			hint = "sluice keys new --use plugin --id acme --dir author makes author/acme.key"
		}
		return fail(stderr, err, hint)
	}
	defer key.Destroy()
	if key.Use != keyring.Plugin {
		return fail(stderr, fmt.Errorf("read key %q: a key for %s, not for plugin", *keyFile, key.Use), "make one with: sluice keys new --use plugin --id acme --dir author")
	}
	module, err := readBounded(rest[0], wasm.MaxModule)
	if err != nil {
		return fail(stderr, err, moduleHint(rest[0]))
	}
	sig, err := bundle.Sign(module, key.ID, key.Secret())
	if err != nil {
		return fail(stderr, err)
	}
	if err := replaceFile(rest[0]+bundle.Suffix, 0o644, sig); err != nil {
		return fail(stderr, err)
	}
	fmt.Fprintf(stdout, "%s  signed by %s with %s\n", rest[0]+bundle.Suffix, key.ID, strings.Join(algorithmsOf(key), " and "))
	return exitGood
}

func algorithmsOf(key *keyring.Private) []string {
	if len(key.Secret()) > 32 {
		return []string{bundle.Ed25519, bundle.MLDSA65}
	}
	return []string{bundle.Ed25519}
}

// pluginReport is what plugin verify --json prints. Of the module it says nothing before the signature holds.
type pluginReport struct {
	OK         bool          `json:"ok"`
	Reason     bundle.Reason `json:"reason,omitempty"` // code of what is wrong with the signature
	Errors     []string      `json:"errors"`
	Key        string        `json:"key,omitempty"`
	Digest     string        `json:"digest,omitempty"`
	Algorithms []string      `json:"algorithms,omitempty"` // checked
	Unchecked  bool          `json:"unchecked,omitempty"`  // there is a second signature, and no key for it
	Expires    string        `json:"expires,omitempty"`    // last day of the key
	Name       string        `json:"name,omitempty"`
	Version    string        `json:"version,omitempty"`
	Serial     uint64        `json:"serial,omitempty"`
	Grants     []string      `json:"grants,omitempty"`  // asked for, and the key may have them
	Refused    []string      `json:"refused,omitempty"` // asked for, and the key may not
	hint       string
}

// pluginVerify checks a module as a gateway does that takes it in: signature, expiry, name, grants.
func pluginVerify(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("plugin verify", "--trust FILE [--json] FILE.wasm")
	trustFile := fs.String("trust", "", "`file` with the keys that may sign plugins")
	asJSON := fs.Bool("json", false, "print one line of JSON")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if *trustFile == "" || len(rest) != 1 {
		return usage(stderr, errors.New("plugin verify: want one module and --trust"), "for example: sluice plugin verify --trust trust.yaml geofence.wasm")
	}
	trust, report := bundle.ReadTrust(*trustFile)
	if status := failProblems(stderr, report); status != exitGood {
		if *asJSON {
			printJSON(stdout, stderr, &pluginReport{Errors: []string{report.Err().Error()}})
		}
		return status
	}
	module, err := readBounded(rest[0], wasm.MaxModule)
	if err != nil {
		return fail(stderr, err, moduleHint(rest[0]))
	}
	sig, err := readBounded(rest[0]+bundle.Suffix, bundle.MaxSignature)
	if err != nil && !errors.Is(err, iofs.ErrNotExist) { // none is for Verify to refuse
		return fail(stderr, err)
	}
	p := verifyModule(module, sig, trust)
	if *asJSON {
		status = printJSON(stdout, stderr, p)
	} else {
		p.print(stdout)
	}
	if !p.OK {
		return fail(stderr, errors.New(p.Errors[0]), p.hint)
	}
	return status
}

// verifyModule reads the manifest of a module only after the signature over it holds.
func verifyModule(module, sig []byte, trust *bundle.Trust) *pluginReport {
	p := &pluginReport{Errors: []string{}}
	bad := func(err error) *pluginReport {
		var r *bundle.Refusal
		if p.Errors = append(p.Errors, err.Error()); errors.As(err, &r) {
			p.Reason, p.hint = r.Reason, r.Hint()
		}
		return p
	}
	now, clockSet := gateway.SystemClock()
	s, err := bundle.Verify(module, sig, trust, now, clockSet)
	if err != nil {
		return bad(err)
	}
	p.Key, p.Digest, p.Algorithms, p.Unchecked, p.Expires = s.Key, s.Digest, s.Algorithms, s.Unchecked, s.LastDay()
	m, err := wasm.ReadManifest(module)
	if err != nil {
		return bad(err)
	}
	p.Name, p.Version, p.Serial = m.Name, m.Version, m.Serial
	p.Grants, p.Refused = s.Limit(m.Grants)
	if err := s.CheckName(m.Name); err != nil {
		return bad(err)
	}
	p.OK = true
	return p
}

// print writes what is known, for people.
func (p *pluginReport) print(w io.Writer) {
	if p.Key == "" {
		return
	}
	fmt.Fprintf(w, "sha256 %s\nkey %s, until %s\nchecked %s\n", p.Digest, p.Key, p.Expires, strings.Join(p.Algorithms, ", "))
	if p.Unchecked {
		fmt.Fprintf(w, "not checked %s: the trust file has no key for it\n", bundle.MLDSA65)
	}
	if p.Name != "" {
		fmt.Fprintf(w, "plugin %s %s, serial %d\n", p.Name, p.Version, p.Serial)
	}
	for _, g := range p.Grants {
		fmt.Fprintf(w, "may be granted %s\n", g)
	}
	for _, g := range p.Refused {
		fmt.Fprintf(w, "asks in vain for %s\n", g)
	}
	if p.OK {
		fmt.Fprintln(w, "ok")
	}
}

func moduleHint(file string) string {
	if strings.HasSuffix(file, bundle.Suffix) {
		return "name the module, not its signature: " + strings.TrimSuffix(file, bundle.Suffix)
	}
	return "name the module: geofence.wasm"
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name) // before opening: a pipe would block
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, errors.Unwrap(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %q: not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	return data, nil
}

// replaceFile writes a file whole or not at all, in place of one that may be there.
func replaceFile(path string, mode os.FileMode, data []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %q: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncFolder(dir)
}
