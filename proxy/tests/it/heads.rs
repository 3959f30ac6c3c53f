//! Heads through the real binary: fields that describe the client, and fields of one connection alone.

use crate::support::{Client, End, Origin, Proxy, ReceivedRequest};

/// An origin that answers everything with this.
fn says(response: &'static str) -> Origin {
    Origin::start(move |_, to| {
        to.raw(response.as_bytes());
    })
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What the origin gets when a client sends these fields.
fn put(origin: &Origin, flags: &[&str], fields: &str) -> ReceivedRequest {
    let proxy = Proxy::start(origin.addr, flags);
    let mut client = proxy.send_request(&format!(
        "GET / HTTP/1.1\r\nHost: site.test\r\n{fields}\r\n\r\n"
    ));
    assert!(client.head().starts_with("http/1.1 200 ok\n"));
    origin.last_request()
}

#[track_caller]
fn assert_fields(received: &ReceivedRequest, expected: &[(&str, Option<&str>)]) {
    for &(name, value) in expected {
        assert_eq!(received.field(name), value, "{name} of {}", received.head);
        let lines = received.head.lines().skip(1);
        let count = lines
            .filter(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))
            .count();
        assert_eq!(
            count,
            usize::from(value.is_some()),
            "{name}, {}",
            received.head
        );
    }
}

const CLAIMS: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\
                      Forwarded: for=192.0.2.3\r\nForwarded: for=192.0.2.4;proto=https\r\n\
                      X-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test";

#[test]
fn forwarding_fields_of_an_untrusted_peer_do_not_reach_the_upstream() {
    let fields = format!(
        "{CLAIMS}\r\nX-Forwarded-Prefix: /x\r\nX-Real-IP: 192.0.2.5\r\nX_Forwarded_For: 192.0.2.6\r\n\
         X-Forwarded_Proto: https\r\nx_real_ip: 192.0.2.7\r\nForwarded_: for=192.0.2.8\r\n\
         HTTP_X_FORWARDED_FOR: 192.0.2.9\r\nTrue-Client-IP: 192.0.2.10\r\n\
         CF-Connecting-IP: 192.0.2.11\r\nX-Original-URL: /192.0.2.12\r\n\
         Front-End-Https: on\r\nProxy: 192.0.2.13"
    );
    let received = put(&says(OK), &[], &fields);
    assert_fields(
        &received,
        &[
            ("x-forwarded-for", Some("127.0.0.1")),
            (
                "forwarded",
                Some("for=127.0.0.1;host=\"site.test\";proto=http"),
            ),
            ("x-forwarded-proto", Some("http")),
            ("x-forwarded-host", Some("site.test")),
            ("x-forwarded-prefix", None),
            ("x-real-ip", None),
            ("x_forwarded_for", None),
            ("x-forwarded_proto", None),
            ("front-end-https", None),
        ],
    );
    assert!(!received.head.contains("192.0.2."), "{}", received.head);
}

#[test]
fn forwarding_fields_of_a_trusted_proxy_are_sent_in_both_forms() {
    let of = |host: &str| format!(";host=\"{host}\";proto=https");
    for (header, list, client, host) in [
        (
            "x-forwarded-for",
            "192.0.2.1, 192.0.2.2",
            "192.0.2.1, for=192.0.2.2",
            "public.test",
        ),
        (
            "forwarded",
            "192.0.2.3, 192.0.2.4",
            "192.0.2.3, for=192.0.2.4",
            "site.test",
        ),
    ] {
        let list = format!("{list}, 127.0.0.1");
        let of = of(host);
        let forwarded = format!("for={client}{of}, for=127.0.0.1{of}");
        let flags = ["--trusted-proxies=127.0.0.0/8", "--trusted-header", header];
        let received = put(&says(OK), &flags, CLAIMS);
        assert_fields(
            &received,
            &[
                ("x-forwarded-for", Some(&list)),
                ("forwarded", Some(&forwarded)),
                ("x-forwarded-proto", Some("https")),
                ("x-forwarded-host", Some(host)),
            ],
        );
    }
}

