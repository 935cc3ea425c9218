package guard

import (
	"fmt"
	"math"
	"strings"
)

// body is the code of one function.
type body struct {
	locals, code, end int    // where the declarations of locals begin, the instructions begin, and where the last end stands
	groups            uint32 // declarations of locals
	slots             uint32 // parameters and locals
	typ               uint32
	firstMark         int
	weight            int32 // what a call of the function takes of the depth
	calls             bool  // has a call that can be reached: depth is counted
	joins             bool  // has charges that are not checked at once
	length            bool  // has an instruction that is charged by length
}

// markKind says what Meter does at a mark.
type markKind byte

const (
	markCharge markKind = iota // take the cost of the run that begins here
	markCheck                  // the same, then trap below zero
	markCall                   // the fuel is in its global while the call here lasts
	markReturn                 // the return here leaves the block around the body instead
	markBytes                  // take the number of bytes on top of the stack, then trap below zero
	markPages                  // the same with pages
)

// mark is a place in a body where the metered module differs.
type mark struct {
	pos     uint32
	cost    uint32 // of the run
	parent  int32  // the run in which the block was opened at whose arm or end this one begins, or noRun
	nesting uint16 // blocks that are open there
	kind    markKind
}

// frame is a block that is open.
type frame struct {
	op       byte
	live     bool  // can be entered
	targeted bool  // a branch that can be reached leads to its end
	other    bool  // if with else: the first arm can reach the end
	run      int32 // if: the run before it; with else: that at the end of the first arm
}

// noRun is a run that has not cost anything yet.
const noRun = -1

// scan reads the instructions of one function. It divides what can be reached into runs; see the package documentation.
type scan struct {
	*reader
	m      *Module
	l      *Limits
	b      *body
	frames []frame
	live   bool
	run    int32 // the mark that takes the costs, or noRun: then the next cost makes one at start
	start  mark
	blocks int
	flow   int // places where the engine's compiler divides the function
	loops  int // open now
	deep   int // most loops open
}

func (m *Module) readCode(r *reader, l *Limits) {
	n := r.count("bodies", 3, l.Functions)
	if own := len(m.funcs) - len(m.Imports); n != own && r.err == nil {
		r.fail("%d bodies for %d functions", n, own)
		return
	}
	m.bodies = make([]body, n)
	s := scan{m: m, l: l}
	work, flow := 0, 0
	for i := range m.bodies {
		size := r.u32()
		if r.err == nil && (uint64(size) > uint64(r.left()) || uint64(size) > uint64(l.Body)) {
			r.fail("function %d has %d bytes: cut off or more than %d", len(m.Imports)+i, size, l.Body)
		}
		if r.err != nil {
			return
		}
		s.b = &m.bodies[i]
		s.reader = &reader{b: r.b, pos: r.pos, end: r.pos + int(size)}
		s.b.typ = m.funcs[len(m.Imports)+i]
		s.function()
		if s.err != nil {
			r.err = fmt.Errorf("function %d: %w", len(m.Imports)+i, s.err)
			return
		}
		r.pos += int(size)
		slots := int(s.b.slots)
		m.Info.Body = max(m.Info.Body, int(size))
		m.Info.Work += s.blocks * slots
		work += s.deep * slots * s.deep * slots
		flow += s.flow * s.flow
		m.Info.LoopWork, m.Info.FlowWork = work/1000, flow/1000
		switch {
		case m.Info.Work > l.Work:
			r.fail("sum of blocks × locals is over %d", l.Work)
		case m.Info.LoopWork > l.LoopWork:
			r.fail("sum of (loop nesting × locals)² is over %d thousand", l.LoopWork)
		case m.Info.FlowWork > l.FlowWork:
			r.fail("sum of (blocks and branches of a function)² is over %d thousand", l.FlowWork)
		default:
			continue
		}
		return
	}
	m.Info.Points = len(m.marks)
}

