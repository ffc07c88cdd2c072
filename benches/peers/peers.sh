#!/usr/bin/env bash
# The jars with which PySpark reads Kafka and writes Delta. What is in Python comes by requirements.txt.
#
#   peers.sh install    fetch them into .parts/spark with Maven (100 MB; does nothing if they are there)
#
# Environment
#   SPARK_LIBS   folder of jars; default .parts/spark in the repository
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=e2e/parts/maven.sh
source "$here/../../e2e/parts/maven.sh"
libs=${SPARK_LIBS:-$here/../../.parts/spark}

die() { echo "peers.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 2; }

[ "$*" = install ] || usage
fetch_jars "$here/spark-pom.xml" "$libs"
