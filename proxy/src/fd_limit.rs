//! The limit of open files: a stream takes two, its client's socket and its upstream's.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Files that are reserved for the admin address, if the limit allows it, so that health and metrics are
/// served when clients have taken all others.
const RESERVED: u64 = 16;
/// But no more than this part of all.
const RESERVED_PART: u64 = 8;

/// No file for a client or an upstream has this number or a greater one: the kernel gives out the lowest
/// that is free, so that a greater one means that all lower ones are taken.
static FIRST_RESERVED: AtomicU64 = AtomicU64::new(u64::MAX);

/// From now on some files are kept for the admin address.
pub(super) fn keep_some() {
    if let Ok(limit) = rlimit::Resource::NOFILE.get_soft() {
        FIRST_RESERVED.store(limit - RESERVED.min(limit / RESERVED_PART), Relaxed);
    }
}

/// How many of these files are kept.
pub(super) fn kept(files: u64) -> u64 {
    // As many as there are below the first that is kept.
    files.saturating_sub(FIRST_RESERVED.load(Relaxed))
}

/// How many connections the admin address may hold: a part of the files.
pub(super) fn for_admin(most: usize) -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    let part = usize::try_from(limit / RESERVED_PART).unwrap_or(usize::MAX);
    most.min(part.max(1))
}

/// Whether there is a file for another connection, beside those that are kept.
pub(super) fn has_room() -> bool {
    let first_kept = FIRST_RESERVED.load(Relaxed);
    if first_kept == u64::MAX {
        return true;
    }
    let next = File::open("/dev/null").map(|file| file.as_raw_fd());
    next.is_ok_and(|next| u64::try_from(next).is_ok_and(|next| next < first_kept))
}

/// How many files this process may open.
pub(super) fn soft_limit() -> Option<u64> {
    rlimit::Resource::NOFILE.get_soft().ok()
}

/// Raises the limit as far as this process may. Returns the limit.
pub(super) fn raise() -> io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_leaves_a_part_for_the_admin_address() {
        assert_eq!(for_admin(1), 1);
        let part = soft_limit().unwrap() / RESERVED_PART;
        assert!(for_admin(usize::MAX) as u64 <= part.max(1));
        assert!(raise().unwrap() >= soft_limit().unwrap());
    }
}
