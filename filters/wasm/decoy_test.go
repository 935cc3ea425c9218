package wasm

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// Metres per degree around the areas of these tests, which stand at 39.9 north.
const (
	metresLat = 111034.0
	metresLon = 85390.0
)

// prober asks a geofence plugin about places in metres from 39.9, 116.4.
type prober struct {
	t testing.TB
	p *Plugin
}

func probe(t testing.TB, areas []any, decoy map[string]any) *prober {
	config := map[string]any{"areas": areas}
	if decoy != nil {
		config["decoy"] = decoy
	}
	return &prober{t, loadGeofence(t, config, geofenceGrants)}
}

// reason is what the plugin says about one place: 0 nothing, 1 inside, 3 decoy.
func (p *prober) reason(north, east float64) uint16 {
	p.t.Helper()
	var gc geofenceCase
	gc.Positions = append(gc.Positions, struct {
		Lat      float64       `json:"lat"`
		Lon      float64       `json:"lon"`
		Datum    gateway.Datum `json:"datum"`
		Category string        `json:"category"`
	}{39.9 + north/metresLat, 116.4 + east/metresLon, gateway.WGS84, ""})
	m, b, c := gc.message(p.t)
	o := noObjection()
	if err := p.p.Filter(m, b, c, o); err != nil {
		p.t.Fatal(err)
	}
	if (len(o.Edits) == 2) != (o.Reason != 0) {
		p.t.Fatalf("%d edits for reason %d", len(o.Edits), o.Reason)
	}
	return o.Reason
}

// hole is the places of a square around the middle that are held back, every step metres.
func (p *prober) hole(half, step float64) map[[2]float64]bool {
	held := map[[2]float64]bool{}
	for n := -half; n <= half; n += step {
		for e := -half; e <= half; e += step {
			if p.reason(n, e) != 0 {
				held[[2]float64{n, e}] = true
			}
		}
	}
	return held
}

var (
	circleOf500 = []any{map[string]any{"datum": "wgs84", "center": []any{39.9, 116.4}, "radius_m": 500}}
	squareOf500 = []any{map[string]any{"datum": "wgs84", "points": []any{[]any{39.8955, 116.3941}, []any{39.8955, 116.4059}, []any{39.9045, 116.4059}, []any{39.9045, 116.3941}}}}
)

func decoy(seed string, copies int) map[string]any {
	return map[string]any{"seed": seed, "blur_m": 400, "copies": copies, "within_m": 10000}
}

// What leaves shows a hole. With decoys it holds the whole area, is no farther than the bound, and its edge is not the area's.
func TestDecoyHidesTheEdgeOfAnArea(t *testing.T) {
	for name, area := range map[string][]any{"circle": circleOf500, "polygon": squareOf500} {
		t.Run(name, func(t *testing.T) {
			plain, blurred := probe(t, area, nil), probe(t, area, decoy("a seed of some length", 0))
			const step = 40
			added, kept := 0, 0 // places within 400 m of the area that are held back, and that are not
			for n := -1600.0; n <= 1600; n += step {
				for e := -1600.0; e <= 1600; e += step {
					inside, now := plain.reason(n, e), blurred.reason(n, e)
					switch far := math.Hypot(n, e); {
					case inside == 1 && now != 1:
						t.Fatalf("%v north, %v east is inside of the area and its reason is %d", n, e, now)
					case inside == 0 && now == 1:
						t.Fatalf("%v north, %v east is outside of the area and counts as inside", n, e)
					case inside == 0 && now == 3:
						added++
						if far > 710+400+2*200 {
							t.Fatalf("%v north, %v east is far away and held back", n, e)
						}
					case inside == 0 && far < 900:
						kept++
					}
				}
			}
			if added < 200 || kept < 20 {
				t.Errorf("%d places near the area are held back, %d are not: that is its own edge, or a wider one", added, kept)
			}
		})
	}
}

