//! Clients that take what others need: the real binary with few files, and many connections.

mod connections;
mod largest;
mod requests;

use crate::support::{Answer, Client, End, Gone, Origin, Proxy, ReceivedRequest, gate, wait_until};
use serde_json::{Value, json};
use std::io::Read;

/// As in the report: 40 streams take 80 of these.
pub(super) const FILES: usize = 256;
const STREAMS: usize = 40;
const GET: &str = "GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
const PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: a\r\n\r\n";

/// An address of a client of its own.
pub(super) fn other(number: usize) -> [u8; 4] {
    [127, 0, 1, u8::try_from(number).unwrap()]
}

fn stream_from(source: [u8; 4], proxy: &Proxy) -> Client {
    stream_of("/events", source, proxy)
}

fn stream_of(path: &str, source: [u8; 4], proxy: &Proxy) -> Client {
    let mut client = Client::connect_from(source, proxy.addr);
    client.send(&GET.replace("/events", path));
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    client.read_until("data: 1\n\n");
    client
}

/// `/plain` is a short text; all else a stream whose second event waits for the gate.
pub(super) fn origin() -> (std::sync::mpsc::Sender<()>, Origin) {
    let (go, goes) = gate();
    let origin = Origin::start(move |received: ReceivedRequest, to: &mut Answer| {
        if received.path == "/hang" {
            to.wait_for_close();
            return;
        }
        if received.path == "/big" {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nbig");
            to.wait_for_close();
            return;
        }
        if received.path == "/socket" {
            to.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            let mut bytes = [0; 4];
            while to.socket.read_exact(&mut bytes).is_ok() {
                to.raw(&bytes);
            }
            return;
        }
        if received.path == "/half" {
            to.stream();
            to.chunk("data: 1\n\n");
            to.chunk(format!("data: {}", "x".repeat(40_000)));
            to.wait_for_close();
            return;
        }
        if received.path == "/flood" {
            to.stream();
            to.chunk("data: 1\n\n");
            let event = format!("data: {}\n\n", "x".repeat(1_000));
            while to.chunk(&event) {}
            return;
        }
        if received.path == "/page" {
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2000\r\n\r\n";
            to.raw(format!("{head}{}", "x".repeat(2_000)).as_bytes());
            return;
        }
        if received.path == "/plain" {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
            return;
        }
        to.stream();
        to.chunk("data: 1\n\n");
        if goes.opens() {
            to.chunk("data: 2\n\n");
            to.end();
        }
    });
    (go, origin)
}

fn admin(proxy: &Proxy, path: &str) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    String::from_utf8(client.raw()).unwrap()
}

pub(super) fn json(proxy: &Proxy, path: &str) -> Value {
    let answer = admin(proxy, path);
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The clients of the streams in a list, and another member of each.
fn clients(list: &Value, member: &str) -> Vec<(String, Value)> {
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| {
        (
            row["client"].as_str().unwrap().to_owned(),
            row[member].clone(),
        )
    })
    .collect()
}

/// The value of a metric, named with its labels.
pub(super) fn metric(proxy: &Proxy, name: &str) -> f64 {
    let text = admin(proxy, "/metrics");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let value = lines.find_map(|line| line.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// In flight until dropped: without a head, with half a body, a tunnel, or an upload.
fn in_flight(kind: &str, source: [u8; 4], proxy: &Proxy) -> Client {
    let mut client = Client::connect_from(source, proxy.addr);
    match kind {
        "socket" => {
            client.send(
                "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            );
            assert!(client.head().starts_with("http/1.1 101 "));
        }
        "upload" => client.send("POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"),
        "big" => {
            client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(client.head().starts_with("http/1.1 200 "));
        }
        kind => client.send(&format!("GET /{kind} HTTP/1.1\r\nHost: a\r\n\r\n")),
    }
    client
}

fn status_of(source: [u8; 4], request: &str, proxy: &Proxy) -> String {
    let mut client = Client::connect_from(source, proxy.addr);
    client.send(request);
    client.head()[9..12].to_owned()
}
