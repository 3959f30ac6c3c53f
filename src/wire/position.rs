//! The state machine over bytes: position in a line, and whether an event is open.

use memchr::{memchr2, memrchr2_iter};

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];
const LF: u8 = b'\n';
const CR: u8 = b'\r';

/// A line end of a stream. All three are valid, also mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEnd {
    /// `\n`, assumed until the stream shows another.
    #[default]
    Lf,
    /// `\r\n`
    CrLf,
    /// `\r`
    Cr,
}

impl LineEnd {
    /// Returns its bytes.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
            Self::Cr => b"\r",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineState {
    /// At the start of the stream, after this many bytes of a byte order mark.
    StreamStart(u8),
    Start,
    /// After a CR. It has ended its line, but an LF that follows belongs to it.
    AfterCr,
    Inside,
}

/// The position after a run of bytes in the line grammar.
///
/// An *event boundary* is a position where a line starts and no event is open: after a blank line, after a
/// comment that follows one, and at the start of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    line: LineState,
    /// A field has begun since the last blank line.
    open: bool,
    line_end: Option<LineEnd>,
}

impl Position {
    pub(super) const START: Self = Self {
        line: LineState::StreamStart(0),
        open: false,
        line_end: None,
    };

    pub(super) fn line_end(&self) -> LineEnd {
        self.line_end.unwrap_or_default()
    }

    pub(super) fn at_boundary(&self) -> bool {
        !self.open
            && match self.line {
                LineState::StreamStart(bom) => bom == 0,
                LineState::Start => true,
                LineState::AfterCr => self.cr_stands_alone(),
                LineState::Inside => false,
            }
    }

    /// Whether the last bytes may become a byte order mark.
    pub(super) fn in_bom(&self) -> bool {
        matches!(self.line, LineState::StreamStart(1..))
    }

    pub(super) fn is_after_cr(&self) -> bool {
        self.line == LineState::AfterCr
    }

    /// Whether a CR at the end of the input is taken for the whole line end. With CRLF line ends, and as long as
    /// no line end was seen, its LF is expected. In a stream with CR line ends that would delay each event until
    /// the next.
    fn cr_stands_alone(&self) -> bool {
        matches!(self.line_end, Some(LineEnd::Cr | LineEnd::Lf))
    }

    /// Moves over the LF of a CRLF.
    pub(super) fn skip_lf(&mut self) {
        self.line = LineState::Start;
        self.line_end = Some(LineEnd::CrLf);
    }

    /// Moves over `chunk` if its last bytes show that it ends at a boundary. A `false` does not mean that it ends
    /// elsewhere.
    pub(super) fn jump(&mut self, chunk: &[u8]) -> bool {
        let (line, line_end) = match *chunk {
            [.., LF, LF] => (LineState::Start, LineEnd::Lf),
            [.., LF | CR, CR, LF] => (LineState::Start, LineEnd::CrLf),
            [.., CR, CR] => (LineState::AfterCr, LineEnd::Cr),
            _ => return false,
        };
        *self = Self {
            line,
            open: false,
            line_end: Some(line_end),
        };
        true
    }

    /// Moves over all of `bytes`. Returns the offset of the last boundary in them.
    ///
    /// Bytes before the last blank line are not read: the end of that line is a boundary in any case.
    pub(super) fn last_boundary(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut line_ends = memrchr2_iter(CR, LF, bytes);
        let blank = line_ends.find(|&end| self.jump(&bytes[..=end]));
        let mut last = blank.map(|end| end + 1);
        let mut at = last.unwrap_or(0);
        while let Some(ahead) = self.next_boundary(&bytes[at..]) {
            at += ahead;
            last = Some(at);
        }
        last
    }

