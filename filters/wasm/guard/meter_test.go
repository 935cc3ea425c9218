package guard

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Shorthand for bodies.
var (
	get0 = []byte{opLocalGet, 0}
	get1 = []byte{opLocalGet, 1}
	set0 = []byte{opLocalSet, 0}
)

// dec0 is: local 0 -= 1, 4 instructions.
var dec0 = code(opLocalGet, 0, i32c(1), opI32Sub, opLocalSet, 0)

// The fuel of small functions, counted by hand from the table in the package documentation.
func TestFuelIsWhatTheTableSays(t *testing.T) {
	i32 := []byte{I32}
	for _, c := range []struct {
		name string
		f    fn
		arg  uint64
		want uint64 // result
		fuel int64
	}{
		{"an empty function costs one", fn{}, 0, 0, 1},
		{"each instruction costs one", fn{params: i32, results: i32, body: code(get0, i32c(2), opI32Add)}, 5, 7, 1 + 3},
		{"a division costs eight", fn{params: i32, results: i32, body: code(get0, i32c(2), 0x6e)}, 9, 4, 1 + 2 + 8},
		{"four locals cost one", fn{params: i32, results: i32, locals: []byte{1, 11, I64}, body: get0}, 5, 5, 1 + 3 + 1},
		{"blocks and ends cost nothing", fn{params: i32, results: i32, body: code(opBlock, I32, opBlock, I32, get0, opEnd, opEnd)}, 5, 5, 1 + 1},
		{"a loop pays each time round", fn{params: i32, results: i32, body: code(opLoop, 0x40, dec0, get0, opBrIf, 0, opEnd, get0)}, 3, 0, 1 + 3*(1+4+2) + 1},
		{"only the arm taken is paid", fn{params: i32, results: i32, body: code(get0, opIf, I32, i32c(1), opElse, i32c(2), i32c(3), opI32Add, opEnd)}, 0, 5, 1 + 2 + 3},
		{"the other arm", fn{params: i32, results: i32, body: code(get0, opIf, I32, i32c(1), opElse, i32c(2), i32c(3), opI32Add, opEnd)}, 1, 1, 1 + 2 + 1},
		{"if without else not taken", fn{params: i32, results: i32, body: code(get0, opIf, 0x40, dec0, opEnd, get0)}, 0, 0, 1 + 2 + 1},
		{"if without else taken", fn{params: i32, results: i32, body: code(get0, opIf, 0x40, dec0, opEnd, get0)}, 4, 3, 1 + 2 + 4 + 1},
		{"what follows a conditional branch is paid with what precedes it",
			fn{params: i32, results: i32, body: code(opBlock, 0x40, get0, opBrIf, 0, dec0, opEnd, get0)}, 4, 4, 1 + 2 + 4 + 1},
		{"an early return", fn{params: i32, results: i32, body: code(get0, opIf, 0x40, i32c(9), opReturn, opEnd, get0)}, 1, 9, 1 + 2 + 1 + 2},
		{"no early return", fn{params: i32, results: i32, body: code(get0, opIf, 0x40, i32c(9), opReturn, opEnd, get0)}, 0, 0, 1 + 2 + 1},
		{"dead code costs nothing", fn{params: i32, results: i32, body: code(get0, opReturn, dec0, get0, opIf, 0x40, opElse, opEnd, opLoop, 0x40, opEnd)}, 5, 5, 1 + 2},
		{"filling costs by length", fn{params: i32, results: i32, body: code(i32c(0), i32c(1), get0, opBulk, 11, 0, get0)}, 1001, 1001, 1 + 3 + 8 + 1 + 500},
		{"copying costs by length", fn{params: i32, results: i32, body: code(i32c(0), i32c(1), get0, opBulk, 10, 0, 0, get0)}, 1000, 1000, 1 + 3 + 8 + 1 + 500},
		{"growing costs by pages", fn{params: i32, results: i32, body: code(get0, opMemoryGrow, 0)}, 2, 1, 1 + 1 + 8 + 2*32768},
		{"vectors cost two", fn{results: i32, body: code(opVector, 12, times(16, []byte{1}), opVector, 0x1b, 2)}, 0, 0x01010101, 1 + 2 + 2},
		{"a branch out of the function", fn{params: i32, results: i32, body: code(get0, get0, opBrIf, 0, opBlock, 0x40, get0, opBr, 1, opEnd, 0)}, 0, 0, 1 + 3 + 2},
		{"a table of branches", fn{params: i32, results: i32, body: code(
			opBlock, 0x40, opBlock, 0x40, get0, opBrTable, 2, 0, 1, 1, opEnd, opEnd, i32c(3))}, 9, 3, 1 + 2 + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.export = "f"
			m := mustRead(t, mod{funcs: []fn{c.f}}.bytes())
			var args []uint64
			if len(c.f.params) > 0 {
				args = []uint64{c.arg}
			}
			for engine := range engines {
				r := start(t, engine, m.Meter(), 16)
				got, fuel, err := r.call("f", 100_000, 10, args...)
				if err != nil || fuel != c.fuel || (len(got) > 0 && got[0] != c.want) {
					t.Errorf("%s: result %v, fuel %d, error %v; want %d, %d", engine, got, fuel, err, c.want, c.fuel)
				}
				if _, _, err = r.call("f", c.fuel, 10, args...); err != nil {
					t.Errorf("%s: with just enough fuel: %v", engine, err)
				}
				if _, _, err := start(t, engine, m.Meter(), 16).call("f", c.fuel-1, 10, args...); err == nil {
					t.Errorf("%s: no trap with one too little", engine)
				}
			}
		})
	}
}

