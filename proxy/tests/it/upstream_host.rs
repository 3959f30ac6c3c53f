//! The `Host` of requests to the upstream, through the real binary.

use crate::support::{Origin, Proxy, ReceivedRequest, wait_until};
use std::fs;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

/// An upstream, and the requests that it gets.
fn origin() -> (Origin, Receiver<ReceivedRequest>) {
    let (requests, arrivals) = channel();
    let origin = Origin::start(move |received, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        // The receiver ends with its test.
        let _ = requests.send(received);
    });
    (origin, arrivals)
}

/// What the upstream gets of this request.
fn forwarded(
    proxy: &Proxy,
    requests: &Receiver<ReceivedRequest>,
    request: &str,
) -> ReceivedRequest {
    let mut client = proxy.send_request(request);
    let head = client.head();
    assert!(head.contains(" 200 ok\n"), "{request}: {head}");
    requests.recv().unwrap()
}

#[test]
fn upstream_host_is_set_per_route_and_the_clients_is_forwarded() {
    let (origin, requests) = origin();
    let own = origin.addr.to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let config = format!(
        "upstream.url = 'http://{own}/base'\n\
         [[route]]\npath = '/upstream'\nupstream.host = 'upstream'\n\
         [[route]]\npath = '/name'\nupstream.host = 'App.example:8080'\n"
    );
    fs::write(&file, config).unwrap();
    let proxy = Proxy::with_flags(&["--config", file.to_str().unwrap()]);
    for (path, host) in [
        ("/", "site.test"),
        ("/upstream", own.as_str()),
        ("/name", "App.example:8080"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: site.test\r\n\r\n");
        let got = forwarded(&proxy, &requests, &request);
        let hosts = got.head.to_ascii_lowercase().matches("\nhost:").count();
        assert_eq!((got.field("host"), hosts), (Some(host), 1), "{path}");
        assert_eq!(got.field("x-forwarded-host"), Some("site.test"), "{path}");
        let forwarded = got.field("forwarded").unwrap();
        assert!(forwarded.contains("host=\"site.test\""), "{forwarded}");
    }
    // A request without one has nothing to pass.
    for (path, host) in [("/", own.as_str()), ("/name", "App.example:8080")] {
        let got = forwarded(&proxy, &requests, &format!("GET {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(got.field("host"), Some(host), "{path}");
        assert_eq!(got.field("x-forwarded-host"), None, "{path}");
    }
}

#[test]
fn upstream_host_is_kept_by_a_request_that_is_sent_again() {
    let (lost, requests) = channel();
    let origin = Origin::start(move |received, to| {
        lost.send(received.clone()).unwrap();
        to.stream();
        to.chunk("id: 1\ndata: 1\n\n");
        if received.field("last-event-id").is_some() {
            to.wait_for_close();
        }
    });
    let flags = ["--upstream-host=app.example", "--resume-mode=on"];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = proxy.get("/");
    client.head();
    for _ in 0..2 {
        let got = requests.recv().unwrap();
        assert_eq!(got.field("host"), Some("app.example"));
        assert_eq!(got.field("x-forwarded-host"), Some("proxy.test"));
    }
}

#[test]
fn upstream_host_is_that_of_health_checks() {
    for (host, sent) in [("app.example", Some("app.example")), ("pass", None)] {
        let (origin, requests) = origin();
        let flags = [
            format!("--upstream-host={host}"),
            "--health-check-interval=1s".to_owned(),
            "--health-check-path=/healthz".to_owned(),
        ];
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let _proxy = Proxy::start(origin.addr, &flags);
        wait_until("a check", || origin.served() > 0);
        let check = requests.recv().unwrap();
        assert_eq!(check.path, "/healthz");
        let own = origin.addr.to_string();
        assert_eq!(check.field("host"), Some(sent.unwrap_or(&own)));
    }
}

#[test]
fn upstream_host_that_is_invalid_is_an_error_that_names_the_key() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sse-guard"));
    command
        .env_clear()
        .args(["check", "--upstream-url=http://app"]);
    let run = command.arg("--upstream-host=http://app.example").output();
    let run = run.unwrap();
    assert!(!run.status.success());
    let error = String::from_utf8(run.stderr).unwrap();
    assert!(error.contains("upstream-host"), "{error}");
    assert!(error.contains("is not a host"), "{error}");
}
