package journal

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/sluice-edge/sluice/gateway"
)

func TestOpenDecisionsAreFoundByTheirSeq(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var o openSet
	var want []uint64
	for seq := uint64(0); len(want) < 5000; {
		seq += 1 + rng.Uint64N(100)
		want = append(want, seq)
		o.add(seq, openSetting{Kind: gateway.DecisionRecord, Source: uint16(seq % 3), Grade: gateway.Grade(seq % 4), Waits: gateway.UplinkSet(seq % 5), Holds: 8, Priorities: seq % 5 & 1 * 3})
	}
	again := openSet{settings: o.settings, bytes: o.bytes}
	if err := again.index(); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		first := rng.Uint64N(want[len(want)-1] + 100)
		last := first + rng.Uint64N(5000)
		var got, wanted []uint64
		for _, seq := range want {
			if seq >= first && seq <= last {
				wanted = append(wanted, seq)
			}
		}
		err := again.each(first, last, func(seq uint64, r *gateway.Record) error {
			if d := decisionOf(r); d.source != uint16(seq%3) || d.grade != gateway.Grade(seq%4) || d.waits != gateway.UplinkSet(seq%5) || d.holds != 8 || d.priorities != seq%5&1*3 {
				return fmt.Errorf("entry %d is another's: %+v", seq, r)
			}
			got = append(got, seq)
			return nil
		})
		if err != nil || !reflect.DeepEqual(got, wanted) {
			t.Fatalf("from %d to %d: %d of %d, %v", first, last, len(got), len(wanted), err)
		}
	}
}

func TestWhatIsKeptOpensOnlyWhole(t *testing.T) {
	j, _, _ := trimmed(t)
	sealed, err := j.trimmedBase().seal(j.keys)
	if err != nil {
		t.Fatal(err)
	}
	b, err := openBase(sealed, j.keys)
	if err != nil || !reflect.DeepEqual(b, j.trimmedBase()) {
		t.Fatalf("opened %+v, %v", b, err)
	}
	for i := 0; i < len(sealed); i += 7 {
		altered := append([]byte(nil), sealed...)
		altered[i] ^= 1
		if _, err := openBase(altered, j.keys); err == nil {
			t.Fatalf("byte %d altered: opened", i)
		}
		if _, err := openBase(sealed[:i], j.keys); err == nil {
			t.Fatalf("cut to %d bytes: opened", i)
		}
	}
}

func FuzzOpenSet(f *testing.F) {
	var o openSet
	for seq := range uint64(50) {
		o.add(seq*seq+1, openSetting{Source: uint16(seq % 2)})
	}
	f.Add(o.bytes)
	f.Add([]byte{0, 0})
	f.Add([]byte{1, 5, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := openSet{settings: o.settings, bytes: data}
		if s.index() != nil {
			return
		}
		var last, n uint64
		err := s.each(0, ^uint64(0), func(seq uint64, _ *gateway.Record) error {
			if seq <= last {
				return fmt.Errorf("%d follows %d", seq, last)
			}
			last, n = seq, n+1
			return nil
		})
		if err != nil || n > uint64(len(data)) {
			t.Fatalf("%d decisions in %x: %v", n, data, err)
		}
	})
}
