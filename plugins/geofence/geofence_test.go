package geofence

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

func TestModuleIsThePinnedOne(t *testing.T) {
	sum := sha256.Sum256(Wasm)
	if got := hex.EncodeToString(sum[:]); got != Digest {
		t.Errorf("SHA-256 of geofence.wasm is %s, pinned is %s: after build.sh, set Digest", got, Digest)
	}
}

func TestManifestIsTheOneInTheModule(t *testing.T) {
	manifest, err := os.ReadFile("manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(manifest) {
		t.Error("manifest.json is no JSON")
	}
	if !bytes.Contains(Wasm, append([]byte("\x0fsluice.manifest"), manifest...)) {
		t.Error("the module carries another manifest than manifest.json: run build.sh")
	}
}
