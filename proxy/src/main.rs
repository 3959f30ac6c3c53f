//! The `sse-guard` binary. See `sse-guard --help`.

use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Keeps apart what lives with a stream and what lives with a request's parsing, so that a burst of
/// connects leaves no holes behind. glibc's keeps four times as much for a quiet stream then.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    give_back_at_once();
    sse_guard_proxy::release_memory_with(collect);
    sse_guard_proxy::main()
}

/// By default free pages go back to the system some time after, if something is allocated by then:
/// a proxy of quiet streams would keep those of its last burst.
#[expect(unsafe_code, reason = "the allocator has no other interface for it")]
fn give_back_at_once() {
    /// `mi_option_purge_delay` of mimalloc 2, in milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: takes two numbers and no pointer, checks the first for its range, and stores the
    // second in a table that no other thread reads at the same time: there is none yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) }
}

#[expect(unsafe_code, reason = "the allocator has no other interface for it")]
fn collect() {
    // SAFETY: takes a flag and no pointer, and works on the heap of the calling thread alone.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
