#!/usr/bin/env bash
# Runs sse-guard between servers and clients as people have them: FastAPI with sse-starlette, Express,
# the MCP SDKs (both transports), the OpenAI and Anthropic SDKs, Node's EventSource, Chromium on
# another origin, and Caddy in front; and curl, openssl, h2load and a WebSocket client over TLS and HTTP/2.
#
#     tests/stacks/run.sh              # all cases
#     tests/stacks/run.sh drain mcp    # the cases whose names contain one of these words
#     tests/stacks/run.sh --install    # only installs what is missing
#     SSE_GUARD=/path/to/sse-guard tests/stacks/run.sh   # with this binary
#
# Installs what is missing: Python and Node packages below cargo's target directory, and, as root on
# Debian, caddy, chromium, curl, nghttp2-client, nodejs, openssl and python3. A case whose parts cannot be installed is skipped, with the
# reason. All traffic stays on 127.0.0.1. The exit code is 0 if no case failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
here="tests/stacks"
target="${CARGO_TARGET_DIR:-target}"
. tests/install.sh

install_packages "caddy:caddy" "chromedriver:chromium chromium-driver" "npm:nodejs npm" "curl:curl" \
    "openssl:openssl" "h2load:nghttp2-client"
python3 -c "import ensurepip" 2>/dev/null || install_packages "no-such-command:python3 python3-venv"

python_packages() {
    python3 -m venv "$1" &&
        "$1/bin/pip" install -q --disable-pip-version-check --only-binary :all: \
            -r "$here/requirements.txt"
}
node_packages() {
    cp "$here/package.json" "$here/package-lock.json" "$1" &&
        npm ci --prefix "$1" --silent --no-audit --no-fund --ignore-scripts
}
install_once "$target/stacks/python" "$here/requirements.txt" python_packages
install_once "$target/stacks/node" "$here/package-lock.json" node_packages
[ "${1:-}" != --install ] || exit 0

if [ ! -x "$target/stacks/python/bin/python" ]; then
    echo "skipped: tests/stacks: its Python packages are not installed"
    exit
fi
if [ -z "${SSE_GUARD:-}" ]; then
    cargo build -q -p sse-guard-proxy
    SSE_GUARD="$target/debug/sse-guard"
fi
export SSE_GUARD="$(realpath "$SSE_GUARD")" NODE_PACKAGES="$(realpath -m "$target/stacks/node")"
exec "$target/stacks/python/bin/python" "$here/main.py" "$@"
