use super::*;

/// An event with this id; "-" has none, and "-x" has the data x.
fn event(id: &str) -> EventKey<'_> {
    EventKey {
        id: Some(id.as_bytes()).filter(|id| !id.starts_with(b"-")),
        content: Some(id.as_bytes()),
        is_partial: false,
    }
}

fn deliver(cursor: &mut Cursor, ids: &[&str]) {
    for id in ids {
        cursor.record(event(id));
    }
}

fn fed(ids: &[&str]) -> Cursor {
    let mut cursor = Cursor::new(None, 4);
    deliver(&mut cursor, ids);
    cursor
}

/// Classifies such events of a new connection: + delivered, - duplicate, ! reset.
fn classified(cursor: &mut Cursor, ids: &[&str]) -> String {
    cursor.start_dedup();
    let mut classified = String::new();
    for id in ids {
        let dedup = cursor.classify(event(id));
        if dedup == Dedup::Deliver {
            cursor.record(event(id));
        }
        classified.push(match dedup {
            Dedup::Deliver => '+',
            Dedup::Duplicate => '-',
            Dedup::Reset => '!',
        });
    }
    classified
}

#[test]
fn cursor_delivers_events_after_the_last_id() {
    let mut cursor = fed(&["1", "2", "3"]);
    assert_eq!(cursor.last_id().unwrap(), "3");
    assert_eq!(classified(&mut cursor, &["-", "4", "-", "5"]), "++++");
    assert_eq!(cursor.last_id().unwrap(), "5");
}

#[test]
fn repeated_ids_are_dropped_with_events_between_them() {
    for ids in [&["b", "c", "d"][..], &["c", "d"], &["d"], &["a", "d"]] {
        let mut cursor = fed(&["a", "b", "c", "d"]);
        let dropped = "-".repeat(ids.len());
        let ids: Vec<_> = ids.iter().chain(&["-", "e"]).copied().collect();
        assert_eq!(classified(&mut cursor, &ids), format!("{dropped}++"));
    }
    assert_eq!(
        classified(&mut fed(&["a", "b"]), &["a", "-", "b", "-", "c"]),
        "---++"
    );
}

#[test]
fn repeated_ids_are_dropped_on_each_connection() {
    let mut cursor = fed(&["a", "b", "c"]);
    for _ in 0..3 {
        assert_eq!(classified(&mut cursor, &["a", "b"]), "--");
    }
    assert_eq!(classified(&mut cursor, &["b", "c", "d"]), "--+");
}

#[test]
fn id_of_two_events_is_dropped_twice() {
    assert_eq!(
        classified(&mut fed(&["a", "b", "b"]), &["b", "b", "b"]),
        "--+"
    );
    assert_eq!(classified(&mut fed(&["a", "b"]), &["b", "b"]), "-+");
}

