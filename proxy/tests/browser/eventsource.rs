//! What an `EventSource` meets that would end it for good, had it come from a plain proxy.

use crate::browser::Browser;
use crate::support::{Answer, Client, End, Gate, Origin, Proxy, ReceivedRequest, gate, wait_until};
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Answers by the path: `/503` with that status, `/mute` not at all, `/broken` with no head.
fn failing() -> Origin {
    Origin::start(|received, to: &mut Answer| match received.path.as_str() {
        "/mute" => {
            to.wait_for_close();
        }
        "/broken" => {
            to.raw(b"SMTP/1.1 220 hello\r\n\r\n");
        }
        "/later" => {
            to.raw(b"HTTP/1.1 503 No\r\nRetry-After: 40\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
        status => {
            let status = &status[1..];
            let head = format!(
                "HTTP/1.1 {status} So\r\nConnection: close\r\nETag: \"1\"\r\nSet-Cookie: node=2\r\n"
            );
            to.raw(head.as_bytes());
            match status {
                "204" => to.raw(b"\r\n"),
                _ => to.raw(b"Content-Length: 6\r\n\r\nstatus"),
            };
        }
    })
}

/// Where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn status(client: &mut Client) -> u16 {
    client.head()[9..12].parse().unwrap()
}

/// Of a request that is no `EventSource`'s.
fn other(proxy: &Proxy, method: &str, path: &str, fields: &str) -> u16 {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    status(&mut proxy.send_request(&request))
}

fn metrics(proxy: &Proxy) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    String::from_utf8(client.raw()).unwrap()
}

