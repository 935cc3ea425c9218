package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
)

// Announcement is an epoch key on its way to its recipient.
type Announcement struct {
	Recipient string // name in the configuration, a level of the reserved topic
	Epoch     string // the last level of the reserved topic
	Message   []byte // JSON, to be retained; owned by whoever is told
}

// Options are what epochs are made by.
type Options struct {
	Recipients map[string]*PublicKey // by name in the configuration: letters, digits, dots, hyphens, underscores

	// Announce hands over a new epoch key before its first use. It is called by one goroutine at a time per recipient,
	// while all that want to encrypt for that recipient wait. On an error the epoch is not used and the encryption fails.
	Announce func(Announcement) error

	MaxUses uint64        // fields per epoch; 0 = 2^20
	MaxAge  time.Duration // age of an epoch at its last use; 0 = 1 h
}

// ErrNoRecipient means that nobody of that name was configured.
var ErrNoRecipient = errors.New("encrypt: no such recipient")

// Epochs encrypts fields under keys that live in memory only, one at a time per recipient, each made on its first use
// and replaced by count and age. It is safe for concurrent use.
type Epochs struct {
	recipients []*recipient
	announce   func(Announcement) error
	maxUses    uint64
	maxAge     time.Duration
	now        func() time.Time
}

type recipient struct {
	name string
	key  *PublicKey

	current  atomic.Pointer[epoch]
	previous atomic.Pointer[epoch] // only for Reopen: a message may be checked after the change
	change   sync.Mutex            // held while the current epoch is replaced
}

// epoch is one field key. The key itself is not kept, only the cipher made from it.
type epoch struct {
	id    string
	key   cipher.AEAD
	salt  [4]byte
	uses  atomic.Uint64
	until time.Time
}

// NewEpochs returns epochs that have not made any key yet.
func NewEpochs(o Options) (*Epochs, error) {
	if o.Announce == nil {
		return nil, errors.New("make epochs: nothing to announce them to")
	}
	e := &Epochs{announce: o.Announce, maxUses: o.MaxUses, maxAge: o.MaxAge, now: time.Now}
	if e.maxUses == 0 {
		e.maxUses = 1 << 20
	}
	if e.maxAge <= 0 {
		e.maxAge = time.Hour
	}
	for name, key := range o.Recipients {
		if key == nil || !validName(name) {
			return nil, fmt.Errorf("make epochs: recipient %q: want a name of letters, digits, dots, hyphens and underscores, and a key", name)
		}
		e.recipients = append(e.recipients, &recipient{name: name, key: key})
	}
	return e, nil
}

func validName(name string) bool {
	for _, c := range []byte(name) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return len(name) > 0 && len(name) <= 255
}

func (e *Epochs) recipient(name string) *recipient {
	for _, r := range e.recipients {
		if r.name == name {
			return r
		}
	}
	return nil
}

// Encrypt appends a field for the recipient to dst: plaintext is the value as JSON, id the message's ID, pointer where
// the field will stand in the outbound body. Errors are ErrNoRecipient and what Announce returned; dst is then
// unchanged. It blocks while the recipient's epoch is replaced.
func (e *Epochs) Encrypt(dst []byte, recipient string, id [16]byte, pointer string, plaintext []byte) ([]byte, error) {
	r := e.recipient(recipient)
	if r == nil {
		return dst, ErrNoRecipient
	}
	for {
		ep := r.current.Load()
		if ep != nil && e.now().Before(ep.until) {
			if n := ep.uses.Add(1) - 1; n < e.maxUses {
				var iv [ivSize]byte
				copy(iv[:], ep.salt[:])
				binary.BigEndian.PutUint64(iv[4:], n)
				return appendField(dst, ep.key, ep.id, &iv, &id, pointer, plaintext), nil
			}
		}
		if err := e.replace(r, ep); err != nil {
			return dst, err
		}
	}
}

