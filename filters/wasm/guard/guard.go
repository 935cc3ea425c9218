package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits bound what Read accepts. A limit of 0 allows nothing of its kind: start from DefaultLimits.
type Limits struct {
	Size        int               // bytes of the file
	Custom      int               // custom sections
	Types       int               // function types
	Params      int               // parameters of a type
	Results     int               // results of a type
	Imports     int               // imported functions
	Functions   int               // functions of the module's own
	Globals     int               // globals
	Tables      int               // tables
	Table       uint32            // elements that all tables together start with
	MemoryPages uint32            // pages that the memory starts with
	Exports     int               // exports
	Segments    int               // element segments, and data segments
	Body        int               // bytes of a function
	Locals      int               // parameters and locals of a function
	Nesting     int               // blocks within each other, no more than 65,534
	LoopNesting int               // loops within each other
	BrTable     int               // labels of one br_table
	BlockLocals int               // blocks of a function × its locals
	LoopLocals  int               // loop nesting of a function × its locals
	Flow        int               // of a function: each block and if 1, loop 3, br and br_if 1, br_table its labels, instruction charged by length 6
	FlowWork    int               // sum of their squares over all functions, in thousands
	Work        int               // sum of blocks × locals over all functions
	LoopWork    int               // sum of (loop nesting × locals)² over all functions, in thousands
	Points      int               // places at which the metered module has code that the module does not have
	Import      func(Import) bool // says whether an import is allowed; nil: none is
}

// DefaultLimits are what plugins are held to. Imports are for the host to allow.
func DefaultLimits() Limits {
	return Limits{Size: 8 << 20, Custom: 64, Types: 4096, Params: 128, Results: 16, Imports: 32, Functions: 20_000, Globals: 4096, Tables: 4,
		Table: 65_536, MemoryPages: 160, Exports: 256, Segments: 100_000, Body: 256 << 10, Locals: 1024, Nesting: 2048, LoopNesting: 32,
		BrTable: 8192, BlockLocals: 65_536, LoopLocals: 4000, Flow: 4096, FlowWork: 150_000, Work: 4_000_000, LoopWork: 160_000, Points: 1 << 20}
}

// FuncType is the type of a function: one byte for each value type, as in the module.
type FuncType struct{ Params, Results []byte }

// Value types. [WebAssembly Core 2.0 §5.3]
const (
	I32  = 0x7f
	I64  = 0x7e
	F32  = 0x7d
	F64  = 0x7c
	V128 = 0x7b

	funcref = 0x70
)

var typeNames = map[byte]string{I32: "i32", I64: "i64", F32: "f32", F64: "f64", V128: "v128"}

func (t FuncType) String() string {
	list := func(types []byte) string {
		names := make([]string, len(types))
		for i, v := range types {
			names[i] = typeNames[v]
		}
		return "(" + strings.Join(names, ",") + ")"
	}
	return list(t.Params) + "→" + list(t.Results)
}

// Import is a function that the module wants from its host.
type Import struct {
	Module, Name string
	Type         FuncType
}

// Kind is what an export names. [WebAssembly Core 2.0 §5.5.10]
type Kind byte

const (
	Func Kind = iota
	Table
	Memory
	Global
)

// Export is something that the module shows to its host.
type Export struct {
	Name string
	Kind Kind
	Type FuncType // of a function
}

// Custom is a custom section.
type Custom struct {
	Name string
	Data []byte
}

// Info says how large a module is, in the terms of Limits.
type Info struct {
	Size, Types, Functions, Globals, Segments, Body, Locals, Nesting, LoopNesting, BrTable, BlockLocals, LoopLocals, Flow, FlowWork, Work, LoopWork, Points int

	Instructions int
	Weight       int // the most that a call of one of its functions takes of the depth
	Table        uint32
}

// Module is a module whose structure was found to keep the rules. It refers to the bytes given to Read: they must not be
// changed while it is in use. It is not changed by its methods and safe for concurrent use.
type Module struct {
	Imports   []Import
	Exports   []Export
	Custom    []Custom // in their order
	MemoryMin uint32   // pages
	MemoryMax uint32   // pages, 65536 when the module states none
	Info      Info

	raw      []byte
	sections [sectionLast + 1]span
	types    []FuncType
	funcs    []uint32 // types of all functions, imported ones first
	mutable  []bool   // of each global
	tables   int
	elements int
	data     int // data segments, -1 without a data count section
	bodies   []body
	marks    []mark
}

