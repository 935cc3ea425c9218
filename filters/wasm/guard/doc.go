// Package guard stands between the file of a plugin and the engine that runs it. Read decodes the whole module and refuses
// what the plugin ABI does not have, what is malformed, and what would cost a compiler more than it may. Meter writes the
// module anew so that it counts what it does and traps when it has done enough. Neither runs, compiles or allocates
// anything on a module's word.
//
// # What is taken
//
// A module of WebAssembly Core 2.0 with exactly one memory of its own, exported as "memory". Refused are: a start section;
// imports, other than functions that Limits.Import allows; reference types, except in tables and element segments, and
// there only funcref; every instruction on tables (call_indirect is one on functions) and references; global.get in
// constant expressions, because it could only read an imported global; tail calls, exceptions, threads, 64-bit and
// several memories, garbage collection, relaxed vectors. Vector instructions are taken. Sections stand in their order and
// once; vectors fit in their sections; numbers are no longer than their width allows (padding within it, as linkers write
// it, is allowed, but not behind 0xfc and 0xfd); every type, function, table, global, local, label and segment that is named
// exists; global.set is on a mutable one; export names differ and are not those of the counters. Types of operands are
// not looked at: the engine does, and what Meter writes has the right types exactly where the module has. A function may be
// as complex as Limits says: compilers take time with the square of some of these numbers.
//
// # What is counted
//
// The metered module has two more globals behind its own, both mutable and exported: sluice_fuel (i64) and sluice_depth (i32).
// No instruction of the plugin's names them. They begin at 0, so that nothing runs before the host has set them. It sets
// both before each call. When either falls below zero the module executes unreachable; a trap with both at zero or above
// is the plugin's own. A call that returns leaves fuel at or above zero and the depth as it was. A trap of the plugin's own
// leaves the fuel as it was when the function was entered or the last call in it was made or came back; the depth is not
// restored after any trap. An imported function finds the fuel in the global and may take of it.
//
// Instructions that can be reached are divided into runs. A run begins
//
//   - at the beginning of a function;
//   - behind loop, behind if, and behind else;
//   - behind the end of a loop that can be reached;
//   - behind the end of a block or if, when a branch that can be reached leads to it; of an if without else, also when its
//     arm can reach the end; of an if with else, also when both arms can.
//
// Behind any other end the run goes on that led there: that before the if, when the arm of an if without else cannot reach
// its end; that of the arm that can, when the other cannot. Nothing else ends a run, in particular no branch that is
// conditional, and no call. (Where the run that would go on has not cost anything yet, a new one may begin: it is all
// the same.) Code behind unreachable, br, br_table and return cannot be reached up to the next else or end
// that can. A run's cost is taken at its beginning, so what stands behind a br_if is paid also when the branch is taken;
// what was executed never costs more than what was paid.
//
// The cost of a run is the sum over its instructions:
//
//	block, else, end                                                                0
//	loop                                                                            1, in the run behind it
//	i32 and i64 div and rem; f32 and f64 div and sqrt                               8
//	call, call_indirect, memory.grow, call of an import                             8, 8, 8, 256
//	memory.fill, memory.copy, memory.init                                           8
//	vector instructions (0xfd)                                                      2
//	every other one                                                                 1
//
// In a module with imports call_indirect costs 256 too. The first run of a function costs 1 + (parameters + locals) / 4 more.
// What an imported function does beyond that is for the host to bound. Besides, directly before they are executed:
// memory.fill, copy and init cost 1 for every 2 bytes of the length on the stack (rounded down), memory.grow 32,768 for
// every page, as much as filling it, whether or not there is room for them.
//
// Fuel is checked after the first run of a function and that behind a loop was taken, after every charge by length, and
// at the end of a function that calls, or that has runs which are not checked. Between two checks no instruction is executed
// twice, so that the fuel falls below zero by no more than two bodies cost and one length.
//
// Depth is counted in functions that have a call which can be reached: less by the function's weight at the beginning, checked before
// fuel is taken, and more by it at every way out. Functions that call nothing add one frame at most. The weight is what an engine's
// frame of the function can hold, in 256 values: 1 + (instructions + 2 · slots + blocks · (slots + 2)) / 256, rounded down,
// slots being parameters and locals, instructions all of the body, and blocks those that BlockLocals counts. A compiler keeps every value that lives across a call in the
// frame, and may give each a place of its own: 20,000 values on the stack and 1,000 calls took 300 MB when each call counted 1.
//
// # How it is written
//
// Custom sections are left out; the others keep their order and their bytes, except these. The type section has, behind its own,
// ()→(results) for every type of a body with more than one result, in the order of the bodies. The global section has the
// counters, the export section their names. A body has one more local, an i64 (t), which holds the fuel while no other
// function has it, and if it calls or is charged by length, one more, an i32 (n). Its code is
//
//	block                                   ;; branches here lead to the trap
//	  block (results)                       ;; this label is the function's own: no branch is renumbered
//	    global.get fuel  local.set t
//	    global.get depth  i32.const WEIGHT  i32.sub  local.tee n  global.set depth                   ;; if it calls
//	    local.get n  i32.const 0  i32.lt_s  br_if 1
//	    …                                   ;; the function's code; return is br to this block
//	  end
//	  local.get t  i64.const 0  i64.lt_s  br_if 0                                               ;; if checked at the end
//	  local.get t  global.set fuel
//	  global.get depth  i32.const WEIGHT  i32.add  global.set depth                                  ;; if it calls
//	  return
//	end
//	local.get t  global.set fuel
//	unreachable
//
// A run begins with the first of these lines, or with the second when it is checked. The third stands before what is charged by
// length (for pages: i64.const 15, i64.shl), the fourth stands around a call:
//
//	local.get t  i64.const COST  i64.sub  local.set t
//	local.get t  i64.const COST  i64.sub  local.tee t  i64.const 0  i64.lt_s  br_if TRAP
//	local.set n  local.get t  local.get n  i64.extend_i32_u  i64.const 1  i64.shr_u  i64.sub  local.tee t  i64.const 0  i64.lt_s  br_if TRAP  local.get n
//	local.get t  global.set fuel  call …  global.get fuel  local.set t
//
// Example: (func (param i32) (loop (br_if 0 (local.get 0)))) pays 1 at its beginning, and behind loop 3 each time round: 1 for the
// loop, 1 for local.get, 1 for br_if. testdata/metered.txt has modules and what becomes of them, byte by byte.
package guard
