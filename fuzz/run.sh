#!/usr/bin/env bash
# Fuzzes each target, one after another:
#
#     fuzz/run.sh [SECONDS_PER_TARGET] [TARGET...]
#
# 600 seconds and all targets unless told otherwise. Starts from seeds/TARGET and what earlier runs
# left in corpus/TARGET. What a target trips over is kept in artifacts/TARGET; the exit status is 1
# if there was any, 2 if a target could not be run.
# Needs rustup; installs a nightly toolchain (FUZZ_TOOLCHAIN names another) and cargo-fuzz if missing.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-600}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "$0: \"$seconds\" is no number of seconds" >&2; exit 2; }
shift $(($# > 0))
toolchain=${FUZZ_TOOLCHAIN:-nightly}

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

if ! cargo "+$toolchain" --version >/dev/null 2>&1; then
    step "installing $toolchain"
    rustup toolchain install --profile minimal "$toolchain"
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    step "installing cargo-fuzz"
    cargo install cargo-fuzz
fi

# The crate has no unsafe code, so what a sanitizer finds is not looked for: without one it is faster.
sanitizer=${FUZZ_SANITIZER:-none}
targets=("$@")
[[ $# -gt 0 ]] || mapfile -t targets < <(cargo "+$toolchain" fuzz list)

failed=() found=()
for target in "${targets[@]}"; do
    step "$target, $seconds seconds"
    mkdir -p "corpus/$target" "artifacts/$target"
    folders=("corpus/$target")
    [[ ! -d seeds/$target ]] || folders+=("seeds/$target")
    options=("-max_total_time=$seconds" -max_len=4096 -timeout=10 -print_final_stats=1)
    [[ ! -f dictionaries/$target.dict ]] || options+=("-dict=dictionaries/$target.dict")
    started=$(mktemp)
    cargo "+$toolchain" fuzz run --sanitizer "$sanitizer" "$target" "${folders[@]}" -- "${options[@]}" ||
        failed+=("$target")
    mapfile -t new < <(find "artifacts/$target" -type f -newer "$started")
    found+=("${new[@]}")
    rm "$started"
done

step "targets: ${#targets[@]}, findings: ${#found[@]}"
for finding in "${found[@]}"; do
    target=$(basename "$(dirname "$finding")")
    echo "fuzz/$finding"
    echo "    again: cargo +$toolchain fuzz run --sanitizer $sanitizer $target fuzz/$finding"
    echo "    smaller: cargo +$toolchain fuzz tmin --sanitizer $sanitizer $target fuzz/$finding"
done
[[ ${#found[@]} -eq 0 ]] || exit 1
[[ ${#failed[@]} -eq 0 ]] || { echo "could not be run: ${failed[*]}" >&2; exit 2; }