#[test]
fn forwarding_fields_of_caddy_are_sent_without_contradiction() {
    let fields = "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: public.test\r\nX-Forwarded-Port: 8443\r\n\
                  X-Forwarded-Ssl: off\r\nX-Real-IP: 192.0.2.5\r\nX_Forwarded_Proto: http\r\n\
                  Forwarded: for=192.0.2.3;proto=http;host=evil.test";
    let of = ";host=\"public.test:8443\";proto=https";
    assert_fields(
        &put(&says(OK), &["--trusted-proxies=127.0.0.0/8"], fields),
        &[
            ("x-forwarded-for", Some("203.0.113.1, 127.0.0.1")),
            ("x-forwarded-proto", Some("https")),
            ("x-forwarded-host", Some("public.test")),
            ("x-forwarded-port", Some("8443")),
            ("x-forwarded-ssl", Some("on")),
            ("x-real-ip", Some("203.0.113.1")),
            ("x_forwarded_proto", None),
            (
                "forwarded",
                Some(&format!("for=203.0.113.1{of}, for=127.0.0.1{of}")),
            ),
        ],
    );
}

#[test]
fn user_header_reaches_the_upstream_from_trusted_proxies_alone() {
    let user = ["--admin-user-header=x-user"];
    let stranger = put(&says(OK), &user, "X-User: ann\r\nX_User: bob");
    assert_fields(&stranger, &[("x-user", None), ("x_user", None)]);
    let flags = [user[0], "--trusted-proxies=127.0.0.0/8"];
    let gateway = put(&says(OK), &flags, "X-User: ann\r\nX_User: bob");
    assert_fields(&gateway, &[("x-user", Some("ann")), ("x_user", None)]);
}

#[test]
fn trailers_of_a_request_do_not_reach_the_upstream() {
    let origin = Origin::start(|_, to| {
        let is_bare = to.body(12) == b"2\r\nok\r\n0\r\n\r\n";
        let code = if is_bare { "200" } else { "500" };
        to.raw(format!("HTTP/1.1 {code} -\r\nContent-Length: 0\r\n\r\n").as_bytes());
    });
    let proxy = Proxy::start(origin.addr, &["--trusted-proxies=127.0.0.0/8"]);
    let names = "X-Forwarded-For, Forwarded, X-Sum, Authorization, Content-Length";
    let trailers = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nX-Sum: 7\r\n\
                    Host: evil.test\r\nAuthorization: Basic eDp5\r\nContent-Length: 9\r\n\
                    Transfer-Encoding: chunked\r\n";
    for announced in [format!("Trailer: {names}\r\n"), String::new()] {
        let mut client = proxy.send_request(&format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\n{announced}Transfer-Encoding: chunked\r\n\r\n\
             2\r\nok\r\n0\r\n{trailers}\r\n"
        ));
        assert_eq!(&client.head()[9..12], "200", "{announced}");
        assert_fields(
            &origin.last_request(),
            &[("trailer", None), ("x-sum", None)],
        );
        // Its connection serves the next request.
        client.send(
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 12\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        );
        assert_eq!(&client.head()[9..12], "200", "{announced}");
    }
}

#[test]
fn trailer_of_a_response_neither_frames_nor_routes() {
    let origin = says(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-Sum, Connection, Keep-Alive, Upgrade, Content-Length, Set-Cookie, Location\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 7\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nUpgrade: x\r\n\
         Content-Length: 9\r\nSet-Cookie: a=b\r\nLocation: /\r\n\r\n",
    );
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.send_request(
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close, TE\r\nTE: trailers\r\n\r\n",
    );
    client.head();
    let body = String::from_utf8(client.raw()).unwrap();
    assert_eq!(body, "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n");
}

