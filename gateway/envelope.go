package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// IdentityConfig says how messages carry their id to one uplink. Only the keys of the chosen mode may be given.
type IdentityConfig struct {
	Mode      string `yaml:"mode" default:"none" enum:"none,cloudevents,field,topic,user_property" doc:"how the id of a message reaches the cloud; user_property is not in this version"`
	Type      string `yaml:"type" default:"io.github.sluice-edge.message" doc:"cloudevents: the type attribute; begin it with a domain name of yours, reversed"`
	IDField   string `yaml:"id_field" default:"_sluice_id" doc:"field: name of the member that holds the id"`
	SaltField string `yaml:"salt_field" default:"_sluice_salt" doc:"field: name of the member that holds the salt of the commitment"`
	BodyField string `yaml:"body_field" default:"_sluice_body" doc:"field: name of the member around a body that has no room for the others"`
	Template  string `yaml:"template" default:"{topic}/{id}/{salt}" doc:"topic: levels of the outbound topic, with {topic} and {id} and, for audit reconcile, {salt}"`
}

// Identity writes the id of a message, and the salt of the commitment to what leaves, into what leaves. nil is no
// identity: topic and payload leave as they were decided. It is immutable and safe for concurrent use.
//
//	cloudevents  the payload is the data of a CloudEvents 1.0 event in JSON [CloudEvents JSON format 1.0.2 §3]: what MQTT
//	             3.1.1 knows as structured mode [CloudEvents MQTT binding 1.0.2 §3.2]. id is the message's, source is
//	             /sluice/GATEWAY, time is that of the decision and absent when the clock was not set, sluicesalt the salt.
//	field        id and salt are the first members of the object that the payload is. A payload that is no object, or has
//	             a member with one of the three names, becomes the third member instead, and nothing of it is lost.
//	topic        the topic is put into a template beside id and, if the template says so, salt.
//
// The bytes of the payload are in all of them as they were.
type Identity struct {
	mode   string
	text   string // the configuration in one line: equal texts write equal bytes
	head   []byte // cloudevents, field: up to the id
	salt   []byte // between id and salt
	tail   []byte // cloudevents: between salt and time; field: between salt and a wrapped payload
	names  [3]string
	levels []string // topic
}

// EventSalt is the extension attribute of a CloudEvent that holds the salt. An attribute's name is of a-z and 0-9 only.
// [CloudEvents 1.0, Naming Conventions]
const EventSalt = "sluicesalt"

// eventSource is what stands in front of the gateway's name in a CloudEvent's source.
const eventSource = "/sluice/"

// eventTime is RFC 3339 with milliseconds, as records have them.
const eventTime = "2006-01-02T15:04:05.000Z07:00"

const maxIdentityText = 256

var (
	memberForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	typeForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
	sourceForm = regexp.MustCompile(`^[A-Za-z0-9_.~-]+$`) // nothing that a URI reference would have to escape
)

// IdentityError says which key of an IdentityConfig cannot be used, and what to write instead.
type IdentityError struct{ Key, Message, Hint string }

func (e *IdentityError) Error() string { return "identity: " + e.Key + ": " + e.Message }

// NewIdentity prepares an identity of the named gateway; nil for mode none. Errors are *IdentityError.
func NewIdentity(c IdentityConfig, gateway string) (*Identity, error) {
	switch c.Mode {
	case "", "none":
		return nil, nil
	case "cloudevents":
		return newEvents(c, gateway)
	case "field":
		return newFields(c)
	case "topic":
		return newTopics(c)
	}
	return nil, &IdentityError{"mode", fmt.Sprintf("identity %q is not in this version", c.Mode), "mode: cloudevents, field or topic"}
}

func newEvents(c IdentityConfig, gateway string) (*Identity, error) {
	if !typeForm.MatchString(c.Type) {
		return nil, &IdentityError{"type", fmt.Sprintf("%q is no type of an event", c.Type), "type: com.example.telemetry"}
	}
	if !sourceForm.MatchString(gateway) {
		return nil, &IdentityError{"mode", "the gateway's name cannot stand in a URI", "gateway: vgw-0001"}
	}
	return &Identity{mode: c.Mode, text: "cloudevents 1.0 " + c.Type + " " + eventSource + gateway,
		head: []byte(`{"specversion":"1.0","id":"`),
		salt: []byte(`","source":"` + eventSource + gateway + `","type":"` + c.Type + `","` + EventSalt + `":"`),
		tail: []byte(`","datacontenttype":"application/json",`)}, nil
}

