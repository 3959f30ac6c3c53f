//! Locks of this crate.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic under the lock: what is done under those of this crate leaves nothing
/// half changed.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
