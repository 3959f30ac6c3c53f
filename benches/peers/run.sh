#!/usr/bin/env bash
# Measures sse-guard side by side with nginx, HAProxy and a TCP forwarder. README.md explains.
#
#   benches/peers/run.sh [WORKLOAD...]     idle waiting latency throughput hold slow churn tls h2 h2-tls h2-upstream;
#                                          all of them by default
#
# From the environment, with defaults:
#   QUICK=1          all is shorter and smaller, and what only sse-guard promises is measured on it alone:
#                    some two minutes, for a look, not for numbers
#   ROUNDS=6         turns of latency and throughput; the rest is done once. Every second turn measures the
#                    targets in reverse order, as the first one is at a disadvantage
#   SECS=10          seconds to measure latency
#   EVENTS=200000    events on each stream of throughput
#   TARGETS="sse-guard nginx haproxy tcp"   also LABEL=PROGRAM: another build of sse-guard
#   GUARD_FLAGS="--threads $THREADS --limit-per-ip off --limit-rate off --limit-total off --log-level warn"
#   THREADS=2        of each target
#   OUT=target/peers results: a file of JSON lines for each workload, and table.txt
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

# What a promise names is not for the environment to change, but for a quick look.
if [ -n "${QUICK:-}" ]; then
    : "${ROUNDS:=1}" "${SECS:=2}" "${EVENTS:=40000}"
    streams=2000 hold=2 rest=1 held_streams=5000 held=16 stalled=37 churn=4
    tls_streams=500 shared=20 handshakes=500
else
    : "${ROUNDS:=6}" "${SECS:=10}" "${EVENTS:=200000}"
    streams=5000 hold=10 rest=5 held_streams=9500 held=60 stalled=40 churn=60
    tls_streams=3000 shared=100 handshakes=4000
fi
export THREADS=${THREADS:-2}
export GUARD_FLAGS=${GUARD_FLAGS:---threads $THREADS --limit-per-ip off --limit-rate off --limit-total off --log-level warn}
read -ra targets <<<"${TARGETS:-sse-guard nginx haproxy tcp}"
workloads=("$@")
[ $# -gt 0 ] || workloads=(idle waiting latency throughput hold slow churn tls h2 h2-tls h2-upstream)
for workload in "${workloads[@]}"; do
    case $workload in
    idle | waiting | latency | throughput | hold | slow | churn | tls | h2 | h2-tls | h2-upstream) ;;
    *) sed -n '2,16s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
done

say() { echo "$(date +%T) $*" >&2; }

say "building"
mkdir -p "${CARGO_TARGET_DIR:-$root/target}"
build=$(cd "${CARGO_TARGET_DIR:-$root/target}" && pwd)
cargo build --quiet --release --locked --target-dir "$build" --manifest-path "$here/sseload/Cargo.toml"
cargo build --quiet --release -p sse-guard-proxy --target-dir "$build" --manifest-path "$root/Cargo.toml"
export SSELOAD=$build/release/sseload GUARD=$build/release/sse-guard
out=${OUT:-$build/peers}
mkdir -p "$out"

for i in "${!targets[@]}"; do
    "$here/target.sh" has "${targets[i]}" && continue
    say "${targets[i]} is not installed: going on without it"
    unset "targets[i]"
done
# Other builds of sse-guard, too.
guards=()
for name in "${targets[@]}"; do
    case $name in sse-guard | *=*) guards+=("$name") ;; esac
done
# For what is promised without regard to peers.
all=("${targets[@]}")
[ -z "${QUICK:-}" ] || all=("${guards[@]}")

# The promise is for a limit of 20,000. Origin and clients raise theirs to the hard limit.
ulimit -n "$(ulimit -Hn)"
FILES=$(ulimit -n)
[ "$FILES" != unlimited ] && [ "$FILES" -le 20000 ] || FILES=20000
export FILES

