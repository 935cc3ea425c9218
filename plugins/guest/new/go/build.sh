#!/bin/sh
# Builds NAME.wasm from main.go and manifest.json.
set -eu
cd "$(dirname "$0")"
stop() { echo "build.sh: error: $1" >&2; echo "build.sh: hint: $2" >&2; exit 1; }
SLUICE=${SLUICE:-sluice}
rm -f NAME.wasm # whatever fails below, an old one is not taken for new
command -v "$SLUICE" >/dev/null || stop "no program $SLUICE" "put sluice into the PATH, or SLUICE=/path/to/sluice ./build.sh"
command -v go >/dev/null || stop "no program go" "install Go 1.24 or newer: https://go.dev/dl"
GOTOOLCHAIN=local GOOS=wasip1 GOARCH=wasm GOFLAGS= GOWORK=off CGO_ENABLED=0 \
	go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags="-s -w" -o NAME.wasm .
chmod 644 NAME.wasm
vectors=
[ ! -f NAME.vectors ] || vectors="--vectors NAME.vectors"
"$SLUICE" plugin pack --manifest manifest.json $vectors NAME.wasm
