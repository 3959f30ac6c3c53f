//! Health of routes and upstreams, with causes and remedies.
//!
//! Each second, what has happened within a minute is held against the bounds of the config, or what
//! was usual in the quarter of an hour before. What is found has to last before it counts, so that
//! states neither flap nor cry wolf: see [`State`].

mod check;
mod past;
mod state;
#[cfg(test)]
mod tests;

pub(super) use state::State;

use super::budget::{Budgets, Level};
use super::config::Health;
use super::router::Router;
use check::{Check, Facts, Finding};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use past::{Past, Span};
use serde::Serialize;
use sse_guard::internal::lock;
use sse_guard::metrics::Snapshot;
use state::Held;
use std::sync::Mutex;
use tokio::time::Instant;

/// Who is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Proxy,
    Upstream,
    Route,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Upstream => "upstream",
            Self::Route => "route",
        }
    }
}

/// How somebody is, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) state: State,
    pub(super) since_s: u64,
    pub(super) causes: Vec<Cause>,
}

/// What makes somebody less than healthy.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cause {
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) cause: String,
    pub(super) remedy: &'static str,
}

/// The name of the proxy itself.
const PROXY: &str = "sse-guard";

/// The proxy, a route or an upstream.
#[derive(Debug)]
struct Subject {
    kind: Kind,
    name: String,
    /// Whose numbers add up to its own.
    routes: Vec<String>,
    past: Past,
    checks: [(Held, Option<Finding>); Check::ALL.len()],
    since: Instant,
}

impl Subject {
    fn new(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            routes: Vec::new(),
            past: Past::default(),
            checks: Default::default(),
            since: Instant::now(),
        }
    }

    fn state(&self) -> State {
        let states = self.checks.iter().map(|(held, _)| held.state);
        states.max().unwrap_or_default()
    }

    fn note(&mut self, routes: Vec<String>, numbers: Snapshot) {
        if self.routes != routes {
            // The sums of others are no continuation.
            self.routes = routes;
            self.past = Past::default();
        }
        self.past.note(numbers);
    }

    fn judge(&mut self, bounds: &Health, fill: Option<(u64, u64)>, away: Option<String>) {
        let window = self.past.window();
        // An upstream's own state tells it already.
        let waiting =
            (self.kind == Kind::Route).then_some((window.numbers.waiting, window.numbers.active));
        let facts = Facts {
            bounds,
            window,
            waiting,
            before: self.past.before(),
            fill,
            away,
        };
        let was = self.state();
        for (check, (held, known)) in Check::ALL.into_iter().zip(&mut self.checks) {
            let found = check.look(&facts);
            let raw = found.as_ref().map_or(State::Healthy, |found| found.state);
            let before = held.state;
            let has_changed = match check.is_settled() {
                true => held.set(raw),
                false => held.note(raw),
            };
            // What it was keeps its cause until it counts as over.
            if found.is_some() || held.state == State::Healthy {
                *known = found;
            }
            if has_changed && !check.is_settled() {
                tell(
                    self.kind,
                    &self.name,
                    check,
                    before,
                    held.state,
                    known.as_ref(),
                );
            }
        }
        if self.state() != was {
            self.since = Instant::now();
        }
    }

    fn verdict(&self) -> Verdict {
        let checks = Check::ALL.into_iter().zip(&self.checks);
        let causes = checks.filter(|(_, (held, _))| held.state > State::Healthy);
        let causes = causes.filter_map(|(check, (held, found))| {
            let found = found.as_ref()?;
            Some(Cause {
                check: check.as_str(),
                state: held.state,
                cause: found.cause.clone(),
                remedy: found.remedy,
            })
        });
        Verdict {
            kind: self.kind,
            name: self.name.clone(),
            state: self.state(),
            since_s: self.since.elapsed().as_secs(),
            causes: causes.collect(),
        }
    }
}

fn export(kind: Kind, name: &str, state: State) {
    gauge!("sse_guard_health", "kind" => kind.as_str(), "name" => name.to_owned())
        .set(state.number());
}

/// The proxy's verdict with that of its budgets, which know themselves since when they are as they are,
/// and have told the log.
fn with_budgets(mut proxy: Verdict, budgets: &Budgets) -> Verdict {
    for (resource, status) in budgets.status() {
        let state = match status.level {
            Level::Room if status.is_near() => State::Degraded,
            Level::Room => continue,
            Level::Full | Level::Over => State::Failing,
        };
        if state > proxy.state {
            (proxy.state, proxy.since_s) = (state, status.since.elapsed().as_secs());
        }
        proxy.causes.push(Cause {
            check: resource.as_str(),
            state,
            cause: status.to_string(),
            remedy: resource.remedy(),
        });
    }
    proxy
}

