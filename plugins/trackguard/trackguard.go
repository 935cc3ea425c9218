// Package trackguard carries the trackguard plugin: a WebAssembly module that coarsens or removes positions beyond a count
// per device. The source is trackguard.c; docs/reference-plugins.md says how to use it.
package trackguard

import _ "embed"

// Wasm is the module. It must not be changed.
//
//go:embed trackguard.wasm
var Wasm []byte

// Digest is the SHA-256 of Wasm, hexadecimal: what a host pins.
const Digest = "5800dd6ed32838eeaee23fca2154666cb48e6383297413fb5133c8675a370fc8"
