//! What kind of stream it is decides what its client is told: through the real binary, byte by byte.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

mod support;

use support::{Answer, Client, End, Origin, Proxy};

const CHUNK: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\n";
const START: &str = "event: message_start\ndata: {}\n\n";
const CLAUDE: &str = "Anthropic-Version: 2023-06-01";

/// An origin whose answer to everything is a stream that begins with `first`.
fn origin(first: &'static str, then: impl Fn(&mut Answer) + Send + Sync + 'static) -> Origin {
    Origin::start(move |_, to| {
        to.stream();
        to.chunk(first);
        then(to);
    })
}

fn hang(to: &mut Answer) {
    to.wait_for_close();
}

fn end(to: &mut Answer) {
    to.end();
}

fn open(proxy: &Proxy, method: &str, field: &str) -> Client {
    let mut client = proxy.ask(&format!(
        "{method} / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\
         {field}\r\n\r\n"
    ));
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{head}");
    client
}

/// All that is said, but for heartbeats, and how it ended.
fn all(mut client: Client) -> (String, End) {
    let (seen, end) = client.rest();
    let seen = String::from_utf8(seen).unwrap();
    (seen.replace(": heartbeat\n", ""), end)
}

#[test]
fn half_an_answer_is_told_and_broken_off() {
    for (first, field, says) in [
        (CHUNK, "X-None: 1", "data: {\"error\":{"),
        (START, "X-None: 1", "event: error\ndata: {"),
        (START, CLAUDE, "event: error\ndata: {"),
    ] {
        let origin = origin(first, end);
        let proxy = Proxy::start(origin.addr, &[]);
        let (seen, how) = all(open(&proxy, "POST", field));
        let said = seen.strip_prefix(first).unwrap();
        assert!(said.starts_with(says), "{said}");
        assert!(said.contains("ended before it was complete"), "{said}");
        assert_eq!(how, End::Broken);
        proxy.wait_for_log("\"reason\":\"upstream_error\"");
    }
}

#[test]
fn what_the_operator_says_of_a_route_counts() {
    let unasked = "--completion-required=false";
    for (flags, ending) in [
        (vec!["--family=raw"], End::Clean),
        (vec!["--family=mcp"], End::Clean),
        (vec!["--family=openai"], End::Broken),
        (vec!["--family=openai", unasked], End::Clean),
    ] {
        let origin = origin(CHUNK, end);
        let proxy = Proxy::start(origin.addr, &flags);
        let (seen, how) = all(open(&proxy, "POST", CLAUDE));
        assert_eq!(how, ending, "{flags:?}");
        assert_eq!(seen == CHUNK, ending == End::Clean, "{flags:?}: {seen}");
    }
}

#[test]
fn only_streams_whose_clients_come_back_are_rotated_and_told_to_retry() {
    for (method, flags, is_rotated) in [
        ("GET", vec![], true),
        ("GET", vec!["--family=openai"], false),
        ("GET", vec!["--family=mcp"], false),
        ("GET", vec!["--family=raw"], false),
        ("POST", vec!["--family=eventsource"], true),
        // A key that is set counts for more.
        (
            "GET",
            vec!["--family=openai", "--rotation-methods=GET"],
            true,
        ),
        (
            "POST",
            vec!["--family=eventsource", "--rotation-methods=GET"],
            false,
        ),
    ] {
        let origin = origin("data: 1\n\n", hang);
        let mut all_flags = vec!["--rotation-max-age=20ms", "--heartbeat-interval=10ms"];
        all_flags.extend(&flags);
        let proxy = Proxy::start(origin.addr, &all_flags);
        let mut client = open(&proxy, method, "X-None: 1");
        if is_rotated {
            let (seen, how) = all(client);
            assert!(seen.starts_with("data: 1\n\nretry: "), "{flags:?}: {seen}");
            assert_eq!(how, End::Clean);
            continue;
        }
        // Longer than the age, as far as the proxy can tell: it counts in heartbeats.
        for _ in 0..10 {
            let seen = client.read_until(": heartbeat\n");
            assert!(!seen.contains("retry"), "{flags:?}: {seen}");
        }
    }
}

#[test]
fn a_silent_upstream_is_an_error_to_who_does_not_come_back() {
    let origin = origin(START, hang);
    let flags = ["--idle-timeout=100ms", "--family=anthropic"];
    let proxy = Proxy::start(origin.addr, &flags);
    let (seen, how) = all(open(&proxy, "GET", "X-None: 1"));
    let said = seen.strip_prefix(START).unwrap();
    assert!(said.starts_with("event: error\n"), "{said}");
    assert!(
        said.contains("timeout_error") && !said.contains("retry"),
        "{said}"
    );
    assert_eq!(how, End::Broken);
    proxy.wait_for_log("\"reason\":\"upstream_idle\"");
}

#[test]
fn an_answer_that_a_shutdown_cuts_is_told_so() {
    let origin = origin(START, hang);
    let mut proxy = Proxy::start(origin.addr, &["--drain-window=0s"]);
    let mut client = open(&proxy, "POST", CLAUDE);
    client.read_until(START);
    proxy.signal("-TERM");
    let (seen, how) = all(client);
    assert!(seen.starts_with("event: error\ndata: {"), "{seen}");
    assert_eq!(how, End::Broken);
    assert!(proxy.wait().success());
}

#[test]
fn clients_of_an_api_hear_its_own_ping_unless_the_config_says_what() {
    let ping = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    for (flags, beat) in [
        (vec![], ping),
        (vec!["--heartbeat-style=line"], ": heartbeat\n"),
    ] {
        let origin = origin(START, hang);
        let mut all_flags = vec!["--heartbeat-interval=10ms"];
        all_flags.extend(flags);
        let proxy = Proxy::start(origin.addr, &all_flags);
        let mut client = open(&proxy, "POST", CLAUDE);
        let seen = client.read_until(beat);
        assert_eq!(seen.replace(beat, ""), START);
    }
}

#[test]
fn who_does_not_come_back_is_turned_away_by_a_status() {
    let origin = origin("data: 1\n\n", hang);
    let flags = ["--limit-per-ip=1", "--limit-reject=retry-later"];
    for (family, status) in [("auto", "200"), ("openai", "429")] {
        let mut all_flags = vec!["--family", family];
        all_flags.extend(flags);
        let proxy = Proxy::start(origin.addr, &all_flags);
        let mut first = proxy.get("/");
        first.head();
        let head = proxy.get("/").head();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
    }
}
