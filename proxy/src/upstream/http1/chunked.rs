//! A strict reader of the chunked transfer coding (RFC 9112 section 7.1).
//!
//! What a lenient reader makes of a doubtful chunk another reader on the way may take for something
//! else, which is how messages are smuggled. So nothing is guessed: every line ends in CRLF, sizes
//! are hex digits and not too many, and all that is not payload has a bound.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Digits of a chunk's size: as many as fit into 64 bits.
const MAX_SIZE_DIGITS: u8 = 16;
/// Blanks behind a size. Not summed up, because servers that pad do it for the whole stream.
const MAX_PADDING_BYTES: u8 = 64;
/// Bytes of all chunk extensions of a message together: they are unused in practice, and could be
/// endless. hyper refuses 16 KiB.
const MAX_EXTENSION_BYTES: u16 = 16 * 1024 - 1;
/// Bytes of a trailer section.
const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// Fields of a trailer section.
const MAX_TRAILER_FIELDS: usize = 32;

const NO_HEX: u8 = 0xff;

/// The value of each byte as a hex digit.
const HEX: [u8; 256] = {
    let mut table = [NO_HEX; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        table[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// What is wrong with the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChunk {
    /// Not a number in hex, or none.
    #[error("a chunk size is not a hexadecimal number")]
    Size,
    /// More than 64 bits.
    #[error("a chunk's size has too many digits")]
    Digits,
    /// A CR without its LF, or the other way round.
    #[error("a line of the chunked coding does not end in CRLF")]
    LineEnd,
    /// Payload continues where the chunk should end.
    #[error("a chunk is longer than its size")]
    Overlong,
    /// Over the bound.
    #[error("a chunk's size is padded with more than {MAX_PADDING_BYTES} blanks")]
    Padding,
    /// A control character, which ends a line to some parsers.
    #[error("a chunk extension has a control character")]
    Control,
    /// Over the bound.
    #[error("chunk extensions of more than {MAX_EXTENSION_BYTES} bytes")]
    Extensions,
    /// Over the bound.
    #[error("trailers of more than {MAX_TRAILER_BYTES} bytes")]
    Trailers,
}

/// Where in the coding the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size {
        value: u64,
        digits: u8,
    },
    /// Blanks behind the size, which some servers pad with.
    Padding {
        value: u64,
        blanks: u8,
    },
    Extension {
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Done,
    /// The rest cannot be parsed.
    Bad(BadChunk),
}

/// What came of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// This many bytes of payload are at the front now.
    pub payload: usize,
    /// This many bytes belonged to the message.
    pub used: usize,
}

/// The reader's state between two reads.
#[derive(Debug)]
pub struct Chunked {
    at: At,
    extensions: u16,
    #[expect(
        clippy::box_collection,
        reason = "a quiet stream has no trailers yet, and should be small"
    )]
    trailers: Option<Box<Vec<u8>>>,
}

impl Default for Chunked {
    fn default() -> Self {
        Self {
            at: At::Size {
                value: 0,
                digits: 0,
            },
            extensions: 0,
            trailers: None,
        }
    }
}

