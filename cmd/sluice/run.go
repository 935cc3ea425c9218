package main

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/console"
	"github.com/sluice-edge/sluice/gateway/fleet"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/gateway/ship"
	"github.com/sluice-edge/sluice/protocols/mqtt"
)

// Memory: a small live heap makes the collector run very often; it may let garbage grow further, within a bound that
// leaves room on a 512 MB box. GOGC and GOMEMLIMIT override both.
const (
	gcPercent   = 200
	memoryLimit = 192 << 20
)

// assembly is one gateway with all its parts joined.
type assembly struct {
	cfg        *Config // as at the start; what a reload exchanges is in the version set
	log        *slog.Logger
	ring       *keyring.Ring
	journal    *journal.Journal
	gateway    *gateway.Gateway
	metrics    *gateway.Metrics
	links      *gateway.LinkState
	uplinks    map[string]int // the journal's numbers
	forwarders []*gateway.Forwarder
	shipper    *ship.Shipper // nil: no collector
	sources    []*source
	console    *console.Server
	adminAddr  net.Addr

	serving     context.Context // until the sources are done, or the gateway is to stop
	stopServing context.CancelFunc
	others      sync.WaitGroup // what serves: forwarders, console, watchers

	reloading   sync.Mutex             // serialises reload and changes of plugins; guards trial
	trial       *trying                // waits for its confirmation; nil: nothing does
	shown       atomic.Pointer[trying] // is trial, for those who only look
	now         atomic.Pointer[built]  // in force
	fleet       *fleet.Store
	fleetEvents []fleet.Event // since the last start, until they are on the record
	confirmed   *keptConfig   // guarded by reloading: the files that a start goes back to
	onKept      atomic.Bool   // the copy of the confirmed configuration counts, not the files on disk
	pseudonym   func(source, client string) string
	counts      wasm.Counts
	deviceKey   [32]byte
	linking     sync.Mutex             // serialises setLink
	broken      atomic.Pointer[string] // how the books do not balance; nil: they do
}

// parts are what a gateway can be made of other than the configuration says: filter puts lines in the place of devices
// and clouds. The zero value makes everything as configured.
type parts struct {
	uplink func(name string, c *UplinkConfig) (gateway.Uplink, error)
	source func(c *SourceConfig, log *slog.Logger) (runner, error) // nil runner: nothing is taken in there
	extra  runner
}

// runner is a source as run drives it.
type runner interface {
	gateway.Source
	Listening() bool // devices can connect
	Reload() error   // read certificates and users again
}

// source is a source with what readyz says of it.
type source struct {
	name string
	runner
	mu   sync.Mutex // guards down
	down error
}

