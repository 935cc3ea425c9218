package guard

import (
	"bytes"
	"strings"
	"testing"
)

// block is the head of a block without parameters and results.
var block = []byte{opBlock, 0x40}

// huge is a count that no module can have.
var huge = []byte{0xff, 0xff, 0xff, 0xff, 0x0f}

func TestRefused(t *testing.T) {
	with := func(id byte, s []byte) []byte { return mod{funcs: []fn{{}}, sections: map[byte][]byte{id: s}}.bytes() }
	body := func(parts ...any) []byte { return one(nil, nil, code(parts...)) }
	locals := func(b ...byte) []byte { return mod{funcs: []fn{{locals: b}}}.bytes() }
	small := with(sectionCustom, nil)
	order := bytes.Clone(sectionOrder[:])
	order[4], order[5] = order[5], order[4]
	for _, c := range []struct {
		name   string
		module []byte
		want   string
	}{
		{"nothing", nil, "no WebAssembly 1 module"},
		{"another version", []byte("\x00asm\x02\x00\x00\x00"), "no WebAssembly 1 module"},
		{"no section", []byte(magic), "no memory"},
		{"a section that is cut off", append([]byte(magic), 1, 5, 0), "section 1 is cut off"},
		{"a section after its place", mod{funcs: []fn{{}}, order: order}.bytes(), "stands twice or out of order"},
		{"a section twice", mod{funcs: []fn{{}}, tail: []byte{sectionCode, 1, 0}}.bytes(), "stands twice or out of order"},
		{"a tag section", append([]byte(magic), 13, 1, 0), "section 13"},
		{"a start function", mod{funcs: []fn{{}}, sections: map[byte][]byte{sectionStart: {0}}}.bytes(), "start function"},
		{"bytes behind a section's vector", with(sectionTable, []byte{1, 0x70, 0, 2, 0}), "1 bytes left over"},
		{"bytes behind the last section", mod{funcs: []fn{{}}, tail: []byte{0}}.bytes(), "cut off"},
		{"a count of five bytes and 33 bits", with(sectionTable, []byte{0xff, 0xff, 0xff, 0xff, 0x1f}), "more than 32 bits"},
		{"a count of six bytes", with(sectionTable, []byte{0x81, 0x80, 0x80, 0x80, 0x80, 0}), "more than 32 bits"},

		{"four billion imports", append([]byte(magic), code(sectionImport, sized(huge))...), "do not fit"},
		{"four billion tables", with(sectionTable, huge), "do not fit"},
		{"four billion globals", with(sectionGlobal, huge), "do not fit"},
		{"four billion exports", with(sectionExport, huge), "do not fit"},
		{"four billion element segments", with(sectionElement, huge), "do not fit"},
		{"four billion bodies", with(sectionCode, huge), "do not fit"},
		{"four billion data segments", with(sectionData, huge), "do not fit"},
		{"four billion counted data segments", with(sectionDataCount, huge), "data segments"},
		{"four billion types", append([]byte(magic), code(sectionType, sized(huge))...), "do not fit"},
		{"four billion locals", locals(1, 0xff, 0xff, 0xff, 0xff, 0x0f, I32), "1024 are allowed"},
		{"1,025 locals", locals(2, 0x80, 0x08, I32, 1, I64), "1024 are allowed"},
		{"a group of no locals", locals(1, 0, I32), "group of no locals"},
		{"a local of a reference type", locals(1, 1, 0x6f), "0x6f is not allowed"},

		{"an import", with(sectionImport, code(1, "env", "x", 0, 0)), `import "env" "x" of type ()→() is not granted`},
		{"an imported memory", with(sectionImport, code(1, "env", "x", 2, 0, 1)), "is no function"},
		{"an imported global", with(sectionImport, code(1, "env", "x", 3, I32, 1)), "is no function"},
		{"an import of a wild type", with(sectionImport, code(1, "env", "x", 0, 9)), "type 9"},
		{"a function of a wild type", with(sectionFunction, []byte{1, 9}), "type 9"},
		{"a body too few", with(sectionCode, []byte{0}), "0 bodies for 1 functions"},
		{"no body at all", with(sectionCode, nil), "1 functions and 0 bodies"},
		{"a type that is none", with(sectionType, []byte{1, 0x5f, 0, 0}), "no function type"},
		{"a type of references", with(sectionType, []byte{1, 0x60, 1, 0x70, 0}), "0x70"},

		{"two memories", with(sectionMemory, []byte{2, 0, 1, 0, 1}), "2 memories"},
		{"no memory", mod{funcs: []fn{{}}, sections: map[byte][]byte{sectionMemory: nil, sectionExport: {0}}}.bytes(), "no memory"},
		{"a shared memory", with(sectionMemory, []byte{1, 3, 1, 1}), "shared"},
		{"a memory of 64 bits", with(sectionMemory, []byte{1, 4, 1}), "64-bit"},
		{"a memory of two gigabytes", with(sectionMemory, []byte{1, 0, 0x80, 0x80, 2}), "32768 pages"},
		{"a memory that is not shown", with(sectionExport, []byte{0}), "does not export its memory"},
		{"a table of four billion", with(sectionTable, []byte{1, 0x70, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}), "65536 elements"},
		{"two tables too large together", with(sectionTable, []byte{2, 0x70, 0, 0x80, 0x80, 3, 0x70, 0, 0x80, 0x80, 3}), "65536 elements"},
		{"a table of foreign references", with(sectionTable, []byte{1, 0x6f, 0, 1}), "0x6f"},
		{"a global that reads one", with(sectionGlobal, []byte{1, I32, 0, opGlobalGet, 0, opEnd}), "not constant"},
		{"a global that adds", with(sectionGlobal, []byte{1, I32, 0, opI32Const, 1, opI32Const, 1, opI32Add, opEnd}), "does not end"},
		{"the export name of the fuel", with(sectionExport, code(2, "memory", 2, 0, "sluice_fuel", 0, 0)), `"sluice_fuel" is taken`},
		{"the export name of the depth", with(sectionExport, code(2, "memory", 2, 0, "sluice_depth", 3, 0)), `"sluice_depth" is taken`},
		{"an export name twice", with(sectionExport, code(2, "memory", 2, 0, "memory", 0, 0)), "stands twice"},
		{"an export of nothing", with(sectionExport, code(1, "f", 0, 7)), "function 7"},
		{"an export name that is no text", with(sectionExport, []byte{1, 1, 0xff, 0, 0}), "not UTF-8"},
		{"an element that is no function", with(sectionElement, code(1, 0, i32c(0), opEnd, 1, 7)), "function 7"},
		{"data of a form unknown", with(sectionData, []byte{1, 3}), "do not fit"},
		{"data counted wrongly", mod{funcs: []fn{{}}, sections: map[byte][]byte{sectionDataCount: {2}, sectionData: {1, 1, 0}}}.bytes(), "1 data segments, counted as 2"},
		{"data counted and absent", with(sectionDataCount, []byte{1}), "counts 1 data segments and has none"},

		{"an instruction unknown", body(0xf0), "function 0: at offset 63: instruction 0xf0 is unknown"},
		{"a tail call", body(0x12, 0), "tail call"},
		{"an indirect tail call", body(0x13, 0, 0), "tail call"},
		{"try_table", body(0x1f, 0x40, 0), "exception handling"},
		{"throw", body(0x08, 0), "exception handling"},
		{"an atomic instruction", body(0xfe, 0), "atomic"},
		{"garbage collection", body(0xfb, 0), "garbage collection"},
		{"table.get", body(0x25, 0), "table instruction"},
		{"table.set", body(0x26, 0), "table instruction"},
		{"table.init", body(opBulk, 12, 0, 0), "table instruction"},
		{"elem.drop", body(opBulk, 13, 0), "table instruction"},
		{"table.copy", body(opBulk, 14, 0, 0), "table instruction"},
		{"table.grow", body(opBulk, 15, 0), "table instruction"},
		{"table.size", body(opBulk, 16, 0), "table instruction"},
		{"table.fill", body(opBulk, 17, 0), "table instruction"},
		{"a bulk instruction unknown", body(opBulk, 18), "unknown"},
		{"ref.func", body(0xd2, 0), "reference instruction"},
		{"call_ref", body(0x14, 0), "reference instruction"},
		{"select of a reference", body(opSelectT, 1, 0x70), "0x70"},
		{"a vector instruction unknown", body(opVector, 0x9a, 1), "unknown"},
		{"a vector instruction of three bytes", body(opVector, 0x80, 0x81, 0), "unknown"},
		{"a lane too high", body(opVector, 0x15, 16), "lane 16 of 16"},
		{"a shuffle too high", body(opVector, 13, times(16, []byte{32})), "lane 32"},
		{"a call of nothing", body(opCall, 9), "function 9"},
		{"a call of a wild type", body(i32c(0), opCallIndirect, 9, 0), "type 9"},
		{"a call through no table", body(i32c(0), opCallIndirect, 0, 1), "table 1"},
		{"a block of a wild type", body(opBlock, 9, opEnd), "block of type 9"},
		{"a block of a reference", body(opBlock, 0x70, opEnd), "block of type -16"},
		{"a local of nobody", body(get0), "local 0"},
		{"the counter of fuel", body(opGlobalGet, 2), "global 2"},
		{"setting the counter of fuel", body(i64c(9), opGlobalSet, 2), "global 2"},
		{"a global that is constant", body(i64c(9), opGlobalSet, 1), "not mutable"},
		{"a label of nobody", body(opBr, 1), "label 1"},
		{"a label behind a table's", body(i32c(0), opBrTable, 1, 0, 1), "label 1"},
		{"memory.init without data", body(opBulk, 8, 0, 0), "data count"},
		{"data.drop of nothing", mod{funcs: []fn{{body: []byte{opBulk, 9, 0}}}, sections: map[byte][]byte{sectionDataCount: {0}}}.bytes(), "data segment 0"},
		{"another memory's size", body(opMemorySize, 1), "another memory"},
		{"another memory's bytes", body(i32c(0), 0x28, 0x42, 0, 0), "another memory"},
		{"a body without end", with(sectionCode, []byte{1, 3, 0, opBlock, 0x40}), "cut off"},
		{"a body that goes on", body(opEnd), "bytes behind the last end"},
		{"else without if", body(opElse), "else without if"},
		{"else twice", body(i32c(0), opIf, 0x40, opElse, opElse, opEnd), "else without if"},
		{"a constant too long", body(opI32Const, 0x80, 0x80, 0x80, 0x80, 0x80, 0), "more than 32 bits"},
		{"a constant too large", body(opI32Const, 0xff, 0xff, 0xff, 0xff, 0x0f), "more than 32 bits"},

		{"500 loops in each other", body(times(500, []byte{opLoop, 0x40}), times(500, []byte{opEnd})), "32 loops"},
		{"100,000 blocks in each other", body(times(80_000, block), times(80_000, []byte{opEnd})), "2048 blocks"},
		{"a table of a million labels", body(i32c(0), opBrTable, 0xc0, 0x84, 0x3d, times(200_000, []byte{0})), "do not fit"},
		{"a table of 8,193 labels", body(i32c(0), opBrTable, 0x81, 0x40, times(8194, []byte{0})), "8192 are allowed"},
		{"1,000 locals, 2,000 blocks", mod{funcs: []fn{{locals: []byte{1, 0xe8, 7, I32}, body: times(2000, code(block, opEnd))}}}.bytes(), "65536 are allowed"},
		{"many locals in loops", mod{funcs: []fn{{locals: []byte{1, 0xe8, 7, I32}, body: code(times(5, []byte{opLoop, 0x40}), times(5, []byte{opEnd}))}}}.bytes(), "4000 are allowed"},
		{"4,097 blocks", body(times(4097, code(block, opEnd))), "4096 are allowed"},
		{"a function of 256 KiB", body(times(262_144, []byte{1})), "more than 262144"},
		{"a hundred functions at the limit", mod{funcs: times100(fn{body: times(4000, code(block, opEnd))})}.bytes(), "blocks and branches of a function"},
		{"loops and locals in many functions", mod{funcs: times100(fn{locals: []byte{1, 0xe8, 7, I32}, body: code(times(4, []byte{opLoop, 0x40}), times(4, []byte{opEnd}))})}.bytes(), "loop nesting"},
		{"20,001 functions", with(sectionFunction, code(0xa1, 0x9c, 1, make([]byte, 20_001))), "20000 are allowed"},
		{"257 exports", with(sectionExport, code(0x81, 2, times(257, code("a", 0, 0)))), "256 are allowed"},
		{"a custom section without a name", append(bytes.Clone(small), 0, 0), "custom section"},
		{"65 custom sections", append(bytes.Clone(small), times(65, code(0, 2, "x"))...), "64 custom sections"},
		{"eight megabytes", make([]byte, 8<<20+1), "at most 8388608"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Read(c.module, DefaultLimits())
			if err == nil || !strings.Contains(err.Error(), c.want) || m != nil {
				t.Errorf("Read = %v; want an error with %q", err, c.want)
			}
		})
	}
}

