package guard

// Instructions that the package names. [WebAssembly Core 2.0 §5.4]
const (
	opUnreachable  = 0x00
	opBlock        = 0x02
	opLoop         = 0x03
	opIf           = 0x04
	opElse         = 0x05
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
	opReturn       = 0x0f
	opCall         = 0x10
	opCallIndirect = 0x11
	opSelectT      = 0x1c
	opLocalGet     = 0x20
	opLocalSet     = 0x21
	opLocalTee     = 0x22
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opMemorySize   = 0x3f
	opMemoryGrow   = 0x40
	opI32Const     = 0x41
	opI64Const     = 0x42
	opF32Const     = 0x43
	opF64Const     = 0x44
	opI32LtS       = 0x48
	opI64LtS       = 0x53
	opI32Add       = 0x6a
	opI32Sub       = 0x6b
	opI64Sub       = 0x7d
	opI64Shl       = 0x86
	opI64ShrU      = 0x88
	opI64ExtendU   = 0xad
	opRefNull      = 0xd0
	opRefFunc      = 0xd2
	opBulk         = 0xfc
	opVector       = 0xfd

	emptyBlock = 0x40

	// behind opBulk
	bulkTruncLast  = 7
	bulkMemoryInit = 8
	bulkDataDrop   = 9
	bulkMemoryCopy = 10
	bulkMemoryFill = 11
)

// Costs of what does not cost 1; see the package documentation.
const (
	costDivide = 8   // integer division and remainder; floating-point division and square root
	costCall   = 8   // also memory.init, copy, fill and grow, besides what is charged by length
	costImport = 256 // a call of an imported function
	costVector = 2

	localsPerFuel  = 4   // parameters and locals of a function, charged at its entry
	valuesPerDepth = 256 // values that a frame may hold for each unit of depth
	bytesShift     = 1   // 1 for each 2 bytes filled or copied
	pagesShift     = 15
)

// shape is what stands behind the first byte of an instruction.
type shape byte

const (
	shapeRefused shape = iota
	shapePlain         // nothing
	shapeMemory        // alignment and offset
	shapeOther         // whatever the decoder has a case for
)

// op is one instruction: what stands behind its first byte, and its cost.
type op struct {
	shape shape
	cost  uint8
}

// ops lists the instructions by their first byte.
var ops = func() (t [256]op) {
	set := func(from, to int, s shape, cost uint8) {
		for i := from; i <= to; i++ {
			t[i] = op{s, cost}
		}
	}
	set(0x00, 0x01, shapePlain, 1) // unreachable, nop
	set(opBlock, opElse, shapeOther, 0)
	t[opIf].cost = 1
	set(opEnd, opEnd, shapeOther, 0)
	set(opBr, opReturn, shapeOther, 1)
	set(opCall, opCallIndirect, shapeOther, costCall)
	set(0x1a, 0x1b, shapePlain, 1) // drop, select
	set(opSelectT, opSelectT, shapeOther, 1)
	set(opLocalGet, opGlobalSet, shapeOther, 1)
	set(0x28, 0x3e, shapeMemory, 1) // loads and stores
	set(opMemorySize, opMemorySize, shapeOther, 1)
	set(opMemoryGrow, opMemoryGrow, shapeOther, costCall)
	set(opI32Const, opF64Const, shapeOther, 1)
	set(0x45, 0xc4, shapePlain, 1)                    // comparisons, arithmetic, conversions, sign extension
	set(0x6d, 0x70, shapePlain, costDivide)           // i32.div_s div_u rem_s rem_u
	set(0x7f, 0x82, shapePlain, costDivide)           // i64.div_s div_u rem_s rem_u
	for _, i := range []int{0x91, 0x95, 0x9f, 0xa3} { // sqrt and div of f32, f64
		set(i, i, shapePlain, costDivide)
	}
	set(opBulk, opBulk, shapeOther, 1)
	set(opVector, opVector, shapeOther, costVector)
	return t
}()

// refusedBy names the feature to which a refused instruction belongs.
func refusedBy(c byte) string {
	switch {
	case c == 0x12 || c == 0x13:
		return "a tail call"
	case c >= 0x06 && c <= 0x0a, c == 0x18, c == 0x19, c == 0x1f:
		return "exception handling"
	case c == 0x25 || c == 0x26:
		return "a table instruction"
	case c >= 0xd0 && c <= 0xd6, c == 0x14, c == 0x15:
		return "a reference instruction"
	case c == 0xfb:
		return "garbage collection"
	case c == 0xfe:
		return "an atomic instruction"
	}
	return "unknown"
}

// laneCount is the number of lanes of the vector instructions 0x15 to 0x22, extract_lane and replace_lane, and of 0x54
// to 0x5b, load_lane and store_lane; 0 for others.
func laneCount(v byte) byte {
	switch {
	case v >= 0x15 && v <= 0x17, v == 0x54, v == 0x58:
		return 16
	case v >= 0x18 && v <= 0x1a, v == 0x55, v == 0x59:
		return 8
	case v == 0x1b, v == 0x1c, v == 0x1f, v == 0x20, v == 0x56, v == 0x5a:
		return 4
	case v == 0x1d, v == 0x1e, v == 0x21, v == 0x22, v == 0x57, v == 0x5b:
		return 2
	}
	return 0
}

// vectorGaps are the numbers below 256 that no vector instruction has. [WebAssembly Core 2.0 §5.4.8]
const vectorGaps = "\x9a\xa2\xa5\xa6\xaf\xb0\xb2\xb3\xb4\xbb\xc2\xc5\xc6\xcf\xd0\xd2\xd3\xd4\xe2\xee"
