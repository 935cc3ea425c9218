package ship

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/sluice-edge/sluice/gateway/config"
)

// Config names a collector.
type Config struct {
	URL        string        `yaml:"url" required:"true" doc:"folder at the collector: https://HOST/PATH"`
	ReceiptKey string        `yaml:"receipt_key" required:"true" doc:"public key file of the collector, which signs its receipts; relative paths start at key_dir"`
	Token      string        `yaml:"token" secret:"true" doc:"bearer token for the collector; use ${file:…}"`
	TLS        TLS           `yaml:"tls" doc:"authority of the collector and certificate of the gateway, for https://"`
	Every      time.Duration `yaml:"every" default:"1m" min:"1s" max:"24h" doc:"how often to look for archives that the collector does not have"`
	Timeout    time.Duration `yaml:"timeout" default:"10m" min:"1s" max:"24h" doc:"time for one archive to be sent and answered for"`
	Insecure   bool          `yaml:"insecure" doc:"allow http:// beyond loopback: archives are sealed, the token is not"`
}

// TLS is the gateway's side of TLS to a collector.
type TLS struct {
	CAFile   string `yaml:"ca_file" doc:"authorities of the collector's certificate, PEM; empty: the system's"`
	CertFile string `yaml:"cert_file" doc:"certificate chain of the gateway, PEM"`
	KeyFile  string `yaml:"key_file" doc:"private key of the certificate, PEM"`
}

// Check reports what is wrong with the configuration beyond the shape of its keys. path is the prefix of its keys.
func (c *Config) Check(r *config.Report, path string) {
	if c.URL == "" {
		return // reported as missing
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		r.Error(path+".url", "found no http address", "url: https://collector.example/archive")
		return
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		r.Error(path+".url", "address has a user, a query or a fragment", "log in with token or tls.cert_file")
	}
	if u.Scheme == "http" {
		if !loopback(u.Hostname()) && !c.Insecure {
			r.Error(path+".url", "plain HTTP beyond loopback: the token could be read on the way", "use https://, or set insecure: true")
		}
		if c.TLS != (TLS{}) {
			r.Error(path+".tls", "tls settings for plain HTTP", "write url: https://… or remove tls")
		}
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		r.Error(path+".tls", "cert_file and key_file go together", "set both, or none")
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// clientTLS reads the files that a configuration names.
func clientTLS(c *TLS) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read authorities %q: %w", c.CAFile, errors.New("no certificate in it"))
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("load certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}