#[test]
fn event_source_gets_a_retry_for_each_kind_of_upstream_failure() {
    let origin = failing();
    let flags = ["--upstream-head-timeout=300ms", "--limit-retry-after=4s"];
    let proxy = Proxy::start(origin.addr, &flags);
    let away = Proxy::start(nobody(), &flags);
    for (proxy, path, code) in [
        (&away, "/", 502),
        (&proxy, "/broken", 502),
        (&proxy, "/mute", 504),
        (&proxy, "/500", 500),
        (&proxy, "/502", 502),
        (&proxy, "/503", 503),
        (&proxy, "/504", 504),
        (&proxy, "/529", 529),
    ] {
        let mut client = proxy.get(path);
        let (head, retry) = client.retry_later();
        assert!((2_000..=6_000).contains(&retry), "{path}: {retry}");
        assert!(!head.contains("etag: "), "{head}");
        let is_upstreams = path != "/broken" && path != "/mute" && path != "/";
        assert_eq!(
            head.contains("set-cookie: node=2\n"),
            is_upstreams,
            "{head}"
        );
        // The connection serves the next request.
        client.send("GET /404 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(client.head().starts_with("http/1.1 "));

        let sse = "Accept: text/event-stream\r\n";
        for (method, fields) in [
            ("GET", ""),
            ("GET", "Accept: */*\r\n"),
            ("GET", "Accept: text/event-stream\r\nOpenAI-Project: x\r\n"),
            ("POST", sse),
            ("HEAD", sse),
        ] {
            assert_eq!(other(proxy, method, path, fields), code, "{method} {path}");
        }
    }
}

#[test]
fn status_that_a_later_request_would_not_change_is_kept() {
    let proxy = Proxy::start(failing().addr, &[]);
    for code in [204, 400, 401, 403, 404, 410, 429, 501, 505, 511] {
        let mut client = proxy.get(&format!("/{code}"));
        assert_eq!(status(&mut client), code);
    }
}

#[test]
fn retry_after_of_the_upstream_is_the_reconnection_time() {
    let proxy = Proxy::start(failing().addr, &[]);
    let (_, retry) = proxy.get("/later").retry_later();
    assert!((40_000..=60_000).contains(&retry), "{retry}");
}

#[test]
fn event_source_reconnects_after_too_many_pending_requests() {
    let origin = failing();
    let flags = ["--upstream-max-pending=1", "--limit-retry-after=4s"];
    let proxy = Proxy::start(origin.addr, &flags);
    let _waits = proxy.get("/mute");
    origin.wait_for_open(1);
    let (head, retry) = proxy.get("/").retry_later();
    assert!((4_000..=6_000).contains(&retry), "{retry}");
    assert!(!head.contains("retry-after"), "{head}");
    assert_eq!(other(&proxy, "GET", "/", ""), 503);
}

#[test]
fn unavailable_status_forwards_the_status() {
    let origin = failing();
    let proxy = Proxy::start(origin.addr, &["--upstream-unavailable=status"]);
    assert_eq!(status(&mut proxy.get("/503")), 503);
    assert_eq!(status(&mut proxy.get("/broken")), 502);
}

#[test]
fn response_in_place_of_a_failure_is_counted_as_a_failure() {
    let flags = ["--admin-listen=127.0.0.1:0", "--limit-rate=off"];
    let proxy = Proxy::start(failing().addr, &flags);
    for _ in 0..30 {
        proxy.get("/503").retry_later();
    }
    let metrics = metrics(&proxy);
    for line in [
        "sse_guard_unavailable_total{answer=\"retry_later\"} 30\n",
        "sse_guard_streams_total{route=\"/\",outcome=\"failed\"} 30\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // A line in ten seconds, however many answers there are.
    proxy.wait_for_log("upstream unavailable");
    let log = proxy.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("upstream unavailable"));
    assert!(lines.count() < 3, "{log}");
}

#[test]
fn event_source_is_served_as_soon_as_its_upstream_is_back() {
    let address = nobody();
    let proxy = Proxy::start(address, &["--limit-retry-after=100ms"]);
    let (_, retry) = proxy.get("/").retry_later();
    assert!((50..=150).contains(&retry), "{retry}");
    let origin = Origin::listening(&address.to_string(), |_, to| {
        to.stream();
        to.chunk("data: back\n\n");
        to.wait_for_close();
    });
    let mut client = proxy.get("/");
    wait_until("the upstream", || origin.served() == 1);
    assert!(client.head().contains("content-type: text/event-stream\n"));
    client.read_until("data: back\n\n");
}

#[test]
fn first_heartbeat_of_a_quiet_stream_comes_at_once() {
    let (go_on, goes_on) = gate();
    let origin = Origin::start(move |_, to| {
        to.stream();
        if goes_on.opens() {
            to.chunk("\u{feff}data: 1\n\n");
            to.end();
        }
    });
    // No flag says so.
    let flags = ["--heartbeat-interval=1h", "--heartbeat-immediate=auto"];
    let proxy = Proxy::start(origin.addr, &flags);
    let both = "Accept: application/json, text/event-stream\r\n";
    for (method, fields, at_once) in [
        ("GET", SSE, true),
        (
            "GET",
            "Accept: text/event-stream\r\nMcp-Session-Id: 1\r\n",
            true,
        ),
        ("POST", both, true),
        ("POST", SSE, false),
        ("POST", "OpenAI-Project: x\r\n", false),
        ("POST", "Anthropic-Version: 2023-06-01\r\n", false),
    ] {
        let mut client = proxy.send_request(&format!(
            "{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{fields}\r\n"
        ));
        assert!(client.head().starts_with("http/1.1 200 "));
        let mut expected = "\u{feff}data: 1\n\n";
        if at_once {
            assert_eq!(
                client.read_until("\n"),
                ": heartbeat\n",
                "{method} {fields}"
            );
            expected = "data: 1\n\n";
        }
        go_on.send(()).unwrap();
        let (text, _) = client.rest();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            expected,
            "{method} {fields}"
        );
    }
}

const APP: &str = "https://app.test";

