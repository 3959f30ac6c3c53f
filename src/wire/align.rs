//! Whole events: the output of an [`Aligner`] ends at an event boundary.

use super::position::{LineEnd, Position};
use bytes::{Buf, Bytes, BytesMut};

/// How many bytes of an incomplete event are held back by default: 64 KiB.
pub const DEFAULT_HOLD: usize = 64 * 1024;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Cuts a stream of chunks at event boundaries.
///
/// The output has the bytes of the input, in order, and between two pieces of output the stream is at an event
/// boundary, where an event can be injected, with these exceptions:
///
/// - an event larger than the bound passes in pieces; [`at_boundary`](Self::at_boundary) is false until it
///   ends;
/// - after an injection before the stream's byte order mark the mark is dropped, since clients accept it only
///   at the very start;
/// - after an injection between a CR and its LF the LF is dropped, since the CR has ended the line already.
///
/// A chunk that ends at a boundary passes without a copy, and only its last bytes are read. At most the bound is
/// held, and in addition up to two bytes that may become a byte order mark. Without an incomplete event nothing
/// is held.
///
/// ```
/// use bytes::Bytes;
/// use sse_guard::wire::Aligner;
///
/// let mut aligner = Aligner::new();
/// aligner.push(Bytes::from("data: 1\n\ndata: 2"));
/// assert_eq!(aligner.pop(), Some(Bytes::from("data: 1\n\n")));
/// assert_eq!(aligner.pop(), None);
/// aligner.push(Bytes::from("\n\n"));
/// assert_eq!(aligner.pop(), Some(Bytes::from("data: 2\n\n")));
/// ```
#[derive(Debug)]
pub struct Aligner {
    /// A `u32` to save memory: there is one in each stream.
    hold: u32,
    /// The bytes are not those of events, as in a content coding.
    opaque: bool,
    /// The position at the end of the input, which is the end of `held`.
    position: Position,
    held: BytesMut,
    /// Complete pieces that are not taken yet. At most two: the held event with the bytes that complete it, and
    /// the rest of the chunk.
    ready: [Option<Bytes>; 2],
    /// An event over the bound is passing in pieces.
    oversize: bool,
    is_output_empty: bool,
    injected_first: bool,
    drop_lf: bool,
}

impl Default for Aligner {
    fn default() -> Self {
        Self::new()
    }
}

impl Aligner {
    /// Creates an aligner that holds at most [`DEFAULT_HOLD`] bytes.
    pub fn new() -> Self {
        Self::with_hold(DEFAULT_HOLD)
    }

    /// Creates an aligner that holds at most `hold` bytes of an incomplete event. With 0 each chunk passes at
    /// once, and the aligner only tracks the position.
    pub fn with_hold(hold: usize) -> Self {
        Self {
            hold: u32::try_from(hold).unwrap_or(u32::MAX),
            opaque: false,
            position: Position::START,
            held: BytesMut::new(),
            ready: [None, None],
            oversize: false,
            is_output_empty: true,
            injected_first: false,
            drop_lf: false,
        }
    }

    /// Creates an aligner for bytes that are not those of events, as in a content coding: each chunk passes at
    /// once, and no position is a boundary.
    pub(crate) fn opaque() -> Self {
        Self {
            opaque: true,
            ..Self::with_hold(0)
        }
    }

    /// Takes the next chunk. Call [`pop`](Self::pop) until it returns `None` before the next.
    pub fn push(&mut self, mut chunk: Bytes) {
        debug_assert!(self.ready == [None, None], "pop before the next push");
        if chunk.is_empty() {
            return;
        }
        if self.opaque {
            self.release(chunk);
            return;
        }
        if std::mem::take(&mut self.drop_lf) && chunk[0] == b'\n' {
            chunk.advance(1);
            self.position.skip_lf();
            if chunk.is_empty() {
                return;
            }
        }
        if self.held.is_empty() && self.position.jump(&chunk) {
            self.oversize = false;
            self.release(chunk);
            return;
        }
        self.push_unaligned(chunk);
    }

