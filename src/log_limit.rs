//! Limits the rate of log lines that clients or upstreams cause.

use crate::lock::lock;
use crate::rate::Rate;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

/// Lines of one kind at once, and in each [`LINES_PERIOD`].
const LINES_PER_KIND: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
const LINES_PERIOD: Duration = Duration::from_secs(60);
/// Time from the first suppressed line to the summary with their number.
const SUMMARY_AFTER: Duration = Duration::from_secs(10);

/// A duration as a field of a log line, whose name ends in `_seconds`: exact to the millisecond.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Bounds the rate of log lines of one kind. A clone shares the limit.
///
/// With [`MetricsLayer::log_limit`](crate::metrics::MetricsLayer::log_limit) it limits the streams
/// whose opening and end are logged. 10 s after the first suppressed line, a summary reports their number. Metrics
/// count all of them.
#[derive(Clone)]
pub struct LogLimit(Arc<LimitState>);

struct LimitState {
    rate: Rate,
    /// The time of the next line, see [`Rate`].
    next_at: Mutex<Option<Instant>>,
    suppressed: Mutex<Suppressed>,
}

/// The lines that were suppressed since the last summary.
#[derive(Default)]
struct Suppressed {
    count: u64,
    /// Writes the next summary. `Some` while a task waits to call it.
    summary: Option<Summary>,
}

type Summary = Box<dyn FnOnce(u64) + Send>;

impl LogLimit {
    /// Allows `streams` lines in each `per`, and that number at once.
    ///
    /// # Panics
    ///
    /// If `per` is shorter than `streams` nanoseconds.
    pub fn new(streams: NonZeroU32, per: Duration) -> Self {
        Self(Arc::new(LimitState {
            rate: Rate::new(streams, per, streams),
            next_at: Mutex::default(),
            suppressed: Mutex::default(),
        }))
    }

    /// The limit for lines about single requests: 10 at once and 10 per minute.
    #[doc(hidden)]
    pub fn per_kind() -> Self {
        Self::new(LINES_PER_KIND, LINES_PERIOD)
    }

    /// Returns whether a line may be written. If not, it must be [suppressed](Self::suppress).
    pub(crate) fn admit(&self) -> bool {
        let mut next_at = lock(&self.0.next_at);
        let next = self.0.rate.take(*next_at, Instant::now());
        *next_at = next.ok().or(*next_at);
        next.is_ok()
    }

    /// Writes `line`, or suppresses it. Returns whether it was written.
    #[doc(hidden)]
    pub fn write(&self, line: impl FnOnce(), summary: impl FnOnce(u64) + Send + 'static) -> bool {
        let is_written = self.admit();
        match is_written {
            true => line(),
            false => self.suppress(1, summary),
        }
        is_written
    }

    /// Counts lines that are not written. The first `summary` since the last one is called with their number after
    /// [`SUMMARY_AFTER`], or when the runtime shuts down before.
    pub(crate) fn suppress(&self, count: u64, summary: impl FnOnce(u64) + Send + 'static) {
        let mut suppressed = lock(&self.0.suppressed);
        suppressed.count += count;
        if suppressed.summary.is_some() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            // The next summary includes them.
            return;
        };
        suppressed.summary = Some(Box::new(summary));
        drop(suppressed);
        let pending = PendingSummary(self.clone());
        runtime.spawn(async move {
            let _pending = pending;
            sleep(SUMMARY_AFTER).await;
        });
    }

    /// Writes the pending summary now, if there is one.
    #[doc(hidden)]
    pub fn summarize(&self) {
        let suppressed = std::mem::take(&mut *lock(&self.0.suppressed));
        if let Some(summary) = suppressed.summary {
            summary(suppressed.count);
        }
    }
}

impl fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLimit")
    }
}

/// Writes the summary when it is dropped: a runtime that shuts down drops its tasks.
struct PendingSummary(LogLimit);

impl Drop for PendingSummary {
    fn drop(&mut self) {
        self.0.summarize();
    }
}

/// A limit for each of a few kinds of lines, so that many of one kind do not suppress the others.
#[derive(Debug)]
pub struct LogLimits<K> {
    make: fn() -> LogLimit,
    kinds: Mutex<Vec<(K, LogLimit)>>,
}

impl<K: PartialEq> Default for LogLimits<K> {
    fn default() -> Self {
        Self::new(LogLimit::per_kind)
    }
}

impl<K: PartialEq> LogLimits<K> {
    /// Creates the limit of each kind by `make`.
    pub fn new(make: fn() -> LogLimit) -> Self {
        Self {
            make,
            kinds: Mutex::default(),
        }
    }

    /// The limit of this kind. There must be few kinds: each is kept.
    pub fn of(&self, kind: K) -> LogLimit {
        let mut kinds = lock(&self.kinds);
        if let Some((_, limit)) = kinds.iter().find(|(known, _)| *known == kind) {
            return limit.clone();
        }
        let limit = (self.make)();
        kinds.push((kind, limit.clone()));
        limit
    }

