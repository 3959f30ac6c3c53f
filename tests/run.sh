#!/usr/bin/env bash
# Everything that has to hold, in one command: formatting, lints and docs on all feature sets, unit
# tests, tests over real sockets, doc tests, examples, benches (built, and run once).
# Needs a Rust toolchain with cargo; installs what else it takes. What takes more of the machine than
# it has, such as IPv6, networks of its own (iproute2, util-linux) or a browser (chromium,
# chromium-driver), is skipped, and told at the end.
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

# For hosts that die without a word, and for the dashboard in a browser. Without them those tests say
# that they were skipped.
missing=()
command -v ip >/dev/null || missing+=(iproute2)
command -v chromedriver >/dev/null || missing+=(chromium chromium-driver)
if [ "${#missing[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq >/dev/null || true
    for package in "${missing[@]}"; do
        step "installing $package"
        apt-get install -qq --no-install-recommends "$package" >/dev/null ||
            echo "it can not be installed here: going on without it"
    done
fi

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