// Every way out of a function gives its depth back; results of all kinds survive.
func TestDepthIsRestoredOnEveryWayOut(t *testing.T) {
	call := []byte{opCall, 1}
	two := []byte{I32, I64}
	ways := map[string][]byte{
		"falling off the end":  code(call, i32c(4), i64c(5)),
		"return":               code(call, i32c(4), i64c(5), opReturn),
		"return in blocks":     code(call, opBlock, 0x40, opLoop, 0x40, i32c(3), i32c(4), i64c(5), opReturn, opEnd, opEnd, 0),
		"br":                   code(call, opBlock, 0x40, i32c(4), i64c(5), opBr, 1, opEnd, 0),
		"br_if":                code(call, i32c(4), i64c(5), i32c(1), opBrIf, 0, opReturn),
		"br_table":             code(call, opBlock, 0x40, i32c(4), i64c(5), i32c(8), opBrTable, 1, 1, 1, opEnd, 0),
		"if":                   code(call, i32c(1), opIf, 0x40, i32c(4), i64c(5), opReturn, opElse, call, opEnd, 0),
		"else":                 code(call, i32c(0), opIf, 0x40, 0, opElse, i32c(4), i64c(5), opBr, 1, opEnd, 0),
		"return and dead code": code(call, i32c(4), i64c(5), opReturn, opCall, 1, opReturn, opBr, 0),
	}
	for name, body := range ways {
		m := mustRead(t, mod{funcs: []fn{{results: two, body: body, export: "f"}, {body: code(opCall, 2)}, {}}}.bytes())
		for engine := range engines {
			r := start(t, engine, m.Meter(), 16)
			for range 3 {
				got, _, err := r.call("f", 1000, 2)
				if err != nil || !slices.Equal(got, []uint64{4, 5}) || int32(r.depth.Get()) != 2 {
					t.Errorf("%s, %s: %v, %v, depth %d left of 2", name, engine, got, err, int32(r.depth.Get()))
				}
			}
			if _, _, err := r.call("f", 1000, 1); err == nil || int32(r.depth.Get()) >= 0 || r.left() <= 900 {
				t.Errorf("%s, %s: depth 1: %v, depth %d left", name, engine, err, int32(r.depth.Get()))
			}
		}
	}
}

