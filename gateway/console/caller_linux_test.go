package console

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// desk is a server with one call for each role, and what it handed on.
type desk struct {
	*Server
	dir, socket string
	log         bytes.Buffer // read after the server has ended

	mu      sync.Mutex // guards what follows
	refused []Refusal
	done    []string // "call by name"
}

func (d *desk) did(call string, by Caller) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = append(d.done, call+" by "+by.Name)
}

// newDesk makes a server with a role file, none when it is empty. serve starts it.
func newDesk(t *testing.T, roles string) *desk {
	t.Helper()
	d := &desk{dir: t.TempDir()}
	change := func(role Role) Change {
		return Change{Role: role, Do: func(_ context.Context, r *http.Request, by Caller) (any, error) {
			n, err := io.Copy(io.Discard, r.Body)
			d.did(string(role), by)
			return n, err
		}}
	}
	large := change(Operator)
	large.MaxBody = 8 << 20
	d.Server = New(Options{
		Gatherer: prometheus.NewRegistry(), Ready: func() []Condition { return nil },
		Reload: func(_ context.Context, _ url.Values, by Caller) error { d.did("reload", by); return nil },
		Query:  map[string]func(context.Context, *http.Request) (any, error){"open": func(context.Context, *http.Request) (any, error) { return 1, nil }},
		Private: map[string]func(context.Context, *http.Request) (any, error){
			"private": func(context.Context, *http.Request) (any, error) { return 1, nil }},
		Change: map[string]Change{"POST operator": change(Operator), "POST security_officer": change(SecurityOfficer), "PUT auditor": change(Auditor), "POST large": large},
		Roles:  parsed(t, roles),
		Refused: func(r Refusal) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.refused = append(d.refused, r)
		},
		Log: slog.New(slog.NewTextHandler(&d.log, nil)),
	})
	d.socket = filepath.Join(d.dir, "admin.sock")
	if err := d.ListenSocket(d.socket); err != nil {
		t.Fatal(err)
	}
	return d
}

func parsed(t *testing.T, text string) *Roles {
	t.Helper()
	if text == "" {
		return nil
	}
	r, report := ParseRoles("roles.yaml", []byte(text))
	if r == nil {
		t.Fatal(report.Err())
	}
	return r
}

// serve runs the server until the test ends, or stop is called.
func (d *desk) serve(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (d *desk) listen(t *testing.T, address string, secure TLS) string {
	t.Helper()
	a, err := d.Listen(address, secure, false)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", a.(*net.TCPAddr).Port)
}

// way is how a caller comes.
type way struct {
	client *http.Client
	base   string
	header http.Header
}

func overSocket(path string) way {
	return way{base: "http://gateway", client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}}
}

func overTCP(address string, header ...string) way {
	w := way{base: "http://" + address, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		w.header.Add(header[i], header[i+1])
	}
	return w
}

func (w way) withTLS(a *authority, cert ...tls.Certificate) way {
	w.base = strings.Replace(w.base, "http:", "https:", 1)
	w.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: a.pool, Certificates: cert}}}
	return w
}

// ask returns the status and the error of the answer.
func (w way) ask(t *testing.T, call string, body io.Reader) (int, string) {
	t.Helper()
	method, path, _ := strings.Cut(call, " ")
	r, err := http.NewRequestWithContext(t.Context(), method, w.base+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range w.header {
		r.Header[k] = v
	}
	resp, err := w.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Error string }
	json.NewDecoder(resp.Body).Decode(&answer)
	return resp.StatusCode, answer.Error
}

