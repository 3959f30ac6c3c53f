//! Many streams that lose one upstream.

use super::*;

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
