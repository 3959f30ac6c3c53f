//! Encoding of heads, chunks and trailers in HTTP/1.1 (RFC 9112).

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use std::time::SystemTime;

pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
pub(super) const CRLF: &[u8] = b"\r\n";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The case of field names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum FieldCase {
    Lower,
    /// `Content-Type`, for clients that compare names byte by byte. Equal to hyper's title case.
    Title,
}

impl FieldCase {
    fn push(self, to: &mut Vec<u8>, name: &str) {
        let mut is_start = self == Self::Title;
        for byte in name.bytes() {
            to.push(if is_start {
                byte.to_ascii_uppercase()
            } else {
                byte
            });
            is_start = self == Self::Title && byte == b'-';
        }
    }
}

/// What marks the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The last chunk.
    Chunked,
    /// The end of the connection: HTTP/1.0 has no chunks.
    Close,
}

impl Framing {
    pub(super) fn of(client: Version) -> Self {
        match client {
            Version::HTTP_11 => Self::Chunked,
            _ => Self::Close,
        }
    }
}

/// Encodes a response head. It never contains `Connection: close`, with which some clients do not detect a truncated
/// stream.
pub(super) fn head(
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
    case: FieldCase,
) -> Vec<u8> {
    let version: &[u8] = match framing {
        Framing::Chunked => b"HTTP/1.1 ",
        Framing::Close => b"HTTP/1.0 ",
    };
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(version);
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(CRLF);
    let connection_fields = [CONNECTION, KEEP_ALIVE, TRANSFER_ENCODING, CONTENT_LENGTH];
    for (name, value) in headers
        .iter()
        .filter(|(name, _)| !connection_fields.contains(name))
    {
        push_field(&mut head, name, value, case);
    }
    if !headers.contains_key(DATE) {
        let now = httpdate::fmt_http_date(SystemTime::now());
        case.push(&mut head, "date");
        head.extend_from_slice(b": ");
        head.extend_from_slice(now.as_bytes());
        head.extend_from_slice(CRLF);
    }
    if framing == Framing::Chunked {
        case.push(&mut head, "transfer-encoding");
        head.extend_from_slice(b": chunked\r\n");
    }
    head.extend_from_slice(CRLF);
    head
}

/// Encodes an interim (1xx) head.
pub(in crate::serve) fn interim_head(
    status: StatusCode,
    headers: &HeaderMap,
    case: FieldCase,
) -> Vec<u8> {
    let mut head = b"HTTP/1.1 ".to_vec();
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(CRLF);
    for (name, value) in headers {
        push_field(&mut head, name, value, case);
    }
    head.extend_from_slice(CRLF);
    head
}

fn push_field(to: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue, case: FieldCase) {
    case.push(to, name.as_str());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value.as_bytes());
    to.extend_from_slice(CRLF);
}

/// Encodes the last chunk and the trailers.
pub(super) fn trailers(trailers: &HeaderMap, case: FieldCase) -> Vec<u8> {
    let mut section = b"0\r\n".to_vec();
    // RFC 9110 section 6.5.1: fields that frame a message are not permitted in trailers.
    let framing = [TRANSFER_ENCODING, CONTENT_LENGTH, CONNECTION];
    for (name, value) in trailers.iter().filter(|(name, _)| !framing.contains(name)) {
        push_field(&mut section, name, value, case);
    }
    section.extend_from_slice(CRLF);
    section
}

/// The line that precedes a chunk, on the stack.
#[derive(Clone, Copy)]
pub(super) struct ChunkSize {
    bytes: [u8; 18],
    start: usize,
}

impl ChunkSize {
    pub(super) fn new(mut len: usize) -> Self {
        let mut bytes = [0; 18];
        bytes[16..].copy_from_slice(CRLF);
        let mut start = 16;
        loop {
            start -= 1;
            bytes[start] = b"0123456789abcdef"[len & 0xf];
            len >>= 4;
            if len == 0 {
                return Self { bytes, start };
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_size_is_hex_without_leading_zeros() {
        for (len, line) in [
            (0, "0\r\n"),
            (9, "9\r\n"),
            (255, "ff\r\n"),
            (usize::MAX, "ffffffffffffffff\r\n"),
        ] {
            assert_eq!(ChunkSize::new(len).as_bytes(), line.as_bytes());
        }
    }

    #[test]
    fn response_head_keeps_all_fields_except_those_of_framing() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            HeaderValue::from_static("text/event-stream"),
        );
        headers.insert(DATE, HeaderValue::from_static("today"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        let head = |framing| {
            String::from_utf8(head(StatusCode::OK, &headers, framing, FieldCase::Lower)).unwrap()
        };
        let fields = "content-type: text/event-stream\r\ndate: today\r\nx-a: 1\r\nx-a: 2\r\n";
        assert_eq!(
            head(Framing::Chunked),
            format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n")
        );
        assert_eq!(
            head(Framing::Close),
            format!("HTTP/1.0 200 OK\r\n{fields}\r\n")
        );
    }

    #[test]
    fn trailers_follow_the_last_chunk() {
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", HeaderValue::from_static("7"));
        fields.insert(CONTENT_LENGTH, HeaderValue::from_static("7"));
        assert_eq!(
            trailers(&fields, FieldCase::Lower),
            b"0\r\nx-sum: 7\r\n\r\n"
        );
    }

    #[test]
    fn field_names_have_the_configured_case() {
        for (case, expected) in [(FieldCase::Lower, "x-a--bc"), (FieldCase::Title, "X-A--Bc")] {
            let mut name = Vec::new();
            case.push(&mut name, "x-a--bc");
            assert_eq!(name, expected.as_bytes());
        }
    }
}
