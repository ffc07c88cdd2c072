#!/usr/bin/env bash
# A real S3 server on loopback: versitygw over a folder.
#
#   s3.sh install    build versitygw into .parts/bin with `go install` (does nothing if this version is there)
#   s3.sh start      start the server, wait until it serves, create the buckets; does nothing if it runs
#   s3.sh stop       SIGTERM, and SIGKILL after 5 s
#   s3.sh kill       kill -9; `start` brings it back on its data
#   s3.sh pause | resume    SIGSTOP | SIGCONT: a server that hangs but keeps its connections
#   s3.sh status     print what runs; exit 1 if nothing does
#   s3.sh env        print `export` lines for clients
#
# Objects are plain files: S3_DIR/data/<bucket>/<key>. Their S3 attributes are extended attributes of those files, so the
# file system must have them (ext4, xfs, btrfs; tmpfs from Linux 6.6).
#
# Environment (* = required by all but `install`)
#   S3_DIR  *   data, log and pid file of this server
#   S3_PORT *   its port, chosen by the caller
#   VERSITYGW   the binary; default .parts/bin/versitygw in the repository
#   S3_BUCKETS  default `lake`
#   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION   default test, testsecret, us-east-1
set -euo pipefail

version=v1.8.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=e2e/parts/go.sh
source "$here/go.sh"
binary=${VERSITYGW:-$here/../../.parts/bin/versitygw}
key=${AWS_ACCESS_KEY_ID:-test}
secret=${AWS_SECRET_ACCESS_KEY:-testsecret}
region=${AWS_REGION:-us-east-1}

die() { echo "s3.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 2; }

install() { go_install "$binary" github.com/versity/versitygw/cmd/versitygw "$version"; }

# The server's pid, or nothing where it does not run.
pid() {
  local pid
  pid=$(cat "$S3_DIR/pid" 2>/dev/null) || return 0
  # Pid files outlive reboots: only a process that serves our folder is ours.
  if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$data"; then echo "$pid"; fi
}

serves() { curl -sf -m 2 -o /dev/null "$endpoint/_health"; }

# By the API: a folder made by hand is listed as a bucket but lacks its attributes.
create_buckets() {
  local bucket status
  for bucket in ${S3_BUCKETS-lake}; do
    status=$(curl -s -o /dev/null -w '%{http_code}' -X PUT --aws-sigv4 "aws:amz:$region:s3" -u "$key:$secret" \
      -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "$endpoint/$bucket")
    case $status in 200 | 409) ;; *) die "creating the bucket $bucket: HTTP $status" ;; esac
  done
}

start() {
  if [ -n "$(pid)" ]; then create_buckets; return; fi
  [ -x "$binary" ] || die "no $binary: run \`s3.sh install\` first"
  if (exec 3<>"/dev/tcp/127.0.0.1/$S3_PORT") 2>/dev/null; then die "port $S3_PORT is taken: choose another S3_PORT"; fi
  mkdir -p "$data"
  ROOT_ACCESS_KEY=$key ROOT_SECRET_KEY=$secret setsid nohup "$binary" --port "127.0.0.1:$S3_PORT" --region "$region" \
    --health /_health --quiet --keep-alive posix "$data" >>"$S3_DIR/log" 2>&1 </dev/null &
  echo $! >"$S3_DIR/pid"
  for _ in $(seq 150); do
    if serves; then create_buckets; return; fi
    if ! kill -0 "$(<"$S3_DIR/pid")" 2>/dev/null; then tail -5 "$S3_DIR/log" >&2; die "versitygw ended while starting, see $S3_DIR/log"; fi
    sleep 0.2
  done
  die "versitygw does not serve after 30 s, see $S3_DIR/log"
}

end() { # $1 = signal
  local running
  running=$(pid)
  if [ -n "$running" ]; then
    kill "-$1" "$running" 2>/dev/null || true
    for _ in $(seq 50); do [ -n "$(pid)" ] || break; sleep 0.1; done
    if [ -n "$(pid)" ]; then kill -9 "$running" || true; fi
  fi
  rm -f "$S3_DIR/pid"
}

running_pid() {
  [ -n "$(pid)" ] || die "it does not run"
  pid
}

[ $# = 1 ] || usage
if [ "$1" = install ]; then install; exit; fi

: "${S3_DIR:?is not set: the folder of this server}" "${S3_PORT:?is not set: its port}"
mkdir -p "$S3_DIR"
S3_DIR=$(cd "$S3_DIR" && pwd)
data=$S3_DIR/data
endpoint=http://127.0.0.1:$S3_PORT

case $1 in
  start) start; echo "$endpoint" ;;
  stop) end TERM ;;
  kill) running_pid >/dev/null; end KILL ;;
  pause) kill -STOP "$(running_pid)" ;;
  resume) kill -CONT "$(running_pid)" ;;
  status)
    running=$(pid)
    if [ -z "$running" ]; then echo "s3: stopped"; exit 1; fi
    echo "s3: pid $running, $endpoint, $(awk '/VmRSS/ { print int($2 / 1024) }' "/proc/$running/status") MB" ;;
  env)
    cat <<EXPORTS
export AWS_ACCESS_KEY_ID=$key AWS_SECRET_ACCESS_KEY=$secret AWS_REGION=$region
export AWS_ENDPOINT_URL=$endpoint AWS_ALLOW_HTTP=true AWS_CONDITIONAL_PUT=etag AWS_VIRTUAL_HOSTED_STYLE_REQUEST=false
EXPORTS
    ;;
  *) usage ;;
esac
