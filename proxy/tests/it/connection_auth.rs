//! A login by NTLM or Negotiate is that of a TCP connection: through the real binary it works, and
//! serves the client that logged in and nobody else.

mod closing;
mod isolation;
mod requests;
mod server;

use server::{serve_when, server};

use crate::support::{Answer, Client, End, Gone, Origin, Proxy, ReceivedRequest, gate};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

struct Response {
    status: u16,
    head: String,
    body: String,
    end: End,
}

impl Response {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            (field == name).then_some(value)
        })
    }
}

fn read(client: &mut Client, is_head: bool) -> Response {
    let head = client.head();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut response = Response {
        status,
        head,
        body: String::new(),
        end: End::Clean,
    };
    if is_head {
        return response;
    }
    let bytes = match response.field("content-length") {
        Some(length) => client.bytes(length.parse().unwrap()),
        None => {
            let (bytes, end) = client.rest();
            response.end = end;
            bytes
        }
    };
    response.body = String::from_utf8(bytes).unwrap();
    response
}

/// A request with more fields, each with its line end.
fn send_request(client: &mut Client, method: &str, path: &str, fields: &str) -> Response {
    client.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"
    ));
    read(client, method == "HEAD")
}

fn get(client: &mut Client, path: &str) -> Response {
    send_request(client, "GET", path, "")
}

/// The three legs of a login, the last for `path`.
fn log_in(client: &mut Client, user: &str, path: &str) -> Response {
    let offer = get(client, path);
    assert_eq!(offer.status, 401);
    log_in_at_once(client, user, path)
}

/// The last two of them.
fn log_in_at_once(client: &mut Client, user: &str, path: &str) -> Response {
    let third = third_leg(client, user, path);
    send_request(client, "GET", path, &third)
}

/// The second leg, and the fields of the third.
fn third_leg(client: &mut Client, user: &str, path: &str) -> String {
    let challenge = send_request(client, "GET", path, "Authorization: NTLM one\r\n");
    assert_eq!(challenge.status, 401);
    let challenge = challenge.field("www-authenticate").unwrap();
    let challenge = challenge.strip_prefix("ntlm ").unwrap();
    format!("Authorization: NTLM three-{challenge}-{user}\r\n")
}

/// Clients without credentials get nobody's page and nobody's stream, on any connection.
fn assert_nobody_else_is_in(proxy: &Proxy) {
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(proxy.addr)).collect();
    for client in &mut clients {
        for path in ["/page", "/events"] {
            let response = get(client, path);
            assert_eq!((response.status, &*response.body), (401, "no"), "{path}");
        }
    }
}
