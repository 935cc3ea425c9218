#!/bin/sh
# Puts a manifest into a module. Usage: pack.sh --manifest manifest.json FILE.wasm
# SLUICE names the program; without it, it is built from this repository.
set -eu
if [ -z "${SLUICE:-}" ]; then
	SLUICE=$(mktemp)
	trap 'rm -f "$SLUICE"' EXIT
	go build -C "$(dirname "$0")" -o "$SLUICE" ../../cmd/sluice
fi
"$SLUICE" plugin pack "$@" >/dev/null
