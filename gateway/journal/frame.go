package journal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/sluice-edge/sluice/gateway"
)

// Key is one at-rest key. Its id stands in every frame, so that old frames stay readable after a rotation.
type Key struct {
	ID     uint32
	Secret [32]byte
}

// Sizes of a body value, see the package doc.
const (
	headerSize   = 20 // sets, source, grade, flags, checksum
	frameHead    = 21 // version, key id, incarnation, counter
	plainHead    = 34 // topic length, salt, id
	tagSize      = 16
	bodyOverhead = headerSize + frameHead + plainHead + tagSize
	maxTopic     = 1<<16 - 1
	frameVersion = 1
)

// Flags of a body header. The QoS stands in the two bits from qosShift on, the priority in two from priorityShift on.
const (
	flagHold = 1 << iota
	flagControl
	flagRetain
	qosShift      = 3
	priorityShift = 5
	knownFlag     = flagHold | flagControl | flagRetain | 3<<qosShift | 3<<priorityShift
)

// errFrame is returned for bytes that are no body value of ours: altered, cut or sealed under an unknown key.
var errFrame = errors.New("body cannot be opened")

// castagnoli makes the checksum that lets a reader pass a body by without opening it: a flipped bit in the sets would
// otherwise hide the body from its uplink. [RFC 3720 §12.1]
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the readable part of a body value. It is bound to the sealed part as additional data.
type header struct {
	own    gateway.UplinkSet // where this form waits or is held
	waits  gateway.UplinkSet // over all forms of the message
	holds  gateway.UplinkSet
	source uint16
	grade  gateway.Grade
	flags  byte
}

func (h *header) hold() bool    { return h.flags&flagHold != 0 }
func (h *header) control() bool { return h.flags&flagControl != 0 }
func (h *header) retain() bool  { return h.flags&flagRetain != 0 }
func (h *header) qos() byte     { return h.flags >> qosShift & 3 }
func (h *header) priority() int { return int(h.flags >> priorityShift & 3) }

// lane is the order in which the body waits.
func (h *header) lane() int {
	if h.control() {
		return controlLane
	}
	return h.priority()
}

func (h *header) put(b []byte) {
	binary.BigEndian.PutUint32(b, uint32(h.own))
	binary.BigEndian.PutUint32(b[4:], uint32(h.waits))
	binary.BigEndian.PutUint32(b[8:], uint32(h.holds))
	binary.BigEndian.PutUint16(b[12:], h.source)
	b[14], b[15] = byte(h.grade), h.flags
	binary.BigEndian.PutUint32(b[16:], crc32.Checksum(b[:16], castagnoli))
}

func parseHeader(b []byte) (h header, ok bool) {
	if len(b) < bodyOverhead || binary.BigEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return h, false
	}
	h.own = gateway.UplinkSet(binary.BigEndian.Uint32(b))
	h.waits = gateway.UplinkSet(binary.BigEndian.Uint32(b[4:]))
	h.holds = gateway.UplinkSet(binary.BigEndian.Uint32(b[8:]))
	h.source = binary.BigEndian.Uint16(b[12:])
	h.grade, h.flags = gateway.Grade(b[14]), b[15]
	return h, h.flags&^knownFlag == 0 && h.qos() < 3 && h.grade <= gateway.Core
}

// bodySize is the size of a body value in the segment.
func bodySize(topic string, payload []byte) int { return bodyOverhead + len(topic) + len(payload) }

// keyring derives the frame keys. It is safe for concurrent use.
type keyring struct {
	keys    map[uint32]*Key
	current *Key

	mu    sync.RWMutex // guards aeads
	aeads map[aeadID]cipher.AEAD
}

type aeadID struct {
	key         uint32
	incarnation uint64
}

// maxAEADs bounds the derived keys kept; an incarnation is one start of the gateway.
const maxAEADs = 1024

func newKeyring(keys []Key) (*keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("journal needs an at-rest key")
	}
	r := &keyring{keys: make(map[uint32]*Key), aeads: make(map[aeadID]cipher.AEAD)}
	for i := range keys {
		k := keys[i]
		if _, twice := r.keys[k.ID]; twice {
			return nil, fmt.Errorf("at-rest key %d is given twice", k.ID)
		}
		if k.Secret == ([32]byte{}) {
			return nil, fmt.Errorf("at-rest key %d is empty", k.ID)
		}
		r.keys[k.ID] = &k
		if i == 0 {
			r.current = &k
		}
	}
	return r, nil
}

