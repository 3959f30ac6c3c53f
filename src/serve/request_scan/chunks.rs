//! Where a chunked body ends, RFC 9112 section 7.1.

/// Follows the framing of a chunked body and keeps nothing of it. It accepts no more than hyper's decoder,
/// so that the two agree on the end of each body.
///
/// It refuses what hyper lets pass: a bare LF in the trailer section. RFC 9112 section 2.2 permits a
/// recipient to take it for the end of a line, and many do. To hyper it belongs to a field, which then goes
/// on over the next request's first line: `0`, CRLF, LF would swallow that request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// The size of the chunk, then the bytes that are left of it.
    size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Ahead of the first digit of a size.
    #[default]
    Start,
    Size,
    /// Behind the digits.
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
pub(super) enum Progress {
    /// All bytes belong to the body.
    Within,
    /// The body has ended after so many bytes.
    Over(usize),
    /// The byte ahead of this place breaks the framing.
    Broken(usize),
}

impl Chunks {
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Progress {
        let mut place = 0;
        while let Some(&byte) = bytes.get(place) {
            if self.at == At::Data {
                let here = bytes.len() - place;
                let here = usize::try_from(self.size).unwrap_or(usize::MAX).min(here);
                place += here;
                self.size -= here as u64;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            place += 1;
            self.at = match (self.at, byte) {
                (At::Start | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                    let size = self.size.checked_mul(16);
                    match size.and_then(|size| size.checked_add(digit)) {
                        Some(size) => self.size = size,
                        None => return Progress::Broken(place),
                    }
                    At::Size
                }
                (At::Size | At::Space, b' ' | b'\t') => At::Space,
                (At::Size | At::Space, b';') => At::Extension,
                (At::Size | At::Space | At::Extension, b'\r') => At::SizeLf,
                (At::Extension, byte) if byte != b'\n' => At::Extension,
                (At::SizeLf, b'\n') if self.size == 0 => At::Fields,
                (At::SizeLf, b'\n') => At::Data,
                (At::DataCr, b'\r') => At::DataLf,
                (At::DataLf, b'\n') => At::Start,
                (At::Fields, b'\r') => At::EndLf,
                (At::Field, b'\r') => At::FieldLf,
                (At::Fields | At::Field, byte) if byte != b'\n' => At::Field,
                (At::FieldLf, b'\n') => At::Fields,
                (At::EndLf, b'\n') => return Progress::Over(place),
                _ => return Progress::Broken(place),
            };
        }
        Progress::Within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_ends(body: &str, expected: Progress) {
        for cut in 0..=body.len() {
            let (first, second) = body.as_bytes().split_at(cut);
            let mut chunks = Chunks::default();
            let found = match chunks.follow(first) {
                Progress::Within => match chunks.follow(second) {
                    Progress::Over(place) => Progress::Over(cut + place),
                    Progress::Broken(place) => Progress::Broken(cut + place),
                    Progress::Within => Progress::Within,
                },
                found => found,
            };
            assert_eq!(found, expected, "{body:?} cut at {cut}");
        }
    }

    #[test]
    fn a_body_ends_behind_its_last_chunk_and_trailers() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "0a\r\n0\r\n\r\n0\r\n\r\n\r\n00\r\n\r\n",
            "A;name=\"value\"\r\n0123456789\r\n1 \t;x\r\n\n\r\n0;x\r\n\r\n",
            "1\t\r\na\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n",
        ] {
            assert_ends(body, Progress::Over(body.len()));
            assert_ends(&format!("{body}GET /# "), Progress::Over(body.len()));
            assert_ends(&body[..body.len() - 1], Progress::Within);
        }
    }

    #[test]
    fn what_is_no_chunk_breaks_the_body() {
        for (body, place) in [
            ("\r\n", 1),
            ("g\r\n", 1),
            (" 1\r\n", 1),
            ("0x1\r\n", 2),
            ("1\n", 2),
            ("1 2\r\n", 3),
            ("1;a\n", 4),
            ("1;a\rb", 5),
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
            assert_ends(body, Progress::Broken(place));
        }
    }
}
