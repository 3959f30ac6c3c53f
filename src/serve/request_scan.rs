//! What a request must not be, as it comes from the socket: what hyper repairs without a word, so that
//! a service cannot refuse it.
//!
//! - A fragment: `http::Uri` drops it. A request-target has none (RFC 9112 section 3.2), and to repair it
//!   would serve another request than what parties on the way have seen.
//! - A `Content-Length` beside a `Transfer-Encoding`: hyper removes it. A party on the way that went by the
//!   length would see other requests behind this one (RFC 9112 sections 6.1 and 11.2).
//!
//! One byte of either becomes one that no head may have, and hyper answers with 400.

mod chunks;

use self::chunks::{Chunks, Progress};
use std::fmt;

/// Fields of a head that hyper takes without a heap allocation for each head.
pub(super) const FEW_FIELDS: u16 = 100;

/// Longer than the name of each field that matters here.
const KEPT: usize = 24;

/// Follows the requests of a connection from the start of one.
#[derive(Debug, Default)]
pub(super) struct RequestScan {
    at: At,
    /// The start of the method, or of a field's name in lower case.
    name: [u8; KEPT],
    /// The length of all of it.
    name_len: usize,
    /// The heads that have come as a whole.
    heads: u32,
    /// hyper takes more than `FEW_FIELDS`.
    takes_many: bool,
    /// The first fault that was found.
    fault: Option<Fault>,
    /// The first byte of a character in the target that is not whole yet, and the number of its bytes to come.
    begun: Option<(u8, u8)>,
    head: Head,
}

/// Why a request is refused, as far as that is found here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Fragment,
    /// `http::Uri` takes no such byte there.
    Raw(u8),
    Both,
    Length,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fragment => f.write_str("the request target has a fragment (\"#\")"),
            Self::Raw(byte) => write!(
                f,
                "the request target has a raw {:?}; send it as %{byte:02X}",
                char::from(*byte)
            ),
            Self::Both => f.write_str("the request has both Content-Length and Transfer-Encoding"),
            Self::Length => {
                f.write_str("Content-Length is not a number, or there are two that differ")
            }
        }
    }
}

/// What a head says of what comes behind it.
#[derive(Debug, Default)]
struct Head {
    length: Option<u64>,
    fields: u16,
    is_chunked: bool,
    may_switch: bool,
    is_refused: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The start of a request, perhaps behind empty lines.
    #[default]
    Start,
    Method,
    Target,
    /// Behind the first question mark of the target.
    Query,
    /// Behind the target.
    Version,
    /// A field's name, or the line that ends the head.
    Name,
    /// A value that does not matter here.
    Value,
    /// A length: that of its digits so far, and whether they are over.
    Length(Option<u64>, bool),
    /// The first byte of a field that hyper has no room for.
    Full,
    /// So many bytes of a body are left.
    Body(u64),
    Chunks(Chunks),
    /// Behind a request whose response may switch to another protocol.
    Switch,
    /// No HTTP any more.
    Tunnel,
    /// Behind what hyper refuses.
    Refused,
}

impl RequestScan {
    /// Marks what must not be in a head. Returns the number of bytes that may be handed on: the meaning of
    /// the others is not known yet, or nothing may come behind these.
    pub(super) fn check(&mut self, bytes: &mut [u8]) -> usize {
        let mut place = 0;
        while place < bytes.len() {
            let rest = &mut bytes[place..];
            if self.head.fields == FEW_FIELDS && self.is_full(rest[0]) {
                self.at = At::Full;
            }
            match &mut self.at {
                At::Tunnel => return bytes.len(),
                At::Switch | At::Refused | At::Full => break,
                At::Body(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    place += here;
                    *left -= here as u64;
                    if *left == 0 {
                        self.end_body();
                    }
                }
                At::Chunks(chunks) => match chunks.follow(rest) {
                    Progress::Within => return bytes.len(),
                    Progress::Over(len) => {
                        place += len;
                        self.end_body();
                    }
                    Progress::Broken(len) => {
                        place += len;
                        self.at = At::Refused;
                    }
                },
                _ => {
                    self.head_byte(&mut rest[0]);
                    place += 1;
                }
            }
        }
        place
    }

