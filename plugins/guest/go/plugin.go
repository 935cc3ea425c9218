package sluice

import (
	"errors"
	"unsafe"
)

// maxRegion bounds each of the two regions.
const maxRegion = 1 << 20

// plugin is the one plugin of a module. Request and verdict stand here so that a call allocates nothing.
var plugin struct {
	filter    func(*Request, *Verdict)
	configure func(config []byte) error
	in, out   []byte
	request   Request
	verdict   Verdict
}

// Main registers the filter; call it in init. The function runs once per message and keeps neither argument.
func Main(filter func(r *Request, v *Verdict)) { plugin.filter = filter }

// Configure registers what reads the plugin's configuration, JSON; call it in init. An error refuses the configuration,
// and the load fails with its text. Without it every configuration but {} is refused.
func Configure(configure func(config []byte) error) { plugin.configure = configure }

// arena makes the two regions and returns where they are, 0 when it cannot.
func arena(inCap, outCap uint32) uint64 {
	if inCap > maxRegion || outCap > maxRegion || outCap < verdictLen {
		return 0
	}
	plugin.in, plugin.out = region(inCap), region(outCap)
	return uint64(address(plugin.in))<<32 | uint64(address(plugin.out))
}

// region makes n bytes that begin at a multiple of 8.
func region(n uint32) []byte {
	words := make([]uint64, n/8+1)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))[:n:n]
}

// address is where a region lies in the memory of the module; the collector does not move it.
func address(region []byte) uint32 { return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(region)))) }

// run answers one request of n bytes in the in region.
func run(n uint32) int32 {
	p := &plugin
	if uint64(n) > uint64(len(p.in)) {
		return malformed
	}
	if code := p.request.parse(p.in[:n]); code != 0 {
		return code
	}
	p.verdict.start(&p.request, p.out)
	p.filter(&p.request, &p.verdict)
	return p.verdict.finish()
}

// errNoConfiguration refuses what a plugin without Configure would not heed.
var errNoConfiguration = errors.New("the plugin takes no configuration")

// maxRefusal bounds the text of a refused configuration.
const maxRefusal = 512

// settle hands n bytes of configuration over: 0, or 1 with a text in the out region.
func settle(n uint32) int32 {
	p := &plugin
	if uint64(n) > uint64(len(p.in)) {
		return 1
	}
	err := errNoConfiguration
	if p.configure != nil {
		err = p.configure(p.in[:n])
	} else if string(p.in[:n]) == "{}" {
		err = nil
	}
	if err == nil {
		return 0
	}
	text := err.Error()
	size := copy(p.out[4:], text[:min(len(text), maxRefusal)])
	le.PutUint32(p.out, uint32(size))
	return 1
}
