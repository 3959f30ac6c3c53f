//! Budgets of memory and open files, and load shedding near them.
//!
//! | share of the budget, less a reserve of memory for bursts | |
//! | --- | --- |
//! | from 80 % | connections that serve no request are closed, the oldest first |
//! | from 90 % | new streams are rejected, until it is below 85 % for a second; all requests of clients that hold more than their share of the connections in use, too |
//! | from 90 % for a second | a client that holds more than half of the connections in use, and more than its share, pays: some of its requests, downloads and tunnels are ended each second, the youngest first, then its streams |
//! | from 95 % for a second | so does the client that holds most of those over their share. When there are none, idle tunnels are closed; when there are none, the oldest idle streams end, some each second, until below 90 % |
//!
//! If memory runs short, the streams that hold most of it end first, then the oldest idle ones.
//!
//! A stream never ends for lack of files as long as there are connections without a request: the
//! listener closes some of these before it accepts another one.

mod instruments;
mod level;
mod system_limits;
mod usage;

pub(super) use instruments::describe;
pub(super) use level::{BudgetStatus, LoadLevel, Resource, files_for_streams};
pub(super) use system_limits::warnings;
pub(super) use usage::Usage;

use super::config;
use super::upstream::Tunnels;
use instruments::{as_gauges, set_connections};
use level::next;
use metrics::gauge;
use sse_guard::StreamRegistry;
use sse_guard::connection_limit::Gate;
use sse_guard::internal::lock;
use sse_guard::internal::{CloseReason, ConnectionRegistry, ConnectionShares};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use usage::UsageMeter;

/// Interval of measurements far below the budgets.
const RELAXED_INTERVAL: Duration = Duration::from_millis(250);
/// Interval of measurements from [`BUSY_SHARE`] on: a burst of new streams must not pass from one threshold
/// to the end of the budget within it.
const BUSY_INTERVAL: Duration = Duration::from_millis(50);
/// How long usage must stay lower, so that bursts are not admitted again and again; a round of ends
/// takes this long to show an effect.
const ROUND_DURATION: Duration = Duration::from_secs(1);
/// The part of the live streams that ends in a round.
const STREAMS_DIVISOR: usize = 50;
/// The part of the tunnels that is closed in a round.
const TUNNELS_DIVISOR: usize = 8;
/// The part of what a client holds above its share that ends in a round.
const EXCESS_DIVISOR: usize = 4;
/// A stream without an event for this long is idle.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// A stream that holds this many bytes holds several times what others do.
const LARGE_STREAM_BYTES: u64 = 16 * 1024;

const BUSY_SHARE: f64 = 0.5;
/// Share from which connections without a request are closed.
const TRIM_SHARE: f64 = 0.80;
/// Share of the files for connections that have just come, and the bounds of their number: the
/// request of a rejected client must be read, too.
const NEW_CONNECTIONS_SHARE: f64 = 0.03;
const MIN_NEW_CONNECTIONS: u64 = 4;
const MAX_NEW_CONNECTIONS: u64 = 64;
/// The holders of memory and files that can be ended.
#[derive(Clone, Copy)]
pub(super) struct Holders<'a> {
    /// Of clients.
    pub(super) connections: &'a ConnectionRegistry,
    pub(super) tunnels: &'a Tunnels,
    pub(super) streams: &'a StreamRegistry,
    /// By which the clients of streams are counted.
    pub(super) ipv6_prefix: u8,
}

/// Keeps the process within its budgets.
#[derive(Debug)]
pub(super) struct Budgets {
    meter: UsageMeter,
    /// Of all limits.
    pub(super) gate: Gate,
    status: Mutex<[Option<BudgetStatus>; 2]>,
    rotated: Mutex<Option<Instant>>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            meter: UsageMeter::new(),
            gate: Gate::new(),
            status: Mutex::default(),
            rotated: Mutex::default(),
        }
    }
}

