package mqtt

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

const (
	// handTimeout bounds how long the library may take a message over. Its writer never waits for the network, so only a
	// connection that was just lost makes it wait.
	handTimeout = time.Second
	// lookBehind is how long a message without an acknowledgement keeps those behind it from being reported.
	lookBehind = 500 * time.Millisecond
	// goodbye bounds the wait for a DISCONNECT, or the last answers to a device, to be written.
	goodbye = 250 * time.Millisecond
)

// errLost is the cause of a Send on a link that is broken or closed.
var errLost = errors.New("connection lost")

// Uplink publishes to one broker. It implements gateway.Uplink; several links must not be open at one time, as the broker
// would close the older one.
type Uplink struct {
	name    string
	config  UplinkConfig
	client  string
	address string
	secure  bool
	qos     byte
}

// NewUplink prepares an uplink; it does not connect. Zero fields of c take their documented defaults, and c is expected
// to have passed Check.
//
// With QoS 1 a message is acknowledged when the broker's PUBACK came. With QoS 0 it is acknowledged when it was handed to
// the connection: what the network loses then is lost, and nobody learns of it.
func NewUplink(name string, c UplinkConfig) (*Uplink, error) {
	config.Defaults(&c)
	secure, address, err := splitURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("open uplink %q: %w", name, err)
	}
	u := &Uplink{name: name, config: c, client: c.ClientID, address: address, secure: secure, qos: byte(*c.QoS)}
	if u.client == "" {
		u.client = "sluice-" + name + "-" + strings.ToLower(rand.Text()[:8])
	}
	if secure {
		if _, err := uplinkTLS(&c.TLS, hostOf(address)); err != nil {
			return nil, fmt.Errorf("open uplink %q: %w", name, err)
		}
	}
	return u, nil
}

// Open connects, within ConnectTimeout. ctx bounds the connecting only. acked must not call Close.
func (u *Uplink) Open(ctx context.Context, acked func(seq uint64)) (gateway.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, u.config.ConnectTimeout)
	defer cancel()
	raw, err := u.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("open uplink %q: %w", u.name, err)
	}
	conn := newWire(raw)
	l := &Link{uplink: u, conn: conn, acked: acked, slots: make(chan struct{}, u.config.Inflight),
		sent: make(chan sent, u.config.Inflight), closing: make(chan struct{}), done: make(chan struct{})}
	l.client = paho.NewClient(u.options(conn))
	abort := context.AfterFunc(ctx, func() { _ = conn.Close() }) // the library waits for CONNACK without a limit
	token := l.client.Connect()
	<-token.Done()
	if !abort() || token.Error() != nil {
		_ = conn.Close() // the cause is known
		return nil, fmt.Errorf("open uplink %q: %w", u.name, connectCause(ctx, token))
	}
	go l.acknowledge()
	return l, nil
}

// connectCause says why a CONNECT was not accepted.
func connectCause(ctx context.Context, token paho.Token) error {
	if ctx.Err() != nil {
		return fmt.Errorf("wait for CONNACK: %w", ctx.Err())
	}
	return token.Error()
}

func (u *Uplink) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.address)
	if err != nil || !u.secure {
		return conn, err
	}
	settings, err := uplinkTLS(&u.config.TLS, hostOf(u.address))
	if err != nil {
		_ = conn.Close() // nothing was said on it
		return nil, err
	}
	secure := tls.Client(conn, settings)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // nothing was said on it
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secure, nil
}

// options sets the library up so that a token means what it says.
func (u *Uplink) options(conn net.Conn) *paho.ClientOptions {
	o := paho.NewClientOptions().
		AddBroker("tcp://" + u.address). // only for the library's bookkeeping: the connection is made already
		SetProtocolVersion(4).
		SetClientID(u.client).
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetStore(noStore{}).
		SetOrderMatters(true).
		SetKeepAlive(u.config.KeepAlive).
		SetPingTimeout(u.config.ConnectTimeout).
		SetWriteTimeout(handTimeout).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return conn, nil })
	if u.config.Username != "" {
		o.SetUsername(u.config.Username)
		o.SetPassword(u.config.Password)
	}
	return o
}

