use super::*;

type Found = (Option<String>, Option<String>, bool);

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn scan(chunks: &[&[u8]]) -> Vec<Found> {
    let mut seen = Vec::new();
    let mut scanner = Scanner::default();
    for chunk in chunks {
        scanner.scan(chunk, |event| {
            seen.push((text(event.id), text(event.name), event.has_data));
        });
    }
    seen
}

fn seen(id: Option<&str>, name: Option<&str>, has_data: bool) -> Found {
    (id.map(Into::into), name.map(Into::into), has_data)
}

#[test]
fn fields_follow_the_specification() {
    for (stream, expected) in [
        ("data: x\n\n", seen(None, None, true)),
        ("data\n\n", seen(None, None, true)),
        ("data:\n\n", seen(None, None, true)),
        ("dataset: x\n\n", seen(None, None, false)),
        (" data: x\n\n", seen(None, None, false)),
        ("Data: x\n\n", seen(None, None, false)),
        ("event: a\nevent: b\n\n", seen(None, Some("b"), false)),
        ("event\n\n", seen(None, Some(""), false)),
        ("id: 1\ndata\n\n", seen(Some("1"), None, true)),
        ("id:  1\n\n", seen(Some(" 1"), None, false)),
        ("id: 1\nid: \0\n\n", seen(Some("1"), None, false)),
        (": data: x\n\n", seen(None, None, false)),
        ("\u{feff}data: x\n\n", seen(None, None, true)),
    ] {
        assert_eq!(scan(&[stream.as_bytes()]), [expected], "{stream:?}");
    }
}

#[test]
fn retry_is_a_field_of_its_event() {
    for chunks in [
        &[&b"retry: 3\ndata\n\n"[..]][..],
        &[b"retry: 3\nda", b"ta\n\n"],
    ] {
        let mut seen = Vec::new();
        let mut scanner = Scanner::default();
        for chunk in chunks {
            scanner.scan(chunk, |event| seen.push(text(event.retry)));
        }
        assert_eq!(seen, [Some("3".to_owned())]);
    }
}

#[test]
fn first_data_is_found_after_other_lines() {
    for (stream, expected) in [
        ("data: x\ndata: y\n\n", "x"),
        ("\u{feff}data:x\r\n\r\n", "x"),
        ("event: e\r: c\rdata:  x\r\r", " x"),
        ("database: y\nid: 1\n\n", ""),
        ("data\ndata: y\n\n", ""),
    ] {
        let mut found = Vec::new();
        Scanner::default().scan(stream.as_bytes(), |event| {
            found.push(event.data().to_vec());
        });
        assert_eq!(found, [expected.as_bytes()], "{stream:?}");
    }
}

#[test]
fn parts_of_an_event_are_found_and_the_first_has_its_fields() {
    let mut parts = Vec::new();
    let mut scanner = Scanner::default();
    for chunk in ["data: a\n\nevent: e\ndata: x", "y", "z\ndata: w", "\n\n"] {
        scanner.scan_parts(chunk.as_bytes(), |seen| {
            if let Scanned::Part { bytes, is_first } = seen {
                parts.push((String::from_utf8(bytes.to_vec()).unwrap(), is_first));
            }
        });
    }
    let part = |text: &str, is_first| (text.to_owned(), is_first);
    let first = "event: e\ndata: x";
    let expected = [
        part(first, true),
        part("y", false),
        part("z\ndata: w", false),
    ];
    assert_eq!(parts, expected);
    let begun = RawEvent::begun(first.as_bytes());
    assert_eq!((begun.name, begun.data()), (Some(&b"e"[..]), &b"x"[..]));
}

#[test]
fn byte_order_mark_is_skipped_for_each_split() {
    let chunks: [&[u8]; 4] = [b"\xEF", b"\xBB", b"", b"\xBFdata: x\n\n"];
    assert_eq!(scan(&chunks), [seen(None, None, true)]);
    let broken: [&[u8]; 2] = [b"\xEF\xBB", b"data: x\n\ndata: y\n\n"];
    let expected = [seen(None, None, false), seen(None, None, true)];
    assert_eq!(scan(&broken), expected);
    assert_eq!(scan(&[&broken.concat()]), expected);
}

#[test]
fn empty_chunk_within_a_crlf_is_not_a_line() {
    let chunks: [&[u8]; 5] = [b"data: x\r", b"", b"\ndata: y\r\n\r", b"", b"\n"];
    assert_eq!(scan(&chunks), [seen(None, None, true)]);
}

#[test]
fn events_are_equal_for_each_split_in_two() {
    for stream in [
        "id: 7\nevent: ping\ndata: x\n\ndata: y\n\n: c\n\n",
        "id: 7\r\nevent: ping\r\ndata: x\r\n\r\ndata: y\r\n\r\n: c\r\n\r\n",
        "id: 7\revent: ping\rdata: x\r\rdata: y\r\r: c\r\r",
    ] {
        let whole = scan(&[stream.as_bytes()]);
        assert_eq!(whole.len(), 3, "{stream:?}");
        assert_eq!(whole[0], seen(Some("7"), Some("ping"), true));
        for cut in 0..=stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            assert_eq!(scan(&[head, tail]), whole, "{stream:?} at {cut}");
        }
    }
}

#[test]
fn truncated_id_is_too_long_to_reconnect_with() {
    let id = "x".repeat(5_000);
    let whole = format!("id: {id}\ndata: x\n\n");
    for cuts in [
        vec![2],
        vec![5],
        vec![600, 1_200],
        vec![1_020, 1_024, 1_030],
        vec![5_004],
        vec![5_006],
    ] {
        let mut scanner = Scanner::default();
        let mut found = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().copied().chain([whole.len()]) {
            let piece = &whole.as_bytes()[at..cut];
            scanner.scan(piece, |event| found.push(event.id.unwrap().len()));
            at = cut;
        }
        assert!(found.len() == 1 && found[0] > 1_024, "{cuts:?}: {found:?}");
    }
}

#[test]
fn kept_part_of_a_split_line_is_bounded() {
    let mut scanner = Scanner::default();
    scanner.scan(b"data: ", |_| unreachable!());
    for _ in 0..100 {
        scanner.scan(&[b'x'; 100], |_| unreachable!());
    }
    assert!(scanner.cut.as_ref().unwrap().line.len() <= MAX_KEPT);
    let mut count = 0;
    scanner.scan(b"\n\n", |event| count += usize::from(event.has_data));
    assert_eq!(count, 1);
    assert!(scanner.cut.is_none());
}
