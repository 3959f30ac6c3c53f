//! The tables of responses.

use super::message::Message;
use super::origin::{Answer, Recorder};
use super::requests::{RawClient, status};
use super::table::{Row, check_rows};
use crate::support::Proxy;

fn check(proxy: &Proxy, origin: &Recorder, row: &Row, is_slow: bool) {
    let name = format!(
        "{}{}",
        row.name,
        if is_slow { ", byte by byte" } else { "" }
    );
    origin.answer_next(Answer {
        bytes: row.sent.clone(),
        closes: row.has("close"),
        is_slow,
    });
    let method = row.method();
    let request = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut client = RawClient::sending(proxy.addr, request.as_bytes(), false);
    let statuses = row.statuses();
    let mut found: Vec<Message> = Vec::new();
    for expected in &statuses {
        let response = client.response(method);
        let response = response.unwrap_or_else(|| panic!("{name}: nothing came"));
        assert_eq!(status(&response), *expected, "{name}: {response:?}");
        found.push(response);
    }
    let mut expected = row.messages(method);
    if expected.len() < statuses.len() {
        // The response of the proxy itself, with nothing of the upstream's.
        let own = found.pop().unwrap();
        assert!(
            own.is_whole && !status(&own).starts_with('2'),
            "{name}: {own:?}"
        );
        let is_own = own.body.starts_with(b"sse-guard: ") || method == "HEAD";
        assert!(is_own, "{name}: {own:?}");
    }
    if row.expects("cut") {
        let (cut, whole) = (found.pop().unwrap(), expected.pop().unwrap());
        assert!(cut.is_cut_of(&whole), "{name}: {cut:?}");
    }
    assert_eq!(found, expected, "{name}");
    if row.expects("open") {
        client.assert_open(&name);
    } else {
        assert!(row.expects("close"), "{name}");
        client.assert_closed(&name);
    }
    // Others get no more of it either.
    RawClient::sending(proxy.addr, b"", false).assert_open(&name);
    if row.expects("gone") {
        origin.wait_for_close();
        assert_eq!(origin.later(), 0, "{name}");
    }
}

fn check_table(table: &'static str, least: usize) {
    check_rows(table, least, check);
}

#[test]
fn responses_end_where_every_client_sees_their_end() {
    check_table(include_str!("responses/framing.txt"), 60);
}

#[test]
fn bodies_of_responses_that_break_off_never_look_whole() {
    check_table(include_str!("responses/bodies.txt"), 60);
}

#[test]
fn heads_of_responses_are_strict() {
    check_table(include_str!("responses/heads.txt"), 80);
}