// authority signs certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
	next int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.next++
	c := &x509.Certificate{SerialNumber: big.NewInt(1 + a.next), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// files writes a server's certificate and the authority of clients.
func (a *authority) files(t *testing.T, dir string) TLS {
	t.Helper()
	c := a.issue(t, "gateway")
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	f := TLS{CertFile: filepath.Join(dir, "admin.pem"), KeyFile: filepath.Join(dir, "admin.key"), ClientCAFile: filepath.Join(dir, "callers.pem")}
	for file, b := range map[string]*pem.Block{f.CertFile: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, f.KeyFile: {Type: "PRIVATE KEY", Bytes: key},
		f.ClientCAFile: {Type: "CERTIFICATE", Bytes: a.cert.Raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// The calls of the table: one for each role, the reload, a private query, and reading.
var calls = []string{"POST /api/v1/operator", "POST /api/v1/security_officer", "PUT /api/v1/auditor", "POST /-/reload", "GET /api/v1/private", "GET /api/v1/open"}

func TestCallersMayDoWhatTheirRolesSay(t *testing.T) {
	a := newAuthority(t)
	named, stranger := a.issue(t, "same"), a.issue(t, "same")
	other := newAuthority(t).issue(t, "same")
	sum := fmt.Sprintf("%x", sha256.Sum256(named.Certificate[0]))
	roles := fmt.Sprintf(`callers:
  - { uid: %d, roles: [security_officer] }
  - { token_sha256: %s, name: ci, roles: [operator] }
  - { token_sha256: %s, name: both, roles: [operator, auditor] }
  - { certificate_sha256: %s, name: dso, roles: [auditor] }
`, os.Getuid(), sumOf("t-ci"), sumOf("t-both"), sum)
	bare, full := newDesk(t, ""), newDesk(t, roles)
	bareTCP, plain := bare.listen(t, "127.0.0.1:0", TLS{}), full.listen(t, "127.0.0.1:0", TLS{})
	exposed, secure := full.listen(t, "0.0.0.0:0", TLS{}), full.listen(t, "0.0.0.0:0", a.files(t, full.dir))
	bare.serve(t)
	stop := full.serve(t)
	own := fmt.Sprintf("uid %d", os.Getuid())
	const token = "Authorization"
	for _, c := range []struct {
		name, by string
		way      way
		want     string // a mark for each call: y done, n refused, - not there
	}{
		{"no role file, the gateway's user", own, overSocket(bare.socket), "ynnyyy"},
		{"no role file, TCP", "nobody over TCP", overTCP(bareTCP), "nnnn-y"},
		{"no role file, TCP with a token", "nobody over TCP", overTCP(bareTCP, token, "Bearer t-ci"), "nnnn-y"},
		{"the gateway's user, not an operator any more", own, overSocket(full.socket), "nynnyy"},
		{"nobody", "nobody over TCP", overTCP(plain), "nnnn-y"},
		{"a token", "token ci", overTCP(plain, token, "Bearer t-ci"), "ynny-y"},
		{"the scheme in small letters", "token ci", overTCP(plain, token, "bearer t-ci"), "ynny-y"},
		{"a token with two roles", "token both", overTCP(plain, token, "Bearer t-both"), "ynyy-y"},
		{"a wrong token", "an unknown token", overTCP(plain, token, "Bearer t-cI"), "nnnn-y"},
		{"an empty token", "an unknown token", overTCP(plain, token, "Bearer "), "nnnn-y"},
		{"the hash for a token", "an unknown token", overTCP(plain, token, "Bearer "+sumOf("t-ci")), "nnnn-y"},
		{"another scheme", "nobody over TCP", overTCP(plain, token, "Basic t-ci"), "nnnn-y"},
		{"two tokens", "nobody over TCP", overTCP(plain, token, "Bearer t-ci", token, "Bearer t-both"), "nnnn-y"},
		{"a page of another site", "nobody over TCP", overTCP(plain, token, "Bearer t-ci", "Sec-Fetch-Site", "cross-site"), "nnnn-y"},
		{"a token over plain TCP beyond loopback", "a token over plain TCP", overTCP(exposed, token, "Bearer t-ci"), "nnnn-y"},
		{"TLS without anything", "nobody over TCP", overTCP(secure).withTLS(a), "nnnn-y"},
		{"a token over TLS", "token ci", overTCP(secure, token, "Bearer t-ci").withTLS(a), "ynny-y"},
		{"a certificate", "certificate dso", overTCP(secure).withTLS(a, named), "nnyn-y"},
		{"a certificate of the same name", "certificate " + fmt.Sprintf("%x", sha256.Sum256(stranger.Certificate[0])), overTCP(secure).withTLS(a, stranger), "nnnn-y"},
		{"a certificate beside a token", "token ci", overTCP(secure, token, "Bearer t-ci").withTLS(a, named), "ynny-y"},
		{"a certificate beside a wrong token", "an unknown token", overTCP(secure, token, "Bearer x").withTLS(a, named), "nnnn-y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := full
			if strings.HasPrefix(c.name, "no role file") {
				d = bare
			}
			for i, call := range calls {
				d.strangers, d.named = bucket{}, bucket{} // every refusal is handed on
				d.refused, d.done = nil, nil
				status, text := c.way.ask(t, call, nil)
				want := map[byte]int{'y': http.StatusOK, 'n': http.StatusForbidden, '-': http.StatusNotFound}[c.want[i]]
				if status != want {
					t.Errorf("%s: %d (%s), want %d", call, status, text, want)
					continue
				}
				if status == http.StatusOK && i < 4 && (len(d.done) != 1 || !strings.HasSuffix(d.done[0], " by "+c.by)) {
					t.Errorf("%s: done %q", call, d.done)
				}
				if status != http.StatusForbidden {
					continue
				}
				role := []Role{Operator, SecurityOfficer, Auditor, Operator, ""}[i]
				if len(d.refused) != 1 || d.refused[0].By != c.by || d.refused[0].Role != role || d.refused[0].Private != (i == 4) || len(d.done) > 0 {
					t.Errorf("%s: handed on %+v, done %q", call, d.refused, d.done)
				}
				if !strings.HasPrefix(text, "this needs ") || !strings.Contains(text, string(role)) || !strings.Contains(text, c.by) || !strings.Contains(text, ": ") {
					t.Errorf("%s: the caller is told %q", call, text)
				}
			}
		})
	}
	t.Run("a certificate of another authority", func(t *testing.T) {
		if resp, err := overTCP(secure).withTLS(a, other).client.Get("https://" + secure + "/healthz"); err == nil {
			t.Errorf("was let in: %s", resp.Status)
		}
	})
	stop()
	if log := full.log.String(); !strings.Contains(log, "by=\"token ci\"") || strings.Contains(log, "t-ci") || strings.Contains(log, "t-both") || strings.Contains(log, "t-cI") {
		t.Errorf("the log says %s", log)
	}
}

// TestAnotherUserOfTheSocket asks from a child that the kernel knows as somebody else.
func TestAnotherUserOfTheSocket(t *testing.T) {
	if path := os.Getenv("SLUICE_TEST_SOCKET"); path != "" { // the child
		for _, call := range calls {
			resp := 0
			if c, err := net.Dial("unix", path); err == nil {
				c.Close()
				resp, _ = overSocket(path).ask(t, call, nil)
			}
			fmt.Printf("answer %d\n", resp)
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	d := newDesk(t, "")
	d.serve(t)
	program := filepath.Join(d.dir, "test")
	if self, err := os.ReadFile("/proc/self/exe"); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := d.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	as := func(uid uint32) string {
		t.Helper()
		cmd := exec.Command(program, "-test.run", "^TestAnotherUserOfTheSocket$")
		cmd.Dir, cmd.Env = d.dir, append(os.Environ(), "SLUICE_TEST_SOCKET="+d.socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var answers []string
		for line := range strings.Lines(string(out)) {
			if n, ok := strings.CutPrefix(line, "answer "); ok {
				answers = append(answers, strings.TrimSpace(n))
			}
		}
		return strings.Join(answers, " ")
	}
	mode := func() os.FileMode {
		info, err := os.Stat(d.socket)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	const one, two = 54321, 54322
	for _, c := range []struct {
		name, roles string
		mode        os.FileMode
		uid         uint32
		want        string
	}{
		{"without a role file nobody else connects", "", 0o600, one, "0 0 0 0 0 0"},
		{"whom the file names has what it says", "callers: [{ uid: 54321, roles: [operator] }]", 0o666, one, "200 403 403 200 200 200"},
		{"whom it does not name gets nothing, not even to read", "callers: [{ uid: 54321, roles: [operator] }]", 0o666, two, "403 403 403 403 403 403"},
		{"root has only what the file says", "callers: [{ uid: 54321, roles: [operator] }]", 0o666, 0, "403 403 403 403 403 200"},
		{"a role that was taken away is gone", "callers: [{ uid: 54321, roles: [auditor] }]", 0o666, one, "403 403 200 403 200 200"},
		{"a file that names nobody else closes the socket", "callers: [{ uid: 0, roles: [operator] }]", 0o600, one, "0 0 0 0 0 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := d.Renew(parsed(t, c.roles)); err != nil {
				t.Fatal(err)
			}
			if m := mode(); m != c.mode {
				t.Errorf("the socket has mode %04o", m)
			}
			if got := as(c.uid); got != c.want {
				t.Errorf("answers %s, want %s", got, c.want)
			}
		})
	}
}

// TestARoleIsLookedUpAtEveryCall keeps a connection over a change of the role file.
func TestARoleIsLookedUpAtEveryCall(t *testing.T) {
	d := newDesk(t, "callers: [{ token_sha256: "+sumOf("t")+", name: ci, roles: [operator] }]")
	w := overTCP(d.listen(t, "127.0.0.1:0", TLS{}), "Authorization", "Bearer t")
	w.client.Transport.(*http.Transport).DisableKeepAlives = false
	defer w.client.CloseIdleConnections()
	d.serve(t)
	if status, text := w.ask(t, calls[0], nil); status != http.StatusOK {
		t.Fatal(status, text)
	}
	if err := d.Renew(parsed(t, "callers: [{ token_sha256: "+sumOf("new")+", name: ci, roles: [operator] }]")); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.ask(t, calls[0], nil); status != http.StatusForbidden {
		t.Errorf("a token that was replaced: %d", status)
	}
}

func TestRenewTakesBothOrNeither(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	d := newDesk(t, "callers: [{ token_sha256: "+sumOf("t")+", name: ci, roles: [operator] }]")
	files := a.files(t, d.dir)
	w := overTCP(d.listen(t, "127.0.0.1:0", files), "Authorization", "Bearer t")
	d.serve(t)
	if err := os.WriteFile(files.CertFile, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Renew(nil); err == nil {
		t.Fatal("a certificate that is none was taken")
	}
	if status, text := w.withTLS(a).ask(t, calls[0], nil); status != http.StatusOK {
		t.Errorf("after a refused renewal: %d %s", status, text)
	}
	b.files(t, d.dir)
	if err := d.Renew(nil); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.withTLS(b).ask(t, calls[0], nil); status != http.StatusForbidden {
		t.Errorf("with the new certificate and no role file: %d", status)
	}
}

func TestAScannerFillsNoLog(t *testing.T) {
	d := newDesk(t, "callers: [{ token_sha256: "+sumOf("t")+", name: ci, roles: [auditor] }]")
	plain := d.listen(t, "127.0.0.1:0", TLS{})
	d.serve(t)
	for range 25 {
		overTCP(plain, "Authorization", "Bearer guess").ask(t, calls[0], nil)
	}
	overTCP(plain, "Authorization", "Bearer t").ask(t, calls[0], nil)
	if n := len(d.refused); n != maxRefusals+1 || d.refused[n-1].By != "token ci" {
		t.Errorf("%d refusals were handed on, the last %+v", n, d.refused[n-1])
	}
	var b bucket
	now := time.Now()
	for i := range 25 {
		if missed, ok := b.take(now.Add(time.Duration(i) * time.Second)); ok != (i < maxRefusals) || missed != 0 {
			t.Errorf("refusal %d: %d %v", i, missed, ok)
		}
	}
	if missed, ok := b.take(now.Add(refusalWindow)); !ok || missed != 15 {
		t.Errorf("the next minute begins with %d %v", missed, ok)
	}
	if missed, ok := b.take(now.Add(refusalWindow)); !ok || missed != 0 {
		t.Errorf("and goes on with %d %v", missed, ok)
	}
}

func TestABodyIsBoundedPerChange(t *testing.T) {
	d := newDesk(t, "")
	d.serve(t)
	for _, c := range []struct {
		call string
		size int
		want int
	}{
		{calls[0], 1 << 20, http.StatusOK},
		{calls[0], 1<<20 + 1, http.StatusRequestEntityTooLarge},
		{"POST /api/v1/large", 8 << 20, http.StatusOK},
		{"POST /api/v1/large", 8<<20 + 1, http.StatusRequestEntityTooLarge},
	} {
		if status, text := overSocket(d.socket).ask(t, c.call, bytes.NewReader(make([]byte, c.size))); status != c.want {
			t.Errorf("%s with %d bytes: %d %s", c.call, c.size, status, text)
		}
	}
}

func TestAChangeWithoutARoleIsABugOfOurs(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it was taken")
		}
	}()
	New(Options{Gatherer: prometheus.NewRegistry(), Change: map[string]Change{"POST x": {}}}).ListenSocket(filepath.Join(t.TempDir(), "s"))
}
