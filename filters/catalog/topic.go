package catalog

import (
	"fmt"
	"strings"
)

// filter is a compiled topic filter. [MQTT-4.7.1]
type filter struct {
	levels []string
	rest   bool // ends with #
	match  match
}

// checkFilter says what is wrong with a topic filter, "" for nothing.
func checkFilter(f string) string {
	levels := strings.Split(f, "/")
	for i, l := range levels {
		switch {
		case f == "":
			return "topic filter is empty"
		case strings.ContainsRune(l, 0):
			return "topic filter holds a NUL"
		case l == "#" && i < len(levels)-1:
			return fmt.Sprintf("topic filter %q has # before its end", f) // [MQTT-4.7.1-2]
		case l != "#" && l != "+" && strings.ContainsAny(l, "#+"):
			return fmt.Sprintf("topic filter %q mixes a wildcard with text in one level", f) // [MQTT-4.7.1-2] [MQTT-4.7.1-3]
		}
	}
	return ""
}

func compileFilter(f string) filter {
	levels := strings.Split(f, "/")
	c := filter{levels: levels}
	if levels[len(levels)-1] == "#" {
		c.levels, c.rest = levels[:len(levels)-1], true
	}
	for _, l := range c.levels {
		if l != "+" {
			c.match.rank++
		}
	}
	c.match.rank = min(c.match.rank, rankGlob-1) + rankTopic
	return c
}

// fits reports whether the filter covers the topic. Wildcards do not reach topics that begin with $. [MQTT-4.7.2-1]
// A filter that ends with # covers the level above it too.
func (f *filter) fits(topic string) bool {
	if strings.HasPrefix(topic, "$") && (len(f.levels) == 0 || f.levels[0] == "+") {
		return false
	}
	for _, want := range f.levels {
		if topic == ended {
			return false
		}
		level, rest, more := strings.Cut(topic, "/")
		if want != "+" && want != level {
			return false
		}
		if topic = rest; !more {
			topic = ended
		}
	}
	return f.rest || topic == ended
}

// ended stands for a topic without levels left; no topic holds a NUL. [MQTT-1.5.3-2]
const ended = "\x00"
