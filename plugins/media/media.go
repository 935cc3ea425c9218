// Package media carries the media plugin: a WebAssembly module that holds pictures, video and sound, told by their first
// bytes. The source is media.c; docs/reference-plugins.md says how to use it.
package media

import _ "embed"

// Wasm is the module. It must not be changed.
//
//go:embed media.wasm
var Wasm []byte

// Digest is the SHA-256 of Wasm, hexadecimal: what a host pins.
const Digest = "7b991c1a04dc4cdacd71292958fd6e91ae0039b69459347c503e12695d854952"
