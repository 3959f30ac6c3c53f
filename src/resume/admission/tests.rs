mod fairness;
mod isolation;
mod probes;
mod turns;

use super::queue::{MAX_PROBE_INTERVAL, UNREACHABLE_AFTER_FAILURES};
use super::*;
use std::sync::atomic::AtomicU32;
use tokio::sync::Notify;

fn key(client: u32, target: u32) -> LaneKey {
    LaneKey::new(client, target)
}

impl Admission {
    /// The turn of a stream whose backoff is over.
    pub(in crate::resume) async fn turn(&self) -> Turn {
        self.turn_of(key(0, 0)).await
    }

    async fn turn_of(&self, key: LaneKey) -> Turn {
        self.join(key, Some(None)).turn(Instant::now(), true).await
    }

    fn lanes(&self) -> usize {
        lock(&self.0.queue).lanes()
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Lets all tasks run without a change of time.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}
