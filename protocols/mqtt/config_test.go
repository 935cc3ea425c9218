package mqtt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
)

// section is what a configuration file holds for this package.
type section struct {
	Source *SourceConfig `yaml:"source"`
	Uplink *UplinkConfig `yaml:"uplink"`
}

// TestConfigurations reads every file of testdata/config. Lines that begin with "# want " say which problems are reported,
// each as severity, key and a part of the message; a file without them is fine.
func TestConfigurations(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no configurations")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(data)) {
				if w, ok := strings.CutPrefix(line, "# want "); ok {
					want = append(want, strings.TrimSpace(w))
				}
			}
			var s section
			r := config.Decode(file, data, &s)
			if s.Source != nil {
				s.Source.Check(r, "source")
			}
			if s.Uplink != nil {
				s.Uplink.Check(r, "uplink")
			}
			problems := r.Problems()
			for i, p := range problems {
				got := fmt.Sprintf("%s %s %s", p.Severity, p.Key, p.Message)
				if p.Line < 1 || p.Hint == "" && !strings.Contains(p.Message, "want ") {
					t.Errorf("no line or hint: %+v", p)
				}
				if i >= len(want) || !strings.HasPrefix(got, want[i]) {
					t.Errorf("reported %q", got)
				}
			}
			if len(problems) != len(want) {
				t.Errorf("%d problems, want %d", len(problems), len(want))
			}
		})
	}
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	s, err := NewSource("bench", bench(nil), discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.config.MaxPacket != 256<<10 || s.config.Window != 1024 || s.config.MaxConnections != 1024 || s.config.ConnectTimeout.Seconds() != 10 {
		t.Errorf("got %+v", s.config)
	}
	u, err := NewUplink("tsp", UplinkConfig{URL: "tcp://localhost"})
	if err != nil {
		t.Fatal(err)
	}
	if u.qos != 1 || u.config.Inflight != 256 || u.address != "localhost:1883" {
		t.Errorf("got %+v", u.config)
	}
}

func TestExposedSaysWhatInsecureAllowed(t *testing.T) {
	for listen, want := range map[string]bool{"tcp://127.0.0.1:1883": false, "tcp://[::1]:1883": false, "tcp://localhost:1883": false,
		"tcp://0.0.0.0:1883": true, "tcp://:1883": true, "tcp://gate:1883": true, "tls://:8883": true} {
		c := SourceConfig{Listen: listen, Anonymous: true}
		if got := c.Exposed(); got != want {
			t.Errorf("%s: %v", listen, got)
		}
	}
}

func TestGlobs(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "x", true}, {"a", "a", true}, {"a", "b", false}, {"vgw-*", "vgw-1", true}, {"vgw-*", "vg", false},
		{"*-gw", "a-gw", true}, {"*-gw", "a-gw2", false}, {"a*b*c", "a1b2c", true}, {"a*b*c", "abc", true}, {"a*b*c", "acb", false},
		{"aa*aa", "aaa", false}, {"**", "x", true}, {"", "", true}, {"", "x", false},
	} {
		if got := globMatches(c.pattern, c.s); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.s, got)
		}
	}
}

func TestSuggestedFiltersShowNoNames(t *testing.T) {
	for topic, want := range map[string]string{
		"v1/LSVAA49J132037048/gnss": "v1/+/gnss",
		"v1/zhang.san/phone":        "v1/+/phone",
		"a/b/c/d/e/f/g/h/i/j":       "a/b/c/d/e/f/g/h/#",
		"/x//":                      "+/x/+/+",
		"车/V1/v1234/13800138000":    "+/+/+/+",
	} {
		if got := suggestFilter(topic); got != want {
			t.Errorf("%q: %q, want %q", topic, got, want)
		}
	}
}

func TestRefusesSaysWhatTheSourceWouldDo(t *testing.T) {
	c := bench(func(c *SourceConfig) {
		c.MaxPacket = 1 << 10
		c.Allow = []AllowRule{{Client: "vgw-*", Publish: []string{"v1/#"}}, {Client: "*", User: "li", Publish: []string{"#"}}}
	})
	for _, v := range []struct {
		client, topic string
		size          int
		want          gateway.Refusal
	}{
		{"vgw-1", "v1/x", 10, ""},
		{"vgw-1", "v1/x", 2 << 10, gateway.RefusedTooLarge},
		{"vgw-1", "v1/#", 10, gateway.RefusedMalformed},
		{"vgw-1", "v1/a\x01", 10, gateway.RefusedMalformed},
		{"vgw-1", "v2/x", 10, gateway.RefusedNotPermitted},
		{"vgw-1", "v1/$sluice/x", 10, gateway.RefusedNotPermitted},
		{"other", "v1/x", 10, gateway.RefusedNotPermitted},
	} {
		if got := c.Refuses(v.client, v.topic, v.size); got != v.want {
			t.Errorf("%+v: %q", v, got)
		}
	}
}
