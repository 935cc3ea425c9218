package payload

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-edge/sluice/gateway"
)

type vector struct{ name, body, want string }

func vectors(t testing.TB) []vector {
	t.Helper()
	data, err := os.ReadFile("testdata/decode.txt")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	for _, block := range strings.Split(string(data), "\n\n")[1:] {
		lines := strings.Split(strings.TrimSpace(block), "\n")
		if len(lines) != 3 {
			t.Fatalf("vector of %d lines: %q", len(lines), block)
		}
		body, err := strconv.Unquote(lines[1])
		if err != nil {
			t.Fatalf("vector %q: %v", lines[0], err)
		}
		vs = append(vs, vector{strings.TrimPrefix(lines[0], "# "), body, lines[2]})
	}
	return vs
}

func TestDecode(t *testing.T) {
	var b gateway.Body
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			err := JSON{}.Decode([]byte(v.body), &b)
			got := "ok"
			if err != nil {
				got = err.Error()
			}
			if got != v.want {
				t.Fatalf("got %q, want %q", got, v.want)
			}
			if err != nil && len(b.Nodes) != 0 {
				t.Fatal("an error left nodes")
			}
			if accepts([]byte(v.body)) != (err == nil) && err != errNulKey {
				t.Fatal("jsontext reads it differently")
			}
		})
	}
}

// accepts reports whether the reference takes p as one JSON text.
func accepts(p []byte) bool { return jsontext.Value(p).IsValid() }

func TestNodesSayWhatStandsWhere(t *testing.T) {
	raw := ` {"v\u0069n" : "A\tB", "a":[1, {"b" :null}] , "é":true}`
	var b gateway.Body
	if err := (JSON{}).Decode([]byte(raw), &b); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, n := range b.Nodes {
		got = append(got, fmt.Sprintf("%d %d>%d #%d next %d key %q text %q member %q value %q", n.Kind, n.Parent, i, n.Index, n.Next, b.Key(i), b.Text(i),
			raw[n.Member.Off:n.Member.End()], raw[n.Value.Off:n.Value.End()]))
	}
	want := []string{
		`1 -1>0 #0 next 6 key "" text "" member "{\"v\\u0069n\" : \"A\\tB\", \"a\":[1, {\"b\" :null}] , \"é\":true}" value "{\"v\\u0069n\" : \"A\\tB\", \"a\":[1, {\"b\" :null}] , \"é\":true}"`,
		`3 0>1 #0 next 2 key "vin" text "A\tB" member "\"v\\u0069n\" : \"A\\tB\"" value "\"A\\tB\""`,
		`2 0>2 #1 next 6 key "a" text "" member "\"a\":[1, {\"b\" :null}]" value "[1, {\"b\" :null}]"`,
		`4 2>3 #0 next 4 key "" text "1" member "1" value "1"`,
		`1 2>4 #1 next 6 key "" text "" member "{\"b\" :null}" value "{\"b\" :null}"`,
		`6 4>5 #0 next 6 key "b" text "null" member "\"b\" :null" value "null"`,
		`5 0>6 #2 next 7 key "é" text "true" member "\"é\":true" value "true"`,
	}
	want[0] = strings.Replace(want[0], "next 6", "next 7", 1)
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("node %d:\n got %s\nwant %s", i, got[i], want[i])
		}
	}
	if b.Pointer(5) != "/a/1/b" || len(got) != len(want) {
		t.Errorf("pointer %q, %d nodes", b.Pointer(5), len(got))
	}
}

