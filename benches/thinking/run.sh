#!/usr/bin/env bash
# Does an answer come through whose upstream thinks for longer than what is on the way waits?
#
#   benches/thinking/run.sh
#
# OpenAI's own Python SDK asks an upstream that says nothing for 90 s, through nginx with its default
# settings, which cut a connection on which nothing comes for 60 s: once with the upstream right behind
# nginx, which has to fail, and once with sse-guard in between, which has to work. Takes as long.
#
# Needs nginx, and the client that tests/run.sh installs. From the environment: SECS=90.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
PATH=$PATH:/usr/sbin
python=$target/clients/python/bin/python
[ -x "$python" ] || { echo "no client in $target/clients: run tests/run.sh first" >&2 && exit 2; }
command -v nginx >/dev/null || { echo "nginx is not installed" >&2 && exit 2; }
cargo build --quiet --release -p sse-guard-proxy --manifest-path "$root/Cargo.toml"

run=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$run"' EXIT
cat >"$run/nginx.conf" <<CONF
daemon off;
pid $run/nginx.pid;
error_log $run/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $run/body;
    proxy_temp_path $run/proxy;
    fastcgi_temp_path $run/fastcgi;
    uwsgi_temp_path $run/uwsgi;
    scgi_temp_path $run/scgi;
    server { listen 127.0.0.1:9481; location / { proxy_pass http://127.0.0.1:9480; } }
    server { listen 127.0.0.1:9483; location / { proxy_pass http://127.0.0.1:9482; } }
}
CONF
python3 "$here/upstream.py" 9480 "${SECS:-90}" &
"$target/release/sse-guard" --listen 127.0.0.1:9482 --upstream-url http://127.0.0.1:9480 \
    --early-enabled --admin-listen off --log-level error &
nginx -e "$run/nginx.log" -c "$run/nginx.conf" &
for port in 9480 9481 9482 9483; do
    until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done
done
"$python" "$here/client.py" http://127.0.0.1:9481 http://127.0.0.1:9483
