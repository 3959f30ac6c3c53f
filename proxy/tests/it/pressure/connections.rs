//! Connections that serve no request, and the admin address beside them.

use super::*;

/// A connection that takes a file and asks for nothing: silent, with a head that does not end, or
/// kept after a request.
fn idle(number: usize, source: [u8; 4], proxy: &Proxy) -> Client {
    let mut client = Client::connect_from(source, proxy.addr);
    match number % 3 {
        0 => {}
        1 => drop(client.try_send("GET /events HTTP/1.1\r\nHost: a\r\nX-Slow: ")),
        _ => drop(client.try_send(PLAIN)),
    }
    client
}

fn attacked_by(sources: &[[u8; 4]]) {
    let (go, origin) = origin();
    let flags = [
        "--heartbeat-interval=50ms",
        "--admin-listen=127.0.0.1:0",
        "--limit-rate=off",
    ];
    let mut proxy = Proxy::with_few_files(FILES, origin.addr, &flags);
    let mut streams: Vec<Client> = (0..STREAMS)
        .map(|number| stream_from(other(number), &proxy))
        .collect();
    let mut crowd = Vec::new();
    // For as long as it takes to rotate streams several times: some heartbeats each.
    for round in 0..60 {
        for number in 0..10 {
            let source = sources[(round + number) % sources.len()];
            crowd.push(idle(number, source, &proxy));
        }
        streams[0].read_until(": heartbeat\n");
        if round % 10 == 0 {
            streams.push(stream_from(other(100 + round), &proxy));
        }
        assert!(proxy.files() < FILES * 9 / 10, "{} files", proxy.files());
    }
    assert!(admin(&proxy, "/readyz").starts_with("HTTP/1.1 200 "));
    let closed = metric(
        &proxy,
        "sse_guard_connections_closed_total{reason=\"files\"}",
    );
    assert!(closed > 300.0, "{closed}");
    let told = proxy.wait_for_log("closing idle connections, the oldest first");
    assert!(
        told.contains("files run short") || told.contains("files"),
        "{told}"
    );
    // The oldest went.
    assert_eq!(crowd.remove(0).raw_and_end().1, Gone::Closed);
    for _ in 0..streams.len() {
        go.send(()).unwrap();
    }
    for mut stream in streams {
        stream.read_until("data: 2\n\n");
        assert_eq!(stream.rest(), (Vec::new(), End::Clean));
    }
    drop(crowd);
    let last = proxy.stop();
    assert_eq!(
        (&last["rejected"], &last["accept_failures"]),
        (&0.into(), &0.into())
    );
    let opened = last["opened"].as_u64().unwrap();
    assert_eq!(opened, STREAMS as u64 + 6);
}

#[test]
fn silent_connections_of_one_address_end_no_stream() {
    attacked_by(&[[127, 0, 0, 1]]);
}

#[test]
fn silent_connections_of_many_addresses_end_no_stream() {
    let sources: Vec<_> = (1..=50).map(|number| [127, 0, 2, number]).collect();
    attacked_by(&sources);
}