func newFields(c IdentityConfig) (*Identity, error) {
	names := [3]string{c.IDField, c.SaltField, c.BodyField}
	for i, key := range []string{"id_field", "salt_field", "body_field"} {
		if !memberForm.MatchString(names[i]) {
			return nil, &IdentityError{key, fmt.Sprintf("%q is no name for a member", names[i]), "1 to 64 of A-Z a-z 0-9 _, no digit in front: " + key + ": _sluice_id"}
		}
		if slices.Contains(names[:i], names[i]) {
			return nil, &IdentityError{key, fmt.Sprintf("member %q stands twice", names[i]), "give id_field, salt_field and body_field three names"}
		}
	}
	return &Identity{mode: c.Mode, text: "field " + strings.Join(names[:], " "), names: names,
		head: []byte(`{"` + names[0] + `":"`), salt: []byte(`","` + names[1] + `":"`), tail: []byte(`","` + names[2] + `":`)}, nil
}

// newTopics takes a template of whole levels: a place holder beside other characters of its level could complete what
// devices send to a reserved topic.
func newTopics(c IdentityConfig) (*Identity, error) {
	bad := func(format string, args ...any) (*Identity, error) {
		return nil, &IdentityError{"template", fmt.Sprintf(format, args...), `template: "{topic}/{id}/{salt}"`}
	}
	if len(c.Template) > maxIdentityText || !utf8.ValidString(c.Template) {
		return bad("template has more than %d bytes, or is no text", maxIdentityText)
	}
	levels := strings.Split(c.Template, "/")
	seen := map[string]int{}
	for _, l := range levels {
		switch {
		case l == "{topic}" || l == "{id}" || l == "{salt}":
			seen[l]++
		case strings.ContainsAny(l, "{}"):
			return bad("level %q is neither a place holder nor a name; place holders are {topic}, {id} and {salt}, each a level of its own", l)
		case strings.ContainsAny(l, "+#"):
			return bad("level %q has a wildcard, which no message may be published to", l) // [MQTT-3.3.2-2]
		case strings.Contains(l, "$"):
			return bad("level %q has a $: such topics are reserved", l)
		case strings.ContainsFunc(l, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }):
			return bad("level %q has a control character", l)
		case l == "":
			return bad("template has an empty level")
		}
	}
	for _, must := range []string{"{topic}", "{id}"} {
		if seen[must] == 0 {
			return bad("template has no %s", must)
		}
	}
	for _, l := range levels {
		if seen[l] > 1 {
			return bad("template has %s twice", l)
		}
	}
	return &Identity{mode: c.Mode, text: "topic " + c.Template, levels: levels}, nil
}

// String is the identity in one line, as change records have it.
func (i *Identity) String() string {
	if i == nil {
		return "none"
	}
	return i.text
}

// same reports whether two identities write equal bytes.
func (i *Identity) same(o *Identity) bool { return i == o || i != nil && o != nil && i.text == o.text }

// Salted reports whether the salt leaves with the message, so that the recipient can be asked to check the commitment.
func (i *Identity) Salted() bool {
	return i != nil && (i.mode != "topic" || slices.Contains(i.levels, "{salt}"))
}

// clashes reports whether the body has no room for the members of mode field.
func (i *Identity) clashes(b *Body) bool {
	if i == nil || i.mode != "field" {
		return false
	}
	if len(b.Nodes) == 0 || b.Nodes[0].Kind != Object {
		return true
	}
	for n := int32(1); int(n) < len(b.Nodes); n = b.Nodes[n].Next {
		if key := b.Key(int(n)); string(key) == i.names[0] || string(key) == i.names[1] || string(key) == i.names[2] {
			return true
		}
	}
	return false
}

// Carried is a message as a recipient finds it.
type Carried struct {
	ID      ID
	Salt    [16]byte
	Salted  bool   // the salt came with it
	Payload []byte // as it was decided
}

// outbound is what an identity is written into.
type outbound struct {
	id      ID
	salt    [16]byte
	at      time.Time
	trusted bool
	topic   string
	payload []byte
	clash   bool // mode field has to wrap the payload
}

