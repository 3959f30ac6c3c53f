//! Several listeners: addresses with settings of their own, at the start and at reloads.

mod redirect;

use crate::support::{Client, Origin, Proxy, activated_by, free_address, wait_until};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Plain answers with the path, and streams for `/feed` that stay open.
fn origin() -> Origin {
    Origin::start(|request, to| {
        if request.path.ends_with("/feed") {
            to.stream();
            to.chunk("data: 1\n\n");
            to.wait_for_close();
            return;
        }
        let len = request.path.len();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
        to.raw(format!("{head}{}", request.path).as_bytes());
    })
}

/// A proxy that reads this file, and its folder.
struct Run {
    proxy: Proxy,
    file: PathBuf,
    upstream: String,
    dir: tempfile::TempDir,
}

impl Run {
    fn text(upstream: &str, listeners: &str) -> String {
        format!(
            "admin.listen = '127.0.0.1:0'\nlog.requests = 'all'\nheartbeat.interval = '100ms'\n\
             drain = {{ window = '0s', answers = '0s' }}\nupstream.url = '{upstream}'\n{listeners}"
        )
    }

    /// `listeners` gets the folder.
    fn start(origin: &Origin, listeners: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("guard.toml");
        let upstream = format!("http://{}", origin.addr);
        fs::write(&file, Self::text(&upstream, &listeners(dir.path()))).unwrap();
        let proxy = Proxy::from_file(&file);
        Self {
            proxy,
            file,
            upstream,
            dir,
        }
    }

    /// Reloads with these listeners: the status and what the operator gets.
    fn reload(&self, listeners: &str) -> (u16, String) {
        fs::write(&self.file, Self::text(&self.upstream, listeners)).unwrap();
        admin(&self.proxy, "POST", "/api/reload")
    }
}

fn admin(proxy: &Proxy, method: &str, path: &str) -> (u16, String) {
    let mut client = Client::connect(proxy.admin());
    client.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    ));
    let status = client.head()[9..12].parse().unwrap();
    (status, String::from_utf8(client.raw()).unwrap())
}

fn listener(name: &str, address: impl std::fmt::Display, more: &str) -> String {
    format!("[[listener]]\nname = '{name}'\naddress = '{address}'\n{more}\n")
}

const GET: &str = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n";

fn get(path: &str) -> String {
    GET.replace("{}", path)
}

/// Of a new connection.
fn status(address: SocketAddr, path: &str) -> u16 {
    next_status(&mut Client::connect(address), path)
}

/// Of a connection that stays open. Reads the body.
fn next_status(client: &mut Client, path: &str) -> u16 {
    client.send(&get(path));
    let head = client.head();
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.split('\n').next().unwrap().parse().unwrap();
    client.bytes(length);
    head[9..12].parse().unwrap()
}

