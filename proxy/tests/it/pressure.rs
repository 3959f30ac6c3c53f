//! Clients that take what others need: the real binary with few files, and many connections.

use crate::support::{Answer, Client, End, Gone, Origin, Proxy, ReceivedRequest, gate, wait_until};
use serde_json::{Value, json};
use std::io::Read;

/// As in the report: 40 streams take 80 of these.
const FILES: usize = 256;
const STREAMS: usize = 40;
const GET: &str = "GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
const PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: a\r\n\r\n";

/// An address of a client of its own.
fn other(number: usize) -> [u8; 4] {
    [127, 0, 1, u8::try_from(number).unwrap()]
}

fn stream_from(source: [u8; 4], proxy: &Proxy) -> Client {
    stream_of("/events", source, proxy)
}

fn stream_of(path: &str, source: [u8; 4], proxy: &Proxy) -> Client {
    let mut client = Client::connect_from(source, proxy.addr);
    client.send(&GET.replace("/events", path));
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    client.read_until("data: 1\n\n");
    client
}

/// `/plain` is a short text; all else a stream whose second event waits for the gate.
fn origin() -> (std::sync::mpsc::Sender<()>, Origin) {
    let (go, goes) = gate();
    let origin = Origin::start(move |received: ReceivedRequest, to: &mut Answer| {
        if received.path == "/hang" {
            to.wait_for_close();
            return;
        }
        if received.path == "/big" {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nbig");
            to.wait_for_close();
            return;
        }
        if received.path == "/socket" {
            to.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            let mut bytes = [0; 4];
            while to.socket.read_exact(&mut bytes).is_ok() {
                to.raw(&bytes);
            }
            return;
        }
        if received.path == "/half" {
            to.stream();
            to.chunk("data: 1\n\n");
            to.chunk(format!("data: {}", "x".repeat(40_000)));
            to.wait_for_close();
            return;
        }
        if received.path == "/flood" {
            to.stream();
            to.chunk("data: 1\n\n");
            let event = format!("data: {}\n\n", "x".repeat(1_000));
            while to.chunk(&event) {}
            return;
        }
        if received.path == "/page" {
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2000\r\n\r\n";
            to.raw(format!("{head}{}", "x".repeat(2_000)).as_bytes());
            return;
        }
        if received.path == "/plain" {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
            return;
        }
        to.stream();
        to.chunk("data: 1\n\n");
        if goes.opens() {
            to.chunk("data: 2\n\n");
            to.end();
        }
    });
    (go, origin)
}

fn admin(proxy: &Proxy, path: &str) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ));
    String::from_utf8(client.raw()).unwrap()
}

fn json(proxy: &Proxy, path: &str) -> Value {
    let answer = admin(proxy, path);
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// The clients of the streams in a list, and another member of each.
fn clients(list: &Value, member: &str) -> Vec<(String, Value)> {
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| {
        (
            row["client"].as_str().unwrap().to_owned(),
            row[member].clone(),
        )
    })
    .collect()
}

/// The value of a metric, named with its labels.
fn metric(proxy: &Proxy, name: &str) -> f64 {
    let text = admin(proxy, "/metrics");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let value = lines.find_map(|line| line.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

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
fn stream_limit_above_the_file_limit_gets_a_warning() {
    let (_go, origin) = origin();
    let proxy = Proxy::with_few_files(200, origin.addr, &["--limit-total=300"]);
    let told = "limit.total allows 300 streams, but 200 open files are enough for 90:";
    proxy.wait_for_log(told);
    let output = std::process::Command::new("/bin/sh")
        .env_clear()
        .args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""])
        .args([env!("CARGO_BIN_EXE_sse-guard"), "check"])
        .args(["--upstream-url=http://127.0.0.1:1", "--limit-total=300"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("warning: {told}")), "{text}");
}

