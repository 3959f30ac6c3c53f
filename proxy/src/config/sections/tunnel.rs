//! `[tunnel]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "tunnel",
    about: "WebSockets and other upgraded connections.",
    reference: "WebSockets and other upgraded connections.",
    keys: &[Key::route("tunnel.idle_timeout", Shape::Duration)
        .or_off()
        .default("1h")
        .help(
            "Close a WebSocket or other tunnel after this long without a byte in either direction",
        )
        .advice("Most WebSocket clients send a ping within a minute.")],
};
