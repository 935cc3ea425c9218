package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/crypto/seal"
)

// sender encrypts fields for the recipients oem and tsp, whose keys lie in dir.
type sender struct {
	*seal.Epochs
	dir    string
	epochs map[string]seal.Announcement // by recipient
}

func newSender(t *testing.T) *sender {
	t.Helper()
	s := &sender{dir: filepath.Join(t.TempDir(), "keys"), epochs: map[string]seal.Announcement{}}
	ring, err := keyring.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	recipients := map[string]*seal.PublicKey{}
	for _, id := range []string{"oem", "tsp"} {
		if err := ring.Generate(keyring.Recipient, id); err != nil {
			t.Fatal(err)
		}
		p, err := ring.Public(id)
		if err != nil {
			t.Fatal(err)
		}
		if recipients[id], err = seal.ParsePublicKey(p.Key); err != nil {
			t.Fatal(err)
		}
	}
	s.Epochs, err = seal.NewEpochs(seal.Options{Recipients: recipients, Announce: func(a seal.Announcement) error {
		s.epochs[a.Recipient] = a
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// field encrypts one value, and returns it as it stands in JSON.
func (s *sender) field(t *testing.T, to string, id byte, pointer, value string) string {
	t.Helper()
	f, err := s.Encrypt([]byte{'"'}, to, [16]byte{id}, pointer, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return string(f) + `"`
}

func (s *sender) key(id string) string { return filepath.Join(s.dir, id+".key") }

// file writes the epoch messages of the recipients, raw, and returns the file.
func (s *sender) file(t *testing.T, recipients ...string) string {
	t.Helper()
	var text bytes.Buffer
	for _, r := range recipients {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, s.epochs[r].Message, "", "  "); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s\n", pretty.Bytes())
	}
	path := filepath.Join(t.TempDir(), "epochs")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// line is a message in an envelope.
func line(topic, body string) string {
	return fmt.Sprintf(`{"at": 17, "topic":%q,"payload_base64" : %q }`+"\n", topic, base64.StdEncoding.EncodeToString([]byte(body)))
}

func epochLine(a seal.Announcement) string {
	return line("cn/vgw-0001/$sluice/epoch/"+a.Recipient+"/"+a.Epoch, string(a.Message))
}

func TestOpenLearnsEpochsFromTheStream(t *testing.T) {
	s := newSender(t)
	const form = `{ "vin": %s,"speed":63.50, "gnss":{"lat":%s , "lon":%s},"x":[1,%s]}`
	sealed := fmt.Sprintf(form, s.field(t, "oem", 1, "/vin", `"\u004cSV"`), s.field(t, "oem", 1, "/gnss/lat", "31.2304"),
		s.field(t, "oem", 1, "/gnss/lon", "121.4737"), s.field(t, "oem", 1, "/x/1", "null"))
	clear := fmt.Sprintf(form, `"\u004cSV"`, "31.2304", "121.4737", "null")
	plain := line("v1/status", `not JSON`)
	in := epochLine(s.epochs["oem"]) + line("v1/gnss", sealed) + plain
	status, out, errs := call(cmdOpen, in, "--key", s.key("oem"))
	if want := epochLine(s.epochs["oem"]) + line("v1/gnss", clear) + plain; status != exitGood || out != want || errs != "" {
		t.Fatalf("%d\n%s\nwant\n%s\n%s", status, out, want, errs)
	}
}

func TestOpenReadsRawBodies(t *testing.T) {
	s := newSender(t)
	lat := s.field(t, "oem", 1, "/lat", "31.2304")
	s.field(t, "tsp", 1, "/lat", "0")
	form := "{\"lat\":%s}\n{\n \"speed\" : 1,\n \"lat\" : %[1]s\n}\nhello {\n\n\"text\"\n[1,\n2]\n{\"a\":\"\n{\"lat\":%[1]s}" // no line end at the end
	status, out, errs := call(cmdOpen, fmt.Sprintf(form, lat), "--key", s.key("oem"), "--epochs", s.file(t, "tsp", "oem"))
	if want := fmt.Sprintf(form, "31.2304"); status != exitGood || out != want || errs != "" {
		t.Fatalf("%d\n%q\nwant\n%q\n%s", status, out, want, errs)
	}
	message := string(s.epochs["oem"].Message) + "\n"
	status, out, errs = call(cmdOpen, message+`{"lat":`+lat+"}\n", "--key", s.key("oem"))
	if status != exitGood || out != message+"{\"lat\":31.2304}\n" {
		t.Fatalf("%d %q %q", status, out, errs)
	}
}

func TestOpenLeavesFieldsForOthersSealed(t *testing.T) {
	s := newSender(t)
	mine, theirs := s.field(t, "oem", 1, "/a", "1"), s.field(t, "tsp", 1, "/b", "2")
	in := epochLine(s.epochs["tsp"]) + epochLine(s.epochs["oem"])
	status, out, errs := call(cmdOpen, in+line("t", `{"a":`+mine+`,"b":`+theirs+`}`), "--key", s.key("oem"))
	if want := in + line("t", `{"a":1,"b":`+theirs+`}`); status != exitGood || out != want {
		t.Fatalf("%d %q %q", status, out, errs)
	}
}

// otherLetter changes a letter of base64 to another one.
func otherLetter(c *byte) {
	if *c == 'A' {
		*c = 'B'
	} else {
		*c = 'A'
	}
}

func TestOpenSaysWhatStaysSealed(t *testing.T) {
	s := newSender(t)
	a, b, later := s.field(t, "oem", 1, "/a", "1"), s.field(t, "oem", 1, "/b", "2"), s.field(t, "oem", 2, "/b", "3")
	stranger := newSender(t)
	unknown := stranger.field(t, "oem", 1, "/a", "1")
	epochs := s.file(t, "oem")
	changed := []byte(a)
	otherLetter(&changed[len(a)-4])
	broken := string(changed)
	for _, c := range []struct{ name, body, want, err string }{
		{"fields that were exchanged", `{"a":` + b + `,"b":` + a + `}`, "", "at /a: encrypted for another place"},
		{"a field of another message", `{"a":` + a + `,"b":` + later + `}`, `{"a":1,"b":` + later + `}`, "at /b: encrypted as part of another message"},
		{"an unknown epoch", `{"a":` + unknown + `,"b":` + b + `}`, `{"a":` + unknown + `,"b":2}`, "with --epochs FILE"},
		{"a changed field", `{"a":` + broken + `}`, "", "at /a: sealed for another key, or changed"},
		{"a body that two readers would read differently", `{"a":` + a + `,"a":1}`, "", "cannot be read as JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want == "" {
				c.want = c.body
			}
			status, out, errs := call(cmdOpen, c.body+"\n", "--key", s.key("oem"), "--epochs", epochs)
			if status != exitBad || out != c.want+"\n" || !strings.Contains(errs, c.err) || !strings.HasPrefix(errs, "sluice: error: open message 1") {
				t.Errorf("%d\n%q\nwant\n%q\n%s", status, out, c.want, errs)
			}
		})
	}
	t.Run("an epoch message that was changed", func(t *testing.T) {
		m := s.epochs["oem"]
		m.Message = append([]byte{}, m.Message...)
		otherLetter(&m.Message[len(m.Message)-10])
		status, out, errs := call(cmdOpen, epochLine(m), "--key", s.key("oem"))
		if status != exitBad || out != epochLine(m) || !strings.Contains(errs, "epoch of oem: sealed for another key, or changed") {
			t.Errorf("%d %q %q", status, out, errs)
		}
	})
	t.Run("an epoch message in a file that was changed", func(t *testing.T) {
		m := s.epochs["oem"]
		changed := append([]byte{}, m.Message...)
		otherLetter(&changed[len(changed)-10])
		path := filepath.Join(t.TempDir(), "epochs")
		if err := os.WriteFile(path, append(append(changed, '\n'), m.Message...), 0o600); err != nil {
			t.Fatal(err)
		}
		status, out, errs := call(cmdOpen, `{"a":`+a+"}\n", "--key", s.key("oem"), "--epochs", path)
		if status != exitBad || out != "{\"a\":1}\n" || !strings.Contains(errs, "read epochs: epoch of oem: sealed for another key") {
			t.Errorf("%d %q %q", status, out, errs)
		}
	})
	t.Run("an epoch message on another epoch's topic", func(t *testing.T) {
		m := s.epochs["oem"]
		m.Epoch = "0123456789abcdef"
		if status, _, errs := call(cmdOpen, epochLine(m), "--key", s.key("oem")); status != exitBad || !strings.Contains(errs, "on the topic of another epoch") {
			t.Errorf("%d %q", status, errs)
		}
	})
	t.Run("a payload that is not base64", func(t *testing.T) {
		in := `{"topic":"t","payload_base64":"§"}` + "\n"
		if status, out, errs := call(cmdOpen, in, "--key", s.key("oem")); status != exitBad || out != in || !strings.Contains(errs, "not base64") {
			t.Errorf("%d %q %q", status, out, errs)
		}
	})
	t.Run("an epoch topic that is cleared is no error", func(t *testing.T) {
		in := line("g/$sluice/epoch/oem/0123456789abcdef", "")
		if status, out, errs := call(cmdOpen, in, "--key", s.key("oem")); status != exitGood || out != in {
			t.Errorf("%d %q %q", status, out, errs)
		}
	})
	t.Run("many fields are counted", func(t *testing.T) {
		in := strings.Repeat(`{"a":`+unknown+"}\n", maxOpenReports+5)
		if _, _, errs := call(cmdOpen, in, "--key", s.key("oem")); strings.Count(errs, "\n") != maxOpenReports+2 || !strings.Contains(errs, ": 5 more\n") {
			t.Errorf("%q", errs)
		}
	})
}

func TestOpenPrintsEpochKeysForOtherSoftware(t *testing.T) {
	s := newSender(t)
	s.field(t, "oem", 1, "/a", "1")
	s.field(t, "tsp", 1, "/a", "1")
	status, out, errs := call(cmdOpen, "", "--key", s.key("oem"), "--epochs", s.file(t, "oem", "tsp"), "--jwk")
	var set struct {
		Keys []struct{ KTY, KID, Alg, Use, K string }
	}
	if err := json.Unmarshal([]byte(out), &set); err != nil || status != exitGood || len(set.Keys) != 1 {
		t.Fatalf("%d %q %q %v", status, out, errs, err)
	}
	k := set.Keys[0]
	if raw, err := base64.RawURLEncoding.DecodeString(k.K); err != nil || len(raw) != 32 || k.KTY != "oct" || k.KID != s.epochs["oem"].Epoch || k.Alg != "A256GCM" || k.Use != "enc" {
		t.Errorf("%+v", k)
	}
	status, _, errs = call(cmdOpen, "", "--key", s.key("oem"), "--epochs", s.file(t, "tsp"), "--jwk")
	if status != exitBad || !strings.Contains(errs, "none for this key, 1 for others") {
		t.Errorf("%d %q", status, errs)
	}
}

func TestOpenErrorsSayWhatToType(t *testing.T) {
	s := newSender(t)
	ring, err := keyring.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Generate(keyring.Custodian, "cust"); err != nil {
		t.Fatal(err)
	}
	if err := ring.Generate(keyring.Recipient, "loose"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.key("loose"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"no key", nil, exitUsage, "--key is needed"},
		{"a file as argument", []string{"--key", s.key("oem"), "messages.ndjson"}, exitUsage, "from standard input"},
		{"an epoch key of nothing", []string{"--key", s.key("oem"), "--jwk"}, exitUsage, "needs --epochs"},
		{"a key that is not there", []string{"--key", s.key("absent")}, exitBad, "no such key"},
		{"a key that others may read", []string{"--key", s.key("loose")}, exitBad, "hint: chmod 600"},
		{"the custodian's key", []string{"--key", s.key("cust")}, exitBad, "a key for custodian"},
		{"the public key", []string{"--key", filepath.Join(s.dir, "oem.pub")}, exitBad, "chmod 600|private"},
		{"epochs that are not there", []string{"--key", s.key("oem"), "--epochs", "absent"}, exitBad, "read epochs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errs := call(cmdOpen, "", c.args...)
			found := false
			for want := range strings.SplitSeq(c.want, "|") {
				found = found || strings.Contains(errs, want)
			}
			if status != c.status || out != "" || !strings.HasPrefix(errs, "sluice: error: ") || !found {
				t.Errorf("%d %q %q, want %d and %q", status, out, errs, c.status, c.want)
			}
		})
	}
}

func FuzzOpenLeavesEverythingElseAsItIs(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "keys")
	ring, err := keyring.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	if err := ring.Generate(keyring.Recipient, "oem"); err != nil {
		f.Fatal(err)
	}
	f.Add("{\"topic\":\"a\",\"payload_base64\":\"e30=\"}\n\n[1,\n2]\nx")
	f.Add("{\"a\":\"\\\"\n{\"b\":[}\n")
	f.Fuzz(func(t *testing.T, in string) {
		if _, out, _ := call(cmdOpen, in, "--key", filepath.Join(dir, "oem.key")); out != in {
			t.Fatalf("%q became %q", in, out)
		}
	})
}
