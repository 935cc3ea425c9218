package fleet

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestTheSameSeedGivesTheSameMessages(t *testing.T) {
	a, b, other := New(7, 5, 1024), New(7, 5, 1024), New(8, 5, 1024)
	same := true
	for range 500 {
		x, y := a.Next(), b.Next()
		if !reflect.DeepEqual(x, y) {
			t.Fatalf("message %d differs", x.Seq)
		}
		same = same && bytes.Equal(x.Payload, other.Next().Payload)
	}
	if same {
		t.Error("another seed gives the same messages")
	}
}

func TestEveryMessageIsWhatItClaimsToBe(t *testing.T) {
	for _, size := range []int{0, 300, 1024, 10240} {
		f := New(1, 9, size)
		seen := map[Kind]int{}
		for i := range 1000 {
			m := f.Next()
			seen[m.Kind]++
			if m.Seq != FirstSeq+uint64(i) || !bytes.Contains(m.Payload, fmt.Appendf(nil, `"seq":%d`, m.Seq)) {
				t.Fatalf("%s: sequence number is missing", m.Kind)
			}
			if m.Client == "" || !strings.HasPrefix(m.Topic, "v1/"+m.Client+"/") || m.Expect == Unstated {
				t.Fatalf("%s: client, topic or expectation is missing: %q", m.Kind, m.Topic)
			}
			for _, s := range m.Secrets {
				if len(s) < 7 || !bytes.Contains(m.Payload, []byte(s)) {
					t.Fatalf("%s: secret is not in the payload", m.Kind)
				}
			}
			if wantJSON := m.Kind != Opaque; json.Valid(m.Payload) != wantJSON {
				t.Fatalf("%s: JSON validity is %v", m.Kind, !wantJSON)
			}
			if m.Kind == Opaque && utf8.Valid(m.Payload) {
				t.Fatal("opaque body is text")
			}
			if size >= 1024 && (len(m.Payload) > size+3 || len(m.Payload) < size-24) {
				t.Fatalf("%s: %d bytes, want about %d", m.Kind, len(m.Payload), size)
			}
		}
		for k := Telemetry; k <= lastKind; k++ {
			if seen[k] == 0 {
				t.Errorf("no message of kind %s in 1000", k)
			}
		}
	}
}

func TestIdentitiesSatisfyTheirChecks(t *testing.T) {
	f := New(3, 400, 0)
	vins := map[string]bool{}
	for _, v := range f.vehicles {
		vins[v.vin] = true
		sum := 0
		for i := range v.vin {
			sum += vinWeights[i] * vinValue(v.vin[i])
		}
		if len(v.vin) != 17 || "0123456789X"[sum%11] != v.vin[8] || strings.ContainsAny(v.vin, "IOQ") {
			t.Errorf("VIN %s has a wrong check digit or letter", v.vin)
		}
		if n := utf8.RuneCountInString(v.plate); n != 7 && n != 8 {
			t.Errorf("plate %s has %d characters", v.plate, n)
		}
		if len(v.phone) != 11 || v.phone[0] != '1' || v.phone[1] < '3' {
			t.Errorf("mobile number %s", v.phone)
		}
		if _, err := time.Parse("20060102", v.idCard[6:14]); err != nil || len(v.idCard) != 18 {
			t.Errorf("identity number %s", v.idCard)
		}
	}
	if len(vins) != 400 {
		t.Errorf("400 vehicles have %d different VINs", len(vins))
	}
	if got := vinSum("1M8GDM9AXKP042788"); got != 351 {
		t.Errorf("sum of the published example = %d, want 351", got)
	}
}

func vinSum(vin string) (sum int) {
	for i := range vin {
		sum += vinWeights[i] * vinValue(vin[i])
	}
	return sum
}

func TestRoadsAreSmoothAndCrossTheAreas(t *testing.T) {
	f := New(11, 10, 0)
	last := map[string]Position{}
	insides := 0
	for range 20000 {
		m := f.Of(GNSS)
		p := *m.Position
		if q, ok := last[m.Client]; ok && (abs(p.Lat-q.Lat) > 0.0005 || abs(p.Lon-q.Lon) > 0.0008) {
			t.Fatalf("%s jumped", m.Client)
		}
		last[m.Client] = p
		if m.Inside {
			insides++
		}
		for _, s := range m.Secrets {
			if strings.HasSuffix(s, "0") {
				t.Fatalf("coordinate ends in zero")
			}
		}
	}
	if insides == 0 || insides > 10000 {
		t.Errorf("%d of 20000 positions are inside an area", insides)
	}
}

func abs(v float64) float64 { return max(v, -v) }

func BenchmarkNext(b *testing.B) {
	f := New(1, 100, 1024)
	for b.Loop() {
		f.Next()
	}
}

func TestALogIsOfItsSizeAndRandom(t *testing.T) {
	f := New(1, 2, 1024)
	a, b := f.Of(Log), f.Of(Log)
	var log struct {
		Seq   uint64 `json:"seq"`
		Fault string `json:"fault"`
	}
	if err := json.Unmarshal(a.Payload, &log); err != nil || log.Seq != a.Seq || len(a.Payload) != 1024 || len(log.Fault) < 900 {
		t.Fatalf("%v: %d bytes: %s", err, len(a.Payload), a.Payload)
	}
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestCompression)
	w.Write([]byte(log.Fault))
	w.Close()
	if share := float64(packed.Len()) / float64(len(log.Fault)); share < 0.7 || bytes.Contains(b.Payload, []byte(log.Fault[:20])) {
		t.Errorf("the text deflates to %.2f of it", share)
	}
}
