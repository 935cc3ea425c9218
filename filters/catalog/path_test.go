package catalog

import (
	"math/rand/v2"
	"testing"
)

// slow is the meaning of a pattern written down once more: segments from i on against path from j on.
func slow(segs, path []int32) bool {
	if len(segs) == 0 {
		return len(path) == 0
	}
	if segs[0] == restSegments {
		return slow(segs[1:], path) || len(path) > 0 && slow(segs, path[1:])
	}
	if len(path) == 0 {
		return false
	}
	if path[0] == element && slow(segs, path[1:]) {
		return true
	}
	return (segs[0] == anySegment || segs[0] == path[0]) && slow(segs[1:], path[1:])
}

func TestPatternsAgreeWithTheirMeaning(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for range 20000 {
		p := &pattern{float: r.IntN(2) == 0}
		for range r.IntN(5) {
			p.segs = append(p.segs, []int32{1, 2, 3, anySegment, restSegments}[r.IntN(5)])
			p.rest = p.rest || p.segs[len(p.segs)-1] == restSegments
		}
		p.segs = append(p.segs, 1)
		var path []int32
		for range r.IntN(7) {
			path = append(path, []int32{0, 1, 2, 3, element}[r.IntN(5)])
		}
		path = append(path, 1)
		want := false
		for from := 0; from < len(path) && !want; from++ {
			want = slow(p.segs, path[from:])
			if !p.float {
				break
			}
		}
		if got := p.fits(path); got != want {
			t.Fatalf("%v on %v, float %v: got %v", p.segs, path, p.float, got)
		}
		if want {
			hits++
		}
	}
	if hits < 1000 {
		t.Errorf("only %d patterns fitted: the test says little", hits)
	}
}
