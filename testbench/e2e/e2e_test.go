//go:build peers

package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/testbench/fleet"
	"github.com/sluice-edge/sluice/testbench/leaks"
	"github.com/sluice-edge/sluice/testbench/stand"
)

const (
	vin, plate, phone = "LTEST1238R0000001", "京A12345", "13800138000"
	convoy            = "north gate at six"

	// The literals are unusual on purpose: what nobody edits must arrive byte for byte.
	telemetry = `{"seq":1,"vin":"` + vin + `","position":{"lat":39.909231,"lon":116.397427},"plate":"` + plate + `","phone":"` + phone + `","speed": 61.50 }`
	core      = `{"seq":2,"soc":80,"` + fleet.CoreKey + `":"` + convoy + `"}`
	last      = `{"seq":4,"soc":79.0}`
)

var sluice = flag.String("sluice", "", "sluice binary; empty: built from this module")

// received is what the cloud saw, in order.
type received struct {
	topic   string
	payload []byte
}

func TestFromDeviceToCloud(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	binary := *sluice
	if binary == "" {
		var err error
		binary, err = stand.BuildGate(ctx, dir)
		must(t, err)
	}
	cloud, err := stand.StartBroker(ctx, dir, "cloud", stand.BrokerOptions{})
	must(t, err)
	defer cloud.Kill()
	gate, err := stand.NewGate(ctx, binary, dir, cloud.Addr, nil)
	must(t, err)
	child, err := gate.Start(ctx)
	must(t, err)
	defer child.Kill()

	guarded := fleet.Areas()[0]
	lat := fmt.Sprintf("%.6f", guarded.South+0.012345)
	lon := fmt.Sprintf("%.6f", guarded.West+0.012345)
	gnss := `{"seq":3,"lat":` + lat + `,"lon":` + lon + `,"speed":3.0}`

	sub(t, cloud.Addr, "-E") // from here on the broker keeps what arrives for the subscriber
	pub(t, gate.Addr, "v1/car-7/telemetry", telemetry)
	pub(t, gate.Addr, "v1/car-7/ops", core)
	pub(t, gate.Addr, "v1/car-7/gnss/point", gnss)
	pub(t, gate.Addr, "v1/car-7/telemetry", last)
	seen := watch(t, cloud.Addr, last)

	t.Run("telemetry arrives without what identifies a person", func(t *testing.T) {
		got := find(t, seen, `"seq":1`)
		if got.topic != "v1/car-7/telemetry" {
			t.Errorf("topic %q", got.topic)
		}
		var m struct {
			VIN          string
			Plate, Phone *string
			Position     struct{ Lat, Lon json.Number }
		}
		must(t, json.Unmarshal(got.payload, &m))
		if !strings.HasPrefix(m.VIN, "tk") {
			t.Error("the VIN is no token")
		}
		coarse := regexp.MustCompile(`^(39\.9[01]?|116\.(39|4|40))$`)
		if !coarse.MatchString(m.Position.Lat.String()) || !coarse.MatchString(m.Position.Lon.String()) {
			t.Error("the position is not generalized to two decimals")
		}
		if m.Plate != nil || m.Phone != nil {
			t.Error("plate or phone arrived")
		}
		if !bytes.Contains(got.payload, []byte(`"speed": 61.50 `)) {
			t.Errorf("the speed is not byte for byte what was sent: %s", got.payload)
		}
	})
	t.Run("nothing leaks and core data never arrive", func(t *testing.T) {
		scan := leaks.New(2)
		for _, s := range []string{vin, plate, phone, convoy, lat, lon, "39.909231", "116.397427"} {
			scan.Add(s)
		}
		scan.AddPosition(39.909231, 116.397427)
		for _, m := range seen {
			if found := scan.Scan(m.topic, m.payload); found != nil {
				t.Errorf("leak on %s: %v", m.topic, found)
			}
			if strings.HasSuffix(m.topic, "/ops") || bytes.Contains(m.payload, []byte(`"seq":2`)) {
				t.Error("the core message arrived")
			}
		}
	})
	t.Run("explain tells why", func(t *testing.T) { explain(t, gate) })
	t.Run("the recipient decrypts the position", func(t *testing.T) { decrypt(t, gate, seen, lat, lon) })

	must(t, child.Stop())
	t.Run("everything is on the record", func(t *testing.T) { records(t, gate) })
}

