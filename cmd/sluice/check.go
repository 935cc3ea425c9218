package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
	"github.com/sluice-edge/sluice/gateway/console"
)

// nameForm is what the gateway, sources, uplinks, plugins, domains and recipients may be called.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

const nameHint = "1 to 64 of A-Z a-z 0-9 _ -, like vgw-0001"

// check reports everything that is wrong between the keys, and which budgets do not last at rate messages a second. It
// reads key files and catalogs, never data_dir.
func (c *Config) check(r *config.Report, now time.Time, rate float64) {
	if r.Failed("") || c.UnknownField == "" && !r.Has("unknown_field") {
		return // nothing was read, not even defaults
	}
	if c.Gateway != "" && !nameForm.MatchString(c.Gateway) {
		r.Error("gateway", fmt.Sprintf("%q is no name for a gateway", c.Gateway), nameHint)
	}
	c.checkFolders(r)
	c.checkSources(r)
	c.checkUplinks(r)
	c.checkReserved(r)
	c.checkKeys(r)
	c.checkAdmin(r)
	c.checkLimits(r, rate)
	c.checkTrust(r, now)
	cats := c.checkCatalogs(r)
	c.checkPlugins(r, cats)
	c.checkPolicy(r, cats, now)
}

// checkFolders keeps keys and data apart.
func (c *Config) checkFolders(r *config.Report) {
	if c.DataDir == "" || c.KeyDir == "" {
		return
	}
	data, keys := realPath(c.DataDir), realPath(c.KeyDir)
	hint := "data_dir: /var/lib/sluice and key_dir: /etc/sluice/keys: whoever copies the data must not get the keys with it"
	switch {
	case data == keys:
		r.Error("key_dir", "key_dir and data_dir are the same folder", hint)
	case within(keys, data):
		r.Error("key_dir", "key_dir lies inside data_dir", hint)
	case within(data, keys):
		r.Error("data_dir", "data_dir lies inside key_dir", hint)
	}
	if info, err := os.Stat(c.KeyDir); err == nil && !info.IsDir() {
		r.Error("key_dir", "key_dir is no folder", "")
	} else if err == nil && info.Mode().Perm()&0o022 != 0 {
		r.Error("key_dir", fmt.Sprintf("others may write to key_dir (mode %04o)", info.Mode().Perm()), "chmod 700 "+c.KeyDir)
	}
	private, _ := filepath.Glob(filepath.Join(c.KeyDir, "*.key"))
	for _, file := range private {
		if info, err := os.Lstat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
			r.Error("key_dir", fmt.Sprintf("private key %q is open to others (mode %04o)", filepath.Base(file), info.Mode().Perm()), "chmod 600 "+file)
		}
	}
}

// realPath follows symbolic links as far as the path exists.
func realPath(path string) string {
	path = filepath.Clean(path)
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(realPath(dir), filepath.Base(path))
	}
	return path
}

// within reports whether path lies below dir.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, "../")
}

// namesOf checks the names of a list: their form, and that none stands twice.
func namesOf(r *config.Report, section, what string, n int, name func(int) string) {
	first := map[string]int{}
	for i := range n {
		at := config.Index(section, i) + ".name"
		if name(i) == "" {
			continue // reported as missing
		}
		if !nameForm.MatchString(name(i)) {
			r.Error(at, fmt.Sprintf("%q is no name for %s", name(i), what), nameHint)
		}
		if j, ok := first[name(i)]; ok {
			_, line, _ := r.Position(config.Index(section, j))
			r.Error(at, fmt.Sprintf("%s %q stands twice; first in line %d", strings.TrimPrefix(strings.TrimPrefix(what, "a "), "an "), name(i), line), "give each its own name")
			continue
		}
		first[name(i)] = i
	}
}

