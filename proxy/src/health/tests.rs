use super::*;
use crate::config::{Health, from_file};
use sse_guard::EndReason;
use sse_guard::metrics::Histogram;
use std::time::Duration;

/// The bounds of a route with this `[health]`.
fn bounds(text: &str) -> Health {
    let text = format!("upstream.url = 'http://app'\n[health]\n{text}");
    from_file(&text).unwrap().config.routes[0].settings.health
}

/// A subject after some seconds of each kind of life.
struct Life {
    subject: Subject,
    bounds: Health,
    sums: Snapshot,
}

impl Life {
    fn new(text: &str) -> Self {
        Self {
            subject: Subject::new(SubjectKind::Route, "/feed"),
            bounds: bounds(text),
            sums: Snapshot::default(),
        }
    }

    fn seconds(&mut self, seconds: u32, each: impl Fn(&mut Snapshot)) -> &mut Self {
        for _ in 0..seconds {
            each(&mut self.sums);
            self.subject.note(vec!["/feed".into()], self.sums.clone());
            self.subject.update(&self.bounds, None, None);
        }
        self
    }

    /// What is wrong, and how much.
    fn found(&self) -> Vec<(&'static str, HealthState)> {
        let causes = self.subject.report().causes;
        causes
            .iter()
            .map(|cause| (cause.check, cause.state))
            .collect()
    }

    fn cause(&self) -> String {
        self.subject.report().causes[0].cause.clone()
    }
}

/// Ten streams with an event in each second, as it should be.
fn well(sums: &mut Snapshot) {
    sums.active = 10;
    sums.opened += 1;
    sums.add_ends(EndReason::ClientGone, 1);
    sums.events += 10;
    let second = Histogram::of(&[900; 10]);
    sums.gaps = std::mem::take(&mut sums.gaps) + second;
    sums.first_events = std::mem::take(&mut sums.first_events) + Histogram::of(&[40]);
}

#[tokio::test(start_paused = true)]
async fn healthy_subject_has_no_causes() {
    let mut life = Life::new("");
    life.seconds(2_000, well);
    assert_eq!(life.found(), []);
    assert_eq!(life.subject.state(), HealthState::Healthy);
}

#[tokio::test(start_paused = true)]
async fn failed_requests_are_errors_until_none_has_failed_for_long() {
    let mut life = Life::new("");
    life.seconds(100, well);
    life.seconds(20, |sums| {
        well(sums);
        sums.failed += 1;
    });
    assert_eq!(life.found(), [("errors", HealthState::Degraded)]);
    assert!(
        life.cause().contains("requests for a stream failed"),
        "{}",
        life.cause()
    );
    life.seconds(60, |sums| {
        sums.active = 10;
        sums.events += 10;
        sums.failed += 1;
    });
    assert!(
        life.found().contains(&("errors", HealthState::Failing)),
        "{:?}",
        life.found()
    );
    life.seconds(55 + 35, well);
    assert_eq!(life.found(), []);
}

#[tokio::test(start_paused = true)]
async fn failed_requests_of_one_client_do_not_make_a_route_failing() {
    let mut life = Life::new("");
    life.seconds(100, well);
    let of_one = |sums: &mut Snapshot| {
        well(sums);
        sums.failed += 100;
    };
    life.seconds(30, of_one);
    assert_eq!(life.found(), [("errors", HealthState::Degraded)]);
    assert!(
        life.cause().contains("all from one client"),
        "{}",
        life.cause()
    );
    life.seconds(30, |sums| {
        of_one(sums);
        sums.failed_others += 1;
    });
    assert_eq!(life.found(), [("errors", HealthState::Failing)]);
}

