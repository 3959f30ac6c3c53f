//! Health checks of a route or an upstream: conditions, causes and remedies.

use super::debounce::HealthState;
use super::window::WindowCounts;
use crate::config;
use humantime::format_duration;
use sse_guard::EndReason;
use sse_guard::metrics::{Histogram, Snapshot};
use std::time::Duration;

/// A health criterion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Criterion {
    Reachable,
    Waiting,
    Errors,
    Breaks,
    Events,
    FirstEvent,
    Gap,
    EarlyEnds,
    Reconnects,
    Limit,
}

/// A problem that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issue {
    pub(super) state: HealthState,
    pub(super) cause: String,
    pub(super) remedy: &'static str,
}

/// Input of the checks of a route or an upstream.
#[derive(Debug)]
pub(super) struct CriterionInput<'a> {
    pub(super) bounds: &'a config::Health,
    pub(super) window: WindowCounts,
    pub(super) baseline: Option<WindowCounts>,
    /// Streams, and how many there may be.
    pub(super) fill: Option<(u64, u64)>,
    /// Streams that have lost their upstream, and all of them.
    pub(super) waiting: Option<(u64, u64)>,
    /// Why the upstream is unreachable, if it is.
    pub(super) away: Option<String>,
}

/// Allowed factor between baseline and current value.
const BASELINE_FACTOR: f64 = 4.0;
/// Factor beyond a threshold from which the state is failing.
const FAILING_FACTOR: f64 = 4.0;
/// Fewer cases of a fault are not significant.
const MIN_CASES: u64 = 5;
/// Fewer events or times are not significant.
const MIN_SAMPLES: u64 = 20;
const SECONDS_PER_MINUTE: f64 = 60.0;
/// A bound by the baseline is not below this.
const MIN_TIME_BOUND: Duration = Duration::from_secs(1);
/// Ends by the upstream within this time count as early.
pub(super) const EARLY_END: Duration = Duration::from_secs(10);
/// The part of a limit from which it is near.
const NEAR_SHARE: f64 = 0.9;

impl Criterion {
    pub(super) const ALL: [Self; 10] = [
        Self::Reachable,
        Self::Waiting,
        Self::Errors,
        Self::Breaks,
        Self::Events,
        Self::FirstEvent,
        Self::Gap,
        Self::EarlyEnds,
        Self::Reconnects,
        Self::Limit,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Waiting => "waiting",
            Self::Errors => "errors",
            Self::Breaks => "breaks",
            Self::Events => "events",
            Self::FirstEvent => "first_event",
            Self::Gap => "gap",
            Self::EarlyEnds => "early_ends",
            Self::Reconnects => "reconnects",
            Self::Limit => "limit",
        }
    }

    /// Whether the detecting component has already debounced and logged it.
    pub(super) fn is_settled(self) -> bool {
        self == Self::Reachable
    }

    /// Checks the criterion; returns a problem if there is one.
    pub(super) fn check(self, input: &CriterionInput<'_>) -> Option<Issue> {
        let numbers = &input.window.numbers;
        let (state, cause) = match self {
            Self::Reachable => (HealthState::Failing, input.away.clone()?),
            Self::Waiting => waiting(input.waiting?)?,
            Self::Errors => errors(input.bounds.max_error_rate?, numbers)?,
            Self::Breaks => breaks(input.bounds.max_error_rate?, numbers)?,
            Self::Events => events(input)?,
            Self::FirstEvent => {
                let bound = input.bounds.max_first_event_p95;
                let times = |span: &WindowCounts| span.numbers.first_events.clone();
                slow("streams to their first event", 0.95, bound, input, times)?
            }
            Self::Gap => {
                let times = |span: &WindowCounts| span.numbers.gaps.clone();
                let bound = input.bounds.max_gap_p99;
                slow("pauses between events", 0.99, bound, input, times)?
            }
            Self::EarlyEnds => early_ends(input.bounds.early_ends?, numbers)?,
            Self::Reconnects => reconnects(input.bounds.reconnects?, &input.window)?,
            Self::Limit => limit(input.fill?)?,
        };
        let is_incomplete = self == Self::Breaks && numbers.cut_short >= MIN_CASES;
        Some(Issue {
            state,
            cause,
            remedy: match is_incomplete {
                true => CUT_SHORT,
                false => self.remedy(),
            },
        })
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Reachable => "start it, or check the network between it and the proxy",
            Self::Waiting => {
                "the streams continue when the upstream accepts their reconnects; check its state \
                 and its log"
            }
            Self::Errors => "check the upstream's log, and this log for the failed requests",
            Self::Breaks => {
                "find out why the upstream dies or goes silent during streams: a restart, a \
                 worker timeout, or its data source"
            }
            Self::Events => "check that the upstream's data source still runs",
            Self::FirstEvent => "check the upstream's load and queues",
            Self::Gap => {
                "check the upstream's load, and whether a hop between it and the proxy buffers"
            }
            Self::EarlyEnds => {
                "check whether a timeout cuts the upstream's streams; if they are short by \
                 design, set health.early_ends = \"off\" for their route"
            }
            Self::Reconnects => {
                "find the hop between clients and proxy that cuts streams, and set \
                 heartbeat.interval below its idle timeout"
            }
            Self::Limit => "raise limit.total, or add a second proxy",
        }
    }
}

