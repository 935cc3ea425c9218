package wasm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

const geofenceDir = "../../plugins/geofence/"

// vehicleCategories are those of the vehicle catalog that the cases name.
var vehicleCategories = []gateway.Category{{ID: "VEH-OTHER"}, {ID: "VEH-LOC-POINT", Grade: gateway.General}, {ID: "VEH-LOC-TRACK", Grade: gateway.General},
	{ID: "VEH-LOC-DEST", Grade: gateway.General}, {ID: "VEH-LOC-SENSITIVEAREA", Grade: gateway.Important}, {ID: "VEH-ID-VIN", Grade: gateway.General}}

func vehicleCategory(t testing.TB, id string) uint16 {
	t.Helper()
	i := slices.IndexFunc(vehicleCategories, func(c gateway.Category) bool { return c.ID == id })
	if i < 0 {
		t.Fatalf("category %s is not in the test's catalog", id)
	}
	return uint16(i)
}

func geofenceModule(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(geofenceDir + "geofence.wasm")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var geofenceGrants = []string{"read.value:VEH-LOC-POINT", "read.value:VEH-LOC-TRACK", "read.value:VEH-LOC-DEST"}

func loadGeofence(t testing.TB, config map[string]any, grants []string) *Plugin {
	t.Helper()
	data := geofenceModule(t)
	return loadWith(t, PluginConfig{Name: "geofence", Config: config, Grants: grants}, data, Env{Pinned: []string{digestOf(data)}, Categories: vehicleCategories, Instances: 2})
}

// oneArea is a configuration with the circle of 500 m around a point.
func oneArea() map[string]any {
	return map[string]any{"areas": []any{map[string]any{"datum": "wgs84", "center": []any{39.9, 116.4}, "radius_m": 500}}}
}

// geofenceCase is one case of testdata/cases.json: findings 2i and 2i+1 are the halves of position i, the others follow.
type geofenceCase struct {
	Name      string         `json:"name"`
	Config    map[string]any `json:"config"`
	Positions []struct {
		Lat      float64       `json:"lat"`
		Lon      float64       `json:"lon"`
		Datum    gateway.Datum `json:"datum"`
		Category string        `json:"category"`
	} `json:"positions"`
	Others []string `json:"others"`
	Grants []string `json:"grants"`
	Want   struct {
		Regrade []int32  `json:"regrade"`
		Labels  []string `json:"labels"`
		Reason  uint16   `json:"reason"`
	} `json:"want"`
}

// message builds the message and classification of a case.
func (gc *geofenceCase) message(t testing.TB) (*gateway.Message, *gateway.Body, *gateway.Classification) {
	var pairs []string
	c := &gateway.Classification{}
	add := func(key, value, category string) int32 {
		pairs = append(pairs, key, value)
		c.Findings = append(c.Findings, at(int32(len(pairs)/2), vehicleCategory(t, category)))
		return int32(len(c.Findings) - 1)
	}
	for i, p := range gc.Positions {
		if p.Category == "" {
			p.Category = "VEH-LOC-POINT"
		}
		lat := add(fmt.Sprint("lat", i), fmt.Sprint(p.Lat), p.Category)
		lon := add(fmt.Sprint("lon", i), fmt.Sprint(p.Lon), p.Category)
		c.Findings[lat].Pair, c.Findings[lon].Pair = lon, lat
		c.Positions = append(c.Positions, gateway.Position{Lat: p.Lat, Lon: p.Lon, Datum: p.Datum, LatFind: lat, LonFind: lon})
	}
	for i, category := range gc.Others {
		add(fmt.Sprint("other", i), `"39.9"`, category)
	}
	b := flat(pairs...)
	return messageOf(b), b, c
}

func TestGeofenceCases(t *testing.T) {
	data, err := os.ReadFile(geofenceDir + "testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []geofenceCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	v := (&reference{name: "geofence"}).vectors()
	for _, gc := range cases {
		t.Run(gc.Name, func(t *testing.T) {
			if gc.Grants == nil {
				gc.Grants = geofenceGrants
			}
			p := loadGeofence(t, gc.Config, gc.Grants)
			m, b, c := gc.message(t)
			o := noObjection()
			if err := p.Filter(m, b, c, o); err != nil {
				t.Fatal(err)
			}
			var regraded []int32
			for _, e := range o.Edits {
				if e.Regrade != gateway.Important || e.Op != (gateway.Operation{}) {
					t.Errorf("edit %+v is no regrade to important", e)
				}
				regraded = append(regraded, e.Finding)
			}
			var labels []string
			for _, l := range o.Labels {
				labels = append(labels, vehicleCategories[l].ID)
			}
			if o.Action != gateway.Pass || o.Grade != gateway.Ungraded || !slices.Equal(regraded, gc.Want.Regrade) || !slices.Equal(labels, gc.Want.Labels) || o.Reason != gc.Want.Reason {
				t.Errorf("action %v, grade %v, regrades %v, labels %v, reason %d; want regrades %v, labels %v, reason %d",
					o.Action, o.Grade, regraded, labels, o.Reason, gc.Want.Regrade, gc.Want.Labels, gc.Want.Reason)
			}
			v.add(t, gc.Name, gc.Config, p, m, b, c)
		})
	}
	v.check(t)
}

// rawGeofence is an instance of the plugin for tests that speak to it without the host.
func rawGeofence(t testing.TB) *instance {
	t.Helper()
	p := loadGeofence(t, oneArea(), geofenceGrants)
	in, err := p.pool.take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.pool.put(in) })
	return in
}

