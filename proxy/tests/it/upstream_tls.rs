//! Upstreams over TLS.

mod certificates;
mod exchanges;
mod handshakes;
mod settings;

use crate::support::tls::{Authority, Files, TlsAnswer, TlsOrigin, self_signed, server_config};
use crate::support::{Client, Proxy, ReceivedRequest};
use rustls::ALL_VERSIONS;
use rustls::version::{TLS12, TLS13};
use std::net::SocketAddr;
use std::process::Command;

/// The names of a certificate that is valid for the origins here.
const NAMES: &[&str] = &["127.0.0.1", "app.test"];

/// A CA in a file, and origins that it has issued certificates to.
struct Setup {
    authority: Authority,
    files: Files,
    ca: String,
}

impl Setup {
    fn new() -> Self {
        let (authority, files) = (Authority::new("test CA"), Files::new());
        let ca = files.write("ca.pem", &authority.pem());
        Self {
            authority,
            files,
            ca,
        }
    }

    fn origin(
        &self,
        answer: impl Fn(ReceivedRequest, &mut TlsAnswer) + Send + Sync + 'static,
    ) -> TlsOrigin {
        let config = server_config(&self.authority.issue(NAMES), ALL_VERSIONS);
        TlsOrigin::start(config, answer)
    }

    /// A proxy that trusts the CA.
    fn proxy(&self, origin: SocketAddr, flags: &[&str]) -> Proxy {
        let (url, ca) = (
            format!("https://{origin}"),
            format!("--upstream-tls-ca={}", self.ca),
        );
        let mut all = vec!["--upstream", &url, &ca];
        all.extend(flags);
        Proxy::with_flags(&all)
    }
}

/// A plain response to this request and to all that follow on its connection.
fn plain(_: ReceivedRequest, to: &mut TlsAnswer) {
    loop {
        to.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        if to.next_request().is_none() {
            return;
        }
    }
}

/// Sends a request, and returns the head of its response and its body, which ends with the connection.
fn get(proxy: &Proxy, path: &str) -> (String, String) {
    let mut client = proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n"
    ));
    let head = client.head();
    (head, String::from_utf8(client.raw()).unwrap())
}

#[track_caller]
fn assert_ok(proxy: &Proxy, path: &str) {
    let (head, body) = get(proxy, path);
    assert!(head.starts_with("http/1.1 200 "), "{head}{body}");
    assert_eq!(body, "ok");
}

/// A response to a request through a proxy that cannot use its upstream, and the line of the log about it.
fn fault(proxy: &Proxy) -> (String, String) {
    let (head, body) = get(proxy, "/");
    assert!(head.starts_with("http/1.1 502 "), "{head}");
    (body, proxy.wait_for_log("\"ERROR\""))
}

#[track_caller]
fn assert_fault(proxy: &Proxy, cause: &str, remedy: &str) {
    let (body, line) = fault(proxy);
    assert_eq!(
        body,
        "sse-guard: the TLS handshake with the upstream failed\n"
    );
    assert!(line.contains(cause), "{cause:?} is not in {line}");
    assert!(line.contains(remedy), "{remedy:?} is not in {line}");
}
