//! Health of routes and upstreams, with causes and remedies.
//!
//! Each second, the numbers of the last minute are compared with the thresholds of the config, or with the
//! previous quarter of an hour. An issue takes effect only after it has lasted, so that states do not flap: see
//! [`Debounced`].

mod criterion;
mod debounce;
#[cfg(test)]
mod tests;
mod window;

pub(super) use debounce::HealthState;

use super::config::Health;
use super::overload::{Budgets, LoadLevel};
use super::route::Router;
use criterion::{Criterion, CriterionInput, Issue};
use debounce::Debounced;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use serde::Serialize;
use sse_guard::internal::lock;
use sse_guard::metrics::Snapshot;
use std::sync::Mutex;
use tokio::time::Instant;
use window::{Window, WindowCounts};

/// What has a health state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SubjectKind {
    Proxy,
    Upstream,
    Route,
}

impl SubjectKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Upstream => "upstream",
            Self::Route => "route",
        }
    }
}

/// The health of the proxy, a route or an upstream, and its causes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HealthReport {
    pub(super) kind: SubjectKind,
    pub(super) name: String,
    pub(super) state: HealthState,
    pub(super) since_s: u64,
    pub(super) causes: Vec<Cause>,
}

/// Why something is less than healthy.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cause {
    pub(super) check: &'static str,
    pub(super) state: HealthState,
    pub(super) cause: String,
    pub(super) remedy: &'static str,
}

/// The name of the proxy itself.
const PROXY: &str = "sse-guard";

/// The proxy, a route or an upstream.
#[derive(Debug)]
struct Subject {
    kind: SubjectKind,
    name: String,
    /// The routes whose numbers add up to its own.
    routes: Vec<String>,
    window: Window,
    criteria: [(Debounced, Option<Issue>); Criterion::ALL.len()],
    since: Instant,
}

impl Subject {
    fn new(kind: SubjectKind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            routes: Vec::new(),
            window: Window::default(),
            criteria: Default::default(),
            since: Instant::now(),
        }
    }

    fn state(&self) -> HealthState {
        let states = self.criteria.iter().map(|(debounced, _)| debounced.state);
        states.max().unwrap_or_default()
    }

    fn note(&mut self, routes: Vec<String>, numbers: Snapshot) {
        if self.routes != routes {
            // The sums of other routes do not continue these.
            self.routes = routes;
            self.window = Window::default();
        }
        self.window.note(numbers);
    }

    fn update(&mut self, bounds: &Health, fill: Option<(u64, u64)>, away: Option<String>) {
        let window = self.window.last_minute();
        // An upstream's own state shows it already.
        let waiting = (self.kind == SubjectKind::Route)
            .then_some((window.numbers.waiting, window.numbers.active));
        let input = CriterionInput {
            bounds,
            window,
            waiting,
            baseline: self.window.baseline(),
            fill,
            away,
        };
        let was = self.state();
        for (criterion, (debounced, known)) in Criterion::ALL.into_iter().zip(&mut self.criteria) {
            let issue = criterion.check(&input);
            let raw = issue
                .as_ref()
                .map_or(HealthState::Healthy, |issue| issue.state);
            let before = debounced.state;
            let has_changed = match criterion.is_settled() {
                true => debounced.set(raw),
                false => debounced.note(raw),
            };
            // An issue keeps its cause until it counts as over.
            if issue.is_some() || debounced.state == HealthState::Healthy {
                *known = issue;
            }
            if has_changed && !criterion.is_settled() {
                log_change(
                    self.kind,
                    &self.name,
                    criterion,
                    before,
                    debounced.state,
                    known.as_ref(),
                );
            }
        }
        if self.state() != was {
            self.since = Instant::now();
        }
    }

    fn report(&self) -> HealthReport {
        let criteria = Criterion::ALL.into_iter().zip(&self.criteria);
        let causes = criteria.filter(|(_, (debounced, _))| debounced.state > HealthState::Healthy);
        let causes = causes.filter_map(|(criterion, (debounced, issue))| {
            let issue = issue.as_ref()?;
            Some(Cause {
                check: criterion.as_str(),
                state: debounced.state,
                cause: issue.cause.clone(),
                remedy: issue.remedy,
            })
        });
        HealthReport {
            kind: self.kind,
            name: self.name.clone(),
            state: self.state(),
            since_s: self.since.elapsed().as_secs(),
            causes: causes.collect(),
        }
    }
}