// Blocks with parameters and results, and the value of what is not counted: original and metered say the same.
func TestMeteredDoesWhatTheModuleDoes(t *testing.T) {
	i32, i64 := []byte{I32}, []byte{I64}
	pair := fn{params: []byte{I32, I32}, results: []byte{I32, I32}, body: code(get1, get0), export: "swap"}
	loop := fn{params: []byte{I32, I32}, results: []byte{I32, I32}, export: "f", // types 0 and 1 are (i32,i32)→(i32,i32)
		body: code(get0, get1, opLoop, 0, opCall, 0, dec0, get0, opBrIf, 0, opEnd, opBlock, 1, opCall, 0, opEnd, get0, opIf, 0, opElse, opCall, 0, opEnd)}
	fac := fn{params: i64, results: i64, export: "fac",
		body: code(opLocalGet, 0, 0x50, opIf, I64, i64c(1), opElse, get0, get0, i64c(1), opI64Sub, opCall, 2, 0x7e, opEnd)}
	sel := fn{params: i32, results: i32, export: "sel", body: code(i32c(6), i32c(8), get0, opSelectT, 1, I32, opMemorySize, 0, opI32Add,
		opGlobalGet, 0, opI32Add, get0, opGlobalSet, 0, get0, i32c(1), 0x71, opCallIndirect, 5, 0, opI32Add)}
	seven := fn{results: i32, body: i32c(7)}
	seven2 := fn{results: i32, body: i32c(7)}
	module := mod{funcs: []fn{pair, loop, fac, sel, seven, seven2}, sections: map[byte][]byte{sectionElement: code(1, 0, opI32Const, 0, opEnd, 2, 5, 4)}}.bytes()
	m := mustRead(t, module)
	for engine := range engines {
		plain, metered := start(t, engine, module, 16), start(t, engine, m.Meter(), 16)
		for name, args := range map[string][][]uint64{"swap": {{1, 2}}, "f": {{1, 9}, {2, 9}, {5, 3}}, "fac": {{0}, {1}, {20}}, "sel": {{0}, {2}, {4}}} {
			for _, a := range args {
				want, _, err1 := plain.call(name, 0, 0, a...)
				got, used, err2 := metered.call(name, 100_000, 100, a...)
				if (err1 == nil) != (err2 == nil) || !slices.Equal(want, got) || used <= 0 {
					t.Errorf("%s: %s%v = %v, %v; metered %v, %v with %d fuel", engine, name, a, want, err1, got, err2, used)
				}
			}
		}
	}
}

// A trap of the plugin's own leaves both counters at or above zero: that is how a host tells it from theirs.
func TestOwnTrapsLeaveTheCountersAlone(t *testing.T) {
	for engine := range engines {
		r := start(t, engine, mustRead(t, one(nil, nil, []byte{opUnreachable})).Meter(), 16)
		if _, _, err := r.call("f", 10, 10); err == nil || r.left() < 0 || int32(r.depth.Get()) < 0 {
			t.Errorf("%s: %v, fuel %d, depth %d", engine, err, r.left(), int32(r.depth.Get()))
		}
	}
}

// Counters that nobody set are zero, and zero traps.
func TestWithoutFuelNothingRuns(t *testing.T) {
	r := start(t, "interpreter", mustRead(t, one(nil, nil, nil)).Meter(), 16)
	if _, err := r.mod.ExportedFunction("f").Call(t.Context()); err == nil || r.left() >= 0 {
		t.Errorf("an instance ran without fuel: %v, %d left", err, r.left())
	}
}

// attacks are modules that keep every rule and want all of the machine.
func attacks() map[string][]byte {
	i32 := []byte{I32}
	loop := func(body ...any) []byte { return code(opLoop, 0x40, code(body...), opBr, 0, opEnd) }
	segment := map[byte][]byte{sectionDataCount: {1}, sectionData: code(1, 1, sized(make([]byte, 65536)))}
	tail := code(get0, opIf, 0x40, get0, i32c(1), opI32Sub, opCall, 0, opEnd, times(1_900, code(opBlock, 0x40, get0, opBrIf, 0, opEnd)))
	return map[string][]byte{
		"a loop without end":        one(nil, nil, loop()),
		"a loop by br_if":           one(nil, nil, code(opLoop, 0x40, i32c(1), opBrIf, 0, opEnd)),
		"a loop by br_table":        one(nil, nil, code(opLoop, 0x40, opBlock, 0x40, i32c(1), opBrTable, 1, 0, 1, opEnd, opEnd)),
		"a loop through an if":      one(nil, nil, code(opLoop, 0x40, i32c(1), opIf, 0x40, opBr, 1, opElse, opBr, 1, opEnd, opEnd)),
		"loops within loops":        one(nil, nil, code(times(30, []byte{opLoop, 0x40}), i32c(1), opBrIf, 29, times(30, []byte{opEnd}))),
		"a loop of nops":            one(nil, nil, loop(times(200_000, []byte{1}))),
		"a loop of divisions":       one(i32, nil, loop(times(10_000, code(i64c(-1<<62), get0, opI64ExtendU, 0x7f, 0x1a)))),
		"calls without end":         one(nil, nil, code(opCall, 0)),
		"exponential recursion":     mod{funcs: doubling(60)}.bytes(),
		"indirect recursion":        mod{funcs: []fn{{body: code(i32c(0), opCallIndirect, 0, 0), export: "f"}}, sections: map[byte][]byte{sectionElement: code(1, 0, opI32Const, 0, opEnd, 1, 0)}}.bytes(),
		"recursion with locals":     mod{funcs: []fn{{locals: []byte{1, 0x80, 0x08, V128}, body: code(opCall, 0), export: "f"}}}.bytes(),
		"long ways back":            mod{funcs: []fn{{params: i32, body: tail, export: "f"}}}.bytes(),
		"fill in a loop":            one(nil, nil, loop(i32c(0), i32c(1), i32c(65536), opBulk, 11, 0)),
		"copy in a loop":            one(nil, nil, loop(i32c(0), i32c(0), i32c(65536), opBulk, 10, 0, 0)),
		"init in a loop":            mod{funcs: []fn{{body: loop(i32c(0), i32c(0), i32c(65536), opBulk, 8, 0, 0), export: "f"}}, sections: segment}.bytes(),
		"grow to the limit and on":  one(nil, nil, loop(i32c(1), opMemoryGrow, 0, 0x1a)),
		"grow by four billion":      one(nil, nil, loop(i32c(-1), opMemoryGrow, 0, 0x1a)),
		"fill of four billion":      one(nil, nil, code(i32c(0), i32c(0), i32c(-1), opBulk, 11, 0)),
		"many fills without a loop": one(nil, nil, times(600, code(i32c(0), i32c(0), i32c(65536), opBulk, 11, 0))),
	}
}

