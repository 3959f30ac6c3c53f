//! `sse-guard demo`, as the README has it.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

mod support;

use std::net::TcpListener;
use support::{Client, End, Proxy};

fn ask(proxy: &Proxy, path: &str) -> (String, Client) {
    let mut client = proxy.get(path);
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{path}: {head}");
    (head, client)
}

#[test]
fn the_demo_shows_streams_of_an_origin_of_its_own_through_the_proxy() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("--upstream-url=http://{}", port.local_addr().unwrap());
    drop(port);
    let mut proxy = Proxy::with_flags(&["--heartbeat-interval=50ms", &upstream, "demo"]);
    let (page, _) = ask(&proxy, "/");
    assert!(page.contains("\ncontent-type: text/html"), "{page}");
    let (plain, _) = ask(&proxy, "/plain");
    assert!(!plain.contains("x-accel-buffering"), "{plain}");
    let (quiet, mut client) = ask(&proxy, "/quiet");
    assert!(quiet.contains("\nx-accel-buffering: no\n"), "{quiet}");
    client.read_until("data: ");
    client.read_until(": heartbeat\n");
    let (seen, end) = ask(&proxy, "/dies").1.rest();
    let seen = String::from_utf8(seen)
        .unwrap()
        .replace(": heartbeat\n", "");
    assert_eq!(seen.matches("\n\n").count(), 3, "{seen:?}");
    assert!(seen.ends_with("\n\n"), "{seen:?}");
    assert_eq!(end, End::Broken);
    assert_eq!(proxy.stop()["cut_off"], 0);
}
