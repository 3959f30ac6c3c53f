#!/usr/bin/env bash
# Starts a target in front of an origin, and stops it.
#
#   target.sh has NAME                       whether its program is installed
#   target.sh start NAME LISTEN ORIGIN RUN   prints its process; RUN is a folder for its config and log
#   target.sh stop PID
#
# NAME is nginx, haproxy, tcp (`sseload tcp-forward`), sse-guard, LABEL=PROGRAM (another build of
# sse-guard), or origin, which has none before it. From the environment: GUARD and SSELOAD (programs), GUARD_FLAGS,
# THREADS, FILES (limit of open files), PROTOCOL of the clients (h1, tls, h2, h2-tls), UPSTREAM_FLAGS of sse-guard,
# CERTIFICATE (PEM with the key).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# Where distributions keep servers, out of users' sight.
PATH=$PATH:/usr/local/sbin:/usr/sbin
: "${PROTOCOL:=h1}" "${CERTIFICATE:=}"

program() { # NAME
    case $1 in
    nginx | haproxy) echo "$1" ;;
    tcp | origin) echo "$SSELOAD" ;;
    sse-guard) echo "$GUARD" ;;
    *=*) echo "${1#*=}" ;;
    *) echo "no such target: $1" >&2 && exit 2 ;;
    esac
}

has() { # NAME
    local program
    program=$(program "$1")
    command -v "$program" >/dev/null
}

render() { # FILE: a config with what is asked for filled in; prints where it is
    sed -e "s|@LISTEN@|$listen|g" -e "s|@ORIGIN@|$origin|g" -e "s|@RUN@|$run|g" -e "s|@FILES@|$FILES|g" \
        -e "s|@THREADS@|$THREADS|g" \
        -e "s|@HOW@|$how|g" -e "s|@MAXCONN@|$((FILES / 2 - 200))|g" "$here/$1" >"$run/$1"
    echo "$run/$1"
}

how() { # NAME: what a listener for PROTOCOL needs in the config of NAME
    case $1/$PROTOCOL in
    */h1 | haproxy/h2) ;;
    nginx/tls) echo "ssl; ssl_protocols TLSv1.3; ssl_certificate $CERTIFICATE; ssl_certificate_key $CERTIFICATE" ;;
    nginx/h2) echo "http2" ;;
    nginx/h2-tls) echo "ssl http2; ssl_protocols TLSv1.3; ssl_certificate $CERTIFICATE; ssl_certificate_key $CERTIFICATE" ;;
    haproxy/tls) echo "ssl crt $CERTIFICATE alpn http/1.1" ;;
    haproxy/h2-tls) echo "ssl crt $CERTIFICATE alpn h2,http/1.1" ;;
    nginx/* | haproxy/* | tcp/*) echo "$1 has no $PROTOCOL here" >&2 && exit 2 ;;
    */h2) echo "http2 = true" ;;
    */tls | */h2-tls) printf 'tls.certificate = "%s"\\ntls.key = "%s"\n' "$CERTIFICATE" "$CERTIFICATE" ;;
    *) echo "no such protocol: $PROTOCOL" >&2 && exit 2 ;;
    esac
}

start() { # NAME LISTEN ORIGIN RUN
    name=$1 listen=$2 origin=$3 run=$4
    mkdir -p "$run"
    ulimit -n "$FILES"
    local pid program flags upstream how=
    program=$(program "$name")
    [ "$name" = origin ] || how=$(how "$name")
    case $name in
    nginx) set -- -c "$(render nginx.conf)" ;;
    haproxy) set -- -db -f "$(render haproxy.cfg)" ;;
    tcp) set -- tcp-forward --listen "$listen" --to "$origin" --threads "$THREADS" ;;
    origin) set -- origin --listen "$listen" ;;
    *)
        read -ra flags <<<"$GUARD_FLAGS"
        read -ra upstream <<<"${UPSTREAM_FLAGS:-}"
        if [ -z "$how" ]; then
            set -- --listen "$listen" --upstream-url "http://$origin" "${flags[@]}" "${upstream[@]}"
        else
            set -- --config "$(render sse-guard.toml)" "${flags[@]}" "${upstream[@]}"
        fi
        # What the user's own proxy is told does not hold for this one.
        unset "${!SSE_GUARD_@}"
        ;;
    esac
    # A session of its own, by which `stop` finds all of it.
    setsid "$program" "$@" >"$run/log" 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 100); do
        if ! kill -0 "$pid" 2>/dev/null; then
            echo "$name did not start:" >&2
            tail -5 "$run/log" >&2
            exit 1
        fi
        if (: <>"/dev/tcp/${listen%:*}/${listen##*:}") 2>/dev/null; then
            echo "$pid"
            return
        fi
        sleep 0.1
    done
    echo "$name does not listen on $listen:" >&2
    tail -5 "$run/log" >&2
    stop "$pid"
    exit 1
}

stop() { # PID
    pkill -TERM -s "$1" || true
    for _ in $(seq 20); do
        pgrep -s "$1" >/dev/null || return 0
        sleep 0.1
    done
    pkill -KILL -s "$1" || true
}

case ${1:-} in
has | start | stop) "$@" ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
