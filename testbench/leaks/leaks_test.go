package leaks

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"github.com/sluice-edge/sluice/testbench/fleet"
)

const (
	aVIN   = "LTEST1238R0000001"
	aPlate = "京A12345"
	aPhone = "13800138000"
)

// TestValuesAreFoundHoweverTheyAreWritten writes what was sent in every way that a careless program could.
func TestValuesAreFoundHoweverTheyAreWritten(t *testing.T) {
	s := New(2)
	for _, v := range []string{aVIN, aPlate, aPhone, "39.909231", "zqkx-secret-word"} {
		s.Add(v)
	}
	utf16le := func(v string) string {
		var b []byte
		for _, u := range utf16.Encode([]rune(v)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	escape := func(v string) string {
		var b strings.Builder
		for _, u := range utf16.Encode([]rune(v)) {
			fmt.Fprintf(&b, `\u%04x`, u)
		}
		return b.String()
	}
	percent := func(v string) string {
		var b strings.Builder
		for i := range len(v) {
			fmt.Fprintf(&b, "%%%02X", v[i])
		}
		return b.String()
	}
	cases := map[string]string{
		"plain":                         `{"x":"` + aVIN + `"}`,
		"in lower case":                 `{"x":"` + strings.ToLower(aVIN) + `"}`,
		"inside a longer word":          `{"x":"abc` + aVIN + `def"}`,
		"with hyphens":                  "LTE-ST12-38R0-000001",
		"with blanks":                   "138 0013 8000",
		"with a middle dot":             "京A·12345",
		"as a number":                   `{"x":13800138000}`,
		"with the country code":         `{"x":"+8613800138000"}`,
		"as a key":                      `{"` + aVIN + `":1}`,
		"JSON escapes":                  `{"x":"` + escape(aPlate) + `"}`,
		"JSON escapes for some letters": `{"x":"LT\u0045ST12\u00338R0000001"}`,
		"URL escapes":                   `{"x":"` + url.QueryEscape(aPlate) + `"}`,
		"URL escapes for all letters":   `{"x":"` + percent(aVIN) + `"}`,
		"base64":                        base64.StdEncoding.EncodeToString([]byte(aVIN)),
		"base64, one byte in front":     base64.StdEncoding.EncodeToString([]byte("{" + aVIN + `"`)),
		"base64, two bytes in front":    base64.StdEncoding.EncodeToString([]byte(`{"` + aVIN + `"}`)),
		"base64 for URLs":               base64.RawURLEncoding.EncodeToString([]byte(`{"x":"` + aPlate + `"}`)),
		"hexadecimal":                   hex.EncodeToString([]byte(aPhone)),
		"UTF-16":                        utf16le(aVIN),
		"a scaled integer":              `{"lat":39909231}`,
		"a word that is only known":     `zqkxsecretword`,
	}
	for name, payload := range cases {
		t.Run(name, func(t *testing.T) {
			if len(s.Scan("v1/car/telemetry", []byte(payload))) == 0 {
				t.Error("not found in the payload")
			}
			if len(s.Scan(payload, nil)) == 0 {
				t.Error("not found in the topic")
			}
		})
	}
}

func TestShapesAreFoundWithoutBeingTold(t *testing.T) {
	s := New(2)
	for payload, want := range map[string]string{
		`{"a":"1M8GDM9AXKP042788"}`:                   "vin",
		`{"a":"1m8gdm9axkp042788"}`:                   "vin",
		`{"a":"粤B·D12345"}`:                           "plate",
		`{"a":"see 川A1234学."}`:                        "plate",
		`{"a":"call 13912345678 now"}`:                "mobile",
		`{"a":8613912345678}`:                         "mobile",
		`{"a":"34052419800101001X"}`:                  "id_card",
		`{"a":"\u0031\u00339 1234 5678 13912345678"}`: "mobile",
	} {
		if got := s.Scan("t", []byte(payload)); len(got) == 0 || got[0].Kind != want {
			t.Errorf("%s: %v, want %s", payload, got, want)
		}
	}
}

func TestFinePositionsNearOnesThatWereSentAreFound(t *testing.T) {
	s := New(2)
	s.AddPosition(39.909231, 116.397427)
	for payload, leak := range map[string]bool{
		`{"lat":39.91,"lon":116.40}`:   false,
		`{"lat":39.9100,"lon":116.4}`:  false,
		`{"lat":39.909}`:               true,
		`{"lon":116.39743}`:            true,
		`{"lat":39.90923100000000001}`: true,
		`{"v":40.123456}`:              false,
		`{"v":3.912}`:                  false,
		`{"v":1.2.3.4}`:                false,
	} {
		if got := s.Scan("t", []byte(payload)); (len(got) > 0) != leak {
			t.Errorf("%s: %v, want leak %v", payload, got, leak)
		}
	}
}

func TestWhatMayLeaveIsNoLeak(t *testing.T) {
	s := New(2)
	s.Add(aVIN)
	s.Add("39.909231")
	for _, payload := range []string{
		``, `%`, `\`, `\u12`, `%4`, `{"seq":1000000123,"ts":1793577600123}`,
		`{"vin":"tkbcdfghjklmnpqrstvwxzbcdfghjkl"}`,
		`{"a":"LTEST1231R0000001"}`, `{"a":11111111111111111}`, `{"a":"440301200002301239"}`, `{"a":139909231}`,
		`{"a":0.13912345678}`, `{"a":"京 A"}`, `{"cells":[3912,3913,3914]}`,
		`{"x":"eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..aaaa.bbbb.cccc"}`,
	} {
		if got := s.Scan("v1/car-0001/telemetry", []byte(payload)); got != nil {
			t.Errorf("%s: %v", payload, got)
		}
	}
}

// TestAFleetLeaksAsSentAndNotWhenCleaned checks the scanner against the fleet: everything that carries secrets is found.
func TestAFleetLeaksAsSentAndNotWhenCleaned(t *testing.T) {
	f, s := fleet.New(5, 20, 600), New(2)
	for range 2000 {
		m := f.Next()
		for _, v := range m.Secrets {
			s.Add(v)
		}
		if m.Position != nil {
			s.AddPosition(m.Position.Lat, m.Position.Lon)
		}
		if found := s.Scan(m.Topic, m.Payload) != nil; found != (len(m.Secrets) > 0) {
			t.Fatalf("%s: found %v", m.Kind, found)
		}
		clean := string(m.Payload)
		for _, v := range m.Secrets {
			clean = strings.ReplaceAll(clean, v, "0")
		}
		if got := s.Scan(m.Topic, []byte(clean)); got != nil {
			t.Fatalf("%s without its secrets: %v", m.Kind, got)
		}
	}
}

func TestAddAndScanTogether(t *testing.T) {
	s := New(2)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				v := fmt.Sprintf("value-%d-%d-x", g, i)
				s.Add(v)
				s.AddPosition(float64(i), float64(g))
				if s.Scan("t", []byte(v)) == nil {
					t.Error("not found")
				}
			}
		})
	}
	wg.Wait()
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(`{"a":"\u0031%41京A12345 138.5"}`))
	s := New(2)
	s.Add(aVIN)
	s.AddPosition(39.909231, 116.397427)
	f.Fuzz(func(t *testing.T, b []byte) {
		s.Scan(string(b), b)
		if s.Scan("t", append(b, `{"vin":"`+aVIN+`"}`...)) == nil {
			t.Error("a value behind other bytes is not found")
		}
	})
}

func BenchmarkScan(b *testing.B) {
	f, s := fleet.New(5, 100, 1024), New(2)
	for range 5000 {
		m := f.Of(fleet.Telemetry)
		for _, v := range m.Secrets {
			s.Add(v)
		}
	}
	m := fleet.New(6, 1, 1024).Of(fleet.Diag)
	b.SetBytes(int64(len(m.Payload)))
	for b.Loop() {
		s.Scan(m.Topic, m.Payload)
	}
}
