//! What a request is for, through the real binary: byte-exact requests whose host or target two
//! servers could read differently.

use crate::support::{Client, Origin, Proxy};
use std::io::Write;
use std::net::SocketAddr;

/// Answers everything with a short text, on connections that it keeps.
pub(super) fn plain() -> Origin {
    Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    })
}

/// The status and the body of the answer to exactly these bytes.
fn answer(to: SocketAddr, bytes: &[u8]) -> (String, String) {
    let mut client = Client::connect(to);
    client.socket.write_all(bytes).unwrap();
    let head = client.head();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let body = client.bytes(length.map_or(0, |length| length.parse().unwrap()));
    let body = String::from_utf8(body).unwrap();
    (status, body)
}

pub(super) fn put(proxy: &Proxy, bytes: &[u8]) -> (String, String) {
    answer(proxy.addr, bytes)
}

#[test]
fn request_without_one_valid_host_is_rejected() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &["--log-level", "debug"]);
    let fields: &[(&[u8], &str)] = &[
        (b"Host: a b", "character"),
        (b"Host: a/b", "character"),
        (b"Host: a\\b", "character"),
        (b"Host: a?b", "character"),
        (b"Host: a#b", "character"),
        (b"Host: a,b", "character"),
        (b"Host: a\"b", "character"),
        (b"Host: a\tb", "character"),
        (b"Host: a\xc3\xa9", "character"),
        (b"Host: http://a", "port"),
        (b"Host: a@b", "user"),
        (b"Host: u:p@b", "user"),
        (b"Host: a:b", "port"),
        (b"Host: a:99999", "port"),
        (b"Host: a:80:80", "port"),
        (b"Host: a:-1", "port"),
        (b"Host: [::1", "brackets"),
        (b"Host: [::1]x", "brackets"),
        (b"Host: [a]", "brackets"),
        (b"Host: a%2", "percent"),
        (b"Host: a%zz", "percent"),
        (b"Host:", "empty"),
        (b"Host: :80", "empty"),
        (b"X: y", "must have a Host"),
        (b"Host: a\r\nHost: a", "more than one"),
        (b"Host: a\r\nHost:", "more than one"),
    ];
    for (field, why) in fields {
        for target in ["/", "http://b.test/"] {
            let mut bytes = format!("GET {target} HTTP/1.1\r\n").into_bytes();
            bytes.extend_from_slice(field);
            bytes.extend_from_slice(b"\r\n\r\n");
            let (status, body) = put(&proxy, &bytes);
            let field = String::from_utf8_lossy(field);
            assert_eq!(status, "400", "{target} {field}");
            assert!(
                body.starts_with("sse-guard: ") && body.contains(why),
                "{field}: {body}"
            );
        }
    }
    assert_eq!(origin.served(), 0);
    let line = proxy.wait_for_log("request refused: the Host field is not a host");
    assert!(line.contains("\"INFO\""), "{line}");
}

