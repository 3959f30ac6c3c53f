//! Connections over TLS and HTTP/2 that take what others need.

use super::*;
use crate::pressure::{FILES, metric, origin, other};
use crate::support::{Client, Proxy};
use std::net::{SocketAddr, TcpStream};

/// A connection from an address of its own.
fn from(source: [u8; 4], addr: SocketAddr) -> TcpStream {
    Client::connect_from(source, addr).socket
}

impl Ways {
    fn stream_from(&self, way: Way, source: [u8; 4]) -> Peer {
        let mut peer = Peer::on(way, from(source, self.addr(way)), &self.authority);
        peer.get("/events");
        peer.opened("data: 1\n\n");
        peer
    }
}

/// A connection that takes a file and asks for nothing, of one kind or another.
fn idle(kind: usize, source: [u8; 4], ways: &Ways) -> Box<dyn Send> {
    let tls = || from(source, ways.tls_addr);
    match kind {
        0 => Box::new(tls()),
        1 => {
            let mut client = Client::over(tls(), |socket| Box::new(socket));
            // The beginning of a ClientHello.
            let _ = client.try_send_bytes(&[22, 3, 1, 2, 0, 1]);
            Box::new(client)
        }
        2 => {
            let mut peer = Peer::on(Way::Tls, tls(), &ways.authority);
            peer.http1()
                .try_send("GET /events HTTP/1.1\r\nHost: a\r\nX-Slow: ");
            Box::new(peer)
        }
        kind => {
            let way = if kind == 3 { Way::Http2 } else { Way::Http2Tls };
            let mut peer = Peer::on(way, from(source, ways.addr(way)), &ways.authority);
            if peer.try_poll("/plain") {
                peer.status();
            }
            Box::new(peer)
        }
    }
}

/// The streams are open on any way, and end properly at a word.
fn assert_end(proxy: &Proxy, go: &std::sync::mpsc::Sender<()>, streams: Vec<Peer>) {
    for _ in &streams {
        go.send(()).unwrap();
    }
    for mut stream in streams {
        stream.read_until("data: 2\n\n");
        assert_eq!(stream.rest(), (Vec::new(), End::Clean), "{}", proxy.log());
    }
}

fn healthy(ways: &Ways) -> Vec<Peer> {
    let all = (0..20).map(|number| ways.stream_from(Way::ALL[number % 4], other(number)));
    all.collect()
}

#[test]
fn silent_connections_of_any_way_end_no_stream() {
    let (go, origin) = origin();
    let flags = [
        "--heartbeat-interval=50ms",
        "--admin-listen=127.0.0.1:0",
        "--limit-rate=off",
        "--client-max-connections=off",
    ];
    let url = format!("http://{}", origin.addr);
    let mut ways = Ways::with_few_files(FILES, &url, &flags);
    let mut streams = healthy(&ways);
    let mut crowd = Vec::new();
    for round in 0..40 {
        for number in 0..10 {
            crowd.push(idle(number % 5, [127, 0, 0, 1], &ways));
        }
        streams[round % 20].read_until(": heartbeat\n");
        let files = ways.proxy.files();
        assert!(files < FILES * 9 / 10, "{files} files");
    }
    // New clients of each way are served.
    streams.extend(Way::ALL.map(|way| ways.stream_from(way, other(100))));
    let closed = "sse_guard_connections_closed_total{reason=\"files\"}";
    assert!(metric(&ways.proxy, closed) > 200.0);
    assert_end(&ways.proxy, &go, streams);
    drop(crowd);
    let last = ways.proxy.stop();
    assert_eq!(
        (&last["rejected"], &last["accept_failures"]),
        (&0.into(), &0.into())
    );
    assert_eq!(last["opened"], 24);
}
