//! Log lines of an outage: a few with counts, not a line for each stream.

use crate::log_limit::{LogLimits, seconds};
use std::mem::{Discriminant, discriminant};
use std::time::Duration;
use tokio::time::Instant;

/// Streams that are lost and resumed at once, as by an upstream that ends each after a while, are not
/// reported more often than this.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// One log line, written when the queue's lock is released.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    upstream: Option<Box<str>>,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
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
pub(super) type LineLimits = LogLimits<Discriminant<What>>;

impl Line {
    /// Within the limits: an upstream that fails and answers in turn causes one outage after another.
    pub(super) fn log(&self, limits: &LineLimits) {
        let upstream = self.upstream.clone();
        limits.of(discriminant(&self.what)).write(
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
        match self.what {
            What::Lost => tracing::info!(
                upstream,
                "upstream lost: its streams stay open and are resumed"
            ),
            What::Waiting { waiting } => tracing::info!(
                upstream,
                waiting,
                "upstream unreachable or failing: probing it while its streams are waiting"
            ),
            What::Back { waiting } => tracing::info!(
                upstream,
                waiting,
                "upstream back: resuming the streams that are waiting"
            ),
            What::Over {
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

/// Since the first stream was lost, until none waits.
#[derive(Debug)]
struct Outage {
    upstream: Option<Box<str>>,
    since: Instant,
    is_reported: bool,
    has_failed: bool,
    resumed: usize,
    ended: usize,
}

#[derive(Debug, Default)]
pub(super) struct Outages {
    current: Option<Outage>,
    waiting: usize,
    reported: Option<Instant>,
    reported_waiting: Option<Instant>,
}

fn is_past(at: Option<Instant>, now: Instant) -> bool {
    at.is_none_or(|at| now.saturating_duration_since(at) >= REPORT_EVERY)
}

impl Outages {
    /// A stream has lost the upstream.
    pub(super) fn lost(&mut self, upstream: Option<&str>, now: Instant, lines: &mut Vec<Line>) {
        self.waiting += 1;
        if self.current.is_some() {
            return;
        }
        let mut outage = Outage {
            upstream: upstream.map(Box::from),
            since: now,
            is_reported: false,
            has_failed: false,
            resumed: 0,
            ended: 0,
        };
        if is_past(self.reported, now) {
            self.reported = Some(now);
            outage.is_reported = true;
            lines.push(outage.line(What::Lost));
        }
        self.current = Some(outage);
    }

    /// An attempt has failed.
    pub(super) fn failed(&mut self, now: Instant, lines: &mut Vec<Line>) {
        let Some(outage) = &mut self.current else {
            return;
        };
        if std::mem::replace(&mut outage.has_failed, true) {
            return;
        }
        if !outage.is_reported {
            outage.is_reported = true;
            self.reported = Some(now);
            lines.push(outage.line(What::Lost));
        }
        if is_past(self.reported_waiting, now) {
            self.reported_waiting = Some(now);
            let waiting = self.waiting;
            lines.push(outage.line(What::Waiting { waiting }));
        }
    }

    /// What failed has succeeded.
    pub(super) fn back(&mut self, now: Instant, lines: &mut Vec<Line>) {
        let waiting = self.waiting;
        if let Some(outage) = &mut self.current
            && std::mem::take(&mut outage.has_failed)
            && self.reported_waiting.is_some_and(|at| at >= outage.since)
        {
            lines.push(outage.line(What::Back { waiting }));
            // The next failure is another one.
            self.reported_waiting = self.reported_waiting.filter(|at| !is_past(Some(*at), now));
        }
    }

    /// A stream waits no more.
    pub(super) fn settled(&mut self, is_resumed: bool, now: Instant, lines: &mut Vec<Line>) {
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
        if outage.is_reported {
            let (resumed, ended) = (outage.resumed, outage.ended);
            let took = now.saturating_duration_since(outage.since);
            lines.push(outage.line(What::Over {
                resumed,
                ended,
                took,
            }));
        }
        self.current = None;
    }
}

impl Outage {
    fn line(&self, what: What) -> Line {
        Line {
            upstream: self.upstream.clone(),
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_limit::LogLimit;
    use crate::log_limit::captured::Log;

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_fails_and_answers_in_turn_does_not_flood_the_log() {
        let (log, _logging) = Log::start();
        let limits = LineLimits::new(LogLimit::per_kind);
        let mut outages = Outages::default();
        let mut all = 0;
        for _ in 0..300 {
            let (mut lines, now) = (Vec::new(), Instant::now());
            outages.lost(Some("http://a/"), now, &mut lines);
            outages.failed(now, &mut lines);
            outages.back(now, &mut lines);
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
