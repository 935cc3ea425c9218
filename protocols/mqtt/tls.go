package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"time"
)

// sourceTLS reads the gate's certificate and the devices' authorities into a new TLS configuration.
func sourceTLS(c *SourceTLS) (*tls.Config, time.Time, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("load certificate: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if c.ClientCAFile != "" {
		if config.ClientCAs, err = loadPool(c.ClientCAFile); err != nil {
			return nil, time.Time{}, err
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, cert.Leaf.NotAfter, nil
}

// uplinkTLS reads the broker's authorities and the gateway's certificate; it is called at every Open, so a replaced file
// takes effect with the next connection.
func uplinkTLS(c *UplinkTLS, host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if c.ServerName != "" {
		config.ServerName = c.ServerName
	}
	if c.CAFile != "" {
		pool, err := loadPool(c.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

func loadPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load authorities: no certificate in %q", file)
	}
	return pool, nil
}

// certifies reports whether a verified certificate names the client id: as its common name or as a DNS, mail or URI
// alternative name, compared whole.
func certifies(cert *x509.Certificate, client string) bool {
	if client == "" {
		return false
	}
	if cert.Subject.CommonName == client || slices.Contains(cert.DNSNames, client) || slices.Contains(cert.EmailAddresses, client) {
		return true
	}
	for _, u := range cert.URIs {
		if u.String() == client {
			return true
		}
	}
	return false
}
