package seal

import (
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"slices"
)

// Why a field does not open. Callers branch on ErrForeign: such a field is for somebody else.
var (
	ErrUnknownEpoch = errors.New("encrypted under an epoch whose message was not given")
	ErrForeign      = errors.New("encrypted for another recipient")
	ErrMoved        = errors.New("encrypted for another place in the message")
	ErrOtherMessage = errors.New("encrypted as part of another message")
	ErrEpochTwice   = errors.New("an epoch of that name with another key is known")
)

// Opener opens fields on the recipient's side. It is not safe for concurrent use.
type Opener struct {
	key    *PrivateKey
	epochs map[string]*openEpoch
}

// openEpoch is an epoch that the opener knows of; without a key it is another recipient's.
type openEpoch struct {
	secret [32]byte
	key    cipher.AEAD
}

// EpochKey is the key of an epoch, for other JOSE software.
type EpochKey struct {
	Epoch string
	Key   [32]byte
}

// NewOpener returns an opener that knows no epoch yet.
func NewOpener(key *PrivateKey) *Opener {
	return &Opener{key: key, epochs: map[string]*openEpoch{}}
}

// Learn reads the message of an epoch, and says which epoch of which recipient it is. ErrNotEpoch: it is no such
// message. ErrOpen: it was sealed for another key or changed; fields of that epoch are then ErrForeign. ErrEpochTwice:
// the epoch is known with another key, which is kept.
func (o *Opener) Learn(message []byte) (epoch, recipient string, err error) {
	m, enc, sealed, err := parseEpoch(message)
	if err != nil {
		return "", "", err
	}
	known := o.epochs[m.Epoch]
	secret, err := o.key.open(epochInfo, []byte(m.Epoch+"."+m.Recipient), enc, sealed)
	if err != nil || len(secret) != 32 {
		if known == nil {
			o.epochs[m.Epoch] = &openEpoch{}
		}
		return m.Epoch, m.Recipient, ErrOpen
	}
	defer clear(secret)
	if known != nil && known.key != nil {
		if known.secret != [32]byte(secret) {
			return m.Epoch, m.Recipient, ErrEpochTwice
		}
		return m.Epoch, m.Recipient, nil
	}
	e := &openEpoch{secret: [32]byte(secret)}
	if e.key, err = newGCM(secret); err != nil {
		return m.Epoch, m.Recipient, err
	}
	o.epochs[m.Epoch] = e
	return m.Epoch, m.Recipient, nil
}

// Keys returns the epoch keys that were learned, by rising epoch.
func (o *Opener) Keys() []EpochKey {
	var keys []EpochKey
	for id, e := range o.epochs {
		if e.key != nil {
			keys = append(keys, EpochKey{id, e.secret})
		}
	}
	slices.SortFunc(keys, func(a, b EpochKey) int {
		if a.Epoch < b.Epoch {
			return -1
		}
		return 1
	})
	return keys
}

// Fields opens the fields of one message, which must all carry the same ID.
type Fields struct {
	opener *Opener
	id     [16]byte
	seen   bool
}

// Message begins with the fields of another message.
func (o *Opener) Message() *Fields { return &Fields{opener: o} }

// ID returns the ID that the fields opened so far carry; ok is false when there are none.
func (f *Fields) ID() (id [16]byte, ok bool) { return f.id, f.seen }

// Open returns the value, as JSON, of the field that stands at pointer. The error says why it does not open.
func (f *Fields) Open(pointer string, text []byte) ([]byte, error) {
	s := scratches.Get().(*scratch)
	defer s.release()
	if !Sealed(text) {
		return nil, errMalformed
	}
	k, err := s.readHeader(text)
	if err != nil {
		return nil, err
	}
	e := f.opener.epochs[string(k.epoch)]
	if e == nil {
		return nil, ErrUnknownEpoch
	}
	if e.key == nil {
		return nil, ErrForeign
	}
	var id [16]byte
	var path [pathDigits]byte
	hex.Decode(id[:], k.id) // k.id was checked
	moved := string(s.pathHash(path[:0], pointer)) != string(k.path)
	plaintext, err := s.readText(e.key, text)
	switch {
	case err != nil:
		return nil, err
	case moved:
		return nil, ErrMoved
	case f.seen && f.id != id:
		return nil, ErrOtherMessage
	}
	f.id, f.seen = id, true
	return append([]byte(nil), plaintext...), nil
}
