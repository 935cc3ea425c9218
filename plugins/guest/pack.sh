#!/bin/sh
# Puts a manifest into a module. Usage: pack.sh --manifest manifest.json FILE.wasm
set -eu
tool=$(mktemp)
trap 'rm -f "$tool"' EXIT
go build -C "$(dirname "$0")" -o "$tool" ./pack
"$tool" "$@"
