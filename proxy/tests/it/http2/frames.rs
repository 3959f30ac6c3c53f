//! Requests of HTTP/2 as bytes: a head that is ambiguous in HTTP/1.1 never reaches the upstream, and no flood of frames
//! is without a bound.

use super::{HTTP2, echoing};
use crate::support::{Origin, PATIENCE, Proxy};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// RFC 9113 section 4.1.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal field with a new name, without Huffman coding: RFC 7541 section 6.2.2.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        match text.len() {
            short @ ..127 => field.push(short as u8),
            long => {
                let rest = long - 127;
                assert!(rest < 128 * 128, "two more bytes");
                field.extend([127, (rest % 128) as u8 | 128, (rest / 128) as u8]);
            }
        }
        field.extend(text.as_bytes());
    }
    field
}

pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// What the proxy sends back for the first stream.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The response's status.
    Status(&'static str),
    /// The stream is reset with this error.
    Reset(u32),
    /// The connection ends with this error.
    GoAway(u32),
}

use Outcome::{GoAway, Reset, Status};

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Raw(TcpStream);

impl Raw {
    fn connect(addr: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(PREFACE).unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, b"")).unwrap();
        Self(socket)
    }

    /// The next frame: type, stream and payload. `None` at the end of the connection.
    fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], stream, payload))
    }

    /// Sends `bytes`, and more if the proxy takes them.
    fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    fn outcome(&mut self) -> Option<Outcome> {
        loop {
            let (kind, _, payload) = self.next()?;
            let number = |at: usize| {
                let bytes = payload.get(at..at + 4)?;
                Some(u32::from_be_bytes(bytes.try_into().ok()?))
            };
            match kind {
                GOAWAY => return number(4).map(GoAway),
                RST_STREAM => return number(0).map(Reset),
                HEADERS => return Some(Status(status(&payload))),
                _ => {}
            }
        }
    }
}

/// Of a block that begins with `:status`, as an index of RFC 7541 appendix A or as a value in Huffman code.
fn status(block: &[u8]) -> &'static str {
    match block {
        [0x88, ..] => "200",
        [0x8c, ..] => "400",
        [0x8d, ..] => "404",
        [0x8e, ..] => "500",
        _ => "another",
    }
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/x"),
    (":authority", "a.test"),
];

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// GET with this field in place of the one of its name, or after all.
fn with<'a>(name: &'a str, value: &'a str) -> Fields<'a> {
    let mut fields = GET.to_vec();
    match fields.iter_mut().find(|(known, _)| *known == name) {
        Some(field) => field.1 = value,
        None => fields.push((name, value)),
    }
    fields
}

fn without(name: &str) -> Fields<'static> {
    GET.into_iter()
        .filter(|(known, _)| *known != name)
        .collect()
}