// span is a part of the module's bytes.
type span struct{ pos, end int }

// Section numbers of a WebAssembly module. [WebAssembly Core 2.0 §5.5.2]
const (
	sectionCustom = iota
	sectionType
	sectionImport
	sectionFunction
	sectionTable
	sectionMemory
	sectionGlobal
	sectionExport
	sectionStart
	sectionElement
	sectionCode
	sectionData
	sectionDataCount
	sectionLast = sectionDataCount
)

// sectionOrder are the sections in the order in which they must stand.
var sectionOrder = [...]byte{sectionType, sectionImport, sectionFunction, sectionTable, sectionMemory, sectionGlobal, sectionExport, sectionStart,
	sectionElement, sectionDataCount, sectionCode, sectionData}

// Names under which a metered module exports its counters, and the memory that every module must export.
const (
	FuelGlobal  = "sluice_fuel"
	DepthGlobal = "sluice_depth"

	memoryExport = "memory"
)

const magic = "\x00asm\x01\x00\x00\x00"

// Read decodes a module from its first to its last byte and checks it against the rules of the package and the limits.
// It needs memory in proportion to the module's length and l.Points, whatever the module says. What it accepts is well
// formed, and every index in it leads somewhere; whether values have the right types is left to the engine.
func Read(module []byte, l Limits) (*Module, error) {
	m := &Module{raw: module, data: -1}
	m.Info.Size = len(module)
	if len(module) > l.Size {
		return nil, fmt.Errorf("module has %d bytes; at most %d are allowed", len(module), l.Size)
	}
	if len(module) < len(magic) || string(module[:len(magic)]) != magic {
		return nil, errors.New("no WebAssembly 1 module")
	}
	if err := m.split(&l); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		id   int
		name string
		read func(*reader, *Limits)
	}{
		{sectionType, "type", m.readTypes}, {sectionImport, "import", m.readImports}, {sectionFunction, "function", m.readFunctions},
		{sectionTable, "table", m.readTables}, {sectionMemory, "memory", m.readMemory}, {sectionGlobal, "global", m.readGlobals},
		{sectionExport, "export", m.readExports}, {sectionElement, "element", m.readElements}, {sectionDataCount, "data count", m.readDataCount},
		{sectionCode, "code", m.readCode}, {sectionData, "data", m.readData},
	} {
		at := m.sections[s.id]
		if at.end == 0 {
			continue
		}
		r := &reader{b: module, pos: at.pos, end: at.end}
		s.read(r, &l)
		if r.err == nil && r.left() > 0 {
			r.fail("%d bytes left over", r.left())
		}
		if r.err != nil {
			return nil, fmt.Errorf("%s section: %w", s.name, r.err)
		}
	}
	if err := m.whole(); err != nil {
		return nil, err
	}
	return m, nil
}

// split finds the sections: each at most once and in their order. [WebAssembly Core 2.0 §5.5.16]
func (m *Module) split(l *Limits) error {
	r := &reader{b: m.raw, pos: len(magic), end: len(m.raw)}
	next := 0
	for r.left() > 0 && r.err == nil {
		start := r.pos
		id := r.byte()
		size := r.u32()
		if uint64(size) > uint64(r.left()) {
			r.fail("section %d is cut off", id)
			break
		}
		at := span{r.pos, r.pos + int(size)}
		switch place := slices.Index(sectionOrder[:], id); {
		case id == sectionCustom:
			c := &reader{b: m.raw, pos: at.pos, end: at.end}
			name := c.name()
			if c.err != nil {
				return fmt.Errorf("custom section: %w", c.err)
			}
			if len(m.Custom) == l.Custom {
				return fmt.Errorf("more than %d custom sections", l.Custom)
			}
			m.Custom = append(m.Custom, Custom{name, c.skip(c.left())})
		case id == sectionStart:
			return errors.New("module has a start function")
		case place < 0:
			return fmt.Errorf("at offset %d: section %d is unknown or of a feature that is not allowed", start, id)
		case place < next:
			return fmt.Errorf("at offset %d: section %d stands twice or out of order", start, id)
		default:
			m.sections[id], next = at, place+1
		}
		r.pos = at.end
	}
	return r.err
}

