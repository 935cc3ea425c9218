package wasm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// The conformance cases of the ABI that concern the C header, run against the shipped plugin.

// say writes a raw request into the guest and returns what sluice_filter returned and the verdict.
func (in *instance) say(t testing.TB, request []byte, length uint32) (int32, []byte) {
	t.Helper()
	if !in.mem.Write(in.in, request) {
		t.Fatal("request is larger than the memory")
	}
	in.stack[0] = uint64(length)
	if code, err := in.call(in.filter, maxFuel); err != nil {
		t.Fatalf("%s: %v", code, err)
	}
	n := int32(uint32(in.stack[0]))
	if n <= 0 {
		return n, nil
	}
	v, ok := in.mem.Read(in.out, uint32(n))
	if !ok {
		t.Fatal("verdict outside of the memory")
	}
	return n, bytes.Clone(v)
}

// geofenceRequest is a request with a position inside the area of oneArea, another finding, a label and the payload.
func geofenceRequest(t testing.TB) []byte {
	t.Helper()
	b := flat("lat", "39.9", "lon", "116.4", "vin", `"LSVAU2180N2183294"`)
	v := &view{label: []uint16{0, 1, 2, 3, 4, 0}, value: []bool{false, true, true, true, false, false}, payload: true, source: true}
	point, area := vehicleCategory(t, "VEH-LOC-POINT"), vehicleCategory(t, "VEH-LOC-SENSITIVEAREA")
	whole := gateway.Finding{Place: gateway.Place{Kind: gateway.AtBody}, Category: area, Grade: gateway.Important, Pair: -1}
	c := &gateway.Classification{Findings: []gateway.Finding{at(1, point), at(2, point), at(3, vehicleCategory(t, "VEH-ID-VIN")), whole},
		Positions: []gateway.Position{{Lat: 39.9, Lon: 116.4, Datum: gateway.WGS84, LatFind: 0, LonFind: 1}}}
	buf := make([]byte, 4096)
	n, ok := v.build(buf, &scratch{}, messageOf(b), b, c)
	if !ok {
		t.Fatal("request does not fit")
	}
	return buf[:n]
}

func TestConformEmptyRequest(t *testing.T) {
	in := rawGeofence(t)
	r := make([]byte, headerLen)
	le.PutUint32(r, headerLen)
	le.PutUint16(r[4:], 1)
	le.PutUint16(r[6:], headerLen)
	if n, v := in.say(t, r, headerLen); n != 16 || !bytes.Equal(v, nothing) {
		t.Errorf("%d bytes: % x; want % x", n, v, nothing)
	}
}

func TestConformVerdict(t *testing.T) {
	want := verdictBytes(1, 0, 1, [][4]uint32{{op(7, 0), 0, 0, 2}, {op(7, 0), 1, 0, 2}})
	r := geofenceRequest(t)
	if n, v := rawGeofence(t).say(t, r, uint32(len(r))); int(n) != len(want) || !bytes.Equal(v, want) {
		t.Errorf("% x; want % x", v, want)
	}
}

func TestConformLongerHeader(t *testing.T) {
	in := rawGeofence(t)
	r := geofenceRequest(t)
	_, want := in.say(t, r, uint32(len(r)))
	long := slices.Insert(slices.Clone(r), headerLen, 1, 2, 3, 4, 5, 6, 7, 8) // a later minor version appends a field
	le.PutUint32(long, uint32(len(long)))
	le.PutUint16(long[6:], headerLen+8)
	shift := func(at int) {
		if v := le.Uint32(long[at:]); v != 0 {
			le.PutUint32(long[at:], v+8)
		}
	}
	for _, field := range []int{32, 36, 44, 48, 56} {
		shift(field)
	}
	for i := range int(le.Uint16(r[40:])) {
		shift(headerLen + 8 + findingLen*i + 16)
		shift(headerLen + 8 + findingLen*i + 20)
	}
	if _, v := in.say(t, long, uint32(len(long))); !bytes.Equal(v, want) {
		t.Errorf("% x; want % x", v, want)
	}
	le.PutUint16(long[4:], 2)
	if n, _ := in.say(t, long, uint32(len(long))); n != -2 {
		t.Errorf("version 2: %d; want -2", n)
	}
}

