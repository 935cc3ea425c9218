package trackguard

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

func TestModuleIsThePinnedOne(t *testing.T) {
	sum := sha256.Sum256(Wasm)
	if got := hex.EncodeToString(sum[:]); got != Digest {
		t.Errorf("SHA-256 of trackguard.wasm is %s, pinned is %s: after build.sh, set Digest", got, Digest)
	}
}
