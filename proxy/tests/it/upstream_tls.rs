//! Upstreams over TLS.

use crate::support::tls::{
    Authority, Files, Pem, TlsAnswer, TlsOrigin, mutual_config, self_signed, server_config,
};
use crate::support::{Client, End, Gone, Proxy, ReceivedRequest, wait_until};
use rcgen::{BasicConstraints, IsCa, date_time_ymd};
use rustls::ALL_VERSIONS;
use rustls::version::{TLS12, TLS13};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

/// The names of a certificate that is valid for the origins here.
const NAMES: &[&str] = &["127.0.0.1", "app.test"];

/// A CA in a file, and origins that it has issued certificates to.
struct Setup {
    authority: Authority,
    files: Files,
    ca: String,
}

impl Setup {
    fn new() -> Self {
        let (authority, files) = (Authority::new("test CA"), Files::new());
        let ca = files.write("ca.pem", &authority.pem());
        Self {
            authority,
            files,
            ca,
        }
    }

    fn origin(
        &self,
        answer: impl Fn(ReceivedRequest, &mut TlsAnswer) + Send + Sync + 'static,
    ) -> TlsOrigin {
        let config = server_config(&self.authority.issue(NAMES), ALL_VERSIONS);
        TlsOrigin::start(config, answer)
    }

    /// A proxy that trusts the CA.
    fn proxy(&self, origin: SocketAddr, flags: &[&str]) -> Proxy {
        let (url, ca) = (
            format!("https://{origin}"),
            format!("--upstream-tls-ca={}", self.ca),
        );
        let mut all = vec!["--upstream", &url, &ca];
        all.extend(flags);
        Proxy::with_flags(&all)
    }
}

/// A plain response to this request and to all that follow on its connection.
fn plain(_: ReceivedRequest, to: &mut TlsAnswer) {
    loop {
        to.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        if to.next_request().is_none() {
            return;
        }
    }
}

/// Sends a request, and returns the head of its response and its body, which ends with the connection.
fn get(proxy: &Proxy, path: &str) -> (String, String) {
    let mut client = proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n"
    ));
    let head = client.head();
    (head, String::from_utf8(client.raw()).unwrap())
}

#[track_caller]
fn assert_ok(proxy: &Proxy, path: &str) {
    let (head, body) = get(proxy, path);
    assert!(head.starts_with("http/1.1 200 "), "{head}{body}");
    assert_eq!(body, "ok");
}

#[test]
fn stream_over_tls_has_its_events_and_heartbeats() {
    for version in [&TLS12, &TLS13] {
        let setup = Setup::new();
        let config = server_config(&setup.authority.issue(NAMES), &[version]);
        let (go, gate) = crate::support::gate();
        let origin = TlsOrigin::start(config, move |request, to| {
            assert_eq!(request.field("host"), Some(to_host(&request)));
            to.stream();
            to.chunk("data: 1\n\n");
            gate.wait();
            if version.version == TLS13.version {
                to.update_keys();
            }
            to.chunk("data: 2\n\n");
            to.chunk("");
        });
        let proxy = setup.proxy(origin.addr, &["--heartbeat-interval", "50ms"]);
        let mut client = proxy.get("/");
        assert!(client.head().starts_with("http/1.1 200 "));
        client.read_until("data: 1\n\n");
        client.read_until(":");
        go.send(()).unwrap();
        client.read_until("data: 2\n\n");
        assert_eq!(client.rest().1, End::Clean);
    }
}

/// The host of an `https` upstream is its own by default.
fn to_host(request: &ReceivedRequest) -> &str {
    let host = request.field("host").unwrap_or_default();
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    assert_eq!(request.field("x-forwarded-host"), Some("proxy.test"));
    host
}

