#!/bin/sh
# Puts a manifest into a module. Usage: pack.sh --manifest manifest.json FILE.wasm
set -eu
tool=$(mktemp)
trap 'rm -f "$tool"' EXIT
go build -o "$tool" "$(dirname "$0")/pack/main.go"
"$tool" "$@"