func TestGeofenceRefusesBadConfigurations(t *testing.T) {
	data, err := os.ReadFile(geofenceDir + "testdata/bad_configs.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ Name, Config, Want string }
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	in := rawGeofence(t)
	limits := Limits{InBytes: defaultBytes, OutBytes: defaultBytes, FuelInit: maxFuel}
	for _, c := range cases {
		err := in.configure([]byte(c.Config), limits)
		if err == nil || !strings.Contains(err.Error(), c.Want) {
			t.Errorf("%s: %v; want an error with %q", c.Name, err, c.Want)
		}
	}
	b := flat("a", "1")
	v := view{label: make([]uint16, 1), value: make([]bool, 1)}
	region, _ := in.mem.Read(in.in, defaultBytes)
	n, _ := v.build(region, &scratch{}, messageOf(b), b, &gateway.Classification{})
	in.stack[0] = uint64(n)
	if _, err := in.call(in.filter, maxFuel); err != nil || int32(uint32(in.stack[0])) != -4 {
		t.Errorf("a message after a refused configuration: %v %v; want -4", in.stack[0], err)
	}
}

// Whatever bytes it is given as configuration, the plugin answers; it never traps.
func FuzzGeofenceConfiguration(f *testing.F) {
	for _, s := range []string{`{}`, `{"areas":[{"points":[[1,1],[2,2],[1,2]]}]}`, `{"areas":[{"center":[1e1,-1.5E-1],"radius_m":5}],"label":true,"unreadable":"policy"}`, `{"areas":[`, `{"label":f`,
		`{"areas":[{"center":[1,1],"radius_m":5}],"decoy":{"seed":"0123456789abcdef","blur_m":50,"copies":8,"within_m":1000}}`} {
		f.Add([]byte(s))
	}
	in := rawGeofence(f)
	limits := Limits{InBytes: defaultBytes, OutBytes: defaultBytes, FuelInit: maxFuel}
	f.Fuzz(func(t *testing.T, config []byte) {
		if len(config) > defaultBytes {
			return
		}
		err := in.configure(config, limits)
		if err == nil && !json.Valid(config) {
			t.Errorf("accepts %q, which is no JSON", config)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "area ") {
			t.Errorf("does not refuse but fail: %v", err)
		}
	})
}

func TestGeofenceConfigurationHasBounds(t *testing.T) {
	area := func(points int) map[string]any {
		var list []any
		for i := range points {
			list = append(list, []any{i % 10, (i * 7) % 10})
		}
		return map[string]any{"points": list}
	}
	areas := func(n, points int) map[string]any {
		var list []any
		for range n {
			list = append(list, area(points))
		}
		return map[string]any{"areas": list}
	}
	data := geofenceModule(t)
	for _, c := range []struct {
		config map[string]any
		want   string
	}{
		{areas(256, 3), ""}, {areas(1, 4096), ""}, {areas(256, 16), ""},
		{areas(257, 3), "more than 256 areas"}, {areas(1, 4097), "more than 4096 points"}, {areas(2, 2049), "more than 4096 points"},
		{areas(1, 20000), "the plugin takes 65536"}, {nil, "no areas"},
	} {
		p, err := Load(context.Background(), PluginConfig{Name: "geofence", Config: c.config}, data, Env{Pinned: []string{digestOf(data)}, Categories: vehicleCategories})
		if err == nil {
			p.Close()
		}
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v; want %q", err, c.want)
		}
	}
}

// The manifest of the shipped plugin says what its documentation says.
func TestGeofenceManifest(t *testing.T) {
	p := loadGeofence(t, oneArea(), append([]string{"read.payload"}, geofenceGrants...))
	m := p.Manifest()
	if m.Name != "geofence" || p.Version() != "1.1.0" || p.OnError() != gateway.Block || p.Reason(1) == "" || p.Reason(2) == "" {
		t.Errorf("manifest %+v", m)
	}
	if slices.Contains(p.Grants(), "read.payload") {
		t.Error("a grant that it does not ask for is in effect")
	}
	if want := []string{"VEH-LOC-POINT", "VEH-LOC-TRACK", "VEH-LOC-DEST", "VEH-LOC-SENSITIVEAREA"}; !slices.Equal(p.Labels(), want) {
		t.Errorf("labels %v; the source counts on %v", p.Labels(), want)
	}
}