fn feed(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.send("GET /feed HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until("data: 1\n\n");
    client
}

fn unix_status(socket: &Path, path: &str) -> u16 {
    let mut stream = UnixStream::connect(socket).unwrap();
    let text = get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text[9..12].parse().unwrap()
}

#[test]
fn listen_flag_may_be_given_several_times() {
    let origin = origin();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock");
    let unix = format!("--listen=unix:{}", socket.display());
    let mut proxy = Proxy::start(origin.addr, &["--listen=127.0.0.1:0", &unix]);
    let lines = proxy.wait_for_log_lines("listening on ", 3);
    let url = lines[1].split("http://").nth(1).unwrap();
    let second: SocketAddr = url.split('"').next().unwrap().parse().unwrap();
    for address in [proxy.addr, second] {
        assert_eq!(status(address, "/a"), 200);
    }
    assert_eq!(unix_status(&socket, "/a"), 200);
    proxy.stop();
    assert!(!socket.exists());
}

#[test]
fn listener_serves_its_routes_alone() {
    let origin = origin();
    let (public, all) = (free_address(), free_address());
    let tables = |routes: &str| {
        listener("public", public, routes)
            + &listener("all", all, "")
            + "[[route]]\npath = '/v1/private'\n[[route]]\npath = '/v1'\n"
    };
    let run = Run::start(&origin, |_| tables("routes = ['/v1']"));
    assert_eq!(status(public, "/v1/a"), 200);
    // The first route that matches counts, and not the next one.
    for path in ["/v1/private", "/v1/%70rivate/a", "/other"] {
        let mut client = Client::connect(public);
        client.send(&get(path));
        assert!(client.head().starts_with("http/1.1 404 "), "{path}");
        assert_eq!(client.bytes(31), b"sse-guard: no route for this pa");
        assert_eq!(status(all, path), 200);
    }
    // It applies to the next request of each connection.
    let mut client = Client::connect(public);
    assert_eq!(next_status(&mut client, "/v1/private"), 404);
    assert_eq!(run.reload(&tables("routes = ['/', '/v1/private']")).0, 200);
    assert_eq!(next_status(&mut client, "/v1/private"), 200);
    assert_eq!(next_status(&mut client, "/v1/a"), 404);
    assert_eq!(next_status(&mut client, "/"), 200);
    let line = run.proxy.wait_for_log("\"path\":\"/v1/a\"");
    assert!(line.contains("\"listener\":\"public\""), "{line}");
}

#[test]
fn listeners_have_files_of_their_own_mode_and_names_in_metrics_and_streams() {
    let origin = origin();
    let tcp = free_address();
    let run = Run::start(&origin, |dir| {
        let unix = |name: &str| format!("unix:{}", dir.join(name).display());
        listener("a", unix("a.sock"), "mode = '600'")
            + &listener("b", unix("b.sock"), "")
            + &listener("tcp", tcp, "")
    });
    let mode = |name: &str| {
        let file = fs::metadata(run.dir.path().join(name)).unwrap();
        file.permissions().mode() & 0o777
    };
    assert_eq!((mode("a.sock"), mode("b.sock")), (0o600, 0o660));
    assert_eq!(unix_status(&run.dir.path().join("a.sock"), "/x"), 200);
    let _feed = feed(tcp);
    let opened = run.proxy.wait_for_log("\"stream opened\"");
    assert!(opened.contains("\"listener\":\"tcp\""), "{opened}");
    let streams: Value = serde_json::from_str(&admin(&run.proxy, "GET", "/api/streams").1).unwrap();
    assert_eq!(streams["streams"][0]["listener"], "tcp", "{streams}");
    let (_, metrics) = admin(&run.proxy, "GET", "/metrics");
    let sample = "sse_guard_listener_connections{listener=\"tcp\"} 1\n";
    assert!(metrics.contains(sample), "{metrics}");
    let config: Value = serde_json::from_str(&admin(&run.proxy, "GET", "/api/config").1).unwrap();
    let name = &config["listeners"][2][1];
    assert_eq!(name["key"], "listener.name", "{config}");
    assert_eq!(name["value"], "\"tcp\"");
}

#[test]
fn reload_keeps_opens_and_closes_listeners() {
    let origin = origin();
    let (stays, goes, comes) = (free_address(), free_address(), free_address());
    let before = listener("stays", stays, "") + &listener("goes", goes, "");
    let mut run = Run::start(&origin, |_| before.clone());
    let (mut kept, mut idle) = (Client::connect(stays), Client::connect(goes));
    assert_eq!(next_status(&mut kept, "/a"), 200);
    assert_eq!(next_status(&mut idle, "/a"), 200);
    let mut streams = [feed(stays), feed(goes)];

    let after = listener("comes", comes, "") + &listener("stays", stays, "");
    let (code, told) = run.reload(&after);
    assert_eq!(code, 200, "{told}");
    assert!(told.contains("\"requires_restart\":[]"), "{told}");
    assert_eq!(status(comes, "/a"), 200);
    assert_eq!(next_status(&mut kept, "/a"), 200);
    assert!(TcpStream::connect(goes).is_err());
    assert!(idle.raw().is_empty(), "an idle connection closes");
    run.proxy.wait_for_log("no longer listening on http://");
    for stream in &mut streams {
        stream.read_until(": heartbeat\n");
    }
    let (_, metrics) = admin(&run.proxy, "GET", "/metrics");
    assert!(metrics.contains("listener=\"goes\"} 1\n"), "{metrics}");
    drop(streams);
    wait_until("the closed listener has no connection", || {
        let (_, metrics) = admin(&run.proxy, "GET", "/metrics");
        metrics.contains("listener=\"goes\"} 0\n") || !metrics.contains("listener=\"goes\"")
    });
    let numbers = run.proxy.stop();
    assert_eq!(numbers["accept_failures"], 0);
}

#[test]
fn reload_to_an_address_in_use_changes_nothing() {
    let origin = origin();
    let (first, other) = (free_address(), free_address());
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = listener("first", first, "");
    let run = Run::start(&origin, |_| before.clone());
    let in_use = held.local_addr().unwrap();
    let after = listener("other", other, "") + &listener("in use", in_use, "");
    let (code, told) = run.reload(&after);
    assert_eq!(code, 422);
    let start = format!("listener.address = \\\"{in_use}\\\": ");
    assert!(told.contains(&start), "{told}");
    assert!(told.contains("another process listens there"), "{told}");
    assert_eq!(status(first, "/a"), 200);
    assert!(TcpStream::connect(other).is_err());
}

#[test]
fn check_reports_mistakes_of_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let text = "upstream.url = 'http://app'\n[[listener]]\naddress = ':80'\nroutes = ['/v1']\n";
    fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .args(["check", "--listen=:81", "--config"])
        .arg(&file)
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("--listen: is set beside [[listener]]"),
        "{text}"
    );
    assert!(
        text.contains(":4: listener.routes: no route has the path"),
        "{text}"
    );
}

