//! `[early]`: heartbeats before the upstream has responded.

use std::time::Duration;

use humantime::format_duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::heartbeat;
use sse_guard::early::EarlyLayer;
use sse_guard::heartbeat::DEFAULT_INTERVAL;

pub(super) const TABLE: Table = Table {
    name: "early",
    about: "Heartbeats before the upstream has responded.",
    reference: "Heartbeats before the upstream has responded; see [early \
                answers](early-answers.md).",
    keys: &[
        Key::route("early.enabled", Shape::Bool)
            .default("false")
            .help(
                "Respond to requests for event streams with 200 and heartbeats when the upstream \
                 is slow; the upstream's own status and headers are then lost",
            )
            .advice(
                "For models that take longer to respond than an idle timeout on the path allows. A \
                 late failure becomes an error event, or a broken transfer.",
            ),
        Key::route("early.after", Shape::Duration)
            .example("\"15s\"")
            .unset(|values, _| unset_after(values.catch_all()))
            .help(
                "Time without a response head after which the early answer begins; failures before \
                 that keep their status; default: heartbeat.interval, or 15s if that is off",
            )
            .advice("Keep it below upstream.head_timeout."),
    ],
};

/// Early answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early {
    /// Whether early answers are on.
    pub enabled: bool,
    /// Time without a response head after which they begin; above zero.
    pub after: Duration,
}

impl Early {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        let after = match scope.get_if_set("early.after")? {
            Some(after) => after,
            None => heartbeat::interval(scope)?.unwrap_or(DEFAULT_INTERVAL),
        };
        Ok(Self {
            enabled: scope.get("early.enabled")?,
            after,
        })
    }

    /// The layer; none if early answers are off.
    pub(crate) fn layer(self) -> Option<EarlyLayer> {
        self.enabled.then(|| EarlyLayer::new(self.after))
    }

    pub(in super::super) fn warning(self, head_timeout: Duration) -> Option<String> {
        (self.enabled && self.after >= head_timeout).then(|| {
            format!(
                "early.after {} is not below upstream.head_timeout {}: the request fails before \
                 the early answer begins",
                format_duration(self.after),
                format_duration(head_timeout)
            )
        })
    }
}

fn unset_after(scope: Option<Scope<'_>>) -> Option<String> {
    let early = Early::read(scope?).ok()?;
    Some(format!("\"{}\"", format_duration(early.after)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::source::tests::{config, warnings};

    #[test]
    fn early_answer_begins_after_the_heartbeat_interval_by_default() {
        let early = |text: &str| {
            let text = format!("upstream.url = 'http://app'\n{text}");
            config(&text).routes[0].settings.early
        };
        let after = |secs| Duration::from_secs(secs);
        assert!(!early("").enabled);
        assert_eq!(early("").after, after(15));
        assert_eq!(early("heartbeat.interval = '7s'").after, after(7));
        assert_eq!(early("heartbeat.interval = 'off'").after, after(15));
        let set = early("early = { enabled = true, after = '3s' }");
        assert!(set.enabled);
        assert_eq!(set.after, after(3));
        let of_route =
            early("[[route]]\npath = '/v1'\nearly.enabled = true\nheartbeat.interval = '9s'");
        assert_eq!((of_route.enabled, of_route.after), (true, after(9)));
    }

    #[test]
    fn early_answer_that_never_begins_gets_a_warning() {
        let late = "early.after = '2m'";
        assert!(warnings(late).is_empty());
        let warnings = |text: &str| warnings(&format!("early.enabled = true\n{text}"));
        assert!(warnings("early.after = '1m'").is_empty());
        let start = "early.after 2m is not below upstream.head_timeout 2m:";
        assert!(warnings(late)[0].starts_with(start));
    }
}