#[test]
fn max_connections_closes_the_oldest_idle_connection_of_an_address() {
    let (_go, origin) = origin();
    let flags = [
        "--client-max-connections=8",
        "--admin-listen=127.0.0.1:0",
        "--trusted-proxies=127.0.3.0/24",
        "--limit-allow=127.0.4.0/24",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let crowd = [127, 0, 0, 1];
    // Streams are in use, and stay.
    let streams: Vec<Client> = (0..4).map(|_| stream_from(crowd, &proxy)).collect();
    let mut silent: Vec<Client> = (0..40).map(|number| idle(number, crowd, &proxy)).collect();
    assert_eq!(silent.remove(0).raw_and_end().1, Gone::Closed);
    let told = proxy.wait_for_log("closing connections of an address");
    assert!(
        told.contains("client.max_connections") && told.contains("127.0.0.1"),
        "{told}"
    );
    let open = "sse_guard_connections{state=\"idle\"}";
    wait_until("the bound", || metric(&proxy, open) <= 4.0);
    let more: Vec<Client> = (0..4).map(|_| stream_from(crowd, &proxy)).collect();
    // All of its connections serve: a new one has no place.
    let mut refused = Client::connect_from(crowd, proxy.addr);
    refused.try_send(GET);
    assert!(refused.raw().is_empty());
    // Other addresses have their own, and those that carry many clients any number.
    let others = [[127, 0, 0, 2], [127, 0, 3, 1], [127, 0, 4, 1]];
    for (address, count) in others.into_iter().zip([8, 20, 20]) {
        let held: Vec<Client> = (0..count).map(|_| stream_from(address, &proxy)).collect();
        drop(held);
    }
    let closed = metric(
        &proxy,
        "sse_guard_connections_closed_total{reason=\"per_client\"}",
    );
    assert!(closed >= 40.0, "{closed}");
    drop((streams, more));
}

#[test]
fn admin_address_responds_when_clients_hold_all_files() {
    let (_go, origin) = origin();
    let flags = [
        "--files-budget=off",
        "--limit-rate=off",
        "--upstream-unavailable=status",
        "--admin-listen=127.0.0.1:0",
    ];
    let proxy = Proxy::with_few_files(64, origin.addr, &flags);
    let mut held = Vec::new();
    // But for the last eight, and those for one more stream.
    while proxy.files() < 64 - 8 - 2 {
        held.push(stream_from([127, 0, 0, 1], &proxy));
    }
    // More than there are files, which wait.
    held.extend((0..64).map(|_| Client::connect(proxy.addr)));
    proxy.wait_for_log("cannot accept connections");
    for _ in 0..30 {
        assert!(admin(&proxy, "/healthz").starts_with("HTTP/1.1 200 "));
        assert!(admin(&proxy, "/metrics").contains("sse_guard_files_used"));
    }
}

#[test]
fn admin_address_responds_despite_silent_connections() {
    let (_go, origin) = origin();
    let flags = ["--admin-listen=127.0.0.1:0", "--client-max-connections=off"];
    let proxy = Proxy::start(origin.addr, &flags);
    let silent: Vec<Client> = (0..300).map(|_| Client::connect(proxy.admin())).collect();
    for _ in 0..10 {
        assert!(admin(&proxy, "/healthz").starts_with("HTTP/1.1 200 "));
    }
    assert!(proxy.files() < 150, "{} files", proxy.files());
    drop(silent);
}

#[test]
fn rejected_client_releases_its_connection() {
    let (_go, origin) = origin();
    let route = "--limit-per-ip=1";
    for reject in ["--limit-reject=status", "--limit-reject=retry-later"] {
        let proxy = Proxy::start(origin.addr, &[route, reject]);
        let stream = stream_from([127, 0, 0, 1], &proxy);
        let mut refused = proxy.send_request(GET);
        let head = refused.head();
        assert!(head.contains("connection: close\n"), "{head}");
        assert_eq!(refused.raw_and_end().1, Gone::Closed);
        drop(stream);
    }
}

#[test]
fn unread_admin_responses_take_a_bounded_number_of_files() {
    let (_go, origin) = origin();
    let proxy = Proxy::with_few_files(FILES, origin.addr, &["--admin-listen=127.0.0.1:0"]);
    let before = proxy.files();
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4_000);
    let mut most = 0;
    let mut crowd = Vec::new();
    for _ in 0..150 {
        let mut client = Client::connect(proxy.admin());
        client.socket.set_nonblocking(true).unwrap();
        client.try_send(&request);
        crowd.push(client);
        most = most.max(proxy.files());
    }
    drop(stream_from([127, 0, 0, 1], &proxy));
    // Beside files of the proxy's own, which come and go.
    assert!(
        most <= before + FILES / 8 + 10,
        "{most} files, {before} before"
    );
}