#[test]
fn authority_of_an_absolute_target_is_the_host() {
    let origin = says(OK);
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client =
        proxy.send_request("GET http://real.test:8000/a?b=c HTTP/1.1\r\nHost: lie.test\r\n\r\n");
    assert!(client.head().starts_with("http/1.1 200 ok\n"));
    let received = origin.last_request();
    assert!(
        received.head.starts_with("GET /a?b=c HTTP/1.1\n"),
        "{}",
        received.head
    );
    assert_fields(
        &received,
        &[
            ("host", Some("real.test:8000")),
            ("x-forwarded-host", Some("real.test:8000")),
        ],
    );
}

#[test]
fn hop_by_hop_fields_of_a_request_do_not_reach_the_upstream() {
    let fields = "Connection: X-Hop, keep-alive\r\nConnection: close\r\nX-Hop: 1\r\n\
                  Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
                  Proxy-Authorization: Basic eDp5\r\nX-Other: 2";
    assert_fields(
        &put(&says(OK), &[], fields),
        &[
            ("connection", None),
            ("x-hop", None),
            ("keep-alive", None),
            ("proxy-connection", None),
            ("te", None),
            ("proxy-authorization", None),
            ("x-other", Some("2")),
        ],
    );
}

#[test]
fn fields_of_a_trusted_proxy_are_not_removed_by_its_clients() {
    let names = [
        "x-user",
        "x-ssl-client-verify",
        "true-client-ip",
        "x-readonly",
        "authorization",
        "cookie",
        "last-event-id",
    ];
    let mut fields = format!("Connection: {}, x-url-scheme, te\r\n", names.join(", "));
    for name in names {
        fields.push_str(&format!("{name}: 1\r\n"));
    }
    fields.push_str("X-Url-Scheme: https\r\nTE: trailers");
    let user = "--admin-user-header=x-user";
    let received = put(&says(OK), &["--trusted-proxies=127.0.0.0/8", user], &fields);
    for name in names {
        assert_fields(&received, &[(name, Some("1"))]);
    }
    let rest = [
        ("x-url-scheme", Some("https")),
        ("te", None),
        ("connection", None),
    ];
    assert_fields(&received, &rest);
    // A client's own options count, but what routes or authenticates is none.
    assert_fields(
        &put(&says(OK), &[user], &fields),
        &[
            ("x-user", None),
            ("true-client-ip", None),
            ("x-readonly", None),
            ("authorization", Some("1")),
            ("cookie", Some("1")),
            ("last-event-id", Some("1")),
            ("connection", None),
        ],
    );
}

#[test]
fn field_spellings_do_not_contradict_a_trusted_proxy() {
    let fields = "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-Proto: http\r\nX_Url_Scheme: https\r\n\
                  X_Scheme: https\r\nFront_End_Https: on\r\nX-Forwarded-Https: on\r\n\
                  X-Scheme: https\r\nX-SSL-Client-Verify: FAILED\r\nX_SSL_Client_Verify: SUCCESS\r\n\
                  SM_USER: ann";
    assert_fields(
        &put(&says(OK), &["--trusted-proxies=127.0.0.0/8"], fields),
        &[
            ("x_url_scheme", None),
            ("x_scheme", None),
            ("front_end_https", None),
            ("x-forwarded-https", Some("off")),
            ("x-scheme", Some("http")),
            ("x-ssl-client-verify", Some("FAILED")),
            ("x_ssl_client_verify", None),
            ("sm_user", Some("ann")),
        ],
    );
}

#[test]
fn response_keeps_its_head_except_hop_by_hop_fields() {
    let origin = says(
        "HTTP/1.1 201 Made\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nETag: \"x\"\r\n\
         Cache-Control: max-age=60\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Alt-Svc: h3=\":443\"\r\n\r\nok",
    );
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    // The client's connection outlives the upstream's.
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = client.head();
        let is_ours =
            |line: &&str| !line.starts_with("date:") && !line.starts_with("x-request-id:");
        let mut lines: Vec<&str> = head.lines().filter(is_ours).collect();
        lines[1..].sort_unstable();
        assert!(lines[0].starts_with("http/1.1 201 "), "{head}");
        assert_eq!(
            lines[1..],
            [
                "cache-control: max-age=60",
                "content-length: 2",
                "content-type: text/plain",
                "etag: \"x\"",
                "set-cookie: a=1",
                "set-cookie: b=2",
            ]
        );
        assert_eq!(client.bytes(2), b"ok");
    }
}

