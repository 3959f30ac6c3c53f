//! Handshakes that fail, and what the log has about them.

use super::*;
use crate::support::tls::{Pem, self_signed_with};
use rcgen::{BasicConstraints, DnType, IsCa, KeyPair, date_time_ymd};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

#[test]
fn certificate_that_cannot_be_trusted_is_reported_with_cause_and_remedy() {
    let setup = Setup::new();
    let other = Authority::new("another CA");
    let issue = |names: &[&str], from: i32, to: i32| {
        setup.authority.issue_with(names, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    let ca = |params: &mut rcgen::CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    // It has the name of the trusted CA, and another key, also one of which there can be no such signature.
    let namesake = |params: &mut rcgen::CertificateParams| {
        params
            .distinguished_name
            .push(DnType::CommonName, "test CA");
    };
    let other_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let own_ca = self_signed(NAMES, ca);
    let own_ca_file = setup.files.write("own.pem", &own_ca.certificate);
    let cases: &[(Pem, &str, &str, &str)] = &[
        (
            issue(NAMES, 2001, 2002),
            &setup.ca,
            "its certificate expired on 2002-01-01T00:00:00Z",
            "the clock of this machine",
        ),
        (
            issue(NAMES, 3000, 3001),
            &setup.ca,
            "its certificate is not valid before 3000-01-01T00:00:00Z",
            "the clock of this machine",
        ),
        (
            issue(&["a.test", "*.b.test"], 2001, 3000),
            &setup.ca,
            "its certificate is not for 127.0.0.1, but for a.test, *.b.test",
            "upstream.tls.server_name",
        ),
        (
            issue(&[], 2001, 3000),
            &setup.ca,
            "but for no name at all",
            "upstream.tls.server_name",
        ),
        (
            other.issue(NAMES),
            &setup.ca,
            "its certificate was issued by an unknown CA",
            "upstream.tls.ca",
        ),
        (
            self_signed(NAMES, |_| {}),
            &setup.ca,
            "its certificate is self-signed",
            "upstream.tls.ca",
        ),
        (
            self_signed(NAMES, namesake),
            &setup.ca,
            "its certificate is self-signed",
            "upstream.tls.ca",
        ),
        (
            self_signed_with(&other_key, NAMES, namesake),
            &setup.ca,
            "its certificate is self-signed",
            "upstream.tls.ca",
        ),
        (
            Authority::new("test CA").issue(NAMES),
            &setup.ca,
            "its certificate was issued by an unknown CA",
            "upstream.tls.ca",
        ),
        (
            own_ca,
            &own_ca_file,
            "its certificate is that of a CA",
            "basicConstraints=CA:FALSE",
        ),
    ];
    for (pem, ca, cause, remedy) in cases {
        let origin = TlsOrigin::start(server_config(pem, ALL_VERSIONS), plain);
        let url = format!("https://{}", origin.addr);
        let proxy = Proxy::with_flags(&["--upstream", &url, "--upstream-tls-ca", ca]);
        assert_fault(&proxy, cause, remedy);
    }
}

/// A server that reads something on each connection, sends this, and closes it.
fn raw_origin(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(response);
        }
    });
    addr
}

#[test]
fn upstream_without_usable_tls_is_reported_with_cause_and_remedy() {
    let setup = Setup::new();
    for (response, cause, remedy) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
            "it responds without TLS",
            "use http:// in upstream.url",
        ),
        (
            &[0; 16 * 1024],
            "it responds without TLS",
            "use http:// in upstream.url",
        ),
        (
            b"",
            "it closed the connection during the handshake",
            "https",
        ),
        // RFC 8446 section 6: fatal alerts.
        (
            &[21, 3, 1, 0, 2, 2, 70],
            "it supports neither TLS 1.2 nor TLS 1.3",
            "update the upstream",
        ),
        (
            &[21, 3, 3, 0, 2, 2, 40],
            "it rejected the handshake (alert HandshakeFailure)",
            "upstream.tls.certificate",
        ),
        (
            &[21, 3, 3, 0, 2, 2, 112],
            "it has no certificate for this name",
            "upstream.tls.server_name",
        ),
        (
            &[21, 3, 3, 0, 2, 2, 120],
            "it does not support HTTP/1.1",
            "HTTP/1.1",
        ),
    ] {
        let proxy = setup.proxy(raw_origin(response), &[]);
        assert_fault(&proxy, cause, remedy);
    }
}

#[test]
fn handshake_that_does_not_end_fails_after_connect_timeout() {
    let setup = Setup::new();
    // The connections stay in the queue of the listener.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let proxy = setup.proxy(addr, &["--upstream-connect-timeout=200ms"]);
    assert_fault(
        &proxy,
        "the handshake was not over in time",
        "upstream.connect_timeout",
    );
}

#[test]
fn handshake_without_an_end_fails_after_connect_timeout() {
    let setup = Setup::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            // A ServerHello of 4 KiB, byte by byte.
            let _ = socket.write_all(&[22, 3, 3, 16, 4, 2, 0, 16, 0, 3, 3]);
            while socket.write_all(&[0]).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let proxy = setup.proxy(addr, &["--upstream-connect-timeout=200ms"]);
    let cause = "the handshake was not over in time";
    assert_fault(&proxy, cause, "upstream.connect_timeout");
}

#[test]
fn large_certificate_is_accepted_up_to_the_limit_of_a_handshake_message() {
    let setup = Setup::new();
    let names: Vec<_> = (0..2_000)
        .map(|n| format!("name-{n:05}.app.test"))
        .collect();
    let names: Vec<_> = names
        .iter()
        .map(String::as_str)
        .chain(["127.0.0.1"])
        .collect();
    for is_accepted in [true, false] {
        let mut pem = setup.authority.issue(&names);
        if !is_accepted {
            pem.certificate += &setup.authority.issue(&names).certificate;
        }
        let origin = TlsOrigin::start(server_config(&pem, ALL_VERSIONS), plain);
        let proxy = setup.proxy(origin.addr, &[]);
        if !is_accepted {
            assert_fault(&proxy, "HandshakePayloadTooLarge", "log");
            continue;
        }
        assert_ok(&proxy, "/");
        let proxy = setup.proxy(origin.addr, &["--upstream-tls-server-name=other.test"]);
        let cause = "name-00003.app.test, name-00004.app.test and others";
        assert_fault(&proxy, cause, "upstream.tls.server_name");
    }
}
