package console

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// sumOf is the SHA-256 of a token as the role file holds it.
func sumOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func TestARoleFileGivesExactlyWhatItSays(t *testing.T) {
	r, report := ParseRoles("roles.yaml", []byte("callers:\n  - { uid: 1000, roles: [operator, auditor] }\n  - { uid: 0, roles: [security_officer] }\n"+
		"  - { token_sha256: "+strings.ToUpper(sumOf("s3cret"))+", name: ci, roles: [operator] }\n  - { certificate_sha256: "+sumOf("der")+", name: dso, roles: [security_officer] }\n"))
	if r == nil || len(report.Problems()) != 0 {
		t.Fatal(report.Problems())
	}
	const own = 7
	for uid, want := range map[uint32]string{1000: "operator, auditor", 0: "security_officer", own: "no role", 1001: "no role"} {
		if got := rolesText(r.ofUID(uid, own)); got != want {
			t.Errorf("uid %d has %s, want %s", uid, got, want)
		}
	}
	if h, ok := r.ofToken("s3cret"); !ok || h.name != "ci" || rolesText(h.roles) != "operator" {
		t.Errorf("the token is %v %v", h, ok)
	}
	for _, token := range []string{"", "s3cret ", "S3cret", "der", sumOf("s3cret")} {
		if h, ok := r.ofToken(token); ok {
			t.Errorf("token %q is %s", token, h.name)
		}
	}
	if h, ok := find(r.certificates, sha256.Sum256([]byte("der"))); !ok || h.name != "dso" {
		t.Errorf("the certificate is %v %v", h, ok)
	}
	if !r.Others(own) || !r.Tokens() || !r.Certificates() || len(r.Digest()) != 64 {
		t.Errorf("others %v, tokens %v, certificates %v, digest %q", r.Others(own), r.Tokens(), r.Certificates(), r.Digest())
	}
}

func TestWithoutARoleFileRootAndTheGatewaysUserOperate(t *testing.T) {
	var r *Roles
	for uid, want := range map[uint32]string{0: "operator", 7: "operator", 1000: "no role"} {
		if got := rolesText(r.ofUID(uid, 7)); got != want {
			t.Errorf("uid %d has %s, want %s", uid, got, want)
		}
	}
	if r.Others(7) || r.Tokens() || r.Certificates() || r.Digest() != "" {
		t.Error("no role file names somebody")
	}
}

func TestProblemsOfARoleFile(t *testing.T) {
	a, b := sumOf("a"), sumOf("b")
	for _, c := range []struct {
		name, text   string
		line         int
		key, message string
		hint         string
	}{
		{name: "all three roles", text: "callers:\n  - uid: 1\n    roles: [operator, security_officer, auditor]\n", line: 3, key: "callers[0].roles", message: "all three"},
		{name: "a role that is none", text: "callers:\n  - { uid: 1, roles: [operater] }\n", line: 2, key: "callers[0].roles[0]", message: "operator", hint: "operator"},
		{name: "a role twice", text: "callers:\n  - { uid: 1, roles: [operator, operator] }\n", line: 2, key: "callers[0].roles[1]", message: "twice"},
		{name: "no roles", text: "callers:\n  - { uid: 1, roles: [] }\n", line: 2, key: "callers[0].roles", message: "empty"},
		{name: "roles missing", text: "callers:\n  - { uid: 1 }\n", line: 2, key: "callers[0].roles"},
		{name: "an unknown key", text: "callers:\n  - { uid: 1, roles: [operator], nmae: x }\n", line: 2, key: "callers[0].nmae", message: "unknown", hint: "name"},
		{name: "a token in clear", text: "callers:\n  - { token_sha256: hunter2, name: ci, roles: [operator] }\n", line: 2, key: "callers[0].token_sha256", message: "found no SHA-256"},
		{name: "an empty token", text: "callers:\n  - { token_sha256: " + sumOf("") + ", name: ci, roles: [operator] }\n", line: 2, key: "callers[0].token_sha256", message: "of nothing"},
		{name: "a token without a name", text: "callers:\n  - { token_sha256: " + a + ", roles: [operator] }\n", line: 2, key: "callers[0].name", message: "needs a name"},
		{name: "a name that lies", text: "callers:\n  - { token_sha256: " + a + ", name: \"uid 0\", roles: [operator] }\n", line: 2, key: "callers[0].name", message: "needs a name"},
		{name: "a named uid", text: "callers:\n  - { uid: 1, name: anna, roles: [operator] }\n", line: 2, key: "callers[0].name", message: "no other name"},
		{name: "two ways in one", text: "callers:\n  - { uid: 1, token_sha256: " + a + ", name: ci, roles: [operator] }\n", line: 2, key: "callers[0]", message: "exactly one"},
		{name: "no way", text: "callers:\n  - { name: ci, roles: [operator] }\n", line: 2, key: "callers[0]", message: "exactly one"},
		{name: "a uid twice", text: "callers:\n  - { uid: 1, roles: [operator] }\n  - { uid: 1, roles: [auditor] }\n", line: 3, key: "callers[1].uid", message: "twice"},
		{name: "a token twice", text: "callers:\n  - { token_sha256: " + a + ", name: x, roles: [operator] }\n  - { token_sha256: " + strings.ToUpper(a) + ", name: y, roles: [auditor] }\n", line: 3, key: "callers[1].token_sha256", message: "twice"},
		{name: "a name twice", text: "callers:\n  - { token_sha256: " + a + ", name: x, roles: [operator] }\n  - { certificate_sha256: " + b + ", name: x, roles: [auditor] }\n", line: 3, key: "callers[1].name", message: "twice"},
		{name: "nobody's uid", text: "callers:\n  - { uid: 4294967295, roles: [operator] }\n", line: 2, key: "callers[0].uid", message: "no user id"},
		{name: "a uid below 0", text: "callers:\n  - { uid: -1, roles: [operator] }\n", line: 2, key: "callers[0].uid", message: "no user id"},
		{name: "a uid that is a name", text: "callers:\n  - { uid: root, roles: [operator] }\n", line: 2, key: "callers[0].uid"},
		{name: "a uid of nothing", text: "callers:\n  - { uid: ~, roles: [operator] }\n", line: 2, key: "callers[0].uid"},
		{name: "no callers", text: "callers: []\n", line: 1, key: "callers", message: "empty"},
		{name: "nothing", text: "\n", line: 1, key: "callers", message: "missing"},
		{name: "two documents", text: "callers: [{ uid: 1, roles: [operator] }]\n---\ncallers: []\n", line: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, report := ParseRoles("roles.yaml", []byte(c.text))
			list := report.Problems()
			if r != nil || len(list) != 1 {
				t.Fatalf("roles %v, problems %v", r, list)
			}
			p := list[0]
			if p.File != "roles.yaml" || p.Line != c.line || p.Key != c.key || !strings.Contains(p.Message, c.message) || !strings.Contains(p.Hint, c.hint) {
				t.Errorf("reported %s (%s)", p, p.Hint)
			}
			if strings.Contains(p.Message+p.Hint, "hunter2") {
				t.Errorf("the token is quoted: %s", p)
			}
		})
	}
}

