//! IPv6 on both sides of the real binary, and whom its limits count there.

use crate::support::{Client, Origin, Proxy, skipped};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

/// Whether the machine has the address; prints if not.
fn has(address: &str) -> bool {
    let bound = TcpListener::bind(address);
    if let Err(error) = &bound {
        skipped(&format!("nobody can listen on {address} here: {error}"));
    }
    bound.is_ok()
}

/// One event, then silence until the other side goes.
fn held() -> Origin {
    Origin::listening("[::1]:0", |_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.wait_for_close();
    })
}

fn proxy(origin: &Origin, address: &str, flags: &[&str]) -> Proxy {
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    Proxy::listening(address, &[&[upstream.as_str()], flags].concat())
}

/// The status of a request for a stream with one more field, and its connection.
fn send_request(addr: SocketAddr, field: &str) -> (u16, Client) {
    let mut client = Client::connect(addr);
    client.send(&format!(
        "GET / HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n{field}\r\n\r\n"
    ));
    let head = client.head();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), client)
}

/// Where a listener on all addresses is reached by IPv4 and by IPv6; prints if it is not.
fn both(proxy: &Proxy) -> Option<(SocketAddr, SocketAddr)> {
    let port = proxy.addr.port();
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    if TcpStream::connect(v4).is_err() {
        skipped("a listener on [::] takes no IPv4 here");
        return None;
    }
    Some((v4, v6))
}

#[test]
fn ipv6_works_for_clients_and_upstream() {
    if !has("[::1]:0") {
        return;
    }
    let origin = held();
    let proxy = proxy(&origin, "[::1]:0", &[]);
    assert!(proxy.addr.is_ipv6());
    let mut client = proxy.get("/a?b");
    assert!(client.head().starts_with("http/1.1 200 ok\n"));
    assert_eq!(client.read_until("\n\n"), "data: 1\n\n");
    let received = origin.last_request();
    assert_eq!(received.path, "/a?b");
    assert_eq!(received.field("host"), Some("proxy.test"));
    assert_eq!(received.field("x-forwarded-for"), Some("::1"));
    assert_eq!(
        received.field("forwarded"),
        Some("for=\"[::1]\";host=\"proxy.test\";proto=http")
    );
    drop(client);
    origin.wait_for_open(0);
}

#[test]
fn ipv6_client_has_its_limit_unless_it_is_allowed() {
    if !has("[::1]:0") {
        return;
    }
    let origin = held();
    let limited = proxy(&origin, "[::1]:0", &["--limit-per-ip=1"]);
    let (first, _stream) = send_request(limited.addr, "X-A: 1");
    // What it claims to be is not believed.
    let (second, _) = send_request(limited.addr, "X-Forwarded-For: 2001:db8::1");
    assert_eq!((first, second), (200, 429));
    let allow = ["--limit-per-ip=1", "--limit-allow=::1/128"];
    let allowed = proxy(&origin, "[::1]:0", &allow);
    let streams = [(); 3].map(|()| send_request(allowed.addr, "X-A: 1"));
    assert!(streams.iter().all(|(status, _)| *status == 200));
}

#[test]
fn clients_behind_a_trusted_ipv6_proxy_are_distinguished_by_the_configured_prefix() {
    if !has("[::1]:0") {
        return;
    }
    let origin = held();
    for (prefix, clients) in [
        (
            "48",
            [
                ("2001:db8:1:1::1", 200),
                ("2001:db8:1:2::1", 429),
                ("[2001:db8:1:3::1]:443", 429),
                ("2001:db8:2:1::1", 200),
            ],
        ),
        (
            "128",
            [
                ("2001:db8::1", 200),
                ("2001:db8::2", 200),
                ("2001:db8::2, ::1", 429),
                ("[2001:0db8::0001]:443", 429),
            ],
        ),
    ] {
        let flags = [
            "--trusted-proxies=::1/128",
            "--limit-per-ip=1",
            "--limit-ipv6-prefix",
            prefix,
        ];
        let proxy = proxy(&origin, "[::1]:0", &flags);
        let mut streams = Vec::new();
        for (client, expected) in clients {
            let (status, stream) = send_request(proxy.addr, &format!("X-Forwarded-For: {client}"));
            assert_eq!(status, expected, "/{prefix}: {client}");
            streams.push(stream);
        }
    }
}

