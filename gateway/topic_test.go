package gateway

import "testing"

func TestTopicFilters(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a/b", false}, {"a/b", "a", false}, {"a/", "a", false}, {"a", "a/", false},
		{"+", "a", true}, {"+", "", true}, {"+", "a/b", false}, {"+/+", "/a", true}, {"/+", "/a", true}, {"+", "/a", false},
		{"a/+/c", "a/b/c", true}, {"a/+/c", "a//c", true}, {"a/+/c", "a/b/d", false}, {"a/+", "a", false}, {"a/+", "a/b/c", false},
		{"#", "a", true}, {"#", "a/b/c", true}, {"#", "", true}, {"a/#", "a", true}, {"a/#", "a/", true}, {"a/#", "a/b/c", true}, {"a/#", "ab", false},
		{"+/#", "a", true}, {"a/+/#", "a", false}, {"a/+/#", "a/b", true},
		{"#", "$SYS/a", false}, {"+/a", "$SYS/a", false}, {"$SYS/#", "$SYS/a", true}, {"a/#", "a/$SYS", true},
	} {
		if got := TopicMatches(c.filter, c.topic); got != c.want {
			t.Errorf("filter %q, topic %q: %v", c.filter, c.topic, got)
		}
	}
	for filter, want := range map[string]bool{
		"a": true, "a/b": true, "/": true, "+": true, "#": true, "a/+/b": true, "a/#": true, "$SYS/#": true,
		"": false, "a+": false, "+a/b": false, "a#": false, "#/a": false, "a/#/b": false, "a\x00": false,
	} {
		if got := ValidTopicFilter(filter); got != want {
			t.Errorf("filter %q is valid: %v", filter, got)
		}
	}
}

func TestReservedTopics(t *testing.T) {
	for topic, want := range map[string]bool{
		"gw/$sluice/epoch/x/y": true, "$sluice": true, "a/b/$sluice": true, "cloud/gw/$sluice/status": true,
		"sluice": false, "gw/$sluicebox/x": false, "gw/x$sluice/y": false, "": false, "v1/a": false,
	} {
		if got := ReservedTopic(topic); got != want {
			t.Errorf("topic %q is reserved: %v", topic, got)
		}
	}
}
