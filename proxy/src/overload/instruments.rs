//! Metrics of budgets, connections and tunnels.

use super::Usage;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use sse_guard::internal::CloseReason;

pub(crate) fn describe() {
    let memory = "Memory that counts against the budget";
    describe_gauge!("sse_guard_memory_used_bytes", Unit::Bytes, memory);
    let memory = "Memory budget minus the reserve for bursts; +Inf without a budget";
    describe_gauge!("sse_guard_memory_budget_bytes", Unit::Bytes, memory);
    let files = "Open files";
    describe_gauge!("sse_guard_files_used", Unit::Count, files);
    let files = "Budget of open files; +Inf without a budget";
    describe_gauge!("sse_guard_files_budget", Unit::Count, files);
    let connections = "Connections of clients; idle ones serve no request";
    describe_gauge!("sse_guard_connections", Unit::Count, connections);
    describe_gauge!(
        "sse_guard_tunnels",
        Unit::Count,
        "Open tunnels, such as WebSockets"
    );
    gauge!("sse_guard_tunnels").increment(0.0);
    let connections = "HTTP/2 connections to upstreams";
    let name = "sse_guard_upstream_shared_connections";
    describe_gauge!(name, Unit::Count, connections);
    gauge!(name).increment(0.0);
    let closed = "Tunnels that were closed because they were idle, or because memory or files ran \
                  short";
    describe_counter!("sse_guard_tunnels_closed_total", Unit::Count, closed);
    for reason in ["idle", "shortage"] {
        counter!("sse_guard_tunnels_closed_total", "reason" => reason).increment(0);
    }
    let closed = "Connections that were closed or refused because memory or files ran short or a \
                  limit was reached";
    describe_counter!("sse_guard_connections_closed_total", Unit::Count, closed);
    for reason in CloseReason::ALL {
        counter!("sse_guard_connections_closed_total", "reason" => reason.as_str()).increment(0);
    }
}

/// Sets the number of client connections in a state.
pub(super) fn set_connections(state: &'static str, connections: usize) {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX);
    gauge!("sse_guard_connections", "state" => state).set(connections);
}

/// Usage and budget as metrics. They are set every time, because a metric would keep its last value.
#[expect(clippy::cast_precision_loss, reason = "a gauge is not exact anyway")]
pub(super) fn as_gauges(used: Option<Usage>) -> (f64, f64) {
    match used {
        Some(used) => (used.used as f64, (used.budget - used.reserve) as f64),
        None => (0.0, f64::INFINITY),
    }
}
