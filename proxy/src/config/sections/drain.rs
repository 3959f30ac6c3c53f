//! `[drain]`: how the process stops.

use std::time::Duration;

use humantime::format_duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::{Mistake, ValueSource};
use super::super::value::Value;

pub(super) const TABLE: Table = Table {
    name: "drain",
    about: "Shutdown, at SIGTERM.",
    reference: "What happens when the process stops; see [stop and \
                restart](operations.md#stop-and-restart).",
    keys: &[
        Key::proxy("drain.delay", Shape::DurationOrZero)
            .default("0s")
            .help(
                "Time between the stop signal, which turns readiness red, and the drain; \
                 everything is served meanwhile",
            )
            .advice(
                "Set it to the time that your load balancer takes to act on /readyz: two of its \
                 checks, or 5s to 10s for the endpoints of Kubernetes.",
            ),
        Key::proxy("drain.window", Shape::DurationOrZero)
            .default("10s")
            .help(
                "Time over which streams end at shutdown; the listener stays open, and new streams \
                 get a delay (retry: or Retry-After) that ends after the window",
            )
            .advice(
                "Clients return after it, spread over time. Use a longer window for more streams.",
            ),
        Key::proxy(ANSWERS, Shape::DurationOrZero)
            .default("20s")
            .raised(raised_answers)
            .help(
                "Time limit at shutdown for streams that are not rotated, such as those of models; \
                 at least drain.window",
            )
            .advice(
                "It starts together with drain.window. The process may take 5 s more, so the \
                 service manager must wait longer than drain.delay + drain.answers + 5 s \
                 (TimeoutStopSec, stop_grace_period, terminationGracePeriodSeconds). With the \
                 defaults that is 25 s; Kubernetes waits for 30 s.",
            ),
    ],
};

/// How the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Time for which everything is served while readiness is red; may be zero.
    pub delay: Duration,
    /// Time over which streams then end; zero ends them at once.
    pub window: Duration,
    /// Time limit for streams that are not rotated, from the start of the window; not shorter than it.
    pub answers: Duration,
}

const ANSWERS: &str = "drain.answers";

impl Drain {
    pub(in super::super) fn read(proxy: Scope<'_>) -> Result<Self, Mistake> {
        let window = proxy.get("drain.window")?;
        let answers: Duration = proxy.get(ANSWERS)?;
        Ok(Self {
            delay: proxy.get("drain.delay")?,
            window,
            answers: answers.max(window),
        })
    }

    /// A default that is raised does not contradict anything.
    pub(in super::super) fn warning(self, proxy: Scope<'_>) -> Result<Option<String>, Mistake> {
        let answers: Duration = proxy.get(ANSWERS)?;
        let given = proxy.given(ANSWERS);
        let is_set = given.is_some_and(|given| given.source != ValueSource::Default);
        Ok((is_set && answers < self.answers).then(|| {
            format!(
                "drain.answers {} is below drain.window {}, and raised to it: set it to the window \
                 or more",
                format_duration(answers),
                format_duration(self.window)
            )
        }))
    }
}

/// The value of `drain.answers` that applies in place of a smaller one, and the key that raises it.
fn raised_answers(proxy: Scope<'_>) -> Option<(Value, &'static str)> {
    let answers: Duration = proxy.get(ANSWERS).ok()?;
    let drain = Drain::read(proxy).ok()?;
    (answers < drain.answers).then_some((Value::Duration(drain.answers), "drain.window"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::source::tests::config;

    #[test]
    fn drain_answers_below_the_window_are_raised_with_a_warning_if_set() {
        let text = |drain: &str| format!("upstream.url = 'http://app'\n{drain}");
        let raised = config(&text("drain.window = '1m'\ndrain.answers = '30s'"));
        assert_eq!(raised.drain.answers, Duration::from_secs(60));
        let told = "drain.answers 30s is below drain.window 1m, and raised to it: set it to the window or more";
        assert_eq!(raised.warnings, [told]);
        let by_default = config(&text("drain.window = '1m'"));
        assert_eq!(by_default.drain.answers, Duration::from_secs(60));
        assert!(by_default.warnings.is_empty());
    }
}
