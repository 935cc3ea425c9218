package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

type tls struct {
	CertFile string `yaml:"cert_file" doc:"certificate"`
	KeyFile  string `yaml:"key_file" doc:"private key"`
}

type listener struct {
	Listen    string        `yaml:"listen" doc:"address" required:"true"`
	TLS       *tls          `yaml:"tls" doc:"certificates"`
	MaxPacket Size          `yaml:"max_packet" doc:"largest packet" default:"256KiB" min:"1KiB"`
	Window    uint16        `yaml:"window" doc:"unacknowledged messages" default:"64" min:"1" max:"4096"`
	Wait      time.Duration `yaml:"wait" doc:"patience" default:"90s"`
	Anonymous bool          `yaml:"anonymous" doc:"without a user"`
	Password  string        `yaml:"password" doc:"secret" secret:"true"`
	QoS       *int          `yaml:"qos" doc:"quality" min:"0" max:"1"`
}

type rule struct {
	Grade  []string `yaml:"grade" doc:"grade" scalar:"true" enum:"general,important,core"`
	Action string   `yaml:"action" doc:"what happens" enum:"pass,block,remove" required:"true"`
	Until  string   `yaml:"until" doc:"date"`
}

type site struct {
	Name    string            `yaml:"gateway" doc:"identity" required:"true"`
	Sources []listener        `yaml:"sources" doc:"devices"`
	Policy  []rule            `yaml:"policy" doc:"table"`
	Keys    map[string]string `yaml:"keys" doc:"files"`
	Edits   map[uint32]rule   `yaml:"edits" doc:"by number"`
	Ratio   float64           `yaml:"ratio" doc:"share" default:"0.5" min:"0" max:"1"`
	Extra   any               `yaml:"extra" doc:"free"`
	Limits  struct {
		Limit Size `yaml:"limit" default:"1GiB"`
	} `yaml:"limits" doc:"bounds"`
}

// lines writes problems as line:column key: message | hint.
func lines(r *Report) string {
	var b strings.Builder
	for _, p := range r.Problems() {
		fmt.Fprintf(&b, "%d:%d %s: %s | %s\n", p.Line, p.Column, p.Key, p.Message, p.Hint)
	}
	return b.String()
}

func TestDecodeReadsEveryKindOfValue(t *testing.T) {
	t.Setenv("SLUICE_TEST_PORT", "1883")
	t.Setenv("SLUICE_TEST_QOS", "1")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pw"), []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := `
gateway: 0123          # text keeps its digits
sources:
  - listen: "tcp://127.0.0.1:${SLUICE_TEST_PORT}"
    tls: { cert_file: a.pem }
    max_packet: 1MiB
    wait: 2m30s
    anonymous: true
    password: ${file:pw}
    qos: ${SLUICE_TEST_QOS}
  - { listen: "$${literal}" }
policy:
  - { grade: core, action: block, until: 2027-03-31 }
  - { grade: [general, important], action: pass }
keys: { a.b: c }
edits: { 7: { action: remove } }
extra: { a: [1, x, 1.5, true, null] }
`
	var s site
	r := Decode(filepath.Join(dir, "x.yaml"), []byte(text), &s)
	if !r.OK() {
		t.Fatal(lines(r))
	}
	one := 1
	want := site{Name: "0123", Ratio: 0.5,
		Sources: []listener{
			{Listen: "tcp://127.0.0.1:1883", TLS: &tls{CertFile: "a.pem"}, MaxPacket: MiB, Window: 64, Wait: 150 * time.Second, Anonymous: true, Password: "hunter2", QoS: &one},
			{Listen: "${literal}", MaxPacket: 256 * KiB, Window: 64, Wait: 90 * time.Second},
		},
		Policy: []rule{{[]string{"core"}, "block", "2027-03-31"}, {[]string{"general", "important"}, "pass", ""}},
		Keys:   map[string]string{"a.b": "c"},
		Edits:  map[uint32]rule{7: {Action: "remove"}},
		Extra:  map[string]any{"a": []any{int64(1), "x", 1.5, true, nil}},
	}
	want.Limits.Limit = GiB
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	if _, line, column := r.Position("sources[0].tls.key_file"); line != 5 || column != 5 {
		t.Errorf("unknown path stands at %d:%d, want its section's 5:5", line, column)
	}
	if _, line, _ := r.Position(`keys["a.b"]`); line != 15 || !r.Has(`keys["a.b"]`) || r.Has("sources[2]") {
		t.Errorf("quoted key stands in line %d", line)
	}
}

func TestDecodeReportsEveryProblemAtOnce(t *testing.T) {
	text := `gatewy: vgw
sources:
  - lsten: x
    max_packet: 65536
    window: 0123
    wait: 90
    anonymous: yes
    qos: 7
    password: [x]
  - 17
policy:
  - { grade: imporant, action: 3 }
  - { action: block, action: pass }
keys: [a]
edits: { one: { action: pass } }
ratio: 1.5
limits:
  limit: 64MB
  extra: 1
`
	var s site
	got := lines(Decode("x.yaml", []byte(text), &s))
	want := `1:1 gatewy: unknown key "gatewy" | did you mean "gateway"?
1:1 gateway: required key is missing | add gateway: identity
3:5 sources[0].lsten: unknown key "lsten" | did you mean "listen"?
3:5 sources[0].listen: required key is missing | add listen: address
4:17 sources[0].max_packet: found "65536"; want a size such as 64MiB | say the unit: 65536B, 65536KiB, 65536MiB
5:13 sources[0].window: found "0123" with a leading zero, which YAML 1.1 reads as octal; want a whole number from 1 to 4096 | write it without leading zeros, or in quotes if it is text
6:11 sources[0].wait: found "90"; want a duration such as 90s or 168h with its unit | write 90s, 90m or 90h
7:16 sources[0].anonymous: found "yes"; want true or false | write true or false
8:10 sources[0].qos: found "7"; want at most 1 | 
9:15 sources[0].password: found a list; want text | 
10:5 sources[1]: found the number 17; want a section with the keys listen, tls, max_packet, window, wait, anonymous, password, qos | 
12:14 policy[0].grade: found "imporant"; want one of general, important, core | did you mean "important"?
12:32 policy[0].action: found "3"; want one of pass, block, remove | known here: pass, block, remove
13:22 policy[1].action: key "action" stands twice; first in line 13 | keep one of the two
14:7 keys: found a list; want a section | write NAME: VALUE, one a line
15:10 edits.one: key: found "one"; want a whole number | write a plain decimal number
16:8 ratio: found "1.5"; want at most 1 | 
18:10 limits.limit: found "64MB"; want a size such as 64MiB | units are binary: write 64MiB
19:3 limits.extra: unknown key "extra" | known here: limit
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
