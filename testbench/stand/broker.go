package stand

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Broker is a mosquitto of its own.
type Broker struct {
	*Child
	Addr string
}

// BrokerOptions says what the broker does beyond listening.
type BrokerOptions struct {
	BridgeTo string // address host:port to which everything that is published goes on, with QoS 1
	Persist  bool   // keep sessions and queues on disk, saved every ten seconds
	Autosave bool   // save them on every change, and every second
	Inflight int    // messages on the way to one client or bridge without an acknowledgement; 0: any number
	Addr     string // address to listen on; empty: a free one
}

// StartBroker starts mosquitto in dir/name on a free port, for anonymous clients on loopback, without limits on queues.
func StartBroker(ctx context.Context, dir, name string, o BrokerOptions) (*Broker, error) {
	program, err := Mosquitto()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b := &Broker{Addr: o.Addr}
	if b.Addr == "" {
		if b.Addr, err = FreeAddress(); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(brokerConfig(dir, b.Addr, o)), 0o600); err != nil {
		return nil, err
	}
	if b.Child, err = Spawn(dir, name, program, "-c", file); err != nil {
		return nil, err
	}
	if err := b.Ready(ctx, b.Addr); err != nil {
		b.Kill()
		return nil, err
	}
	return b, nil
}

// brokerConfig writes mosquitto's configuration. Started by root it would change to another user who cannot write to
// dir, hence user.
func brokerConfig(dir, addr string, o BrokerOptions) string {
	var b strings.Builder
	host, port, _ := net.SplitHostPort(addr)
	fmt.Fprintf(&b, "user root\nlistener %s %s\nallow_anonymous true\nmax_inflight_messages %d\nmax_queued_messages 0\nset_tcp_nodelay true\n", port, host, o.Inflight)
	switch {
	case o.Autosave:
		fmt.Fprintf(&b, "persistence true\npersistence_location %s/\nautosave_interval 1\nautosave_on_changes true\n", dir)
	case o.Persist:
		fmt.Fprintf(&b, "persistence true\npersistence_location %s/\nautosave_interval 10\n", dir)
	}
	if o.BridgeTo != "" {
		fmt.Fprintf(&b, "connection onward\naddress %s\ntopic # out 1\nremote_clientid device-broker\nbridge_protocol_version mqttv311\n"+
			"try_private false\nnotifications false\ncleansession false\nrestart_timeout 1\n", o.BridgeTo)
	}
	return b.String()
}

// Mosquitto finds the program, also where distributions keep daemons.
func Mosquitto() (string, error) {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find mosquitto: not installed (apt-get install mosquitto mosquitto-clients)")
}
