#!/usr/bin/env bash
# A JDBC client for the tests: PostgreSQL's driver and a shell for it, fetched by Maven.
#
#   jdbc.sh install     into .parts/jdbc
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libs=${JDBC_LIBS:-$here/../../.parts/jdbc}

die() {
  echo "jdbc.sh: $*" >&2
  exit 1
}

[ "${1:-}" = install ] || die "usage: jdbc.sh install"
# The stamp is the pom that the jars came from; the rename makes a broken download invisible.
if cmp -s "$here/jdbc-pom.xml" "$libs/pom.xml"; then exit 0; fi
command -v mvn >/dev/null || die "mvn not found: apt-get install maven"
rm -rf "$libs" "$libs.partial"
mkdir -p "$libs.partial"
mvn -B -q -Dstyle.color=never -f "$here/jdbc-pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
  -DoutputDirectory="$(cd "$libs.partial" && pwd)" >&2 || die "Maven could not fetch the jars that jdbc-pom.xml names"
cp "$here/jdbc-pom.xml" "$libs.partial/pom.xml"
mv "$libs.partial" "$libs"
