//! Wakers of the tasks that poll the body of one stream.

use super::flags::FLAG_BITS;
use crate::lock::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::Waker;

/// The first guards of a stack have a slot each; all further ones share the last slot.
const MAX_WAKER_SLOTS: u8 = 1 << (u8::BITS - FLAG_BITS);

/// With a channel between two guards each is polled by a task of its own, and all of them must be woken to end the
/// stream or to send an event. Each has a slot with its latest waker.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Slots>);

/// Most streams have one.
#[derive(Debug)]
enum Slots {
    One(Waker),
    Many(Box<Many>),
}

type Many = [Waker; MAX_WAKER_SLOTS as usize];

impl Default for Slots {
    fn default() -> Self {
        Self::One(Waker::noop().clone())
    }
}

/// The slot of one guard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WakerSlot(u8);

impl WakerSlot {
    /// Takes the next slot; their number is counted in the bits above the flags.
    pub(super) fn next(flags: &AtomicU8) -> Self {
        let one_more = |flags: u8| {
            let is_last = flags >> FLAG_BITS == MAX_WAKER_SLOTS - 1;
            (!is_last).then(|| flags + (1 << FLAG_BITS))
        };
        let (Ok(flags) | Err(flags)) = flags.fetch_update(Relaxed, Relaxed, one_more);
        Self(flags >> FLAG_BITS)
    }
}

impl Wakers {
    pub(super) fn register(&self, WakerSlot(slot): WakerSlot, waker: &Waker) {
        let slots = &mut *lock(&self.0);
        if let (Slots::One(first), 1..) = (&*slots, slot) {
            let mut many: Many = std::array::from_fn(|_| Waker::noop().clone());
            many[0] = first.clone();
            *slots = Slots::Many(Box::new(many));
        }
        match slots {
            Slots::One(first) => first.clone_from(waker),
            Slots::Many(many) => many[usize::from(slot)].clone_from(waker),
        }
    }

    /// Wakes all tasks once; each registers again when it is polled. A change made before this call is visible to
    /// every later registration, as both take the lock.
    pub(super) fn wake(&self) {
        let mut slots = lock(&self.0);
        let take = |waker: &mut Waker| std::mem::replace(waker, Waker::noop().clone());
        // Without the lock, as a waker may drop or poll its task at once.
        match &mut *slots {
            Slots::One(first) => {
                let first = take(first);
                drop(slots);
                first.wake();
            }
            Slots::Many(many) => {
                let many = many.each_mut().map(take);
                drop(slots);
                many.into_iter().for_each(Waker::wake);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn wake_wakes_each_slot_once_with_its_latest_waker() {
        let (wakers, taken) = (Wakers::default(), AtomicU8::new(0b10101));
        let slots: Vec<_> = (0..MAX_WAKER_SLOTS)
            .map(|_| WakerSlot::next(&taken))
            .collect();
        let counts: Vec<_> = (0..MAX_WAKER_SLOTS)
            .map(|_| Arc::new(Count::default()))
            .collect();
        let stale = Arc::new(Count::default());
        for (slot, count) in slots.iter().zip(&counts) {
            wakers.register(*slot, &Waker::from(stale.clone()));
            wakers.register(*slot, &Waker::from(count.clone()));
        }
        for _ in 0..2 {
            wakers.wake();
            assert!(counts.iter().all(|count| count.0.load(Relaxed) == 1));
        }
        assert_eq!(stale.0.load(Relaxed), 0);
        // More guards than slots.
        assert_eq!(WakerSlot::next(&taken).0, MAX_WAKER_SLOTS - 1);
        assert_eq!(WakerSlot::next(&taken).0, MAX_WAKER_SLOTS - 1);
        assert_eq!(taken.load(Relaxed) & 0b11111, 0b10101);
    }
}
