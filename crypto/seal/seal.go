// Package seal encrypts for people elsewhere: fields for a recipient in the cloud, whole messages for the custodian.
//
// # Sealing
//
// Keys and holds are sealed with HPKE, base mode, KEM X-Wing (0x647a), KDF HKDF-SHA256 (0x0001), AEAD AES-256-GCM
// (0x0002), one context for one ciphertext. [RFC 9180 §6.1] The info string names the purpose, so that a ciphertext made
// for one cannot be opened as another. A public key has 1216 bytes, a private key is a seed of 32 bytes, an
// encapsulation has 1120 bytes. HPKE base mode does not prove who sealed.
//
// # Epochs
//
// A field key lives in memory only. It is called by its epoch, 16 lower-case hexadecimal digits drawn at random, and is
// made known to its recipient by one message, with info "sluice epoch v1" and the additional data
// <epoch> "." <recipient>, both as in the message; what is sealed is the key, 32 bytes:
//
//	{"v":1,"epoch":"9f2c…","recipient":"oem-dso","kem":"X-Wing","enc":"…","sealed":"…"}
//
// enc is the encapsulation and sealed the ciphertext, both base64url without padding.
//
// # Fields
//
// A field is a JWE in compact form with direct encryption, alg "dir" and enc "A256GCM". [RFC 7516 §3.1] The protected
// header is exactly, without spaces,
//
//	{"alg":"dir","enc":"A256GCM","kid":"<epoch>.<id>.<path>"}
//
// id is the message's ID, 32 lower-case hexadecimal digits; path is the first 16 hexadecimal digits of the SHA-256 of the
// JSON pointer at which the field stands in the outbound body. The plaintext is the field's value as JSON, so that its
// type survives. The initialization vector is 4 random bytes of the epoch and an 8-byte big-endian counter. Whoever
// opens compares path with where the field stands and id over all fields of the message: a field that was moved, or came
// from another message, does not open.
//
// # Holds
//
// A hold is one byte, 1, the encapsulation and the ciphertext, with info "sluice hold v1" and the first byte as additional
// data. The plaintext is, in this order: the message's ID, 16 bytes; the time it was received, milliseconds since 1970
// as 8 bytes big-endian; protocol, QoS and retain, one byte each; then source, client, topic and payload, each with its
// length in front as an unsigned varint.
//
// The package starts no goroutines.
package seal

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/hpke"
	"github.com/cloudflare/circl/kem"
	"github.com/cloudflare/circl/kem/xwing"
)

// Sizes of the KEM in bytes.
const (
	PublicKeySize  = xwing.PublicKeySize
	PrivateKeySize = xwing.PrivateKeySize
	encSize        = xwing.CiphertextSize
)

// The purposes: info strings of HPKE.
const (
	epochInfo = "sluice epoch v1"
	holdInfo  = "sluice hold v1"
)

// ErrOpen means that a ciphertext was made for another key or purpose, or was changed.
var ErrOpen = errors.New("sealed for another key, or changed")

var suite = hpke.NewSuite(hpke.KEM_XWING, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES256GCM)

// PublicKey is a key to seal for. It is immutable and safe for concurrent use.
type PublicKey struct{ key kem.PublicKey }

// ParsePublicKey reads an X-Wing encapsulation key of 1216 bytes.
func ParsePublicKey(b []byte) (*PublicKey, error) {
	key, err := hpke.KEM_XWING.Scheme().UnmarshalBinaryPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("read X-Wing public key: %w", err)
	}
	return &PublicKey{key}, nil
}

// PrivateKey opens what was sealed for its public key. It is immutable and safe for concurrent use.
type PrivateKey struct{ key kem.PrivateKey }

// ParsePrivateKey reads an X-Wing seed of 32 bytes. The slice is not kept.
func ParsePrivateKey(seed []byte) (*PrivateKey, error) {
	key, err := hpke.KEM_XWING.Scheme().UnmarshalBinaryPrivateKey(seed)
	if err != nil {
		return nil, fmt.Errorf("read X-Wing private key: %w", err)
	}
	return &PrivateKey{key}, nil
}

// seal encrypts one plaintext.
func (k *PublicKey) seal(info string, aad, plaintext []byte) (enc, sealed []byte, err error) {
	sender, err := suite.NewSender(k.key, []byte(info))
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	enc, s, err := sender.Setup(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	sealed, err = s.Seal(plaintext, aad)
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	return enc, sealed, nil
}

// open decrypts what seal wrote. Any failure is ErrOpen.
func (k *PrivateKey) open(info string, aad, enc, sealed []byte) ([]byte, error) {
	receiver, err := suite.NewReceiver(k.key, []byte(info))
	if err != nil {
		return nil, ErrOpen
	}
	o, err := receiver.Setup(enc)
	if err != nil {
		return nil, ErrOpen
	}
	plaintext, err := o.Open(sealed, aad)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}
