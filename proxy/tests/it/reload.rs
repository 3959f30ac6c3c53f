//! The real binary while its config changes: what is new holds for new streams, and nothing is lost.

use crate::support::{Client, End, Origin, Proxy, free_address, wait_until};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

/// A proxy and the file that it runs by.
struct Configured {
    proxy: Proxy,
    file: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

/// In front of `origin`, unless the text names another.
fn configured(origin: &Origin, text: &str, flags: &[&str]) -> Configured {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap();
    let mut all = vec!["--config", name];
    all.extend(flags);
    let proxy = Proxy::start(origin.addr, &all);
    Configured {
        proxy,
        file,
        _dir: dir,
    }
}

impl Configured {
    /// In one step: a watch must not see the half of it.
    fn write(&self, text: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    /// The line of the log that tells what came of it.
    fn hang_up(&self, text: &str, nth: usize) -> String {
        self.write(text);
        self.proxy.signal("-HUP");
        let mut lines = Vec::new();
        wait_until("the reload", || {
            let log = self.proxy.log();
            let is_result =
                |line: &&str| line.contains("config reloaded") || line.contains("reload failed");
            lines = log.lines().filter(is_result).map(str::to_owned).collect();
            lines.len() >= nth
        });
        lines[nth - 1].clone()
    }
}

fn begun(addr: SocketAddr, path: &str) -> Client {
    let mut client = Client::connect(addr);
    client.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    ));
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    client.read_until("data: 1\n\n");
    client
}

fn post(admin: SocketAddr, path: &str) -> (u16, String) {
    let mut client = Client::connect(admin);
    client.send(&format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    ));
    let status = client.head()[9..12].parse().unwrap();
    (status, String::from_utf8(client.raw()).unwrap())
}

#[test]
fn reload_applies_to_new_streams_alone() {
    let origin = Origin::held();
    let run = configured(
        &origin,
        "heartbeat.text = 'old'\nheartbeat.interval = '100ms'",
        &[],
    );
    let mut live = begun(run.proxy.addr, "/");
    live.read_until(": old\n");
    let told = run.hang_up("heartbeat.text = 'new'\nheartbeat.interval = '100ms'", 1);
    assert!(
        told.contains("heartbeat.text") && !told.contains("interval"),
        "{told}"
    );
    begun(run.proxy.addr, "/").read_until(": new\n");
    live.read_until(": old\n");
}

