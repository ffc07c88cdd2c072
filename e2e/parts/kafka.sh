#!/usr/bin/env bash
# A real Apache Kafka (KRaft, each node broker and controller) from its published jars, on loopback only.
#
#   kafka.sh install                 fetch the jars into KAFKA_LIBS with Maven (45 MB; does nothing if they are there)
#   kafka.sh start [ID]              start all brokers, or one, and wait until they serve; those that run are left alone
#   kafka.sh stop [ID]               SIGTERM, and SIGKILL after 30 s
#   kafka.sh kill ID                 kill -9; `start ID` brings it back on its data
#   kafka.sh pause ID | resume ID    SIGSTOP | SIGCONT: a broker that hangs but keeps its connections
#   kafka.sh status                  a line per broker; exit 1 unless all run
#   kafka.sh bootstrap               print bootstrap.servers
#   kafka.sh topic NAME [PARTITIONS] [KEY=VALUE...]   create a topic, with topic settings
#   kafka.sh tool CLASS ARGS...      run a Kafka tool, e.g. org.apache.kafka.tools.TopicCommand --list
#   kafka.sh destroy                 kill -9 all and delete their data
#
# The caller chooses the ports. Every process is stopped by the pid that its start wrote, and only if that pid still is
# that broker: pid files outlive reboots.
#
# Environment (* = required by all but `install`)
#   KAFKA_DIR  *   data, configuration, pid files and logs of this cluster
#   KAFKA_PORT *   client port of broker 1; broker i listens on +i-1, its controller on +100+i-1
#   KAFKA_LIBS     folder of jars, shared by clusters; default .parts/kafka in the repository
#   KAFKA_BROKERS  1 or 3; default 1
#   KAFKA_HEAP     heap of each broker; default 512m for one, 256m for three
#   KAFKA_EXTRA    a file appended to server.properties
#   KAFKA_SECURITY 1: further listeners, SSL with client certificates on +200+i-1 and SASL_SSL on +300+i-1, for user `ada` with the
#                  password `ada-secret` by PLAIN and SCRAM, and anyone by OAUTHBEARER with unsecured tokens. The certificates that
#                  clients need are made at the first start: KAFKA_DIR/tls/{ca,client,stranger}.pem, client.key
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=e2e/parts/maven.sh
source "$here/maven.sh"
libs=${KAFKA_LIBS:-$here/../../.parts/kafka}
brokers=${KAFKA_BROKERS:-1}
ready_seconds=60

