//! Requests with bodies through the real binary: refusals that come while the body is on its way.

use crate::support::{Client, Origin, Proxy};
use std::io::Write;

/// More than all sockets on the way take.
const LONG: usize = 16 << 20;

/// Uploads in full what the other side takes. Clients that do this read the response only then.
fn upload(proxy: &Proxy, head: &str) -> Client {
    let mut client = proxy.send_request(head);
    let part = [b'x'; 1 << 16];
    for _ in 0..LONG / part.len() {
        if client.socket.write_all(&part).is_err() {
            break;
        }
    }
    client
}

#[test]
fn early_rejection_reaches_an_uploading_client_despite_a_reset() {
    let origin = Origin::start(|received, to| {
        let response = match received.path.as_str() {
            "/413" => "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large",
            _ => {
                "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 9\r\n\r\nwho goes?"
            }
        };
        to.raw(response.as_bytes());
        to.reset();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    for round in 0..20 {
        for (path, body) in [("/413", "too large"), ("/401", "who goes?")] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {LONG}\r\n\r\n");
            let mut client = upload(&proxy, &head);
            let head = client.head();
            let status = format!("http/1.1 {} ", &path[1..]);
            assert!(head.starts_with(&status), "round {round}: {head}");
            assert_eq!(client.bytes(body.len()), body.as_bytes());
        }
    }
    // None of these connections is used again.
    assert_eq!(origin.served(), 40);
}
