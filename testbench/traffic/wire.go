package traffic

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Packet types of MQTT 3.1.1 that the load speaks. [MQTT-2.2.1]
const (
	connect    = 1 << 4
	connack    = 2 << 4
	publish    = 3 << 4
	puback     = 4 << 4
	subscribe  = 8<<4 | 2
	suback     = 9 << 4
	disconnect = 14 << 4
)

const (
	dialTimeout = 5 * time.Second
	keepAlive   = 600 // seconds; no connection of a run is silent for that long
)

// link is one MQTT 3.1.1 connection in raw packets. One goroutine may read while another writes.
type link struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte // body of the last packet read
}

// dial connects and logs in; keep says to keep the session. [MQTT-3.1]
func dial(addr, client string, keep bool) (*link, error) {
	conn, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}
	flags := byte(2) // clean session
	if keep {
		flags = 0
	}
	body := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, flags, keepAlive >> 8, keepAlive & 0xFF}, text(client)...)
	if err := l.exchange(connect, body, connack); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect %q: %w", addr, err)
	}
	if len(l.buf) != 2 || l.buf[1] != 0 {
		conn.Close()
		return nil, fmt.Errorf("connect %q: refused", addr)
	}
	return l, nil
}

// exchange writes one packet and reads the answer, within the dial timeout.
func (l *link) exchange(kind byte, body []byte, want byte) error {
	if err := l.conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	if _, err := l.conn.Write(packet(kind, body)); err != nil {
		return err
	}
	got, err := l.read()
	if err != nil {
		return err
	}
	if got&0xF0 != want {
		return fmt.Errorf("unexpected packet type %d", got>>4)
	}
	return l.conn.SetDeadline(time.Time{})
}

var errPacket = errors.New("malformed packet")

// read reads one packet into l.buf and returns its first byte.
func (l *link) read() (byte, error) {
	first, err := l.r.ReadByte()
	if err != nil {
		return 0, err
	}
	size := 0
	for shift := 0; ; shift += 7 {
		c, err := l.r.ReadByte()
		if err != nil {
			return 0, err
		}
		size |= int(c&0x7F) << shift
		if c&0x80 == 0 {
			break
		}
		if shift == 21 { // [MQTT-2.2.3]
			return 0, errPacket
		}
	}
	if cap(l.buf) < size {
		l.buf = make([]byte, size)
	}
	l.buf = l.buf[:size]
	_, err = io.ReadFull(l.r, l.buf)
	return first, err
}

// packet returns one whole packet.
func packet(kind byte, body []byte) []byte {
	b := []byte{kind}
	for n := len(body); ; {
		c := byte(n & 0x7F)
		if n >>= 7; n == 0 {
			b = append(b, c)
			break
		}
		b = append(b, c|0x80)
	}
	return append(b, body...)
}

// text returns a length-prefixed string. [MQTT-1.5.3]
func text(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

// publication splits the body of a PUBLISH packet. The slices belong to body.
func publication(first byte, body []byte) (topic, payload []byte, id uint16, err error) {
	if len(body) < 2 {
		return nil, nil, 0, errPacket
	}
	n := 2 + int(binary.BigEndian.Uint16(body))
	if len(body) < n {
		return nil, nil, 0, errPacket
	}
	topic, payload = body[2:n], body[n:]
	if first>>1&3 != 0 {
		if len(payload) < 2 {
			return nil, nil, 0, errPacket
		}
		id, payload = binary.BigEndian.Uint16(payload), payload[2:]
	}
	return topic, payload, id, nil
}

// Probe connects once, with the client identifier "probe", and returns nil when addr speaks MQTT and lets clients in.
func Probe(addr string) error {
	l, err := dial(addr, "probe", false)
	if err != nil {
		return err
	}
	_, err = l.conn.Write([]byte{disconnect, 0})
	l.conn.Close()
	return err
}
