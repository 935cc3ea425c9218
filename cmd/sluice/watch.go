package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/protocols/payload"
)

// watch looks at traffic before a gateway is in its way.
type watch struct {
	from, topic        string
	length             time.Duration
	count              int
	user, passwordFile string
}

func (w *watch) defaultLength() time.Duration { return 30 * time.Second }

// hint says what to try after an error.
func (w *watch) hint() string {
	if strings.Contains(w.from, "://") {
		return "name a broker that devices publish to, and see what comes with: mosquitto_sub -h HOST -p PORT -t '" + w.topic + "' -C 1"
	}
	return `a line is {"source":"…","topic":"…","payload_base64":"…"}`
}

// run watches until the time is over, the count reached, the file read or the program interrupted.
func (w *watch) run(catalogName string, stdin io.Reader, progress io.Writer) (*sighting, error) {
	shippedCatalog, err := catalog.Builtin(catalogName)
	if err != nil {
		return nil, err
	}
	classifier, err := catalog.New(shippedCatalog)
	if err != nil {
		return nil, err
	}
	s := newSighting(classifier, w.count)
	switch {
	case strings.Contains(w.from, "://"):
		err = w.subscribe(s, progress)
	case w.from == "-":
		err = s.readLines(stdin)
	default:
		file, ferr := os.Open(w.from)
		if ferr != nil {
			return nil, fmt.Errorf("read %q: %w", w.from, errors.Unwrap(ferr))
		}
		defer file.Close()
		err = s.readLines(file)
	}
	if err == nil && s.messages == 0 {
		err = fmt.Errorf("watch %s: no message came", w.from)
	}
	return s, err
}

// subscribe listens at a broker. It writes one progress line, over and over, and no value.
func (w *watch) subscribe(s *sighting, progress io.Writer) error {
	u, err := url.Parse(w.from)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return fmt.Errorf("watch: address is not mqtt://HOST:PORT; user and password have flags of their own")
	}
	scheme, port := "tcp", "1883"
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "tls":
		scheme, port = "ssl", "8883"
	default:
		return fmt.Errorf("watch: scheme %q is none of mqtt, mqtts", u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if !gateway.ValidTopicFilter(w.topic) {
		return fmt.Errorf("watch: %q is no topic filter", w.topic)
	}
	options := paho.NewClientOptions().AddBroker(scheme + "://" + u.Hostname() + ":" + port).SetClientID("sluice-init-" + randomHex()).
		SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(10 * time.Second).SetTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12})
	if w.user != "" {
		options.SetUsername(w.user)
	}
	if w.passwordFile != "" {
		password, err := os.ReadFile(w.passwordFile)
		if err != nil {
			return fmt.Errorf("read password file: %w", errors.Unwrap(err))
		}
		options.SetPassword(strings.TrimRight(string(password), "\r\n"))
	}
	ctx, stop := signalContext()
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, w.length, nil)
	defer cancel()
	lost := make(chan error, 1)
	options.SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err })
	client := paho.NewClient(options)
	if token := client.Connect(); token.Wait() && token.Error() != nil {
		return fmt.Errorf("connect to %s: %s", u.Host, strings.TrimPrefix(token.Error().Error(), "network Error : "))
	}
	defer client.Disconnect(100)
	token := client.Subscribe(w.topic, 0, func(_ paho.Client, m paho.Message) {
		if !gateway.ReservedTopic(m.Topic()) { // what gates say themselves is no device's
			s.note(m.Topic(), m.Payload())
		}
	})
	if token.Wait() && token.Error() != nil {
		return fmt.Errorf("subscribe at %s: %w", u.Host, token.Error())
	}
	if granted := token.(*paho.SubscribeToken).Result()[w.topic]; granted == 0x80 { // [MQTT-3.9.3-2]
		return fmt.Errorf("subscribe at %s: refused: not allowed, or a gate and no broker", u.Host)
	}
	start, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	defer fmt.Fprintln(progress)
	for {
		fmt.Fprintf(progress, "\rwatching %s, %2.0fs: %s ", u.Host, time.Since(start).Seconds(), s.progress())
		select {
		case <-tick.C:
		case <-s.enough:
			return nil
		case <-ctx.Done():
			return nil
		case err := <-lost:
			return fmt.Errorf("watch %s: connection lost: %w", u.Host, err)
		}
	}
}

