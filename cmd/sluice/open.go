package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/seal"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/protocols/payload"
)

const (
	maxOpenBody    = 16 << 20 // bytes of one line or body
	maxOpenReports = 20       // fields that are named on standard error
)

// cmdOpen decrypts, on the cloud side, what was encrypted for one recipient.
func cmdOpen(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("open", "--key FILE [--epochs FILE] [--body-field NAME] [--jwk] < MESSAGES")
	keyFile := fs.String("key", "", "private key `file` of the recipient")
	epochs := fs.String("epochs", "", "`file` of epoch messages: raw, or lines with topic and payload_base64")
	bodyField := fs.String("body-field", "_sluice_body", "identity.body_field of the uplink, the `member` around bodies without room for an id")
	jwk := fs.Bool("jwk", false, "print the epoch keys as a JWK set, for other JOSE software, and read no messages")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	const example = "for example: sluice open --key oem-dso.key --epochs epochs.ndjson < messages.ndjson"
	switch {
	case len(rest) > 0:
		return usage(stderr, fmt.Errorf("open: unexpected argument %q", rest[0]), "messages are read from standard input", example)
	case *keyFile == "":
		return usage(stderr, errors.New("open: --key is needed"), example)
	case *jwk && *epochs == "":
		return usage(stderr, errors.New("open: --jwk needs --epochs"), "for example: sluice open --key oem-dso.key --epochs epochs.ndjson --jwk")
	}
	o, err := newOpening(*keyFile, stdout, stderr)
	if err != nil {
		return fail(stderr, err, keyHint(err, "DIR"))
	}
	o.bodyField = *bodyField
	if *epochs != "" {
		if err := o.learnFile(*epochs); err != nil {
			return fail(stderr, err, "epoch messages are retained on …/$sluice/epoch/RECIPIENT/EPOCH")
		}
	}
	if *jwk {
		return o.printKeys(stderr)
	}
	if err := o.run(stdin); err != nil {
		return fail(stderr, err)
	}
	return o.summary()
}

// opening is one run of open.
type opening struct {
	opener *seal.Opener
	keyID  string
	codec  gateway.Codec

	bodyField string // identity.body_field of the uplink

	line   gateway.Body // the envelope
	body   gateway.Body
	out    *bufio.Writer
	stderr io.Writer

	number  int // of the message, from 1
	sealed  int // what could not be opened
	unknown bool
	garbled bool
}

func newOpening(keyFile string, stdout, stderr io.Writer) (*opening, error) {
	key, err := keyring.ReadPrivate(keyFile)
	if err != nil {
		return nil, err
	}
	defer key.Destroy()
	if key.Use != keyring.Recipient {
		return nil, fmt.Errorf("read key %q: a key for %s, not for recipient", keyFile, key.Use)
	}
	private, err := seal.ParsePrivateKey(key.Secret())
	if err != nil {
		return nil, err
	}
	return &opening{opener: seal.NewOpener(private), keyID: key.ID, codec: payload.JSON{MaxBytes: maxOpenBody},
		out: bufio.NewWriter(stdout), stderr: stderr}, nil
}

// report names what stays sealed, and why.
func (o *opening) report(where string, err error) {
	o.sealed++
	o.unknown = o.unknown || errors.Is(err, seal.ErrUnknownEpoch)
	o.garbled = o.garbled || err == errUnreadable
	if o.sealed <= maxOpenReports {
		fmt.Fprintf(o.stderr, "sluice: error: open message %d%s: %v\n", o.number, where, err)
	}
}

// summary ends the reports and returns the exit status.
func (o *opening) summary() int {
	if o.sealed == 0 {
		return exitGood
	}
	if more := o.sealed - maxOpenReports; more > 0 {
		fmt.Fprintf(o.stderr, "sluice: error: open messages: %d more\n", more)
	}
	if o.unknown {
		fmt.Fprintln(o.stderr, "sluice: hint: give the epoch messages, retained on …/$sluice/epoch/RECIPIENT/EPOCH, with --epochs FILE")
	}
	if o.garbled {
		fmt.Fprintln(o.stderr, `sluice: hint: a message is its JSON body alone (mosquitto_sub without -v), or a line {"topic":"…","payload_base64":"…"}`)
	}
	return exitBad
}

