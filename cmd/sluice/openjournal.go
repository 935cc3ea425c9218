package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/gateway/ship"
)

// errKeyLost says that a journal has lost a key. A new at-rest key would open nothing of what waits, and what is
// acknowledged from then on would wait behind it; checkpoints signed by a new audit key would not verify beside the old.
var errKeyLost = errors.New("key is missing that the journal was made with")

// ensureKeys creates the keys that only this gateway uses, and returns the ids of those that are new.
func ensureKeys(cfg *Config, ring *keyring.Ring) (created []string, err error) {
	there, err := journal.Exists(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	need := []struct {
		use keyring.Use
		id  string
	}{{keyring.AtRest, atRestKey}, {keyring.Audit, cfg.Gateway}}
	for _, d := range cfg.TokenDomains {
		need = append(need, struct {
			use keyring.Use
			id  string
		}{keyring.Token, d.Key})
	}
	for _, n := range need {
		if there && n.use != keyring.Token {
			if k, err := ring.Private(n.use, n.id); errors.Is(err, keyring.ErrNoKey) {
				return nil, fmt.Errorf("open journal %q: %s %w", cfg.DataDir, n.id, errKeyLost)
			} else if err == nil {
				k.Destroy()
			}
		}
		isNew, err := ring.Ensure(n.use, n.id)
		if err != nil {
			return created, err
		}
		if isNew {
			created = append(created, n.id)
		}
	}
	return created, nil
}

func (a *assembly) openJournal() error {
	o, err := journalOptions(a.cfg, a.ring)
	if err != nil {
		return err
	}
	o.Log, o.OnCommit = a.log, func(d time.Duration, _, _ int) { a.metrics.ObserveCommit(d) }
	a.journal, err = journal.Open(o)
	return err
}

// journalOptions are those of the configuration, with the keys.
func journalOptions(cfg *Config, ring *keyring.Ring) (o journal.Options, err error) {
	o = journal.Options{Dir: cfg.DataDir, Clock: gateway.SystemClock,
		MaxSize: int64(cfg.Journal.MaxSize), MaxAge: cfg.Journal.maxAges(), DropGeneral: cfg.Journal.WhenFull == "drop_oldest_general",
		AuditMaxSize: int64(cfg.Audit.MaxSize), Linger: cfg.Journal.Linger,
		CheckpointEvery: cfg.Audit.CheckpointEvery, CheckpointCount: uint64(cfg.Audit.CheckpointCount)}
	if o.Keys, err = atRestKeys(ring); err != nil {
		return o, err
	}
	o.Retention = journal.Retention(cfg.Audit.Retention)
	if key, err := receiptKey(cfg); err != nil {
		return o, err
	} else if key != nil {
		o.Receipt = ship.Check(cfg.Gateway, key)
	}
	o.Sign, err = checkpointSigner(cfg, ring)
	return o, err
}

// receiptKey reads the public key of the collector; nil when there is none.
func receiptKey(cfg *Config) (*signed.Verifier, error) {
	if cfg.Audit.Ship == nil {
		return nil, nil
	}
	return logVerifier(cfg, cfg.Audit.Ship.ReceiptKey)
}

// newShipper makes the shipper that the configuration asks for.
func newShipper(cfg *Config, j *journal.Journal, log *slog.Logger) (*ship.Shipper, error) {
	key, err := receiptKey(cfg)
	if key == nil || err != nil {
		return nil, err
	}
	return ship.New(cfg.Gateway, *cfg.Audit.Ship, key, j, log)
}