// whole checks what no section can say alone.
func (m *Module) whole() error {
	switch {
	case m.sections[sectionMemory].end == 0:
		return errors.New("module has no memory of its own")
	case len(m.funcs)-len(m.Imports) != len(m.bodies):
		return fmt.Errorf("module has %d functions and %d bodies", len(m.funcs)-len(m.Imports), len(m.bodies))
	case m.data > 0 && m.sections[sectionData].end == 0:
		return fmt.Errorf("module counts %d data segments and has none", m.data)
	case !slices.ContainsFunc(m.Exports, func(e Export) bool { return e.Name == memoryExport && e.Kind == Memory }):
		return errors.New(`module does not export its memory as "memory"`)
	}
	return nil
}

func (r *reader) valueTypes(what string, most int) []byte {
	n := r.count(what, 1, most)
	types := r.skip(n)
	for _, t := range types {
		if t < V128 || t > I32 {
			r.fail("type 0x%02x among the %s is not allowed", t, what)
			return nil
		}
	}
	return types
}

func (r *reader) valueType() {
	if t := r.byte(); r.err == nil && (t < V128 || t > I32) {
		r.fail("type 0x%02x is not allowed", t)
	}
}

func (m *Module) readTypes(r *reader, l *Limits) {
	n := r.count("types", 3, l.Types)
	m.types = make([]FuncType, 0, n)
	for range n {
		if form := r.byte(); form != 0x60 {
			r.fail("type %d is no function type", len(m.types))
		}
		params := r.valueTypes("parameters", l.Params)
		m.types = append(m.types, FuncType{params, r.valueTypes("results", l.Results)})
		if r.err != nil {
			return
		}
	}
	m.Info.Types = n
}

func (m *Module) readImports(r *reader, l *Limits) {
	for range r.count("imports", 4, l.Imports) {
		i := Import{Module: r.name(), Name: r.name()}
		if kind := r.byte(); r.err == nil && Kind(kind) != Func {
			r.fail("import %q %q is no function", i.Module, i.Name)
		}
		t := r.index("type", len(m.types))
		if r.err != nil {
			return
		}
		i.Type = m.types[t]
		if l.Import == nil || !l.Import(i) {
			r.fail("import %q %q of type %v is not granted", i.Module, i.Name, i.Type)
			return
		}
		m.Imports = append(m.Imports, i)
		m.funcs = append(m.funcs, t)
	}
}

func (m *Module) readFunctions(r *reader, l *Limits) {
	n := r.count("functions", 1, l.Functions)
	m.funcs = slices.Grow(m.funcs, n)
	for range n {
		m.funcs = append(m.funcs, r.index("type", len(m.types)))
	}
	m.Info.Functions = n
}

// limits reads the size of a table or memory: flag, minimum and, when the flag says so, maximum.
func (r *reader) limits(what string) (least, most uint32, bounded bool) {
	flag := r.byte()
	if flag > 1 {
		r.fail("%s is shared or has 64-bit addresses", what)
	}
	least = r.u32()
	if flag == 1 {
		if most = r.u32(); most < least {
			r.fail("%s starts larger than its maximum", what)
		}
	}
	return least, most, flag == 1
}

func (m *Module) readTables(r *reader, l *Limits) {
	m.tables = r.count("tables", 3, l.Tables)
	for range m.tables {
		if t := r.byte(); t != funcref {
			r.fail("a table of type 0x%02x is not allowed", t)
		}
		least, _, _ := r.limits("table")
		if least > l.Table-m.Info.Table {
			r.fail("tables start with more than %d elements", l.Table)
			return
		}
		m.Info.Table += least
	}
}

const maxPages = 1 << 16

func (m *Module) readMemory(r *reader, l *Limits) {
	if n := r.u32(); n != 1 {
		r.fail("%d memories; a module has one", n)
	}
	least, most, bounded := r.limits("memory")
	if !bounded {
		most = maxPages
	}
	if least > l.MemoryPages || most > maxPages {
		r.fail("memory starts with %d pages and has at most %d; %d and %d are allowed", least, most, l.MemoryPages, maxPages)
	}
	m.MemoryMin, m.MemoryMax = least, most
}

