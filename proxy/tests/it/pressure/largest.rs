//! The client that holds the most loses its own first.

use super::*;

/// One address takes all that it may, and comes again for what it has lost, until so many of its requests were ended.
fn the_largest_holder_pays(files: usize, request: &str, path: &str, ends: f64) {
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
        metric(&proxy, closed) >= ends
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
    the_largest_holder_pays(FILES, request, "/hang", 60.0);
}

#[test]
fn tunnels_of_the_largest_client_end_before_streams_of_others() {
    let request =
        "GET PATH HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    the_largest_holder_pays(FILES, request, "/socket", 60.0);
}

#[test]
fn unread_responses_of_the_largest_client_end_before_streams_of_others() {
    // Each answer is short, and many wait for a client that reads none. Most of its connections are closed while they
    // wait for the next request, and that costs time.
    let request = "GET PATH HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2_000);
    the_largest_holder_pays(FILES, &request, "/page", 5.0);
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