// sent is one message on its way.
type sent struct {
	seq   uint64
	token paho.Token
}

// Link is one connection to the broker. Send may be called from one goroutine at a time; Broken and Close from any.
type Link struct {
	uplink *Uplink
	client paho.Client
	conn   *wire
	acked  func(seq uint64)

	slots   chan struct{} // one for each message on its way
	sent    chan sent     // the same, in order
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when acknowledge has ended
	once    sync.Once
	fail    error
}

// Send hands one message to the broker. It waits while the window or the write buffer is full, until ctx ends or the
// link breaks. An error that wraps gateway.ErrUnsendable comes back on every link.
func (l *Link) Send(ctx context.Context, o *gateway.Outbound) error {
	topic := l.uplink.config.TopicPrefix + o.Topic
	if len(topic) > 65535 || topic == "" || 2+len(topic)+2+len(o.Payload) > 268_435_455 {
		return fmt.Errorf("send message: %w", gateway.ErrUnsendable)
	}
	select {
	case l.slots <- struct{}{}:
	default:
		select {
		case l.slots <- struct{}{}:
		case <-l.conn.broken:
			return fmt.Errorf("send message: %w", errLost)
		case <-ctx.Done():
			return fmt.Errorf("send message: %w", ctx.Err())
		}
	}
	if err := l.conn.room(ctx); err != nil {
		<-l.slots
		return fmt.Errorf("send message: %w", err)
	}
	token := l.client.Publish(topic, l.uplink.qos, o.Retain, o.Payload)
	l.sent <- sent{seq: o.Seq, token: token} // never waits: it has as many places as slots
	return nil
}

// Broken is closed when the connection is lost.
func (l *Link) Broken() <-chan struct{} { return l.conn.broken }

// Close says goodbye if the connection still stands, closes it and returns when nothing of the link runs any more, but
// for the library's own goroutines, which end with the connection.
func (l *Link) Close() error {
	l.once.Do(func() {
		close(l.closing)
		<-l.done
		l.client.Disconnect(uint(goodbye.Milliseconds())) // also stops what the library runs for a broken connection
		_ = l.conn.Close()                                // closed by the library before, as a rule
		<-l.conn.flushed
	})
	return nil
}

// acknowledge reports messages as the broker acknowledges them: in the order of Send, in which a broker answers
// [MQTT-4.6.0-2] [unverified], and, where it leaves one out, those behind it a moment later. The first one that failed
// ends it, and the connection with it: what is left is sent again on another link.
func (l *Link) acknowledge() {
	defer close(l.done)
	look := time.NewTicker(lookBehind)
	defer look.Stop()
	var waiting []sent // taken out of l.sent, in order
	for {
		if len(waiting) == 0 {
			select {
			case m := <-l.sent:
				waiting = append(waiting, m)
			case <-l.closing:
				return
			}
		}
		select {
		case <-waiting[0].token.Done():
			if waiting[0].token.Error() != nil {
				_ = l.conn.Close() // lost already, or to be given up
				return
			}
			l.report(waiting[0])
			waiting = waiting[1:]
		case <-look.C:
			waiting = l.lookBehind(waiting)
		case <-l.closing:
			return
		}
	}
}

// lookBehind reports the messages that are acknowledged although the oldest is not, and returns those that are left.
func (l *Link) lookBehind(waiting []sent) []sent {
	for more := true; more; {
		select {
		case m := <-l.sent:
			waiting = append(waiting, m)
		default:
			more = false
		}
	}
	left := waiting[:1:1]
	for _, m := range waiting[1:] {
		select {
		case <-m.token.Done():
			if m.token.Error() == nil {
				l.report(m)
				continue
			}
		default:
		}
		left = append(left, m)
	}
	return left
}

func (l *Link) report(m sent) {
	l.acked(m.seq)
	<-l.slots
}

// noStore keeps nothing: the journal does, and nothing is ever resumed.
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}
