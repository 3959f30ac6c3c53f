//! Limits through the real binary: who is counted, what the rejected get, and that slots come back.

use crate::support::{Answer, Client, End, Origin, Proxy, ReceivedRequest};

/// Streams at `/stream`, which are held; held texts at `/text`; streams that end at `/short`.
fn origin() -> Origin {
    Origin::start(|received, to| answer(&received, to))
}

fn answer(received: &ReceivedRequest, to: &mut Answer) {
    match received.path.as_str() {
        "/text" => {
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n");
            to.chunk("some");
            to.wait_for_close();
        }
        "/short" => {
            to.stream();
            to.chunk("data: 1\n\n");
            to.end();
        }
        _ => {
            to.stream();
            to.chunk("data: 1\n\n");
            to.wait_for_close();
        }
    }
}

fn status(client: &mut Client) -> u16 {
    let head = client.head();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Asks for a stream again and again, until it gets one.
fn get_in_the_end(proxy: &Proxy) -> Client {
    for _ in 0..10_000 {
        let mut client = proxy.get("/stream");
        if status(&mut client) == 200 {
            return client;
        }
    }
    panic!("the slot never came back:\n{}", proxy.log());
}

/// A GET for a stream with one more field.
fn get_with(proxy: &Proxy, field: &str) -> Client {
    proxy.send_request(&format!(
        "GET /stream HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n{field}\r\n\r\n"
    ))
}

fn post(proxy: &Proxy) -> Client {
    proxy.send_request(
        "POST /stream HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n\
         Content-Length: 0\r\n\r\n",
    )
}

/// A GET that does not say that it accepts a stream.
fn plain(proxy: &Proxy, path: &str) -> Client {
    proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nAccept: */*\r\n\r\n"
    ))
}

#[test]
fn per_ip_limit_is_a_429_until_a_stream_closes() {
    let origin = origin();
    let flags = ["--limit-per-ip", "2", "--limit-rate", "off"];
    let mut proxy = Proxy::start(origin.addr, &flags);
    let (mut first, mut second) = (proxy.get("/stream"), proxy.get("/stream"));
    assert_eq!((status(&mut first), status(&mut second)), (200, 200));
    let head = proxy.get("/stream").head();
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    assert_eq!(field(&head, "retry-after"), Some("5"), "{head}");
    assert_eq!(origin.served(), 2, "the rejected do not reach the origin");
    drop(first);
    let third = get_in_the_end(&proxy);
    drop((second, third));
    origin.wait_for_open(0);
    let last = proxy.stop();
    assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
}

#[test]
fn slot_is_released_when_the_upstream_ends_the_stream() {
    let origin = origin();
    let flags = ["--limit-per-ip", "1", "--limit-rate", "off"];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut short = proxy.get("/short");
    assert_eq!(status(&mut short), 200);
    assert_eq!(short.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
    // The connection is kept, only the stream is over.
    get_in_the_end(&proxy);
}

#[test]
fn total_limit_is_a_503() {
    let origin = origin();
    let proxy = Proxy::start(
        origin.addr,
        &["--limit-total", "1", "--limit-retry-after", "7s"],
    );
    let mut first = proxy.get("/stream");
    assert_eq!(status(&mut first), 200);
    let head = proxy.get("/stream").head();
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert_eq!(field(&head, "retry-after"), Some("7"), "{head}");
    drop(first);
    get_in_the_end(&proxy);
}

#[test]
fn retry_later_rejects_a_get_with_an_empty_stream_and_a_retry() {
    let origin = origin();
    for limit in ["--limit-per-ip", "--limit-total"] {
        let flags = [limit, "1", "--limit-reject", "retry-later"];
        let proxy = Proxy::start(origin.addr, &flags);
        let mut first = proxy.get("/stream");
        assert_eq!(status(&mut first), 200);

        let mut client = get_with(&proxy, "Connection: close");
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert_eq!(field(&head, "content-type"), Some("text/event-stream"));
        assert_eq!(field(&head, "retry-after"), None, "{head}");
        let body = match field(&head, "content-length") {
            Some(len) => {
                let body = client.raw();
                assert_eq!(body.len().to_string(), len, "a whole body");
                body
            }
            None => {
                let (body, end) = client.rest();
                assert_eq!(end, End::Clean);
                body
            }
        };
        let body = String::from_utf8(body).unwrap();
        let millis = body
            .strip_prefix("retry: ")
            .and_then(|n| n.strip_suffix('\n'));
        let millis: u64 = millis
            .unwrap_or_else(|| panic!("{body:?}"))
            .parse()
            .unwrap();
        assert!((2_500..=7_500).contains(&millis), "{millis}");

        let over = if limit == "--limit-total" { 503 } else { 429 };
        assert_eq!(status(&mut post(&proxy)), over);
        // No client that could not tell a stream from a page gets one.
        assert_eq!(status(&mut plain(&proxy, "/stream")), over);
    }
}

#[test]
fn clients_behind_a_trusted_proxy_are_counted_apart_by_the_rightmost_address() {
    let origin = origin();
    let proxy = Proxy::start(
        origin.addr,
        &[
            "--trusted-proxies",
            "127.0.0.0/8",
            "--limit-per-ip",
            "1",
            "--limit-rate",
            "off",
        ],
    );
    let mut held = Vec::new();
    for (forwarded, expected) in [
        ("192.0.2.1", 200),
        ("192.0.2.2", 200),
        ("192.0.2.1", 429),
        // What stands left of the nearest untrusted hop is the client's own invention.
        ("198.51.100.1, 192.0.2.1", 429),
        ("192.0.2.3, 192.0.2.4", 200),
        ("192.0.2.3", 200),
        // A trusted hop is passed over.
        ("192.0.2.5, 127.0.0.9", 200),
        ("192.0.2.5", 429),
        // One network of IPv6 is one client.
        ("2001:db8::1", 200),
        ("2001:db8::2", 429),
        ("2001:db8:0:1::1", 200),
    ] {
        let mut client = get_with(&proxy, &format!("X-Forwarded-For: {forwarded}"));
        assert_eq!(status(&mut client), expected, "{forwarded}");
        if expected == 200 {
            held.push(client);
        }
    }
    // Several lines are one list.
    let lines = "X-Forwarded-For: 192.0.2.77\r\nX-Forwarded-For: 192.0.2.2";
    assert_eq!(status(&mut get_with(&proxy, lines)), 429);
    assert!(!proxy.log().contains("not trusted"), "{}", proxy.log());
}

#[test]
fn forwarded_header_counts_if_it_is_the_trusted_one() {
    let origin = origin();
    let proxy = Proxy::start(
        origin.addr,
        &[
            "--trusted-proxies=127.0.0.0/8",
            "--trusted-header=forwarded",
            "--limit-per-ip=1",
        ],
    );
    let mut one = get_with(&proxy, "Forwarded: for=192.0.2.1;proto=https");
    let mut other = get_with(&proxy, "Forwarded: for=\"[2001:db8::1]:99\"");
    assert_eq!((status(&mut one), status(&mut other)), (200, 200));
    let again = "Forwarded: for=192.0.2.9, for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.8";
    assert_eq!(status(&mut get_with(&proxy, again)), 429);
}

#[test]
fn clients_behind_an_untrusted_proxy_count_as_one_with_one_line_of_advice() {
    let origin = origin();
    let mut proxy = Proxy::start(origin.addr, &["--limit-per-ip", "2"]);
    let mut held = Vec::new();
    for (client, expected) in [(1, 200), (2, 200), (3, 429), (4, 429)] {
        let mut client = get_with(&proxy, &format!("X-Forwarded-For: 192.0.2.{client}"));
        assert_eq!(status(&mut client), expected);
        held.push(client);
    }
    drop(held);
    proxy.stop();
    let log = proxy.log();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("that is not trusted"))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let warning: serde_json::Value = serde_json::from_str(warnings[0]).unwrap();
    assert_eq!(warning["level"], "WARN");
    let message = warning["message"].as_str().unwrap();
    assert!(
        message.contains("trusted_proxies = [\"127.0.0.1/32\"]"),
        "{message}"
    );
}

#[test]
fn networks_on_the_allow_list_have_no_limit() {
    let origin = origin();
    let mut proxy = Proxy::start(
        origin.addr,
        &[
            "--limit-per-ip=1",
            "--limit-total=1",
            "--limit-rate=1/h",
            "--limit-burst=1",
            "--limit-allow=192.0.2.0/24,127.0.0.0/8",
        ],
    );
    let mut held: Vec<Client> = (0..5).map(|_| proxy.get("/stream")).collect();
    assert!(held.iter_mut().all(|client| status(client) == 200));
    drop(held);
    origin.wait_for_open(0);
    assert_eq!(proxy.stop()["opened"], 5);
}

#[test]
fn rate_limit_is_a_429_without_open_streams() {
    let origin = origin();
    let proxy = Proxy::start(origin.addr, &["--limit-rate", "1/m", "--limit-burst", "2"]);
    for _ in 0..2 {
        let mut client = proxy.get("/short");
        assert_eq!(status(&mut client), 200);
        assert_eq!(client.rest().1, End::Clean);
    }
    let head = proxy.get("/short").head();
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    let seconds: u64 = field(&head, "retry-after").unwrap().parse().unwrap();
    assert!(
        (6..=60).contains(&seconds),
        "when the rate allows it: {head}"
    );
    // What is no stream has no rate.
    for _ in 0..3 {
        assert_eq!(status(&mut plain(&proxy, "/text")), 200);
    }
}

#[test]
fn max_clients_is_a_503_until_a_client_leaves() {
    let origin = origin();
    let flags = [
        "--trusted-proxies=127.0.0.0/8",
        "--limit-max-clients=1",
        "--limit-rate=off",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let one = || get_with(&proxy, "X-Forwarded-For: 192.0.2.1");
    let other = || get_with(&proxy, "X-Forwarded-For: 192.0.2.2");
    let mut streams = [one(), one()];
    assert_eq!(streams.each_mut().map(status), [200, 200]);
    assert_eq!(status(&mut other()), 503);
    drop(streams);
    let gets_in = (0..10_000).any(|_| status(&mut other()) == 200);
    assert!(gets_in, "{}", proxy.log());
}

#[test]
fn requests_without_streams_take_no_slot() {
    let origin = origin();
    let mut proxy = Proxy::start(origin.addr, &["--limit-per-ip", "1", "--limit-total", "1"]);
    let mut held: Vec<Client> = (0..5).map(|_| plain(&proxy, "/text")).collect();
    assert!(held.iter_mut().all(|client| status(client) == 200));
    let mut stream = proxy.get("/stream");
    assert_eq!(status(&mut stream), 200);
    assert_eq!(status(&mut plain(&proxy, "/text")), 200);
    drop((held, stream));
    origin.wait_for_open(0);
    assert_eq!(proxy.stop()["opened"], 1);
}

#[test]
fn slot_of_a_response_without_a_stream_is_released_at_the_head() {
    let origin = origin();
    let proxy = Proxy::start(origin.addr, &["--limit-per-ip", "1"]);
    let mut held: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut text = proxy.get("/text");
        assert_eq!(status(&mut text), 200);
        held.push(text);
    }
    assert_eq!(status(&mut proxy.get("/stream")), 200);
}

#[test]
fn unrequested_stream_takes_a_slot_at_its_head() {
    let origin = origin();
    let proxy = Proxy::start(origin.addr, &["--limit-per-ip", "1"]);
    let mut first = plain(&proxy, "/stream");
    assert_eq!(status(&mut first), 200);
    assert_eq!(status(&mut plain(&proxy, "/stream")), 429);
    // What the origin had begun for the second is not kept open.
    origin.wait_for_open(1);
    assert_eq!(origin.served(), 2);
    assert_eq!(status(&mut plain(&proxy, "/text")), 200);
}

#[test]
fn connection_may_carry_several_streams_in_sequence() {
    let origin = origin();
    let mut proxy = Proxy::start(origin.addr, &["--limit-per-ip=1", "--limit-rate=off"]);
    let mut client = Client::connect(proxy.addr);
    for _ in 0..20 {
        client.send("GET /short HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
        assert_eq!(status(&mut client), 200);
        assert_eq!(client.rest().1, End::Clean);
    }
    let last = proxy.stop();
    assert_eq!(
        (&last["opened"], &last["rejected"]),
        (&20.into(), &0.into())
    );
}

#[test]
fn retry_after_has_the_form_of_the_family() {
    let origin = origin();
    let flags = [
        "--limit-per-ip=1",
        "--limit-retry-after=5m",
        "--upstream-max-pending=1",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut held = proxy.get("/stream");
    assert_eq!(status(&mut held), 200);
    for (fields, seconds) in [
        ("User-Agent: AsyncOpenAI/Python 1.0", "60"),
        ("anthropic-version: 2023-06-01", "60"),
        ("User-Agent: curl/8", "300"),
    ] {
        let head = get_with(&proxy, fields).head();
        assert!(head.starts_with("http/1.1 429 "), "{head}");
        assert_eq!(field(&head, "retry-after"), Some(seconds), "{fields}");
    }
    drop(held);
    origin.wait_for_open(0);

    // The answer in place of the upstream, too: this one waits for its head, and there is room for none else.
    let (gate, opened) = crate::support::gate();
    let origin = Origin::start(move |_, to| {
        opened.wait();
        to.stream();
        to.end();
    });
    let proxy = Proxy::start(origin.addr, &flags);
    let mut waiting = plain(&proxy, "/text");
    origin.wait_for_open(1);
    for (fields, seconds) in [("anthropic-version: 2023-06-01", "60"), ("X: y", "300")] {
        let request = format!(
            "POST /v1 HTTP/1.1\r\nHost: proxy.test\r\nContent-Length: 0\r\n{fields}\r\n\r\n"
        );
        let head = proxy.send_request(&request).head();
        assert!(head.starts_with("http/1.1 503 "), "{head}");
        assert_eq!(field(&head, "retry-after"), Some(seconds), "{fields}");
    }
    gate.send(()).unwrap();
    assert_eq!(status(&mut waiting), 200);
}
