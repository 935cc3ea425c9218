package traffic

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets of at most 3 % width, from 1 µs to about an hour.
type histogram struct {
	buckets [32 * 32]uint64
	count   uint64
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucket(d)]++
	h.count++
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
}

// bucket numbers the bucket of d: below 32 µs one a microsecond, above 32 for every power of two.
func bucket(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 32 {
		return int(us)
	}
	e := bits.Len64(us) - 6
	return min((e+1)*32+int(us>>e)-32, len((&histogram{}).buckets)-1)
}

// upper returns the upper end of a bucket.
func upper(i int) time.Duration {
	if i < 32 {
		return time.Duration(i+1) * time.Microsecond
	}
	e := i/32 - 1
	return time.Duration(uint64(i%32+33)<<e) * time.Microsecond
}

// quantile returns an upper bound of the q-quantile, 0 when nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := uint64(q * float64(h.count-1))
	for i, n := range h.buckets {
		if rank < n {
			return upper(i)
		}
		rank -= n
	}
	return upper(len(h.buckets) - 1)
}

// Latency is a distribution in milliseconds.
type Latency struct {
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p99_9_ms"`
}

func (h *histogram) latency() Latency {
	ms := func(q float64) float64 { return float64(h.quantile(q).Microseconds()) / 1000 }
	return Latency{ms(0.5), ms(0.99), ms(0.999)}
}
