//! Many streams that are opened, read for a while, and dropped.

use crate::bench::Bench;
use crate::client::{Failure, Failures, within};
use crate::clock::{now_ns, secs};
use crate::report::Report;
use crate::wire::{Seen, Sequence};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

#[derive(Default)]
struct Shared {
    opened: AtomicU64,
    not_opened: Mutex<Failures>,
    dropped: Mutex<Failures>,
    changed: Notify,
}

/// Streams that are being read, each by a task.
pub struct Crowd {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
    /// Seconds until the last one was open or had failed.
    pub open_s: f64,
}

impl Crowd {
    /// Opens `n` streams and goes on reading them. `handler(i)` makes what takes the things seen on
    /// number `i`, with the time of each read.
    pub async fn open<H>(bench: &Bench<'_>, path: &str, n: usize, handler: impl Fn(usize) -> H) -> Result<Self>
    where
        H: FnMut(Seen, u64) + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let opening = Arc::new(Semaphore::new(bench.common.opening.max(1)));
        let (opener, limit) = (Arc::new(bench.opener(path)), bench.open_limit());
        let mut tasks = JoinSet::new();
        let begin = now_ns();
        for i in 0..n {
            let permit = opening.clone().acquire_owned().await?;
            let (shared, opener, mut on) = (shared.clone(), opener.clone(), handler(i));
            tasks.spawn(async move {
                let opened = within(limit, async {
                    let mut stream = opener.connect(i).await?.start().await?;
                    stream.ready(&mut on).await?;
                    Ok(stream)
                })
                .await;
                drop((permit, opener));
                let mut stream = match opened {
                    Ok(stream) => {
                        shared.opened.fetch_add(1, Relaxed);
                        shared.changed.notify_one();
                        stream
                    }
                    Err(failure) => {
                        shared.not_opened.lock().expect("no panic inside").add(&failure);
                        shared.changed.notify_one();
                        return;
                    }
                };
                let failure = loop {
                    match stream.read(&mut on).await {
                        Ok(true) => {}
                        Ok(false) => break Failure::Ended,
                        Err(failure) => break failure,
                    }
                };
                shared.dropped.lock().expect("no panic inside").add(&failure);
            });
        }
        let mut crowd = Self { tasks, shared, open_s: 0.0 };
        while crowd.opened() + crowd.not_opened().total() < n as u64 {
            crowd.shared.changed.notified().await;
        }
        crowd.open_s = secs(begin, now_ns());
        Ok(crowd)
    }

    /// Streams that opened.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Relaxed)
    }

    /// Those that did not, and why.
    pub fn not_opened(&self) -> Failures {
        self.shared.not_opened.lock().expect("no panic inside").clone()
    }

    /// Those that opened and then ended before they were closed here, and why.
    pub fn dropped(&self) -> Failures {
        self.shared.dropped.lock().expect("no panic inside").clone()
    }

    /// Writes how opening went.
    pub fn report(&self, report: &mut Report) {
        report.set("opened", self.opened());
        report.number("open_all_s", self.open_s);
        self.not_opened().report("not_opened", report);
        self.dropped().report("dropped", report);
    }

    /// Closes all connections.
    pub async fn close(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Fewer locks than connections, more than threads.
const SHARDS: usize = 8;

struct Shard {
    latency: Histogram<u64>,
    sequences: Vec<Sequence>,
    foreign: u64,
}

/// Takes the events of all connections and keeps latency and order.
pub struct Recorder {
    shards: Vec<Mutex<Shard>>,
    from: AtomicU64,
    to: AtomicU64,
}

/// What a [`Recorder`] has seen.
pub struct Totals {
    /// Nanoseconds from sending to reading, of events sent inside the window.
    pub latency: Histogram<u64>,
    /// Sequence numbers of all connections, inside the window and out of it.
    pub sequence: Sequence,
    /// Events that were not the origin's.
    pub foreign: u64,
}

impl Recorder {
    /// For connections 0 to `n` - 1. The window is closed at first.
    pub fn new(n: usize) -> Result<Arc<Self>> {
        let shards = (0..SHARDS)
            .map(|_| {
                Ok(Mutex::new(Shard {
                    latency: Histogram::new_with_bounds(100, 120_000_000_000, 3)?,
                    sequences: vec![Sequence::default(); n.div_ceil(SHARDS)],
                    foreign: 0,
                }))
            })
            .collect::<Result<_>>()?;
        Ok(Arc::new(Self { shards, from: AtomicU64::new(u64::MAX), to: AtomicU64::new(u64::MAX) }))
    }

    /// Takes the latency of events sent from `from` until `to`.
    pub fn window(&self, from: u64, to: u64) {
        self.to.store(to, Relaxed);
        self.from.store(from, Relaxed);
    }

    /// What takes the events of connection `i`.
    pub fn handler(self: &Arc<Self>, i: usize) -> impl FnMut(Seen, u64) + Send + 'static {
        let this = self.clone();
        move |seen, now| {
            let Seen::Event(stamp) = seen else { return };
            let mut shard = this.shards[i % SHARDS].lock().expect("no panic inside");
            match stamp {
                Some(stamp) => {
                    shard.sequences[i / SHARDS].see(stamp.seq);
                    if stamp.t >= this.from.load(Relaxed) && stamp.t < this.to.load(Relaxed) {
                        shard.latency.saturating_record(now.saturating_sub(stamp.t));
                    }
                }
                None => shard.foreign += 1,
            }
        }
    }

    /// The sum over all connections.
    pub fn totals(&self) -> Result<Totals> {
        let mut latency = Histogram::new_with_bounds(100, 120_000_000_000, 3)?;
        let mut sequence = Sequence::default();
        let mut foreign = 0;
        for shard in &self.shards {
            let shard = shard.lock().expect("no panic inside");
            latency.add(&shard.latency)?;
            foreign += shard.foreign;
            for s in &shard.sequences {
                sequence.received += s.received;
                sequence.lost += s.lost;
                sequence.misordered += s.misordered;
            }
        }
        Ok(Totals { latency, sequence, foreign })
    }
}

impl Totals {
    /// Writes latencies in microseconds.
    pub fn report_latency(&self, report: &mut Report) {
        if self.latency.is_empty() {
            return;
        }
        report.number("mean_us", self.latency.mean() / 1e3);
        for (key, q) in [("p50_us", 0.5), ("p90_us", 0.9), ("p99_us", 0.99), ("p999_us", 0.999)] {
            report.number(key, self.latency.value_at_quantile(q) as f64 / 1e3);
        }
        report.number("max_us", self.latency.max() as f64 / 1e3);
    }

    /// Writes what was lost or came in the wrong order.
    pub fn report_order(&self, report: &mut Report) {
        report.set("lost", self.sequence.lost);
        report.set("misordered", self.sequence.misordered);
        report.set("foreign_events", self.foreign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Stamp;

    #[test]
    fn only_the_window_counts() {
        let recorder = Recorder::new(10).unwrap();
        let mut on = recorder.handler(9);
        let mut send = |seq, t| on(Seen::Event(Some(Stamp { seq, t })), t + 5_000);
        send(0, 100);
        recorder.window(1_000, 2_000);
        send(1, 999);
        send(2, 1_000);
        send(4, 1_999);
        send(5, 2_000);
        on(Seen::Comment(3), 0);
        on(Seen::Event(None), 0);
        let totals = recorder.totals().unwrap();
        assert_eq!(totals.latency.len(), 2);
        assert_eq!((totals.sequence.received, totals.sequence.lost, totals.sequence.misordered), (5, 1, 0));
        assert_eq!(totals.foreign, 1);
    }
}
