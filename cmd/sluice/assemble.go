package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/seal"
	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/filters/redact"
	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/plugins/bundle"
	"github.com/sluice-edge/sluice/protocols/payload"
)

// atRestKey is the id of the key that bodies are sealed under. The audit key has the gateway's name for an id.
const atRestKey = "at-rest"

// surroundings is what a version set is built into: a journal that numbers names and takes epoch keys, or, for explain
// and filter without one, throw-away answers.
type surroundings struct {
	number   func(kind, name string) (int, error)
	tokenKey func(id string) ([]byte, error)
	control  func(detail []byte, uplinks gateway.UplinkSet, topic string, payload []byte)
	observe  func(filter string) func(time.Duration)
	compiled string // folder of compiled plugins; "": none
	set      uint64 // number of the version set
	by       string // who brings it in force, for its record
	log      *slog.Logger

	leaveFiles bool                                     // plugins' files bring nothing new
	pseudonym  func(source, client string) string       // of devices, for plugins
	counts     *wasm.Counts                             // what is counted for plugins, whatever their version; nil: nothing outlives a plugin
	deviceKey  [32]byte                                 // by which devices are canaries
	strike     func(f *fitted, code string, third bool) // told of lost instances; nil: nobody
	choose     func(b *built, i int) (place, error)     // loads plugin i of the configuration; nil: what its file says
}

// built is a version set with what it was made of.
type built struct {
	cfg      *Config
	set      *gateway.VersionSet
	catalogs []*catalog.Catalog
	trust    *bundle.Trust
	places   []place // in the order of the configuration's plugins
	news     []news  // of plugins, to be kept when the set comes in force
}

// place is what a version set has for one plugin of the configuration.
type place struct {
	active  *fitted // nil: no version loads
	why     string  // code of that
	canary  *fitted // nil: none
	share   float64 // of the devices
	shadow  *fitted // nil: none
	differs *comparison
}

// filter is what judges in the place.
func (p *place) filter(c *wasm.PluginConfig) gateway.Filter {
	if p.active == nil {
		return absent{c.Name, encryptsOf(c), p.why}
	}
	return p.active
}

// holds lists the versions in the place.
func (p *place) holds() []*fitted { return []*fitted{p.active, p.canary, p.shadow} }

// buildSet puts catalogs, policy, plugins and keys of the configuration together.
func buildSet(cfg *Config, in surroundings) (*built, error) {
	catalogs, err := loadCatalogs(cfg)
	if err != nil {
		return nil, err
	}
	classifier, err := catalog.New(catalogs...)
	if err != nil {
		return nil, err
	}
	uplinks := cfg.uplinkInfos()
	for i := range uplinks {
		if _, err := gateway.NewIdentity(cfg.Uplinks[i].Identity, cfg.Gateway); err != nil { // nil would leave without
			return nil, fmt.Errorf("uplink %q: %w", uplinks[i].Name, err)
		}
		if uplinks[i].Number, err = in.number("uplink", uplinks[i].Name); err != nil {
			return nil, err
		}
	}
	policy, problems := gateway.CompilePolicy(cfg.Policy, classifier.Categories(), uplinks, time.Now())
	if policy == nil {
		return nil, fmt.Errorf("policy: %s", problems[0].Message)
	}
	set := &gateway.VersionSet{Number: in.set, Classifier: classifier, Codec: payload.JSON{}, Policy: policy,
		UnknownBlocks: cfg.UnknownField == "block", Uplinks: uplinks, Sources: map[string]uint16{}}
	for _, s := range cfg.Sources {
		n, err := in.number("source", s.Name)
		if err != nil {
			return nil, err
		}
		set.Sources[s.Name] = uint16(n)
	}
	if set.Redactor, err = newRedactor(cfg, set, in); err != nil {
		return nil, err
	}
	if set.Custodian, err = newCustodian(cfg); err != nil {
		return nil, err
	}
	set.By, set.DeviceKey = in.by, in.deviceKey
	b := &built{cfg: cfg, set: set, catalogs: catalogs}
	if cfg.Trust != "" {
		var report *config.Report
		if b.trust, report = bundle.ReadTrust(cfg.Trust); b.trust == nil {
			return nil, report.Err()
		}
	}
	if in.choose == nil {
		in.choose = in.fromFile
	}
	var places []place
	for i := range cfg.Plugins {
		p, err := in.choose(b, i)
		if err != nil {
			for _, p := range places {
				closePlace(p)
			}
			return nil, fmt.Errorf("plugin %q: %w", cfg.Plugins[i].Name, err)
		}
		places = append(places, p)
	}
	b.equip(places)
	return b, nil
}