// replace makes, announces and installs a new epoch, unless another goroutine has replaced old already.
func (e *Epochs) replace(r *recipient, old *epoch) error {
	r.change.Lock()
	defer r.change.Unlock()
	if r.current.Load() != old {
		return nil
	}
	ep, message, err := r.newEpoch()
	if err != nil {
		return err
	}
	if err := e.announce(Announcement{Recipient: r.name, Epoch: ep.id, Message: message}); err != nil {
		return fmt.Errorf("announce epoch: %w", err)
	}
	ep.until = e.now().Add(e.maxAge)
	r.previous.Store(old)
	r.current.Store(ep)
	return nil
}

// newEpoch draws a key and seals it for the recipient.
func (r *recipient) newEpoch() (*epoch, []byte, error) {
	var secret [32 + epochDigits/2 + 4]byte
	defer clear(secret[:])
	rand.Read(secret[:]) // never returns an error
	key := secret[:32]
	ep := &epoch{id: hex.EncodeToString(secret[32 : 32+epochDigits/2]), salt: [4]byte(secret[32+epochDigits/2:])}
	var err error
	if ep.key, err = newGCM(key); err != nil {
		return nil, nil, err
	}
	enc, sealed, err := r.key.seal(epochInfo, []byte(ep.id+"."+r.name), key)
	if err != nil {
		return nil, nil, err
	}
	b := append([]byte(nil), `{"v":1,"epoch":"`+ep.id+`","recipient":"`+r.name+`","kem":"X-Wing","enc":"`...)
	b = base64url.AppendEncode(b, enc)
	b = append(b, `","sealed":"`...)
	b = base64url.AppendEncode(b, sealed)
	return ep, append(b, `"}`...), nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Reopen appends to dst the plaintext of a field that was encrypted here for the recipient, under the epoch in force or
// the one before it. ok is false for everything else: also for a genuine field of an older epoch or another gateway.
// Neither id nor pointer is compared.
func (e *Epochs) Reopen(dst []byte, recipient string, text []byte) (plaintext []byte, ok bool) {
	r := e.recipient(recipient)
	if r == nil || !Sealed(text) {
		return dst, false
	}
	s := scratches.Get().(*scratch)
	defer s.release()
	k, err := s.readHeader(text)
	if err != nil {
		return dst, false
	}
	for _, ep := range [...]*epoch{r.current.Load(), r.previous.Load()} {
		if ep == nil || ep.id != string(k.epoch) {
			continue
		}
		p, err := s.readText(ep.key, text)
		if err != nil {
			return dst, false
		}
		return append(dst, p...), true
	}
	return dst, false
}

// epochMessage is the announcement of an epoch.
type epochMessage struct {
	V         int    `json:"v"`
	Epoch     string `json:"epoch"`
	Recipient string `json:"recipient"`
	KEM       string `json:"kem"`
	Enc       string `json:"enc"`
	Sealed    string `json:"sealed"`
}

// ErrNotEpoch means that a message is no announcement of an epoch, or of a version that is not known here.
var ErrNotEpoch = errors.New("not an epoch message")

// parseEpoch reads an announcement: ErrNotEpoch for everything that is not exactly one.
func parseEpoch(message []byte) (m epochMessage, enc, sealed []byte, err error) {
	if len(message) > 1<<14 || json.Unmarshal(message, &m, json.RejectUnknownMembers(true)) != nil {
		return m, nil, nil, ErrNotEpoch
	}
	enc, err1 := base64url.DecodeString(m.Enc)
	sealed, err2 := base64url.DecodeString(m.Sealed)
	if m.V != 1 || m.KEM != "X-Wing" || len(m.Epoch) != epochDigits || !lowerHex([]byte(m.Epoch)) || !validName(m.Recipient) ||
		err1 != nil || err2 != nil || len(enc) != encSize {
		return m, nil, nil, ErrNotEpoch
	}
	return m, enc, sealed, nil
}
