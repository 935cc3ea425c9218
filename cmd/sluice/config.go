package main

import (
	"path/filepath"
	"time"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
	"github.com/sluice-edge/sluice/gateway/console"
	"github.com/sluice-edge/sluice/protocols/mqtt"
)

// defaultConfigFile is what verbs read when -c is not given.
const defaultConfigFile = "/etc/sluice/sluice.yaml"

// Config is the configuration file: product parts, assembled. Each part is described and checked where it is built.
type Config struct {
	Gateway      string                 `yaml:"gateway" required:"true" doc:"identity of this gateway in every record, 1 to 64 of A-Z a-z 0-9 _ -"`
	Responsible  Responsible            `yaml:"responsible" doc:"who answers for the data"`
	DataDir      string                 `yaml:"data_dir" required:"true" doc:"folder of journal and archive"`
	KeyDir       string                 `yaml:"key_dir" required:"true" doc:"folder of keys, apart from data_dir"`
	Sources      []SourceConfig         `yaml:"sources" required:"true" doc:"where devices connect"`
	Catalogs     []string               `yaml:"catalogs" required:"true" doc:"vehicle, industrial, or files of your own"`
	UnknownField string                 `yaml:"unknown_field" default:"remove" enum:"remove,block" doc:"what happens to a field that no catalog knows"`
	Plugins      []wasm.PluginConfig    `yaml:"plugins" doc:"filters that judge messages beside the policy"`
	Trust        string                 `yaml:"trust" doc:"file with the keys that may sign plugins"`
	Policy       []gateway.RowConfig    `yaml:"policy" required:"true" doc:"ordered decision table; the first matching row decides, per finding and uplink"`
	TokenDomains map[string]TokenDomain `yaml:"token_domains" doc:"pseudonym spaces: equal values have equal tokens inside one domain only"`
	Keys         Keys                   `yaml:"keys" doc:"public keys of others"`
	Uplinks      []UplinkConfig         `yaml:"uplinks" required:"true" doc:"recipients in the cloud"`
	LinkFile     string                 `yaml:"link_file" doc:"file with the name of the network that the gateway is on, for uplinks with link; written by whoever knows"`
	Journal      JournalConfig          `yaml:"journal" doc:"the queue on disk"`
	Audit        AuditConfig            `yaml:"audit" doc:"the record log"`
	Admin        AdminConfig            `yaml:"admin" doc:"health, metrics and console"`

	file  string         // absolute path of the main file
	kept  *keptConfig    // the copy that this was made of; nil: the files on disk
	roles *console.Roles // what admin.roles says, set by check; nil: no role file
}

// Responsible names who answers for the data.
type Responsible struct {
	Name    string `yaml:"name" doc:"person or office"`
	Contact string `yaml:"contact" doc:"address for inspectors and data subjects"`
}

// SourceConfig is one device side: a name and exactly one protocol.
type SourceConfig struct {
	Name     string             `yaml:"name" required:"true" doc:"name in records and metrics"`
	MQTT     *mqtt.SourceConfig `yaml:"mqtt" doc:"devices that publish over MQTT"`
	OPCUA    any                `yaml:"opcua" doc:"not in this version"`
	GBT32960 any                `yaml:"gbt32960" doc:"not in this version"`
	JTT808   any                `yaml:"jtt808" doc:"not in this version"`
}

// TokenDomain is one space of pseudonyms.
type TokenDomain struct {
	Key string `yaml:"key" required:"true" doc:"id of the token key in key_dir, created on first start"`
}

// Keys names the public keys of others. Relative paths start at key_dir.
type Keys struct {
	Recipients map[string]string `yaml:"recipients" doc:"who can decrypt fields: NAME: public key file"`
	Custodian  string            `yaml:"custodian" doc:"who can open held messages: public key file"`
}

// UplinkConfig is one recipient: who, where, for what, and exactly one protocol.
type UplinkConfig struct {
	Name         string                 `yaml:"name" required:"true" doc:"name in policy, records and metrics"`
	Recipient    string                 `yaml:"recipient" doc:"who receives the data"`
	Jurisdiction string                 `yaml:"jurisdiction" doc:"country of the recipient, ISO 3166 alpha-2: CN"`
	Purpose      string                 `yaml:"purpose" doc:"what the data are for"`
	LegalBasis   string                 `yaml:"legal_basis" doc:"on what ground they are handed over"`
	Duty         string                 `yaml:"duty" enum:"statutory" doc:"statutory: a report that the law demands; in this version it changes nothing"`
	MaxBacklog   config.Size            `yaml:"max_backlog" doc:"bytes that may wait for this uplink; 0B: as many as journal.max_size allows"`
	WhenFull     string                 `yaml:"when_full" default:"refuse" enum:"refuse,drop_from_this_uplink" doc:"what happens at max_backlog: devices wait, or the oldest messages are dropped, for this uplink only, which is on the record"`
	LiveShare    int                    `yaml:"live_share" default:"0" min:"0" max:"90" doc:"percent of the messages sent that are newer than the connection while older ones wait; 0: everything in order"`
	Bandwidth    config.Size            `yaml:"bandwidth" doc:"bytes of topics and bodies a second; 0B: no limit"`
	Link         string                 `yaml:"link" doc:"send only while the link is this, as link_file or the socket says, for example wifi; empty: always"`
	Identity     gateway.IdentityConfig `yaml:"identity" doc:"how messages carry their id, by which the cloud tells copies apart"`
	MQTT         *mqtt.UplinkConfig     `yaml:"mqtt" doc:"a broker"`
}