impl Budgets {
    /// Measures, and sheds load if necessary. Returns when to measure again.
    pub(super) fn update(&self, config: &config::Budgets, holders: Holders<'_>) -> Duration {
        let memory = self.or_last(
            Resource::Memory,
            config.memory,
            self.meter.memory(config.memory),
        );
        let files = self.or_last(
            Resource::Files,
            config.files,
            self.meter.files(config.files),
        );
        let (used, budget) = as_gauges(memory);
        gauge!("sse_guard_memory_used_bytes").set(used);
        gauge!("sse_guard_memory_budget_bytes").set(budget);
        let (used, budget) = as_gauges(files);
        gauge!("sse_guard_files_used").set(used);
        gauge!("sse_guard_files_budget").set(budget);
        trim(memory, files, holders.connections);
        self.apply([memory, files], holders);
        let shares = [memory, files].into_iter().flatten().map(Usage::share);
        match shares.fold(0.0, f64::max) {
            share if share < BUSY_SHARE => RELAXED_INTERVAL,
            _ => BUSY_INTERVAL,
        }
    }

    /// Measuring opens a file: if that fails, the last measurement is used.
    fn or_last(
        &self,
        resource: Resource,
        budget: config::Budget,
        used: Option<Usage>,
    ) -> Option<Usage> {
        let is_wanted = budget != config::Budget::Off;
        used.or_else(|| {
            let (_, last) = self.status().find(|(known, _)| *known == resource)?;
            is_wanted.then_some(last.used)
        })
    }

    /// Whether new streams are rejected.
    pub(super) fn is_short(&self) -> bool {
        self.gate.closed().is_some()
    }

    fn apply(&self, used: [Option<Usage>; 2], holders: Holders<'_>) {
        let mut status = lock(&self.status);
        for (resource, (status, used)) in Resource::ALL.into_iter().zip(status.iter_mut().zip(used))
        {
            *status = used.map(|used| next(resource, status.as_ref(), used));
        }
        let all = *status;
        drop(status);
        let is_short = |status: &&BudgetStatus| status.level > LoadLevel::Normal;
        match all.iter().flatten().find(is_short) {
            Some(status) => self.gate.close(status.resource.reason()),
            None => self.gate.open(),
        }
        let shares = match self.is_short() {
            true => holders.connections.shares(),
            false => ConnectionShares::default(),
        };
        self.gate.close_to(shares.clients());
        // A stream is worth more than any number of connections that serve nothing.
        if holders.connections.closable() > 0 {
            return;
        }
        let lasting = |level| {
            let is_lasting = move |status: &&BudgetStatus| {
                let lasts = status.since.elapsed() >= ROUND_DURATION && status.better.is_none();
                status.level >= level && lasts
            };
            all.iter().flatten().filter(is_lasting)
        };
        if lasting(LoadLevel::Shedding).next().is_some() {
            let is_memory = |status: &BudgetStatus| status.resource == Resource::Memory;
            self.rotate(
                holders,
                &shares,
                lasting(LoadLevel::Shedding).any(is_memory),
            );
        } else if lasting(LoadLevel::Rejecting).next().is_some()
            && shares.is_majority()
            && self.is_due()
        {
            end_largest(holders, &shares);
        }
    }