// doubling makes n functions that call the next one twice: 2ⁿ calls without a loop and without depth.
func doubling(n int) []fn {
	funcs := make([]fn, n)
	for i := range n - 1 {
		funcs[i].body = code(opCall, i+1, opCall, i+1)
	}
	funcs[0].export = "f"
	return funcs
}

// No attack takes more than its fuel and a little time; the host can tell why it ended.
func TestAttacksEndWithinTheirFuel(t *testing.T) {
	const fuel = 50_000_000
	for name, module := range attacks() {
		t.Run(name, func(t *testing.T) {
			m := mustRead(t, module)
			for engine := range engines {
				budget := int64(fuel)
				if name == "many fills without a loop" {
					budget = 5_000_000
				}
				if engine == "interpreter" {
					budget /= 20
				}
				r := start(t, engine, m.Meter(), 160)
				var args []uint64
				if e := m.Exports[1]; len(e.Type.Params) > 0 {
					args = []uint64{1000}
				}
				begin := time.Now()
				_, used, err := r.call("f", budget, 1000, args...)
				took := time.Since(begin)
				if err == nil || !strings.Contains(err.Error(), "unreachable") || (r.left() >= 0 && int32(r.depth.Get()) >= 0) {
					t.Errorf("%s: ended with %v, fuel %d, depth %d", engine, err, r.left(), int32(r.depth.Get()))
				}
				t.Logf("%s: %v for %d fuel", engine, took, used)
				if took > 10*time.Second {
					t.Errorf("%s: took %v", engine, took)
				}
			}
		})
	}
}

// No program that walks at random through all kinds of blocks changes its result by being metered, and both engines take
// the same fuel from it. The counted instructions are never fewer than those that a run executes.
func TestRandomProgramsKeepTheirResults(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	for seed := range seeds {
		g := &generator{rand: rand.New(rand.NewPCG(uint64(seed), 7))}
		body := code(g.statements(0, 40), opGlobalGet, 0)
		funcs := []fn{{params: []byte{I32}, results: []byte{I32}, locals: []byte{1, 1, I32}, body: body, export: "f"},
			{params: []byte{I32}, results: []byte{I32}, body: code(get0, i32c(3), 0x6c, opGlobalGet, 0, opI32Add, opGlobalSet, 0, get0)}}
		module := mod{funcs: funcs}.bytes()
		m, err := Read(module, DefaultLimits())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		metered := m.Meter()
		for _, arg := range []uint64{0, 1, 5} {
			var seen []string
			for engine := range engines {
				plain, counted := start(t, engine, module, 16), start(t, engine, metered, 16)
				got, used, err := counted.call("f", 100_000, 100, arg)
				if err != nil && counted.left() < 0 {
					continue // it may well loop for ever
				}
				want, _, err2 := plain.call("f", 0, 0, arg)
				if (err == nil) != (err2 == nil) || !slices.Equal(want, got) {
					t.Fatalf("seed %d, %s: f(%d) = %v, %v; metered %v, %v", seed, engine, arg, want, err2, got, err)
				}
				seen = append(seen, fmt.Sprint(used, got))
			}
			if len(seen) == 1 || (len(seen) == 2 && seen[0] != seen[1]) {
				t.Fatalf("seed %d: engines differ: %v", seed, seen)
			}
		}
	}
}

