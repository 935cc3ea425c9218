// Package geofence carries the geofence plugin: a WebAssembly module that regrades positions inside configured areas to
// important. The source is geofence.c, the manifest manifest.json, and build.sh makes the module from both, byte for byte
// the same everywhere.
//
// Configuration, grants, and what it does not do: docs/reference-plugins.md. The rules of the geometry stand in geofence.c.
//
// Verdict: both findings of a position inside get an edit "regrade to important", and so does every other location finding of
// the message that has no readable position of its own (an altitude, a geohash). It never lowers anything and asks for
// neither hold nor block: what happens to important data is the policy's word. Without an accepted configuration, and on a
// request that breaks the ABI, it fails, and the message takes the operator's on_error path.
package geofence

import _ "embed"

// Wasm is the module. It must not be changed.
//
//go:embed geofence.wasm
var Wasm []byte

// Digest is the SHA-256 of Wasm, hexadecimal: what a host pins.
const Digest = "181130eaf1c2ae9559469aafe9ef6c11877d2fafab53cb85d547156ea707e3a5"
