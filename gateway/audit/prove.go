package audit

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/crypto/signed"
	"github.com/sluice-edge/sluice/gateway"
)

// ErrUnsigned says that no checkpoint covers the record yet: try again after the next one.
var ErrUnsigned = errors.New("no checkpoint covers the record yet")

// ErrProof reports a proof that proves nothing.
var ErrProof = errors.New("proof does not hold")

// TreeLog is a Log whose tree can be read.
type TreeLog interface {
	Log
	tlog.HashReader
}

// Proof shows that a record is in a log, to whoever has the gateway's public key.
type Proof struct {
	Seq        uint64      `json:"seq"`
	Size       uint64      `json:"size"` // of the checkpoint's tree
	Record     []byte      `json:"record"`
	Hashes     []tlog.Hash `json:"hashes"`
	Checkpoint string      `json:"checkpoint"`
}

// ErrLost is the error for a record that was lost to damage, which another record says.
var ErrLost = errors.New("record is lost")

// Prove takes the record at seq out of the log, with its path to the newest checkpoint. The error is ErrUnsigned when
// that does not cover it.
func Prove(log TreeLog, seq uint64) (*Proof, error) {
	p := &Proof{Seq: seq}
	err := log.Checkpoints(func(size uint64, text []byte) error {
		p.Size, p.Checkpoint = size, string(text)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("prove record %d: %w", seq, err)
	}
	if seq >= p.Size {
		return nil, fmt.Errorf("prove record %d: %w", seq, ErrUnsigned)
	}
	stop := errors.New("stop")
	err = log.Records(seq, func(at uint64, record []byte) error {
		if at != seq {
			return ErrLost
		}
		p.Record = append(p.Record, record...)
		return stop
	})
	if t, ok := log.(Trimmed); ok && err != stop {
		if p.Record = t.Kept(seq); p.Record != nil {
			err = stop
		}
	}
	if err != stop {
		return nil, fmt.Errorf("prove record %d: %w", seq, errors.Join(errors.New("record cannot be read"), err))
	}
	if p.Hashes, err = tlog.ProveRecord(int64(p.Size), int64(seq), log); err != nil {
		return nil, fmt.Errorf("prove record %d: %w", seq, err)
	}
	return p, nil
}

// CheckProof checks a proof against the gateway's public key and returns the record that it shows. Any error means that
// nothing is shown.
func CheckProof(p *Proof, key *signed.Verifier) (*gateway.Record, error) {
	c, err := key.ParseVerify([]byte(p.Checkpoint))
	if err != nil {
		return nil, fmt.Errorf("check proof: %w", err)
	}
	if c.Size != p.Size || p.Seq >= p.Size {
		return nil, fmt.Errorf("check proof: %w", ErrProof)
	}
	if err := tlog.CheckRecord(p.Hashes, int64(p.Size), c.Root, int64(p.Seq), tlog.RecordHash(p.Record)); err != nil {
		return nil, fmt.Errorf("check proof: %w", ErrProof)
	}
	r := new(gateway.Record)
	if err := gateway.DecodeRecord(p.Record, r); err != nil {
		return nil, fmt.Errorf("check proof: %w", err)
	}
	return r, nil
}