#[test]
fn valid_host_reaches_the_upstream_unchanged() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &[]);
    for host in ["a.test:8080", "A_b", "[::1]:80", "a%20b", "a.", "a:"] {
        let (status, _) = put(
            &proxy,
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
        );
        assert_eq!(status, "200", "{host}");
        assert_eq!(origin.last_request().field("host"), Some(host));
        assert_eq!(origin.last_request().field("x-forwarded-host"), Some(host));
    }
    // HTTP/1.0 knows no Host.
    assert_eq!(put(&proxy, b"GET / HTTP/1.0\r\n\r\n").0, "200");
    assert_eq!(origin.last_request().field("x-forwarded-host"), None);
    assert_eq!(put(&proxy, b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n").0, "400");
}

#[test]
fn target_form_must_fit_the_method() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &[]);
    for (line, status, forwarded) in [
        ("GET http://b.test HTTP/1.1", "200", "GET / HTTP/1.1"),
        ("GET http://b.test?q HTTP/1.1", "200", "GET /?q HTTP/1.1"),
        ("GET HTTP://b.test/a?q HTTP/1.1", "200", "GET /a?q HTTP/1.1"),
        ("GET https://b.test/ HTTP/1.1", "200", "GET / HTTP/1.1"),
        (
            "GET /a?b=/../c%&[] HTTP/1.1",
            "200",
            "GET /a?b=/../c%&[] HTTP/1.1",
        ),
        ("OPTIONS * HTTP/1.1", "200", "OPTIONS * HTTP/1.1"),
        ("GET http://u:p@b.test/ HTTP/1.1", "400", ""),
        ("GET http://u@b.test/ HTTP/1.1", "400", ""),
        ("GET http://@b.test/ HTTP/1.1", "400", ""),
        ("GET http:///a HTTP/1.1", "400", ""),
        ("GET http://b:x/ HTTP/1.1", "400", ""),
        ("GET http://b:99999/ HTTP/1.1", "400", ""),
        ("GET http://[::1/ HTTP/1.1", "400", ""),
        ("GET ftp://b.test/ HTTP/1.1", "400", ""),
        ("GET file:///etc/passwd HTTP/1.1", "400", ""),
        ("GET ws://b.test/ HTTP/1.1", "400", ""),
        ("GET http:/a HTTP/1.1", "400", ""),
        ("GET g HTTP/1.1", "400", ""),
        ("GET b.test:80 HTTP/1.1", "400", ""),
        ("GET ?q HTTP/1.1", "400", ""),
        ("GET * HTTP/1.1", "400", ""),
        ("POST * HTTP/1.1", "400", ""),
        ("OPTIONS *?q HTTP/1.1", "400", ""),
        ("GET /a#b HTTP/1.1", "400", ""),
        ("GET /a?b#c HTTP/1.1", "400", ""),
        ("GET # HTTP/1.1", "400", ""),
        ("GET http://b.test#c HTTP/1.1", "400", ""),
        ("GET http://b.test/a#c HTTP/1.1", "400", ""),
        ("CONNECT b.test:80 HTTP/1.1", "405", ""),
        ("CONNECT / HTTP/1.1", "405", ""),
        ("GET /a\\b HTTP/1.1", "400", ""),
        ("GET \\a HTTP/1.1", "400", ""),
        ("GET /a\"b HTTP/1.1", "200", "GET /a%22b HTTP/1.1"),
        ("GET /<a> HTTP/1.1", "400", ""),
        ("GET /a%zz HTTP/1.1", "400", ""),
        ("GET /a% HTTP/1.1", "400", ""),
        ("GET /\u{e9} HTTP/1.1", "200", "GET /%C3%A9 HTTP/1.1"),
        ("GET /?\u{e9} HTTP/1.1", "200", "GET /?%C3%A9 HTTP/1.1"),
        ("GET /a\x01 HTTP/1.1", "400", ""),
        ("GET /a\x7f HTTP/1.1", "400", ""),
        ("GET /a b HTTP/1.1", "400", ""),
    ] {
        let before = origin.served();
        let bytes = format!("{line}\r\nHost: a.test\r\n\r\n");
        assert_eq!(put(&proxy, bytes.as_bytes()).0, status, "{line:?}");
        let served = origin.served() - before;
        assert_eq!(served, usize::from(status == "200"), "{line:?}");
        if served > 0 {
            assert_eq!(origin.last_request().head.lines().next(), Some(forwarded));
        }
    }
}

/// RFC 3986 allows these bytes nowhere in a URI unless they are percent-encoded.
#[test]
fn raw_bytes_of_a_target_are_percent_encoded_or_rejected() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &[]);
    let allowed = b"-._~:/?[]@!$&'()*+,;=%";
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || allowed.contains(&byte);
    for byte in (0..=0xff).filter(|byte| !is_allowed(*byte) && !b"\r\n #".contains(byte)) {
        for place in ["/a~b", "/a?b=~c"] {
            let (before, after) = place.split_once('~').unwrap();
            let mut request = format!("GET {before}").into_bytes();
            request.push(byte);
            request.extend_from_slice(after.as_bytes());
            request.extend_from_slice(b" HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let served = origin.served();
            let (status, body) = put(&proxy, &request);
            let name = format!("{byte:#04x} in {place}");
            if status == "200" {
                assert!(byte.is_ascii(), "{name}");
                let line = format!("GET {before}%{byte:02X}{after} HTTP/1.1");
                assert_eq!(
                    origin.last_request().head.lines().next(),
                    Some(&*line),
                    "{name}"
                );
            } else {
                assert_eq!((&*status, origin.served()), ("400", served), "{name}");
                let advice = format!("; send it as %{byte:02X}");
                assert!(body.contains(&advice), "{name}: {body:?}");
            }
        }
    }
    // Also several of them, and of an absolute target.
    for (target, forwarded) in [
        ("/a|b?{'c':`d`}^\\", "/a%7Cb?%7B'c':%60d%60%7D%5E%5C"),
        ("/{a}\u{1f600}?q=\u{e9}", "/%7Ba%7D%F0%9F%98%80?q=%C3%A9"),
        ("http://a.test/x|?y|", "/x%7C?y%7C"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(put(&proxy, request.as_bytes()).0, "200", "{target}");
        let line = format!("GET {forwarded} HTTP/1.1");
        assert_eq!(origin.last_request().head.lines().next(), Some(&*line));
    }
}

#[test]
fn connect_is_rejected_with_the_allowed_methods() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &["--admin-listen", "127.0.0.1:0"]);
    for to in [proxy.addr, proxy.admin()] {
        let mut client = Client::connect(to);
        client.send("CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n");
        let head = client.head();
        assert_eq!(&head[9..12], "405", "{head}");
        assert!(head.contains("\nallow: get, head, post"), "{head}");
    }
}

