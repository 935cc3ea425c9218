package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluice-edge/sluice/plugins/bundle"
	"github.com/sluice-edge/sluice/plugins/guest/pack"
	"github.com/sluice-edge/sluice/testbench/stand"
)

//go:embed verdict.c
var source []byte

// plugin is the name of the slot and of all versions.
const plugin = "verdict"

// What a version does beside giving its serial as the reason; the numbers of verdict.c.
type manner uint32

const (
	ordinary manner = iota // odd serials coarsen locations, even ones block every eighth message
	gentle                 // the same without blocking
	blocks                 // everything
	traps                  // at every message
)

// Numbers of verdict.c that are replaced in the module.
const (
	serialMark = 0x51A1CE01
	mannerMark = 0x51A1CE02
)

// author makes versions of the plugin and signs them.
type author struct {
	code    []byte // the module as it was built
	seed    []byte
	key     string
	manners map[uint64]manner // of the versions that were made, by serial
}

// newAuthor builds the module with the system's clang. The header is the one of this module's kit.
func newAuthor(ctx context.Context, dir string) (*author, error) {
	root, err := stand.Run(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/sluice-edge/sluice")
	if err != nil {
		return nil, err
	}
	in, out := filepath.Join(dir, "verdict.c"), filepath.Join(dir, "built.wasm")
	if err := os.WriteFile(in, source, 0o600); err != nil {
		return nil, err
	}
	if _, err := stand.Run(ctx, "clang", "--target=wasm32", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-nostdlib", "-ffreestanding", "-fvisibility=hidden",
		"-mbulk-memory", "-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=8192", "-I", filepath.Join(strings.TrimSpace(string(root)), "plugins/guest/c"),
		"-o", out, in); err != nil {
		return nil, fmt.Errorf("build plugin, which needs clang and lld: %w", err)
	}
	a := &author{seed: bytes.Repeat([]byte{7}, ed25519.SeedSize), key: "bench", manners: map[uint64]manner{}}
	a.code, err = os.ReadFile(out)
	return a, err
}

// trust is the trust file.
func (a *author) trust() []byte {
	public := ed25519.NewKeyFromSeed(a.seed)[ed25519.SeedSize:]
	return fmt.Appendf(nil, "keys:\n  - { id: %s, ed25519: %s, names: [%s], expires: 2099-12-31 }\n", a.key, base64.StdEncoding.EncodeToString(public), plugin)
}

// make makes a version: its code has the serial and the manner in it, its manifest the serial, and the signature is over both.
func (a *author) make(serial uint64, m manner) (module, sig []byte, err error) {
	code, err := stamped(a.code, serialMark, uint32(serial))
	if err == nil {
		code, err = stamped(code, mannerMark, uint32(m))
	}
	if err != nil {
		return nil, nil, err
	}
	manifest := fmt.Appendf(nil, `{"name":%q,"version":"1.%d.0","serial":%d,"abi":1,"profile":"bare","protocols":["mqtt"],"topics":["#"],"labels":["VEH-LOC-POINT"],`+
		`"reasons":{"%d":"version %d"},"limits":{"memory_pages":16,"fuel":1000000,"fuel_init":1000000,"depth":64,"in_bytes":65536,"out_bytes":65536},"on_error":"block"}`,
		plugin, serial, serial, serial, serial)
	if module, err = pack.Pack(code, manifest); err != nil {
		return nil, nil, err
	}
	a.manners[serial] = m
	sig, err = bundle.Sign(module, a.key, a.seed)
	return module, sig, err
}

// stamped replaces the one place where a mark stands.
func stamped(code []byte, mark, value uint32) ([]byte, error) {
	old := binary.LittleEndian.AppendUint32(nil, mark)
	if n := bytes.Count(code, old); n != 1 {
		return nil, fmt.Errorf("stamp plugin: %#x stands at %d places of the module", mark, n)
	}
	return bytes.Replace(code, old, binary.LittleEndian.AppendUint32(nil, value), 1), nil
}
