package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sluice-edge/sluice/filters/wasm"
	"github.com/sluice-edge/sluice/plugins/guest/pack"
)

// maxManifestFile bounds a manifest with its blanks.
const maxManifestFile = 64 << 10

// pluginPack puts a manifest into a module, in place.
func pluginPack(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	fs := newFlags("plugin pack", "--manifest FILE [--vectors FILE] FILE.wasm")
	manifest := fs.String("manifest", "", "manifest of the plugin, a JSON `file`")
	vectors := fs.String("vectors", "", "self-test `file` beside the module; the manifest in the module then has its SHA-256")
	rest, status, done := parseFlags(fs, args, stdout, stderr)
	if done {
		return status
	}
	if *manifest == "" || len(rest) != 1 {
		return usage(stderr, errors.New("plugin pack: want one module and --manifest"), "for example: sluice plugin pack --manifest manifest.json fence.wasm")
	}
	text, err := readBounded(*manifest, maxManifestFile)
	if err != nil {
		return fail(stderr, err)
	}
	module, err := readBounded(rest[0], wasm.MaxModule)
	if err != nil {
		return fail(stderr, err, moduleHint(rest[0]))
	}
	if *vectors != "" {
		tests, err := readBounded(*vectors, wasm.MaxVectors)
		if err != nil {
			return fail(stderr, err, "sluice plugin run --vectors "+*vectors+" FILE.wasm MESSAGES writes it")
		}
		if text, err = withVectors(text, tests); err != nil {
			return fail(stderr, fmt.Errorf("read %q: %w", *manifest, err))
		}
	}
	packed, err := pack.Pack(module, text)
	if err != nil {
		return fail(stderr, fmt.Errorf("pack %q: %w", rest[0], err))
	}
	if err := replaceFile(rest[0], 0o644, packed); err != nil {
		return fail(stderr, err)
	}
	fmt.Fprintf(stdout, "%s  has its manifest, %d bytes\n", rest[0], len(packed))
	return exitGood
}

// withVectors returns the manifest with the digest of the self-test file in it.
func withVectors(manifest, vectors []byte) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(manifest, &members); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(vectors)
	members["vectors"] = json.RawMessage(`"` + hex.EncodeToString(sum[:]) + `"`)
	return json.Marshal(members)
}
