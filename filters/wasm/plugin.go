package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// Env is what the gateway gives to every plugin it loads.
type Env struct {
	Dir        string                             // relative files of the configuration start here
	Builtin    map[string][]byte                  // modules that the program carries, by name
	Pinned     []string                           // SHA-256 of the modules that load without a signature, hexadecimal, lower case
	Signer     *Signer                            // who signed the very bytes that are loaded; nil: nobody, only what is pinned loads
	Vectors    []byte                             // the self-test file, which a manifest with vectors wants; nil: there is none
	Tested     bool                               // this version passed its self-test when it was taken in: it need not again
	Compiler   *Compiler                          // compiles in a process of its own; nil: in this one
	Categories []gateway.Category                 // in force; findings and labels are indices into it
	Pseudonym  func(source, client string) string // keyed pseudonym of a device, safe for concurrent use; nil: plugins see none
	OnStrike   func(plugin, code string)          // called when an instance is dropped, must not block; may be nil
	Shadow     bool                               // the plugin is told that its verdicts are only compared
	Instances  int                                // how many calls may run at once; 0 = GOMAXPROCS, at most 64
	Counts     *Counts                            // what is counted for plugins, shared by all of a gateway; nil: counted for this version alone
	Log        *slog.Logger                       // told at load what the plugin will have to do without, and what it says with the grant log; nil: nobody

	Interpret bool // also where there is a compiler: the same verdicts for the same fuel, tens of times slower
}

// Signer is who vouches for a module: the caller has verified the signature over the exact bytes that it hands to Load.
type Signer struct {
	Key   string                                            // id of the key, for records
	Limit func(grants []string) (allowed, refused []string) // parts the grants that a plugin asks for into those that the key may have and the others; nil: it may have none
}

// limit is what of the grants the signer may have; without one, for the program's own modules, all.
func (s *Signer) limit(grants []string) []string {
	if s == nil {
		return grants
	}
	if s.Limit == nil {
		return nil
	}
	allowed, _ := s.Limit(grants)
	return allowed
}

const maxInstances = 64

// Plugin is one loaded version of a plugin under one configuration. It implements gateway.Filter, is safe for
// concurrent use, and never changes: another version or configuration is another Plugin.
type Plugin struct {
	config   PluginConfig
	manifest *Manifest
	digest   string
	allowed  permitted
	protocol [16]bool
	view     view
	judge    judge
	pool     *pool
	counting counting
	onStrike func(plugin, code string)
	strikes  atomic.Uint64
}

// Open reads the module that the configuration names, and the self-test file beside it, and loads it.
func Open(ctx context.Context, c PluginConfig, env Env) (*Plugin, error) {
	data, err := c.Module(env.Dir, env.Builtin)
	if err != nil {
		return nil, err
	}
	if env.Vectors == nil {
		if env.Vectors, err = c.Vectors(env.Dir); err != nil {
			return nil, err
		}
	}
	return Load(ctx, c, data, env)
}

// Load makes a plugin of the bytes of a module: it asks who vouches for it before reading anything, compiles, makes one
// instance and configures it. ctx ends the compiling in another process; the steps in this one take milliseconds. The caller
// closes the plugin when the version set that holds it is no longer in use. Errors are *LoadError below the name of the
// plugin; ErrNotPinned tells that nobody vouches for the module.
func Load(ctx context.Context, c PluginConfig, data []byte, env Env) (*Plugin, error) {
	p, err := load(ctx, c, data, env)
	if err != nil {
		return nil, fmt.Errorf("load plugin %q: %w", c.Name, err)
	}
	return p, nil
}

func load(ctx context.Context, c PluginConfig, data []byte, env Env) (*Plugin, error) {
	if err := c.validate(); err != nil {
		return nil, refuse(LoadConfig, err)
	}
	mod, err := verify(data, &env)
	if err != nil {
		return nil, err
	}
	config, err := c.configuration(env.Dir)
	if err != nil {
		return nil, refuse(LoadConfig, err)
	}
	p := &Plugin{config: c, manifest: mod.manifest, digest: mod.digest, onStrike: env.OnStrike, allowed: permit(env.Signer.limit(mod.manifest.Grants), c.Grants)}
	if err := p.bind(env); err != nil {
		return nil, refuse(LoadConfig, err)
	}
	var log *diagnostics
	if p.allowed.log && env.Log != nil {
		log = &diagnostics{log: env.Log, name: c.Name, now: time.Now}
	}
	size := env.Instances
	if size <= 0 {
		size = runtime.GOMAXPROCS(0)
	}
	if p.pool, err = newPool(ctx, mod, engine{env.Compiler, env.Interpret}, config, log, min(size, maxInstances)); err != nil {
		p.counting.close()
		return nil, err
	}
	if !env.Tested {
		if err := p.pool.checkVectors(ctx, p.manifest, env.Vectors); err != nil {
			p.counting.close()
			return nil, refuse(LoadVectors, errors.Join(fmt.Errorf("test plugin: %w", err), p.pool.close()))
		}
	}
	p.warn(env.Log)
	return p, nil
}

