package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/seal"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/stand"
)

// stayingKinds are what a connection sends in turn where messages are to stay: of 32 two are held, two are blocked.
var stayingKinds = []fleet.Kind{7: fleet.Opaque, 15: fleet.CoreField, 23: fleet.DuplicateKey, 31: fleet.CoreField}

// holdRow is the row of the policy that holds what cannot be read; core data is blocked in any case.
const holdRow = "{ match: { category: VEH-OPAQUE }, action: hold }"

// fate is what the policy makes of a message, in the end.
func fate(k fleet.Kind) gateway.State {
	switch k {
	case fleet.Opaque, fleet.DuplicateKey:
		return gateway.Held
	case fleet.CoreField:
		return gateway.Blocked
	}
	return gateway.Forwarded
}

// quiet is how long nothing more is to come in before a broker in between counts as empty.
const quiet = 500 * time.Millisecond

// stayed waits until the running gate has all that stays, also what a broker in between had acknowledged for it.
func (d *bed) stayed(ctx context.Context) error {
	want := d.load.Counts().Stayed
	var received uint64
	since := time.Now()
	var last stat
	err := d.await(ctx, recoverWithin, func() bool {
		if s, err := d.stat(ctx); err == nil {
			last = s
		}
		if last.Totals.Received != received {
			received, since = last.Totals.Received, time.Now()
		}
		pause(ctx, 50*time.Millisecond)
		return last.Totals.Held+last.Totals.Blocked >= want && time.Since(since) > quiet
	})
	if err != nil {
		return fmt.Errorf("of %d messages that stay %d are held and %d blocked: %w", want, last.Totals.Held, last.Totals.Blocked, err)
	}
	return nil
}

// openHolds opens every hold in the files with the custodian's key and compares it with what the device sent, and what
// devices were told is safe with what is held and blocked.
func (d *bed) openHolds(t *gateway.Totals) {
	custodian, err := custodianKey(filepath.Join(d.dir, "keys", stand.CustodianKey+".key"))
	if err != nil {
		d.row.bad("%v", err)
		return
	}
	messages, found := map[uint64]bool{}, map[uint64]bool{} // by record, by number in the run
	closed, altered := 0, 0
	err = eachHold(filepath.Join(d.dir, "data"), filepath.Join(d.dir, "keys"), func(seq uint64, sealed []byte) {
		if messages[seq] {
			return
		}
		messages[seq] = true
		h, err := seal.OpenHold(custodian, sealed)
		if err != nil {
			closed++
			return
		}
		g, ok := d.load.Sequence(h.Payload)
		topic, payload, sent := d.load.Message(g)
		if !ok || !sent || h.Topic != topic || !bytes.Equal(h.Payload, payload) {
			altered++
			return
		}
		if k, _ := d.load.Kind(g); fate(k) != gateway.Held {
			d.row.bad("a message of kind %q is held", k)
		}
		found[g] = true
	})
	if err != nil {
		d.row.bad("read holds: %v", err)
	}
	if closed > 0 || altered > 0 {
		d.row.bad("of %d holds %d do not open with the custodian's key, %d are not what a device sent", len(messages), closed, altered)
	}
	if uint64(len(messages)) != t.Held {
		d.row.bad("%d messages are held by the totals and %d by the bodies", t.Held, len(messages))
	}
	var held, blocked uint64 // acknowledged, and gone
	for g := range uint64(capacity) {
		switch k, acked := d.load.Kind(g); {
		case !acked:
		case fate(k) == gateway.Held && !found[g]:
			held++
		case fate(k) == gateway.Blocked:
			blocked++
		}
	}
	if held > 0 || blocked > t.Blocked {
		d.row.bad("%d messages were acknowledged and are not held; %d were acknowledged that the policy blocks, %d are blocked", held, blocked, t.Blocked)
	}
	d.row.Lost += held + max(blocked, t.Blocked) - t.Blocked
	d.debug("%s: %d holds opened", d.row.Fault, len(found))
}

func custodianKey(file string) (*seal.PrivateKey, error) {
	k, err := keyring.ReadPrivate(file)
	if err != nil {
		return nil, err
	}
	defer k.Destroy()
	return seal.ParsePrivateKey(k.Secret())
}

// eachHold calls fn for every held body in the files of a gate that does not run. It is a second reading of what the
// package doc of gateway/journal specifies and shares no code with it.
func eachHold(data, keys string, fn func(seq uint64, sealed []byte)) error {
	ring, err := keyring.Open(keys)
	if err != nil {
		return err
	}
	list, err := ring.AtRest()
	if err != nil {
		return err
	}
	atRest := map[uint32][]byte{}
	for _, k := range list {
		atRest[k.Tag()] = k.Secret()
	}
	files, err := filepath.Glob(filepath.Join(data, "segment-*.bolt"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for i, file := range files {
		next := uint64(1<<63 - 1)
		if i+1 < len(files) {
			digits := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(files[i+1]), "segment-"), ".bolt")
			if next, err = strconv.ParseUint(digits, 10, 64); err != nil {
				return err
			}
		}
		if err := eachHoldIn(file, next, atRest, fn); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	if parked, _ := filepath.Glob(filepath.Join(data, "parked.bolt")); len(parked) == 0 {
		return nil
	}
	return eachHoldIn(filepath.Join(data, "parked.bolt"), 1<<63-1, atRest, fn)
}

// eachHoldIn reads the bodies of records below next.
func eachHoldIn(file string, next uint64, atRest map[uint32][]byte, fn func(seq uint64, sealed []byte)) error {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	ciphers := map[string]cipher.AEAD{} // by key id and incarnation
	return db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("entries"))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			const header, head = 20, 21 // bytes of the header of a body and of its frame head
			if len(k) != 9 || k[8] == 0 || binary.BigEndian.Uint64(k) >= next || len(v) > 15 && v[15]&1 == 0 {
				return nil
			}
			if len(v) < header+head {
				return errors.New("a body is cut")
			}
			f := v[header:]
			aead := ciphers[string(f[1:13])]
			if aead == nil {
				var err error
				if aead, err = frameCipher(atRest[binary.BigEndian.Uint32(f[1:])], f[5:13]); err != nil {
					return err
				}
				ciphers[string(f[1:13])] = aead
			}
			nonce := append(append([]byte{}, f[13:21]...), 0, 0, 0, k[8]-1)
			plain, err := aead.Open(nil, nonce, f[head:], v[:header+head])
			if err != nil {
				return err
			}
			topic := int(binary.BigEndian.Uint16(plain))
			fn(binary.BigEndian.Uint64(k), plain[2+16+16+topic:])
			return nil
		})
	})
}

func frameCipher(secret, incarnation []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, incarnation, "sluice journal v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
