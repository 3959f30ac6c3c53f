//! The format of the tables.
//!
//! ```text
//! [name of the row]
//! ! half                        options, see below
//! > GET / HTTP/1.1              a line that is sent, with CRLF behind it
//! >                             an empty line
//! > abc\                        bytes without CRLF
//! < GET / HTTP/1.1              a line that the other side gets
//! = 200 open                    the statuses that the client gets, and what becomes of connections
//! # nginx: 400 close            a comment
//! ```
//!
//! Escapes of bytes: `\r`, `\n`, `\t`, `\\`, `\x0b`, and `\{x*100}` for a repetition.
//!
//! Words of the last line:
//!
//! - `open`: the client's connection serves another request. `close`: it has been closed.
//! - `cut`: the other side gets no more than a part of these bytes, without the end of the message, and then the end
//!   of its connection.
//! - `gone`: the upstream's connection is closed, and serves no other request (of responses).
//!
//! Options: `half`: the client closes its side behind these bytes. `whole`: they are not sent byte by byte as well.
//! `admin N`: the status from the admin address, if it differs. `close`: the upstream closes its connection behind these
//! bytes. A method: that of the request (of responses).
//!
//! A form of a row in HTTP/2 can stand beside it with marks of its own.

use super::message::Message;
use super::origin::Recorder;
use crate::support::Proxy;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One row.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) name: &'static str,
    options: Vec<&'static str>,
    pub(super) sent: Vec<u8>,
    received: Vec<u8>,
    expected: Vec<&'static str>,
}

impl Row {
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    /// The word behind this option.
    pub(super) fn option(&self, option: &str) -> Option<&'static str> {
        let place = self.options.iter().position(|word| *word == option)?;
        self.options.get(place + 1).copied()
    }

    /// The method of the request, of a row of responses.
    pub(super) fn method(&self) -> &'static str {
        let is_method = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_uppercase());
        self.options
            .iter()
            .find(is_method)
            .copied()
            .unwrap_or("GET")
    }

    pub(super) fn expects(&self, word: &str) -> bool {
        self.expected.contains(&word)
    }

    /// The statuses that the client gets.
    pub(super) fn statuses(&self) -> Vec<&'static str> {
        let is_status = |word: &&&str| word.bytes().all(|byte| byte.is_ascii_digit());
        self.expected.iter().filter(is_status).copied().collect()
    }

    /// What the other side gets.
    pub(super) fn messages(&self, method: &str) -> Vec<Message> {
        Message::all(&self.received, method, &[])
    }
}

/// The rows of a table.
pub(super) fn rows(table: &'static str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in table.lines() {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').unwrap();
            rows.push(Row {
                name,
                ..Row::default()
            });
            continue;
        }
        let Some(mark) = line.chars().next().filter(|mark| *mark != '#') else {
            continue;
        };
        let row = rows.last_mut().unwrap();
        let text = line[1..].strip_prefix(' ').unwrap_or(&line[1..]);
        match mark {
            '>' => row.sent.extend(unescaped(text)),
            '<' => row.received.extend(unescaped(text)),
            '=' => row.expected = text.split(' ').collect(),
            '!' => row.options.extend(text.split(' ')),
            _ => panic!("{line:?}"),
        }
    }
    let names: std::collections::HashSet<_> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len(), "a name is there twice");
    rows
}

/// Checks all rows of a table, sent whole and byte by byte, and names those that fail.
#[track_caller]
pub(super) fn check_rows(
    table: &'static str,
    least: usize,
    check: impl Fn(&Proxy, &Recorder, &Row, bool),
) {
    let origin = Recorder::start();
    let proxy = Proxy::start(origin.addr, &[]);
    let rows = rows(table);
    assert!(rows.len() >= least, "{} rows", rows.len());
    let mut failed = Vec::new();
    for is_slow in [false, true] {
        for row in rows.iter().filter(|row| !(is_slow && row.has("whole"))) {
            origin.close_all();
            let check = || check(&proxy, &origin, row, is_slow);
            if catch_unwind(AssertUnwindSafe(check)).is_err() {
                failed.push(row.name);
            }
        }
    }
    assert!(failed.is_empty(), "rows: {failed:?}");
}

/// The bytes of a line of a table.
fn unescaped(line: &str) -> Vec<u8> {
    let is_escaped = line.ends_with("\\\\");
    let (line, end) = match line.strip_suffix('\\') {
        Some(line) if !is_escaped => (line, &b""[..]),
        _ => (line, &b"\r\n"[..]),
    };
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (kind, behind) = escape.split_at(1);
        rest = behind;
        match kind {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "\\" => bytes.push(b'\\'),
            "x" => {
                let (digits, behind) = rest.split_at(2);
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = behind;
            }
            "{" => {
                let (repeated, behind) = rest.split_once('}').unwrap();
                let (what, count) = repeated.rsplit_once('*').unwrap();
                let what = unescaped(&format!("{what}\\"));
                bytes.extend(what.repeat(count.parse().unwrap()));
                rest = behind;
            }
            _ => panic!("{line:?}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes.extend_from_slice(end);
    bytes
}

#[test]
fn lines_of_a_table_are_unescaped() {
    for (line, bytes) in [
        ("a", &b"a\r\n"[..]),
        ("", b"\r\n"),
        ("a\\", b"a"),
        ("a\\n\\", b"a\n"),
        ("a\\\\", b"a\\\r\n"),
        ("\\x00\\xff\\t\\r", b"\0\xff\t\r\r\n"),
        ("x\\{ab\\r\\n*2}y", b"xab\r\nab\r\ny\r\n"),
    ] {
        assert_eq!(unescaped(line), bytes, "{line:?}");
    }
}