// generator writes valid code: statements leave the stack as it was. Local 1 counts rounds, so most loops end.
type generator struct {
	rand *rand.Rand
	left int
}

func (g *generator) statements(depth, n int) []byte {
	var b []byte
	for range 1 + g.rand.IntN(n) {
		b = append(b, g.statement(depth)...)
	}
	return b
}

func (g *generator) value() []byte {
	switch g.rand.IntN(4) {
	case 0:
		return get0
	case 1:
		return []byte{opGlobalGet, 0}
	case 2:
		return code(get0, i32c(int32(g.rand.IntN(9))), 0x71)
	}
	return i32c(int32(g.rand.IntN(3)))
}

func (g *generator) statement(depth int) []byte {
	n := 14
	if depth > 5 {
		n = 6
	}
	label := g.rand.IntN(depth + 1)
	if label == depth {
		label = max(depth-1, 0)
	}
	switch g.rand.IntN(n) {
	case 0, 1:
		return code(opGlobalGet, 0, g.value(), opI32Add, i32c(1), opI32Add, opGlobalSet, 0)
	case 2:
		return code(g.value(), opCall, 1, opLocalSet, 0)
	case 3:
		return code(i32c(0), g.value(), i32c(100), opBulk, 11, 0)
	case 4:
		if depth == 0 {
			return nil
		}
		// counts down what is left of the rounds, so that a branch to a loop ends one day
		return code(opLocalGet, 1, i32c(1), opI32Add, opLocalTee, 1, i32c(50), opI32LtS, g.value(), 0x71, opBrIf, label)
	case 5:
		return code(g.value(), g.value(), 0x6e, 0x1a) // may trap
	case 6, 7:
		return code(opBlock, 0x40, g.statements(depth+1, 4), opEnd)
	case 8:
		return code(opLoop, 0x40, g.statements(depth+1, 4), opEnd)
	case 9:
		return code(g.value(), opIf, 0x40, g.statements(depth+1, 3), opEnd)
	case 10:
		return code(g.value(), opIf, 0x40, g.statements(depth+1, 3), opElse, g.statements(depth+1, 3), opEnd)
	case 11:
		return code(opBlock, 0x40, g.statements(depth+1, 3), opBr, 0, g.statements(depth+1, 3), opEnd)
	case 12:
		return code(opBlock, 0x40, opBlock, 0x40, g.value(), opBrTable, 1, 0, 1, opEnd, g.statements(depth+1, 3), opEnd)
	}
	return code(g.value(), opIf, 0x40, g.value(), opReturn, opElse, g.statements(depth+1, 2), opEnd)
}

// testdata/metered.txt holds modules and their metered form, for whoever writes another meter.
func TestMeteredBytesAreThoseOnFile(t *testing.T) {
	const file = "testdata/metered.txt"
	modules := []struct {
		name  string
		bytes []byte
	}{
		{"the example of the package documentation", one([]byte{I32}, nil, code(opLoop, 0x40, get0, opBrIf, 0, opEnd))},
		{"a call, two results and an early return", mod{funcs: []fn{{params: []byte{I32}, results: []byte{I32, I64}, export: "f",
			body: code(opCall, 1, get0, opIf, 0x40, i32c(1), i64c(2), opReturn, opEnd, i32c(3), i64c(4))}, {}}}.bytes()},
		{"fill and grow", one([]byte{I32}, []byte{I32}, code(i32c(0), i32c(1), get0, opBulk, 11, 0, get0, opMemoryGrow, 0))},
	}
	var text strings.Builder
	text.WriteString("# Modules, and what Meter makes of them.\n")
	for _, m := range modules {
		fmt.Fprintf(&text, "\n# %s\nmodule  %x\nmetered %x\n", m.name, m.bytes, mustRead(t, m.bytes).Meter())
	}
	if *update {
		if err := os.WriteFile(file, []byte(text.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("%s is not what Meter writes; -update rewrites it", file)
	}
}

var update = flag.Bool("update", false, "rewrite files in testdata")
