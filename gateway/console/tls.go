package console

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TLS is the TCP listener's side of TLS. The zero value is plain TCP.
type TLS struct {
	CertFile     string `yaml:"cert_file" doc:"certificate chain of the gateway, PEM"`
	KeyFile      string `yaml:"key_file" doc:"private key of the certificate, PEM"`
	ClientCAFile string `yaml:"client_ca_file" doc:"authorities of client certificates, PEM, for callers that roles names by certificate; others need none"`
}

// load reads the files into a new TLS configuration, nil for plain TCP. A client may show no certificate: reading needs
// none. One that it shows must be good.
func (c *TLS) load() (*tls.Config, error) {
	if *c == (TLS{}) {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
		SessionTicketsDisabled: true} // a resumed session would carry a certificate that was good once
	if c.ClientCAFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(c.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("load authorities: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load authorities: no certificate in %q", c.ClientCAFile)
	}
	config.ClientAuth = tls.VerifyClientCertIfGiven
	return config, nil
}
