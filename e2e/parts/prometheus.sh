#!/usr/bin/env bash
# Prometheus and promtool, from Debian's package: for the dashboard and the alerts under deploy/.
#
#   prometheus.sh install     into .parts/bin (20 MB; does nothing if they are there); takes no right to install packages
set -euo pipefail
bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.parts/bin

die() {
  echo "prometheus.sh: $*" >&2
  exit 1
}

# Fetches the package into the current folder, by the package lists of the system or, where it has none, lists of our own.
download() {
  apt-get download -q prometheus && return
  mkdir -p lists/partial cache/archives/partial
  local own=(-q -o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD/cache")
  apt-get "${own[@]}" update && apt-get "${own[@]}" download prometheus
}

install() {
  local folder tool
  if [ -x "$bin/prometheus" ] && [ -x "$bin/promtool" ]; then return; fi
  for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null || die "no $tool here: put prometheus and promtool (2.42 or later) into $bin by hand"
  done
  folder=$(mktemp -d)
  # shellcheck disable=SC2064 # the value of now
  trap "rm -rf '$folder'" EXIT
  # apt fetches as another user where it is root.
  chmod 755 "$folder"
  cd "$folder"
  download >&2 || die "Debian's package \`prometheus\` cannot be fetched"
  dpkg -x prometheus_*.deb .
  mkdir -p "$bin"
  cp usr/bin/prometheus usr/bin/promtool "$bin/"
}

[ "${1:-}" = install ] || die "usage: prometheus.sh install"
install