func times100(f fn) []fn {
	funcs := make([]fn, 100)
	for i := range funcs {
		funcs[i] = f
	}
	return funcs
}

// What a host needs to know of a module, and what the metered one has.
func TestReadTellsWhatIsThere(t *testing.T) {
	m := mod{funcs: []fn{{params: []byte{I32, I64}, results: []byte{F32, V128}, body: code(opUnreachable), export: "g"}}}
	m.tail = append(code(0, sized(code("sluice.manifest", []byte("{}")))), code(0, sized(code("name", []byte{1})))...)
	module := m.bytes()
	got := mustRead(t, module)
	if len(got.Custom) != 2 || got.Custom[0].Name != "sluice.manifest" || string(got.Custom[0].Data) != "{}" || got.MemoryMin != 1 || got.MemoryMax != 65536 {
		t.Errorf("custom %v, memory %d to %d", got.Custom, got.MemoryMin, got.MemoryMax)
	}
	if len(got.Exports) != 2 || got.Exports[1].Name != "g" || got.Exports[1].Type.String() != "(i32,i64)→(f32,v128)" {
		t.Errorf("exports %v", got.Exports)
	}
	metered := got.Meter()
	if bytes.Contains(metered, []byte("sluice.manifest")) || !bytes.Contains(metered, []byte(FuelGlobal)) {
		t.Error("the metered module has custom sections, or no counters")
	}
	if _, err := Read(metered, DefaultLimits()); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("a metered module is metered again: %v", err)
	}
}