// bind resolves names to numbers: categories, protocols, reasons, parameters.
func (p *Plugin) bind(env Env) error {
	m := p.manifest
	for _, f := range p.config.Topics {
		if !slices.ContainsFunc(m.Topics, func(wide string) bool { return covers(wide, f) }) {
			return fmt.Errorf("topic filter %q is outside of what its manifest allows", f)
		}
	}
	if len(p.config.Topics) == 0 && !slices.Contains(m.Topics, "#") {
		return errors.New("its manifest does not allow every topic: give topics")
	}
	for _, name := range m.Protocols {
		p.protocol[protocolNumbers[name]] = true
	}
	p.view = view{label: make([]uint16, len(env.Categories)), value: make([]bool, len(env.Categories)),
		payload: p.allowed.payload, source: p.allowed.source, shadow: env.Shadow, pseudonym: env.Pseudonym}
	p.judge = judge{view: &p.view, profiles: p.config.profiles()}
	known := 0
	for i, label := range m.Labels {
		p.judge.categories = append(p.judge.categories, -1)
		for c := range env.Categories {
			if env.Categories[c].ID != label {
				continue
			}
			p.view.label[c], p.view.value[c] = uint16(i+1), p.allowed.values[label]
			if p.judge.categories[i] < 0 {
				p.judge.categories[i] = int32(c)
				known++
			}
		}
	}
	if known == 0 && len(m.Labels) > 0 {
		return errors.New("the catalogs in force have none of its categories: it would never find anything")
	}
	for code := range m.Reasons {
		n, err := strconv.ParseUint(code, 10, 16)
		if err != nil {
			return err
		}
		p.judge.reasons = append(p.judge.reasons, uint16(n))
	}
	slices.Sort(p.judge.reasons)
	return p.counting.bind(&p.config, m, env.Categories, env.Counts)
}

// warn tells the operator what of the plugin's wishes is not met.
func (p *Plugin) warn(log *slog.Logger) {
	if log == nil {
		return
	}
	for _, g := range p.manifest.Grants {
		if !slices.Contains(p.allowed.list, g) {
			log.Warn("plugin asks for a grant that it does not have", "plugin", p.config.Name, "grant", g)
		}
	}
	for _, g := range p.config.Grants {
		if !slices.Contains(p.allowed.list, g) {
			log.Warn("grant without effect: the plugin does not ask for it", "plugin", p.config.Name, "grant", g)
		}
	}
	for i, c := range p.judge.categories {
		if c < 0 && !strings.HasPrefix(p.manifest.Labels[i], countLabel) {
			log.Warn("catalogs in force lack a category of the plugin", "plugin", p.config.Name, "category", p.manifest.Labels[i])
		}
	}
}

// Filter asks the plugin about one message. It waits while all instances are in use. Errors are *gateway.FilterError
// with the codes trap, fuel, depth, memory, refused, too_large, negative and closed. After the first five the instance is gone and counted
// as a strike, and the next message gets a new one. Opinion.Fuel is what the call took, also after an error. Nothing is
// allocated unless something is wrong.
func (p *Plugin) Filter(m *gateway.Message, b *gateway.Body, c *gateway.Classification, o *gateway.Opinion) error {
	if int(m.Protocol) >= len(p.protocol) || !p.protocol[m.Protocol] {
		return &gateway.FilterError{Code: codeRefused, Err: errProtocol}
	}
	in, err := p.pool.take()
	if err != nil {
		if err == errClosed {
			return &gateway.FilterError{Code: codeClosed, Err: err}
		}
		return p.strike(codeTrap, err)
	}
	code, err := p.ask(in, m, b, c, o)
	switch {
	case err == nil:
		p.pool.put(in)
		return nil
	case code == codeTooLarge || code == codeNegative:
		p.pool.put(in)
		return &gateway.FilterError{Code: code, Err: err}
	}
	p.pool.drop(in)
	return p.strike(code, err)
}

