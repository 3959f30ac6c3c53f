//! `[early]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

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
            .help(
                "Time without a response head after which the early answer begins; failures before \
                 that keep their status; default: heartbeat.interval, or 15s if that is off",
            )
            .advice("Keep it below upstream.head_timeout."),
    ],
};
