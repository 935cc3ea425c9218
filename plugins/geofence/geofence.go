// Package geofence carries the geofence plugin: a WebAssembly module that regrades positions inside configured areas to
// important. The source is geofence.c, the manifest manifest.json, and build.sh makes the module from both, byte for byte
// the same everywhere.
//
// Configuration, as JSON or YAML:
//
//	areas:
//	  - { name: works, datum: wgs84, points: [[39.90, 116.38], [39.90, 116.40], [39.92, 116.40]] }
//	  - { name: depot, datum: gcj02, center: [31.23, 121.47], radius_m: 500 }
//	label: false          # true: also put VEH-LOC-SENSITIVEAREA on the whole message
//	unreadable: policy    # or important: location fields of a message in which no position can be read
//
// 1 to 256 areas with at most 4,096 points together, in at most 64 KiB of JSON. Points are latitude, longitude in degrees;
// edges are straight in these two; the border belongs to the area, to 5 cm. An area whose datum is not that of the position
// is enlarged by what the two can differ: 800 m between wgs84 and gcj02 and for whatever is not stated, 1,000 m between
// gcj02 and bd09, 1,700 m between bd09 and wgs84 or a datum that is not stated. Nothing is converted.
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
const Digest = "d08cd86990f5b2eb455e058cf8cf8b7c9bc3f6a0c6f0ec40429ee220985f711e"