/// In flight until dropped: without a head, with half a body, a tunnel, or an upload.
fn in_flight(kind: &str, source: [u8; 4], proxy: &Proxy) -> Client {
    let mut client = Client::connect_from(source, proxy.addr);
    match kind {
        "socket" => {
            client.send(
                "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            );
            assert!(client.head().starts_with("http/1.1 101 "));
        }
        "upload" => client.send("POST /hang HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"),
        "big" => {
            client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(client.head().starts_with("http/1.1 200 "));
        }
        kind => client.send(&format!("GET /{kind} HTTP/1.1\r\nHost: a\r\n\r\n")),
    }
    client
}

fn status_of(source: [u8; 4], request: &str, proxy: &Proxy) -> String {
    let mut client = Client::connect_from(source, proxy.addr);
    client.send(request);
    client.head()[9..12].to_owned()
}

#[test]
fn requests_in_flight_are_limited_in_each_state() {
    let (greedy, other) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    for kind in ["hang", "big", "socket", "upload"] {
        let (_go, origin) = origin();
        let flags = [
            "--limit-requests-per-ip=3",
            "--upstream-max-pending=4",
            "--admin-listen=127.0.0.1:0",
        ];
        let mut proxy = Proxy::start(origin.addr, &flags);
        let held: Vec<Client> = (0..3).map(|_| in_flight(kind, greedy, &proxy)).collect();
        origin.wait_for_open(3);
        let mut over = Client::connect_from(greedy, proxy.addr);
        over.send(PLAIN);
        let head = over.head();
        assert!(head.starts_with("http/1.1 429 "), "{kind}: {head}");
        assert!(head.contains("retry-after: ") && head.contains("connection: close\n"));
        assert_eq!(status_of(greedy, GET, &proxy), "429", "{kind}");
        assert_eq!(status_of(other, PLAIN, &proxy), "200", "{kind}");
        drop(stream_from(other, &proxy));
        let rejected = "sse_guard_rejections_total{reason=\"requests\"}";
        assert_eq!(metric(&proxy, rejected), 2.0, "{kind}");
        drop(held);
        wait_until("its place", || status_of(greedy, PLAIN, &proxy) == "200");
        assert_eq!(proxy.stop()["slots"], 0);
    }
}

#[test]
fn event_source_over_the_request_limit_gets_a_retry() {
    let (_go, origin) = origin();
    let flags = ["--limit-requests-per-ip=1", "--limit-reject=retry-later"];
    let proxy = Proxy::start(origin.addr, &flags);
    let _held = in_flight("hang", [127, 0, 0, 1], &proxy);
    origin.wait_for_open(1);
    let mut later = proxy.get("/events");
    assert!(later.head().starts_with("http/1.1 200 "));
    assert_eq!(later.bytes(7), b"retry: ");
    assert_eq!(status_of([127, 0, 0, 1], PLAIN, &proxy), "429");
}

#[test]
fn tunnel_idle_timeout_closes_idle_tunnels_alone() {
    let (_go, origin) = origin();
    let flags = ["--tunnel-idle-timeout=3s", "--admin-listen=127.0.0.1:0"];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut tunnel = in_flight("socket", [127, 0, 0, 1], &proxy);
    let mut silent = in_flight("socket", [127, 0, 0, 1], &proxy);
    let pause = std::time::Duration::from_millis(100);
    silent.socket.set_read_timeout(Some(pause)).unwrap();
    let mut ping = || {
        tunnel.send("ping");
        assert_eq!(tunnel.bytes(4), b"ping");
    };
    wait_until("the end of the silent one", || {
        ping();
        let read = (&silent.socket).read(&mut [0]);
        !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    });
    ping();
    let closed = "sse_guard_tunnels_closed_total{reason=\"idle\"}";
    assert_eq!(metric(&proxy, closed), 1.0);
    assert_eq!(metric(&proxy, "sse_guard_tunnels"), 1.0);
    drop((tunnel, silent.raw()));
    wait_until("its end", || metric(&proxy, "sse_guard_tunnels") == 0.0);
}

/// One address takes all that it may, and comes again for what it has lost.
fn the_largest_holder_pays(files: usize, request: &str, path: &str) {
    let (go, origin) = origin();
    let flags = ["--admin-listen=127.0.0.1:0", "--limit-rate=off"];
    let mut proxy = Proxy::with_few_files(files, origin.addr, &flags);
    let healthy: Vec<Client> = (0..30)
        .map(|number| stream_from(other(number % 10), &proxy))
        .collect();
    let request = request.replace("PATH", path);
    let mut greedy: Vec<Client> = Vec::new();
    let closed = "sse_guard_connections_closed_total{reason=\"share\"}";
    wait_until("the ends of its requests", || {
        for client in &mut greedy {
            // A tunnel is busy.
            client.try_send("ping");
        }
        for _ in 0..20 {
            let mut client = Client::connect_from([127, 0, 0, 1], proxy.addr);
            client.try_send(&request);
            greedy.push(client);
        }
        if greedy.len() > 400 {
            greedy.drain(..200);
        }
        metric(&proxy, closed) >= 60.0
    });
    let told = proxy.wait_for_log("ending requests of the client that holds most");
    assert!(told.contains("127.0.0.1"), "{told}");
    assert_eq!(json(&proxy, "/api/ends")["ends"], json!([]));
    // Others get new streams and answers again.
    drop(greedy);
    wait_until("room", || status_of(other(11), PLAIN, &proxy) == "200");
    for _ in 0..healthy.len() {
        go.send(()).unwrap();
    }
    for mut stream in healthy {
        stream.read_until("data: 2\n\n");
        assert_eq!(stream.rest(), (Vec::new(), End::Clean));
    }
    proxy.stop();
}

#[test]
fn requests_of_the_largest_client_end_before_streams_of_others() {
    let request = "GET PATH HTTP/1.1\r\nHost: a\r\n\r\n";
    the_largest_holder_pays(FILES, request, "/hang");
}

#[test]
fn tunnels_of_the_largest_client_end_before_streams_of_others() {
    let request =
        "GET PATH HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    the_largest_holder_pays(FILES, request, "/socket");
}

#[test]
fn unread_responses_of_the_largest_client_end_before_streams_of_others() {
    // Each answer is short, and many wait for a client that reads none.
    let request = "GET PATH HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2_000);
    the_largest_holder_pays(FILES, &request, "/page");
}

#[test]
fn clients_behind_a_trusted_proxy_count_by_their_own_address() {
    let (_go, origin) = origin();
    let flags = [
        "--admin-listen=127.0.0.1:0",
        "--limit-rate=off",
        "--trusted-proxies=127.0.0.0/8",
    ];
    let proxy = Proxy::with_few_files(FILES, origin.addr, &flags);
    let from = |client: usize, request: &str| {
        let mut connection = Client::connect(proxy.addr);
        let field = format!("X-Forwarded-For: 192.0.2.{client}\r\n\r\n");
        connection.try_send(&request.replace("\r\n\r\n", &format!("\r\n{field}")));
        connection
    };
    let mut healthy: Vec<Client> = (0..20).map(|number| from(number % 10, GET)).collect();
    for stream in &mut healthy {
        stream.head();
        stream.read_until("data: 1\n\n");
    }
    let hang = PLAIN.replace("/plain", "/hang");
    let mut greedy = Vec::new();
    let closed = "sse_guard_connections_closed_total{reason=\"share\"}";
    wait_until("the ends of its requests", || {
        greedy.extend((0..20).map(|_| from(200, &hang)));
        metric(&proxy, closed) >= 20.0
    });
    let told = proxy.wait_for_log("ending requests of the client that holds most");
    assert!(told.contains("192.0.2.200"), "{told}");
    assert_eq!(json(&proxy, "/api/ends")["ends"], json!([]));
    drop((healthy, greedy));
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

#[test]
fn memory_budget_ends_the_largest_streams_first() {
    let (_go, origin) = origin();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    std::fs::write(&file, "").unwrap();
    let flags = [
        "--config",
        file.to_str().unwrap(),
        "--admin-listen=127.0.0.1:0",
        "--client-send-buffer=4KiB",
        "--upstream-receive-buffer=4KiB",
        "--client-write-stall=off",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    // The oldest, which hold next to nothing.
    let idle: Vec<Client> = (1..=3)
        .map(|number| stream_from(other(number), &proxy))
        .collect();
    // One that holds a part of an event.
    let mut half = stream_of("/half", [127, 0, 2, 1], &proxy);
    // One that does not read, and for which events of the operator's wait.
    let stalled = stream_of("/flood", [127, 0, 2, 2], &proxy);
    let (mut passed, mut unchanged) = (Value::Null, 0);
    wait_until("a client for which there is no room", || {
        let stream = json(&proxy, "/api/streams?client=127.0.2.2")["streams"][0].clone();
        let before = std::mem::replace(&mut passed, stream["bytes"].clone());
        let is_blocked = stream["unsent_bytes"]
            .as_u64()
            .is_some_and(|unsent| unsent > 0);
        unchanged = if is_blocked && before == passed {
            unchanged + 1
        } else {
            0
        };
        unchanged == 50
    });
    let message =
        json!({ "to": { "client": "127.0.2.2" }, "data": "x".repeat(60_000) }).to_string();
    let mut operator = Client::connect(proxy.admin());
    operator.send(&format!(
        "POST /api/send HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{message}",
        message.len()
    ));
    let answer = String::from_utf8(operator.raw()).unwrap();
    assert!(answer.contains("\"sent\":1"), "{answer}");
    let most = || {
        let list = json(&proxy, "/api/streams?sort=held&order=desc");
        clients(&list["streams"], "held_bytes")
    };
    wait_until("what is held", || most()[1].1.as_u64().unwrap() > 40_000);
    let held = most();
    assert_eq!(
        (held[0].0.as_str(), held[1].0.as_str()),
        ("127.0.2.2", "127.0.2.1")
    );
    assert!(held[0].1.as_u64().unwrap() > 60_000, "{held:?}");
    assert!(held[2].1.as_u64().unwrap() < 1_000, "{held:?}");

    std::fs::write(&file, "memory.budget = '8MiB'").unwrap();
    proxy.signal("-HUP");
    // A round each second, of one stream.
    let ends = || clients(&json(&proxy, "/api/ends")["ends"], "reason");
    wait_until("three ends", || ends().len() >= 3);
    let mut ends = ends();
    ends.reverse();
    assert_eq!(
        ends[0],
        ("127.0.2.2".into(), json!("client_stalled")),
        "{ends:?}"
    );
    assert_eq!(ends[1], ("127.0.2.1".into(), json!("rotated")), "{ends:?}");
    assert_eq!(ends[2], ("127.0.1.1".into(), json!("rotated")), "{ends:?}");
    let (last, end) = half.rest();
    assert!(
        last.starts_with(b"retry: ") && end == End::Clean,
        "{last:?}"
    );
    drop((idle, stalled));
}
