//! A load balancer that names clients by the PROXY protocol, and what is not one.

use crate::support::{Client, Origin, PATIENCE, Proxy, free_address, wait_until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// A proxy with a listener that requires the header from loopback.
struct Behind {
    proxy: Proxy,
    address: SocketAddr,
    origin: Origin,
    _dir: tempfile::TempDir,
}

fn behind(trusted: &str, keys: &str) -> Behind {
    let origin = Origin::with_feed();
    let address = free_address();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let text = format!(
        "trusted_proxies = {trusted}\nadmin.listen = '127.0.0.1:0'\nlog.requests = 'all'\n{keys}\n\
         drain = {{ window = '0s', answers = '0s' }}\nupstream.url = 'http://{}'\n\
         [[listener]]\naddress = '{address}'\nproxy_protocol = 'required'\n",
        origin.addr
    );
    std::fs::write(&file, text).unwrap();
    let proxy = Proxy::from_file(&file);
    Behind {
        proxy,
        address,
        origin,
        _dir: dir,
    }
}

const LOCAL: &str = "['127.0.0.0/8']";
const REQUEST: &str = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// A header of version 2.
fn v2(version_and_command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    let fixed = [&[version_and_command, family][..], &len].concat();
    [b"\r\n\r\n\0\r\nQUIT\n", &fixed[..], content].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x00, 0x01, 0xBB];

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 49152 443\r\n").into_bytes()
}

impl Behind {
    fn metrics(&self) -> String {
        let mut client = Client::connect(self.proxy.admin());
        client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.head();
        String::from_utf8(client.raw()).unwrap()
    }

    fn waits_for_refused(&self, reason: &str, count: usize) {
        let sample =
            format!("sse_guard_proxy_headers_refused_total{{reason=\"{reason}\"}} {count}\n");
        wait_until(&sample, || self.metrics().contains(&sample));
    }

    /// A connection that begins with these bytes.
    fn connect(&self, header: &[u8]) -> Client {
        let mut client = Client::connect(self.address);
        client.send_bytes(header);
        client
    }

    /// The client that the upstream gets, after this header and a request with these fields.
    fn client_of(&self, header: &[u8], fields: &str) -> String {
        let mut client = self.connect(header);
        client.send(&REQUEST.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        let request = self.origin.last_request();
        request.field("x-forwarded-for").unwrap().to_owned()
    }
}

#[test]
fn proxy_header_names_the_client_for_the_upstream_and_the_log() {
    let run = behind(LOCAL, "");
    assert_eq!(run.client_of(&v1("192.0.2.1"), ""), "192.0.2.1");
    assert_eq!(run.client_of(&v2(0x21, 0x11, &IPV4), ""), "192.0.2.7");
    let ipv6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n";
    assert_eq!(run.client_of(ipv6, ""), "2001:db8::1");
    let line = run.proxy.wait_for_log("\"client\":\"192.0.2.7\"");
    assert!(line.contains("\"message\":\"request\""), "{line}");
    // Its claim does not count: it is not trusted itself.
    let claim = "X-Forwarded-For: 203.0.113.9\r\n";
    assert_eq!(run.client_of(&v1("192.0.2.1"), claim), "192.0.2.1");
    // The load balancer's own connections.
    for header in [
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, &IPV4),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x31, &[b'/'; 216]),
        b"PROXY UNKNOWN\r\n".to_vec(),
    ] {
        assert_eq!(run.client_of(&header, ""), "127.0.0.1", "{header:?}");
    }
}

#[test]
fn proxy_header_of_a_trusted_hop_lets_its_forwarded_addresses_count() {
    let run = behind("['127.0.0.0/8', '198.51.100.0/24']", "");
    let claim = "X-Forwarded-For: 203.0.113.9\r\n";
    let chain = run.client_of(&v1("198.51.100.7"), claim);
    assert_eq!(chain, "203.0.113.9, 198.51.100.7");
    run.proxy.wait_for_log("\"client\":\"203.0.113.9\"");
}

#[test]
fn proxy_header_may_come_in_any_pieces_and_with_the_request() {
    let run = behind(LOCAL, "");
    let checked = [&IPV4[..], &[2, 0, 3, b'a', b'.', b'b']].concat();
    for header in [v1("192.0.2.1"), v2(0x21, 0x11, &checked)] {
        let whole = [&header[..], REQUEST.as_bytes()].concat();
        let mut together = run.connect(&whole);
        assert!(together.head().starts_with("http/1.1 200 "));
        let mut pieces = Client::connect(run.address);
        for byte in whole {
            pieces.send_bytes(&[byte]);
            thread::yield_now();
        }
        assert!(pieces.head().starts_with("http/1.1 200 "));
    }
}