// AdminConfig is the TCP side, and who may change something. The socket data_dir/admin.sock is always there.
type AdminConfig struct {
	Listen string      `yaml:"listen" doc:"HOST:PORT for health, metrics and console; empty: none"`
	TLS    console.TLS `yaml:"tls" doc:"certificate of the gateway, for https:// on listen; without: http://"`
	Roles  string      `yaml:"roles" doc:"role file: who may change something, by uid, token or client certificate; without: root and the gateway's user, on admin.sock"`
	Pprof  bool        `yaml:"pprof" doc:"serve profiles under /debug/pprof/"`
}

// loadConfig reads a configuration file with its drop-ins and checks everything that can be checked without opening
// data_dir. Paths in the result are absolute: relative ones start at the folder of the file, key files at key_dir.
func loadConfig(file string, now time.Time) (*Config, *config.Report) {
	c, r := readConfig(file)
	c.check(r, now, estimatedRate)
	return c, r
}

// readConfig is loadConfig without the checks across keys.
func readConfig(file string) (*Config, *config.Report) {
	c := &Config{}
	r := config.Load(file, c)
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	c.file = file
	c.resolve()
	return c, r
}

// resolve makes the paths of the configuration absolute.
func (c *Config) resolve() {
	base := filepath.Dir(c.file)
	for _, p := range []*string{&c.DataDir, &c.KeyDir, &c.Trust, &c.LinkFile,
		&c.Admin.Roles, &c.Admin.TLS.CertFile, &c.Admin.TLS.KeyFile, &c.Admin.TLS.ClientCAFile} {
		*p = under(base, *p)
	}
	for i, name := range c.Catalogs {
		if !isShippedCatalog(name) {
			c.Catalogs[i] = under(base, name)
		}
	}
	for i := range c.Plugins {
		p := &c.Plugins[i]
		p.ConfigFile = under(base, p.ConfigFile)
		if !isShippedPlugin(p.File) {
			p.File = under(base, p.File)
		}
	}
	for name, file := range c.Keys.Recipients {
		c.Keys.Recipients[name] = under(c.KeyDir, file)
	}
	c.Keys.Custodian = under(c.KeyDir, c.Keys.Custodian)
	if s := c.Audit.Ship; s != nil {
		s.ReceiptKey = under(c.KeyDir, s.ReceiptKey)
		for _, p := range []*string{&s.TLS.CAFile, &s.TLS.CertFile, &s.TLS.KeyFile} {
			*p = under(base, *p)
		}
	}
	for _, s := range c.Sources {
		if s.MQTT != nil {
			for _, p := range []*string{&s.MQTT.UsersFile, &s.MQTT.TLS.CertFile, &s.MQTT.TLS.KeyFile, &s.MQTT.TLS.ClientCAFile} {
				*p = under(base, *p)
			}
		}
	}
	for _, u := range c.Uplinks {
		if u.MQTT != nil {
			for _, p := range []*string{&u.MQTT.TLS.CAFile, &u.MQTT.TLS.CertFile, &u.MQTT.TLS.KeyFile} {
				*p = under(base, *p)
			}
		}
	}
}

// under makes a relative path start at base; an empty path stays empty.
func under(base, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

// uplinkInfos is what the policy needs to know of the uplinks, in their order. Number is the place in the list; whoever
// opens the journal sets the journal's numbers.
func (c *Config) uplinkInfos() []gateway.UplinkInfo {
	list := make([]gateway.UplinkInfo, len(c.Uplinks))
	for i, u := range c.Uplinks {
		list[i] = gateway.UplinkInfo{Name: u.Name, Number: i, Recipient: u.Recipient, Jurisdiction: u.Jurisdiction, Purpose: u.Purpose, LegalBasis: u.LegalBasis}
		list[i].Identity, _ = gateway.NewIdentity(u.Identity, c.Gateway) // an error is a problem that check reports
	}
	return list
}
