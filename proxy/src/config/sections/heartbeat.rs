//! `[heartbeat]`: what is sent into a quiet stream.

use std::time::Duration;

use humantime::format_duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::idle::Idle;
use super::rotation::Rotation;
use sse_guard::heartbeat::{HeartbeatLayer, HeartbeatStyle};
use sse_guard::{Event, EventError};

pub(super) const TABLE: Table = Table {
    name: "heartbeat",
    about: "Heartbeats, which keep quiet streams open.",
    reference: "What is sent into a quiet stream; see [which timeouts it must stay \
                below](timeouts.md).",
    keys: &[
        Key::route("heartbeat.interval", Shape::Duration)
            .or_off()
            .default("15s")
            .help(
                "Send a heartbeat after this long without output; keep it below every idle timeout \
                 on the path",
            )
            .advice(
                "The shortest of them counts: Heroku 55s; ALB, nginx and Traefik 60s; Cloudflare \
                 100s. Half of it is a good choice.",
            ),
        Key::route(
            "heartbeat.style",
            Shape::Choice(&["auto", "line", "block", "event"]),
        )
        .default("auto")
        .help(
            "auto: a comment line (every client ignores it), or the family's own ping; line, block \
             (comment and blank line), or event (a named event)",
        )
        .advice(
            "Use event if client code monitors the connection: comments are invisible to \
             EventSource.",
        ),
        Key::route("heartbeat.text", Shape::Text)
            .default("heartbeat")
            .help("Text of the comment of the styles line and block"),
        Key::route("heartbeat.event", Shape::Filled)
            .default("ping")
            .help("Event name of the style event"),
        Key::route("heartbeat.data", Shape::Filled)
            .default("{}")
            .help(
                "Data of the style event; {now} in it becomes the Unix time in seconds; clients \
                 drop an event without data",
            )
            .advice(
                "With {now}, clients can show when the last heartbeat was sent. Example: \
                 '{\"now\":{now}}'.",
            ),
        Key::route("heartbeat.immediate", Shape::BoolOrAuto)
            .default("auto")
            .help(
                "Send the first heartbeat right after the response head, because some proxies hold \
                 the head back until data follows; auto: over HTTP/2, and for families eventsource and mcp",
            )
            .advice("true or false applies to every family."),
    ],
};

/// Heartbeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time without output after which a heartbeat is sent; above zero; never if `None`.
    pub interval: Option<Duration>,
    /// The form of the heartbeat.
    pub style: Style,
    /// Whether the first heartbeat is sent at once; depends on the family if `None`.
    pub immediate: Option<bool>,
}

/// The form of a heartbeat; its texts have no line breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Style {
    /// Selected by the family.
    Auto {
        /// Of a comment, where that fits; perhaps empty.
        text: String,
    },
    /// A comment line without a blank line.
    Line {
        /// The comment, perhaps empty.
        text: String,
    },
    /// A comment line and a blank line.
    Block {
        /// The comment, perhaps empty.
        text: String,
    },
    /// An event.
    Event {
        /// Its name, not empty.
        name: String,
        /// Its data, not empty.
        data: String,
    },
}

impl Heartbeat {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            interval: interval(scope)?,
            style: style(scope)?,
            immediate: scope.get("heartbeat.immediate")?,
        })
    }

    /// The layer; none if heartbeats are off.
    pub(crate) fn layer(&self) -> Result<Option<HeartbeatLayer>, EventError> {
        let Some(interval) = self.interval else {
            return Ok(None);
        };
        let style = match &self.style {
            Style::Auto { text } => HeartbeatStyle::auto(text),
            Style::Line { text } => HeartbeatStyle::line(text),
            Style::Block { text } => HeartbeatStyle::block(text),
            Style::Event { name, data } => Ok(HeartbeatStyle::event(&Event::new(&**name, data)?)),
        }?;
        let layer = HeartbeatLayer::new(interval).style(style);
        Ok(Some(layer.immediate(self.immediate)))
    }

    /// Intervals with which a heartbeat comes too late.
    pub(in super::super) fn warnings(&self, idle: &Idle, rotation: &Rotation) -> Vec<String> {
        let Some(interval) = self.interval else {
            let both_off = idle.timeout.is_none().then(|| {
                "heartbeat.interval and idle.timeout are both off: a stream may stay open forever \
                 after its other end is gone"
                    .to_owned()
            });
            return both_off.into_iter().collect();
        };
        let late = |name: &str, end: Option<Duration>| {
            let end = end.filter(|end| interval >= *end)?;
            Some(format!(
                "heartbeat.interval {} is not below {name} {}: quiet streams end before a \
                 heartbeat is due",
                format_duration(interval),
                format_duration(end)
            ))
        };
        let warnings = [
            slow_heartbeat(interval),
            late("idle.timeout", idle.timeout),
            late("rotation.max_age", rotation.max_age),
        ];
        warnings.into_iter().flatten().collect()
    }
}

/// Time without output after which a heartbeat is sent; never if `None`.
pub(in super::super) fn interval(scope: Scope<'_>) -> Result<Option<Duration>, Mistake> {
    scope.get("heartbeat.interval")
}

fn style(scope: Scope<'_>) -> Result<Style, Mistake> {
    let style: String = scope.get("heartbeat.style")?;
    Ok(match style.as_str() {
        "block" => Style::Block {
            text: scope.get("heartbeat.text")?,
        },
        "event" => Style::Event {
            name: scope.get("heartbeat.event")?,
            data: scope.get("heartbeat.data")?,
        },
        "line" => Style::Line {
            text: scope.get("heartbeat.text")?,
        },
        _ => Style::Auto {
            text: scope.get("heartbeat.text")?,
        },
    })
}

/// Idle timeouts of other products in seconds, the shortest first.
const IDLE_TIMEOUTS: &[(&str, u64)] = &[
    ("the Yaffle EventSource polyfill", 45),
    ("Heroku", 55),
    ("nginx", 60),
    ("AWS ALB", 60),
    ("Traefik", 60),
    ("Cloudflare", 100),
    ("Envoy", 300),
];

fn slow_heartbeat(interval: Duration) -> Option<String> {
    let late: Vec<String> = IDLE_TIMEOUTS
        .iter()
        .filter(|(_, cut)| interval >= Duration::from_secs(*cut))
        .map(|(name, cut)| format!("{name} ({})", format_duration(Duration::from_secs(*cut))))
        .collect();
    if late.is_empty() {
        return None;
    }
    Some(format!(
        "heartbeat.interval {} is not below the idle timeout of {}, which cut quiet streams",
        format_duration(interval),
        late.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::source::tests::warnings;

    #[test]
    fn heartbeat_slower_than_a_product_names_that_product() {
        assert!(warnings("heartbeat.interval = '44s'").is_empty());
        let nginx = &warnings("heartbeat.interval = '1m'")[0];
        for name in ["Yaffle", "Heroku (55s)", "nginx (1m)", "ALB", "Traefik"] {
            assert!(nginx.contains(name), "{nginx}");
        }
        assert!(!nginx.contains("Cloudflare"), "{nginx}");
        assert!(warnings("heartbeat.interval = '5m'")[0].contains("Envoy (5m)"));
    }

    #[test]
    fn heartbeat_or_idle_timeout_alone_may_be_off() {
        assert!(warnings("heartbeat.interval = 'off'").is_empty());
        assert!(warnings("idle.timeout = 'off'").is_empty());
    }
}
