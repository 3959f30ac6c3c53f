//! The operator's address of the real binary: what it tells, what it steers, and whom it hears.

use crate::support::{Client, End, Origin, Proxy, free_address, wait_until};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};

const TOKEN: &str = "correct-horse-battery";

/// This machine is the gateway.
const BY_USER: [&str; 4] = [
    "--admin-user-header",
    "X-User",
    "--trusted-proxies",
    "127.0.0.1/32",
];

fn start(origin: &Origin, flags: &[&str]) -> Proxy {
    let mut all = vec!["--admin-listen", "127.0.0.1:0"];
    all.extend(flags);
    Proxy::start(origin.addr, &all)
}

/// A stream through the proxy, which has begun.
fn stream(proxy: &Proxy, method: &str, path: &str, fields: &str) -> Client {
    let mut client = proxy.send_request(&format!(
        "{method} {path} HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n\
         Content-Length: 0\r\n{fields}\r\n"
    ));
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until("data: 1\n\n");
    client
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn call_with(admin: SocketAddr, line: &str, fields: &str, body: &str) -> Answer {
    let mut client = Client::connect(admin);
    client.send(&format!(
        "{line} HTTP/1.1\r\n{fields}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let head = client.head();
    let body = String::from_utf8(client.raw()).unwrap();
    let status = head[9..12].parse().unwrap();
    Answer { status, head, body }
}

fn get(proxy: &Proxy, path: &str) -> Answer {
    let line = format!("GET {path}");
    call_with(proxy.admin(), &line, "Host: localhost\r\n", "")
}

fn delete(proxy: &Proxy, path: &str) -> Answer {
    let line = format!("DELETE {path}");
    call_with(proxy.admin(), &line, "Host: localhost\r\n", "")
}

fn post(proxy: &Proxy, path: &str, body: &Value) -> Answer {
    let fields = "Host: localhost\r\nContent-Type: application/json\r\n";
    call_with(
        proxy.admin(),
        &format!("POST {path}"),
        fields,
        &body.to_string(),
    )
}

/// The ids of a list, in its order.
fn ids(list: &Value) -> Vec<u64> {
    let rows = list["streams"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_u64().unwrap()).collect()
}

#[test]
fn live_streams_are_listed_filtered_sorted_and_paged() {
    let origin = Origin::holding("id: 7\ndata: 1\n\n");
    let proxy = start(&origin, &BY_USER);
    let _clients: Vec<_> = ["ann", "bob", "ann"]
        .map(|user| stream(&proxy, "GET", "/", &format!("X-User: {user}\r\n")))
        .into();
    let all = get(&proxy, "/api/streams").json();
    assert_eq!((&all["live"], &all["matched"]), (&json!(3), &json!(3)));
    let all = ids(&all);
    let list = |query: &str| {
        let list = get(&proxy, &format!("/api/streams?{query}")).json();
        (list["matched"].as_u64().unwrap(), ids(&list))
    };
    assert_eq!(list("user=ann"), (2, vec![all[0], all[2]]));
    assert_eq!(list("user=ann&state=stalled"), (0, vec![]));
    assert_eq!(list("q=127.0.0&limit=1&offset=1"), (3, vec![all[1]]));
    assert_eq!(list("sort=age&order=desc").1[0], all[0]);
    assert_eq!(list("sort=user&order=desc").1[0], all[1]);
    assert_eq!(list("client=192.0.2.1"), (0, vec![]));
    assert_eq!(list("route=/"), (3, all.clone()));

    let one = get(&proxy, &format!("/api/streams/{}", all[1])).json();
    for (field, value) in [
        ("user", json!("bob")),
        ("client", json!("127.0.0.1")),
        ("route", json!("/")),
        ("upstream", json!(format!("http://{}/", origin.addr))),
        ("state", json!("open")),
        ("events", json!(1)),
        ("bytes", json!(15)),
        ("heartbeats", json!(0)),
        ("last_event_id", json!("7")),
        ("unsent_bytes", json!(0)),
    ] {
        assert_eq!(one[field], value, "{field}: {one}");
    }

    for (path, status, word) in [
        ("/api/streams/999", 404, "999"),
        ("/api/streams/x", 400, "number"),
        ("/api/streams?sort=size", 400, "events_per_second"),
        ("/api/streams?colour=red", 400, "colour"),
        ("/api/nothing", 404, "/api/summary"),
    ] {
        let answer = get(&proxy, path);
        assert_eq!(answer.status, status, "{path}");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn stream_ended_by_the_operator_gets_a_retry() {
    let proxy = start(&Origin::holding("id: 7\ndata: 1\n\n"), &[]);
    let (mut ended, mut goes_on) = (
        stream(&proxy, "GET", "/?token=planted", ""),
        stream(&proxy, "GET", "/", ""),
    );
    let first = ids(&get(&proxy, "/api/streams").json())[0];
    assert_eq!(delete(&proxy, &format!("/api/streams/{first}")).status, 202);
    let (rest, end) = ended.rest();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.starts_with("retry: "), "{rest}");
    assert_eq!(end, End::Clean);

    wait_until("the end is told", || {
        get(&proxy, "/api/ends").json()["count"] == json!(1)
    });
    let ends = get(&proxy, "/api/ends?reason=operator&client=127.0.0.1").json();
    let end = &ends["ends"][0];
    assert_eq!((&end["id"], &end["events"]), (&json!(first), &json!(1)));
    assert_eq!(end["last_event_id"], json!("7"));
    assert_eq!(get(&proxy, "/api/ends?q=rotated").json()["ends"], json!([]));
    assert_eq!(delete(&proxy, &format!("/api/streams/{first}")).status, 404);

    assert_eq!(
        post(
            &proxy,
            "/api/send",
            &json!({"to": {"all": true}, "data": "x"})
        )
        .status,
        200
    );
    goes_on.read_until("data: x\n\n");
    proxy.wait_for_log("the admin API ends a stream");
    assert!(!proxy.log().contains("planted"), "{}", proxy.log());
}

#[test]
fn operator_event_reaches_the_streams_that_it_names_and_stays_in_its_fields() {
    let proxy = start(&Origin::holding("id: 7\ndata: 1\n\n"), &BY_USER);
    let mut ann = stream(&proxy, "GET", "/", "X-User: ann\r\n");
    let mut bob = stream(&proxy, "GET", "/", "X-User: bob\r\n");
    let mut answer = stream(&proxy, "POST", "/", "X-User: ann\r\n");
    let send = |order: Value| {
        let answer = post(&proxy, "/api/send", &order);
        (answer.status, answer.json())
    };

    let order = json!({"to": {"user": "ann"}, "event": "notice", "data": "1\r\nid: 9\n\nx"});
    let (status, told) = send(order);
    assert_eq!(
        (status, &told["sent"], &told["not_injectable"]),
        (200, &json!(1), &json!(1))
    );
    let seen = ann.read_until("x\n\n");
    assert_eq!(
        seen,
        "event: notice\ndata: 1\ndata: id: 9\ndata: \ndata: x\n\n"
    );

    let bobs = ids(&get(&proxy, "/api/streams?user=bob").json());
    let (_, told) = send(json!({"to": {"ids": bobs}, "data": {"a": [1]}, "retry_ms": 5000}));
    assert_eq!(told["sent"], json!(1));
    assert_eq!(bob.read_until("\n\n"), "retry: 5000\ndata: {\"a\":[1]}\n\n");

    let to_all = |order: Value| {
        let mut order = order;
        order["to"] = json!({"all": true});
        send(order)
    };
    for (order, word) in [
        (
            json!({"event": "a\ndata: forged", "data": "x"}),
            "break out",
        ),
        (json!({"event": "", "data": "x"}), "not empty"),
        (json!({"data": ""}), "not empty"),
        (json!({"data": "x", "id": "1"}), "id"),
    ] {
        let (status, told) = to_all(order);
        assert!(status == 400 || status == 422, "{status}");
        assert!(told["error"].as_str().unwrap().contains(word), "{told}");
    }
    let (status, told) = send(json!({"to": {}, "data": "x"}));
    assert_eq!(status, 400, "{told}");
    assert_eq!(to_all(json!({"data": "last"})).1["sent"], json!(2));
    assert_eq!(ann.read_until("\n\n"), "data: last\n\n");
    assert_eq!(bob.read_until("\n\n"), "data: last\n\n");
    answer.close_own_side();
    assert_eq!(answer.rest().0, b"");
}

#[test]
fn user_header_counts_from_a_trusted_proxy_alone() {
    let proxy = start(
        &Origin::holding("id: 7\ndata: 1\n\n"),
        &["--admin-user-header", "x-user"],
    );
    proxy.wait_for_log("only from trusted_proxies");
    let _client = stream(&proxy, "GET", "/", "X-User: ann\r\n");
    assert_eq!(
        get(&proxy, "/api/streams").json()["streams"][0]["user"],
        Value::Null
    );
}

#[test]
fn metrics_are_readable_by_a_prometheus_parser() {
    let proxy = start(&Origin::holding("id: 7\ndata: 1\n\n"), &[]);
    let client = stream(&proxy, "GET", "/", "");
    let answer = get(&proxy, "/metrics");
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    let value = |name: &str, label: Option<(&str, &str)>| {
        let text = get(&proxy, "/metrics").body;
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = prometheus_parse::Scrape::parse(lines).unwrap();
        let sample = scrape.samples.into_iter().find(|sample| {
            let labelled = |(key, value)| sample.labels.get(key) == Some(value);
            sample.metric == name && label.is_none_or(labelled)
        });
        match sample?.value {
            prometheus_parse::Value::Counter(value)
            | prometheus_parse::Value::Gauge(value)
            | prometheus_parse::Value::Untyped(value) => Some(value),
            prometheus_parse::Value::Histogram(buckets) => Some(buckets.last()?.count),
            prometheus_parse::Value::Summary(_) => None,
        }
    };
    let is = |value: Option<f64>, expected: f64| {
        value.is_some_and(|value| (value - expected).abs() < 1e-9)
    };
    assert!(is(
        value("sse_guard_streams_active", Some(("route", "/"))),
        1.0
    ));
    assert!(is(
        value("sse_guard_streams_total", Some(("outcome", "opened"))),
        1.0
    ));
    assert!(is(value("sse_guard_events_total", None), 1.0));
    assert!(is(value("sse_guard_bytes_total", None), 15.0));
    assert!(is(
        value("sse_guard_time_to_first_event_seconds", None),
        1.0
    ));
    drop(client);
    wait_until("the end is counted", || {
        is(
            value("sse_guard_ends_total", Some(("reason", "client_gone"))),
            1.0,
        )
    });
    assert!(is(value("sse_guard_streams_active", None), 0.0));
    assert!(is(value("sse_guard_stream_duration_seconds", None), 1.0));
    for name in [
        "sse_guard_build_info",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_cpu_seconds_total",
    ] {
        assert!(value(name, None).is_some(), "{name}");
    }
}

#[test]
fn readiness_is_red_with_a_reason_while_the_upstream_is_unreachable() {
    let address = free_address();
    let upstream = format!("http://{address}");
    let flags = ["--upstream-url", &upstream, "--admin-listen", "127.0.0.1:0"];
    let proxy = Proxy::with_flags(&flags);
    assert_eq!(get(&proxy, "/healthz").body, "ok\n");
    assert_eq!(get(&proxy, "/readyz").status, 200);
    for _ in 0..3 {
        // In place of a 502, and no less a failure.
        proxy.get("/").retry_later();
    }
    let red = get(&proxy, "/readyz");
    assert_eq!(red.status, 503);
    let red = red.json();
    assert_eq!(red["ready"], json!(false));
    assert_eq!(red["parts"]["listener"]["ok"], json!(true));
    let part = &red["parts"][format!("upstream {upstream}/")];
    assert_eq!(part["ok"], json!(false));
    assert!(
        part["reason"].as_str().unwrap().contains("connect"),
        "{part}"
    );
    assert!(part["since_s"].is_u64(), "{part}");
    assert_eq!(get(&proxy, "/healthz").status, 200);

    let _back = TcpListener::bind(address).unwrap();
    wait_until("the upstream is found again", || {
        get(&proxy, "/readyz").status == 200
    });
    proxy.wait_for_log("the upstream accepts connections again");
}

#[test]
fn drain_by_the_operator_acts_as_a_signal() {
    let mut proxy = start(
        &Origin::holding("id: 7\ndata: 1\n\n"),
        &["--drain-window", "30s"],
    );
    let mut answer = stream(&proxy, "POST", "/", "");
    assert_eq!(post(&proxy, "/api/drain", &json!({})).status, 202);
    proxy.wait_for_log("\"stopping");
    let red = get(&proxy, "/readyz");
    assert_eq!(red.status, 503);
    assert_eq!(red.json()["parts"]["listener"]["ok"], json!(false));
    assert_eq!(
        ids(&get(&proxy, "/api/streams?state=ending").json()).len(),
        1
    );
    assert_eq!(red.json()["phase"], "draining");
    assert_eq!(get(&proxy, "/api/summary").json()["phase"], "draining");
    answer.close_own_side();
    answer.rest();
    proxy.signal("-TERM");
    assert!(proxy.wait().success());
}

#[test]
fn live_feed_reports_summaries_and_ends() {
    let proxy = start(&Origin::holding("id: 7\ndata: 1\n\n"), &[]);
    let mut feed = Client::connect(proxy.admin());
    feed.send("GET /api/live HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let head = feed.head();
    assert!(head.contains("x-accel-buffering: no"), "{head}");
    let client = stream(&proxy, "GET", "/", "");
    feed.read_until("\"active\":1");
    drop(client);
    feed.read_until("\"reason\":\"client_gone\"");
}

#[test]
fn request_of_a_foreign_page_is_rejected() {
    let proxy = start(&Origin::holding("id: 7\ndata: 1\n\n"), &[]);
    let admin = proxy.admin();
    let status = |line: &str, fields: &str| call_with(admin, line, fields, "").status;
    let host = format!("Host: {admin}\r\n");
    assert_eq!(status("GET /api/summary", &host), 200);
    assert_eq!(status("GET /healthz", "Host: evil.test\r\n"), 403);
    assert_eq!(status("GET /api/summary", "Host: evil.test\r\n"), 403);
    let ours = format!("{host}Origin: http://{admin}\r\n");
    assert_eq!(status("DELETE /api/streams/1", &ours), 404);
    for origin in ["http://evil.test", "null", "http://127.0.0.1:1"] {
        let fields = format!("{host}Origin: {origin}\r\n");
        assert_eq!(status("POST /api/drain", &fields), 403, "{origin}");
        assert_eq!(status("DELETE /api/streams/1", &fields), 403, "{origin}");
    }
    // Health checks by HTTP/1.0 name no host.
    let mut check = Client::connect(admin);
    check.send("GET /readyz HTTP/1.0\r\n\r\n");
    assert!(check.head().contains(" 200 "));
    // What a form of any page can send without a preflight.
    let form = format!("{host}Content-Type: text/plain\r\n");
    let order = r#"{"to":{"all":true},"data":"x"}"#;
    assert_eq!(call_with(admin, "POST /api/send", &form, order).status, 415);
}

#[test]
fn admin_token_is_required_of_each_request() {
    let proxy = start(
        &Origin::holding("id: 7\ndata: 1\n\n"),
        &["--admin-token", TOKEN],
    );
    let admin = proxy.admin();
    let status = |line: &str, fields: &str| call_with(admin, line, fields, "").status;
    let host = "Host: admin.example\r\n";
    let shown = format!("{host}Authorization: Bearer {TOKEN}\r\n");
    for line in [
        "GET /api/summary",
        "GET /metrics",
        "GET /api/config",
        "GET /api/live",
    ] {
        let answer = call_with(admin, line, host, "");
        assert_eq!(answer.status, 401, "{line}");
        assert!(
            answer.head.contains("www-authenticate: bearer"),
            "{}",
            answer.head
        );
    }
    let wrong = format!("{host}Authorization: Bearer {TOKEN}x\r\n");
    assert_eq!(status("POST /api/drain", &wrong), 401);
    assert_eq!(status("GET /api/summary", &shown), 200);
    // Balancers have no token, and are told no more than they need.
    assert_eq!(status("GET /healthz", host), 200);
    assert_eq!(
        call_with(admin, "GET /readyz", host, "").body,
        r#"{"ready":true}"#
    );
    assert!(
        call_with(admin, "GET /readyz", &shown, "")
            .body
            .contains("parts")
    );

    let config = call_with(admin, "GET /api/config", &shown, "");
    assert!(!config.body.contains(TOKEN), "{}", config.body);
    let rows = config.json()["config"].as_array().unwrap().clone();
    let row = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap().clone();
    assert_eq!(row("admin.token")["value"], "(hidden)");
    assert_eq!(row("admin.token")["from"], "--admin-token");
    assert_eq!(row("heartbeat.interval")["value"], "\"15s\"");
    assert!(!proxy.log().contains(TOKEN), "{}", proxy.log());
}

#[test]
fn default_admin_port_in_use_does_not_prevent_the_start() {
    // Whoever has it, this test or another process: it is taken.
    let _taken = TcpListener::bind("127.0.0.1:9090");
    let origin = Origin::holding("id: 7\ndata: 1\n\n");
    let upstream = format!("http://{}", origin.addr);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sse-guard"));
    let mut child = command
        .args(["--listen", "127.0.0.1:0", "--upstream-url", &upstream])
        .env_clear()
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let mut told = String::new();
    for line in lines.map_while(Result::ok) {
        told.push_str(&line);
        if line.contains("listening on") {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(told.contains("continuing without metrics"), "{told}");
    assert!(told.contains("listening on"), "{told}");
}
