#!/bin/sh
# Builds NAME.wasm from filter.c and manifest.json.
set -eu
cd "$(dirname "$0")"
stop() { echo "build.sh: error: $1" >&2; echo "build.sh: hint: $2" >&2; exit 1; }
SLUICE=${SLUICE:-sluice}
rm -f NAME.wasm # whatever fails below, an old one is not taken for new
command -v "$SLUICE" >/dev/null || stop "no program $SLUICE" "put sluice into the PATH, or SLUICE=/path/to/sluice ./build.sh"
CLANG=${CLANG:-clang}
command -v "$CLANG" >/dev/null || stop "no compiler $CLANG" "apt-get install clang lld, or CLANG=/path/to/clang ./build.sh"
"$CLANG" --target=wasm32 -std=c11 -O2 -Wall -Wextra -nostdlib -ffreestanding -fvisibility=hidden -mbulk-memory \
	-Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=8192 -o NAME.wasm filter.c
vectors=
[ ! -f NAME.vectors ] || vectors="--vectors NAME.vectors"
"$SLUICE" plugin pack --manifest manifest.json $vectors NAME.wasm
