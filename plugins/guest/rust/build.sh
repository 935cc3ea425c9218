#!/bin/sh
# Builds a plugin written in Rust, byte for byte the same everywhere, with Debian 12's rustc 1.63 and lld 14.
# Usage: build.sh FOLDER [OUTPUT]: FOLDER holds NAME.rs and manifest.json, NAME being the folder's own.
set -eu
name=$(basename "$1")
here=$(dirname "$0")
out=${2:-$1/$name.wasm}
RUSTC=${RUSTC:-/usr/bin/rustc}
LLD=${LLD:-wasm-ld-14}
{ command -v "$LLD" && "$RUSTC" --version | grep 'rustc 1\.63\.'; } >/dev/null ||
	{ echo "build.sh: want rustc 1.63 and lld 14: apt-get install rustc libstd-rust-dev-wasm32 lld-14" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="--edition 2021 --target wasm32-unknown-unknown -C opt-level=3 -C panic=abort -C strip=symbols -C codegen-units=1 -D warnings"
"$RUSTC" $flags --remap-path-prefix "$here=sluice" --crate-name sluice --crate-type rlib -o "$work/libsluice.rlib" "$here/sluice.rs"
"$RUSTC" $flags --remap-path-prefix "$1=plugin" --crate-name "$name" --crate-type cdylib --extern "sluice=$work/libsluice.rlib" \
	-C linker="$LLD" -C link-arg=-zstack-size=16384 -o "$out" "$1/$name.rs"
chmod 644 "$out"
"$here/../pack.sh" --manifest "$1/manifest.json" "$out"
