package seal

import (
	"encoding/binary"
	"errors"
	"time"
)

// Hold is a whole message as a device sent it, kept back for a person to decide.
type Hold struct {
	ID       [16]byte  // incarnation and counter, both big-endian
	Received time.Time // whole milliseconds
	Protocol byte
	QoS      byte
	Retain   bool
	Source   string
	Client   string
	Topic    string
	Payload  []byte
}

const (
	holdVersion = 1
	holdFixed   = 16 + 8 + 3 // bytes in front of the strings
)

// ErrHold means that a hold has a form that this version does not know.
var ErrHold = errors.New("malformed hold")

// SealHold encrypts a message for the custodian. Only the length of the result tells anything about it.
func SealHold(custodian *PublicKey, h *Hold) ([]byte, error) {
	p := make([]byte, 0, holdFixed+4*binary.MaxVarintLen32+len(h.Source)+len(h.Client)+len(h.Topic)+len(h.Payload))
	defer func() { clear(p[:cap(p)]) }()
	p = append(p, h.ID[:]...)
	p = binary.BigEndian.AppendUint64(p, uint64(h.Received.UnixMilli()))
	retain := byte(0)
	if h.Retain {
		retain = 1
	}
	p = append(p, h.Protocol, h.QoS, retain)
	for _, s := range []string{h.Source, h.Client, h.Topic} {
		p = append(binary.AppendUvarint(p, uint64(len(s))), s...)
	}
	p = append(binary.AppendUvarint(p, uint64(len(h.Payload))), h.Payload...)

	enc, sealed, err := custodian.seal(holdInfo, []byte{holdVersion}, p)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 1+len(enc)+len(sealed))
	b = append(b, holdVersion)
	b = append(b, enc...)
	return append(b, sealed...), nil
}

// OpenHold decrypts what SealHold wrote: ErrHold for another form, ErrOpen for another key or a changed hold.
func OpenHold(custodian *PrivateKey, b []byte) (*Hold, error) {
	if len(b) < 1+encSize || b[0] != holdVersion {
		return nil, ErrHold
	}
	p, err := custodian.open(holdInfo, b[:1], b[1:1+encSize], b[1+encSize:])
	if err != nil {
		return nil, err
	}
	return parseHold(p)
}

// parseHold reads the plaintext. The payload is a part of p.
func parseHold(p []byte) (*Hold, error) {
	if len(p) < holdFixed || p[holdFixed-1] > 1 {
		return nil, ErrHold
	}
	h := &Hold{ID: [16]byte(p), Received: time.UnixMilli(int64(binary.BigEndian.Uint64(p[16:]))).UTC(),
		Protocol: p[24], QoS: p[25], Retain: p[26] == 1}
	p = p[holdFixed:]
	var parts [4][]byte
	for i := range parts {
		n, size := binary.Uvarint(p)
		if size <= 0 || size > 1 && p[size-1] == 0 || n > uint64(len(p)-size) {
			return nil, ErrHold
		}
		parts[i], p = p[size:size+int(n)], p[size+int(n):]
	}
	if len(p) != 0 {
		return nil, ErrHold
	}
	h.Source, h.Client, h.Topic, h.Payload = string(parts[0]), string(parts[1]), string(parts[2]), parts[3]
	return h, nil
}
