#!/usr/bin/env bash
# The published Claude Code CLI, offline: it talks to model_stub.py and reports its telemetry where it is told.
#
#   claude.sh install              fetch it from npm into .parts/claude (360 MB; does nothing if this version is there)
#   claude.sh run ENDPOINT [KEY]   one session of one prompt and one tool call, telemetry to ENDPOINT with the bearer KEY
#
# Variables that begin with OTEL_ are passed on, e.g. OTEL_EXPORTER_OTLP_PROTOCOL=http/json (default http/protobuf),
# OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative, OTEL_EXPORTER_OTLP_COMPRESSION=gzip.
set -euo pipefail

version=2.1.330
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$here/../../.parts/claude

die() { echo "claude.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 2; }

install() {
  if [ "$(cat "$folder/version" 2>/dev/null)" = "$version" ]; then return; fi
  command -v npm >/dev/null || die "npm not found: apt-get install npm"
  mkdir -p "$folder"
  npm install --silent --no-audit --no-fund --prefix "$folder" "@anthropic-ai/claude-code@$version" >&2
  echo "$version" >"$folder/version"
}

run() { # $1 = endpoint, $2 = key
  local home port settings
  [ -e "$folder/version" ] || die "not installed: run \`claude.sh install\` first"
  # Nothing of the person who runs this: an empty home and an empty environment.
  home=$(mktemp -d)
  python3 "$here/model_stub.py" "$home/port" &
  # shellcheck disable=SC2064 # the values of now
  trap "kill $! 2>/dev/null || true; rm -rf '$home'" EXIT
  for _ in $(seq 100); do if [ -s "$home/port" ]; then break; fi; sleep 0.1; done
  port=$(cat "$home/port") || die "the model stub did not start"
  mapfile -t settings < <(env | grep '^OTEL_' || true)
  if [ -n "$2" ]; then settings+=("OTEL_EXPORTER_OTLP_HEADERS=Authorization=Bearer $2"); fi
  # The model decides the price: the one of the captured bodies.
  (
    cd "$home"
    env -i HOME="$home" PATH="$PATH" TERM=dumb LANG=C.UTF-8 \
      ANTHROPIC_API_KEY=sk-ant-not-a-key ANTHROPIC_BASE_URL="http://127.0.0.1:$port" \
      DISABLE_AUTOUPDATER=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 CLAUDE_CODE_MAX_RETRIES=1 \
      CLAUDE_CODE_ENABLE_TELEMETRY=1 OTEL_METRICS_EXPORTER=otlp OTEL_LOGS_EXPORTER=otlp \
      OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_METRIC_EXPORT_INTERVAL=1000 OTEL_LOGS_EXPORT_INTERVAL=1000 \
      "${settings[@]}" OTEL_EXPORTER_OTLP_ENDPOINT="$1" \
      timeout 120 "$folder/node_modules/.bin/claude" -p ping --model claude-opus-4-8 --allowedTools Bash </dev/null
  )
}

case ${1:-} in
  install) install ;;
  run) if [ $# -lt 2 ] || [ $# -gt 3 ]; then usage; fi; run "$2" "${3:-}" ;;
  *) usage ;;
esac
