//! Connections of a login close together.

use super::*;

#[test]
fn upstream_connection_of_a_login_closes_with_its_client() {
    let server = server();
    let proxy = Proxy::start(server.addr, &[]);
    for path in ["/page", "/events", "/open", "/partly", "/silent"] {
        let mut client = Client::connect(proxy.addr);
        log_in(&mut client, "alice", "/page");
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        match path {
            "/silent" => {}
            "/open" | "/partly" => assert!(client.head().contains(" 200 ")),
            _ => assert_eq!(read(&mut client, false).status, 200),
        }
        server.wait_for_open(1);
        drop(client);
        server.wait_for_open(0);
    }
    // Also of one that was offered a login and did not go on with it.
    let mut client = Client::connect(proxy.addr);
    assert_eq!(get(&mut client, "/events").status, 401);
    server.wait_for_open(1);
    drop(client);
    server.wait_for_open(0);
}

#[test]
fn client_connection_of_a_login_closes_with_its_upstream() {
    let server = server();
    let proxy = Proxy::start(server.addr, &["--heartbeat-interval=off"]);
    let logged_in = || {
        let mut client = Client::connect(proxy.addr);
        assert_eq!(log_in(&mut client, "alice", "/page").body, "alice");
        client
    };
    let assert_closed = |mut client: Client| {
        assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
        server.wait_for_open(0);
    };

    // It says so.
    let mut client = logged_in();
    let last = get(&mut client, "/close");
    assert_eq!(
        (&*last.body, last.field("connection")),
        ("alice", Some("close"))
    );
    assert_closed(client);

    // It does so.
    let mut client = logged_in();
    assert_eq!(get(&mut client, "/then-close").body, "alice");
    assert_closed(client);

    // In the middle of a stream.
    let mut client = logged_in();
    let broken = get(&mut client, "/broken");
    assert_eq!(
        (&*broken.body, broken.end),
        ("id: 1\ndata: alice\n\n", End::Broken)
    );
    assert_closed(client);

    // In the middle of a request, which may have been for a login that no longer holds.
    let mut client = logged_in();
    let anew = get(&mut client, "/hangup");
    assert_eq!(
        (anew.status, anew.field("connection")),
        (401, Some("close"))
    );
    assert_closed(client);
    let mut client = logged_in();
    // What may have been done is not done again.
    let lost = send_request(&mut client, "POST", "/hangup", "Content-Length: 0\r\n");
    assert_eq!(
        (lost.status, lost.field("connection")),
        (502, Some("close"))
    );
    assert_closed(client);
}

#[test]
fn both_connections_of_a_login_close_when_the_proxy_gives_up() {
    let server = server();
    let flags = ["--upstream-head-timeout=200ms", "--rotation-max-age=200ms"];
    let proxy = Proxy::start(server.addr, &flags);
    let mut client = Client::connect(proxy.addr);
    log_in(&mut client, "alice", "/page");
    let late = get(&mut client, "/silent");
    assert_eq!(
        (late.status, late.field("connection")),
        (504, Some("close"))
    );
    assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
    server.wait_for_open(0);

    let mut client = Client::connect(proxy.addr);
    log_in(&mut client, "alice", "/page");
    let accept = "Accept: text/event-stream\r\n";
    let rotated = send_request(&mut client, "GET", "/open", accept);
    assert_eq!(rotated.end, End::Clean);
    assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
    server.wait_for_open(0);
}
