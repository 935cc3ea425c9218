package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// guest is a small module, put together byte by byte, whose parts a test can break.
type guest struct {
	manifest  string   // "" = testManifest, "-" = none
	pages     int      // memory, 0 = 1
	max       byte     // maximum of memory, 0 = none
	arena     uint64   // what sluice_arena returns; 0 = in 1024, out 32768
	filter    []byte   // instructions of sluice_filter without end; nil = return the length of out
	locals    int      // i64 of sluice_filter
	configure []byte   // instructions of sluice_configure without end; nil = no such export
	out       []byte   // what the out region holds from the start
	extra     []byte   // sections put before the type section
	tail      []byte   // sections put at the end
	types     [][]byte // function types from 3 on
	imports   [][]byte // see importOf; functions of the module are numbered behind them
	names     map[string]string
	start     bool
	mistyped  bool // sluice_filter takes no parameter
}

const (
	guestIn  = 1024
	guestOut = 32768
)

const testManifest = `{"name":"guest","version":"1.2.3","serial":7,"abi":1,"sdk":"","description":"","profile":"bare","protocols":["mqtt"],"topics":["#"],` +
	`"labels":["CAT-A","CAT-B","CAT-GONE"],"reasons":{"1":"because","900":"why not"},"grants":["read.value:CAT-A","read.payload","read.source","replace"],` +
	`"limits":{"in_bytes":16384,"out_bytes":8192,"memory_pages":2},"on_error":"hold","vectors":"","min_host":""}`

// Instructions that the tests use.
var (
	codeUnreachable = []byte{0x00}
	codeSpinMemory  = []byte{0x41, 1, 0x40, 0} // memory.grow by 1; the result is what the filter returns
)