#[test]
fn connection_without_a_valid_proxy_header_is_closed_and_counted() {
    let run = behind(LOCAL, "client.head_timeout = '500ms'");
    let wrong_checksum = [&IPV4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
    let invalid: [&[u8]; 6] = [
        REQUEST.as_bytes(),
        b"PROXY TCP4 192.0.2.1 198.51.100.1 49152\r\n",
        &v2(0x21, 0x12, &IPV4),
        &v2(0x21, 0x11, &wrong_checksum),
        &v2(0x21, 0x11, &[0; 5000]),
        &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
    ];
    for header in invalid {
        let mut client = Client::connect(run.address);
        client.send_bytes(header);
        let (bytes, _) = client.raw_and_end();
        assert!(bytes.is_empty(), "{header:?}");
    }
    run.waits_for_refused("invalid", invalid.len());
    run.proxy.wait_for_log("without a PROXY header that counts");
    // Half a header, and none.
    assert!(run.connect(b"PROXY TC").raw().is_empty());
    assert!(run.connect(b"").raw().is_empty());
    run.waits_for_refused("timeout", 2);
    // A health check that only connects.
    drop(Client::connect(run.address));
    assert!(run.metrics().contains("{reason=\"untrusted\"} 0\n"));
    assert_eq!(run.client_of(&v1("192.0.2.1"), ""), "192.0.2.1");
    run.waits_for_refused("timeout", 2);
    run.waits_for_refused("invalid", invalid.len());
}

#[test]
fn proxy_header_of_a_peer_that_is_not_trusted_is_not_read() {
    let run = behind("['127.0.0.2/32']", "");
    let mut client = Client::connect(run.address);
    client.send_bytes(&v1("192.0.2.1"));
    assert!(client.raw_and_end().0.is_empty());
    run.waits_for_refused("untrusted", 1);
    let mut trusted = Client::connect_from([127, 0, 0, 2], run.address);
    trusted.send_bytes(&v1("192.0.2.1"));
    trusted.send(REQUEST);
    assert!(trusted.head().starts_with("http/1.1 200 "));
}

#[test]
fn limits_count_the_client_of_the_proxy_header() {
    let run = behind(LOCAL, "limit.per_ip = 1\nclient.max_connections = 3");
    let feed = "GET /feed HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    let stream = |client: &str| {
        let mut connection = run.connect(&v1(client));
        connection.send(feed);
        let head = connection.head();
        (connection, head[9..12].to_owned())
    };
    let (_one, first) = stream("192.0.2.1");
    let (_other, second) = stream("192.0.2.2");
    let (_, third) = stream("192.0.2.1");
    assert_eq!([first, second, third], ["200", "200", "429"]);
    // Idle connections of the client, of which the oldest makes room.
    let mut idle: Vec<_> = (0..3).map(|_| run.connect(&v1("192.0.2.3"))).collect();
    for connection in &mut idle {
        connection.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(connection.head().starts_with("http/1.1 200 "));
    }
    let _fourth = run.connect(&v1("192.0.2.3"));
    assert!(idle.remove(0).raw().is_empty());
    let closed = "sse_guard_connections_closed_total{reason=\"per_client\"} 1\n";
    wait_until(closed, || run.metrics().contains(closed));
}

#[test]
fn proxy_header_names_the_client_of_a_connection_to_a_unix_socket() {
    let origin = Origin::with_feed();
    let dir = tempfile::tempdir().unwrap();
    let (file, path) = (dir.path().join("guard.toml"), dir.path().join("lb.sock"));
    let text = format!(
        "admin = false\nupstream.url = 'http://{}'\n\
         [[listener]]\naddress = 'unix:{}'\nproxy_protocol = 'required'\n",
        origin.addr,
        path.display()
    );
    std::fs::write(&file, text).unwrap();
    let _proxy = Proxy::from_file(&file);
    for (header, client) in [
        (v1("192.0.2.1"), Some("192.0.2.1")),
        (v2(0x21, 0x11, &IPV4), Some("192.0.2.7")),
        (v2(0x20, 0x00, &[]), None),
    ] {
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.write_all(&header).unwrap();
        socket.write_all(REQUEST.as_bytes()).unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        assert_eq!(origin.last_request().field("x-forwarded-for"), client);
    }
}

/// An upstream that requires a header of version 1, and answers with it.
fn header_origin(requests_per_connection: Sender<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(socket.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            requests_per_connection.send(line.clone()).unwrap();
            let mut socket = socket;
            thread::spawn(move || {
                let mut text = String::new();
                while reader.read_line(&mut text).is_ok_and(|len| len > 0) {
                    if text.ends_with("\r\n\r\n") {
                        socket
                            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                            .unwrap();
                        text.clear();
                    }
                }
            });
        }
    });
    address
}

#[test]
fn upstream_gets_a_header_with_each_client_on_a_connection_of_its_own() {
    let (lines, headers) = channel();
    let origin = header_origin(lines);
    let flags = [
        "--upstream-proxy-protocol=v1",
        "--trusted-proxies=127.0.0.0/8",
    ];
    let proxy = Proxy::start(origin, &flags);
    let mut client = Client::connect(proxy.addr);
    for (fields, expected) in [
        ("", "127.0.0.1"),
        ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
        ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
        ("X-Forwarded-For: 192.0.2.2\r\n", "192.0.2.2"),
        ("X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1"),
    ] {
        client.send(&format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
        assert!(client.head().starts_with("http/1.1 200 "));
        assert_eq!(client.bytes(2), b"ok");
        let line = headers.recv_timeout(PATIENCE).unwrap();
        let mut words = line.trim_end().split(' ');
        assert_eq!(words.nth(2), Some(expected), "{line}");
        let port = words.nth(1).unwrap();
        assert_eq!(port == "0", !fields.is_empty(), "{line}");
        assert_eq!(words.next(), Some(&*origin.port().to_string()), "{line}");
    }
    assert!(headers.try_recv().is_err());
}
