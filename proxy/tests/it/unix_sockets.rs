//! Unix sockets on both sides: clients that connect to one, and an upstream that listens on one.

use crate::support::{Origin, PATIENCE, Proxy, wait_until};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// A response: its head in lower case, and what is behind it.
struct Response {
    head: String,
    socket: BufReader<UnixStream>,
}

/// Sends a request for an event stream with more fields.
fn get(socket: &Path, path: &str, fields: &str) -> Response {
    get_plain(
        socket,
        path,
        &format!("Accept: text/event-stream\r\n{fields}"),
    )
}

/// Sends a request for `path` with more fields.
fn get_plain(socket: &Path, path: &str, fields: &str) -> Response {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\n{fields}\r\n"
    )
    .unwrap();
    Response::read(BufReader::new(stream))
}

impl Response {
    fn read(mut socket: BufReader<UnixStream>) -> Self {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(socket.read_line(&mut head).unwrap() > 0, "{head}");
        }
        head.make_ascii_lowercase();
        Self { head, socket }
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The next line of an event stream's chunk.
    fn line_with(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.socket.read_line(&mut line).unwrap() > 0, "no {text:?}");
        }
        line
    }

    /// A body of this length.
    fn body(&mut self, len: usize) -> String {
        let mut body = vec![0; len];
        self.socket.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

/// An upstream on a Unix socket: streams for `/feed`, else its connection's number, of one digit.
struct Upstream {
    path: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    fn start(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        thread::spawn(move || {
            for (number, socket) in listener.incoming().map_while(Result::ok).enumerate() {
                let seen = seen.clone();
                thread::spawn(move || serve(number, &socket, &seen));
            }
        });
        Self { path, requests }
    }

    fn last_request(&self) -> String {
        self.requests.lock().unwrap().last().unwrap().clone()
    }

    fn has_seen(&self, text: &str) -> bool {
        let requests = self.requests.lock().unwrap();
        requests.iter().any(|request| request.contains(text))
    }
}

fn serve(number: usize, mut socket: &UnixStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            (reader.read_line(&mut head).ok()? > 0).then_some(())?;
        }
        let is_stream = head.contains("/feed ");
        seen.lock().unwrap().push(head);
        let response = match is_stream {
            true => {
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                 Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
            }
            false => &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"),
        };
        socket.write_all(response.as_bytes()).ok()?;
    }
}

/// Streams with one event, for as long as their client reads.
fn origin() -> Origin {
    Origin::start(|_, to| {
        to.stream();
        to.chunk("data: 1\n\n");
        to.wait_for_close();
    })
}

fn directory() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sse-guard.sock");
    (dir, socket)
}

fn listening(socket: &Path, upstream: &str, flags: &[&str]) -> Proxy {
    let mut all = vec!["--upstream-url", upstream];
    all.extend(flags);
    Proxy::listening(&format!("unix:{}", socket.display()), &all)
}

/// A start that fails: what it prints.
fn refused(socket: &Path) -> String {
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .args(["--upstream-url", "http://127.0.0.1:1", "--admin-listen=off"])
        .arg("--takeover=off")
        .arg(format!("--listen=unix:{}", socket.display()))
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    String::from_utf8(stderr).unwrap()
}

#[test]
fn unix_listener_limits_clients_by_their_forwarded_address() {
    let (_dir, socket) = directory();
    let origin = origin();
    let upstream = format!("http://{}", origin.addr);
    let mut proxy = listening(&socket, &upstream, &["--limit-per-ip=1"]);
    let of = |client: u8| {
        get(
            &socket,
            "/feed",
            &format!("X-Forwarded-For: 192.0.2.{client}\r\n"),
        )
    };
    let (mut one, mut other) = (of(1), of(2));
    assert_eq!(
        (one.status(), other.status(), of(1).status()),
        (200, 200, 429)
    );
    assert!(one.head.contains("transfer-encoding: chunked"));
    one.line_with("data: 1");
    other.line_with("data: 1");
    // The hop over the socket has no address, and adds none.
    assert_eq!(
        origin.last_request().field("x-forwarded-for"),
        Some("192.0.2.2")
    );
    drop(one);
    wait_until("the place is free", || of(1).status() == 200);
    let numbers = proxy.stop();
    assert_eq!(numbers["cut_off"], 0, "{numbers}");
}

#[test]
fn unix_listener_counts_peers_as_one_client_unless_they_are_trusted() {
    let (_dir, socket) = directory();
    let upstream = format!("http://{}", origin().addr);
    let flags = ["--limit-per-ip=1", "--trusted-proxies=10.0.0.0/8"];
    let proxy = listening(&socket, &upstream, &flags);
    proxy.wait_for_log("add \\\"unix\\\" to trusted_proxies");
    let one = get(&socket, "/feed", "X-Forwarded-For: 192.0.2.1\r\n");
    let other = get(&socket, "/feed", "X-Forwarded-For: 192.0.2.2\r\n");
    assert_eq!((one.status(), other.status()), (200, 429));
    let warning = proxy.wait_for_log("that is not trusted");
    assert!(
        warning.contains("trusted_proxies = [\\\"unix\\\"]"),
        "{warning}"
    );
}

