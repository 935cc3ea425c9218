package mqtt

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/sluice-edge/sluice/gateway"
)

// quickHash is a line's hash with parameters that cost little.
func quickHash(plain string) string {
	salt := []byte("saltsalt")
	key := argon2.IDKey([]byte(plain), salt, 1, 8, 1, 16)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s", b64.EncodeToString(salt), b64.EncodeToString(key))
}

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAHashedPasswordVerifies(t *testing.T) {
	hash, err := HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	u, err := loadUsers(writeFile(t, "users", "# comment\n\nli:"+hash+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from memory
		if !u.verify(t.Context(), "li", []byte("correct horse")) {
			t.Error("the right password is refused")
		}
	}
	for name, plain := range map[string]string{"li": "wrong", "wang": "correct horse", "": ""} {
		if u.verify(t.Context(), name, []byte(plain)) {
			t.Errorf("%s passes", name)
		}
	}
}

func TestUsersAreVerifiedAFewAtATime(t *testing.T) {
	u, err := loadUsers(writeFile(t, "users", "li:"+quickHash("p")))
	if err != nil {
		t.Fatal(err)
	}
	for range maxVerifying {
		u.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if u.verify(ctx, "li", []byte("p")) {
		t.Error("verified beyond the limit")
	}
	for range maxVerifying {
		<-u.slots
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if !u.verify(t.Context(), "li", []byte("p")) || u.verify(t.Context(), "li", []byte("q")) {
				t.Error("wrong answer")
			}
		})
	}
	all.Wait()
}

func TestAReplacedUsersFileTakesEffectAndABadOneDoesNot(t *testing.T) {
	file := writeFile(t, "users", "li:"+quickHash("old"))
	s, err := NewSource("bench", bench(func(c *SourceConfig) { c.Anonymous, c.UsersFile = false, file }), discard)
	if err != nil {
		t.Fatal(err)
	}
	if !s.users.verify(t.Context(), "li", []byte("old")) {
		t.Error("old password refused")
	}
	if err := os.WriteFile(file, []byte("li:"+quickHash("new")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.ReloadUsers(); err != nil {
		t.Fatal(err)
	}
	if s.users.verify(t.Context(), "li", []byte("old")) || !s.users.verify(t.Context(), "li", []byte("new")) {
		t.Error("the old password passes, or the new one does not")
	}
	if err := os.WriteFile(file, []byte("li:plain"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.ReloadUsers(); err == nil {
		t.Error("a bad file loads")
	}
	if !s.users.verify(t.Context(), "li", []byte("new")) {
		t.Error("a bad file replaced the users")
	}
}

func TestBadUsersFilesAreRefusedWithTheirLine(t *testing.T) {
	good := quickHash("p")
	for name, text := range map[string]string{
		"no hash":              "li",
		"no name":              ":" + good,
		"name twice":           "li:" + good + "\nli:" + good,
		"plain password":       "li:secret",
		"another algorithm":    "li:" + strings.Replace(good, "argon2id", "argon2i", 1),
		"another version":      "li:" + strings.Replace(good, "v=19", "v=16", 1),
		"too much memory":      "li:" + strings.Replace(good, "m=8", "m=4000000", 1),
		"no time":              "li:" + strings.Replace(good, "t=1", "t=0", 1),
		"too many threads":     "li:" + strings.Replace(good, "p=1", "p=200", 1),
		"salt that is no text": "li:" + strings.Replace(good, "c2FsdHNhbHQ", "****", 1),
		"short key":            "li:" + good[:len(good)-12],
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadUsers(writeFile(t, "users", text))
			if err == nil || !strings.Contains(err.Error(), "users:") {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error quotes the password: %v", err)
			}
		})
	}
}

func TestLoginIsAskedFor(t *testing.T) {
	gate := newGate()
	file := writeFile(t, "users", "li:"+quickHash("p"))
	r := start(t, bench(func(c *SourceConfig) {
		c.Anonymous, c.UsersFile = false, file
		c.Allow = []AllowRule{{Client: "*", User: "li", Publish: []string{"v1/#"}}}
	}), gate)
	login := func(user, password string) *device {
		d := r.device(t)
		d.write(encodeConnect(connect{cleanSession: true, client: []byte("a"), hasUser: user != "", user: []byte(user),
			hasPassword: password != "", password: []byte(password)}))
		return d
	}
	d := login("li", "p")
	d.expect(connack(connAccepted))
	d.ping()
	for i, c := range [][2]string{{"", ""}, {"li", ""}, {"li", "q"}, {"wang", "p"}} {
		d := login(c[0], c[1])
		d.expect(connack(connBadLogin))
		d.expectEnd()
		gate.awaitRefused(t, gateway.RefusedLogin, i+1)
	}
}

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	next int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{next: 1}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.file = writeFile(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return a
}

// issue writes a certificate and its key.
func (a *authority) issue(t testing.TB, name string, dns ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.next++
	tpl := &x509.Certificate{SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, DNSNames: dns, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		writeFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs})))
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// secure is a TLS source that wants client certificates.
func secure(t testing.TB, a *authority, change func(c *SourceConfig)) SourceConfig {
	cert, key := a.issue(t, "gate")
	c := SourceConfig{Listen: "tls://127.0.0.1:0", Allow: []AllowRule{{Client: "*", Publish: []string{"#"}}},
		TLS: SourceTLS{CertFile: cert, KeyFile: key, ClientCAFile: a.file}}
	if change != nil {
		change(&c)
	}
	return c
}

