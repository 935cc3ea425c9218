//go:build wasip1 && wasm

package sluice

//go:wasmexport sluice_abi_v1
func exportABI() {}

//go:wasmexport sluice_arena
func exportArena(inCap, outCap uint32) uint64 { return arena(inCap, outCap) }

//go:wasmexport sluice_configure
func exportConfigure(n uint32) int32 { return settle(n) }

//go:wasmexport sluice_filter
func exportFilter(n uint32) int32 { return run(n) }