/// Allows any origin, with credentials, but on `/closed`. `/feed` is a stream of one event, `/mute` has
/// no answer, `/late` has one when the other side of the gate says so, anything else is empty.
fn allowing(lates: Gate) -> Origin {
    Origin::start(move |received, to: &mut Answer| {
        let allowed = allowed(&received);
        match received.path.as_str() {
            _ if received.head.starts_with("OPTIONS ") => plain(to, &allowed),
            "/mute" => assert!(to.wait_for_close()),
            "/feed" => {
                stream(to, &allowed);
                to.chunk("data: 1\n\n");
                to.wait_for_close();
            }
            "/late" | "/closed" => {
                if !lates.opens() {
                    return;
                }
                let is_closed = received.path == "/closed";
                stream(to, if is_closed { "" } else { &allowed });
                to.chunk("data: late\n\n");
                to.end();
            }
            _ => plain(to, &allowed),
        }
    })
}

/// The fields by which a server allows the origin that asks.
fn allowed(received: &ReceivedRequest) -> String {
    let Some(origin) = received.field("origin") else {
        return String::new();
    };
    format!(
        "Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Allow-Credentials: true\r\n\
         Access-Control-Allow-Headers: authorization\r\nVary: Origin\r\n"
    )
}

fn stream(to: &mut Answer, fields: &str) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n{fields}\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    to.raw(head.as_bytes());
}

fn plain(to: &mut Answer, fields: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n{fields}\r\n");
    to.raw(head.as_bytes());
}

/// A request by a page of this origin.
fn page(proxy: &Proxy, path: &str, origin: &str, fields: &str) -> Client {
    proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n{fields}\r\n"
    ))
}

const SSE: &str = "Accept: text/event-stream\r\n";

/// Whether the page may read a response with this head.
fn may_read(head: &str, origin: &str) -> bool {
    let may = head.contains(&format!("access-control-allow-origin: {origin}\n"));
    assert!(head.contains("vary: origin\n"), "{head}");
    assert_eq!(
        head.contains("access-control-allow-credentials: true\n"),
        may
    );
    may
}

#[test]
fn responses_in_place_of_the_upstream_allow_its_origins() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let flags = [
        "--upstream-head-timeout=500ms",
        "--upstream-max-pending=1",
        "--limit-per-ip=1",
        "--limit-rate=off",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let head = |path: &str, origin: &str, fields: &str| page(&proxy, path, origin, fields).head();
    // Before the upstream has allowed anything.
    let unknown = head("/mute", APP, "");
    assert!(
        unknown.starts_with("http/1.1 504 ") && !may_read(&unknown, APP),
        "{unknown}"
    );
    assert!(head("/plain", APP, "").starts_with("http/1.1 200 "));

    let timeout = head("/mute", APP, "");
    assert!(
        timeout.starts_with("http/1.1 504 ") && may_read(&timeout, APP),
        "{timeout}"
    );
    let masked = head("/mute", APP, SSE);
    assert!(
        masked.starts_with("http/1.1 200 ") && may_read(&masked, APP),
        "{masked}"
    );
    let other = head("/mute", "https://other.test", "");
    assert!(!may_read(&other, "https://other.test"), "{other}");

    let mut feed = page(&proxy, "/feed", APP, SSE);
    assert!(may_read(&feed.head(), APP));
    feed.read_until("data: 1");
    let limit = head("/feed", APP, SSE);
    assert!(
        limit.starts_with("http/1.1 429 ") && may_read(&limit, APP),
        "{limit}"
    );
    assert!(
        limit.contains("access-control-expose-headers: retry-after\n"),
        "{limit}"
    );

    let _waits = page(&proxy, "/late", APP, "");
    wait_until("a request that waits", || {
        origin.last_request().path == "/late"
    });
    let busy = head("/plain", APP, "");
    assert!(
        busy.starts_with("http/1.1 503 ") && may_read(&busy, APP),
        "{busy}"
    );
}

