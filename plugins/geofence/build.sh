#!/bin/sh
# Builds geofence.wasm, byte for byte the same everywhere, with Debian 12's clang 14 and lld 14.
# Usage: build.sh [OUTPUT]
set -eu
cd "$(dirname "$0")"
out=${1:-geofence.wasm}
CLANG=${CLANG:-clang-14}
"$CLANG" --version | grep -q 'version 14\.' || { echo "build.sh: want clang 14: apt-get install clang-14 lld-14" >&2; exit 1; }
exec "$CLANG" --target=wasm32 -std=c11 -O2 -Wall -Wextra -Werror -nostdlib -ffreestanding -fvisibility=hidden -mbulk-memory \
	-Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=8192 -o "$out" geofence.c
