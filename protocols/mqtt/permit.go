package mqtt

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/sluice-edge/sluice/gateway"
)

// reservedLevel marks the gateway's own topics.
const reservedLevel = "$sluice"

// reservedTopic reports whether devices may never publish there: the gateway's own topics, and those that begin with $,
// which belong to servers.
func reservedTopic(topic string) bool {
	if strings.HasPrefix(topic, "$") {
		return true
	}
	for rest, more := topic, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if level == reservedLevel {
			return true
		}
	}
	return false
}

// The bounds of a topic that every broker takes: EMQX takes 128 levels, mosquitto 200; EMQX 4 takes 4096 bytes.
const (
	maxTopicBytes  = 4096
	maxTopicLevels = 128
)

// travels reports whether brokers take a message on the topic: it is not too long or deep and has neither control
// characters nor noncharacters, over which a receiver may close the connection. [MQTT-1.5.3] One that a broker in the
// cloud does not take would hold up everything behind it, because 3.1.1 has no other answer there either.
func travels(topic string) bool {
	if len(topic) > maxTopicBytes || strings.Count(topic, "/") >= maxTopicLevels {
		return false
	}
	for _, r := range topic {
		if unicode.IsControl(r) || r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE {
			return false
		}
	}
	return true
}

// permits collects the topic filters that the rules allow a client; empty means that it may publish nothing.
func permits(rules []AllowRule, client, user string) []string {
	var filters []string
	for _, r := range rules {
		if globMatches(r.Client, client) && (r.User == "" || globMatches(r.User, user)) {
			filters = append(filters, r.Publish...)
		}
	}
	return filters
}

// permitted reports whether one of the filters allows the topic.
func permitted(filters []string, topic string) bool {
	if reservedTopic(topic) {
		return false
	}
	for _, f := range filters {
		if gateway.TopicMatches(f, topic) {
			return true
		}
	}
	return false
}

// globMatches reports whether s matches a pattern in which * stands for any run of characters.
func globMatches(pattern, s string) bool {
	head, tail, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, rest, more := strings.Cut(tail, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, tail = s[i+len(part):], rest
	}
}

// maxHints bounds what is remembered of refusals, and so the log lines about them in the time of forgetHints.
const (
	maxHints    = 512
	forgetHints = time.Hour
)

// hints logs the first refusal of each kind, with the configuration line that would allow it. Names that devices chose
// for themselves do not enter the log: a client appears as a pseudonym that lasts until the next start, and of a topic only
// levels that read like words of a schema are shown, the others as +.
type hints struct {
	log    *slog.Logger
	source string
	salt   [16]byte

	mu    sync.Mutex // guards what follows
	seen  map[string]bool
	since time.Time // when seen was empty
}

func newHints(source string, log *slog.Logger) *hints {
	h := &hints{log: log, source: source, seen: map[string]bool{}, since: time.Now()}
	_, _ = rand.Read(h.salt[:]) // never fails since Go 1.24
	return h
}

// device returns the pseudonym of a client.
func (h *hints) device(client string) string {
	sum := sha256.Sum256(append(h.salt[:], client...))
	return hex.EncodeToString(sum[:4])
}

// first reports whether the key is new. Once maxHints are remembered nothing is, until all are forgotten.
func (h *hints) first(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); len(h.seen) >= maxHints && now.Sub(h.since) > forgetHints {
		clear(h.seen)
		h.since = now
	}
	if h.seen[key] || len(h.seen) >= maxHints {
		return false
	}
	h.seen[key] = true
	return true
}

// client logs that no rule names the client.
func (h *hints) client(client string) {
	device := h.device(client)
	if h.first("client " + device) {
		h.log.Warn("client not permitted", "source", h.source, "device", device,
			"allow", `{ client: "ITS-CLIENT-ID", publish: ["ITS/TOPICS/#"] }`, "key", h.key())
	}
}

// topic logs that no rule allows the client the topic.
func (h *hints) topic(client, topic string) {
	device := h.device(client)
	if reservedTopic(topic) {
		if h.first("reserved " + device) {
			h.log.Warn("topic reserved", "source", h.source, "device", device)
		}
		return
	}
	filter := suggestFilter(topic)
	if h.first("topic " + device + " " + filter) {
		h.log.Warn("topic not permitted", "source", h.source, "device", device,
			"allow", fmt.Sprintf(`{ client: "*", publish: [%q] }`, filter), "key", h.key())
	}
}

// once logs a feature that the gate does not speak, once per source.
func (h *hints) once(message string) {
	if h.first(message) {
		h.log.Warn(message, "source", h.source)
	}
}

func (h *hints) key() string { return "sources." + h.source + ".mqtt.allow" }

// suggestFilter turns a topic into a filter that would allow it and shows only levels that read like words.
func suggestFilter(topic string) string {
	levels := strings.Split(topic, "/")
	const most = 8
	var b strings.Builder
	for i, l := range levels {
		if i > 0 {
			b.WriteByte('/')
		}
		if i == most {
			b.WriteByte('#')
			break
		}
		if schemaWord(l) {
			b.WriteString(l)
		} else {
			b.WriteByte('+')
		}
	}
	return b.String()
}

// schemaWord reports whether a topic level reads like a word of a schema, v1 or gnss, and not like the name of a thing or
// a person: at most twelve lower-case letters and _, or v with up to two digits.
func schemaWord(l string) bool {
	if len(l) == 0 || len(l) > 12 {
		return false
	}
	if l[0] == 'v' && len(l) > 1 && len(l) <= 3 && strings.Trim(l[1:], "0123456789") == "" {
		return true
	}
	return strings.Trim(l, "abcdefghijklmnopqrstuvwxyz_") == ""
}
