//! The tables of requests.

use super::message::{Message, VARYING};
use super::origin::{Recorder, send};
use super::table::{Row, check_rows};
use crate::support::{PATIENCE, Proxy};
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};

/// A request that no row has. Whether it comes to the origin as it is shows where the request before it ended.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: probe.test\r\n\r\n";
const PROBED: &[u8] = b"GET /probe HTTP/1.1\r\nhost: probe.test\r\n\r\n";

pub(super) const TABLES: [&str; 6] = [
    include_str!("requests/framing.txt"),
    include_str!("requests/chunks.txt"),
    include_str!("requests/lines.txt"),
    include_str!("requests/targets.txt"),
    include_str!("requests/hosts.txt"),
    include_str!("requests/fields.txt"),
];

/// A client that shows each response.
pub(super) struct RawClient {
    socket: TcpStream,
    bytes: Vec<u8>,
}

impl RawClient {
    /// Connects and sends these bytes.
    pub(super) fn sending(addr: SocketAddr, bytes: &[u8], is_slow: bool) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        send(&socket, bytes, is_slow);
        let bytes = Vec::new();
        Self { socket, bytes }
    }

    /// The next response, or the part of one that came before the end of the connection. `None` if nothing came.
    pub(super) fn response(&mut self, method: &str) -> Option<Message> {
        loop {
            let (message, len) = Message::first(&self.bytes, method, &VARYING);
            if message.is_whole {
                self.bytes.drain(..len);
                return Some(message);
            }
            if !self.read() {
                self.bytes.clear();
                return (len > 0).then_some(message);
            }
        }
    }

    /// Whether more came, and not the end of the connection.
    fn read(&mut self) -> bool {
        let mut buf = [0; 16 * 1024];
        // To be reset is to be closed: with input that was not read, the system resets.
        let read = match self.socket.read(&mut buf) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came"),
            read => read.unwrap_or(0),
        };
        self.bytes.extend_from_slice(&buf[..read]);
        read > 0
    }

    /// Asserts that this is all, and that the connection has been closed.
    #[track_caller]
    pub(super) fn assert_closed(&mut self, name: &str) {
        while self.read() {}
        assert_eq!(self.bytes.escape_ascii().to_string(), "", "{name}");
    }

    /// Asserts that the connection serves another request.
    #[track_caller]
    pub(super) fn assert_open(&mut self, name: &str) {
        send(&self.socket, PROBE, false);
        let response = self.response("GET");
        let response = response.unwrap_or_else(|| panic!("{name}: closed"));
        assert_eq!(status(&response), "200", "{name}: {response:?}");
        assert_eq!(response.body, b"own", "{name}");
    }

    pub(super) fn close_own_side(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

/// The status of a response.
pub(super) fn status(response: &Message) -> String {
    let line = response.head.get(..12).unwrap_or_default();
    let is_http = line.starts_with(b"HTTP/1.1 ") || line.starts_with(b"HTTP/1.0 ");
    assert!(is_http, "{response:?}");
    line[9..].escape_ascii().to_string()
}

fn check(proxy: &Proxy, origin: &Recorder, row: &Row, is_slow: bool) {
    let name = format!(
        "{}{}",
        row.name,
        if is_slow { ", byte by byte" } else { "" }
    );
    let mut client = RawClient::sending(proxy.addr, &row.sent, is_slow);
    if row.has("half") {
        client.close_own_side();
    }
    let method = if row.sent.starts_with(b"HEAD ") {
        "HEAD"
    } else {
        ""
    };
    let mut statuses = Vec::new();
    for _ in row.statuses() {
        statuses.push(client.response(method).as_ref().map(status));
    }
    let expected: Vec<_> = row
        .statuses()
        .into_iter()
        .map(|status| Some(status.to_owned()))
        .collect();
    assert_eq!(statuses, expected, "{name}");
    let mut expected = row.messages("");
    if row.expects("open") {
        client.assert_open(&name);
        expected.extend(Message::all(PROBED, "", &[]));
    } else {
        assert!(row.expects("close"), "{name}");
        client.assert_closed(&name);
        // Connections that were opened before have been accepted when this one has.
        RawClient::sending(proxy.addr, b"", false).assert_open(&name);
        expected.extend(Message::all(PROBED, "", &[]));
    }
    let mut found = origin.take();
    if row.expects("cut") {
        // Perhaps nothing of it has been sent. The order of two connections is not known.
        let whole = expected.remove(expected.len() - 2);
        if let Some(place) = found.iter().position(|found| !found.is_whole) {
            let cut = found.remove(place);
            assert!(cut.is_cut_of(&whole), "{name}: {cut:?}");
        }
    }
    for message in &mut found {
        // The one request without a host.
        let head =
            String::from_utf8_lossy(&message.head).replace(&origin.addr.to_string(), "ORIGIN");
        if head.contains("ORIGIN") {
            message.head = head.into_bytes();
        }
    }
    assert_eq!(found, expected, "{name}");
}

fn check_table(table: &'static str, least: usize) {
    check_rows(table, least, check);
}

#[test]
fn requests_end_where_every_server_sees_their_end() {
    check_table(TABLES[0], 100);
}

#[test]
fn chunks_of_a_request_are_strict_and_are_not_forwarded_as_they_came() {
    check_table(TABLES[1], 50);
}

#[test]
fn lines_of_a_request_head_are_strict() {
    check_table(TABLES[2], 100);
}

#[test]
fn request_targets_are_refused_or_forwarded_in_one_spelling() {
    check_table(TABLES[3], 60);
}

#[test]
fn request_has_one_valid_host_or_is_refused() {
    check_table(TABLES[4], 45);
}

#[test]
fn fields_of_one_connection_and_expectations_are_not_forwarded() {
    check_table(TABLES[5], 35);
}
