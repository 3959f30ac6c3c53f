//! The real binary when upstreams are lost: its clients hear heartbeats, and miss nothing.

use crate::support::{Answer, Client, End, Origin, Proxy, ReceivedRequest, gate, wait_until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::thread;

const FLAGS: [&str; 3] = [
    "--resume-mode=on",
    "--heartbeat-interval=20ms",
    "--limit-rate=off",
];
const SHORT_BACKOFF: [&str; 2] = ["--resume-backoff=20ms", "--resume-max-backoff=20ms"];

fn start(origin: SocketAddr, flags: &[&str]) -> Proxy {
    start_with_backoff(origin, &[&SHORT_BACKOFF, flags].concat())
}

fn metrics(proxy: &Proxy) -> String {
    let mut admin = Client::connect(proxy.admin());
    admin.send("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    String::from_utf8(admin.raw()).unwrap()
}

fn start_with_backoff(origin: SocketAddr, flags: &[&str]) -> Proxy {
    Proxy::start(origin, &[&FLAGS, flags].concat())
}

fn event(id: u64) -> String {
    format!("id: {id}\ndata: {id}\n\n")
}

/// The first id behind the one in the request.
fn next(received: &ReceivedRequest) -> u64 {
    received
        .field("last-event-id")
        .map_or(1, |id| id.parse::<u64>().unwrap() + 1)
}

/// The same numbers in each run (splitmix64).
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// Reads to `last`; tells the ids in their order, and how many heartbeats there were.
fn read_to(client: &mut Client, last: u64) -> (Vec<u64>, usize) {
    assert!(client.head().starts_with("http/1.1 200 "));
    let text = client.read_until(&event(last));
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
    let ids = ids.map(|id| id.parse().unwrap()).collect();
    (ids, text.matches(": heartbeat\n").count())
}

/// An upstream that is lost behind the first event of each stream, at the test's signal.
fn lost_after_one_event() -> (Sender<()>, Origin) {
    let (go, goes) = gate();
    let origin = Origin::start(move |_, to| {
        to.stream();
        to.chunk(event(1));
        goes.wait();
        to.reset();
    });
    (go, origin)
}

#[test]
fn resume_delivers_each_event_once_at_every_cut() {
    const LAST: u64 = 400;
    let connections = AtomicUsize::new(0);
    let origin = Origin::start(move |received: ReceivedRequest, to: &mut Answer| {
        let connection = connections.fetch_add(1, SeqCst) as u64;
        let (dice, first) = (random(connection), next(&received));
        // One in three repeats what its client has.
        let from = if dice % 3 == 0 {
            first.saturating_sub(5).max(1)
        } else {
            first
        };
        let cut = first + dice / 3 % 50;
        to.stream();
        for id in from..=LAST {
            let whole = event(id);
            if id == cut && id < LAST {
                to.chunk(&whole[..1 + (dice >> 16) as usize % (whole.len() - 1)]);
                to.reset();
                return;
            }
            if !to.chunk(whole) {
                return;
            }
        }
        to.wait_for_close();
    });
    let proxy = start(origin.addr, &["--resume-rate=off"]);
    let mut clients: Vec<_> = (0..10).map(|_| proxy.get("/")).collect();
    let reads: Vec<_> = clients
        .iter_mut()
        .map(|client| read_to(client, LAST).0)
        .collect();
    for ids in reads {
        assert_eq!(ids, (1..=LAST).collect::<Vec<_>>());
    }
    assert!(origin.served() > 100, "{} connections", origin.served());
    drop(clients);
    origin.wait_for_open(0);
}

#[test]
fn resume_sends_heartbeats_alone_during_an_outage() {
    let (go, origin) = lost_after_one_event();
    let address = origin.addr;
    let proxy = start(address, &["--admin-listen=127.0.0.1:0"]);
    let mut client = proxy.get("/");
    assert_eq!(read_to(&mut client, 1).0, [1]);
    // Nobody listens there for a while.
    origin.stop_listening();
    go.send(()).unwrap();
    for _ in 0..5 {
        client.read_until(": heartbeat\n");
    }
    let state = || metrics(&proxy);
    wait_until("the state", || {
        state().contains("sse_guard_streams_waiting{state=\"resuming\"} 1")
            || state().contains("sse_guard_streams_waiting{state=\"degraded\"} 1")
    });
    let back = Origin::listening(&address.to_string(), |received, to| {
        to.stream();
        to.chunk(event(next(&received)));
        to.wait_for_close();
    });
    let text = client.read_until(&event(2));
    assert_eq!(text.replace(": heartbeat\n", ""), event(2));
    wait_until("the metric", || {
        state().contains("sse_guard_resumes_total{outcome=\"resumed\"} 1")
    });
    drop(client);
    back.wait_for_open(0);
}

#[test]
fn resume_reports_a_refusal_in_a_last_event() {
    let origin = Origin::start(|received: ReceivedRequest, to: &mut Answer| {
        if received.field("last-event-id").is_some() {
            to.raw(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        to.stream();
        to.chunk(event(1));
        to.reset();
    });
    let proxy = start(origin.addr, &[]);
    let mut client = proxy.get("/");
    assert_eq!(read_to(&mut client, 1).0, [1]);
    let (rest, end) = client.rest();
    let rest = String::from_utf8(rest).unwrap();
    assert!(
        rest.contains("event: error\ndata: {") && rest.contains("410"),
        "{rest}"
    );
    assert_eq!(end, End::Clean);
}

#[test]
fn reconnects_end_with_the_client_and_at_a_drain() {
    let (go, origin) = lost_after_one_event();
    let address = origin.addr;
    let mut proxy = start(address, &["--drain-window=0s"]);
    let mut clients: Vec<_> = (0..2).map(|_| proxy.get("/")).collect();
    for client in &mut clients {
        assert_eq!(read_to(client, 1).0, [1]);
    }
    origin.stop_listening();
    for client in &mut clients {
        go.send(()).unwrap();
        client.read_until(": heartbeat\n");
    }
    drop(clients.pop());
    proxy.signal("-TERM");
    let (rest, end) = clients[0].rest();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("retry: "), "{rest}");
    assert_eq!(end, End::Clean);
    assert!(proxy.wait().success());
}

#[test]
fn max_connection_age_replaces_the_connection_within_one_stream() {
    const LAST: u64 = 60;
    let origin = Origin::start(|received: ReceivedRequest, to: &mut Answer| {
        to.stream();
        for id in next(&received)..=LAST {
            if !to.chunk(event(id)) {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        to.wait_for_close();
    });
    let proxy = start(origin.addr, &["--resume-max-connection-age=100ms"]);
    let mut client = proxy.get("/");
    let (ids, _) = read_to(&mut client, LAST);
    assert_eq!(ids, (1..=LAST).collect::<Vec<_>>());
    wait_until("another connection", || origin.served() > 2);
}

#[test]
fn reconnects_are_limited_when_the_upstream_is_back() {
    let (go, goes) = gate();
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    let origin = Origin::start(move |received: ReceivedRequest, to: &mut Answer| {
        if received.field("last-event-id").is_none() {
            to.stream();
            to.chunk(event(1));
            goes.wait();
            to.reset();
            return;
        }
        // One at a time, or it would see a second one here.
        assert_eq!(count.fetch_add(1, SeqCst), 0);
        thread::yield_now();
        count.fetch_sub(1, SeqCst);
        to.stream();
        to.chunk(event(2));
        to.wait_for_close();
    });
    let proxy = start(
        origin.addr,
        &["--resume-max-concurrent=1", "--resume-rate=500/s"],
    );
    let mut clients: Vec<_> = (0..40).map(|_| proxy.get("/")).collect();
    for client in &mut clients {
        assert_eq!(read_to(client, 1).0, [1]);
    }
    for _ in &clients {
        go.send(()).unwrap();
    }
    for client in &mut clients {
        client.read_until(&event(2));
    }
    assert_eq!(open.load(SeqCst), 0);
}

const SSE: &str = "Host: a\r\nAccept: text/event-stream\r\n";

/// A stream of the client at this address, as a trusted balancer names it.
fn stream_of(proxy: &Proxy, client: &str, path: &str) -> Client {
    proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\n{SSE}X-Forwarded-For: {client}\r\n\r\n"
    ))
}

#[test]
fn stream_reconnects_with_its_upstream_regardless_of_its_backoff() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = attempts.clone();
    let origin = Origin::start(move |received: ReceivedRequest, to: &mut Answer| {
        if received.field("last-event-id").is_none() {
            to.stream();
            to.chunk(event(1));
            to.reset();
        } else if count.fetch_add(1, SeqCst) < 12 {
            to.raw(b"HTTP/1.1 503 Starting\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        } else {
            to.stream();
            to.chunk(event(2));
            to.wait_for_close();
        }
    });
    // Its own tries would take hours.
    let flags = ["--resume-backoff=1s", "--resume-max-backoff=1h"];
    let proxy = start_with_backoff(origin.addr, &flags);
    let mut client = proxy.get("/");
    client.head();
    client.read_until(&event(2));
    assert_eq!(attempts.load(SeqCst), 13);
    for what in [
        "upstream lost",
        "upstream unreachable or failing",
        "upstream back",
    ] {
        proxy.wait_for_log(what);
    }
}

#[test]
fn outage_of_many_streams_is_logged_in_a_few_lines() {
    const STREAMS: usize = 40;
    let (go, origin) = lost_after_one_event();
    let address = origin.addr;
    let proxy = start_with_backoff(address, &["--limit-per-ip=off"]);
    let mut clients: Vec<_> = (0..STREAMS).map(|_| proxy.get("/")).collect();
    for client in &mut clients {
        assert_eq!(read_to(client, 1).0, [1]);
    }
    origin.stop_listening();
    for _ in &clients {
        go.send(()).unwrap();
    }
    proxy.wait_for_log("upstream unreachable or failing");
    for client in &mut clients {
        client.read_until(": heartbeat\n");
    }
    let _back = Origin::listening(&address.to_string(), |_, to| {
        to.stream();
        to.chunk(event(2));
        to.wait_for_close();
    });
    for client in &mut clients {
        client.read_until(&event(2));
    }
    let over = proxy.wait_for_log("no stream is waiting for the upstream any more");
    assert!(over.contains(&format!("\"resumed\":{STREAMS},")), "{over}");
    assert!(over.contains(&format!("http://{address}")), "{over}");
    let log = proxy.log();
    for what in [
        "upstream lost",
        "upstream unreachable or failing",
        "upstream back",
    ] {
        assert_eq!(log.matches(what).count(), 1, "{what}: {log}");
    }
}

/// An origin where `/broken` is never resumed because of `breaks`, and `/good` breaks off and is resumed all the time.
/// Returns the count of requests for the former.
fn half_broken(breaks: fn(&mut Answer)) -> (Origin, Arc<AtomicUsize>) {
    let requests_for_broken = Arc::new(AtomicUsize::new(0));
    let count = requests_for_broken.clone();
    let origin = Origin::start(move |received: ReceivedRequest, to: &mut Answer| {
        let goes_on = received.field("last-event-id").is_some();
        if goes_on && received.path.starts_with("/broken") {
            count.fetch_add(1, SeqCst);
            breaks(to);
            return;
        }
        to.stream();
        to.chunk(event(next(&received)));
        to.reset();
    });
    (origin, requests_for_broken)
}

#[test]
fn failing_streams_do_not_delay_reconnects_of_others() {
    const BROKEN: usize = 40;
    let fails = |to: &mut Answer| {
        to.raw(b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let hangs = |to: &mut Answer| {
        to.wait_for_close();
    };
    for (breaks, at_once) in [(fails as fn(&mut Answer), 32), (hangs, 32), (hangs, 4)] {
        // Of one client with one path or several, and of many clients.
        for key in [
            |_| ("10.0.0.1".to_owned(), "/broken".to_owned()),
            |n| ("10.0.0.1".to_owned(), format!("/broken/{n}")),
            |n| (format!("10.0.0.{n}"), "/broken".to_owned()),
        ] as [fn(usize) -> (String, String); 3]
        {
            let (origin, requests_for_broken) = half_broken(breaks);
            let proxy = start(
                origin.addr,
                &[
                    "--trusted-proxies=127.0.0.0/8",
                    "--limit-per-ip=off",
                    &format!("--resume-max-concurrent={at_once}"),
                ],
            );
            let mut broken: Vec<_> = (0..BROKEN)
                .map(|n| {
                    let (client, path) = key(n);
                    stream_of(&proxy, &client, &path)
                })
                .collect();
            for client in &mut broken {
                client.head();
                client.read_until(&event(1));
            }
            wait_until("requests for the broken ones", || {
                requests_for_broken.load(SeqCst) >= 2
            });
            // It loses its upstream, and goes on, twenty times.
            let mut healthy = stream_of(&proxy, "10.9.9.9", "/good");
            healthy.head();
            healthy.read_until(&event(20));
            // Meanwhile the others were not requested without a pause either.
            let count = requests_for_broken.load(SeqCst);
            assert!(count <= BROKEN + 60, "{count}");
        }
    }
}

#[test]
fn successful_plain_request_wakes_reconnects() {
    let (go, origin) = lost_after_one_event();
    let address = origin.addr;
    // Four tries, the last of which come hours later.
    let flags = [
        "--resume-backoff=1h",
        "--resume-max-backoff=1h",
        "--resume-attempts=4",
    ];
    let flags = [
        &flags[..],
        &["--resume-give-up=24h", "--admin-listen=127.0.0.1:0"],
    ]
    .concat();
    let proxy = start_with_backoff(address, &flags);
    let mut clients: Vec<_> = (0..3).map(|_| proxy.get("/")).collect();
    for client in &mut clients {
        assert_eq!(read_to(client, 1).0, [1]);
    }
    origin.stop_listening();
    for _ in &clients {
        go.send(()).unwrap();
    }
    // A stream that is lost later starts a backoff of its own.
    let waiting = "sse_guard_streams_waiting{state=\"resuming\"} 3";
    wait_until("all streams wait", || metrics(&proxy).contains(waiting));
    // The upstream is known to be away by a plain request, too.
    let plain = || {
        proxy
            .send_request("GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .head()
    };
    assert!(plain().starts_with("http/1.1 502 "));
    let _back = Origin::listening(
        &address.to_string(),
        |received: ReceivedRequest, to: &mut Answer| {
            if received.path == "/page" {
                to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                return;
            }
            to.stream();
            to.chunk(event(2));
            to.wait_for_close();
        },
    );
    assert!(plain().starts_with("http/1.1 200 "));
    for client in &mut clients {
        client.read_until(&event(2));
    }
}

#[test]
fn replaced_connection_loses_no_event_without_replay() {
    // All connections get each number from the time on at which they come, whether it has an id or not.
    for (mode, has_ids) in [("on", true), ("lossy", false)] {
        let feed = Arc::new((std::sync::Mutex::new(0_u64), std::sync::Condvar::new()));
        let connections = feed.clone();
        let origin = Origin::start(move |_, to: &mut Answer| {
            let (count, changed) = &*connections;
            let mut last = *count.lock().unwrap();
            to.stream();
            loop {
                let now = {
                    let count = count.lock().unwrap();
                    *changed.wait_while(count, |count| *count == last).unwrap()
                };
                for n in last + 1..=now {
                    let id = if has_ids {
                        format!("id: {n}\n")
                    } else {
                        String::new()
                    };
                    if !to.chunk(format!("{id}data: {n}\n\n")) {
                        return;
                    }
                }
                last = now;
            }
        });
        let mode = format!("--resume-mode={mode}");
        let flags = [
            &mode,
            "--resume-max-connection-age=100ms",
            "--limit-rate=off",
            "--heartbeat-interval=off",
        ];
        let proxy = Proxy::start(origin.addr, &flags);
        let mut client = proxy.get("/");
        client.head();
        let mut seen = Vec::new();
        let mut n = 0;
        // The next event is sent when the one before has arrived: one that is lost would never come.
        while origin.served() < 12 || n < 200 {
            n += 1;
            *feed.0.lock().unwrap() = n;
            feed.1.notify_all();
            let text = client.read_until(&format!("data: {n}\n\n"));
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            seen.extend(data.map(|n| n.parse::<u64>().unwrap()));
            thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(seen, (1..=n).collect::<Vec<_>>());
    }
}

#[test]
fn last_event_id_in_the_query_is_replaced_on_resume() {
    let (report, targets) = std::sync::mpsc::channel();
    let origin = Origin::start(move |received, to| {
        let id = received.field("last-event-id").map(str::to_owned);
        report.send((received.path.clone(), id)).unwrap();
        to.stream();
        match received.path.as_str() {
            // Lost without an event, then behind one, then held.
            "/?a=b&lastEventId=7" if received.field("last-event-id").is_none() => {
                to.chunk(": hello\n\n");
                to.reset();
            }
            "/?a=b&lastEventId=7" => {
                to.chunk(event(8));
                to.reset();
            }
            _ => {
                to.chunk(event(9));
                to.wait_for_close();
            }
        }
    });
    let proxy = start(origin.addr, &["--admin-listen=127.0.0.1:0"]);
    let mut client = proxy.get("/?a=b&lastEventId=7");
    assert_eq!(read_to(&mut client, 9).0, [8, 9]);
    let seen: Vec<_> = targets.try_iter().collect();
    let expected = [("7", None), ("7", Some("7")), ("8", Some("8"))];
    let expected = expected.map(|(query, header)| {
        (
            format!("/?a=b&lastEventId={query}"),
            header.map(str::to_owned),
        )
    });
    assert_eq!(seen, expected);
    // And for the count of clients that return.
    let metrics = metrics(&proxy);
    let returns = metrics
        .lines()
        .find(|line| line.starts_with("sse_guard_reconnects_total{"));
    assert!(
        returns.is_some_and(|line| line.ends_with(" 1")),
        "{metrics}"
    );
}
