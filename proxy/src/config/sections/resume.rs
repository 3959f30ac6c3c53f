//! `[resume]`: streams that survive the loss of their upstream.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::given::{AllValues, Scope};
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::{Choice, Rate, choice};
use super::idle::Idle;
use super::top;
use sse_guard::family::Family;
use sse_guard::idle_timeout::EventTimeout;
use sse_guard::resume::ResumeLayer;

pub(super) const TABLE: Table = Table {
    name: "resume",
    about: "Streams that survive the loss of their upstream: clients get heartbeats until it is \
            back, then the events that they would have missed. `resume = \"lossy\"` is short for a \
            table with this mode.",
    reference: "Streams that survive a restart of their upstream; see [resume](resume.md).",
    keys: &[
        Key::route("resume.mode", Shape::Choice(Mode::WORDS))
            .example("\"on\"")
            .unset(|values, _| unset_mode(values))
            .help(
                "Reconnect a lost upstream behind a live EventSource stream; on: if its events \
                 have ids; lossy: always; default: on for routes with family = eventsource, else \
                 off",
            )
            .advice(
                "The upstream must honour Last-Event-ID; use lossy if missing events do no harm. A \
                 stream takes some 2 KiB more.",
            ),
        Key::route("resume.on_end", Shape::Bool)
            .default("false")
            .help("Also reconnect when the upstream ends the stream properly")
            .advice("For upstreams whose own timeouts end streams."),
        Key::route("resume.backoff", Shape::Duration)
            .default("1s")
            .help(
                "Maximum delay before the first reconnect attempt; doubles with each attempt that \
                 fails or yields no event; ends early once the upstream is back",
            )
            .advice(
                "The actual delay is random, between the upstream's own retry: and this maximum.",
            ),
        Key::route("resume.max_backoff", Shape::Duration)
            .default("30s")
            .help("Upper limit of resume.backoff as it doubles"),
        Key::route("resume.attempts", Shape::Count)
            .or_off()
            .default("off")
            .help(
                "Reconnect attempts after which a stream fails; off: any number within \
                 resume.give_up",
            ),
        Key::route("resume.give_up", Shape::Duration)
            .default("5m")
            .help("Time without its upstream after which a stream fails")
            .advice("Set it above the duration of a deployment of the upstream."),
        Key::route("resume.reset_after", Shape::Duration)
            .default("30s")
            .formerly("resume.stable")
            .help(
                "Age at which a new upstream connection counts as stable; attempts and backoff \
                 then start from zero",
            ),
        Key::route("resume.dedup_window", Shape::Count)
            .default("256")
            .formerly("resume.look_back")
            .help("Event ids remembered per stream, to drop events that the upstream repeats"),
        Key::route("resume.rate", Shape::Rate)
            .or_off()
            .default("100/s")
            .help(
                "Rate of reconnect attempts per upstream, over all clients; further streams wait \
                 in a queue",
            )
            .advice("Set it to the rate that the upstream can accept right after its start."),
        Key::route("resume.max_concurrent", Shape::Count)
            .default("32")
            .formerly("resume.at_once")
            .help("Maximum concurrent reconnect attempts per upstream"),
        Key::route("resume.max_connection_age", Shape::Duration)
            .or_off()
            .default("off")
            .formerly("upstream.max_age")
            .help(
                "Replace the upstream connection of a resumable stream at this age, plus or minus \
                 10 %; its client stays connected",
            )
            .advice("Spreads streams over new instances of the upstream. See resume.mode."),
    ],
};

/// Resume after the loss of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Whether streams without event ids are resumed, too.
    pub lossy: bool,
    /// Whether streams that the upstream ends are resumed, too.
    pub on_end: bool,
    /// Maximum delay before the first attempt; above zero.
    pub backoff: Duration,
    /// Maximum delay before any attempt; above zero.
    pub max_backoff: Duration,
    /// Maximum attempts; unlimited if `None`.
    pub attempts: Option<NonZeroU32>,
    /// Time without the upstream after which a stream fails; above zero.
    pub give_up: Duration,
    /// Age at which a connection counts as stable; above zero.
    pub reset_after: Duration,
    /// Number of remembered event ids.
    pub dedup_window: NonZeroU32,
    /// Rate of reconnect attempts; unlimited if `None`.
    pub rate: Option<Rate>,
    /// Maximum concurrent reconnect attempts.
    pub max_concurrent: NonZeroU32,
    /// Age at which its connection is replaced; never if `None`.
    pub max_connection_age: Option<Duration>,
}

/// Connections that were made together are not replaced together.
const MAX_AGE_JITTER: f64 = 0.1;

/// Which streams are resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    On,
    Lossy,
}

choice! { Mode {
    "off" => Off,
    "on" => On,
    "lossy" => Lossy,
} }

impl Resume {
    /// None if streams are not resumed.
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Option<Self>, Mistake> {
        let mode = match scope.get_if_set("resume.mode")? {
            Some(mode) => mode,
            None if top::family(scope)? == Some(Family::EventSource) => Mode::On,
            None => Mode::Off,
        };
        if mode == Mode::Off {
            return Ok(None);
        }
        Ok(Some(Self {
            lossy: mode == Mode::Lossy,
            on_end: scope.get("resume.on_end")?,
            backoff: scope.get("resume.backoff")?,
            max_backoff: scope.get("resume.max_backoff")?,
            attempts: scope.get("resume.attempts")?,
            give_up: scope.get("resume.give_up")?,
            reset_after: scope.get("resume.reset_after")?,
            dedup_window: scope.get("resume.dedup_window")?,
            rate: scope.get("resume.rate")?,
            max_concurrent: scope.get("resume.max_concurrent")?,
            max_connection_age: scope.get("resume.max_connection_age")?,
        }))
    }

    /// The layer, with the timeouts of silent upstreams; without the queue of reconnects.
    pub(crate) fn layer(&self, idle: &Idle) -> ResumeLayer {
        let layer = ResumeLayer::new()
            .lossy(self.lossy)
            .on_end(self.on_end)
            .idle_timeout(idle.timeout)
            .event_timeout(match idle.event_timeout {
                EventTimeout::After(timeout) => Some(timeout),
                // Answers of models are not resumed.
                _ => None,
            })
            .ignore_events(idle.ignore_events.iter().cloned())
            .backoff(self.backoff, self.max_backoff)
            .attempts(self.attempts.map(u32::from))
            .give_up(self.give_up)
            .reset_after(self.reset_after)
            .dedup_window(usize::try_from(self.dedup_window.get()).unwrap_or(usize::MAX));
        match self.max_connection_age {
            Some(age) => layer.max_age(age, MAX_AGE_JITTER),
            None => layer,
        }
    }
}

fn unset_mode(values: &AllValues) -> Option<String> {
    let resume = Resume::read(values.catch_all()?).ok()?;
    let mode = if resume.is_some() { "on" } else { "off" };
    Some(format!("\"{mode}\""))
}
