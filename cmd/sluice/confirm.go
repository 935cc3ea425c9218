package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-edge/sluice/gateway/config"
	"github.com/sluice-edge/sluice/gateway/fleet"
)

// A configuration on probation must not survive the process that tries it: while one is, and after it was rolled back,
// data_dir keeps the files of the last one that was confirmed, and a start uses those. A reload without a probation, or a
// confirmation, makes the files on disk the confirmed ones again.

// keptConfig is the content of the files of a configuration, by their paths.
type keptConfig struct {
	File  string            `json:"file"` // the main one
	Files map[string][]byte `json:"files"`
}

// keptName is the file in data_dir; keptFolder is where a start puts files that are read by their names.
const (
	keptName    = "confirmed.json"
	keptFolder  = "confirmed"
	keptVersion = 1
)

// errKept means that the kept configuration cannot be used.
var errKept = errors.New("last confirmed configuration cannot be used")

// keep reads the files of a configuration that was just loaded: the main file, drop-ins, catalogs, trust, roles, and the
// configuration files of plugins. Keys and certificates are not among them.
func (c *Config) keep() *keptConfig {
	k := &keptConfig{File: c.file, Files: map[string][]byte{}}
	add := func(path string) {
		if path == "" {
			return
		}
		if data, err := os.ReadFile(path); err == nil {
			k.Files[path] = data
		}
	}
	add(c.file)
	folder := filepath.Join(filepath.Dir(c.file), config.DropIns)
	entries, _ := os.ReadDir(folder) // it need not be there
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".yaml" {
			add(filepath.Join(folder, e.Name()))
		}
	}
	for _, path := range c.besides() {
		add(*path)
	}
	return k
}

// besides are the paths of what a configuration names and is kept with it.
func (c *Config) besides() []*string {
	list := []*string{&c.Trust, &c.Admin.Roles}
	for i := range c.Catalogs {
		if !isShippedCatalog(c.Catalogs[i]) {
			list = append(list, &c.Catalogs[i])
		}
	}
	for i := range c.Plugins {
		list = append(list, &c.Plugins[i].ConfigFile)
	}
	return list
}

// write puts the copy on disk, whole.
func (k *keptConfig) write(dataDir string) error {
	body, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dataDir, keptName), 0o600, fmt.Appendf(nil, `{"v":%d,"sum":"%x","config":%s}`+"\n", keptVersion, sha256.Sum256(body), body))
}

