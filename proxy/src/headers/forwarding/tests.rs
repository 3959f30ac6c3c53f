use super::*;

const PEER: &str = "10.0.0.1:5000";
const STRANGER: &str = "192.0.2.1:5000";
/// On a Unix socket.
const UNIX: &str = "unix:";

fn peer_at(text: &str) -> PeerAddr {
    match text {
        UNIX => PeerAddr::unix(),
        address => address.parse::<std::net::SocketAddr>().unwrap().into(),
    }
}

/// What the upstream is told of a request with these fields, of the names asked for.
fn told(header: ForwardedHeader, peer: &str, fields: &[(&str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let networks = ["10.0.0.0/8", "2001:db8:aaaa::/48"].map(|net| net.parse().unwrap());
    let trusted = ForwardedIp::new(networks).header(header).unix(true);
    forward(&mut headers, peer_at(peer), false, &trusted);
    headers
}

/// Fields as lines, `name: value`, in and out. All that is told is compared, but for Host.
#[track_caller]
fn assert_told(header: ForwardedHeader, peer: &str, fields: &[&str], expected: &[&str]) {
    let fields: Vec<_> = fields
        .iter()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name, value.as_bytes()))
        .collect();
    let headers = told(header, peer, &fields);
    let mut found: Vec<_> = headers
        .iter()
        .filter(|(name, _)| **name != HOST)
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    found.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected, "{fields:?}");
}

use ForwardedHeader::{Forwarded, XForwardedFor};

#[test]
fn what_a_stranger_says_of_itself_is_dropped() {
    for header in [XForwardedFor, Forwarded] {
        assert_told(
            header,
            STRANGER,
            &[
                "host: a.test",
                "x-forwarded-for: 203.0.113.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: evil",
                "x-forwarded-port: 1",
                "x-forwarded-ssl: on",
                "x-forwarded-prefix: /evil",
                "x_forwarded_for: 203.0.113.1",
                "x-real-ip: 203.0.113.1",
                "x_real_ip: 203.0.113.1",
                "true-client-ip: 203.0.113.1",
                "x-original-url: /admin",
                "forwarded: for=203.0.113.1;proto=https;host=evil",
                "forwarded_: for=203.0.113.1",
            ],
            &[
                "x-forwarded-for: 192.0.2.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "forwarded: for=192.0.2.1;host=\"a.test\";proto=http",
            ],
        );
    }
}

#[test]
fn client_without_a_host_has_none() {
    assert_told(
        XForwardedFor,
        "[2001:db8::1]:5000",
        &[],
        &[
            "x-forwarded-for: 2001:db8::1",
            "x-forwarded-proto: http",
            "forwarded: for=\"[2001:db8::1]\";proto=http",
        ],
    );
}