    /// Whether the last round has had time to take effect.
    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut rotated = lock(&self.rotated);
        let is_due =
            rotated.is_none_or(|last| now.saturating_duration_since(last) >= ROUND_DURATION);
        if is_due {
            *rotated = Some(now);
        }
        is_due
    }

    /// If memory runs short, the streams that hold much of it end first. Then the client that holds the
    /// most loses its own. Idle tunnels end before streams of other clients.
    fn rotate(&self, holders: Holders<'_>, shares: &ConnectionShares, is_memory_short: bool) {
        let Holders {
            tunnels, streams, ..
        } = holders;
        if !self.is_due() {
            return;
        }
        if is_memory_short {
            let ended = streams.shed(streams.live().div_ceil(STREAMS_DIVISOR), LARGE_STREAM_BYTES);
            if ended > 0 {
                tracing::info!(ended, "ending the streams that hold the most memory");
                return;
            }
        }
        if end_largest(holders, shares) {
            return;
        }
        let closed = tunnels.close_idle(tunnels.len().div_ceil(TUNNELS_DIVISOR), IDLE_AFTER);
        if closed > 0 {
            tracing::info!(closed, "closing idle tunnels: memory or files run short");
            return;
        }
        let ended = streams.rotate(streams.live().div_ceil(STREAMS_DIVISOR), IDLE_AFTER);
        tracing::info!(ended, "rotating idle streams: memory or files run short");
    }

    /// The status of each budget.
    pub(super) fn status(&self) -> impl Iterator<Item = (Resource, BudgetStatus)> + use<> {
        let status = *lock(&self.status);
        let all = Resource::ALL.into_iter().zip(status);
        all.filter_map(|(resource, status)| Some((resource, status?)))
    }
}

/// Ends a part of the excess of the client that holds the most. False without such a client.
fn end_largest(holders: Holders<'_>, shares: &ConnectionShares) -> bool {
    let Some((client, excess)) = shares.largest() else {
        return false;
    };
    let most = excess.div_ceil(EXCESS_DIVISOR);
    if holders.connections.close_requests(client, most) > 0 {
        return true;
    }
    let ended = holders
        .streams
        .rotate_of((client, holders.ipv6_prefix), most, IDLE_AFTER);
    tracing::info!(ended, %client, "rotating streams of the client that holds the most");
    ended > 0
}

