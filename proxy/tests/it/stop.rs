//! What a signal does to the streams, connections and process of the real binary.

mod connections;
mod streams;

use crate::support::{Client, End, Origin, PATIENCE, Proxy, wait_until};
use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, mpsc};

/// What the origin waits at until the test lets it go on.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let (open, changed) = &*self.0;
        let _ = changed
            .wait_timeout_while(open.lock().unwrap(), PATIENCE, |open| !*open)
            .unwrap();
    }
}

fn post(proxy: &Proxy) -> Client {
    proxy.send_request(
        "POST / HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n\
         Content-Length: 0\r\n\r\n",
    )
}

/// A stream that has begun.
fn begun(mut client: Client) -> Client {
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(client.read_until("data: 1\n\n"), "data: 1\n\n");
    client
}

fn terminate(proxy: &Proxy) {
    proxy.signal("-TERM");
    proxy.wait_for_log("\"stopping");
}

/// The fields of the last line, of a process that need not wait for the end of its window.
fn stopped_early(proxy: &mut Proxy) -> serde_json::Value {
    proxy.signal("-TERM");
    stopped(proxy)
}

/// The fields of the last line, of a process that went by itself.
fn stopped(proxy: &mut Proxy) -> serde_json::Value {
    assert_eq!(proxy.wait().code(), Some(0));
    serde_json::from_str(&proxy.wait_for_log("\"stopped\"")).unwrap()
}

fn retry(last_words: &[u8]) -> u64 {
    let text = std::str::from_utf8(last_words).unwrap();
    let millis = text
        .strip_prefix("retry: ")
        .and_then(|n| n.strip_suffix('\n'));
    millis
        .unwrap_or_else(|| panic!("{text:?}"))
        .parse()
        .unwrap()
}

/// An origin whose answer to each request is short, and names its path.
fn plain() -> Origin {
    Origin::start(|received, to| {
        let path = received.path;
        to.raw(
            format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{path}",
                path.len()
            )
            .as_bytes(),
        );
    })
}

/// The status of `/readyz`, and its JSON.
fn readiness(proxy: &Proxy) -> (u16, serde_json::Value) {
    let mut client = Client::connect(proxy.admin());
    client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let head = client.head();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_slice(&client.raw()).unwrap())
}