#[test]
fn what_a_trusted_proxy_writes_in_x_forwarded_is_told_in_forwarded() {
    let cases: &[(&[&str], &[&str])] = &[
        // As Caddy does.
        (
            &[
                "x-forwarded-for: 203.0.113.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: public.test",
            ],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: public.test",
                "forwarded: for=203.0.113.1;host=\"public.test\";proto=https, \
                 for=10.0.0.1;host=\"public.test\";proto=https",
            ],
        ),
        // The address alone.
        (
            &["x-forwarded-for: 203.0.113.1"],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "forwarded: for=203.0.113.1;host=\"a.test\";proto=http, \
                 for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
        // The protocol alone.
        (
            &["x-forwarded-proto: HTTPS"],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test",
                "forwarded: for=10.0.0.1;host=\"a.test\";proto=https",
            ],
        ),
        // The other form is a stranger's, and what it says of itself.
        (
            &[
                "x-forwarded-for: 198.51.100.1, 203.0.113.1",
                "x-forwarded-for: 10.0.0.2",
                "x-forwarded-proto: https",
                "forwarded: for=198.51.100.1;proto=http;host=evil",
                "x_forwarded_proto: http",
            ],
            &[
                "x-forwarded-for: 198.51.100.1, 203.0.113.1, 10.0.0.2, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test",
                "forwarded: for=198.51.100.1, for=203.0.113.1;host=\"a.test\";proto=https, \
                 for=10.0.0.2, for=10.0.0.1;host=\"a.test\";proto=https",
            ],
        ),
        // IPv6, ports, names and garbage.
        (
            &["x-forwarded-for: <x>, _hidden, unknown, 2001:db8::7, [2001:db8:aaaa::1]:80"],
            &[
                "x-forwarded-for: <x>, _hidden, unknown, 2001:db8::7, [2001:db8:aaaa::1]:80, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "forwarded: for=unknown, for=_hidden, for=unknown, \
                 for=\"[2001:db8::7]\";host=\"a.test\";proto=http, for=\"[2001:db8:aaaa::1]\", \
                 for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
        // Values that are none.
        (
            &[
                "x-forwarded-for: ,",
                "x-forwarded-proto: javascript",
                "x-forwarded-host: a/b",
                "x-forwarded-port: 99999",
                "x-forwarded-ssl: maybe",
            ],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "x-forwarded-ssl: off",
                "forwarded: for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
        // Lists to which each proxy has appended: the element of the hop that is the client.
        (
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.2",
                "x-forwarded-proto: ws, https, http",
                "x-forwarded-host: evil.test, public.test, inner.test",
            ],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.2, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: public.test",
                "forwarded: for=203.0.113.1;host=\"public.test\";proto=https, for=10.0.0.2, \
                 for=10.0.0.1;host=\"public.test\";proto=https",
            ],
        ),
        // Others that tell the protocol: they count without the usual one, and agree with it.
        (
            &["x-forwarded-ssl: on", "x-url-scheme: https"],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test",
                "x-forwarded-ssl: on",
                "x-url-scheme: https",
                "forwarded: for=10.0.0.1;host=\"a.test\";proto=https",
            ],
        ),
        (
            &[
                "x-forwarded-proto: http",
                "x-forwarded-ssl: on",
                "x-forwarded-scheme: https",
                "front-end-https: on",
            ],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "x-forwarded-ssl: off",
                "x-forwarded-scheme: http",
                "front-end-https: off",
                "forwarded: for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
        // The port, which the host may tell as well.
        (
            &["x-forwarded-proto: https", "x-forwarded-port: 443"],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test",
                "x-forwarded-port: 443",
                "forwarded: for=10.0.0.1;host=\"a.test\";proto=https",
            ],
        ),
        (
            &["x-forwarded-proto: https", "x-forwarded-port: 8443"],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test",
                "x-forwarded-port: 8443",
                "forwarded: for=10.0.0.1;host=\"a.test:8443\";proto=https",
            ],
        ),
        (
            &["x-forwarded-host: [::1]:8080", "x-forwarded-port: 80"],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: [::1]:8080",
                "x-forwarded-port: 8080",
                "forwarded: for=10.0.0.1;host=\"[::1]:8080\";proto=http",
            ],
        ),
        // One address for all.
        (
            &["x-forwarded-for: 203.0.113.1", "x-real-ip: 198.51.100.1"],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "x-real-ip: 203.0.113.1",
                "forwarded: for=203.0.113.1;host=\"a.test\";proto=http, \
                 for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
        // What neither form can tell stays the proxy's.
        (
            &["x-forwarded-prefix: /app", "x-forwarded-user: ann"],
            &[
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "x-forwarded-prefix: /app",
                "x-forwarded-user: ann",
                "forwarded: for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
    ];
    for (fields, expected) in cases {
        let fields = [&["host: a.test"], *fields].concat();
        assert_told(XForwardedFor, PEER, &fields, expected);
    }
}

#[test]
fn what_a_trusted_proxy_writes_in_forwarded_is_told_in_x_forwarded() {
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["forwarded: for=203.0.113.1;proto=https;host=public.test;by=10.0.0.1"],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: public.test",
                "forwarded: for=203.0.113.1;host=\"public.test\";proto=https, \
                 for=10.0.0.1;host=\"public.test\";proto=https",
            ],
        ),
        // The client's own claim in front, and a proxy within behind.
        (
            &[
                "forwarded: for=198.51.100.1;proto=https;host=evil",
                "forwarded: for=\"[2001:db8::7]:4711\";proto=http;host=\"public.test:8080\", \
                 for=10.0.0.2;proto=https;host=inner.test",
            ],
            &[
                "x-forwarded-for: 198.51.100.1, 2001:db8::7, 10.0.0.2, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: public.test:8080",
                "forwarded: for=198.51.100.1, \
                 for=\"[2001:db8::7]\";host=\"public.test:8080\";proto=http, for=10.0.0.2, \
                 for=10.0.0.1;host=\"public.test:8080\";proto=http",
            ],
        ),
        // A client without an address still has a protocol.
        (
            &["forwarded: for=\"_hidden\";proto=https, for=10.0.0.2;proto=http"],
            &[
                "x-forwarded-for: _hidden, 10.0.0.2, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test",
                "forwarded: for=_hidden;host=\"a.test\";proto=https, for=10.0.0.2, \
                 for=10.0.0.1;host=\"a.test\";proto=https",
            ],
        ),
        // Of proxies that say less, what the nearest to the client says.
        (
            &["forwarded: for=203.0.113.1, for=10.0.0.2;proto=https"],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.2, 10.0.0.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: a.test",
                "forwarded: for=203.0.113.1;host=\"a.test\";proto=https, for=10.0.0.2, \
                 for=10.0.0.1;host=\"a.test\";proto=https",
            ],
        ),
        // Garbage, and an element that says it twice.
        (
            &["forwarded: for=\"x, for=203.0.113.1;proto=https;proto=http;host=b.test"],
            &[
                "x-forwarded-for: unknown, unknown, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "forwarded: for=unknown, for=unknown;host=\"a.test\";proto=http, \
                 for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
        (
            &["forwarded: for=203.0.113.1;proto=javascript;host=\"a b\""],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "forwarded: for=203.0.113.1;host=\"a.test\";proto=http, \
                 for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
        // The other form is a stranger's.
        (
            &[
                "forwarded: for=203.0.113.1",
                "x-forwarded-for: 198.51.100.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: evil.test",
                "x-forwarded-port: 1",
                "x-forwarded-ssl: on",
                "front-end-https: on",
                "x-url-scheme: https",
            ],
            &[
                "x-forwarded-for: 203.0.113.1, 10.0.0.1",
                "x-forwarded-proto: http",
                "x-forwarded-host: a.test",
                "forwarded: for=203.0.113.1;host=\"a.test\";proto=http, \
                 for=10.0.0.1;host=\"a.test\";proto=http",
            ],
        ),
    ];
    for (fields, expected) in cases {
        let fields = [&["host: a.test"], *fields].concat();
        assert_told(Forwarded, PEER, &fields, expected);
    }
}

#[test]
fn chain_is_read_and_written_no_further_than_it_is_looked_at() {
    let many = vec!["10.0.0.9"; 1000].join(", ");
    for (header, name, value) in [
        (XForwardedFor, "x-forwarded-for", many.clone()),
        (Forwarded, "forwarded", many.replace("10.", "for=10.")),
    ] {
        let headers = told(header, PEER, &[(name, value.as_bytes())]);
        for name in ["x-forwarded-for", "forwarded"] {
            let elements = headers[name].to_str().unwrap().split(", ").count();
            assert_eq!(elements, 65, "{name} of {header:?}");
        }
    }
}

#[test]
fn bytes_beyond_ascii_do_no_harm() {
    let fields: &[(&str, &[u8])] = &[
        ("x-forwarded-for", b"\xff, 203.0.113.1"),
        ("x-forwarded-proto", b"\xff"),
        ("x-forwarded-host", b"a\xff"),
    ];
    let headers = told(XForwardedFor, PEER, fields);
    assert_eq!(
        headers["x-forwarded-for"].as_bytes(),
        b"\xff, 203.0.113.1, 10.0.0.1"
    );
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert!(!headers.contains_key("x-forwarded-host"));
    let forwarded = "for=unknown, for=203.0.113.1;proto=http, for=10.0.0.1;proto=http";
    assert_eq!(headers["forwarded"], forwarded);
}

#[test]
fn peer_on_a_unix_socket_adds_no_address() {
    assert_told(
        XForwardedFor,
        UNIX,
        &[
            "host: a.test",
            "x-forwarded-for: 203.0.113.1, 10.0.0.2",
            "x-forwarded-proto: https",
            "x-real-ip: 10.0.0.2",
        ],
        &[
            "forwarded: for=203.0.113.1;host=\"a.test\";proto=https, for=10.0.0.2;host=\"a.test\";proto=https",
            "x-forwarded-for: 203.0.113.1, 10.0.0.2",
            "x-forwarded-host: a.test",
            "x-forwarded-proto: https",
            "x-real-ip: 203.0.113.1",
        ],
    );
    assert_told(
        Forwarded,
        UNIX,
        &["host: a.test", "forwarded: for=203.0.113.1;proto=https"],
        &[
            "forwarded: for=203.0.113.1;host=\"a.test\";proto=https",
            "x-forwarded-for: 203.0.113.1",
            "x-forwarded-host: a.test",
            "x-forwarded-proto: https",
        ],
    );
    for header in [XForwardedFor, Forwarded] {
        assert_told(
            header,
            UNIX,
            &["host: a.test", "x-real-ip: "],
            &[
                "forwarded: for=unknown;host=\"a.test\";proto=http",
                "x-forwarded-host: a.test",
                "x-forwarded-proto: http",
            ],
        );
    }
}

#[test]
fn peer_on_a_unix_socket_is_a_stranger_unless_it_is_trusted() {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", HeaderValue::from_static("203.0.113.1"));
    forward(&mut headers, PeerAddr::unix(), false, &ForwardedIp::new([]));
    assert!(!headers.contains_key("x-forwarded-for"), "{headers:?}");
    assert_eq!(headers["forwarded"], "for=unknown;proto=http");
}

#[test]
fn scheme_of_a_tls_connection_counts_unless_a_trusted_peer_reports_another() {
    let trusted = || ForwardedIp::new(["10.0.0.0/8".parse().unwrap()]);
    for (peer, reported, expected) in [
        (STRANGER, None, "https"),
        (STRANGER, Some("http"), "https"),
        (PEER, None, "https"),
        (PEER, Some("http"), "http"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a.test"));
        if let Some(proto) = reported {
            headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        }
        forward(&mut headers, peer_at(peer), true, &trusted());
        assert_eq!(headers[&X_FORWARDED_PROTO], expected, "{peer} {reported:?}");
        let forwarded = headers[&FORWARDED].to_str().unwrap();
        let end = format!(";host=\"a.test\";proto={expected}");
        assert!(forwarded.ends_with(&end), "{forwarded}");
    }
}