#[test]
fn requests_and_uploads_share_a_tls_connection() {
    let setup = Setup::new();
    let origin = setup.origin(|mut request, to| {
        loop {
            let len = request
                .field("content-length")
                .unwrap_or("0")
                .parse()
                .unwrap();
            let sum: u64 = to.body(len).into_iter().map(u64::from).sum();
            let text = format!("{} {sum}", request.path);
            let len = text.len();
            to.raw(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{text}"
            ));
            match to.next_request() {
                Some(next) => request = next,
                None => return,
            }
        }
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = Client::connect(proxy.addr);
    let body = "x".repeat(300_000);
    for path in ["/a", "/b", "/c"] {
        let len = body.len();
        client.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{body}"
        ));
        assert!(client.head().starts_with("http/1.1 200 "));
        let text = format!("{path} {}", 300_000 * u64::from(b'x'));
        assert_eq!(client.bytes(text.len()), text.as_bytes());
    }
    let handshakes = origin.handshakes();
    assert_eq!(handshakes.len(), 1);
    assert_eq!(handshakes[0].alpn.as_deref(), Some("http/1.1"));
    // An address is no name.
    assert_eq!(handshakes[0].name, None);
}

#[test]
fn download_over_tls_is_whole() {
    let setup = Setup::new();
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = body.clone();
    let origin = setup.origin(move |_, to| {
        let len = sent.len();
        to.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"));
        to.raw(&sent);
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.send_request("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client.head();
    assert!(client.bytes(body.len()) == body);
}

/// A response to a request through a proxy that cannot use its upstream, and the line of the log about it.
fn fault(proxy: &Proxy) -> (String, String) {
    let (head, body) = get(proxy, "/");
    assert!(head.starts_with("http/1.1 502 "), "{head}");
    (body, proxy.wait_for_log("\"ERROR\""))
}

#[track_caller]
fn assert_fault(proxy: &Proxy, cause: &str, remedy: &str) {
    let (body, line) = fault(proxy);
    assert_eq!(
        body,
        "sse-guard: the TLS handshake with the upstream failed\n"
    );
    assert!(line.contains(cause), "{cause:?} is not in {line}");
    assert!(line.contains(remedy), "{remedy:?} is not in {line}");
}

#[test]
fn certificate_that_cannot_be_trusted_is_reported_with_cause_and_remedy() {
    let setup = Setup::new();
    let other = Authority::new("another CA");
    let issue = |names: &[&str], from: i32, to: i32| {
        setup.authority.issue_with(names, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    let ca = |params: &mut rcgen::CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let own_ca = self_signed(NAMES, ca);
    let own_ca_file = setup.files.write("own.pem", &own_ca.certificate);
    let cases: &[(Pem, &str, &str, &str)] = &[
        (
            issue(NAMES, 2001, 2002),
            &setup.ca,
            "its certificate expired on 2002-01-01T00:00:00Z",
            "the clock of this machine",
        ),
        (
            issue(NAMES, 3000, 3001),
            &setup.ca,
            "its certificate is not valid before 3000-01-01T00:00:00Z",
            "the clock of this machine",
        ),
        (
            issue(&["a.test", "*.b.test"], 2001, 3000),
            &setup.ca,
            "its certificate is not for 127.0.0.1, but for a.test, *.b.test",
            "upstream.tls.server_name",
        ),
        (
            issue(&[], 2001, 3000),
            &setup.ca,
            "but for no name at all",
            "upstream.tls.server_name",
        ),
        (
            other.issue(NAMES),
            &setup.ca,
            "its certificate was issued by an unknown CA",
            "upstream.tls.ca",
        ),
        (
            self_signed(NAMES, |_| {}),
            &setup.ca,
            "its certificate is self-signed",
            "upstream.tls.ca",
        ),
        (
            own_ca,
            &own_ca_file,
            "its certificate is that of a CA",
            "basicConstraints=CA:FALSE",
        ),
    ];
    for (pem, ca, cause, remedy) in cases {
        let origin = TlsOrigin::start(server_config(pem, ALL_VERSIONS), plain);
        let url = format!("https://{}", origin.addr);
        let proxy = Proxy::with_flags(&["--upstream", &url, "--upstream-tls-ca", ca]);
        assert_fault(&proxy, cause, remedy);
    }
}

#[test]
fn self_signed_certificate_in_the_file_of_cas_is_trusted() {
    let setup = Setup::new();
    let pem = self_signed(NAMES, |_| {});
    // A file has several certificates.
    let text = format!("{}{}", setup.authority.pem(), pem.certificate);
    let ca = setup.files.write("both.pem", &text);
    for pem in [&pem, &setup.authority.issue(NAMES)] {
        let origin = TlsOrigin::start(server_config(pem, ALL_VERSIONS), plain);
        let url = format!("https://{}", origin.addr);
        let proxy = Proxy::with_flags(&["--upstream", &url, "--upstream-tls-ca", &ca]);
        assert_ok(&proxy, "/");
    }
}

#[test]
fn certificates_of_the_system_are_the_default() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let text = format!(
        "listen = '127.0.0.1:0'\nadmin.listen = 'off'\nupstream.url = 'https://{}'",
        origin.addr
    );
    let file = setup.files.write("guard.toml", &text);
    // OpenSSL's variable in place of the files of this system.
    let variables = [("SSL_CERT_FILE", setup.ca.as_str())];
    let proxy = Proxy::from_file_with(setup.files.path("guard.toml").as_path(), &variables);
    assert_ok(&proxy, "/");
    let empty = setup.files.write("empty.pem", "");
    let check = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .env_clear()
        .env("SSL_CERT_FILE", empty)
        .args(["check", "--config", &file])
        .output()
        .unwrap();
    let error = String::from_utf8(check.stderr).unwrap();
    assert!(
        error.contains("upstream.url: this system has no CA certificates"),
        "{error}"
    );
    assert!(error.contains("upstream.tls.ca"), "{error}");
}

#[test]
fn certificate_is_not_verified_with_insecure_skip_verify() {
    let pem = self_signed(&["elsewhere.test"], |_| {});
    let origin = TlsOrigin::start(server_config(&pem, ALL_VERSIONS), plain);
    let url = format!("https://{}", origin.addr);
    let proxy = Proxy::with_flags(&["--upstream", &url, "--upstream-tls-insecure-skip-verify"]);
    let line = proxy.wait_for_log("INSECURE");
    assert!(
        line.contains("\"WARN\"") && line.contains("upstream.tls.ca"),
        "{line}"
    );
    assert_ok(&proxy, "/");
}

#[test]
fn server_name_is_sent_and_verified_in_place_of_the_host() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let proxy = setup.proxy(origin.addr, &["--upstream-tls-server-name=app.test"]);
    assert_ok(&proxy, "/");
    assert_eq!(origin.handshakes()[0].name.as_deref(), Some("app.test"));
    let proxy = setup.proxy(origin.addr, &["--upstream-tls-server-name=other.test"]);
    assert_fault(
        &proxy,
        "its certificate is not for other.test, but for 127.0.0.1, app.test",
        "upstream.tls.server_name",
    );
}

#[test]
fn client_certificate_is_sent_to_an_upstream_that_requires_it() {
    for version in [&TLS12, &TLS13] {
        let setup = Setup::new();
        let pem = setup.authority.issue(NAMES);
        let origin = TlsOrigin::start(mutual_config(&pem, &[version], &setup.authority), plain);
        let client = setup.authority.issue(&["client.test"]);
        let certificate = setup.files.write("client.pem", &client.certificate);
        let key = setup.files.write("client.key", &client.key);
        let flags = [
            "--upstream-tls-certificate",
            &certificate,
            "--upstream-tls-key",
            &key,
        ];
        let proxy = setup.proxy(origin.addr, &flags);
        assert_ok(&proxy, "/");
        assert!(origin.handshakes()[0].has_client_certificate);

        let without = setup.proxy(origin.addr, &[]);
        let (_, line) = fault(&without);
        let cause = "it requires a client certificate";
        assert!(line.contains(cause), "{version:?}: {line}");
        assert!(line.contains("upstream.tls.certificate"), "{line}");

        let foreign = Authority::new("another CA").issue(&["client.test"]);
        let certificate = setup.files.write("foreign.pem", &foreign.certificate);
        let key = setup.files.write("foreign.key", &foreign.key);
        let flags = [
            "--upstream-tls-certificate",
            &certificate,
            "--upstream-tls-key",
            &key,
        ];
        let (_, line) = fault(&setup.proxy(origin.addr, &flags));
        let cause = "it rejected the client certificate";
        assert!(line.contains(cause), "{version:?}: {line}");
    }
}

/// A server that reads something on each connection, sends this, and closes it.
fn raw_origin(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(response);
        }
    });
    addr
}

