//! What kind of stream it is decides what its client is told: through the real binary, byte by byte.

use crate::support::{Answer, Client, End, Origin, Proxy};

const CHUNK: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\n";
const START: &str = "event: message_start\ndata: {}\n\n";
const ACCEPT: &str = "Accept: text/event-stream";
const CLAIMED: &str = "Accept: text/event-stream\r\nMcp-Session-Id: x\r\nUser-Agent: OpenAI/JS 6";
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
    send_request(proxy, method, &format!("{ACCEPT}\r\n{field}"))
}

/// The same, with just these fields.
fn send_request(proxy: &Proxy, method: &str, fields: &str) -> Client {
    let mut client = proxy.send_request(&format!(
        "{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{fields}\r\n\r\n"
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
fn incomplete_response_gets_an_error_and_is_broken_off() {
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
        let line = proxy.wait_for_log("\"reason\":\"upstream_error\"");
        assert!(line.contains("completion.required"), "{line}");
        assert!(line.contains("no_last_event"), "{line}");
    }
}

/// What the dialects of OpenAI-like servers end with.
const AZURE: &str = "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"model\":\"\",\"object\":\"\",\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n";
const STOPPED: &str = "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const STOP_REASON: &str =
    "event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n";

#[test]
fn complete_response_ends_properly_without_its_last_event() {
    let in_choice = "data: {\"choices\":[{\"index\":0,\"error\":{\"code\":502}}]}\n\n";
    let both = "data: {\"choices\":[{\"index\":0},{\"index\":1}]}\n\n";
    for (first, then, is_whole) in [
        (CHUNK, STOPPED, true),
        (AZURE, STOPPED, true),
        (": OPENROUTER PROCESSING\n\n", STOPPED, true),
        (CHUNK, in_choice, true),
        (START, STOP_REASON, true),
        (
            "event: response.created\ndata: {}\n\n",
            "event: response.cancelled\ndata: {}\n\n",
            true,
        ),
        (
            "event: thread.run.created\ndata: {}\n\n",
            "event: done\ndata: [DONE]\n\n",
            true,
        ),
        (AZURE, CHUNK, false),
        (AZURE, both, false),
        (
            "event: thread.run.created\ndata: {}\n\n",
            "event: thread.run.queued\ndata: {}\n\n",
            false,
        ),
    ] {
        let origin = origin(first, move |to| {
            to.chunk(then);
            to.end();
        });
        let proxy = Proxy::start(origin.addr, &[]);
        let (seen, how) = all(open(&proxy, "POST", "X-None: 1"));
        match is_whole {
            true => assert_eq!((seen, how), (format!("{first}{then}"), End::Clean)),
            false => {
                assert!(seen.contains("ended before it was complete"), "{seen}");
                assert_eq!(how, End::Broken);
            }
        }
    }
}

#[test]
fn hanging_response_ends_with_its_familys_error_despite_pings() {
    const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    const KEEPALIVE: &str = "data: {\"type\":\"keepalive\",\"sequence_number\":1}\n\n";
    for (first, alive, error) in [
        (CHUNK, KEEPALIVE, "data: {\"error\":{"),
        (AZURE, ": x\n\n", "data: {\"error\":{"),
        (START, PING, "event: error\n"),
    ] {
        // An upstream that says so each millisecond, for as long as it is connected.
        let origin = origin(first, move |to| {
            while to.chunk(alive) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let flags = ["--idle-event-timeout=100ms", "--heartbeat-interval=5ms"];
        let proxy = Proxy::start(origin.addr, &flags);
        let (seen, how) = all(open(&proxy, "POST", "X-None: 1"));
        let said = seen.replace(alive, "").replace(PING, "");
        let said = said.strip_prefix(first).unwrap();
        assert!(
            said.starts_with(error) && said.contains("went silent"),
            "{said}"
        );
        assert_eq!(how, End::Broken);
        proxy.wait_for_log("\"reason\":\"upstream_idle\"");
    }
    // Silence alone, while heartbeats go on.
    let origin = origin(CHUNK, hang);
    let flags = ["--idle-event-timeout=200ms", "--heartbeat-interval=5ms"];
    let proxy = Proxy::start(origin.addr, &flags);
    let (seen, how) = open(&proxy, "POST", "X-None: 1").rest();
    let seen = String::from_utf8(seen).unwrap();
    assert!(
        seen.contains(": heartbeat\n") && seen.contains("went silent"),
        "{seen}"
    );
    assert_eq!(how, End::Broken);
}

#[test]
fn pings_are_neither_the_first_event_nor_measured() {
    let origin = origin(
        "event: ping\ndata: {\"type\":\"ping\"}\n\ndata: {\"type\":\"keepalive\"}\n\n\
         event: still-here\ndata: {}\n\n",
        end,
    );
    let flags = [
        "--idle-ignore-events=still-here",
        "--idle-event-timeout=off",
        "--admin-listen=127.0.0.1:0",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let (_, how) = all(open(&proxy, "GET", "X-None: 1"));
    assert_eq!(how, End::Clean);
    proxy.wait_for_log("stream ended");
    let mut client = Client::connect(proxy.admin());
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let metrics = String::from_utf8(client.raw()).unwrap();
    assert!(
        metrics.contains("sse_guard_events_total{route=\"/\"} 3\n"),
        "{metrics}"
    );
    let firsts = metrics
        .lines()
        .filter(|line| line.starts_with("sse_guard_time_to_first_event_seconds"));
    for line in firsts.filter(|line| line.contains("_count") || line.contains("_bucket")) {
        assert!(line.ends_with(" 0"), "{line}");
    }
}

#[test]
fn older_mcp_transport_is_not_rotated_and_gets_no_retry() {
    const ENDPOINT: &str = "event: endpoint\ndata: /messages?sessionId=1\n\n";
    let origin = origin(ENDPOINT, hang);
    let flags = [
        "--rotation-max-age=20ms",
        "--rotation-retry-on-open=1s",
        "--heartbeat-interval=10ms",
        "--resume-mode=lossy",
        "--drain-window=50ms",
    ];
    let mut proxy = Proxy::start(origin.addr, &flags);
    let mut client = open(&proxy, "GET", "X-None: 1");
    // Longer than the age: it counts in heartbeats.
    for _ in 0..10 {
        let seen = client.read_until(": heartbeat\n");
        assert!(!seen.contains("retry"), "{seen}");
    }
    proxy.signal("-TERM");
    let (seen, how) = all(client);
    assert!(!seen.contains("retry"), "{seen}");
    assert_eq!(how, End::Broken);
    assert!(proxy.wait().success());
    // The operator's word counts for more.
    for flag in ["--family=eventsource", "--rotation-methods=GET"] {
        let proxy = Proxy::start(origin.addr, &["--rotation-max-age=20ms", flag]);
        let (seen, how) = all(open(&proxy, "GET", "X-None: 1"));
        assert!(
            seen.starts_with(ENDPOINT) && seen.contains("retry: "),
            "{seen}"
        );
        assert_eq!(how, End::Clean);
    }
}

#[test]
fn call_with_a_json_response_takes_no_slot() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        while to.next_request().is_some() {
            to.raw(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            );
        }
    });
    let flags = ["--limit-per-ip=1", "--limit-rate=1/h", "--limit-burst=1"];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = Client::connect(proxy.addr);
    for _ in 0..250 {
        client.send(
            "POST /mcp HTTP/1.1\r\nHost: x\r\nAccept: application/json, text/event-stream\r\n\
             Content-Length: 2\r\n\r\n{}",
        );
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 ok\n"), "{head}");
        assert_eq!(client.bytes(2), b"{}");
    }
}

#[test]
fn family_of_the_route_overrides_detection() {
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
fn rotation_and_retry_are_for_streams_whose_clients_reconnect() {
    for (method, field, flags, is_rotated) in [
        ("GET", ACCEPT, vec![], true),
        ("GET", "Accept: */*", vec![], false),
        ("GET", "X-None: 1", vec![], false),
        ("GET", "Accept: */*", vec!["--family=eventsource"], true),
        ("GET", "Accept: */*", vec!["--rotation-methods=GET"], true),
        // What a client claims can keep its stream from being rotated, unless somebody has said which are.
        ("GET", CLAIMED, vec![], false),
        ("GET", CLAIMED, vec!["--family=eventsource"], true),
        ("GET", CLAIMED, vec!["--rotation-methods=GET,POST"], true),
        ("POST", CLAIMED, vec!["--rotation-methods=GET,POST"], true),
        ("GET", ACCEPT, vec!["--family=openai"], false),
        ("GET", ACCEPT, vec!["--family=mcp"], false),
        ("GET", ACCEPT, vec!["--family=raw"], false),
        ("POST", ACCEPT, vec!["--family=eventsource"], true),
        // A key that is set counts for more.
        (
            "GET",
            ACCEPT,
            vec!["--family=openai", "--rotation-methods=GET"],
            true,
        ),
        (
            "POST",
            ACCEPT,
            vec!["--family=eventsource", "--rotation-methods=GET"],
            false,
        ),
    ] {
        let origin = origin("data: 1\n\n", hang);
        let mut all_flags = vec!["--rotation-max-age=20ms", "--heartbeat-interval=10ms"];
        all_flags.extend(&flags);
        let proxy = Proxy::start(origin.addr, &all_flags);
        let mut client = send_request(&proxy, method, field);
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
fn silent_upstream_is_an_error_to_clients_that_do_not_reconnect() {
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
fn response_cut_by_a_shutdown_gets_an_error() {
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
fn heartbeat_is_the_familys_ping_unless_the_config_sets_it() {
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
fn rejection_is_a_status_for_clients_that_do_not_reconnect() {
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
