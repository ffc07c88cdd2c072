#!/usr/bin/env bash
# A PostgreSQL on loopback, as a peer: data in a folder of its own, trusting whoever reaches its socket.
#
#   postgres.sh start    make the data folder, start the server, wait until it serves
#   postgres.sh stop     stop it
#
# PostgreSQL does not run as root: then it runs as the user `postgres`, which Debian's package makes.
#
# Environment: PG_DIR (data, log and socket; its parents must be open to that user), PG_PORT
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
start)
  mkdir -p "$PG_DIR"
  [ "$(id -u)" != 0 ] || chown postgres "$PG_DIR"
  cd "$PG_DIR"
  "${as[@]}" initdb -D "$PG_DIR/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$PG_DIR/initdb.log" 2>&1 ||
    die "$(cat "$PG_DIR/initdb.log")"
  # A quarter of 8 GB and more for the cache, as its manual advises; the planner is told that the disk is fast.
  "${as[@]}" pg_ctl -D "$PG_DIR/data" -l "$PG_DIR/log" -w -s -o "-p $PG_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=$PG_DIR \
    -c shared_buffers=2GB -c work_mem=64MB -c maintenance_work_mem=1GB -c random_page_cost=1.1 -c max_wal_size=8GB" start || die "$(cat "$PG_DIR/log")"
  ;;
stop) cd / && "${as[@]}" pg_ctl -D "$PG_DIR/data" -s -m fast stop ;;
*) die "usage: postgres.sh start|stop" ;;
esac
