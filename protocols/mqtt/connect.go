package mqtt

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// open reads the CONNECT, which must be the first packet and complete within ConnectTimeout, decides about it and answers.
// [MQTT-3.1.0-1]
func (s *session) open(b *batch) error {
	deadline := time.Now().Add(s.src.config.ConnectTimeout)
	_ = s.conn.SetDeadline(deadline) // a closed connection shows in the next read
	ctx, cancel := context.WithDeadline(s.admit, deadline)
	defer cancel()
	if t, ok := s.conn.(*tls.Conn); ok {
		if err := t.HandshakeContext(ctx); errors.Is(err, io.EOF) {
			return errGone // nobody tried anything: a probe
		} else if err != nil {
			return &refused{gateway.RefusedLogin, "TLS handshake: " + tlsCause(err)}
		}
	}
	for {
		first, frame, need, err := nextFrame(b, min(maxConnect, int(s.src.config.MaxPacket)))
		if err != nil {
			return err
		}
		if len(b.buf) > 0 && first>>4 != typeConnect {
			return broken("first packet is not CONNECT")
		}
		if need == 0 {
			return s.connect(ctx, first, frame)
		}
		if err := s.fill(b, need, deadline); err != nil {
			return err
		}
	}
}

// connect decides about a CONNECT. What it refuses was answered in the way that this client understands. [MQTT-3.1.4-5]
func (s *session) connect(ctx context.Context, first byte, body []byte) error {
	if err := checkFlags(first); err != nil {
		return err
	}
	c, err := decodeConnect(body)
	if err != nil {
		return err
	}
	if c.isdp || c.level != 4 { // [MQTT-3.1.2-2]
		answer := connack(connBadVersion)
		if c.level == 5 && !c.isdp {
			answer = connackLevel5
		}
		return s.refuse(answer, gateway.RefusedUnsupported, "protocol version not spoken")
	}
	if s.id, err = s.identify(&c); err != nil {
		return err
	}
	if u := s.src.users; u != nil && !(c.hasUser && c.hasPassword && u.verify(ctx, string(c.user), c.password)) {
		return s.refuse(connack(connBadLogin), gateway.RefusedLogin, "user name or password wrong")
	}
	if s.filters = permits(s.src.config.Allow, s.id, string(c.user)); len(s.filters) == 0 {
		s.src.hints.client(s.id)
		return s.refuse(connack(connNotAuthorized), gateway.RefusedNotPermitted, "client not permitted")
	}
	if c.will {
		s.src.hints.once("will ignored: the gate never publishes one")
	}
	s.keepAlive = s.grant(c.keepAlive)
	if !s.src.enter(ctx, s) {
		return s.refuse(connack(connUnavailable), gateway.RefusedFull, "the client's former connection does not end")
	}
	_ = s.conn.SetDeadline(time.Time{}) // from here on each read and write has its own
	if s.admit.Err() != nil {
		return s.admit.Err()
	}
	return s.send(connack(connAccepted))
}

// identify returns the client's id, as it says and as its certificate allows.
func (s *session) identify(c *connect) (id string, err error) {
	id = string(c.client)
	if len(id) > maxClientID {
		return "", s.refuse(connack(connBadIdentifier), gateway.RefusedNotPermitted, "client id too long")
	}
	if id == "" && !c.cleanSession { // [MQTT-3.1.3-8]
		return "", s.refuse(connack(connBadIdentifier), gateway.RefusedMalformed, "no client id and no clean session")
	}
	t, ok := s.conn.(*tls.Conn)
	if ok && len(t.ConnectionState().PeerCertificates) > 0 {
		leaf := t.ConnectionState().PeerCertificates[0]
		if id == "" {
			id = leaf.Subject.CommonName
		}
		if !s.src.config.TLS.AnyClientID && !certifies(leaf, id) {
			return "", s.refuse(connack(connNotAuthorized), gateway.RefusedLogin, "client id is not in the certificate")
		}
	}
	if id == "" { // [MQTT-3.1.3-6]
		id = "auto-" + rand.Text()
	}
	return id, nil
}

// grant returns one and a half times the keep-alive that is in force. [MQTT-3.1.2-24]
func (s *session) grant(seconds uint16) time.Duration {
	k := time.Duration(seconds) * time.Second
	if most := s.src.config.KeepAliveMax; most > 0 && (k == 0 || k > most) {
		k = most
	}
	return k + k/2
}

// refuse answers a CONNECT with a refusal; the connection then ends. [MQTT-3.2.2-5]
func (s *session) refuse(answer []byte, reason gateway.Refusal, text string) error {
	_ = s.send(answer) // the connection ends either way
	return &refused{reason, text}
}

// tlsCause names the cause of a failed handshake without quoting what the peer sent.
func tlsCause(err error) string {
	var alert tls.AlertError
	switch {
	case errors.As(err, &alert):
		return "peer sent an alert"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "too slow"
	}
	return "not accepted"
}
