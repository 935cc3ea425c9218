package ship

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestACollectorIsKnownByItsAuthorityAndTheGatewayByItsCertificate(t *testing.T) {
	st := newStand(t, 1, nil)
	server := httptest.NewUnstartedServer(st.c)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()

	dir := t.TempDir()
	files := TLS{CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	cert := server.TLS.Certificates[0] // the gateway borrows the collector's
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		files.CAFile:   {Type: "CERTIFICATE", Bytes: server.Certificate().Raw},
		files.CertFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		files.KeyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		tls     TLS
		shipped bool
	}{
		"both":           {files, true},
		"no authority":   {TLS{CertFile: files.CertFile, KeyFile: files.KeyFile}, false},
		"no certificate": {TLS{CAFile: files.CAFile}, false},
	} {
		here := newStand(t, 1, func(conf *Config) { conf.URL, conf.TLS = server.URL, c.tls })
		here.run(t, 1)
		if s := here.s.Status(); (len(here.store.receipts) == 1) != c.shipped || s.Answering != c.shipped {
			t.Errorf("%s: %d receipts, %+v", name, len(here.store.receipts), s)
		}
	}
	if _, err := New("vgw-0001", Config{URL: server.URL, TLS: TLS{CAFile: files.KeyFile}}, st.key, st.store, nil); err == nil || !strings.Contains(err.Error(), "no certificate in it") {
		t.Errorf("a key as authority: %v", err)
	}
}
