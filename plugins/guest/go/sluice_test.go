package sluice

import (
	"bytes"
	"errors"
	"testing"
)

// message is a request with n findings of label 1, a label and a payload.
func message(n int) []byte {
	b := make([]byte, headerLen+findingLen*n)
	for i := range n {
		f := b[headerLen+findingLen*i:]
		le.PutUint32(f[4:], 1)
		le.PutUint16(f[8:], 1)
		le.PutUint16(f[14:], 1)
		le.PutUint32(f[16:], uint32(len(b)+8))
	}
	le.PutUint16(b[4:], 1)
	le.PutUint16(b[6:], headerLen)
	b[27] = PayloadPresent
	le.PutUint32(b[28:], 1)
	le.PutUint32(b[32:], uint32(len(b)+8))
	le.PutUint32(b[36:], headerLen)
	le.PutUint16(b[40:], uint16(n))
	le.PutUint16(b[42:], 1)
	le.PutUint32(b[44:], uint32(len(b)))
	b = append(b, 5, 0, 0, 0, 0, 0, 0, 0, 'k', 0, 0, 0, 0, 0, 0, 0)
	le.PutUint32(b, uint32(len(b)))
	return b
}

// register gives the package a plugin and regions for one test.
func register(t *testing.T, filter func(*Request, *Verdict), configure func([]byte) error) {
	t.Helper()
	plugin.filter, plugin.configure = filter, configure
	plugin.in, plugin.out = region(65536), region(65536)
	t.Cleanup(func() { plugin.filter, plugin.configure, plugin.in, plugin.out = nil, nil, nil, nil })
}

func TestACallAllocatesNothing(t *testing.T) {
	seen := 0
	register(t, func(r *Request, v *Verdict) {
		for l := range r.Labels() {
			v.Label(l)
		}
		for f := range r.Findings() {
			if string(f.Key) == "k" {
				seen++
			}
			if _, ok := f.Position(); !ok {
				v.Mask(FindingTarget(r.FindingsLen()-1-f.Index), 1)
			}
		}
		v.Replace(Range(0, uint32(len(r.Payload()))), r.Payload())
	}, nil)
	m := message(12)
	n := int32(0)
	if got := testing.AllocsPerRun(100, func() {
		copy(plugin.in, m)
		n = run(uint32(len(m)))
	}); got != 0 {
		t.Errorf("%v allocations for each message", got)
	}
	if want := int32(16 + 13*16 + 8 + 8); n != want || seen != 12*101 {
		t.Errorf("returned %d with %d findings seen; want %d", n, seen, want)
	}
}

func TestConfigurationIsHeededOrRefused(t *testing.T) {
	refusal := func() string { return string(plugin.out[4 : 4+le.Uint32(plugin.out)]) }
	settled := func(config string) int32 { return settle(uint32(copy(plugin.in, config))) }
	register(t, nil, nil)
	if n := settled("{}"); n != 0 {
		t.Errorf("without Configure, {}: %d", n)
	}
	if n := settled(`{"a":1}`); n != 1 || refusal() != errNoConfiguration.Error() {
		t.Errorf("without Configure, something: %d %q", n, refusal())
	}
	plugin.configure = func(c []byte) error { return errors.New(string(bytes.Repeat(c, 300))) }
	if n := settled("{}"); n != 1 || len(refusal()) != maxRefusal {
		t.Errorf("a long refusal: %d, %d bytes", n, len(refusal()))
	}
	if n := settle(65537); n != 1 {
		t.Errorf("longer than the region: %d", n)
	}
}