#[test]
fn listed_origins_read_the_status_of_a_path_without_a_route() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let write = |origins: &str| {
        let text = format!(
            "listen = '127.0.0.1:0'\nadmin.listen = 'off'\ncors.allowed_origins = {origins}\n\
             [[route]]\npath = '/plain'\nupstream.url = 'http://{}'\n\
             [[route]]\npath = '/away'\nupstream.url = 'http://{}'\n",
            origin.addr,
            nobody(),
        );
        std::fs::write(&file, text).unwrap();
    };
    write("'upstream'");
    let proxy = Proxy::from_file(&file);
    let may = |path: &str| {
        let head = page(&proxy, path, APP, "").head();
        let allowed = head.contains(&format!("access-control-allow-origin: {APP}\n"));
        (head[9..12].to_owned(), allowed)
    };
    assert_eq!(may("/none"), ("404".into(), false));
    assert_eq!(may("/plain"), ("200".into(), true));
    assert_eq!(may("/none"), ("404".into(), true));
    // Another route's upstream has allowed nothing.
    assert_eq!(may("/away"), ("502".into(), false));
    // What was seen outlives a reload.
    write("\"upstream\"");
    proxy.signal("-HUP");
    proxy.wait_for_log("config reloaded");
    assert_eq!(may("/none"), ("404".into(), true));
    for (times, (origins, allowed)) in [
        ("[\"https://app.test\", \"https://b.test\"]", true),
        ("[\"https://b.test\"]", false),
        ("'*'", true),
        ("'off'", false),
    ]
    .into_iter()
    .enumerate()
    {
        write(origins);
        proxy.signal("-HUP");
        proxy.wait_for_log_lines("config reloaded", times + 2);
        assert_eq!(may("/away"), ("502".into(), allowed), "{origins}");
        assert_eq!(may("/none"), ("404".into(), allowed), "{origins}");
    }
}

#[test]
fn early_answer_allows_an_origin_that_its_late_head_must_confirm() {
    let (late, lates) = gate();
    let origin = allowing(lates);
    let flags = ["--early-enabled=true", "--early-after=50ms"];
    let proxy = Proxy::start(origin.addr, &flags);
    page(&proxy, "/plain", APP, "").head();
    let mut client = page(&proxy, "/late", APP, SSE);
    assert!(may_read(&client.head(), APP));
    late.send(()).unwrap();
    client.read_until("data: late\n\n");

    let mut client = page(&proxy, "/closed", APP, SSE);
    assert!(may_read(&client.head(), APP));
    late.send(()).unwrap();
    let (text, end) = client.rest();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("event: error\n") && text.contains("allow this origin"),
        "{text}"
    );
    assert!(!text.contains("data: late"), "{text}");
    assert_eq!(end, End::Clean);
}

#[test]
fn preflights_take_no_slots_and_are_answered_while_the_upstream_is_away() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let flags = ["--limit-rate=1/h", "--limit-burst=1", "--limit-per-ip=1"];
    let proxy = Proxy::start(origin.addr, &flags);
    let preflight = |origin: &str| {
        proxy
            .send_request(&format!(
                "OPTIONS /feed HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n{SSE}\
                 Access-Control-Request-Method: GET\r\n\
                 Access-Control-Request-Headers: authorization\r\n\r\n"
            ))
            .head()
    };
    for _ in 0..5 {
        assert!(preflight(APP).starts_with("http/1.1 200 "));
    }
    let mut feed = page(&proxy, "/feed", APP, SSE);
    assert!(feed.head().starts_with("http/1.1 200 "));
    feed.read_until("data: 1");
    assert!(preflight(APP).starts_with("http/1.1 200 "));

    origin.stop_listening();
    wait_until("the upstream is away", || {
        page(&proxy, "/plain", APP, "")
            .head()
            .starts_with("http/1.1 502 ")
    });
    let known = preflight(APP);
    assert!(
        known.starts_with("http/1.1 204 ") && may_read(&known, APP),
        "{known}"
    );
    assert!(
        known.contains("access-control-allow-headers: authorization\n"),
        "{known}"
    );
    assert!(
        known.contains("access-control-allow-methods: get\n"),
        "{known}"
    );
    assert!(preflight("https://other.test").starts_with("http/1.1 502 "));
}