// appendPayload appends the payload with the identity in it. It allocates only to let dst grow.
func (i *Identity) appendPayload(dst []byte, o *outbound) []byte {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], o.id.Incarnation)
	binary.BigEndian.PutUint64(id[8:], o.id.Counter)
	dst = slices.Grow(dst, len(i.head)+len(i.salt)+len(i.tail)+len(o.payload)+128)
	open := 0
	if i.mode == "field" && !o.clash {
		open = bytes.IndexByte(o.payload, '{') // only white space can stand in front
		dst = append(dst, o.payload[:open]...)
	}
	dst = hex.AppendEncode(append(dst, i.head...), id[:])
	dst = hex.AppendEncode(append(dst, i.salt...), o.salt[:])
	switch {
	case i.mode == "cloudevents":
		dst = append(dst, i.tail...)
		if o.trusted {
			dst = append(dst, `"time":"`...)
			dst = append(o.at.UTC().AppendFormat(dst, eventTime), `",`...)
		}
		dst = append(append(dst, `"data":`...), o.payload...)
		return append(dst, '}')
	case o.clash:
		dst = append(append(dst, i.tail...), o.payload...)
		return append(dst, '}')
	}
	rest := o.payload[open+1:]
	dst = append(dst, '"')
	if next := bytes.TrimLeft(rest, " \t\r\n"); next[0] != '}' {
		dst = append(dst, ',')
	}
	return append(dst, rest...)
}

// outTopic puts the topic into the template.
func (i *Identity) outTopic(o *outbound) string {
	var b strings.Builder
	b.Grow(len(o.topic) + len(i.text) + 64)
	for n, l := range i.levels {
		if n > 0 {
			b.WriteByte('/')
		}
		switch l {
		case "{topic}":
			b.WriteString(o.topic)
		case "{id}":
			b.WriteString(o.id.String())
		case "{salt}":
			b.WriteString(hex.EncodeToString(o.salt[:]))
		default:
			b.WriteString(l)
		}
	}
	return b.String()
}

// identify writes the id into what leaves, behind the output check and before the commit, so that the commitment is to
// the bytes on the wire. Uplinks that share an edit share the outcome only where their identities are the same.
func (s *VersionSet) identify(d *Decision) {
	for u := range d.Uplinks {
		up, identity := &d.Uplinks[u], s.Uplinks[u].Identity
		if up.State != Waiting {
			continue
		}
		up.same = -1
		for v := up.edited; v < u; v++ {
			if o := &d.Uplinks[v]; o.State == Waiting && o.same < 0 && o.edited == up.edited && identity.same(s.Uplinks[v].Identity) {
				up.Topic, up.Payload, up.same = o.Topic, o.Payload, v
				break
			}
		}
		if identity == nil || up.same >= 0 {
			continue
		}
		if why := d.wrap(up, identity, s.Uplinks[u].Number, up.clash.Has(u)); why != NoReason {
			up.State, up.Action, up.Reason, up.Topic, up.Payload = Blocked, Block, why, "", nil
			d.Action = Stricter(d.Action, Block)
		}
	}
}

// wrap replaces topic and payload of one uplink by what carries the id.
func (d *Decision) wrap(up *UplinkDecision, identity *Identity, number int, clash bool) Reason {
	o := outbound{id: d.Message.ID, at: d.Now, trusted: d.Trusted, topic: up.Topic, payload: up.Payload, clash: clash}
	if identity.Salted() {
		up.salt, up.salted = SaltFor(&d.salt, number), true
		o.salt = up.salt
	}
	if identity.mode == "topic" {
		if up.Topic = identity.outTopic(&o); len(up.Topic) > maxTopic {
			return ReasonTopic
		}
		return NoReason
	}
	if d.Body.Encoding != JSON {
		return ReasonInternal // nothing else leaves: plan blocks it
	}
	from := len(d.arena)
	out := identity.appendPayload(d.arena, &o)
	d.arena, up.Payload = out, out[from:len(out):len(out)]
	return NoReason
}

// clashes finds the uplinks whose identity finds no room in the outbound body b.
func (s *VersionSet) clashes(b *Body) (set UplinkSet) {
	for u := range s.Uplinks {
		if s.Uplinks[u].Identity.clashes(b) {
			set |= 1 << u
		}
	}
	return set
}

