//! What the real binary itself says on a stream: between events alone, whatever stands around it,
//! and at a stream's end just what the config wants. What the upstream said comes whole.

use crate::support::{Answer, Client, End, Origin, Proxy, gate};

const BEAT: &str = ": heartbeat\n";

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// A stream that has begun.
fn open(proxy: &Proxy, method: &str, path: &str) -> Client {
    let mut client = proxy.send_request(&format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\
         Content-Length: 0\r\n\r\n"
    ));
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{head}");
    client
}

/// One event, then silence until the other side goes.
fn quiet(to: &mut Answer) {
    // In one piece, so that it is there with the head.
    to.raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
          \r\n9\r\ndata: 1\n\n\r\n",
    );
    to.wait_for_close();
}

/// All that a stream says, in order, after the letter of the specification.
fn said(stream: &str) -> Vec<String> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
    let (lines, _unfinished) = stream.rsplit_once('\n').unwrap();
    let mut said = Vec::new();
    let (mut name, mut id, mut data) = (String::new(), String::new(), Vec::new());
    for line in lines.split('\n') {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if !line.is_empty() => said.push(format!("comment {value}")),
            "" => {
                if !data.is_empty() {
                    said.push(format!("event {name:?}, data {data:?}, id {id:?}"));
                }
                name.clear();
                data.clear();
            }
            "event" => name = value.into(),
            "id" => id = value.into(),
            "data" => data.push(value.to_owned()),
            "retry" => said.push(format!("retry {value}")),
            _ => panic!("{line:?} is of two lines: {stream:?}"),
        }
    }
    said
}

/// A stream comes byte by byte, a heartbeat behind each, in each line end.
fn heartbeats_leave_the_same(style: &str, ours: &str) {
    for end in ["\n", "\r\n", "\r"] {
        let first = "\u{feff}: hi\nid: 1\ndata: one\n\n".replace('\n', end);
        let rest = ": c\nevent: e\nid: 2\ndata: a\ndata: \u{e9}\n\n\n: d\n\ndata\n\n\
                    : e\nretry: 9\n\nid\ndata: b\n\ndata: tail"
            .replace('\n', end);
        let sent = format!("{first}{rest}");
        let (heard, hears) = gate();
        let origin = Origin::start(move |_, to| {
            to.stream();
            to.chunk(&first);
            for byte in rest.bytes() {
                hears.wait_anew();
                to.chunk([byte]);
            }
            hears.wait_anew();
            to.end();
        });
        let mut flags = vec!["--heartbeat-interval", "2ms", "--heartbeat-style", style];
        flags.push("--heartbeat-immediate=auto");
        flags.extend(["--heartbeat-text", "beat", "--heartbeat-event", "beat"]);
        let proxy = Proxy::start(origin.addr, &flags);
        let mut client = open(&proxy, "GET", "/");
        let mut seen = Vec::new();
        loop {
            let data = client.chunk().unwrap();
            if data.is_empty() {
                break;
            }
            if data.windows(4).any(|part| part == b"beat") {
                // The origin may be done.
                let _ = heard.send(());
            }
            seen.extend(data);
        }
        let seen = text(seen);
        let mut others = said(&seen);
        others.retain(|item| !item.starts_with(ours));
        assert_eq!(others, said(&sent), "{seen:?}");
        assert!(seen.ends_with("data: tail"), "{seen:?}");
    }
}

#[test]
fn injected_comment_lines_after_every_byte_change_no_event() {
    heartbeats_leave_the_same("line", "comment beat");
}

#[test]
fn injected_comment_blocks_after_every_byte_change_no_event() {
    heartbeats_leave_the_same("block", "comment beat");
}

#[test]
fn injected_events_after_every_byte_change_no_event() {
    heartbeats_leave_the_same("event", "event \"beat\", data [\"{}\"]");
}

#[test]
fn heartbeats_do_not_split_an_event_that_arrives_in_pieces() {
    const HALF: usize = 1 << 19;
    let (go_on, goes_on) = gate();
    let origin = Origin::start(move |received, to| {
        if received.path == "/clock" {
            quiet(to);
            return;
        }
        let half = "x".repeat(HALF);
        to.stream();
        to.chunk(format!("data: {half}"));
        goes_on.wait();
        to.chunk(format!("{half}\n\n"));
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &["--heartbeat-interval", "5ms"]);
    let mut client = open(&proxy, "GET", "/");
    let mut seen = String::new();
    while seen.matches('x').count() < HALF {
        seen.push_str(&text(client.chunk().unwrap()));
    }
    // Another stream's heartbeats tell the time.
    let mut clock = open(&proxy, "GET", "/clock");
    for _ in 0..10 {
        clock.read_until(BEAT);
    }
    go_on.send(()).unwrap();
    seen.push_str(&client.read_until("x\n\n"));
    if !seen.ends_with(BEAT) {
        seen.push_str(&client.read_until(BEAT));
    }
    let (before, event) = seen.split_at(seen.find("data: ").unwrap());
    assert_eq!(before.replace(BEAT, ""), "");
    let whole = format!("data: {}\n\n{BEAT}", "x".repeat(2 * HALF));
    assert!(event.starts_with(&whole), "{} bytes", event.len());
}

#[test]
fn incomplete_event_is_held_back_and_dropped_when_its_upstream_dies() {
    for (framing, body) in [
        (
            "Transfer-Encoding: chunked",
            "11\r\ndata: 1\n\ndata: ha\r\n",
        ),
        ("Transfer-Encoding: chunked", "ff\r\ndata: 1\n\ndata: ha"),
        ("Content-Length: 99", "data: 1\n\ndata: ha"),
    ] {
        let (die, dies) = gate();
        let origin = Origin::start(move |_, to| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream";
            to.raw(format!("{head}\r\n{framing}\r\n\r\n{body}").as_bytes());
            dies.wait();
        });
        let proxy = Proxy::start(origin.addr, &["--heartbeat-interval", "5ms"]);
        let mut client = open(&proxy, "GET", "/");
        let mut seen = client.read_until("data: 1\n\n");
        for _ in 0..3 {
            seen.push_str(&client.read_until(BEAT));
        }
        die.send(()).unwrap();
        let (rest, end) = client.rest();
        seen.push_str(&text(rest));
        assert_eq!(
            (seen.replace(BEAT, "").as_str(), end),
            ("data: 1\n\n", End::Broken),
            "{framing}"
        );
        proxy.wait_for_log("\"reason\":\"upstream_error\"");
    }
}

