//! The numbers of one route.

use super::instruments::Instruments;
use super::reconnect_tracker::ReconnectTracker;
use super::unguarded::UnguardedLog;
use super::{AtomicHistogram, LogLimit, Outcome};
use crate::stream::EndReason;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug)]
pub(super) struct RouteMetrics {
    pub(super) route: Box<str>,
    pub(super) active: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) heartbeats: AtomicU64,
    pub(super) gaps: AtomicHistogram,
    pub(super) first_events: AtomicHistogram,
    pub(super) upstream_ends: AtomicHistogram,
    pub(super) reconnects: AtomicU64,
    pub(super) reconnects_after_cut: AtomicU64,
    pub(super) reconnect_tracker: ReconnectTracker,
    pub(super) outcomes: [AtomicU64; Outcome::ALL.len()],
    /// A hash of the client whose request failed last. `failed_others` counts the failures of another client than the
    /// one before.
    pub(super) last_failed: AtomicU64,
    pub(super) failed_others: AtomicU64,
    pub(super) ends: [AtomicU64; EndReason::ALL.len()],
    pub(super) cut_short: AtomicU64,
    pub(super) unguarded: UnguardedLog,
    /// Of log lines about panics in streams that are not logged otherwise.
    pub(super) panic_limit: LogLimit,
    /// Bound to their labels at the first request, when the exporter is installed.
    pub(super) instruments: OnceLock<Instruments>,
}

impl RouteMetrics {
    pub(super) fn new(route: &str) -> Self {
        Self {
            route: route.into(),
            active: AtomicU64::new(0),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            gaps: AtomicHistogram::default(),
            first_events: AtomicHistogram::default(),
            upstream_ends: AtomicHistogram::default(),
            reconnects: AtomicU64::new(0),
            reconnects_after_cut: AtomicU64::new(0),
            reconnect_tracker: ReconnectTracker::default(),
            outcomes: Default::default(),
            last_failed: AtomicU64::new(0),
            failed_others: AtomicU64::new(0),
            ends: Default::default(),
            cut_short: AtomicU64::new(0),
            unguarded: UnguardedLog::default(),
            panic_limit: LogLimit::per_kind(),
            instruments: OnceLock::new(),
        }
    }

    pub(super) fn instruments(&self) -> &Instruments {
        self.instruments
            .get_or_init(|| Instruments::new(&self.route))
    }

    pub(super) fn record_failure(&self, client: Option<u64>) {
        let is_other = client.is_none_or(|client| self.last_failed.swap(client, Relaxed) != client);
        if is_other {
            self.failed_others.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn record_outcome(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        self.instruments().outcomes[outcome as usize].increment(1);
    }
}