    fn push_unaligned(&mut self, mut chunk: Bytes) {
        if !self.held.is_empty()
            && let Some(first) = self.position.next_boundary(&chunk)
        {
            self.held.extend_from_slice(&chunk.split_to(first));
            let joined = std::mem::take(&mut self.held).freeze();
            self.release(joined);
        }
        if self.held.is_empty()
            && let Some(last) = self.position.last_boundary(&chunk)
        {
            self.release(chunk.split_to(last));
            self.oversize = false;
        }
        // A byte order mark is held even above the bound, as it may be dropped as a whole.
        let hold = if self.position.in_bom() {
            self.hold().max(BOM.len())
        } else {
            self.hold()
        };
        if self.oversize {
            self.release(chunk);
        } else if self.held.len() + chunk.len() > hold {
            self.oversize = true;
            let mut held = std::mem::take(&mut self.held);
            // It may be a part of the mark, which must not be split.
            if (1..BOM.len()).contains(&held.len()) {
                held.extend_from_slice(&chunk);
                chunk.clear();
            }
            self.release(held.freeze());
            self.release(chunk);
        } else {
            self.held.extend_from_slice(&chunk);
        }
    }

    fn release(&mut self, mut piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if std::mem::take(&mut self.is_output_empty)
            && self.injected_first
            && piece.starts_with(BOM)
        {
            piece.advance(BOM.len());
            if piece.is_empty() {
                return;
            }
        }
        match &mut self.ready {
            [first @ None, _] => *first = Some(piece),
            [_, second @ None] => *second = Some(piece),
            // Complete events and the start of one over the bound, both after the held bytes.
            [_, Some(second)] => {
                let mut joined = BytesMut::from(&second[..]);
                joined.extend_from_slice(&piece);
                *second = joined.freeze();
            }
        }
    }

