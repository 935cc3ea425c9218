#!/bin/sh
# Builds a plugin written in AssemblyScript, byte for byte the same everywhere, with the compiler of package.json.
# Usage: build.sh FOLDER [OUTPUT]: FOLDER holds NAME.ts and manifest.json, NAME being the folder's own.
set -eu
name=$(basename "$1")
here=$(dirname "$0")
out=${2:-$1/$name.wasm}
ASC=${ASC:-$here/node_modules/.bin/asc}
{ command -v "$ASC" && "$ASC" --version | grep 'Version 0\.28\.20$'; } >/dev/null ||
	{ echo "build.sh: want AssemblyScript 0.28.20: npm ci --prefix $here, or ASC=…/node_modules/.bin/asc" >&2; exit 1; }
"$ASC" "$1/$name.ts" -O3 --noAssert --runtime stub --use abort= --exportStart _initialize -o "$out"
chmod 644 "$out"
"$here/../pack.sh" --manifest "$1/manifest.json" "$out"
