package mqtt

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// SourceConfig is a listener for devices.
type SourceConfig struct {
	Listen         string        `yaml:"listen" required:"true" doc:"address devices connect to: tcp://HOST:PORT or tls://HOST:PORT"`
	TLS            SourceTLS     `yaml:"tls" doc:"certificate of the gate and authority of the devices, for tls://"`
	Anonymous      bool          `yaml:"anonymous" doc:"let clients in that show neither a certificate nor a password"`
	Insecure       bool          `yaml:"insecure" doc:"allow plain TCP or anonymous clients beyond loopback; shown by /readyz and every record"`
	UsersFile      string        `yaml:"users_file" doc:"file of lines NAME:HASH with argon2id hashes; clients must then log in"`
	Allow          []AllowRule   `yaml:"allow" doc:"who may publish what; what no rule allows is refused"`
	MaxPacket      config.Size   `yaml:"max_packet" default:"256KiB" min:"1KiB" max:"64MiB" doc:"largest MQTT packet taken in"`
	MaxConnections int           `yaml:"max_connections" default:"1024" min:"1" max:"65536" doc:"connections at the same time"`
	Window         int           `yaml:"window" default:"1024" min:"1" max:"16384" doc:"messages of one connection in hand before its reading stops"`
	KeepAliveMax   time.Duration `yaml:"keep_alive_max" default:"0s" min:"0s" max:"18h" doc:"longest keep-alive granted, also to clients that ask for none; 0s: as the client asks"`
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"10s" min:"100ms" max:"5m" doc:"time from connecting to a complete CONNECT"`
	FrameTimeout   time.Duration `yaml:"frame_timeout" default:"30s" min:"100ms" max:"10m" doc:"time for one packet to arrive whole, and for a client to take an answer"`
	DrainTimeout   time.Duration `yaml:"drain_timeout" default:"10s" min:"0s" max:"5m" doc:"time a closing connection waits for what is in hand, to acknowledge it; 900 ms at the most when the gateway stops"`
}

// SourceTLS is the gate's side of TLS.
type SourceTLS struct {
	CertFile     string `yaml:"cert_file" doc:"certificate chain of the gate, PEM"`
	KeyFile      string `yaml:"key_file" doc:"private key of the certificate, PEM"`
	ClientCAFile string `yaml:"client_ca_file" doc:"authorities of client certificates, PEM; clients must then show one"`
	AnyClientID  bool   `yaml:"any_client_id" doc:"let a certificate be used with a client id that is neither its common name nor one of its alternative names"`
}

// AllowRule lets clients publish. The rules add up.
type AllowRule struct {
	Client  string   `yaml:"client" required:"true" doc:"client id; * stands for any run of characters"`
	User    string   `yaml:"user" doc:"user name from users_file; * stands for any run of characters; empty: any"`
	Publish []string `yaml:"publish" required:"true" doc:"topic filters with + and #"`
}

// UplinkConfig is a connection to a broker in the cloud. A nil QoS is 1.
type UplinkConfig struct {
	URL            string        `yaml:"url" required:"true" doc:"broker: tcp://HOST:PORT or tls://HOST:PORT"`
	QoS            *int          `yaml:"qos" default:"1" min:"0" max:"1" doc:"1: forwarded means that the broker acknowledged; 0: only that it was written to the connection"`
	Inflight       int           `yaml:"inflight" default:"256" min:"1" max:"16384" doc:"messages sent and not yet on the record as delivered: after a break at most as many arrive twice"`
	TopicPrefix    string        `yaml:"topic_prefix" doc:"put in front of every topic, separator included"`
	ClientID       string        `yaml:"client_id" doc:"client id; empty: sluice, the uplink's name and a random part, new at every start"`
	Username       string        `yaml:"username" doc:"user name at the broker"`
	Password       string        `yaml:"password" secret:"true" doc:"password at the broker; use ${file:…}"`
	TLS            UplinkTLS     `yaml:"tls" doc:"authority of the broker and certificate of the gateway, for tls://"`
	KeepAlive      time.Duration `yaml:"keep_alive" default:"30s" min:"1s" max:"18h" doc:"interval of PINGREQ on an idle connection"`
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"10s" min:"100ms" max:"5m" doc:"time for dialling, TLS and CONNACK together"`
	AckTimeout     time.Duration `yaml:"ack_timeout" default:"30s" min:"1s" max:"1h" doc:"how long the broker may leave a message without an acknowledgement before the connection is given up"`
}

// UplinkTLS is the gateway's side of TLS to a broker.
type UplinkTLS struct {
	CAFile     string `yaml:"ca_file" doc:"authorities of the broker's certificate, PEM; empty: the system's"`
	CertFile   string `yaml:"cert_file" doc:"certificate chain of the gateway, PEM"`
	KeyFile    string `yaml:"key_file" doc:"private key of the certificate, PEM"`
	ServerName string `yaml:"server_name" doc:"name expected in the broker's certificate; empty: the host of url"`
}

// Check reports what is wrong with the source beyond the shape of its keys. path is the prefix of its keys.
func (c *SourceConfig) Check(r *config.Report, path string) {
	at := func(key string) string { return join(path, key) }
	if c.Listen == "" {
		return // reported as missing
	}
	scheme, host, err := splitListen(c.Listen)
	if err != nil {
		r.Error(at("listen"), err.Error(), `write tcp://127.0.0.1:1883 or tls://0.0.0.0:8883`)
		return
	}
	if scheme == "tls" {
		c.checkTLS(r, at)
	} else if c.TLS != (SourceTLS{}) {
		r.Error(at("tls"), "tls settings on a plain TCP listener", "write listen: tls://… or remove tls")
	}
	if scheme == "tcp" && !loopback(host) && !c.Insecure {
		r.Error(at("listen"), "plain TCP beyond loopback: passwords and data could be read on the way",
			"use tls://, listen on 127.0.0.1, or set insecure: true")
	}
	c.checkLogin(r, at, host)
	c.checkAllow(r, at)
}

