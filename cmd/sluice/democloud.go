package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// demoCloud is the broker that plays the cloud in the demo: it can be switched off and on again at the same address.
type demoCloud struct {
	address string
	saw     func(topic string, payload []byte) // called for every PUBLISH that arrives, from the broker's goroutines
	server  *mochi.Server
}

// newDemoCloud picks a free port on loopback.
func newDemoCloud(saw func(string, []byte)) (*demoCloud, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a port for the cloud: %w", err)
	}
	defer l.Close()
	return &demoCloud{address: l.Addr().String(), saw: saw}, nil
}

// start switches the broker on.
func (c *demoCloud) start() error {
	c.server = mochi.New(&mochi.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := c.server.AddHook(&demoHook{saw: c.saw}, nil); err != nil {
		return fmt.Errorf("start the cloud: %w", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := c.server.AddListener(listeners.NewTCP(listeners.Config{ID: "cloud", Address: c.address}))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start the cloud: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return c.server.Serve()
}

// stop switches the broker off: every connection breaks.
func (c *demoCloud) stop() {
	if c.server != nil {
		closeBroker(c.server)
		c.server = nil
	}
}

// closeBroker ends a broker. Its own Close looks for the clients of a listener under a lock that it takes twice, and hangs where a
// client leaves in between; the listeners are closed here first, so that it finds none to ask about.
func closeBroker(s *mochi.Server) {
	s.Listeners.CloseAll(func(string) {
		for _, cl := range s.Clients.GetAll() {
			_ = s.DisconnectClient(cl, packets.ErrServerShuttingDown)
		}
	})
	_ = s.Close()
}

// demoHook lets everybody in and shows what arrives.
type demoHook struct {
	mochi.HookBase
	saw func(topic string, payload []byte)
}

// ID implements mochi.Hook.
func (h *demoHook) ID() string { return "demo" }

// Provides implements mochi.Hook.
func (h *demoHook) Provides(b byte) bool {
	return bytes.IndexByte([]byte{mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPublish}, b) >= 0
}

// OnConnect implements mochi.Hook. Version 5 is refused: a malformed packet of it ends this broker's process.
func (h *demoHook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	if pk.ProtocolVersion == 5 {
		return packets.ErrUnsupportedProtocolVersion
	}
	return nil
}

// OnConnectAuthenticate implements mochi.Hook.
func (h *demoHook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

// OnACLCheck implements mochi.Hook.
func (h *demoHook) OnACLCheck(*mochi.Client, string, bool) bool { return true }

// OnPublish implements mochi.Hook.
func (h *demoHook) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	h.saw(pk.TopicName, pk.Payload)
	return pk, nil
}
