//! Which protocol a connection has: by prior knowledge, by ALPN, and what HTTP/2 has no form for.

use super::*;
use crate::support::tls::{Authority, Files, TlsAnswer, TlsOrigin, server_config};
use crate::support::{Answer, Origin, ReceivedRequest};
use rustls::ALL_VERSIONS;

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

struct Setup {
    authority: Authority,
    _files: Files,
    ca: String,
}

impl Setup {
    fn new() -> Self {
        let (authority, files) = (Authority::new("test CA"), Files::new());
        let ca = files.write("ca.pem", &authority.pem());
        Self {
            authority,
            _files: files,
            ca: format!("--upstream-tls-ca={ca}"),
        }
    }

    fn config(&self, protocols: &[&str]) -> rustls::ServerConfig {
        let mut config = server_config(&self.authority.issue(&["127.0.0.1"]), ALL_VERSIONS);
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config
    }

    fn http2(&self, protocols: &[&str]) -> Http2Origin {
        let config = self.config(protocols);
        Http2Origin::with(
            Builder::new(),
            Some(config),
            |mut exchange: Exchange| async move {
                exchange.text(
                    200,
                    exchange
                        .head
                        .uri
                        .scheme_str()
                        .unwrap_or_default()
                        .to_owned()
                        .as_str(),
                );
            },
        )
    }

    fn http1(&self, protocols: &[&str]) -> TlsOrigin {
        TlsOrigin::start(
            self.config(protocols),
            |received: ReceivedRequest, to: &mut TlsAnswer| {
                if received.field("upgrade").is_some() {
                    to.raw(SWITCHING);
                    to.wait_for_close();
                    return;
                }
                loop {
                    to.raw(PLAIN);
                    if to.next_request().is_none() {
                        return;
                    }
                }
            },
        )
    }

    fn proxy(&self, origin: std::net::SocketAddr, mode: &str) -> Proxy {
        let url = format!("--upstream-url=https://{origin}");
        let mode = format!("--upstream-http2={mode}");
        Proxy::with_flags(&[&url, &self.ca, &mode])
    }
}