func TestAFileWithoutAnOperatorIsWarnedOf(t *testing.T) {
	r, report := ParseRoles("roles.yaml", []byte("callers: [{ uid: 1, roles: [auditor] }]\n"))
	if list := report.Problems(); r == nil || len(list) != 1 || !strings.Contains(list[0].Message, "nobody has the role operator") {
		t.Errorf("roles %v, problems %v", r, list)
	}
}

// FuzzRoles holds whatever the decoder takes to the rules of the role file.
func FuzzRoles(f *testing.F) {
	f.Add([]byte("callers:\n  - { uid: 1000, roles: [operator] }\n  - { token_sha256: " + sumOf("t") + ", name: ci, roles: [operator, auditor] }\n"))
	f.Add([]byte("callers: [{ certificate_sha256: " + sumOf("c") + ", name: dso, roles: [security_officer] }]\n"))
	f.Add([]byte("callers:\n  - &a { uid: 0, roles: &r [operator, security_officer, auditor] }\n  - { uid: 1, roles: *r }\n  - *a\n"))
	f.Add([]byte("callers: [{ uid: ~, token_sha256: 12, name: ${X}, roles: operator }]\n"))
	f.Add([]byte("callers: [{ uid: 0x10, roles: [operator] }, { uid: 1e3, roles: [auditor] }]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, report := ParseRoles("roles.yaml", data)
		for _, p := range report.Problems() {
			if p.Line < 1 || p.Column < 1 || p.Message == "" {
				t.Fatalf("problem without place or message: %+v", p)
			}
		}
		if (r != nil) != report.OK() {
			t.Fatalf("roles %v with %v", r, report.Problems())
		}
		if r == nil {
			return
		}
		check := func(who string, roles []Role) {
			sorted := slices.Sorted(slices.Values(roles))
			if n := len(slices.Compact(sorted)); n == 0 || n != len(roles) || n >= len(roleNames) {
				t.Fatalf("%s has %v", who, roles)
			}
			for _, role := range roles {
				if !slices.Contains(roleNames, role) {
					t.Fatalf("%s has %q", who, role)
				}
			}
		}
		names := map[string]bool{}
		for uid, roles := range r.uids {
			check(fmt.Sprint("uid ", uid), roles)
			if !slices.Equal(r.ofUID(uid, 1), roles) || !r.known(uid, 1) {
				t.Fatalf("uid %d is not found", uid)
			}
		}
		for _, list := range [][]holder{r.tokens, r.certificates} {
			for _, h := range list {
				check(h.name, h.roles)
				if got, ok := find(list, h.sum); !ok || got.name != h.name || names[h.name] || !holderForm.MatchString(h.name) {
					t.Fatalf("%q is found as %q, twice %v", h.name, got.name, names[h.name])
				}
				names[h.name] = true
			}
		}
		if _, ok := r.ofToken(""); ok || len(r.uids)+len(r.tokens)+len(r.certificates) == 0 {
			t.Fatal("an empty token is somebody, or nobody is anybody")
		}
	})
}