func uleb(v uint64) []byte {
	var b []byte
	for {
		c := byte(v & 0x7f)
		if v >>= 7; v == 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func sleb(v int64) []byte {
	var b []byte
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func i32Const(v int32) []byte { return append([]byte{0x41}, sleb(int64(v))...) }

func section(id byte, body []byte) []byte {
	return append(append([]byte{id}, uleb(uint64(len(body)))...), body...)
}

func vec(items ...[]byte) []byte {
	b := uleb(uint64(len(items)))
	for _, i := range items {
		b = append(b, i...)
	}
	return b
}

func text(s string) []byte { return append(uleb(uint64(len(s))), s...) }

func custom(name, data string) []byte { return section(0, append(text(name), data...)) }

// code is a function with so many i64 for locals.
func code(locals int, body []byte) []byte {
	b := []byte{0}
	if locals > 0 {
		b = append(append([]byte{1}, uleb(uint64(locals))...), 0x7e)
	}
	b = append(append(b, body...), 0x0b)
	return append(uleb(uint64(len(b))), b...)
}

// importOf is an imported function of a type.
func importOf(module, name string, typ byte) []byte {
	return append(append(text(module), text(name)...), 0, typ)
}

func (g guest) bytes() []byte {
	name := func(s string) []byte {
		if n, ok := g.names[s]; ok {
			s = n
		}
		return text(s)
	}
	if g.filter == nil {
		g.filter = i32Const(int32(len(g.out)))
	}
	if g.arena == 0 {
		g.arena = guestIn<<32 | guestOut
	}
	filterType := byte(2)
	if g.mistyped {
		filterType = 0
		g.filter = nil
	}
	n := byte(len(g.imports))
	funcs := [][]byte{{0}, {1}, {filterType}}
	codes := [][]byte{code(0, nil), code(0, append([]byte{0x42}, sleb(int64(g.arena))...)), code(g.locals, g.filter)}
	exports := [][]byte{append(name("memory"), 2, 0), append(name("sluice_abi_v1"), 0, n), append(name("sluice_arena"), 0, n+1), append(name("sluice_filter"), 0, n+2)}
	if g.configure != nil {
		funcs, codes = append(funcs, []byte{2}), append(codes, code(0, g.configure))
		exports = append(exports, append(name("sluice_configure"), 0, n+3))
	}
	memory := append([]byte{0}, uleb(uint64(max(g.pages, 1)))...)
	if g.max != 0 {
		memory = append(append([]byte{1}, uleb(uint64(max(g.pages, 1)))...), g.max)
	}
	b := []byte("\x00asm\x01\x00\x00\x00")
	b = append(b, g.extra...)
	b = append(b, section(1, vec(append([][]byte{{0x60, 0, 0}, {0x60, 2, 0x7f, 0x7f, 1, 0x7e}, {0x60, 1, 0x7f, 1, 0x7f}}, g.types...)...))...)
	if n > 0 {
		b = append(b, section(2, vec(g.imports...))...)
	}
	b = append(b, section(3, vec(funcs...))...)
	b = append(b, section(5, vec(memory))...)
	b = append(b, section(7, vec(exports...))...)
	if g.start {
		b = append(b, section(8, []byte{0})...)
	}
	b = append(b, section(10, vec(codes...))...)
	if len(g.out) > 0 {
		data := append([]byte{0}, i32Const(guestOut)...)
		data = append(append(data, 0x0b), uleb(uint64(len(g.out)))...)
		b = append(b, section(11, vec(append(data, g.out...)))...)
	}
	b = append(b, custom("producers", "dropped")...)
	if g.manifest == "" {
		g.manifest = testManifest
	}
	if g.manifest != "-" {
		b = append(b, custom(manifestSection, g.manifest)...)
	}
	return append(b, g.tail...)
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// testCategories are in force in the tests of small guests: CAT-GONE is not among them.
var testCategories = []gateway.Category{{ID: "OTHER"}, {ID: "CAT-B", Grade: gateway.General}, {ID: "CAT-A", Grade: gateway.General}}

const (
	catOther = iota
	catB
	catA
)

func testEnv(data []byte) Env {
	return Env{Pinned: []string{digestOf(data)}, Categories: testCategories, Instances: 2,
		Pseudonym: func(source, client string) string { return "p-" + source + "-" + string('0'+byte(len(client))) }}
}

// load loads a guest that must load, and closes it with the test.
func (g guest) load(t testing.TB, c PluginConfig) *Plugin {
	t.Helper()
	data := g.bytes()
	return loadWith(t, c, data, testEnv(data))
}

func loadWith(t testing.TB, c PluginConfig, data []byte, env Env) *Plugin {
	t.Helper()
	if c.Name == "" {
		c.Name = "under-test"
	}
	p, err := Load(context.Background(), c, data, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// flat makes the body of a flat JSON object out of key and value texts in turn; the values are JSON scalars.
func flat(pairs ...string) *gateway.Body {
	var raw strings.Builder
	raw.WriteByte('{')
	b := &gateway.Body{Encoding: gateway.JSON, Nodes: []gateway.Node{{Kind: gateway.Object, Parent: -1}}}
	for i := 0; i < len(pairs); i += 2 {
		key, value := pairs[i], pairs[i+1]
		if i > 0 {
			raw.WriteByte(',')
		}
		start := int32(raw.Len())
		raw.WriteString(`"` + key + `":` + value)
		n := gateway.Node{Kind: gateway.Number, Next: int32(i/2 + 2), Index: int32(i / 2), Key: gateway.Span{Off: start + 1, Len: int32(len(key))}}
		n.Value = gateway.Span{Off: start + int32(len(key)) + 3, Len: int32(len(value))}
		n.Member = gateway.Span{Off: start, Len: n.Value.End() - start}
		n.Text = n.Value
		switch value[0] {
		case '"':
			n.Kind, n.Text = gateway.String, gateway.Span{Off: n.Value.Off + 1, Len: n.Value.Len - 2}
		case 't', 'f':
			n.Kind = gateway.Bool
		case 'n':
			n.Kind = gateway.Null
		}
		b.Nodes = append(b.Nodes, n)
	}
	raw.WriteByte('}')
	b.Raw = []byte(raw.String())
	b.Nodes[0].Next, b.Nodes[0].Value, b.Nodes[0].Member = int32(len(b.Nodes)), gateway.Span{Len: int32(len(b.Raw))}, gateway.Span{Len: int32(len(b.Raw))}
	return b
}

func messageOf(b *gateway.Body) *gateway.Message {
	return &gateway.Message{ID: gateway.ID{Incarnation: 5, Counter: 77}, Source: "src", Protocol: gateway.MQTT, Client: "vehicle", Topic: "v1/car/gnss",
		Payload: b.Raw, Received: time.UnixMilli(1_700_000_000_123)}
}

// at is a finding on the value of a node.
func at(node int32, category uint16) gateway.Finding {
	return gateway.Finding{Place: gateway.Place{Kind: gateway.AtValue, Index: node}, Category: category, Grade: gateway.General, By: gateway.ByCatalog, Confidence: 80, Pair: -1}
}

func noObjection() *gateway.Opinion { return &gateway.Opinion{Action: gateway.Pass} }

// codeOf is the code of a FilterError, "" for no error, "?" for another one.
func codeOf(err error) string {
	if err == nil {
		return ""
	}
	if fe, ok := err.(*gateway.FilterError); ok {
		return fe.Code
	}
	return "?"
}
