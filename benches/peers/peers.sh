#!/usr/bin/env bash
# The jars with which PySpark reads Kafka and writes Delta. What is in Python comes by requirements.txt.
#
#   peers.sh install    fetch them into .parts/spark with Maven (100 MB; does nothing if they are there)
#
# Environment
#   SPARK_LIBS   folder of jars; default .parts/spark in the repository
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libs=${SPARK_LIBS:-$here/../../.parts/spark}

die() { echo "peers.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 2; }

[ "$*" = install ] || usage
# The stamp is the pom that the jars came from; the rename makes a broken download invisible.
if cmp -s "$here/spark-pom.xml" "$libs/pom.xml"; then exit; fi
command -v mvn >/dev/null || die "mvn not found: apt-get install maven"
rm -rf "$libs" "$libs.partial"
mkdir -p "$libs.partial"
mvn -B -q -Dstyle.color=never -f "$here/spark-pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
  -DoutputDirectory="$(cd "$libs.partial" && pwd)" >&2 || die "Maven could not fetch the jars that spark-pom.xml names"
cp "$here/spark-pom.xml" "$libs.partial/pom.xml"
mv "$libs.partial" "$libs"