#[test]
fn ambiguous_heads_of_http2_do_not_reach_the_upstream() {
    let mut doubled_path = GET.to_vec();
    doubled_path.push((":path", "/y"));
    let mut late_pseudo = GET.to_vec();
    late_pseudo.insert(1, ("x", "1"));
    let connect = vec![(":method", "CONNECT"), (":authority", "a.test:1")];
    let mut extended = with(":method", "CONNECT");
    extended.push((":protocol", "websocket"));
    let mut lengths = with("content-length", "5");
    lengths.push(("content-length", "6"));
    let heads: Vec<(&str, Fields<'_>, Outcome)> = vec![
        ("upper-case name", with("X-Up", "1"), GoAway(PROTOCOL_ERROR)),
        (
            "connection",
            with("connection", "close"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "keep-alive",
            with("keep-alive", "timeout=5"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "proxy-connection",
            with("proxy-connection", "close"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "transfer-encoding",
            with("transfer-encoding", "chunked"),
            Reset(PROTOCOL_ERROR),
        ),
        ("upgrade", with("upgrade", "h2c"), Reset(PROTOCOL_ERROR)),
        ("te", with("te", "gzip"), Reset(PROTOCOL_ERROR)),
        (
            "CRLF in a value",
            with("x", "a\r\nb: c"),
            GoAway(PROTOCOL_ERROR),
        ),
        (
            "LF in a value",
            with("x", "a\nb: c"),
            GoAway(PROTOCOL_ERROR),
        ),
        ("NUL in a value", with("x", "a\0b"), GoAway(PROTOCOL_ERROR)),
        ("colon in a name", with("a:b", "1"), GoAway(PROTOCOL_ERROR)),
        ("space in a name", with("a b", "1"), GoAway(PROTOCOL_ERROR)),
        (
            "CRLF in a name",
            with("a\r\nb", "1"),
            GoAway(PROTOCOL_ERROR),
        ),
        ("empty name", with("", "1"), GoAway(PROTOCOL_ERROR)),
        (
            "path without a slash",
            with(":path", "x"),
            Reset(PROTOCOL_ERROR),
        ),
        ("empty path", with(":path", ""), Reset(PROTOCOL_ERROR)),
        (
            "request line in the path",
            with(":path", "/x HTTP/1.1"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "CRLF in the path",
            with(":path", "/x\r\nb: c"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "absolute path",
            with(":path", "http://b.test/x"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "backslash in the path",
            with(":path", "/a\\b"),
            Status("400"),
        ),
        ("invalid escape", with(":path", "/a%zz"), Status("400")),
        ("no path", without(":path"), Reset(PROTOCOL_ERROR)),
        ("no scheme", without(":scheme"), Reset(PROTOCOL_ERROR)),
        ("no method", without(":method"), Reset(PROTOCOL_ERROR)),
        (
            "no authority, no host",
            without(":authority"),
            Status("400"),
        ),
        (
            "user in the authority",
            with(":authority", "u:p@a.test"),
            Status("400"),
        ),
        (
            "path in the authority",
            with(":authority", "a.test/x"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "space in the authority",
            with(":authority", "a b"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "another host",
            with("host", "b.test"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "space in the method",
            with(":method", "GET /y HTTP/1.1"),
            GoAway(PROTOCOL_ERROR),
        ),
        ("CONNECT", connect, Status("another")),
        ("extended CONNECT", extended, Reset(PROTOCOL_ERROR)),
        (
            "pseudo-field after a field",
            late_pseudo,
            Reset(PROTOCOL_ERROR),
        ),
        ("two paths", doubled_path, Reset(PROTOCOL_ERROR)),
        (
            "unknown pseudo-field",
            with(":x", "1"),
            GoAway(PROTOCOL_ERROR),
        ),
        (
            "length without a body",
            with("content-length", "5"),
            Reset(PROTOCOL_ERROR),
        ),
        ("two lengths", lengths, Reset(PROTOCOL_ERROR)),
        (
            "length with a sign",
            with("content-length", "+5"),
            Reset(PROTOCOL_ERROR),
        ),
        (
            "list of lengths",
            with("content-length", "5, 5"),
            Reset(PROTOCOL_ERROR),
        ),
    ];
    let origin = echoing();
    let proxy = Proxy::start(origin.addr, &[HTTP2]);
    for (name, fields, expected) in heads {
        let mut client = Raw::connect(proxy.addr);
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields));
        assert!(client.try_send(&head));
        assert_eq!(client.outcome(), Some(expected), "{name}");
    }
    assert_eq!(origin.served(), 0);
    let mut client = Raw::connect(proxy.addr);
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET));
    assert!(client.try_send(&head));
    assert_eq!(client.outcome(), Some(Status("200")));
}

/// Sends a frame again and again until the proxy ends the connection. Returns the error that it ends with.
fn flood(proxy: &Proxy, start: &[u8], mut next: impl FnMut(u32) -> Vec<u8>) -> Option<Outcome> {
    let mut client = Raw::connect(proxy.addr);
    client.try_send(start);
    for n in 0..200_000 {
        if !client.try_send(&next(n)) {
            break;
        }
    }
    loop {
        match client.outcome()? {
            end @ GoAway(_) => return Some(end),
            _ => continue,
        }
    }
}

#[test]
fn floods_of_http2_frames_end_their_connection_and_no_other() {
    let origin = Origin::holding("data: 1\n\n");
    let proxy = Proxy::start(
        origin.addr,
        &[HTTP2, "--limit-rate=off", "--limit-per-ip=off"],
    );
    let mut stream = proxy.get("/");
    stream.head();
    stream.read_until("data: 1\n\n");
    let get = block(&GET);
    let post = block(&with(":method", "POST"));
    let begun = frame(HEADERS, 0, 1, &get);
    let upload = frame(HEADERS, END_HEADERS, 1, &post);
    let more = frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(100)));
    let end = flood(&proxy, &begun, |_| more.clone());
    assert_eq!(end, Some(GoAway(ENHANCE_YOUR_CALM)), "CONTINUATION");
    let empty = frame(CONTINUATION, 0, 1, b"");
    let end = flood(&proxy, &begun, |_| empty.clone());
    assert_eq!(end, Some(GoAway(ENHANCE_YOUR_CALM)), "empty CONTINUATION");
    let empty = frame(DATA, 0, 1, b"");
    let end = flood(&proxy, &upload, |_| empty.clone());
    assert_eq!(end, Some(GoAway(ENHANCE_YOUR_CALM)), "empty DATA");
    let end = flood(&proxy, b"", |n| {
        let mut request = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get);
        request.extend(frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
        request
    });
    assert_eq!(end, Some(GoAway(ENHANCE_YOUR_CALM)), "RST_STREAM");
    let end = flood(&proxy, b"", |n| {
        let mut request = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get);
        request.extend(frame(WINDOW_UPDATE, 0, 2 * n + 1, &0_u32.to_be_bytes()));
        request
    });
    assert!(
        matches!(end, Some(GoAway(_))),
        "WINDOW_UPDATE of 0: {end:?}"
    );
    // The floods have left nothing behind.
    origin.wait_for_open(1);
    drop(stream);
}

#[test]
fn frames_without_effect_leave_a_connection_of_http2_usable() {
    let origin = echoing();
    let proxy = Proxy::start(origin.addr, &[HTTP2]);
    for frame_of in [
        |_: u32| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        |n| frame(PRIORITY, 0, 2 * n + 3, &[0, 0, 0, 0, 16]),
        |_| frame(77, 0, 0, b"unknown"),
    ] {
        let mut client = Raw::connect(proxy.addr);
        let mut reader = Raw(client.0.try_clone().unwrap());
        // The acknowledgements are read, as by any client.
        let outcome = std::thread::spawn(move || reader.outcome());
        for n in 0..10_000 {
            assert!(client.try_send(&frame_of(n)));
        }
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET));
        assert!(client.try_send(&head));
        assert_eq!(outcome.join().unwrap(), Some(Status("200")));
    }
    // A client that does not read its acknowledgements stops being read.
    let mut client = Raw::connect(proxy.addr);
    client.0.set_nonblocking(true).unwrap();
    let ping = frame(PING, 0, 0, b"12345678");
    let mut sent = 0_usize;
    while client.0.write(&ping).is_ok() {
        sent += 1;
        assert!(sent < 50_000_000, "no bound");
    }
}