// learnFile reads the epoch messages of a file, which may hold other messages too.
func (o *opening) learnFile(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read epochs: %w", err)
	}
	defer f.Close()
	bodies, found, foreign := newBodies(f), 0, 0
	for {
		text, err := bodies.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read epochs: %w", err)
		}
		if env, ok := o.envelope(text); ok {
			text = env.payload
		}
		switch err := o.learn(text, "", ""); {
		case err == nil:
			found++
		case err == seal.ErrOpen:
			foreign++
		case !errors.Is(err, seal.ErrNotEpoch):
			o.sealed++
			fmt.Fprintf(o.stderr, "sluice: error: read epochs: %v\n", err)
		}
	}
	if found == 0 {
		return fmt.Errorf("read epochs %q: none for this key, %d for others", file, foreign)
	}
	return nil
}

var errEpochTopic = errors.New("an epoch message on the topic of another epoch")

// learn takes in an epoch message; recipient and epoch are those of its topic, if it came with one. The error is
// seal.ErrOpen itself when the message is for another recipient, and wraps it when it should have been for this one.
func (o *opening) learn(message []byte, recipient, epoch string) error {
	e, r, err := o.opener.Learn(message)
	if e != "" && epoch != "" && (e != epoch || r != recipient) {
		return errEpochTopic
	}
	if errors.Is(err, seal.ErrOpen) && r == o.keyID {
		return fmt.Errorf("epoch of %s: %w", r, err)
	}
	return err
}

// printKeys prints the epoch keys that were learned. [RFC 7517 §5, RFC 7518 §6.4]
func (o *opening) printKeys(stderr io.Writer) int {
	type key struct {
		KTY string `json:"kty"`
		KID string `json:"kid"`
		Use string `json:"use"`
		Alg string `json:"alg"`
		K   string `json:"k"`
	}
	var keys []key
	for _, k := range o.opener.Keys() {
		keys = append(keys, key{"oct", k.Epoch, "enc", "A256GCM", base64.RawURLEncoding.EncodeToString(k.Key[:])})
	}
	status := printJSON(o.out, stderr, map[string]any{"keys": keys})
	if err := o.out.Flush(); err != nil {
		return fail(stderr, fmt.Errorf("write keys: %w", err))
	}
	return max(status, o.summary())
}

// run opens one message after the other, each written before the next is read.
func (o *opening) run(in io.Reader) error {
	bodies := newBodies(in)
	for {
		text, err := bodies.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read messages: %w", err)
		}
		o.number++
		opened := text
		if env, ok := o.envelope(text); ok {
			opened = o.openEnvelope(text, env)
		} else if !o.tryLearn(text, "", "") {
			opened = o.openBody(text)
		}
		if _, err := o.out.Write(opened); err != nil {
			return fmt.Errorf("write messages: %w", err)
		}
		if err := o.out.Flush(); err != nil {
			return fmt.Errorf("write messages: %w", err)
		}
	}
}

// tryLearn learns from what may be an epoch message and reports whether it is one.
func (o *opening) tryLearn(text []byte, recipient, epoch string) bool {
	if epoch == "" && !bytes.Contains(text, []byte(`"X-Wing"`)) {
		return false
	}
	err := o.learn(text, recipient, epoch)
	switch {
	case err == nil, err == seal.ErrOpen: // for another recipient
	case errors.Is(err, seal.ErrNotEpoch) && epoch == "":
		return false
	default:
		o.report("", err)
	}
	return true
}

// envelope is a line that carries a message.
type envelope struct {
	topic   string
	payload []byte       // nil when it is not base64
	at      gateway.Span // the value of payload_base64, with its quotes
}

// envelope reads a line that is an object with the texts topic and payload_base64; ok is false for everything else.
func (o *opening) envelope(text []byte) (env envelope, ok bool) {
	if !bytes.Contains(text, []byte(`"payload_base64"`)) || o.codec.Decode(text, &o.line) != nil || o.line.Nodes[0].Kind != gateway.Object {
		return env, false
	}
	topic, data := false, false
	for i := int32(1); int(i) < len(o.line.Nodes); i = o.line.Nodes[i].Next {
		n := &o.line.Nodes[i]
		switch key := string(o.line.Key(int(i))); {
		case n.Kind != gateway.String:
		case key == "topic":
			env.topic, topic = string(o.line.Text(int(i))), true
		case key == "payload_base64":
			raw, err := base64.StdEncoding.AppendDecode([]byte{}, o.line.Text(int(i)))
			if err != nil {
				raw = nil
			}
			env.payload, env.at, data = raw, n.Value, true
		}
	}
	return env, topic && data
}

