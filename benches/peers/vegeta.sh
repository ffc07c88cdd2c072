#!/usr/bin/env bash
# Vegeta, the load generator of `cargo xtask bench query`.
#
#   vegeta.sh install    build it into .parts/bin with `go install` (does nothing if this version is there)
set -euo pipefail

version=v12.13.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=e2e/parts/go.sh
source "$here/../../e2e/parts/go.sh"
binary=$here/../../.parts/bin/vegeta

die() { echo "vegeta.sh: $*" >&2; exit 1; }

[ "$*" = install ] || die "usage: vegeta.sh install"
go_install "$binary" github.com/tsenart/vegeta/v12 "$version"
