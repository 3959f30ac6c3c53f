//! The dashboard in a real browser. Pictures of it are left in `dashboard/` of cargo's directory.

mod operator;
mod streams;
mod upstreams;

use crate::browser::Browser;
use crate::support::{Client, End, Origin, Proxy, wait_until};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};

/// Keys, as WebDriver writes them.
const ENTER: &str = "\u{e007}";
const BACK_TAB: &str = "\u{e008}\u{e004}";

/// The rows of live streams that are there, without those that only take up room.
const ROWS: &str =
    "[...document.querySelectorAll('#stream-table tbody tr:not(.spacer):not(.waiting)')]";
const LIVE: &str = "document.querySelector('#feed').dataset.state === 'good'";
const ENDS: &str = "document.querySelector('#end-table tbody').innerText";

/// One event, whose id is the path without its slash, then silence.
fn quiet() -> Origin {
    Origin::start(|received, to| {
        let mut id = received.path[1..].to_owned();
        for (code, sign) in [("%3C", "<"), ("%3E", ">"), ("%22", "\"")] {
            id = id.replace(code, sign);
        }
        to.stream();
        to.chunk(format!("id: {id}\ndata: 1\n\n"));
        to.wait_for_close();
    })
}

/// With an address for the operator, on a free port unless the flags say otherwise.
fn proxy(origin: &Origin, flags: &[&str]) -> Proxy {
    let mut all = vec!["--admin-listen", "127.0.0.1:0"];
    all.extend(flags);
    Proxy::start(origin.addr, &all)
}

fn stream(proxy: &Proxy, path: &str) -> Client {
    stream_of("192.0.2.1", proxy, path)
}

/// Of a client behind a proxy that is trusted.
fn stream_of(address: &str, proxy: &Proxy, path: &str) -> Client {
    let mut client = proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n\
         X-Forwarded-For: {address}\r\n\r\n"
    ));
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until("data: 1\n\n");
    client
}

fn look(browser: &Browser, admin: SocketAddr) {
    browser.open(&format!("http://{admin}/"));
}

/// The streams in view, by their paths without the slash.
fn shows(browser: &Browser, paths: &[&str]) {
    browser.wait_for(&format!(
        "{ROWS}.map((row) => row.querySelector('.stream .line').innerText.slice(1)).sort().join() === '{}'",
        paths.join(",")
    ));
}