#[test]
fn upstream_without_usable_tls_is_reported_with_cause_and_remedy() {
    let setup = Setup::new();
    for (response, cause, remedy) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
            "it responds without TLS",
            "use http:// in upstream.url",
        ),
        (
            b"",
            "it closed the connection during the handshake",
            "https",
        ),
        // RFC 8446 section 6: fatal alerts.
        (
            &[21, 3, 1, 0, 2, 2, 70],
            "it supports neither TLS 1.2 nor TLS 1.3",
            "update the upstream",
        ),
        (
            &[21, 3, 3, 0, 2, 2, 40],
            "it rejected the handshake (alert HandshakeFailure)",
            "upstream.tls.certificate",
        ),
        (
            &[21, 3, 3, 0, 2, 2, 112],
            "it has no certificate for this name",
            "upstream.tls.server_name",
        ),
        (
            &[21, 3, 3, 0, 2, 2, 120],
            "it does not support HTTP/1.1",
            "HTTP/1.1",
        ),
    ] {
        let proxy = setup.proxy(raw_origin(response), &[]);
        assert_fault(&proxy, cause, remedy);
    }
}

#[test]
fn handshake_that_does_not_end_fails_after_connect_timeout() {
    let setup = Setup::new();
    // The connections stay in the queue of the listener.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let proxy = setup.proxy(addr, &["--upstream-connect-timeout=200ms"]);
    assert_fault(
        &proxy,
        "the handshake was not over in time",
        "upstream.connect_timeout",
    );
}

