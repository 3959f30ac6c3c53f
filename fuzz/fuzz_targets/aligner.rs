//! Any stream, any chunking, any moment of speaking, any bound: what `wire::Aligner` promises.
//!
//! The input is the bound, one byte (a digit is that number, `D` the default), and a script.

#![no_main]

#[path = "../../src/wire/reference.rs"]
mod reference;
#[path = "support/script.rs"]
mod script;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use script::{Script, Step, Words};
use sse_guard::wire::{Aligner, DEFAULT_HOLD, LineEnd};

const BOM: &[u8] = b"\xEF\xBB\xBF";
const OURS: &str = "sse-guard-fuzz";
/// A look at all that the client has got is taken only up to here, since it is taken often.
const PROBED: usize = 512;

fuzz_target!(|input: &[u8]| {
    let Some((&hold, text)) = input.split_first() else {
        return;
    };
    let hold = match hold {
        b'0'..=b'9' => usize::from(hold - b'0'),
        b'D' => DEFAULT_HOLD,
        other => usize::from(other),
    };
    let script = Script::read(text);
    let mut run = Run::new(&script.stream, hold);
    for step in &script.steps {
        match step {
            Step::Chunk(chunk) => run.push(chunk.clone()),
            Step::Speak(words) => run.speak(*words),
        }
    }
    run.end(script.fails);
});

/// What is true of the place behind so many bytes of the stream, told without `wire`.
#[derive(Clone, Copy)]
struct Place {
    /// A line starts here and no field stands open.
    boundary: bool,
    /// It is a boundary if the CR before it is the whole line end.
    by_cr: bool,
    /// The last boundary behind a line up to here. One behind a CR counts from the next byte on.
    settled: usize,
    /// As seen last, a CR just before not counted: it may be half of one.
    line_end: LineEnd,
}

fn places(stream: &[u8]) -> Vec<Place> {
    let start = if stream.starts_with(BOM) {
        BOM.len()
    } else {
        0
    };
    let (mut line, mut open) = (start, false);
    let mut line_end = LineEnd::Lf;
    let (mut settled, mut behind_cr) = (0, 0);
    let mut places = Vec::with_capacity(stream.len() + 1);
    for at in 0..=stream.len() {
        let before = at.checked_sub(1).map(|before| stream[before]);
        let (cr, lf) = (before == Some(b'\r'), before == Some(b'\n'));
        let half = cr && stream.get(at) == Some(&b'\n');
        settled = settled.max(std::mem::take(&mut behind_cr));
        let mut place = Place {
            boundary: at == 0 || at == start,
            by_cr: false,
            settled,
            line_end,
        };
        if lf || cr {
            let end = if lf && at >= 2 && stream[at - 2] == b'\r' {
                LineEnd::CrLf
            } else if lf {
                LineEnd::Lf
            } else {
                LineEnd::Cr
            };
            let text = &stream[line..at - if end == LineEnd::CrLf { 2 } else { 1 }];
            let opens = match text.first() {
                None => false,
                Some(b':') => open,
                Some(_) => true,
            };
            place.by_cr = cr && !opens;
            if !half {
                place.boundary = !opens;
                (line, open, line_end) = (at, opens, end);
            }
            if lf {
                place.line_end = line_end;
            }
            if place.boundary {
                *(if lf { &mut settled } else { &mut behind_cr }) = at;
                place.settled = settled;
            }
        }
        places.push(place);
    }
    places
}

struct Run<'a> {
    stream: &'a [u8],
    places: Vec<Place>,
    hold: usize,
    aligner: Aligner,
    /// So much of the stream has come.
    came: usize,
    /// So much of it has left or been dropped for what we said.
    left: usize,
    nothing_left: bool,
    injected_first: bool,
    /// We spoke behind a CR, and nothing has come since.
    spoke_behind_cr: bool,
    client: Vec<u8>,
    may_say_events: bool,
}

impl<'a> Run<'a> {
    fn new(stream: &'a [u8], hold: usize) -> Self {
        Self {
            stream,
            places: places(stream),
            hold,
            aligner: Aligner::with_hold(hold),
            came: 0,
            left: 0,
            nothing_left: true,
            injected_first: false,
            spoke_behind_cr: false,
            client: Vec::new(),
            // Ours are told from the stream's own by their name.
            may_say_events: !stream
                .windows(OURS.len())
                .any(|bytes| bytes == OURS.as_bytes()),
        }
    }