// readKept reads the copy; nil when there is none.
func readKept(dataDir string) (*keptConfig, error) {
	data, err := os.ReadFile(filepath.Join(dataDir, keptName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var file struct {
		V      int             `json:"v"`
		Sum    string          `json:"sum"`
		Config json.RawMessage `json:"config"`
	}
	k := new(keptConfig)
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err == nil && (file.V != keptVersion || fmt.Sprintf("%x", sha256.Sum256(file.Config)) != file.Sum) {
		err = errors.New("sum or version does not fit")
	}
	if err == nil {
		err = json.Unmarshal(file.Config, k)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errKept, keptName, err)
	}
	return k, nil
}

// dropKept removes the copy.
func dropKept(dataDir string) error {
	err := os.Remove(filepath.Join(dataDir, keptName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		return syncFolder(dataDir)
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load makes a configuration of the copy. What is read by its name is put into a folder of data_dir.
func (k *keptConfig) load(dataDir string, now time.Time) (*Config, *config.Report) {
	c := &Config{}
	r := config.LoadKept(k.File, k.Files, c)
	c.file = k.File
	c.resolve()
	folder := filepath.Join(dataDir, keptFolder)
	err := errors.Join(os.RemoveAll(folder), os.Mkdir(folder, 0o700))
	for i, path := range c.besides() {
		data, ok := k.Files[*path]
		if !ok {
			continue
		}
		*path = filepath.Join(folder, fmt.Sprintf("%d-%s", i, filepath.Base(*path)))
		err = errors.Join(err, os.WriteFile(*path, data, 0o600))
	}
	if err != nil {
		r.Error("data_dir", "last confirmed configuration cannot be unpacked: "+err.Error(), "")
	}
	c.check(r, now, estimatedRate)
	c.kept = k
	return c, r
}

// lastConfirmed is the configuration that a start uses: nil when it is the one on disk.
func lastConfirmed(file string, now time.Time) (*Config, *config.Report, error) {
	c, _ := readConfig(file)
	if c.DataDir == "" {
		return nil, nil, nil // its problems are reported by who reads it
	}
	k, err := readKept(c.DataDir)
	if k == nil || err != nil {
		return nil, nil, err
	}
	cfg, report := k.load(c.DataDir, now)
	return cfg, report, nil
}

// tryConfig is the part of a reload that puts a configuration on probation.
func (a *assembly) tryConfig(b *built, want probationOf, undo []func(), by string) error {
	before := a.now.Load()
	if err := a.confirmed.write(a.cfg.DataDir); err != nil {
		return fmt.Errorf("keep the confirmed configuration: %w", err)
	}
	t := &trying{before: before}
	t.undo = func() error {
		for _, f := range undo {
			f()
		}
		a.noteCertificates()
		a.note(before)
		return nil // the copy stays: the files on disk are those that were rolled back
	}
	fresh := b.cfg.keep()
	t.keep = func() error {
		a.confirmed = fresh
		return dropKept(a.cfg.DataDir)
	}
	a.onKept.Store(true)
	a.try(b, t, want)
	a.event(fleet.Event{Event: "configuration tried", Until: t.until.UTC().Format(time.RFC3339), By: by})
	return nil
}

// settle notes that the files on disk are the confirmed configuration.
func (a *assembly) settle(cfg *Config) error {
	a.confirmed = cfg.keep()
	a.onKept.Store(false)
	return dropKept(a.cfg.DataDir)
}

// endReload answers whether the configuration on probation stays.
func (a *assembly) endReload(stays bool, by string) error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	t := a.trial
	if t == nil || t.plugin != "" {
		return hinted{errors.New("no configuration waits for its confirmation"), "sluice reload --confirm 10m -c FILE tries one"}
	}
	if !stays {
		return a.back(fleet.Operator, by)
	}
	if err := t.keep(); err != nil {
		return err
	}
	a.keepTrial()
	a.onKept.Store(false)
	a.event(fleet.Event{Event: "configuration confirmed", By: by})
	a.log.Info("configuration confirmed", "by", by)
	return nil
}

// configCondition says which configuration is in force, when that is not plainly the one on disk; "" else.
func (a *assembly) configCondition() string {
	switch t := a.shown.Load(); {
	case t != nil && t.plugin == "":
		return "on probation until " + t.until.UTC().Format(time.RFC3339) + ", then rolled back unless it is confirmed"
	case a.onKept.Load():
		return "the last confirmed one, which the files on disk are not; sluice reload takes those in"
	}
	return ""
}

// reloadWith is POST /-/reload: confirm, max_delta and max_latency ask for a probation.
func (a *assembly) reloadWith(query url.Values, by string) error {
	q := probationRequest{query.Get("confirm"), query.Get("max_delta"), query.Get("max_latency")}
	want, err := q.parse()
	if err != nil {
		return err
	}
	return a.reload(by, want)
}

func reloadVerb(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	var q probationRequest
	var stays, back bool
	r, status := parseReading("reload", args, stdout, stderr, func(fs *flag.FlagSet, r *reading) {
		q.flags(fs)
		r.synopsis = "[-c FILE] [--confirm TIME [--max-delta SHARE] [--max-latency FACTOR] | --keep | --back] [--json]"
		fs.BoolVar(&stays, "keep", false, "the configuration on probation stays")
		fs.BoolVar(&back, "back", false, "go back from the configuration on probation")
	})
	if r == nil {
		return status
	}
	defer r.stop()
	if stays && back || (stays || back) && q.Confirm != "" {
		return usage(stderr, errors.New("reload: one of --confirm, --keep and --back"), "sluice reload --confirm 10m -c FILE, then sluice reload --keep -c FILE")
	}
	if _, err := q.parse(); err != nil {
		return usage(stderr, fmt.Errorf("reload: %w", err), "for example: --confirm 10m --max-delta 5%")
	}
	var answer struct {
		OK bool `json:"ok"`
	}
	path, done := "reload", progress(stderr)
	switch {
	case stays:
		path = "reload/keep"
	case back:
		path = "reload/back"
	}
	err := tell(r.ctx, r.cfg, http.MethodPost, path, q, &answer)
	done()
	if err != nil {
		return fail(stderr, err, gatewayHints(err)...)
	}
	switch {
	case r.asJSON:
		return printJSON(stdout, stderr, answer)
	case q.Confirm != "":
		fmt.Fprintf(stdout, "on probation for %s: sluice reload --keep keeps it\n", q.Confirm)
	case stays:
		fmt.Fprintln(stdout, "the configuration stays")
	case back:
		fmt.Fprintln(stdout, "the configuration before is in force; a start uses it too, until a reload takes the files as they are")
	default:
		fmt.Fprintln(stdout, "reloaded")
	}
	return exitGood
}

// reloadChange is POST /api/v1/reload: as POST /-/reload, with a body.
func (a *assembly) reloadChange(r *http.Request, by string) (any, error) {
	var q probationRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf(`read request: want {} or {"confirm":"10m","max_delta":"5%%"}`)
	}
	want, err := q.parse()
	if err != nil {
		return nil, err
	}
	return map[string]bool{"ok": true}, a.reload(by, want)
}