#[test]
fn upgrade_other_than_websocket_does_not_reach_the_upstream() {
    let origin = says(OK);
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk";
    assert_fields(
        &put(&origin, &[], fields),
        &[
            ("connection", None),
            ("upgrade", None),
            ("http2-settings", None),
        ],
    );
}

#[test]
fn unknown_transfer_coding_is_rejected() {
    let origin = says(OK);
    let proxy = Proxy::start(origin.addr, &[]);
    for (codings, status) in [
        ("Transfer-Encoding: chunked", "200"),
        ("Transfer-Encoding: Chunked", "200"),
        ("Transfer-Encoding: gzip, chunked", "501"),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "501",
        ),
    ] {
        let before = origin.served();
        let mut client = proxy.send_request(&format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\n{codings}\r\n\r\n0\r\n\r\n"
        ));
        assert_eq!(&client.head()[9..12], status, "{codings}");
        assert_eq!(origin.served() > before, status == "200", "{codings}");
    }
}

#[test]
fn request_reaches_the_upstream_with_one_host() {
    let origin = says(OK);
    let proxy = Proxy::start(origin.addr, &[]);
    let send_request = |line: &str, fields: &str| {
        let mut client = proxy.send_request(&format!(
            "GET {line} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n"
        ));
        client.head()[9..12].to_owned()
    };
    for (line, host) in [("/", "a.test"), ("http://real.test/", "real.test")] {
        assert_eq!(send_request(line, "Connection: Host"), "200");
        assert_fields(&origin.last_request(), &[("host", Some(host))]);
    }
    let before = origin.served();
    for line in ["/", "http://real.test/"] {
        assert_eq!(send_request(line, "Host: b.test"), "400");
    }
    assert_eq!(origin.served(), before);
}

/// So many fields, each with its number.
fn fields(count: usize) -> String {
    (0..count)
        .map(|n| format!("x-{n}: value-{n}\r\n"))
        .collect()
}

#[test]
fn heads_of_many_fields_pass_both_ways() {
    for (count, body, content_type) in [
        (100, "", "text/plain"),
        (101, "", "text/event-stream"),
        (1_000, "", "text/plain"),
        (1_000, "Content-Length: 4\r\n", "text/event-stream"),
        (1_500, "Transfer-Encoding: chunked\r\n", "text/plain"),
    ] {
        let origin = Origin::start(move |_, to| {
            let fields = fields(count);
            to.raw(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n");
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}Content-Type: {content_type}\r\n\
                 Transfer-Encoding: chunked\r\n\r\n"
            );
            to.raw(head.as_bytes());
            to.chunk("data: 1\n\n");
            to.end();
        });
        let proxy = Proxy::start(origin.addr, &[]);
        let mut client = Client::connect(proxy.addr);
        // The second comes behind the first on one connection.
        for _ in 0..2 {
            let fields = fields(count);
            let method = if body.is_empty() { "GET" } else { "POST" };
            client.send(&format!(
                "{method} /a HTTP/1.1\r\nHost: a.test\r\n{fields}{body}\r\n"
            ));
            match body {
                "" => {}
                body if body.starts_with("Content") => client.send("body"),
                _ => client.send("4\r\nbody\r\n0\r\n\r\n"),
            }
            let mut head = client.head();
            while head.starts_with("http/1.1 1") {
                head = client.head();
            }
            assert!(head.starts_with("http/1.1 200 "), "{count}: {head}");
            let received = origin.last_request();
            for n in 0..count {
                let value = format!("value-{n}");
                assert_eq!(received.field(&format!("x-{n}")), Some(value.as_str()));
                assert!(head.contains(&format!("\nx-{n}: {value}\n")), "{n}");
            }
            assert_eq!(client.rest().0, b"data: 1\n\n");
        }
    }
}