scratch=$(mktemp -d)
export PROTOCOL=h1 UPSTREAM_FLAGS=
# Of the kind that most servers have today.
export CERTIFICATE=$scratch/certificate.pem
case " ${workloads[*]} " in *tls*)
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout "$scratch/key.pem" -out "$CERTIFICATE" 2>"$scratch/openssl" ||
        { cat "$scratch/openssl" >&2 && exit 1; }
    cat "$scratch/key.pem" >>"$CERTIFICATE"
    ;;
esac
running=() # targets
load=      # the load generator
origin_pid=
# shellcheck disable=SC2317 # called by the trap
cleanup() {
    trap - EXIT INT TERM
    [ -z "$load" ] || kill "$load" 2>/dev/null || true
    stop_all
    [ -z "$origin_pid" ] || "$here/target.sh" stop "$origin_pid"
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Below the range that the kernel takes ports of outgoing connections from.
port=$((20000 + RANDOM % 10000))
free_port() { # sets `port`
    port=$((port + 1))
    while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
}
free_port
origin=127.0.0.1:$port
origin_pid=$("$here/target.sh" start origin "$origin" none "$scratch/origin")

start_all() { # NAME...: each anew; sets `list` for --targets
    list=
    local name pid
    for name in "$@"; do
        free_port
        if pid=$("$here/target.sh" start "$name" "127.0.0.1:$port" "$origin" "$scratch/${name%%=*}"); then
            running+=("$pid")
            list+=${list:+,}${name%%=*}=127.0.0.1:$port@$pid
        fi
    done
}

stop_all() {
    local pid
    for pid in "${running[@]}"; do "$here/target.sh" stop "$pid"; done
    running=()
}

measure() { # LABEL STREAMS -- NAME... -- WORKLOAD ARGS...: one turn of all these targets, started fresh
    local label=$1 names=()
    if [ $((2 * $2 + 100)) -gt "$FILES" ]; then
        say "$label: needs $((2 * $2 + 100)) open files, and the limit is $FILES (ulimit -Hn): left out"
        return
    fi
    shift 3
    while [ "$1" != -- ]; do
        names+=("$1")
        shift
    done
    shift
    [ ${#names[@]} -gt 0 ] || return 0
    say "$label"
    start_all "${names[@]}"
    # In the background, so that a signal does not have to wait for it.
    "$SSELOAD" "$@" --protocol "$PROTOCOL" --origin "$origin" --targets "$list" >>"$out/$label.jsonl" &
    load=$!
    wait "$load" || say "$label: not all went well"
    load=
    stop_all
}

# A forwarder of bytes has no TLS and no HTTP/2.
servers=()
for name in "${targets[@]}"; do [ "$name" = tcp ] || servers+=("$name"); done

events() { # STREAMS-PER-CONNECTION: latency and throughput of the servers by PROTOCOL
    begin "$PROTOCOL-latency"
    begin "$PROTOCOL-throughput"
    for turn in $(seq "$ROUNDS"); do
        ordered "$turn"
        measure "$PROTOCOL-latency" 1000 -- "${turn_servers[@]}" -- \
            latency --conns 1000 --per-connection "$1" --rate 10 --secs "$SECS"
        measure "$PROTOCOL-throughput" 16 -- "${turn_servers[@]}" -- \
            throughput --conns 16 --per-connection "$1" --events "$EVENTS"
    done
}

reversed=()
for name in "${targets[@]}"; do reversed=("$name" "${reversed[@]}"); done
ordered() { # TURN: sets `turn_targets` and `turn_servers`
    turn_targets=("${targets[@]}")
    [ $(($1 % 2)) -eq 1 ] || turn_targets=("${reversed[@]}")
    turn_servers=()
    local name
    for name in "${turn_targets[@]}"; do [ "$name" = tcp ] || turn_servers+=("$name"); done
}

files=()
begin() { # LABEL: its results are from this run alone
    : >"$out/$1.jsonl"
    files+=("$out/$1.jsonl")
}

for workload in "${workloads[@]}"; do
    case $workload in
    idle)
        begin idle
        measure idle "$streams" -- "${targets[@]}" -- idle --conns "$streams" --hold "$hold" --rest "$rest" --opening 64
        begin burst
        measure burst "$streams" -- "${all[@]}" -- \
            idle --conns "$streams" --hold "$hold" --rest "$rest" --opening "$streams"
        ;;
    waiting)
        for what in head next first; do
            begin "waiting-$what"
            # Less than HAProxy's timeout for a request.
            measure "waiting-$what" 1000 -- "${targets[@]}" -- waiting --for "$what" --conns 1000 --hold 5
        done
        ;;
    latency)
        begin latency
        for turn in $(seq "$ROUNDS"); do
            ordered "$turn"
            measure latency 1000 -- "${turn_targets[@]}" -- latency --conns 1000 --rate 10 --secs "$SECS"
        done
        ;;
    throughput)
        begin throughput
        begin throughput-8k
        for turn in $(seq "$ROUNDS"); do
            ordered "$turn"
            measure throughput 16 -- "${turn_targets[@]}" -- throughput --conns 16 --events "$EVENTS"
            measure throughput-8k 16 -- "${turn_targets[@]}" -- throughput --conns 16 --events "$EVENTS" --chunk 8192
        done
        ;;
    hold)
        begin hold
        measure hold "$held_streams" -- "${guards[@]}" -- idle --conns "$held_streams" --hold "$held" --opening 64
        ;;
    slow)
        begin slow
        measure slow 1000 -- "${all[@]}" -- slow --conns 1000 --secs "$stalled"
        ;;
    churn)
        begin churn
        measure churn 2000 -- "${all[@]}" -- churn --rate 500 --secs "$churn"
        ;;
    tls)
        PROTOCOL=tls
        begin tls-idle
        measure tls-idle "$tls_streams" -- "${servers[@]}" -- \
            idle --conns "$tls_streams" --hold "$hold" --rest "$rest" --opening 64
        for what in full resumed; do
            begin "tls-handshake-$what"
            resume=
            [ "$what" = full ] || resume=--resume
            for turn in $(seq "$ROUNDS"); do
                ordered "$turn"
                # shellcheck disable=SC2086
                measure "tls-handshake-$what" 8 -- "${turn_servers[@]}" -- handshake --conns "$handshakes" $resume
            done
        done
        events 1
        PROTOCOL=h1
        ;;
    h2 | h2-tls)
        PROTOCOL=$workload
        begin "$workload-shared"
        measure "$workload-shared" $((shared * 50)) -- "${servers[@]}" -- idle \
            --conns $((shared * 50)) --per-connection 50 --hold "$hold" --rest "$rest" --opening 64
        begin "$workload-apart"
        measure "$workload-apart" "$tls_streams" -- "${servers[@]}" -- \
            idle --conns "$tls_streams" --hold "$hold" --rest "$rest" --opening 64
        events 4
        PROTOCOL=h1
        ;;
    h2-upstream)
        begin h2-upstream
        UPSTREAM_FLAGS="--upstream-http2 on --upstream-http2-max-streams 100000"
        measure h2-upstream "$streams" -- "${guards[@]}" -- \
            idle --conns "$streams" --hold "$hold" --rest "$rest" --opening 64
        UPSTREAM_FLAGS=
        ;;
    esac
done

{
    echo "sse-guard $(git -C "$root" describe --always --dirty 2>/dev/null || echo '?')" \
        "on $(uname -sr), $(nproc) cores${QUICK:+; QUICK: a look only, not what the promises say}"
    echo "flags: $GUARD_FLAGS; $THREADS threads each, $FILES open files"
    "$here/table.py" "${files[@]}"
} | tee "$out/table.txt"
