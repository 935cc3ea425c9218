package gateway

import "strings"

// ValidTopicFilter reports whether f is a topic filter: + is a whole level, # only the last. [MQTT-4.7.1-2, MQTT-4.7.1-3]
func ValidTopicFilter(f string) bool {
	if f == "" || strings.ContainsRune(f, 0) {
		return false
	}
	levels := strings.Split(f, "/")
	for i, l := range levels {
		if strings.ContainsRune(l, '#') && (l != "#" || i != len(levels)-1) {
			return false
		}
		if strings.ContainsRune(l, '+') && l != "+" {
			return false
		}
	}
	return true
}

// TopicMatches reports whether topic matches the topic filter: + stands for one level, a final # for any rest, also an
// empty one. A wildcard in front does not match topics that begin with $. [MQTT-4.7.2-1]
func TopicMatches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false
	}
	for {
		fl, frest, fmore := strings.Cut(filter, "/")
		if fl == "#" {
			return true
		}
		tl, trest, tmore := strings.Cut(topic, "/")
		if fl != "+" && fl != tl {
			return false
		}
		if !tmore {
			return !fmore || frest == "#"
		}
		if !fmore {
			return false
		}
		filter, topic = frest, trest
	}
}

// maxTopic is the length in bytes of the longest topic that leaves: what MQTT can carry, less what an uplink may put in
// front.
const maxTopic = 1<<16 - 1 - 2048

// ReservedTopic reports whether topic has a level $sluice: the gateway speaks there to its recipients, devices never.
func ReservedTopic(topic string) bool {
	if !strings.Contains(topic, "$sluice") {
		return false
	}
	for level := range strings.SplitSeq(topic, "/") {
		if level == "$sluice" {
			return true
		}
	}
	return false
}