// The hole is made of cells that are held back as a whole, the same at every look, and another seed makes another one.
func TestDecoyIsFixedAndSecret(t *testing.T) {
	a, again := probe(t, circleOf500, decoy("a seed of some length", 0)), probe(t, circleOf500, decoy("a seed of some length", 0))
	b := probe(t, circleOf500, decoy("a seed of some lengtH", 0))
	one, two, other := a.hole(1200, 60), again.hole(1200, 60), b.hole(1200, 60)
	if fmt.Sprint(one) != fmt.Sprint(two) {
		t.Error("the same seed makes two holes")
	}
	differ := 0
	for n := -1200.0; n <= 1200; n += 60 {
		for e := -1200.0; e <= 1200; e += 60 {
			if at := [2]float64{n, e}; one[at] != other[at] {
				differ++
			}
		}
	}
	if differ < 50 {
		t.Errorf("two seeds make holes that differ in %d places", differ)
	}
	edges, cells := 0, map[[2]float64]uint16{}
	row := func(lat float64) float64 { return math.Floor(lat * 111132.95 / 200) }
	for n := -1000.0; n <= 1000; n += 7 { // along a line: the verdict changes where the cell does
		at := [2]float64{row(39.9 + n/metresLat), 0}
		reason := min(a.reason(n, 0), 1)
		if was, seen := cells[at]; seen && was != reason {
			t.Fatalf("one cell has two verdicts, %v m north", n)
		} else if !seen && len(cells) > 0 {
			edges++
		}
		cells[at] = reason
	}
	if edges < 8 {
		t.Errorf("%d cells", edges)
	}
}

// A copy is a hole like that of the area, elsewhere: what leaves does not tell which of them is the area.
func TestDecoyCopiesStandElsewhere(t *testing.T) {
	sizes := map[int]int{}
	for _, copies := range []int{0, 3} {
		p := probe(t, circleOf500, decoy("a seed of some length", copies))
		for at := range p.hole(11500, 250) {
			if near := math.Hypot(at[0], at[1]) < 1300; near == (copies == 0) { // the copies may stand anywhere but here
				sizes[copies]++
			}
		}
	}
	if sizes[0] == 0 || sizes[3] < 2*sizes[0] || sizes[3] > 4*sizes[0] {
		t.Errorf("places held back: %d for the area, %d for its three copies", sizes[0], sizes[3])
	}
}

// The most that a configuration and a message can ask for ends in time, with every position held back that was not looked at.
func TestGeofenceEndsInTime(t *testing.T) {
	var ring []any
	for i := range 4096 {
		a := float64(i) / 4096 * 2 * math.Pi
		ring = append(ring, []any{json.Number(fmt.Sprintf("%.2f", 39.9+math.Sin(a)/10)), json.Number(fmt.Sprintf("%.2f", 116.4+math.Cos(a)/10))})
	}
	config := map[string]any{"areas": []any{map[string]any{"datum": "wgs84", "points": ring}},
		"decoy": map[string]any{"seed": "a seed of some length", "blur_m": 5000, "copies": 8, "within_m": 10000}}
	p := loadGeofence(t, config, geofenceGrants)
	var gc geofenceCase
	for range 500 {
		gc.Positions = append(gc.Positions, struct {
			Lat      float64       `json:"lat"`
			Lon      float64       `json:"lon"`
			Datum    gateway.Datum `json:"datum"`
			Category string        `json:"category"`
		}{39.9 + 0.0951, 116.4 + 0.0951, gateway.WGS84, ""})
	}
	m, b, c := gc.message(t)
	o := noObjection()
	if err := p.Filter(m, b, c, o); err != nil {
		t.Fatal(err)
	}
	if o.Reason != 4 || len(o.Edits) == 0 {
		t.Fatalf("reason %d, %d edits; want 4, all that were not looked at", o.Reason, len(o.Edits))
	}
	last := o.Edits[len(o.Edits)-1].Finding
	if last != int32(len(c.Findings)-1) {
		t.Errorf("the last position has no edit")
	}
}
