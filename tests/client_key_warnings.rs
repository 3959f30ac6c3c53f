//! What the extractors of `client_key` tell the operator.
//!
//! A file with one test, because tracing remembers for the whole process whether a call site is of
//! interest: a test on another thread that reaches it first, without a subscriber, may silence it.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not take a test's helpers for one"
)]

use http::Request;
use sse_guard::client_key::{ForwardedHeader, ForwardedIp, KeyExtractor, PeerAddr, PeerIp};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What is logged when the extractor and a clone of it see each of the requests twice.
fn log_of(extractor: &impl KeyExtractor, requests: &[Request<()>]) -> String {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let clone = extractor.clone();
        for request in requests.iter().chain(requests) {
            extractor.key(request);
            clone.key(request);
        }
    });
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn request(peer: &str, headers: &[(&str, &str)]) -> Request<()> {
    let peer: IpAddr = peer.parse().unwrap();
    let mut request = Request::builder().extension(PeerAddr::from(SocketAddr::new(peer, 49152)));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn trusting(network: &str) -> ForwardedIp {
    ForwardedIp::new([network.parse().unwrap()])
}

#[test]
fn warnings_are_logged_once_per_extractor_with_the_remedy() {
    an_untrusted_proxy_is_reported(PeerIp::new);
    an_untrusted_proxy_is_reported(|| trusting("192.168.0.0/16"));
    // It is about the peer, whichever of the headers would be read.
    an_untrusted_proxy_is_reported(|| {
        trusting("192.168.0.0/16").header(ForwardedHeader::Forwarded)
    });

    a_missing_peer_is_reported(&PeerIp::new());
    a_missing_peer_is_reported(&trusting("10.0.0.0/8"));

    direct_clients_and_trusted_proxies_are_no_news();
}

fn an_untrusted_proxy_is_reported<E: KeyExtractor>(new: impl Fn() -> E) {
    let cases = [
        ("10.1.2.3", "x-forwarded-for", "10.1.2.3/32"),
        ("::ffff:10.1.2.3", "forwarded", "10.1.2.3/32"),
        ("2001:db8::1", "forwarded", "2001:db8::1/128"),
        ("10.1.2.3", "x-forwarded-proto", "10.1.2.3/32"),
    ];
    for (peer, header, network) in cases {
        let proxied = request(peer, &[(header, "203.0.113.9")]);
        let other = request("10.6.6.6", &[(header, "203.0.113.9")]);
        let log = log_of(&new(), &[proxied, other]);
        assert_eq!(log.matches("WARN").count(), 1, "{log}");
        let line = format!("`trusted_proxies = [\"{network}\"]`");
        let header = format!("sends `{header}`");
        assert!(log.contains(&header) && log.contains(&line), "{log}");
        let harm = "does not get its `X-Forwarded-Proto`: behind TLS that makes apps redirect to https endlessly";
        assert!(log.contains(harm), "{log}");
    }
}

fn a_missing_peer_is_reported(extractor: &impl KeyExtractor) {
    let log = log_of(extractor, &[Request::new(())]);
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(log.contains("into_make_service_with_connect_info::<SocketAddr>()"));
    assert!(
        log.contains("`axum`") && log.contains("`PeerAddr`"),
        "{log}"
    );

    // The one warning does not use up the other.
    let proxied = request("203.0.113.8", &[("forwarded", "for=203.0.113.9")]);
    let log = log_of(extractor, &[proxied]);
    assert_eq!(log.matches("trusted_proxies").count(), 1, "{log}");
}

fn direct_clients_and_trusted_proxies_are_no_news() {
    let direct = request("203.0.113.9", &[("x-real-ip", "10.0.0.1")]);
    let custom = request("10.0.0.1", &[("x-forwarded-for", "203.0.113.9")]);
    let standard = request("::ffff:10.0.0.1", &[("forwarded", "for=203.0.113.9")]);
    assert_eq!(log_of(&PeerIp::new(), std::slice::from_ref(&direct)), "");
    let trusting = trusting("10.0.0.0/8");
    assert_eq!(log_of(&trusting, &[direct, custom, standard]), "");
}