#[test]
fn unix_listener_removes_its_file_at_exit_and_replaces_a_stale_one() {
    let (_dir, socket) = directory();
    let upstream = format!("http://{}", origin().addr);
    let mut proxy = listening(&socket, &upstream, &["--listen-mode=600"]);
    let mode = || fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    proxy.stop();
    assert!(!socket.exists());

    let proxy = listening(&socket, &upstream, &[]);
    assert_eq!(mode(), 0o660);
    // Killed, it leaves its file.
    drop(proxy);
    assert!(socket.exists());
    let mut proxy = listening(&socket, &upstream, &[]);
    proxy.wait_for_log("no process accepts connections on it");
    assert_eq!(get(&socket, "/feed", "").status(), 200);
    let error = refused(&socket);
    assert!(
        error.contains("another process accepts connections there"),
        "{error}"
    );
    assert_eq!(get(&socket, "/feed", "").status(), 200);
    proxy.stop();
    assert_eq!(fs::read_dir(socket.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn unix_listener_never_removes_another_file() {
    let (_dir, socket) = directory();
    fs::write(&socket, "a text").unwrap();
    let error = refused(&socket);
    assert!(error.contains("a file that is not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "a text");
}

#[cfg(target_os = "linux")]
#[test]
fn unix_listener_is_taken_over_by_the_next_process() {
    let (_dir, socket) = directory();
    let upstream = format!("http://{}", origin().addr);
    let mut first = listening(
        &socket,
        &upstream,
        &["--drain-window=2s", "--drain-answers=2s"],
    );
    let mut stream = get(&socket, "/feed", "");
    stream.line_with("data: 1");
    first.signal("-TERM");
    let mut second = listening(&socket, &upstream, &[]);
    second.wait_for_log("taking over unix:");
    assert!(first.wait().success());
    assert_eq!(get(&socket, "/feed", "").status(), 200);
    second.stop();
    assert!(!socket.exists());
}

#[test]
fn unix_listener_moves_by_a_reload() {
    let (dir, socket) = directory();
    let file = dir.path().join("sse-guard.toml");
    let upstream = format!("http://{}", origin().addr);
    let write = |listen: &str| {
        let text = format!(
            "listen = '{listen}'\nadmin.listen = 'off'\nupstream.url = '{upstream}'\n\
             drain.window = '0s'\ndrain.answers = '0s'\n"
        );
        fs::write(&file, text).unwrap();
    };
    write(&format!("unix:{}", socket.display()));
    let mut proxy = Proxy::from_file(&file);
    let mut stream = get(&socket, "/feed", "");
    let moved = dir.path().join("moved.sock");
    write(&format!("unix:{}", moved.display()));
    proxy.signal("-HUP");
    proxy.wait_for_log("config reloaded");
    assert_eq!(get(&moved, "/feed", "").status(), 200);
    assert!(!socket.exists());
    stream.line_with("data: 1");
    write("127.0.0.1:0");
    proxy.signal("-HUP");
    proxy.wait_for_log("listening on http://");
    wait_until("the socket file is removed", || !moved.exists());
    proxy.stop();
}

#[test]
fn unix_upstream_serves_requests_and_streams_below_its_base_path() {
    let (dir, socket) = directory();
    let upstream = Upstream::start(dir.path().join("app.sock"));
    let url = format!("unix:{}:/base/", upstream.path.display());
    let mut proxy = listening(&socket, &url, &[]);
    let mut stream = get(&socket, "/feed", "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(stream.status(), 200);
    stream.line_with("data: 1");
    let request = upstream.last_request().to_ascii_lowercase();
    assert!(request.starts_with("get /base/feed http/1.1"), "{request}");
    assert!(request.contains("\r\nhost: proxy.test\r\n"), "{request}");
    assert!(
        request.contains("\r\nx-forwarded-for: 192.0.2.1\r\n"),
        "{request}"
    );
    drop(stream);
    // One connection serves request after request.
    let numbers: Vec<String> = (0..3).map(|_| get(&socket, "/n", "").body(1)).collect();
    assert_eq!(numbers[0], numbers[1]);
    assert_eq!(numbers[1], numbers[2]);
    proxy.stop();
}

#[test]
fn unix_upstream_gets_the_host_of_the_config() {
    for (flag, host) in [
        ("--upstream-host=upstream", "localhost"),
        ("--upstream-host=app.example:8080", "app.example:8080"),
    ] {
        let (dir, socket) = directory();
        let upstream = Upstream::start(dir.path().join("app.sock"));
        let url = format!("unix:{}", upstream.path.display());
        let _proxy = listening(&socket, &url, &[flag]);
        get(&socket, "/n", "").body(1);
        let request = upstream.last_request().to_ascii_lowercase();
        assert!(
            request.contains(&format!("\r\nhost: {host}\r\n")),
            "{request}"
        );
        let client = "\r\nx-forwarded-host: proxy.test\r\n";
        assert!(request.contains(client), "{request}");
    }
}

#[test]
fn unix_upstream_keeps_the_connection_of_a_login() {
    let (dir, socket) = directory();
    let upstream = Upstream::start(dir.path().join("app.sock"));
    let url = format!("http://unix:{}", upstream.path.display());
    let _proxy = listening(&socket, &url, &[]);
    let pooled = get(&socket, "/n", "").body(1);
    let login = "Authorization: NTLM TlRMTVNTUAAB\r\n";
    let mut one = get(&socket, "/n", login);
    let own = one.body(1);
    assert_ne!(own, pooled);
    write!(one.socket.get_mut(), "GET /n HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(Response::read(one.socket).body(1), own);
}

#[test]
fn unix_upstream_is_checked_over_its_socket() {
    let (dir, socket) = directory();
    let path = dir.path().join("app.sock");
    let url = format!("unix:{}", path.display());
    let flags = ["--health-check-interval=50ms", "--health-check-path=/up"];
    let proxy = listening(&socket, &url, &flags);
    proxy.wait_for_log("unreachable");
    assert_eq!(get_plain(&socket, "/n", "").status(), 502);
    let upstream = Upstream::start(path);
    proxy.wait_for_log("passes its check again");
    assert!(upstream.has_seen("GET /up HTTP/1.1\r\nhost: localhost\r\n"));
    assert_eq!(get(&socket, "/n", "").status(), 200);
}