func (s *scan) function() {
	s.readLocals()
	s.b.code, s.b.firstMark = s.pos, len(s.m.marks)
	before := s.m.Info.Instructions
	s.frames = append(s.frames[:0], frame{op: opBlock, live: true})
	s.live, s.blocks, s.flow, s.loops, s.deep = true, 0, 0, 0, 0
	s.begin(markCheck)
	s.charge(1 + s.b.slots/localsPerFuel)
	for len(s.frames) > 0 && s.err == nil {
		s.instruction()
	}
	if s.err == nil && s.left() > 0 {
		s.fail("%d bytes behind the last end", s.left())
	}
	s.b.end = s.pos - 1
	if s.flow > s.l.Flow {
		s.fail("%d blocks and branches; at most %d are allowed", s.flow, s.l.Flow)
	}
	if product := s.blocks * int(s.b.slots); product > s.l.BlockLocals {
		s.fail("%d blocks × %d locals; at most %d are allowed", s.blocks, s.b.slots, s.l.BlockLocals)
	}
	if product := s.deep * int(s.b.slots); product > s.l.LoopLocals {
		s.fail("loop nesting %d × %d locals; at most %d are allowed", s.deep, s.b.slots, s.l.LoopLocals)
	}
	i := &s.m.Info
	values := i.Instructions - before + 2*int(s.b.slots) + s.blocks*(int(s.b.slots)+2)
	s.b.weight = int32(1 + values/valuesPerDepth)
	if s.b.calls {
		i.Weight = max(i.Weight, int(s.b.weight))
	}
	i.Flow = max(i.Flow, s.flow)
	i.Locals = max(i.Locals, int(s.b.slots))
	i.LoopNesting = max(i.LoopNesting, s.deep)
	i.BlockLocals = max(i.BlockLocals, s.blocks*int(s.b.slots))
	i.LoopLocals = max(i.LoopLocals, s.deep*int(s.b.slots))
}

// readLocals counts the locals. Groups of none are refused: they cost the engine time and no compiler writes them.
func (s *scan) readLocals() {
	total := len(s.m.types[s.b.typ].Params)
	s.b.groups = uint32(s.count("groups of locals", 2, s.l.Locals))
	s.b.locals = s.pos
	for range s.b.groups {
		n := s.u32()
		s.valueType()
		if n == 0 {
			s.fail("group of no locals")
		}
		if uint64(n) > uint64(s.l.Locals-min(total, s.l.Locals)) {
			s.fail("%d locals and more; at most %d are allowed", total, s.l.Locals)
		}
		if s.err != nil {
			return
		}
		total += int(n)
	}
	if total > s.l.Locals {
		s.fail("%d locals; at most %d are allowed", total, s.l.Locals)
	}
	s.b.slots = uint32(total)
}

// begin ends the run and lets another begin here.
func (s *scan) begin(kind markKind) {
	s.run, s.start = noRun, mark{pos: uint32(s.pos), nesting: uint16(len(s.frames) - 1), kind: kind}
}

// charge adds to the run.
func (s *scan) charge(cost uint32) {
	if !s.live || cost == 0 {
		return
	}
	if s.run == noRun {
		s.run = int32(len(s.m.marks))
		s.b.joins = s.b.joins || s.start.kind == markCharge
		s.add(s.start)
	}
	if s.err == nil {
		s.m.marks[s.run].cost += cost
	}
}

// add adds a mark. Marks rise: a run is marked before anything in it.
func (s *scan) add(k mark) {
	if len(s.m.marks) >= s.l.Points {
		s.fail("more than %d places to meter", s.l.Points)
		return
	}
	s.m.marks = append(s.m.marks, k)
}

// at marks the instruction that begins at pos.
func (s *scan) at(pos int, kind markKind) {
	if s.live {
		s.add(mark{pos: uint32(pos), nesting: uint16(len(s.frames) - 1), kind: kind})
	}
}