// explain asks about both messages.
func explain(t *testing.T, gate *stand.Gate) {
	type answer struct {
		Action, Grade, Reason string
		Findings              []struct{ Where, Category, Grade string }
		Uplinks               map[string]struct {
			Action, Topic string
			Body          string `json:"body_base64"`
		}
	}
	ask := func(topic, body string) (a answer) {
		file := filepath.Join(gate.Dir, "message.json")
		must(t, os.WriteFile(file, []byte(body), 0o600))
		out, err := stand.Run(t.Context(), gate.Binary, "explain", "-c", gate.Config, "--source", "vehicles", "--topic", topic, "--json", file)
		must(t, err)
		if n := bytes.Count(out, []byte("\n")); n != 1 {
			t.Errorf("explain --json prints %d lines", n)
		}
		must(t, json.Unmarshal(out, &a))
		return a
	}
	found := func(a answer, where, category string) bool {
		for _, f := range a.Findings {
			if f.Where == where && f.Category == category {
				return true
			}
		}
		return false
	}
	a := ask("v1/car-7/ops", core)
	if a.Action != "block" || a.Grade != "core" || a.Reason == "" || !found(a, "/"+fleet.CoreKey, "SITE-CONVOY") {
		t.Errorf("core message: %+v", a)
	}
	if u, ok := a.Uplinks["tsp"]; !ok || u.Action != "block" || u.Topic != "" || u.Body != "" {
		t.Errorf("core message at the uplink: %+v", u)
	}
	a = ask("v1/car-7/telemetry", telemetry)
	for where, category := range map[string]string{"/vin": "VEH-ID-VIN", "/plate": "VEH-ID-PLATE", "/position/lat": "VEH-LOC-POINT", "/speed": "VEH-DRV-DYNAMICS"} {
		if !found(a, where, category) {
			t.Errorf("no finding %s at %s", category, where)
		}
	}
	body, err := base64.StdEncoding.DecodeString(a.Uplinks["tsp"].Body)
	must(t, err)
	if !bytes.Contains(body, []byte(`"speed": 61.50 `)) || bytes.Contains(body, []byte(vin)) || a.Uplinks["tsp"].Topic != "v1/car-7/telemetry" {
		t.Errorf("outbound form: %s", body)
	}
}

// decrypt opens the position with the recipient's key, once with the gate's own verb and once with jose.
func decrypt(t *testing.T, gate *stand.Gate, seen []received, lat, lon string) {
	var stream, epochs bytes.Buffer
	for _, m := range seen {
		line, err := json.Marshal(map[string]any{"topic": m.topic, "payload_base64": m.payload})
		must(t, err)
		if strings.Contains(m.topic, "/$sluice/epoch/"+stand.RecipientKey+"/") {
			epochs.Write(append(line, '\n'))
		}
		stream.Write(append(line, '\n'))
	}
	if epochs.Len() == 0 {
		t.Fatal("no epoch key arrived")
	}
	key := filepath.Join(gate.Dir, "keys", stand.RecipientKey+".key")
	opened := pipe(t, stream.Bytes(), gate.Binary, "open", "--key", key)
	var body []byte
	for line := range bytes.Lines(opened) {
		var m struct {
			Topic   string `json:"topic"`
			Payload []byte `json:"payload_base64"`
		}
		must(t, json.Unmarshal(line, &m))
		if bytes.Contains(m.Payload, []byte(`"seq":3`)) {
			body = m.Payload
		}
	}
	if want := `{"seq":3,"lat":` + lat + `,"lon":` + lon + `,"speed":3.0}`; string(body) != want {
		t.Errorf("open: %s, want %s", body, want)
	}

	file := filepath.Join(gate.Dir, "epochs.ndjson")
	must(t, os.WriteFile(file, epochs.Bytes(), 0o600))
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	must(t, json.Unmarshal(pipe(t, nil, gate.Binary, "open", "--key", key, "--epochs", file, "--jwk"), &set))
	var sealed struct{ Lat, Lon string }
	must(t, json.Unmarshal(find(t, seen, `"seq":3`).payload, &sealed))
	head, _, _ := strings.Cut(sealed.Lat, ".")
	protected, err := base64.RawURLEncoding.DecodeString(head)
	must(t, err)
	at := slices.IndexFunc(set.Keys, func(k map[string]string) bool { return bytes.Contains(protected, []byte(`"`+k["kid"]+`.`)) })
	if at < 0 {
		t.Fatal("open --jwk does not print the key of the epoch")
	}
	input, err := json.Marshal(map[string]any{"jwk": set.Keys[at], "fields": []string{sealed.Lat, sealed.Lon}})
	must(t, err)
	var plain []string
	must(t, json.Unmarshal(pipe(t, input, "node", "../../crypto/seal/testdata/decrypt.cjs"), &plain))
	if len(plain) != 2 || plain[0] != lat || plain[1] != lon {
		t.Error("jose does not read what was sent")
	}
}

