#!/usr/bin/env bash
# Everything that has to hold, in one command: formatting, lints and docs on all feature sets, unit
# tests, tests over real sockets, doc tests, examples, benches (built, and run once).
# Needs a Rust toolchain with cargo; installs what else it takes. What takes more of the machine than
# it has, such as IPv6, networks of its own (iproute2, util-linux), a browser (chromium,
# chromium-driver) or what the official clients run on (python3, nodejs), is skipped, and told at the
# end.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# With rustup the components may be missing; without it, the toolchain has them or not.
for component in rustfmt clippy; do
    if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
        step "installing $component"
        rustup component add "$component"
    fi
done

# For hosts that die without a word, for the dashboard in a browser, and for the official clients.
# Without them those tests say that they were skipped.
missing=()
command -v ip >/dev/null || missing+=(iproute2)
command -v chromedriver >/dev/null || missing+=(chromium chromium-driver)
python3 -c "import ensurepip" 2>/dev/null || missing+=(python3 python3-venv)
command -v npm >/dev/null || missing+=(nodejs npm)
if [ "${#missing[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq >/dev/null || true
    for package in "${missing[@]}"; do
        step "installing $package"
        apt-get install -qq --no-install-recommends "$package" >/dev/null ||
            echo "it can not be installed here: going on without it"
    done
fi

# The official clients, of the versions that tests/clients pins, in cargo's directory; as they are if
# they are there.
clients="${CARGO_TARGET_DIR:-target}/clients"

# Of the folder named $1, which what is left of the arguments fills; $2 is the list of versions.
install_clients() {
    local folder="$clients/$1" versions="tests/clients/$2"
    shift 2
    cmp -s "$versions" "$folder/installed" && return
    step "installing the official clients: $folder"
    rm -rf "$folder"
    mkdir -p "$folder"
    if "$@" "$folder"; then
        cp "$versions" "$folder/installed"
    else
        rm -rf "$folder"
        echo "they can not be installed here: going on without them"
    fi
}
python_clients() {
    python3 -m venv "$1" &&
        "$1/bin/pip" install -q --disable-pip-version-check --only-binary :all: \
            -r tests/clients/requirements.txt
}
node_clients() {
    cp tests/clients/package.json tests/clients/package-lock.json "$1" &&
        npm ci --prefix "$1" --silent --no-audit --no-fund --ignore-scripts --engine-strict
}
install_clients python requirements.txt python_clients
install_clients node package-lock.json node_clients

step "format"
cargo fmt --check

# The feature sets: none, each alone, all.
for features in "" axum serve proxy axum,serve axum,proxy; do
    step "lints, features: ${features:-none}"
    cargo clippy --all-targets --features "$features" -- -D warnings
done

# What the parser of tests/deploy.rs can not judge is whether the expressions are any.
if command -v promtool >/dev/null; then
    step "alert rules"
    promtool check rules deploy/prometheus/alerts.yml
fi

step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

step "tests, layers alone"
cargo test --lib --bins

step "tests, all features: unit, wire, examples and benches build"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
cargo test --all-features --all-targets 2>&1 | tee "$log"

step "doc tests"
cargo test --doc --all-features

# Nobody is to take for tested what this machine can not do.
if grep -q "skipped: " "$log"; then
    step "all is well, but for what was"
    grep -o "skipped: .*" "$log"
    exit
fi
step "all is well"