    /// For a connection of hyper's that takes as many fields as fit into a head.
    pub(super) fn of_many_fields() -> Self {
        Self {
            takes_many: true,
            ..Self::default()
        }
    }

    /// Whether a head has more fields than hyper takes. The rest of it is handed on to one that takes more.
    pub(super) fn has_many_fields(&self) -> bool {
        self.at == At::Full
    }

    fn is_full(&self, byte: u8) -> bool {
        let is_at_field = self.at == At::Name && self.name_len == 0;
        is_at_field && !self.takes_many && !matches!(byte, b'\r' | b'\n')
    }

    /// The number of the request whose response has to be known before anything more is handed on.
    pub(super) fn awaits(&self) -> Option<u32> {
        (self.at == At::Switch).then_some(self.heads)
    }

    /// That response has come.
    pub(super) fn answered(&mut self, is_switch: bool) {
        self.at = match is_switch {
            true => At::Tunnel,
            false => At::Start,
        };
    }

    /// Why hyper refuses the request whose head has come last, where that is known here.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub(super) fn is_refused(&self) -> bool {
        self.at == At::Refused
    }

    fn head_byte(&mut self, byte: &mut u8) {
        if matches!(self.at, At::Target | At::Query) {
            self.follow_utf8(*byte);
        }
        match (self.at, *byte) {
            (At::Start, b'\r' | b'\n') => {}
            (At::Start, _) => {
                (self.at, self.fault) = (At::Method, None);
                self.push(*byte);
            }
            (At::Method, b' ') => {
                self.head.may_switch = self.is_named(b"CONNECT");
                self.at = At::Target;
            }
            (At::Target | At::Query, b' ') => self.at = At::Version,
            (At::Target | At::Query, b'#') => self.refuse(byte, Fault::Fragment),
            (At::Target, b'?') => self.at = At::Query,
            (At::Target, b'`') | (At::Query, b'"') => self.note(Fault::Raw(*byte)),
            (At::Target | At::Query, b'<' | b'>' | 0..=9 | 11..=12 | 14..=31 | 0x7f) => {
                self.note(Fault::Raw(*byte));
            }
            (At::Name, b'\n') if self.name_len == 0 => self.end_head(),
            (At::Name, b':') => self.end_name(byte),
            (At::Length(length, _), b'\n') => {
                self.end_length(length);
                self.begin_name();
            }
            (_, b'\n') => self.begin_name(),
            (At::Method, _) => self.push(*byte),
            (At::Name, b'\r') => {}
            (At::Name, _) => self.push(byte.to_ascii_lowercase()),
            (At::Length(None, _), b' ' | b'\t') => {}
            (At::Length(length, _), b' ' | b'\t' | b'\r') => self.at = At::Length(length, true),
            (At::Length(length, false), b'0'..=b'9') => {
                let length = length.unwrap_or(0).checked_mul(10);
                let digit = u64::from(*byte - b'0');
                match length.and_then(|length| length.checked_add(digit)) {
                    Some(length) => self.at = At::Length(Some(length), false),
                    None => {
                        self.refuse(byte, Fault::Length);
                        self.at = At::Value;
                    }
                }
            }
            (At::Length(..), _) => {
                self.refuse(byte, Fault::Length);
                self.at = At::Value;
            }
            _ => {}
        }
    }

    /// Notes the first byte of a target that is not of UTF-8. Long forms are not detected.
    fn follow_utf8(&mut self, byte: u8) {
        self.begun = match (self.begun, byte) {
            (Some((first, left)), 0x80..=0xbf) => (left > 1).then(|| (first, left - 1)),
            (None, 0xc2..=0xdf) => Some((byte, 1)),
            (None, 0xe0..=0xef) => Some((byte, 2)),
            (None, 0xf0..=0xf4) => Some((byte, 3)),
            (None, ..0x80) => None,
            (begun, _) => {
                self.note(Fault::Raw(begun.map_or(byte, |(first, _)| first)));
                None
            }
        };
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(self.name_len) {
            *place = byte;
        }
        self.name_len = self.name_len.saturating_add(1);
    }

    fn is_named(&self, name: &[u8]) -> bool {
        self.name.get(..self.name_len) == Some(name)
    }

    fn begin_name(&mut self) {
        (self.at, self.name_len) = (At::Name, 0);
    }

    fn end_name(&mut self, colon: &mut u8) {
        self.at = At::Value;
        self.head.fields = self.head.fields.saturating_add(1);
        if self.is_named(b"content-length") {
            match self.head.is_chunked {
                true => self.refuse(colon, Fault::Both),
                false => self.at = At::Length(None, false),
            }
        } else if self.is_named(b"transfer-encoding") {
            match self.head.length {
                Some(_) => self.refuse(colon, Fault::Both),
                None => self.head.is_chunked = true,
            }
        } else if self.is_named(b"upgrade") {
            self.head.may_switch = true;
        }
    }

    fn end_length(&mut self, length: Option<u64>) {
        let is_same = self.head.length.is_none_or(|first| Some(first) == length);
        // hyper refuses an empty length, and two of them.
        if length.is_none() || !is_same {
            self.head.is_refused = true;
            self.note(Fault::Length);
        }
        self.head.length = length.or(Some(0));
    }

    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn refuse(&mut self, byte: &mut u8, fault: Fault) {
        self.note(fault);
        *byte = 0;
        self.head.is_refused = true;
    }

    fn end_head(&mut self) {
        self.heads = self.heads.wrapping_add(1);
        self.at = match self.head {
            Head {
                is_refused: true, ..
            } => At::Refused,
            Head {
                is_chunked: true, ..
            } => At::Chunks(Chunks::default()),
            Head {
                length: Some(length @ 1..),
                ..
            } => At::Body(length),
            _ => return self.end_body(),
        };
    }

    fn end_body(&mut self) {
        self.at = match self.head.may_switch {
            true => At::Switch,
            false => At::Start,
        };
        self.head = Head::default();
        self.name_len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hyper gets of `bytes`, whatever the cut: all of them, with these marked.
    #[track_caller]
    fn assert_marks(bytes: &str, marked: &[usize]) {
        assert_marks_of(bytes, bytes.len(), marked);
    }

    /// It gets `len` of them.
    #[track_caller]
    fn assert_marks_of(bytes: &str, len: usize, marked: &[usize]) {
        for cut in 0..=bytes.len() {
            let mut scan = RequestScan::default();
            let mut seen = bytes.as_bytes().to_vec();
            let (first, second) = seen.split_at_mut(cut);
            let mut handed = scan.check(first);
            if handed == cut {
                handed += scan.check(second);
            }
            assert_eq!(handed, len, "{bytes:?} cut at {cut}");
            let found: Vec<_> = (0..seen.len()).filter(|&at| seen[at] == 0).collect();
            assert_eq!(found, marked, "{bytes:?} cut at {cut}");
        }
    }

    #[test]
    fn a_fragment_is_marked_in_targets_alone() {
        assert_marks("GET /a#b HTTP/1.1\r\nX: #\r\n\r\n", &[6]);
        assert_marks("\r\nGET /a?b#c HTTP/1.1\n\n", &[10]);
        assert_marks("GET http://a/#b HTTP/1.1\r\n\r\n", &[13]);
        assert_marks("GET / HTTP/1.1\r\nCookie: a=#\r\nX-#: y\r\n\r\n", &[]);
        assert_marks("X# / HTTP/1.1\r\n\r\n", &[]);
        let method = "X".repeat(300);
        assert_marks(&format!("{method} /#"), &[302]);
    }

    const GET: &str = "GET /# HTTP/1.1\r\n\r\n";

    #[test]
    fn requests_are_followed_behind_their_bodies() {
        for first in [
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            // Bodies hold what they like.
            format!("POST / HTTP/1.1\r\nContent-Length: 19\r\n\r\n{GET}"),
            format!(
                "POST / HTTP/1.1\nCONTENT-LENGTH:{}19\t \n\n{GET}",
                " ".repeat(80)
            ),
            format!(
                "POST / HTTP/1.1\r\nContent-Length: {}19\r\n\r\n{GET}",
                "0".repeat(80)
            ),
            format!("POST / HTTP/1.1\r\nContent-Length: 19\r\ncontent-length:19\r\n\r\n{GET}"),
            format!(
                "POST / HTTP/1.1\r\nContent-Length: 19\r\nX: {}\r\n\r\n{GET}",
                "y".repeat(80)
            ),
            format!(
                "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n13;a=#\r\n{GET}\r\n0\r\n\
                 X: #\r\n\r\n"
            ),
        ] {
            assert_marks(&format!("{first}{GET}"), &[first.len() + 5]);
            let both = format!("{first}{first}");
            assert_marks(&format!("{both}{GET}"), &[both.len() + 5]);
        }
    }

    #[test]
    fn nothing_is_handed_on_behind_what_is_refused() {
        let length = "Content-Length: 5";
        let chunked = "Transfer-Encoding: chunked";
        for (fields, marked) in [
            (format!("{length}\r\n{chunked}"), Some(53)),
            (format!("{chunked}\r\n{length}"), Some(59)),
            ("Content-Length: 1, 1".to_owned(), Some(34)),
            ("Content-Length: +1".to_owned(), Some(33)),
            ("Content-Length: 1 1".to_owned(), Some(35)),
            ("Content-Length: 18446744073709551616".to_owned(), Some(52)),
            ("Content-Length:".to_owned(), None),
            (format!("{length}\r\nContent-Length: 6"), None),
        ] {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
            let marked: Vec<_> = marked.into_iter().collect();
            assert_marks_of(&format!("{head}{GET}"), head.len(), &marked);
        }
        for body in ["1\n", "0\r\n\n", "0\r\nX: y\n"] {
            let head = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_marks_of(&format!("{head}{GET}"), head.len(), &[]);
        }
    }

    #[test]
    fn a_head_of_many_fields_waits_for_room() {
        let few = "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(100);
        assert_marks(&format!("{few}\r\n{GET}"), &[few.len() + 7]);
        let many = format!("{few}c: d\r\n\r\n");
        assert_marks_of(&many, few.len(), &[]);
        let mut scan = RequestScan::of_many_fields();
        assert_eq!(scan.check(&mut many.clone().into_bytes()), many.len());
        let mut scan = RequestScan::default();
        scan.check(&mut many.into_bytes());
        assert!(scan.has_many_fields());
    }

    #[test]
    fn what_follows_a_switch_waits_for_the_response() {
        for first in [
            "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "POST / HTTP/1.1\r\nupgrade:\r\nContent-Length: 2\r\n\r\n/#",
            "CONNECT a:80 HTTP/1.1\r\n\r\n",
        ] {
            assert_marks_of(&format!("{first}{GET}"), first.len(), &[]);
            for (is_switch, expected) in [(true, "GET /#"), (false, "GET /\0")] {
                let mut scan = RequestScan::default();
                scan.check(&mut first.as_bytes().to_vec());
                assert_eq!(scan.awaits(), Some(1));
                scan.answered(is_switch);
                let mut seen = *b"GET /#";
                assert_eq!(scan.check(&mut seen), 6);
                assert_eq!(seen, expected.as_bytes());
            }
        }
    }
}
