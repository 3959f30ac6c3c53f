//! Which routes share upstream connections and health, through the real binary.

use crate::support::{Client, End, Origin, Proxy, gate, wait_until};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tempfile::TempDir;

/// Each request gets a stream of one event, the number of its connection; the connection stays open.
fn numbered() -> Origin {
    let connections = AtomicUsize::new(0);
    Origin::start(move |_, to| {
        let event = format!("data: {}\n\n", connections.fetch_add(1, SeqCst));
        loop {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            to.raw(head.as_bytes());
            to.chunk(&event);
            to.end();
            if to.next_request().is_none() {
                return;
            }
        }
    })
}

/// A proxy by a config file, and that file.
struct Configured {
    proxy: Proxy,
    file: PathBuf,
    _dir: TempDir,
}

impl Configured {
    /// `{}` in the text stands for the origin's address.
    fn start(origin: &Origin, text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("guard.toml");
        fs::write(&file, text.replace("{}", &origin.addr.to_string())).unwrap();
        let flags = [
            "--config",
            file.to_str().unwrap(),
            "--heartbeat-interval=off",
        ];
        Self {
            proxy: Proxy::with_flags(&flags),
            file,
            _dir: dir,
        }
    }

    fn reload(&self, origin: &Origin, text: &str) {
        fs::write(&self.file, text.replace("{}", &origin.addr.to_string())).unwrap();
        self.proxy.signal("-HUP");
        self.proxy.wait_for_log("config reloaded");
    }

    /// The number of the upstream connection that serves a request. It is returned ahead of the stream's end.
    fn connection(&self, path: &str) -> String {
        let mut client = self.proxy.get(path);
        assert!(client.head().starts_with("http/1.1 200 "), "{path}");
        let (events, end) = client.rest();
        assert_eq!(end, End::Clean, "{path}");
        let event = String::from_utf8(events).unwrap();
        event.trim_start_matches("data: ").trim_end().to_owned()
    }
}

const TWO: &str = "upstream.url = 'http://{}'\n[[route]]\npath = '/one'\n";

#[test]
fn kept_connection_is_shared_by_all_routes_to_one_address() {
    let origin = numbered();
    let config = "upstream.url = 'http://{}'\n\
        [[route]]\npath = '/one'\nupstream.idle_timeout = '50s'\n\
        [[route]]\npath = '/other'\nupstream.url = 'http://{}/base'\nupstream.head_timeout = '50s'\n";
    let run = Configured::start(&origin, config);
    for path in ["/", "/one", "/other", "/"] {
        assert_eq!(run.connection(path), "0", "{path}");
    }
    assert_eq!(origin.served(), 1, "connections");
}

#[test]
fn kept_connection_is_not_shared_by_routes_with_other_socket_options() {
    for option in [
        "upstream.keepalive = '50s'",
        "upstream.user_timeout = 'off'",
        "upstream.receive_buffer = '64KiB'",
    ] {
        let origin = numbered();
        let run = Configured::start(&origin, &format!("{TWO}{option}\n"));
        for (path, connection) in [("/", "0"), ("/one", "1"), ("/", "0"), ("/one", "1")] {
            assert_eq!(run.connection(path), connection, "{path} {option}");
        }
    }
}

#[test]
fn kept_connection_survives_a_reload_that_changes_another_route() {
    let origin = numbered();
    let run = Configured::start(&origin, &format!("{TWO}upstream.keepalive = '50s'\n"));
    assert_eq!(
        (run.connection("/"), run.connection("/one")),
        ("0".into(), "1".into())
    );
    run.reload(&origin, &format!("{TWO}upstream.keepalive = '40s'\n"));
    // Of the changed route nothing is left, and its kept connection is closed.
    assert_eq!(
        (run.connection("/"), run.connection("/one")),
        ("0".into(), "2".into())
    );
    origin.wait_for_open(2);
}

#[test]
fn kept_connection_survives_a_reload_that_changes_no_socket_option() {
    let origin = numbered();
    let run = Configured::start(&origin, TWO);
    assert_eq!(run.connection("/one"), "0");
    run.reload(&origin, &format!("{TWO}upstream.head_timeout = '50s'\n"));
    assert_eq!(run.connection("/one"), "0");
}

#[test]
fn upstreams_of_one_address_are_unreachable_together_and_checked_once() {
    let checks = AtomicUsize::new(0);
    let origin = Origin::start(move |received, to| {
        let head = match received.path.as_str() {
            // As many as it takes for one check; each of two would get too few.
            "/healthz" if checks.fetch_add(1, SeqCst) < 3 => "503 Down",
            "/healthz" => {
                to.wait_for_close();
                return;
            }
            _ => "200 OK",
        };
        let rest = "Connection: close\r\nContent-Length: 0";
        to.raw(format!("HTTP/1.1 {head}\r\n{rest}\r\n\r\n").as_bytes());
    });
    let config = "upstream.url = 'http://{}/a'\nadmin.listen = '127.0.0.1:0'\n\
        health_check.timeout = '1h'\n\
        [[route]]\npath = '/checked/*'\nupstream.url = 'http://{}/b'\n\
        health_check.interval = '1s'\nhealth_check.path = '/healthz'\n\
        [[route]]\npath = '/too/*'\nupstream.url = 'http://{}/c'\n\
        health_check.interval = '1s'\nhealth_check.path = '/healthz'\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let address = origin.addr.to_string();
    let config = config.replace("{}", &address);
    fs::write(&file, format!("listen = '127.0.0.1:0'\n{config}")).unwrap();
    let proxy = Proxy::from_file(&file);
    let upstreams = || {
        let mut client = Client::connect(proxy.admin());
        client.send("GET /api/summary HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.head();
        let text = String::from_utf8(client.raw()).unwrap();
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        let rows = body["upstreams"].as_array().unwrap().clone();
        rows.into_iter()
            .map(|row| {
                let url = row["url"].as_str().unwrap();
                let path = url.trim_start_matches(&format!("http://{address}"));
                (path.to_owned(), row["reachable"].as_bool().unwrap())
            })
            .collect::<Vec<_>>()
    };
    let row = |path: &str, is_reachable| (path.to_owned(), is_reachable);
    let expected = [row("/b", false), row("/c", false), row("/a", true)];
    wait_until("the checks have failed", || upstreams() == expected);
    // Once it takes no connections, that is so for each of them.
    origin.stop_listening();
    for _ in 0..3 {
        proxy.get("/").head();
    }
    assert!(upstreams().iter().all(|(_, is_reachable)| !is_reachable));
}

#[test]
fn max_pending_of_a_route_does_not_count_requests_of_others() {
    let (open, held) = gate();
    let origin = Origin::start(move |received, to| {
        if received.path.ends_with("/slow") {
            held.wait();
        }
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    });
    let config = format!("{TWO}upstream.max_pending = 1\n");
    let run = Configured::start(&origin, &config);
    let send_request = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: proxy.test\r\n\r\n");
        run.proxy.send_request(&request)
    };
    let mut other = send_request("/slow");
    wait_until("the other route's request", || origin.served() == 1);
    let mut slow = send_request("/one/slow");
    wait_until("a request that waits", || origin.served() == 2);
    assert!(send_request("/one").head().starts_with("http/1.1 503 "));
    assert!(send_request("/").head().starts_with("http/1.1 200 "));
    for _ in 0..2 {
        open.send(()).unwrap();
    }
    for client in [&mut slow, &mut other] {
        assert!(client.head().starts_with("http/1.1 200 "));
    }
}