#[test]
fn listeners_take_the_sockets_that_they_name() {
    let origin = origin();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("internal.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let file = dir.path().join("guard.toml");
    let upstream = format!("http://{}", origin.addr);
    let listeners = listener("internal", "fd:internal", "routes = ['/']")
        + &listener("public", "fd:4", "routes = ['/v1']")
        + "[[route]]\npath = '/v1'\n";
    fs::write(&file, Run::text(&upstream, &listeners)).unwrap();
    let sockets = || {
        [
            unix.try_clone().unwrap().into(),
            tcp.try_clone().unwrap().into(),
        ]
    };
    let config = ["--config", file.to_str().unwrap()];
    let mut proxy = Proxy::activated_with(sockets(), "internal:web", &config);
    assert_eq!(status(address, "/v1"), 200);
    assert_eq!(unix_status(&path, "/other"), 200);
    assert_eq!(unix_status(&path, "/v1"), 404);
    // They stay at a reload, and another one cannot come.
    fs::write(
        &file,
        Run::text(&upstream, &(listener("x", "fd:x", "") + &listeners)),
    )
    .unwrap();
    let (code, told) = admin(&proxy, "POST", "/api/reload");
    assert_eq!(code, 422);
    assert!(
        told.contains("passes sockets at the start: restart"),
        "{told}"
    );
    fs::write(
        &file,
        Run::text(&upstream, &listeners.replace("'/v1'", "'/v2'")),
    )
    .unwrap();
    assert_eq!(admin(&proxy, "POST", "/api/reload").0, 200);
    assert_eq!(status(address, "/v2"), 200);
    proxy.stop();
    // The service manager's file is not removed, and what waits there is for the next process.
    assert!(path.exists());
    let mut waits = UnixStream::connect(&path).unwrap();
    waits
        .write_all(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut proxy = Proxy::activated_with(sockets(), "internal:web", &config);
    let mut text = String::new();
    waits.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    proxy.stop();
}

#[test]
fn sockets_that_no_listener_names_are_an_error() {
    let socket = || TcpListener::bind("127.0.0.1:0").unwrap().into();
    for (listen, expected) in [
        ("fd:web", "no socket of this name or number"),
        (
            "fd:a",
            "passes the socket \"b\" (fd 4) (LISTEN_FDS), which no listener uses",
        ),
        ("127.0.0.1:0", "which no listener uses"),
    ] {
        let flags = [
            "--upstream-url=http://127.0.0.1:1",
            "--admin-listen=off",
            "--listen",
            listen,
        ];
        let output = activated_by([socket(), socket()], "a:b", &flags)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
