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

/// Whether the client was let in; if not, it is told to come back.
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

fn readiness(proxy: &Proxy) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    String::from_utf8(client.raw()).unwrap()
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
    assert!(readiness(&proxy).starts_with("HTTP/1.1 200 "));
    let mut streams = Vec::new();
    while proxy.files() < FILES * 9 / 10 {
        let mut client = proxy.get("/");
        if is_in(&mut client) {
            streams.push(client);
        }
    }
    let told = proxy.wait_for_log("files open");
    assert!(
        told.contains("rejected") && told.contains("ulimit"),
        "{told}"
    );
    assert!(!is_in(&mut proxy.get("/")));
    let mut post = proxy.send_request(
        "POST / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n",
    );
    let head = post.head();
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    drop(post);
    let red = readiness(&proxy);
    assert!(red.starts_with("HTTP/1.1 503 "), "{red}");
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
    let green = readiness(&proxy);
    assert!(green.starts_with("HTTP/1.1 200 "), "{green}");
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
    let told = proxy.wait_for_log("MiB of memory used");
    assert!(told.contains("memory.budget"), "{told}");
    assert!(!is_in(&mut proxy.get("/")));
    fs::write(&file, "memory.budget = '8GiB'").unwrap();
    proxy.signal("-HUP");
    proxy.wait_for_log("back below the budgets");
    wait_until("room", || is_in(&mut proxy.get("/")));
}
