#!/usr/bin/env bash
# Replaces the certificate of a listener under load, 1,000 times or as often as the argument says: clients connect over TLS
# and HTTP/2 all the time, streams stay open, and open files and memory must not grow with the count. Prints both after
# each 100 reloads. The test runs with fewer reloads among the others.
set -euo pipefail
cd "$(dirname "$0")/../../.."
SSE_GUARD_TEST_RELOADS="${1:-1000}" cargo test --workspace --all-features --test it certificates_replaced -- --nocapture