// constant reads a constant expression. Those that read an imported global have none to read. [WebAssembly Core 2.0 §3.3.9]
func (m *Module) constant(r *reader, elem bool) {
	switch op := r.byte(); {
	case op == opI32Const:
		r.signed(32)
	case op == opI64Const:
		r.signed(64)
	case op == opF32Const:
		r.skip(4)
	case op == opF64Const:
		r.skip(8)
	case op == opVector:
		if r.byte() != 12 {
			r.fail("expression is not constant")
		}
		r.skip(16)
	case op == opRefNull && elem:
		if r.byte() != funcref {
			r.fail("reference is none to a function")
		}
	case op == opRefFunc && elem:
		r.index("function", len(m.funcs))
	default:
		r.fail("expression begins with 0x%02x: not constant or not allowed", op)
	}
	if r.byte() != opEnd {
		r.fail("constant expression does not end")
	}
}

func (m *Module) readGlobals(r *reader, l *Limits) {
	n := r.count("globals", 5, l.Globals)
	for range n {
		r.valueType()
		mutable := r.byte()
		if mutable > 1 {
			r.fail("global has mutability %d", mutable)
		}
		m.constant(r, false)
		m.mutable = append(m.mutable, mutable == 1)
		if r.err != nil {
			return
		}
	}
	m.Info.Globals = n
}

func (m *Module) readExports(r *reader, l *Limits) {
	seen := map[string]bool{}
	for range r.count("exports", 3, l.Exports) {
		e := Export{Name: r.name(), Kind: Kind(r.byte())}
		switch e.Kind {
		case Func:
			i := r.index("function", len(m.funcs))
			if r.err == nil {
				e.Type = m.types[m.funcs[i]]
			}
		case Table:
			r.index("table", m.tables)
		case Memory:
			r.index("memory", min(m.sections[sectionMemory].end, 1))
		case Global:
			r.index("global", len(m.mutable))
		default:
			r.fail("export %q is of unknown kind %d", e.Name, e.Kind)
		}
		switch {
		case seen[e.Name]:
			r.fail("export %q stands twice", e.Name)
		case e.Name == FuelGlobal || e.Name == DepthGlobal:
			r.fail("export name %q is taken", e.Name)
		}
		if r.err != nil {
			return
		}
		seen[e.Name] = true
		m.Exports = append(m.Exports, e)
	}
}

// readElements reads the element segments: all eight forms. [WebAssembly Core 2.0 §5.5.12]
func (m *Module) readElements(r *reader, l *Limits) {
	m.elements = r.count("element segments", 3, l.Segments)
	for range m.elements {
		form := r.u32()
		if form > 7 {
			r.fail("element segment of unknown form %d", form)
		}
		passive, explicit, expressions := form&1 != 0, form&2 != 0, form&4 != 0
		if !passive {
			if explicit {
				r.index("table", m.tables)
			} else if m.tables == 0 {
				r.fail("element segment without a table")
			}
			m.constant(r, false)
		}
		if passive || explicit {
			if kind := r.byte(); (expressions && kind != funcref) || (!expressions && kind != 0) {
				r.fail("element segment of kind 0x%02x", kind)
			}
		}
		for range r.count("elements", 1, r.left()) {
			if expressions {
				m.constant(r, true)
			} else {
				r.index("function", len(m.funcs))
			}
			if r.err != nil {
				return
			}
		}
		if r.err != nil {
			return
		}
	}
	m.Info.Segments = m.elements
}

func (m *Module) readDataCount(r *reader, l *Limits) {
	n := r.u32()
	if uint64(n) > uint64(l.Segments) {
		r.fail("%d data segments; at most %d are allowed", n, l.Segments)
		return
	}
	m.data = int(n)
}

func (m *Module) readData(r *reader, l *Limits) {
	n := r.count("data segments", 2, l.Segments)
	if m.data >= 0 && m.data != n {
		r.fail("%d data segments, counted as %d", n, m.data)
	}
	for range n {
		form := r.u32()
		switch {
		case form > 2:
			r.fail("data segment of unknown form %d", form)
		case form == 2:
			r.index("memory", min(m.sections[sectionMemory].end, 1))
		}
		if form != 1 {
			if m.sections[sectionMemory].end == 0 {
				r.fail("data segment without a memory")
			}
			m.constant(r, false)
		}
		r.skip(r.count("bytes", 1, r.left()))
		if r.err != nil {
			return
		}
	}
	m.Info.Segments += n
}
