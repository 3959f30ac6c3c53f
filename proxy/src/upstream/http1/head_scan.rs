//! Where the head of the final response ends, and how much may come before it.

use std::error::Error;
use std::io;

/// Interim responses ahead of the final one. An upstream sends one or two, or one for each step of
/// long work; hyper would read them without end.
pub(in crate::upstream) const MAX_INTERIM_HEADS: u32 = 32;
/// Bytes of all of them; hyper allows as many for one head.
const MAX_INTERIM_BYTES: usize = 408 * 1024;

/// Why a read fails when the final response's head does not come.
#[derive(Debug, thiserror::Error)]
#[error(
    "more than {MAX_INTERIM_HEADS} interim (1xx) heads or {MAX_INTERIM_BYTES} bytes of them came"
)]
pub(in crate::upstream) struct TooManyInterim;

impl TooManyInterim {
    pub(in crate::upstream) fn is_why(error: &(dyn Error + 'static)) -> bool {
        error
            .downcast_ref()
            .and_then(io::Error::get_ref)
            .is_some_and(|error| error.is::<Self>())
    }
}

/// What has come of interim heads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interim {
    pub(super) heads: u32,
    bytes: usize,
}

impl Interim {
    pub(super) fn is_too_much(self) -> bool {
        self.heads > MAX_INTERIM_HEADS || self.bytes > MAX_INTERIM_BYTES
    }
}

/// Fields of a head that hyper takes without a heap allocation for each head.
const MAX_STACK_FIELDS: usize = 100;

/// Bytes of a status line that show whether it is an interim one: `HTTP/1.1 1`.
const STATUS_BYTES: usize = 12;

/// Looks for the end of the final response's head.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// The start of the status line.
    status: [u8; STATUS_BYTES],
    seen: usize,
    at_line_start: bool,
    over: bool,
    /// Lines that are over, the status line among them.
    lines: usize,
    takes_many: bool,
    /// The next byte is of a field that hyper has no room for.
    pub(super) full: bool,
    pub(super) interim: Interim,
}

impl HeadScan {
    /// `takes_many`: more than `MAX_STACK_FIELDS` of them.
    pub(super) fn new(takes_many: bool) -> Self {
        Self {
            takes_many,
            ..Self::default()
        }
    }

    /// How many of `bytes` belong to heads.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                // Empty lines ahead of a status line are not part of it.
                b'\r' | b'\n' if self.seen == 0 => {}
                b'\n' if self.at_line_start => {
                    if !self.is_interim() {
                        self.over = true;
                        return index + 1;
                    }
                    let Interim { heads, bytes } = self.interim;
                    let interim = Interim {
                        heads: heads.saturating_add(1),
                        bytes: bytes.saturating_add(self.seen),
                    };
                    *self = Self {
                        interim,
                        ..Self::new(self.takes_many)
                    };
                }
                b'\n' => {
                    self.at_line_start = true;
                    self.lines += 1;
                }
                b'\r' => {}
                _ if self.at_line_start && self.lines > MAX_STACK_FIELDS && !self.takes_many => {
                    self.full = true;
                    return index;
                }
                _ => {
                    if let Some(place) = self.status.get_mut(self.seen) {
                        *place = byte;
                    }
                    self.seen += 1;
                    self.at_line_start = false;
                }
            }
        }
        bytes.len()
    }

    /// RFC 9110 section 15.2: another head follows, but for a switch of protocols.
    fn is_interim(&self) -> bool {
        let code = &self.status[STATUS_BYTES - 3..];
        self.status.starts_with(b"HTTP/1.") && code[0] == b'1' && code != b"101"
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the input is at the start of a head.
    pub(super) fn is_at_start(&self) -> bool {
        self.seen == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of `bytes` belongs to heads, whatever the cut.
    fn head(bytes: &str) -> &str {
        let mut lens = Vec::new();
        for cut in 0..=bytes.len() {
            let mut scan = HeadScan::default();
            let first = scan.advance(&bytes.as_bytes()[..cut]);
            let second = match scan.is_over() {
                true => 0,
                false => scan.advance(&bytes.as_bytes()[cut..]),
            };
            lens.push(first + second);
        }
        assert!(lens.iter().all(|len| *len == lens[0]), "{lens:?}");
        &bytes[..lens[0]]
    }

    #[test]
    fn head_ends_at_the_first_empty_line() {
        for end in ["\r\n", "\n"] {
            let whole = format!("HTTP/1.1 200 OK{end}A: b{end}{end}");
            assert_eq!(head(&format!("{whole}data: 1\n\n")), whole);
        }
        assert_eq!(
            head("\r\nHTTP/1.1 200\r\n\r\nx"),
            "\r\nHTTP/1.1 200\r\n\r\n"
        );
    }

    #[test]
    fn interim_head_is_not_the_last() {
        let heads = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(head(&format!("{heads}body")), heads);
        let switch = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
        assert_eq!(head(&format!("{switch}frames")), switch);
    }

    #[test]
    fn head_of_many_fields_is_handed_on_as_far_as_there_is_room() {
        let few = "HTTP/1.1 200 OK\r\n".to_owned() + &"a: b\r\n".repeat(100);
        assert_eq!(head(&format!("{few}\r\nbody")), format!("{few}\r\n"));
        let many = format!("{few}c: d\r\n\r\n");
        let interim = many.replace("200 OK", "103 Early Hints");
        for (takes_many, len) in [(false, few.len()), (true, many.len())] {
            for (before, len) in [("", len), ("HTTP/1.1 103 Early Hints\r\n\r\n", len + 28)] {
                let mut scan = HeadScan::new(takes_many);
                assert_eq!(scan.advance(format!("{before}{many}").as_bytes()), len);
                assert_eq!((scan.full, scan.over), (!takes_many, takes_many));
            }
        }
        let mut scan = HeadScan::default();
        scan.advance(interim.as_bytes());
        assert!(scan.full);
    }

    #[test]
    fn interim_heads_are_bounded_in_number_and_length() {
        let final_head = "HTTP/1.1 200 OK\r\n\r\n";
        let many = "HTTP/1.1 103 Early Hints\r\n\r\n";
        let long = format!("HTTP/1.1 103 E\r\nA: {}\r\n\r\n", "b".repeat(100 * 1024));
        for (interim, most) in [(many, 32), (&long, 4)] {
            for (count, is_too_much) in [(most, false), (most + 1, true)] {
                let mut scan = HeadScan::default();
                let bytes = format!("{}{final_head}", interim.repeat(count));
                for bytes in bytes.as_bytes().chunks(1000) {
                    scan.advance(bytes);
                }
                assert!(scan.is_over());
                assert_eq!(scan.interim.is_too_much(), is_too_much, "{count}");
            }
        }
    }
}
