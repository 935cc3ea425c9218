//go:build peers

package seal

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"
)

// npm's jose (found over NODE_PATH, else among the global modules) decrypts what we encrypt, with the epoch key alone.
func TestJoseDecryptsFields(t *testing.T) {
	b := newBench(t, Options{})
	want := []string{`31.230416`, `"粤B·12345 \" \\ \u0041"`, `null`, `[1,2,{"a":true}]`, ``}
	var fields []string
	for _, plaintext := range want {
		fields = append(fields, string(b.encrypt(t, 1, "/gnss/lat", plaintext)))
	}
	key := b.opener(t).Keys()[0]
	input, err := json.Marshal(map[string]any{"fields": fields, "jwk": map[string]string{"kty": "oct", "use": "enc", "alg": "A256GCM",
		"kid": key.Epoch, "k": base64url.EncodeToString(key.Key[:])}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "testdata/decrypt.cjs")
	cmd.Env = append(os.Environ(), "NODE_PATH="+os.Getenv("NODE_PATH")+":/usr/lib/node_modules:/usr/local/lib/node_modules")
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run node with jose (npm install -g jose): %v", err)
	}
	var got []string
	if err := json.Unmarshal(out, &got); err != nil || !slices.Equal(got, want) {
		t.Fatalf("jose read %q, want %q (%v)", got, want, err)
	}
}
