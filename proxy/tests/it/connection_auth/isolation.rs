//! A login serves only the client that logged in.

use super::*;

#[test]
fn login_of_three_legs_takes_one_connection_and_lasts() {
    let server = server();
    let proxy = Proxy::start(server.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    let page = log_in(&mut client, "alice", "/page");
    assert_eq!((page.status, &*page.body), (200, "alice"));
    assert_eq!(page.field("connection"), None);
    for path in ["/page", "/events", "/page", "/events", "/events"] {
        let later = get(&mut client, path);
        assert_eq!(later.status, 200);
        assert!(later.body.contains("alice"), "{path}: {}", later.body);
    }
    assert_eq!(server.served(), 1);
    assert_nobody_else_is_in(&proxy);
    // Of its own each.
    assert_eq!(server.served(), 5);
    assert_eq!(get(&mut client, "/page").body, "alice");
}

#[test]
fn concurrent_logins_do_not_mix() {
    let server = server();
    let proxy = Proxy::start(server.addr, &[]);
    let mut alice = Client::connect(proxy.addr);
    let mut bob = Client::connect(proxy.addr);
    let (of_alice, of_bob) = (
        third_leg(&mut alice, "alice", "/page"),
        third_leg(&mut bob, "bob", "/page"),
    );
    assert_eq!(send_request(&mut bob, "GET", "/page", &of_bob).body, "bob");
    assert_eq!(
        send_request(&mut alice, "GET", "/page", &of_alice).body,
        "alice"
    );
    assert_eq!(get(&mut bob, "/page").body, "bob");
    assert_eq!(get(&mut alice, "/page").body, "alice");
    assert_eq!(server.served(), 2);
}

#[test]
fn login_is_never_inherited_by_another_client() {
    let basic = "Authorization: Basic YTpi\r\n";
    for credentials in [
        "Authorization: Negotiate alice\r\n",
        "AUTHORIZATION:\t negotiate alice\r\n",
        "Authorization: Kerberos alice\r\n",
        &format!("{basic}Authorization: NEGOTIATE alice\r\n"),
        &format!("Authorization: Negotiate alice\r\n{basic}"),
    ] {
        for (method, path, upload) in [
            ("GET", "/page", ""),
            ("HEAD", "/page", ""),
            ("POST", "/page", "Content-Length: 4\r\n\r\nbody"),
            (
                "POST",
                "/page",
                "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n",
            ),
            ("GET", "/events", ""),
            ("GET", "/open", ""),
            (
                "GET",
                "/ws",
                "Connection: upgrade\r\nUpgrade: websocket\r\n",
            ),
        ] {
            for closes in [false, true] {
                let server = server();
                let proxy = Proxy::start(server.addr, &[]);
                // An idle connection of nobody in particular must not become alice's.
                let mut other = Client::connect(proxy.addr);
                assert_eq!(get(&mut other, "/public").body, "nobody");
                let mut client = Client::connect(proxy.addr);
                let (fields, body) = match upload.split_once("\r\n\r\n") {
                    Some((fields, body)) => (format!("{fields}\r\n"), body),
                    None => (upload.to_owned(), ""),
                };
                client.send(&format!(
                    "{method} {path} HTTP/1.1\r\nHost: x\r\n{credentials}{fields}\r\n{body}"
                ));
                if upload.contains("chunked") {
                    client.send("\r\n");
                }
                match path {
                    "/open" => assert!(client.head().contains(" 200 ")),
                    "/ws" => {
                        assert!(client.head().contains(" 101 "));
                        assert_eq!(client.bytes(5), b"alice");
                    }
                    _ => assert_eq!(read(&mut client, method == "HEAD").status, 200),
                }
                assert_eq!(get(&mut other, "/public").body, "nobody");
                if closes {
                    drop(client);
                    // That of the pool is left.
                    server.wait_for_open(1);
                    assert_nobody_else_is_in(&proxy);
                } else {
                    assert_nobody_else_is_in(&proxy);
                    drop(client);
                }
                assert_nobody_else_is_in(&proxy);
            }
        }
    }
}

#[test]
fn other_credentials_share_connections_as_before() {
    let server = server();
    let proxy = Proxy::start(server.addr, &[]);
    for credentials in [
        "",
        "Authorization: Basic YTpi\r\n",
        "Authorization: Bearer ntlm\r\n",
    ] {
        for _ in 0..3 {
            let mut client = Client::connect(proxy.addr);
            assert_eq!(
                send_request(&mut client, "GET", "/public", credentials).body,
                "nobody"
            );
        }
    }
    // A connection may come back to the pool behind the next request.
    assert!(server.served() < 4, "{}", server.served());
}

#[test]
fn logins_do_not_mix_on_a_shared_connection_of_a_trusted_proxy() {
    let server = server();
    let proxy = Proxy::start(server.addr, &["--trusted-proxies=127.0.0.0/8"]);
    let mut balancer = Client::connect(proxy.addr);
    let alice = "X-Forwarded-For: 192.0.2.1\r\n";
    let login = format!("{alice}Authorization: Negotiate alice\r\n");
    assert_eq!(
        send_request(&mut balancer, "GET", "/page", &login).body,
        "alice"
    );
    assert_eq!(
        send_request(&mut balancer, "GET", "/page", alice).body,
        "alice"
    );
    let stranger = send_request(
        &mut balancer,
        "GET",
        "/page",
        "X-Forwarded-For: 192.0.2.2\r\n",
    );
    assert_eq!(
        (stranger.status, stranger.field("connection")),
        (401, Some("close"))
    );
    assert_eq!(balancer.raw_and_end(), (Vec::new(), Gone::Closed));
    server.wait_for_open(0);
}

#[test]
fn login_is_per_upstream_also_after_a_reload() {
    let (one, two) = (server(), server());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let config = |first: &Origin, timeout: &str| {
        format!(
            "upstream.url = 'http://{}'\nupstream.head_timeout = '{timeout}'\n\
             [[route]]\npath = '/two'\nupstream.url = 'http://{}'\n\
             [[route]]\npath = '/one'\nheartbeat.interval = '1s'\nlimit.per_ip = 5\n",
            first.addr, two.addr
        )
    };
    fs::write(&file, config(&one, "10s")).unwrap();
    let proxy = Proxy::with_flags(&["--config", file.to_str().unwrap()]);
    let mut client = Client::connect(proxy.addr);
    log_in(&mut client, "alice", "/page");
    log_in(&mut client, "bob", "/two");
    // The route's own pool would be another.
    for (path, user) in [("/page", "alice"), ("/two", "bob"), ("/one", "alice")] {
        assert_eq!(get(&mut client, path).body, user, "{path}");
    }
    let reload = |text: String, nth| {
        fs::write(&file, text).unwrap();
        proxy.signal("-HUP");
        proxy.wait_for_log_lines("config reloaded", nth);
    };
    reload(config(&one, "20s"), 1);
    for (path, user) in [("/page", "alice"), ("/two", "bob"), ("/one", "alice")] {
        assert_eq!(get(&mut client, path).body, user, "{path}");
    }
    assert_eq!((one.served(), two.served()), (1, 1));
    // What was at one is not known at the other.
    let three = server();
    reload(config(&three, "20s"), 2);
    assert_eq!(get(&mut client, "/page").status, 401);
    assert_eq!(get(&mut client, "/two").body, "bob");
    drop(client);
    for server in [&one, &two, &three] {
        server.wait_for_open(0);
    }
}

#[test]
fn logins_of_a_connection_are_bounded() {
    let servers: Vec<_> = (0..9).map(|_| server()).collect();
    let mut config = format!("upstream.url = 'http://{}'\n", servers[0].addr);
    for (n, server) in servers.iter().enumerate() {
        config += &format!(
            "[[route]]\npath = '/{n}'\nupstream.url = 'http://{}'\n",
            server.addr
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    fs::write(&file, config).unwrap();
    let proxy = Proxy::with_flags(&["--config", file.to_str().unwrap()]);
    let mut client = Client::connect(proxy.addr);
    for n in 0..8 {
        log_in(&mut client, "alice", &format!("/{n}"));
    }
    assert_eq!(get(&mut client, "/0").body, "alice");
    let last = get(&mut client, "/8");
    assert_eq!(
        (last.status, last.field("connection")),
        (401, Some("close"))
    );
    assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
    for server in &servers {
        server.wait_for_open(0);
    }
    // A new one has room.
    let mut client = Client::connect(proxy.addr);
    assert_eq!(log_in(&mut client, "alice", "/8").body, "alice");
}