/// Where broken streams are answers that a completion layer has found incomplete.
const CUT_SHORT: &str = "find out why the upstream, or a proxy in front of it, ends answers \
    half-way; if its API has no last event, set completion.required = false for the route";

#[expect(clippy::cast_precision_loss, reason = "shares are not exact anyway")]
fn part(some: u64, all: u64) -> f64 {
    some as f64 / all.max(1) as f64
}

/// Checks a share against `bound`; failing from halfway between `bound` and 1.
fn share(bound: f64, some: u64, all: u64) -> Option<HealthState> {
    let share = part(some, all);
    if some < MIN_CASES || share < bound {
        return None;
    }
    Some(if share >= f64::midpoint(bound, 1.0) {
        HealthState::Failing
    } else {
        HealthState::Degraded
    })
}

fn beyond(times: f64) -> Option<HealthState> {
    match times {
        times if times >= FAILING_FACTOR => Some(HealthState::Failing),
        times if times > 1.0 => Some(HealthState::Degraded),
        _ => None,
    }
}

type StateWithReason = Option<(HealthState, String)>;

fn waiting((waiting, all): (u64, u64)) -> StateWithReason {
    let state = match waiting {
        0 => return None,
        some if some >= all => HealthState::Failing,
        _ => HealthState::Degraded,
    };
    let cause = format!("{waiting} of {all} streams have lost their upstream and wait for it");
    Some((state, cause))
}

fn errors(bound: f64, numbers: &Snapshot) -> StateWithReason {
    let all = numbers.opened + numbers.failed;
    let mut state = share(bound, numbers.failed, all)?;
    let failed = numbers.failed;
    // The first of a minute may follow another's of the minute before.
    let whose = match numbers.failed_others {
        0 | 1 => ", all from one client",
        _ => "",
    };
    if !whose.is_empty() && numbers.opened > 0 {
        // However many requests it sends, a single client does not make a route fail for others.
        state = HealthState::Degraded;
    }
    Some((
        state,
        format!("{failed} of {all} requests for a stream failed within a minute{whose}"),
    ))
}

fn breaks(bound: f64, numbers: &Snapshot) -> StateWithReason {
    let all = EndReason::ALL
        .iter()
        .map(|&reason| numbers.ended(reason))
        .sum();
    let (broken, idle) = (
        numbers.ended(EndReason::UpstreamError),
        numbers.ended(EndReason::UpstreamIdle),
    );
    let state = share(bound, broken + idle, all)?;
    let cut_short = match numbers.cut_short {
        0 => String::new(),
        some => format!("; {some} of them ended properly without their last event"),
    };
    Some((
        state,
        format!(
            "of {all} streams that ended within a minute, the upstream broke off {broken} and \
             left {idle} silent{cut_short}"
        ),
    ))
}