// closePlace closes what no set has taken over.
func closePlace(p place) {
	for _, f := range p.holds() {
		if f != nil {
			f.Close()
		}
	}
}

// equip attaches plugins to the set, which holds them until it is closed.
func (b *built) equip(places []place) {
	set := b.set
	b.places, set.Filters, set.Shadows = places, nil, nil
	for i := range places {
		p, c := &places[i], &b.cfg.Plugins[i]
		for _, f := range p.holds() {
			f.hold()
		}
		attached := gateway.Attached{Filter: p.filter(c), Topics: c.Topics, OnError: gateway.Block}
		if c.OnError == "hold" {
			attached.OnError = gateway.Hold
		}
		if p.active != nil {
			attached.OnError = p.active.OnError()
		}
		if p.canary != nil {
			attached.Canary, attached.Share = p.canary, uint16(p.share*10000)
		}
		for u := range set.Uplinks {
			if len(c.Uplinks) == 0 || slices.Contains(c.Uplinks, set.Uplinks[u].Name) {
				attached.Uplinks |= 1 << u
			}
		}
		set.Filters = append(set.Filters, attached)
		if p.shadow != nil {
			set.Shadows = append(set.Shadows, gateway.Shadow{Beside: i, Filter: p.shadow, Tell: p.differs.note})
		}
	}
	set.Close = func() {
		for i := range places {
			for _, f := range places[i].holds() {
				f.release()
			}
		}
	}
	set.Describe = func(by string) []byte { return b.describe(by) }
}

// with makes the set with other plugins in one place. Catalogs, policy and redactor are those of b, and so are the other
// plugins: nothing is loaded again.
func (b *built) with(i int, p place, number uint64, by string) *built {
	set := *b.set
	set.Number, set.By = number, by
	next := &built{cfg: b.cfg, set: &set, catalogs: b.catalogs, trust: b.trust}
	places := slices.Clone(b.places)
	places[i] = p
	next.equip(places)
	return next
}

// fromFile loads what the configuration names: explain and lint know no other version.
func (in *surroundings) fromFile(b *built, i int) (place, error) {
	of, err := offerOf(&b.cfg.Plugins[i], b.trust)
	if err != nil {
		return place{}, err
	}
	f, err := in.fit(&b.cfg.Plugins[i], of, b.set.Classifier.Categories(), false)
	if err != nil {
		return place{}, err
	}
	return place{active: f}, nil
}

func closeSet(set *gateway.VersionSet) {
	if set.Close != nil {
		set.Close()
	}
}

