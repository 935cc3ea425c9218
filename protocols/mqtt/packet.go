package mqtt

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// Control packet types, in the upper half of the first byte.
const (
	typeConnect     = 1
	typeConnack     = 2
	typePublish     = 3
	typePuback      = 4
	typePubrel      = 6
	typeSubscribe   = 8
	typeSuback      = 9
	typeUnsubscribe = 10
	typeUnsuback    = 11
	typePingreq     = 12
	typePingresp    = 13
	typeDisconnect  = 14
)

// Return codes of CONNACK in 3.1.1.
const (
	connAccepted      = 0x00
	connBadVersion    = 0x01
	connBadIdentifier = 0x02
	connUnavailable   = 0x03
	connBadLogin      = 0x04
	connNotAuthorized = 0x05
)

// maxHeader is the longest fixed header: the first byte and four bytes of remaining length.
const maxHeader = 5

// ConnError ends a connection: the device broke the protocol, and what follows in the stream means nothing. [MQTT-4.8.0-1]
// Reason names the rule and never quotes what the device sent.
type ConnError struct{ Reason string }

func (e *ConnError) Error() string { return "read frame: " + e.Reason }

func broken(reason string) error { return &ConnError{Reason: reason} }

// frameHeader reads the fixed header at the start of b. header is its length, zero while b does not hold all of it;
// remaining is the length of what follows it. A length of more than four bytes is malformed, whatever the limit.
func frameHeader(b []byte) (first byte, header, remaining int, err error) {
	if len(b) == 0 {
		return 0, 0, 0, nil
	}
	for i := 1; i < maxHeader; i++ {
		if i >= len(b) {
			return b[0], 0, 0, nil
		}
		remaining |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i]&0x80 == 0 {
			return b[0], i + 1, remaining, nil
		}
	}
	return b[0], 0, 0, broken("remaining length of more than four bytes")
}

// checkFlags checks the lower half of the first byte for every type but PUBLISH. [MQTT-2.2.2-1, MQTT-2.2.2-2]
func checkFlags(first byte) error {
	want := byte(0)
	switch first >> 4 {
	case typePubrel, typeSubscribe, typeUnsubscribe: // [MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1]
		want = 0b0010
	}
	if first&0x0f != want {
		return broken("reserved flags of the fixed header set")
	}
	return nil
}

// takeUint16 cuts a big-endian number off b.
func takeUint16(b []byte) (v uint16, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint16(b), b[2:], true
}

// takeBinary cuts a length-prefixed field off b; the field points into b.
func takeBinary(b []byte) (field, rest []byte, ok bool) {
	n, rest, ok := takeUint16(b)
	if !ok || len(rest) < int(n) {
		return nil, nil, false
	}
	return rest[:n], rest[n:], true
}

// validText reports whether s is UTF-8 without U+0000 and without surrogates. [MQTT-1.5.3-1, MQTT-1.5.3-2]
func validText(s []byte) bool {
	return bytes.IndexByte(s, 0) < 0 && utf8.Valid(s)
}

// validTopicName reports whether s may be the topic of a PUBLISH: text of at least one character, without wildcards.
// [MQTT-3.3.2-1, MQTT-3.3.2-2, MQTT-4.7.3-1]
func validTopicName(s []byte) bool {
	return len(s) > 0 && bytes.IndexByte(s, '+') < 0 && bytes.IndexByte(s, '#') < 0 && validText(s)
}

// connect is what a CONNECT says. Its slices point into the frame.
type connect struct {
	level        byte // 4 is 3.1.1; anything else ends the decoding behind keepAlive
	isdp         bool // protocol name MQIsdp of 3.1
	cleanSession bool
	keepAlive    uint16 // seconds
	client       []byte
	will         bool
	willTopic    []byte
	willMessage  []byte
	willQoS      byte
	willRetain   bool
	hasUser      bool
	user         []byte
	hasPassword  bool
	password     []byte
}

// decodeConnect reads the body of a CONNECT. A level other than 4 is returned without an error and without the payload:
// the caller answers it in a form that such a client understands.
func decodeConnect(body []byte) (connect, error) {
	var c connect
	name, b, ok := takeBinary(body)
	if !ok || len(b) < 1 {
		return c, broken("CONNECT cut short")
	}
	c.level, b = b[0], b[1:]
	switch string(name) {
	case "MQTT":
	case "MQIsdp":
		c.isdp = true
	default:
		return c, broken("CONNECT with another protocol name") // [MQTT-3.1.2-1]
	}
	if c.isdp || c.level != 4 {
		return c, nil
	}
	if len(b) < 3 {
		return c, broken("CONNECT cut short")
	}
	flags := b[0]
	c.keepAlive = binary.BigEndian.Uint16(b[1:])
	if err := c.takeFlags(flags); err != nil {
		return c, err
	}
	return c, c.takePayload(b[3:])
}

// takeFlags reads the connect flags, which must agree with each other.
func (c *connect) takeFlags(flags byte) error {
	c.cleanSession = flags&0x02 != 0
	c.will = flags&0x04 != 0
	c.willQoS = flags >> 3 & 0b11
	c.willRetain = flags&0x20 != 0
	c.hasPassword = flags&0x40 != 0
	c.hasUser = flags&0x80 != 0
	switch {
	case flags&0x01 != 0: // [MQTT-3.1.2-3]
		return broken("CONNECT with its reserved flag set")
	case c.willQoS == 0b11: // [MQTT-3.1.2-14]
		return broken("CONNECT with both will QoS bits set")
	case !c.will && (c.willQoS != 0 || c.willRetain): // [MQTT-3.1.2-13, MQTT-3.1.2-15]
		return broken("CONNECT with will options and no will")
	case c.hasPassword && !c.hasUser: // [MQTT-3.1.2-22]
		return broken("CONNECT with a password and no user name")
	}
	return nil
}

