//! The real binary when upstreams are lost: its clients get heartbeats, and lose no event.

mod outage;
mod stream;

use crate::support::{Answer, Client, End, Origin, Proxy, ReceivedRequest, gate, wait_until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::thread;

const FLAGS: [&str; 3] = [
    "--resume-mode=on",
    "--heartbeat-interval=20ms",
    "--limit-rate=off",
];
const SHORT_BACKOFF: [&str; 2] = ["--resume-backoff=20ms", "--resume-max-backoff=20ms"];

fn start(origin: SocketAddr, flags: &[&str]) -> Proxy {
    start_with_backoff(origin, &[&SHORT_BACKOFF, flags].concat())
}

fn metrics(proxy: &Proxy) -> String {
    let mut admin = Client::connect(proxy.admin());
    admin.send("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    String::from_utf8(admin.raw()).unwrap()
}

fn start_with_backoff(origin: SocketAddr, flags: &[&str]) -> Proxy {
    Proxy::start(origin, &[&FLAGS, flags].concat())
}

fn event(id: u64) -> String {
    format!("id: {id}\ndata: {id}\n\n")
}

/// The first id behind the one in the request.
fn next(received: &ReceivedRequest) -> u64 {
    received
        .field("last-event-id")
        .map_or(1, |id| id.parse::<u64>().unwrap() + 1)
}

/// Reads to `last`; tells the ids in their order, and how many heartbeats there were.
fn read_to(client: &mut Client, last: u64) -> (Vec<u64>, usize) {
    assert!(client.head().starts_with("http/1.1 200 "));
    let text = client.read_until(&event(last));
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
    let ids = ids.map(|id| id.parse().unwrap()).collect();
    (ids, text.matches(": heartbeat\n").count())
}

/// An upstream that is lost behind the first event of each stream, at the test's signal.
fn lost_after_one_event() -> (Sender<()>, Origin) {
    let (go, goes) = gate();
    let origin = Origin::start(move |_, to| {
        to.stream();
        to.chunk(event(1));
        goes.wait();
        to.reset();
    });
    (go, origin)
}
