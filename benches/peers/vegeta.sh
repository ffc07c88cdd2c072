#!/usr/bin/env bash
# Vegeta, the load generator of `cargo xtask bench query`.
#
#   vegeta.sh install    build it into .parts/bin with `go install` (does nothing if this version is there)
set -euo pipefail

version=v12.13.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$here/../../.parts/bin/vegeta

die() { echo "vegeta.sh: $*" >&2; exit 1; }

[ "$*" = install ] || die "usage: vegeta.sh install"
if [ "$(cat "$binary.version" 2>/dev/null)" = "$version" ] && [ -x "$binary" ]; then exit; fi
command -v go >/dev/null || die "go not found: apt-get install golang (Debian 13; on Debian 12 from bookworm-backports)"
mkdir -p "$(dirname "$binary")"
folder=$(cd "$(dirname "$binary")" && pwd)
# Debian sets GOTOOLCHAIN=local.
GOBIN=$folder GOTOOLCHAIN=auto go install -trimpath -ldflags="-s -w" "github.com/tsenart/vegeta/v12@$version" >&2
echo "$version" >"$binary.version"