// openEnvelope returns the line with the opened payload in it, and all else as it was.
func (o *opening) openEnvelope(line []byte, env envelope) []byte {
	if env.payload == nil {
		o.report("", errors.New("payload_base64 is not base64"))
		return line
	}
	if recipient, epoch, ok := epochTopic(env.topic); ok {
		if len(env.payload) > 0 { // an empty one clears the topic
			o.tryLearn(env.payload, recipient, epoch)
		}
		return line
	}
	opened := o.openBody(env.payload)
	if bytes.Equal(opened, env.payload) {
		return line
	}
	out := append([]byte{}, line[:env.at.Off+1]...)
	out = base64.StdEncoding.AppendEncode(out, opened)
	return append(out, line[env.at.End()-1:]...)
}

// epochTopic takes the reserved topic of an epoch apart.
func epochTopic(topic string) (recipient, epoch string, ok bool) {
	_, rest, ok := cutLast(topic, "/$sluice/epoch/")
	if !ok {
		return "", "", false
	}
	recipient, epoch, ok = strings.Cut(rest, "/")
	return recipient, epoch, ok && recipient != "" && epoch != "" && !strings.Contains(epoch, "/")
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// around is the pointer of the body within what the uplink's identity put around it, "" where it put nothing.
func (o *opening) around() string {
	if o.body.Nodes[0].Kind != gateway.Object {
		return ""
	}
	event, salt, field := false, false, ""
	for i := int32(1); int(i) < len(o.body.Nodes); i = o.body.Nodes[i].Next {
		switch key := string(o.body.Key(int(i))); key {
		case "specversion":
			event = true
		case gateway.EventSalt:
			salt = true
		case o.bodyField:
			field = o.body.Pointer(int(i))
		}
	}
	if event && salt {
		return "/data"
	}
	return field
}

var errUnreadable = errors.New("holds encrypted fields but cannot be read as JSON")

// openBody returns the body with every field opened that this key may open, and all else as it was.
func (o *opening) openBody(raw []byte) []byte {
	if o.codec.Decode(raw, &o.body) != nil {
		if seal.Contains(raw) {
			o.report("", errUnreadable)
		}
		return raw
	}
	var out []byte
	done := int32(0)
	fields, around := o.opener.Message(), o.around()
	for i := range o.body.Nodes {
		n := &o.body.Nodes[i]
		if n.Kind != gateway.String || !seal.Sealed(o.body.Text(i)) {
			continue
		}
		pointer := o.body.Pointer(i)
		value, err := fields.Open(pointer, o.body.Text(i))
		if inner, ok := strings.CutPrefix(pointer, around); ok && around != "" && errors.Is(err, seal.ErrMoved) {
			value, err = fields.Open(inner, o.body.Text(i)) // fields are bound to their place in the body as it was decided
		}
		if errors.Is(err, seal.ErrForeign) {
			continue
		}
		if err == nil && !json.Valid(value) {
			err = errors.New("what is inside is not JSON")
		}
		if err != nil {
			o.report(" at "+pointer, err)
			continue
		}
		out = append(append(out, raw[done:n.Value.Off]...), value...)
		done = n.Value.End()
	}
	if done == 0 {
		return raw
	}
	return append(out, raw[done:]...)
}

// bodies splits a stream into bodies: a line each, but an object or array that runs over several lines is one.
type bodies struct {
	r   *bufio.Reader
	buf []byte
}

func newBodies(r io.Reader) *bodies { return &bodies{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next body with the white space behind it, valid until the next call; io.EOF behind the last one.
// Nothing is lost: the bodies in a row are the stream.
func (b *bodies) next() ([]byte, error) {
	b.buf = b.buf[:0]
	var n nesting
	for {
		part, err := b.r.ReadSlice('\n')
		b.buf = append(b.buf, part...)
		if len(b.buf) > maxOpenBody {
			return nil, fmt.Errorf("a body of more than %d bytes", maxOpenBody)
		}
		n.scan(part)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF && len(b.buf) == 0:
			return nil, io.EOF
		case err != nil && err != io.EOF:
			return nil, err
		case err == io.EOF, !n.open():
			return b.buf, nil
		}
	}
}

// nesting follows the brackets of a JSON text just far enough to know where it ends.
type nesting struct {
	started, text, escaped, broken bool
	depth                          int
}

func (n *nesting) open() bool { return n.depth > 0 && !n.broken }

func (n *nesting) scan(part []byte) {
	for _, c := range part {
		switch {
		case n.broken:
			return
		case n.escaped:
			n.escaped = false
		case n.text:
			n.escaped = c == '\\'
			n.text = c != '"'
			n.broken = c == '\n' // no JSON text has a line end in a string
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
		case !n.started && c != '{' && c != '[':
			n.broken = true // no container: the line is the body
		case c == '"':
			n.text = true
		case c == '{' || c == '[':
			n.started = true
			n.depth++
		case c == '}' || c == ']':
			n.depth--
		}
	}
}