func TestLimits(t *testing.T) {
	var b gateway.Body
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	for _, c := range []struct {
		name string
		j    JSON
		body []byte
		want error
	}{
		{"64 levels are read by default", JSON{}, nested(64), nil},
		{"65 levels are refused by default", JSON{}, nested(65), errTooDeep},
		{"the depth can be set", JSON{MaxDepth: 2}, nested(3), errTooDeep},
		{"a body of the limit is read", JSON{MaxBytes: 4}, []byte("[12]"), nil},
		{"a body over the limit is refused", JSON{MaxBytes: 4}, []byte("[123]"), errTooLarge},
		{"as many values as the limit are read", JSON{MaxNodes: 3}, []byte("[1,2]"), nil},
		{"one value more is refused", JSON{MaxNodes: 3}, []byte("[1,2,3]"), errTooMany},
		{"a hostile depth is refused early", JSON{}, bytes.Repeat([]byte("["), 1<<19), errTooDeep},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.j.Decode(c.body, &b); err != c.want {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestDuplicatesAmongManyNames(t *testing.T) {
	j := JSON{MaxBytes: 16 << 20, MaxNodes: 1 << 20}
	var b gateway.Body
	for _, n := range []int{2, 16, 31, 32, 33, 34, 1000, 100_000} {
		for _, twin := range []int{-1, 0, n / 2, n - 1} {
			var raw []byte
			raw = append(raw, '{')
			for i := range n {
				raw = fmt.Appendf(raw, `"key_%06d":{"a":1,"b":2},`, i)
			}
			if twin >= 0 {
				raw = fmt.Appendf(raw, `"key_%06d":0}`, twin)
			} else {
				raw = append(raw, `"last":0}`...)
			}
			if err := j.Decode(raw, &b); (err == errDuplicate) != (twin >= 0) {
				t.Fatalf("%d members, twin of %d: %v", n, twin, err)
			}
		}
	}
}

func TestRawIsOpaque(t *testing.T) {
	var b gateway.Body
	if err := (Raw{}).Decode([]byte("{}"), &b); err == nil || len(b.Nodes) != 0 || string(b.Raw) != "{}" {
		t.Fatal("raw decoded something")
	}
	if out, err := (Raw{}).Encode(nil, &b, nil, nil); err != nil || string(out) != "{}" {
		t.Fatalf("got %q, %v", out, err)
	}
	if _, err := (Raw{}).Encode(nil, &b, make([]gateway.Change, 1), nil); err == nil {
		t.Fatal("raw took a change")
	}
}

func TestErrorsNeverQuote(t *testing.T) {
	var b gateway.Body
	body := `{"secretname":"secretvalue","secretname":1}`
	for i := range body {
		for _, tail := range []string{"", "\x00", `"`, "}", "secretvalue"} {
			if err := (JSON{}).Decode([]byte(body[:i]+tail), &b); err != nil && (strings.Contains(err.Error(), "secret") || strings.ContainsAny(err.Error(), `012345679"`)) {
				t.Fatalf("error says too much: %v", err)
			}
		}
	}
}

func TestDecodeAllocatesNothingOnceWarm(t *testing.T) {
	var b gateway.Body
	raw := sample()
	decode := func() {
		if err := (JSON{}).Decode(raw, &b); err != nil {
			t.Fatal(err)
		}
	}
	decode()
	if n := testing.AllocsPerRun(100, decode); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestManyAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var b gateway.Body
			for i := range 50 {
				raw := []byte{'{'}
				for k := range 40 + i {
					raw = fmt.Appendf(raw, `"k%d_%d":%d,`, g, k, k)
				}
				raw = append(raw, `"end":0}`...)
				if err := (JSON{}).Decode(raw, &b); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
}

func FuzzDecode(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v.body))
	}
	f.Add(sample())
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b gateway.Body
		err := JSON{}.Decode(raw, &b)
		if ok := accepts(raw); (err == nil) != ok && err != errNulKey && err != errTooDeep && err != errTooMany {
			t.Fatalf("we say %v, jsontext says %v", err, ok)
		}
		if err != nil {
			return
		}
		if out, err := (JSON{}).Encode(nil, &b, nil, nil); err != nil || !bytes.Equal(out, raw) {
			t.Fatalf("encoded without a change: %v", err)
		}
		for i := range b.Nodes {
			n := &b.Nodes[i]
			if n.Kind == gateway.String {
				if got, err := jsontext.AppendUnquote(nil, raw[n.Value.Off:n.Value.End()]); err != nil || !bytes.Equal(got, b.Text(i)) {
					t.Fatalf("string %d is %q, want %q", i, b.Text(i), got)
				}
			}
			if n.Next <= int32(i) || n.Parent >= int32(i) || n.Member.End() != n.Value.End() {
				t.Fatalf("node %d is out of order", i)
			}
		}
	})
}

// sample is a body of about 1 KB and 30 values, as a vehicle sends it.
func sample() []byte {
	b := []byte(`{"ts":1764950400123,"seq":48213,"vin":"LTEST1238R0000001","speed":87.4,"gnss":{"lat":39.909230,"lon":116.397428,"alt":43.5,"heading":271.2,"hdop":0.8},` +
		`"battery":{"soc":71.5,"soh":97,"pack_voltage":386.4,"pack_current":-12.75,"cell_voltage":[3.91,3.92,3.91,3.90,3.92,3.91],"insulation":1250},` +
		`"motor_speed":6210,"motor_torque":87.25,"plate":"京A12345","driver":{"name":"李\u660e","phone":"13800138000"},"dtc":["P0A1F","U0100"],"ota":null,"door":false,"note":"`)
	for len(b) < 1020 {
		b = append(b, "all quiet on the road "...)
	}
	return append(b, `"}`...)
}

func BenchmarkDecode(b *testing.B) {
	raw := sample()
	var body gateway.Body
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := (JSON{}).Decode(raw, &body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeManyNames(b *testing.B) {
	raw := []byte{'{'}
	for i := range 100_000 {
		raw = fmt.Appendf(raw, `"key_%06d":1,`, i)
	}
	raw = append(raw, `"end":0}`...)
	j := JSON{MaxBytes: 16 << 20, MaxNodes: 1 << 20}
	var body gateway.Body
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if err := j.Decode(raw, &body); err != nil {
			b.Fatal(err)
		}
	}
}