#[tokio::test(start_paused = true)]
async fn route_is_not_healthy_while_its_streams_wait_for_their_upstream() {
    let lost = |waiting| {
        move |sums: &mut Snapshot| {
            well(sums);
            sums.waiting = waiting;
        }
    };
    let mut life = Life::new("");
    life.seconds(100, well).seconds(2, lost(10));
    assert_eq!(life.found(), []);
    life.seconds(2, lost(10));
    assert_eq!(life.found(), [("waiting", HealthState::Failing)]);
    assert!(life.cause().starts_with("10 of 10"), "{}", life.cause());
    life.seconds(40, lost(3));
    assert_eq!(life.found(), [("waiting", HealthState::Degraded)]);
    life.seconds(40, well);
    assert_eq!(life.found(), [("waiting", HealthState::Degraded)]);
    life.seconds(40, lost(0));
    assert_eq!(life.found(), []);
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_few_have_no_effect() {
    let mut life = Life::new("");
    life.seconds(20, |_| {}).seconds(1, |sums| sums.failed += 4);
    life.seconds(20, |_| {});
    assert_eq!(life.found(), []);
}

#[tokio::test(start_paused = true)]
async fn streams_that_the_upstream_breaks_off_are_an_issue() {
    let mut life = Life::new("");
    life.seconds(100, well).seconds(5, |sums| {
        well(sums);
        sums.add_ends(EndReason::UpstreamError, 3);
    });
    assert_eq!(life.found(), [("breaks", HealthState::Degraded)]);
    assert!(life.cause().contains("broke"), "{}", life.cause());
}

#[tokio::test(start_paused = true)]
async fn event_rate_below_the_baseline_is_an_issue() {
    let silent = |sums: &mut Snapshot| sums.active = 10;
    let mut life = Life::new("");
    life.seconds(1_000, well).seconds(50, silent);
    assert_eq!(life.found(), [("events", HealthState::Degraded)]);
    life.seconds(15, silent);
    assert_eq!(life.found(), [("events", HealthState::Failing)]);
    assert!(life.cause().contains("baseline: "), "{}", life.cause());
    let mut life = Life::new("baseline = false");
    life.seconds(1_000, well).seconds(120, silent);
    assert_eq!(life.found(), []);
}

#[tokio::test(start_paused = true)]
async fn event_rate_below_its_bound_is_an_issue_at_once() {
    let mut life = Life::new("min_event_rate = '1/m'");
    life.seconds(20, |sums| sums.active = 10);
    assert_eq!(life.found(), []);
    life.seconds(30, |sums| sums.active = 10);
    assert_eq!(life.found(), [("events", HealthState::Failing)]);
    assert!(
        life.cause().contains("health.min_event_rate requires 1.0"),
        "{}",
        life.cause()
    );
}

#[tokio::test(start_paused = true)]
async fn slow_first_events_and_long_gaps_are_issues_by_bound_or_baseline() {
    let slow = |sums: &mut Snapshot| {
        sums.active = 10;
        sums.events += 10;
        sums.opened += 1;
        sums.gaps = std::mem::take(&mut sums.gaps) + Histogram::of(&[9_000; 10]);
        sums.first_events = std::mem::take(&mut sums.first_events) + Histogram::of(&[9_000]);
    };
    let mut life = Life::new("");
    life.seconds(1_000, well).seconds(60, slow);
    let (first, gap) = (
        ("first_event", HealthState::Failing),
        ("gap", HealthState::Degraded),
    );
    assert_eq!(life.found(), [first, gap]);
    assert!(life.cause().contains("baseline: "), "{}", life.cause());
    let mut life = Life::new("max_first_event_p95 = '8s'\nmax_gap_p99 = '1s'");
    life.seconds(60, slow);
    let (first, gap) = (
        ("first_event", HealthState::Degraded),
        ("gap", HealthState::Failing),
    );
    assert_eq!(life.found(), [first, gap]);
    assert!(life.cause().contains("threshold: 8s"), "{}", life.cause());
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_early_are_an_issue_unless_they_may_be_short() {
    let short = |sums: &mut Snapshot| {
        sums.opened += 1;
        sums.add_ends(EndReason::UpstreamEnd, 1);
        sums.upstream_ends = std::mem::take(&mut sums.upstream_ends) + Histogram::of(&[300]);
    };
    let mut life = Life::new("");
    life.seconds(30, short);
    assert_eq!(life.found(), [("early_ends", HealthState::Failing)]);
    let mut life = Life::new("early_ends = 'off'");
    life.seconds(30, short);
    assert_eq!(life.found(), []);
}

#[tokio::test(start_paused = true)]
async fn reconnects_are_an_issue_unless_rotation_caused_them() {
    let back = |sums: &mut Snapshot| {
        sums.active = 20;
        sums.opened += 1;
        sums.reconnects += 1;
        sums.events += 20;
    };
    let mut life = Life::new("");
    life.seconds(30, |sums| {
        back(sums);
        sums.reconnects_after_cut += 1;
    });
    assert_eq!(life.found(), [("reconnects", HealthState::Failing)]);
    assert!(
        life.cause().contains("reconnected within a minute"),
        "{}",
        life.cause()
    );
    let mut life = Life::new("");
    life.seconds(30, back);
    assert_eq!(life.found(), []);
}

#[tokio::test(start_paused = true)]
async fn limit_that_is_near_or_reached_is_an_issue() {
    for (streams, state) in [
        (89, HealthState::Healthy),
        (90, HealthState::Degraded),
        (99, HealthState::Degraded),
        (100, HealthState::Failing),
    ] {
        let mut subject = Subject::new(SubjectKind::Route, "/feed");
        for _ in 0..3 {
            subject.note(Vec::new(), Snapshot::default());
            subject.update(&bounds(""), Some((streams, 100)), None);
        }
        assert_eq!(subject.state(), state, "{streams}");
    }
}

#[tokio::test(start_paused = true)]
async fn upstream_that_is_away_is_failing_at_once_and_healthy_when_it_is_back() {
    let mut subject = Subject::new(SubjectKind::Upstream, "http://app/");
    subject.note(Vec::new(), Snapshot::default());
    subject.update(&bounds(""), None, Some("cannot connect".into()));
    let report = subject.report();
    assert_eq!(report.state, HealthState::Failing);
    assert_eq!(report.causes[0].cause, "cannot connect");
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(subject.report().since_s, 7);
    subject.update(&bounds(""), None, None);
    assert_eq!(subject.state(), HealthState::Healthy);
}

#[tokio::test(start_paused = true)]
async fn numbers_of_other_routes_do_not_continue_a_window() {
    let mut subject = Subject::new(SubjectKind::Upstream, "http://app/");
    let mut sums = Snapshot::default();
    subject.note(vec!["/a".into()], sums.clone());
    sums.failed = 1_000;
    for _ in 0..10 {
        subject.note(vec!["/a".into(), "/b".into()], sums.clone());
        subject.update(&bounds(""), None, None);
    }
    assert_eq!(subject.state(), HealthState::Healthy);
}
