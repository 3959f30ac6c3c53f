//! The `sse-guard` binary. See `sse-guard --help`, and the module `proxy` of the crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    sse_guard::proxy::main()
}