#[test]
fn session_is_resumed_by_the_next_connection() {
    for version in [&TLS12, &TLS13] {
        let setup = Setup::new();
        let config = server_config(&setup.authority.issue(NAMES), &[version]);
        let origin = TlsOrigin::start(config, |_, to| {
            to.raw("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        });
        let proxy = setup.proxy(origin.addr, &[]);
        for _ in 0..3 {
            assert_ok(&proxy, "/");
        }
        let resumed: Vec<_> = origin.handshakes().iter().map(|it| it.is_resumed).collect();
        assert_eq!(resumed, [false, true, true], "{version:?}");
    }
}

#[test]
fn response_that_ends_with_its_connection_is_whole_only_with_a_close_notify() {
    let setup = Setup::new();
    let origin = setup.origin(|request, to| {
        let kind = match request.path.ends_with("stream") {
            true => "text/event-stream",
            false => "text/plain",
        };
        to.raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\ndata: 1\n\n"
        ));
        if request.path.starts_with("/cut") {
            to.truncate();
        }
    });
    let proxy = setup.proxy(origin.addr, &["--upstream-unavailable=status"]);
    for (path, end) in [
        ("/whole/stream", End::Clean),
        ("/cut/stream", End::Broken),
        ("/whole/plain", End::Clean),
        ("/cut/plain", End::Broken),
    ] {
        let mut client = proxy.get(path);
        assert!(client.head().starts_with("http/1.1 200 "));
        let (body, found) = client.rest();
        assert_eq!(
            (body.as_slice(), found),
            (&b"data: 1\n\n"[..], end),
            "{path}"
        );
    }
    let line = proxy.wait_for_log("\"fault\":\"truncated\"");
    assert!(line.contains("/cut/stream"), "{line}");
}

#[test]
fn message_with_an_end_of_its_own_is_whole_without_a_close_notify() {
    let setup = Setup::new();
    let origin = setup.origin(|request, to| {
        match request.path.as_str() {
            "/stream" => {
                to.stream();
                to.chunk("data: 1\n\n");
                to.chunk("");
            }
            _ => drop(to.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
        }
        to.truncate();
    });
    let proxy = setup.proxy(origin.addr, &[]);
    for _ in 0..2 {
        let mut client = proxy.get("/stream");
        client.head();
        assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
        assert_ok(&proxy, "/plain");
    }
}

#[test]
fn stream_whose_upstream_is_reset_is_broken() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.line();
        to.reset();
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.send_request(
        "POST / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 1\r\n\r\n\n",
    );
    client.head();
    assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Broken));
}

