#!/usr/bin/env bash
# A JDBC client for the tests: PostgreSQL's driver and a shell for it, fetched by Maven.
#
#   jdbc.sh install     into .parts/jdbc
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=e2e/parts/maven.sh
source "$here/maven.sh"
libs=${JDBC_LIBS:-$here/../../.parts/jdbc}

die() {
  echo "jdbc.sh: $*" >&2
  exit 1
}

[ "${1:-}" = install ] || die "usage: jdbc.sh install"
fetch_jars "$here/jdbc-pom.xml" "$libs"
