//! `sse-guard demo`, as the README has it.

use crate::browser::Browser;
use crate::support::{Client, End, Proxy, free_address};
use std::net::TcpListener;

fn send_request(proxy: &Proxy, path: &str) -> (String, Client) {
    let mut client = proxy.get(path);
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{path}: {head}");
    (head, client)
}

#[test]
fn demo_shows_streams_of_its_own_origin_through_the_proxy() {
    let upstream = format!("--upstream-url=http://{}", free_address());
    let mut proxy = Proxy::with_flags(&["--heartbeat-interval=50ms", &upstream, "demo"]);
    let (page, _) = send_request(&proxy, "/");
    assert!(page.contains("\ncontent-type: text/html"), "{page}");
    let (plain, _) = send_request(&proxy, "/plain");
    assert!(!plain.contains("x-accel-buffering"), "{plain}");
    let (quiet, mut client) = send_request(&proxy, "/quiet");
    assert!(quiet.contains("\nx-accel-buffering: no\n"), "{quiet}");
    client.read_until("data: ");
    client.read_until(": heartbeat\n");
    let (seen, end) = send_request(&proxy, "/dies").1.rest();
    let seen = String::from_utf8(seen)
        .unwrap()
        .replace(": heartbeat\n", "");
    assert_eq!(seen.matches("\n\n").count(), 3, "{seen:?}");
    assert!(seen.ends_with("\n\n"), "{seen:?}");
    assert_eq!(end, End::Broken);
    assert_eq!(proxy.stop()["cut_off"], 0);
}

#[test]
fn demo_page_shows_each_stream_without_and_with_the_proxy() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let upstream = format!("--upstream-url=http://{}", free_address());
    let flags = ["--heartbeat-interval=200ms", "--admin-listen=127.0.0.1:0"];
    let proxy = Proxy::with_flags(&[flags[0], flags[1], &upstream, "demo"]);
    browser.open(&format!("http://{}/", proxy.addr));
    let pane = |pane: &str, text: &str| {
        browser.wait_for(&format!(
            "document.querySelector('#{pane}').innerText.includes('{text}')"
        ));
    };
    let choose = |path: &str| browser.click(&format!("[value='{path}']"));
    // The first one is quiet: its connection is closed without heartbeats.
    pane("direct", "id 1 event 1");
    pane("guarded", "heartbeat");
    pane("direct", "broken: 1");
    pane("guarded", "connections: 1");
    pane("guarded", "broken: 0");
    let dashboard = "document.querySelector('#dashboard')";
    browser.wait_for(&format!(
        "!{dashboard}.hidden && {dashboard}.href === 'http://{}/'",
        proxy.admin()
    ));
    choose("/named");
    for side in ["direct", "guarded"] {
        pane(side, "price");
        pane(side, "trade");
    }
    choose("/dies");
    pane("direct", "data: half an ev");
    pane("guarded", "broken");
    let half = "document.querySelector('#guarded').innerText.includes('half an ev')";
    assert_eq!(browser.run(&format!("return {half}")), false);
    choose("/plain");
    for side in ["direct", "guarded"] {
        pane(side, "{\"plain\":true}");
    }
    let streams = browser.run("return document.querySelectorAll('#streams input').length");
    assert_eq!(streams, 12);
    for (name, scheme, width) in [("demo", "light", 1280), ("demo-phone", "dark", 390)] {
        browser.photograph_at(name, scheme, width, 900);
    }
}

#[test]
fn demo_port_moves_proxy_upstream_and_dashboard() {
    // Three in a row, which nobody else is likely to take in the meantime.
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port));
    let port = (21_000..32_000)
        .step_by(7)
        .find(|port| (0..3).all(|offset| free(port + offset).is_ok()))
        .unwrap();
    let proxy = Proxy::with_arguments(&["demo", "--port", &port.to_string()]);
    assert_eq!(proxy.addr.port(), port);
    assert_eq!(proxy.admin().port(), port + 2);
    let (head, _) = send_request(&proxy, "/plain");
    assert!(head.contains("\ncontent-type: application/json"), "{head}");
    let direct = std::net::TcpStream::connect(("127.0.0.1", port + 1));
    assert!(direct.is_ok());
}