// SaltFor is the salt that leaves with a message, made of the message's own, which stays: a recipient who sees the record
// could otherwise try out what was removed against the commitment to the input, and what another uplink got against
// that to it. number is that of the first uplink that gets these bytes.
func SaltFor(salt *[16]byte, number int) (out [16]byte) {
	sum := Commitment("sluice salt v1", salt, []byte{byte(number)})
	copy(out[:], sum[:])
	return out
}

// ErrNoIdentity reports a message that does not carry an id the way it should.
var ErrNoIdentity = errors.New("message carries no id")

// Read finds id, salt and payload in a message as it left, without the uplink's prefix. The error is ErrNoIdentity.
// Topic and payload are whatever a recipient hands in: only the commitment shows that they are what left.
func (i *Identity) Read(topic string, payload []byte) (c Carried, err error) {
	if i == nil {
		return c, ErrNoIdentity
	}
	id, salt, ok := "", "", false
	switch i.mode {
	case "topic":
		id, salt, ok = i.readTopic(topic)
		c.Payload = payload
	case "cloudevents":
		members, valid := members(payload)
		if id, ok = members.text("id"); ok {
			salt, _ = members.text(EventSalt)
		}
		if data, found := members["data"]; found && valid {
			c.Payload = payload[data.from:data.to]
		} else {
			ok = false
		}
	case "field":
		id, salt, c.Payload, ok = i.readFields(payload)
	}
	if !ok {
		return Carried{}, ErrNoIdentity
	}
	if c.ID, err = ParseID(id); err != nil || c.ID.String() != id {
		return Carried{}, ErrNoIdentity
	}
	if raw, err := hex.DecodeString(salt); err == nil && len(raw) == len(c.Salt) {
		c.Salted = copy(c.Salt[:], raw) == len(raw)
	}
	return c, nil
}

// readTopic takes the template off a topic.
func (i *Identity) readTopic(topic string) (id, salt string, ok bool) {
	levels, at := strings.Split(topic, "/"), 0
	more := len(levels) - len(i.levels) // levels of the topic beyond the first
	if more < 0 {
		return "", "", false
	}
	for _, l := range i.levels {
		switch l {
		case "{topic}":
			at += more
		case "{id}":
			id = levels[at]
		case "{salt}":
			salt = levels[at]
		default:
			if levels[at] != l {
				return "", "", false
			}
		}
		at++
	}
	return id, salt, true
}

// readFields takes the members off a body.
func (i *Identity) readFields(payload []byte) (id, salt string, bare []byte, ok bool) {
	members, valid := members(payload)
	id, ok = members.text(i.names[0])
	if !ok || !valid {
		return "", "", nil, false
	}
	salt, _ = members.text(i.names[1])
	if body, wrapped := members[i.names[2]]; wrapped {
		return id, salt, payload[body.from:body.to], true
	}
	// What was put in front begins behind the brace and ends behind the salt, or behind the comma that follows it.
	last, at := members[i.names[1]], bytes.IndexByte(payload, '{')+1
	if !bytes.HasPrefix(payload[at:], i.head[1:]) || last.to < at {
		return id, salt, payload, true // somebody wrote it anew: the commitment will tell
	}
	rest := payload[last.to:]
	rest = bytes.TrimPrefix(rest, []byte{','})
	return id, salt, append(slices.Clone(payload[:at]), rest...), true
}

// value is where a member's value stands.
type value struct {
	from, to int
	raw      []byte
}

// objectMembers are the members of an object by name.
type objectMembers map[string]value

// text returns a member that is a string.
func (m objectMembers) text(name string) (s string, ok bool) {
	v, ok := m[name]
	return s, ok && len(v.raw) > 0 && v.raw[0] == '"' && json.Unmarshal(v.raw, &s) == nil
}

// members lists the members of the JSON object that text is; ok is false for everything else, also when a name stands
// twice in it: which of the two a recipient takes nobody knows.
func members(text []byte) (objectMembers, bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	m := objectMembers{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		var raw json.RawMessage
		if d.Decode(&raw) != nil {
			return nil, false
		}
		key := name.(string)
		if _, twice := m[key]; twice {
			return nil, false
		}
		to := int(d.InputOffset())
		m[key] = value{to - len(raw), to, raw}
	}
	if _, err := d.Token(); err != nil {
		return nil, false
	}
	_, err := d.Token()
	return m, err == io.EOF
}