#[test]
fn stream_is_resumed_over_tls() {
    let setup = Setup::new();
    let origin = setup.origin(|request, to| {
        to.stream();
        match request.field("last-event-id") {
            None => {
                to.chunk("id: 1\ndata: 1\n\n");
                to.truncate();
            }
            Some("1") => {
                to.chunk("id: 2\ndata: 2\n\n");
                to.wait_for_close();
            }
            other => panic!("{other:?}"),
        }
    });
    let proxy = setup.proxy(origin.addr, &["--resume-mode=on"]);
    let mut client = proxy.get("/");
    client.head();
    client.read_until("data: 1\n\n");
    client.read_until("data: 2\n\n");
    assert_eq!(origin.handshakes().len(), 2);
}

#[test]
fn request_on_a_connection_that_was_closed_meanwhile_goes_to_a_new_one() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        to.raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        // The request behind it is not read.
    });
    let proxy = setup.proxy(origin.addr, &[]);
    for _ in 0..20 {
        assert_ok(&proxy, "/");
    }
}

#[test]
fn request_on_a_connection_that_closes_behind_its_handshake_fails() {
    let setup = Setup::new();
    let pem = setup.authority.issue(NAMES);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let config = Arc::new(server_config(&pem, ALL_VERSIONS));
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut socket).unwrap();
            }
        }
    });
    let proxy = setup.proxy(addr, &[]);
    let (body, line) = fault(&proxy);
    assert!(body.contains("no valid response head"), "{line}");
}

#[test]
fn upgraded_connection_keeps_what_came_with_the_head() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        to.raw(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
             first\n",
        );
        loop {
            let line = to.line();
            if line.is_empty() {
                return;
            }
            to.raw(line.to_uppercase());
        }
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.send_request(
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert!(client.head().starts_with("http/1.1 101 "));
    assert_eq!(client.bytes(6), b"first\n");
    let long = "y".repeat(100_000);
    for text in ["second", &long] {
        client.send(&format!("{text}\n"));
        let expected = format!("{}\n", text.to_uppercase());
        assert!(client.bytes(expected.len()) == expected.as_bytes());
    }
    client.close_own_side();
    assert_eq!(client.raw_and_end(), (Vec::new(), Gone::Closed));
}

#[test]
fn health_check_runs_over_tls() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let flags = &[
        "--health-check-interval=1s",
        "--health-check-path=/up",
        "--admin-listen=127.0.0.1:0",
        "--ready-when=all",
    ];
    let status = |proxy: &Proxy| {
        let mut client = Client::connect(proxy.admin());
        client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.head()[9..12].to_owned()
    };
    let proxy = setup.proxy(origin.addr, flags);
    wait_until("a check", || !origin.handshakes().is_empty());
    assert_eq!(status(&proxy), "200");

    let foreign = Authority::new("another CA").issue(NAMES);
    let origin = TlsOrigin::start(server_config(&foreign, ALL_VERSIONS), plain);
    let proxy = setup.proxy(origin.addr, flags);
    let line = proxy.wait_for_log("checks in a row");
    assert!(line.contains("issued by an unknown CA"), "{line}");
    assert_eq!(status(&proxy), "503");
}

#[test]
fn routes_with_other_tls_settings_share_no_connection() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let client = setup.authority.issue(&["client.test"]);
    let pem = setup
        .files
        .write("client.pem", &(client.certificate + &client.key));
    let text = format!(
        "listen = '127.0.0.1:0'\nadmin.listen = 'off'\n[upstream]\nurl = 'https://{}'\n\
         tls.ca = '{}'\n[[route]]\npath = '/client'\nupstream.tls.certificate = '{pem}'\n\
         upstream.tls.key = '{pem}'\n[[route]]\npath = '/name'\n\
         upstream.tls.server_name = 'app.test'\n[[route]]\npath = '/equal'\nidle.timeout = '7s'\n",
        origin.addr, setup.ca
    );
    setup.files.write("guard.toml", &text);
    let proxy = Proxy::from_file(&setup.files.path("guard.toml"));
    for path in ["/client", "/name", "/other", "/equal"] {
        for _ in 0..2 {
            assert_ok(&proxy, path);
        }
    }
    let names: Vec<_> = origin.handshakes().into_iter().map(|it| it.name).collect();
    assert_eq!(names, [None, Some("app.test".to_owned()), None]);
}