#[test]
fn events_right_before_an_upstream_failure_reach_the_client() {
    let events: Vec<String> = (0..20).map(|n| format!("data: {n}\n\n")).collect();
    let all = events.concat();
    let origin = Origin::start(move |_, to| {
        let chunk = |event: &String| format!("{:x}\r\n{event}\r\n", event.len());
        let chunks: String = events.iter().map(chunk).collect();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream";
        let framing = "Transfer-Encoding: chunked";
        to.raw(format!("{head}\r\n{framing}\r\n\r\n{chunks}").as_bytes());
    });
    let proxy = Proxy::start(origin.addr, &["--limit-rate=off"]);
    // What the proxy reads when is up to chance.
    for _ in 0..300 {
        let (seen, end) = open(&proxy, "GET", "/").rest();
        assert_eq!((text(seen), end), (all.clone(), End::Broken));
    }
}

/// Takes the `retry` line out, which says the time give or take half of it.
fn without_retry(last_words: &str, millis: u64) -> String {
    let (before, rest) = last_words.split_once("retry: ").unwrap();
    let (told, after) = rest.split_once('\n').unwrap();
    let told: u64 = told.parse().unwrap();
    assert!((millis / 2..=millis + millis / 2).contains(&told), "{told}");
    format!("{before}{after}")
}

#[test]
fn idle_stream_ends_by_the_action_of_the_config() {
    const OOPS: &str = "event: oops\ndata: gone\n\n";
    let origin = Origin::start(|_, to| quiet(to));
    for (action, method, last, retry, end) in [
        ("auto", "GET", "", true, End::Clean),
        ("auto", "POST", "", false, End::Broken),
        ("close", "GET", "", true, End::Clean),
        ("close", "POST", "", false, End::Clean),
        ("error-event", "GET", OOPS, true, End::Clean),
        ("error-event", "POST", OOPS, false, End::Clean),
        ("abort", "GET", "", false, End::Broken),
    ] {
        let mut flags = vec!["--idle-timeout", "200ms", "--idle-action", action];
        flags.extend(["--idle-error-event", "oops", "--idle-error-data", "gone"]);
        flags.extend(["--rotation-retry", "1h"]);
        let proxy = Proxy::start(origin.addr, &flags);
        let (seen, how) = open(&proxy, method, "/").rest();
        let mut seen = text(seen);
        if retry {
            seen = without_retry(&seen, 3_600_000);
        }
        assert_eq!(
            (seen, how),
            (format!("data: 1\n\n{last}"), end),
            "{action} {method}"
        );
        proxy.wait_for_log("\"reason\":\"upstream_idle\"");
        origin.wait_for_open(0);
    }
}

#[test]
fn ignored_events_do_not_reset_the_event_timeout() {
    const PING: &str = "event: ping\ndata: {}\n\n";
    let (heard, hears) = gate();
    let origin = Origin::start(move |_, to| {
        to.stream();
        // Each answers one that was heard, so that there is always a next one in time; more than
        // fit into the timeout, but not forever.
        for _ in 0..50_000 {
            if !to.chunk(PING) || !hears.opens() {
                return;
            }
        }
        to.end();
    });
    let flags = [
        "--idle-event-timeout",
        "200ms",
        "--idle-ignore-events",
        "tick,ping",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = open(&proxy, "GET", "/");
    let mut seen = String::new();
    loop {
        let data = text(client.chunk().unwrap());
        if data.is_empty() {
            break;
        }
        seen.push_str(&data);
        let _ = heard.send(());
    }
    drop(heard);
    proxy.wait_for_log("\"reason\":\"upstream_idle\"");
    assert!(seen.starts_with(PING));
    assert_eq!(without_retry(&seen, 2_000).replace(PING, ""), "");
}

#[test]
fn rotation_event_and_methods_follow_the_config() {
    let origin = Origin::start(|_, to| quiet(to));
    let mut flags = vec!["--rotation-max-age", "200ms", "--rotation-retry", "1h"];
    flags.extend(["--rotation-methods", "POST,PUT"]);
    flags.extend(["--rotation-event", "bye", "--rotation-data", "[7]"]);
    flags.extend(["--heartbeat-interval", "20ms"]);
    let proxy = Proxy::start(origin.addr, &flags);
    let mut get = open(&proxy, "GET", "/");
    let (seen, end) = open(&proxy, "POST", "/").rest();
    let seen = without_retry(&text(seen), 3_600_000).replace(BEAT, "");
    assert_eq!(
        (seen.as_str(), end),
        ("data: 1\n\nevent: bye\ndata: [7]\n\n", End::Clean)
    );
    proxy.wait_for_log("\"reason\":\"rotated\"");
    // The older stream, of a method that is not named, goes on.
    for _ in 0..10 {
        assert!(!get.read_until(BEAT).contains("retry"));
    }
}