func runVerb(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := newFlags("run", "[-c FILE] [-v]")
	file := flags.String("c", defaultConfigFile, "configuration `file`")
	verbose := flags.Bool("v", false, "log more")
	rest, status, done := parseFlags(flags, args, stdout, stderr)
	if done {
		return status
	}
	if len(rest) > 0 {
		return usage(stderr, fmt.Errorf("run: unexpected argument %q", rest[0]), "type sluice run -c "+rest[0])
	}
	cfg, status := startable(*file, stderr)
	if cfg == nil {
		return status
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	harden(log)
	tuneMemory()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a, err := assemble(cfg, log, parts{})
	if err != nil {
		return fail(stderr, err, hintFor(err)...)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() { // ends with the process
		for range hup {
			if err := a.reload("signal", probationOf{}); err != nil {
				log.Error("reload refused, the old configuration stays in force", "err", err)
			}
		}
	}()
	if err := a.Run(ctx); errors.Is(err, syscall.EADDRINUSE) {
		return fail(stderr, err, "another program listens there: stop it, or give listen another port in "+*file)
	} else if err != nil {
		return fail(stderr, err)
	}
	return exitGood
}

// configured loads a configuration and prints every problem; without a usable one it returns nil and the exit status.
func configured(file string, stderr io.Writer) (*Config, int) {
	if _, err := os.Stat(file); err != nil {
		return nil, fail(stderr, fmt.Errorf("read configuration: %w", err), "sluice init --dir DIR writes a first one", "name it with -c FILE")
	}
	cfg, report := loadConfig(file, time.Now())
	if status := failProblems(stderr, report); status != exitGood {
		return nil, status
	}
	return cfg, exitGood
}

// startable is configured for run: while the files on disk are not confirmed, the last ones that were count.
func startable(file string, stderr io.Writer) (*Config, int) {
	cfg, report, err := lastConfirmed(file, time.Now())
	if err != nil {
		return nil, fail(stderr, err, "remove it to start with the files on disk as they are")
	}
	if cfg == nil {
		return configured(file, stderr)
	}
	if status := failProblems(stderr, report); status != exitGood {
		return nil, fail(stderr, errKept, "correct what is missing, or remove "+keptName+" from data_dir to start with the files on disk")
	}
	return cfg, exitGood
}

// hintRepair is what to type when files of the journal are damaged.
const hintRepair = "sluice journal repair -c FILE sets damaged files aside, keeps what is readable of them and puts the rest on the record as lost"

// hintFor says what to type about errors that people meet often.
func hintFor(err error) []string {
	var file *keyring.FileError
	switch {
	case errors.Is(err, journal.ErrLocked):
		return []string{"another gateway runs on this data_dir; stop it first"}
	case errors.Is(err, journal.ErrFormat):
		return []string{"start the newer program again: nothing was changed (docs/formats.md)"}
	case errors.Is(err, journal.ErrUntold):
		return []string{"when no newer program than this one has run on data_dir, write its number there again: docs/formats.md, \"When it cannot be told\""}
	case errors.Is(err, journal.ErrForked):
		return []string{"keep data_dir for the inspector, and start anew with another data_dir and another gateway name"}
	case errors.Is(err, errClosed):
		return []string{"ask as the gateway's user, or have the role file (admin.roles) name this one: docs/configuration.md"}
	case errors.Is(err, errNoRole):
		return []string{"who may do what stands in the role file (admin.roles): docs/configuration.md"}
	case errors.Is(err, errKeyLost) || errors.As(err, new(*journal.KeyError)):
		return []string{"put the key file back into key_dir; to give the journal up, move data_dir away"}
	case journal.Damaged(err):
		return []string{hintRepair}
	case errors.Is(err, fs.ErrNotExist):
		return []string{"no gateway has run on this data_dir yet: sluice run -c FILE"}
	case errors.As(err, &file):
		return []string{file.Hint()}
	}
	return nil
}

func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// deviceKey derives what places devices among canaries from the gateway's audit key: a device stays where it is over
// restarts, and cannot know where that is.
func deviceKey(cfg *Config, ring *keyring.Ring) (key [32]byte, err error) {
	audit, err := ring.Private(keyring.Audit, cfg.Gateway)
	if err != nil {
		return key, err
	}
	defer audit.Destroy()
	derived, err := hkdf.Key(sha256.New, audit.Secret(), nil, "sluice device share v1", len(key))
	copy(key[:], derived)
	return key, err
}

// assemble joins the parts of a gateway, in the order in which they are needed: what waits is sent on as soon as the
// journal is open; catalogs, plugins and policy, which take longer, decide only what comes in. Nothing listens yet but
// the admin socket. Whoever has it calls Run, or close.
func assemble(cfg *Config, log *slog.Logger, with parts) (_ *assembly, err error) {
	if with.uplink == nil {
		with.uplink = newUplink
	}
	if with.source == nil {
		with.source = newSource
	}
	a := &assembly{cfg: cfg, log: log, links: gateway.NewLinkState(), uplinks: map[string]int{}}
	a.pseudonym = newPseudonym()
	a.serving, a.stopServing = context.WithCancel(context.Background())
	if a.ring, err = keyring.Open(cfg.KeyDir); err != nil {
		return nil, err
	}
	created, err := ensureKeys(cfg, a.ring)
	if err != nil {
		return nil, err
	}
	if a.deviceKey, err = deviceKey(cfg, a.ring); err != nil {
		return nil, err
	}
	a.metrics = gateway.NewMetrics(sourceNames(cfg), uplinkNames(cfg), pluginNames(cfg), programVersion())
	if err := a.openJournal(); err != nil {
		return nil, err
	}
	a.gateway = gateway.New(gateway.Options{Journal: a.journal, NextID: a.journal.NextID, Metrics: a.metrics, Log: log})
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if err := a.forward(with.uplink); err != nil {
		return nil, err
	}
	if err := a.openFleet(); err != nil {
		return nil, err
	}
	in := a.surroundings(cfg, "start")
	in.choose = a.chooser(&in, true)
	b, err := buildSet(cfg, in)
	if err != nil {
		return nil, err
	}
	if err := a.keepNews(b.news); err != nil { // it runs all the same: a box whose disk is full has to
		log.Error("keep which plugins are in force", "err", err)
	}
	a.put(b, nil, nil)
	a.note(b)
	a.confirmed = cfg.kept
	if cfg.kept != nil {
		a.onKept.Store(true)
		a.event(fleet.Event{Event: "configuration restored", Why: "the one on disk was not confirmed", By: "start"})
		log.Warn("the last confirmed configuration is in force, not the files on disk: sluice reload takes those in")
	} else {
		a.confirmed = cfg.keep()
	}
	a.tellEvents(a.fleetEvents)
	a.tellNews(b.news)
	for _, id := range created {
		a.event(map[string]string{"event": "key created", "id": id})
		log.Info("key created", "id", id)
	}
	for i := range cfg.Sources {
		s, err := with.source(&cfg.Sources[i], log)
		if err != nil {
			return nil, err
		}
		if s != nil {
			a.sources = append(a.sources, &source{name: cfg.Sources[i].Name, runner: s})
		}
	}
	if with.extra != nil {
		a.sources = append(a.sources, &source{name: "standard input", runner: with.extra})
	}
	a.noteCertificates()
	return a, a.openConsole()
}

// forward starts sending what waits. No uplink starts when one of them cannot.
func (a *assembly) forward(newUplink func(name string, c *UplinkConfig) (gateway.Uplink, error)) error {
	var list []*gateway.Forwarder
	for i := range a.cfg.Uplinks {
		c := &a.cfg.Uplinks[i]
		number, err := a.journal.Number("uplink", c.Name)
		if err != nil {
			return err
		}
		up, err := newUplink(c.Name, c)
		if err != nil {
			return err
		}
		a.uplinks[c.Name] = number
		a.metrics.BacklogLimit(c.Name, int64(c.MaxBacklog))
		list = append(list, gateway.NewForwarder(a.forwarding(c, number, up)))
	}
	var err error
	if a.shipper, err = newShipper(a.cfg, a.journal, a.log); err != nil {
		return err
	}
	a.metrics.Journal(&journalNumbers{Journal: a.journal, shipper: a.shipper}, sourceNames(a.cfg), a.uplinks)
	a.metrics.Shipping(a.shipped)
	a.forwarders = list
	for _, f := range list {
		a.others.Go(func() { f.Run(a.serving) })
	}
	a.others.Go(func() { a.tend(a.serving) })
	return nil
}

// shipped is how shipping stands, all zero without a collector.
func (a *assembly) shipped() (s gateway.Shipped) {
	if a.shipper == nil {
		return s
	}
	status := a.shipper.Status()
	s.Bytes, s.Failed, s.Last = status.Bytes, status.Failed, status.Last
	s.TreeSize, s.Waiting = a.journal.Receipts()
	return s
}

// newSource makes the source that the configuration names.
func newSource(c *SourceConfig, log *slog.Logger) (runner, error) {
	if c.MQTT != nil {
		s, err := mqtt.NewSource(c.Name, *c.MQTT, log)
		return device{s}, err
	}
	return nil, fmt.Errorf("source %q: no protocol (have mqtt)", c.Name)
}

// forwarding joins an uplink with the journal, within its limits.
func (a *assembly) forwarding(c *UplinkConfig, number int, up gateway.Uplink) gateway.ForwardOptions {
	a.journal.Limit(number, journal.Limits{LiveShare: float64(c.LiveShare) / 100,
		MaxBacklog: int64(c.MaxBacklog), DropOldest: c.WhenFull == "drop_from_this_uplink"})
	o := gateway.ForwardOptions{Name: c.Name, Number: number, Uplink: up, Journal: a.journal, Metrics: a.metrics, Log: a.log,
		Bandwidth: int64(c.Bandwidth), When: c.Link, Links: a.links}
	if c.MQTT != nil {
		o.Window, o.AckTimeout = c.MQTT.Inflight, c.MQTT.AckTimeout
	}
	return o
}

// newUplink makes the uplink that the configuration names.
func newUplink(name string, c *UplinkConfig) (gateway.Uplink, error) {
	if c.MQTT != nil {
		return mqtt.NewUplink(name, *c.MQTT)
	}
	return nil, fmt.Errorf("uplink %q: no protocol (have mqtt)", name)
}

// surroundings are those of a gateway that runs.
func (a *assembly) surroundings(cfg *Config, by string) surroundings {
	return surroundings{
		number: a.journal.Number,
		tokenKey: func(id string) ([]byte, error) {
			k, err := a.ring.Private(keyring.Token, id)
			if err != nil {
				return nil, err
			}
			defer k.Destroy()
			return append([]byte(nil), k.Secret()...), nil
		},
		control: a.gateway.Control,
		observe: func(filter string) func(time.Duration) {
			o := a.metrics.FilterTimer(filter)
			return func(d time.Duration) { o.Observe(d.Seconds()) }
		},
		set: a.journal.Size() + 1, // rises with every change record
		by:  by, log: a.log, pseudonym: a.pseudonym, counts: &a.counts, deviceKey: a.deviceKey, strike: a.onStrike, compiled: filepath.Join(cfg.DataDir, "plugins", "cache"),
	}
}

// note shows in the metrics which catalogs are in force.
func (a *assembly) note(b *built) {
	for _, c := range b.catalogs {
		a.metrics.Catalog(c.Name, strconv.Itoa(c.Version))
	}
}

func (a *assembly) event(detail any) {
	b, err := json.Marshal(detail)
	if err != nil {
		panic("sluice: event cannot be written as JSON: " + err.Error())
	}
	a.gateway.Event(b)
}

// Run serves until ctx ends, or every source is done. When ctx ends all have to be quick, the power may go next: sources
// commit and acknowledge what they have in hand while forwarders commit what was acknowledged to them; each takes about a
// second at the most. Then the journal signs a last checkpoint.
func (a *assembly) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		a.journal.Rush()
		a.stopServing()
	})()
	sourcesCtx, stopSources := context.WithCancel(ctx)
	defer stopSources()
	var sources sync.WaitGroup
	errs := make(chan error, len(a.sources)+2)
	for _, s := range a.sources {
		sources.Go(func() {
			if err := s.Run(sourcesCtx, a.gateway); err != nil {
				s.mu.Lock()
				s.down = err
				s.mu.Unlock()
				errs <- fmt.Errorf("source %q: %w", s.name, err)
				stopSources() // a gateway that half its devices cannot reach does not look alive
			}
		})
	}
	if a.shipper != nil {
		a.others.Go(func() { a.shipper.Run(a.serving) })
	}
	a.others.Go(func() { a.watchFiles(a.serving) })
	a.others.Go(func() {
		if err := a.console.Run(a.serving); err != nil {
			errs <- err
			stopSources()
		}
	})
	a.log.Info("gateway runs", "gateway", a.cfg.Gateway)
	sources.Wait()
	a.gateway.Event([]byte(`{"event":"stop"}`))
	if err := a.close(); err != nil {
		errs <- err
	}
	a.log.Info("gateway stopped")
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// close ends what serves and gives the journal back. The sources are done.
func (a *assembly) close() error {
	a.stopTrial()
	a.gateway.Close()
	a.stopServing()
	a.others.Wait()
	if a.console != nil {
		os.Remove(a.socket())
	}
	return a.journal.Close()
}