#[test]
fn heads_are_bounded_by_their_bytes() {
    let origin = Origin::start(|_, to| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n{}Content-Length: 0\r\n\r\n",
            fields(2_000)
        );
        to.raw(head.as_bytes());
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &["--upstream-max-head", "16KiB"]);
    let mut client =
        proxy.send_request("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    let head = client.head();
    assert!(head.starts_with("http/1.1 502 "), "{head}");
    let text = "sse-guard: the head of the upstream's response is too large\n";
    assert_eq!(client.bytes(text.len()), text.as_bytes());
    proxy.wait_for_log("upstream.max_head");
    let mut client = Client::connect(proxy.addr);
    client.try_send(&format!(
        "GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n",
        fields(8_000)
    ));
    assert!(client.head().starts_with("http/1.1 431 "));
}

#[test]
fn response_length_follows_rfc_9112() {
    let origin = Origin::start(|received, to| {
        let fields = received.field("x-fields").unwrap().replace('|', "\r\n");
        let kind = received.path.trim_start_matches('/');
        let head = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/{kind}\r\n{fields}\r\n\r\n"
        );
        to.raw(head.as_bytes());
        to.raw(b"data: 1\n\n");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let send_request = |kind: &str, fields: &str| {
        proxy.send_request(&format!(
            "POST /{kind} HTTP/1.1\r\nHost: a.test\r\nX-Fields: {fields}\r\nContent-Length: 0\r\n\r\n"
        ))
    };
    for kind in ["plain", "event-stream"] {
        let mut client = send_request(kind, "Transfer-Encoding: identity");
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{kind}: {head}");
        assert!(head.contains("\ntransfer-encoding: chunked\n"), "{head}");
        assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
    }
    for fields in [
        "Content-Length: 9, 9",
        "Content-Length: 9|Content-Length: 9",
    ] {
        let mut client = send_request("plain", fields);
        let head = client.head();
        assert_eq!(head.matches("content-length: 9\n").count(), 1, "{head}");
        assert_eq!(client.bytes(9), b"data: 1\n\n");
        let mut client = send_request("event-stream", fields);
        client.head();
        assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
    }
    for fields in [
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity|Content-Length: 9",
    ] {
        assert!(
            send_request("plain", fields)
                .head()
                .starts_with("http/1.1 502 "),
            "{fields}"
        );
    }
    let line = proxy.wait_for_log("chunked more than once");
    assert!(
        line.contains("the application must not set Transfer-Encoding"),
        "{line}"
    );
    assert_eq!(line.matches("chunked more than once").count(), 1, "{line}");
}

#[test]
fn field_names_are_in_title_case_if_configured() {
    let origin = Origin::start(|received, to| {
        let kind = received.path.trim_start_matches('/');
        let head = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/{kind}\r\nx-a-b: c\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        to.raw(head.as_bytes());
        to.chunk("data: 1\n\n");
        to.end();
    });
    let flags = [
        "--client-title-case-headers",
        "--upstream-title-case-headers",
    ];
    for is_on in [false, true] {
        let proxy = Proxy::start(origin.addr, if is_on { &flags[..] } else { &[] });
        for kind in ["plain", "event-stream"] {
            let mut client = proxy.send_request(&format!(
                "POST /{kind} HTTP/1.1\r\nhost: a.test\r\nx-user-name: d\r\ncontent-length: 0\r\n\
                 connection: close\r\n\r\n"
            ));
            let text = String::from_utf8(client.raw()).unwrap();
            let (head, _) = text.split_once("\r\n\r\n").unwrap();
            let sent = origin.last_request().head;
            for (place, name) in [
                (head, "Content-Type: "),
                (head, "X-A-B: "),
                (head, "Date: "),
                (head, "Transfer-Encoding: "),
                (&sent, "Host: "),
                (&sent, "X-User-Name: "),
            ] {
                let lower = name.to_ascii_lowercase();
                let (there, absent) = if is_on {
                    (name, &*lower)
                } else {
                    (&*lower, name)
                };
                assert!(
                    place.contains(there) && !place.contains(absent),
                    "{kind}: {place}"
                );
            }
        }
    }
}