// takePayload reads client id, will topic, will message, user name and password, in this order. [MQTT-3.1.3-1]
func (c *connect) takePayload(b []byte) error {
	fields := []struct {
		there bool
		text  bool
		into  *[]byte
	}{
		{true, true, &c.client},
		{c.will, true, &c.willTopic},
		{c.will, false, &c.willMessage},
		{c.hasUser, true, &c.user},
		{c.hasPassword, false, &c.password},
	}
	for _, f := range fields {
		if !f.there {
			continue
		}
		field, rest, ok := takeBinary(b)
		if !ok {
			return broken("CONNECT cut short")
		}
		if f.text && !validText(field) { // [MQTT-3.1.3-4, MQTT-3.1.3-10, MQTT-3.1.3-11]
			return broken("CONNECT with a field that is not text")
		}
		*f.into, b = field, rest
	}
	if len(b) != 0 {
		return broken("CONNECT with bytes behind its last field")
	}
	return nil
}

// publish is one PUBLISH. Its slices point into the frame.
type publish struct {
	topic   []byte
	payload []byte
	id      uint16 // zero with QoS 0
	qos     byte
	dup     bool
	retain  bool
}

// decodePublish reads a PUBLISH from its first byte and its body. QoS 2 is decoded; whether it is spoken is for the caller.
func decodePublish(first byte, body []byte) (publish, error) {
	p := publish{qos: first >> 1 & 0b11, dup: first&0x08 != 0, retain: first&0x01 != 0}
	if p.qos == 0b11 { // [MQTT-3.3.1-4]
		return p, broken("PUBLISH with both QoS bits set")
	}
	if p.qos == 0 && p.dup { // [MQTT-3.3.1-2]
		return p, broken("PUBLISH of QoS 0 marked as a repetition")
	}
	topic, b, ok := takeBinary(body)
	if !ok {
		return p, broken("PUBLISH cut short")
	}
	if !validTopicName(topic) {
		return p, broken("PUBLISH with a topic that is not a topic name")
	}
	p.topic = topic
	if p.qos > 0 {
		if p.id, b, ok = takeUint16(b); !ok {
			return p, broken("PUBLISH cut short")
		}
		if p.id == 0 { // [MQTT-2.3.1-1]
			return p, broken("PUBLISH with packet identifier 0")
		}
	}
	p.payload = b
	return p, nil
}

// decodeFilters reads the body of a SUBSCRIBE (withQoS) or UNSUBSCRIBE and returns its packet identifier and the number
// of topic filters, at least one. [MQTT-3.8.3-3, MQTT-3.10.3-2]
func decodeFilters(body []byte, withQoS bool) (id uint16, filters int, err error) {
	id, b, ok := takeUint16(body)
	if !ok || id == 0 { // [MQTT-2.3.1-1]
		return 0, 0, broken("SUBSCRIBE or UNSUBSCRIBE without packet identifier")
	}
	for len(b) > 0 {
		filter, rest, ok := takeBinary(b)
		if !ok || len(filter) == 0 || !validText(filter) { // [MQTT-3.8.3-1, MQTT-3.10.3-1]
			return id, filters, broken("SUBSCRIBE or UNSUBSCRIBE with a filter that is not text")
		}
		b = rest
		if withQoS {
			if len(b) == 0 || b[0] > 2 { // [MQTT-3-8.3-4]: the standard's own spelling
				return id, filters, broken("SUBSCRIBE with reserved bits or without QoS")
			}
			b = b[1:]
		}
		filters++
	}
	if filters == 0 {
		return id, 0, broken("SUBSCRIBE or UNSUBSCRIBE without a filter")
	}
	return id, filters, nil
}

// connackLevel5 is the answer to a client of MQTT 5, in its own form: reason 0x84, unsupported protocol version.
var connackLevel5 = []byte{typeConnack << 4, 3, 0, 0x84, 0}

// connack builds a CONNACK of 3.1.1. The gate keeps no session, so the session present flag is always zero.
// [MQTT-3.2.2-1, MQTT-3.2.2-3, MQTT-3.2.2-4]
func connack(code byte) []byte { return []byte{typeConnack << 4, 2, 0, code} }

// appendPuback appends the PUBACK of packet identifier id. [MQTT-2.3.1-6]
func appendPuback(b []byte, id uint16) []byte {
	return append(b, typePuback<<4, 2, byte(id>>8), byte(id))
}

// suback builds a SUBACK that refuses each of n filters with 0x80. [MQTT-3.8.4-1, MQTT-3.8.4-5]
func suback(id uint16, n int) []byte {
	b := appendLength([]byte{typeSuback << 4}, 2+n)
	b = append(b, byte(id>>8), byte(id))
	for range n {
		b = append(b, 0x80)
	}
	return b
}

// unsuback builds an UNSUBACK, which is due also where nothing was subscribed. [MQTT-3.10.4-4, MQTT-3.10.4-5]
func unsuback(id uint16) []byte { return []byte{typeUnsuback << 4, 2, byte(id >> 8), byte(id)} }

// pingresp is the whole PINGRESP. [MQTT-3.12.4-1]
var pingresp = []byte{typePingresp << 4, 0}

// appendLength appends a remaining length.
func appendLength(b []byte, n int) []byte {
	for n > 0x7f {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}