#[test]
fn reload_reads_the_files_again_and_keeps_the_config_if_one_is_bad() {
    let setup = Setup::new();
    let foreign = Authority::new("another CA");
    let origin = TlsOrigin::start(server_config(&foreign.issue(NAMES), ALL_VERSIONS), plain);
    let text = format!(
        "listen = '127.0.0.1:0'\nadmin.listen = 'off'\n[upstream]\nurl = 'https://{}'\n\
         tls.ca = '{}'\n",
        origin.addr, setup.ca
    );
    setup.files.write("guard.toml", &text);
    let proxy = Proxy::from_file(&setup.files.path("guard.toml"));
    fault(&proxy);
    setup.files.write("ca.pem", &foreign.pem());
    proxy.signal("-HUP");
    proxy.wait_for_log("config reloaded");
    assert_ok(&proxy, "/");
    setup.files.write("ca.pem", "no certificate");
    proxy.signal("-HUP");
    let line = proxy.wait_for_log("reload failed");
    assert!(line.contains("upstream.tls.ca"), "{line}");
    assert!(line.contains(&setup.ca), "{line}");
    assert!(line.contains("contains no certificate"), "{line}");
    assert_ok(&proxy, "/");
    // The connection outlives reloads that do not change its settings.
    setup.files.write("ca.pem", &foreign.pem());
    proxy.signal("-HUP");
    proxy.wait_for_log_lines("config reloaded", 2);
    assert_ok(&proxy, "/");
    assert_eq!(origin.handshakes().len(), 1);
}

#[test]
fn check_reports_every_file_that_cannot_be_used() {
    let setup = Setup::new();
    let one = setup.authority.issue(NAMES);
    let key = setup
        .files
        .write("key.pem", &setup.authority.issue(NAMES).key);
    let certificate = setup.files.write("cert.pem", &one.certificate);
    for (keys, expected) in [
        (
            format!("ca = '/gone.pem'\ncertificate = '{key}'\nkey = '{certificate}'"),
            &[
                "upstream.tls.ca: cannot read /gone.pem: No such file",
                "cert.pem contains no private key, but a certificate",
                "key.pem contains no certificate, but a private key",
            ][..],
        ),
        (
            format!("certificate = '{certificate}'\nkey = '{key}'"),
            &["upstream.tls.key: the key does not belong to the certificate"],
        ),
        (
            format!("certificate = '{certificate}'"),
            &["upstream.tls.certificate: requires upstream.tls.key, which is not set"],
        ),
        (
            "server_name = 'a b'".to_owned(),
            &["upstream.tls.server_name: \"a b\" is not a name or an address"],
        ),
    ] {
        let text = format!("[upstream]\nurl = 'https://app.test'\n[upstream.tls]\n{keys}\n");
        let file = setup.files.write("guard.toml", &text);
        let check = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
            .env_clear()
            .args(["check", "--config", &file])
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(2), "{text}");
        let error = String::from_utf8(check.stderr).unwrap();
        for line in expected {
            assert!(error.contains(line), "{line:?} is not in {error}");
        }
    }
}

#[test]
fn slow_records_of_one_byte_are_one_stream() {
    let setup = Setup::new();
    let origin = setup.origin(|_, to| {
        for byte in b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: slow\n\n" {
            to.raw([*byte]);
        }
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.get("/");
    client.head();
    assert_eq!(client.rest(), (b"data: slow\n\n".to_vec(), End::Clean));
}

#[test]
fn upstream_stream_over_tls_ends_with_its_client() {
    let setup = Setup::new();
    let (gone, goes) = channel();
    let gone = Mutex::new(gone);
    let origin = setup.origin(move |_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.wait_for_close();
        gone.lock().unwrap().send(()).unwrap();
    });
    let proxy = setup.proxy(origin.addr, &[]);
    let mut client = proxy.get("/");
    client.head();
    client.read_until("data: 1\n\n");
    drop(client);
    goes.recv_timeout(crate::support::PATIENCE).unwrap();
}
