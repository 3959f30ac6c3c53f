//! What an `EventSource` meets that would end it for good, had it come from a plain proxy.

mod cross_origin;
mod failures;
mod pages;
mod preflights;
mod waiting;

use crate::browser::Browser;
use crate::support::{
    Answer, Client, End, Gate, Origin, Proxy, ReceivedRequest, free_address, gate, wait_until,
};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

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
