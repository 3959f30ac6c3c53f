//! `[tunnel]`: WebSockets and other upgraded connections.

use std::time::Duration;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;

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

/// Time without a byte after which a tunnel is closed; never if `None`.
pub(in super::super) fn idle_timeout(scope: Scope<'_>) -> Result<Option<Duration>, Mistake> {
    scope.get("tunnel.idle_timeout")
}
