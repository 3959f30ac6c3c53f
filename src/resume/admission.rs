//! How fast an upstream is asked again by all streams that have lost it together.

use crate::jitter::LONGEST;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// Failures in a row, of any streams, from which one at a time finds out whether the upstream is back.
const ENOUGH: u32 = 5;
/// Between two of those.
const PROBE_GAP: Duration = Duration::from_secs(1);

/// Lets the streams of an upstream ask it again one after the other, so that they do not overrun it when
/// it is back: so many in a second, so many at once, and while all of them fail one each second.
///
/// A clone is another handle to the same queue. First come, first served.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    gap: Duration,
    /// When the next one may ask. Who waits for it stands in the queue.
    queue: Mutex<Instant>,
    asking: Semaphore,
    failures: AtomicU32,
}

impl Default for Admission {
    /// 100 in a second, 32 at once.
    fn default() -> Self {
        Self::new(Duration::from_millis(10), 32)
    }
}

impl Admission {
    /// One after each `gap`, and so many that wait for an answer at once, at least one.
    pub fn new(gap: Duration, at_once: usize) -> Self {
        Self(Arc::new(Shared {
            gap: gap.min(LONGEST),
            queue: Mutex::new(Instant::now()),
            asking: Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)),
            failures: AtomicU32::new(0),
        }))
    }

    /// Whether the upstream is taken for dead.
    pub fn is_broken(&self) -> bool {
        self.0.failures.load(Relaxed) >= ENOUGH
    }

    /// Waits for its turn. Who gives up waiting leaves the queue, and no gap in it.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let mut next = self.0.queue.lock().await;
        sleep_until(*next).await;
        // It is not closed as long as there is a handle to it.
        let permit = self.0.asking.acquire().await.ok();
        let is_probe = self.is_broken();
        *next = Instant::now()
            + match is_probe {
                true => PROBE_GAP,
                false => self.0.gap,
            };
        Turn {
            admission: self,
            queue: is_probe.then_some(next),
            _permit: permit,
        }
    }
}

/// The right to ask.
pub(super) struct Turn<'a> {
    admission: &'a Admission,
    /// Held while nobody else is to ask.
    queue: Option<MutexGuard<'a, Instant>>,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Turn<'_> {
    /// It takes so long that others may try.
    pub(super) fn let_others(&mut self) {
        self.queue = None;
    }

    /// Tells whether the upstream was taken for dead until now.
    pub(super) fn succeeded(mut self) -> bool {
        if let Some(next) = &mut self.queue {
            **next = Instant::now();
        }
        self.admission.0.failures.swap(0, Relaxed) >= ENOUGH
    }

    /// Tells whether the upstream is taken for dead from now on.
    pub(super) fn failed(self) -> bool {
        self.admission.0.failures.fetch_add(1, Relaxed) + 1 == ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_their_rate_and_in_order() {
        let admission = Admission::new(Duration::from_millis(100), 100);
        let start = Instant::now();
        let mut turns = Vec::new();
        for n in 0..20_u32 {
            turns.push(admission.turn().await);
            assert_eq!(start.elapsed().as_millis(), u128::from(n) * 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_allowed_ask_at_once() {
        let admission = Admission::new(Duration::from_millis(1), 2);
        let (one, two) = (admission.turn().await, admission.turn().await);
        let third = tokio::time::timeout(Duration::from_secs(60), admission.turn());
        assert!(third.await.is_err());
        one.succeeded();
        two.failed();
        admission.turn().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_leaves_no_gap() {
        let admission = Admission::new(Duration::from_secs(1), 100);
        drop(admission.turn().await);
        let start = Instant::now();
        for _ in 0..10 {
            let leaves = tokio::time::timeout(Duration::from_millis(1), admission.turn());
            assert!(leaves.await.is_err());
        }
        drop(admission.turn().await);
        assert_eq!(start.elapsed().as_millis(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_of_ten_thousand_takes_its_time_in_order_and_nobody_is_woken_in_vain() {
        const STREAMS: usize = 10_000;
        let admission = Admission::default();
        let (order, polls) = (Arc::new(std::sync::Mutex::new(Vec::new())), Arc::default());
        let start = Instant::now();
        let streams = (0..STREAMS).map(|n| {
            let (admission, order) = (admission.clone(), order.clone());
            let polls: Arc<AtomicU32> = Arc::clone(&polls);
            tokio::spawn(async move {
                let mut turn = std::pin::pin!(admission.turn());
                std::future::poll_fn(|cx| {
                    polls.fetch_add(1, Relaxed);
                    turn.as_mut().poll(cx)
                })
                .await
                .succeeded();
                order.lock().unwrap().push(n);
            })
        });
        let streams: Vec<_> = streams.collect();
        for stream in streams {
            stream.await.unwrap();
        }
        let gap = Duration::from_millis(10);
        let took = start.elapsed();
        let whole = gap * (STREAMS as u32 - 1);
        assert!(took >= whole && took <= whole + gap, "{took:?}");
        assert!(order.lock().unwrap().is_sorted());
        // To get in line, at the head of it, and when the time has come.
        let polls = polls.load(Relaxed) as usize;
        assert!(polls <= 3 * STREAMS, "{polls}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_without_measure_is_one_that_does_not_pass() {
        let admission = Admission::new(Duration::MAX, usize::MAX);
        drop(admission.turn().await);
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, admission.turn()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_fail_one_at_a_time_tries_each_second() {
        let admission = Admission::new(Duration::from_millis(1), 100);
        for _ in 0..ENOUGH {
            assert!(!admission.is_broken());
            admission.turn().await.failed();
        }
        assert!(admission.is_broken());
        let mut probe = admission.turn().await;
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, admission.turn()).await.is_err());
        probe.let_others();
        let start = Instant::now();
        admission.turn().await.failed();
        assert_eq!(start.elapsed(), Duration::ZERO);
        admission.turn().await.succeeded();
        assert_eq!(start.elapsed(), PROBE_GAP);
        assert!(!admission.is_broken());
        drop(admission.turn().await);
        assert_eq!(start.elapsed(), PROBE_GAP);
    }
}