#[test]
fn fragment_is_refused_behind_any_other_request() {
    let origin = Origin::start(|received, to| {
        if let Some(length) = received.field("content-length") {
            assert!(!to.body(length.parse().unwrap()).contains(&0));
        } else if received.field("transfer-encoding").is_some() {
            assert!(!to.body(29).contains(&0));
        }
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let fragment = "GET /# HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = "GET /# HTTP/1.1\r\n\r\n";
    let spaces = " ".repeat(80);
    let zeros = "0".repeat(80);
    for fields in [
        "\r\n".to_owned(),
        format!("Transfer-Encoding: chunked\r\n\r\n13\r\n{body}\r\n0\r\n\r\n"),
        "Upgrade: h2c\r\n\r\n".to_owned(),
        "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(),
        format!("Upgrade: x\r\nContent-Length: 19\r\n\r\n{body}"),
        format!("Content-Length:{spaces}19\r\n\r\n{body}"),
        format!("Content-Length: {zeros}19\r\n\r\n{body}"),
        format!("Content-Length: 19\r\nContent-Length: 19\r\n\r\n{body}"),
        format!("Content-Length: 19\r\nX-Long: {zeros}\r\n\r\n{body}"),
    ] {
        let first = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}");
        let before = origin.served();
        // At once, and when the response has come.
        let mut client = proxy.send_request(&format!("{first}{first}{fragment}"));
        for _ in 0..2 {
            assert_eq!(&client.head()[9..12], "200", "{fields:?}");
            assert_eq!(client.bytes(2), b"ok");
        }
        assert_eq!(&client.head()[9..12], "400", "{fields:?}");
        let mut client = proxy.send_request(&first);
        assert_eq!(&client.head()[9..12], "200", "{fields:?}");
        assert_eq!(client.bytes(2), b"ok");
        client.send(fragment);
        assert_eq!(&client.head()[9..12], "400", "{fields:?}");
        assert_eq!(origin.served() - before, 3, "{fields:?}");
    }
}

#[test]
fn bytes_behind_an_upgrade_are_not_a_request() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(to.body(18), b"GET /# HTTP/1.1\r\n\r");
        to.raw(b"seen");
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.send_request(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
         GET /# HTTP/1.1\r\n\r\n",
    );
    assert_eq!(&client.head()[9..12], "101");
    assert_eq!(client.bytes(4), b"seen");
}

