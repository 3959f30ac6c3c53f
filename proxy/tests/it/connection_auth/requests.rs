//! Streams, uploads, upgrades and pipelined requests of a login.

use super::*;

#[test]
fn stream_of_a_login_is_not_resumed() {
    let server = server();
    let flags = [
        "--resume-mode=lossy",
        "--resume-on-end=true",
        "--resume-backoff=20ms",
    ];
    let proxy = Proxy::start(server.addr, &flags);
    let accept = "Accept: text/event-stream\r\n";
    // With the credentials in the request, and without.
    let mut client = Client::connect(proxy.addr);
    let fields = format!("{accept}Authorization: Negotiate alice\r\n");
    let stream = send_request(&mut client, "GET", "/events", &fields);
    assert_eq!(
        (&*stream.body, stream.end),
        ("id: 1\ndata: alice\n\n", End::Clean)
    );
    let stream = send_request(&mut client, "GET", "/events", accept);
    assert_eq!(
        (&*stream.body, stream.end),
        ("id: 1\ndata: alice\n\n", End::Clean)
    );
    let stream = send_request(&mut client, "GET", "/broken", accept);
    assert_eq!(
        (&*stream.body, stream.end),
        ("id: 1\ndata: alice\n\n", End::Broken)
    );
    assert_eq!(server.served(), 1);
}

#[test]
fn request_of_a_login_does_not_wait_for_an_upstream_connection_without_it() {
    let server = server();
    let flags = ["--resume-mode=on", "--upstream-unavailable=wait"];
    let proxy = Proxy::start(server.addr, &flags);
    let mut client = Client::connect(proxy.addr);
    let accept = "Accept: text/event-stream\r\n";
    log_in(&mut client, "alice", "/page");
    let later = send_request(&mut client, "GET", "/unavailable", accept);
    assert!(later.body.starts_with("retry: "), "{}", later.body);
    assert_eq!((later.status, later.end), (200, End::Clean));
    assert_eq!(get(&mut client, "/page").body, "alice");
    assert_eq!(server.served(), 1);
}

#[test]
fn request_of_a_resumed_stream_does_not_use_the_clients_login() {
    let server = server();
    let proxy = Proxy::start(server.addr, &["--resume-mode=on", "--resume-backoff=20ms"]);
    let mut client = Client::connect(proxy.addr);
    let accept = "Accept: text/event-stream\r\n";
    let refused = send_request(&mut client, "GET", "/public/broken", accept);
    assert_eq!(refused.end, End::Clean);
    // The offer of a login that came instead was not the client's to take up.
    server.wait_for_open(0);
    let next = get(&mut client, "/public");
    assert_eq!((&*next.body, next.field("connection")), ("nobody", None));
}

#[test]
fn early_answer_leaves_the_login_to_the_next_request() {
    let (release, released) = gate();
    let server = Origin::start(move |received, to| serve_when(received, to, || released.wait()));
    let flags = ["--early-enabled=true", "--early-after=20ms"];
    let proxy = Proxy::start(server.addr, &flags);
    let mut client = Client::connect(proxy.addr);
    log_in(&mut client, "alice", "/page");
    client.send("GET /slow HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
    assert!(client.head().contains(" 200 "));
    assert_nobody_else_is_in(&proxy);
    release.send(()).unwrap();
    let (events, end) = client.rest();
    let events = String::from_utf8(events).unwrap();
    assert!(events.contains("data: alice\n"), "{events}");
    assert_eq!(end, End::Clean);
    assert_eq!(get(&mut client, "/page").body, "alice");
    assert_nobody_else_is_in(&proxy);
}

#[test]
fn pipelined_requests_share_the_login_of_their_connection() {
    let server = server();
    let proxy = Proxy::start(server.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    let third = third_leg(&mut client, "alice", "/page");
    let plain =
        |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let all = [
        plain("/page", &third),
        plain("/events", ""),
        plain("/page", ""),
        plain("/events", ""),
        plain("/page", ""),
    ];
    client.send(&all.concat());
    for _ in all {
        let response = read(&mut client, false);
        assert_eq!(response.status, 200);
        assert!(response.body.contains("alice"), "{}", response.body);
    }
    assert_eq!(server.served(), 1);
}

#[test]
fn login_continues_after_a_response_that_precedes_the_upload() {
    let server = server();
    let proxy = Proxy::start(server.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    client.send("POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf");
    assert_eq!(read(&mut client, false).status, 401);
    client.send("done");
    assert_eq!(log_in_at_once(&mut client, "alice", "/page").body, "alice");
    assert_eq!(server.served(), 1);
}

const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: websocket\r\n";

#[test]
fn websocket_has_the_login_of_its_connection() {
    let server = server();
    let proxy = Proxy::start(server.addr, &[]);
    for is_page_first in [true, false] {
        let served = server.served();
        let mut client = Client::connect(proxy.addr);
        let fields = if is_page_first {
            log_in(&mut client, "alice", "/page");
            UPGRADE.to_owned()
        } else {
            // All legs request the switch.
            assert_eq!(send_request(&mut client, "GET", "/ws", UPGRADE).status, 401);
            let first = format!("{UPGRADE}Authorization: NTLM one\r\n");
            let challenge = send_request(&mut client, "GET", "/ws", &first);
            let challenge = challenge.field("www-authenticate").unwrap();
            let challenge = challenge.strip_prefix("ntlm ").unwrap();
            format!("{UPGRADE}Authorization: NTLM three-{challenge}-alice\r\n")
        };
        client.send(&format!("GET /ws HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
        let head = client.head();
        assert!(
            head.contains(" 101 ") && head.contains("connection: upgrade\n"),
            "{head}"
        );
        assert_eq!(client.bytes(5), b"alice");
        assert_eq!(server.served(), served + 1);
        assert_nobody_else_is_in(&proxy);
        drop(client);
        server.wait_for_open(0);
    }
}
