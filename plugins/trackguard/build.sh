#!/bin/sh
# Builds the plugin of this folder, byte for byte the same everywhere. Usage: build.sh [OUTPUT]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../guest/c/build.sh" "$here" "$@"
