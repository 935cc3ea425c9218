package catalog

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
)

// found runs the detectors on text and lists them by name, those that do not cover it in parentheses.
func found(text string) string {
	var s scratch
	var h hits
	s.detect([]byte(text), &h)
	return list(&h)
}

func list(h *hits) string {
	var names []string
	for d := range detectors {
		switch {
		case h.whole.has(d):
			names = append(names, detectorNames[d])
		case h.seen.has(d):
			names = append(names, "("+detectorNames[d]+")")
		}
	}
	return strings.Join(names, " ")
}

func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/detectors.json")
	if err != nil {
		t.Fatal(err)
	}
	type vector struct {
		V     string `json:"v"`
		Valid bool   `json:"valid"`
		Found bool   `json:"found"`
	}
	var file struct {
		VIN    []vector `json:"vin"`
		IDCard []vector `json:"id_card"`
		USCC   []vector `json:"uscc"`
		Luhn   []vector `json:"luhn"`
		Plate  []vector `json:"plate"`
		Mobile []vector `json:"mobile"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	hit := func(d detector) func(string) bool {
		return func(v string) bool {
			var s scratch
			var h hits
			s.detect([]byte(v), &h)
			return h.seen.has(d)
		}
	}
	for _, c := range []struct {
		name  string
		list  []vector
		check func(string) bool
	}{
		{"vin", file.VIN, func(v string) bool { return validVIN([]byte(v)) }},
		{"id_card", file.IDCard, func(v string) bool { return validIDCard([]byte(v)) }},
		{"id_card found", file.IDCard, hit(idCard)},
		{"uscc", file.USCC, func(v string) bool { return validUSCC([]byte(v)) }},
		{"luhn", file.Luhn, func(v string) bool { return luhn([]byte(v)) }},
		{"plate", file.Plate, hit(plate)},
		{"mobile", file.Mobile, hit(mobile)},
	} {
		if len(c.list) == 0 {
			t.Errorf("no vectors for %s", c.name)
		}
		for _, v := range c.list {
			if got, want := c.check(v.V), v.Valid || v.Found; got != want {
				t.Errorf("%s %q: got %v, want %v", c.name, v.V, got, want)
			}
		}
	}
}

func TestDetectors(t *testing.T) {
	jpeg := append([]byte{0xFF, 0xD8, 0xFF, 0xE0, 0, 16, 'J', 'F', 'I', 'F', 0, 1}, make([]byte, 60)...)
	png := append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 60)...)
	for _, c := range []struct{ name, text, want string }{
		{"a vin in lower case", "ltest1238r0000001", "vin"},
		{"a vin of mixed case", "LtEsT1238r0000001", "vin"},
		{"a vin with spaces", "LTE ST1238R 0000001", "vin"},
		{"a vin with hyphens", "LTEST-1238-R0000001", "vin"},
		{"a vin in full-width characters", "ＬＴＥＳＴ１２３８Ｒ０００００01", "vin"},
		{"a vin with invisible characters", "LTEST\u200b1238R\u200d0000001", "vin"},
		{"a vin inside a text", "vehicle LTEST1238R0000001 stopped", "(vin)"},
		{"a vin behind an underscore", "vin_LTEST1238R0000001", "(vin)"},
		{"a vin glued to its label", "VINLTEST1238R0000001", "(vin)"},
		{"a vin between white space is the whole text", "  LTEST1238R0000001\n", "vin"},
		{"a chinese vin whose check nobody computed is weak", "LTEST1231R0000001", "vin"},
		{"a foreign vin with a wrong check is none", "1M8GDM9A0KP042788", ""},
		{"a word of 17 letters is no vin", "COUNTERREVOLUTION", ""},
		{"a plate", "京A12345", "plate"},
		{"a plate with a dot", "京A·12345", "plate"},
		{"a plate with a hyphen and spaces", "京 A-12345", ""},
		{"a plate in lower case", "京a12345", "plate"},
		{"a plate in full-width characters", "京Ａ１２３４５", "plate"},
		{"a new-energy plate", "沪AD12345", "plate"},
		{"a plate inside a text", "车牌京A12345，请让行", "(plate)"},
		{"a trailer", "京A1234挂", "plate"},
		{"a province in a sentence is no plate", "京ABCDEFGHIJ", ""},
		{"an identity card with a wrong check", "340524198001010015", ""},
		{"an identity card that checks", "34052419800101001X", "id_card"},
		{"an identity card in lower case", "34052419800101001x", "id_card"},
		{"an identity card with spaces", "340524 19800101 001X", "id_card"},
		{"an identity card in full-width digits", "３４０５２４１９８００１０１００１Ｘ", "id_card"},
		{"an identity card inside a text", "ID34052419800101001X.", "(id_card)"},
		{"the thirtieth of february", "440301200002301239", ""},
		{"an old identity card is weak", "110105491231002", "id_card"},
		{"a mobile number", "13800138000", "mobile"},
		{"a mobile number with the country", "+86 138-0013-8000", "mobile"},
		{"a mobile number with 0086", "008613800138000", "mobile"},
		{"a mobile number in a text", "call 13800138000 now", "(mobile)"},
		{"a mobile number behind a date", "2025-12-05 13800138000", "(mobile)"},
		{"a mobile number in full-width digits", "１３８００１３８０００", "mobile"},
		{"twelve digits are no mobile number", "138001380001", ""},
		{"an imei", "490154203237518", "imei"},
		{"an imsi", "460001234567891", "imsi"},
		{"an iccid", "89860012345678901234", "iccid"},
		{"an iccid with a letter", "898600123456789A1234", "iccid"},
		{"a mac", "00:1a:2B:3c:4D:5e", "mac"},
		{"a mac with hyphens", "00-1A-2B-3C-4D-5E", "mac"},
		{"a mac in a text", "peer 00:1a:2b:3c:4d:5e lost", "(mac)"},
		{"an organisation", "91350100M000100Y43", "uscc"},
		{"a bank card with a wrong check", "6222021234567890", ""},
		{"a bank card that checks", "4111 1111 1111 1111", "bank_card"},
		{"a time in milliseconds is nothing", "1764950400123", ""},
		{"an address of mail", "li.ming@example.com.cn", "email"},
		{"an address of mail in a text", "write to li@example.cn!", "(email)"},
		{"an at sign is no mail", "5V@2A.x1", ""},
		{"an address of ip", "192.168.1.17", "ipv4"},
		{"an address of ip with a port", "tcp://10.0.0.5:1883", "(ipv4)"},
		{"five numbers are no address of ip", "1.2.3.4.5", ""},
		{"a number over 255 is no address of ip", "1.2.3.256", ""},
		{"a position", "39.909230,116.397428", "gnss"},
		{"a position, longitude first", "116.397428 39.909230", "gnss"},
		{"a position in a text", "POINT(116.397428 39.909230)", "(gnss)"},
		{"a position of nmea", "$GPRMC,081836,A,3954.5538,N,11623.8457,E,000.0,360.0,130998,011.3,E*62", "(gnss)"},
		{"a position with its words", "lat:39.909230, lon:116.397428", "(gnss)"},
		{"a position in a query", "https://map.example/?lat=39.909230&lng=116.397428&z=17", "(gnss)"},
		{"a position glued to its words", "Lat39.909230Lng116.397428", "(gnss)"},
		{"a position with its words in Chinese", "纬度39.909230，经度116.397428", "(gnss)"},
		{"a position glued to a word", "p39.909230,116.397428", "(gnss)"},
		{"a position of iso 6709", "+39.909230+116.397428/", "(gnss)"},
		{"a position in two lines", "39.909230\n116.397428", "gnss"},
		{"a position with a colon", "39.909230:116.397428", "gnss"},
		{"a position in degrees", "39.909230°N, 116.397428°E", "gnss"},
		{"a position in degrees without hemispheres", "39.909230°, 116.397428°", "(gnss)"},
		{"a position with its hemispheres in front", "N39.909230 E116.397428", "gnss"},
		{"a position with its hemispheres in front and nothing between", "N39.909230E116.397428", "gnss"},
		{"a position with its hemispheres behind and nothing between", "39.909230N116.397428E", "gnss"},
		{"a range is no position", "39.909230-41.397428", ""},
		{"two readings with a word between are no position", "39.909230 bar, pump 116.397428", ""},
		{"two short numbers are no position", "39.9, 116.3", ""},
		{"a picture in base64", base64.StdEncoding.EncodeToString(jpeg), "image"},
		{"a picture in hexadecimal digits", hex.EncodeToString(png), "image"},
		{"a picture in base64 of addresses", base64.URLEncoding.EncodeToString(jpeg), "image"},
		{"a picture in a data address", "data:image/webp;base64,AAAA", "image"},
		{"a sound", base64.StdEncoding.EncodeToString([]byte("RIFF\x00\x00\x00\x00WAVEfmt 0123456789")), "audio"},
		{"a video", base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x18ftypisom0123456789")), "video"},
		{"a vin in base64", base64.StdEncoding.EncodeToString([]byte("LTEST1238R0000001")), "(vin)"},
		{"a vin in base64 without padding", base64.RawURLEncoding.EncodeToString([]byte("LTEST1238R0000001")), "(vin)"},
		{"a vin in hexadecimal digits", hex.EncodeToString([]byte("LTEST1238R0000001")), "(vin)"},
		{"a body in base64", base64.StdEncoding.EncodeToString([]byte(`{"driver":{"phone":"13800138000","plate":"京A12345"}}`)), "(plate) (mobile)"},
		{"a text encoded twice stays unknown", base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte("LTEST1238R0000001")))), ""},
		{"a private key", "-----BEGIN EC PRIVATE KEY-----\nMHcC", "credential"},
		{"a public key is none", "-----BEGIN PUBLIC KEY-----\nMHcC", ""},
		{"a jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdef", "credential"},
		{"a jwe of ours is none", "eyJhbGciOiJkaXIiLCJlbmMi.." + "aaaa.bbbb.cccc", ""},
		{"a token of ours is nothing", "tkbcdfghjklmnpqrstvwxzbcdfghjk", ""},
		{"a uuid is nothing", "3f2b8c1e-77aa-4bd1-9c2e-5fb3ab6c9d10", ""},
		{"a sentence is nothing", "all quiet on the road, 42 vehicles passed in 17 minutes", ""},
		{"nothing is nothing", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := found(c.text); got != c.want {
				t.Errorf("%q: got %q, want %q", c.text, got, c.want)
			}
		})
	}
}

func TestNumbersOfJSON(t *testing.T) {
	for _, c := range []struct{ name, literal, want string }{
		{"a mobile number", "13800138000", "mobile"},
		{"a negative mobile number", "-13800138000", "mobile"},
		{"a mobile number with a fraction", "13800138000.0", "mobile"},
		{"a mobile number with an exponent", "1.3800138E10", "mobile"},
		{"a mobile number with an exponent of zero", "13800138000e0", "mobile"},
		{"a mobile number behind zeros", "0.13800138e11", "mobile"},
		{"an identity card", "110101190001010014", "id_card"},
		{"an identity card behind many zeros", "0.00000000000000000000000000000000000110101190001010014e53", "id_card"},
		{"an identity card before many zeros", "110101190001010014000000000000000000000000000000000000e-36", "id_card"},
		{"zero with a hostile exponent", "0.00e9999999", ""},
		{"a time", "1764950400123", ""},
		{"a hostile exponent", "1e999999999999", ""},
		{"a long fraction", "0.12345678901234567890123", ""},
		{"a small number", "7", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s scratch
			var h hits
			s.detectNumber([]byte(c.literal), &h)
			if got := list(&h); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDecimal(t *testing.T) {
	for _, c := range []struct {
		text string
		want float64
		ok   bool
	}{
		{"39.909230", 39.90923, true}, {"-0.5", -0.5, true}, {"+7", 7, true}, {"1e3", 1000, true}, {"12.5E-1", 1.25, true},
		{"00000000000000000000001", 1, true}, {"123456789012345678901234", 1.2345678901234568e23, true},
		{"", 0, false}, {"-", 0, false}, {"1.", 0, false}, {".5", 0, false}, {"1.2.3", 0, false}, {"1e", 0, false}, {"1e+", 0, false}, {"12a", 0, false}, {"NaN", 0, false},
	} {
		d, ok := parseDecimal([]byte(c.text))
		if ok != c.ok || ok && math.Abs(d.value-c.want) > math.Abs(c.want)*1e-12 {
			t.Errorf("%q: got %v, %v", c.text, d.value, ok)
		}
	}
}

func TestConfidences(t *testing.T) {
	for text, want := range map[string]uint8{"13800138000": weak, "LTEST1238R0000001": medium, "LTEST1231R0000001": weak, "11111111111111111": weak,
		"34052419800101001X": strong, "京A12345": strong, "91350100M000100Y43": medium, "490154203237518": weak, "a@b.cn": medium} {
		var s scratch
		var h hits
		s.detect([]byte(text), &h)
		for d := range detectors {
			if h.seen.has(d) && h.conf[d] != want {
				t.Errorf("%q: %s has confidence %d, want %d", text, detectorNames[d], h.conf[d], want)
			}
		}
	}
}

func TestHemispheresOfAPositionInAText(t *testing.T) {
	for written, want := range map[string][2]float64{
		"N39.9092E116.3974": {39.9092, 116.3974}, "S33.8688 E151.2093": {-33.8688, 151.2093}, "33.8688S151.2093E": {-33.8688, 151.2093},
		"E151.2093,S33.8688": {-33.8688, 151.2093}, "+40.7128-074.0060/": {40.7128, -74.006}, "lat 40.7128 lon -74.0060": {40.7128, -74.006},
		"40.7128°N 74.0060°W": {40.7128, -74.006}, "3954.5538,N,11623.8457,E": {39.90923, 116.397428},
	} {
		in := text{s: []byte(written)}
		in.trim()
		p, ok := findPosition(&in)
		if !ok || math.Abs(p.lat-want[0]) > 1e-5 || math.Abs(p.lon-want[1]) > 1e-5 {
			t.Errorf("%q: got %v, %v, %v", written, ok, p.lat, p.lon)
		}
	}
}
