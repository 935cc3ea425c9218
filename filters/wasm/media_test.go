package wasm

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

var media = &reference{name: "media", categories: []gateway.Category{{ID: "VEH-OTHER"}}}

func TestMediaCases(t *testing.T) { media.run(t) }

func TestMediaRefusesBadConfigurations(t *testing.T) { media.refuses(t, nil) }

// The largest messages of every awkward form end in time; one that does not fit takes the on_error path, which is hold.
func TestMediaEndsInTime(t *testing.T) {
	p := media.open(t, nil, nil)
	if p.OnError() != gateway.Hold {
		t.Error("on_error is not hold")
	}
	ask := func(name string, payload []byte) *gateway.Opinion {
		b := &gateway.Body{Raw: payload}
		m := messageOf(b)
		o := noObjection()
		if err := p.Filter(m, b, &gateway.Classification{}, o); codeOf(err) != name {
			t.Errorf("%q: %v", name, err)
		}
		return o
	}
	const most = 98304 - 128
	for name, unit := range map[string]string{"short strings": `"AAAAAAAAAAAA",`, "runs": "AAAAAAAAAAAAAAAAAAAAAAAA,", "long strings": `"` + strings.Repeat("QUFB", 60) + `",`, "arrays": "[1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,0,[",
		"open brackets": "[", "quotes": `"`, "escapes": `\u0041`, "start codes": "\x00\x00\x00\x01\x65", "nothing": " "} {
		payload := []byte(strings.Repeat(unit, most/len(unit)))
		t.Run(name, func(t *testing.T) { t.Logf("%d fuel", ask("", payload).Fuel) })
	}
	ask("too_large", make([]byte, 98304))
}

// Bytes that look like nothing are nothing: random bodies are held rarely.
func TestMediaLeavesNoiseAlone(t *testing.T) {
	p := media.open(t, nil, nil)
	random, held := rand.New(rand.NewPCG(6, 6)), 0
	for range 1000 {
		payload := make([]byte, 500)
		for i := range payload {
			payload[i] = byte(random.Uint32())
		}
		b := &gateway.Body{Raw: payload, Encoding: gateway.BinaryFrame}
		o := noObjection()
		if err := p.Filter(messageOf(b), b, &gateway.Classification{}, o); err != nil {
			t.Fatal(err)
		}
		if o.Action != gateway.Pass {
			held++
		}
	}
	if held > 3 {
		t.Errorf("%d of 1000 random bodies are held", held)
	}
}