die() { echo "kafka.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 2; }

client_port()     { echo $((KAFKA_PORT + $1 - 1)); }
ssl_port()        { echo $((KAFKA_PORT + 199 + $1)); }
sasl_port()       { echo $((KAFKA_PORT + 299 + $1)); }
controller_port() { echo $((KAFKA_PORT + 99 + $1)); }
node()            { echo "$KAFKA_DIR/node$1"; }
ids()             { seq 1 "$brokers"; }
is_open()         { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

addresses() { # of all brokers, joined by commas
  local id list=""
  for id in $(ids); do list+=",127.0.0.1:$(client_port "$id")"; done
  echo "${list#,}"
}

# The pid of broker $1, or nothing where it does not run.
pid_of() {
  local pid
  pid=$(cat "$(node "$1")/pid" 2>/dev/null) || return 0
  if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "kafka.Kafka $(node "$1")/server.properties"; then echo "$pid"; fi
}

running_pid() {
  local pid
  pid=$(pid_of "$1")
  [ -n "$pid" ] || die "broker $1 does not run"
  echo "$pid"
}

install() {
  fetch_jars "$here/kafka-pom.xml" "$libs"
}

# A certificate authority, one certificate for all brokers, one for a client, and an authority that nobody trusts.
make_certificates() {
  local tls=$KAFKA_DIR/tls name
  if [ -e "$tls/broker.pem" ]; then return; fi
  command -v openssl >/dev/null || die "openssl not found: apt-get install openssl"
  mkdir -p "$tls"
  for name in ca stranger; do
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=$name" -keyout "$tls/$name.key" -out "$tls/$name.pem" 2>/dev/null
  done
  for name in broker client; do
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$tls/$name.key" 2>/dev/null |
      openssl x509 -req -days 30 -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial -out "$tls/$name.crt" \
        -extfile <(echo "subjectAltName=IP:127.0.0.1,DNS:localhost") 2>/dev/null
  done
  cp "$tls/client.crt" "$tls/client.pem"
  cat "$tls/broker.key" "$tls/broker.crt" >"$tls/broker.pem" # last: it says that all of them are there
}

secure() { # $1 = id; the part of server.properties for KAFKA_SECURITY
  local jaas=org.apache.kafka.common.security listener=listener.name.sasl_ssl
  cat <<PROPERTIES
listeners=PLAINTEXT://127.0.0.1:$(client_port "$1"),SSL://127.0.0.1:$(ssl_port "$1"),SASL_SSL://127.0.0.1:$(sasl_port "$1"),CONTROLLER://127.0.0.1:$(controller_port "$1")
advertised.listeners=PLAINTEXT://127.0.0.1:$(client_port "$1"),SSL://127.0.0.1:$(ssl_port "$1"),SASL_SSL://127.0.0.1:$(sasl_port "$1")
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
ssl.keystore.type=PEM
ssl.keystore.location=$KAFKA_DIR/tls/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$KAFKA_DIR/tls/ca.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
$listener.plain.sasl.jaas.config=$jaas.plain.PlainLoginModule required user_ada="ada-secret";
$listener.scram-sha-256.sasl.jaas.config=$jaas.scram.ScramLoginModule required;
$listener.scram-sha-512.sasl.jaas.config=$jaas.scram.ScramLoginModule required;
$listener.oauthbearer.sasl.jaas.config=$jaas.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
PROPERTIES
}

configure() { # $1 = id
  local id=$1 dir voters="" other replicas=$brokers in_sync=1
  dir=$(node "$id")
  if [ "$brokers" = 3 ]; then in_sync=2; fi
  for other in $(ids); do voters+=",$other@127.0.0.1:$(controller_port "$other")"; done
  mkdir -p "$dir"
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$id
controller.quorum.voters=${voters#,}
listeners=PLAINTEXT://127.0.0.1:$(client_port "$id"),CONTROLLER://127.0.0.1:$(controller_port "$id")
advertised.listeners=PLAINTEXT://127.0.0.1:$(client_port "$id")
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=6
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=6
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
share.coordinator.state.topic.num.partitions=3
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
# The defaults (128 MB for the log cleaner) do not fit a small heap.
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.threads=1
# A killed broker is noticed after 6 s instead of 9 s.
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
PROPERTIES
  # Of a property that stands twice, the last one counts.
  if [ "${KAFKA_SECURITY:-}" = 1 ]; then secure "$id" >>"$dir/server.properties"; fi
  if [ -n "${KAFKA_EXTRA:-}" ]; then cat "$KAFKA_EXTRA" >>"$dir/server.properties"; fi
  cat >"$dir/log4j2.properties" <<'PROPERTIES'
status=error
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=info
rootLogger.appenderRef.c.ref=C
PROPERTIES
}

launch() { # $1 = id; returns at once
  local id=$1 dir port heap=512m scram users=()
  dir=$(node "$id")
  if [ "$brokers" = 3 ]; then heap=256m; fi
  if [ -n "$(pid_of "$id")" ]; then return; fi
  for port in "$(client_port "$id")" "$(controller_port "$id")"; do
    # A broker killed a moment ago holds its port until the kernel has freed its memory.
    for _ in $(seq 50); do is_open "$port" || break; sleep 0.1; done
    if is_open "$port"; then die "port $port is taken: choose another KAFKA_PORT"; fi
  done
  if [ "${KAFKA_SECURITY:-}" = 1 ]; then
    make_certificates
    for scram in SCRAM-SHA-256 SCRAM-SHA-512; do users+=(--add-scram "$scram=[name=ada,password=ada-secret]"); done
  fi
  configure "$id"
  if ! [ -e "$dir/data/meta.properties" ]; then
    java -Xmx128m -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$libs/*" \
      kafka.tools.StorageTool format -t "$(<"$KAFKA_DIR/cluster.id")" -c "$dir/server.properties" "${users[@]}" >"$dir/format.log" 2>&1 ||
      { tail -5 "$dir/format.log" >&2; die "broker $id: formatting failed, see $dir/format.log"; }
  fi
  if [ -e "$dir/broker.log" ]; then mv -f "$dir/broker.log" "$dir/broker.log.1"; fi
  setsid nohup java -Xms"${KAFKA_HEAP:-$heap}" -Xmx"${KAFKA_HEAP:-$heap}" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -Djava.awt.headless=true -Dlog4j2.configurationFile="$dir/log4j2.properties" -cp "$libs/*" \
    kafka.Kafka "$dir/server.properties" >"$dir/broker.log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
}

await() { # $1 = id; a broker logs "started" only after the controller has unfenced it
  local id=$1 dir end=$((SECONDS + ready_seconds))
  dir=$(node "$id")
  until grep -qs 'Kafka Server started' "$dir/broker.log" && is_open "$(client_port "$id")"; do
    if ! kill -0 "$(<"$dir/pid")" 2>/dev/null; then
      grep -E 'ERROR|FATAL|Exception' "$dir/broker.log" | tail -5 >&2
      die "broker $id ended while starting, see $dir/broker.log"
    fi
    [ $SECONDS -lt $end ] || die "broker $id does not serve after $ready_seconds s, see $dir/broker.log"
    sleep 0.1
  done
}

forget() { # $1 = id; waits until its process is gone
  for _ in $(seq 300); do [ -n "$(pid_of "$1")" ] || break; sleep 0.1; done
  if [ -n "$(pid_of "$1")" ]; then kill -9 "$(pid_of "$1")" || true; fi
  rm -f "$(node "$1")/pid"
}

signal_all() { # $1 = signal, rest = ids; together, since the last one of a quorum would wait for the others
  local id pid signal=$1
  shift
  for id in "$@"; do
    pid=$(pid_of "$id")
    if [ -n "$pid" ]; then kill "-$signal" "$pid" 2>/dev/null || true; fi
  done
  for id in "$@"; do forget "$id"; done
}

run_tool() { java -Xmx256m -XX:TieredStopAtLevel=1 -cp "$libs/*" "$@" 2> >(grep -vE 'SLF4J|StatusLogger' >&2); }

[ $# -gt 0 ] || usage
command=$1
shift
if [ "$command" = install ]; then install; exit; fi

: "${KAFKA_DIR:?is not set: the folder of this cluster}" "${KAFKA_PORT:?is not set: the port of broker 1}"
case $brokers in 1 | 3) ;; *) die "KAFKA_BROKERS is 1 or 3, not '$brokers'" ;; esac
[[ $KAFKA_PORT =~ ^[0-9]+$ ]] || die "KAFKA_PORT is a number, not '$KAFKA_PORT'"
command -v java >/dev/null || die "java not found: apt-get install openjdk-17-jre-headless"
mkdir -p "$KAFKA_DIR"
KAFKA_DIR=$(cd "$KAFKA_DIR" && pwd)
if [ $# -gt 0 ]; then chosen=("$1"); else mapfile -t chosen < <(ids); fi
case $command in
  start | stop | kill | pause | resume)
    for id in "${chosen[@]}"; do ids | grep -qx -- "$id" || die "no broker '$id' of $brokers"; done ;;
esac

case $command in
  start)
    [ -e "$libs/pom.xml" ] || die "no jars in $libs: run \`kafka.sh install\` first"
    # 16 random bytes as Kafka writes its ids: url-safe base64 that does not begin with '-'.
    [ -s "$KAFKA_DIR/cluster.id" ] ||
      echo "k$(head -c 16 /dev/urandom | base64 | tr '+/' 'xy' | cut -c2-22)" >"$KAFKA_DIR/cluster.id"
    for id in "${chosen[@]}"; do launch "$id"; done # all first: a quorum of three needs two to elect
    for id in "${chosen[@]}"; do await "$id"; done
    addresses ;;
  stop) signal_all TERM "${chosen[@]}" ;;
  kill) [ $# = 1 ] || usage; running_pid "$1" >/dev/null; signal_all KILL "$1" ;;
  pause) [ $# = 1 ] || usage; kill -STOP "$(running_pid "$1")" ;;
  resume) [ $# = 1 ] || usage; kill -CONT "$(running_pid "$1")" ;;
  status)
    all=0
    for id in $(ids); do
      pid=$(pid_of "$id")
      if [ -n "$pid" ]; then echo "broker $id: pid $pid, port $(client_port "$id"), $(awk '/VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status") MB"
      else echo "broker $id: stopped"; all=1; fi
    done
    exit $all ;;
  bootstrap) addresses ;;
  topic)
    [ $# -gt 0 ] || usage
    name=$1 partitions=${2:-6} settings=()
    for setting in "${@:3}"; do settings+=(--config "$setting"); done
    run_tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$(addresses)" --create --if-not-exists \
      --topic "$name" --partitions "$partitions" "${settings[@]}" ;;
  tool) run_tool "$@" ;;
  destroy)
    mapfile -t chosen < <(ids)
    signal_all KILL "${chosen[@]}"
    for id in $(ids); do rm -rf "$(node "$id")"; done
    rm -f "$KAFKA_DIR/cluster.id" ;;
  *) usage ;;
esac