/// Asks until the upstream of the proxy is known to be away.
fn stop(origin: &Origin, proxy: &Proxy) {
    origin.stop_listening();
    wait_until("the upstream is away", || {
        other(proxy, "GET", "/plain", "") == 502
    });
}

fn has_credentials(head: &str) -> bool {
    head.contains("access-control-allow-credentials: true\n")
}

#[test]
fn preflight_is_allowed_no_more_than_its_upstream_allowed() {
    let is_closed = Arc::new(AtomicUsize::new(0));
    let closed = is_closed.clone();
    let origin = Origin::start(move |received, to: &mut Answer| {
        let is_private = received.field("host") == Some("private.test");
        let fields = match received.path.as_str() {
            "/session" => allowed(&received),
            "/api?later" if closed.load(SeqCst) == 1 => String::new(),
            path if path.starts_with("/api") && !is_private => {
                "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: DELETE\r\n".into()
            }
            _ => String::new(),
        };
        plain(to, &fields);
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let send_request = |method: &str, host: &str, path: &str, fields: &str| {
        proxy
            .send_request(&format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {APP}\r\n{fields}\r\n"
            ))
            .head()
    };
    let asks = "Access-Control-Request-Method: DELETE\r\n";
    let preflight = |host: &str, path: &str| send_request("OPTIONS", host, path, asks);
    send_request("GET", "app.test", "/session", "");
    for path in ["/api", "/api?later"] {
        preflight("app.test", path);
    }
    preflight("private.test", "/api");
    is_closed.store(1, SeqCst);
    preflight("app.test", "/api?later");
    stop(&origin, &proxy);

    let known = preflight("app.test", "/api");
    assert!(known.starts_with("http/1.1 204 "), "{known}");
    assert!(!has_credentials(&known), "{known}");
    assert!(known.contains(&format!("access-control-allow-origin: {APP}\n")));
    for (host, path) in [
        ("private.test", "/api"),
        ("app.test", "/api?later"),
        ("app.test", "/api?other"),
    ] {
        let refused = preflight(host, path);
        assert!(refused.starts_with("http/1.1 502 "), "{refused}");
    }
    let session = send_request("GET", "app.test", "/session", "");
    assert!(may_read(&session, APP), "{session}");
    let private = send_request("GET", "private.test", "/session", "");
    assert!(!may_read(&private, APP), "{private}");
}

#[test]
fn early_answer_with_credentials_needs_a_late_head_with_credentials() {
    let (late, lates) = gate();
    let origin = Origin::start(
        move |received, to: &mut Answer| match received.path.as_str() {
            "/session" => plain(to, &allowed(&received)),
            path => {
                if !lates.opens() {
                    return;
                }
                let allowed = format!("Access-Control-Allow-Origin: {APP}\r\n");
                stream(
                    to,
                    match path {
                        "/any" => "Access-Control-Allow-Origin: *\r\n",
                        _ => &allowed,
                    },
                );
                to.chunk("data: secret\n\n");
                to.end();
            }
        },
    );
    let flags = [
        "--early-enabled=true",
        "--early-after=50ms",
        "--trusted-proxies=127.0.0.1",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    page(&proxy, "/session", APP, "").head();
    // Of a user whom a trusted proxy names: no cookie shows it.
    let user = format!("{SSE}X-Remote-User: alice\r\n");
    for path in ["/any", "/origin"] {
        let mut client = page(&proxy, path, APP, &user);
        assert!(may_read(&client.head(), APP));
        late.send(()).unwrap();
        let (text, _) = client.rest();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("event: error\n"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        // By now it is known that there are no credentials here.
        let mut client = page(&proxy, path, APP, &user);
        assert!(!has_credentials(&client.head()));
        late.send(()).unwrap();
        client.read_until("data: secret\n\n");
    }
}

#[test]
fn origins_of_one_client_do_not_displace_those_of_another() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let proxy = Proxy::start(origin.addr, &["--trusted-proxies=127.0.0.1"]);
    let by = |client: &str, origin: &str| {
        let client = format!("X-Forwarded-For: {client}\r\n");
        page(&proxy, "/plain", origin, &client).head()
    };
    by("192.0.2.1", APP);
    for i in 0..300 {
        let origin = format!("https://{i}.test");
        for _ in 0..2 {
            by("192.0.2.2", &origin);
        }
    }
    by("192.0.2.3", "https://late.test");
    by("192.0.2.2", "https://more.test");
    stop(&origin, &proxy);
    for origin in [APP, "https://late.test", "https://more.test"] {
        let answer = by("192.0.2.4", origin);
        assert!(answer.starts_with("http/1.1 502 "), "{answer}");
        assert!(may_read(&answer, origin), "{answer}");
    }
    let gone = "https://0.test";
    assert!(!may_read(&by("192.0.2.4", gone), gone));
}

#[test]
fn preflights_have_a_limit_apart_from_requests() {
    let origin = Origin::start(|received, to: &mut Answer| match received.path.as_str() {
        "/hang" => assert!(to.wait_for_close()),
        _ => plain(to, &allowed(&received)),
    });
    let proxy = Proxy::start(origin.addr, &["--limit-requests-per-ip=1"]);
    let asks = "Access-Control-Request-Method: GET\r\n";
    let send_request = |method: &str, path: &str, fields: &str| {
        proxy.send_request(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\n{fields}\r\n"
        ))
    };
    let get = send_request("GET", "/hang", "");
    wait_until("the GET", || origin.served() == 1);
    assert_eq!(status(&mut send_request("OPTIONS", "/", asks)), 200);
    assert_eq!(status(&mut send_request("OPTIONS", "/", "")), 429);
    assert_eq!(status(&mut send_request("GET", "/", asks)), 429);
    let preflight = send_request("OPTIONS", "/hang", asks);
    wait_until("the preflight", || origin.served() == 3);
    assert_eq!(status(&mut send_request("OPTIONS", "/", asks)), 429);
    drop(get);
    wait_until("the place of the GET", || {
        status(&mut send_request("GET", "/", "")) == 200
    });
    assert_eq!(status(&mut send_request("OPTIONS", "/", asks)), 429);
    drop(preflight);
    wait_until("the place of the preflight", || {
        status(&mut send_request("OPTIONS", "/", asks)) == 200
    });
}

/// A page of its own origin, in a browser, in front of a proxy.
fn pages() -> Origin {
    Origin::start(|_, to| {
        to.raw(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n\
              Content-Length: 15\r\n\r\n<!doctype html>",
        );
    })
}

/// Opens an EventSource to this address, whose events are in `seen`.
fn listen(browser: &Browser, url: &str) {
    browser.run(&format!(
        "window.seen = []; window.opened = 0; \
         window.source = new EventSource('{url}', {{ withCredentials: true }}); \
         source.onopen = () => opened++; \
         source.onmessage = (event) => seen.push(event.data);"
    ));
}

/// What it comes to has to be seen by the source that there was from the start.
fn sees(browser: &Browser, event: &str) {
    browser.wait_for(&format!("seen.includes('{event}')"));
    // Open, or on its way back from an end; 2 is for good.
    assert_ne!(browser.run("return source.readyState"), json!(2));
}

#[test]
fn browsers_event_source_of_another_origin_outlives_its_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let preflights = Arc::new(AtomicUsize::new(0));
    let start = |address: &str, event: &'static str, lives: Gate| {
        let preflights = preflights.clone();
        Origin::listening(address, move |received, to| {
            if received.head.starts_with("OPTIONS ") {
                preflights.fetch_add(1, SeqCst);
            }
            stream(to, &allowed(&received));
            to.chunk(format!("id: 7\ndata: {event}\n\n"));
            // Until it dies in the middle of the stream.
            lives.opens();
        })
    };
    let page = pages();
    let (death, lives) = gate();
    let origin = start("127.0.0.1:0", "before", lives);
    let address = origin.addr.to_string();
    let flags = [
        "--limit-retry-after=200ms",
        "--rotation-retry-on-open=200ms",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    browser.open(&format!("http://{}/", page.addr));
    listen(&browser, &format!("http://{}/feed", proxy.addr));
    sees(&browser, "before");

    origin.stop_listening();
    drop((origin, death));
    // Each time it comes back it opens, and ends.
    browser.wait_for("opened > 4");
    let (_death, lives) = gate();
    let origin = start(&address, "after", lives);
    sees(&browser, "after");
    assert_eq!(origin.last_request().field("last-event-id"), Some("7"));
    assert_eq!(
        preflights.load(SeqCst),
        0,
        "an EventSource sends no preflight"
    );
    proxy.wait_for_log("upstream unavailable");
}

