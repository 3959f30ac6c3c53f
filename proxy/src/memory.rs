//! Memory that the allocator keeps for a thread.

use std::sync::OnceLock;

static COLLECT: OnceLock<fn()> = OnceLock::new();

/// Sets the function that returns freed memory to the system. It is called once a second on the
/// accepting thread, and on each worker after connections have closed.
///
/// An allocator with a heap for each thread keeps what is freed there until the thread allocates again, which after
/// a burst of connections it does not. `collect` returns that to the system.
pub fn release_memory_with(collect: fn()) {
    let _ = COLLECT.set(collect);
}

pub(crate) fn collect() {
    if let Some(collect) = COLLECT.get() {
        collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    static CALLS: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn first_function_is_the_one_that_is_called() {
        release_memory_with(|| _ = CALLS.fetch_add(1, Relaxed));
        release_memory_with(|| panic!("a second one"));
        let before = CALLS.load(Relaxed);
        collect();
        assert!(CALLS.load(Relaxed) > before);
    }
}