func TestConformHostileRequest(t *testing.T) {
	in := rawGeofence(t)
	good := geofenceRequest(t)
	size := uint32(len(good))
	u16, u32 := func(b []byte, v uint32) { le.PutUint16(b, uint16(v)) }, func(b []byte, v uint32) { le.PutUint32(b, v) }
	finding := headerLen + findingLen
	type field struct {
		name string
		at   int
		put  func([]byte, uint32)
		past uint32 // the smallest value that is one too much
	}
	payload := le.Uint32(good[28:])
	fields := []field{
		{"record_len", 0, u32, size + 1}, {"record_len short", 0, u32, size - 1}, {"header_len", 6, u16, size + 1}, {"header_len short", 6, u16, headerLen - 1},
		{"payload_len", 28, u32, size - le.Uint32(good[32:]) + 1}, {"payload_off", 32, u32, size - payload + 1}, {"findings_off", 36, u32, size - 4*findingLen + 1},
		{"findings_n", 40, u16, (size-headerLen)/findingLen + 1}, {"labels_n", 42, u16, (size-le.Uint32(good[44:]))/2 + 1}, {"labels_off", 44, u32, size - 1},
		{"topic_off", 48, u32, size - uint32(le.Uint16(good[52:])) + 1}, {"topic_len", 52, u16, size - le.Uint32(good[48:]) + 1},
		{"source_len", 54, u16, size - le.Uint32(good[56:]) + 1}, {"source_off", 56, u32, size - uint32(le.Uint16(good[54:])) + 1}, {"reserved", 60, u32, 1}, {"grade", 26, func(b []byte, v uint32) { b[0] = byte(v) }, 4},
		{"finding off", finding, u32, payload - le.Uint32(good[finding+4:]) + 1}, {"finding len", finding + 4, u32, payload - le.Uint32(good[finding:]) + 1},
		{"key_len", finding + 14, u16, size - le.Uint32(good[finding+16:]) + 1}, {"key_off", finding + 16, u32, size - uint32(le.Uint16(good[finding+14:])) + 1},
		{"val_off", finding + 20, u32, size - 20 + 1}, {"val_len", finding + 24, u32, size - le.Uint32(good[finding+20:]) + 1},
	}
	for _, f := range fields {
		for _, v := range []uint32{f.past, 0xffffffff} {
			r := slices.Clone(good)
			if f.put(r[f.at:], v); bytes.Equal(r, good) {
				t.Fatalf("%s: nothing is wrong with %d", f.name, v)
			}
			if n, _ := in.say(t, r, size); n != -1 {
				t.Errorf("%s = %d: returned %d; want -1", f.name, v, n)
			}
		}
	}
	for _, length := range []uint32{0, 7, 63, size - 1, size + 1, 1<<16 + 1, 1 << 31, 0xffffffff} {
		if n, _ := in.say(t, good, length); n != -1 {
			t.Errorf("length %d: returned %d; want -1", length, n)
		}
	}
	if n, _ := in.say(t, good, size); n != 48 {
		t.Errorf("the good request afterwards: %d", n)
	}
}

// Random damage: the plugin answers with an error or with a verdict that the host can read; it never traps.
func FuzzGeofenceRequest(f *testing.F) {
	in := rawGeofence(f)
	f.Add(geofenceRequest(f))
	f.Add(make([]byte, headerLen))
	f.Fuzz(func(t *testing.T, r []byte) {
		if len(r) > defaultBytes {
			return
		}
		n, v := in.say(t, r, uint32(len(r)))
		if n < -2 || n == 0 || n > 0 && (len(v)%8 != 0 || int(le.Uint32(v)) != len(v)) {
			t.Errorf("returned %d", n)
		}
	})
}

func TestConformOutRegionTooSmall(t *testing.T) {
	p := loadGeofence(t, oneArea(), geofenceGrants)
	in, err := p.pool.take()
	if err != nil {
		t.Fatal(err)
	}
	defer p.pool.drop(in)
	r := geofenceRequest(t)
	arena := in.mod.ExportedFunction("sluice_arena")
	for _, c := range []struct {
		out  uint64
		want int32
	}{{48, 48}, {47, -3}, {32, -3}, {16, -3}} {
		in.stack = [2]uint64{defaultBytes, c.out}
		if _, err := in.call(arena, maxFuel); err != nil {
			t.Fatal(err)
		}
		if n, _ := in.say(t, r, uint32(len(r))); n != c.want {
			t.Errorf("out region of %d: %d; want %d", c.out, n, c.want)
		}
	}
	for _, caps := range [][2]uint64{{defaultBytes + 8, 64}, {64, defaultBytes + 8}, {64, 8}, {1 << 31, 1 << 31}} {
		in.stack = caps
		if _, err := in.call(arena, maxFuel); err != nil || in.stack[0] != 0 {
			t.Errorf("regions of %v bytes: %v %v; want 0", caps, in.stack[0], err)
		}
	}
}

