#!/bin/sh
# Builds NAME.wasm from filter.ts and manifest.json.
set -eu
cd "$(dirname "$0")"
stop() { echo "build.sh: error: $1" >&2; echo "build.sh: hint: $2" >&2; exit 1; }
SLUICE=${SLUICE:-sluice}
rm -f NAME.wasm # whatever fails below, an old one is not taken for new
command -v "$SLUICE" >/dev/null || stop "no program $SLUICE" "put sluice into the PATH, or SLUICE=/path/to/sluice ./build.sh"
ASC=${ASC:-node_modules/.bin/asc}
if [ ! -e "$ASC" ]; then
	command -v npm >/dev/null || stop "no program npm" "install Node 20 or newer with npm"
	npm ci --no-audit --no-fund --no-update-notifier --loglevel error
fi
"$ASC" filter.ts -O3 --noAssert --runtime stub --use abort= --exportStart _initialize -o NAME.wasm
vectors=
[ ! -f NAME.vectors ] || vectors="--vectors NAME.vectors"
"$SLUICE" plugin pack --manifest manifest.json $vectors NAME.wasm
