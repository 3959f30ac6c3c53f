//! Upstreams that send frames which no server should.

use super::*;
use crate::support::PATIENCE;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, RFC 7541 appendix A.
const OK: u8 = 0x88;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An upstream that answers the first request of a connection with these bytes, as often as they are taken, and then
/// waits until the proxy closes the connection. Later connections get a plain response.
fn sending(bytes: Vec<u8>, repeats: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, socket) in listener.incoming().map_while(Result::ok).enumerate() {
            let bytes = bytes.clone();
            thread::spawn(move || {
                let mut socket = socket;
                let Some(stream) = begin(&mut socket) else {
                    return;
                };
                if number > 0 {
                    let _ =
                        socket.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[OK]));
                } else {
                    while socket.write_all(&bytes).is_ok() && repeats {}
                }
                let _ = socket.read_to_end(&mut Vec::new());
            });
        }
    });
    address
}

/// Exchanges the settings, and returns the stream of the first request.
fn begin(socket: &mut TcpStream) -> Option<u32> {
    socket.set_read_timeout(Some(10 * PATIENCE)).unwrap();
    socket.write_all(&frame(SETTINGS, 0, 0, b"")).ok()?;
    socket.read_exact(&mut [0; PREFACE]).ok()?;
    next_request(socket)
}

/// The stream of the next request.
fn next_request(socket: &mut TcpStream) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        socket.read_exact(&mut vec![0; len as usize]).ok()?;
        if head[3] == HEADERS {
            return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

/// A literal field with a new name, without Huffman coding: RFC 7541 section 6.2.2.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "one byte");
        field.push(text.len() as u8);
        field.extend(text);
    }
    field
}

/// An upstream that answers its requests with these heads in turn, and then with plain responses.
fn answering(heads: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(heads.into_iter()));
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let heads = heads.clone();
            thread::spawn(move || {
                let mut stream = begin(&mut socket);
                while let Some(id) = stream {
                    let head = heads.lock().unwrap().next().unwrap_or(vec![OK]);
                    let frame = frame(HEADERS, END_HEADERS | END_STREAM, id, &head);
                    if socket.write_all(&frame).is_err() {
                        return;
                    }
                    stream = next_request(&mut socket);
                }
            });
        }
    });
    address
}

/// Name and value.
type Field<'a> = (&'a [u8], &'a [u8]);

/// By RFC 9113 section 8.
#[test]
fn malformed_heads_are_a_502() {
    let ok = (&b":status"[..], &b"200"[..]);
    let cases: &[(&str, &[Field<'_>])] = &[
        ("no status", &[(b"x", b"1")]),
        ("an empty status", &[(b":status", b"")]),
        ("a status of two digits", &[(b":status", b"99")]),
        ("a status of four digits", &[(b":status", b"2000")]),
        ("a status that is not a number", &[(b":status", b"2xx")]),
        ("two statuses", &[ok, (b":status", b"404")]),
        ("a status behind a field", &[(b"x", b"1"), ok]),
        ("a protocol switch", &[(b":status", b"101")]),
        ("an unknown pseudo-header", &[ok, (b":x", b"1")]),
        ("a name in upper case", &[ok, (b"X-Name", b"1")]),
        ("a name with a space", &[ok, (b"x name", b"1")]),
        ("a name with a colon", &[ok, (b"x:name", b"1")]),
        ("an empty name", &[ok, (b"", b"1")]),
        ("a value with a line end", &[ok, (b"x", b"1\r\ny: 2")]),
        ("a value with a NUL", &[ok, (b"x", b"1\0")]),
        ("Connection", &[ok, (b"connection", b"close")]),
        ("Keep-Alive", &[ok, (b"keep-alive", b"timeout=5")]),
        ("Proxy-Connection", &[ok, (b"proxy-connection", b"close")]),
        (
            "Transfer-Encoding",
            &[ok, (b"transfer-encoding", b"chunked")],
        ),
        ("Upgrade", &[ok, (b"upgrade", b"websocket")]),
        (
            "two lengths",
            &[ok, (b"content-length", b"0"), (b"content-length", b"1")],
        ),
        (
            "a length that is not a number",
            &[ok, (b"content-length", b"x")],
        ),
        ("a length with a sign", &[ok, (b"content-length", b"+0")]),
        ("a length without data", &[ok, (b"content-length", b"9")]),
    ];
    let block = |fields: &[Field<'_>]| -> Vec<u8> {
        let fields = fields.iter();
        fields
            .flat_map(|(name, value)| field(name, value))
            .collect()
    };
    let heads = cases.iter().map(|(_, fields)| block(fields)).collect();
    let proxy = Proxy::start(answering(heads), &[ON]);
    // Not repeated, whatever its connection does.
    const POST: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let mut passed = Vec::new();
    for (what, _) in cases {
        let head = proxy.send_request(POST).head();
        if status(&head) != "502" || head.contains("\nx:") || head.contains("\ny:") {
            passed.push((what, head));
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
    assert_eq!(status(&proxy.send_request(POST).head()), "200");
}

#[test]
fn frames_that_break_the_rules_end_their_connection_alone() {
    let head = frame(HEADERS, END_HEADERS, 1, &[OK]);
    let with_head = |rest: Vec<u8>| [head.clone(), rest].concat();
    for (what, bytes, repeats) in [
        (
            "DATA without a head",
            frame(DATA, END_STREAM, 1, b"x"),
            false,
        ),
        (
            "a large frame",
            with_head(frame(DATA, 0, 1, &[0; 20_000])),
            false,
        ),
        (
            "a push",
            frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[0, 0, 0, 2, 0x82, 0x84, 0x86],
            ),
            false,
        ),
        ("DATA of no stream", frame(DATA, 0, 9, b"x"), false),
        (
            "a reset of no stream",
            frame(RST_STREAM, 0, 9, &[0, 0, 0, 8]),
            false,
        ),
        (
            "empty DATA frames",
            with_head(frame(DATA, 0, 1, b"").repeat(200)),
            false,
        ),
        (
            "a head without an end",
            [
                frame(HEADERS, 0, 1, &[OK]),
                frame(CONTINUATION, 0, 1, &[0; 0]).repeat(10_000),
            ]
            .concat(),
            true,
        ),
        (
            "PINGs whose answers are not read",
            frame(PING, 0, 0, &[7; 8]).repeat(10_000),
            true,
        ),
        (
            "settings whose answers are not read",
            frame(SETTINGS, 0, 0, b"").repeat(10_000),
            true,
        ),
    ] {
        let address = sending(bytes, repeats);
        let flags = [ON, "--upstream-head-timeout=2s", "--resume-mode=off"];
        let proxy = Proxy::start(address, &flags);
        let mut client =
            proxy.send_request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        match client.head_if_any() {
            Some(head) if status(&head) == "200" => {
                assert_eq!(client.rest().1, End::Broken, "{what}");
            }
            Some(head) => assert!(["502", "504"].contains(&status(&head)), "{what}: {head}"),
            None => {}
        }
        if !repeats {
            let mut next =
                proxy.send_request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(status(&next.head()), "200", "{what}");
        }
    }
}