func TestTenThousandMessagesLeaveNoTrace(t *testing.T) {
	p := loadGeofence(t, oneArea(), geofenceGrants)
	random := rand.New(rand.NewPCG(1, 2))
	type judged struct {
		gc   geofenceCase
		want string
	}
	var seen []judged
	ask := func(p *Plugin, gc geofenceCase) string {
		m, b, c := gc.message(t)
		o := noObjection()
		if err := p.Filter(m, b, c, o); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(*o)
	}
	size := uint32(0)
	for i := range 10_000 {
		var gc geofenceCase
		gc.Positions = append(gc.Positions, struct {
			Lat      float64       `json:"lat"`
			Lon      float64       `json:"lon"`
			Datum    gateway.Datum `json:"datum"`
			Category string        `json:"category"`
		}{39.9 + 0.02*random.Float64() - 0.01, 116.4 + 0.02*random.Float64() - 0.01, gateway.Datum(random.IntN(4)), ""})
		gc.Others = []string{"VEH-LOC-POINT", "VEH-ID-VIN"}[:random.IntN(3)]
		said := ask(p, gc)
		if i%100 == 0 {
			seen = append(seen, judged{gc, said})
		}
		in, err := p.pool.take()
		if err != nil {
			t.Fatal(err)
		}
		if i == 100 {
			size = in.mem.Size()
		} else if i > 100 && in.mem.Size() != size {
			t.Fatalf("memory grew from %d to %d after %d messages", size, in.mem.Size(), i)
		}
		p.pool.put(in)
	}
	fresh := loadGeofence(t, oneArea(), geofenceGrants)
	slices.Reverse(seen)
	verdicts := map[string]bool{}
	for _, j := range seen { // in another order, and on a fresh instance
		verdicts[j.want[:8]] = true
		if got := ask(p, j.gc); got != j.want {
			t.Errorf("later it says %s; at first %s", got, j.want)
		}
		if got := ask(fresh, j.gc); got != j.want {
			t.Errorf("a fresh instance says %s; the first %s", got, j.want)
		}
	}
	if len(verdicts) == 0 {
		t.Error("nothing compared")
	}
}

// typical is a message of about 1 KB with 12 findings, one of them a position inside the area.
func typical(t testing.TB) (*gateway.Message, *gateway.Body, *gateway.Classification) {
	var gc geofenceCase
	gc.Positions = append(gc.Positions, struct {
		Lat      float64       `json:"lat"`
		Lon      float64       `json:"lon"`
		Datum    gateway.Datum `json:"datum"`
		Category string        `json:"category"`
	}{39.9, 116.4, gateway.WGS84, ""})
	for range 10 {
		gc.Others = append(gc.Others, "VEH-ID-VIN")
	}
	m, b, c := gc.message(t)
	m.Payload = append(bytes.Clone(b.Raw), bytes.Repeat([]byte{' '}, 1024-len(b.Raw))...)
	return m, b, c
}

func TestFilterDoesNotAllocate(t *testing.T) {
	data := geofenceModule(t)
	p := loadWith(t, PluginConfig{Name: "geofence", Config: oneArea(), Grants: geofenceGrants}, data,
		Env{Pinned: []string{digestOf(data)}, Categories: vehicleCategories, Instances: 1, Pseudonym: func(source, client string) string { return source + client }})
	m, b, c := typical(t)
	o := noObjection()
	most := 0.0
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		most = 1 // the interpreter's own
	}
	if got := testing.AllocsPerRun(200, func() {
		*o = gateway.Opinion{Action: gateway.Pass, Labels: o.Labels[:0], Edits: o.Edits[:0]}
		if err := p.Filter(m, b, c, o); err != nil || len(o.Edits) != 2 {
			t.Fatal(err, o)
		}
	}); got > most {
		t.Errorf("%v allocations for each message", got)
	}
}

func BenchmarkFilter(b *testing.B) {
	for _, c := range []struct {
		name   string
		config map[string]any
	}{{"inside", oneArea()}, {"outside", map[string]any{"areas": []any{map[string]any{"datum": "wgs84", "center": []any{31.2, 121.4}, "radius_m": 500}}}}} {
		b.Run(c.name, func(b *testing.B) {
			p := loadGeofence(b, c.config, geofenceGrants)
			m, body, class := typical(b)
			o := noObjection()
			b.ReportAllocs()
			for b.Loop() {
				*o = gateway.Opinion{Action: gateway.Pass, Labels: o.Labels[:0], Edits: o.Edits[:0]}
				if err := p.Filter(m, body, class, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The guest alone, with the request already in place: what the host adds is the difference to BenchmarkFilter.
func BenchmarkGuest(b *testing.B) {
	in := rawGeofence(b)
	r := geofenceRequest(b)
	in.mem.Write(in.in, r)
	for b.Loop() {
		in.stack[0] = uint64(len(r))
		if _, err := in.call(in.filter, maxFuel); err != nil {
			b.Fatal(err)
		}
	}
}
