//! Upstreams that the real binary asks whether they are there, and what readiness makes of it.

use crate::support::{Client, Origin, Proxy, gate, wait_until};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Answers checks with the status, and clients with a stream of one event.
fn origin(status: &Arc<AtomicU16>) -> Origin {
    let status = status.clone();
    Origin::start(move |received, to| {
        if received.path == "/healthz" {
            let status = status.load(Relaxed);
            let head = format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n");
            to.raw(head.as_bytes());
        } else {
            to.stream();
            to.chunk("data: 1\n\n");
            to.end();
        }
    })
}

fn get(proxy: &Proxy, path: &str) -> (u16, Value) {
    let mut client = Client::connect(proxy.admin());
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    let status = client.head()[9..12].parse().unwrap();
    (status, serde_json::from_slice(&client.raw()).unwrap())
}

fn wait_for_readiness(proxy: &Proxy, status: u16) {
    wait_until(&format!("a readiness of {status}"), || {
        get(proxy, "/readyz").0 == status
    });
}

const CHECKED: [&str; 6] = [
    "--admin-listen",
    "127.0.0.1:0",
    "--health-check-interval",
    "1s",
    "--health-check-path",
    "/healthz",
];

#[test]
fn readiness_is_red_while_the_upstream_fails_its_checks_whatever_it_answers_clients() {
    let status = Arc::new(AtomicU16::new(500));
    let origin = origin(&status);
    let proxy = Proxy::start(origin.addr, &CHECKED);
    wait_for_readiness(&proxy, 503);
    proxy.wait_for_log("has failed 3 checks in a row");
    let agent = origin
        .last_request()
        .field("user-agent")
        .unwrap()
        .to_owned();
    assert!(agent.starts_with("sse-guard/"), "{agent}");

    let mut client = proxy.get("/");
    assert!(client.head().starts_with("http/1.1 200 "));
    assert_eq!(client.rest().0, b"data: 1\n\n");
    let (code, red) = get(&proxy, "/readyz");
    assert_eq!((code, &red["ready"]), (503, &json!(false)));
    let part = &red["parts"][format!("upstream http://{}/", origin.addr)];
    let reason = part["reason"].as_str().unwrap();
    assert!(reason.contains("a check failed"), "{part}");
    let upstream = get(&proxy, "/api/summary").1["upstreams"][0].clone();
    assert_eq!(
        (&upstream["answered"], &upstream["failed"]),
        (&json!(1), &json!(0)),
        "{upstream}"
    );

    status.store(200, Relaxed);
    wait_for_readiness(&proxy, 200);
    proxy.wait_for_log("the upstream passes its check again");
}

#[test]
fn upstream_without_requests_is_found_unreachable_and_reachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Proxy::start(address, &CHECKED[..4]);
    listener.set_nonblocking(true).unwrap();
    // It does not have to answer.
    wait_until("a check", || listener.accept().is_ok());
    assert_eq!(get(&proxy, "/readyz").0, 200);
    drop(listener);
    wait_for_readiness(&proxy, 503);
    let _back = TcpListener::bind(address).unwrap();
    wait_for_readiness(&proxy, 200);
}

#[test]
fn reload_changes_how_the_upstream_is_checked() {
    let origin = origin(&Arc::new(AtomicU16::new(500)));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let flags = [&["--config", file.to_str().unwrap()], &CHECKED[..2]].concat();
    std::fs::write(&file, "health_check.interval = '1s'").unwrap();
    let proxy = Proxy::start(origin.addr, &flags);
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        proxy.signal("-HUP");
    };
    assert_eq!(get(&proxy, "/readyz").0, 200);
    reload("health_check.interval = '1s'\nhealth_check.path = '/healthz'");
    wait_for_readiness(&proxy, 503);
    reload("");
    wait_for_readiness(&proxy, 200);
    proxy.wait_for_log("health checks of the upstream are off");
}

/// Fails until the upstream counts as unreachable.
fn fail(proxy: &Proxy, path: &str) {
    for _ in 0..3 {
        proxy.get(path).retry_later();
    }
}

