#!/bin/sh
# Builds a plugin written in Go, byte for byte the same everywhere, with Go 1.26.8.
# Usage: build.sh FOLDER [OUTPUT]: FOLDER holds package main and manifest.json, NAME being the folder's own.
set -eu
name=$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
out=${2:-$1/$name.wasm}
case $out in /*) ;; *) out=$PWD/$out ;; esac
# The go command fetches another version of itself when it is not this one.
(cd "$1" && env GOTOOLCHAIN=go1.26.8 GOOS=wasip1 GOARCH=wasm GOWASM= GOEXPERIMENT= GOFLAGS= GODEBUG= GOWORK=off CGO_ENABLED=0 \
	go build -buildmode=c-shared -trimpath -buildvcs=false -ldflags='-s -w' -o "$out" .)
chmod 644 "$out"
"$here/../pack.sh" --manifest "$1/manifest.json" "$out"
