#!/bin/sh
# Builds NAME.wasm from filter.rs and manifest.json.
set -eu
cd "$(dirname "$0")"
stop() { echo "build.sh: error: $1" >&2; echo "build.sh: hint: $2" >&2; exit 1; }
SLUICE=${SLUICE:-sluice}
rm -f NAME.wasm # whatever fails below, an old one is not taken for new
command -v "$SLUICE" >/dev/null || stop "no program $SLUICE" "put sluice into the PATH, or SLUICE=/path/to/sluice ./build.sh"
# The first compiler that has the target: Debian's is at /usr/bin, another may stand in front of it in the PATH.
for rustc in ${RUSTC:-/usr/bin/rustc rustc}; do
	[ -d "$("$rustc" --print sysroot 2>/dev/null)/lib/rustlib/wasm32-unknown-unknown" ] && break || rustc=
done
[ -n "$rustc" ] || stop "no rustc with the target wasm32-unknown-unknown" "apt-get install rustc libstd-rust-dev-wasm32 lld, or rustup target add wasm32-unknown-unknown"
for lld in ${LLD:-wasm-ld wasm-ld-14 rust-lld}; do
	command -v "$lld" >/dev/null && break || lld=
done
[ -n "$lld" ] || stop "no linker wasm-ld" "apt-get install lld"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="--edition 2021 --target wasm32-unknown-unknown -C opt-level=3 -C panic=abort -C strip=symbols -C codegen-units=1"
"$rustc" $flags --crate-name sluice --crate-type rlib -o "$work/libsluice.rlib" sluice/sluice.rs
"$rustc" $flags --crate-name plugin --crate-type cdylib --extern "sluice=$work/libsluice.rlib" \
	-C linker="$lld" -C link-arg=-zstack-size=16384 -o NAME.wasm filter.rs
vectors=
[ ! -f NAME.vectors ] || vectors="--vectors NAME.vectors"
"$SLUICE" plugin pack --manifest manifest.json $vectors NAME.wasm
