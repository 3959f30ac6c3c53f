use super::*;
use http::HeaderValue;
use http::request::Builder;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::SocketAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The proxies that the tests trust: an IPv4 network, an IPv6 network, one machine.
fn trusting() -> ForwardedIp {
    ForwardedIp::new(["10.0.0.0/8", "2001:db8:aaaa::/48", "192.0.2.200/32"].map(net))
}

fn from_peer(peer: &str) -> Builder {
    Request::builder().extension(PeerAddr::from(SocketAddr::new(ip(peer), 49152)))
}

fn request(peer: &str, header: ForwardedHeader, lines: &[&str]) -> Request<()> {
    let builder = from_peer(peer);
    let builder = lines.iter().fold(builder, |builder, line| {
        builder.header(header.name(), *line)
    });
    builder.body(()).unwrap()
}

fn key_of(extractor: &impl KeyExtractor, request: &Request<()>) -> String {
    extractor.key(request).unwrap().to_string()
}

#[test]
fn key_is_displayed_as_its_address_or_name() {
    let cases = [
        (ClientKey::from(ip("192.0.2.1")), "192.0.2.1"),
        (ClientKey::from(ip("2001:db8::1")), "2001:db8::1"),
        (ClientKey::from("acme"), "acme"),
        (ClientKey::from("acme".to_owned()), "acme"),
    ];
    for (key, expected) in cases {
        assert_eq!(key.to_string(), expected);
        assert_eq!(format!("{key:>20}"), format!("{expected:>20}"));
    }
}

#[test]
fn name_that_looks_like_an_address_is_a_different_key() {
    let keys = HashSet::from([
        ClientKey::from("192.0.2.1"),
        ClientKey::from("192.0.2.1".to_owned()),
        ClientKey::from(ip("192.0.2.1")),
    ]);
    assert_eq!(keys.len(), 2);
}