func (c *Config) checkSources(r *config.Report) {
	namesOf(r, "sources", "a source", len(c.Sources), func(i int) string { return c.Sources[i].Name })
	listens := map[string]string{}
	for i, s := range c.Sources {
		at := config.Index("sources", i)
		given := 0
		for _, protocol := range []string{"mqtt", "opcua", "gbt32960", "jtt808"} {
			if !r.Has(at + "." + protocol) {
				continue
			}
			given++
			if protocol != "mqtt" {
				r.Error(at+"."+protocol, "protocol "+protocol+" is not in this version; want mqtt", `mqtt: { listen: "tcp://127.0.0.1:1883", … }`)
			}
		}
		if given != 1 {
			r.Error(at, fmt.Sprintf("source has %d protocols; want exactly one", given), `add mqtt: { listen: "tcp://127.0.0.1:1883", anonymous: true, allow: [{ client: "*", publish: ["v1/#"] }] }; two protocols are two sources`)
		}
		if s.MQTT == nil {
			continue
		}
		s.MQTT.Check(r, at+".mqtt")
		tls := s.MQTT.TLS
		checkFiles(r, at+".mqtt", map[string]string{"users_file": s.MQTT.UsersFile, "tls.cert_file": tls.CertFile, "tls.key_file": tls.KeyFile, "tls.client_ca_file": tls.ClientCAFile})
		checkPrivateFile(r, at+".mqtt.tls.key_file", tls.KeyFile)
		_, address, _ := strings.Cut(s.MQTT.Listen, "://")
		if other := clash(listens, address); other != "" {
			r.Error(at+".mqtt.listen", fmt.Sprintf("address %q is taken by %s", address, other), "give each listener its own port")
		}
		listens[address] = fmt.Sprintf("source %q", s.Name)
	}
	if other := clash(listens, c.Admin.Listen); c.Admin.Listen != "" && other != "" {
		r.Error("admin.listen", fmt.Sprintf("address %q is taken by %s", c.Admin.Listen, other), `listen: "127.0.0.1:9600"`)
	}
}

// clash names who listens on the same port of the same or of every address.
func clash(listens map[string]string, address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return ""
	}
	any := func(h string) bool { return h == "" || h == "0.0.0.0" || h == "::" }
	for _, other := range sortedKeys(listens) {
		h, p, err := net.SplitHostPort(other)
		if err == nil && p == port && (h == host || any(h) || any(host)) {
			return listens[other]
		}
	}
	return ""
}

// checkFiles reports files that are named and not there. What this user may not look at is left to the gateway's.
func checkFiles(r *config.Report, at string, files map[string]string) {
	for _, key := range sortedKeys(files) {
		if file := files[key]; file != "" {
			if info, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
				r.Error(at+"."+key, fmt.Sprintf("file %q is missing", file), "relative paths start at the folder of the configuration file")
			}
		}
	}
}

// checkPrivateFile reports a private key that others may read.
func checkPrivateFile(r *config.Report, at, file string) {
	if info, err := os.Stat(file); file != "" && err == nil && info.Mode().Perm()&0o077 != 0 {
		r.Error(at, fmt.Sprintf("private key is open to others (mode %04o)", info.Mode().Perm()), "chmod 600 "+file)
	}
}

