//! Log lines about outages: a few with counts, instead of one for each stream.

use crate::log_limit::{LogLimits, seconds};
use std::mem::{Discriminant, discriminant};
use std::time::Duration;
use tokio::time::Instant;

/// Outages without a failed attempt, as of an upstream that ends each stream after a while, are logged at most this
/// often.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A log line, which is written after the queue's lock is released.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutageLogLine {
    upstream: Option<Box<str>>,
    kind: OutageLogKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum OutageLogKind {
    Lost,
    Waiting {
        waiting: usize,
    },
    Back {
        waiting: usize,
    },
    Over {
        resumed: usize,
        ended: usize,
        took: Duration,
    },
}

/// A limit for each kind of line.
pub(super) type OutageLogLimits = LogLimits<Discriminant<OutageLogKind>>;

impl OutageLogLine {
    /// Logs within the limits, as an upstream that alternates between failure and success causes many outages.
    pub(super) fn log(&self, limits: &OutageLogLimits) {
        let upstream = self.upstream.clone();
        limits.of(discriminant(&self.kind)).write(
            || self.write(),
            move |not_logged| {
                tracing::info!(
                    upstream = upstream.as_deref(),
                    not_logged,
                    "the upstream was lost and came back more often than was logged"
                );
            },
        );
    }

    fn write(&self) {
        let upstream = self.upstream.as_deref();
        match self.kind {
            OutageLogKind::Lost => tracing::info!(
                upstream,
                "upstream lost: its streams stay open and are resumed"
            ),
            OutageLogKind::Waiting { waiting } => tracing::info!(
                upstream,
                waiting,
                "upstream unreachable or failing: probing it while its streams are waiting"
            ),
            OutageLogKind::Back { waiting } => tracing::info!(
                upstream,
                waiting,
                "upstream back: resuming the streams that are waiting"
            ),
            OutageLogKind::Over {
                resumed,
                ended,
                took,
            } => tracing::info!(
                upstream,
                resumed,
                ended,
                took_seconds = seconds(took),
                "no stream is waiting for the upstream any more"
            ),
        }
    }
}

/// From the loss of the first stream until no stream waits.
#[derive(Debug)]
struct OngoingOutage {
    upstream: Option<Box<str>>,
    since: Instant,
    is_logged: bool,
    has_failed: bool,
    resumed: usize,
    ended: usize,
}

#[derive(Debug, Default)]
pub(super) struct OutageTracker {
    current: Option<OngoingOutage>,
    waiting: usize,
    lost_logged_at: Option<Instant>,
    waiting_logged_at: Option<Instant>,
}

fn may_log_again(at: Option<Instant>, now: Instant) -> bool {
    at.is_none_or(|at| now.saturating_duration_since(at) >= MIN_LOG_INTERVAL)
}

impl OutageTracker {
    /// A stream has lost the upstream.
    pub(super) fn lost(
        &mut self,
        upstream: Option<&str>,
        now: Instant,
        lines: &mut Vec<OutageLogLine>,
    ) {
        self.waiting += 1;
        if self.current.is_some() {
            return;
        }
        let mut outage = OngoingOutage {
            upstream: upstream.map(Box::from),
            since: now,
            is_logged: false,
            has_failed: false,
            resumed: 0,
            ended: 0,
        };
        if may_log_again(self.lost_logged_at, now) {
            self.lost_logged_at = Some(now);
            outage.is_logged = true;
            lines.push(outage.line(OutageLogKind::Lost));
        }
        self.current = Some(outage);
    }

    /// An attempt has failed.
    pub(super) fn failed(&mut self, now: Instant, lines: &mut Vec<OutageLogLine>) {
        let Some(outage) = &mut self.current else {
            return;
        };
        if std::mem::replace(&mut outage.has_failed, true) {
            return;
        }
        if !outage.is_logged {
            outage.is_logged = true;
            self.lost_logged_at = Some(now);
            lines.push(outage.line(OutageLogKind::Lost));
        }
        if may_log_again(self.waiting_logged_at, now) {
            self.waiting_logged_at = Some(now);
            let waiting = self.waiting;
            lines.push(outage.line(OutageLogKind::Waiting { waiting }));
        }
    }

    /// An attempt has succeeded after a failed one.
    pub(super) fn upstream_reachable(&mut self, now: Instant, lines: &mut Vec<OutageLogLine>) {
        let waiting = self.waiting;
        if let Some(outage) = &mut self.current
            && std::mem::take(&mut outage.has_failed)
            && self.waiting_logged_at.is_some_and(|at| at >= outage.since)
        {
            lines.push(outage.line(OutageLogKind::Back { waiting }));
            // The next failure is logged as a new one.
            self.waiting_logged_at = self
                .waiting_logged_at
                .filter(|at| !may_log_again(Some(*at), now));
        }
    }

    /// A stream no longer waits.
    pub(super) fn settled(
        &mut self,
        is_resumed: bool,
        now: Instant,
        lines: &mut Vec<OutageLogLine>,
    ) {
        self.waiting -= 1;
        let Some(outage) = &mut self.current else {
            return;
        };
        match is_resumed {
            true => outage.resumed += 1,
            false => outage.ended += 1,
        }
        if self.waiting > 0 {
            return;
        }
        if outage.is_logged {
            let (resumed, ended) = (outage.resumed, outage.ended);
            let took = now.saturating_duration_since(outage.since);
            lines.push(outage.line(OutageLogKind::Over {
                resumed,
                ended,
                took,
            }));
        }
        self.current = None;
    }
}

impl OngoingOutage {
    fn line(&self, kind: OutageLogKind) -> OutageLogLine {
        OutageLogLine {
            upstream: self.upstream.clone(),
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_limit::LogLimit;
    use crate::log_limit::captured::Log;

    #[tokio::test(start_paused = true)]
    async fn outage_log_is_bounded_if_the_upstream_alternates_between_failure_and_success() {
        let (log, _logging) = Log::start();
        let limits = OutageLogLimits::new(LogLimit::per_kind);
        let mut outages = OutageTracker::default();
        let mut all = 0;
        for _ in 0..300 {
            let (mut lines, now) = (Vec::new(), Instant::now());
            outages.lost(Some("http://a/"), now, &mut lines);
            outages.failed(now, &mut lines);
            outages.upstream_reachable(now, &mut lines);
            outages.settled(true, now, &mut lines);
            all += lines.len() as u64;
            lines.iter().for_each(|line| line.log(&limits));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let text = log.text();
        let (summaries, lines): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.contains("not_logged="));
        let left_out = summaries.iter().map(|line| {
            let (_, count) = line.rsplit_once("not_logged=").unwrap();
            count.parse::<u64>().unwrap()
        });
        assert_eq!(lines.len() as u64 + left_out.sum::<u64>(), all, "{text}");
        // Two kinds come with each outage, of which 10 are written at once and 10 a minute.
        assert!(all >= 600 && lines.len() < 50, "{all}: {text}");
    }
}
