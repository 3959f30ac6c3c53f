//! The real binary near its budgets of files and memory.

use crate::support::{Client, End, Origin, Proxy, wait_until};
use std::fs;

/// Far enough above what the process has open by itself.
const FILES: usize = 100;

/// One event, then silence until the other side goes; no head for `/hang`.
fn held() -> Origin {
    Origin::start(|received, to| {
        if received.path == "/hang" {
            to.wait_for_close();
            return;
        }
        to.stream();
        to.chunk("data: 1\n\n");
        to.wait_for_close();
    })
}

/// Whether the client was admitted; if not, it gets a `retry:`.
fn is_in(client: &mut Client) -> bool {
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    if head.contains("content-length: ") {
        assert_eq!(client.bytes(7), b"retry: ");
        return false;
    }
    client.read_until("data: 1\n\n");
    true
}

#[test]
fn files_budget_defers_new_streams_then_ends_the_oldest() {
    let origin = held();
    let budget = format!("--files-budget={FILES}");
    let flags = [
        budget.as_str(),
        "--admin-listen=127.0.0.1:0",
        "--limit-rate=off",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    assert_eq!(proxy.admin_get("/readyz").0, 200);
    let mut streams = Vec::new();
    while proxy.files() < FILES * 9 / 10 {
        let mut client = proxy.get("/");
        if is_in(&mut client) {
            streams.push(client);
        }
    }
    let logged = proxy.wait_for_log("files open");
    assert!(
        logged.contains("rejected") && logged.contains("ulimit"),
        "{logged}"
    );
    assert!(!is_in(&mut proxy.get("/")));
    let mut post = proxy.send_request(
        "POST / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n",
    );
    let head = post.head();
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    drop(post);
    let (status, red) = proxy.admin_get("/readyz");
    assert_eq!(status, 503, "{red}");
    assert!(red.contains("new streams are rejected"), "{red}");

    // Requests take files, too, which are no streams.
    let mut others = Vec::new();
    while !proxy.log().contains("the oldest idle ones are ended") {
        if proxy.files() < FILES {
            others.push(proxy.send_request("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
    }
    let (last_words, end) = streams.remove(0).rest();
    assert!(last_words.starts_with(b"retry: "), "{last_words:?}");
    assert_eq!(end, End::Clean);

    drop(others);
    drop(streams.split_off(streams.len() / 2));
    proxy.wait_for_log("back below the budgets");
    wait_until("room", || is_in(&mut proxy.get("/")));
    let (status, green) = proxy.admin_get("/readyz");
    assert_eq!(status, 200, "{green}");
}

#[test]
fn memory_budget_rejects_streams_until_a_reload_raises_it() {
    let origin = held();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let flags = ["--config", file.to_str().unwrap()];
    // What is linked into the binary takes more from the start.
    fs::write(&file, "memory.budget = '8MiB'").unwrap();
    let proxy = Proxy::start(origin.addr, &flags);
    let logged = proxy.wait_for_log("MiB of memory used");
    assert!(logged.contains("memory.budget"), "{logged}");
    assert!(!is_in(&mut proxy.get("/")));
    fs::write(&file, "memory.budget = '8GiB'").unwrap();
    proxy.signal("-HUP");
    proxy.wait_for_log("back below the budgets");
    wait_until("room", || is_in(&mut proxy.get("/")));
}