fn tell(
    kind: Kind,
    name: &str,
    check: Check,
    before: State,
    state: State,
    found: Option<&Finding>,
) {
    let (kind, check) = (kind.as_str(), check.as_str());
    match (found, state) {
        (Some(Finding { cause, remedy, .. }), State::Degraded) if before < state => {
            tracing::warn!(
                kind,
                name,
                check,
                "the {kind} is degraded: {cause}; {remedy}"
            );
        }
        (Some(Finding { cause, remedy, .. }), State::Failing) => {
            tracing::warn!(
                kind,
                name,
                check,
                "the {kind} is failing: {cause}; {remedy}"
            );
        }
        (_, State::Healthy) => tracing::info!(kind, name, check, "the {kind} is healthy again"),
        _ => tracing::info!(
            kind,
            name,
            check,
            "the {kind} recovered from failing to degraded"
        ),
    }
}

/// Adds the second that has passed.
fn count_stream_seconds(route: &str, numbers: &Snapshot) {
    let lost = numbers.lost();
    for (upstream, seconds) in [("live", numbers.active - lost), ("lost", lost)] {
        counter!(
            "sse_guard_stream_seconds_total",
            "route" => route.to_owned(),
            "upstream" => upstream
        )
        .increment(seconds);
    }
}

/// The share of stream-seconds with a live upstream: all of them where there are none.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
fn availability(window: &Span) -> f64 {
    1.0 - window.lost_seconds as f64 / window.stream_seconds.max(1) as f64
}

pub(super) fn describe() {
    describe_counter!(
        "sse_guard_stream_seconds_total",
        Unit::Seconds,
        "Time that streams were open, by route and whether their upstream was live or lost"
    );
    describe_gauge!(
        "sse_guard_availability_ratio",
        Unit::Count,
        "Share of the stream-seconds of the last minute with a live upstream, by route"
    );
    describe_gauge!(
        "sse_guard_health",
        Unit::Count,
        "Health of a route, an upstream or the proxy: 0 healthy, 1 degraded, 2 failing"
    );
}

/// Judges all routes and upstreams.
#[derive(Debug, Default)]
pub(super) struct Judge(Mutex<Vec<Subject>>);

impl Judge {
    /// To be called each second.
    pub(super) fn second(&self, router: &Router, budgets: &Budgets) {
        let mut subjects = lock(&self.0);
        let mut gone = std::mem::take(&mut *subjects);
        let mut subject = |kind, name: &str| {
            let known = gone
                .iter()
                .position(|known| known.kind == kind && known.name == name);
            known.map_or_else(|| Subject::new(kind, name), |at| gone.swap_remove(at))
        };
        for upstream in router.upstreams() {
            let routes = || {
                router
                    .views()
                    .filter(|view| view.upstream == upstream.url())
            };
            let Some(first) = routes().next() else {
                continue;
            };
            let mut subject = subject(Kind::Upstream, &upstream.url().to_string());
            let numbers = routes().map(|view| view.metrics.snapshot());
            subject.note(
                routes().map(|view| view.path.to_owned()).collect(),
                numbers.fold(Snapshot::default(), |sum, route| sum + route),
            );
            let state = upstream.state();
            let away = (!state.is_reachable).then(|| state.last_failure.unwrap_or_default());
            subject.judge(first.health, None, away);
            subjects.push(subject);
        }
        for view in router.views() {
            let mut subject = subject(Kind::Route, view.path);
            let numbers = view.metrics.snapshot();
            count_stream_seconds(view.path, &numbers);
            subject.note(vec![view.path.to_owned()], numbers);
            gauge!("sse_guard_availability_ratio", "route" => view.path.to_owned())
                .set(availability(&subject.past.window()));
            subject.judge(view.health, view.fill.filter(|_| view.own_total), None);
            subjects.push(subject);
        }
        // Of all routes that have no total of their own.
        let mut proxy = subject(Kind::Proxy, PROXY);
        if let Some(view) = router.views().find(|view| !view.own_total) {
            proxy.judge(view.health, view.fill, None);
        }
        subjects.push(proxy);
        for verdict in verdicts(&subjects, budgets) {
            export(verdict.kind, &verdict.name, verdict.state);
        }
        // A metric that is not set any more would stay as it was.
        for subject in &gone {
            export(subject.kind, &subject.name, State::Healthy);
        }
    }

    /// How everybody is: the proxy, upstreams, routes.
    pub(super) fn verdicts(&self, budgets: &Budgets) -> Vec<Verdict> {
        let mut verdicts = verdicts(&lock(&self.0), budgets);
        verdicts.sort_by_key(|verdict| (verdict.kind as u8, verdict.name.clone()));
        verdicts
    }
}

fn verdicts(subjects: &[Subject], budgets: &Budgets) -> Vec<Verdict> {
    let verdict = |subject: &Subject| match subject.kind {
        Kind::Proxy => with_budgets(subject.verdict(), budgets),
        Kind::Upstream | Kind::Route => subject.verdict(),
    };
    subjects.iter().map(verdict).collect()
}
