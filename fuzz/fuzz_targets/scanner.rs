//! Any bytes in any cuts: `wire::Scanner` finds what it finds in one piece, and what a client
//! dispatches.
//!
//! The input is a script, of which the cuts count.

#![no_main]

#[path = "../../src/wire/reference.rs"]
mod reference;
#[path = "support/script.rs"]
mod script;

use libfuzzer_sys::fuzz_target;
use script::Script;
use sse_guard::wire::Scanner;

const BOM: &[u8] = b"\xEF\xBB\xBF";
/// Of a line that is cut, so much is kept as documented.
const KEPT: usize = 1024;

#[derive(Debug)]
struct Found {
    raw: Vec<u8>,
    id: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    has_data: bool,
}

fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Found> {
    let mut found = Vec::new();
    let mut scanner = Scanner::default();
    for chunk in chunks {
        let mut raws = 0;
        scanner.scan(chunk, |event| {
            raws += event.raw.len();
            found.push(Found {
                raw: event.raw.to_vec(),
                id: event.id.map(<[u8]>::to_vec),
                name: event.name.map(<[u8]>::to_vec),
                has_data: event.has_data,
            });
        });
        assert!(raws <= chunk.len());
    }
    found
}

fuzz_target!(|input: &[u8]| {
    let script = Script::read(input);
    let stream = &script.stream[..];
    let whole = scan([stream]);
    are_what_a_client_dispatches(&whole, stream);
    have_their_bytes(&whole, stream);

    let cut = scan(script.chunks().map(|chunk| &chunk[..]));
    assert_eq!(cut.len(), whole.len());
    for (cut, whole) in cut.iter().zip(&whole) {
        are_the_same(cut, whole);
    }
});

fn are_what_a_client_dispatches(found: &[Found], stream: &[u8]) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut last_event_id = String::new();
    let mut dispatched = Vec::new();
    for event in found {
        if let Some(id) = &event.id {
            last_event_id = text(id);
        }
        if event.has_data {
            let name = event.name.as_deref().filter(|name| !name.is_empty());
            dispatched.push((text(name.unwrap_or(b"message")), last_event_id.clone()));
        }
    }
    let expected: Vec<_> = reference::parse(stream)
        .into_iter()
        .map(|event| (event.name, event.last_event_id))
        .collect();
    assert_eq!(dispatched, expected);
}

/// In one piece the events are the stream, but for its mark and an unfinished one.
fn have_their_bytes(found: &[Found], stream: &[u8]) {
    let mut rest = stream.strip_prefix(BOM).unwrap_or(stream);
    for event in found {
        rest = rest.strip_prefix(&event.raw[..]).unwrap();
        assert!(event.raw.ends_with(b"\n") || event.raw.ends_with(b"\r"));
    }
}

fn are_the_same(cut: &Found, whole: &Found) {
    assert_eq!(cut.has_data, whole.has_data);
    is_the_same_value(cut.name.as_deref(), whole.name.as_deref());
    // Whether a NUL stands in an id is told from the part that is kept.
    let nul_beyond = whole.raw.len() > KEPT && whole.raw.contains(&0);
    if !nul_beyond {
        is_the_same_value(cut.id.as_deref(), whole.id.as_deref());
    }
    // The LF of a CRLF may have come too late to be a part of it.
    let without_lf = match &whole.raw[..] {
        [raw @ .., b'\n'] if raw.ends_with(b"\r") => raw,
        raw => raw,
    };
    assert!(whole.raw.ends_with(&cut.raw) || without_lf.ends_with(&cut.raw));
}

fn is_the_same_value(cut: Option<&[u8]>, whole: Option<&[u8]>) {
    match (cut, whole) {
        (Some(cut), Some(whole)) if cut.len() < whole.len() => {
            assert!(whole.starts_with(cut) && cut.len() >= KEPT - "event: ".len());
        }
        _ => assert_eq!(cut, whole),
    }
}