// records asks the files of the stopped gate.
func records(t *testing.T, gate *stand.Gate) {
	out, err := gate.Verb(t.Context(), "audit", "verify", "--json")
	must(t, err)
	var verified struct {
		OK      bool
		Records int
		Errors  []string
	}
	must(t, json.Unmarshal(out, &verified))
	if !verified.OK || verified.Records != 4 || len(verified.Errors) > 0 {
		t.Errorf("audit verify: %s", out)
	}
	if out, err := gate.Verb(t.Context(), "journal", "check"); err != nil {
		t.Errorf("journal check: %v: %s", err, out)
	}
	if out, err = gate.Verb(t.Context(), "journal", "stat", "--json"); err != nil {
		t.Fatal(err)
	}
	var stat struct {
		Totals struct {
			Received, Forwarded, Blocked, Waiting int
			Identity                              bool
		}
	}
	must(t, json.Unmarshal(out, &stat))
	if s := stat.Totals; s.Received != 4 || s.Forwarded != 3 || s.Blocked != 1 || s.Waiting != 0 || !s.Identity {
		t.Errorf("journal stat: %s", out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pub publishes one message with mosquitto_pub and waits for its acknowledgement.
func pub(t *testing.T, addr, topic, payload string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	_, err := stand.Run(t.Context(), "mosquitto_pub", "-V", "mqttv311", "-h", host, "-p", port, "-i", "car-7", "-q", "1", "-t", topic, "-m", payload)
	must(t, err)
}

// sub runs mosquitto_sub on everything, in a session that the broker keeps.
func sub(t *testing.T, addr string, more ...string) {
	t.Helper()
	_, err := stand.Run(t.Context(), "mosquitto_sub", subArgs(addr, more...)...)
	must(t, err)
}

func subArgs(addr string, more ...string) []string {
	host, port, _ := net.SplitHostPort(addr)
	return append([]string{"-V", "mqttv311", "-h", host, "-p", port, "-i", "look", "-c", "-q", "1", "-t", "#"}, more...)
}

// watch returns what arrived up to the given payload.
func watch(t *testing.T, addr, until string) (seen []received) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "mosquitto_sub", subArgs(addr, "-F", "%t %p", "-W", "30")...)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		topic, payload, _ := strings.Cut(lines.Text(), " ")
		seen = append(seen, received{topic, []byte(payload)})
		if payload == until {
			return seen
		}
	}
	t.Fatalf("the last message did not arrive within 30 s; %d others did", len(seen))
	return nil
}

func find(t *testing.T, seen []received, mark string) received {
	t.Helper()
	for _, m := range seen {
		if bytes.Contains(m.payload, []byte(mark)) {
			return m
		}
	}
	t.Fatalf("no message with %s arrived", mark)
	return received{}
}

// pipe runs a program with the given standard input and returns what it printed.
func pipe(t *testing.T, input []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "NODE_PATH="+os.Getenv("NODE_PATH")+":/usr/lib/node_modules:/usr/local/lib/node_modules")
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", filepath.Base(program), err, &stderr)
	}
	return out
}
