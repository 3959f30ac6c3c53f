//! The level of load shedding of each budget, with hysteresis.

use super::{ROUND_DURATION, Usage};
use sse_guard::connection_limit::RejectReason;
use std::fmt;
use tokio::time::Instant;

const NORMAL_SHARE: f64 = 0.85;
const REJECTING_SHARE: f64 = 0.90;
const SHEDDING_SHARE: f64 = 0.95;

/// The level of load shedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LoadLevel {
    Normal,
    /// New streams are rejected.
    Rejecting,
    /// Idle streams are ended.
    Shedding,
}

impl LoadLevel {
    fn next(self, share: f64) -> Self {
        match share {
            share if share >= SHEDDING_SHARE => Self::Shedding,
            share if share >= REJECTING_SHARE => self.max(Self::Rejecting),
            share if share >= NORMAL_SHARE => self.min(Self::Rejecting),
            _ => Self::Normal,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "room",
            Self::Rejecting => "refusing",
            Self::Shedding => "rotating",
        }
    }
}

/// Usage of one budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetStatus {
    pub(super) resource: Resource,
    pub(crate) used: Usage,
    pub(crate) level: LoadLevel,
    pub(crate) since: Instant,
    /// Since when usage allows a lower level.
    pub(super) better: Option<Instant>,
}

impl BudgetStatus {
    /// Whether load shedding is about to begin.
    pub(crate) fn is_near(&self) -> bool {
        self.used.share() >= NORMAL_SHARE
    }
}

impl fmt::Display for BudgetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage {
            used,
            budget,
            reserve,
        } = self.used;
        match self.resource {
            Resource::Memory => write!(
                f,
                "{} of {} MiB of memory used, {} MiB reserved for bursts",
                used >> 20,
                budget >> 20,
                reserve >> 20
            ),
            Resource::Files => write!(f, "{used} of {budget} files open"),
        }?;
        f.write_str(match self.level {
            LoadLevel::Normal => "",
            LoadLevel::Rejecting => ": new streams are rejected",
            LoadLevel::Shedding => ": new streams are rejected, and the oldest idle ones are ended",
        })
    }
}

/// How many of these files streams may take before they are rejected.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is not exact anyway"
)]
pub(crate) fn files_for_streams(files: u64) -> u64 {
    (files as f64 * REJECTING_SHARE) as u64
}

/// A resource with a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    Files,
}

impl Resource {
    pub(super) const ALL: [Self; 2] = [Self::Memory, Self::Files];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
        }
    }

    pub(super) fn reason(self) -> RejectReason {
        match self {
            Self::Memory => RejectReason::Memory,
            Self::Files => RejectReason::Files,
        }
    }

    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Memory => {
                "raise the limit (memory.budget, the container's limit), lower limit.total, or add \
                 a second proxy"
            }
            Self::Files => {
                "raise the limit (ulimit -Hn, LimitNOFILE=, files.budget), lower limit.total, or add \
                 a second proxy"
            }
        }
    }
}

/// The status after a measurement.
pub(super) fn next(resource: Resource, before: Option<&BudgetStatus>, used: Usage) -> BudgetStatus {
    let now = Instant::now();
    let first = BudgetStatus {
        resource,
        used,
        level: LoadLevel::Normal,
        since: now,
        better: None,
    };
    let before = before.unwrap_or(&first);
    let mut status = BudgetStatus { used, ..*before };
    let level = before.level.next(used.share());
    let better = (level < before.level).then(|| before.better.unwrap_or(now));
    let waits = better.is_some_and(|since| now.saturating_duration_since(since) < ROUND_DURATION);
    if level == before.level || waits {
        status.better = better;
        return status;
    }
    (status.level, status.since, status.better) = (level, now, None);
    if level > before.level {
        tracing::warn!("{status}; {}", resource.remedy());
    } else {
        tracing::info!("back below the budgets: {status}");
    }
    status
}
