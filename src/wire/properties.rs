//! Properties for any stream, any split into chunks and any moment of injection.

use super::reference::{self, Dispatched};
use super::{Aligner, Encoded, Scanner};
use bytes::Bytes;
use proptest::prelude::*;

/// Pieces of streams, weighted towards line ends and fields.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(b"\n".to_vec()),
        3 => Just(b"\r".to_vec()),
        4 => Just(b"\r\n".to_vec()),
        4 => Just(b"data: x".to_vec()),
        2 => Just(b"data".to_vec()),
        2 => Just(b"id: 1".to_vec()),
        1 => Just(b"id".to_vec()),
        2 => Just(b"event: e".to_vec()),
        2 => Just(b": comment".to_vec()),
        1 => Just(b":".to_vec()),
        1 => Just(b"retry: 10".to_vec()),
        1 => Just(b"\xEF\xBB\xBF".to_vec()),
        1 => Just(b"\xEF".to_vec()),
        1 => Just(b"\0".to_vec()),
        1 => "[a-z: ]{0,40}".prop_map(String::into_bytes),
    ]
}

/// Streams of mixed line ends, of one line end, and with or without a byte order mark.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let mixed = prop::collection::vec(piece(), 0..40).prop_map(|pieces| pieces.concat());
    let line = prop::sample::select(vec!["data: x", "id: 2", "event: e", ": c", "", ""]);
    let uniform = (
        prop::collection::vec(line, 0..30),
        prop::sample::select(vec!["\n", "\r\n", "\r"]),
    )
        .prop_map(|(lines, end)| {
            lines
                .iter()
                .flat_map(|line| [*line, end])
                .collect::<String>()
        })
        .prop_map(String::into_bytes);
    (any::<bool>(), prop_oneof![mixed, uniform]).prop_map(|(bom, rest)| {
        let bom: &[u8] = if bom { b"\xEF\xBB\xBF" } else { b"" };
        [bom, &rest].concat()
    })
}

/// Lengths of the chunks, and whether to inject before each.
fn cuts() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((1..12_usize, any::<bool>()), 1..60)
}

#[derive(Debug, Clone, Copy)]
enum Style {
    Line,
    Block,
    Event,
}

const INJECTED: &str = "sse-guard-test";

impl Style {
    fn encoded(self) -> Encoded {
        match self {
            Self::Line => Encoded::comment("hb", false),
            Self::Block => Encoded::comment("hb", true),
            Self::Event => Encoded::event(Some(INJECTED), "{}"),
        }
        .unwrap()
    }
}

fn chunks(stream: &[u8], cuts: &[(usize, bool)]) -> Vec<(Bytes, bool)> {
    let (mut rest, mut out) = (stream, Vec::new());
    for &(len, inject) in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, tail) = rest.split_at(len.min(rest.len()));
        out.push((Bytes::copy_from_slice(chunk), inject));
        rest = tail;
    }
    out
}

/// The bytes that a client gets, and the offsets of the injections in them.
fn through(
    stream: &[u8],
    cuts: &[(usize, bool)],
    style: Style,
    hold: usize,
) -> (Vec<u8>, Vec<usize>) {
    let (mut aligner, encoded) = (Aligner::with_hold(hold), style.encoded());
    let (mut client, mut injected) = (Vec::new(), Vec::new());
    for (chunk, inject) in chunks(stream, cuts) {
        if inject && aligner.at_boundary() {
            injected.push(client.len());
            client.extend_from_slice(&encoded.in_line_end(aligner.line_end()));
            aligner.injected();
        }
        aligner.push(chunk);
        while let Some(piece) = aligner.pop() {
            client.extend_from_slice(&piece);
        }
        assert!(aligner.held() <= hold.max(3));
    }
    if let Some(tail) = aligner.finish() {
        client.extend_from_slice(&tail);
    }
    (client, injected)
}

fn without_injected(events: Vec<Dispatched>) -> Vec<Dispatched> {
    events
        .into_iter()
        .filter(|event| event.name != INJECTED)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn aligned_stream_dispatches_the_original_events(
        stream in stream(),
        cuts in cuts(),
        style in prop::sample::select(vec![Style::Line, Style::Block, Style::Event]),
        hold in prop::sample::select(vec![0, 1, 7, 64, 65_536]),
    ) {
        let (client, _) = through(&stream, &cuts, style, hold);
        prop_assert_eq!(without_injected(reference::parse(&client)), reference::parse(&stream));
    }

    #[test]
    fn aligned_stream_without_injection_has_the_original_bytes(stream in stream(), cuts in cuts(), hold in 0..80_usize) {
        let mute: Vec<_> = cuts.iter().map(|&(len, _)| (len, false)).collect();
        let (client, _) = through(&stream, &mute, Style::Line, hold);
        prop_assert_eq!(client, stream);
    }

    /// At each offset of an injection an event could be inserted, and clients would dispatch it unchanged.
    #[test]
    fn injections_are_at_event_boundaries(stream in stream(), cuts in cuts()) {
        let (client, injected) = through(&stream, &cuts, Style::Line, 64);
        for at in injected {
            let before = reference::parse(&client[..at]);
            let mut probe = client[..at].to_vec();
            probe.extend_from_slice(b"data: probe\n\n");
            let with_probe = reference::parse(&probe);
            prop_assert_eq!(with_probe.len(), before.len() + 1);
            prop_assert_eq!(&with_probe.last().unwrap().data, "probe");
            prop_assert_eq!(&with_probe.last().unwrap().name, "message");
        }
    }

    /// Held bytes are never a whole event.
    #[test]
    fn whole_events_pass_at_once(events in 1..20_usize, cuts in cuts(), end in prop::sample::select(vec!["\n", "\r\n", "\r"])) {
        let stream: String = (0..events).map(|n| format!("id: {n}{end}data: x{end}{end}")).collect();
        let (mut aligner, mut came, mut left) = (Aligner::new(), Vec::new(), Vec::new());
        for (chunk, _) in chunks(stream.as_bytes(), &cuts) {
            came.extend_from_slice(&chunk);
            aligner.push(chunk);
            while let Some(piece) = aligner.pop() {
                left.extend_from_slice(&piece);
            }
            // A CR at the very end of a CRLF stream is half a line end.
            let complete = match end {
                "\r\n" if came.ends_with(b"\r") => &came[..came.len() - 1],
                _ => &came[..],
            };
            prop_assert_eq!(reference::parse(&left), reference::parse(complete));
        }
    }

    #[test]
    fn scanner_finds_the_events_that_clients_dispatch(stream in stream(), cuts in cuts()) {
        let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
        // The scanner sees the mark whole, as the aligner hands it out.
        let (mut aligner, mut names) = (Aligner::with_hold(0), Vec::new());
        for (chunk, _) in chunks(&stream, &cuts) {
            aligner.push(chunk);
            while let Some(piece) = aligner.pop() {
                scanner.scan(&piece, |event| if event.has_data {
                    let name = event.name.filter(|name| !name.is_empty()).unwrap_or(b"message");
                    names.push(String::from_utf8_lossy(name).into_owned());
                    seen.push(event.raw.len());
                });
            }
        }
        let expected: Vec<_> = reference::parse(&stream).into_iter().map(|event| event.name).collect();
        prop_assert_eq!(names, expected);
    }
}