func (a *assembly) socket() string { return adminSocket(a.cfg) }

// adminSocket is where a running gateway answers the command line.
func adminSocket(cfg *Config) string { return filepath.Join(cfg.DataDir, "admin.sock") }

// openConsole opens the admin socket and, when configured, the TCP listener.
func (a *assembly) openConsole() error {
	if a.cfg.Admin.Roles != "" && a.cfg.roles == nil {
		panic("sluice: a role file that nobody read would leave root and the gateway's user their roles")
	}
	a.console = console.New(console.Options{Gatherer: a.metrics.Gatherer(), Ready: a.ready, Query: a.queries(), Change: a.changes(), Log: a.log,
		Private: map[string]func(context.Context, *http.Request) (any, error){"audit/records": a.records, "plugins/shadow": a.shadowOf},
		Reload:  func(_ context.Context, want url.Values, by console.Caller) error { return a.reloadWith(want, by.Name) },
		Roles:   a.cfg.roles, Refused: a.refused})
	if err := a.console.ListenSocket(a.socket()); err != nil {
		return err
	}
	a.checkWay(a.cfg)
	if a.cfg.Admin.Listen == "" {
		return nil
	}
	var err error
	a.adminAddr, err = a.console.Listen(a.cfg.Admin.Listen, a.cfg.Admin.TLS, a.cfg.Admin.Pprof)
	return err
}

