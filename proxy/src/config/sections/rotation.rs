//! `[rotation]`: when old streams end, so that their clients reconnect.

use std::time::Duration;

use http::Method;
use humantime::format_duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use sse_guard::inject::InjectLayer;
use sse_guard::rotation::RotationLayer;
use sse_guard::{Event, EventError};

pub(super) const TABLE: Table = Table {
    name: "rotation",
    about: "Rotation: old streams end between two events, and their clients reconnect.",
    reference: "When old streams end, so that their clients reconnect.",
    keys: &[
        Key::route("rotation.max_age", Shape::Duration)
            .or_off()
            .default("1h")
            .help("End a stream at this age, so that its client reconnects on a fresh connection")
            .advice(
                "A shorter age spreads clients sooner over new instances behind a load balancer.",
            ),
        Key::route("rotation.jitter", Shape::Fraction)
            .default("0.1")
            .help(
                "Share of rotation.max_age by which ends are spread at random, so that clients do \
                 not reconnect all at once",
            ),
        Key::route("rotation.retry", Shape::Duration)
            .default("2s")
            .help("Delay before a rotated client reconnects, sent as retry:")
            .advice(
                "A longer delay reduces the load of a restart; with a shorter one clients miss \
                 less.",
            ),
        Key::route("rotation.retry_on_open", Shape::Duration)
            .or_off()
            .default("off")
            .help(
                "Send retry: with the first event, which resets a delay set by an earlier rotation",
            )
            .advice(
                "Spread at random like rotation.retry; without a retry: browsers wait 3 to 5 s.",
            ),
        Key::route("rotation.methods", Shape::Methods)
            .example("[\"GET\"]")
            .unset(|_, _| Some("those of family eventsource".to_owned()))
            .help(
                "Rotate streams of requests with these methods, whatever the family and the \
                 client's headers are; default: streams of family eventsource",
            )
            .advice(
                "Other streams are single responses, such as a model's, which must not be cut.",
            ),
        Key::route("rotation.event", Shape::Filled)
            .or_off()
            .default("off")
            .help("Name of a last event, for client code that handles rotation"),
        Key::route("rotation.data", Shape::Filled)
            .default("{}")
            .help("Data of the last event that rotation.event names"),
    ],
};

/// Rotation of old streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Age at which a stream is ended; above zero; never if `None`.
    pub max_age: Option<Duration>,
    /// Share of `max_age` by which ends are spread; 0 to 1.
    pub jitter: f64,
    /// The delay before the client reconnects; above zero.
    pub retry: Duration,
    /// The same, sent with the first event; above zero; not sent if `None`.
    pub retry_on_open: Option<Duration>,
    /// Methods whose streams are rotated, at least one; depends on the family if `None`.
    pub methods: Option<Vec<Method>>,
    /// Name and data of a last event, each one line and not empty.
    pub event: Option<(String, String)>,
}

impl Rotation {
    pub(in super::super) fn read(scope: Scope<'_>) -> Result<Self, Mistake> {
        Ok(Self {
            max_age: scope.get("rotation.max_age")?,
            jitter: scope.get("rotation.jitter")?,
            retry: scope.get("rotation.retry")?,
            retry_on_open: scope.get("rotation.retry_on_open")?,
            methods: scope.get_if_set("rotation.methods")?,
            event: match scope.get("rotation.event")? {
                Some(name) => Some((name, scope.get("rotation.data")?)),
                None => None,
            },
        })
    }

    /// The layer that ends old streams.
    pub(crate) fn layer(&self) -> Result<RotationLayer, EventError> {
        let mut layer = RotationLayer::new()
            .retry(self.retry)
            .retry_on_open(self.retry_on_open);
        if let Some(methods) = &self.methods {
            layer = layer.methods(methods.iter().cloned());
        }
        if let Some(age) = self.max_age {
            layer = layer.max_age(age, self.jitter);
        }
        match &self.event {
            Some((name, data)) => Ok(layer.event(Event::new(&**name, data)?)),
            None => Ok(layer),
        }
    }

    /// The layer that sends events to streams of the same requests.
    pub(crate) fn inject_layer(&self) -> InjectLayer {
        match &self.methods {
            Some(methods) => InjectLayer::new().methods(methods.iter().cloned()),
            None => InjectLayer::new(),
        }
    }

    pub(in super::super) fn warning(&self) -> Option<String> {
        let max_age = self.max_age.filter(|max_age| self.retry >= *max_age)?;
        Some(format!(
            "rotation.retry {} is not below rotation.max_age {}: clients wait longer than they \
             are connected",
            format_duration(self.retry),
            format_duration(max_age)
        ))
    }
}