func (c *Config) checkUplinks(r *config.Report) {
	namesOf(r, "uplinks", "an uplink", len(c.Uplinks), func(i int) string { return c.Uplinks[i].Name })
	if n := len(c.Uplinks); n > gateway.MaxUplinks {
		r.Error(config.Index("uplinks", gateway.MaxUplinks), fmt.Sprintf("%d uplinks; want at most %d", n, gateway.MaxUplinks), "send through fewer brokers")
	}
	clients := map[string]string{}
	conditions := false
	for i, u := range c.Uplinks {
		at := config.Index("uplinks", i)
		c.checkIdentity(r, &u.Identity, at)
		if u.Jurisdiction != "" && !isCountry(u.Jurisdiction) {
			r.Error(at+".jurisdiction", fmt.Sprintf("%q is no country; want two capital letters of ISO 3166", u.Jurisdiction), "jurisdiction: CN")
		}
		if u.Link != "" && !nameForm.MatchString(u.Link) {
			r.Error(at+".link", fmt.Sprintf("%q is no name of a link", u.Link), nameHint)
		}
		conditions = conditions || u.Link != ""
		if u.MQTT == nil {
			r.Error(at, "uplink has no protocol; want mqtt", `add mqtt: { url: "tls://tsp.example:8883" }`)
			continue
		}
		u.MQTT.Check(r, at+".mqtt")
		tls := u.MQTT.TLS
		checkFiles(r, at+".mqtt", map[string]string{"tls.ca_file": tls.CAFile, "tls.cert_file": tls.CertFile, "tls.key_file": tls.KeyFile})
		checkPrivateFile(r, at+".mqtt.tls.key_file", tls.KeyFile)
		if id := u.MQTT.ClientID; id != "" {
			key := u.MQTT.URL + " " + id
			if other, ok := clients[key]; ok {
				r.Error(at+".mqtt.client_id", fmt.Sprintf("uplink %q has the same client id at the same broker: they would end each other's connection", other), "give each its own client_id")
			}
			clients[key] = u.Name
		}
	}
	if c.LinkFile != "" && !conditions {
		r.Warn("link_file", "no uplink has a link condition: it changes nothing", "uplinks: [{ name: tsp, link: wifi, … }] sends only while the link is wifi")
	}
}

// checkIdentity checks how messages carry their id on one uplink.
func (c *Config) checkIdentity(r *config.Report, i *gateway.IdentityConfig, at string) {
	in := at + ".identity"
	var usual gateway.IdentityConfig
	config.Defaults(&usual)
	for _, k := range []struct{ key, mode, value, usual string }{
		{"type", "cloudevents", i.Type, usual.Type}, {"id_field", "field", i.IDField, usual.IDField},
		{"salt_field", "field", i.SaltField, usual.SaltField}, {"body_field", "field", i.BodyField, usual.BodyField},
		{"template", "topic", i.Template, usual.Template},
	} {
		if k.value != k.usual && k.mode != i.Mode && r.Has(in+"."+k.key) { // echo writes the usual ones for every mode
			r.Error(in+"."+k.key, fmt.Sprintf("%s belongs to mode %s, not to %s", k.key, k.mode, i.Mode), "mode: "+k.mode+", or remove "+k.key)
		}
	}
	identity, err := gateway.NewIdentity(*i, c.Gateway)
	bad := (*gateway.IdentityError)(nil)
	switch {
	case r.Failed(in) || r.Failed(in+".mode"):
	case errors.As(err, &bad) && nameForm.MatchString(c.Gateway):
		r.Error(in+"."+bad.Key, bad.Message, bad.Hint)
	case err != nil:
	case identity == nil:
		r.Warn(in, "messages leave without their id: the cloud cannot tell a copy from a new message, and a capture cannot be reconciled with the record",
			"identity: { mode: field } puts the id into JSON objects, cloudevents around the body, topic into the topic")
	case !identity.Salted():
		r.Warn(in+".template", "messages leave without the salt: a capture can be reconciled by id only, not by content", `template: "{topic}/{id}/{salt}"`)
	}
}

// checkReserved makes sure that no mapping lets a device write onto the topics of the gateway itself,
// PREFIX GATEWAY/$sluice/…, of this or another uplink on the same broker.
func (c *Config) checkReserved(r *config.Report) {
	const level = "$sluice"
	for i, u := range c.Uplinks {
		if u.MQTT == nil || u.MQTT.TopicPrefix == "" {
			continue
		}
		prefix := u.MQTT.TopicPrefix
		last := prefix[strings.LastIndexByte(prefix, '/')+1:]
		if slices.Contains(strings.Split(prefix, "/"), level) || last != "" && strings.HasPrefix(level, last) {
			r.Error(config.Index("uplinks", i)+".mqtt.topic_prefix", fmt.Sprintf("with this prefix devices could publish onto the reserved topics %s/%s/…", c.Gateway, level),
				`end the prefix with a whole level that is not `+level+`: "fleet-7/"`)
		}
	}
}