#[test]
fn ready_when_says_which_unreachable_upstreams_turn_readiness_red() {
    let bind = |address: &str| TcpListener::bind(address).unwrap();
    let (a, b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let [first, second] = [&a, &b].map(|listener| listener.local_addr().unwrap());
    let [first_url, second_url] = [first, second].map(|address| format!("http://{address}/"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let write = |when: &str| {
        let routes = [("/a", first), ("/b", second), ("/c", second)].map(|(path, address)| {
            format!("[[route]]\npath = '{path}'\nupstream.url = 'http://{address}'\n")
        });
        std::fs::write(&file, format!("{when}\n{}", routes.concat())).unwrap();
    };
    write("");
    let config = file.to_str().unwrap();
    let proxy = Proxy::with_flags(&["--config", config, "--admin-listen=127.0.0.1:0"]);
    let reload = |when: &str| {
        write(when);
        proxy.signal("-HUP");
    };

    // By default one is enough.
    drop(b);
    fail(&proxy, "/b");
    let (status, body) = get(&proxy, "/readyz");
    assert_eq!((status, &body["ready"]), (200, &json!(true)), "{body}");
    assert_eq!(body["ready_when"], "any");
    let part = &body["parts"][format!("upstream {second_url}")];
    assert_eq!(
        (&part["ok"], &part["tolerated"]),
        (&json!(false), &json!(true))
    );
    let upstream = |index: usize| {
        let upstream = &body["upstreams"][index];
        (
            upstream["url"].as_str().unwrap(),
            upstream["reachable"].as_bool().unwrap(),
        )
    };
    assert_eq!(upstream(0), (first_url.as_str(), true));
    assert_eq!(upstream(1), (second_url.as_str(), false));
    let reason = body["upstreams"][1]["reason"].as_str().unwrap();
    assert!(reason.contains("connect"), "{reason}");
    let route = |path: &str, url: &str, reachable: bool| json!({ "path": path, "upstream": url, "reachable": reachable });
    let routes = [
        route("/a", &first_url, true),
        route("/b", &second_url, false),
        route("/c", &second_url, false),
    ];
    assert_eq!(body["routes"], json!(routes));
    let summary = get(&proxy, "/api/summary").1;
    assert_eq!(
        (&summary["ready"], &summary["ready_when"]),
        (&json!(true), &json!("any"))
    );
    assert_eq!(summary["routes"][2]["upstream"], second_url.as_str());

    reload("ready.when = 'all'");
    wait_for_readiness(&proxy, 503);
    let (_, body) = get(&proxy, "/readyz");
    assert_eq!(
        body["parts"][format!("upstream {second_url}")]["tolerated"],
        Value::Null
    );
    reload("ready.when = ['/a']");
    wait_for_readiness(&proxy, 200);
    assert_eq!(get(&proxy, "/readyz").1["ready_when"], json!(["/a"]));
    reload("ready.when = ['/a', '/c']");
    wait_for_readiness(&proxy, 503);
    reload("ready.when = ['/a', '/d']");
    proxy.wait_for_log("no route has the path");
    assert_eq!(get(&proxy, "/readyz").0, 503);
    reload("ready.when = 'any'");
    wait_for_readiness(&proxy, 200);

    // All of them are too many.
    drop(a);
    fail(&proxy, "/a");
    let (status, body) = get(&proxy, "/readyz");
    assert_eq!(status, 503, "{body}");
    for url in [&first_url, &second_url] {
        let part = &body["parts"][format!("upstream {url}")];
        assert_eq!(
            (&part["ok"], &part["tolerated"]),
            (&json!(false), &Value::Null)
        );
    }
    let _back = TcpListener::bind(second).unwrap();
    wait_for_readiness(&proxy, 200);
}

const SHORT: [&str; 4] = [
    "--admin-listen=127.0.0.1:0",
    "--client-body-timeout=1s",
    "--upstream-head-timeout=1s",
    "--upstream-unavailable=status",
];

/// Never answers `/hang`, and reads no body.
fn hanging() -> Origin {
    let (keep, kept) = gate();
    Origin::start(move |received, to| {
        // Held by the origin, and so never opened.
        let _keep = &keep;
        if received.path == "/hang" {
            kept.opens();
        }
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    })
}

fn ask_from(source: [u8; 4], proxy: &Proxy, request: &str) -> Client {
    let mut client = Client::connect_from(source, proxy.addr);
    client.send(request);
    client
}

fn upstream(proxy: &Proxy) -> Value {
    get(proxy, "/api/summary").1["upstreams"][0].clone()
}

#[test]
fn stalled_upload_is_a_408_and_does_not_count_against_the_upstream() {
    let origin = hanging();
    let proxy = Proxy::start(origin.addr, &SHORT);
    let request = "POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf";
    let chunked =
        "POST /hang HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    // Of several clients, too.
    let clients: Vec<Client> = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]]
        .into_iter()
        .flat_map(|source| [request, chunked].map(|request| ask_from(source, &proxy, request)))
        .collect();
    for mut client in clients {
        let head = client.head();
        assert!(head.starts_with("http/1.1 408 "), "{head}");
        assert!(head.contains("connection: close\n"), "{head}");
        assert!(
            String::from_utf8(client.raw())
                .unwrap()
                .contains("request's body")
        );
    }
    assert_eq!(get(&proxy, "/readyz").0, 200);
    assert_eq!(upstream(&proxy)["failed"], 0);
}

#[test]
fn unread_upload_counts_against_the_upstream() {
    let origin = hanging();
    let proxy = Proxy::start(origin.addr, &SHORT);
    let mut client = Client::connect_from([127, 0, 0, 1], proxy.addr);
    client.send("POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    // Until nothing more is taken, and the connection is closed.
    let piece = "x".repeat(1 << 20);
    while client.try_send(&piece) {}
    let told = proxy.wait_for_log("the upstream sent no response head in time");
    assert!(told.contains("504"), "{told}");
    assert_eq!(upstream(&proxy)["failed"], 1);
}

#[test]
fn readiness_is_red_by_requests_of_more_than_one_client_alone() {
    let origin = hanging();
    let proxy = Proxy::start(origin.addr, &SHORT);
    let request = "GET /hang HTTP/1.1\r\nHost: a\r\n\r\n";
    let one = [127, 0, 0, 1];
    let clients: Vec<Client> = (0..10).map(|_| ask_from(one, &proxy, request)).collect();
    for mut client in clients {
        assert!(client.head().starts_with("http/1.1 504 "));
    }
    assert_eq!(upstream(&proxy)["failed"], 10);
    let (code, readiness) = get(&proxy, "/readyz");
    assert_eq!(code, 200, "{readiness}");
    let mut other = ask_from([127, 0, 0, 2], &proxy, request);
    assert!(other.head().starts_with("http/1.1 504 "));
    wait_for_readiness(&proxy, 503);
    // An answer to any of them is an answer.
    let fine = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(
        ask_from(one, &proxy, fine)
            .head()
            .starts_with("http/1.1 200 ")
    );
    wait_for_readiness(&proxy, 200);
}