// ask is one call: request in, verdict out.
func (p *Plugin) ask(in *instance, m *gateway.Message, b *gateway.Body, c *gateway.Classification, o *gateway.Opinion) (code string, err error) {
	defer func() {
		if recover() != nil { // a fault of ours or the engine's: the instance goes, its place in the pool stays
			code, err = codeTrap, errPanic
		}
	}()
	limits := &p.manifest.Limits
	region, ok := in.mem.Read(in.in, limits.InBytes) // afresh for each call: memory may have moved
	if !ok {
		return codeTrap, errLength
	}
	in.scratch.reached = p.counting.reached(in.scratch.reached[:0], m, c, p.view.shadow)
	n, ok := p.view.build(region, &in.scratch, m, b, c)
	if !ok {
		return codeTooLarge, errTooLarge
	}
	in.stack[0] = uint64(n)
	code, err = in.call(in.filter, limits.Fuel)
	if o.Fuel = in.used(limits.Fuel); err != nil {
		return code, err
	}
	length := int32(uint32(in.stack[0]))
	if length < 0 {
		return codeNegative, negative(length)
	}
	if length == 0 || uint32(length) > limits.OutBytes {
		return codeRefused, errLength
	}
	verdict, ok := in.mem.Read(in.out, uint32(length))
	if !ok {
		return codeRefused, errLength
	}
	if err := p.judge.read(verdict, &in.scratch, b, c, o); err != nil {
		return codeRefused, err
	}
	return "", nil
}

// strike counts a lost instance and makes the error of it.
func (p *Plugin) strike(code string, err error) error {
	p.strikes.Add(1)
	if p.onStrike != nil {
		p.onStrike(p.config.Name, code)
	}
	return &gateway.FilterError{Code: code, Err: err}
}

// Close waits until no message is inside and frees the plugin's memory; later calls of Filter fail with code closed.
// It may be called more than once.
func (p *Plugin) Close() error {
	defer p.counting.close()
	return p.pool.close()
}

// Name is the operator's name of the plugin.
func (p *Plugin) Name() string { return p.config.Name }

// Version is the version that the module states.
func (p *Plugin) Version() string { return p.manifest.Version }

// Digest is the SHA-256 of the module's file, hexadecimal.
func (p *Plugin) Digest() string { return p.digest }

// ConfigDigest is the SHA-256 of the plugin's configuration as it was handed over, hexadecimal.
func (p *Plugin) ConfigDigest() string {
	sum := sha256.Sum256(p.pool.config)
	return hex.EncodeToString(sum[:])
}

// Manifest is what the module says about itself, with defaults filled in. It is shared and must not be changed.
func (p *Plugin) Manifest() *Manifest { return p.manifest }

// Labels lists the categories that the plugin may see and set. The slice is the caller's.
func (p *Plugin) Labels() []string { return slices.Clone(p.manifest.Labels) }

// Grants lists the grants in effect: asked for and given, sorted. The slice is the caller's.
func (p *Plugin) Grants() []string { return slices.Clone(p.allowed.list) }

// Topics lists the topic filters of the messages it judges; none = every message. The slice is the caller's.
func (p *Plugin) Topics() []string { return slices.Clone(p.config.Topics) }

// Matches reports whether the plugin judges messages on the topic.
func (p *Plugin) Matches(topic string) bool {
	return len(p.config.Topics) == 0 || slices.ContainsFunc(p.config.Topics, func(f string) bool { return gateway.TopicMatches(f, topic) })
}

// Uplinks lists the names of the uplinks that its verdicts apply to; none = all. The slice is the caller's.
func (p *Plugin) Uplinks() []string { return slices.Clone(p.config.Uplinks) }

// OnError is what happens to a message that the plugin fails on: Block or Hold. The operator's word counts, else the
// manifest's, else Block.
func (p *Plugin) OnError() gateway.Action {
	wish := p.config.OnError
	if wish == "" {
		wish = p.manifest.OnError
	}
	if wish == "hold" {
		return gateway.Hold
	}
	return gateway.Block
}

// Reason is the manifest's text for a reason code, "" for 0 and unknown codes. It never leaves the box.
func (p *Plugin) Reason(code uint16) string { return p.manifest.Reasons[strconv.Itoa(int(code))] }

// Reasons lists the codes and texts of the manifest, for explain. The map is the caller's.
func (p *Plugin) Reasons() map[string]string { return maps.Clone(p.manifest.Reasons) }

// Strikes counts the instances that were dropped since the load.
func (p *Plugin) Strikes() uint64 { return p.strikes.Load() }

// String names plugin, version and the beginning of the digest, for logs.
func (p *Plugin) String() string {
	return strings.Join([]string{p.config.Name, p.manifest.Version, p.digest[:12]}, " ")
}