#[test]
fn http2_is_used_over_tls_if_it_is_selected() {
    let setup = Setup::new();
    for mode in ["on", "auto"] {
        let origin = setup.http2(&["h2", "http/1.1"]);
        let proxy = setup.proxy(origin.addr, mode);
        for _ in 0..3 {
            assert_eq!(get(&proxy, "/").1, "https", "{mode}");
        }
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn http1_is_used_over_tls_if_it_is_selected() {
    let setup = Setup::new();
    for (mode, protocols) in [
        ("auto", &["http/1.1"][..]),
        ("auto", &[]),
        ("off", &["h2", "http/1.1"]),
    ] {
        let origin = setup.http1(protocols);
        let proxy = setup.proxy(origin.addr, mode);
        let mut client = Client::connect(proxy.addr);
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(status(&client.head()), "200", "{mode} {protocols:?}");
            assert_eq!(client.bytes(2), b"ok");
        }
        // The connection on which it was selected is used.
        assert_eq!(origin.handshakes().len(), 1, "{mode} {protocols:?}");
        let expected = (!protocols.is_empty()).then(|| "http/1.1".to_owned());
        assert_eq!(origin.handshakes()[0].alpn, expected);
    }
}

#[test]
fn upstream_without_http2_over_tls_is_a_502_with_cause_and_remedy() {
    let setup = Setup::new();
    for protocols in [&["http/1.1"][..], &[]] {
        let origin = setup.http1(protocols);
        let proxy = setup.proxy(origin.addr, "on");
        let (head, body) = get(&proxy, "/");
        assert_eq!(status(&head), "502");
        assert_eq!(
            body,
            "sse-guard: the TLS handshake with the upstream failed\n"
        );
        let line = proxy.wait_for_log("\"ERROR\"");
        assert!(
            line.contains("does not support HTTP/2 over TLS (ALPN)"),
            "{line}"
        );
        assert!(line.contains("upstream.http2 = \\\"auto\\\""), "{line}");
    }
}

#[test]
fn upstream_without_http2_is_a_502_with_cause_and_remedy() {
    let bad_request = |_: ReceivedRequest, to: &mut Answer| {
        to.raw(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    };
    for origin in [Origin::start(bad_request), Origin::start(|_, _| {})] {
        let proxy = Proxy::start(origin.addr, &[ON]);
        let (head, body) = get(&proxy, "/");
        assert_eq!(status(&head), "502");
        assert_eq!(body, "sse-guard: the upstream does not support HTTP/2\n");
        let line = proxy.wait_for_log("\"ERROR\"");
        assert!(line.contains("upstream.http2 = \\\"off\\\""), "{line}");
    }
    let silent = Origin::start(|_, to: &mut Answer| {
        to.wait_for_close();
    });
    let proxy = Proxy::start(silent.addr, &[ON, "--upstream-connect-timeout=200ms"]);
    assert_eq!(status(&get(&proxy, "/").0), "502");
    let line = proxy.wait_for_log("\"ERROR\"");
    assert!(line.contains("did not come in time"), "{line}");
}

#[test]
fn unix_socket_has_http2_by_prior_knowledge() {
    let files = Files::new();
    let path = files.path("app.sock");
    let origin = Http2Origin::unix(&path, |mut exchange: Exchange| async move {
        let target = exchange.head.uri.to_string();
        exchange.text(200, &target);
    });
    let url = format!("--upstream-url=unix:{}:/base", path.display());
    let proxy = Proxy::with_flags(&[&url, ON]);
    for _ in 0..2 {
        assert_eq!(get(&proxy, "/a").1, "http://proxy.test/base/a");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn protocol_switch_uses_a_connection_of_http1() {
    let setup = Setup::new();
    let origin = setup.http1(&["h2", "http/1.1"]);
    for mode in ["on", "auto"] {
        let proxy = setup.proxy(origin.addr, mode);
        let mut client = proxy.send_request(UPGRADE);
        assert_eq!(status(&client.head()), "101", "{mode}");
    }
    let protocols: Vec<_> = origin.handshakes().into_iter().map(|it| it.alpn).collect();
    assert_eq!(
        protocols,
        [Some("http/1.1".to_owned()), Some("http/1.1".to_owned())]
    );
    let plain = Origin::start(|received: ReceivedRequest, to: &mut Answer| {
        assert!(received.head.starts_with("GET / HTTP/1.1\n"));
        to.raw(SWITCHING.as_bytes());
        to.wait_for_close();
    });
    let proxy = Proxy::start(plain.addr, &[ON]);
    assert_eq!(status(&proxy.send_request(UPGRADE).head()), "101");
}

#[test]
fn login_of_a_connection_uses_one_of_http1() {
    let origin = Origin::start(|received: ReceivedRequest, to: &mut Answer| {
        assert!(received.head.starts_with("GET / HTTP/1.1\n"));
        to.raw(PLAIN.as_bytes());
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let mut client = proxy.send_request(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: NTLM TlRMTVNTUAABAAAA\r\n\r\n",
    );
    assert_eq!(status(&client.head()), "200");
}

#[test]
fn request_for_which_the_upstream_requires_http1_is_sent_so() {
    // Over TLS an upstream has both.
    let setup = Setup::new();
    let mut config = setup.config(&["h2", "http/1.1"]);
    config.max_early_data_size = 0;
    let origin = Http2Origin::with(
        Builder::new(),
        Some(config),
        |mut exchange: Exchange| async move {
            exchange.respond.send_reset(Reason::HTTP_1_1_REQUIRED);
        },
    );
    let proxy = setup.proxy(origin.addr, "on");
    // The origin has no HTTP/1.1: that the connection comes is all.
    assert_eq!(status(&get(&proxy, "/").0), "502");
    assert_eq!((origin.requests().len(), origin.connections()), (1, 2));
}

#[test]
fn health_checks_use_http2() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        exchange.text(204, "");
    });
    let flags = [
        ON,
        "--health-check-interval=100ms",
        "--health-check-path=/up",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    wait_until("two checks", || origin.requests().len() >= 2);
    let (_, head) = origin.requests().remove(0);
    assert_eq!(head.uri.path(), "/up");
    assert!(!head.headers.contains_key("connection"));
    // Each has a connection of its own, which it closes.
    wait_until("the end of the first", || {
        origin.open() < origin.connections()
    });
    drop(proxy);
}
