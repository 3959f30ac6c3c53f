//! A login by NTLM or Negotiate is that of a TCP connection: through the real binary it works, and
//! serves the client that logged in and nobody else.

use crate::support::{Answer, Client, End, Gone, Origin, Proxy, ReceivedRequest, gate};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const OFFER: &str =
    "WWW-Authenticate: Basic realm=\"a, b\", Negotiate\r\nWWW-Authenticate: NTLM\r\n";

/// What a connection to the server has come to.
#[derive(Default)]
struct Session {
    challenge: Option<String>,
    user: Option<String>,
}

impl Session {
    /// Whether the request goes on to its answer; else it has been told to log in.
    fn logs_in(&mut self, received: &ReceivedRequest, to: &mut Answer) -> bool {
        static CHALLENGES: AtomicUsize = AtomicUsize::new(0);
        let credentials: Vec<_> = fields(received, "authorization").collect();
        for value in credentials {
            let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
            let token = token.trim();
            if scheme.eq_ignore_ascii_case("ntlm") && token == "one" {
                let challenge = format!("two-{}", CHALLENGES.fetch_add(1, SeqCst));
                let head = format!(
                    "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM {challenge}\r\n\
                     Content-Length: 2\r\n\r\nno"
                );
                self.challenge = Some(challenge);
                to.raw(head.as_bytes());
                return false;
            } else if scheme.eq_ignore_ascii_case("ntlm") {
                let challenge = self.challenge.take();
                let known = challenge.and_then(|challenge| {
                    token
                        .strip_prefix(&format!("three-{challenge}-"))
                        .map(str::to_owned)
                });
                self.user = known;
            } else if ["negotiate", "kerberos"].contains(&&*scheme.to_ascii_lowercase()) {
                self.user = Some(token.to_owned());
            }
        }
        if self.user.is_some() || received.path.starts_with("/public") {
            return true;
        }
        to.raw(
            format!("HTTP/1.1 401 Unauthorized\r\n{OFFER}Content-Length: 2\r\n\r\nno").as_bytes(),
        );
        false
    }
}

fn fields<'a>(received: &'a ReceivedRequest, name: &'a str) -> impl Iterator<Item = &'a str> {
    received.head.lines().filter_map(move |line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Takes the request's body.
fn upload(received: &ReceivedRequest, to: &mut Answer) {
    if let Some(length) = received.field("content-length") {
        to.body(length.parse().unwrap());
    } else if received.field("transfer-encoding").is_some() {
        let mut end = Vec::new();
        while !end.ends_with(b"0\r\n\r\n") {
            end.extend(to.body(1));
        }
    }
}

/// Answers requests on a connection until that ends, each with the user's name in it.
fn serve(received: ReceivedRequest, to: &mut Answer) {
    serve_when(received, to, || ());
}

/// The same, with what happens before the answer to `/slow`.
fn serve_when(mut received: ReceivedRequest, to: &mut Answer, ready: impl Fn()) {
    let mut session = Session::default();
    loop {
        // An answer that does not wait for the request's body.
        let is_early = received.path == "/early";
        if !is_early {
            upload(&received, to);
        }
        if session.logs_in(&received, to) {
            let user = session.user.as_deref().unwrap_or("nobody");
            match received.path.trim_start_matches("/public") {
                path @ ("/events" | "/slow") => {
                    if path == "/slow" {
                        ready();
                    }
                    to.raw(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    );
                    to.chunk(format!("id: 1\ndata: {user}\n\n"));
                    to.end();
                }
                "/open" => {
                    to.raw(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    );
                    to.chunk(format!("id: 1\ndata: {user}\n\n"));
                    to.wait_for_close();
                    return;
                }
                "/broken" if received.field("last-event-id").is_some() => {
                    to.raw(
                        format!("HTTP/1.1 401 Unauthorized\r\n{OFFER}Content-Length: 2\r\n\r\nno")
                            .as_bytes(),
                    );
                }
                "/broken" => {
                    to.raw(
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                          Transfer-Encoding: chunked\r\n\r\n",
                    );
                    to.chunk(format!("id: 1\ndata: {user}\n\n"));
                    return;
                }
                "/hangup" => return,
                "/unavailable" => {
                    to.raw(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\naway");
                }
                "/partly" => {
                    to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\npart");
                    to.wait_for_close();
                    return;
                }
                "/silent" => {
                    to.wait_for_close();
                    return;
                }
                "/close" => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{user}",
                        user.len()
                    );
                    to.raw(head.as_bytes());
                    return;
                }
                "/then-close" => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}",
                        user.len()
                    );
                    to.raw(head.as_bytes());
                    return;
                }
                "/ws" if received.field("upgrade").is_some() => {
                    let head = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\n\r\n{user}"
                    );
                    to.raw(head.as_bytes());
                    to.wait_for_close();
                    return;
                }
                _ => {
                    let length = user.len();
                    let body = if received.head.starts_with("HEAD") {
                        ""
                    } else {
                        user
                    };
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                    to.raw(head.as_bytes());
                }
            }
        }
        if is_early {
            upload(&received, to);
        }
        match to.next_request() {
            Some(next) => received = next,
            None => return,
        }
    }
}

fn server() -> Origin {
    Origin::start(serve)
}

struct Response {
    status: u16,
    head: String,
    body: String,
    end: End,
}

impl Response {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(": ")?;
            (field == name).then_some(value)
        })
    }
}

fn read(client: &mut Client, is_head: bool) -> Response {
    let head = client.head();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut response = Response {
        status,
        head,
        body: String::new(),
        end: End::Clean,
    };
    if is_head {
        return response;
    }
    let bytes = match response.field("content-length") {
        Some(length) => client.bytes(length.parse().unwrap()),
        None => {
            let (bytes, end) = client.rest();
            response.end = end;
            bytes
        }
    };
    response.body = String::from_utf8(bytes).unwrap();
    response
}

/// A request with more fields, each with its line end.
fn send_request(client: &mut Client, method: &str, path: &str, fields: &str) -> Response {
    client.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"
    ));
    read(client, method == "HEAD")
}

fn get(client: &mut Client, path: &str) -> Response {
    send_request(client, "GET", path, "")
}

/// The three legs of a login, the last for `path`.
fn log_in(client: &mut Client, user: &str, path: &str) -> Response {
    let offer = get(client, path);
    assert_eq!(offer.status, 401);
    log_in_at_once(client, user, path)
}

/// The last two of them.
fn log_in_at_once(client: &mut Client, user: &str, path: &str) -> Response {
    let third = third_leg(client, user, path);
    send_request(client, "GET", path, &third)
}

/// The second leg, and the fields of the third.
fn third_leg(client: &mut Client, user: &str, path: &str) -> String {
    let challenge = send_request(client, "GET", path, "Authorization: NTLM one\r\n");
    assert_eq!(challenge.status, 401);
    let challenge = challenge.field("www-authenticate").unwrap();
    let challenge = challenge.strip_prefix("ntlm ").unwrap();
    format!("Authorization: NTLM three-{challenge}-{user}\r\n")
}

/// Clients without credentials get nobody's page and nobody's stream, on any connection.
fn assert_nobody_else_is_in(proxy: &Proxy) {
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(proxy.addr)).collect();
    for client in &mut clients {
        for path in ["/page", "/events"] {
            let response = get(client, path);
            assert_eq!((response.status, &*response.body), (401, "no"), "{path}");
        }
    }
}

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
