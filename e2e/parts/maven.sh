# shellcheck shell=bash
# Jars by Maven, for the scripts that source this.

# fetch_jars POM FOLDER: the jars that POM names, into FOLDER; does nothing where they are there. The caller has a `die`.
fetch_jars() {
  # The stamp is the pom that the jars came from; the rename makes a broken download invisible.
  if cmp -s "$1" "$2/pom.xml"; then return; fi
  command -v mvn >/dev/null || die "mvn not found: apt-get install maven"
  rm -rf "$2" "$2.partial"
  mkdir -p "$2.partial"
  mvn -B -q -Dstyle.color=never -f "$1" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$(cd "$2.partial" && pwd)" >&2 || die "Maven could not fetch the jars that $(basename "$1") names"
  cp "$1" "$2.partial/pom.xml"
  mv "$2.partial" "$2"
}
