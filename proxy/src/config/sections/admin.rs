//! `[admin]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

pub(super) const TABLE: Table = Table {
    name: "admin",
    about: "The admin address. `admin = false` in place of this table switches it off.",
    reference: "Metrics, health, API and dashboard; see [admin \
                address](operations.md#admin-address).",
    keys: &[
        Key::proxy("admin.listen", Shape::Address)
            .or_off()
            .default("127.0.0.1:9090")
            .help(
                "Address of metrics, health, stream table and dashboard; any address other than \
                 loopback requires admin.token",
            )
            .advice("For Prometheus on another machine set 0.0.0.0:9090 and a token."),
        Key::proxy("admin.token", Shape::Secret)
            .or_off()
            .default("off")
            .help("Bearer token that the admin address requires; best set by SSE_GUARD_ADMIN_TOKEN")
            .advice("The environment keeps it out of files that are copied."),
        Key::proxy("admin.user_header", Shape::Header)
            .or_off()
            .default("off")
            .help(
                "Header, set by trusted proxies, that identifies the user; shown with the stream \
                 and usable as a target of /api/send; removed from requests of other peers",
            )
            .advice(
                "Your gateway must set or remove it in every request; otherwise clients choose its \
                 value.",
            ),
    ],
};