    /// Returns the next piece of output.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.ready[0].take();
        if piece.is_some() {
            self.ready[0] = self.ready[1].take();
        }
        piece
    }

    /// Ends the stream properly: returns the held bytes unchanged. Clients discard an event without its blank
    /// line, which is left to them.
    pub fn finish(&mut self) -> Option<Bytes> {
        let held = std::mem::take(&mut self.held).freeze();
        self.release(held);
        self.pop()
    }

    /// Ends a stream that failed or is broken off: drops the held bytes and returns how many there were.
    pub fn discard(&mut self) -> usize {
        self.ready = [None, None];
        std::mem::take(&mut self.held).len()
    }

    /// Returns true if the output ends at an event boundary, once [`pop`](Self::pop) has returned `None`.
    pub fn at_boundary(&self) -> bool {
        !self.held.is_empty() || (!self.opaque && self.position.at_boundary())
    }

    /// Records that an event was injected after the output so far.
    pub fn injected(&mut self) {
        self.injected_first |= self.is_output_empty;
        self.drop_lf = self.held.is_empty() && self.position.is_after_cr();
    }

    /// Returns the last line end of the stream.
    pub fn line_end(&self) -> LineEnd {
        self.position.line_end()
    }

    /// Returns true if all input has been returned.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.ready[0].is_none()
    }

    /// Returns the number of held bytes.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn hold(&self) -> usize {
        usize::try_from(self.hold).unwrap_or(usize::MAX)
    }

    /// Whether an incomplete event is held.
    pub(crate) fn holds_back(&self) -> bool {
        self.hold > 0
    }

    /// The held bytes.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(aligner: &mut Aligner, chunk: &'static [u8]) -> Vec<Bytes> {
        aligner.push(Bytes::from_static(chunk));
        std::iter::from_fn(|| aligner.pop()).collect()
    }

    #[test]
    fn aligned_chunk_passes_without_a_copy() {
        let mut aligner = Aligner::new();
        for chunk in [&b"data: 1\n\n"[..], b"data: 2\r\n\r\n", b"data: 3\r\r"] {
            let chunk = Bytes::copy_from_slice(chunk);
            aligner.push(chunk.clone());
            let left = aligner.pop().unwrap();
            assert_eq!(left.as_ptr(), chunk.as_ptr());
            assert_eq!(left.len(), chunk.len());
            assert_eq!(aligner.held(), 0);
        }
    }

    #[test]
    fn aligner_without_hold_copies_no_chunk() {
        let mut aligner = Aligner::with_hold(0);
        for chunk in [&b"\xEF\xBB\xBF"[..], b"data: 1", b"2\n\ndata: 3"] {
            let chunk = Bytes::copy_from_slice(chunk);
            aligner.push(chunk.clone());
            assert_eq!(aligner.pop().unwrap().as_ptr(), chunk.as_ptr());
            while let Some(piece) = aligner.pop() {
                assert!(chunk.as_ptr_range().contains(&piece.as_ptr()));
            }
        }
    }

    #[test]
    fn whole_events_pass_at_once_and_the_tail_is_held() {
        let mut aligner = Aligner::new();
        assert_eq!(all(&mut aligner, b"data: 1\n\ndata"), ["data: 1\n\n"]);
        assert_eq!(aligner.held(), 4);
        assert!(aligner.at_boundary());
        assert_eq!(
            all(&mut aligner, b": 2\n\ndata: 3\n\nid"),
            ["data: 2\n\n", "data: 3\n\n"]
        );
        assert_eq!(aligner.finish().unwrap(), "id");
        assert_eq!(aligner.finish(), None);
    }

    #[test]
    fn comment_line_of_the_upstream_passes_at_once() {
        let mut aligner = Aligner::new();
        assert_eq!(all(&mut aligner, b":\n"), [":\n"]);
        assert_eq!(
            all(&mut aligner, b"data: 1\n\n: a\n: b"),
            ["data: 1\n\n: a\n"]
        );
        assert_eq!(all(&mut aligner, b"\n"), [": b\n"]);
    }

    #[test]
    fn event_over_the_bound_passes_in_pieces_until_it_ends() {
        let mut aligner = Aligner::with_hold(8);
        assert!(all(&mut aligner, b"data: 12").is_empty());
        assert_eq!(all(&mut aligner, b"3"), ["data: 12", "3"]);
        assert!(!aligner.at_boundary());
        assert_eq!(all(&mut aligner, b"45"), ["45"]);
        assert_eq!(all(&mut aligner, b"\n\nda"), ["\n\n"]);
        assert!(aligner.at_boundary());
        assert_eq!(aligner.held(), 2);
        assert_eq!(
            all(&mut aligner, b"ta\n\ndata: x\n\ndata: 456789"),
            ["data\n\n", "data: x\n\ndata: 456789"]
        );
        assert!(!aligner.at_boundary());
    }

    #[test]
    fn crlf_split_over_two_chunks_stays_together() {
        let mut aligner = Aligner::new();
        assert!(all(&mut aligner, b"data: 1\r\n\r").is_empty());
        assert_eq!(all(&mut aligner, b"\n"), ["data: 1\r\n\r\n"]);
        assert_eq!(aligner.line_end(), LineEnd::CrLf);
    }

    #[test]
    fn events_with_cr_line_ends_pass_at_once() {
        let mut aligner = Aligner::new();
        assert_eq!(all(&mut aligner, b"data: 1\r\r"), ["data: 1\r\r"]);
        assert!(aligner.at_boundary());
        assert_eq!(all(&mut aligner, b"data: 2\r"), [""; 0]);
        assert_eq!(all(&mut aligner, b"\r"), ["data: 2\r\r"]);
    }

    #[test]
    fn lf_after_an_injection_after_its_cr_is_dropped() {
        let mut aligner = Aligner::new();
        assert_eq!(all(&mut aligner, b"data: 1\r\r"), ["data: 1\r\r"]);
        aligner.injected();
        assert_eq!(all(&mut aligner, b"\n"), [""; 0]);
        assert_eq!(all(&mut aligner, b"\ndata: 2\n\n"), ["\ndata: 2\n\n"]);
    }

    #[test]
    fn bom_after_an_injection_is_dropped_once_for_each_split() {
        for hold in [0, 16] {
            for cut in 0..4 {
                let stream = b"\xEF\xBB\xBF\xEF\xBB\xBFdata: 1\n\n";
                let mut aligner = Aligner::with_hold(hold);
                aligner.injected();
                let mut left = all(&mut aligner, &stream[..cut]);
                left.extend(all(&mut aligner, &stream[cut..]));
                assert_eq!(left.concat(), b"\xEF\xBB\xBFdata: 1\n\n", "{hold} {cut}");
            }
        }
    }

    #[test]
    fn bom_at_the_start_passes() {
        let mut aligner = Aligner::new();
        assert_eq!(
            all(&mut aligner, b"\xEF\xBB\xBFdata: 1\n\n")[0],
            &b"\xEF\xBB\xBFdata: 1\n\n"[..]
        );
        aligner.injected();
        assert_eq!(
            all(&mut aligner, b"\xEF\xBB\xBFdata: 2\n\n")[0],
            &b"\xEF\xBB\xBFdata: 2\n\n"[..]
        );
    }

    #[test]
    fn held_bytes_are_dropped_when_the_upstream_fails() {
        let mut aligner = Aligner::new();
        assert!(all(&mut aligner, b"data: half").is_empty());
        assert_eq!(aligner.discard(), 10);
        assert_eq!(aligner.finish(), None);
    }
}