#[test]
fn ipv4_client_of_a_dual_stack_listener_counts_as_ipv4() {
    if !has("[::]:0") || !has("[::1]:0") {
        return;
    }
    let origin = held();
    let flags = ["--trusted-proxies=127.0.0.0/8", "--limit-per-ip=1"];
    let proxy = proxy(&origin, "[::]:0", &flags);
    let Some((v4, v6)) = both(&proxy) else { return };
    let (status, _believed) = send_request(v4, "X-Forwarded-For: 192.0.2.1");
    assert_eq!(status, 200);
    let forwarded = origin.last_request();
    assert_eq!(
        forwarded.field("x-forwarded-for"),
        Some("192.0.2.1, 127.0.0.1")
    );
    // A client of IPv4 is the same in its mapped form.
    assert_eq!(send_request(v4, "X-Forwarded-For: ::ffff:192.0.2.1").0, 429);
    let (status, _other) = send_request(v6, "X-Forwarded-For: 192.0.2.1");
    assert_eq!(status, 200, "not trusted, so it is itself");
    assert_eq!(send_request(v6, "X-A: 1").0, 429);
}

#[test]
fn ipv4_network_applies_to_clients_of_a_dual_stack_listener() {
    if !has("[::]:0") || !has("[::1]:0") {
        return;
    }
    let origin = held();
    let flags = ["--limit-allow=127.0.0.0/8", "--limit-per-ip=1"];
    let proxy = proxy(&origin, "[::]:0", &flags);
    let Some((v4, v6)) = both(&proxy) else { return };
    let allowed = [(); 3].map(|()| send_request(v4, "X-A: 1"));
    assert!(allowed.iter().all(|(status, _)| *status == 200));
    let limited = [(); 2].map(|()| send_request(v6, "X-A: 1"));
    assert_eq!(limited.map(|(status, _)| status), [200, 429]);
}

#[test]
fn clients_are_shown_by_their_address_and_counted_and_found_by_their_network() {
    if !has("[::1]:0") {
        return;
    }
    let origin = held();
    let flags = [
        "--trusted-proxies=::1/128",
        "--limit-per-ip=2",
        "--admin-listen=127.0.0.1:0",
    ];
    let proxy = proxy(&origin, "[::1]:0", &flags);
    let from = |client: &str| send_request(proxy.addr, &format!("X-Forwarded-For: {client}"));
    let (one, two) = (from("2001:db8::7"), from("2001:db8::8"));
    assert_eq!((one.0, two.0, from("2001:db8::9").0), (200, 200, 429));
    let (own, _own) = send_request(proxy.addr, "X: y");
    assert_eq!(own, 200);

    let get = |path: &str| -> serde_json::Value {
        let mut client = Client::connect(proxy.admin());
        client.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ));
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        serde_json::from_slice(&client.raw()).unwrap()
    };
    let clients = |path: &str| -> Vec<String> {
        let rows = get(path);
        let rows = rows["streams"].as_array().unwrap().iter();
        let mut clients: Vec<_> = rows
            .map(|row| row["client"].as_str().unwrap().to_owned())
            .collect();
        clients.sort();
        clients
    };
    assert_eq!(
        clients("/api/streams"),
        ["2001:db8::7", "2001:db8::8", "::1"]
    );
    assert_eq!(clients("/api/streams?client=2001:db8::8"), ["2001:db8::8"]);
    let network = clients("/api/streams?client=2001:db8::/64");
    assert_eq!(network, ["2001:db8::7", "2001:db8::8"]);
    let top = &get("/api/summary")["top_clients"];
    let first = serde_json::json!({ "client": "2001:db8::/64", "streams": 2 });
    assert_eq!(top[0], first, "{top}");
    proxy.wait_for_log("\"client\":\"2001:db8::7\"");
}