func randomHex() string {
	var b [6]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// Bounds of what is remembered.
const (
	maxSightings = 2000
	maxDistinct  = 1000
)

// sighting is what a watch saw: names and counts, never a value.
type sighting struct {
	classifier *catalog.Classifier
	seed       maphash.Seed
	enough     chan struct{} // closed when count messages came

	mu         sync.Mutex // guards what follows
	count      int
	messages   int
	opaque     int
	topics     map[string]int
	categories map[uint16]*categorySeen
	unknown    map[string]*fieldSeen
	body       gateway.Body
	class      gateway.Classification
}

// categorySeen counts one category of the shipped catalog.
type categorySeen struct{ findings, detected int }

// fieldSeen is one name that no catalog knows.
type fieldSeen struct {
	times    int
	kinds    map[gateway.Kind]int
	topics   map[string]int
	distinct map[uint64]struct{}
	like     []string // categories that the name suggests
}

func newSighting(classifier *catalog.Classifier, count int) *sighting {
	return &sighting{classifier: classifier, seed: maphash.MakeSeed(), enough: make(chan struct{}), count: count,
		topics: map[string]int{}, categories: map[uint16]*categorySeen{}, unknown: map[string]*fieldSeen{}}
}

// readLines reads NDJSON as filter takes it.
func (s *sighting) readLines(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for n := 1; lines.Scan(); n++ {
		var line struct {
			Topic   string `json:"topic"`
			Payload string `json:"payload_base64"`
		}
		if len(strings.TrimSpace(lines.Text())) == 0 {
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("read line %d: no JSON object", n)
		}
		body, err := base64.StdEncoding.DecodeString(line.Payload)
		if err != nil || line.Topic == "" {
			return fmt.Errorf("read line %d: want topic and payload_base64", n)
		}
		s.note(line.Topic, body)
	}
	return lines.Err()
}

// note looks at one message. It is safe for concurrent use and keeps nothing of it but names and counts.
func (s *sighting) note(topic string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &gateway.Message{Source: "init", Protocol: gateway.MQTT, Topic: topic, Payload: body, Received: time.Now()}
	if (payload.JSON{}).Decode(body, &s.body) != nil {
		s.opaque++
	}
	s.class.Reset()
	s.classifier.Classify(m, &s.body, &s.class)
	if s.messages++; s.messages == s.count {
		close(s.enough)
	}
	hidden := map[int32]bool{} // topic levels and keys that are data themselves
	hiddenKeys := map[int32]bool{}
	for _, f := range s.class.Findings {
		switch f.Place.Kind {
		case gateway.AtTopic:
			hidden[f.Place.Index] = true
		case gateway.AtKey:
			hiddenKeys[f.Place.Index] = true
		}
		seen := s.categories[f.Category]
		if seen == nil {
			seen = &categorySeen{}
			s.categories[f.Category] = seen
		}
		seen.findings++
		if f.By == gateway.ByDetector {
			seen.detected++
		}
	}
	pattern := topicPattern(topic, hidden)
	if len(s.topics) < maxSightings || s.topics[pattern] > 0 {
		s.topics[pattern]++
	}
	for _, i := range s.class.Unknown {
		s.noteUnknown(int(i), pattern, hiddenKeys)
	}
}

// noteUnknown counts one leaf that no catalog knows, by its name or that of the list it stands in.
func (s *sighting) noteUnknown(i int, topic string, hiddenKeys map[int32]bool) {
	leaf := i
	for i >= 0 && !s.body.HasKey(i) {
		i = int(s.body.Nodes[i].Parent)
	}
	name := "(no name)"
	if i >= 0 {
		name = fieldName(string(s.body.Key(i)), hiddenKeys[int32(i)])
	}
	f := s.unknown[name]
	if f == nil {
		if len(s.unknown) >= maxSightings {
			return
		}
		f = &fieldSeen{kinds: map[gateway.Kind]int{}, topics: map[string]int{}, distinct: map[uint64]struct{}{}, like: s.classifier.Suggest(&s.body, leaf)}
		s.unknown[name] = f
	}
	f.times++
	f.kinds[s.body.Nodes[leaf].Kind]++
	if len(f.topics) < 100 {
		f.topics[topic]++
	}
	if len(f.distinct) < maxDistinct {
		f.distinct[maphash.Bytes(s.seed, s.body.Text(leaf))] = struct{}{}
	}
}

// topicPattern hides the levels of a topic that are or may be data: those with a finding, and those with a digit behind
// the first level.
func topicPattern(topic string, hidden map[int32]bool) string {
	levels := strings.Split(topic, "/")
	for i, l := range levels {
		if hidden[int32(i)] || i > 0 && strings.ContainsAny(l, "0123456789") || len(l) > 40 || !printable(l) {
			levels[i] = "+"
		}
	}
	return strings.Join(levels, "/")
}

// fieldName is a key as a catalog names it, or a star for keys that are or may be data.
func fieldName(key string, hidden bool) string {
	digits := 0
	for _, c := range key {
		if unicode.IsDigit(c) {
			digits++
		}
	}
	if hidden || digits > 4 || len(key) > 48 || key == "" || !printable(key) {
		return "(key that may be data)"
	}
	var b strings.Builder
	lower := false
	for _, c := range key {
		switch {
		case c == '.' || c == '-' || c == ' ':
			c = '_'
		case unicode.IsUpper(c) && lower:
			b.WriteByte('_')
		}
		lower = unicode.IsLower(c) || unicode.IsDigit(c)
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("_-. $@", c)
	})
}

// progress is the end of the progress line.
func (s *sighting) progress() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	categories := count(len(s.categories), "category")
	if len(s.categories) != 1 {
		categories = fmt.Sprintf("%d categories", len(s.categories))
	}
	return fmt.Sprintf("%s, %s, %s known, %s unknown", count(s.messages, "message"), count(len(s.topics), "topic"), categories, count(len(s.unknown), "field"))
}
