package journal

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// TestTheWorkedExampleOfTheFormatIsTrue makes the body value of the package doc.
func TestTheWorkedExampleOfTheFormatIsTrue(t *testing.T) {
	key := Key{ID: 1}
	for i := range key.Secret {
		key.Secret[i] = byte(i)
	}
	k, err := newKeyring([]Key{key})
	if err != nil {
		t.Fatal(err)
	}
	s := sealer{aead: k.frameKey(1, 0x0102030405060708), key: 1, incarnation: 0x0102030405060708}
	h := header{own: 1, waits: 3, source: 2, grade: gateway.General, flags: flagRetain | 1<<qosShift}
	salt := [16]byte{0xaa, 0xaa}
	payload := []byte(`{"v":1}`)
	value := make([]byte, bodySize("v1/a", payload))
	s.seal(value, &h, 5, 0, gateway.ID{Incarnation: 0x0102030405060708, Counter: 4}, &salt, "v1/a", payload)
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	parts := []string{
		hex.EncodeToString(value[:headerSize]),
		hex.EncodeToString(value[headerSize : headerSize+frameHead]),
		hex.EncodeToString(value[headerSize+frameHead : len(value)-tagSize]),
		hex.EncodeToString(value[len(value)-tagSize:]),
	}
	for _, p := range parts {
		if !strings.Contains(string(doc), p) {
			t.Errorf("the package doc does not have %s", p)
		}
	}
}