/// Closes connections that serve no request, and sets how many the listener may accept.
fn trim(memory: Option<Usage>, files: Option<Usage>, connections: &ConnectionRegistry) {
    set_connections("idle", connections.idle());
    set_connections(
        "active",
        connections.open().saturating_sub(connections.idle()),
    );
    let room = files.map(|files| {
        let left = files.at(TRIM_SHARE).saturating_sub(files.used);
        let excess = files.used.saturating_sub(files.at(TRIM_SHARE));
        let room = (connections.open() as u64 + left).saturating_sub(excess);
        usize::try_from(room).unwrap_or(usize::MAX)
    });
    let min_idle = files.map_or(0, |files| {
        files
            .at(NEW_CONNECTIONS_SHARE)
            .clamp(MIN_NEW_CONNECTIONS, MAX_NEW_CONNECTIONS)
    });
    let min_idle = usize::try_from(min_idle).unwrap_or(usize::MAX);
    connections.set_limits(room.unwrap_or(usize::MAX), min_idle);
    if memory.is_some_and(|memory| memory.share() >= TRIM_SHARE) {
        connections.close_batch(CloseReason::Memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sse_guard::connection_limit::RejectReason;

    fn apply(budgets: &Budgets, used: [Option<Usage>; 2], streams: &StreamRegistry) {
        let connections = &ConnectionRegistry::default();
        let holders = Holders {
            connections,
            tunnels: &Tunnels::default(),
            streams,
            ipv6_prefix: 64,
        };
        budgets.apply(used, holders);
    }

    fn of_hundred(used: u64) -> Option<Usage> {
        Some(Usage {
            used,
            budget: 110,
            reserve: 10,
        })
    }

    /// After this many percent were in use for a while.
    async fn after(budgets: &Budgets, streams: &StreamRegistry, used: u64) -> LoadLevel {
        for _ in 0..=ROUND_DURATION.as_millis() / BUSY_INTERVAL.as_millis() {
            apply(budgets, [of_hundred(used), of_hundred(50)], streams);
            tokio::time::advance(BUSY_INTERVAL).await;
        }
        let (resource, status) = budgets.status().next().unwrap();
        assert_eq!(resource, Resource::Memory);
        status.level
    }

    #[tokio::test(start_paused = true)]
    async fn level_takes_more_to_fall_than_to_rise() {
        let (budgets, streams) = (Budgets::default(), StreamRegistry::new());
        for (used, level) in [
            (89, LoadLevel::Normal),
            (90, LoadLevel::Rejecting),
            (86, LoadLevel::Rejecting),
            (84, LoadLevel::Normal),
            (95, LoadLevel::Shedding),
            (90, LoadLevel::Shedding),
            (89, LoadLevel::Rejecting),
            (0, LoadLevel::Normal),
        ] {
            assert_eq!(after(&budgets, &streams, used).await, level, "{used}");
            let closed = (level > LoadLevel::Normal).then_some(RejectReason::Memory);
            assert_eq!(budgets.gate.closed(), closed, "{used}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gate_stays_closed_while_usage_is_lower_for_a_moment_only() {
        let (budgets, streams) = (Budgets::default(), StreamRegistry::new());
        for used in [99, 1, 1, 99, 1, 1, 99] {
            apply(&budgets, [of_hundred(used), None], &streams);
            tokio::time::advance(ROUND_DURATION / 3).await;
            assert!(budgets.gate.closed().is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gate_is_closed_by_either_budget_and_by_none_without_budgets() {
        let (budgets, streams) = (Budgets::default(), StreamRegistry::new());
        apply(&budgets, [None, of_hundred(91)], &streams);
        assert_eq!(budgets.gate.closed(), Some(RejectReason::Files));
        assert_eq!(budgets.status().count(), 1);
        apply(&budgets, [None, None], &streams);
        assert_eq!(budgets.gate.closed(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn usage_that_cannot_be_measured_stays_as_it_was() {
        let (budgets, streams) = (Budgets::default(), StreamRegistry::new());
        let memory = |budget, used| budgets.or_last(Resource::Memory, budget, used);
        let full = of_hundred(91);
        let limit = config::Budget::Of(110);
        assert_eq!(memory(limit, None), None);
        apply(&budgets, [full, None], &streams);
        assert_eq!(memory(limit, None), full);
        assert_eq!(memory(config::Budget::Auto, None), full);
        assert_eq!(memory(limit, of_hundred(5)), of_hundred(5));
        assert_eq!(memory(config::Budget::Off, None), None);
        assert!(budgets.is_short());
    }

    #[tokio::test(start_paused = true)]
    async fn shedding_ends_idle_connections_before_idle_tunnels_and_these_before_streams() {
        let (budgets, streams) = (Budgets::default(), StreamRegistry::new());
        let (connections, tunnels) = (ConnectionRegistry::default(), Tunnels::default());
        let _places: Vec<_> = (0..9).map(|_| tunnels.enter()).collect();
        tokio::time::advance(IDLE_AFTER).await;
        let _busy = tunnels.enter();
        let holders = Holders {
            connections: &connections,
            tunnels: &tunnels,
            streams: &streams,
            ipv6_prefix: 64,
        };
        let rotated = || lock(&budgets.rotated).is_some();
        budgets.apply([of_hundred(99), None], holders);
        tokio::time::advance(ROUND_DURATION).await;
        let idle = connections.admit_for_test();
        budgets.apply([of_hundred(99), None], holders);
        assert!(!rotated());
        drop(idle);
        budgets.apply([of_hundred(99), None], holders);
        assert!(rotated());
        assert_eq!(tunnels.closing(), 2, "an eighth of all, rounded up");
    }

    #[tokio::test(start_paused = true)]
    async fn status_has_the_time_of_its_last_change() {
        let (budgets, streams) = (Budgets::default(), StreamRegistry::new());
        let start = Instant::now();
        assert_eq!(after(&budgets, &streams, 91).await, LoadLevel::Rejecting);
        let (_, status) = budgets.status().next().unwrap();
        assert_eq!(status.since, start);
    }
}