#[test]
fn browsers_event_source_of_another_origin_takes_an_early_answer() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (late, lates) = gate();
    let origin = allowing(lates);
    let flags = ["--early-enabled=true", "--early-after=50ms"];
    let proxy = Proxy::start(origin.addr, &flags);
    let page = pages();
    browser.open(&format!("http://{}/", page.addr));
    let of = |path: &str| format!("http://{}{path}", proxy.addr);
    let known = browser.run_async(&format!(
        "return (await fetch('{}', {{ credentials: 'include' }})).status",
        of("/plain")
    ));
    assert_eq!(known, json!(200));
    listen(&browser, &of("/late"));
    browser.wait_for("source.readyState === 1");
    late.send(()).unwrap();
    sees(&browser, "late");
}

#[test]
fn browsers_event_source_of_another_origin_comes_back_from_a_limit() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let flags = [
        "--limit-per-ip=1",
        "--limit-rate=off",
        "--limit-reject=retry-later",
        "--limit-retry-after=100ms",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let pages = pages();
    browser.open(&format!("http://{}/", pages.addr));
    // At the host that the browser names, where the origin is allowed by that.
    let mut holder = proxy.send_request(&format!(
        "GET /feed HTTP/1.1\r\nHost: {}\r\nOrigin: http://{}\r\n{SSE}\r\n",
        proxy.addr, pages.addr
    ));
    holder.head();
    holder.read_until("data: 1");
    listen(&browser, &format!("http://{}/feed", proxy.addr));
    browser.wait_for("opened > 2");
    drop(holder);
    sees(&browser, "1");
}

