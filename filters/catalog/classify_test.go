package catalog

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// site is an operator's catalog that holds one of everything.
const site = `
name: site
version: 1
categories:
  - id: SITE-TOPIC
    name: everything from line 1
    class: line
    grade: important
    match: { topics: ["plant/+/line1/#"] }
  - id: SITE-PATH
    name: force of the press
    class: process
    grade: important
    match: { paths: [press.*.force, "**.tonnage", cells.voltage] }
  - id: SITE-WIDE
    name: everything of the press
    class: process
    grade: general
    match: { names: [press, "*_force", force] }
  - id: SITE-CORE
    name: secret programme
    class: secret
    grade: core
    match: { names: [programme] }
  - id: SITE-LOOSE
    name: remarks
    class: text
    grade: general
    match: { names: [remark, order_no] }
  - { id: SITE-OWN1, name: one, grade: general, match: { names: [own_a] } }
  - { id: SITE-OWN2, name: two, grade: general, match: { names: ["own_*"] } }
  - { id: SITE-LINE, name: the line, class: line, grade: important, match: { names: [line] } }
  - id: SITE-FENCE
    name: inside an area
    class: area
    grade: important
    match: { names: [spot] }
    requires: [gnss, geofence]
  - id: SITE-FIX
    name: a position, and only that
    class: fix
    grade: general
    match: { names: [fix] }
    detectors: [gnss]
    requires: [gnss]
`

