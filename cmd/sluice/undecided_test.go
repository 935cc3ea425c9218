package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/protocols/payload"
)

// Secrets that no uplink may see under the policy of the test below, and fields that may leave as they are.
var (
	strangers = []string{"LTEST1238R0000001", "34052419800101001X", "京A12345", "13812345678", "31.23041", "121.47372", "UNLISTED"}
	harmless  = []string{"1", "88.5", "true", "null", `"P0301"`, `"km"`, "[]", "{}"}
	knownKeys = []string{"speed", "soc", "dtc", "odometer", "seq", "unit", "cell_temp", "cell_voltage", "service"}
	// Names under which the strangers are at home; no catalog lists the last one.
	homes = []string{"vin", "id_card", "plate", "phone", "lat", "lon", "mood"}
)

// writer makes random bodies in which secrets stand under their own names, under others, in texts, as keys and alone.
type writer struct {
	*rand.Rand
	out bytes.Buffer
}

func (w *writer) value(depth int) {
	switch n := w.IntN(12); {
	case n < 2 && depth < 4:
		w.out.WriteByte('[')
		for i := range w.IntN(4) {
			if i > 0 {
				w.out.WriteByte(',')
			}
			w.value(depth + 1)
		}
		w.out.WriteByte(']')
	case n < 4 && depth < 4:
		w.object(depth + 1)
	case n < 6:
		w.secret(strangers[w.IntN(3)]) // the others are told by their names, or by a pair
	default:
		w.out.WriteString(harmless[w.IntN(len(harmless))])
	}
}

// secret writes a secret as it is, in a text, or with its characters escaped.
func (w *writer) secret(s string) {
	switch number := strings.Trim(s, "0123456789.") == ""; {
	case number && w.IntN(2) == 0:
		w.out.WriteString(s)
	case w.IntN(3) == 0:
		fmt.Fprintf(&w.out, `"see: %s, thanks"`, s)
	case w.IntN(3) == 0 && s[0] < 128:
		fmt.Fprintf(&w.out, `"\u%04x%s"`, s[0], s[1:])
	default:
		fmt.Fprintf(&w.out, "%q", s)
	}
}

func (w *writer) object(depth int) {
	w.out.WriteByte('{')
	used := map[string]bool{}
	for range w.IntN(6) {
		key := knownKeys[w.IntN(len(knownKeys))]
		secret := ""
		switch w.IntN(4) {
		case 0:
			n := w.IntN(6 + min(1, 1/(depth+1)))
			key, secret = homes[n], strangers[n]
		case 1:
			if key = strangers[w.IntN(4)]; w.IntN(2) == 0 {
				key = "gnss"
			}
		}
		if used[key] {
			continue
		}
		if len(used) > 0 {
			w.out.WriteByte(',')
		}
		used[key] = true
		fmt.Fprintf(&w.out, "%q:", key)
		if secret != "" && w.IntN(3) > 0 {
			w.secret(secret)
		} else {
			w.value(depth)
		}
	}
	w.out.WriteByte('}')
}

// Promise 1 on bodies that nobody thought of: whatever stands where, no secret and no unknown field leaves in clear.
func TestNothingUndecidedLeaves(t *testing.T) {
	two, yes := 2, true
	v := &vector{Now: "2026-03-02T08:00:00Z", Policy: []gateway.RowConfig{
		{Match: gateway.MatchConfig{Grade: []string{"core", "important"}}, Action: "block"},
		{Match: gateway.MatchConfig{Category: []string{"VEH-ID-VIN"}}, Action: "tokenize", Domain: "fleet-a"},
		{Match: gateway.MatchConfig{Category: []string{"VEH-ID-PLATE"}}, Action: "encrypt", To: "oem-dso"},
		{Match: gateway.MatchConfig{Category: []string{"VEH-LOC-*"}}, Action: "generalize", Decimals: &two},
		{Match: gateway.MatchConfig{Sensitive: &yes}, Action: "remove"},
		{Match: gateway.MatchConfig{Category: []string{"VEH-ID-*"}}, Action: "remove"},
		{Action: "pass"},
	}}
	v.Message.Source = "bench"
	b, _ := newBench(t, v)
	w := &writer{Rand: rand.New(rand.NewPCG(5, 6))}
	now := time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)
	topics := []string{"v1/can", "v1/LTEST1238R0000001/can", "v1/13812345678", "v1/31.23041,121.47372/x"}
	left, failed := 0, 0
	for range 4000 {
		w.out.Reset()
		if w.IntN(20) == 0 {
			w.value(0)
		} else {
			w.object(0)
		}
		topic := topics[0]
		if w.IntN(5) == 0 {
			topic = topics[w.IntN(len(topics))]
		}
		body := w.out.String()
		d := b.set.Explain(&gateway.Message{Source: "bench", Client: "c", Topic: topic, Payload: []byte(body)}, now, true)
		u := &d.Uplinks[0]
		if u.Reason == gateway.ReasonInternal || u.Reason == gateway.ReasonOperator || u.Reason == gateway.ReasonOutput {
			failed++ // it stays, but nothing here gives cause for it
		}
		if u.State != gateway.Waiting {
			continue
		}
		left++
		var read gateway.Body
		if err := (payload.JSON{}).Decode(u.Payload, &read); err != nil {
			t.Fatalf("%s leaves as %s, which cannot be read", body, u.Payload)
		}
		clear := u.Topic
		for i := range read.Nodes { // decoded: an escape hides nothing
			clear += "\n" + string(read.Key(i)) + "\n" + string(read.Text(i))
		}
		for _, s := range strangers {
			if strings.Contains(clear, s) {
				t.Fatalf("on %s\n%s\nleaves as %s\n%s\nwith %s in clear", topic, body, u.Topic, u.Payload, s)
			}
		}
	}
	if left < 3000 || failed > 0 {
		t.Errorf("%d messages left; %d stayed for reasons of the gateway's own", left, failed)
	}
}