    /// Writes all pending summaries.
    #[doc(hidden)]
    pub fn summarize(&self) {
        let limits = lock(&self.kinds);
        let limits: Vec<_> = limits.iter().map(|(_, limit)| limit.clone()).collect();
        limits.iter().for_each(LogLimit::summarize);
    }
}

/// The log of a test's thread.
#[cfg(test)]
pub(crate) mod captured {
    use std::io;
    use std::sync::{Arc, LazyLock, Mutex};
    use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};
    use tracing::{Dispatch, Metadata, Subscriber, span, subscriber::Interest};

    /// A second subscriber, registered until the process ends.
    ///
    /// With only one registered subscriber, `tracing` takes the interest in a callsite that is first reached on
    /// another thread from that thread's default, which is none, and disables it for all threads.
    static SECOND: LazyLock<Dispatch> =
        LazyLock::new(|| Dispatch::new(Second(NoSubscriber::new())));

    /// Makes `tracing` evaluate each callsite whenever it is reached.
    struct Second(NoSubscriber);

    impl Subscriber for Second {
        fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
            Interest::sometimes()
        }

        fn enabled(&self, _: &Metadata<'_>) -> bool {
            false
        }

        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            self.0.new_span(attributes)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {}

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[derive(Clone, Default)]
    pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// Captures what is logged until the guard is dropped.
        pub(crate) fn start() -> (Self, DefaultGuard) {
            LazyLock::force(&SECOND);
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false);
            let subscriber = subscriber.with_writer(move || writer.clone()).finish();
            (log, set_default(subscriber))
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        /// The number of lines that contain `text`.
        pub(crate) fn count(&self, text: &str) -> usize {
            self.text()
                .lines()
                .filter(|line| line.contains(text))
                .count()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use tokio::time::advance;

    /// Writes into the channel: 0 for a line, the number for a summary.
    fn write(limit: &LogLimit, to: &Sender<u64>) {
        let (line, summary) = (to.clone(), to.clone());
        limit.write(
            move || line.send(0).unwrap(),
            move |count| summary.send(count).unwrap(),
        );
    }

    fn written(log: &Receiver<u64>) -> Vec<u64> {
        log.try_iter().collect()
    }

    /// Advances the time, and lets tasks run.
    async fn pass(time: Duration) {
        // They set their timers first.
        tokio::task::yield_now().await;
        advance(time).await;
        tokio::task::yield_now().await;
    }

    fn two_a_minute() -> LogLimit {
        LogLimit::new(NonZeroU32::MIN.saturating_add(1), Duration::from_secs(60))
    }

    #[tokio::test(start_paused = true)]
    async fn suppressed_lines_are_summarized_once_and_counted_exactly() {
        let (limit, (to, log)) = (two_a_minute(), channel());
        (0..10).for_each(|_| write(&limit, &to));
        assert_eq!(written(&log), [0, 0]);
        pass(SUMMARY_AFTER / 2).await;
        (0..5).for_each(|_| write(&limit, &to));
        assert_eq!(written(&log), Vec::<u64>::new());
        pass(SUMMARY_AFTER / 2).await;
        assert_eq!(written(&log), [13]);
        // The next one counts from the start.
        (0..3).for_each(|_| write(&limit, &to));
        pass(SUMMARY_AFTER).await;
        assert_eq!(written(&log), [3]);
        // Without suppressed lines no summary follows.
        pass(SUMMARY_AFTER * 4).await;
        write(&limit, &to);
        pass(SUMMARY_AFTER).await;
        assert_eq!(written(&log), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_flood_is_bounded_and_counted_completely() {
        let (limit, (to, log)) = (LogLimit::per_kind(), channel());
        for _ in 0..600 {
            (0..10).for_each(|_| write(&limit, &to));
            pass(Duration::from_secs(1)).await;
        }
        pass(SUMMARY_AFTER).await;
        let all = written(&log);
        let (lines, summaries): (Vec<u64>, Vec<u64>) = all.into_iter().partition(|n| *n == 0);
        let lines = lines.len() as u64;
        assert_eq!(lines + summaries.iter().sum::<u64>(), 6000);
        // 10 at once and 10 a minute; a summary in 10 s.
        assert!((100..=111).contains(&lines), "{lines}");
        assert!(summaries.len() <= 62, "{summaries:?}");
    }

    #[test]
    fn summary_is_written_when_the_runtime_shuts_down() {
        let (limit, (to, log)) = (two_a_minute(), channel());
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        runtime.block_on(async { (0..5).for_each(|_| write(&limit, &to)) });
        drop(runtime);
        assert_eq!(written(&log), [0, 0, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn kinds_do_not_share_a_limit_and_are_summarized_together() {
        let (limits, (to, log)) = (LogLimits::new(two_a_minute), channel());
        for kind in ["a", "b"] {
            (0..4).for_each(|_| write(&limits.of(kind), &to));
        }
        assert_eq!(written(&log), [0; 4]);
        limits.summarize();
        assert_eq!(written(&log), [2, 2]);
        pass(SUMMARY_AFTER).await;
        assert_eq!(written(&log), Vec::<u64>::new());
    }
}