func (c *Config) checkKeys(r *config.Report) {
	shared := map[string]string{}
	for _, name := range sortedKeys(c.TokenDomains) {
		at, id := config.Join("token_domains", name), c.TokenDomains[name].Key
		if !nameForm.MatchString(name) {
			r.Error(at, fmt.Sprintf("%q is no name for a token domain", name), nameHint)
		}
		if id == "" {
			continue
		}
		if err := keyring.CheckID(id); err != nil {
			r.Error(at+".key", err.Error(), "key: tokens-"+name)
		}
		if other, ok := shared[id]; ok {
			r.Warn(at+".key", fmt.Sprintf("domain %q has the same key: equal values have equal tokens in both", other), "give each domain a key of its own")
		}
		shared[id] = name
	}
	for _, name := range sortedKeys(c.Keys.Recipients) {
		at := config.Join("keys.recipients", name)
		if !nameForm.MatchString(name) {
			r.Error(at, fmt.Sprintf("%q is no name for a recipient", name), nameHint)
		}
		checkPublicKey(r, at, c.Keys.Recipients[name], keyring.Recipient)
	}
	if c.Keys.Custodian != "" {
		checkPublicKey(r, "keys.custodian", c.Keys.Custodian, keyring.Custodian)
	}
}

// checkPublicKey reads a public key file of somebody else.
func checkPublicKey(r *config.Report, at, file string, use keyring.Use) {
	id := strings.TrimSuffix(filepath.Base(file), ".pub")
	make := fmt.Sprintf("its owner makes a pair with sluice keys new --use %s --id %s --dir DIR; copy DIR/%s.pub to %s", use, id, id, file)
	key, err := keyring.ReadPublic(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, keyring.ErrNoKey):
		r.Error(at, fmt.Sprintf("public key file %q is missing", file), make)
	case errors.Is(err, fs.ErrPermission):
		r.Warn(at, fmt.Sprintf("public key file %q cannot be read by this user", file), "run lint as the gateway's user")
	case err != nil:
		r.Error(at, fmt.Sprintf("file is no public key: %v", err), make)
	case key.Use != use:
		r.Error(at, fmt.Sprintf("key is for %s; want one for %s", key.Use, use), make)
	}
	if _, err := os.Lstat(strings.TrimSuffix(file, ".pub") + ".key"); err == nil && strings.HasSuffix(file, ".pub") {
		r.Warn(at, "the private key lies beside the public one: "+alone(use), "move it to its owner: mv "+strings.TrimSuffix(file, ".pub")+".key …")
	}
}

// alone says why the gateway must not have the private key of somebody else.
func alone(use keyring.Use) string {
	if use == keyring.Audit {
		return "the gateway must not be able to sign in the collector's name"
	}
	return fmt.Sprintf("the gateway must not be able to open what it seals for a %s", use)
}

func (c *Config) checkAdmin(r *config.Report) {
	c.checkAdminTLS(r)
	c.checkRoles(r)
	if c.Admin.Listen == "" {
		if c.Admin.Pprof {
			r.Warn("admin.pprof", "pprof without admin.listen serves nobody", `listen: "127.0.0.1:9600"`)
		}
		return
	}
	host, _, err := net.SplitHostPort(c.Admin.Listen)
	switch {
	case err != nil || strings.Contains(c.Admin.Listen, "://"):
		r.Error("admin.listen", "found no HOST:PORT", `listen: "127.0.0.1:9600"`)
	case !isLoopback(host) && c.Admin.Pprof:
		r.Error("admin.pprof", "pprof beyond loopback shows memory to the network", "remove pprof, or listen on 127.0.0.1")
	case !isLoopback(host):
		r.Warn("admin.listen", "health and metrics are served beyond loopback, without a login", `listen: "127.0.0.1:9600"`)
	}
}