#[test]
fn ipv6_addresses_count_by_their_prefix() {
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let cases = [
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
        ("2001:db8:1:2::", 64, "2001:db8:1:2::"),
        ("2001:db8:1:2ff:3:4:5:6", 56, "2001:db8:1:200::"),
        ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::"),
        ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
        ("2001:db8:1:2:3:4:5:6", 129, "2001:db8:1:2:3:4:5:6"),
        ("2001:db8:1:2:3:4:5:6", 255, "2001:db8:1:2:3:4:5:6"),
        (all, 127, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"),
        (all, 65, "ffff:ffff:ffff:ffff:8000::"),
        (all, 1, "8000::"),
        (all, 0, "::"),
        // IPv4 knows no prefix, however it is written.
        ("192.0.2.1", 0, "192.0.2.1"),
        ("192.0.2.1", 64, "192.0.2.1"),
        ("::ffff:192.0.2.1", 0, "192.0.2.1"),
        ("::ffff:192.0.2.1", 64, "192.0.2.1"),
        ("::ffff:192.0.2.1", 128, "192.0.2.1"),
    ];
    for (addr, prefix, expected) in cases {
        let network = ClientKey::Ip(ip(addr)).network(prefix);
        assert_eq!(network, ClientKey::Ip(ip(expected)), "{addr}/{prefix}");
    }
}

#[test]
fn names_have_no_prefix() {
    for name in ["acme", "2001:db8:1:2:3:4:5:6", "::ffff:192.0.2.1"] {
        let key = ClientKey::from(name);
        assert_eq!(key.clone().network(0), key);
        assert_eq!(key.clone().network(64), key);
    }
}

#[test]
fn peer_ip_ignores_headers() {
    let cases = [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ];
    for (peer, expected) in cases {
        for header in ForwardedHeader::ALL {
            let request = request(peer, header, &["203.0.113.9", "for=203.0.113.9"]);
            assert_eq!(key_of(&PeerIp::new(), &request), expected);
            assert_eq!(key_of(&ForwardedIp::new([]), &request), expected);
        }
    }
}

#[test]
fn key_requires_a_peer_even_with_headers() {
    let request = Request::builder()
        .header("x-forwarded-for", "203.0.113.9")
        .body(())
        .unwrap();
    assert_eq!(PeerIp::new().key(&request), None);
    assert_eq!(
        ForwardedIp::new([net("0.0.0.0/0"), net("::/0")]).key(&request),
        None
    );
}

#[cfg(feature = "axum")]
#[test]
fn peer_addr_takes_precedence_over_axum_connect_info() {
    let connect_info = axum::extract::ConnectInfo(SocketAddr::new(ip("::ffff:192.0.2.7"), 1));
    let request = Request::builder().extension(connect_info).body(()).unwrap();
    assert_eq!(key_of(&PeerIp::new(), &request), "192.0.2.7");
    assert_eq!(key_of(&trusting(), &request), "192.0.2.7");

    let request = from_peer("192.0.2.8")
        .extension(connect_info)
        .body(())
        .unwrap();
    assert_eq!(key_of(&PeerIp::new(), &request), "192.0.2.8");
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn connect_info_takes_precedence_over_its_mock() {
    use axum::extract::ConnectInfo;
    use axum::extract::connect_info::MockConnectInfo;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    let mock = MockConnectInfo(SocketAddr::new(ip("192.0.2.9"), 1));
    let service =
        ServiceBuilder::new()
            .layer(mock)
            .service(service_fn(|request: Request<()>| async move {
                Ok::<_, std::convert::Infallible>(key_of(&trusting(), &request))
            }));
    let request = Request::new(());
    assert_eq!(service.oneshot(request).await, Ok("192.0.2.9".to_owned()));

    let real = ConnectInfo(SocketAddr::new(ip("192.0.2.7"), 1));
    let request = Request::builder().extension(real).body(()).unwrap();
    assert_eq!(service.oneshot(request).await, Ok("192.0.2.7".to_owned()));
}

#[test]
fn trust_is_by_network_and_mapped_addresses_are_ipv4() {
    let cases = [
        ("10.0.0.0", true),
        ("10.255.255.255", true),
        ("11.0.0.0", false),
        ("192.0.2.200", true),
        ("192.0.2.201", false),
        ("::ffff:10.1.2.3", true),
        ("::ffff:11.1.2.3", false),
        ("::10.1.2.3", false),
        ("2001:db8:aaaa::1", true),
        ("2001:db8:aaab::1", false),
    ];
    for (addr, expected) in cases {
        assert_eq!(trusting().is_trusted(ip(addr)), expected, "{addr}");
    }
    assert!(!ForwardedIp::new([]).is_trusted(ip("127.0.0.1")));
}

#[test]
fn client_is_the_first_untrusted_entry_from_the_right() {
    let cases: &[(&str, &[&str], &str, &str)] = &[
        ("10.0.0.1", &["203.0.113.7"], "203.0.113.7", "one proxy"),
        ("10.0.0.1", &["203.0.113.7:567"], "203.0.113.7", "a port"),
        ("10.0.0.1", &["[2001:db8::7]:567"], "2001:db8::7", "IPv6"),
        ("10.0.0.1", &[], "10.0.0.1", "a request of the proxy's own"),
        ("10.0.0.1", &["", " , "], "10.0.0.1", "nothing but commas"),
        (
            "10.0.0.1",
            &["6.6.6.6, 203.0.113.7"],
            "203.0.113.7",
            "the client made up an entry",
        ),
        (
            "10.0.0.1",
            &["10.9.9.9, 203.0.113.7"],
            "203.0.113.7",
            "the client made up a proxy",
        ),
        (
            "10.0.0.1",
            &["6.6.6.6, 10.9.9.9, 203.0.113.7, 10.0.0.3, 10.0.0.2"],
            "203.0.113.7",
            "and came through a chain",
        ),
        (
            "10.0.0.1",
            &["203.0.113.7, 2001:db8:aaaa::2, 192.0.2.200"],
            "203.0.113.7",
            "a chain of several networks",
        ),
        (
            "10.0.0.1",
            &["6.6.6.6", "203.0.113.7", "10.0.0.2"],
            "203.0.113.7",
            "a line for each proxy",
        ),
        (
            "10.0.0.1",
            &["10.0.0.3, 203.0.113.7", ",", "10.0.0.2 ,"],
            "203.0.113.7",
            "lines with several entries and with none",
        ),
        (
            "10.0.0.1",
            &["10.0.0.4, 10.0.0.3, 10.0.0.2"],
            "10.0.0.4",
            "all trusted: the left-most",
        ),
        (
            "10.0.0.1",
            &["10.0.0.3", "10.0.0.2"],
            "10.0.0.3",
            "by lines",
        ),
        ("10.0.0.1", &["unknown"], "10.0.0.1", "hidden by the peer"),
        (
            "10.0.0.1",
            &["203.0.113.7, _hidden, 10.0.0.3, 10.0.0.2"],
            "10.0.0.3",
            "hidden by a proxy: it stands for its clients",
        ),
        (
            "10.0.0.1",
            &["203.0.113.7, ' OR 1=1 --, 10.0.0.2"],
            "10.0.0.2",
            "garbage",
        ),
        (
            "10.0.0.1",
            &["garbage, 203.0.113.7"],
            "203.0.113.7",
            "garbage left of the client",
        ),
        (
            "::ffff:10.0.0.1",
            &["::ffff:203.0.113.7, ::ffff:10.0.0.2"],
            "203.0.113.7",
            "mapped addresses all over",
        ),
        (
            "2001:db8:aaaa::1",
            &["6.6.6.6, 2001:db8:bbbb::7, 10.0.0.2"],
            "2001:db8:bbbb::7",
            "an IPv6 client, uncut",
        ),
        (
            "203.0.113.8",
            &["203.0.113.7"],
            "203.0.113.8",
            "the peer is not trusted",
        ),
        (
            "203.0.113.8",
            &["203.0.113.7, 10.0.0.2"],
            "203.0.113.8",
            "the peer is not trusted, its list ends in one that is",
        ),
    ];
    for (peer, lines, expected, what) in cases {
        let request = request(peer, ForwardedHeader::XForwardedFor, lines);
        assert_eq!(key_of(&trusting(), &request), *expected, "{what}");
    }
}

#[test]
fn forwarded_is_walked_as_x_forwarded_for_is() {
    let cases: &[(&str, &[&str], &str, &str)] = &[
        (
            "10.0.0.1",
            &["for=6.6.6.6, for=\"[2001:db8::7]:567\";proto=https, For=10.0.0.2;by=_x"],
            "2001:db8::7",
            "a chain",
        ),
        (
            "10.0.0.1",
            &[
                "for=6.6.6.6",
                "for=203.0.113.7;host=\"a, for=10.9.9.9\"",
                "for=10.0.0.2",
            ],
            "203.0.113.7",
            "a line for each proxy",
        ),
        (
            "10.0.0.1",
            &["for=203.0.113.7, proto=https, for=10.0.0.2"],
            "10.0.0.2",
            "no `for` is as good as unknown",
        ),
        (
            "10.0.0.1",
            &["for=203.0.113.7, for=unknown, for=10.0.0.2"],
            "10.0.0.2",
            "unknown",
        ),
        (
            "10.0.0.1",
            &["for=\"6.6.6.6, for=203.0.113.7"],
            "203.0.113.7",
            "the client left a quote open",
        ),
        (
            "10.0.0.1",
            &["for=\"", "for=203.0.113.7"],
            "203.0.113.7",
            "on a line before",
        ),
        (
            "10.0.0.1",
            &["for=10.0.0.3, for=\"10.0.0.2:80\""],
            "10.0.0.3",
            "all trusted: the left-most",
        ),
        (
            "203.0.113.8",
            &["for=203.0.113.7"],
            "203.0.113.8",
            "the peer is not trusted",
        ),
    ];
    let extractor = trusting().header(ForwardedHeader::Forwarded);
    for (peer, lines, expected, what) in cases {
        let request = request(peer, ForwardedHeader::Forwarded, lines);
        assert_eq!(key_of(&extractor, &request), *expected, "{what}");
    }
}

#[test]
fn only_the_configured_header_is_read() {
    let both = from_peer("10.0.0.1")
        .header("x-forwarded-for", "203.0.113.1")
        .header("forwarded", "for=203.0.113.2")
        .body(())
        .unwrap();
    let by_custom = trusting();
    let by_standard = trusting().header(ForwardedHeader::Forwarded);
    assert_eq!(key_of(&by_custom, &both), "203.0.113.1");
    assert_eq!(key_of(&by_standard, &both), "203.0.113.2");

    // Not even as a fallback.
    let custom = request("10.0.0.1", ForwardedHeader::XForwardedFor, &["6.6.6.6"]);
    let standard = request("10.0.0.1", ForwardedHeader::Forwarded, &["for=6.6.6.6"]);
    assert_eq!(key_of(&by_custom, &standard), "10.0.0.1");
    assert_eq!(key_of(&by_standard, &custom), "10.0.0.1");
}

#[test]
fn walk_ends_at_hop_64() {
    let client_at = |hops: usize| {
        let list: Vec<_> = (1..hops).rev().map(|n| format!("10.0.1.{n}")).collect();
        let list = format!("203.0.113.7, {}", list.join(", "));
        key_of(
            &trusting(),
            &request("10.0.0.1", ForwardedHeader::XForwardedFor, &[&list]),
        )
    };
    assert_eq!(client_at(63), "203.0.113.7");
    assert_eq!(client_at(64), "203.0.113.7");
    assert_eq!(client_at(65), "10.0.1.64");
    assert_eq!(client_at(200), "10.0.1.64");
}

#[test]
fn function_is_an_extractor() {
    let extractor = KeyFn::new(|request| {
        let peer: &PeerAddr = request.extensions.get()?;
        let name = request.headers.get("x-account")?.to_str().ok()?;
        let (method, path) = (request.method, request.uri.path());
        Some(ClientKey::from(format!("{name}@{peer}: {method} {path}")))
    });
    let known = from_peer("::1").method("PUT").uri("/feed?token=1");
    let known = known.header("x-account", "acme").body(()).unwrap();
    assert_eq!(key_of(&extractor, &known), "acme@[::1]:49152: PUT /feed");
    assert_eq!(extractor.key(&Request::new(())), None);
    assert!(format!("{extractor:?}").starts_with("KeyFn("));
}

/// Bytes that a header may hold, most of them ones that mean something to us.
fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        6 => prop::sample::select(br#",;="\[]:. _for10"#.to_vec()),
        1 => prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8],
    ];
    prop::collection::vec(byte, 0..80)
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(lines in prop::collection::vec(header_bytes(), 0..5)) {
        for header in ForwardedHeader::ALL {
            let mut request = request("10.0.0.1", header, &[]);
            for line in &lines {
                let line = HeaderValue::from_bytes(line)?;
                request.headers_mut().append(header.name(), line);
            }
            let everywhere = ForwardedIp::new([net("0.0.0.0/0"), net("::/0")]);
            prop_assert!(everywhere.header(header).key(&request).is_some());
        }
    }

    /// Whatever the client sends, what our proxies append to it tells who the client is.
    #[test]
    fn client_text_does_not_change_trusted_entries(prefix in header_bytes(), on_one_line: bool) {
        let appended = [
            (ForwardedHeader::XForwardedFor, "203.0.113.7, [2001:db8:aaaa::1]:80, 10.0.0.2"),
            (
                ForwardedHeader::Forwarded,
                r#"for=203.0.113.7;host="\",\\", for="[2001:db8:aaaa::1]:80", for=10.0.0.2"#,
            ),
            (
                ForwardedHeader::Forwarded,
                r#"host="\"a\\";for="203.0.113.7:80";proto=https,for="10.0.0.2""#,
            ),
        ];
        for (header, appended) in appended {
            let mut request = request("10.0.0.1", header, &[]);
            let lines = if on_one_line {
                vec![[&prefix, b", ".as_slice(), appended.as_bytes()].concat()]
            } else {
                vec![prefix.clone(), appended.into()]
            };
            for line in lines {
                let line = HeaderValue::from_bytes(&line)?;
                request.headers_mut().append(header.name(), line);
            }
            prop_assert_eq!(key_of(&trusting().header(header), &request), "203.0.113.7");
        }
    }
}

#[test]
fn unix_peer_is_one_client_unless_its_header_is_trusted() {
    let request = |forwarded: &str| {
        let request = Request::builder().extension(PeerAddr::unix());
        let request = request.header("x-forwarded-for", forwarded);
        request.body(()).unwrap()
    };
    let trusting = trusting().unix(true);
    for (forwarded, expected) in [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.1", "203.0.113.7"),
        ("10.0.0.1", "10.0.0.1"),
        ("203.0.113.7, unknown", "unix:"),
        ("", "unix:"),
    ] {
        assert_eq!(key_of(&trusting, &request(forwarded)), expected);
        assert_eq!(
            key_of(&trusting.clone().unix(false), &request(forwarded)),
            "unix:"
        );
        assert_eq!(key_of(&PeerIp::new(), &request(forwarded)), "unix:");
    }
    assert!(trusting.is_trusted_peer(PeerAddr::unix()));
    assert_ne!(ClientKey::Unix, ClientKey::from("unix:"));
}
