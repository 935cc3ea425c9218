package guard

import "encoding/binary"

// Meter returns the module without custom sections and with counters: it does what the module does, and traps when the
// fuel or the depth that its host wrote into the exported globals is used up. The module is the caller's.
func (m *Module) Meter() []byte {
	w := meter{m: m, fuel: uint32(len(m.mutable)), depth: uint32(len(m.mutable)) + 1}
	w.out = make([]byte, 0, len(m.raw)+24*len(m.marks)+64*len(m.bodies)+256)
	w.out = append(w.out, magic...)
	types, added := w.types()
	for _, id := range sectionOrder {
		at := m.sections[id]
		switch id {
		case sectionType:
			w.extended(id, added, types)
		case sectionGlobal:
			w.extended(id, 2, []byte{I64, 1, opI64Const, 0, opEnd, I32, 1, opI32Const, 0, opEnd})
		case sectionExport:
			w.extended(id, 2, w.exports())
		case sectionCode:
			if at.end > 0 {
				w.code()
			}
		default:
			if at.end > 0 {
				w.section(id, m.raw[at.pos:at.end])
			}
		}
	}
	return w.out
}

// meter writes a metered module.
type meter struct {
	m           *Module
	fuel, depth uint32   // globals
	added       []uint32 // for each type with more results than one, the type of a block around such a body
	out, f      []byte   // module and function so far
	i64, i32    uint32   // locals of the function
}

func (w *meter) section(id byte, parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	w.out = uleb(append(w.out, id), uint32(size))
	for _, p := range parts {
		w.out = append(w.out, p...)
	}
}

// extended writes a section that is a vector, with n more items behind its own.
func (w *meter) extended(id byte, n uint32, items []byte) {
	at := w.m.sections[id]
	if at.end == 0 && n == 0 {
		return
	}
	var own uint32
	var rest []byte
	if at.end > 0 {
		r := &reader{b: w.m.raw, pos: at.pos, end: at.end}
		own = r.u32()
		rest = w.m.raw[r.pos:at.end]
	}
	w.section(id, uleb(nil, own+n), rest, items)
}

// types makes the types of blocks around bodies with more than one result.
func (w *meter) types() (types []byte, n uint32) {
	w.added = make([]uint32, len(w.m.types))
	for i := range w.m.bodies {
		t := w.m.bodies[i].typ
		results := w.m.types[t].Results
		if len(results) < 2 || w.added[t] != 0 {
			continue
		}
		w.added[t] = uint32(len(w.m.types)) + n
		types = uleb(append(types, 0x60, 0), uint32(len(results)))
		types = append(types, results...)
		n++
	}
	return types, n
}

func (w *meter) exports() []byte {
	b := uleb(append(append([]byte{byte(len(FuelGlobal))}, FuelGlobal...), byte(Global)), w.fuel)
	return uleb(append(append(append(b, byte(len(DepthGlobal))), DepthGlobal...), byte(Global)), w.depth)
}

func (w *meter) code() {
	code := uleb(make([]byte, 0, cap(w.out)), uint32(len(w.m.bodies)))
	for i := range w.m.bodies {
		end := len(w.m.marks)
		if i+1 < len(w.m.bodies) {
			end = w.m.bodies[i+1].firstMark
		}
		w.function(&w.m.bodies[i], w.m.marks[w.m.bodies[i].firstMark:end])
		code = append(uleb(code, uint32(len(w.f))), w.f...)
	}
	w.section(sectionCode, code)
}

// function writes one body into w.f. All of it stands within two blocks: the inner one is what branches to the level of
// the function and returns lead to, so that what follows it is done on every way out; the outer one leads to the trap.
func (w *meter) function(b *body, marks []mark) {
	raw := w.m.raw
	groups := b.groups + 1
	w.i64, w.i32 = b.slots, b.slots+1
	if b.calls || b.length {
		groups++
	}
	w.f = append(uleb(w.f[:0], groups), raw[b.locals:b.code]...)
	w.f = append(w.f, 1, I64)
	if b.calls || b.length {
		w.f = append(w.f, 1, I32)
	}
	w.f = append(w.f, opBlock, emptyBlock, opBlock)
	switch results := w.m.types[b.typ].Results; len(results) {
	case 0:
		w.f = append(w.f, emptyBlock)
	case 1:
		w.f = append(w.f, results[0])
	default:
		w.f = sleb(w.f, int64(w.added[b.typ]))
	}
	w.global(opGlobalGet, w.fuel)
	w.local(opLocalSet, w.i64)
	if b.calls {
		w.global(opGlobalGet, w.depth)
		w.f = append(sleb(append(w.f, opI32Const), int64(b.weight)), opI32Sub)
		w.local(opLocalTee, w.i32)
		w.global(opGlobalSet, w.depth)
		w.local(opLocalGet, w.i32)
		w.f = append(w.f, opI32Const, 0, opI32LtS, opBrIf, 1)
	}
	from := b.code
	for _, k := range marks {
		w.f = append(w.f, raw[from:k.pos]...)
		switch from = int(k.pos); k.kind {
		case markReturn:
			w.f = uleb(append(w.f, opBr), uint32(k.nesting))
			from++
		case markCall:
			w.store()
			w.f = append(w.f, raw[from:from+int(k.cost)]...)
			w.global(opGlobalGet, w.fuel)
			w.local(opLocalSet, w.i64)
			from += int(k.cost)
		default:
			w.take(k)
		}
	}
	w.f = append(w.f, raw[from:b.end]...)
	w.f = append(w.f, opEnd)
	if b.calls || b.joins {
		w.local(opLocalGet, w.i64)
		w.f = append(w.f, opI64Const, 0, opI64LtS, opBrIf, 0)
	}
	w.store()
	if b.calls {
		w.global(opGlobalGet, w.depth)
		w.f = append(sleb(append(w.f, opI32Const), int64(b.weight)), opI32Add)
		w.global(opGlobalSet, w.depth)
	}
	w.f = append(w.f, opReturn, opEnd)
	w.store()
	w.f = append(w.f, opUnreachable, opEnd)
}

// store brings the fuel back into its global.
func (w *meter) store() {
	w.local(opLocalGet, w.i64)
	w.global(opGlobalSet, w.fuel)
}

// take writes what takes fuel at a mark, and the check where the mark wants one. The operands of the module's own
// instructions stay as they are.
func (w *meter) take(k mark) {
	if k.kind == markBytes || k.kind == markPages {
		w.local(opLocalSet, w.i32)
	}
	w.local(opLocalGet, w.i64)
	switch k.kind {
	case markBytes:
		w.local(opLocalGet, w.i32)
		w.f = append(w.f, opI64ExtendU, opI64Const, bytesShift, opI64ShrU)
	case markPages:
		w.local(opLocalGet, w.i32)
		w.f = append(w.f, opI64ExtendU, opI64Const, pagesShift, opI64Shl)
	default:
		w.f = sleb(append(w.f, opI64Const), int64(k.cost))
	}
	w.f = append(w.f, opI64Sub)
	if k.kind == markCharge {
		w.local(opLocalSet, w.i64)
		return
	}
	w.local(opLocalTee, w.i64)
	w.f = uleb(append(w.f, opI64Const, 0, opI64LtS, opBrIf), uint32(k.nesting)+1)
	if k.kind != markCheck {
		w.local(opLocalGet, w.i32)
	}
}

func (w *meter) global(op byte, i uint32) { w.f = uleb(append(w.f, op), i) }
func (w *meter) local(op byte, i uint32)  { w.f = uleb(append(w.f, op), i) }

func uleb(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

func sleb(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		if v >>= 7; (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}
