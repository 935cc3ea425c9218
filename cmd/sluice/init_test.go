package main

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/sluice-edge/sluice/filters/catalog"
	"github.com/sluice-edge/sluice/gateway"
)

// openHook lets everybody in.
type openHook struct{ mochi.HookBase }

func (openHook) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}
func (openHook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (openHook) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

// broker runs a broker with retained messages on a free port of this machine and returns its address.
func broker(t *testing.T, retained map[string]string) string {
	t.Helper()
	server := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(&openHook{}, nil); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(listeners.NewNet("test", l)); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBroker(server) })
	for topic, body := range retained {
		if err := server.Publish(topic, []byte(body), true, 0); err != nil {
			t.Fatal(err)
		}
	}
	return l.Addr().String()
}

func TestInitWatchesABroker(t *testing.T) {
	address := broker(t, map[string]string{
		"plant/car7/state": `{"vin":"1M8GDM9AXKP042788","lat":31.2304,"lon":121.4737,"oddThing":4711,"1M8GDM9AXKP042788":{"x":1}}`,
		"plant/car8/state": `{"driverPhoneNo":"unreadable-value","车内温度":21.5,"odd-thing":4712}`,
	})
	dir := filepath.Join(t.TempDir(), "gate")
	var stdout, stderr bytes.Buffer
	status := initVerb([]string{"--dir", dir, "--from", "mqtt://" + address, "--topic", "plant/#", "--count", "2"}, nil, &stdout, &stderr)
	if status != exitGood {
		t.Fatalf("status %d: %s", status, stderr.String())
	}
	site, err := os.ReadFile(filepath.Join(dir, siteCatalog))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "sluice.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := stdout.String() + stderr.String() + string(site) + string(text)
	for _, value := range []string{"1M8GDM9AXKP042788", "31.23", "121.47", "4711", "4712", "unreadable-value", "21.5", "car7"} {
		if strings.Contains(all, value) {
			t.Errorf("a value was shown: %s", value)
		}
	}
	for _, want := range []string{"topic plant/+/state: 2", "unknown odd_thing: 2 times, number, 2 different", `publish: ["plant/#"]`, "SITE-ODD-THING", "match: { category: VEH-ID-VIN }, action: tokenize"} {
		if !strings.Contains(all, want) {
			t.Errorf("missing %s in\n%s", want, all)
		}
	}
	if !strings.Contains(stderr.String(), "\rwatching "+address) {
		t.Errorf("no progress line: %q", stderr.String())
	}
	if status := lintVerb([]string{"--strict", filepath.Join(dir, "sluice.yaml")}, nil, &stdout, &stderr); status != exitGood {
		t.Errorf("what init wrote is not good: %s", stderr.String())
	}

	// once an operator removes the # in front of the entries, the file is a catalog that knows the fields
	decided := strings.ReplaceAll(string(site), "\n#  ", "\n  ")
	file := filepath.Join(dir, siteCatalog)
	if err := os.WriteFile(file, []byte(decided), 0o600); err != nil {
		t.Fatal(err)
	}
	stderr.Reset()
	if status := lintVerb([]string{file}, nil, &stdout, &stderr); status != exitGood {
		t.Errorf("proposed entries are no catalog: %s\n%s", stderr.String(), decided)
	}
	c, report := catalog.Load(file, []byte(decided))
	if !report.OK() {
		t.Fatal(report.Err())
	}
	for _, k := range c.Categories {
		if k.Name == "driver_phone_no" && (!k.Personal || !k.Sensitive || k.Handling.Default == "pass") {
			t.Errorf("a field that reads like a phone number is proposed as %+v", k)
		}
	}
}

func TestInitSaysWhyItCannotWatch(t *testing.T) {
	for from, want := range map[string]string{
		"http://127.0.0.1:1":   `scheme "http" is none of mqtt, mqtts`,
		"mqtt://127.0.0.1:1":   "connect to 127.0.0.1:1",
		"/nonexistent/x":       "no such file",
		"mqtt://u:p@localhost": "flags of their own",
	} {
		var stdout, stderr bytes.Buffer
		dir := filepath.Join(t.TempDir(), "x")
		if status := initVerb([]string{"--dir", dir, "--from", from}, nil, &stdout, &stderr); status != exitBad || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: status %d, %s", from, status, stderr.String())
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a folder was made", from)
		}
	}
}

func TestNamesThatMayBeDataAreHidden(t *testing.T) {
	for key, want := range map[string]string{
		"oilPressure": "oil_pressure", "GPS-Speed.kmh": "gps_speed_kmh", "temp2": "temp2", "13912345678": "(key that may be data)",
		"车内温度": "车内温度", "": "(key that may be data)", "a b\n": "(key that may be data)", strings.Repeat("x", 60): "(key that may be data)",
	} {
		if got := fieldName(key, false); got != want {
			t.Errorf("%q is %q, want %q", key, got, want)
		}
	}
	if got := fieldName("anna", true); got != "(key that may be data)" {
		t.Errorf("a key with a finding is %q", got)
	}
	if got := topicPattern("v1/car7/gnss/anna", map[int32]bool{3: true}); got != "v1/+/gnss/+" {
		t.Errorf("topic is %q", got)
	}
	if got := siteID("车内温度", 4); got != "SITE-FIELD-5" {
		t.Errorf("id is %q", got)
	}
	s := &sighting{topics: map[string]int{"v1/+/a": 2, "raw": 1}}
	if got := yamlList(s.filters()); got != `["v1/#", "raw"]` {
		t.Errorf("filters are %s", got)
	}
	if gateway.Ungraded.Rank() != gateway.Core.Rank() {
		t.Error("an ungraded suggestion must not be proposed as general")
	}
}
