package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// events, fields and topics are identities as configurations make them.
func identityOf(t testing.TB, c IdentityConfig) *Identity {
	t.Helper()
	for _, d := range []struct {
		to  *string
		to2 string
	}{{&c.Type, "com.example.telemetry"}, {&c.IDField, "_sluice_id"}, {&c.SaltField, "_sluice_salt"}, {&c.BodyField, "_sluice_body"}, {&c.Template, "{topic}/{id}/{salt}"}} {
		if *d.to == "" {
			*d.to = d.to2
		}
	}
	i, err := NewIdentity(c, "vgw-0001")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// jsonBody is the index of a JSON text as far as identities look at it.
func jsonBody(text []byte) *Body {
	b := &Body{Encoding: JSON, Raw: text, Nodes: []Node{{Kind: Array, Parent: -1}}}
	m, ok := members(text)
	if !ok {
		return b
	}
	b.Nodes[0].Kind = Object
	for key := range m {
		b.Nodes = append(b.Nodes, Node{Kind: String, Flags: KeyInArena, Next: int32(len(b.Nodes) + 1), Key: Span{int32(len(b.Arena)), int32(len(key))}})
		b.Arena = append(b.Arena, key...)
	}
	return b
}

func wrapped(i *Identity, payload string, trusted bool) []byte {
	o := outbound{id: ID{0x0102030405060708, 9}, salt: [16]byte{0xaa, 15: 0xbb}, at: morning.In(time.FixedZone("", 8*3600)), trusted: trusted, payload: []byte(payload)}
	o.clash = i.clashes(jsonBody(o.payload))
	return i.appendPayload(nil, &o)
}

func TestEnvelopes(t *testing.T) {
	const id, salt = `0102030405060708` + `0000000000000009`, `aa0000000000000000000000000000bb`
	events, fields := identityOf(t, IdentityConfig{Mode: "cloudevents"}), identityOf(t, IdentityConfig{Mode: "field"})
	own := identityOf(t, IdentityConfig{Mode: "field", IDField: "i", SaltField: "s", BodyField: "b"})
	const event = `{"specversion":"1.0","id":"` + id + `","source":"/sluice/vgw-0001","type":"com.example.telemetry","sluicesalt":"` + salt + `","datacontenttype":"application/json",`
	const front = `"_sluice_id":"` + id + `","_sluice_salt":"` + salt + `"`
	at := `"time":"` + morning.UTC().Format(eventTime) + `",`
	for _, c := range []struct {
		name     string
		identity *Identity
		payload  string
		unset    bool
		want     string
	}{
		{"an event holds the payload as it was", events, ` {"v": 61.50 }`, false, event + at + `"data": {"v": 61.50 }}`},
		{"a clock that was not set gives no time", events, `7`, true, event + `"data":7}`},
		{"members stand in front of an object's", fields, "\t{ \"v\": 61.50 }\n", false, "\t{" + front + `, "v": 61.50 }` + "\n"},
		{"an empty object stays one", fields, `{ }`, false, `{` + front + ` }`},
		{"a list is wrapped", fields, `[1, 2]`, false, `{` + front + `,"_sluice_body":[1, 2]}`},
		{"a body with the member of the id is wrapped", fields, `{"a":1,"_sluice_id":"x"}`, false, `{` + front + `,"_sluice_body":{"a":1,"_sluice_id":"x"}}`},
		{"a body that looks wrapped is wrapped", fields, `{"_sluice_\u0062ody":1}`, false, `{` + front + `,"_sluice_body":{"_sluice_\u0062ody":1}}`},
		{"only the outermost members count", fields, `{"a":{"_sluice_id":1}}`, false, `{` + front + `,"a":{"_sluice_id":1}}`},
		{"names are the operator's", own, `{"_sluice_id":1}`, false, `{"i":"` + id + `","s":"` + salt + `","_sluice_id":1}`},
	} {
		got := wrapped(c.identity, c.payload, !c.unset)
		if string(got) != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		back, err := c.identity.Read("v1/a", got)
		if err != nil || back.ID.String() != id || back.Salt != [16]byte{0xaa, 15: 0xbb} || !back.Salted || !sameText(string(back.Payload), c.payload) {
			t.Errorf("%s: reads back as %+v %q, %v", c.name, back, back.Payload, err)
		}
	}
}

// sameText compares payloads. White space around an event's data belongs to the event.
func sameText(a, b string) bool { return strings.TrimSpace(a) == strings.TrimSpace(b) }

func TestTopicsThatCarryTheID(t *testing.T) {
	o := outbound{id: ID{1, 2}, salt: [16]byte{1}, topic: "v1/car/x"}
	for _, c := range []struct{ template, want string }{
		{"{topic}/{id}", "v1/car/x/00000000000000010000000000000002"},
		{"{id}/{topic}/{salt}", "00000000000000010000000000000002/v1/car/x/01000000000000000000000000000000"},
		{"fleet/{topic}/{id}/end", "fleet/v1/car/x/00000000000000010000000000000002/end"},
	} {
		i := identityOf(t, IdentityConfig{Mode: "topic", Template: c.template})
		got := i.outTopic(&o)
		back, err := i.Read(got, []byte("p"))
		if got != c.want || err != nil || back.ID != o.id || string(back.Payload) != "p" || back.Salted != i.Salted() || back.Salted && back.Salt != o.salt {
			t.Errorf("%s: %s, read back as %+v, %v", c.template, got, back, err)
		}
	}
	i := identityOf(t, IdentityConfig{Mode: "topic", Template: "fleet/{topic}/{id}"})
	for _, topic := range []string{"", "fleet", "fleet/00000000000000010000000000000002", "other/v1/00000000000000010000000000000002",
		"fleet/v1/0000000000000001000000000000000A", "fleet/v1/1", "fleet/00000000000000010000000000000002/v1"} {
		if c, err := i.Read(topic, nil); err == nil {
			t.Errorf("%s: %+v", topic, c)
		}
	}
}

func TestWhatCarriesNoID(t *testing.T) {
	events, fields := identityOf(t, IdentityConfig{Mode: "cloudevents"}), identityOf(t, IdentityConfig{Mode: "field"})
	const id = `00000000000000010000000000000002`
	for _, payload := range []string{``, `7`, `[]`, `{`, `{}`, `{"id":7,"data":1}`, `{"id":"x","data":1}`, `{"id":"` + id + `"}`, `{"id":"` + id + `","id":"` + id + `","data":1}`,
		`{"id":"` + id + `","data":1} {}`, `{"id":"` + id + `","data":1}x`, `{"_sluice_id":["` + id + `"]}`, `{"_sluice_id":"` + id + `","_sluice_id":"` + id + `"}`, `{"a":1`, "\x00"} {
		for _, i := range []*Identity{events, fields, nil} {
			if c, err := i.Read("t", []byte(payload)); err != ErrNoIdentity {
				t.Errorf("%s %s: %+v, %v", i, payload, c, err)
			}
		}
	}
	c, err := fields.Read("t", []byte(`{"a":1,"_sluice_id":"`+id+`","_sluice_salt":"no"}`))
	if err != nil || c.Salted || c.ID != (ID{1, 2}) {
		t.Errorf("without its salt: %+v, %v", c, err)
	}
}

func FuzzEnvelope(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, ` { "b" : [ ] } `, `[{}]`, `"x"`, `null`, `{"_sluice_id":1}`, `{"_sluice_body":{}}`, `{"\u005fsluice_salt":"京"}`, `1e9`} {
		f.Add([]byte(s), uint64(1), uint64(2), []byte("salt"), true)
	}
	f.Fuzz(func(t *testing.T, payload []byte, incarnation, counter uint64, salt []byte, trusted bool) {
		for _, i := range []*Identity{identityOf(t, IdentityConfig{Mode: "cloudevents"}), identityOf(t, IdentityConfig{Mode: "field"})} {
			i.Read("v1/a", payload) // whatever a recipient hands in
			if !json.Valid(payload) {
				continue
			}
			if trimmed := bytes.TrimSpace(payload); trimmed[0] == '{' {
				if _, once := members(payload); !once {
					continue // the codec refuses names that stand twice
				}
			}
			o := outbound{id: ID{incarnation, counter}, at: morning, trusted: trusted, payload: payload}
			copy(o.salt[:], salt)
			o.clash = i.clashes(jsonBody(payload))
			out := i.appendPayload([]byte("in front"), &o)[len("in front"):]
			if !json.Valid(out) {
				t.Fatalf("%s writes %q", i, out)
			}
			back, err := i.Read("v1/a", out)
			if err != nil || back.ID != o.id || back.Salt != o.salt || !back.Salted || !sameText(string(back.Payload), string(payload)) {
				t.Fatalf("%s: %q leaves as %q and reads back as %+v %q, %v", i, payload, out, back, back.Payload, err)
			}
			if i.mode == "field" && !o.clash && !bytes.Equal(back.Payload, payload) {
				t.Fatalf("%q became %q", payload, back.Payload)
			}
		}
	})
}

