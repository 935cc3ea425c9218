package catalog

import (
	"strings"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

// telemetry is a body of about 1 KB and 25 values, as a vehicle sends it.
const telemetry = `{"ts":1764950400123,"seq":48213,"vin":"LTEST1238R0000001","speed":87.4,"gnss":{"lat":39.909230,"lon":116.397428,"alt":43.5,"heading":271.2,"hdop":0.8},` +
	`"battery":{"soc":71.5,"soh":97,"pack_voltage":386.4,"pack_current":-12.75,"insulation":1250},"motor_speed":6210,"motor_torque":87.25,"plate":"京A12345",` +
	`"phone":"13800138000","dtc":"P0A1F","ota":"1.4.2","door":false,"alarm":"`

func telemetryBody(t testing.TB) *gateway.Body {
	return decode(t, telemetry+strings.Repeat("all quiet on the road ", 26)+`","fuel":12.5}`)
}

func BenchmarkClassify(b *testing.B) {
	for _, names := range [][]string{{"vehicle"}, {"vehicle", "industrial"}} {
		b.Run(strings.Join(names, "+"), func(b *testing.B) {
			c := classifier(b, names...)
			body := telemetryBody(b)
			m := &gateway.Message{Topic: "v1/vgw-0001/telemetry", Client: "vgw-0001"}
			var class gateway.Classification
			b.ReportAllocs()
			b.SetBytes(int64(len(body.Raw)))
			for b.Loop() {
				class.Reset()
				c.Classify(m, body, &class)
			}
		})
	}
}

func classifier(t testing.TB, names ...string) *Classifier {
	t.Helper()
	var cats []*Catalog
	for _, n := range names {
		k, err := Builtin(n)
		if err != nil {
			t.Fatal(err)
		}
		cats = append(cats, k)
	}
	c, err := New(cats...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
