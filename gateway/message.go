package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// ID names one message for ever: 64 bits of incarnation, drawn at random when a journal is opened for writing, and a
// 64-bit counter. It is given before the decision, so gaps are normal. Copies of a delivery carry the same ID.
type ID struct {
	Incarnation uint64
	Counter     uint64
}

// String returns the 32 hexadecimal digits of the ID, incarnation first.
func (id ID) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], id.Incarnation)
	binary.BigEndian.PutUint64(b[8:], id.Counter)
	return hex.EncodeToString(b[:])
}

// ParseID reads the form that String writes.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 {
		return ID{}, fmt.Errorf("message id: want 32 hexadecimal digits")
	}
	return ID{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}, nil
}

// Protocol is the language a device spoke. The numbers are those of the plugin ABI.
type Protocol uint8

// The protocols of the plugin ABI.
const (
	UnknownProtocol Protocol = iota
	MQTT
	OPCUA
	GBT32960
	JTT808
)

// Message is one message as a device handed it over.
// The gateway owns Topic, Client and Payload from Admit until the ticket is done; the source may then reuse them.
type Message struct {
	ID       ID        // zero until Admit gives one
	Source   string    // name of the source in the configuration
	Protocol Protocol  //
	Client   string    // the device's own name for itself: data, like everything a device sends
	Topic    string    // topic, node id or frame name
	Payload  []byte    //
	Received time.Time // when the last byte was read
	QoS      byte      // 0: nobody waits for an acknowledgement
	Retain   bool      // passed on to the uplink
}