func (s *scan) instruction() {
	pos := s.pos
	c := s.byte()
	o := ops[c]
	s.m.Info.Instructions++
	s.charge(uint32(o.cost))
	switch o.shape {
	case shapePlain:
		if c == opUnreachable {
			s.live = false
		}
		return
	case shapeMemory:
		s.memarg()
		return
	case shapeRefused:
		s.pos = pos
		s.fail("instruction 0x%02x is %s", c, refusedBy(c))
		return
	}
	switch c {
	case opLocalGet, opLocalSet, opLocalTee:
		s.index("local", int(s.b.slots))
	case opI32Const:
		s.signed(32)
	case opGlobalGet:
		s.index("global", len(s.m.mutable))
	case opGlobalSet:
		if i := s.index("global", len(s.m.mutable)); s.err == nil && !s.m.mutable[i] {
			s.fail("global %d is not mutable", i)
		}
	case opI64Const:
		s.signed(64)
	case opF32Const:
		s.skip(4)
	case opF64Const:
		s.skip(8)
	case opSelectT:
		if n := s.u32(); n != 1 {
			s.fail("select with %d types", n)
		}
		s.valueType()
	case opMemorySize:
		s.memory()
	case opMemoryGrow:
		s.flow += 6
		s.memory()
		s.at(pos, markPages)
		s.b.length = s.b.length || s.live
	case opBulk:
		s.bulk(pos)
	case opVector:
		s.vector()
	default:
		s.control(c, pos)
	}
}

// memory reads the zero that stands for the memory. [WebAssembly Core 2.0 §5.4.6]
func (s *scan) memory() {
	if s.m.sections[sectionMemory].end == 0 {
		s.fail("instruction needs a memory")
	}
	if s.byte() != 0 {
		s.fail("instruction is on another memory")
	}
}

func (s *scan) memarg() {
	if s.m.sections[sectionMemory].end == 0 {
		s.fail("instruction needs a memory")
	}
	if align := s.u32(); align >= 32 {
		s.fail("alignment 2^%d, or another memory", align)
	}
	s.u32()
}

// control reads an instruction that directs where execution goes on.
func (s *scan) control(c byte, pos int) {
	switch c {
	case opBlock, opLoop, opIf:
		s.blockType()
		s.open(c)
	case opElse:
		f := &s.frames[len(s.frames)-1]
		if f.op != opIf {
			s.fail("else without if")
			return
		}
		before := s.live
		s.live, f.op, f.other, f.run = f.live, opElse, before, s.run
		s.begin(markCharge)
	case opEnd:
		s.close()
	case opBr, opBrIf:
		s.flow++
		s.branch(s.label())
		s.live = s.live && c == opBrIf
	case opBrTable:
		n := s.count("labels", 1, s.l.BrTable)
		for range n + 1 {
			s.branch(s.label())
		}
		s.live = false
		s.flow += n + 1
		s.m.Info.BrTable = max(s.m.Info.BrTable, n)
	case opReturn:
		s.at(pos, markReturn)
		s.live = false
	case opCall:
		i := s.index("function", len(s.m.funcs))
		s.call(pos)
		if int(i) < len(s.m.Imports) {
			s.charge(costImport - costCall)
		}
	case opCallIndirect:
		s.index("type", len(s.m.types))
		s.index("table", s.m.tables)
		s.call(pos)
		if len(s.m.Imports) > 0 {
			s.charge(costImport - costCall)
		}
	}
}

func (s *scan) call(pos int) {
	s.at(pos, markCall)
	if s.live && s.err == nil {
		s.b.calls = true
		s.m.marks[len(s.m.marks)-1].cost = uint32(s.pos - pos)
	}
}

// blockType reads the type of a block: none, one result, or a function type. [WebAssembly Core 2.0 §5.4.1]
func (s *scan) blockType() {
	if s.left() > 0 {
		if t := s.b0(); t == emptyBlock || (t >= V128 && t <= I32) {
			s.pos++
			return
		}
	}
	if i := s.signed(33); s.err == nil && (i < 0 || i >= int64(len(s.m.types))) {
		s.fail("block of type %d; there are %d", i, len(s.m.types))
	}
}

