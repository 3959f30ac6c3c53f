//! The layer and its settings.

use super::Admission;
use crate::jitter::{MAX_DURATION, around};
use http::Extensions;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Reconnects a lost upstream behind a live stream. See the [module docs](crate::resume).
#[derive(Clone, Debug)]
pub struct ResumeLayer {
    pub(super) enabled: bool,
    pub(super) config: Arc<ResumeConfig>,
    pub(super) admission: Admission,
}

#[derive(Clone, Debug)]
pub(super) struct ResumeConfig {
    pub(super) lossy: bool,
    pub(super) on_end: bool,
    pub(super) wait_for_upstream: bool,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) event_timeout: Option<Duration>,
    pub(super) ignore_events: Arc<Vec<String>>,
    pub(super) max_age: Option<(Duration, f64)>,
    pub(super) initial_backoff: Duration,
    pub(super) max_backoff: Duration,
    pub(super) attempts: Option<u32>,
    pub(super) give_up: Duration,
    pub(super) reset_after: Duration,
    pub(super) dedup_window: usize,
    pub(super) strip: fn(&mut Extensions),
}

impl ResumeConfig {
    pub(super) fn replace_at(&self, now: Instant) -> Option<Instant> {
        let (age, jitter) = self.max_age?;
        let age = around(age, jitter);
        // At age zero it would be replaced continuously.
        now.checked_add(age.max(MIN_CONNECTION_AGE))
    }
}

/// Minimum age at which a connection is replaced.
const MIN_CONNECTION_AGE: Duration = Duration::from_millis(1);

impl Default for ResumeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl ResumeLayer {
    /// Creates a layer that resumes streams that break off, for up to 5 minutes, with an [`Admission`]
    /// of its own.
    pub fn new() -> Self {
        Self {
            enabled: true,
            config: Arc::new(ResumeConfig {
                lossy: false,
                on_end: false,
                wait_for_upstream: false,
                idle_timeout: None,
                event_timeout: None,
                ignore_events: Arc::default(),
                max_age: None,
                initial_backoff: Duration::from_secs(1),
                max_backoff: Duration::from_secs(30),
                attempts: None,
                give_up: Duration::from_secs(300),
                reset_after: Duration::from_secs(30),
                dedup_window: 256,
                strip: |_| {},
            }),
            admission: Admission::default(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut ResumeConfig)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Off for a stack without it, whose service keeps its type.
    pub(crate) fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Also resumes streams without ids, whose clients miss the events of the outage. Off by default.
    #[must_use]
    pub fn lossy(self, lossy: bool) -> Self {
        self.with(|config| config.lossy = lossy)
    }

    /// Resumes streams that the upstream ends properly, too. Off by default.
    #[must_use]
    pub fn on_end(self, on_end: bool) -> Self {
        self.with(|config| config.on_end = on_end)
    }

    /// Opens a stream whose first request fails, and reconnects it like one that has lost its upstream: a GET that
    /// accepts an event stream, and whose response is an error or a 5xx that may be temporary, gets a 200 at once, and
    /// heartbeats, if a layer outside sends them. An `EventSource` does not reconnect after any other status. Headers
    /// of the later response are lost. If the layer gives up, the stream breaks off, and its client reconnects by
    /// itself. Off by default.
    #[must_use]
    pub fn wait_for_upstream(self, wait: bool) -> Self {
        self.with(|config| config.wait_for_upstream = wait)
    }

    /// Treats the upstream as lost after this long without a byte. Off by default.
    #[must_use]
    pub fn idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into().map(|timeout| timeout.min(MAX_DURATION));
        self.with(|config| config.idle_timeout = timeout)
    }

    /// Treats the upstream as lost after this long without an event with data. Off by default.
    #[must_use]
    pub fn event_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout = timeout.into().map(|timeout| timeout.min(MAX_DURATION));
        self.with(|config| config.event_timeout = timeout)
    }

    /// Sets names of events that do not reset the [`event_timeout`](Self::event_timeout), and that
    /// may be delivered twice. None by default.
    #[must_use]
    pub fn ignore_events(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        self.with(|config| config.ignore_events = Arc::new(names))
    }

    /// Replaces the upstream's connection at this age, plus or minus a random share of it up to
    /// `jitter` (0.1 is ten percent). The new one is opened while the old one continues, and
    /// takes over with its first event, or after 5 s of silence; if it fails, the old one stays. Events
    /// that both deliver are recognised by their ids, or by their content if they have none.
    /// Never by default.
    ///
    /// # Panics
    ///
    /// If `jitter` is not within 0 to 1.
    #[must_use]
    pub fn max_age(self, age: Duration, jitter: f64) -> Self {
        assert!(
            (0.0..=1.0).contains(&jitter),
            "jitter is a part of the age, 0 to 1"
        );
        self.with(|config| config.max_age = Some((age.min(MAX_DURATION), jitter)))
    }

    /// Sets the first wait before a lost stream reconnects, and the longest that it doubles to. 1 s and
    /// 30 s by default. It ends early when the upstream is back, and a stream may probe before its
    /// end.
    #[must_use]
    pub fn backoff(self, initial_backoff: Duration, max_backoff: Duration) -> Self {
        self.with(|config| {
            config.initial_backoff = initial_backoff.min(MAX_DURATION);
            config.max_backoff = max_backoff.min(MAX_DURATION);
        })
    }

    /// Limits the attempts since the stream was last [stable](Self::reset_after); `None`, the default, for
    /// no limit.
    #[must_use]
    pub fn attempts(self, attempts: impl Into<Option<u32>>) -> Self {
        let attempts = attempts.into();
        self.with(|config| config.attempts = attempts)
    }

    /// Fails a stream that has been without its upstream for this long. A connection that is lost again before it is
    /// [stable](Self::reset_after) and without a new event does not end that time.
    /// 5 minutes by default.
    #[must_use]
    pub fn give_up(self, time: Duration) -> Self {
        self.with(|config| config.give_up = time.min(MAX_DURATION))
    }

    /// Sets how long a connection must be up to count as stable. 30 s by default.
    #[must_use]
    pub fn reset_after(self, time: Duration) -> Self {
        self.with(|config| config.reset_after = time)
    }

    /// Sets how many ids of delivered events each stream keeps, and events without one after the
    /// last of them, at 8 bytes each. 256 by default.
    #[must_use]
    pub fn dedup_window(self, ids: usize) -> Self {
        self.with(|config| config.dedup_window = ids)
    }

    /// Calls `strip` with the extensions that reconnect requests are going to carry: those of the
    /// request, which each stream keeps to its end. It should remove what is large, or belongs to
    /// one response. By default all are kept, except for those of the `serve` feature.
    #[must_use]
    pub fn strip_extensions(self, strip: fn(&mut Extensions)) -> Self {
        self.with(|config| config.strip = strip)
    }

    /// Sets the queue in which streams wait to reconnect. Layers in front of the same upstream should
    /// share one.
    #[must_use]
    pub fn admission(mut self, admission: &Admission) -> Self {
        self.admission = admission.clone();
        self
    }
}
