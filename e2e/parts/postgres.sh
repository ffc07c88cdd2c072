#!/usr/bin/env bash
# A real PostgreSQL on loopback, without a container: data in a folder of its own, trusting whoever reaches its port.
#
#   postgres.sh install  say whether it is there: its Debian package brings it
#   postgres.sh start    make the data folder where it is not there, start the server, wait until it serves
#   postgres.sh stop     stop it
#   postgres.sh status   say whether it runs
#
# PostgreSQL does not run as root: then it runs as the user `postgres`, which Debian's package makes.
#
# Environment: PG_DIR (data, log and socket; its parents must be open to that user), PG_PORT, PG_OPTIONS (further settings, `-c name=value`)
set -euo pipefail

die() { echo "postgres.sh: $*" >&2; exit 1; }

# Debian keeps its programs out of PATH.
for folder in /usr/lib/postgresql/*/bin; do PATH=$PATH:$folder; done
command -v initdb pg_ctl >/dev/null || die "PostgreSQL not found: apt-get install postgresql"
as=()
if [ "$(id -u)" = 0 ]; then
  id postgres >/dev/null 2>&1 || die "there is no user postgres to run the server: apt-get install postgresql"
  as=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi

case ${1:-} in
install) ;;
start)
  mkdir -p "$PG_DIR"
  [ "$(id -u)" != 0 ] || chown postgres "$PG_DIR"
  cd "$PG_DIR"
  [ -e "$PG_DIR/data/PG_VERSION" ] ||
    "${as[@]}" initdb -D "$PG_DIR/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$PG_DIR/initdb.log" 2>&1 ||
    die "$(cat "$PG_DIR/initdb.log")"
  "${as[@]}" pg_ctl -D "$PG_DIR/data" -l "$PG_DIR/log" -w -s \
    -o "-p $PG_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=$PG_DIR ${PG_OPTIONS:-}" start >/dev/null || die "$(cat "$PG_DIR/log")"
  echo "postgres://postgres@127.0.0.1:$PG_PORT/postgres"
  ;;
stop) cd / && "${as[@]}" pg_ctl -D "$PG_DIR/data" -s -m fast stop ;;
status)
  if cd / && "${as[@]}" pg_ctl -D "$PG_DIR/data" -s status >/dev/null 2>&1; then
    echo "postgres runs at 127.0.0.1:$PG_PORT"
  else
    echo "postgres is stopped"
    exit 3
  fi
  ;;
*) die "usage: postgres.sh install|start|stop|status" ;;
esac