#[test]
fn numeric_ids_that_restart_are_a_reset() {
    let numbers: Vec<String> = (1..=9).map(|n| n.to_string()).collect();
    let mut cursor = fed(&numbers.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(classified(&mut cursor, &["1"]), "!");
    assert_eq!(
        classified(&mut cursor, &["6", "7", "8", "9", "10"]),
        "----+"
    );
    // Ids that are not numbers have no order.
    assert_eq!(classified(&mut fed(&["x"]), &["a"]), "+");
}

#[test]
fn position_without_id_is_known_before_the_first_event_only() {
    let mut cursor = Cursor::new(None, 4);
    assert!(cursor.is_known());
    let ping = EventKey {
        id: None,
        content: None,
        is_partial: false,
    };
    cursor.record(ping);
    assert!(cursor.is_known());
    deliver(&mut cursor, &["-"]);
    assert!(!cursor.is_known());
    deliver(&mut cursor, &["1"]);
    assert!(cursor.is_known());
    cursor.record(ping);
    assert!(cursor.is_known());
    deliver(&mut cursor, &[""]);
    assert!(!cursor.is_known());
    assert!(Cursor::new(Some(b"7"), 4).is_known());
}

#[test]
fn position_is_unknown_after_an_id_that_no_header_can_carry() {
    for id in [
        "x".repeat(MAX_RECONNECT_ID + 1).as_str(),
        "a\u{7f}",
        "\u{1}",
    ] {
        let mut cursor = fed(&["1"]);
        deliver(&mut cursor, &[id]);
        assert!(!cursor.is_known(), "{id:?}");
        assert_eq!(cursor.last_id(), None);
        // Also before the first event: the client is not at the start.
        let mut cursor = Cursor::new(None, 4);
        cursor.record(EventKey {
            id: Some(id.as_bytes()),
            content: None,
            is_partial: false,
        });
        assert!(!cursor.is_known(), "{id:?}");
    }
    let longest = "x".repeat(MAX_RECONNECT_ID);
    for id in [longest.as_str(), "\u{e9}", "a b\tc"] {
        let cursor = fed(&[id]);
        assert!(cursor.is_known(), "{id:?}");
        assert_eq!(cursor.last_id().unwrap().as_bytes(), id.as_bytes());
    }
}

#[test]
fn events_without_id_are_recognised_by_their_content() {
    let stream = ["a", "-x", "b", "-y", "-z"];
    for from in 0..stream.len() {
        let mut cursor = fed(&stream);
        let repeated = &stream[from..];
        let ids: Vec<_> = repeated.iter().chain(&["-new", "c"]).copied().collect();
        let dropped = "-".repeat(repeated.len());
        // A connection that begins between two ids may repeat an unknown number of events.
        let dropped = if from == 1 { "+---" } else { &dropped };
        assert_eq!(
            classified(&mut cursor, &ids),
            format!("{dropped}++"),
            "{from}"
        );
        assert!(!cursor.is_deduping());
    }
    // The last of them ends the comparison.
    let mut cursor = fed(&stream);
    assert_eq!(classified(&mut cursor, &stream), "-----");
    assert!(!cursor.is_deduping());
    // They are not compared with those after another id.
    assert_eq!(classified(&mut fed(&["a", "-x", "b"]), &["-x", "c"]), "++");
    // Of a run of equal events, as pings are, one is dropped.
    let mut cursor = fed(&["a", "-p", "-p", "-p", "-p", "-p", "-p"]);
    assert!(cursor.is_known());
    assert_eq!(classified(&mut cursor, &["-p", "-p", "-p"]), "-++");
}

#[test]
fn position_is_unknown_after_more_events_without_id_than_the_window() {
    let mut cursor = fed(&["a", "-1", "-2", "-3", "-4"]);
    assert!(cursor.is_known());
    deliver(&mut cursor, &["-5"]);
    assert!(!cursor.is_known());
    deliver(&mut cursor, &["b"]);
    assert!(cursor.is_known());
}

#[test]
fn last_event_id_of_the_request_is_a_duplicate() {
    let of_client = || Cursor::new(Some(b"7"), 4);
    let mut cursor = of_client();
    deliver(&mut cursor, &["8"]);
    assert_eq!(classified(&mut cursor, &["7", "8", "9"]), "--+");
    assert_eq!(classified(&mut of_client(), &["7", "8"]), "-+");
    // No event of this stream was delivered yet, so the order is unknown.
    assert_eq!(classified(&mut of_client(), &["1", "2"]), "++");
}

#[test]
fn cursor_compares_nothing_where_nothing_can_be_repeated() {
    for ids in [&[][..], &["-x"], &[""]] {
        let mut cursor = fed(ids);
        cursor.start_dedup();
        assert!(!cursor.is_deduping(), "{ids:?}");
    }
    // Without a window, numbers still show a reset.
    let mut cursor = Cursor::new(None, 0);
    deliver(&mut cursor, &["5"]);
    assert_eq!(classified(&mut cursor, &["6", "7"]), "++");
    assert_eq!(classified(&mut cursor, &["7"]), "!");
}