fn export(kind: SubjectKind, name: &str, state: HealthState) {
    gauge!("sse_guard_health", "kind" => kind.as_str(), "name" => name.to_owned())
        .set(state.number());
}

/// The proxy's report with the causes of its budgets, which keep their own times and log their changes.
fn with_budgets(mut proxy: HealthReport, budgets: &Budgets) -> HealthReport {
    for (resource, status) in budgets.status() {
        let state = match status.level {
            LoadLevel::Normal if status.is_near() => HealthState::Degraded,
            LoadLevel::Normal => continue,
            LoadLevel::Rejecting | LoadLevel::Shedding => HealthState::Failing,
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

fn log_change(
    kind: SubjectKind,
    name: &str,
    criterion: Criterion,
    before: HealthState,
    state: HealthState,
    issue: Option<&Issue>,
) {
    let (kind, check) = (kind.as_str(), criterion.as_str());
    match (issue, state) {
        (Some(Issue { cause, remedy, .. }), HealthState::Degraded) if before < state => {
            tracing::warn!(
                kind,
                name,
                check,
                "the {kind} is degraded: {cause}; {remedy}"
            );
        }
        (Some(Issue { cause, remedy, .. }), HealthState::Failing) => {
            tracing::warn!(
                kind,
                name,
                check,
                "the {kind} is failing: {cause}; {remedy}"
            );
        }
        (_, HealthState::Healthy) => {
            tracing::info!(kind, name, check, "the {kind} is healthy again");
        }
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
fn availability(window: &WindowCounts) -> f64 {
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

/// Monitors the health of the proxy, all routes and all upstreams.
#[derive(Debug, Default)]
pub(super) struct HealthMonitor(Mutex<Vec<Subject>>);

impl HealthMonitor {
    /// Call it each second.
    pub(super) fn update(&self, router: &Router, budgets: &Budgets) {
        let mut subjects = lock(&self.0);
        let mut gone = std::mem::take(&mut *subjects);
        let mut subject = |kind, name: &str| {
            let known = gone
                .iter()
                .position(|known| known.kind == kind && known.name == name);
            known.map_or_else(|| Subject::new(kind, name), |at| gone.swap_remove(at))
        };
        for upstream in router.endpoints().upstreams() {
            let routes = || {
                router
                    .views()
                    .filter(|view| view.upstream == upstream.url())
            };
            let Some(first) = routes().next() else {
                continue;
            };
            let mut subject = subject(SubjectKind::Upstream, &upstream.url().to_string());
            let numbers = routes().map(|view| view.metrics.snapshot());
            subject.note(
                routes().map(|view| view.path.to_owned()).collect(),
                numbers.fold(Snapshot::default(), |sum, route| sum + route),
            );
            let state = upstream.state();
            let away = (!state.is_reachable).then(|| state.last_failure.unwrap_or_default());
            subject.update(first.health, None, away);
            subjects.push(subject);
        }
        for view in router.views() {
            let mut subject = subject(SubjectKind::Route, view.path);
            let numbers = view.metrics.snapshot();
            count_stream_seconds(view.path, &numbers);
            subject.note(vec![view.path.to_owned()], numbers);
            gauge!("sse_guard_availability_ratio", "route" => view.path.to_owned())
                .set(availability(&subject.window.last_minute()));
            subject.update(view.health, view.fill.filter(|_| view.own_total), None);
            subjects.push(subject);
        }
        // Of all routes that have no total of their own.
        let mut proxy = subject(SubjectKind::Proxy, PROXY);
        if let Some(view) = router.views().find(|view| !view.own_total) {
            proxy.update(view.health, view.fill, None);
        }
        subjects.push(proxy);
        for report in reports(&subjects, budgets) {
            export(report.kind, &report.name, report.state);
        }
        // A metric that is not set any more would stay as it was.
        for subject in &gone {
            export(subject.kind, &subject.name, HealthState::Healthy);
        }
    }

    /// The health of the proxy, all upstreams and all routes.
    pub(super) fn reports(&self, budgets: &Budgets) -> Vec<HealthReport> {
        let mut reports = reports(&lock(&self.0), budgets);
        reports.sort_by_key(|report| (report.kind as u8, report.name.clone()));
        reports
    }
}

fn reports(subjects: &[Subject], budgets: &Budgets) -> Vec<HealthReport> {
    let report = |subject: &Subject| match subject.kind {
        SubjectKind::Proxy => with_budgets(subject.report(), budgets),
        SubjectKind::Upstream | SubjectKind::Route => subject.report(),
    };
    subjects.iter().map(report).collect()
}