// refused puts on the record that somebody wanted to change something and may not.
func (a *assembly) refused(r console.Refusal) {
	event := "change refused"
	if r.Private {
		event = "query refused"
	}
	a.event(struct {
		Event      string       `json:"event"`
		Call       string       `json:"call"`
		Role       console.Role `json:"role"`
		By         string       `json:"by"`
		Unrecorded int          `json:"unrecorded,omitempty"` // such refusals before this one, since the last on the record
	}{event, r.Call, r.Role, r.By, r.Unrecorded})
}

// checkWay says so when users in the role file cannot get to the socket.
func (a *assembly) checkWay(cfg *Config) {
	info, err := os.Stat(cfg.DataDir)
	if err == nil && cfg.roles.Others(uint32(os.Getuid())) && info.Mode().Perm()&0o011 == 0 {
		a.log.Warn("users in the role file cannot reach admin.sock: data_dir is closed to them", "hint", "chmod 711 "+cfg.DataDir)
	}
}

func sourceNames(cfg *Config) []string {
	var names []string
	for _, s := range cfg.Sources {
		names = append(names, s.Name)
	}
	return names
}

func uplinkNames(cfg *Config) []string {
	var names []string
	for _, u := range cfg.Uplinks {
		names = append(names, u.Name)
	}
	return names
}

func pluginNames(cfg *Config) []string {
	var names []string
	for _, p := range cfg.Plugins {
		names = append(names, p.Name)
	}
	return names
}

// device is an MQTT source as run drives it.
type device struct{ *mqtt.Source }

// Listening implements runner.
func (d device) Listening() bool { return d.Addr() != nil }

// Reload implements runner.
func (d device) Reload() error { return errors.Join(d.ReloadTLS(), d.ReloadUsers()) }

// noteCertificates shows in the metrics when the sources' certificates expire.
func (a *assembly) noteCertificates() {
	for _, s := range a.sources {
		if d, ok := s.runner.(device); ok && !d.CertExpiry().IsZero() {
			a.metrics.Certificate(s.name, d.CertExpiry())
		}
	}
}

// refuses says why the message's source would not take it in, "" when it would.
func (c *Config) refuses(m *gateway.Message) gateway.Refusal {
	for i := range c.Sources {
		if s := &c.Sources[i]; s.Name == m.Source && s.MQTT != nil {
			return s.MQTT.Refuses(m.Client, m.Topic, len(m.Payload))
		}
	}
	return gateway.RefusedNotPermitted
}
