//! One stream that loses its upstream.

use super::*;

/// The same numbers in each run (splitmix64).
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
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