    fn push(&mut self, chunk: Bytes) {
        let held_before = self.aligner.held();
        self.came += chunk.len();
        if self.spoke_behind_cr && !chunk.is_empty() {
            self.spoke_behind_cr = false;
            if chunk[0] == b'\n' {
                self.left += 1;
            }
        }
        self.aligner.push(chunk.clone());
        let mut pieces = 0;
        while let Some(piece) = self.aligner.pop() {
            pieces += 1;
            self.take(&piece);
            if held_before == 0 && self.aligner.held() == 0 && self.aligner.at_boundary() {
                // Aligned already: as it is, without a copy.
                assert_eq!(pieces, 1);
                assert!(chunk.as_ptr_range().contains(&piece.as_ptr()));
            }
        }
        self.settle_mark();
        self.check();
    }

    fn take(&mut self, piece: &[u8]) {
        assert!(!piece.is_empty());
        self.settle_mark();
        self.nothing_left = false;
        assert_eq!(
            self.stream.get(self.left..self.left + piece.len()),
            Some(piece)
        );
        self.left += piece.len();
        assert!(self.left <= self.came);
        self.client.extend_from_slice(piece);
    }

    /// The mark is dropped with the first that leaves, or instead of it.
    fn settle_mark(&mut self) {
        let is_due = self.aligner.held() + self.left < self.came;
        if is_due && self.nothing_left && self.injected_first && self.stream.starts_with(BOM) {
            self.nothing_left = false;
            self.left += BOM.len();
        }
    }

    /// When all that is ready has been taken.
    fn check(&self) {
        let held = self.aligner.held();
        assert_eq!(self.left + held, self.came, "no byte is lost or doubled");
        assert!(held <= self.hold.max(BOM.len() - 1), "held: {held}");
        assert_eq!(self.aligner.is_empty(), held == 0);

        let here = self.places[self.left];
        let said = self.aligner.at_boundary();
        if held > 0 || said {
            assert!(here.boundary || here.by_cr, "at {}", self.left);
        }
        if here.boundary && !here.by_cr {
            assert!(said, "at {}", self.left);
        }
        assert!(
            self.places[self.came].settled <= self.left,
            "a whole event is held"
        );
        assert_eq!(self.aligner.line_end(), self.places[self.came].line_end);
    }

    fn speak(&mut self, words: Words) {
        if !self.aligner.at_boundary() {
            return;
        }
        if self.client.len() <= PROBED {
            self.probe();
        }
        let end = std::str::from_utf8(self.aligner.line_end().as_bytes()).unwrap();
        let text = match words {
            Words::Event if self.may_say_events => {
                format!("event: {OURS}{end}data: {{}}{end}{end}")
            }
            Words::Block => format!(": hb{end}{end}"),
            _ => format!(": hb{end}"),
        };
        self.client.extend_from_slice(text.as_bytes());
        self.aligner.injected();
        self.injected_first |= self.nothing_left;
        self.spoke_behind_cr = self.left > 0
            && self.stream[self.left - 1] == b'\r'
            // What is held behind the CR tells that it stands alone.
            && self.left == self.came;
        self.check();
    }

    /// The client has whole events alone: one put here is dispatched as itself.
    fn probe(&self) {
        let before = reference::parse(&self.client);
        let mut probe = self.client.clone();
        probe.extend_from_slice(b"data: probe\n\n");
        let mut after = reference::parse(&probe);
        let probe = after.pop().unwrap();
        assert_eq!(after, before);
        assert_eq!((&*probe.name, &*probe.data), ("message", "probe"));
    }

    fn end(mut self, fails: bool) {
        if fails {
            let held = self.aligner.held();
            assert_eq!(self.aligner.discard(), held);
            assert_eq!(self.aligner.held(), 0);
            assert_eq!(self.aligner.finish(), None);
        } else {
            let held = self.aligner.held();
            let tail = self.aligner.finish();
            assert_eq!(self.aligner.finish(), None);
            match &tail {
                Some(tail) => self.take(tail),
                // A mark that we spoke ahead of is all that may have been there.
                None => assert!(held == 0 || held == BOM.len()),
            }
            self.settle_mark();
            assert_eq!(self.left, self.stream.len());
            self.check();
        }
        assert!(self.aligner.is_empty());
        let mut events = reference::parse(&self.client);
        if self.may_say_events {
            events.retain(|event| event.name != OURS);
        }
        let expected = reference::parse(&self.stream[..self.left]);
        assert_eq!(events, expected);
    }
}