func (c *Config) checkAdminTLS(r *config.Report) {
	tls := c.Admin.TLS
	if tls == (console.TLS{}) {
		return
	}
	if c.Admin.Listen == "" {
		r.Warn("admin.tls", "tls without admin.listen serves nobody", `listen: "127.0.0.1:9600"`)
	}
	if tls.CertFile == "" {
		r.Error("admin.tls.cert_file", "tls without a certificate", "set cert_file and key_file")
	}
	if tls.KeyFile == "" {
		r.Error("admin.tls.key_file", "tls without a private key", "set cert_file and key_file")
	}
	checkFiles(r, "admin", map[string]string{"tls.cert_file": tls.CertFile, "tls.key_file": tls.KeyFile, "tls.client_ca_file": tls.ClientCAFile})
	checkPrivateFile(r, "admin.tls.key_file", tls.KeyFile)
}

// checkRoles reads the role file and checks that its callers can come as it says.
func (c *Config) checkRoles(r *config.Report) {
	if c.Admin.Roles == "" {
		if r.Has("admin.roles") { // somebody meant to name one
			r.Error("admin.roles", "no file is named", "roles: roles.yaml, or remove the key")
		}
		return
	}
	const at, hint = "admin.roles", "relative paths start at the folder of the configuration file"
	info, err := os.Stat(c.Admin.Roles)
	if err != nil || !info.Mode().IsRegular() {
		r.Error(at, fmt.Sprintf("role file %q is missing", c.Admin.Roles), hint)
		return
	}
	if mode := info.Mode().Perm(); mode&0o002 != 0 {
		r.Error(at, fmt.Sprintf("everybody may write to the role file (mode %04o)", mode), "chmod 644 "+c.Admin.Roles)
	}
	data, err := config.ReadFile(c.Admin.Roles)
	if err != nil {
		r.Error(at, fmt.Sprintf("role file %q cannot be read", c.Admin.Roles), "make it readable for the gateway's user")
		return
	}
	roles, problems := console.ParseRoles(c.Admin.Roles, data)
	for _, p := range problems.Problems() {
		r.Add(p)
	}
	c.roles = roles
	host, _, _ := net.SplitHostPort(c.Admin.Listen)
	plain := c.Admin.TLS == console.TLS{}
	switch {
	case roles.Tokens() && c.Admin.Listen == "":
		r.Warn(at, "a caller has a token, which nobody can show without admin.listen", `listen: "127.0.0.1:9600"`)
	case roles.Tokens() && plain && !isLoopback(host):
		r.Error(at, "a caller has a token, which could be read on the way: plain TCP beyond loopback", `tls: { cert_file: admin.pem, key_file: admin.key }, or listen: "127.0.0.1:9600"`)
	}
	if roles.Certificates() && (c.Admin.Listen == "" || c.Admin.TLS.ClientCAFile == "") {
		r.Warn(at, "a caller has a certificate, which nobody can show without admin.tls.client_ca_file", "tls: { cert_file: admin.pem, key_file: admin.key, client_ca_file: callers.pem }")
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkPolicy checks the rows against everything they name, and the table as a whole.
func (c *Config) checkPolicy(r *config.Report, cats []gateway.Category, now time.Time) {
	out, decided := false, len(c.Policy) > 0 && !r.Failed("policy")
	for i := range c.Policy {
		row, at := &c.Policy[i], config.Index("policy", i)
		if a, err := gateway.ParseAction(row.Action); err == nil && a.LetsOut() {
			out = true
		} else if err != nil {
			decided = false
		}
		c.checkRow(r, row, at, now)
	}
	if decided && !out {
		r.Warn("policy", "no row lets anything out: nothing can be published", "add a row such as { match: { category: VEH-DRV-DYNAMICS }, action: pass }")
	}
	if cats == nil || !decided || len(c.Uplinks) == 0 {
		return // reported elsewhere; every row would be blamed
	}
	_, problems := gateway.CompilePolicy(c.Policy, cats, c.uplinkInfos(), now)
	for _, p := range problems {
		at := "policy"
		if p.Row >= 0 {
			at = config.Index("policy", p.Row)
			if key, _, ok := strings.Cut(p.Message, ":"); ok && r.Has(at+"."+key) {
				at += "." + key
			}
		}
		if p.Error {
			r.Error(at, p.Message, p.Hint)
		} else {
			r.Warn(at, p.Message, p.Hint)
		}
	}
}

// checkRow checks what one row names.
func (c *Config) checkRow(r *config.Report, row *gateway.RowConfig, at string, now time.Time) {
	if row.To != "" && c.Keys.Recipients[row.To] == "" {
		r.Error(at+".to", fmt.Sprintf("recipient %q is not under keys.recipients", row.To), nearOr(row.To, sortedKeys(c.Keys.Recipients), "add keys: { recipients: { "+row.To+": "+row.To+".pub } }"))
	}
	if _, ok := c.TokenDomains[row.Domain]; row.Domain != "" && !ok {
		r.Error(at+".domain", fmt.Sprintf("token domain %q is not under token_domains", row.Domain), nearOr(row.Domain, sortedKeys(c.TokenDomains), "add token_domains: { "+row.Domain+": { key: tokens-"+row.Domain+" } }"))
	}
	if row.Action == "hold" && c.Keys.Custodian == "" {
		r.Error(at+".action", "hold without a custodian: nobody could open what is held", "add keys: { custodian: custodian.pub }")
	}
	if a := row.Approval; a != nil {
		if day, err := time.Parse(time.DateOnly, a.Until); err == nil && now.Before(day) && day.Sub(now) < 30*24*time.Hour {
			r.Warn(at+".approval.until", fmt.Sprintf("approval ends in %.0f days; then the row blocks", days(day.Sub(now))), "renew it and set until")
		}
	}
	known := func(key string, values, names []string) {
		for _, v := range values {
			if !slices.Contains(names, v) {
				r.Error(at+".match."+key, fmt.Sprintf("no %s is called %q", key, v), nearOr(v, names, "have: "+strings.Join(names, ", ")))
			}
		}
	}
	var sources, uplinks, recipients []string
	for _, s := range c.Sources {
		sources = append(sources, s.Name)
	}
	for _, u := range c.Uplinks {
		uplinks, recipients = append(uplinks, u.Name), append(recipients, u.Recipient)
	}
	known("source", row.Match.Source, sources)
	known("uplink", row.Match.Uplink, uplinks)
	known("recipient", row.Match.Recipient, recipients)
	for _, j := range row.Match.Jurisdiction {
		if !isCountry(strings.TrimPrefix(j, "!")) {
			r.Error(at+".match.jurisdiction", fmt.Sprintf("%q is no country; want two capital letters of ISO 3166, with ! in front for any other", j), `jurisdiction: "!CN"`)
		}
	}
}

// nearOr suggests the nearest known name, or says something else.
func nearOr(name string, known []string, other string) string {
	if near := config.Nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return other
}

// countries are the codes of ISO 3166-1 alpha-2.
const countries = "ADAEAFAGAIALAMAOAQARASATAUAWAXAZBABBBDBEBFBGBHBIBJBLBMBNBOBQBRBSBTBVBWBYBZCACCCDCFCGCHCICKCLCMCNCOCRCUCVCWCXCYCZ" +
	"DEDJDKDMDODZECEEEGEHERESETFIFJFKFMFOFRGAGBGDGEGFGGGHGIGLGMGNGPGQGRGSGTGUGWGYHKHMHNHRHTHUIDIEILIMINIOIQIRISIT" +
	"JEJMJOJPKEKGKHKIKMKNKPKRKWKYKZLALBLCLILKLRLSLTLULVLYMAMCMDMEMFMGMHMKMLMMMNMOMPMQMRMSMTMUMVMWMXMYMZ" +
	"NANCNENFNGNINLNONPNRNUNZOMPAPEPFPGPHPKPLPMPNPRPSPTPWPYQARERORSRURWSASBSCSDSESGSHSISJSKSLSMSNSOSRSSSTSVSXSYSZ" +
	"TCTDTFTGTHTJTKTLTMTNTOTRTTTVTWTZUAUGUMUSUYUZVAVCVEVGVIVNVUWFWSYEYTZAZMZW"

func isCountry(code string) bool {
	for i := 0; i+2 <= len(countries) && len(code) == 2; i += 2 {
		if countries[i:i+2] == code {
			return true
		}
	}
	return false
}
