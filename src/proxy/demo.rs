//! `sse-guard demo`: a legacy-style origin with bad habits, the proxy before it, and what to try.

mod origin;

use super::config::Config;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Short times, so that there is something to see within a minute.
pub(super) const DEFAULTS: &[(&str, &str)] = &[
    ("upstream.url", "http://127.0.0.1:8081"),
    ("heartbeat.interval", "3s"),
    ("idle.timeout", "2m"),
    ("idle.event_timeout", "90s"),
    ("rotation.max_age", "3m"),
    ("drain.window", "2s"),
];

/// Where the origin listens: where the config looks for its upstream, on loopback.
pub(super) fn origin_address(config: &Config) -> SocketAddr {
    let port = config
        .routes
        .last()
        .and_then(|route| route.settings.upstream.url.port_u16());
    (Ipv4Addr::LOCALHOST, port.unwrap_or(8081)).into()
}

/// Starts the origin and prints what to try.
pub(super) fn start(origin: TcpListener, proxy: SocketAddr, admin: Option<&TcpListener>) {
    let address = origin
        .local_addr()
        .map_or_else(|_| "?".into(), |address| address.to_string());
    println!("A legacy SSE server runs on http://{address}, and sse-guard in front of it.\n");
    println!("Look:     open http://{proxy}/ in a browser");
    if let Some(Ok(admin)) = admin.map(TcpListener::local_addr) {
        println!("Watch:    open http://{admin}/ in another tab");
    }
    println!("Try:      curl -N -H 'accept: text/event-stream' http://{proxy}/quiet");
    println!("Compare:  curl -N -H 'accept: text/event-stream' http://{address}/quiet\n");
    for (path, method, sentence) in origin::ENDPOINTS {
        println!("  {method:4} {path:22} {sentence}");
    }
    println!("\nStop with Ctrl-C and see how the streams end.\n");
    tokio::spawn(async move {
        let error = origin::serve(origin).await;
        tracing::error!(%error, "the demo's origin has stopped");
    });
}