// tlsDevice connects with TLS; the certificate may be missing.
func (r *running) tlsDevice(t testing.TB, config *tls.Config) (*device, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", r.Addr().String(), config)
	if err != nil {
		return nil, err
	}
	return newDevice(t, conn), nil
}

func clientConfig(t testing.TB, a *authority, certFile, keyFile string) *tls.Config {
	t.Helper()
	c := &tls.Config{RootCAs: a.pool()}
	if certFile != "" {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c
}

func TestACertificateNamesItsClient(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue(t, "vgw-1", "vgw-1.fleet")
	for _, c := range []struct {
		client string
		any    bool
		code   byte
	}{
		{"vgw-1", false, connAccepted},
		{"vgw-1.fleet", false, connAccepted},
		{"", false, connAccepted},
		{"vgw-2", false, connNotAuthorized},
		{"vgw-2", true, connAccepted},
	} {
		t.Run(fmt.Sprintf("%q with any_client_id %v", c.client, c.any), func(t *testing.T) {
			gate := newGate()
			r := start(t, secure(t, a, func(s *SourceConfig) { s.TLS.AnyClientID = c.any }), gate)
			d, err := r.tlsDevice(t, clientConfig(t, a, cert, key))
			if err != nil {
				t.Fatal(err)
			}
			d.write(encodeConnect(connect{cleanSession: true, client: []byte(c.client)}))
			d.expect(connack(c.code))
			if c.code != connAccepted {
				d.expectEnd()
				gate.awaitRefused(t, gateway.RefusedLogin, 1)
				return
			}
			d.write(pub(1, 1, "v1/x", "over TLS"))
			d.expect(puback(1))
		})
	}
}

func TestWithoutACertificateOfOursNobodyConnects(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	gate := newGate()
	r := start(t, secure(t, a, nil), gate)
	theirs := clientConfig(t, a, "", "")
	cert, key := other.issue(t, "vgw-1")
	strange := clientConfig(t, a, cert, key)
	old := clientConfig(t, a, cert, key)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for i, c := range []*tls.Config{theirs, strange, old} {
		d, err := r.tlsDevice(t, c)
		if err == nil { // in TLS 1.3 the client learns of it with its first read
			_, err = d.in.ReadByte()
		}
		if err == nil {
			t.Errorf("case %d connects", i)
		}
		gate.awaitRefused(t, gateway.RefusedLogin, i+1)
	}
}

func TestAReplacedCertificateServesTheNextConnection(t *testing.T) {
	a := newAuthority(t)
	var files SourceTLS
	r := start(t, secure(t, a, func(c *SourceConfig) { files = c.TLS }), newGate())
	cert, key := a.issue(t, "vgw-1")
	serial := func() string {
		d, err := r.tlsDevice(t, clientConfig(t, a, cert, key))
		if err != nil {
			t.Fatal(err)
		}
		return d.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	back := r.KeepTLS()
	freshCert, freshKey := a.issue(t, "gate")
	for from, to := range map[string]string{freshCert: files.CertFile, freshKey: files.KeyFile} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.ReloadTLS(); err != nil {
		t.Fatal(err)
	}
	after := serial()
	if before == after {
		t.Error("the old certificate is still served")
	}
	if err := os.WriteFile(files.CertFile, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.ReloadTLS(); err == nil {
		t.Error("a broken certificate loads")
	}
	if serial() != after {
		t.Error("a broken file replaced the certificate")
	}
	if left := time.Until(r.CertExpiry()); left < 30*time.Minute || left > 2*time.Hour {
		t.Errorf("certificate said to end in %v", left)
	}
	if back(); serial() != before {
		t.Error("the certificate that was kept is not served again")
	}
}

func TestAnUplinkSpeaksMutualTLS(t *testing.T) {
	a := newAuthority(t)
	gate := newGate()
	r := start(t, secure(t, a, nil), gate) // the gate serves as the broker: it acknowledges PUBLISH
	cert, key := a.issue(t, "gateway-1")
	at := func(change func(c *UplinkConfig)) *Uplink {
		return uplinkTo(t, "", func(c *UplinkConfig) {
			c.URL = "tls://" + r.Addr().String()
			c.ClientID = "gateway-1"
			c.TLS = UplinkTLS{CAFile: a.file, CertFile: cert, KeyFile: key}
			change(c)
		})
	}
	tally := newTally()
	l := open(t, at(func(*UplinkConfig) {}), tally)
	if err := l.Send(t.Context(), outbound(1)); err != nil {
		t.Fatal(err)
	}
	tally.await(t, 1)
	for name, change := range map[string]func(c *UplinkConfig){
		"another name in the certificate": func(c *UplinkConfig) { c.TLS.ServerName = "tsp.example" },
		"another authority":               func(c *UplinkConfig) { c.TLS.CAFile = newAuthority(t).file },
	} {
		if l, err := at(change).Open(t.Context(), nil); err == nil {
			_ = l.Close()
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := NewUplink("tsp", UplinkConfig{URL: "tls://localhost", TLS: UplinkTLS{CAFile: "/nonexistent"}}); err == nil {
		t.Error("a missing authority is found out only when connecting")
	}
}
