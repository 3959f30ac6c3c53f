//! Routes of a config file, through the real binary: what each has of its own, and what they share.

use crate::support::{Client, Origin, PATIENCE, Proxy};
use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use tempfile::NamedTempFile;

/// A proxy by a config file, in front of `origin` but where a route says otherwise.
fn configured(origin: &Origin, config: &str, flags: &[&str]) -> Proxy {
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "upstream.url = 'http://{}'\n{config}", origin.addr).unwrap();
    let mut all = vec!["--config", file.path().to_str().unwrap()];
    all.extend(flags);
    // It has read the file when it listens.
    Proxy::with_flags(&all)
}

/// The status of a request for a stream, and its connection.
fn send_request(proxy: &Proxy, path: &str) -> (u16, String, Client) {
    let mut client = proxy.get(path);
    let head = client.head();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, client)
}

/// Asks for each path in turn, asserts the status, and keeps what streams there are.
fn hold(proxy: &Proxy, received: &[(&str, u16)]) -> Vec<Client> {
    let mut held = Vec::new();
    for (nth, &(path, expected)) in received.iter().enumerate() {
        let (status, head, client) = send_request(proxy, path);
        assert_eq!(status, expected, "{path}, the {nth}th: {head}");
        if status == 200 {
            held.push(client);
        }
    }
    held
}

#[test]
fn route_with_its_own_limits_counts_its_streams_alone() {
    let origin = Origin::held();
    let config = "
        limit.per_ip = 2
        limit.rate = 'off'
        [[route]]
        path = '/one'
        limit.per_ip = 1
        [[route]]
        path = '/other'
        limit.per_ip = 3
        [[route]]
        path = '/shares'
        heartbeat.interval = '9s'
    ";
    let mut proxy = configured(&origin, config, &[]);
    let mut one = hold(&proxy, &[("/one", 200), ("/one", 429)]);
    let rest = hold(
        &proxy,
        &[("/", 200), ("/shares", 200), ("/", 429), ("/shares", 429)],
    );
    let three = [("/other", 200); 3];
    let others = hold(&proxy, &three);
    hold(&proxy, &[("/other", 429), ("/one", 429)]);
    // A slot that comes back is a slot of its own table.
    one.clear();
    let mut tries = (0..10_000).map(|_| send_request(&proxy, "/one"));
    let again = tries.find(|(status, ..)| *status == 200).unwrap();
    hold(&proxy, &[("/", 429), ("/shares", 429), ("/other", 429)]);
    drop((again, rest, others));
    origin.wait_for_open(0);
    let last = proxy.stop();
    assert_eq!((&last["opened"], &last["slots"]), (&7.into(), &0.into()));
}

#[test]
fn route_shares_the_counts_that_it_does_not_limit_itself() {
    let origin = Origin::held();
    let config = "
        limit.per_ip = 2
        [[route]]
        path = '/later'
        limit.retry_after = '9s'
        [[route]]
        path = '/total'
        limit.total = 2
        [[route]]
        path = '/rate'
        limit.rate = '1/h'
        limit.burst = 1
        [[route]]
        path = '/free'
        limit.allow = ['127.0.0.0/8']
        [[route]]
        path = '/own'
        limit.per_ip = 1
    ";
    let mut proxy = configured(&origin, config, &[]);
    // Two streams in all of these, and each answers by its own settings.
    let streams = hold(&proxy, &[("/rate", 200), ("/later", 200)]);
    for (path, seconds) in [("/", 5), ("/later", 9), ("/total", 5), ("/rate", 5)] {
        let (status, head, _) = send_request(&proxy, path);
        assert_eq!(status, 429, "{path}: {head}");
        let retry = format!("\nretry-after: {seconds}\n");
        assert!(head.contains(&retry), "{path}: {head}");
    }
    let own = hold(&proxy, &[("/own", 200), ("/own", 429)]);
    let free = hold(&proxy, &[("/free", 200); 5]);
    drop((streams, own, free));
    origin.wait_for_open(0);
    let last = proxy.stop();
    assert_eq!((&last["opened"], &last["slots"]), (&8.into(), &0.into()));
}

#[test]
fn route_that_limits_clients_alone_shares_the_total() {
    let origin = Origin::held();
    let config = "
        limit.total = 2
        limit.rate = 'off'
        [[route]]
        path = '/clients'
        limit.per_ip = 1
        [[route]]
        path = '/total'
        limit.total = 1
    ";
    let proxy = configured(&origin, config, &[]);
    let _held = hold(
        &proxy,
        &[
            ("/clients", 200),
            ("/", 200),
            ("/", 503),
            ("/total", 200),
            ("/total", 503),
        ],
    );
}

#[test]
fn route_matches_whole_segments_and_overrides_a_flag() {
    let origin = Origin::held();
    let config = "
        [[route]]
        path = '/v1'
        heartbeat.text = 'of the route'
    ";
    let flags = [
        "--heartbeat-text",
        "of the flag",
        "--heartbeat-interval",
        "5ms",
    ];
    let proxy = configured(&origin, config, &flags);
    for (path, text) in [
        ("/v1", ": of the route\n"),
        ("/v1?x=/v2", ": of the route\n"),
        ("/v1/chat", ": of the route\n"),
        ("/v1x", ": of the flag\n"),
        ("/?/v1", ": of the flag\n"),
        ("/%761", ": of the route\n"),
    ] {
        let (.., mut client) = send_request(&proxy, path);
        let seen = client.read_until("of the ");
        assert!(seen.contains(text), "{path}: {seen:?}");
    }
}

#[test]
fn route_without_heartbeats_has_none_while_others_have() {
    let (go_on, goes_on) = channel::<()>();
    let goes_on = Mutex::new(goes_on);
    let origin = Origin::start(move |received, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        if received.path == "/off" {
            goes_on.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            to.chunk("data: 2\n\n");
            to.end();
        }
        to.wait_for_close();
    });
    let config = "
        heartbeat.interval = '5ms'
        [[route]]
        path = '/off'
        heartbeat.interval = 'off'
    ";
    let proxy = configured(&origin, config, &[]);
    let (.., mut off) = send_request(&proxy, "/off");
    let (.., mut other) = send_request(&proxy, "/");
    for _ in 0..10 {
        other.read_until(": heartbeat\n");
    }
    go_on.send(()).unwrap();
    assert_eq!(off.rest().0, b"data: 1\n\ndata: 2\n\n");
}

#[test]
fn path_without_a_route_is_a_404_with_a_reason() {
    let origin = Origin::held();
    let mut file = NamedTempFile::new().unwrap();
    let config = format!(
        "[[route]]\npath = '/v1'\nupstream.url = 'http://{}'\n",
        origin.addr
    );
    file.write_all(config.as_bytes()).unwrap();
    let proxy = Proxy::with_flags(&["--config", file.path().to_str().unwrap()]);
    let (status, _, mut client) = send_request(&proxy, "/v2");
    assert_eq!(status, 404);
    let text = b"sse-guard: no route for this path\n";
    assert_eq!(client.bytes(text.len()), text);
    assert_eq!(origin.served(), 0);
    assert_eq!(send_request(&proxy, "/v1").0, 200);
}
