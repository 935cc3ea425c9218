package wasm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// module is a verified module: its bytes were known before the first of them was read, and its outer structure keeps
// the rules. Pools are made of modules and of nothing else.
type module struct {
	digest   string // SHA-256 of the file, hexadecimal
	manifest *Manifest
	code     []byte // without custom sections
}

// ErrNotPinned means that the module's digest is not among those that this version loads.
var ErrNotPinned = errors.New("module is not pinned: this version loads only modules whose SHA-256 it knows; other plugins must be signed, and signed plugins are not supported by this version")

// verify turns the bytes of a file into a module. The digest is checked before anything is parsed.
func verify(data []byte, pinned []string) (*module, error) {
	if len(data) > MaxModule {
		return nil, fmt.Errorf("module has %d bytes; at most %d are allowed", len(data), MaxModule)
	}
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	if !slices.Contains(pinned, digest) {
		return nil, fmt.Errorf("%w (sha256 %s)", ErrNotPinned, digest)
	}
	m, err := dissect(data)
	if err != nil {
		return nil, fmt.Errorf("check module: %w", err)
	}
	m.digest = digest
	return m, nil
}

// Section numbers of a WebAssembly module. [WebAssembly Core 2.0 §5.5.2]
const (
	sectionCustom = 0
	sectionImport = 2
	sectionMemory = 5
	sectionStart  = 8
	sectionLast   = 12
)

const manifestSection = "sluice.manifest"

var magic = []byte("\x00asm\x01\x00\x00\x00")

// dissect walks the sections: no imports, no start function, one memory within the manifest's limit, exactly one
// manifest. Other custom sections are left out of the code.
func dissect(data []byte) (*module, error) {
	m := &module{code: make([]byte, 0, len(data))}
	if len(data) < len(magic) || string(data[:len(magic)]) != string(magic) {
		return nil, errors.New("no WebAssembly 1 module")
	}
	m.code = append(m.code, magic...)
	var manifest []byte
	memories, pages := 0, uint32(0)
	for r := (sectionReader{data[len(magic):]}); len(r.b) > 0; {
		start := r.b
		id, body, ok := r.section()
		if !ok {
			return nil, errors.New("section is cut off")
		}
		in := sectionReader{body}
		switch id {
		case sectionCustom:
			name, ok := in.name()
			if !ok {
				return nil, errors.New("custom section without a name")
			}
			if name == manifestSection {
				if manifest != nil {
					return nil, errors.New("more than one manifest")
				}
				manifest = in.b
			}
			continue
		case sectionImport:
			if n, ok := in.u32(); !ok || n != 0 {
				return nil, errors.New("module imports something; nothing can be granted")
			}
		case sectionStart:
			return nil, errors.New("module has a start function")
		case sectionMemory:
			n, ok := in.u32()
			if !ok || n != 1 || memories > 0 {
				return nil, errors.New("module has more than one memory, or none")
			}
			flags, ok1 := in.u32()
			min, ok2 := in.u32()
			if !ok1 || !ok2 || flags > 1 {
				return nil, errors.New("memory is shared or malformed")
			}
			memories, pages = 1, min
		}
		m.code = append(m.code, start[:len(start)-len(r.b)]...)
	}
	if memories != 1 {
		return nil, errors.New("module has no memory of its own")
	}
	if manifest == nil {
		return nil, errors.New("no custom section " + manifestSection)
	}
	var err error
	if m.manifest, err = parseManifest(manifest); err != nil {
		return nil, err
	}
	if limit := m.manifest.Limits.MemoryPages; pages > limit {
		return nil, fmt.Errorf("memory starts with %d pages; the limit is %d", pages, limit)
	}
	return m, nil
}

// sectionReader takes fields off b; it never reads past the end and allocates nothing but names.
type sectionReader struct{ b []byte }

// u32 reads an unsigned LEB128 of at most 32 bits. [WebAssembly Core 2.0 §5.2.2]
func (r *sectionReader) u32() (uint32, bool) {
	var v uint64
	for i := range r.b {
		if i == 5 {
			break
		}
		v |= uint64(r.b[i]&0x7f) << (7 * i)
		if r.b[i] < 0x80 {
			r.b = r.b[i+1:]
			return uint32(v), v <= 1<<32-1
		}
	}
	return 0, false
}

func (r *sectionReader) section() (id byte, body []byte, ok bool) {
	id = r.b[0]
	r.b = r.b[1:]
	n, ok := r.u32()
	if !ok || uint64(n) > uint64(len(r.b)) || id > sectionLast {
		return 0, nil, false
	}
	body, r.b = r.b[:n], r.b[n:]
	return id, body, true
}

func (r *sectionReader) name() (string, bool) {
	n, ok := r.u32()
	if !ok || uint64(n) > uint64(len(r.b)) {
		return "", false
	}
	name := string(r.b[:n])
	r.b = r.b[n:]
	return name, true
}