func (s *scan) b0() byte { return s.reader.b[s.pos] }

func (s *scan) open(c byte) {
	s.blocks++
	s.flow++
	if most := min(s.l.Nesting, math.MaxUint16-1); len(s.frames) > most {
		s.fail("more than %d blocks within each other", most)
		return
	}
	f := frame{op: c, live: s.live, run: s.run}
	s.frames = append(s.frames, f)
	s.m.Info.Nesting = max(s.m.Info.Nesting, len(s.frames)-1)
	switch c {
	case opLoop:
		s.loops++
		s.flow += 2
		if s.deep = max(s.deep, s.loops); s.loops > s.l.LoopNesting {
			s.fail("more than %d loops within each other", s.l.LoopNesting)
		}
		s.begin(markCheck)
		s.charge(1)
	case opIf:
		s.begin(markCharge)
	}
}

// close reads an end: the run goes on where it can be reached in one way only, and not out of a loop.
func (s *scan) close() {
	f := s.frames[len(s.frames)-1]
	s.frames = s.frames[:len(s.frames)-1]
	if len(s.frames) == 0 {
		return
	}
	ways, run := 0, int32(noRun)
	if s.live {
		ways, run = 1, s.run
		if s.run == noRun {
			ways = 2
		}
	}
	switch {
	case f.op == opLoop:
		s.loops--
		ways *= 2
	case f.op == opIf && f.live, f.op == opElse && f.other:
		if ways++; ways == 1 {
			if run = f.run; run == noRun {
				ways = 2
			}
		}
	}
	if f.op != opLoop && f.targeted {
		ways = 2
	}
	s.live = ways > 0
	switch {
	case ways == 1:
		s.run = run
	case ways > 1:
		s.begin(markCharge)
	}
}

// label reads the target of a branch.
func (s *scan) label() *frame {
	i := s.index("label", len(s.frames))
	return &s.frames[len(s.frames)-1-int(i)]
}

func (s *scan) branch(f *frame) { f.targeted = f.targeted || s.live }

// bulk reads what stands behind 0xfc.
func (s *scan) bulk(pos int) {
	switch n := s.byte(); {
	case n <= bulkTruncLast:
	case n == bulkMemoryInit || n == bulkDataDrop:
		if s.m.data < 0 {
			s.fail("instruction needs a data count section")
		}
		s.index("data segment", max(s.m.data, 0))
		if n == bulkMemoryInit {
			s.memory()
			s.byLength(pos)
		}
	case n == bulkMemoryCopy:
		s.memory()
		s.memory()
		s.byLength(pos)
	case n == bulkMemoryFill:
		s.memory()
		s.byLength(pos)
	case n <= 17:
		s.fail("instruction 0xfc %d is a table instruction", n)
	default:
		s.fail("instruction 0xfc %d is unknown", n)
	}
}

func (s *scan) byLength(pos int) {
	s.flow += 6
	s.charge(costCall - 1)
	s.at(pos, markBytes)
	s.b.length = s.b.length || s.live
}

// vector reads what stands behind 0xfd. [WebAssembly Core 2.0 §5.4.8]
func (s *scan) vector() {
	v := s.byte()
	if v >= 0x80 && s.byte() != 1 || strings.IndexByte(vectorGaps, v) >= 0 {
		s.fail("vector instruction %d is unknown", v)
	}
	switch lanes := laneCount(v); {
	case v <= 0x0b, v == 0x5c, v == 0x5d:
		s.memarg()
	case v == 0x0c:
		s.skip(16)
	case v == 0x0d:
		for _, lane := range s.skip(16) {
			if lane >= 32 {
				s.fail("lane %d of 32", lane)
			}
		}
	case lanes > 0:
		if v >= 0x54 {
			s.memarg()
		}
		if lane := s.byte(); lane >= lanes {
			s.fail("lane %d of %d", lane, lanes)
		}
	}
}