    /// Moves to the first boundary in `bytes` and returns its offset; over all of them if there is none. Offset 0
    /// is one only if these bytes decide it, after a CR without LF.
    pub(super) fn next_boundary(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.line {
                LineState::StreamStart(seen) => {
                    if byte == BOM[usize::from(seen)] {
                        at += 1;
                        self.line = match seen {
                            2 => LineState::Start,
                            _ => LineState::StreamStart(seen + 1),
                        };
                    } else if seen == 0 {
                        self.line = LineState::Start;
                    } else {
                        self.line = LineState::Inside;
                        self.open = true;
                    }
                }
                LineState::AfterCr if byte == LF => {
                    self.skip_lf();
                    at += 1;
                    if !self.open {
                        return Some(at);
                    }
                }
                LineState::AfterCr => {
                    self.line = LineState::Start;
                    self.line_end = Some(LineEnd::Cr);
                    if !self.open {
                        return Some(at);
                    }
                }
                LineState::Start => {
                    match byte {
                        LF | CR => self.open = false,
                        b':' => {}
                        _ => self.open = true,
                    }
                    self.line = LineState::Inside;
                }
                LineState::Inside => match memchr2(CR, LF, &bytes[at..]) {
                    None => return None,
                    Some(ahead) => {
                        at += ahead + 1;
                        if bytes[at - 1] == LF {
                            self.line = LineState::Start;
                            self.line_end = Some(LineEnd::Lf);
                            if !self.open {
                                return Some(at);
                            }
                        } else {
                            self.line = LineState::AfterCr;
                            if at == bytes.len() && self.at_boundary() {
                                return Some(at);
                            }
                        }
                    }
                },
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The position after all bytes, with the first and the last boundary.
    fn after(bytes: &[u8]) -> (Position, Option<(usize, usize)>) {
        let (mut position, mut found) = (Position::START, None);
        let mut at = 0;
        while let Some(ahead) = position.next_boundary(&bytes[at..]) {
            at += ahead;
            found = Some((found.map_or(at, |(first, _)| first), at));
        }
        let mut short = Position::START;
        let last = short.last_boundary(bytes);
        assert_eq!(
            last,
            found.map(|(_, last)| last),
            "{}",
            bytes.escape_ascii()
        );
        assert_eq!((short.line, short.open), (position.line, position.open));
        assert_eq!(short.line_end(), position.line_end());
        (position, found)
    }

    #[test]
    fn boundaries_are_after_blank_lines_and_comments_between_events() {
        for (bytes, first, last) in [
            (&b"data: a\n\n"[..], 9, 9),
            (b"data: a\r\n\r\n", 11, 11),
            (b"data: a\r\r", 9, 9),
            (b"data: a\n\r\n", 10, 10),
            (b"data: a\r\n\n", 10, 10),
            (b"data: a\r\n\r\ndata", 11, 11),
            (b"data: a\n\n: c\ndata: b\n\nid", 9, 22),
            (b": c\n", 4, 4),
            (b": c\n: d\ndata: x\n: e\n", 4, 8),
            (b"\n", 1, 1),
            (b"\xEF\xBB\xBFdata: a\n\n", 12, 12),
            (b"\xEF\xBB\xBF: c\ndata", 7, 7),
        ] {
            assert_eq!(
                after(bytes).1,
                Some((first, last)),
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn boundary_is_never_inside_an_event() {
        for bytes in [
            &b"data: a"[..],
            b"data: a\n",
            b"data: a\r",
            b"data: a\n: c\n",
            b"id: 3\n",
            b"retry: 3\n",
            b": c",
            b"data: a\r\n\r",
            b": c\r",
            b"\xEF\xBB",
            b"\xEF\xBBdata: a\n",
        ] {
            let (position, found) = after(bytes);
            assert_eq!(found, None, "{}", bytes.escape_ascii());
            assert!(!position.at_boundary(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn jump_moves_to_the_position_of_the_full_scan() {
        for bytes in [
            &b"data: a\n\n"[..],
            b"data: a\r\n\r\n",
            b"data: a\r\r",
            b"data: a\n\r\n",
            b"data: a\r\r\n",
        ] {
            let (walked, _) = after(bytes);
            let mut jumped = Position::START;
            assert!(jumped.jump(bytes));
            assert_eq!(walked.line, jumped.line, "{}", bytes.escape_ascii());
            assert_eq!(walked.line_end(), jumped.line_end());
            assert!(walked.at_boundary() && jumped.at_boundary());
        }
    }

    #[test]
    fn cr_in_a_stream_of_crs_is_a_line_end_at_once() {
        let (position, found) = after(b"data: a\r\rdata: b\r\r");
        assert_eq!(found, Some((9, 18)));
        assert_eq!(position.line_end(), LineEnd::Cr);
    }
}
