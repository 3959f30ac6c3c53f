//! Requests that do not become event streams through the real binary: their lines in the log, their ids, their
//! metrics, and the lines of those that fail or are rejected.

use crate::support::{Client, Origin, Proxy, wait_until};
use serde_json::Value;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

/// `/feed` is a stream that stays open, `/missing` a 404, anything else a short page.
fn origin() -> Origin {
    Origin::start(|received, to| match received.path.as_str() {
        path if path.starts_with("/feed") => {
            to.stream();
            to.chunk("data: 1\n\n");
            assert!(to.wait_for_close());
        }
        "/missing" => {
            to.raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
        _ => {
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Request-Id: app\r\n\r\nhello");
        }
    })
}

fn get(proxy: &Proxy, path: &str, fields: &str) -> (String, Vec<u8>) {
    let mut client = proxy.send_request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
    let head = client.head();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    (head, client.bytes(length))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn lines(proxy: &Proxy) -> Vec<Value> {
    let log = proxy.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("\"message\":\"request\""));
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn metrics(proxy: &Proxy) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.head();
    String::from_utf8(client.raw()).unwrap()
}

#[test]
fn plain_request_has_one_log_line_if_configured() {
    for (requests, expected) in [("off", &[][..]), ("errors", &[404]), ("all", &[200, 404])] {
        let origin = origin();
        let proxy = Proxy::start(origin.addr, &["--log-requests", requests]);
        let (head, body) = get(&proxy, "/page?token=secret", "X-Request-Id: forged\r\n");
        assert_eq!(body, b"hello");
        let id = field(&head, "x-request-id").unwrap().to_owned();
        get(&proxy, "/missing", "");
        let mut stream = proxy.get("/feed");
        stream.head();
        proxy.wait_for_log("stream opened");
        // Lines are written at the end of a response, which its client may see first.
        wait_until("the lines", || lines(&proxy).len() >= expected.len());
        let lines = lines(&proxy);
        let statuses: Vec<_> = lines
            .iter()
            .map(|line| line["status"].as_u64().unwrap())
            .collect();
        assert_eq!(statuses, expected, "{requests}");
        assert!(!proxy.log().contains("secret"));
        let Some(page) = lines.iter().find(|line| line["status"] == 200) else {
            continue;
        };
        assert_eq!(page["path"], "/page");
        assert_eq!(page["route"], "/");
        assert_eq!(page["method"], "GET");
        assert_eq!(page["client"], "127.0.0.1");
        assert_eq!(page["bytes"], 5);
        assert_eq!(page["complete"], true);
        assert_eq!(page["request_id"], id);
        assert!(page["duration_seconds"].is_number(), "{page}");
    }
}

#[test]
fn client_that_leaves_before_the_response_is_logged_and_counted() {
    let origin = Origin::start(|_, to| {
        to.wait_for_close();
    });
    let flags = ["--log-requests=all", "--admin-listen=127.0.0.1:0"];
    let proxy = Proxy::start(origin.addr, &flags);
    let client = proxy.send_request("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    origin.wait_for_open(1);
    drop(client);
    let line: Value = serde_json::from_str(&proxy.wait_for_log("\"message\":\"request\"")).unwrap();
    assert_eq!(
        (&line["status"], &line["complete"]),
        (&499.into(), &false.into())
    );
    let expected = "sse_guard_requests_total{route=\"/\",status=\"client_gone\"} 1";
    wait_until("the metric", || metrics(&proxy).contains(expected));
}

#[test]
fn combined_lines_go_to_standard_output() {
    let origin = origin();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .env_clear()
        .args(["--listen", &address.to_string(), "--admin-listen", "off"])
        .args(["--upstream-url", &format!("http://{}", origin.addr)])
        .args(["--log-requests=all", "--log-requests-format=combined"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = None;
    wait_until("the proxy", || {
        client = std::net::TcpStream::connect(address).ok();
        client.is_some()
    });
    drop(client);
    let mut client = Client::connect(address);
    client.send(
        "GET /page?token=secret HTTP/1.1\r\nHost: x\r\nUser-Agent: a \"b\"\r\nConnection: close\r\n\r\n",
    );
    client.head();
    client.raw();
    let stopped = Command::new("kill").arg(proxy.id().to_string()).status();
    assert!(stopped.unwrap().success());
    let output = proxy.stdout.take().unwrap();
    let output = std::io::read_to_string(output).unwrap();
    proxy.wait().unwrap();
    let line = output.lines().next().unwrap();
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    let end = " +0000] \"GET /page HTTP/1.1\" 200 5 \"-\" \"a \\x22b\\x22\"";
    assert!(line.ends_with(end), "{line}");
    assert_eq!(output.lines().count(), 1, "{output}");
}

#[test]
fn request_has_one_id_on_both_sides_and_in_the_log() {
    for (fields, flags, is_kept) in [
        (
            "X-Request-Id: abc-1\r\n",
            &["--trusted-proxies=127.0.0.1"][..],
            true,
        ),
        ("X-Request-Id: abc-1\r\n", &[], false),
        (
            "X-Request-Id: a b\r\n",
            &["--trusted-proxies=127.0.0.1"],
            false,
        ),
        ("", &[], false),
    ] {
        let origin = origin();
        let proxy = Proxy::start(origin.addr, flags);
        let (head, _) = get(&proxy, "/page", fields);
        let id = field(&head, "x-request-id").unwrap();
        assert_eq!(origin.last_request().field("x-request-id"), Some(id));
        assert_eq!(id == "abc-1", is_kept, "{fields:?}");
        assert!(is_kept || id.len() == 32, "{id}");
        let mut stream = proxy.send_request(&format!(
            "GET /feed HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{fields}\r\n"
        ));
        let head = stream.head();
        let id = field(&head, "x-request-id").unwrap();
        assert_eq!(origin.last_request().field("x-request-id"), Some(id));
        let line: Value = serde_json::from_str(&proxy.wait_for_log("stream opened")).unwrap();
        assert_eq!(line["span"]["request_id"], id);
        // An error of the proxy itself has one, too.
        let mut refused = proxy.send_request("GET /a%zz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(field(&refused.head(), "x-request-id").is_some());
    }
}

#[test]
fn rejection_is_logged_with_client_route_and_limit() {
    let origin = origin();
    let proxy = Proxy::start(origin.addr, &["--limit-per-ip=1", "--log-requests=errors"]);
    let mut first = proxy.get("/feed");
    first.head();
    for _ in 0..30 {
        assert!(
            proxy
                .get("/feed?token=secret")
                .head()
                .starts_with("http/1.1 429 ")
        );
    }
    let rejected = proxy.wait_for_log("request rejected");
    let line: Value = serde_json::from_str(&rejected).unwrap();
    assert_eq!(line["limit"], "limit.per_ip");
    assert_eq!(line["route"], "/");
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!(line["path"], "/feed");
    assert!(line["request_id"].is_string());
    let log = proxy.log();
    assert_eq!(log.matches("request rejected").count(), 10, "{log}");
    assert!(!log.contains("secret") && lines(&proxy).is_empty(), "{log}");
}

#[test]
fn failure_to_connect_names_the_request() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let proxy = Proxy::start(address, &[]);
    assert!(
        proxy
            .send_request(
                "POST /call?token=secret HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            )
            .head()
            .contains(" 502 ")
    );
    let line: Value = serde_json::from_str(&proxy.wait_for_log("cannot connect")).unwrap();
    assert_eq!(line["route"], "/");
    assert_eq!(line["path"], "/call");
    assert_eq!(line["client"], "127.0.0.1");
    assert!(line["request_id"].is_string(), "{line}");
    assert!(!proxy.log().contains("secret"));
}

#[test]
fn metrics_count_requests_and_streams_by_state() {
    let origin = origin();
    let proxy = Proxy::start(origin.addr, &["--admin-listen=127.0.0.1:0"]);
    get(&proxy, "/page", "");
    get(&proxy, "/missing", "");
    let mut stream = proxy.get("/feed");
    stream.head();
    stream.read_until("data: 1\n\n");
    let all = [
        "sse_guard_requests_total{route=\"/\",status=\"2xx\"} 1",
        "sse_guard_requests_total{route=\"/\",status=\"4xx\"} 1",
        "sse_guard_request_duration_seconds_count{route=\"/\"} 2",
        "sse_guard_time_to_head_seconds_count{route=\"/\"} 1",
        "sse_guard_availability_ratio{route=\"/\"} 1",
        "sse_guard_stream_seconds_total{route=\"/\",upstream=\"lost\"} 0",
        "sse_guard_oldest_stream_age_seconds{route=\"/\"} ",
    ];
    let mut text = String::new();
    wait_until("all metrics", || {
        text = metrics(&proxy);
        all.iter().all(|line| text.contains(line))
    });
    let age = text.split(all[6]).nth(1).unwrap().lines().next().unwrap();
    assert!(age.parse::<f64>().unwrap() > 0.0, "{age}");
}