#[test]
fn page_of_another_origin_reads_the_status_of_a_response_in_place_of_the_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let proxy = Proxy::start(origin.addr, &[]);
    let page = pages();
    browser.open(&format!("http://{}/", page.addr));
    let fetch = format!(
        "const answer = await fetch('http://{}/plain', \
         {{ headers: {{ Authorization: 'Bearer x' }} }}); \
         return [answer.status, await answer.text()];",
        proxy.addr
    );
    assert_eq!(browser.run_async(&fetch), json!([200, ""]));
    origin.stop_listening();
    drop(origin);
    // With a preflight before it, whose answer is not kept.
    let away = json!([502, "sse-guard: cannot connect to the upstream\n"]);
    wait_until("the answer", || browser.run_async(&fetch) == away);
}

const WAIT: [&str; 4] = [
    "--upstream-unavailable=wait",
    "--resume-mode=on",
    "--heartbeat-interval=50ms",
    "--resume-backoff=50ms",
];

/// One event with an id, then silence.
fn numbered(address: &str) -> Origin {
    Origin::listening(address, |received, to| {
        match received.path.as_str() {
            "/closed" => stream(to, ""),
            _ => stream(to, &allowed(&received)),
        };
        to.chunk("id: 1\ndata: there\n\n");
        to.wait_for_close();
    })
}

