// Package pack puts a manifest into a WebAssembly module, as the custom section sluice.manifest at its end.
package pack

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	section     = "sluice.manifest"
	maxManifest = 16 << 10
	magic       = "\x00asm\x01\x00\x00\x00"
)

// Pack returns the module with the manifest at its end, without the blanks between its members; a manifest that the
// module already has is replaced. The rest of the module stays as it is, byte for byte. Packing twice is packing once.
// Whether the manifest says something sensible is not asked.
func Pack(code, manifest []byte) ([]byte, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, manifest); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if compact.Len() == 0 || compact.Bytes()[0] != '{' || compact.Len() > maxManifest {
		return nil, fmt.Errorf("manifest is no JSON object of at most %d bytes", maxManifest)
	}
	if !bytes.HasPrefix(code, []byte(magic)) {
		return nil, errors.New("no WebAssembly 1 module")
	}
	out := []byte(magic)
	for rest := code[len(magic):]; len(rest) > 0; {
		size, n := binary.Uvarint(rest[1:])
		if n <= 0 || size > uint64(len(rest)-1-n) {
			return nil, errors.New("section is cut off")
		}
		whole, body := rest[:1+n+int(size)], rest[1+n:1+n+int(size)]
		rest = rest[len(whole):]
		if whole[0] == 0 && bytes.HasPrefix(body, named(nil)) {
			continue
		}
		out = append(out, whole...)
	}
	body := named(compact.Bytes())
	out = append(out, 0)
	out = binary.AppendUvarint(out, uint64(len(body)))
	return append(out, body...), nil
}

// named is the content of the manifest's section: its name and the text.
func named(text []byte) []byte {
	return append(append([]byte{byte(len(section))}, section...), text...)
}