fn events(input: &CriterionInput<'_>) -> StateWithReason {
    let per_minute =
        |span: &WindowCounts| part(span.numbers.events, span.stream_seconds) * SECONDS_PER_MINUTE;
    let (bound, wanted) = match (input.bounds.min_event_rate, &input.baseline) {
        (Some(rate), _) => {
            let wanted = f64::from(rate.count.get()) / rate.per.as_secs_f64() * SECONDS_PER_MINUTE;
            (
                wanted,
                format!("health.min_event_rate requires {wanted:.1}"),
            )
        }
        (None, Some(baseline))
            if input.bounds.baseline && baseline.numbers.events >= MIN_SAMPLES =>
        {
            let usual = per_minute(baseline);
            (usual / BASELINE_FACTOR, format!("baseline: {usual:.1}"))
        }
        _ => return None,
    };
    // With too little time behind it, chance alone may have kept them away.
    if bound * part(input.window.stream_seconds, 60) < part(MIN_CASES, 1) {
        return None;
    }
    let seen = per_minute(&input.window);
    let state = match seen {
        seen if seen > 0.0 => beyond(bound / seen)?,
        _ => HealthState::Failing,
    };
    Some((
        state,
        format!("{seen:.1} events per minute and stream; {wanted}"),
    ))
}

/// Checks times against `bound`, or against the baseline.
fn slow(
    what: &str,
    quantile: f64,
    bound: Option<Duration>,
    input: &CriterionInput<'_>,
    times: impl Fn(&WindowCounts) -> Histogram,
) -> StateWithReason {
    let now = times(&input.window);
    if now.count() < MIN_SAMPLES {
        return None;
    }
    let seen = now.quantile(quantile)?;
    let (bound, wanted) = match (bound, &input.baseline) {
        (Some(bound), _) => (bound, format!("threshold: {}", format_duration(bound))),
        (None, Some(baseline)) if input.bounds.baseline => {
            let usual = times(baseline);
            let usual = Some(usual).filter(|usual| usual.count() >= MIN_SAMPLES)?;
            let usual = usual.quantile(quantile)?;
            let wanted = format!("baseline: {}", rounded(usual));
            (usual.mul_f64(BASELINE_FACTOR).max(MIN_TIME_BOUND), wanted)
        }
        _ => return None,
    };
    let state = beyond(seen.as_secs_f64() / bound.as_secs_f64())?;
    Some((
        state,
        format!(
            "{:.0} % of the {what} took up to {}; {wanted}",
            quantile * 100.0,
            rounded(seen)
        ),
    ))
}

/// Buckets know no more than that.
fn rounded(time: Duration) -> humantime::FormattedDuration {
    let millis = match u64::try_from(time.as_millis()).unwrap_or(u64::MAX) {
        millis if millis >= 10_000 => millis / 1_000 * 1_000,
        millis if millis >= 1_000 => millis / 100 * 100,
        millis => millis,
    };
    format_duration(Duration::from_millis(millis))
}

fn early_ends(bound: f64, numbers: &Snapshot) -> StateWithReason {
    let (early, all) = (
        numbers.upstream_ends.below(EARLY_END),
        numbers.upstream_ends.count(),
    );
    let state = share(bound, early, all)?;
    Some((
        state,
        format!(
            "of {all} EventSource streams that the upstream ended within a minute {early} were not older \
             than {}",
            format_duration(EARLY_END)
        ),
    ))
}

fn reconnects(bound: f64, window: &WindowCounts) -> StateWithReason {
    let numbers = &window.numbers;
    let back = numbers.reconnects_after_cut;
    let streams = (window.stream_seconds / window.seconds.max(1)).max(back);
    let state = share(bound, back, streams)?;
    Some((
        state,
        format!(
            "{back} clients of about {streams} streams reconnected within a minute after the \
             connection was cut on the way"
        ),
    ))
}

fn limit((streams, most): (u64, u64)) -> StateWithReason {
    let state = match part(streams, most) {
        share if share >= 1.0 => HealthState::Failing,
        share if share >= NEAR_SHARE => HealthState::Degraded,
        _ => return None,
    };
    Some((
        state,
        format!("{streams} of the {most} streams that limit.total allows are open"),
    ))
}
