//! Detects malformed requests that hyper repairs silently, so that a service cannot reject them.
//!
//! - A fragment: `http::Uri` drops it. A request target has none (RFC 9112 section 3.2), and a repaired target differs
//!   from the one that intermediaries have processed.
//! - A `Content-Length` beside a `Transfer-Encoding`: hyper removes it. An intermediary that honours the length sees
//!   other requests after this one (RFC 9112 sections 6.1 and 11.2).
//! - A line that ends in a bare LF. RFC 9112 section 2.2 permits a recipient to accept it, and intermediaries differ: to
//!   some it is a byte of a value, so that they have not checked the field that follows it here.
//! - A request line without a version, which hyper rejects at the end of a head that may never come.
//!
//! The scan replaces one byte of them by a byte that is invalid in a head, and hyper responds with 400.

mod chunks;
#[cfg(test)]
mod tests;

use self::chunks::{ChunkProgress, ChunkScan};
use std::fmt;

/// Fields of a head that hyper accepts by default, without a heap allocation.
const HYPER_DEFAULT_FIELDS: u16 = 100;

/// The longest body that hyper accepts: it has other uses for the two highest numbers, and calls the head too large.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// Longer than the name of each field that the scan distinguishes.
const NAME_PREFIX_LEN: usize = 24;

/// Scans the requests of a connection, from the start of one.
#[derive(Debug, Default)]
pub(super) struct RequestScan {
    state: ScanState,
    /// The start of the method, or of a field's name in lower case.
    name: [u8; NAME_PREFIX_LEN],
    /// The length of the whole name.
    name_len: usize,
    /// Number of complete heads.
    heads: u32,
    /// hyper accepts more than [`HYPER_DEFAULT_FIELDS`].
    accepts_many_fields: bool,
    /// The first error of the current request.
    error: Option<RequestError>,
    /// An invalid head was passed to hyper without its end.
    is_head_cut: bool,
    /// The last byte of the head so far is a CR.
    follows_cr: bool,
    /// Of an incomplete character in the target: its first byte, and the number of its missing bytes.
    incomplete_char: Option<(u8, u8)>,
    head: HeadSummary,
}

/// Why hyper rejects a request, as far as the scan detects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestError {
    Fragment,
    /// A byte that `http::Uri` does not accept unescaped.
    RawByte(u8),
    LengthAndEncoding,
    InvalidLength,
    BareLf,
    /// Without a version, as in HTTP/0.9, or without a target.
    RequestLine,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fragment => f.write_str("the request target has a fragment (\"#\")"),
            Self::RawByte(byte) => write!(
                f,
                "the request target has a raw {:?}; send it as %{byte:02X}",
                char::from(*byte)
            ),
            Self::LengthAndEncoding => {
                f.write_str("the request has both Content-Length and Transfer-Encoding")
            }
            Self::InvalidLength => {
                f.write_str("Content-Length is not a number, or there are two that differ")
            }
            Self::RequestLine => {
                f.write_str("the request line is not a method, a target and a version")
            }
            Self::BareLf => f.write_str("a line of the request head ends in LF without CR"),
        }
    }
}

