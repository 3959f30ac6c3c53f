#!/usr/bin/env bash
# Everything that has to hold, in one command: formatting, lints and docs of both packages and on all
# feature sets, unit tests, tests over real sockets, doc tests, examples, benches (built, and run once).
# Needs a Rust toolchain with cargo; installs what else it takes. What takes more of the machine than
# it has, such as IPv6, networks of its own (iproute2, util-linux), a browser (chromium,
# chromium-driver) or what the official clients run on (python3, nodejs), is skipped, and told at the
# end.
set -euo pipefail
cd "$(dirname "$0")/.."

. tests/install.sh

# Panics name their line without debug information, which takes time to generate and to link.
export CARGO_PROFILE_DEV_DEBUG="${CARGO_PROFILE_DEV_DEBUG:-0}"

# With rustup the components may be missing; without it, the toolchain has them or not.
for component in rustfmt clippy; do
    if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
        step "installing $component"
        rustup component add "$component"
    fi
done

# For dead hosts, the dashboard in a browser, and the official clients. Tests whose tools are missing say
# that they were skipped.
install_packages "ip:iproute2" "chromedriver:chromium chromium-driver" "npm:nodejs npm"
python3 -c "import ensurepip" 2>/dev/null || install_packages "no-such-command:python3 python3-venv"

# The official clients, of the versions that proxy/tests/clients pins, below cargo's directory.
clients="${CARGO_TARGET_DIR:-target}/clients"
python_clients() {
    python3 -m venv "$1" &&
        "$1/bin/pip" install -q --disable-pip-version-check --only-binary :all: \
            -r proxy/tests/clients/requirements.txt
}
node_clients() {
    cp proxy/tests/clients/package.json proxy/tests/clients/package-lock.json "$1" &&
        npm ci --prefix "$1" --silent --no-audit --no-fund --ignore-scripts --engine-strict
}
# The parser of proxy/tests/it/deploy/monitoring.rs does not evaluate expressions.
unpack_package promtool prometheus target/tools/prometheus
# Beside the lints, which do not need the network.
installed="$(mktemp)"
{
    install_once "$clients/python" proxy/tests/clients/requirements.txt python_clients
    install_once "$clients/node" proxy/tests/clients/package-lock.json node_clients
    tests/stacks/run.sh --install
} >"$installed" 2>&1 &
installer=$!

# What cannot be tested on this machine is written here, too.
log="$(mktemp)"
trap 'rm -f "$log" "$installed"; [ -z "$installer" ] || kill "$installer" 2>/dev/null || true' EXIT
skip() { echo "skipped: $*" | tee -a "$log"; }

step "format"
cargo fmt --all --check

# The feature sets of the library: none and each alone; all of them with the proxy. What a plain `cargo test` builds is
# checked, and runs with all features below: to build it twice takes four minutes.
step "lints of the library, features: none"
cargo clippy -p sse-guard --all-targets -- -D warnings
for features in axum serve http2 tls; do
    step "lints of the library, features: $features"
    cargo clippy -p sse-guard --lib --features "$features" -- -D warnings
done
step "lints of both packages, all features"
cargo clippy --workspace --all-targets --all-features -- -D warnings

# For users of the packages; the tests need a newer one.
oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if cargo "+$oldest" --version >/dev/null 2>&1 ||
    rustup toolchain install --profile minimal --no-self-update "$oldest" >/dev/null 2>&1; then
    step "build with Rust $oldest, the oldest that is supported"
    # Its lints are not those that the code is written for.
    RUSTFLAGS="-A warnings" cargo "+$oldest" check --quiet --target-dir "${CARGO_TARGET_DIR:-target}/oldest" \
        --workspace --all-features
else
    skip "the build with Rust $oldest: rustup cannot install it"
fi

if cargo deny --version >/dev/null 2>&1; then
    step "licences, advisories and sources of the dependencies"
    cargo deny --workspace check --hide-inclusion-graph licenses bans sources
    if cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --workspace check --hide-inclusion-graph advisories
    else
        skip "advisories of the dependencies: their database cannot be fetched"
    fi
else
    skip "licences and advisories of the dependencies: cargo-deny is not installed"
fi

if command -v promtool >/dev/null; then
    step "alert rules"
    promtool check rules deploy/prometheus/alerts.yml
    promtool test rules deploy/prometheus/alerts_test.yml
else
    step "alert rules are not tested: promtool is missing"
fi

step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

# Without what could not be installed its tests are skipped.
wait "$installer" || true
installer=
cat "$installed"

step "tests, all features: unit, wire, examples and benches build"
# Most of the time the tests over real sockets wait.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$((2 * $(nproc)))}"
cargo test --workspace --all-features --all-targets 2>&1 | tee -a "$log"

step "doc tests"
cargo test --workspace --doc --all-features

step "servers and clients as people have them"
SSE_GUARD="${CARGO_TARGET_DIR:-target}/debug/sse-guard" tests/stacks/run.sh 2>&1 | tee -a "$log"

# What this machine cannot do must not pass for tested.
if grep -q "skipped: " "$log"; then
    step "all is well, but for what was"
    grep -o "skipped: .*" "$log"
    exit
fi
step "all is well"