// Imports are the host's to allow, by module, name and type.
func TestImportsAreAskedFor(t *testing.T) {
	module := mod{funcs: []fn{{params: []byte{I32}, body: nil, export: "f"}}, sections: map[byte][]byte{sectionImport: code(1, "sluice_v1", "log", 0, 0)}}.bytes()
	l := DefaultLimits()
	var asked Import
	l.Import = func(i Import) bool { asked = i; return true }
	m, err := Read(module, l)
	if err != nil || len(m.Imports) != 1 || asked.Module != "sluice_v1" || asked.Name != "log" || asked.Type.String() != "(i32)→()" {
		t.Errorf("%v: asked for %+v", err, asked)
	}
	l.Import = func(Import) bool { return false }
	if _, err := Read(module, l); err == nil {
		t.Error("an import was taken that the host refuses")
	}
}

// Limits that nobody set allow nothing.
func TestZeroLimitsAllowNothing(t *testing.T) {
	if _, err := Read(one(nil, nil, nil), Limits{}); err == nil {
		t.Error("a module was read under no limits")
	}
}

// Every prefix of a module is refused, and no byte that is changed makes Read panic.
func TestEveryPrefixAndEveryByte(t *testing.T) {
	module := one([]byte{I32}, []byte{I32}, code(get0, opIf, I32, i32c(300), opElse, i32c(1), i32c(2), get0, opBulk, 11, 0, i32c(9), opEnd))
	mustRead(t, module)
	for i := range module {
		if _, err := Read(module[:i], DefaultLimits()); err == nil {
			t.Errorf("the first %d bytes are a module", i)
		}
		for v := range 256 {
			b := bytes.Clone(module)
			b[i] = byte(v)
			if m, err := Read(b, DefaultLimits()); err == nil {
				m.Meter()
			}
		}
	}
}
