package main

import (
	"bufio"
	"cmp"
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
	"slices"
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
func (w *watch) hint(err error) string {
	if strings.Contains(w.from, "://") {
		return "check the address with: mosquitto_sub -h HOST -p PORT -t '#' -C 1"
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
		return fmt.Errorf("connect to %s: %w", u.Host, token.Error())
	}
	defer client.Disconnect(100)
	token := client.Subscribe(w.topic, 0, func(_ paho.Client, m paho.Message) { s.note(m.Topic(), m.Payload()) })
	if token.Wait() && token.Error() != nil {
		return fmt.Errorf("subscribe at %s: %w", u.Host, token.Error())
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
	return fmt.Sprintf("%s, %s, %s known, %s unknown", count(s.messages, "message"), count(len(s.topics), "topic"), count(len(s.categories), "category"), count(len(s.unknown), "field"))
}

// byCount orders names by how often they were seen, then by name.
func byCount[K cmp.Ordered, V any](m map[K]V, times func(V) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int {
		return cmp.Or(cmp.Compare(times(m[b]), times(m[a])), cmp.Compare(a, b))
	})
	return keys
}

// summary says what was seen, for the terminal.
func (s *sighting) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "saw %s, %d of them opaque\n", count(s.messages, "message"), s.opaque)
	for _, t := range firstOf(byCount(s.topics, func(n int) int { return n }), 20) {
		fmt.Fprintf(&b, "  topic %s: %d\n", t, s.topics[t])
	}
	cats := s.classifier.Categories()
	for _, c := range byCount(s.categories, func(v *categorySeen) int { return v.findings }) {
		fmt.Fprintf(&b, "  known %s (%s): %s, %d by a detector alone\n", cats[c].ID, cats[c].Name, count(s.categories[c].findings, "finding"), s.categories[c].detected)
	}
	for _, n := range firstOf(byCount(s.unknown, func(f *fieldSeen) int { return f.times }), 40) {
		fmt.Fprintf(&b, "  unknown %s: %s\n", n, s.unknown[n].line())
	}
	return b.String()
}

func firstOf[T any](list []T, n int) []T { return list[:min(n, len(list))] }

// line describes a field without a value.
func (f *fieldSeen) line() string {
	var kinds []string
	for _, k := range byCount(f.kinds, func(n int) int { return n }) {
		kinds = append(kinds, kindNames[k])
	}
	distinct := fmt.Sprint(len(f.distinct))
	if len(f.distinct) >= maxDistinct {
		distinct += " or more"
	}
	return fmt.Sprintf("%s, %s, %s different, on %s", count(f.times, "time"), strings.Join(kinds, " or "), distinct,
		strings.Join(firstOf(byCount(f.topics, func(n int) int { return n }), 3), " "))
}

var kindNames = map[gateway.Kind]string{gateway.String: "text", gateway.Number: "number", gateway.Bool: "truth value", gateway.Null: "null", gateway.Bytes: "bytes"}

// policy proposes rows for the categories that were seen, each with the handling that its catalog advises. What was not
// seen is removed.
func (s *sighting) policy() string {
	var b strings.Builder
	b.WriteString("  - { match: { grade: core }, action: block }\n  - { match: { grade: important }, action: block }   # they need an approval\n")
	cats := s.classifier.Categories()
	for _, c := range byCount(s.categories, func(v *categorySeen) int { return v.findings }) {
		if k := &cats[c]; k.Grade == gateway.General {
			fmt.Fprintf(&b, "  - { match: { category: %s }, %s }   # %s: %s; advice: %s\n", k.ID, adviceAction[k.Handling], k.Name, count(s.categories[c].findings, "finding"), cmp.Or(k.Handling, "none"))
		}
	}
	b.WriteString("  - { match: {}, action: remove }   # what was not seen stays until somebody decides\n")
	return b.String()
}

// adviceAction turns a catalog's advice into a row; what has no safe equivalent is removed.
var adviceAction = map[string]string{
	"": "action: remove", "pass": "action: pass", "mask": "action: tokenize, domain: @DOMAIN@", "tokenize": "action: tokenize, domain: @DOMAIN@",
	"generalize": "action: generalize, decimals: 2", "encrypt": "action: encrypt, to: @RECIPIENT@",
	"remove": "action: remove", "hold": "action: remove", "block": "action: remove",
}

// catalog proposes entries for the fields that nobody knows, all of them commented out: until somebody decides, they
// stay unknown and do not leave.
func (s *sighting) catalog() string {
	var b strings.Builder
	b.WriteString("# Fields that no catalog knows. They stay until you decide: remove the # in front of an entry, set grade and flags, say\n" +
		"# who decided and why (basis), and add this file to catalogs in sluice.yaml. Then: sluice lint " + siteCatalog + "\n\n" +
		"version: 1\nname: site\ntitle: Catalog of this site\ncategories:\n")
	for i, name := range byCount(s.unknown, func(f *fieldSeen) int { return f.times }) {
		fmt.Fprintf(&b, "# %s: %s\n", name, s.unknown[name].line())
		if strings.HasPrefix(name, "(") {
			continue
		}
		like := s.unknown[name].like
		if len(like) > 0 {
			fmt.Fprintf(&b, "# reads like a field of %s, and is graded and handled here as the strictest of them\n", strings.Join(like, ", "))
		}
		k := s.strictest(like)
		fmt.Fprintf(&b, "#  - id: %s\n#    name: %q\n#    class: site\n#    grade: %s\n#    personal: %t\n#    sensitive: %t\n#    basis: \"…\"\n#    match: { names: [%q] }\n#    handling: { default: %s }\n",
			siteID(name, i), name, k.Grade, k.Personal, k.Sensitive, name, k.Handling)
	}
	return b.String()
}

// strictest joins categories into one that is at least as strict as each: general and passed when there is none.
func (s *sighting) strictest(ids []string) gateway.Category {
	joined := gateway.Category{Grade: gateway.General, Handling: "pass"}
	for _, c := range s.classifier.Categories() {
		if !slices.Contains(ids, c.ID) {
			continue
		}
		joined.Grade = gateway.Highest(joined.Grade, c.Grade)
		joined.Personal, joined.Sensitive = joined.Personal || c.Personal, joined.Sensitive || c.Sensitive
		have, err := gateway.ParseAction(joined.Handling)
		advised, err2 := gateway.ParseAction(c.Handling)
		if err == nil && err2 == nil {
			joined.Handling = gateway.Stricter(have, advised).String()
		}
	}
	if joined.Grade == gateway.Ungraded {
		joined.Grade = gateway.Core
	}
	return joined
}

// siteID is a category id for a field: its name where that is ASCII, else its number.
func siteID(name string, i int) string {
	id := strings.Trim(strings.ToUpper(strings.ReplaceAll(name, "_", "-")), "-")
	if id == "" || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
		id = fmt.Sprintf("FIELD-%d", i+1)
	}
	return "SITE-" + id
}

// filters proposes topic filters that let in what was seen: the first levels of the topics.
func (s *sighting) filters() []string {
	var list []string
	for _, t := range byCount(s.topics, func(n int) int { return n }) {
		first, _, more := strings.Cut(t, "/")
		if first == "+" || first == "" || len(list) >= 8 {
			return []string{"#"}
		}
		if more {
			first += "/#"
		}
		if !slices.Contains(list, first) {
			list = append(list, first)
		}
	}
	return list
}