#[test]
fn new_stream_waits_for_its_upstream_if_resume_is_on() {
    let address = nobody();
    let mut flags = WAIT.to_vec();
    flags.push("--admin-listen=127.0.0.1:0");
    let proxy = Proxy::start(address, &flags);
    let mut client = page(&proxy, "/feed", APP, SSE);
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/event-stream\n"), "{head}");
    assert!(head.contains("x-accel-buffering: no\n"), "{head}");
    for _ in 0..3 {
        client.read_until(": heartbeat\n");
    }
    // Others are told the status, or to come back later where a stream is not resumed.
    assert_eq!(other(&proxy, "GET", "/feed", ""), 502);
    assert_eq!(other(&proxy, "POST", "/feed", SSE), 502);
    let mcp = "GET / HTTP/1.1\r\nHost: x\r\nMcp-Session-Id: 1\r\n";
    proxy.send_request(&format!("{mcp}{SSE}\r\n")).retry_later();

    // A failure all the same.
    let metrics = metrics(&proxy);
    for line in [
        "sse_guard_unavailable_total{answer=\"wait\"} 1\n",
        "sse_guard_unavailable_total{answer=\"retry_later\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let failed = metrics.lines().find(|line| {
        line.starts_with("sse_guard_streams_total{") && line.contains("outcome=\"failed\"")
    });
    // With the POST, which accepts a stream.
    assert!(failed.unwrap().ends_with(" 3"), "{metrics}");

    let _origin = numbered(&address.to_string());
    client.read_until("data: there\n\n");
}

#[test]
fn waiting_stream_is_readable_by_an_origin_that_its_upstream_allows() {
    let (closed, open) = ("/closed", "/feed");
    let origin = numbered("127.0.0.1:0");
    let address = origin.addr.to_string();
    let proxy = Proxy::start(origin.addr, &WAIT);
    let mut known = page(&proxy, open, APP, SSE);
    known.head();
    known.read_until("data: there\n\n");
    drop(known);
    origin.stop_listening();
    drop(origin);
    let begin = |path| {
        let mut client = page(&proxy, path, APP, SSE);
        assert!(may_read(&client.head(), APP));
        client.read_until(": heartbeat\n");
        client
    };
    let (mut allowed, mut denied) = (begin(open), begin(closed));
    let _origin = numbered(&address);
    allowed.read_until("data: there\n\n");
    let (text, _) = denied.rest();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("event: error\n") && !text.contains("there"),
        "{text}"
    );
}

#[test]
fn unavailable_wait_without_resume_sends_a_retry() {
    let proxy = Proxy::start(nobody(), &WAIT[..1]);
    proxy.get("/").retry_later();
    proxy.wait_for_log("requires resume.mode, which is off");
}

#[test]
fn browsers_event_source_of_another_origin_waits_for_its_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let pages = pages();
    let app = format!("http://{}", pages.addr);
    let address = nobody();
    let mut flags = WAIT.to_vec();
    // From the start on, when nothing was seen yet.
    let origins = format!("--cors-allowed-origins={app}");
    flags.push(&origins);
    let proxy = Proxy::start(address, &flags);
    browser.open(&format!("{app}/"));
    browser.run(&format!(
        "window.seen = []; window.opened = 0; \
         window.source = new EventSource('http://{}/feed'); \
         source.onopen = () => opened++; \
         source.onmessage = (event) => seen.push(event.data);",
        proxy.addr
    ));
    browser.wait_for("source.readyState === 1");
    let _origin = numbered(&address.to_string());
    sees(&browser, "there");
    assert_eq!(browser.run("return opened"), json!(1));
}
