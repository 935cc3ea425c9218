package journal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"
)

// testSign makes checkpoints that testVerify believes.
func testSign(size uint64, root [32]byte, at time.Time) ([]byte, error) {
	b := append(binary.BigEndian.AppendUint64(nil, size), root[:]...)
	tag := sha256.Sum256(append([]byte("sign"), b...))
	return append(b, tag[:]...), nil
}

func testVerify(text []byte) (size uint64, root [32]byte, err error) {
	if len(text) != 72 {
		return 0, root, errors.New("checkpoint has a wrong length")
	}
	if tag := sha256.Sum256(append([]byte("sign"), text[:40]...)); [32]byte(text[40:]) != tag {
		return 0, root, errors.New("checkpoint is not signed")
	}
	return binary.BigEndian.Uint64(text), [32]byte(text[8:40]), nil
}

// mustCheck closes nothing: the journal is not open any more.
func mustCheck(t testing.TB, dir string) Report {
	t.Helper()
	r, err := Check(context.Background(), dir, []Key{testKey}, testVerify, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK {
		t.Fatal(fmt.Sprintf("check of %s: %q", dir, r.Problems))
	}
	return r
}
