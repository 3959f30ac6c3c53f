//! `[drain]`.

use super::super::key::{Key, Table};
use super::super::kind::Shape;

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
        Key::proxy("drain.answers", Shape::DurationOrZero)
            .default("20s")
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