// objects makes the fakes' notation look like JSON to an identity.
type objects struct{ flat }

func (c objects) Decode(raw []byte, b *Body) error {
	err := c.flat.Decode(raw, b)
	b.Encoding = JSON
	return err
}

func withIdentities(t testing.TB, a, b *Identity) *VersionSet {
	s := usualSet(t)
	s.Codec = objects{}
	s.Uplinks = []UplinkInfo{testUplinks[0], testUplinks[1]}
	s.Uplinks[0].Identity, s.Uplinks[1].Identity = a, b
	return s
}

func TestUplinksShareABodyOnlyWithOneIdentity(t *testing.T) {
	events, topics := identityOf(t, IdentityConfig{Mode: "cloudevents"}), identityOf(t, IdentityConfig{Mode: "topic"})
	again := identityOf(t, IdentityConfig{Mode: "cloudevents"})
	other := identityOf(t, IdentityConfig{Mode: "cloudevents", Type: "com.example.other"})
	for _, c := range []struct {
		name    string
		a, b    *Identity
		outlets int
	}{{"none", nil, nil, 1}, {"the same", events, again, 1}, {"two types", events, other, 2}, {"one without", nil, topics, 2}, {"the other without", events, nil, 2}} {
		s := withIdentities(t, c.a, c.b)
		d := s.Explain(message("v1/a", "{}"), morning, true)
		e, err := s.entry(d)
		if err != nil || len(e.Outlets) != c.outlets || e.Waits != 3 {
			t.Errorf("%s: %d outlets, waits %b, %v", c.name, len(e.Outlets), e.Waits, err)
			continue
		}
		var r Record
		if err := DecodeRecord(e.Record, &r); err != nil {
			t.Fatal(err)
		}
		for u, i := range []*Identity{c.a, c.b} {
			up := &d.Uplinks[u]
			salt := e.Salt
			if i != nil {
				got, err := i.Read(up.Topic, up.Payload)
				if err != nil || got.ID != d.Message.ID || string(got.Payload) != "{}" {
					t.Errorf("%s: uplink %d reads %+v, %v", c.name, u, got, err)
				}
				if salt = got.Salt; salt == e.Salt || !got.Salted {
					t.Errorf("%s: the message's own salt leaves", c.name)
				}
			} else if up.Topic != "v1/a" || string(up.Payload) != "{}" {
				t.Errorf("%s: uplink %d gets %s %s", c.name, u, up.Topic, up.Payload)
			}
			if r.Outcomes[u].Left != Commitment("sluice left v1", &salt, []byte(up.Topic), up.Payload) {
				t.Errorf("%s: uplink %d gets something else than the record commits to", c.name, u)
			}
		}
	}
}

