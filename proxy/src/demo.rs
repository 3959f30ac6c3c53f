//! `sse-guard demo`: an upstream without any protection, the proxy before it, and a page that compares them.

mod hop;
mod origin;

use super::config::{Config, DEMO_MORE_PORTS};
use origin::{Endpoint, Setup};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Short times, so that there is something to see within a minute.
const DEFAULTS: &[(&str, &str)] = &[
    ("upstream.url", "http://127.0.0.1:8081"),
    ("heartbeat.interval", "3s"),
    ("idle.timeout", "2m"),
    ("idle.event_timeout", "70s"),
    ("early.enabled", "true"),
    ("rotation.max_age", "3m"),
    ("drain.window", "2s"),
    // Fits into the file descriptors of a shell.
    ("limit.total", "200"),
];

/// Defaults of the config; with a port for the proxy, also the next ones for upstream and dashboard.
pub(super) fn defaults(port: Option<u16>) -> Vec<(&'static str, String)> {
    let mut defaults: Vec<_> = DEFAULTS
        .iter()
        .map(|(key, value)| (*key, (*value).to_owned()))
        .collect();
    if let Some(port) = port {
        defaults.retain(|(key, _)| *key != "upstream.url");
        let at = |offset: u16| format!("127.0.0.1:{}", port.saturating_add(offset));
        defaults.push(("listen", at(0)));
        defaults.push(("upstream.url", format!("http://{}", at(1))));
        defaults.push(("admin.listen", at(DEMO_MORE_PORTS)));
    }
    defaults
}

/// Where the origin listens: where the config looks for its upstream, on loopback.
pub(super) fn origin_address(config: &Config) -> SocketAddr {
    let port = config
        .routes
        .last()
        .and_then(|route| route.settings.upstream.url.port_u16());
    (Ipv4Addr::LOCALHOST, port.unwrap_or(8081)).into()
}

/// As a client on this machine connects to it.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// Starts the origin and prints what to try.
pub(super) async fn start(
    origin: TcpListener,
    proxy: SocketAddr,
    admin: Option<&TcpListener>,
) -> io::Result<()> {
    let upstream = origin.local_addr()?;
    let proxy = reachable(proxy);
    let dashboard = admin.and_then(|admin| admin.local_addr().ok());
    let dashboard = dashboard.map(|address| format!("http://{}/", reachable(address)));
    let setup = Setup {
        direct: format!("http://{}", hop::start(upstream).await?),
        guarded: format!("http://{}", hop::start(proxy).await?),
        dashboard,
        proxy,
        upstream,
        idle_s: hop::IDLE_TIMEOUT.as_secs(),
    };
    println!("The demo's upstream runs on http://{upstream}, and sse-guard in front of it.\n");
    println!("Compare:    open http://{proxy}/ in a browser");
    if let Some(dashboard) = &setup.dashboard {
        println!("Dashboard:  open {dashboard}");
    }
    println!("With:       curl -N -H 'accept: text/event-stream' http://{proxy}/quiet");
    println!("Without:    curl -N -H 'accept: text/event-stream' http://{upstream}/quiet\n");
    for Endpoint {
        path,
        method,
        about,
        ..
    } in origin::ENDPOINTS
    {
        println!("  {method:4} {path:22} {about}");
    }
    println!("\nCtrl-C stops the demo; its streams end with a retry: line.\n");
    tokio::spawn(async move {
        let error = origin::serve(origin, setup).await;
        tracing::error!(%error, "the demo's upstream has stopped");
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_moves_all_of_it() {
        let value = |key: &str, port| {
            let found = defaults(port).into_iter().find(|(name, _)| *name == key);
            found.map(|(_, value)| value)
        };
        assert_eq!(value("listen", None), None);
        assert_eq!(value("listen", Some(9000)).unwrap(), "127.0.0.1:9000");
        let url = value("upstream.url", Some(9000)).unwrap();
        assert_eq!(url, "http://127.0.0.1:9001");
        assert_eq!(value("admin.listen", Some(9000)).unwrap(), "127.0.0.1:9002");
        let keys = |port| defaults(port).len();
        assert_eq!(keys(Some(9000)), keys(None) + 2);
    }

    #[test]
    fn wildcard_is_reached_by_loopback() {
        let address = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(address("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(address("127.0.0.2:80"), "127.0.0.2:80");
    }
}