#[test]
fn length_beside_a_transfer_coding_is_refused() {
    let origin = Origin::held();
    let proxy = Proxy::start(origin.addr, &["--admin-listen", "127.0.0.1:0"]);
    for fields in [
        "Content-Length: 34\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 34",
        "transfer-encoding: chunked\r\nX: y\r\nCONTENT-LENGTH:0",
        "Content-Length: 34\r\nTransfer-Encoding: identity",
        "Content-Length: 34\r\nTransfer-Encoding:",
        "Transfer-Encoding: chunked\r\nContent-Length: x",
    ] {
        for (method, address) in [
            ("POST", proxy.addr),
            ("GET", proxy.addr),
            ("POST", proxy.admin()),
        ] {
            let mut client = Client::connect(address);
            client.send(&format!(
                "{method} / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n0\r\n\r\n\
                 GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ));
            let head = client.head();
            assert_eq!(&head[9..12], "400", "{method} {fields:?}");
            assert!(head.contains("connection: close\n"), "{head}");
            let (rest, _) = client.raw_and_end();
            let text = "sse-guard: the request has both Content-Length and Transfer-Encoding\n";
            assert_eq!(rest, text.as_bytes(), "{method} {fields:?}");
        }
    }
    assert_eq!(origin.served(), 0);
}

#[test]
fn bare_lf_in_a_trailer_section_swallows_no_request() {
    let origin = Origin::start(|received, to| {
        if received.field("transfer-encoding").is_none() {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    for trailers in ["\n", "X: y\n\r\n", "X: y\r\n\n"] {
        let mut client = proxy.send_request(&format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n{trailers}\
             GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n"
        ));
        let head = client.head();
        assert_eq!(&head[9..12], "400", "{trailers:?}: {head}");
        assert!(head.contains("connection: close\n"), "{head}");
        let rest = String::from_utf8(client.raw()).unwrap();
        assert_eq!(
            rest, "sse-guard: the request's body broke off\n",
            "{trailers:?}"
        );
    }
}

#[test]
fn parser_rejection_has_its_reason() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &["--client-max-head", "8KiB"]);
    let long = "x".repeat(16 * 1024);
    for (head, status, reason) in [
        (
            "GET /a?b=<c HTTP/1.1\r\nHost: a.test\r\n",
            "400",
            "raw '<'; send it as %3C",
        ),
        (
            "GET /a?b=\"c HTTP/1.1\r\nHost: a.test\r\n",
            "400",
            "send it as %22",
        ),
        (
            "GET /a#b HTTP/1.1\r\nHost: a.test\r\n",
            "400",
            "has a fragment",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "400",
            "both Content-Length and Transfer-Encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1, 1\r\n",
            "400",
            "Content-Length is not a number",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a.test\r\nbad name: x\r\n",
            "400",
            "not valid HTTP/1.1",
        ),
        (
            &format!("GET / HTTP/1.1\r\nX: {long}\r\n"),
            "431",
            "head is too large",
        ),
    ] {
        // Also behind another request on the connection.
        for is_second in [false, true] {
            let mut client = Client::connect(proxy.addr);
            if is_second {
                client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
                assert!(client.head().starts_with("http/1.1 200 "));
                assert_eq!(client.bytes(2), b"ok");
            }
            client.try_send(&format!("{head}\r\n"));
            let answer = client.head();
            assert_eq!(&answer[9..12], status, "{head:?}");
            assert!(answer.contains("connection: close\n"), "{answer}");
            let body = String::from_utf8(client.raw()).unwrap();
            let is_text = body.starts_with("sse-guard: ") && body.ends_with('\n');
            assert!(is_text && body.contains(reason), "{head:?}: {body:?}");
            let length = format!("content-length: {}\n", body.len());
            assert!(answer.contains(&length), "{answer}");
        }
    }
}

#[test]
fn empty_400_of_the_upstream_stays_empty() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = Proxy::start(origin.addr, &[]);
    for _ in 0..2 {
        let (status, body) = put(&proxy, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!((status.as_str(), body.as_str()), ("400", ""));
    }
}

#[test]
fn admin_address_accepts_valid_requests_alone() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &["--admin-listen", "127.0.0.1:0"]);
    let admin = proxy.admin();
    let local = "Host: localhost";
    for (line, fields, status) in [
        ("GET /healthz HTTP/1.1", local, "200"),
        ("GET /healthz HTTP/1.0", "X: y", "200"),
        ("GET http://localhost/healthz HTTP/1.1", local, "200"),
        // The authority of the target is the host.
        (
            "GET http://localhost/healthz HTTP/1.1",
            "Host: evil.test",
            "200",
        ),
        ("GET http://evil.test/healthz HTTP/1.1", local, "403"),
        ("GET http://evil.test/api/summary HTTP/1.1", local, "403"),
        ("GET http://u@localhost/healthz HTTP/1.1", local, "400"),
        ("GET ftp://localhost/healthz HTTP/1.1", local, "400"),
        ("GET /healthz HTTP/1.1", "X: y", "400"),
        ("GET http://localhost/healthz HTTP/1.1", "X: y", "400"),
        ("GET /healthz HTTP/1.1", "Host:", "400"),
        ("GET /healthz HTTP/1.1", "Host: u@localhost", "400"),
        ("GET /healthz HTTP/1.1", "Host: localhost:x", "400"),
        ("GET /healthz HTTP/1.1", "Host: localhost/", "400"),
        (
            "GET /healthz HTTP/1.1",
            "Host: localhost\r\nHost: localhost",
            "400",
        ),
        (
            "GET /healthz HTTP/1.1",
            "Host: localhost\r\nHost: evil.test",
            "400",
        ),
        ("GET /healthz HTTP/1.0", "Origin: http://", "403"),
        (
            "GET /healthz HTTP/1.1",
            "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.test",
            "400",
        ),
        (
            "GET /api/summary HTTP/1.1",
            "Host: localhost\r\nAuthorization: Bearer x\r\nAuthorization: Bearer y",
            "400",
        ),
        ("GET healthz HTTP/1.1", local, "400"),
        ("GET * HTTP/1.1", local, "400"),
        ("CONNECT localhost:80 HTTP/1.1", local, "405"),
        ("GET /%zz HTTP/1.1", local, "400"),
        ("GET //healthz HTTP/1.1", local, "404"),
        ("GET /./healthz HTTP/1.1", local, "404"),
    ] {
        let bytes = format!("{line}\r\n{fields}\r\n\r\n");
        let (found, body) = answer(admin, bytes.as_bytes());
        assert_eq!(found, status, "{line} {fields}: {body}");
    }
}
