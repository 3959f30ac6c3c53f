//! The real binary on how its routes and upstreams are.

use crate::support::{Client, Origin, Proxy, wait_until};
use serde_json::Value;

/// A 500 for `/broken`; else one event, then silence until the other side goes.
fn origin() -> Origin {
    Origin::start(|received, to| {
        if received.path.starts_with("/broken") {
            to.raw(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        to.stream();
        to.chunk("data: 1\n\n");
        to.wait_for_close();
    })
}

fn send_request(proxy: &Proxy, path: &str) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    ));
    let answer = String::from_utf8(client.raw()).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Nothing within the first second.
fn state(all: &Value, kind: &str) -> Value {
    let all = all["health"].as_array().unwrap();
    let of_kind = |one: &&Value| one["kind"] == kind;
    all.iter().find(of_kind).cloned().unwrap_or_default()
}

#[test]
fn failed_requests_are_reported_in_each_view_of_the_operator() {
    let origin = origin();
    let flags = ["--admin-listen=127.0.0.1:0", "--limit-rate=off"];
    let proxy = Proxy::start(origin.addr, &flags);
    let summary =
        || -> Value { serde_json::from_str(&send_request(&proxy, "/api/summary")).unwrap() };
    wait_until("the first verdict", || {
        state(&summary(), "route")["state"] == "healthy"
    });
    for _ in 0..20 {
        // In place of the 500, and no less a failure.
        proxy.get("/broken").retry_later();
    }
    wait_until("the verdict", || {
        state(&summary(), "route")["state"] == "failing"
    });
    let said = proxy.wait_for_log("the route is failing");
    assert!(said.contains("\"WARN\""), "{said}");
    // On a slow machine the verdict comes before the last request.
    let counts = (1..=20).map(|n| format!("{n} of {n}"));
    let mut sentences = counts.map(|counts| {
        format!("{counts} requests for a stream failed within a minute, all from one client")
    });
    assert!(sentences.any(|sentence| said.contains(&sentence)), "{said}");
    assert!(said.contains("check the upstream's log"), "{said}");
    let route = state(&summary(), "route");
    assert_eq!(route["causes"][0]["check"], "errors");
    let ready: Value = serde_json::from_str(&send_request(&proxy, "/readyz")).unwrap();
    // Others would fare no better, and some paths may be well.
    assert_eq!(ready["ready"], true);
    assert_eq!(state(&ready, "upstream")["state"], "failing");
    let metrics = send_request(&proxy, "/metrics");
    let gauge = "sse_guard_health{kind=\"route\",name=\"/\"} 2";
    assert!(metrics.contains(gauge), "{metrics}");
    assert!(metrics.contains("sse_guard_files_budget "), "{metrics}");
}

#[test]
fn reconnects_after_an_upstream_end_are_not_attributed_to_the_network() {
    let origin = Origin::start(|_, to| {
        to.stream();
        to.chunk("id: 1\ndata: 1\n\n");
        to.end();
    });
    let flags = ["--admin-listen=127.0.0.1:0", "--limit-rate=off"];
    let proxy = Proxy::start(origin.addr, &flags);
    let summary =
        || -> Value { serde_json::from_str(&send_request(&proxy, "/api/summary")).unwrap() };
    wait_until("the first verdict", || {
        state(&summary(), "route")["state"] == "healthy"
    });
    for id in ["", "Last-Event-ID: 1\r\n"].into_iter().cycle().take(40) {
        let mut client = proxy.send_request(&format!(
            "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{id}\r\n"
        ));
        client.head();
        client.rest();
    }
    let mut route = Value::Null;
    wait_until("the verdict", || {
        route = state(&summary(), "route");
        route["state"] == "failing"
    });
    let causes = route["causes"].as_array().unwrap();
    let checks: Vec<_> = causes.iter().map(|cause| &cause["check"]).collect();
    assert_eq!(checks, ["early_ends"], "{route}");
    let mut metrics = String::new();
    wait_until("the returns", || {
        metrics = send_request(&proxy, "/metrics");
        // Also those without an id.
        metrics.contains("sse_guard_reconnects_total{route=\"/\"} 39")
    });
}
