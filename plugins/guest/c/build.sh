#!/bin/sh
# Builds a plugin written in C, byte for byte the same everywhere, with Debian 12's clang 14 and lld 14.
# Usage: build.sh FOLDER [OUTPUT]: FOLDER holds NAME.c and manifest.json, NAME being the folder's own.
set -eu
name=$(basename "$1")
here=$(dirname "$0")
out=${2:-$1/$name.wasm}
CLANG=${CLANG:-clang-14}
command -v "$CLANG" >/dev/null && "$CLANG" --version | grep -q 'version 14\.' || { echo "build.sh: want clang 14: apt-get install clang-14 lld-14" >&2; exit 1; }
"$CLANG" --target=wasm32 -std=c11 -O2 -Wall -Wextra -Werror -nostdlib -ffreestanding -fvisibility=hidden -mbulk-memory \
	-Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=8192 -o "$out" "$1/$name.c"
chmod 644 "$out"
exec "$here/../pack.sh" --manifest "$1/manifest.json" "$out"