/// Properties of a head that determine what follows it.
#[derive(Debug, Default)]
struct HeadSummary {
    length: Option<u64>,
    fields: u16,
    is_chunked: bool,
    may_switch: bool,
    is_invalid: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ScanState {
    /// The start of a request, perhaps after empty lines.
    #[default]
    Start,
    Method,
    Target,
    /// After the first question mark of the target.
    Query,
    /// After the target.
    Version,
    /// A field's name, or the line that ends the head.
    Name,
    /// A value that the scan does not read.
    Value,
    /// A `Content-Length`: the number of its digits so far, and whether they have ended.
    Length(Option<u64>, bool),
    /// The first byte of a field for which hyper has no slot.
    TooManyFields,
    /// The number of remaining bytes of a body.
    Body(u64),
    Chunks(ChunkScan),
    /// After a request whose response may switch to another protocol.
    AwaitingSwitch,
    /// Another protocol than HTTP.
    Tunnel,
    /// After a request that hyper rejects.
    Invalid,
}

impl RequestScan {
    /// Makes invalid heads fail in hyper. Returns the number of bytes that may be passed to hyper: the meaning of the
    /// others is not known yet, or nothing may follow these.
    pub(super) fn check(&mut self, bytes: &mut [u8]) -> usize {
        let mut offset = 0;
        while offset < bytes.len() {
            let rest = &mut bytes[offset..];
            if self.head.fields == HYPER_DEFAULT_FIELDS && self.is_field_start(rest[0]) {
                self.state = ScanState::TooManyFields;
            }
            match &mut self.state {
                ScanState::Tunnel => return bytes.len(),
                ScanState::AwaitingSwitch | ScanState::Invalid | ScanState::TooManyFields => break,
                ScanState::Body(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    offset += here;
                    *left -= here as u64;
                    if *left == 0 {
                        self.end_body();
                    }
                }
                ScanState::Chunks(chunks) => match chunks.advance(rest) {
                    ChunkProgress::Incomplete => return bytes.len(),
                    ChunkProgress::Complete(len) => {
                        offset += len;
                        self.end_body();
                    }
                    ChunkProgress::Invalid(len) => {
                        offset += len;
                        self.state = ScanState::Invalid;
                    }
                },
                // Only the end of their line matters, and most bytes of a head are in them.
                ScanState::Version | ScanState::Value => match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        if let Some(before) = end.checked_sub(1) {
                            self.follows_cr = rest[before] == b'\r';
                        }
                        self.head_byte(&mut rest[end]);
                        offset += end + 1;
                    }
                    None => {
                        self.follows_cr = rest.last() == Some(&b'\r');
                        offset += rest.len();
                    }
                },
                _ => {
                    self.head_byte(&mut rest[0]);
                    offset += 1;
                }
            }
        }
        offset
    }

    /// For a connection of hyper that accepts as many fields as fit into a head.
    pub(super) fn with_many_fields() -> Self {
        Self {
            accepts_many_fields: true,
            ..Self::default()
        }
    }

    /// Returns true if a head has more fields than hyper accepts. The rest of it must be passed to a connection of hyper
    /// that accepts more.
    pub(super) fn has_many_fields(&self) -> bool {
        self.state == ScanState::TooManyFields
    }

    fn is_field_start(&self, byte: u8) -> bool {
        let is_at_field = self.state == ScanState::Name && self.name_len == 0;
        is_at_field && !self.accepts_many_fields && !matches!(byte, b'\r' | b'\n')
    }

    /// Returns the number of the request whose response must be known before more input is passed to hyper.
    pub(super) fn awaits_response_to(&self) -> Option<u32> {
        (self.state == ScanState::AwaitingSwitch).then_some(self.heads)
    }

    /// That response is known.
    pub(super) fn response_known(&mut self, is_switch: bool) {
        self.state = match is_switch {
            true => ScanState::Tunnel,
            false => ScanState::Start,
        };
    }

    /// Returns why hyper rejects the last request, as far as the scan detects it.
    pub(super) fn error(&self) -> Option<RequestError> {
        self.error
    }

    pub(super) fn is_invalid(&self) -> bool {
        self.state == ScanState::Invalid
    }

    fn head_byte(&mut self, byte: &mut u8) {
        let ends_in_bare_lf = *byte == b'\n' && !self.follows_cr;
        self.follows_cr = *byte == b'\r';
        if ends_in_bare_lf {
            return self.reject_head(byte, RequestError::BareLf);
        }
        if matches!(self.state, ScanState::Target | ScanState::Query) {
            self.check_utf8(*byte);
        }
        match (self.state, *byte) {
            (ScanState::Start, b'\r' | b'\n') => {}
            (ScanState::Start, _) => {
                (self.state, self.error) = (ScanState::Method, None);
                self.push(*byte);
            }
            (ScanState::Method, b' ') => {
                self.head.may_switch = self.is_named(b"CONNECT");
                self.state = ScanState::Target;
            }
            (ScanState::Target | ScanState::Query, b' ') => self.state = ScanState::Version,
            (ScanState::Target | ScanState::Query, b'#') => {
                self.invalidate(byte, RequestError::Fragment);
            }
            (ScanState::Target, b'?') => self.state = ScanState::Query,
            (ScanState::Target, b'`') | (ScanState::Query, b'"') => {
                self.record_error(RequestError::RawByte(*byte));
            }
            (
                ScanState::Target | ScanState::Query,
                b'<' | b'>' | 0..=9 | 11..=12 | 14..=31 | 0x7f,
            ) => {
                self.record_error(RequestError::RawByte(*byte));
            }
            (ScanState::Name, b'\n') if self.name_len == 0 => self.end_head(),
            (ScanState::Name, b':') => self.end_name(byte),
            (ScanState::Length(length, _), b'\n') => {
                self.end_length(length);
                self.begin_name();
            }
            (ScanState::Method | ScanState::Target | ScanState::Query, b'\n') => {
                self.reject_head(byte, RequestError::RequestLine);
            }
            (_, b'\n') => self.begin_name(),
            (ScanState::Method, _) => self.push(*byte),
            (ScanState::Name, b'\r') => {}
            (ScanState::Name, _) => self.push(byte.to_ascii_lowercase()),
            (ScanState::Length(None, _), b' ' | b'\t') => {}
            (ScanState::Length(length, _), b' ' | b'\t' | b'\r') => {
                self.state = ScanState::Length(length, true);
            }
            (ScanState::Length(length, false), b'0'..=b'9') => {
                let length = length.unwrap_or(0).checked_mul(10);
                let digit = u64::from(*byte - b'0');
                let length = length.and_then(|length| length.checked_add(digit));
                match length.filter(|length| *length <= MAX_LENGTH) {
                    Some(length) => self.state = ScanState::Length(Some(length), false),
                    None => {
                        self.invalidate(byte, RequestError::InvalidLength);
                        self.state = ScanState::Value;
                    }
                }
            }
            (ScanState::Length(..), _) => {
                self.invalidate(byte, RequestError::InvalidLength);
                self.state = ScanState::Value;
            }
            _ => {}
        }
    }

    /// Records the first byte of a target that is not UTF-8. Overlong forms are not detected.
    fn check_utf8(&mut self, byte: u8) {
        self.incomplete_char = match (self.incomplete_char, byte) {
            (Some((first, left)), 0x80..=0xbf) => (left > 1).then(|| (first, left - 1)),
            (None, 0xc2..=0xdf) => Some((byte, 1)),
            (None, 0xe0..=0xef) => Some((byte, 2)),
            (None, 0xf0..=0xf4) => Some((byte, 3)),
            (None, ..0x80) => None,
            (incomplete, _) => {
                self.record_error(RequestError::RawByte(
                    incomplete.map_or(byte, |(first, _)| first),
                ));
                None
            }
        };
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.name.get_mut(self.name_len) {
            *slot = byte;
        }
        self.name_len = self.name_len.saturating_add(1);
    }

    fn is_named(&self, name: &[u8]) -> bool {
        self.name.get(..self.name_len) == Some(name)
    }

    fn begin_name(&mut self) {
        (self.state, self.name_len) = (ScanState::Name, 0);
    }

    fn end_name(&mut self, colon: &mut u8) {
        self.state = ScanState::Value;
        self.head.fields = self.head.fields.saturating_add(1);
        if self.is_named(b"content-length") {
            match self.head.is_chunked {
                true => self.invalidate(colon, RequestError::LengthAndEncoding),
                false => self.state = ScanState::Length(None, false),
            }
        } else if self.is_named(b"transfer-encoding") {
            match self.head.length {
                Some(_) => self.invalidate(colon, RequestError::LengthAndEncoding),
                None => self.head.is_chunked = true,
            }
        } else if self.is_named(b"upgrade") {
            self.head.may_switch = true;
        }
    }

    fn end_length(&mut self, length: Option<u64>) {
        let is_same = self.head.length.is_none_or(|first| Some(first) == length);
        // hyper rejects an empty length, and two of them.
        if length.is_none() || !is_same {
            self.head.is_invalid = true;
            self.record_error(RequestError::InvalidLength);
        }
        self.head.length = length.or(Some(0));
    }

    fn record_error(&mut self, error: RequestError) {
        self.error.get_or_insert(error);
    }

    fn invalidate(&mut self, byte: &mut u8, error: RequestError) {
        self.record_error(error);
        *byte = 0;
        self.head.is_invalid = true;
    }

    /// Nothing that follows is a part of the head: a recipient with other rules may take it for a body, or for
    /// another request.
    fn reject_head(&mut self, byte: &mut u8, error: RequestError) {
        self.invalidate(byte, error);
        self.state = ScanState::Invalid;
        self.is_head_cut = true;
    }

    /// Returns true once if hyper must get the end of an invalid head before it rejects that: it does not parse a head
    /// again ahead of its end.
    pub(super) fn take_cut_head(&mut self) -> bool {
        std::mem::take(&mut self.is_head_cut)
    }

    fn end_head(&mut self) {
        self.heads = self.heads.wrapping_add(1);
        self.state = match self.head {
            HeadSummary {
                is_invalid: true, ..
            } => ScanState::Invalid,
            HeadSummary {
                is_chunked: true, ..
            } => ScanState::Chunks(ChunkScan::default()),
            HeadSummary {
                length: Some(length @ 1..),
                ..
            } => ScanState::Body(length),
            _ => return self.end_body(),
        };
    }

    fn end_body(&mut self) {
        self.state = match self.head.may_switch {
            true => ScanState::AwaitingSwitch,
            false => ScanState::Start,
        };
        self.head = HeadSummary::default();
        self.name_len = 0;
    }
}