func load(t testing.TB, text string) *Catalog {
	t.Helper()
	c, r := Load("site.catalog.yaml", []byte(text))
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

// grade lists what is found in a message, one finding a word: place=category:confidence and, behind, unknown leaves.
func grade(t testing.TB, c *Classifier, m *gateway.Message, raw string) string {
	t.Helper()
	b := &gateway.Body{Raw: []byte(raw)}
	if raw != "" {
		b = decode(t, raw)
	}
	var class gateway.Classification
	why := c.Explain(m, b, &class)
	if len(why) != len(class.Findings) {
		t.Fatalf("%d reasons for %d findings", len(why), len(class.Findings))
	}
	var words []string
	for i, f := range class.Findings {
		if f.Category >= uint16(len(c.Categories())) || int(f.Pair) >= len(class.Findings) || why[i].Kind == "" {
			t.Fatalf("finding %d is broken", i)
		}
		k := c.Categories()[f.Category]
		if f.Grade != k.Grade || f.Personal != k.Personal || f.Sensitive != k.Sensitive {
			t.Fatalf("finding %d does not carry its category's grade", i)
		}
		w := fmt.Sprintf("%s=%s:%d", where(m, b, f.Place), k.ID, f.Confidence)
		if f.Pair >= 0 {
			if class.Findings[f.Pair].Pair < 0 {
				t.Fatalf("finding %d is paired from one side", i)
			}
			w += "~" + where(m, b, class.Findings[f.Pair].Place)
		}
		words = append(words, w)
	}
	for _, n := range class.Unknown {
		words = append(words, "?"+b.Pointer(int(n)))
	}
	for _, p := range class.Positions {
		words = append(words, fmt.Sprintf("@%.5f,%.5f/%d", p.Lat, p.Lon, p.Datum))
	}
	return strings.Join(words, " ")
}

func TestClassify(t *testing.T) {
	vehicle, industrial := classifier(t, "vehicle"), classifier(t, "industrial")
	k, err := Builtin("vehicle")
	if err != nil {
		t.Fatal(err)
	}
	both, err := New(k, load(t, site))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		c     *Classifier
		topic string
		body  string
		want  string
	}{
		// names
		{"a key name is a finding", vehicle, "t", `{"vin":"x"}`, "/vin=VEH-ID-VIN:80"},
		{"a detector confirms a match", vehicle, "t", `{"vin":"LTEST1238R0000001"}`, "/vin=VEH-ID-VIN:95"},
		{"camel case, points, hyphens and spaces are underscores", vehicle, "t", `{"packVoltage":1,"pack.voltage":2,"pack-voltage":3,"Pack Voltage":4,"PACK_VOLTAGE":5}`,
			"/packVoltage=VEH-BAT-STATE:80 /pack.voltage=VEH-BAT-STATE:80 /pack-voltage=VEH-BAT-STATE:80 /Pack Voltage=VEH-BAT-STATE:80 /PACK_VOLTAGE=VEH-BAT-STATE:80"},
		{"capitals in a row are one word", vehicle, "t", `{"carVIN":"x","VIN":"y"}`, "/carVIN=VEH-ID-VIN:80 /VIN=VEH-ID-VIN:80"},
		{"a key in full-width letters is the same key", vehicle, "t", `{"ｖｉｎ":"x"}`, "/ｖｉｎ=VEH-ID-VIN:80"},
		{"a key is compared whole", vehicle, "t", `{"vinyl":1,"speedy":2}`, "?/vinyl ?/speedy"},
		{"only a star widens", vehicle, "t", `{"old_vin":"x","vin_old":"y"}`, "/old_vin=VEH-ID-VIN:80 ?/vin_old"},
		{"a star stands for anything", vehicle, "t", `{"前车牌号":"x"}`, "/前车牌号=VEH-ID-PLATE:80"},
		{"one key can be of several categories", vehicle, "t", `{"phone":"x"}`, "/phone=VEH-ID-SIM:80 /phone=VEH-ID-CONTACT:80"},

		// paths
		{"a flat path is a path", vehicle, "t", `{"Vehicle.Speed":3}`, "/Vehicle.Speed=VEH-DRV-DYNAMICS:80"},
		{"a nested path is a path", vehicle, "t", `{"Vehicle":{"Cabin":{"Door":{"Row1":{"Left":{"IsOpen":true}}}}}}`, "/Vehicle/Cabin/Door/Row1/Left/IsOpen=VEH-BODY:80"},
		{"a path may begin anywhere below an envelope", vehicle, "t", `{"data":{"Vehicle.Cabin":{"Door.Row1.Left":{"IsOpen":true}}}}`, "/data/Vehicle.Cabin/Door.Row1.Left/IsOpen=VEH-BODY:80"},
		{"a path may leave its root out", vehicle, "t", `{"Powertrain":{"TractionBattery":{"CellVoltage":{"1":3.9}}}}`, "/Powertrain/TractionBattery/CellVoltage/1=VEH-BAT-CELLS:80"},
		{"a part of a path is not the path", vehicle, "t", `{"Door":{"Left":{"IsOpen":true}}}`, "/Door/Left/IsOpen=VEH-BODY:80"},
		{"a path that is too short does not fit", vehicle, "t", `{"Occupant":{"Identifier":{"Subject":"x"}}}`, "/Occupant/Identifier/Subject=VEH-ID-USER:80"},
		{"an operator's path begins at the root", both, "t", `{"press":{"p1":{"force":3}}}`, "/press/p1/force=SITE-PATH:80"},
		{"and nowhere else", both, "t", `{"x":{"press":{"p1":{"forces":3}}},"p1":{"forces":1}}`, "/x/press/p1/forces=SITE-WIDE:80 ?/p1/forces"},
		{"two stars lead from anywhere", both, "t", `{"a":{"b":{"tonnage":3}},"tonnage":4}`, "/a/b/tonnage=SITE-PATH:80 /tonnage=SITE-PATH:80"},
		{"array elements do not count", both, "t", `{"cells":[{"voltage":3.9},[{"voltage":4}]]}`, "/cells/0/voltage=SITE-PATH:80 /cells/1/0/voltage=SITE-PATH:80"},
		{"a star may take an array element", both, "t", `{"press":[{"force":3}]}`, "/press/0/force=SITE-PATH:80"},

		// containers and specificity
		{"a match on a container is a finding on each leaf below", vehicle, "t", `{"driver_id":{"a":1,"b":[true,null]}}`, "/driver_id/a=VEH-ID-USER:80 /driver_id/b/0=VEH-ID-USER:80 /driver_id/b/1=VEH-ID-USER:80"},
		{"what is nearer to the leaf wins over the container", vehicle, "t", `{"gps":{"speed":3,"x":1}}`, "/gps/speed=VEH-DRV-DYNAMICS:80 /gps/x=VEH-LOC-POINT:80"},
		{"a nearer container wins too", vehicle, "t", `{"gps":{"battery_id":{"x":1}}}`, "/gps/battery_id/x=VEH-ID-PART:80"},
		{"a container of a higher grade stays", both, "t", `{"programme":{"speed":3,"y":1}}`, "/programme/speed=SITE-CORE:80 /programme/speed=VEH-DRV-DYNAMICS:80 /programme/y=SITE-CORE:80"},
		{"also inside its class", vehicle, "t", `{"hdmap":{"lat":39.9,"x":1}}`, "/hdmap/lat=VEH-LOC-MAP:80 /hdmap/lat=VEH-LOC-POINT:80 /hdmap/x=VEH-LOC-MAP:80"},
		{"categories without a class give way to nothing at their place", both, "t", `{"own_a":1}`, "/own_a=SITE-OWN1:80 /own_a=SITE-OWN2:80"},
		{"a topic gives way to a more specific match of its class", both, "plant/7/line1", `{"line":1}`, "/line=SITE-LINE:80"},
		{"inside a class the most specific wins at one place", both, "t", `{"press":{"p1":{"force":3,"max_force":4}}}`, "/press/p1/force=SITE-PATH:80 /press/p1/max_force=SITE-WIDE:80"},
		{"an empty container has no leaf", vehicle, "t", `{"vin":{},"x":[]}`, ""},
		{"null and bool are leaves", vehicle, "t", `{"speed":null,"x":null,"y":true}`, "/speed=VEH-DRV-DYNAMICS:80 ?/x ?/y"},

		// topics
		{"a topic match is a finding on every leaf", both, "plant/7/line1/a", `{"speed":1,"x":2}`, "/speed=VEH-DRV-DYNAMICS:80 /speed=SITE-TOPIC:80 /x=SITE-TOPIC:80"},
		{"a filter that ends with # covers the level above", both, "plant/7/line1", `{"x":2}`, "/x=SITE-TOPIC:80"},
		{"another topic is another topic", both, "plant/7/line10/a", `{"x":2}`, "?/x"},
		{"a wildcard does not reach $ topics", both, "$plant/7/line1", `{"x":2}`, "?/x"},
		{"a body without leaves holds the topic's category itself", both, "plant/7/line1", `{}`, "body=SITE-TOPIC:80"},

		// requires
		{"a condition that no message shows is never met by names", both, "t", `{"spot":{"lat":39.90923,"lon":116.397428}}`,
			"/spot/lat=VEH-LOC-POINT:95~/spot/lon /spot/lon=VEH-LOC-POINT:95~/spot/lat @39.90923,116.39743/0"},
		{"a required detector must hit", both, "t", `{"fix":"39.90923,116.397428"}`, "/fix=SITE-FIX:95 @39.90923,116.39743/0"},
		{"without it the name is no match", both, "t", `{"fix":"none"}`, "?/fix"},
		{"an anonymiser's name alone makes no anonymous picture", vehicle, "t", `{"camera_anon":"x"}`, "?/camera_anon"},
		{"a summary's name alone makes no aggregate", vehicle, "t", `{"stats":{"x":1}}`, "?/stats/x"},

		// detectors
		{"a detector alone yields its primary category", vehicle, "t", `{"x":"LTEST1238R0000001"}`, "/x=VEH-ID-VIN:60"},
		{"in industry it yields the twin", industrial, "t", `{"x":"LTEST1238R0000001","y":"13800138000"}`, "/x=IND-OP-TRACE:60 /y=IND-OP-PERSON:30"},
		{"a weak hit counts in an unknown field and makes it known", vehicle, "t", `{"x":"13800138000"}`, "/x=VEH-ID-CONTACT:30"},
		{"a hit inside a longer text counts and does not make it known", vehicle, "t", `{"x":"call 13800138000"}`, "/x=VEH-ID-CONTACT:30 ?/x"},
		{"a weak hit that is all of a field named otherwise does not count", both, "t", `{"order_no":"13800138000"}`, "/order_no=SITE-LOOSE:80"},
		{"a weak hit in the free text of such a field counts", both, "t", `{"remark":"call 13800138000"}`, "/remark=SITE-LOOSE:80 /remark=VEH-ID-CONTACT:30"},
		{"a medium hit in a field named otherwise counts", both, "t", `{"order_no":"LTEST1238R0000001"}`, "/order_no=SITE-LOOSE:80 /order_no=VEH-ID-VIN:60"},
		{"a number can be a mobile number", vehicle, "t", `{"x":13800138000}`, "/x=VEH-ID-CONTACT:30"},
		{"a number can be an identity card", vehicle, "t", `{"x":110101190001010014}`, "/x=VEH-ID-PERSON:90"},
		{"a key can be an identifier", vehicle, "t", `{"LTEST1238R0000001":{"speed":1},"13800138000":2}`, "key /LTEST1238R0000001=VEH-ID-VIN:60 /LTEST1238R0000001/speed=VEH-DRV-DYNAMICS:80 key /13800138000=VEH-ID-CONTACT:30 ?/13800138000"},
		{"a key can hold an identifier", vehicle, "t", `{"vin_ltest1238r0000001":1}`, "key /vin_ltest1238r0000001=VEH-ID-VIN:60 ?/vin_ltest1238r0000001"},
		{"a topic level can be an identifier", vehicle, "v1/LTEST1238R0000001/13800138000", `{}`, "topic 1=VEH-ID-VIN:60 topic 2=VEH-ID-CONTACT:30"},
		{"a position can stand in two topic levels", vehicle, "v1/39.90923/116.397428", `{}`, "topic 1=VEH-LOC-POINT:60 topic 2=VEH-LOC-POINT:60"},
		{"one hit of two detectors of one category is one finding", vehicle, "t", `{"x":"10.0.0.5 00:1a:2b:3c:4d:5e"}`, "/x=VEH-ID-NET:60 ?/x"},
		{"an organisation is a business matter", vehicle, "t", `{"x":"91350100M000100Y43"}`, "/x=VEH-COM-WAYBILL:60"},

		// envelope
		{"numbers, times and short texts are an envelope", vehicle, "t", `{"ts":1764950400123,"time":"2025-12-05T16:00:00.123+08:00","unit":"km/h","seq":7}`,
			"/ts=VEH-ENVELOPE:80 /time=VEH-ENVELOPE:80 /unit=VEH-ENVELOPE:80 /seq=VEH-ENVELOPE:80"},
		{"anything else under such a name is unknown", vehicle, "t", `{"ts":null,"unit":"seventeen letters","time":"2025-12-05T16:00:00+08:00 at home","version":{"a":1},"seq":[1]}`,
			"?/ts ?/unit ?/time ?/version/a ?/seq/0"},
		{"sixteen chinese characters are short", vehicle, "t", `{"unit":"一二三四五六七八九十一二三四五六"}`, "/unit=VEH-ENVELOPE:80"},

		// opaque and unlisted
		{"a body that is not decoded is opaque", vehicle, "t", ``, "body=VEH-OPAQUE:80"},
		{"in industry too", industrial, "t", ``, "body=IND-UNKNOWN:80"},
		{"a topic's category holds an opaque body as well", both, "plant/7/line1", ``, "body=VEH-OPAQUE:80 body=SITE-TOPIC:80"},
		{"a value alone is a leaf", vehicle, "t", `"x"`, "?"},
		{"a value alone can be an identifier", vehicle, "t", `"LTEST1238R0000001"`, "=VEH-ID-VIN:60"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := grade(t, tc.c, &gateway.Message{Topic: tc.topic}, tc.body); got != tc.want {
				t.Errorf("\n got %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestPositions(t *testing.T) {
	c := classifier(t, "vehicle")
	for _, tc := range []struct{ name, body, want string }{
		{"two keys of one object", `{"lat":39.9,"lon":116.3}`, "@39.90000,116.30000/0"},
		{"the order does not matter", `{"lng":116.3,"z":1,"latitude":39.9}`, "@39.90000,116.30000/0"},
		{"keys with the same rest", `{"start_lat":39.9,"end_lat":31.2,"start_lng":116.3,"end_lng":121.4}`, "@39.90000,116.30000/0 @31.20000,121.40000/0"},
		{"keys with another rest do not pair", `{"a_lat":39.9,"b_lon":116.3}`, ""},
		{"other objects do not pair", `{"a":{"lat":39.9},"b":{"lon":116.3}}`, ""},
		{"flat paths pair", `{"Vehicle.CurrentLocation.Latitude":39.9,"Vehicle.CurrentLocation.Longitude":116.3}`, "@39.90000,116.30000/0"},
		{"integers of a millionth", `{"lat":39909230,"lon":116397428}`, "@39.90923,116.39743/0"},
		{"integers of a ten-millionth", `{"latE7":399092300,"lonE7":1163974280}`, "@39.90923,116.39743/0"},
		{"degrees and minutes", `{"lat":3954.5538,"lon":11623.8457}`, "@39.90923,116.39743/0"},
		{"text", `{"lat":"39.909230","lon":"116.397428"}`, "@39.90923,116.39743/0"},
		{"text with hemispheres", `{"lat":"39.909230S","lon":"W 116.397428"}`, "@-39.90923,-116.39743/0"},
		{"a latitude alone is none", `{"lat":39.9}`, ""},
		{"height and heading are none", `{"altitude":43.5,"heading":271.25}`, ""},
		{"values out of range are none", `{"lat":4294967295,"lon":4294967295}`, ""},
		{"what is no number is none", `{"lat":true,"lon":null}`, ""},
		{"geojson", `{"geo":{"type":"Point","coordinates":[116.397428,39.909230]}}`, "@39.90923,116.39743/0"},
		{"geojson with a height", `{"coordinates":[116.39,39.90,43.5]}`, "@39.90000,116.39000/0"},
		{"a line of geojson", `{"coordinates":[[116.39,39.90],[116.40,39.91]]}`, "@39.90000,116.39000/0 @39.91000,116.40000/0"},
		{"latitude first by its size", `{"position":[39.90,116.39]}`, "@39.90000,116.39000/0"},
		{"latitude first by its name", `{"latlng":[9.95,7.25]}`, "@9.95000,7.25000/0"},
		{"an array of millionths", `{"coord":[116397428,39909230]}`, "@39.90923,116.39743/0"},
		{"small integers under such a key are none", `{"position":[3,7]}`, ""},
		{"a pair without a name", `{"xy":[116.397428,39.909230]}`, "@39.90923,116.39743/0"},
		{"two numbers side by side", `{"a":39.909230,"b":116.397428}`, "@39.90923,116.39743/0"},
		{"longitude first", `{"a":116.397428,"b":39.909230}`, "@39.90923,116.39743/0"},
		{"a series is none", `{"w":{"a":0.12345,"b":0.23456,"c":0.34567,"d":0.45678}}`, ""},
		{"few decimals are none", `{"a":39.909,"b":116.397}`, ""},
		{"the datum of a sibling", `{"lat":39.9,"lon":116.3,"datum":"GCJ-02"}`, "@39.90000,116.30000/2"},
		{"the datum beside the array", `{"coord_sys":"bd09","p":{"x":1},"coordinates":[116.39,39.90]}`, "@39.90000,116.39000/3"},
		{"the datum of another object is not ours", `{"o":{"datum":"wgs84"},"lat":39.9,"lon":116.3}`, "@39.90000,116.30000/0"},
		{"wgs 84", `{"crs":"WGS 84","lat":39.9,"lon":116.3}`, "@39.90000,116.30000/1"},
		{"in a text", `{"note":"at 39.909230, 116.397428"}`, "@39.90923,116.39743/0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, w := range strings.Fields(grade(t, c, &gateway.Message{Topic: "t"}, tc.body)) {
				if w[0] == '@' {
					got = append(got, w)
				}
			}
			if g := strings.Join(got, " "); g != tc.want {
				t.Errorf("got %q, want %q: %s", g, tc.want, grade(t, c, &gateway.Message{Topic: "t"}, tc.body))
			}
		})
	}
}

func TestPairs(t *testing.T) {
	c := classifier(t, "vehicle")
	for _, tc := range []struct{ name, body, want string }{
		{"both halves point to each other", `{"lat":39.9,"lon":116.3}`, "/lat=VEH-LOC-POINT:95~/lon /lon=VEH-LOC-POINT:95~/lat @39.90000,116.30000/0"},
		{"also when the values are no position", `{"lat":4294967295,"lon":4294967295}`, "/lat=VEH-LOC-POINT:80~/lon /lon=VEH-LOC-POINT:80~/lat"},
		{"also when nothing but their keys' form tells", `{"end_lat":39.9,"end_lng":116.3}`, "/end_lat=VEH-LOC-POINT:60~/end_lng /end_lng=VEH-LOC-POINT:60~/end_lat @39.90000,116.30000/0"},
		{"the place of charging is a position of its own category", `{"charge_lat":39.9,"charge_lng":116.3}`, "/charge_lat=VEH-LOC-CHARGE:95~/charge_lng /charge_lng=VEH-LOC-CHARGE:95~/charge_lat @39.90000,116.30000/0"},
		{"height stays alone", `{"lat":39.9,"lon":116.3,"alt":43.5}`, "/lat=VEH-LOC-POINT:95~/lon /lon=VEH-LOC-POINT:95~/lat /alt=VEH-LOC-POINT:80 @39.90000,116.30000/0"},
		{"numbers named otherwise are no loose pair", `{"soc":45.1234,"soh":97.1234}`, "/soc=VEH-BAT-STATE:80 /soh=VEH-BAT-HEALTH:80"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := grade(t, c, &gateway.Message{Topic: "t"}, tc.body); got != tc.want {
				t.Errorf("\n got %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestHostileBodies(t *testing.T) {
	c := classifier(t, "vehicle", "industrial")
	deep := func(key, leaf string) string {
		return strings.Repeat(`{"`+key+`":`, 60) + leaf + strings.Repeat("}", 60)
	}
	for _, tc := range []struct{ name, body, want string }{
		{"an identifier sixty deep", deep("x", `"LTEST1238R0000001"`), strings.Repeat("/x", 60) + "=VEH-ID-VIN:60"},
		{"a name sixty deep", deep("x", `{"vin":1}`), strings.Repeat("/x", 60) + "/vin=VEH-ID-VIN:80"},
		{"an escaped identifier is decoded before it comes here", `{"x":"\u004cTEST1238R0000001"}`, "/x=VEH-ID-VIN:60"},
		{"an escaped key is decoded before it comes here", `{"v\u0069n":"x"}`, "/vin=VEH-ID-VIN:80"},
		{"an identifier in an array", `{"x":[["LTEST1238R0000001"]]}`, "/x/0/0=VEH-ID-VIN:60"},
		{"a key of a thousand points", `{"` + strings.Repeat("a.", 1000) + `":1}`, "?/" + strings.Repeat("a.", 1000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := grade(t, c, &gateway.Message{Topic: "t"}, tc.body); got != tc.want {
				t.Errorf("\n got %s\nwant %s", got, tc.want)
			}
		})
	}
	t.Run("sixty nested matches leave few candidates", func(t *testing.T) {
		got := grade(t, c, &gateway.Message{Topic: "t"}, deep("gps", `[`+strings.Repeat("1,", 100)+`1]`))
		if n := len(strings.Fields(got)); n != 101 {
			t.Errorf("%d findings", n)
		}
	})
}

func TestClientIDIsData(t *testing.T) {
	c := classifier(t, "vehicle")
	if got := grade(t, c, &gateway.Message{Topic: "t", Client: "京A12345"}, `{}`); got != "client=VEH-ID-PLATE:90" {
		t.Error(got)
	}
}

func TestSeveralCatalogs(t *testing.T) {
	v, _ := Builtin("vehicle")
	i, _ := Builtin("industrial")
	own := load(t, `
name: own
version: 2
categories:
  - { id: OWN-PHONE, name: telephones, grade: important, match: { names: [hotline] }, primary: [mobile] }
  - { id: VEH-ID-VIN, name: ours, class: identity, grade: core, match: { names: [fin] }, primary: [vin] }
`)
	m := &gateway.Message{Topic: "t"}
	for _, tc := range []struct {
		name       string
		cats       []*Catalog
		body, want string
		unlisted   string
		opaque     string
	}{
		{"the first of the shipped ones gives the primary category", []*Catalog{v, i}, `{"x":"13800138000"}`, "/x=VEH-ID-CONTACT:30", "VEH-OTHER", "VEH-OPAQUE"},
		{"the vehicle catalog names the unlisted whatever the order", []*Catalog{i, v}, `{"x":"13800138000"}`, "/x=IND-OP-PERSON:30", "VEH-OTHER", "VEH-OPAQUE"},
		{"industry alone", []*Catalog{i}, `{"x":1}`, "?/x", "IND-UNKNOWN", "IND-UNKNOWN"},
		{"a key of both catalogs has findings of both", []*Catalog{v, i}, `{"model":"x"}`, "/model=VEH-MODEL:80 /model=IND-EQ-IDENT:80 /model=IND-RD-ALGO:80", "VEH-OTHER", "VEH-OPAQUE"},
		{"an operator's primary category goes first", []*Catalog{v, own}, `{"x":"13800138000"}`, "/x=OWN-PHONE:30", "VEH-OTHER", "VEH-OPAQUE"},
		{"a later catalog replaces a category", []*Catalog{v, own}, `{"vin":"x","fin":"LTEST1238R0000001"}`, "/fin=VEH-ID-VIN:95 ?/vin", "VEH-OTHER", "VEH-OPAQUE"},
		{"a detector without a category yields the unlisted one", []*Catalog{own}, `{"x":"京A12345"}`, "/x=UNLISTED:90", "UNLISTED", "UNLISTED"},
		{"without a catalog everything is unknown", nil, `{"vin":"x"}`, "?/vin", "UNLISTED", "UNLISTED"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := New(tc.cats...)
			if err != nil {
				t.Fatal(err)
			}
			if got := grade(t, c, m, tc.body); got != tc.want {
				t.Errorf("\n got %s\nwant %s", got, tc.want)
			}
			for opaque, want := range map[bool]string{false: tc.unlisted, true: tc.opaque} {
				if k := c.Categories()[c.Unlisted(opaque)]; k.ID != want || k.Grade != gateway.Ungraded {
					t.Errorf("unlisted(%v) is %s of grade %s, want %s", opaque, k.ID, k.Grade, want)
				}
			}
		})
	}
	if _, err := New(v, v); err == nil {
		t.Error("one catalog twice was taken")
	}
}

func TestExplainNamesTheMatcher(t *testing.T) {
	c := classifier(t, "vehicle")
	b := decode(t, `{"gps":{"x":1},"old_vin":"y","Vehicle.Speed":1,"z":"13800138000"}`)
	var class gateway.Classification
	var got []string
	for _, r := range c.Explain(&gateway.Message{Topic: "t"}, b, &class) {
		got = append(got, r.String())
	}
	want := []string{`name "gps"`, `name "*_vin"`, `vss "Vehicle.Speed"`, `detector "mobile"`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if r := (Reason{Kind: "opaque"}); r.String() != "opaque" {
		t.Error(r)
	}
}

func TestSuggest(t *testing.T) {
	c := classifier(t, "vehicle")
	b := decode(t, `{"rear_left_tyre_pressure":2.4,"vehicleSpeed":80,"zzz":1,"o":{"avgBrake":[1]}}`)
	for i, want := range map[int]string{1: "VEH-SERVICE", 2: "VEH-DRV-DYNAMICS", 3: "", 6: "VEH-DRV-DYNAMICS"} {
		if got := strings.Join(c.Suggest(b, i), " "); got != want {
			t.Errorf("%s: got %q, want %q", b.Pointer(i), got, want)
		}
	}
}

func TestClassifyAllocatesNothingOnceWarm(t *testing.T) {
	c := classifier(t, "vehicle", "industrial")
	b := telemetryBody(t)
	m := &gateway.Message{Topic: "v1/vgw-0001/LTEST1238R0000001", Client: "京A12345"}
	var class gateway.Classification
	var s scratch
	run := func() {
		class.Reset()
		c.classify(&s, m, b, &class)
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestOneClassifierForMany(t *testing.T) {
	c := classifier(t, "vehicle")
	b := telemetryBody(t)
	m := &gateway.Message{Topic: "t"}
	var class gateway.Classification
	c.Classify(m, b, &class)
	want := fmt.Sprint(class)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var mine gateway.Classification
			for i := range 200 {
				mine.Reset()
				c.Classify(m, b, &mine)
				if fmt.Sprint(mine) != want {
					t.Error("another classification of the same message")
					return
				}
				k := c.keys.lookup(c, fmt.Appendf(nil, "key_%d_%d", g, i))
				if k.raw != fmt.Sprintf("key_%d_%d", g, i) {
					t.Error("another key")
				}
			}
		}()
	}
	wg.Wait()
}

func TestKeysThatAreIdentifiersAreNotKept(t *testing.T) {
	c := classifier(t, "vehicle")
	for range 2 {
		c.keys.lookup(c, []byte("LTEST1238R0000001"))
	}
	for i := range c.keys.slots {
		if k := c.keys.slots[i].Load(); k != nil && k.hits.seen != 0 {
			t.Fatal("a vin rests in memory")
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, s := range []string{telemetry + `"}`, `{"lat":39.9,"lon":116.3,"datum":"gcj02"}`, `[[116.397428,39.90923],1e400,"京A12345"]`, `{"a.b.c":{"vin":null}}`} {
		f.Add(s, "v1/+/x", "client")
	}
	v, err := Builtin("vehicle")
	if err != nil {
		f.Fatal(err)
	}
	c, err := New(v, load(f, site))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw, topic, client string) {
		if !jsonOK(raw) {
			raw = ""
		}
		m := &gateway.Message{Topic: topic, Client: client}
		first := grade(t, c, m, raw)
		if again := grade(t, c, m, raw); again != first {
			t.Fatal("the same message is graded in two ways")
		}
		if b := (&gateway.Body{}); raw != "" {
			b = decode(t, raw)
			var class gateway.Classification
			c.Classify(m, b, &class)
			known := map[int32]bool{}
			for _, f := range class.Findings {
				if f.Place.Kind == gateway.AtValue {
					known[f.Place.Index] = true
				}
			}
			for _, n := range class.Unknown {
				known[n] = true
			}
			for i := range b.Nodes {
				if !b.Nodes[i].Kind.Container() && !known[int32(i)] {
					t.Fatalf("leaf %d is neither found nor unknown", i)
				}
			}
		}
	})
}
