//! Whole events: what leaves an [`Aligner`] ends at an event boundary.

use super::position::{LineEnd, Position};
use bytes::{Buf, Bytes, BytesMut};

/// How many bytes of an incomplete event are held back by default: 64 KiB.
pub const DEFAULT_HOLD: usize = 64 * 1024;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Cuts a stream of chunks at event boundaries.
///
/// Guarantees that the bytes that leave are the bytes that came, in order, and that between two
/// pieces that leave the stream is at an event boundary, so that one may speak, with these
/// exceptions:
///
/// - an event larger than the bound leaves in pieces as it comes; [`at_boundary`](Self::at_boundary)
///   is false until it has ended;
/// - what one has said stands before the stream's byte order mark: the mark is dropped, since a
///   client takes it for one only at the very start;
/// - what one has said stands between a CR and its LF: the LF is dropped, since the CR has ended
///   the line already.
///
/// A chunk that ends at a boundary leaves as it is: no copy and no look at more than its last
/// bytes. At most the bound is held (but always what may become a byte order mark, up to two
/// bytes), and nothing is held while no event is cut.
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
    /// A `u32`, as there is one of these in each stream.
    hold: u32,
    /// The bytes tell nothing of events.
    opaque: bool,
    /// Where what has come ends, which is where `held` ends.
    position: Position,
    held: BytesMut,
    /// Complete, and not taken yet. Two at the most: what was held with what completed it, and
    /// what came behind that.
    ready: [Option<Bytes>; 2],
    /// An event over the bound is leaving in pieces.
    oversize: bool,
    nothing_left_yet: bool,
    injected_first: bool,
    drop_lf: bool,
}

impl Default for Aligner {
    fn default() -> Self {
        Self::new()
    }
}

impl Aligner {
    /// One that holds at most [`DEFAULT_HOLD`] bytes.
    pub fn new() -> Self {
        Self::with_hold(DEFAULT_HOLD)
    }

    /// One that holds at most `hold` bytes of an incomplete event. With 0 everything leaves as it
    /// comes, and the aligner just knows where the stream stands.
    pub fn with_hold(hold: usize) -> Self {
        Self {
            hold: u32::try_from(hold).unwrap_or(u32::MAX),
            opaque: false,
            position: Position::START,
            held: BytesMut::new(),
            ready: [None, None],
            oversize: false,
            nothing_left_yet: true,
            injected_first: false,
            drop_lf: false,
        }
    }

    /// One for bytes that tell nothing of events, as those in a content coding: everything leaves as it
    /// comes, and no place in it is a boundary.
    pub(crate) fn opaque() -> Self {
        Self {
            opaque: true,
            ..Self::with_hold(0)
        }
    }

    /// Takes the next chunk. Take all that is ready with [`pop`](Self::pop) before the next.
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
        // A byte order mark is held whatever the bound: it may have to be dropped whole.
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
            // So little may be a part of the mark, which must not leave in two pieces.
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
        if std::mem::take(&mut self.nothing_left_yet)
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
            // Completed events and the start of one over the bound, both behind what was held.
            [_, Some(second)] => {
                let mut joined = BytesMut::from(&second[..]);
                joined.extend_from_slice(&piece);
                *second = joined.freeze();
            }
        }
    }

    /// The next piece that may leave.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.ready[0].take();
        if piece.is_some() {
            self.ready[0] = self.ready[1].take();
        }
        piece
    }

    /// The stream has ended by itself: what is held leaves as it came. A client drops an event
    /// without its blank line, and must do so with us in between as without.
    pub fn finish(&mut self) -> Option<Bytes> {
        let held = std::mem::take(&mut self.held).freeze();
        self.release(held);
        self.pop()
    }

    /// The stream has failed, or is ended by us: drops what is held and returns how much it was.
    pub fn discard(&mut self) -> usize {
        self.ready = [None, None];
        std::mem::take(&mut self.held).len()
    }

    /// Whether what has left ends at an event boundary, once all that is ready has been taken with
    /// [`pop`](Self::pop).
    pub fn at_boundary(&self) -> bool {
        !self.held.is_empty() || (!self.opaque && self.position.at_boundary())
    }

    /// An injected event has been sent behind the upstream's bytes.
    pub fn injected(&mut self) {
        self.injected_first |= self.nothing_left_yet;
        self.drop_lf = self.held.is_empty() && self.position.behind_cr();
    }

    /// The stream's own line end, as seen last.
    pub fn line_end(&self) -> LineEnd {
        self.position.line_end()
    }

    /// Whether all that has come has left.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.ready[0].is_none()
    }

    /// How many bytes are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn hold(&self) -> usize {
        usize::try_from(self.hold).unwrap_or(usize::MAX)
    }

    /// Whether it may hold bytes back.
    pub(crate) fn holds_back(&self) -> bool {
        self.hold > 0
    }

    /// What is held back.
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
    fn an_aligned_chunk_leaves_as_the_same_bytes() {
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
    fn where_nothing_is_held_no_chunk_is_copied() {
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
    fn whole_events_leave_at_once_and_the_tail_waits() {
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
    fn a_comment_line_of_the_upstream_leaves_at_once() {
        let mut aligner = Aligner::new();
        assert_eq!(all(&mut aligner, b":\n"), [":\n"]);
        assert_eq!(
            all(&mut aligner, b"data: 1\n\n: a\n: b"),
            ["data: 1\n\n: a\n"]
        );
        assert_eq!(all(&mut aligner, b"\n"), [": b\n"]);
    }

    #[test]
    fn an_event_over_the_bound_passes_in_pieces_until_it_ends() {
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
    fn a_crlf_cut_in_two_keeps_its_halves_together() {
        let mut aligner = Aligner::new();
        assert!(all(&mut aligner, b"data: 1\r\n\r").is_empty());
        assert_eq!(all(&mut aligner, b"\n"), ["data: 1\r\n\r\n"]);
        assert_eq!(aligner.line_end(), LineEnd::CrLf);
    }

    #[test]
    fn events_in_bare_crs_leave_at_once() {
        let mut aligner = Aligner::new();
        assert_eq!(all(&mut aligner, b"data: 1\r\r"), ["data: 1\r\r"]);
        assert!(aligner.at_boundary());
        assert_eq!(all(&mut aligner, b"data: 2\r"), [""; 0]);
        assert_eq!(all(&mut aligner, b"\r"), ["data: 2\r\r"]);
    }

    #[test]
    fn an_lf_behind_our_words_behind_its_cr_is_dropped() {
        let mut aligner = Aligner::new();
        assert_eq!(all(&mut aligner, b"data: 1\r\r"), ["data: 1\r\r"]);
        aligner.injected();
        assert_eq!(all(&mut aligner, b"\n"), [""; 0]);
        assert_eq!(all(&mut aligner, b"\ndata: 2\n\n"), ["\ndata: 2\n\n"]);
    }

    #[test]
    fn a_bom_behind_our_words_is_dropped_once_however_it_is_cut() {
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
    fn a_bom_that_stands_first_stays() {
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
    fn what_is_held_when_the_upstream_fails_is_dropped() {
        let mut aligner = Aligner::new();
        assert!(all(&mut aligner, b"data: half").is_empty());
        assert_eq!(aligner.discard(), 10);
        assert_eq!(aligner.finish(), None);
    }
}
