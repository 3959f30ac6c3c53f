//! Finds the end of a chunked body, RFC 9112 section 7.1.

/// Digits of a chunk's size: as many as fit into 64 bits. Leading zeros are not worth more.
const MAX_SIZE_DIGITS: u8 = 16;

/// Parses the framing of a chunked body and stores none of it. It accepts a subset of what hyper's decoder accepts, so
/// that both agree on the end of each body.
///
/// A bare LF in the trailer section is invalid here, and valid for hyper. RFC 9112 section 2.2 permits a recipient to
/// treat it as the end of a line, and many do. hyper treats it as a part of the field, which then extends over the next
/// request's first line: `0`, CRLF, LF would hide that request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkScan {
    state: ChunkState,
    /// The size of the chunk, then the number of its remaining bytes.
    size: u64,
    /// Digits of that size.
    digits: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size,
    /// After the digits.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The start of a trailer field, or of the line that ends the body.
    Fields,
    Field,
    FieldLf,
    EndLf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkProgress {
    /// All bytes belong to the body.
    Incomplete,
    /// The body has ended after this many bytes.
    Complete(usize),
    /// The byte before this offset is invalid.
    Invalid(usize),
}

impl ChunkScan {
    pub(super) fn advance(&mut self, bytes: &[u8]) -> ChunkProgress {
        let mut offset = 0;
        while let Some(&byte) = bytes.get(offset) {
            if self.state == ChunkState::Data {
                let here = bytes.len() - offset;
                let here = usize::try_from(self.size).unwrap_or(usize::MAX).min(here);
                offset += here;
                self.size -= here as u64;
                if self.size == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            offset += 1;
            self.state = match (self.state, byte) {
                (ChunkState::Start | ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    if self.digits == MAX_SIZE_DIGITS {
                        return ChunkProgress::Invalid(offset);
                    }
                    let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                    (self.size, self.digits) = (self.size << 4 | digit, self.digits + 1);
                    ChunkState::Size
                }
                (ChunkState::Size | ChunkState::Space, b' ' | b'\t') => ChunkState::Space,
                (ChunkState::Size | ChunkState::Space, b';') => ChunkState::Extension,
                (ChunkState::Size | ChunkState::Space | ChunkState::Extension, b'\r') => {
                    ChunkState::SizeLf
                }
                // Control characters end a line to some parsers.
                (ChunkState::Extension, b'\t' | b' '..=b'~' | 0x80..) => ChunkState::Extension,
                (ChunkState::SizeLf, b'\n') if self.size == 0 => ChunkState::Fields,
                (ChunkState::SizeLf, b'\n') => ChunkState::Data,
                (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
                (ChunkState::DataLf, b'\n') => {
                    self.digits = 0;
                    ChunkState::Start
                }
                (ChunkState::Fields, b'\r') => ChunkState::EndLf,
                (ChunkState::Field, b'\r') => ChunkState::FieldLf,
                (ChunkState::Fields | ChunkState::Field, byte) if byte != b'\n' => {
                    ChunkState::Field
                }
                (ChunkState::FieldLf, b'\n') => ChunkState::Fields,
                (ChunkState::EndLf, b'\n') => return ChunkProgress::Complete(offset),
                _ => return ChunkProgress::Invalid(offset),
            };
        }
        ChunkProgress::Incomplete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_ends(body: &str, expected: ChunkProgress) {
        for cut in 0..=body.len() {
            let (first, second) = body.as_bytes().split_at(cut);
            let mut chunks = ChunkScan::default();
            let found = match chunks.advance(first) {
                ChunkProgress::Incomplete => match chunks.advance(second) {
                    ChunkProgress::Complete(place) => ChunkProgress::Complete(cut + place),
                    ChunkProgress::Invalid(place) => ChunkProgress::Invalid(cut + place),
                    ChunkProgress::Incomplete => ChunkProgress::Incomplete,
                },
                found => found,
            };
            assert_eq!(found, expected, "{body:?} cut at {cut}");
        }
    }

    #[test]
    fn chunked_body_ends_after_its_last_chunk_and_trailers() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "0a\r\n0\r\n\r\n0\r\n\r\n\r\n00\r\n\r\n",
            "A;name=\"value\"\r\n0123456789\r\n1 \t;x\r\n\n\r\n0;x\r\n\r\n",
            "0000000000000001\r\na\r\n0000000000000000\r\n\r\n",
            "1\t\r\na\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n",
        ] {
            assert_ends(body, ChunkProgress::Complete(body.len()));
            assert_ends(
                &format!("{body}GET /# "),
                ChunkProgress::Complete(body.len()),
            );
            assert_ends(&body[..body.len() - 1], ChunkProgress::Incomplete);
        }
    }

    #[test]
    fn malformed_chunk_is_invalid() {
        for (body, place) in [
            ("\r\n", 1),
            ("g\r\n", 1),
            (" 1\r\n", 1),
            ("0x1\r\n", 2),
            ("1\n", 2),
            ("1 2\r\n", 3),
            ("1;a\n", 4),
            ("1;a\rb", 5),
            ("1;a\0b", 4),
            ("1;\x0b", 3),
            ("00000000000000001\r\n", 17),
            ("1\r\nab", 5),
            ("1\r\na\n", 5),
            ("1\r\na\rb", 6),
            ("0\r\nX: y\rz", 9),
            ("0\r\n\rX", 5),
            // A bare LF for the end of the body, or of a trailer field.
            ("0\r\n\nGET", 4),
            ("0\r\nX: y\n\r\n", 8),
            ("0\r\nX: y\r\n\nGET", 10),
            ("10000000000000000\r\n", 17),
        ] {
            assert_ends(body, ChunkProgress::Invalid(place));
        }
    }
}
