//! `[rotation]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

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
