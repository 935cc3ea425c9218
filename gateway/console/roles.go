package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/sluice-edge/sluice/gateway/config"
)

// Role is what a caller may have the gateway do. No caller holds all of them. The zero value is no role.
type Role string

// The roles.
const (
	Operator        Role = "operator"         // runs the gateway: reloads, links, what is to be sent again
	SecurityOfficer Role = "security_officer" // answers for what leaves (数据安全负责人)
	Auditor         Role = "auditor"          // looks at the record
)

// roleNames are all of them, as the role file writes them.
var roleNames = []Role{Operator, SecurityOfficer, Auditor}

// RoleFile is the file of admin.roles.
type RoleFile struct {
	Callers []CallerConfig `yaml:"callers" required:"true" doc:"who may change something"`
}

// CallerConfig is one caller: exactly one of uid, token and certificate, and what it may do.
type CallerConfig struct {
	UID         *int64 `yaml:"uid" doc:"user id, as the kernel says on admin.sock"`
	Token       string `yaml:"token_sha256" doc:"SHA-256 of a bearer token, 64 hexadecimal digits"`
	Certificate string `yaml:"certificate_sha256" doc:"SHA-256 of a client certificate (DER), 64 hexadecimal digits"`
	Name        string `yaml:"name" doc:"who holds the token or certificate, 1 to 64 of A-Z a-z 0-9 _ -; stands in the record"`
	Roles       []Role `yaml:"roles" required:"true" enum:"operator,security_officer,auditor" doc:"what the caller may do, not all three"`
}

// Roles says who may do what. It never changes; its methods are safe for concurrent use.
type Roles struct {
	uids         map[uint32][]Role
	tokens       []holder
	certificates []holder
	digest       string
}

// holder is a caller known by a SHA-256.
type holder struct {
	name  string
	sum   [sha256.Size]byte
	roles []Role
}

var holderForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

const shaHint = `printf %s "$TOKEN" | sha256sum; openssl x509 -in FILE -outform DER | sha256sum`

// ParseRoles reads a role file and reports every problem. With an error there are no roles.
func ParseRoles(file string, data []byte) (*Roles, *config.Report) {
	var f RoleFile
	report := config.Decode(file, data, &f)
	sum := sha256.Sum256(data)
	r := &Roles{uids: map[uint32][]Role{}, digest: hex.EncodeToString(sum[:])}
	names := map[string]bool{}
	for i := range f.Callers {
		r.add(report, config.Index("callers", i), &f.Callers[i], names)
	}
	if !report.OK() {
		return nil, report
	}
	if !slices.ContainsFunc(f.Callers, func(c CallerConfig) bool { return slices.Contains(c.Roles, Operator) }) {
		report.Warn("callers", "nobody has the role operator: only SIGHUP reloads the gateway", "{ uid: 0, roles: [operator] }")
	}
	return r, report
}