#[test]
fn reload_of_an_invalid_file_changes_nothing_and_names_the_mistake() {
    let origin = Origin::held();
    let flags = ["--admin-listen", "127.0.0.1:0"];
    let run = configured(&origin, "limit.per_ip = 5\n", &flags);
    let bad = "limit.per_ip = 1\nheartbeat.interval = 15\n";
    run.write(bad);
    let (status, told) = post(run.proxy.admin(), "/api/reload");
    assert_eq!(status, 422);
    assert!(
        told.contains("guard.toml:2") && told.contains("15s"),
        "{told}"
    );
    run.proxy.signal("-HUP");
    let lines = run.proxy.wait_for_log_lines("reload failed", 2);
    assert!(lines[1].contains("guard.toml:2"), "{}", lines[1]);
    let _both = [begun(run.proxy.addr, "/"), begun(run.proxy.addr, "/")];
    let mut admin = Client::connect(run.proxy.admin());
    admin.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(admin.head().starts_with("http/1.1 200 "));
    let parts = String::from_utf8(admin.raw()).unwrap();
    assert!(parts.contains("the last reload failed"), "{parts}");

    run.write("limit.per_ip = 3\n");
    let (status, told) = post(run.proxy.admin(), "/api/reload");
    assert_eq!(
        (status, told.as_str()),
        (200, r#"{"changed":["limit.per_ip"],"requires_restart":[]}"#)
    );
    // Those that live count.
    let _third = begun(run.proxy.addr, "/");
    assert!(run.proxy.get("/").head().starts_with("http/1.1 429 "));
}

#[test]
fn routes_come_and_go_and_their_streams_stay() {
    let (origin, other) = (
        Origin::held(),
        Origin::start(|_, to| {
            to.stream();
            to.chunk("data: other\n\n");
            to.chunk("data: 1\n\n");
            to.wait_for_close();
        }),
    );
    let route = format!(
        "[[route]]\npath = '/v1'\nupstream.url = 'http://{}'\n",
        other.addr
    );
    let run = configured(&origin, "", &["--drain-window", "0s"]);
    let mut old = begun(run.proxy.addr, "/v1");
    run.hang_up(&route, 1);
    let mut new = Client::connect(run.proxy.addr);
    new.send("GET /v1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
    new.head();
    assert!(new.read_until("data: 1\n\n").starts_with("data: other\n\n"));
    run.hang_up("", 2);
    begun(run.proxy.addr, "/v1");
    let mut proxy = run.proxy;
    let sums = proxy.stop();
    assert_eq!((&sums["opened"], &sums["active"]), (&3.into(), &0.into()));
    for client in [&mut old, &mut new] {
        assert_eq!(client.rest().1, End::Clean);
    }
}

#[test]
fn metrics_of_a_removed_route_go_with_its_last_stream() {
    let origin = Origin::held();
    let route = "[[route]]\npath = '/v1'\n";
    let run = configured(&origin, route, &["--admin-listen=127.0.0.1:0"]);
    let admin = run.proxy.admin();
    let series = || {
        let mut client = Client::connect(admin);
        client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.head();
        let text = String::from_utf8(client.raw()).unwrap();
        let of_route = text.lines().filter(|line| line.contains("=\"/v1\""));
        of_route.map(str::to_owned).collect::<Vec<_>>()
    };
    let active = "sse_guard_streams_active{route=\"/v1\"} 1".to_owned();
    let live = begun(run.proxy.addr, "/v1");
    assert!(series().contains(&active));
    run.hang_up("", 1);
    assert!(series().contains(&active));
    drop(live);
    wait_until("its series are gone", || series().is_empty());
    // A route that returns continues its counters, which never fall.
    run.hang_up(route, 2);
    let _live = begun(run.proxy.addr, "/v1");
    assert!(series().contains(&active));
    let opened = "sse_guard_streams_total{route=\"/v1\",outcome=\"opened\"} 2";
    assert!(series().iter().any(|line| line == opened), "{:?}", series());
}

#[test]
fn route_that_returns_keeps_its_counts() {
    let origin = Origin::held();
    let route = "[[route]]\npath = '/v1'\nlimit.total = 1\n";
    let run = configured(&origin, route, &[]);
    let _live = begun(run.proxy.addr, "/v1");
    run.hang_up("", 1);
    run.hang_up(route, 2);
    assert!(run.proxy.get("/v1").head().starts_with("http/1.1 503 "));
}

#[test]
fn listen_address_on_the_same_port_requires_a_restart() {
    let origin = Origin::held();
    let at = free_address().to_string();
    let port = at.rsplit(':').next().unwrap();
    let text = |address: &str| {
        format!(
            "listen = '{address}'\nadmin = false\nupstream.url = 'http://{}'\n",
            origin.addr
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    fs::write(&file, text(&at)).unwrap();
    let proxy = Proxy::from_file(&file);
    fs::write(&file, text(&format!("127.0.0.2:{port}"))).unwrap();
    proxy.signal("-HUP");
    let told = proxy.wait_for_log("require a restart");
    assert!(told.contains("listen"), "{told}");
    begun(at.parse().unwrap(), "/");
}

#[test]
fn reload_moves_listeners_and_keeps_streams() {
    let origin = Origin::held();
    let [first, second, admin] = [(); 3].map(|()| free_address().to_string());
    let listen = |at: &str, admin: &str| {
        format!(
            "listen = '{at}'\nadmin.listen = '{admin}'\nheartbeat.interval = '100ms'\n\
                 upstream.url = 'http://{}'\n",
            origin.addr
        )
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    fs::write(&file, listen(&first, &admin)).unwrap();
    let _proxy = Proxy::from_file(&file);
    let mut live = begun(first.parse().unwrap(), "/");

    fs::write(&file, listen(&second, &admin)).unwrap();
    assert_eq!(post(admin.parse().unwrap(), "/api/reload").0, 200);
    begun(second.parse().unwrap(), "/");
    assert!(TcpStream::connect(&first).is_err());
    live.read_until(": heartbeat\n");

    // An address that cannot be had is as a mistake in the file: nothing changes.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = taken.local_addr().unwrap().to_string();
    fs::write(&file, listen(&first, &taken_at)).unwrap();
    let (status, told) = post(admin.parse().unwrap(), "/api/reload");
    assert_eq!(status, 422);
    assert!(told.contains("another process listens there"), "{told}");
    assert!(TcpStream::connect(&first).is_err());
    begun(second.parse().unwrap(), "/");

    // Who asks for it on the listener that goes is answered.
    let moved = free_address().to_string();
    fs::write(&file, listen(&second, &moved)).unwrap();
    assert_eq!(post(admin.parse().unwrap(), "/api/reload").0, 200);
    wait_until("the operator's address has moved", || {
        TcpStream::connect(&moved).is_ok() && TcpStream::connect(&admin).is_err()
    });
    fs::write(&file, "upstream.url = 'http://127.0.0.1:1'\nadmin = false").unwrap();
    assert_eq!(post(moved.parse().unwrap(), "/api/drain").0, 202);
}

#[test]
fn watched_file_is_reloaded_when_it_changes() {
    let origin = Origin::held();
    let text = "reload.watch = '10ms'\n";
    let run = configured(&origin, text, &[]);
    run.write(&format!("{text}heartbeat.text = 'new'\n"));
    run.proxy.wait_for_log("config reloaded");
    run.write(&format!("{text}heartbeat.colour = 'red'\n"));
    let told = run.proxy.wait_for_log("reload failed");
    assert!(told.contains("heartbeat.colour"), "{told}");
    run.write("log.level = 'debug'\n");
    run.proxy.wait_for_log_lines("config reloaded", 2);
}

#[test]
fn reload_sets_the_log_level_at_once_and_threads_require_a_restart() {
    let origin = Origin::held();
    let run = configured(&origin, "threads = 1\n", &[]);
    let head = "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut first = run.proxy.send_request(head);
    first.head();
    run.hang_up("log.level = 'trace'\nthreads = 2\n", 1);
    let told = run.proxy.wait_for_log("require a restart");
    assert!(told.contains("threads") && !told.contains("log"), "{told}");
    assert!(!run.proxy.log().contains("TRACE"));
    let mut second = run.proxy.send_request(head);
    second.head();
    // A connection that is left idle has a line at this level.
    let line = run.proxy.wait_for_log("a connection waits for a request");
    assert!(line.contains("\"TRACE\""), "{line}");
}

#[test]
fn reloads_under_load_lose_no_stream_and_no_event() {
    const RELOADS: usize = 100;
    let done = Arc::new(AtomicBool::new(false));
    let stop = done.clone();
    let origin = Origin::start(move |_, to| {
        to.stream();
        let mut n = 0;
        while !stop.load(Relaxed) {
            n += 1;
            if !to.chunk(format!("data: {n}\n\n")) {
                return;
            }
            thread::yield_now();
        }
        to.chunk("data: last\n\n");
        to.end();
    });
    let run = configured(&origin, "", &["--admin-listen", "127.0.0.1:0"]);
    let addr = run.proxy.addr;
    let readers: Vec<_> = (0..10)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                assert!(client.head().starts_with("http/1.1 200 "));
                client.rest()
            })
        })
        .collect();
    for n in 1..=RELOADS {
        run.write(&format!(
            "heartbeat.interval = '{n}s'\nupstream.head_timeout = '{n}s'\nlimit.total = {}\n\
             [[route]]\npath = '/{n}'\n",
            1000 + n
        ));
        assert_eq!(post(run.proxy.admin(), "/api/reload").0, 200, "{n}");
        // One that comes meanwhile finds everything as it should be.
        let mut client = Client::connect(addr);
        client.send(&format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(client.head().starts_with("http/1.1 200 "), "{n}");
        client.read_until("data: 1\n\n");
    }
    done.store(true, Relaxed);
    for reader in readers {
        let (text, end) = reader.join().unwrap();
        assert_eq!(end, End::Clean);
        let text = String::from_utf8(text).unwrap();
        let events: Vec<_> = text.split_terminator("\n\n").collect();
        let (last, numbered) = events.split_last().unwrap();
        assert_eq!(*last, "data: last");
        for (index, event) in numbered.iter().enumerate() {
            assert_eq!(*event, format!("data: {}", index + 1));
        }
    }
    let mut proxy = run.proxy;
    let sums = proxy.stop();
    assert_eq!((&sums["opened"], &sums["active"]), (&110.into(), &0.into()));
    assert_eq!((&sums["slots"], &sums["cut_off"]), (&0.into(), &0.into()));
}

#[test]
fn feed_opened_with_a_token_ends_when_the_token_changes() {
    let config = |token: &str| format!("admin.token = '{token}'\n");
    let origin = Origin::held();
    let configured = configured(
        &origin,
        &config("correct-horse-battery"),
        &["--admin-listen=127.0.0.1:0"],
    );
    let mut client = Client::connect(configured.proxy.admin());
    let request = |path: &str, token: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
    };
    client.send(&request("/api/live", "correct-horse-battery"));
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until("event: tick");
    configured.hang_up(&config("another-horse-battery"), 1);
    assert_eq!(client.rest().1, End::Clean);
    // The connection is no login either.
    client.send(&request("/api/summary", "correct-horse-battery"));
    assert!(client.head().starts_with("http/1.1 401 "));
}

fn fifo(path: &std::path::Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn config_path_that_blocks_delays_neither_streams_nor_a_stop() {
    let origin = Origin::held();
    let flags = [
        "--admin-listen=127.0.0.1:0",
        "--reload-watch=50ms",
        "--limit-rate=off",
    ];
    let mut run = configured(&origin, "", &flags);
    let mut before = begun(run.proxy.addr, "/");
    fs::remove_file(&run.file).unwrap();
    fifo(&run.file);
    let admin = run.proxy.admin();
    let operator = thread::spawn(move || post(admin, "/api/reload"));
    run.proxy.signal("-HUP");
    // Meanwhile it serves.
    while !operator.is_finished() {
        begun(run.proxy.addr, "/");
    }
    let (status, told) = operator.join().unwrap();
    assert_eq!(status, 422, "{told}");
    let name = run.file.to_str().unwrap();
    for part in ["--config", "cannot read", name, "pipe without a writer"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // What hangs is not begun a second time.
    let (_, told) = post(admin, "/api/reload");
    assert!(told.contains("still hangs"), "{told}");
    let threads = fs::read_dir(format!("/proc/{}/task", run.proxy.pid()));
    if let Ok(threads) = threads {
        let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
        let reads = names.filter(|name| name.as_ref().is_ok_and(|name| name.trim() == "config"));
        assert!(reads.count() <= 2);
    }
    run.proxy.signal("-HUP");
    run.proxy.signal("-TERM");
    assert_eq!(before.rest().1, End::Clean);
    assert_eq!(run.proxy.wait().code(), Some(0));
}

#[test]
fn config_without_end_is_rejected() {
    let origin = Origin::held();
    let run = configured(&origin, "", &[]);
    fs::remove_file(&run.file).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &run.file).unwrap();
    run.proxy.signal("-HUP");
    let line = run.proxy.wait_for_log("reload failed");
    assert!(line.contains("longer than 4 MiB"), "{line}");
    begun(run.proxy.addr, "/");
}