// loadCatalogs reads the catalogs in the order of the configuration.
func loadCatalogs(cfg *Config) ([]*catalog.Catalog, error) {
	var list []*catalog.Catalog
	for _, name := range cfg.Catalogs {
		if isShippedCatalog(name) {
			c, err := catalog.Builtin(name)
			if err != nil {
				return nil, err
			}
			list = append(list, c)
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read catalog: %w", err)
		}
		c, report := catalog.Load(name, data)
		if err := report.Err(); err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// newRedactor loads the token keys and prepares epochs for the recipients.
func newRedactor(cfg *Config, set *gateway.VersionSet, in surroundings) (gateway.Redactor, error) {
	domains := map[string][]byte{}
	for name, d := range cfg.TokenDomains {
		key, err := in.tokenKey(d.Key)
		if err != nil {
			return nil, fmt.Errorf("token domain %q: %w", name, err)
		}
		domains[name] = key
	}
	recipients := map[string]*seal.PublicKey{}
	for name, file := range cfg.Keys.Recipients {
		pub, err := readPublicKey(file, keyring.Recipient)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", name, err)
		}
		recipients[name] = pub
	}
	epochs, err := seal.NewEpochs(seal.Options{Recipients: recipients, Announce: func(a seal.Announcement) error {
		var to gateway.UplinkSet
		for u := range set.Uplinks {
			if slices.Contains(encryptsTo(cfg, set, u), a.Recipient) {
				to |= 1 << set.Uplinks[u].Number
			}
		}
		detail, err := json.Marshal(map[string]string{"event": "epoch key made", "recipient": a.Recipient, "epoch": a.Epoch})
		if err != nil {
			return err
		}
		in.control(detail, to, reservedTopic(cfg.Gateway, "epoch", a.Recipient, a.Epoch), a.Message)
		return nil
	}})
	if err != nil {
		return nil, err
	}
	return redact.New(redact.Options{TokenKeys: domains, Epochs: epochs})
}

// encryptsTo lists the recipients that policy or plugins may encrypt to on an uplink. What plugins may do is the
// configuration's word, whichever version is in force.
func encryptsTo(cfg *Config, set *gateway.VersionSet, u int) []string {
	to := set.Policy.Encrypts(u)
	for i := range cfg.Plugins {
		if c := &cfg.Plugins[i]; len(c.Uplinks) == 0 || slices.Contains(c.Uplinks, set.Uplinks[u].Name) {
			to = append(to, encryptsOf(c)...)
		}
	}
	return to
}

// reservedTopic is a topic of the gateway's own, before the uplink's prefix.
func reservedTopic(gatewayName string, levels ...string) string {
	topic := gatewayName + "/$sluice"
	for _, l := range levels {
		topic += "/" + l
	}
	return topic
}

func readPublicKey(file string, use keyring.Use) (*seal.PublicKey, error) {
	pub, err := keyring.ReadPublic(file)
	if err != nil {
		return nil, err
	}
	if pub.Use != use {
		return nil, fmt.Errorf("%s is a key for %s, not for %s", filepath.Base(file), pub.Use, use)
	}
	return seal.ParsePublicKey(pub.Key)
}

// newCustodian returns the sealer of holds, nil without a custodian: a hold then blocks.
func newCustodian(cfg *Config) (func(*gateway.Message) ([]byte, error), error) {
	if cfg.Keys.Custodian == "" {
		return nil, nil
	}
	pub, err := readPublicKey(cfg.Keys.Custodian, keyring.Custodian)
	if err != nil {
		return nil, fmt.Errorf("custodian: %w", err)
	}
	return func(m *gateway.Message) ([]byte, error) {
		h := seal.Hold{Received: m.Received, Protocol: byte(m.Protocol), QoS: m.QoS, Retain: m.Retain,
			Source: m.Source, Client: m.Client, Topic: m.Topic, Payload: m.Payload}
		binary.BigEndian.PutUint64(h.ID[:8], m.ID.Incarnation)
		binary.BigEndian.PutUint64(h.ID[8:], m.ID.Counter)
		return seal.SealHold(pub, &h)
	}, nil
}

// describe is the detail of the change record: the tables that decision records refer to, and the digests of everything
// in force.
func (b *built) describe(by string) []byte {
	cfg, set, catalogs := b.cfg, b.set, b.catalogs
	type named struct {
		Name    string `json:"name"`
		Number  int    `json:"number"`
		Version string `json:"version,omitempty"`
		Digest  string `json:"digest,omitempty"`
	}
	d := struct {
		Change       string    `json:"change"`
		By           string    `json:"by"`
		Gateway      string    `json:"gateway"`
		Responsible  any       `json:"responsible"`
		Categories   []string  `json:"categories"`
		Catalogs     []named   `json:"catalogs"`
		Plugins      []vouched `json:"plugins"`
		Shadows      []vouched `json:"shadows,omitempty"`
		Sources      []named   `json:"sources"`
		Uplinks      []any     `json:"uplinks"`
		Policy       string    `json:"policy_digest"`
		UnknownField string    `json:"unknown_field"`
		Roles        string    `json:"roles_digest,omitempty"`
		Insecure     []string  `json:"insecure"`
	}{Change: "version set", By: by, Gateway: cfg.Gateway, Responsible: cfg.Responsible, UnknownField: cfg.UnknownField,
		Plugins: []vouched{}, Insecure: insecureSources(cfg), Roles: cfg.roles.Digest()}
	for _, c := range set.Classifier.Categories() {
		d.Categories = append(d.Categories, c.ID)
	}
	for i, c := range catalogs {
		d.Catalogs = append(d.Catalogs, named{c.Name, i, strconv.Itoa(c.Version), c.Digest()})
	}
	var canaries []vouched
	for i := range b.places {
		p, name := &b.places[i], cfg.Plugins[i].Name
		d.Plugins = append(d.Plugins, vouchedFor(name, i, p.active, p.why))
		if p.canary != nil {
			v := vouchedFor(name, set.CanaryNumber(i), p.canary, "")
			v.Share = p.share
			canaries = append(canaries, v)
		}
		if p.shadow != nil {
			d.Shadows = append(d.Shadows, vouchedFor(name, i, p.shadow, ""))
		}
	}
	d.Plugins = append(d.Plugins, canaries...)
	for _, s := range cfg.Sources {
		d.Sources = append(d.Sources, named{Name: s.Name, Number: int(set.Sources[s.Name])})
	}
	for _, u := range set.Uplinks {
		d.Uplinks = append(d.Uplinks, struct {
			Name         string `json:"name"`
			Number       int    `json:"number"`
			Recipient    string `json:"recipient"`
			Jurisdiction string `json:"jurisdiction"`
			Purpose      string `json:"purpose"`
			LegalBasis   string `json:"legal_basis"`
			Identity     string `json:"identity"`
		}{u.Name, u.Number, u.Recipient, u.Jurisdiction, u.Purpose, u.LegalBasis, u.Identity.String()})
	}
	rows, err := json.Marshal(cfg.Policy)
	if err != nil {
		panic("sluice: policy cannot be written as JSON: " + err.Error())
	}
	sum := sha256.Sum256(rows)
	d.Policy = hex.EncodeToString(sum[:])
	text, err := json.Marshal(d)
	if err != nil {
		panic("sluice: change record cannot be written as JSON: " + err.Error())
	}
	return text
}

// vouched is one version of a plugin in a change record.
type vouched struct {
	Name    string   `json:"name"`
	Number  int      `json:"number"` // in decision records; of a shadow: that of the plugin beside which it judges
	Version string   `json:"version,omitempty"`
	Digest  string   `json:"digest,omitempty"`
	Serial  uint64   `json:"serial,omitempty"`
	Key     string   `json:"key,omitempty"` // id of the key that signed it; none: it is the program's own
	Grants  []string `json:"grants,omitempty"`
	Config  string   `json:"config_digest,omitempty"`
	Share   float64  `json:"share,omitempty"`  // of a canary
	Absent  string   `json:"absent,omitempty"` // code of why no version loads
}

func vouchedFor(name string, number int, f *fitted, why string) vouched {
	if f == nil {
		return vouched{Name: name, Number: number, Absent: why}
	}
	return vouched{name, number, f.Version(), f.of.Digest, f.of.Serial, f.of.Key, f.Grants(), f.ConfigDigest(), 0, ""}
}

// insecureSources lists the sources that take in plain or anonymous traffic from elsewhere than this machine.
func insecureSources(cfg *Config) []string {
	list := []string{}
	for _, s := range cfg.Sources {
		if s.MQTT != nil && s.MQTT.Exposed() {
			list = append(list, s.Name)
		}
	}
	return list
}

// throwAway are the surroundings of explain: names numbered in order, fresh keys, epoch keys that nobody gets.
func throwAway(log *slog.Logger) surroundings {
	numbers := map[string][]string{}
	return surroundings{
		number: func(kind, name string) (int, error) {
			if i := slices.Index(numbers[kind], name); i >= 0 {
				return i, nil
			}
			numbers[kind] = append(numbers[kind], name)
			return len(numbers[kind]) - 1, nil
		},
		tokenKey: func(string) ([]byte, error) {
			key := make([]byte, 32)
			_, err := rand.Read(key)
			return key, err
		},
		control: func([]byte, gateway.UplinkSet, string, []byte) {},
		observe: func(string) func(time.Duration) { return func(time.Duration) {} },
		log:     log, pseudonym: newPseudonym(),
	}
}

// dryVersionSet is the version set of a configuration with throw-away keys: what explain decides by.
func dryVersionSet(cfg *Config) (*gateway.VersionSet, error) {
	b, err := buildSet(cfg, throwAway(slog.New(slog.DiscardHandler)))
	if err != nil {
		return nil, err
	}
	return b.set, nil
}

// atRestKeys reads the keys that journal bodies are sealed under, the current one first.
func atRestKeys(ring *keyring.Ring) ([]journal.Key, error) {
	list, err := ring.AtRest()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("no at-rest key")
	}
	var keys []journal.Key
	for _, k := range list {
		key := journal.Key{ID: k.Tag()}
		copy(key.Secret[:], k.Secret())
		k.Destroy()
		keys = append(keys, key)
	}
	return keys, nil
}

// checkpointSigner signs checkpoints with the audit key of the gateway, whose id is the gateway's name: the origin of its
// log.
func checkpointSigner(cfg *Config, ring *keyring.Ring) (func(size uint64, root [32]byte, at time.Time) ([]byte, error), error) {
	key, err := ring.Private(keyring.Audit, cfg.Gateway)
	if err != nil {
		return nil, err
	}
	defer key.Destroy()
	signer, err := signed.NewSigner(cfg.Gateway, [32]byte(key.Secret()))
	if err != nil {
		return nil, err
	}
	return func(size uint64, root [32]byte, at time.Time) ([]byte, error) {
		return signer.SignCheckpoint(signed.Checkpoint{Size: size, Root: root, At: at})
	}, nil
}
