// Package recipe carries the process-recipe plugin: a WebAssembly module that raises set-points, recipes and programs of
// machines to important. The source is process-recipe.c; docs/reference-plugins.md says how to use it.
package recipe

import _ "embed"

// Wasm is the module. It must not be changed.
//
//go:embed process-recipe.wasm
var Wasm []byte

// Digest is the SHA-256 of Wasm, hexadecimal: what a host pins.
const Digest = "3efb8e5939eaaecdb4b28993eb1115abe610d3b381bddfd437023005a75bd611"