// frameKey returns the cipher of one incarnation's frames under one at-rest key, nil when that key is not known.
func (r *keyring) frameKey(id uint32, incarnation uint64) cipher.AEAD {
	at := aeadID{id, incarnation}
	r.mu.RLock()
	a := r.aeads[at]
	r.mu.RUnlock()
	if a != nil || r.keys[id] == nil {
		return a
	}
	var salt [8]byte
	binary.BigEndian.PutUint64(salt[:], incarnation)
	a = r.derive(r.keys[id], salt[:], "sluice journal v1")
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.aeads) >= maxAEADs {
		clear(r.aeads)
	}
	r.aeads[at] = a
	return a
}

// derive makes an AES-256-GCM cipher from an at-rest key. [RFC 5869]
func (r *keyring) derive(k *Key, salt []byte, info string) cipher.AEAD {
	a, err := cipher.NewGCM(r.deriveBlock(k, salt, info))
	if err != nil {
		panic("journal: derive key: " + err.Error())
	}
	return a
}

// deriveBlock makes an AES-256 cipher from an at-rest key. [RFC 5869]
func (r *keyring) deriveBlock(k *Key, salt []byte, info string) cipher.Block {
	sub, err := hkdf.Key(sha256.New, k.Secret[:], salt, info, 32)
	if err != nil {
		panic("journal: derive key: " + err.Error())
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		panic("journal: derive key: " + err.Error())
	}
	return block
}

// nonce is counter ‖ variant: a counter is drawn once, so no nonce of an incarnation's key is used twice.
func nonce(counter uint64, variant byte) (n [12]byte) {
	binary.BigEndian.PutUint64(n[:], counter)
	n[11] = variant
	return n
}

// sealer writes the body values of one incarnation.
type sealer struct {
	aead        cipher.AEAD
	key         uint32
	incarnation uint64
}

// seal writes the body value of one outlet into b, which has exactly its size. counter is fresh; variant tells the
// outlets of one entry apart.
func (s *sealer) seal(b []byte, h *header, counter uint64, variant byte, id gateway.ID, salt *[16]byte, topic string, payload []byte) {
	h.put(b)
	f := b[headerSize:]
	f[0] = frameVersion
	binary.BigEndian.PutUint32(f[1:], s.key)
	binary.BigEndian.PutUint64(f[5:], s.incarnation)
	binary.BigEndian.PutUint64(f[13:], counter)
	p := f[frameHead : len(f)-tagSize]
	binary.BigEndian.PutUint16(p, uint16(len(topic)))
	copy(p[2:], salt[:])
	binary.BigEndian.PutUint64(p[18:], id.Incarnation)
	binary.BigEndian.PutUint64(p[26:], id.Counter)
	n := copy(p[plainHead:], topic)
	copy(p[plainHead+n:], payload)
	iv, head := nonce(counter, variant), b[:headerSize+frameHead]
	if out := s.aead.Seal(head, iv[:], p, head); len(out) != len(b) {
		panic("journal: sealed body has an unexpected size")
	}
}

// content is an opened body. Its slices share one buffer of their own.
type content struct {
	header
	id      gateway.ID
	salt    [16]byte
	topic   []byte
	payload []byte
}

// open opens a body value that stands at the given variant. It keeps nothing of value.
func (r *keyring) open(value []byte, variant byte) (c content, err error) {
	h, ok := parseHeader(value)
	if !ok || value[headerSize] != frameVersion {
		return c, errFrame
	}
	f := value[headerSize:]
	aead := r.frameKey(binary.BigEndian.Uint32(f[1:]), binary.BigEndian.Uint64(f[5:]))
	if aead == nil {
		return c, errFrame
	}
	iv := nonce(binary.BigEndian.Uint64(f[13:]), variant)
	p, err := aead.Open(nil, iv[:], f[frameHead:], value[:headerSize+frameHead])
	if err != nil {
		return c, errFrame
	}
	n := int(binary.BigEndian.Uint16(p))
	if len(p) < plainHead+n {
		return c, errFrame
	}
	c.header = h
	copy(c.salt[:], p[2:])
	c.id = gateway.ID{Incarnation: binary.BigEndian.Uint64(p[18:]), Counter: binary.BigEndian.Uint64(p[26:])}
	c.topic, c.payload = p[plainHead:plainHead+n:plainHead+n], p[plainHead+n:]
	return c, nil
}