impl Chunked {
    /// Moves the payload of all chunks in `bytes` to their front. Stops behind the message.
    ///
    /// # Errors
    ///
    /// If the bytes are not the chunked coding of anything; then it stays so.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, BadChunk> {
        if let At::Bad(why) = self.at {
            return Err(why);
        }
        let (mut payload, mut used) = (0, 0);
        while used < bytes.len() && !self.is_done() {
            let (len, is_payload) = self.advance(&bytes[used..])?;
            if is_payload {
                if payload != used {
                    bytes.copy_within(used..used + len, payload);
                }
                payload += len;
            }
            used += len;
        }
        Ok(Decoded { payload, used })
    }

    /// Reads as [`decode`](Self::decode) does, but leaves the bytes as they are, for a body that another reader
    /// decodes.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<(), BadChunk> {
        let mut used = 0;
        while used < bytes.len() && !self.is_done() {
            used += self.advance(&bytes[used..])?.0;
        }
        Ok(())
    }

    /// Reads the next bytes of one kind: their number, and whether they are payload.
    fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), BadChunk> {
        match self.at {
            At::Bad(why) => Err(why),
            At::Data { left } => {
                let there = bytes.len();
                let take = usize::try_from(left).map_or(there, |left| left.min(there));
                self.at = match left - take as u64 {
                    0 => At::DataCr,
                    left => At::Data { left },
                };
                Ok((take, true))
            }
            _ => {
                if let Some((at, len)) = self.stride(bytes) {
                    self.at = at;
                    return Ok((len, false));
                }
                self.at = self.step(bytes[0]).unwrap_or_else(At::Bad);
                match self.at {
                    At::Bad(why) => Err(why),
                    _ => Ok((1, false)),
                }
            }
        }
    }

    /// What [`step`](Self::step) makes of the bytes that nearly every chunk begins and ends with, if
    /// they are here as a whole: where that leads, and their number.
    fn stride(&self, bytes: &[u8]) -> Option<(At, usize)> {
        const SIZE: At = At::Size {
            value: 0,
            digits: 0,
        };
        /// Enough for 16 MiB.
        const DIGITS: usize = 6;
        if self.at == At::DataCr {
            return bytes.starts_with(b"\r\n").then_some((SIZE, 2));
        }
        if self.at != SIZE {
            return None;
        }
        let mut left = 0;
        for (digits, &byte) in bytes.iter().enumerate().take(DIGITS + 1) {
            match HEX[usize::from(byte)] {
                NO_HEX => {
                    let ends = left > 0 && bytes[digits..].starts_with(b"\r\n");
                    return ends.then_some((At::Data { left }, digits + 2));
                }
                digit => left = left << 4 | u64::from(digit),
            }
        }
        None
    }

    fn step(&mut self, byte: u8) -> Result<At, BadChunk> {
        Ok(match (self.at, byte) {
            (At::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(BadChunk::Digits);
                }
                At::Size {
                    value: value << 4 | u64::from(HEX[usize::from(byte)]),
                    digits: digits + 1,
                }
            }
            (At::Size { digits: 0, .. }, _) => return Err(BadChunk::Size),
            (At::Size { value, .. }, b' ' | b'\t') => At::Padding { value, blanks: 1 },
            (At::Padding { value, blanks }, b' ' | b'\t') => {
                if blanks == MAX_PADDING_BYTES {
                    return Err(BadChunk::Padding);
                }
                At::Padding {
                    value,
                    blanks: blanks + 1,
                }
            }
            (At::Size { value, .. } | At::Padding { value, .. }, b';') => At::Extension { value },
            (
                At::Size { value, .. } | At::Padding { value, .. } | At::Extension { value },
                b'\r',
            ) => At::SizeLf { value },
            (At::Size { .. } | At::Padding { .. }, _) => return Err(BadChunk::Size),
            (At::Extension { .. }, b'\n') => return Err(BadChunk::LineEnd),
            (At::Extension { value }, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count_extension()?;
                At::Extension { value }
            }
            (At::Extension { .. }, _) => return Err(BadChunk::Control),
            (At::SizeLf { value: 0 }, b'\n') => At::TrailerStart,
            (At::SizeLf { value }, b'\n') => At::Data { left: value },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size {
                value: 0,
                digits: 0,
            },
            (At::DataCr | At::DataLf, _) => return Err(BadChunk::Overlong),
            (At::TrailerStart, b'\r') => At::LastLf,
            (At::LastLf, b'\n') => At::Done,
            (At::TrailerStart | At::Trailer, b'\n') => return Err(BadChunk::LineEnd),
            (At::Trailer, b'\r') => {
                self.keep_trailer(byte)?;
                At::TrailerLf
            }
            (At::TrailerStart | At::Trailer, _) => {
                self.keep_trailer(byte)?;
                At::Trailer
            }
            (At::TrailerLf, b'\n') => {
                self.keep_trailer(byte)?;
                At::TrailerStart
            }
            (At::SizeLf { .. } | At::TrailerLf | At::LastLf, _) => return Err(BadChunk::LineEnd),
            (at @ (At::Data { .. } | At::Done | At::Bad(_)), _) => at,
        })
    }

    fn count_extension(&mut self) -> Result<(), BadChunk> {
        self.extensions += 1;
        match self.extensions > MAX_EXTENSION_BYTES {
            true => Err(BadChunk::Extensions),
            false => Ok(()),
        }
    }

    fn keep_trailer(&mut self, byte: u8) -> Result<(), BadChunk> {
        let trailers = self.trailers.get_or_insert_default();
        if trailers.len() == MAX_TRAILER_BYTES {
            return Err(BadChunk::Trailers);
        }
        trailers.push(byte);
        Ok(())
    }

    /// Whether the message has ended.
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// The lines of the trailer section.
    pub fn trailers(&self) -> &[u8] {
        self.trailers.as_deref().map_or(&[], Vec::as_slice)
    }

    /// The fields of the trailer section; none at all if they are malformed or too many.
    pub fn fields(&self) -> Option<HeaderMap> {
        let lines = [self.trailers(), b"\r\n"].concat();
        let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
        let httparse::Status::Complete((_, fields)) =
            httparse::parse_headers(&lines, &mut fields).ok()?
        else {
            return None;
        };
        fields
            .iter()
            .map(|field| {
                let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_bytes(field.value).ok()?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The payload, and what stands behind the message.
    fn decode(cuts: &[&[u8]]) -> Result<(Chunked, Vec<u8>, Vec<u8>), BadChunk> {
        let mut chunked = Chunked::default();
        let (mut payload, mut behind) = (Vec::new(), Vec::new());
        for cut in cuts {
            let mut bytes = cut.to_vec();
            let decoded = chunked.decode(&mut bytes)?;
            payload.extend_from_slice(&bytes[..decoded.payload]);
            behind.extend_from_slice(&cut[decoded.used..]);
        }
        Ok((chunked, payload, behind))
    }

    #[test]
    fn chunks_decode_alike_however_they_are_cut() {
        let all = b"3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n1 \r\n\n\r\n0\r\nX-A: 1\r\nX-B: \
            2\r\n\r\nnext";
        for cut in 0..=all.len() {
            let (chunked, payload, behind) = decode(&[&all[..cut], &all[cut..]]).unwrap();
            assert_eq!(payload, b"abc0123456789\n", "cut at {cut}");
            assert_eq!(behind, b"next", "cut at {cut}");
            assert_eq!(chunked.trailers(), b"X-A: 1\r\nX-B: 2\r\n");
            assert!(chunked.is_done());
        }
    }

    #[test]
    fn chunks_with_doubtful_framing_are_refused() {
        for (bytes, why) in [
            (&b"\r\n"[..], BadChunk::Size),
            (b" 3\r\nabc\r\n", BadChunk::Size),
            (b"+3\r\nabc\r\n", BadChunk::Size),
            (b"0x3\r\nabc\r\n", BadChunk::Size),
            (b"3 3\r\nabc\r\n", BadChunk::Size),
            (b"3\nabc\r\n", BadChunk::Size),
            (b";x\r\n", BadChunk::Size),
            (b"00000000000000003\r\nabc\r\n", BadChunk::Digits),
            (b"fffffffffffffffff\r\n", BadChunk::Digits),
            (b"3\rabc\r\n", BadChunk::LineEnd),
            (b"3;x\nabc\r\n", BadChunk::LineEnd),
            (b"3;x\ry\r\nabc\r\n", BadChunk::LineEnd),
            (b"3;x\0\r\nabc\r\n", BadChunk::Control),
            (b"3;\x0b\r\nabc\r\n", BadChunk::Control),
            (b"3\r\nabcd\r\n", BadChunk::Overlong),
            (b"3\r\nabc\n", BadChunk::Overlong),
            (b"3\r\nabc\rx", BadChunk::Overlong),
            (b"0\r\nX: 1\n\r\n", BadChunk::LineEnd),
            (b"0\r\nX: 1\r\r\n", BadChunk::LineEnd),
            (b"0\r\n\n", BadChunk::LineEnd),
            (b"0\r\n\rx", BadChunk::LineEnd),
        ] {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(decode(&[bytes]).unwrap_err(), why, "{shown:?}");
            assert_eq!(Chunked::default().check(bytes), Err(why), "{shown:?}");
        }
    }

    #[test]
    fn chunks_have_bounded_extensions_padding_and_trailers() {
        let most = usize::from(MAX_EXTENSION_BYTES);
        let long = vec![b'x'; most + 1];
        let extension = [b"1;", &long[..]].concat();
        assert_eq!(decode(&[&extension]).unwrap_err(), BadChunk::Extensions);
        let padding = [b"1", &[b' '; MAX_PADDING_BYTES as usize + 1][..]].concat();
        assert_eq!(decode(&[&padding]).unwrap_err(), BadChunk::Padding);
        // Also in sum.
        let some = [b"1;", &long[..most / 2], b"\r\na\r\n"].concat();
        assert!(decode(&[&some, &some, b"1;x"]).is_ok());
        assert_eq!(
            decode(&[&some, &some, b"1;xx"]).unwrap_err(),
            BadChunk::Extensions
        );
        let trailers = [b"0\r\n", &long[..=MAX_TRAILER_BYTES]].concat();
        assert_eq!(decode(&[&trailers]).unwrap_err(), BadChunk::Trailers);
    }

    #[test]
    fn chunk_padding_is_bounded_per_chunk_alone() {
        let padded = [b"1", &[b' '; MAX_PADDING_BYTES as usize][..], b"\r\na\r\n"].concat();
        assert!(decode(&[&padded[..]; MAX_EXTENSION_BYTES as usize]).is_ok());
    }

    #[test]
    fn chunk_extensions_have_a_bound_no_higher_than_hypers() {
        let long = [b"1;", &[b'x'; 16 * 1024][..]].concat();
        assert_eq!(decode(&[&long]).unwrap_err(), BadChunk::Extensions);
    }

    #[test]
    fn chunks_behind_a_bad_one_are_refused() {
        let mut chunked = Chunked::default();
        let bad = chunked.decode(&mut b"3\r\nabcd".to_vec());
        assert_eq!(bad, Err(BadChunk::Overlong));
        let well = chunked.decode(&mut b"\r\n1\r\nx\r\n0\r\n\r\n".to_vec());
        assert_eq!(well, bad);
        assert!(!chunked.is_done());
        assert_eq!(chunked.decode(&mut []), bad);
    }

    proptest! {
        #[test]
        fn chunks_that_were_encoded_are_decoded(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8),
            cut in 1..64_usize,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let cuts: Vec<&[u8]> = wire.chunks(cut).collect();
            let (chunked, payload, behind) = decode(&cuts).unwrap();
            prop_assert_eq!(payload, chunks.concat());
            prop_assert!(chunked.is_done() && behind.is_empty());
        }
    }
}