// add checks one caller and takes it over.
func (r *Roles) add(report *config.Report, at string, c *CallerConfig, names map[string]bool) {
	held := map[Role]bool{}
	for i, role := range c.Roles {
		if role != "" && held[role] {
			report.Error(config.Index(at+".roles", i), fmt.Sprintf("role %s stands twice", role), "write it once")
		}
		held[role] = true
	}
	if held[Operator] && held[SecurityOfficer] && held[Auditor] {
		report.Error(at+".roles", "one caller holds all three roles: nobody would look at what it does", "give one of them to somebody else")
	}
	given := 0
	for _, key := range []string{".uid", ".token_sha256", ".certificate_sha256"} {
		if report.Has(at + key) {
			given++
		}
	}
	if given != 1 {
		report.Error(at, fmt.Sprintf("caller has %d of uid, token_sha256 and certificate_sha256; want exactly one", given), "two ways to come are two callers")
		return
	}
	if c.UID != nil {
		r.addUID(report, at, c)
		return
	}
	if !holderForm.MatchString(c.Name) {
		report.Error(at+".name", "a token or certificate needs a name: 1 to 64 of A-Z a-z 0-9 _ -", "name: ci")
	} else if names[c.Name] {
		report.Error(at+".name", fmt.Sprintf("name %q stands twice: the record could not tell who it was", c.Name), "give each its own name")
	}
	names[c.Name] = true
	key, text, list := ".token_sha256", c.Token, &r.tokens
	if report.Has(at + ".certificate_sha256") {
		key, text, list = ".certificate_sha256", c.Certificate, &r.certificates
	}
	sum, err := hex.DecodeString(text)
	switch { // the text is not quoted: it may be the token itself
	case err != nil || len(sum) != sha256.Size:
		report.Error(at+key, "found no SHA-256; want 64 hexadecimal digits without colons", shaHint)
	case [sha256.Size]byte(sum) == sha256.Sum256(nil):
		report.Error(at+key, "this is the SHA-256 of nothing", shaHint)
	case slices.ContainsFunc(*list, func(h holder) bool { return h.sum == [sha256.Size]byte(sum) }):
		report.Error(at+key, "stands twice", "one caller, one entry")
	default:
		*list = append(*list, holder{c.Name, [sha256.Size]byte(sum), c.Roles})
	}
}

func (r *Roles) addUID(report *config.Report, at string, c *CallerConfig) {
	if c.Name != "" {
		report.Error(at+".name", "a uid has no other name", "remove name; say in a comment who it is")
	}
	if *c.UID < 0 || *c.UID >= math.MaxUint32 { // the last one means no user
		report.Error(at+".uid", "no user id; want 0 to 4294967294", "id -u NAME")
		return
	}
	uid := uint32(*c.UID)
	if _, ok := r.uids[uid]; ok {
		report.Error(at+".uid", "stands twice", "one caller, one entry")
		return
	}
	r.uids[uid] = c.Roles
}

// Digest is the SHA-256 of the role file, "" without one.
func (r *Roles) Digest() string {
	if r == nil {
		return ""
	}
	return r.digest
}

// Tokens reports whether a caller comes with a token.
func (r *Roles) Tokens() bool { return r != nil && len(r.tokens) > 0 }

// Certificates reports whether a caller comes with a certificate.
func (r *Roles) Certificates() bool { return r != nil && len(r.certificates) > 0 }

// Others reports whether the file names a user other than root and own, who then must reach the socket.
func (r *Roles) Others(own uint32) bool {
	if r == nil {
		return false
	}
	for uid := range r.uids {
		if uid != 0 && uid != own {
			return true
		}
	}
	return false
}

// known reports whether the uid may talk to the socket at all: root and the gateway's own user always.
func (r *Roles) known(uid, own uint32) bool {
	if uid == 0 || uid == own {
		return true
	}
	if r == nil {
		return false
	}
	_, ok := r.uids[uid]
	return ok
}

// ofUID returns the roles of a user. Without a role file root and the gateway's own user operate it.
func (r *Roles) ofUID(uid, own uint32) []Role {
	if r != nil {
		return r.uids[uid]
	}
	if uid == 0 || uid == own {
		return []Role{Operator}
	}
	return nil
}

// ofToken finds who holds a token; every entry is compared, in constant time.
func (r *Roles) ofToken(token string) (holder, bool) {
	if token == "" {
		return holder{}, false
	}
	return find(r.tokens, sha256.Sum256([]byte(token)))
}

func find(list []holder, sum [sha256.Size]byte) (holder, bool) {
	at := -1
	for i := range list {
		at = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(list[i].sum[:], sum[:]), i, at)
	}
	if at < 0 {
		return holder{}, false
	}
	return list[at], true
}

// rolesText lists roles for a message.
func rolesText(list []Role) string {
	if len(list) == 0 {
		return "no role"
	}
	var words []string
	for _, r := range list {
		words = append(words, string(r))
	}
	return strings.Join(words, ", ")
}