func TestHeldMessagesAreSealedWithoutAnEnvelope(t *testing.T) {
	events := identityOf(t, IdentityConfig{Mode: "cloudevents"})
	s := withIdentities(t, events, events)
	s.Policy = compiled(t, []RowConfig{{Match: MatchConfig{Grade: []string{"core", "important"}}, Action: "block"}, {Action: "hold"}})
	d := s.Explain(message("v1/a", "speed=1"), morning, true)
	for u := range d.Uplinks {
		if up := &d.Uplinks[u]; up.State != Held || string(up.Payload) != "sealed:speed=1" {
			t.Errorf("%s %s", up.State, up.Payload)
		}
	}
	if e, err := s.entry(d); err != nil || len(e.Outlets) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestATopicThatGrowsTooLongBlocks(t *testing.T) {
	s := withIdentities(t, identityOf(t, IdentityConfig{Mode: "topic"}), nil)
	d := s.Explain(message(strings.Repeat("t", maxTopic-10), "speed=1"), morning, true)
	if got := leaves(d); got[0] != "blocked topic" || d.Uplinks[1].State != Waiting || d.Action != Block {
		t.Errorf("%.40q, action %s", got, d.Action)
	}
}

// TestAnEnvelopeTakesNoMemoryOfItsOwn holds identities to the arena of the batch; a topic is one text.
func TestAnEnvelopeTakesNoMemoryOfItsOwn(t *testing.T) {
	base := testing.AllocsPerRun(100, decider(t, nil))
	for mode, more := range map[string]float64{"none": 0, "cloudevents": 0, "field": 0, "topic": 4} {
		if got := testing.AllocsPerRun(100, decider(t, identityOf(t, IdentityConfig{Mode: mode}))); got > base+more {
			t.Errorf("%s: %v allocations, %v without", mode, got, base)
		}
	}
}

// decider decides one message for one uplink again and again.
func decider(t testing.TB, i *Identity) func() {
	s := withIdentities(t, i, i)
	s.Uplinks[0].Number = 5
	d, m := new(Decision), message("v1/a", "{}")
	return func() {
		d.arena = d.arena[:0]
		s.decide(m, morning, true, d)
		if d.Uplinks[0].State != Waiting {
			t.Fatal(d.Uplinks[0].Reason)
		}
	}
}

// BenchmarkIdentity measures what an identity adds to the decision of one message of 1 KB.
func BenchmarkIdentity(b *testing.B) {
	for _, mode := range []string{"none", "cloudevents", "field", "topic"} {
		b.Run(mode, func(b *testing.B) {
			i := identityOf(b, IdentityConfig{Mode: mode})
			s := &VersionSet{Uplinks: []UplinkInfo{{Identity: i}}}
			d := &Decision{Message: message("v1/a", `{"speed":"`+strings.Repeat("1", 1000)+`"}`), Now: morning, Trusted: true, Uplinks: make([]UplinkDecision, 1)}
			d.Body.Encoding = JSON
			up := &d.Uplinks[0]
			b.ReportAllocs()
			for b.Loop() {
				d.arena = d.arena[:0]
				*up = UplinkDecision{State: Waiting, Topic: d.Message.Topic, Payload: d.Message.Payload, same: -1}
				s.identify(d)
			}
			if up.State != Waiting {
				b.Fatal(up.Reason)
			}
		})
	}
}