func (c *SourceConfig) checkTLS(r *config.Report, at func(string) string) {
	if c.TLS.CertFile == "" {
		r.Error(at("tls.cert_file"), "tls:// without a certificate", "set cert_file and key_file")
	}
	if c.TLS.KeyFile == "" {
		r.Error(at("tls.key_file"), "tls:// without a private key", "set cert_file and key_file")
	}
	if c.TLS.AnyClientID && c.TLS.ClientCAFile == "" {
		r.Error(at("tls.any_client_id"), "any_client_id without client certificates", "set client_ca_file or remove any_client_id")
	}
}

func (c *SourceConfig) checkLogin(r *config.Report, at func(string) string, host string) {
	login := c.UsersFile != "" || c.TLS.ClientCAFile != ""
	switch {
	case c.Anonymous && login:
		r.Error(at("anonymous"), "anonymous beside users_file or client_ca_file: nobody would have to log in", "remove one of them")
	case c.Anonymous && !loopback(host) && !c.Insecure:
		r.Error(at("anonymous"), "anonymous clients beyond loopback", "set users_file or tls.client_ca_file, listen on 127.0.0.1, or set insecure: true")
	case !c.Anonymous && !login:
		r.Error(at("listen"), "nobody can log in", "set users_file, tls.client_ca_file, or on loopback anonymous: true")
	}
}

func (c *SourceConfig) checkAllow(r *config.Report, at func(string) string) {
	if len(c.Allow) == 0 {
		r.Error(at("allow"), "no client may publish anything", `add allow: [{ client: "*", publish: ["v1/#"] }]`)
	}
	for i, rule := range c.Allow {
		key := fmt.Sprintf("%s[%d]", at("allow"), i)
		if rule.User != "" && c.UsersFile == "" {
			r.Error(key+".user", "user names are not verified without users_file", "set users_file or remove user")
		}
		for j, filter := range rule.Publish {
			pub := fmt.Sprintf("%s.publish[%d]", key, j)
			switch {
			case !gateway.ValidTopicFilter(filter):
				r.Error(pub, "not a topic filter", "+ stands for a whole level, # only at the end: v1/+/gnss/#")
			case reservedTopic(filter):
				r.Error(pub, "reserved topics cannot be published by devices", "remove levels $sluice and topics that begin with $")
			}
		}
	}
}

// Exposed reports that the source takes plain TCP or anonymous clients beyond loopback, as insecure: true allows.
func (c *SourceConfig) Exposed() bool {
	scheme, host, err := splitListen(c.Listen)
	return err == nil && !loopback(host) && (scheme == "tcp" || c.Anonymous)
}

// Check reports what is wrong with the uplink beyond the shape of its keys. path is the prefix of its keys.
func (c *UplinkConfig) Check(r *config.Report, path string) {
	at := func(key string) string { return join(path, key) }
	if c.URL != "" {
		secure, address, err := splitURL(c.URL)
		switch {
		case err != nil:
			r.Error(at("url"), err.Error(), "write tls://broker.example:8883")
		case !secure && c.TLS != (UplinkTLS{}):
			r.Error(at("tls"), "tls settings on a plain TCP connection", "write url: tls://… or remove tls")
		case !secure && !loopback(hostOf(address)):
			r.Warn(at("url"), "plain TCP beyond loopback: what leaves can be read and changed on the way", "use tls://")
		}
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		r.Error(at("tls"), "a certificate needs its private key", "set cert_file and key_file, or neither")
	}
	if c.Password != "" && c.Username == "" { // [MQTT-3.1.2-22]
		r.Error(at("password"), "a password without a user name", "set username")
	}
	if strings.ContainsAny(c.TopicPrefix, "+#\x00") || strings.HasPrefix(c.TopicPrefix, "$") {
		r.Error(at("topic_prefix"), "not the beginning of a topic name", "use text without +, # and a leading $, like fleet-7/")
	}
	if len(c.TopicPrefix) > maxPrefix {
		r.Error(at("topic_prefix"), fmt.Sprintf("longer than %d bytes", maxPrefix), "shorten it")
	}
}

// maxPrefix leaves most of the 65,535 bytes of a topic to the device.
const maxPrefix = 1024

// join puts a key behind the path of its section.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// splitListen reads tcp://HOST:PORT or tls://HOST:PORT; an empty host is every address.
func splitListen(listen string) (scheme, host string, err error) {
	scheme, address, ok := strings.Cut(listen, "://")
	if !ok || scheme != "tcp" && scheme != "tls" {
		return "", "", fmt.Errorf("listen address without tcp:// or tls://")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "", "", fmt.Errorf("listen address without a port")
	}
	return scheme, host, nil
}

// splitURL reads the address of a broker; the port may be left out.
func splitURL(broker string) (secure bool, address string, err error) {
	u, err := url.Parse(broker)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return false, "", fmt.Errorf("broker address is not SCHEME://HOST:PORT")
	}
	port := u.Port()
	switch u.Scheme {
	case "tcp", "mqtt":
		if port == "" {
			port = "1883"
		}
	case "tls", "mqtts", "ssl":
		secure = true
		if port == "" {
			port = "8883"
		}
	default:
		return false, "", fmt.Errorf("broker address with another scheme than tcp or tls")
	}
	return secure, net.JoinHostPort(u.Hostname(), port), nil
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return host
}

// loopback reports whether nobody but this machine reaches the host. Names other than localhost are not looked up.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
